"""A cascade of second-order sections with trained coefficients, by several libraries."""

from __future__ import annotations

from collections.abc import Callable

import scipy.signal
import torch
from torch import Tensor

from benchmarks.training.clock import Run
from microddsp import relax_ops

SAMPLES = 16000
Cascade = Callable[[Tensor, Tensor], Tensor]


def microddsp_cascade() -> Cascade:
    def run(x: Tensor, coefficients: Tensor) -> Tensor:
        state = x.new_zeros(*x.shape[:-1], len(coefficients), 2)
        return relax_ops.sos(x, coefficients, state)[0]

    return run


def torchaudio_cascade() -> Cascade:
    from torchaudio.functional import filtering

    if filtering._lfilter_core_loop is filtering._lfilter_core_generic_loop:
        raise ImportError("its native extension is missing, without it lfilter is a Python loop")

    def run(x: Tensor, coefficients: Tensor) -> Tensor:
        for section in coefficients:
            denominator = torch.cat([section.new_ones(1), section[3:]])
            x = filtering.lfilter(x, denominator, section[:3], clamp=False)
        return x

    return run


def philtorch_cascade() -> Cascade:
    from philtorch.lti import lfilter

    def run(x: Tensor, coefficients: Tensor) -> Tensor:
        for section in coefficients:
            x = lfilter(section[:3], section[3:], x)
        return x

    return run


def diffsptk_cascade() -> Cascade:
    torchaudio_cascade()  # what it filters with
    from diffsptk.modules.dfs import InfiniteImpulseResponseDigitalFilter

    def run(x: Tensor, coefficients: Tensor) -> Tensor:
        for section in coefficients:
            denominator = torch.cat([section.new_ones(1), section[3:]])
            x = InfiniteImpulseResponseDigitalFilter._func(x, section[:3], denominator, None)
        return x

    return run


def torchlpc_cascade() -> Cascade:
    from torchlpc import sample_wise_lpc

    def run(x: Tensor, coefficients: Tensor) -> Tensor:
        rows, samples = x.shape
        for section in coefficients:
            padded = torch.nn.functional.pad(x[:, None], (2, 0))
            moved = torch.nn.functional.conv1d(padded, section[:3].flip(0)[None, None])[:, 0]
            x = sample_wise_lpc(moved, section[3:].expand(rows, samples, 2))
        return x

    return run


LIBRARIES: dict[str, Callable[[], Cascade]] = {
    "microddsp": microddsp_cascade,
    "torchaudio": torchaudio_cascade,
    "philtorch": philtorch_cascade,
    "diffsptk": diffsptk_cascade,
    "torchlpc": torchlpc_cascade,
}


def available() -> dict[str, Cascade]:
    """The libraries that can be measured here; says which cannot, and why."""
    found: dict[str, Cascade] = {}
    for name, make in LIBRARIES.items():
        try:
            found[name] = make()
        except (ImportError, OSError, RuntimeError) as error:
            print(f"{name} is left out: {str(error).splitlines()[0]}")
    return found


def training_run(cascade: Cascade, sections: int, signals: int) -> Run:
    """A forward and backward pass, to the signal and to the coefficients.

    Raises:
        AssertionError: It does not filter as scipy does.
    """
    designed = scipy.signal.butter(2 * sections, 0.1, output="sos")
    coefficients = torch.tensor(designed[:, [0, 1, 2, 4, 5]], dtype=torch.float32)
    coefficients.requires_grad_()
    x = torch.randn(signals, SAMPLES, generator=torch.Generator().manual_seed(0))
    expected = torch.from_numpy(scipy.signal.sosfilt(designed, x.double().numpy())).float()
    x.requires_grad_()
    gradient = torch.ones_like(x)

    def run() -> Tensor:
        x.grad = coefficients.grad = None
        y = cascade(x, coefficients)
        y.backward(gradient)
        return y

    torch.testing.assert_close(run(), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    return run
