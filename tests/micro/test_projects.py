"""Firmware projects: folders that a person can read and `make` can build."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from microddsp.errors import BoardError, OptionError, ProjectError
from microddsp.micro.boards import find_board, list_boards
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.platforms import (
    build_project,
    check_options,
    create_project,
    find_platform,
    read_project,
)
from microddsp.micro.self_test import run_project

Maker = Callable[..., CompiledModel]
WHOLE = "'format': 2, 'image': 'a.elf', 'platform': 'host', 'board': 'host'"


def test_a_project_holds_all_that_it_needs(probe: Maker, tmp_path: Path) -> None:
    create_project(tmp_path / "fw", probe())
    names = {path.name for path in (tmp_path / "fw").iterdir()}
    assert {"Makefile", "README.md", "app.c", "board.ld", "probe.c", "probe.h"} <= names
    assert {"rpc_server.c", "rpc_server.h", "startup.c", "project.json"} <= names


def test_equal_models_give_equal_projects_without_a_path(probe: Maker, tmp_path: Path) -> None:
    for name in ("one", "two"):
        create_project(tmp_path / name, probe())
    for path in (tmp_path / "one").iterdir():
        text = path.read_text()
        assert text == (tmp_path / "two" / path.name).read_text()
        assert str(tmp_path) not in text


def test_a_folder_with_files_is_refused_unless_forced(probe: Maker, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BoardError, match="not empty"):
        create_project(tmp_path, probe())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    create_project(tmp_path, probe(), force=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert (tmp_path / "Makefile").is_file()


def test_firmware_of_an_earlier_project_is_not_taken_for_that_of_a_new_one(
    probe: Maker, tmp_path: Path
) -> None:
    project = create_project(tmp_path, probe())
    project.image.write_bytes(b"of the first")
    with pytest.raises(ProjectError, match="not empty"):
        create_project(tmp_path, probe())
    assert project.image.is_file()
    create_project(tmp_path, probe(), force=True)
    assert not project.image.exists()


def test_a_file_is_not_written_over(probe: Maker, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(ProjectError, match="is a file"):
            create_project(tmp_path / "mine.txt", probe(), force=force)


def test_the_board_is_chosen_by_the_models_processor(probe: Maker, tmp_path: Path) -> None:
    assert create_project(tmp_path / "a", probe()).board.name == "mps2-an386"
    assert create_project(tmp_path / "b", probe(target="cortex-m7")).board.name == "mps2-an500"
    assert create_project(tmp_path / "c", probe(target="host")).board.name == "host"


def test_object_code_is_no_code_for_this_computer(probe: Maker, tmp_path: Path) -> None:
    model = probe()
    model.objects["probe_k0.o"] = b"for a Cortex-M"
    with pytest.raises(BoardError, match="object code for cortex-m4f, which host cannot run"):
        create_project(tmp_path / "fw", model, "host")


def test_options_set_board_and_stack(probe: Maker, tmp_path: Path) -> None:
    options = {"board": "mps2-an386", "stack": "4096"}
    create_project(tmp_path / "fw", probe(), options=options)
    assert ". += 4096;" in (tmp_path / "fw/board.ld").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"borad": "x"}, "did you mean 'board'"),
        ({"board": "x"}, "mps2-an386"),
        ({"stack": "many"}, "multiple of 8"),
        ({"stack": "100"}, "512 or more"),
        ({"profile": "maybe"}, "known: no, yes|known: yes, no"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        check_options(find_platform("qemu"), options)


def test_a_stack_larger_than_memory_is_refused_before_anything_is_written(
    probe: Maker, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="stack of 4194304 bytes.*mps2-an386 has 4194304"):
        create_project(tmp_path / "fw", probe(), options={"stack": str(4 << 20)})
    assert not (tmp_path / "fw").exists()


def test_a_mistyped_platform_is_refused() -> None:
    with pytest.raises(BoardError, match="did you mean 'qemu'"):
        find_platform("qmeu")


@pytest.mark.parametrize("name", ["port", "rpc_server", "APP"])
def test_a_model_with_the_name_of_a_firmware_file_is_refused(
    name: str, probe: Maker, tmp_path: Path
) -> None:
    model = probe()
    model.name = name
    with pytest.raises(BoardError, match="another name"):
        create_project(tmp_path / "fw", model)
    assert not (tmp_path / "fw").exists()


def test_a_folder_that_is_no_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="is no project"):
        build_project(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 1}',
        '{"format": 2, "image": "../evil.elf"}',
        '{"format": 2, "image": "/evil.elf"}',
        '{"format": 2, "image": "a.elf", "board": "host", "models": [], "profile": {}}',
        f"{{{WHOLE}, 'models': 3, 'profile': {{}}}}".replace("'", '"'),
        f"{{{WHOLE}, 'models': [{{}}], 'profile': {{}}}}".replace("'", '"'),
        f"{{{WHOLE}, 'models': [], 'profile': 3}}".replace("'", '"'),
        f"{{{WHOLE}, 'models': [], 'profile': {{}}}}".replace("'", '"'),
        f"{{{WHOLE}, 'models': [3], 'platform': 'nothing'}}".replace("'", '"'),
        f"{{{WHOLE}, 'models': [3], 'own_board': {{'a': 1}}}}".replace("'", '"'),
        "[" * 100_000,
    ],
)
def test_a_damaged_manifest_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "project.json").write_text(text)
    with pytest.raises(ProjectError, match="project.json"):
        read_project(tmp_path)


def test_a_missing_compiler_is_named(
    probe: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_project(tmp_path / "fw", probe())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BoardError, match="Debian package make"):
        build_project(tmp_path / "fw")
    (tmp_path / "make").symlink_to("/bin/true")
    with pytest.raises(BoardError, match="Debian package gcc-arm-none-eabi"):
        build_project(tmp_path / "fw")


@pytest.mark.qemu
def test_a_missing_emulator_is_named(
    probe: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_project(tmp_path / "fw", probe())
    build_project(tmp_path / "fw")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BoardError, match="Debian package qemu-system-arm"):
        run_project(tmp_path / "fw")


@pytest.mark.qemu
def test_an_error_of_the_compiler_is_shown(probe: Maker, tmp_path: Path) -> None:
    create_project(tmp_path / "fw", probe("    this is no C;"))
    with pytest.raises(BoardError, match="probe.c:1"):
        build_project(tmp_path / "fw")


@pytest.mark.qemu
@pytest.mark.parametrize("board", list_boards())
def test_a_project_builds_by_hand_without_a_warning(
    board: str, probe: Maker, tmp_path: Path
) -> None:
    where = tmp_path / "a folder"
    create_project(where, probe(target=find_board(board).target, workspace=64), board)
    done = subprocess.run(["make", "WERROR=-Werror"], cwd=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert (where / "probe.elf").is_file()


@pytest.mark.qemu
def test_a_built_project_runs_and_reports(probe: Maker, tmp_path: Path) -> None:
    create_project(tmp_path / "fw", probe())
    with pytest.raises(BoardError, match="build the project first"):
        run_project(tmp_path / "fw")
    image = build_project(tmp_path / "fw")
    assert image == tmp_path / "fw/probe.elf"
    (report,) = run_project(tmp_path / "fw")
    assert report.model == "probe"
    assert report.to_json()["instructions"] > 10
    assert report.outputs == {"y": [1, 8]}
