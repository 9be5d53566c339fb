# SPDX-License-Identifier: 0BSD
"""The project API, for the program `microddsp_api_server.py` of a template.

Derive from `ProjectServer` and call `main(MyServer())`. Standard library only: import it from
microddsp, or copy this file beside your program.

microddsp starts the program with two descriptors and sends JSON-RPC 2.0 on them, a message a line;
stdin is empty, and what is written to stdout and stderr is shown to the person. Bytes travel as
base85. The program ends when its requests end. A message is at most MAX_MESSAGE bytes.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import os
import select
import signal
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

VERSION = 1
PROGRAM = "microddsp_api_server.py"
MAX_MESSAGE = 1 << 20
MAX_DATA = 1 << 16  # bytes that a read or a write carries
MAX_TIMEOUT_S = 3600.0

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
SERVER_ERROR = -32000
TRANSPORT_CLOSED = -32001
IO_TIMEOUT = -32002
UNSUPPORTED_VERSION = -32003

PARAMETERS: dict[str, dict[str, str]] = {
    "server_info_query": {"version": "int"},
    "generate_project": {
        "archive": "str",
        "runtime_dir": "str",
        "project_dir": "str",
        "options": "dict",
    },
    "build": {"options": "dict"},
    "flash": {"options": "dict"},
    "open_transport": {"options": "dict"},
    "close_transport": {},
    "read_transport": {"n": "int", "timeout": "float"},
    "write_transport": {"data": "bytes", "timeout": "float"},
}
TAKE_OPTIONS = tuple(name for name, wanted in PARAMETERS.items() if "options" in wanted)
_TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool, "dict": dict}
_TRACEBACK = 16_000  # characters
_REPLY = 4_000
Value = str | int | float | bool


class ApiError(Exception):
    """An error that the client knows by its code."""

    code = SERVER_ERROR


class ParseError(ApiError):
    """What came is no JSON, or too long."""

    code = PARSE_ERROR


class RequestError(ApiError):
    """The message is no request, or makes no sense now."""

    code = INVALID_REQUEST


class MethodError(ApiError):
    """There is no such method."""

    code = METHOD_NOT_FOUND


class ParameterError(ApiError):
    """A parameter or an option is missing, unknown, or has the wrong type or value."""

    code = INVALID_PARAMS


class TransportClosedError(ApiError):
    """The device is gone, or the transport is not open."""

    code = TRANSPORT_CLOSED


class IoTimeoutError(ApiError):
    """Nothing came, or not everything went, within the time given."""

    code = IO_TIMEOUT


class UnsupportedVersionError(ApiError):
    """The client speaks another version of this API."""

    code = UNSUPPORTED_VERSION


def check_type(name: str, value: object, kind: str) -> Any:
    """The value, if it is of the type "str", "int", "float", "bool" or "dict".

    Raises:
        ParameterError: It is not. An integer is a float too, a truth value is no integer.
    """
    if kind == "float" and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not _TYPES[kind] or (type(value) is float and not math.isfinite(value)):
        raise ParameterError(f"{name} must be {kind}, got {type(value).__name__} {value!r:.100}")
    return value


def check_list(name: str, value: object) -> Sequence[Any]:
    """The value, if it is a list.

    Raises:
        ParameterError: It is not.
    """
    if not isinstance(value, list | tuple):
        raise ParameterError(f"{name} must be a list, got {type(value).__name__}")
    return value


@dataclass(frozen=True)
class ProjectOption:
    """Something that a person may choose.

    `type` is "str", "int", "float" or "bool"; `choices`, where there are any, are all that it can
    be. `required` and `optional` name the methods that take it. Without a value, an optional one
    has its `default`; where that is None it is left out.
    """

    name: str
    help: str
    type: str = "str"
    choices: Sequence[Value] = ()
    default: Value | None = None
    required: Sequence[str] = ()
    optional: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Whether all that is said fits together.

        Raises:
            ParameterError: It does not.
        """
        for name in ("name", "help", "type"):
            check_type(f"{name} of an option", getattr(self, name), "str")
        where = f"option {self.name!r:.100}"
        if self.type not in ("str", "int", "float", "bool"):
            raise ParameterError(f"{where} has the type {self.type!r:.100}")
        for name in ("choices", "required", "optional"):
            check_list(f"{name} of {where}", getattr(self, name))
        for value in self.choices:
            check_type(f"a choice of {where}", value, self.type)
        if self.default is not None:
            self.check(self.default)
        methods = [*self.required, *self.optional]
        wrong = [m for m in methods if m not in TAKE_OPTIONS or methods.count(m) > 1]
        if wrong or not methods:
            raise ParameterError(f"{where}: methods are some of {', '.join(TAKE_OPTIONS)}, once")

    def check(self, value: object) -> Any:
        """The value, if the option can have it.

        Raises:
            ParameterError: It cannot.
        """
        found = check_type(f"option {self.name!r}", value, self.type)
        if self.choices and found not in self.choices:
            known = ", ".join(map(str, self.choices))
            raise ParameterError(f"option {self.name!r} is {found!r:.100}, not one of {known}")
        return found


