"""Programs that do what a processor cannot: each is an error that says where, and no more."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from microddsp.errors import (
    DeviceFaultError,
    DeviceLostError,
    DeviceMemoryError,
    DeviceResetError,
    LinkError,
    StackOverflowError,
)
from microddsp.micro.boards import find_board
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.platforms import build_project, create_project
from microddsp.micro.rpc.symbols import Symbols
from microddsp.micro.session import BoardSession, open_board

pytestmark = pytest.mark.qemu
Maker = Callable[..., CompiledModel]

ONES = np.ones((1, 8), np.float32)
BAD_ADDRESS, UNDEFINED, BAD_JUMP, DIVISION, RECURSION, BIG_FRAME, SCRIBBLE, RESET = range(2, 10)
# Separate functions, so that a report can name them; `zero` is nothing that a compiler knows.
HELPERS = """
static volatile uint32_t zero;
static __attribute__((noinline)) float read_far_away(void)
{
    return *(volatile float *)0xf0000000u;
}
static __attribute__((noinline)) void undefined(void)
{
    __asm__ volatile("udf #0");
}
static __attribute__((noinline)) void jump_to_data(void)
{
    ((void (*)(void))(uintptr_t)(0xe0000000u + zero))();
}
static __attribute__((noinline)) uint32_t recurse(uint32_t depth)
{
    volatile uint32_t here[4] = {depth, zero, zero, zero};
    return recurse(depth + 1u + here[1]) + here[0] + here[2];
}
static __attribute__((noinline)) float need_a_big_frame(void)
{
    volatile uint8_t deep[65536];
    for (uint32_t i = 0u; i < sizeof(deep); i += 64u) {
        deep[i] = 1u;
    }
    return (float)deep[zero];
}
static __attribute__((noinline)) void scribble(float *y)
{
    for (uint32_t i = 8u; i < 1000u; ++i) {
        y[i] = 1e30f;
    }
}
static __attribute__((noinline)) void reset_device(void)
{
    *(volatile uint32_t *)0xe000ed0cu = 0x05fa0004u; /* AIRCR.SYSRESETREQ */
    for (;;) {
    }
}
"""
BODY = """    self->sum = 0.0f;
    y[0] = x[0];
    switch ((int32_t)x[0]) {
    case 2:
        y[0] = read_far_away();
        break;
    case 3:
        undefined();
        break;
    case 4:
        jump_to_data();
        break;
    case 6:
        y[0] = (float)recurse(zero);
        break;
    case 7:
        y[0] = need_a_big_frame();
        break;
    case 8:
        scribble(y);
        break;
    case 9:
        reset_device();
        break;
    default:
        break;
    }"""
BOARDS = ("microbit", "mps2-an385", "mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547")


@pytest.fixture(scope="module", params=BOARDS)
def failing(request: pytest.FixtureRequest) -> Iterator[BoardSession]:
    probe: Maker = request.getfixturevalue("probe")
    model = probe(BODY, target=find_board(request.param).target, helpers=HELPERS)
    with open_board(request.param, model, timeout_s=10.0) as board:
        yield board


def fail(board: BoardSession, how: int) -> DeviceFaultError:
    with pytest.raises(DeviceFaultError) as caught:
        board.run(how * ONES)
    assert board.run(ONES)[0, 0] == 1.0  # the session goes on
    return caught.value


def test_a_bad_address_is_told_with_function_and_line(failing: BoardSession) -> None:
    if failing.board.target == "cortex-m0":
        assert failing.run(BAD_ADDRESS * ONES)[0, 0] == 0.0  # nothing faults there
        return
    error = fail(failing, BAD_ADDRESS)
    assert error.function == "read_far_away"
    assert error.address == 0xF0000000
    assert "bus fault at address 0xf0000000 in read_far_away (probe.c:" in str(error)
    assert error.pc
    assert error.status & (1 << 9)


def test_an_undefined_instruction_is_told(failing: BoardSession) -> None:
    for _ in range(2):
        error = fail(failing, UNDEFINED)
        assert error.function == "undefined"
        assert f"pc=0x{error.pc:x}" in str(error)


def test_a_jump_to_nowhere_is_told(failing: BoardSession) -> None:
    fail(failing, BAD_JUMP)


@pytest.mark.parametrize("how", [RECURSION, BIG_FRAME])
def test_a_stack_that_overflows_is_told_and_harms_nothing(failing: BoardSession, how: int) -> None:
    x = np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)
    for _ in range(2):
        error = fail(failing, how)
        assert isinstance(error, StackOverflowError)
        assert error.function in ("recurse" if how == RECURSION else "need_a_big_frame", "")
        if how == RECURSION:
            assert error.function == "recurse"
    assert failing.run(x)[0, 0] == x[0, 0]


def test_an_overflow_by_a_little_is_told_too(probe: Maker) -> None:
    """Into the red zone and no further: no core faults, the check after the call finds it."""
    body = "    self->sum = 0.0f;\n    y[0] = touch((uint32_t)x[0]);"
    helpers = """extern uint32_t _stack_bottom[];
    static __attribute__((noinline)) float touch(uint32_t words)
    {
        for (uint32_t i = 0u; i < words; ++i) {
            _stack_bottom[-1 - (int32_t)i] = i;
        }
        return 7.0f;
    }"""
    model = probe(body, target="cortex-m0", helpers=helpers)
    with open_board("microbit", model) as board:
        with pytest.raises(StackOverflowError, match="the stack overflowed"):
            board.run(ONES)
        assert board.run(0 * ONES)[0, 0] == 7.0


def test_no_memory_is_an_error_of_its_own(failing: BoardSession) -> None:
    import tvm

    device = failing.session.cpu(0)
    with pytest.raises(DeviceMemoryError, match="bytes left") as caught:
        failing._link.call(tvm.runtime.empty, (1 << 25,), "uint8", device)
    assert isinstance(caught.value, MemoryError)
    assert failing.run(ONES)[0, 0] == 1.0


def test_a_device_that_resets_itself_is_told_and_stays_closed(
    probe: Maker, running: Callable[[int], bool]
) -> None:
    board = open_board("mps2-an386", probe(BODY, helpers=HELPERS))
    pids = board._link.process_ids()
    for _ in range(2):
        with pytest.raises(DeviceResetError, match="the device was reset"):
            board.run(RESET * ONES)
    board.close()
    assert not any(map(running, pids))


def test_a_fault_in_the_server_itself_stops_the_device_and_is_told(
    probe: Maker, running: Callable[[int], bool]
) -> None:
    """A kernel that writes over what the server keeps beside its tensors."""
    board = open_board("mps2-an386", probe(BODY, helpers=HELPERS))
    pids = board._link.process_ids()
    board.run(SCRIBBLE * ONES)
    with pytest.raises(LinkError) as caught:
        for _ in range(20):
            board.time(ONES)  # allocates
    assert isinstance(caught.value, DeviceFaultError | DeviceLostError)
    board.close()
    assert not any(map(running, pids))
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_addresses_are_found_in_the_firmware(probe: Maker, tmp_path: Path) -> None:
    create_project(tmp_path, probe())
    symbols = Symbols(build_project(tmp_path))
    start = symbols.value("probe_process")
    assert start is not None
    place = symbols.find(start)
    assert (place.function, place.inner) == ("probe_process", "probe_process")
    assert place.line.startswith("probe.c:")
    assert symbols.find(0x7FFFFFFF).function == ""
    assert symbols.value("no_such_name") is None
