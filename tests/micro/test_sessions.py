"""A model on a board: streamed, timed, and said so when something is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import microddsp
from microddsp.errors import BoardError, LinkError, ParameterError, SignalError
from microddsp.micro.boards import boards, find_board, list_boards
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.session import BoardSession, open_board

pytestmark = pytest.mark.qemu
Maker = Callable[..., CompiledModel]

# Runs x[0] times through two instructions.
LOOP = """    int32_t count = (int32_t)x[0];
    (void)self;
    y[0] = x[0];
    __asm__ volatile(".syntax unified\\n 1: subs %0, #1\\n bne 1b" : "+r"(count) : : "cc");"""


def test_a_run_starts_anew_and_keeps_state_between_blocks(summing: BoardSession) -> None:
    signal = np.arange(24, dtype=np.float32)[None]
    for _ in range(2):
        np.testing.assert_array_equal(summing.run(signal), np.cumsum(signal, axis=1))


def test_the_board_gives_the_bits_of_the_host(summing: BoardSession, probe: Maker) -> None:
    signal = np.random.default_rng(0).standard_normal((1, 80)).astype(np.float32)
    np.testing.assert_array_equal(summing.run(signal), probe().run(signal))


@pytest.mark.parametrize("block", [342, 343])
def test_blocks_of_any_length_pass(block: int, probe: Maker) -> None:
    """Short ones in one call, long ones in several."""
    body = f"for (int32_t i = 0; i < {block}; ++i) {{ y[i] = self->sum += x[i]; }}"
    x = np.random.default_rng(0).integers(-9, 9, (1, 3 * block)).astype(np.float32)
    with open_board("host", probe(body, block=block, target="host")) as board:
        np.testing.assert_array_equal(board.run(x), np.cumsum(x, axis=1))
        first = board.run(x[:, :block])
        first[0, 0] = 5.0  # an answer is the caller's own


def test_several_inputs_and_outputs_of_odd_sizes_pass() -> None:
    class Odd(torch.nn.Module):
        def forward(
            self, x: torch.Tensor, gain: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return gain * x, (x > 0.0).to(torch.int8), x[:, :3] - gain

    x = torch.randn(1, 7, generator=torch.Generator().manual_seed(0))
    inputs = (x, torch.full((1,), 0.5))
    model = microddsp.compile(Odd(), inputs, target="host", name="odd")
    with open_board("host", model) as board:
        for got, wanted in zip(board.run(*inputs), Odd()(*inputs), strict=True):
            assert got.dtype == wanted.dtype
            assert torch.equal(got, wanted)


def test_tensors_in_give_tensors_out(summing: BoardSession) -> None:
    answer = summing.run(torch.ones(1, 16))
    assert isinstance(answer, torch.Tensor)
    assert answer.tolist() == [list(map(float, range(1, 17)))]


def test_a_partial_block_is_an_error_or_dropped(summing: BoardSession) -> None:
    signal = np.ones((1, 20), np.float32)
    with pytest.raises(SignalError, match="20 samples"):
        summing.run(signal)
    assert summing.run(signal, tail="drop").shape == (1, 16)


def test_time_is_the_same_on_every_run(summing: BoardSession) -> None:
    signal = np.random.default_rng(1).standard_normal((1, 8 * 150)).astype(np.float32)
    first = summing.time(signal)
    assert first == summing.time(signal)
    assert first.blocks == 150
    assert 20 < first.instructions_min <= first.instructions_median <= first.instructions_max < 200
    assert first.seconds_median == pytest.approx(first.instructions_median * 64e-9)


@pytest.mark.parametrize("board", [board.name for board in boards() if board.qemu])
def test_instructions_are_counted_exactly(board: str, probe: Maker) -> None:
    target = find_board(board).target
    # Armv6-M has no fast float to int conversion, its time depends on the value: equal digits.
    counts = np.zeros((1, 8 * 4), np.float32)
    counts[0, ::8] = [1000, 1001, 3000, 100_000]
    if target in ("cortex-m0", "cortex-m3"):
        counts[0, ::8] = [1025, 1026, 1027, 2047]
    with open_board(board, probe(LOOP, target=target)) as session:
        found = []
        for i in range(4):
            timing = session.time(counts[:, i * 8 : i * 8 + 8])
            found.append(timing.instructions_min)
    wanted = 2 * np.diff(counts[0, ::8]).astype(int)
    np.testing.assert_array_equal(np.diff(found), wanted)


@pytest.mark.parametrize("board", list_boards())
def test_all_memory_that_a_board_claims_is_there(board: str, probe: Maker) -> None:
    import tvm

    with open_board(board, probe(target=find_board(board).target)) as session:
        device = session.session.cpu(0)
        free = int(device.available_global_memory)
        wanted = np.random.default_rng(0).integers(0, 255, free - 512, dtype=np.uint8)
        np.testing.assert_array_equal(tvm.runtime.tensor(wanted, device).numpy(), wanted)


def test_a_long_block_is_timed_beyond_the_counters_24_bits(probe: Maker) -> None:
    signal = np.full((1, 8), 8_000_000, np.float32)
    with open_board("mps2-an386", probe(LOOP)) as session:
        timing = session.time(signal)
    assert timing.instructions_min == pytest.approx(16_000_000, abs=200)


def test_stack_is_measured(probe: Maker) -> None:
    body = """    volatile float big[100];
    for (int32_t i = 0; i < 100; ++i) {
        big[i] = x[i % 8];
    }
    self->sum = big[99];
    y[0] = self->sum;"""
    with open_board("mps2-an386", probe(body)) as session:
        assert 400 <= session.stack_bytes() <= 480


def test_a_workspace_is_given_to_the_model(probe: Maker) -> None:
    with open_board("mps2-an386", probe(workspace=1000)) as session:
        assert session.run(np.ones((1, 8), np.float32))[0, -1] == 8.0


def test_a_status_is_named_and_the_session_goes_on(probe: Maker) -> None:
    body = """    if (x[0] > 1.0f) {
        return PROBE_ERR_NONFINITE;
    }
    self->sum = 0.0f;
    y[0] = x[0];"""
    with open_board("mps2-an386", probe(body)) as session:
        with pytest.raises(LinkError, match="PROBE_ERR_NONFINITE"):
            session.run(np.full((1, 8), 2.0, np.float32))
        with pytest.raises(LinkError, match="PROBE_ERR_NONFINITE"):
            session.time(np.full((1, 8), 2.0, np.float32))
        assert session.run(np.full((1, 8), 0.5, np.float32))[0, 0] == 0.5


def test_a_closed_session_says_so(probe: Maker) -> None:
    session = open_board("mps2-an386", probe())
    session.close()
    session.close()
    with pytest.raises(BoardError, match="closed"):
        session.run(np.ones((1, 8), np.float32))


def test_a_board_with_another_processor_is_refused(probe: Maker) -> None:
    with pytest.raises(BoardError, match="cortex-m3.*compiled for cortex-m4f") as caught:
        microddsp.open_board("mps2-an385", probe())
    assert "mps2-an386" in str(caught.value)


def test_a_mistyped_board_is_refused(probe: Maker) -> None:
    with pytest.raises(BoardError, match="did you mean 'mps2-an386'"):
        microddsp.open_board("mps2-an368", probe())


@pytest.mark.parametrize("limit", [0.0, -1.0, 1e6, float("nan"), float("inf")])
def test_a_time_limit_must_make_sense(probe: Maker, limit: float) -> None:
    with pytest.raises(ParameterError, match="timeout_s must be above 0 and below 1e.06 seconds"):
        microddsp.open_board("mps2-an386", probe(), timeout_s=limit)


def test_a_port_of_an_emulated_board_is_a_mistake(probe: Maker) -> None:
    for where in ({"port": "/dev/ttyACM0"}, {"serial_number": "0670FF"}):
        with pytest.raises(ParameterError, match="mps2-an386 is not behind a serial port"):
            microddsp.open_board("mps2-an386", probe(), **where)


def test_many_sessions_after_each_other_work(probe: Maker) -> None:
    for _ in range(3):
        with open_board("mps2-an386", probe()) as session:
            assert session.run(np.ones((1, 8), np.float32))[0, -1] == 8.0


def test_two_sessions_at_once_do_not_meet(probe: Maker) -> None:
    double = probe("    self->sum = 0.0f;\n    y[0] = 2.0f * x[0];")
    with open_board("mps2-an386", probe()) as one, open_board("mps2-an386", double) as two:
        assert one.run(np.ones((1, 8), np.float32))[0, -1] == 8.0
        assert two.run(np.ones((1, 8), np.float32))[0, 0] == 2.0
        one.close()
        assert two.run(np.ones((1, 8), np.float32))[0, 0] == 2.0


def test_threads_take_turns_with_whole_signals(summing: BoardSession) -> None:
    signals = [np.full((1, 8 * 30), float(i), np.float32) for i in range(1, 5)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(summing.run, signals * 3))
    for signal, answer in zip(signals * 3, answers, strict=True):
        np.testing.assert_array_equal(answer, np.cumsum(signal, axis=1))


FORKING = """
import os, sys
import numpy as np
sys.path.insert(0, {tests!r})
from conftest import make_model
from microddsp.errors import BoardError
from microddsp.micro.session import open_board
session = open_board("mps2-an386", make_model())
signal = np.ones((1, 16), np.float32)
child = os.fork()
if child == 0:
    try:
        session.run(signal)
    except BoardError as error:
        print(error, flush=True)
    sys.exit()  # an ordinary end, with all that Python releases then
assert os.waitpid(child, 0)[1] == 0
print(session.run(signal)[0, -1])
"""


def test_a_forked_child_leaves_the_session_alone() -> None:
    script = FORKING.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    told, answer = done.stdout.splitlines()
    assert "closed" in told
    assert float(answer) == 16.0