@dataclass(frozen=True)
class ServerInfo:
    """What a template, or a project made from it, says of itself.

    A project (`is_template` False) has the models' archive at `model_library_format_path` and its
    firmware, once built, at `image`; both are relative to its folder. `board` has "name", "target"
    and "clock_hz", the rate of the firmware's clock, where the firmware has the RPC server, and
    may have more of what a board's file has. `profile` names a model's pieces between its marks.
    """

    platform_name: str
    is_template: bool
    model_library_format_path: str = ""
    project_options: Sequence[ProjectOption] = ()
    image: str = ""
    board: Mapping[str, Any] | None = None
    profile: Mapping[str, Sequence[str]] = field(default_factory=dict)
    version: int = VERSION


@dataclass(frozen=True)
class TransportInfo:
    """Times that a device may take: to come up, and to answer a call, which counts where it is
    longer than the person's own limit. `baud` is the rate of a line that may lose bytes; microddsp
    then sends frames, which `frames.c` of the runtime takes. 0: nothing is lost."""

    session_start_s: float = 20.0
    session_established_s: float = 0.0
    baud: int = 0


class ProjectServer:
    """What a template does. It lies in the template's folder and, copied, in each project."""

    def server_info(self) -> ServerInfo:
        """What this is. A handler may look at its folder to know whether it is a project."""
        raise NotImplementedError

    def generate_project(
        self, archive: Path, runtime_dir: Path, project_dir: Path, options: Mapping[str, Any]
    ) -> None:
        """Write a project into a folder that is there, with a copy of this program.

        `archive` has the models, one or several; `runtime_dir` has the C of the RPC server and
        `app.c`, the table of the models' functions. Both are gone afterwards.
        """
        raise MethodError("this is a project, no template")

    def build(self, options: Mapping[str, Any]) -> None:
        """Build the firmware of this project."""
        raise NotImplementedError

    def flash(self, options: Mapping[str, Any]) -> None:
        """Write the firmware into the board; nothing to do where there is no flash."""
        raise NotImplementedError

    def open_transport(self, options: Mapping[str, Any]) -> TransportInfo:
        """Start the device, or connect to it."""
        raise NotImplementedError

    def close_transport(self) -> None:
        """Let the device go; called for an open transport, once, also at the program's end."""
        raise NotImplementedError

    def read_transport(self, n: int, timeout: float) -> bytes:
        """What the device sent, at most n bytes, as soon as there is any; n is 1 to MAX_DATA.

        Raises:
            IoTimeoutError: Nothing within `timeout` seconds.
            TransportClosedError: The device is gone.
        """
        raise NotImplementedError

    def write_transport(self, data: bytes, timeout: float) -> None:
        """Send all the bytes, at most MAX_DATA.

        Raises:
            IoTimeoutError: Not everything went within `timeout` seconds.
            TransportClosedError: The device is gone.
        """
        raise NotImplementedError


def read_descriptor(fd: int, n: int, timeout: float) -> bytes:
    """`read_transport` for a pipe, a socket or a terminal.

    Raises:
        IoTimeoutError, TransportClosedError: As there.
    """
    readable, _, _ = select.select([fd], [], [], timeout)
    if not readable:
        raise IoTimeoutError(f"nothing came within {timeout:g} s")
    try:
        data = os.read(fd, n)
    except OSError as error:
        raise TransportClosedError(f"the device is gone: {error.strerror}") from error
    if not data:
        raise TransportClosedError("the device is gone")
    return data


def write_descriptor(fd: int, data: bytes, timeout: float) -> None:
    """`write_transport` for a pipe, a socket or a terminal; makes it non-blocking.

    Raises:
        IoTimeoutError, TransportClosedError: As there.
    """
    os.set_blocking(fd, False)
    deadline = time.monotonic() + timeout
    view = memoryview(data)
    while view:
        left = max(0.0, deadline - time.monotonic())
        if not select.select([], [fd], [], left)[1]:
            raise IoTimeoutError(f"{len(view)} bytes were not taken within {timeout:g} s")
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            pass
        except OSError as error:
            raise TransportClosedError(f"the device is gone: {error.strerror}") from error


