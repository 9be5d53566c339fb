"""What is wrong with data, labels and checkpoints is said before anything is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from microddsp import dsp
from microddsp.errors import MicroddspError, ParameterError, SignalError
from microddsp.training import (
    Batch,
    Checkpoint,
    TruncatedBackpropagation,
    Windows,
    compare,
    cut_windows,
    fit,
    losses,
    train,
    whole,
)

RATE = 1000.0
L1 = compare(losses.l1)
X = torch.randn(4, 1, 200, generator=torch.Generator().manual_seed(0))
KNOWN, COUNTS = torch.ones(4, 200, dtype=torch.bool), torch.ones(4)


def smoother(rate_hz: float = RATE) -> torch.nn.Module:
    return torch.nn.Sequential(
        dsp.OnePole(50.0, sample_rate_hz=RATE), dsp.OnePole(20.0, sample_rate_hz=rate_hz)
    )


def counter() -> torch.nn.Module:
    return torch.nn.Sequential(dsp.Gain(), dsp.EventCounter(0.5, sample_rate_hz=RATE))


def trained(module: torch.nn.Module, batch: Batch | None = None, objective=L1, **more):
    return train(module, whole(batch or Batch(X, X)), objective, **{"steps": 2} | more)


def cut(events=(5,), **more) -> Windows:
    arguments = {"length_s": 1.0, "settle_s": 0.0, "sample_rate_hz": 10.0} | more
    return cut_windows(torch.zeros(1, 40), list(events), **arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Batch(X.numpy(), X), "signals are a torch tensor, not ndarray"),
        (lambda: Batch(X, X.numpy()), "targets are a torch tensor, not ndarray"),
        (lambda: Batch(X[:0], X[:0]), "rows, channels, samples"),
        (lambda: trained(smoother(), Batch(X, X[..., :100])), "its target"),
        (lambda: trained(smoother(), Batch(X, X.expand(4, 2, 200))), "its target"),
        (lambda: trained(smoother(), Batch(X, X, KNOWN.float())), "known is bool"),
        (lambda: trained(smoother(500.0)), "at odds: 0 has 1000 Hz, 1 has 500 Hz"),
        (
            lambda: trained(smoother(), objective=lambda m, b: m(b.signals) - b.targets),
            r"one number, got \(4, 1, 200\)",
        ),
        (lambda: trained(smoother(), objective=lambda m, b: 1.0), "one number, got float"),
        (lambda: Windows(X[:, 0], KNOWN, COUNTS), "windows, channels, samples"),
        (lambda: Windows(X, KNOWN, COUNTS[:3]), "4 windows of 200 samples need"),
        (lambda: Windows(X, KNOWN.float(), COUNTS), "known is bool"),
        (lambda: Windows(X, KNOWN, COUNTS.numpy()), "counts are a torch tensor"),
        (lambda: Windows(X, KNOWN, -COUNTS), "not negative"),
        (lambda: Windows(X, KNOWN, COUNTS * torch.nan), "finite"),
        (lambda: fit(counter(), Windows(X[:0], KNOWN[:0], COUNTS[:0])), "needs windows"),
        (lambda: fit(counter(), Windows(X, ~KNOWN, COUNTS)), "nothing can be counted"),
        (
            lambda: fit(
                torch.nn.Sequential(smoother(500.0), *counter()), Windows(X, KNOWN, COUNTS)
            ),
            "at odds",
        ),
        (lambda: cut([40]), "event 40 is none of the 40 samples"),
        (lambda: cut([-1]), "event -1"),
        (lambda: cut([0.5]), "numbers of samples"),
        (lambda: cut(known=KNOWN[0]), r"known is bool \(40,\)"),
        (lambda: cut(length_s=float("nan")), "finite"),
    ],
)
def test_data_and_labels_that_do_not_fit_are_refused(make, message) -> None:
    with pytest.raises((ParameterError, SignalError), match=message):
        make()


def test_events_at_the_same_sample_are_counted_each() -> None:
    assert cut([5, 5, 17]).counts.tolist() == [2.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_signals_that_break_are_blamed_and_not_a_parameter(bad: float, tmp_path: Path) -> None:
    """In the third step; module and checkpoint stay as the second left them."""
    module, steps = smoother(), []

    def draw(_: torch.Generator) -> Batch:
        steps.append(1)
        return Batch(X if len(steps) < 3 else X * bad, X)

    path = tmp_path / "c.pt"
    with pytest.raises(SignalError, match="signals of a batch"):
        train(module, draw, L1, steps=5, checkpoint=Checkpoint(path, every=1))
    values = [p.item() for p in module.parameters()]
    assert all(torch.isfinite(torch.tensor(values)))
    resumed = smoother()
    assert len(trained(resumed, checkpoint=Checkpoint(path, resume=True), steps=4).history) == 4


def test_a_checkpoint_that_does_not_fit_changes_neither_module_nor_file(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    trained(smoother(), checkpoint=Checkpoint(path))
    before = path.read_bytes()
    content = torch.load(path, weights_only=True)
    for key in ("model", "rows", "random"):
        torch.save({k: v for k, v in content.items() if k != key}, tmp_path / f"{key}.pt")
    (tmp_path / "half.pt").write_bytes(before[: len(before) // 2])
    chunked = TruncatedBackpropagation(Batch(X, X), 50, losses.l1)

    def sgd(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters)

    def grouped(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam([{"params": [p]} for p in parameters])

    frozen = smoother()
    frozen[0].requires_grad_(False)
    cases: list[tuple[str, str, torch.nn.Module, dict]] = [
        ("c", "another model", smoother(RATE)[:1], {}),
        ("c", "not by SGD", smoother(), {"optimizer": sgd}),
        ("c", "does not fit the optimiser", smoother(), {"optimizer": grouped}),
        ("c", "other parameters", frozen, {}),
        ("half", "damaged", smoother(), {}),
        *((key, f"{key} missing", smoother(), {}) for key in ("model", "rows", "random")),
    ]
    for name, message, module, more in cases:
        start = [p.item() for p in module.parameters()]
        keep = Checkpoint(tmp_path / f"{name}.pt", resume=True)
        with pytest.raises(MicroddspError, match=message):
            trained(module, steps=5, checkpoint=keep, **more)
        assert [p.item() for p in module.parameters()] == start, message
    with pytest.raises(MicroddspError, match="another objective"):
        train(smoother(), chunked.draw, chunked, steps=5, checkpoint=Checkpoint(path, resume=True))
    assert path.read_bytes() == before
