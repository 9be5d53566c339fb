"""Time of training one filter cascade: forward and backward pass on one thread.

    python benchmarks/training.py [--strict] [REPEATS]

A cascade of second-order sections with trained coefficients, float32, 16000 samples. Each row shows
the fastest and the median run; beside it the same cascade by other libraries, where installed. The
machine may be busy: compare the fastest runs. A run over its limit is said at the end, and ends the
program with status 1 only with --strict.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import scipy.signal
import torch

from microddsp import relax_ops

SAMPLES = 16000
# (sections, signals): the time in ms that a run must not exceed
LIMITS_MS = {(1, 8): None, (4, 8): 1.8, (1, 1): 0.89, (4, 1): 3.54}

Cascade = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def microddsp_cascade(x: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    state = x.new_zeros(*x.shape[:-1], len(coefficients), 2)
    return relax_ops.sos(x, coefficients, state)[0]


def torchaudio_cascade() -> Cascade:
    from torchaudio.functional import lfilter

    def run(x: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        for section in coefficients:
            denominator = torch.cat([section.new_ones(1), section[3:]])
            x = lfilter(x, denominator, section[:3], clamp=False)
        return x

    return run


def philtorch_cascade() -> Cascade:
    from philtorch.lti import lfilter

    def run(x: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        for section in coefficients:
            x = lfilter(section[:3], section[3:], x)
        return x

    return run


def available() -> dict[str, Cascade]:
    """The libraries that can be measured here; says which cannot, and why."""
    found: dict[str, Cascade] = {"microddsp": microddsp_cascade}
    for name, make in (("torchaudio", torchaudio_cascade), ("philtorch", philtorch_cascade)):
        try:
            found[name] = make()
        except (ImportError, OSError) as error:
            print(f"{name} is missing: {str(error).splitlines()[0]}")
    return found


def coefficients_of(sections: int) -> torch.Tensor:
    designed = scipy.signal.butter(2 * sections, 0.1, output="sos")
    return torch.tensor(designed[:, [0, 1, 2, 4, 5]], dtype=torch.float32, requires_grad=True)


def measure(cascade: Cascade, sections: int, signals: int, repeats: int) -> tuple[list[float], str]:
    """Times in ms of a forward and backward pass, and how far the output is from scipy's."""
    x = torch.randn(signals, SAMPLES, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    coefficients = coefficients_of(sections)
    gradient = torch.ones_like(x)

    def run() -> torch.Tensor:
        x.grad = coefficients.grad = None
        y = cascade(x, coefficients)
        y.backward(gradient)
        return y

    y = run()  # builds kernels, fills caches
    designed = scipy.signal.butter(2 * sections, 0.1, output="sos")
    expected = torch.from_numpy(scipy.signal.sosfilt(designed, x.detach().double().numpy()))
    error = ((y - expected).abs().max() / expected.abs().max()).item()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times, f"{error:.0e}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repeats", nargs="?", type=int, default=300)
    parser.add_argument("--strict", action="store_true", help="exit 1 if a run is over its limit")
    options = parser.parse_args()
    repeats = options.repeats
    torch.set_num_threads(1)
    libraries = available()
    print(
        f"{'library':<12}{'sections':>9}{'signals':>9}{'best ms':>10}{'median ms':>11}"
        f"{'limit ms':>10}{'error':>8}"
    )
    late: list[str] = []
    for (sections, signals), limit in LIMITS_MS.items():
        for name, cascade in libraries.items():
            count = repeats if name == "microddsp" else max(repeats // 15, 3)
            times, error = measure(cascade, sections, signals, count)
            ours = limit if name == "microddsp" else None
            if ours is not None and min(times) > ours:
                late.append(
                    f"{sections} sections, {signals} signals: {min(times):.3f} ms > {ours} ms"
                )
            print(
                f"{name:<12}{sections:>9}{signals:>9}{min(times):>10.3f}"
                f"{statistics.median(times):>11.3f}{'' if ours is None else ours:>10}{error:>8}"
            )
    for line in late:
        print(f"limit missed: {line}")
    return 1 if late and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
