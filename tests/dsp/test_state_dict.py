"""Checkpoints: versions of the parametrisation, and one from the past."""

import io
import json
from pathlib import Path

import pytest
import torch

import microddsp
from microddsp import dsp
from microddsp.errors import MicroddspError

GOLDEN = Path(__file__).parent / "golden_state_dict.json"
FS = 8000.0


def pipeline() -> torch.nn.Sequential:
    return torch.nn.Sequential(
        dsp.Bandpass(90.0, 700.0, 2, sample_rate_hz=FS),
        dsp.Envelope(0.002, 0.05, sample_rate_hz=FS),
        dsp.Gain(1.0),
        dsp.SOS([[1.0, 0, 0, 1, -1.6, 0.7]], sample_rate_hz=FS),
        dsp.Lowpass([300.0, 400.0], 2, sample_rate_hz=FS),
    )


def stored(module: torch.nn.Module) -> dict:
    """As torch.save and torch.load give it."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_checkpoint_survives_torch_save() -> None:
    module, other = pipeline(), pipeline()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1)
    other.load_state_dict(stored(module))
    x = torch.randn(2, 64)
    assert torch.equal(module(x), other(x))


def test_state_is_not_part_of_a_checkpoint() -> None:
    module = pipeline()
    keys = list(module.state_dict())
    with microddsp.streaming(module):
        module(torch.randn(2, 64))
        assert list(module.state_dict()) == keys


@pytest.mark.parametrize("version", [2, None])
def test_a_newer_or_unknown_parametrisation_is_refused_by_the_block_s_name(version) -> None:
    module = pipeline()
    state = stored(module)
    state._metadata["1"]["version"] = version
    with pytest.raises(MicroddspError, match="Envelope at 1"):
        module.load_state_dict(state)


def test_a_dictionary_without_versions_is_refused() -> None:
    module = pipeline()
    with pytest.raises(MicroddspError, match="version"):
        module.load_state_dict(dict(module.state_dict()))


def test_a_checkpoint_from_the_past_gives_the_same_filter() -> None:
    golden = json.loads(GOLDEN.read_text())
    state = {key: torch.tensor(value) for key, value in golden["state_dict"].items()}
    state = torch.nn.Module().state_dict().__class__(state)
    state._metadata = {key: {"version": value} for key, value in golden["versions"].items()}
    module = pipeline()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    module.load_state_dict(state)
    x = torch.linspace(-1, 1, 32, dtype=torch.float64).repeat(2, 1)
    torch.testing.assert_close(
        module(x)[:, -4:].detach(),
        torch.tensor(golden["output"], dtype=torch.float64),
        rtol=1e-6,
        atol=1e-9,
    )
