"""Zephyr applications: written here; built and run where ZEPHYR_BASE names a Zephyr tree.

ZEPHYR_BASE=... pytest -m zephyr tests/micro/test_zephyr.py
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm

import microddsp
from microddsp import dsp
from microddsp.errors import BoardError, DeviceFaultError, StackOverflowError
from microddsp.micro.boards import Serial, list_boards
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.platforms import (
    PLATFORMS,
    build_project,
    check_options,
    create_project,
    find_platform,
    flash_project,
    read_project,
)
from microddsp.micro.platforms.processes import first_errors
from microddsp.micro.platforms.zephyr import build as zephyr
from microddsp.micro.platforms.zephyr.boards import emulated_boards
from microddsp.micro.platforms.zephyr.installation import (
    find_west,
    find_zephyr,
    need_west,
    toolchain,
)
from microddsp.micro.session import BoardSession, open_board, open_project

Maker = Callable[..., CompiledModel]
ONES = np.ones((1, 8), np.float32)


@pytest.fixture
def application(probe: Maker, tmp_path: Path) -> Path:
    create_project(tmp_path / "fw", probe(target="cortex-m3"), "mps2_an385", platform="zephyr")
    return tmp_path / "fw"


def test_an_application_holds_what_zephyr_wants(application: Path) -> None:
    assert "find_package(Zephyr" in (application / "CMakeLists.txt").read_text()
    assert "CONFIG_UART_INTERRUPT_DRIVEN=y" in (application / "prj.conf").read_text()
    assert (application / "boards/mps2_an385.overlay").is_file()
    assert (application / "models/probe/zephyr/module.yml").is_file()
    assert (application / "models/probe/src/probe.c").is_file()
    assert (application / "src/port_zephyr.c").is_file()
    assert (
        "FRAME_PAYLOAD=${CONFIG_MICRODDSP_FRAME_BYTES}u"
        in (application / "CMakeLists.txt").read_text()
    )


def test_equal_models_give_equal_applications_without_a_path(probe: Maker, tmp_path: Path) -> None:
    for name in ("one", "two"):
        create_project(tmp_path / name, probe(target="cortex-m3"), platform="zephyr")
    files = [path for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) > 15
    for path in files:
        text = path.read_text()
        assert text == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_text()
        assert str(tmp_path) not in text


def test_a_model_with_floating_point_instructions_asks_for_them(
    probe: Maker, tmp_path: Path
) -> None:
    project = create_project(tmp_path, probe(target="cortex-m55"), platform="zephyr")
    assert project.board
    assert project.board.name == "mps3_an547"
    assert "CONFIG_FPU=y" in (tmp_path / "prj.conf").read_text()


def test_any_name_of_a_board_is_taken_and_its_uart_named(probe: Maker, tmp_path: Path) -> None:
    options = {"uart": "usart2", "heap": "4096", "stack": "3072", "baud": "9600"}
    board = "nrf5340dk/nrf5340/cpuapp"
    with pytest.raises(BoardError, match="clock=HZ"):
        create_project(tmp_path, probe(), board, options, platform="zephyr")
    create_project(tmp_path, probe(), board, options | {"clock": "32768"}, platform="zephyr")
    assert "&usart2;" in (tmp_path / "boards/nrf5340dk_nrf5340_cpuapp.overlay").read_text()
    kconfig = (tmp_path / "Kconfig").read_text()
    assert "default 4096" in kconfig
    assert "default 3072" in kconfig
    real = read_project(tmp_path).board
    assert real and real.serial and real.zephyr == board
    assert (real.serial.baud, real.clock_hz, real.unit) == (9600, 32768, "cycles")


def test_a_boards_file_can_be_zephyrs(probe: Maker, tmp_path: Path) -> None:
    words = 'description = "Nucleo"\ntarget = "cortex-m4f"\nclock_hz = 80_000_000\n'
    words += 'stack_bytes = 2048\nzephyr = "nucleo_l476rg"\n[serial]\ndriver = "uart_zephyr.c"\n'
    words += "frame_bytes = 300\n"
    (tmp_path / "mine.toml").write_text(words + 'usb = ["0483:374b"]\n')
    project = create_project(tmp_path / "fw", probe(), str(tmp_path / "mine.toml"))
    assert project.platform == "zephyr"
    assert "set(BOARD nucleo_l476rg)" in (tmp_path / "fw/CMakeLists.txt").read_text()
    assert "default 300" in (tmp_path / "fw/Kconfig").read_text()
    again = read_project(tmp_path / "fw").board
    assert project.board and again == project.board.model_copy(update={"folder": None})
    other = (tmp_path / "mine.toml").read_text().replace("uart_zephyr.c", "uart_cmsdk.c")
    (tmp_path / "other.toml").write_text(other)
    with pytest.raises(BoardError, match="Zephyr's own is taken"):
        create_project(tmp_path / "new", probe(), str(tmp_path / "other.toml"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"board": "../evil"}, "no name of a Zephyr board"),
        ({"borad": "x"}, "did you mean 'board'"),
        ({"heap": "1"}, "2048 or more"),
        ({"uart": "uart1; }"}, "label of a devicetree node"),
        ({"baud": "fast"}, "bits a second"),
        ({"clock": "0"}, "hertz"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(BoardError, match=words):
        check_options(find_platform("zephyr"), options)


def test_a_build_for_another_board_is_forgotten(tmp_path: Path) -> None:
    zephyr.forget_other_board(tmp_path / "none", "a")
    cache = tmp_path / "build/CMakeCache.txt"
    cache.parent.mkdir()
    cache.write_text("BOARD:STRING=b\nCACHED_BOARD:STRING=a\nX:BOOL=ON\n")
    zephyr.forget_other_board(cache.parent, "a")
    assert cache.is_file()
    zephyr.forget_other_board(cache.parent, "b")
    assert not cache.parent.exists()


@pytest.mark.parametrize("platform", PLATFORMS.values(), ids=lambda platform: platform.name)
def test_each_platform_tells_its_options(platform: object) -> None:
    options = platform.options  # type: ignore[attr-defined]
    assert "board" in {option.name for option in options}
    assert all(option.help for option in options)


def test_a_missing_zephyr_is_named(application: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZEPHYR_BASE", raising=False)
    monkeypatch.setenv("PATH", str(application))
    with pytest.raises(BoardError, match="set ZEPHYR_BASE"):
        build_project(application)


def test_a_wrong_zephyr_base_is_named(application: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEPHYR_BASE", str(application))
    with pytest.raises(BoardError, match="(?s)fw: ZEPHYR_BASE names no Zephyr tree"):
        build_project(application)


def test_west_is_asked_for_where_it_is_missing(
    application: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZEPHYR_BASE", raising=False)
    monkeypatch.setenv("PATH", str(application))
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(BoardError, match="west, which finds a workspace, is not installed") as said:
        build_project(application)
    assert "pip install west" in said.value.hint
    (application / zephyr.IMAGE).parent.mkdir(parents=True)
    (application / zephyr.IMAGE).write_bytes(b"")
    with pytest.raises(BoardError, match="pip install west"):
        need_west("flash a board")


@pytest.fixture
def no_toolchain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of the user's own, and a compiler in the folder that it gives."""
    for name in ("ZEPHYR_TOOLCHAIN_VARIANT", "ZEPHYR_SDK_INSTALL_DIR", "GNUARMEMB_TOOLCHAIN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "gcc/bin").mkdir(parents=True)
    (tmp_path / "gcc/bin/arm-none-eabi-gcc").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path / "gcc/bin"))
    return tmp_path / "gcc"


