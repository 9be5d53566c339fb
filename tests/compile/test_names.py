"""Names of inputs and outputs, from PyTorch to the header, the archive and the answer."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

import microddsp
from microddsp.errors import CompileError


class Answer(NamedTuple):
    """Two outputs."""

    loud: torch.Tensor
    level: torch.Tensor


class Pair(torch.nn.Module):
    """One input, two named outputs."""

    def forward(self, microphone: torch.Tensor) -> Answer:
        return Answer(microphone * 2.0, microphone.abs())


class Returning(torch.nn.Module):
    """A dict with these keys."""

    def __init__(self, *keys: str) -> None:
        super().__init__()
        self.keys = keys

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {key: x + float(i) for i, key in enumerate(self.keys)}


@pytest.mark.parametrize("target", ["host", pytest.param("cortex-m4f", marks=pytest.mark.qemu)])
def test_names_reach_the_header_the_archive_and_the_answer(target: str, tmp_path: Path) -> None:
    model = microddsp.compile(Pair(), torch.zeros(1, 8), name="pair", target=target)
    header = model.sources["pair.h"]
    for macro in ("PAIR_MICROPHONE_LEN 8u", "PAIR_LOUD_LEN 8u", "PAIR_LEVEL_LEN 8u"):
        assert f"#define {macro}" in header
    assert "const float *microphone, const pair_outputs_t *outputs" in header
    model.save(tmp_path / "pair.tar")
    with tarfile.open(tmp_path / "pair.tar") as tar:
        metadata = json.load(tar.extractfile("metadata.json"))  # type: ignore[arg-type]
    main = metadata["modules"]["pair"]["memory"]["functions"]["main"][0]
    assert (list(main["inputs"]), sorted(main["outputs"])) == (["microphone"], ["level", "loud"])
    x = -np.arange(8, dtype="float32")[None]
    loaded = microddsp.load(tmp_path / "pair.tar")
    if target == "host":
        answer = loaded.run(x)
    else:
        with microddsp.open_board("mps2-an386", loaded) as board:
            answer = board.run(x)
    assert answer._fields == ("loud", "level")
    np.testing.assert_array_equal(answer.loud, 2 * x)
    np.testing.assert_array_equal(answer.level, -x)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (("a b",), "'a b' cannot be the name"),
        (("int",), "'int' cannot be the name"),
        (("self",), "'self' cannot be the name"),
        (("check",), "'check' cannot be the name"),
        (("x",), "two inputs or outputs are called 'x'"),
        (("score", "Score"), "two inputs or outputs are called 'score'"),
    ],
)
def test_a_name_that_c_cannot_have_is_refused(keys: tuple[str, ...], words: str) -> None:
    with pytest.raises(CompileError, match=words):
        microddsp.compile(Returning(*keys), torch.zeros(1, 8))
