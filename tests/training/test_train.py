"""The training loop: what it draws, when it stops, what it keeps, who is told."""

import csv
import math
from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau, StepLR

import microddsp
from microddsp import dsp
from microddsp.errors import MicroddspError, ParameterError, SignalError
from microddsp.training import (
    Batch,
    Checkpoint,
    CsvRecorder,
    EarlyStop,
    ProgressRecorder,
    Readings,
    TensorBoardRecorder,
    TruncatedBackpropagation,
    compare,
    crops,
    load_checkpoint,
    losses,
    random_inputs,
    rows,
    train,
    whole,
)

RATE = 1000.0


def smoother(cutoff_hz: float = 50.0) -> torch.nn.Module:
    return torch.nn.Sequential(dsp.Gain(0.5), dsp.OnePole(cutoff_hz, sample_rate_hz=RATE))


def data(count: int = 6, samples: int = 200, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, samples, generator=generator)
    with torch.no_grad():
        return Batch(x, smoother(120.0)(x))


def values(module: torch.nn.Module) -> list[float]:
    return [p.item() for p in module.parameters()]


L1 = compare(losses.l1)


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(torch.optim.SGD, lr=0.3, momentum=0.9),
        partial(torch.optim.RMSprop, lr=0.02),
        partial(torch.optim.LBFGS, lr=0.5),
    ],
)
def test_any_optimizer_of_torch_learns(optimizer) -> None:
    module, batch = smoother(), data()
    result = train(
        module, whole(batch), compare(losses.l2), steps=60, optimizer=optimizer, clip_norm=None
    )
    assert result.loss < 0.05 * result.history[0].loss


def test_rows_tell_the_learned_values_in_physical_units() -> None:
    module = smoother()
    result = train(module, whole(data()), L1, steps=3)
    row = result.history[-1]
    assert list(row.values) == ["0.gain", "1.cutoff_hz"]
    assert row.values["1.cutoff_hz"] == module[1].cutoff_hz.item()
    assert [r.step for r in result.history] == [0, 1, 2]


def test_readings_tell_every_learned_parameter_once() -> None:
    module = torch.nn.Sequential(
        dsp.Bandpass([10.0, 20.0], [30.0, 40.0], sample_rate_hz=RATE),
        dsp.FIR(torch.ones(100).tolist()),
        dsp.Envelope(0.01, 0.1, sample_rate_hz=RATE),
        torch.nn.Linear(2, 1),
    )
    module[2].attack.raw.requires_grad_(False)
    found = Readings(module).read()
    assert found["0.low_hz[0]"] == pytest.approx(10) and found["0.high_hz[1]"] == pytest.approx(40)
    assert found["1.taps.rms"] == pytest.approx(1)
    assert "2.attack_s" not in found and found["2.release_s"] == pytest.approx(0.1)
    assert {"3.weight[0,0]", "3.weight[0,1]", "3.bias[0]"} <= set(found)
    assert not [name for name in found if "raw" in name]


def test_a_schedule_changes_the_learning_rate() -> None:
    module = smoother()
    result = train(module, whole(data()), L1, steps=4, schedule=partial(ExponentialLR, gamma=0.5))
    assert [row.learning_rate for row in result.history] == [0.05, 0.025, 0.0125, 0.00625]
    stuck = train(
        module,
        whole(data()),
        L1,
        steps=5,
        optimizer=partial(torch.optim.SGD, lr=1e-7),
        schedule=partial(ReduceLROnPlateau, patience=1, factor=0.1),
    )
    assert stuck.history[-1].learning_rate < 1e-7


def test_early_stop() -> None:
    below = train(smoother(), whole(data()), L1, steps=300, stop=EarlyStop(below=0.02))
    assert below.stopped_early and below.loss < 0.02 < below.history[-2].loss
    stuck = train(
        smoother(),
        whole(data()),
        L1,
        steps=50,
        optimizer=partial(torch.optim.SGD, lr=0.0),
        stop=EarlyStop(patience=7),
    )
    assert len(stuck.history) == 8


def test_the_same_seed_draws_the_same_and_leaves_the_callers_random_state() -> None:
    noisy = torch.nn.Sequential(smoother(), torch.nn.Dropout(0.5))
    torch.manual_seed(7)
    expected = torch.get_rng_state()
    results = []
    for seed in (1, 1, 2):
        module = torch.nn.Sequential(smoother(), torch.nn.Dropout(0.5)).train()
        train(module, rows(data(), 2), L1, steps=5, seed=seed)
        results.append(values(module))
    assert results[0] == results[1] != results[2]
    assert torch.equal(torch.get_rng_state(), expected)
    assert values(noisy) == values(smoother())


