"""The cycle counter of a real core, whose registers are a program's here: no emulator has them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from microddsp.micro.boards import Board, boards
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.platforms import create_project
from microddsp.micro.platforms.texts import RUNTIME

Maker = Callable[..., CompiledModel]
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wundef", "-Werror")
DEVICE = """#define BOARD_TICK_HZ 80000000u
#define BOARD_CYCLE_COUNTER 1
#include <stdint.h>
volatile uint32_t *reg(uint32_t address);
#define REGISTER(address) (*reg(address))
"""
PROGRAM = r"""#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include "board.h"
#include "port.h"
#include "port_internal.h"

static uint64_t clock_now;   /* cycles of the simulated core */
static uint64_t started, systick_started, last_access;
static uint64_t interrupted; /* when SysTick was served last */
static int there, moves, no_cyccnt, enabled;
static volatile uint32_t ctrl, demcr, cyccnt, value, rest;
static int in_handler;

/* Each access takes three cycles; an interrupt that is due comes before it. */
volatile uint32_t *reg(uint32_t address)
{
    if (cyccnt == 0u) { /* the last access wrote it */
        started = last_access;
        cyccnt = 1u;
    }
    if (value == 0u) {
        systick_started = last_access;
        value = 1u;
    }
    clock_now += 3u;
    last_access = clock_now;
    if ((enabled != 0) && !in_handler && (clock_now - interrupted >= (1u << 24))) {
        interrupted += 1u << 24;
        in_handler = 1;
        port_tick_handler();
        in_handler = 0;
    }
    switch (address) {
    case 0xe000edfcu:
        return &demcr;
    case 0xe0001000u:
        ctrl |= no_cyccnt ? (1u << 25) : 0u;
        return &ctrl;
    case 0xe0001004u:
        if (ctrl & 1u && moves) {
            cyccnt = (uint32_t)(clock_now - started) | 1u;
        }
        return &cyccnt;
    case 0xe000e018u:
        value = (uint32_t)(0u - (clock_now - systick_started + 1u)) & 0xffffffu;
        return &value;
    default:
        return &rest;
    }
}

int port_protect(void (*function)(void *), void *context)
{
    if (there) {
        function(context);
    }
    return there ? 0 : 1;
}

/* "cycles" and what was measured, after waits of up to so many cycles each. */
int main(int count, char **words)
{
    (void)count;
    there = atoi(words[1]);
    moves = atoi(words[2]);
    no_cyccnt = atoi(words[3]);
    const uint64_t step = strtoull(words[4], NULL, 10);
    const int steps = atoi(words[5]);
    port_ticks_init();
    port_ticks_restart();
    const uint64_t from = clock_now;
    interrupted = clock_now;
    enabled = 1;
    for (int i = 0; i < steps; ++i) {
        clock_now += step;
        if (clock_now - interrupted >= (1u << 24)) { /* a long wait: served within it */
            interrupted = clock_now;
            in_handler = 1;
            port_tick_handler();
            in_handler = 0;
        }
    }
    const uint64_t ticks = port_ticks();
    printf("%" PRIu64 " %" PRIu64 " %d\n", clock_now - from, ticks, (int)(demcr >> 24));
    return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dwt")
    (folder / "board.h").write_text(DEVICE)
    (folder / "main.c").write_text(PROGRAM)
    source = RUNTIME / "port_systick.c"
    subprocess.run(
        ["cc", *WARNINGS, f"-I{folder}", f"-I{RUNTIME}", folder / "main.c", source]
        + ["-o", folder / "clock"],
        check=True,
    )
    return folder / "clock"


def measure(program: Path, *words: int) -> list[int]:
    said = subprocess.run(
        [program, *map(str, words)], capture_output=True, text=True, check=True, timeout=60
    )
    return list(map(int, said.stdout.split()))


@pytest.mark.parametrize("steps", [1, 300, 1000])
def test_cycles_are_counted_past_thirty_two_bits(program: Path, steps: int) -> None:
    passed, counted, traced = measure(program, 1, 1, 0, 1 << 24, steps)
    assert abs(passed - counted) < 32
    assert traced == 1
    assert (counted > 2**32) == (steps > 256)


@pytest.mark.parametrize(
    ("there", "moves", "missing"), [(0, 1, 0), (1, 0, 0), (1, 1, 1)], ids=["fault", "still", "none"]
)
def test_without_a_cycle_counter_systick_counts(
    program: Path, there: int, moves: int, missing: int
) -> None:
    passed, counted, _ = measure(program, there, moves, missing, 10_000, 1000)
    assert abs(passed - counted) < 64


TARGETS = {board.target: board for board in boards() if board.qemu and not board.qemu.uart}


@pytest.mark.parametrize("board", TARGETS.values(), ids=TARGETS)
def test_firmware_of_every_real_core_but_the_smallest_looks_for_it(
    board: Board, probe: Maker, tmp_path: Path
) -> None:
    """Not of an emulated one: what counts there are instructions."""
    real = {"name": "real", "qemu": None, "serial": {"driver": "uart_cmsdk.c"}}
    for kind in (board, Board.model_validate({**board.model_dump(), **real})):
        create_project(tmp_path / kind.name, probe(target=board.target), kind)
        header = (tmp_path / kind.name / "board.h").read_text()
        wanted = kind.serial is not None and board.target != "cortex-m0"
        assert ("BOARD_CYCLE_COUNTER 1" in header) == wanted