def extract_sources(archive: Path, folder: Path) -> list[str]:
    """Write the models' C, headers and object files into a folder; gives their names."""
    names = []
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.startswith("codegen/host/"):
                content = tar.extractfile(member)
                assert content is not None
                names.append(Path(member.name).name)
                (folder / names[-1]).write_bytes(content.read())
    return sorted(names)


class _Dispatcher:
    """Answers messages with a server's methods, and knows whether its transport is open."""

    def __init__(self, server: ProjectServer) -> None:
        self._server = server
        self._open = False
        self._methods: dict[str, Callable[[dict[str, Any]], Any]] = {
            name: getattr(self, f"_{name}") for name in PARAMETERS
        }

    def answer(self, line: bytes | None) -> bytes:
        """The reply to a line; None is one that was too long."""
        identity = None
        try:
            message = _parse(line)
            found = message.get("id")
            identity = found if type(found) is int or isinstance(found, str) else None
            method = _method(message)
            result = self._methods[method](_parameters(method, message.get("params", {})))
            reply = json.dumps({"jsonrpc": "2.0", "id": identity, "result": result})
            if len(reply) >= MAX_MESSAGE:
                raise ApiError(f"the answer of {method} has {len(reply)} bytes")
        except Exception as error:  # whatever a template does wrong, its client is told
            reply = _failure(identity, error)
        return reply.encode() + b"\n"

    def close(self) -> None:
        if self._open:
            self._open = False
            self._server.close_transport()

    def _server_info_query(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["version"] != VERSION:
            raise UnsupportedVersionError(
                f"version {params['version']} of the project API is not known here, {VERSION} is"
            )
        return asdict(_given("server_info", self._server.server_info(), ServerInfo))

    def _generate_project(self, params: dict[str, Any]) -> None:
        self._server.generate_project(
            Path(params["archive"]),
            Path(params["runtime_dir"]),
            Path(params["project_dir"]),
            self._options("generate_project", params),
        )

    def _build(self, params: dict[str, Any]) -> None:
        self._server.build(self._options("build", params))

    def _flash(self, params: dict[str, Any]) -> None:
        self._server.flash(self._options("flash", params))

    def _open_transport(self, params: dict[str, Any]) -> dict[str, Any]:
        if self._open:
            raise RequestError("the transport is open already")
        info = self._server.open_transport(self._options("open_transport", params))
        self._open = True
        return asdict(_given("open_transport", info, TransportInfo))

    def _close_transport(self, params: dict[str, Any]) -> None:
        self.close()

    def _read_transport(self, params: dict[str, Any]) -> str:
        self._check_open()
        if not 1 <= params["n"] <= MAX_DATA:
            raise ParameterError(f"n must be 1 to {MAX_DATA}, got {params['n']!r:.100}")
        found = self._server.read_transport(params["n"], params["timeout"])
        data = _given("read_transport", found, bytes, bytearray, memoryview)
        if not data:
            raise ApiError("read_transport gave nothing: where nothing came, raise IoTimeoutError")
        if len(data) > params["n"]:
            raise ApiError(f"read_transport gave {len(data)} bytes, asked for 1 to {params['n']}")
        return base64.b85encode(data).decode()

    def _write_transport(self, params: dict[str, Any]) -> None:
        self._check_open()
        if len(params["data"]) > MAX_DATA:
            raise ParameterError(f"data has {len(params['data'])} bytes, more than {MAX_DATA}")
        self._server.write_transport(params["data"], params["timeout"])

    def _check_open(self) -> None:
        if not self._open:
            raise TransportClosedError("the transport is not open")

    def _options(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        known = {option.name: option for option in self._server.server_info().project_options}
        given: dict[str, Any] = params["options"]
        for name in given:
            if name not in known or method not in (*known[name].required, *known[name].optional):
                raise ParameterError(f"{method} has no option {name!r:.100}")
        options = {name: known[name].check(value) for name, value in given.items()}
        for option in known.values():
            if method in option.required and option.name not in options:
                raise ParameterError(f"{method} needs option {option.name!r}: {option.help}")
            if method in option.optional and option.default is not None:
                options.setdefault(option.name, option.default)
        return options


def _given(method: str, found: Any, *kinds: type) -> Any:
    """What a method of a template gave, if it is of one of the kinds."""
    if not isinstance(found, kinds):
        raise ApiError(f"{method} gave {type(found).__name__}, not {kinds[0].__name__}")
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def parse_json(line: bytes) -> Any:
    """JSON as the standard has it, without NaN.

    Raises:
        ValueError: It is none.
    """
    try:
        return json.loads(line, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("too deep") from None


def _parse(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise ParseError(f"a message is at most {MAX_MESSAGE} bytes")
    try:
        message = parse_json(line)
    except ValueError as error:
        raise ParseError(f"this is no JSON: {error}") from None
    if not isinstance(message, dict):
        raise RequestError("a message is one object")
    return message


def _method(message: dict[str, Any]) -> str:
    if message.get("jsonrpc") != "2.0" or message.keys() - {"jsonrpc", "id", "method", "params"}:
        raise RequestError("this is no request of JSON-RPC 2.0")
    if type(message.get("id")) is not int and not isinstance(message.get("id"), str):
        raise RequestError("the request has no id")
    method = message.get("method")
    if not isinstance(method, str):
        raise RequestError("the request has no method")
    if method not in PARAMETERS:
        raise MethodError(f"there is no method {method!r:.100}")
    return method


def _parameters(method: str, given: object) -> dict[str, Any]:
    wanted = PARAMETERS[method]
    if not isinstance(given, dict):
        raise ParameterError(f"{method} takes its parameters by name")
    missing = sorted(wanted.keys() - given.keys())
    extra = sorted(given.keys() - wanted.keys())
    if missing or extra:
        words = [f"misses {', '.join(missing)}"] if missing else []
        words += [f"does not know {', '.join(extra):.100}"] if extra else []
        raise ParameterError(f"{method} {' and '.join(words)}")
    return {name: _parameter(f"{method}: {name}", given[name], wanted[name]) for name in wanted}


def _parameter(name: str, value: object, kind: str) -> Any:
    if kind == "bytes":
        text: str = check_type(name, value, "str")
        try:
            return base64.b85decode(text)
        except ValueError as error:
            raise ParameterError(f"{name} is no base85: {error}") from None
    found = check_type(name, value, kind)
    if kind == "float" and not 0.0 <= found <= MAX_TIMEOUT_S:  # the only ones are times
        raise ParameterError(f"{name} must be 0 to {MAX_TIMEOUT_S:g} s, got {found:g}")
    return found


def _failure(identity: object, error: Exception) -> str:
    known = isinstance(error, ApiError)
    code = error.code if isinstance(error, ApiError) else SERVER_ERROR
    message = str(error) if known and str(error) else f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))[-_TRACEBACK:]
    body = {"code": code, "message": message[:_REPLY], "data": {"traceback": trace}}
    return json.dumps({"jsonrpc": "2.0", "id": identity, "error": body})


def read_lines(fd: int) -> Iterator[bytes | None]:
    """Lines until the end; None for one that is too long, which is not kept."""
    held = bytearray()
    skipping = False
    while data := os.read(fd, 1 << 16):
        *whole, rest = data.split(b"\n")
        for piece in whole:
            line = None if skipping or len(held) + len(piece) >= MAX_MESSAGE else held + piece
            held.clear()
            skipping = False
            yield None if line is None else bytes(line)
        if skipping or len(held) + len(rest) >= MAX_MESSAGE:
            held.clear()
            skipping = True
        else:
            held += rest


def serve_descriptors(server: ProjectServer, requests: int, replies: int) -> None:
    """Answer until the requests end."""
    dispatcher = _Dispatcher(server)
    try:
        for line in read_lines(requests):
            reply = memoryview(dispatcher.answer(line))
            sys.stdout.flush()  # what was said comes before its answer
            sys.stderr.flush()
            while reply:
                reply = reply[os.write(replies, reply) :]
    except BrokenPipeError:
        pass  # the client is gone
    finally:
        dispatcher.close()


def main(server: ProjectServer, arguments: Sequence[str] | None = None) -> None:
    """The whole program of a template."""
    parser = argparse.ArgumentParser(description="A template's server; microddsp starts it.")
    parser.add_argument("--read-fd", type=int, required=True)
    parser.add_argument("--write-fd", type=int, required=True)
    given = parser.parse_args(arguments)
    for fd in (given.read_fd, given.write_fd):
        os.set_inheritable(fd, False)  # programs that we start must not hold them open
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an orderly end: the device first
    serve_descriptors(server, given.read_fd, given.write_fd)


def is_time(value: float) -> bool:
    """Whether a number can be a limit in seconds; 0 is none."""
    return math.isfinite(value) and 0.0 <= value <= MAX_TIMEOUT_S