def test_the_systems_compiler_is_taken_where_no_toolchain_is_named(no_toolchain: Path) -> None:
    assert toolchain() == {
        "ZEPHYR_TOOLCHAIN_VARIANT": "gnuarmemb",
        "GNUARMEMB_TOOLCHAIN_PATH": str(no_toolchain),
    }


@pytest.mark.parametrize(
    "name", ["ZEPHYR_TOOLCHAIN_VARIANT", "ZEPHYR_SDK_INSTALL_DIR", "GNUARMEMB_TOOLCHAIN_PATH"]
)
def test_a_toolchain_that_the_user_names_is_left_alone(
    name: str, no_toolchain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "zephyr")
    assert toolchain() == {}


@pytest.mark.parametrize("place", ["home/zephyr-sdk-0.16.1", "home/.cmake/packages/Zephyr-sdk"])
def test_an_sdk_that_zephyr_finds_itself_is_left_alone(
    place: str, no_toolchain: Path, tmp_path: Path
) -> None:
    (tmp_path / place).mkdir(parents=True)
    assert toolchain() == {}


def test_without_any_compiler_zephyr_says_what_it_wants(
    no_toolchain: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert toolchain() == {}


@pytest.mark.parametrize(
    ("there", "package"),
    [((), "cmake"), (("cmake",), "ninja-build"), (("cmake", "ninja"), "device-tree-compiler")],
)
def test_a_missing_tool_is_named(
    there: tuple[str, ...],
    package: str,
    application: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "base/share/zephyr-package/cmake").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    for name in there:
        (tmp_path / "bin" / name).symlink_to("/bin/true")
    monkeypatch.setenv("ZEPHYR_BASE", str(tmp_path / "base"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(BoardError, match=f"Debian package {package}"):
        build_project(application)


def test_a_blank_in_the_path_is_refused_because_zephyr_cannot_build_there(
    probe: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_project(tmp_path / "a folder", probe(target="cortex-m3"), platform="zephyr")
    (tmp_path / "share/zephyr-package/cmake").mkdir(parents=True)
    for name in ("cmake", "ninja", "dtc"):
        (tmp_path / name).symlink_to("/bin/true")
    monkeypatch.setenv("ZEPHYR_BASE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BoardError, match="a blank in its path"):
        build_project(tmp_path / "a folder")


def test_an_emulated_board_is_not_flashed(application: Path) -> None:
    with pytest.raises(BoardError, match="no flash to write"):
        flash_project(application)


def test_the_first_error_is_what_is_shown() -> None:
    noise = "\n".join(f"[{i}/99] Building C object error_{i}.c.obj" for i in range(40))
    shown = first_errors(f"{noise}\na.c:3:1: error: expected ';'\n{noise}")
    assert shown.splitlines()[0] == "a.c:3:1: error: expected ';'"
    assert len(shown.splitlines()) == 12


# ---- with a Zephyr tree ----


@pytest.fixture(scope="module")
def tree() -> Path:
    if not os.environ.get("ZEPHYR_BASE"):
        pytest.skip("ZEPHYR_BASE is not set: no Zephyr to build with")
    return Path(os.environ["ZEPHYR_BASE"])


@pytest.fixture(scope="module")
def pipeline() -> torch.nn.Module:
    rate = {"sample_rate_hz": 8000}
    return torch.nn.Sequential(
        dsp.Bandpass(low_hz=90.0, high_hz=700.0, order=4, **rate),
        dsp.Envelope(attack_s=0.002, release_s=0.05, **rate),
        dsp.Log(multiplier=4.3429448, amin=1e-8),
    )


@pytest.fixture(scope="module")
def signal() -> torch.Tensor:
    return 0.5 * torch.randn(1, 64 * 20, generator=torch.Generator().manual_seed(3))


@pytest.mark.zephyr
@pytest.mark.parametrize("name", emulated_boards())
def test_a_board_equals_pytorch(
    name: str, tree: Path, pipeline: torch.nn.Module, signal: torch.Tensor
) -> None:
    target = emulated_boards()[name].target
    model = microddsp.compile(pipeline, torch.zeros(1, 64), target=target, name="envelope")
    with torch.no_grad():
        wanted = pipeline(signal)
    with open_board(name, model, platform="zephyr") as board:
        got = board.run(signal)
        assert torch.allclose(got, wanted, atol=1e-3)  # decibels
        assert torch.equal(board.run(signal), got)
        timing = board.time(signal)
        # the kernel's clock takes part: a few instructions more or less
        assert timing.instructions_max - timing.instructions_min < 0.1 * timing.instructions_median
        assert 0 < board.stack_bytes() < 4096


HARMS = """    self->sum = 0.0f;
    y[0] = x[0];
    if (x[0] == 3.0f) {
        y[0] = *(volatile float *)0xf0000000u;
    }
    if (x[0] == 4.0f) {
        volatile uint8_t *deep = __builtin_alloca(4096u); /* no other call has this frame */
        for (uint32_t i = 4096u; i-- > 0u;) {
            deep[i] = 1u;
        }
        y[0] = (float)deep[9];
    }
    if (x[0] == 5.0f) {
        __asm__ volatile("udf #0");
    }"""


WORDS = {3: "bus fault", 5: "undefined instruction"}


@pytest.fixture(scope="module", params=["mps2_an385", "mps2_an521"])
def harmful(
    tree: Path,
    probe: Maker,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    where = tmp_path_factory.mktemp("zephyr") / "fw"
    create_project(where, probe(HARMS, target="cortex-m3"), request.param, platform="zephyr")
    build_project(where)
    return where


@pytest.mark.zephyr
def test_a_fault_is_an_error_and_the_session_goes_on(harmful: Path) -> None:
    with open_project(harmful) as board:
        for kind in (3, 5, 3):
            with pytest.raises(DeviceFaultError, match=WORDS[kind] + " in probe_process") as found:
                board.run(kind * ONES)
            assert found.value.line.startswith("probe.c:")
            assert board.run(ONES)[0, 0] == 1.0


@pytest.mark.zephyr
def test_a_stack_that_overflows_is_an_error(harmful: Path) -> None:
    with open_project(harmful) as board:
        for _ in range(2):
            with pytest.raises(StackOverflowError, match="the stack overflowed"):
                board.run(4 * ONES)
            assert board.run(ONES)[0, 0] == 1.0


@pytest.mark.zephyr
def test_a_call_takes_less_than_a_millisecond(harmful: Path) -> None:
    """Of the bytes on the line an exact count is kept in test_serial_link.py."""
    with open_project(harmful) as board:
        device = board.session.cpu(0)
        x, y = (tvm.runtime.empty((1, 8), "float32", device=device) for _ in range(2))
        x.copyfrom(ONES)
        process = board.session.get_function("process")
        # The fastest, within a time: other processes of this computer are not what is measured.
        fastest, deadline = 1.0, time.monotonic() + 20.0
        while fastest >= 1e-3 and time.monotonic() < deadline:
            start = time.perf_counter()
            process(x, y)
            fastest = min(fastest, time.perf_counter() - start)
    assert fastest < 1e-3


@pytest.fixture
def real_board(harmful: Path) -> Iterator[str]:
    """A serial port with the firmware behind it, as a board on a cable has."""
    board = read_project(harmful).board
    assert board and board.qemu
    command = ["qemu-system-arm", "-M", board.qemu.machine, "-display", "none", "-nodefaults"]
    emulator = subprocess.Popen(
        [*command, "-serial", "pty", "-kernel", str(harmful / zephyr.IMAGE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert emulator.stdout
    for line in emulator.stdout:
        found = re.search(r"redirected to (/dev/pts/\d+)", line)
        if found:
            break
    yield found[1] if found else ""
    emulator.kill()
    emulator.wait()
    emulator.stdout.close()


@pytest.mark.zephyr
def test_a_board_behind_a_serial_port_answers_session_after_session(
    harmful: Path, real_board: str
) -> None:
    project = read_project(harmful)
    assert project.board
    wired = {"qemu": None, "serial": Serial(driver="uart_zephyr.c")}
    project = replace(project, board=project.board.model_copy(update=wired))
    for _ in range(2):
        with BoardSession(project, port=real_board, timeout_s=20.0) as board:
            assert board.run(ONES)[0, 0] == 1.0
            with pytest.raises(DeviceFaultError, match="undefined instruction"):
                board.run(5 * ONES)
            timing = board.time(ONES)
            assert timing.unit == "cycles"
            assert timing.seconds_median > 0.0


@pytest.mark.zephyr
def test_several_models_profiled_in_one_application(
    tree: Path, pipeline: torch.nn.Module, signal: torch.Tensor
) -> None:
    x = torch.zeros(1, 64)
    models = [
        microddsp.compile(net, x, target="cortex-m3", name=name)
        for name, net in (("envelope", pipeline), ("band", pipeline[0]))  # type: ignore[index]
    ]
    with open_board("mps2_an385", models, platform="zephyr", profile=True) as board:
        for name, net in (("envelope", pipeline), ("band", pipeline[0])):  # type: ignore[index]
            with torch.no_grad():
                assert torch.allclose(board[name].run(signal), net(signal), atol=1e-3)
        parts = board["envelope"].profile(signal)
        assert len(parts) > 1
        assert abs(sum(part.share for part in parts) - 1.0) < 0.1


@pytest.fixture(scope="module")
def workspace(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `west init` and `west update` leave, of the tree and the modules that are there."""
    if not find_west():
        pytest.skip("west is not installed: no workspace to build in")
    top = tmp_path_factory.mktemp("workspace")

    def unneeded(folder: str, names: list[str]) -> set[str]:
        left_out = {"doc", "samples", "tests", ".git"} if Path(folder) == tree else {".git"}
        return left_out & set(names)

    shutil.copytree(tree, top / "zephyr", symlinks=True, ignore=unneeded)
    modules = os.environ.get("ZEPHYR_MODULES") or str(tree.parent / "modules/hal/cmsis")
    for module in modules.split(";"):
        copy = top / "modules/hal" / Path(module).name
        shutil.copytree(module, copy, symlinks=True, ignore=unneeded)
        subprocess.run(["git", "init", "-q", str(copy)], check=True)  # west updates repositories
    (top / ".west").mkdir()
    (top / ".west/config").write_text("[manifest]\npath = zephyr\nfile = west.yml\n")
    return top


@pytest.fixture
def only_a_workspace(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("ZEPHYR_BASE", "ZEPHYR_MODULES"):
        monkeypatch.delenv(name, raising=False)
    return workspace


@pytest.mark.zephyr
@pytest.mark.parametrize("base", ["", "[zephyr]\nbase = zephyr\n"], ids=["as is", "zephyr.base"])
def test_a_workspace_is_found_from_the_project_and_from_here(
    base: str, only_a_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = only_a_workspace / ".west/config"
    before = config.read_text()
    config.write_text(before + base)
    inside = only_a_workspace / "work/deep"
    inside.mkdir(parents=True, exist_ok=True)
    assert find_zephyr(inside) == only_a_workspace / "zephyr"
    with pytest.raises(BoardError, match="no west workspace"):
        find_zephyr(tmp_path)
    monkeypatch.chdir(inside)
    assert find_zephyr(tmp_path) == only_a_workspace / "zephyr"
    config.write_text(before)


@pytest.mark.zephyr
def test_a_project_in_a_workspace_is_built_by_west_and_by_us(
    only_a_workspace: Path, probe: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a tree, nor modules, nor a toolchain are named."""
    for name in ("ZEPHYR_TOOLCHAIN_VARIANT", "GNUARMEMB_TOOLCHAIN_PATH"):
        monkeypatch.delenv(name, raising=False)
    where = only_a_workspace / "fw"
    create_project(where, probe(target="cortex-m3"), "mps2_an385", platform="zephyr")
    west = find_west()
    assert west
    built = subprocess.run(
        [*west, "build", "-b", "mps2_an385"],
        cwd=where,
        env={**os.environ, **toolchain()},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    for _ in range(2):
        with open_project(where) as board:
            assert board.run(ONES)[0, 7] == 8.0
        (where / zephyr.IMAGE).unlink()
        build_project(where)


@pytest.mark.zephyr
def test_a_real_board_is_flashed_by_west(
    only_a_workspace: Path, probe: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """West and Zephyr's runner are real; the program that talks to the probe only notes how it was
    called, for there is no board."""
    where, noted = only_a_workspace / "musca", tmp_path / "noted"
    (tmp_path / "pyocd").write_text(f'#!/bin/sh\necho "$@" > "{noted}"\n')
    (tmp_path / "pyocd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    options = {"clock": "40000000"}
    create_project(where, probe(target="cortex-m3"), "v2m_musca_b1", options, platform="zephyr")
    with pytest.raises(BoardError, match="build the project first"):
        flash_project(where)
    build_project(where)
    flash_project(where, serial_number="1234")
    words = noted.read_text().split()
    assert words[0] == "flash"
    assert words[words.index("-u") + 1] == "1234"
    assert words[-1] == str(where.resolve() / "build/zephyr/zephyr.hex")


@pytest.mark.zephyr
def test_a_tree_without_a_workspace_cannot_flash(
    workspace: Path, probe: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tmp_path / "fw"
    options = {"clock": "40000000"}
    create_project(where, probe(target="cortex-m3"), "v2m_musca_b1", options, platform="zephyr")
    (where / zephyr.IMAGE).parent.mkdir(parents=True)
    (where / zephyr.IMAGE).write_bytes(b"")
    (tmp_path / "tree/share/zephyr-package/cmake").mkdir(parents=True)
    monkeypatch.setenv("ZEPHYR_BASE", str(tmp_path / "tree"))
    with pytest.raises(BoardError, match="west flash fails") as said:
        flash_project(where)
    assert "west init -l" in said.value.hint


@pytest.mark.zephyr
def test_an_sdk_that_is_named_is_what_zephyr_looks_for(
    tree: Path, application: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GNUARMEMB_TOOLCHAIN_PATH", raising=False)
    monkeypatch.setenv("ZEPHYR_TOOLCHAIN_VARIANT", "zephyr")
    monkeypatch.setenv("ZEPHYR_SDK_INSTALL_DIR", str(application / "no-sdk"))
    with pytest.raises(BoardError, match="Zephyr-sdk") as said:
        build_project(application)
    assert "install the Zephyr SDK" in said.value.hint


@pytest.mark.zephyr
def test_an_unknown_board_is_answered_with_the_nearest(
    tree: Path, probe: Maker, tmp_path: Path
) -> None:
    model, options = probe(target="cortex-m3"), {"clock": "25000000"}
    create_project(tmp_path, model, "mps2_an358", options, platform="zephyr")
    with pytest.raises(BoardError, match="did you mean 'mps2_an385'"):
        build_project(tmp_path)


@pytest.mark.zephyr
def test_a_model_for_a_unit_that_the_board_lacks_is_refused(
    tree: Path, probe: Maker, tmp_path: Path
) -> None:
    create_project(tmp_path, probe(target="cortex-m33"), "mps2_an521", platform="zephyr")
    with pytest.raises(BoardError, match="--target cortex-m3"):
        build_project(tmp_path)


@pytest.mark.zephyr
def test_an_error_of_the_compiler_is_shown(tree: Path, probe: Maker, tmp_path: Path) -> None:
    model = probe("    this is no C;", target="cortex-m3")
    create_project(tmp_path, model, "mps2_an385", platform="zephyr")
    with pytest.raises(BoardError, match=r"(?s)does not build:\n[^\n]*probe\.c:1\d:.*error: "):
        build_project(tmp_path)


@pytest.mark.zephyr
def test_a_standalone_folder_is_a_module_of_another_application(
    tree: Path, probe: Maker, tmp_path: Path
) -> None:
    model = probe(target="cortex-m3")
    model.sources["probe.h"] = "#define PROBE_BLOCK_LEN 8u\n" + model.sources["probe.h"]
    create_project(tmp_path / "module", model, platform="standalone")
    (tmp_path / "app").mkdir()
    (tmp_path / "app/CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.20)\nset(EXTRA_ZEPHYR_MODULES {tmp_path / 'module'})\n"
        "find_package(Zephyr REQUIRED HINTS $ENV{ZEPHYR_BASE})\nproject(app C)\n"
        "target_sources(app PRIVATE main.c)\n"
    )
    (tmp_path / "app/prj.conf").write_text("")
    (tmp_path / "app/main.c").write_text(
        '#include "probe_stream.h"\nstatic probe_stream_t s;\n'
        "int main(void)\n{\n    return (int)probe_stream_init(&s);\n}\n"
    )
    cmake, ninja = shutil.which("cmake"), shutil.which("ninja")
    assert cmake and ninja
    command = [cmake, "-GNinja", "-B", "build", "-DBOARD=mps2_an385", "."]
    for step in (command, [ninja, "-C", "build"]):
        done = subprocess.run(step, cwd=tmp_path / "app", capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    names = subprocess.run(
        ["arm-none-eabi-nm", "build/zephyr/zephyr.elf"],
        cwd=tmp_path / "app",
        capture_output=True,
        text=True,
    ).stdout
    assert "probe_stream_init" in names


def test_names_of_bare_metal_boards_are_no_names_of_zephyrs() -> None:
    assert not set(list_boards()) & set(emulated_boards())
