"""Several models in one firmware, each with its own state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import microddsp
from microddsp import dsp
from microddsp.errors import BoardError
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.platforms import (
    build_project,
    create_project,
    read_project,
)
from microddsp.micro.self_test import run_project
from microddsp.micro.session import BoardSession, open_board

Maker = Callable[..., CompiledModel]
X = np.random.default_rng(0).standard_normal((1, 32 * 4)).astype(np.float32)


@pytest.fixture(scope="module")
def models() -> tuple[CompiledModel, CompiledModel]:
    """One model with state, one with a workspace and several outputs."""
    smooth = dsp.Envelope(attack_s=0.002, release_s=0.05, sample_rate_hz=8000)
    return (
        microddsp.compile(smooth, torch.zeros(1, 32), name="smooth"),
        microddsp.compile(
            torch.nn.Sequential(dsp.Frames(64, 32), torch.nn.Linear(64, 8), torch.nn.ReLU()),
            torch.zeros(1, 32),
            name="layer",
        ),
    )


@pytest.fixture(scope="module", params=["host", pytest.param("mps2-an386", marks=pytest.mark.qemu)])
def board(
    request: pytest.FixtureRequest, models: tuple[CompiledModel, CompiledModel]
) -> Iterator[BoardSession]:
    with open_board(request.param, models) as session:
        yield session


def test_each_model_answers_under_its_name(
    board: BoardSession, models: tuple[CompiledModel, CompiledModel]
) -> None:
    assert list(board.models) == ["smooth", "layer"]
    for model in models:
        model.reset()
        np.testing.assert_array_equal(board[model.name].run(X), model.run(X))
        assert board[model.name].time(X).count_median > 0
        assert 0 <= board[model.name].stack_bytes() < 1000


def test_models_do_not_share_state(board: BoardSession) -> None:
    smooth, layer = board["smooth"], board["layer"]
    alone = smooth.run(X)
    block = [X[:, i : i + 32] for i in range(0, X.shape[1], 32)]
    smooth.reset()
    outputs = []
    for part in block:
        outputs.append(smooth._link.call(smooth._run_block, [part])[0])
        layer.run(part)  # resets the other one each time
    np.testing.assert_array_equal(np.concatenate(outputs, axis=1), alone)


def test_which_model_is_meant_must_be_said(board: BoardSession) -> None:
    with pytest.raises(BoardError, match=r"several models: smooth, layer(.|\n)*board\['smooth'\]"):
        board.run(X)
    with pytest.raises(BoardError, match="did you mean 'layer'"):
        board["leyer"]


def test_two_models_of_one_name_are_refused(probe: Maker, tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="two models are called 'probe'"):
        create_project(tmp_path, [probe(), probe()])


def test_models_for_two_processors_are_refused(
    probe: Maker, models: tuple[CompiledModel, CompiledModel], tmp_path: Path
) -> None:
    with pytest.raises(BoardError, match="compiled for cortex-m7"):
        create_project(tmp_path, [models[0], probe(target="cortex-m7")])


def test_a_project_reports_of_each_of_its_models(
    models: tuple[CompiledModel, CompiledModel], tmp_path: Path
) -> None:
    create_project(tmp_path, models, "host")
    build_project(tmp_path)
    reports = run_project(tmp_path)
    assert [report.model for report in reports] == ["smooth", "layer"]
    assert [report.outputs for report in reports] == [{"out": [1, 32]}, {"out": [1, 1, 8]}]
    assert all(report.count > 0 for report in reports)


def test_a_project_remembers_its_models(
    models: tuple[CompiledModel, CompiledModel], tmp_path: Path
) -> None:
    create_project(tmp_path, models)
    assert read_project(tmp_path).signatures == tuple(model.signature for model in models)
