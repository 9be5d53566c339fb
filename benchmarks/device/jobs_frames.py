"""Jobs that turn one frame into one answer: a small network, alone and behind a log-mel."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.device.job import Array, Goal, Job
from benchmarks.device.jobs_spectral import BANDS, FRAME, frames, log_mel, log_mel_of, numbers


class Mean(nn.Module):
    """The mean over time."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-1)


class Items(nn.Module):
    """Features (channels, bands, frames) as items of a batch (frames, channels, bands)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(-1, 0)


def conv_net() -> Job:
    """Two convolutions, a mean, a dense layer: of torch's own layers."""
    net, signal = _network(), np.random.default_rng(14).standard_normal((4, 1, 64))
    weights = _weights(net)
    return Job(
        key="conv-net",
        title="conv net: 1x64, 8 and 16 channels k5, mean, 4 out",
        kind="conv net",
        signal=signal.astype("float32"),
        expected=_reference(weights, signal.astype("float32")),
        module=lambda: net,
        parameters={"weights": weights, "points": 64},
        per="frame",
        goal=Goal(66000, text_bytes=6 * 1024, ram_bytes=1536),
        limit=58000,
    )


def log_mel_net() -> Job:
    """The same network over the bands of one frame: samples to an answer in one function."""
    net, signal = _network(), frames()
    weights = _weights(net)
    return Job(
        key="log-mel-net",
        title=f"log-mel, {FRAME}, {BANDS} bands, then the conv net over them",
        kind="log-mel net",
        signal=signal,
        expected=_reference(weights, log_mel_of(signal)),
        module=lambda: nn.Sequential(log_mel(), Items(), *net).eval(),
        parameters={**numbers(), "weights": weights, "points": BANDS},
        per="frame",
    )


def _network() -> nn.Sequential:
    net = nn.Sequential(
        *(nn.Conv1d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv1d(8, 16, 5, padding=2), nn.ReLU()),
        *(Mean(), nn.Linear(16, 4)),
    ).eval()
    rng = np.random.default_rng(4)
    with torch.no_grad():
        for parameter in net.parameters():
            values = rng.uniform(-1.0, 1.0, parameter.shape) / np.sqrt(parameter[0].numel())
            parameter.copy_(torch.from_numpy(values))
    return net


def _weights(net: nn.Sequential) -> dict[str, Array]:
    """w0, b0 and so on, layer by layer."""
    layers = [layer for layer in net if isinstance(layer, nn.Conv1d | nn.Linear)]
    weights = {f"w{i}": layer.weight.detach().numpy() for i, layer in enumerate(layers)}
    biases = {
        f"b{i}": layer.get_parameter("bias").detach().numpy() for i, layer in enumerate(layers)
    }
    return weights | biases


def _reference(weights: Mapping[str, Array], signal: Array) -> Array:
    """The same network by numpy in float64."""
    w = {name: np.asarray(values, "float64") for name, values in weights.items()}
    x = signal.astype("float64")
    for i in range(2):
        padded = np.pad(x, ((0, 0), (0, 0), (2, 2)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, 5, axis=-1)
        x = np.einsum("ock,bcnk->bon", w[f"w{i}"], windows) + w[f"b{i}"][:, None]
        x = x.clip(0.0)
    answers: np.ndarray = x.mean(-1) @ w["w2"].T + w["b2"]
    return answers
