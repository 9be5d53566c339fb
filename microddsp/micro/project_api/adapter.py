"""A platform of ours as the server program of a template.

    from microddsp.micro.project_api.adapter import serve
    serve("qemu", __file__)

is a whole `microddsp_api_server.py`. A project made from it has its own project in `firmware/`.
"""

from __future__ import annotations

import select
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microddsp.micro.platforms import Option, Platform, Project, find_platform, read_project
from microddsp.micro.platforms.project import MANIFEST, create_project, relative_image
from microddsp.micro.project_api import server as api
from microddsp.micro.project_api.server import (
    IoTimeoutError,
    ProjectOption,
    ServerInfo,
    TransportClosedError,
    TransportInfo,
)
from microddsp.micro.rpc.boards_attached import port_of
from microddsp.micro.rpc.bridge import start_link

if TYPE_CHECKING:
    from microddsp.micro.rpc.bridge import Link

_FIRMWARE = "firmware"
_ARCHIVE = "model.tar"
_PORTS = (
    ProjectOption("port", "serial port of a real board", optional=("flash", "open_transport")),
    ProjectOption(
        "serial_number", "which one of several real boards", optional=("flash", "open_transport")
    ),
)


class PlatformServer(api.ProjectServer):
    """The methods of the project API by those of a platform."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        """`folder` is where the program lies: the template's, or a project's."""
        self._platform = platform
        self._folder = folder
        self._link: Link | None = None
        self._received = bytearray()

    def server_info(self) -> ServerInfo:
        options = (*map(_option, self._platform.options), *_PORTS)
        if not (self._folder / _FIRMWARE / MANIFEST).is_file():
            return ServerInfo(self._platform.name, True, project_options=options)
        project = self._project()
        board = project.board if self._platform.serves else None
        image = relative_image(project)
        return ServerInfo(
            self._platform.name,
            False,
            _ARCHIVE,
            options,
            image=f"{_FIRMWARE}/{image}" if image else "",
            board=board.model_dump(exclude={"folder"}, exclude_none=True) if board else None,
            profile={name: list(pieces) for name, pieces in project.pieces.items()},
        )

    def generate_project(
        self, archive: Path, runtime_dir: Path, project_dir: Path, options: Mapping[str, Any]
    ) -> None:
        from microddsp.micro.package.archive import load_models

        where = project_dir / _FIRMWARE
        models = list(load_models(archive).values())
        create_project(where, models, None, options, platform=self._platform, force=True)
        shutil.copy(archive, project_dir / _ARCHIVE)
        shutil.copy(self._folder / api.PROGRAM, project_dir / api.PROGRAM)

    def build(self, options: Mapping[str, Any]) -> None:
        self._platform.build(self._project())

    def flash(self, options: Mapping[str, Any]) -> None:
        port, serial_number = options.get("port"), options.get("serial_number")
        self._platform.flash(self._project(), port, serial_number)

    def open_transport(self, options: Mapping[str, Any]) -> TransportInfo:
        project = self._project()
        port, serial_number = options.get("port"), options.get("serial_number")
        if project.board:
            port = port_of(project.board, port, serial_number)
        words = self._platform.reach(project, port)
        self._link = start_link(words[0], words[1:])
        return TransportInfo(self._link.start_s)

    def close_transport(self) -> None:
        if self._link:
            self._link.stop()
        self._link = None
        self._received.clear()

    def read_transport(self, n: int, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        while not self._received:
            if time.monotonic() > deadline:
                raise IoTimeoutError(f"nothing came within {timeout:g} s")
            self._move(deadline, due=True)
        data = bytes(self._received[:n])
        del self._received[:n]
        return data

    def write_transport(self, data: bytes, timeout: float) -> None:
        link = self._opened()
        deadline = time.monotonic() + timeout
        link.send(data)
        while link.wants_to_write():
            if time.monotonic() > deadline:
                raise IoTimeoutError(f"not everything was taken within {timeout:g} s")
            self._move(deadline, due=False)

    def _project(self) -> Project:
        return read_project(self._folder / _FIRMWARE)

    def _opened(self) -> Link:
        if self._link is None:
            raise TransportClosedError("the device is gone")
        return self._link

    def _move(self, deadline: float, *, due: bool) -> None:
        """Wait for something to happen on the link, and take it."""
        link = self._opened()
        link.answer_is_due(due)
        link.tick()
        wake = link.deadline()
        until = deadline if wake is None else min(deadline, wake)
        reading = [fd for fd in (link.from_device, link.words) if fd >= 0]
        writing = [link.to_device] if link.wants_to_write() else []
        left = max(0.0, until - time.monotonic())
        readable, writable, _ = select.select(reading, writing, [], left)
        if writable:
            link.write()
        if link.words in readable:
            for _, line in link.lines():
                print(line, flush=True)
        if link.from_device in readable:
            data = link.read()
            if data is None:
                self._link = None
                raise TransportClosedError(link.epitaph())
            self._received += data


def serve(platform: str, program: str) -> None:
    """Run a platform as a template; `program` is the `__file__` of the caller.

    Raises:
        BoardError: There is no such platform.
    """
    api.main(PlatformServer(find_platform(platform), Path(program).resolve().parent))


def _option(option: Option) -> ProjectOption:
    return ProjectOption(
        option.name,
        f"{option.help}; {option.default}" if option.default else option.help,
        choices=option.known() if option.closed else (),
        optional=("generate_project",),
    )
