"""Pictures of a training: loss and learned values over time, frequency responses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from microddsp.errors import MicroddspError, ParameterError, nearest
from microddsp.responses import frequency_response
from microddsp.training.recorders import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3


def plot_history(
    history: Sequence[Row], path: str | Path, *, targets: Mapping[str, float] | None = None
) -> None:
    """Loss, then every learned value over the steps; `targets` are drawn as dashed lines.

    Raises:
        ParameterError: No step was made.
        MicroddspError: The picture cannot be written.
    """
    if not history:
        raise ParameterError("there is no step to plot")
    names = list(history[0].values)
    figure = _figure(1 + len(names))
    steps = [row.step for row in history]
    axes = figure.axes
    axes[0].semilogy(steps, [max(row.loss, 1e-30) for row in history])
    axes[0].set_title("loss")
    for axis, name in zip(axes[1:], names, strict=True):
        axis.plot(steps, [row.values[name] for row in history])
        if targets and name in targets:
            axis.axhline(targets[name], linestyle="--", color="0.5")
        axis.set_title(name)
    figure.supxlabel("step")
    _save(figure, path)


def plot_responses(
    modules: Mapping[str, torch.nn.Module],
    path: str | Path,
    *,
    sample_rate_hz: float,
    samples: int = 8192,
) -> None:
    """Magnitude responses of linear modules in one picture, such as learned and target.

    Raises:
        MicroddspError: A module is not linear, so that it has no frequency response.
    """
    figure = _figure(1)
    axis = figure.axes[0]
    frequencies = np.fft.rfftfreq(samples, 1 / sample_rate_hz)[1:]
    for name, module in modules.items():
        response = np.abs(frequency_response(module, samples))[..., 1:]
        for channel in response.reshape(-1, response.shape[-1]):
            axis.semilogx(frequencies, 20 * np.log10(np.maximum(channel, 1e-10)), label=name)
    axis.set_xlabel("Hz")
    axis.set_ylabel("dB")
    axis.grid(True, which="both", alpha=0.3)
    axis.legend()
    _save(figure, path)


def _figure(count: int) -> Figure:
    import matplotlib.figure

    columns = min(count, _COLUMNS)
    lines = math.ceil(count / columns)
    figure = matplotlib.figure.Figure(figsize=(4.5 * columns, 3 * lines), layout="constrained")
    for place in range(count):
        figure.add_subplot(lines, columns, place + 1)
    return figure


def check_picture(path: str | Path) -> None:
    """Whether a picture of this name can be drawn: asked before a training and not after it.

    Raises:
        ParameterError: Of a kind that matplotlib does not write.
    """
    known = _figure(1).canvas.get_supported_filetypes()
    kind = Path(path).suffix[1:].lower()
    if kind and kind not in known:
        raise ParameterError(
            f"no picture is written as .{kind}", where=str(path), hint=nearest(kind, known)
        )


def _save(figure: Figure, path: str | Path) -> None:
    try:
        figure.savefig(path, dpi=100)
    except (OSError, ValueError) as error:
        raise MicroddspError(f"cannot be written: {error}", where=str(path)) from error
