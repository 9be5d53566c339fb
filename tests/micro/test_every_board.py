"""The pipelines that the project is for, on every emulated board: equal to PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import microddsp
from microddsp import dsp
from microddsp.errors import VerificationError
from microddsp.micro.boards import boards, find_board

RATE = 8000
BLOCK = 64
pytestmark = pytest.mark.qemu


def counting() -> torch.nn.Module:
    """A microphone's events."""
    return torch.nn.Sequential(
        dsp.Bandpass(low_hz=90.0, high_hz=700.0, order=4, sample_rate_hz=RATE),
        dsp.Envelope(attack_s=0.002, release_s=0.05, sample_rate_hz=RATE),
        dsp.EventCounter(threshold=0.1, hysteresis=0.5, refractory_s=0.15, sample_rate_hz=RATE),
    )


def words() -> torch.nn.Module:
    """Log-mel features and a recurrent layer."""
    return torch.nn.Sequential(dsp.LogMel(8, 128, BLOCK, sample_rate_hz=RATE), dsp.GRU(8, 6))


def steps() -> torch.nn.Module:
    """An accelerometer's frames through a small network."""
    return torch.nn.Sequential(
        dsp.FIR([1 / 16] * 16, sample_rate_hz=RATE),
        dsp.Frames(BLOCK, BLOCK),
        *(torch.nn.Linear(BLOCK, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)),
        torch.nn.Softmax(-1),
    )


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    """Two bursts of 300 Hz in noise."""
    time = np.arange(BLOCK * 50)
    bursts = np.sin(2 * np.pi * 300 * time / RATE) * (time % 1600 < 400) * 0.5
    noise = np.random.default_rng(0).standard_normal(len(time)) * 0.01
    return (bursts + noise)[None].astype(np.float32)


# The smallest and the largest always; mps2-an386 is in many other tests.
ALWAYS = ("microbit", "mps3-an547")
NAMES = [
    pytest.param(board.name, marks=() if board.name in ALWAYS else pytest.mark.slow)
    for board in boards()
    if board.qemu
]


@pytest.mark.parametrize("name", NAMES)
def test_a_board_equals_pytorch(name: str, signal: np.ndarray) -> None:
    torch.manual_seed(0)
    pipelines = {make.__name__: make().eval() for make in (counting, words, steps)}
    target = find_board(name).target
    models = [
        microddsp.compile(pipeline, torch.zeros(1, BLOCK), target=target, name=label)
        for label, pipeline in pipelines.items()
    ]
    with microddsp.open_board(name, models) as session:
        for model in models:
            report = microddsp.verify(pipelines[model.name], model, signal, board=session)
            assert report.board == name and report.blocks == 50
        counts = session["counting"].run(signal)
        with pytest.raises(VerificationError):  # what is another pipeline's differs
            microddsp.verify(steps(), models[2], 3 * signal[:, : 4 * BLOCK], board=session)
    assert counts[0, -1] == 2