def test_crops_are_spans_of_the_data_with_time_to_settle() -> None:
    x = torch.arange(100.0).repeat(3, 1, 1) + 1000 * torch.arange(3.0)[:, None, None]
    known = torch.ones(3, 100, dtype=torch.bool)
    known[:, 50] = False
    draw = crops(Batch(x, -x, known), 5, 20, settle_samples=4)
    seen = set()
    for seed in range(20):
        batch = draw(torch.Generator().manual_seed(seed))
        assert batch.signals.shape == (5, 1, 20) and torch.equal(batch.targets, -batch.signals)
        assert batch.known is not None and not batch.known[:, :4].any()
        inside = batch.signals[:, 0] % 1000
        assert (inside.diff(dim=-1) == 1).all()
        assert torch.equal(batch.known[:, 4:], inside[:, 4:] != 50)
        seen |= set(inside[:, 0].int().tolist())
    assert len(seen) > 50 and min(seen) >= 0 and max(seen) <= 80


def test_random_inputs_are_new_at_every_step() -> None:
    draw = random_inputs(smoother(), (2, 1, 50))
    generator = torch.Generator().manual_seed(0)
    one, other = draw(generator), draw(generator)
    assert not torch.equal(one.signals, other.signals)
    assert torch.equal(one.targets, smoother()(one.signals))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rows(data(), 7), "7 of 6 rows"),
        (lambda: crops(data(), 2, 201), "spans of 201"),
        (lambda: Batch(torch.zeros(3, 4), torch.zeros(3)), "rows, channels"),
        (lambda: Batch(torch.zeros(3, 1, 4), torch.zeros(2)), "2 targets"),
        (lambda: Batch(torch.zeros(3, 1, 4), torch.zeros(3), torch.ones(3, 5)), "known is"),
        (lambda: crops(Batch(torch.zeros(3, 1, 4), torch.zeros(3)), 1, 2), "signals of the same"),
        (lambda: Checkpoint("x", every=0), "every"),
        (lambda: TruncatedBackpropagation(data(), 300, losses.l1), "chunk of 300"),
        (lambda: train(smoother().requires_grad_(False), whole(data()), L1, steps=1), "nothing to"),
        (lambda: train(smoother(), whole(data()), L1, steps=-1), "steps"),
        (
            lambda: train(smoother(), whole(data()), lambda m, b: b.targets.sum(), steps=1),
            "does not depend",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, message) -> None:
    with pytest.raises((ParameterError, SignalError), match=message):
        make()


def resumable(path, steps: int, module: torch.nn.Module, resume: bool = False, **more):
    """Momentum, a schedule, random rows and dropout: all of it must go on."""
    return train(
        module,
        rows(data(), 3),
        L1,
        steps=steps,
        schedule=partial(StepLR, step_size=4),
        checkpoint=Checkpoint(path, every=4, resume=resume),
        **more,
    )


def dropping() -> torch.nn.Module:
    return torch.nn.Sequential(smoother(), torch.nn.Dropout(0.2)).train()


def test_a_resumed_training_is_the_training_that_never_stopped(tmp_path) -> None:
    through, first, second = dropping(), dropping(), dropping()
    table = CsvRecorder(tmp_path / "through.csv")
    complete = resumable(tmp_path / "through.pt", 12, through, recorders=[table])
    table = CsvRecorder(tmp_path / "parts.csv")
    # it dies at step 6, two steps after the checkpoint

    def die(row) -> None:
        if row.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resumable(tmp_path / "parts.pt", 12, first, after_step=die, recorders=[table])
    rest = resumable(tmp_path / "parts.pt", 12, second, resume=True, recorders=[table])
    assert rest.history == complete.history and len(rest.history) == 12
    assert values(second) == values(through)
    parts, whole_table = ((tmp_path / f"{name}.csv").read_text() for name in ("parts", "through"))
    assert parts == whole_table


def test_the_checkpoint_of_another_model_is_refused_and_changes_nothing(tmp_path) -> None:
    path = tmp_path / "c.pt"
    resumable(path, 2, dropping())
    other_rate = torch.nn.Sequential(dsp.Gain(0.5), dsp.OnePole(50.0, sample_rate_hz=500.0))
    for other, message in [
        (torch.nn.Sequential(other_rate, torch.nn.Dropout(0.2)), "another model.*500"),
        (torch.nn.Sequential(dsp.Gain(0.5)), "another model"),
    ]:
        before = values(other)
        with pytest.raises(MicroddspError, match=message):
            load_checkpoint(path, other)
        assert values(other) == before
    with pytest.raises(MicroddspError, match="trained by Adam with a schedule, not by SGD"):
        train(
            dropping(),
            rows(data(), 3),
            L1,
            steps=3,
            optimizer=partial(torch.optim.SGD, lr=0.1),
            checkpoint=Checkpoint(path, resume=True),
        )


