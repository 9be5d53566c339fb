"""A farm of two boards, one of them in use, and a firmware for the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from microddsp.micro.platforms import build_project, create_project
from microddsp.micro.session import BoardSession, open_board
from tests.micro.farm.farms import BOARD, BODY, Farm, Maker, address, new_farm


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker of a busy computer is there, also where it does not answer at once."""
    monkeypatch.setattr("microddsp.micro.farm.tracker.ANSWER_S", 60.0)


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    """A tracker with two boards."""
    made = new_farm()
    try:
        made.start("serve", "--tracker", made.tracker, "--board", BOARD, "--count", "2", until=2)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def board(farm: Farm, probe: Maker) -> Iterator[BoardSession]:
    with open_board(address(farm), probe(BODY, helpers='#include "rpc_server.h"\n')) as session:
        yield session


@pytest.fixture(scope="module")
def image(probe: Maker, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A firmware with the same model."""
    folder = tmp_path_factory.mktemp("project")
    create_project(folder / "p", probe(BODY, helpers='#include "rpc_server.h"\n'), BOARD)
    return build_project(folder / "p").read_bytes()
