"""`verify` says how far device and PyTorch are apart, and where it begins."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import microddsp
from microddsp import dsp
from microddsp.errors import SignalError, VerificationError
from microddsp.micro.package.model import CompiledModel

RATE = 8000


class Plops(torch.nn.Module):
    def __init__(self, release_s: float = 0.05) -> None:
        super().__init__()
        self.band = dsp.Bandpass(low_hz=90.0, high_hz=700.0, order=4, sample_rate_hz=RATE)
        self.envelope = dsp.Envelope(attack_s=0.002, release_s=release_s, sample_rate_hz=RATE)
        self.counter = dsp.EventCounter(
            threshold=0.1, hysteresis=0.5, refractory_s=0.15, sample_rate_hz=RATE
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"count": self.counter(self.envelope(self.band(x)))}


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    """Four bursts of 300 Hz in noise."""
    time = np.arange(6400)
    bursts = np.sin(2 * np.pi * 300 * time / RATE) * (time % 1600 < 400) * 0.5
    noise = np.random.default_rng(0).standard_normal(6400) * 0.01
    return (bursts + noise)[None].astype(np.float32)


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return microddsp.compile(Plops(), torch.zeros(1, 64), name="plops", taps=["band", "envelope"])


def test_the_host_is_within_the_tolerance(model: CompiledModel, signal: np.ndarray) -> None:
    report = microddsp.verify(Plops(), model, signal)
    assert report.passed
    assert report.board == "host"
    assert report.blocks == 100
    assert [o.name for o in report.outputs] == ["count", "band", "envelope"]
    count, band, _ = report.outputs
    assert count.mismatches == 0
    assert count.tolerance == 0.0
    assert band.max_rel_error < 1e-5 <= band.tolerance
    assert band.snr_db > 100
    assert report.counters[0].counter == "counter"
    assert report.counters[0].is_safe


@pytest.mark.qemu
def test_the_board_is_within_the_tolerance(model: CompiledModel, signal: np.ndarray) -> None:
    report = microddsp.verify(Plops(), model, signal, board="mps2-an386")
    assert report.board == "mps2-an386"
    with microddsp.open_board("mps2-an386", model) as board:
        board.run(signal)
        again = microddsp.verify(Plops(), model, torch.from_numpy(signal), board=board)
        assert board.run(signal)["count"][0, -1] == 4
    assert again == report


@pytest.mark.qemu
def test_raw_interleaved_samples_are_verified(signal: np.ndarray) -> None:
    raw = microddsp.Input("s16", interleaved=True)
    stereo = microddsp.compile(Plops(), torch.zeros(2, 64), name="plops", input=raw)
    samples = (np.concatenate([signal, -signal]) * 32767).astype(np.int16)
    assert microddsp.verify(Plops(), stereo, samples, board="mps2-an386").passed


def test_another_pipeline_fails_with_a_table(model: CompiledModel, signal: np.ndarray) -> None:
    with pytest.raises(VerificationError) as caught:
        microddsp.verify(Plops(release_s=0.06), model, signal)
    text = str(caught.value)
    assert "envelope  float32" in text
    assert "differs in" in text
    assert "locate=True" in text


def test_the_first_diverging_sample_is_named(model: CompiledModel, signal: np.ndarray) -> None:
    silent = np.zeros_like(signal)
    silent[0, 16 * 64 :] = signal[0, 16 * 64 :]
    with pytest.raises(VerificationError) as caught:
        microddsp.verify(Plops(release_s=0.06), model, silent, locate=True)
    assert "first divergence: output 'envelope', block 16, index [0, " in str(caught.value)


def test_a_pipeline_with_other_outputs_is_refused(model: CompiledModel, signal: np.ndarray) -> None:
    with pytest.raises(VerificationError, match="not what was compiled"):
        microddsp.verify(dsp.Gain(2.0), model, signal)


def test_a_pipeline_of_another_sample_rate_is_refused(model: CompiledModel) -> None:
    silence = np.zeros((1, 64), np.float32)  # any pipeline counts it the same
    slower = torch.nn.Sequential(dsp.Lowpass(cutoff_hz=1.0, order=2, sample_rate_hz=RATE / 80))
    with pytest.raises(VerificationError, match=f"made for {RATE / 80:g} .*, plops for {RATE:g}"):
        microddsp.verify(slower, model, silence)


def test_a_stricter_tolerance_can_be_asked_for(model: CompiledModel, signal: np.ndarray) -> None:
    with pytest.raises(VerificationError):
        microddsp.verify(Plops(), model, signal, tolerance=1e-12)
    assert microddsp.verify(Plops(release_s=0.051), model, signal, tolerance=0.5).passed


def test_the_pipeline_and_its_mode_stay_as_they_were(
    model: CompiledModel, signal: np.ndarray
) -> None:
    pipeline = Plops().train()
    before = {key: value.clone() for key, value in pipeline.state_dict().items()}
    microddsp.verify(pipeline, model, signal)
    assert pipeline.training
    assert not list(pipeline.buffers())
    for key, value in pipeline.state_dict().items():
        assert torch.equal(value, before[key])
        assert value.dtype == before[key].dtype


def test_a_report_is_json(model: CompiledModel, signal: np.ndarray) -> None:
    report = microddsp.verify(Plops(), model, signal)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["passed"] is True
    assert data["outputs"][0]["snr_db"] is None
    assert "counter counter: nearest sample" in str(report)


def test_a_partial_block_is_refused(model: CompiledModel, signal: np.ndarray) -> None:
    with pytest.raises(SignalError):
        microddsp.verify(Plops(), model, signal[:, :100])
