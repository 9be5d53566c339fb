"""Candidates on real boards, and on the boards of a farm: each is a model of one firmware.

The firmware has the RPC server, so the board may be anywhere; its own counter takes the time:
cycles on a real board, instructions on an emulated one. Modelled cycles need `measure.Bench`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from microddsp.errors import (
    BoardError,
    CompileError,
    DeviceFaultError,
    DeviceTimeoutError,
    LinkError,
    ServerLostError,
)
from microddsp.micro.boards import Board
from microddsp.micro.farm import parse_address, request
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.platforms import (
    Project,
    build_project,
    create_project,
    flash_project,
    read_project,
)
from microddsp.micro.rpc.boards_attached import port_of
from microddsp.micro.session import BoardSession
from microddsp.micro.targets import Target, find_target
from microddsp.signature import InputSpec, OutputStructure, Signature, TensorSpec
from microddsp.tuning.measure import Job, Outcome, Values

# Servers that may be lost before a batch is given up.
_MOST_LOST = 8
_MANY_FLASHES = 100
_HEADER = """#ifndef {NAME}_H
#define {NAME}_H
#include <stddef.h>
#include <stdint.h>
#define {NAME}_WORKSPACE_BYTES {nbytes}u
#define {NAME}_WORKSPACE_ALIGN 16u
#define {NAME}_OK 0
typedef int {name}_status_t;
typedef struct {name} {{
    unsigned char *workspace;
}} {name}_t;
{name}_status_t {name}_init({name}_t *self, void *workspace, size_t workspace_bytes);
void {name}_reset({name}_t *self);
int32_t *{name}_input_before(const {name}_t *self);
const int32_t *{name}_output_after(const {name}_t *self);
{name}_status_t {name}_process({name}_t *self);
#endif
"""
_SOURCE = """#include "{name}.h"
void {symbol}(unsigned char *arena);
{name}_status_t {name}_init({name}_t *self, void *workspace, size_t workspace_bytes)
{{
    (void)workspace_bytes;
    self->workspace = (unsigned char *)workspace;
    return {NAME}_OK;
}}
void {name}_reset({name}_t *self)
{{
    (void)self;
}}
int32_t *{name}_input_before(const {name}_t *self)
{{
    return (int32_t *)(void *)self->workspace;
}}
const int32_t *{name}_output_after(const {name}_t *self)
{{
    return (const int32_t *)(const void *)self->workspace;
}}
{name}_status_t {name}_process({name}_t *self)
{{
    {symbol}(self->workspace);
    return {NAME}_OK;
}}
"""


def model_of(job: Job, name: str, target: Target) -> CompiledModel:
    """A candidate as a model: its input and output are the arena before and after."""
    built = job[1]
    words = built.arena_bytes // 4
    values = {
        "name": name,
        "NAME": name.upper(),
        "symbol": built.symbol,
        "nbytes": built.arena_bytes,
    }
    signature = Signature(
        name=name,
        inputs=(InputSpec("before", (1, words), "int32"),),
        outputs=(TensorSpec("after", (1, words), "int32", -1),),
        structure=OutputStructure(names=("after",)),
        block=words,
        state_bytes=4,
        workspace_bytes=built.arena_bytes,
        workspace_align=16,
        sample_rate_hz=None,
        settle_samples=0,
        io_in_arena=True,
    )
    sources = {
        f"{name}.h": _HEADER.format(**values),
        f"{name}.c": _SOURCE.format(**values),
    }
    return CompiledModel(
        name, target, signature, sources, objects={f"{name}_code.o": built.object.read_bytes()}
    )


class Wear:
    """Counts how often a board's flash is written, and says so each hundred times."""

    def __init__(self, board: Board, say: Callable[[str], object]) -> None:
        self.board, self.say, self.flashes = board, say, 0

    def count(self) -> None:
        """It is written once more."""
        self.flashes += 1
        if self.flashes % _MANY_FLASHES == 0:
            self.say(f"the flash of {self.board.name} was written {self.flashes} times: it wears")