def test_files_that_would_run_code_or_are_damaged_are_no_checkpoints(tmp_path) -> None:
    class Evil:
        def __reduce__(self):
            return (eval, ("open('hacked', 'w')",))

    torch.save({"format": 1, "model": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "damaged.pt").write_bytes(b"PK\x03\x04 nothing")
    (tmp_path / "empty.pt").touch()
    torch.save([1], tmp_path / "list.pt")
    for name in ("evil", "damaged", "empty", "list", "missing"):
        with pytest.raises(MicroddspError, match=f"{name}.pt"):
            load_checkpoint(tmp_path / f"{name}.pt", smoother())


class Cliff(torch.nn.Module):
    """Its gradient is fine until the weight reaches zero."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = torch.nn.Parameter(torch.tensor(1.0))
        self.weight = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fine * x + torch.sqrt(self.weight)


def test_a_gradient_that_is_not_finite_is_named_and_the_last_good_checkpoint_stays(
    tmp_path,
) -> None:
    path, module = tmp_path / "c.pt", Cliff()
    batch = Batch(torch.zeros(1, 1, 4), torch.full((1, 1, 4), -3.0))
    with pytest.raises(MicroddspError, match="weight: .*NaN or infinite"):
        train(module, whole(batch), L1, steps=40, checkpoint=Checkpoint(path, every=2))
    kept = Cliff()
    load_checkpoint(path, kept)
    assert all(math.isfinite(v) for v in values(kept))
    assert torch.isfinite(kept(torch.zeros(1, 1, 4))).all()
    assert values(kept)[1] < 0.2
    assert torch.isfinite(module(torch.zeros(1, 1, 4))).all()


def test_a_step_into_infinity_is_undone() -> None:
    module = smoother()
    before = values(module)
    with pytest.raises(MicroddspError, match="0.gain: the parameter became NaN"):
        train(module, whole(data()), L1, steps=3, optimizer=partial(torch.optim.SGD, lr=math.inf))
    assert values(module) == before


def test_every_step_is_in_the_csv_to_the_last_bit(tmp_path) -> None:
    path = tmp_path / "log.csv"
    result = train(smoother(), whole(data()), L1, steps=4, recorders=[CsvRecorder(path)])
    with path.open() as file:
        table = list(csv.DictReader(file))
    assert [row["step"] for row in table] == ["0", "1", "2", "3"]
    for row, expected in zip(table, result.history, strict=True):
        assert float(row["loss"]) == expected.loss
        assert float(row["1.cutoff_hz"]) == expected.values["1.cutoff_hz"]


def test_progress_shows_loss_and_physical_values(capsys) -> None:
    train(smoother(), whole(data()), L1, steps=4, recorders=[ProgressRecorder()])
    shown = capsys.readouterr().err
    assert "4/4" in shown and "loss" in shown and "1.cutoff_hz" in shown


def test_tensorboard_gets_scalars_or_is_named_as_missing(tmp_path) -> None:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        with pytest.raises(MicroddspError, match="pip install tensorboard"):
            TensorBoardRecorder(tmp_path)
        return
    train(smoother(), whole(data()), L1, steps=3, recorders=[TensorBoardRecorder(tmp_path)])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert len(events.Scalars("learned/1.cutoff_hz")) == 3


def test_chunks_of_a_recording_continue_each_other_and_learn() -> None:
    batch = data(2, 1200)
    chunked = TruncatedBackpropagation(batch, 100, losses.l1)
    module = smoother()
    heard = []
    with torch.no_grad():
        expected = smoother()(batch.signals)
        for _ in range(12):
            chunk = chunked.draw(torch.Generator())
            chunked(module, chunk)
            heard.append(microddsp.step(module, chunk.batch.signals, chunked.state)[0])
    torch.testing.assert_close(torch.cat(heard, -1), expected)
    result = train(module, chunked.draw, chunked, steps=240)
    assert result.loss < 0.02 * result.history[0].loss


def test_chunked_training_resumes_in_the_middle_of_a_recording(tmp_path) -> None:
    path, batch = tmp_path / "c.pt", data(2, 500)
    results = []
    for parts in ((8,), (3, 8)):
        for steps in parts:
            module = smoother()
            chunked = TruncatedBackpropagation(batch, 100, losses.l1)
            keep = Checkpoint(path, resume=steps != parts[0])
            train(module, chunked.draw, chunked, steps=steps, checkpoint=keep)
        results.append(values(module))
    assert results[0] == results[1]


def test_gradients_through_two_chunks_are_those_of_the_whole_signal() -> None:
    module, x = smoother(), data(1, 80).signals
    whole_gradients = torch.autograd.grad(module(x).square().sum(), list(module.parameters()))
    one, state = microddsp.step(module, x[..., :30])
    two, final = microddsp.step(module, x[..., 30:], state)
    loss = one.square().sum() + two.square().sum()
    for found, expected in zip(
        torch.autograd.grad(loss, list(module.parameters()), retain_graph=True),
        whole_gradients,
        strict=True,
    ):
        torch.testing.assert_close(found, expected)
    start = {key: value.detach().requires_grad_() for key, value in state.items()}
    _, last = microddsp.step(module, x[..., 30:], start)
    (gradient,) = torch.autograd.grad(last["1.z"].sum(), start["1.z"])
    assert gradient.abs().sum() > 0 and final["1.z"].requires_grad
