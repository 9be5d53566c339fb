"""Compiled models on a board: built, started, fed block by block, timed."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from microddsp.errors import BoardError, nearest
from microddsp.micro.boards import DEFAULT_BOARD, Board
from microddsp.micro.farm import FarmAddress, is_farm_address, parse_address
from microddsp.micro.farm.client import WAIT_S, request
from microddsp.micro.farm.described import board_of
from microddsp.micro.platforms import (
    Project,
    build_project,
    create_project,
    flash_project,
    platform_of,
    read_project,
    with_options,
)
from microddsp.micro.remote_model import RemoteModel
from microddsp.micro.rpc.boards_attached import port_of
from microddsp.micro.rpc.link import Link
from microddsp.micro.timing import FunctionTime, Timing
from microddsp.signature import Signature

if TYPE_CHECKING:
    import numpy as np
    import torch

    from microddsp.micro.package.model import CompiledModel

    Array = np.ndarray | torch.Tensor

# How long to wait for a second board of a farm, for a profile beside a session.
_BESIDE_S = 10.0


class BoardSession:
    """Firmware that runs. `session["plops"]` is the model of that name; `run`, `reset`, `time`,
    `profile` and `stack_bytes` are those of the only one.

    `session` is TVM's own `RPCSession` with the functions `process`, `reset`, `time_blocks`,
    `profile_blocks` and `stack_high_water` (with several models `plops.process`, ...); its calls
    are not protected against signals and other threads, those of this class are.

    Close it, or use it as a context manager: no process is left then. In a forked child it is
    closed, and goes on in the parent.
    """

    def __init__(
        self,
        project: Project,
        *,
        timeout_s: float = 5.0,
        port: str | None = None,
        serial_number: str | None = None,
        built_from: Sequence[CompiledModel] = (),
        link: Link | None = None,
        farm: FarmAddress | None = None,
    ) -> None:
        """Start a project's firmware, or connect to the board that has it.

        A `link` that is given is already open, and the session's from now on; `farm` is where it
        leads to.

        Raises:
            BoardError: A tool or the firmware is missing.
            LinkError: The device does not come up, or has no memory for a block.
        """
        self.board = _board_to_ask(project)
        self._built_from = tuple(built_from)
        self._timeout_s = timeout_s
        self._lock = threading.RLock()
        self._farm = farm
        self._link = link or open_link(
            project, timeout_s=timeout_s, port=port, serial_number=serial_number
        )
        several = len(project.signatures) > 1
        try:
            self._models = {
                signature.name: RemoteModel(
                    self.board,
                    self._link,
                    self._lock,
                    signature,
                    prefix=f"{signature.name}." if several else "",
                    pieces=project.pieces.get(signature.name, ()),
                )
                for signature in project.signatures
            }
        except BaseException:
            self.close()
            raise

    @property
    def models(self) -> Mapping[str, RemoteModel]:
        """The models of the firmware by name, in the order given."""
        return MappingProxyType(self._models)

    def __getitem__(self, name: str) -> RemoteModel:
        """The model of that name.

        Raises:
            BoardError: There is none; the hint names the nearest.
        """
        if name not in self._models:
            raise BoardError(
                f"the firmware has no model {name!r}", hint=nearest(name, self._models)
            )
        return self._models[name]

    @property
    def _only(self) -> RemoteModel:
        if len(self._models) > 1:
            names = ", ".join(self._models)
            raise BoardError(
                f"the firmware has several models: {names}",
                hint=f"say which: board[{next(iter(self._models))!r}].run(x)",
            )
        return next(iter(self._models.values()))

    @property
    def signature(self) -> Signature:
        """Of the only model."""
        return self._only.signature

    @property
    def session(self) -> Any:
        """The `tvm.rpc.RPCSession`.

        Raises:
            BoardError: The session is closed.
        """
        next(iter(self._models.values())).check_open()
        return self._link.session

    def run(self, *inputs: Array, tail: str = "error") -> Any:
        """`RemoteModel.run` of the only model."""
        return self._only.run(*inputs, tail=tail)

    def set(self, name: str, value: float | Sequence[float] | Array) -> None:
        """`RemoteModel.set` of the only model."""
        self._only.set(name, value)

    def reset(self) -> None:
        """`RemoteModel.reset` of the only model."""
        self._only.reset()

    def time(self, *inputs: Array, tail: str = "error") -> Timing:
        """`RemoteModel.time` of the only model."""
        return self._only.time(*inputs, tail=tail)

    def time_blocks(self, *inputs: Array, tail: str = "error") -> list[int]:
        """`RemoteModel.time_blocks` of the only model."""
        return self._only.time_blocks(*inputs, tail=tail)

    def profile(self, *inputs: Array, tail: str = "error") -> tuple[FunctionTime, ...]:
        """`RemoteModel.profile` of the only model.

        Where the firmware has no marks and another one costs nobody anything (an emulator, this
        computer), one that has them is built and started for this call. On a farm that needs a
        second board that is free.
        """
        model = self._only
        model.check_open()
        if model.pieces or not self._built_from or self.board.serial:
            return model.profile(*inputs, tail=tail)
        with open_board(
            str(self._farm) if self._farm else self.board,
            self._built_from,
            timeout_s=self._timeout_s,
            profile=True,
            wait_s=_BESIDE_S,
        ) as marked:
            return marked._only.profile(*inputs, tail=tail)

    def stack_bytes(self) -> int:
        """`RemoteModel.stack_bytes` of the only model."""
        return self._only.stack_bytes()

    def close(self) -> None:
        """End the session; may be called again."""
        with self._lock:
            self._link.close()

    def __enter__(self) -> BoardSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_board(
    board: str | Board = DEFAULT_BOARD,
    model: CompiledModel | Sequence[CompiledModel] | Mapping[str, CompiledModel] | None = None,
    *,
    platform: str | None = None,
    options: Mapping[str, str] | None = None,
    timeout_s: float = 5.0,
    profile: bool = False,
    port: str | None = None,
    serial_number: str | None = None,
    wait_s: float = WAIT_S,
) -> BoardSession:
    """Build firmware with models in it, start or flash the board and open a session with it.

    Args:
        board: A name from `microddsp boards`, a board's file, as the platform calls it, or one of
            a farm: "rpc://HOST:PORT/KEY", with "?board=NAME" where the key does not tell.
        model: What `compile`, `load` or `load_models` gave, for the board's processor; several for
            a firmware with all of them, each under its name: `board["plops"].run(x)`.
        platform: The kind of firmware; that of the board otherwise.
        options: The platform's own, as texts.
        timeout_s: The device must answer every call within this, or it is stopped.
        profile: The firmware has marks between its kernels.
        port: The serial port of a real board; found by its USB numbers otherwise.
        serial_number: Which one of several real boards.
        wait_s: How long to wait for a free board of a farm.

    Raises:
        BoardError: The board is unknown or has another processor, is not there, or a tool is
            missing.
        ParameterError: A port is given for a board that has none.
        LinkError: The device does not come up.
    """
    if model is None:
        raise BoardError("open_board needs a model", hint="open_board(board, model)")
    from microddsp.micro.package.archive import models_of

    models = models_of(model)
    given = {**(options or {}), **({"profile": "yes"} if profile else {})}
    farm = parse_address(board) if is_farm_address(board) else None
    if farm and (port or serial_number):
        raise BoardError("port and serial_number of a farm's boards are given to its server")
    wanted = board_of(farm, wait_s) if farm else board
    with tempfile.TemporaryDirectory(prefix="microddsp-") as folder:
        chosen = _board_to_ask(create_project(folder, models, wanted, given, platform=platform))
        build_project(folder)
        if not farm:
            port = port_of(chosen, port, serial_number)
        if chosen.serial and not farm:
            flash_project(folder, port=port, serial_number=serial_number)
        # Emulators have read the image once they answer: the folder may go.
        return BoardSession(
            read_project(folder),
            timeout_s=timeout_s,
            port=port,
            built_from=() if profile else models,  # with marks, or without kernels to mark
            link=_link_of_farm(farm, read_project(folder), timeout_s, wait_s) if farm else None,
            farm=farm,
        )


def open_project(
    directory: str | Path,
    *,
    timeout_s: float = 5.0,
    port: str | None = None,
    serial_number: str | None = None,
    options: Mapping[str, str] | None = None,
) -> BoardSession:
    """Start the firmware of a project folder; a real board must have it in its flash already.
    `options` are those that a template's project takes for this.

    Raises:
        BoardError: No project, it is not built, or it has no RPC server.
        LinkError: The device does not come up.
    """
    project = with_options(read_project(directory), options, "open_transport")
    board = _board_to_ask(project)
    if not board.template:
        port = port_of(board, port, serial_number)
        serial_number = None  # it has said which port
    return BoardSession(project, timeout_s=timeout_s, port=port, serial_number=serial_number)


def open_link(
    project: Project,
    *,
    timeout_s: float,
    port: str | None = None,
    serial_number: str | None = None,
    extra: Sequence[str] = (),
) -> Link:
    """The link to a project's firmware, which is started with `extra` words where it is emulated.

    Raises:
        BoardError: A tool or the firmware is missing.
        LinkError: The device does not come up.
    """
    board = _board_to_ask(project)
    image = project.image if project.image.is_file() else None
    if extra and board.template:
        raise BoardError("a template's own server starts its device", where=str(project.directory))
    command = [*platform_of(project).reach(project, port, serial_number), *extra]
    return Link(command, timeout_s, image, f"device.{board.name}")


def _link_of_farm(farm: FarmAddress, project: Project, timeout_s: float, wait_s: float) -> Link:
    board, image = _board_to_ask(project), project.image.read_bytes()
    return request(farm.tracker, farm.key, image, board, timeout_s, wait_s=wait_s)


def _board_to_ask(project: Project) -> Board:
    if project.board is None or not platform_of(project).serves:
        raise BoardError(
            f"a {project.platform} project has no RPC server to ask",
            where=str(project.directory),
            hint="create one of another platform",
        )
    return project.board
