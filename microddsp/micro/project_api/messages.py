"""Requests and replies of the project API as the client sees them: bytes in, bytes out."""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from microddsp.errors import (
    IoTimeoutError,
    TemplateError,
    TemplateLostError,
    TemplateVersionError,
    TransportClosedError,
)
from microddsp.micro.project_api import server as api

_ERRORS: dict[int, type[TemplateError]] = {
    api.TRANSPORT_CLOSED: TransportClosedError,
    api.IO_TIMEOUT: IoTimeoutError,
    api.UNSUPPORTED_VERSION: TemplateVersionError,
}
_SHOWN = 4_000  # characters of an error's message
_TRACEBACK = 16_000


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request: `result`, or `error` if there is one."""

    method: str
    result: Any = None
    error: TemplateError | None = None


class Messages:
    """Numbers requests and cuts a stream into their replies, which come in the same order."""

    def __init__(self) -> None:
        self._number = 0
        self._held = bytearray()
        self._asked: deque[tuple[int, str]] = deque()

    def request(self, method: str, params: Mapping[str, Any]) -> bytes:
        """The bytes to send; values of type bytes are encoded.

        Raises:
            TemplateError: The request is longer than a message may be.
        """
        self._number += 1
        plain = {
            name: base64.b85encode(value).decode() if isinstance(value, bytes) else value
            for name, value in params.items()
        }
        message = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": plain}
        line = json.dumps(message).encode() + b"\n"
        if len(line) > api.MAX_MESSAGE:
            raise TemplateError(f"{method}: the options have {len(line)} bytes")
        self._asked.append((self._number, method))
        return line

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that are complete now.

        Raises:
            TemplateLostError: What came is no reply, too long, or was not asked for.
        """
        replies = []
        *whole, rest = data.split(b"\n")
        for piece in whole:
            self._hold(piece)
            replies.append(self._reply(bytes(self._held)))
            self._held.clear()
        self._hold(rest)
        return replies

    def _hold(self, piece: bytes) -> None:
        if len(self._held) + len(piece) > api.MAX_MESSAGE:
            raise TemplateLostError(f"a reply has more than {api.MAX_MESSAGE} bytes")
        self._held += piece

    def _reply(self, line: bytes) -> Reply:
        try:
            message = api.parse_json(line)
        except ValueError as error:
            raise TemplateLostError(f"a reply is no JSON: {error}") from error
        if not self._asked:
            raise TemplateLostError("there is a reply that nobody asked for")
        number, method = self._asked.popleft()
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            raise TemplateLostError(f"{method}: the reply is none of JSON-RPC 2.0")
        known = ("result" in message) != ("error" in message)
        if type(message.get("id")) is not int or message["id"] != number or not known:
            raise TemplateLostError(f"{method}: this is not its reply: {line.decode()!r:.100}")
        if "error" in message:
            return Reply(method, error=_error_of(method, message["error"]))
        return Reply(method, message["result"])


def _error_of(method: str, body: object) -> TemplateError:
    fields = body if isinstance(body, dict) else {}
    code, text = fields.get("code"), fields.get("message")
    if type(code) is not int or not isinstance(text, str):
        raise TemplateLostError(f"{method}: the error is none of JSON-RPC 2.0")
    data = fields.get("data")
    trace = data.get("traceback", "") if isinstance(data, dict) else ""
    kind = _ERRORS.get(code, TemplateError)
    shown = trace[-_TRACEBACK:] if isinstance(trace, str) else ""
    return kind(text[:_SHOWN], code=code, server_traceback=shown)


def data_of(result: object, limit: int) -> bytes:
    """The bytes that `read_transport` gave.

    Raises:
        TemplateLostError: They are no base85, none, or more than asked for.
    """
    try:
        data = base64.b85decode(result) if isinstance(result, str) else b""
    except ValueError as error:
        raise TemplateLostError(f"read_transport gave no base85: {error}") from error
    if not 1 <= len(data) <= limit:
        raise TemplateLostError(f"read_transport gave {len(data)} bytes, asked for 1 to {limit}")
    return data


def info_of(result: object) -> api.ServerInfo:
    """What a server says of itself.

    Raises:
        TemplateVersionError: It speaks another version.
        TemplateLostError: A field is missing, unknown, or of the wrong type.
    """
    found = _fields(result, "server_info_query")
    if found.get("version") != api.VERSION:
        raise TemplateVersionError(
            f"the server speaks version {found.get('version')!r:.100} of the project API, "
            f"this microddsp {api.VERSION}"
        )
    try:
        options = api.check_list("project_options", found.get("project_options", []))
        made = api.ServerInfo(
            **{**found, "project_options": tuple(api.ProjectOption(**o) for o in options)}
        )
        for name in ("platform_name", "model_library_format_path", "image"):
            api.check_type(name, getattr(made, name), "str")
        api.check_type("is_template", made.is_template, "bool")
        if made.board is not None:
            api.check_type("board", made.board, "dict")
        for name, pieces in api.check_type("profile", made.profile, "dict").items():
            for piece in api.check_list(f"profile of {name!r:.100}", pieces):
                api.check_type("a piece", piece, "str")
        names = [option.name for option in made.project_options]
        if len(set(names)) < len(names):
            raise TemplateLostError("server_info_query has an option twice")
    except (api.ParameterError, TypeError) as error:
        raise TemplateLostError(f"server_info_query makes no sense: {error}") from error
    return made


def transport_of(result: object) -> api.TransportInfo:
    """What `open_transport` gave.

    Raises:
        TemplateLostError: A field is unknown, of the wrong type, or no time.
    """
    found = _fields(result, "open_transport")
    try:
        made = api.TransportInfo(**found)
        times = [
            api.check_type(name, getattr(made, name), "float")
            for name in ("session_start_s", "session_established_s")
        ]
        baud = api.check_type("baud", made.baud, "int")
    except (api.ParameterError, TypeError) as error:
        raise TemplateLostError(f"open_transport makes no sense: {error}") from error
    if not all(map(api.is_time, times)) or not 0 <= baud < 2**32:
        raise TemplateLostError(f"open_transport makes no sense: {found!r:.200}")
    return made


def _fields(result: object, method: str) -> dict[str, Any]:
    if not isinstance(result, dict):
        raise TemplateLostError(f"{method} gave {type(result).__name__}")
    return result