class Boards:
    """Measures candidates on one real board, or on several boards of a farm at once."""

    def __init__(
        self,
        board: Board,
        values: Values,
        *,
        address: str | None = None,
        port: str | None = None,
        boards_at_once: int = 1,
        timeout_s: float = 20.0,
        say: Callable[[str], object] = lambda _text: None,
        wear: Wear | None = None,
    ) -> None:
        """`address` is "rpc://HOST:PORT/KEY?board=NAME" for a farm; without it the board is on a
        cable, at the serial `port`. `say` is told when a server is lost, `wear` is of all who
        measure on the board."""
        self.board, self.values, self.timeout_s, self.say = board, values, timeout_s, say
        self.farm = parse_address(address) if address else None
        self.boards_at_once, self.port = boards_at_once, port
        self.target = find_target(board.target)
        self.wear = wear or Wear(board, say)

    @property
    def unit(self) -> str:
        """What the boards count: the only metric beside the size."""
        return self.board.unit

    def expect(self, figures: Mapping[str, float]) -> None:
        """Boards stop what does not answer within the time set."""

    def measure(self, jobs: Sequence[Job]) -> list[Outcome]:
        """One outcome for each, in their order. What a lost server had is measured on another.

        Raises:
            BoardError: No board can be had, or too many were lost.
        """
        outcomes: dict[int, Outcome] = {}
        for i, (candidate, _) in enumerate(jobs):
            try:
                self.values.before(candidate)
            except CompileError as error:
                outcomes[i] = Outcome(reason=error.message)
        left = [i for i in range(len(jobs)) if i not in outcomes]
        most = self._most_at_once(jobs)
        for at in range(0, len(left), most):
            outcomes |= self._measure_image(jobs, left[at : at + most])
        return [outcomes[i] for i in range(len(jobs))]

    def close(self) -> None:
        """Nothing is held between batches."""

    def _most_at_once(self, jobs: Sequence[Job]) -> int:
        """So many arenas fit into half of the board's memory, with what is sent and read."""
        arena = max((built.arena_bytes for _, built in jobs), default=1)
        memory = self.board.ram.kbytes * 1024 if self.board.ram else 1 << 18
        return max(1, memory // 2 // (3 * arena))

    def _measure_image(self, jobs: Sequence[Job], chosen: Sequence[int]) -> dict[int, Outcome]:
        """One firmware with these candidates, for all boards: each measures a part of them."""
        models = [model_of(jobs[i], f"trial{i}", self.target) for i in chosen]
        outcomes: dict[int, Outcome] = {}
        with tempfile.TemporaryDirectory(prefix="microddsp-") as folder:
            create_project(folder, models, self.board)
            build_project(folder)
            project = read_project(folder)
            if self.farm is None:
                self._flash(folder)
            parts = [chosen[i :: self.boards_at_once] for i in range(self.boards_at_once)]
            with ThreadPoolExecutor(self.boards_at_once) as pool:
                for found in pool.map(lambda part: self._measure(project, jobs, part), parts):
                    outcomes |= found
        return outcomes

    def _measure(
        self, project: Project, jobs: Sequence[Job], part: Sequence[int]
    ) -> dict[int, Outcome]:
        outcomes: dict[int, Outcome] = {}
        lost = 0
        while len(outcomes) < len(part):
            try:
                with self._open(project, lost > 0) as session:
                    for i in part:
                        if i not in outcomes:
                            outcomes[i] = self._one(session, jobs[i], f"trial{i}")
                            if outcomes[i].reason:
                                break  # memory may be spoilt: the others get a fresh start
            except ServerLostError as error:
                lost += 1
                self.say(f"{error.message}; its candidates are measured elsewhere")
                if lost > _MOST_LOST:
                    raise
        return outcomes

    def _open(self, project: Project, lost: bool) -> BoardSession:
        if self.farm is None:
            return BoardSession(project, timeout_s=self.timeout_s, port=self.port)
        link = request(
            self.farm.tracker,
            self.farm.key,
            project.image.read_bytes(),
            self.board,
            self.timeout_s,
            lost=lost,
        )
        return BoardSession(project, timeout_s=self.timeout_s, link=link, farm=self.farm)

    def _flash(self, folder: str) -> None:
        """Write a real board's flash, which wears."""
        if self.board.serial:
            self.port = port_of(self.board, self.port, None)
            self.wear.count()
            flash_project(folder, port=self.port)

    def _one(self, session: BoardSession, job: Job, name: str) -> Outcome:
        candidate, built = job
        before = np.concatenate(self.values.before(candidate, built.arena_bytes)).view("int32")
        try:
            after = np.asarray(session[name].run(before[None])).view("uint8").reshape(-1)
            reason = self.values.wrong(candidate, np.split(after, len(self.values.runs)))
            if reason:
                return Outcome(reason=reason)
            time = session[name].time(before[None])
        except ServerLostError:
            raise
        except DeviceTimeoutError:
            return Outcome(reason=f"hangs: no answer in {self.timeout_s:g} s")
        except DeviceFaultError as error:
            return Outcome(reason=f"stops with a fault: {error.message.splitlines()[0]}")
        except LinkError as error:
            return Outcome(reason=error.message.splitlines()[0])
        return Outcome({self.unit: float(time.count_median), "size": float(built.nbytes)})


def check_boards(board: Board) -> None:
    """
    Raises:
        BoardError: Firmware for the board is no flat project.
    """
    if board.platform not in ("qemu", "serial"):
        raise BoardError(
            f"candidates cannot be measured on {board.name}: it is brought up by others"
        )
