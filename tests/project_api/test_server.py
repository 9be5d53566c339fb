"""The server's end of the project API: what it answers to right, wrong and hostile messages."""

from __future__ import annotations

import base64
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from microddsp.micro.project_api import server as api
from microddsp.micro.project_api.server import ProjectOption, ProjectServer, ServerInfo

OPTIONS = (
    ProjectOption("name", "a text", required=("generate_project",)),
    ProjectOption("level", "a choice", "int", (0, 1, 2), default=1, optional=("build", "flash")),
    ProjectOption("rate", "a number", "float", optional=("build",)),
    ProjectOption("loud", "a truth", "bool", optional=("build",)),
)


class Recorder(ProjectServer):
    """Does what it is told, and remembers it."""

    def __init__(self) -> None:
        self.built: list[Mapping[str, Any]] = []
        self.device = bytearray()
        self.closed = 0

    def server_info(self) -> ServerInfo:
        return ServerInfo("recorder", True, project_options=OPTIONS)

    def build(self, options: Mapping[str, Any]) -> None:
        self.built.append(options)

    def flash(self, options: Mapping[str, Any]) -> None:
        raise ZeroDivisionError("no board")

    def open_transport(self, options: Mapping[str, Any]) -> api.TransportInfo:
        return api.TransportInfo(3.0)

    def close_transport(self) -> None:
        self.closed += 1

    def read_transport(self, n: int, timeout: float) -> bytes:
        if not self.device:
            raise api.IoTimeoutError("nothing")
        return bytes(self.device) if n == 7 else bytes(self.device[:n])

    def write_transport(self, data: bytes, timeout: float) -> None:
        self.device += data


class Peer:
    """Sends lines to a server, whole files at a time; gives its replies."""

    def __init__(self, folder: Path) -> None:
        self.server = Recorder()
        self._folder = folder

    def send(self, *lines: bytes) -> list[dict[str, Any]]:
        requests, replies = self._folder / "requests", self._folder / "replies"
        requests.write_bytes(b"".join(line + b"\n" for line in lines))
        with requests.open("rb") as source, replies.open("wb") as sink:
            api.serve_descriptors(self.server, source.fileno(), sink.fileno())
        return [json.loads(line) for line in replies.read_bytes().splitlines()]

    def calls(self, *calls: tuple[str, object]) -> list[dict[str, Any]]:
        return self.send(*(request(method, params) for method, params in calls))

    def error(self, method: str, params: object) -> tuple[int, str]:
        (reply,) = self.calls((method, params))
        return reply["error"]["code"], reply["error"]["message"]


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    return Peer(tmp_path)


def request(method: str, params: object, identity: object = 1) -> bytes:
    message = {"jsonrpc": "2.0", "id": identity, "method": method, "params": params}
    return json.dumps(message).encode()


def test_a_server_tells_what_it_is(peer: Peer) -> None:
    (reply,) = peer.calls(("server_info_query", {"version": api.VERSION}))
    assert (reply["jsonrpc"], reply["id"]) == ("2.0", 1)
    assert reply["result"]["platform_name"] == "recorder"
    assert reply["result"]["is_template"] is True
    assert [o["name"] for o in reply["result"]["project_options"]] == [o.name for o in OPTIONS]


def test_another_version_is_refused(peer: Peer) -> None:
    code, words = peer.error("server_info_query", {"version": api.VERSION + 1})
    assert code == api.UNSUPPORTED_VERSION
    assert "version 2" in words


def test_options_are_checked_typed_and_completed(peer: Peer) -> None:
    options = {"rate": 2, "loud": True}
    (reply,) = peer.calls(("build", {"options": options}))
    assert reply["result"] is None
    assert peer.server.built == [{"rate": 2.0, "loud": True, "level": 1}]
    assert isinstance(peer.server.built[0]["rate"], float)


@pytest.mark.parametrize(
    ("method", "params", "words"),
    [
        ("build", {}, "misses options"),
        ("build", {"options": {}, "more": 1}, "does not know more"),
        ("build", [{}], "by name"),
        ("build", {"options": "none"}, "options must be dict, got str"),
        ("build", {"options": {"volume": 1}}, "build has no option 'volume'"),
        ("flash", {"options": {"rate": 1.0}}, "flash has no option 'rate'"),
        ("build", {"options": {"level": "1"}}, "'level' must be int, got str"),
        ("build", {"options": {"level": True}}, "'level' must be int, got bool"),
        ("build", {"options": {"level": 3}}, "'level' is 3, not one of 0, 1, 2"),
        ("build", {"options": {"rate": "fast"}}, "'rate' must be float"),
        ("build", {"options": {"loud": 1}}, "'loud' must be bool, got int"),
        ("server_info_query", {"version": "1"}, "version must be int"),
        (
            "generate_project",
            {"archive": "a", "runtime_dir": "b", "project_dir": "c", "options": {}},
            "needs option 'name': a text",
        ),
    ],
)
def test_wrong_parameters_are_named(peer: Peer, method: str, params: object, words: str) -> None:
    code, said = peer.error(method, params)
    assert code == api.INVALID_PARAMS
    assert words in said
    assert not peer.server.built


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"", api.PARSE_ERROR),
        (b"{", api.PARSE_ERROR),
        (b"\xff\xfe\x00", api.PARSE_ERROR),
        (b'{"id": NaN}', api.PARSE_ERROR),
        (b"[" * 100_000, api.PARSE_ERROR),
        (b'{"id": ' + b"9" * 10_000 + b"}", api.PARSE_ERROR),
        (b" " * (api.MAX_MESSAGE + 1), api.PARSE_ERROR),
        (b"[]", api.INVALID_REQUEST),
        (b"null", api.INVALID_REQUEST),
        (b'{"id": 1, "method": "build"}', api.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "method": "build"}', api.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": [1], "method": "build"}', api.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1, "method": ["build"]}', api.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "build", "more": 1}', api.INVALID_REQUEST),
        (request("_open", {}), api.METHOD_NOT_FOUND),
        (request("__init__", {}), api.METHOD_NOT_FOUND),
        (request("close", {}), api.METHOD_NOT_FOUND),
    ],
)
def test_what_is_no_request_has_its_code_and_the_next_is_answered(
    peer: Peer, line: bytes, code: int
) -> None:
    wrong, right = peer.send(line, request("build", {"options": {}}, "two"))
    assert wrong["error"]["code"] == code
    assert (right["id"], right["result"]) == ("two", None)


def test_a_traceback_travels_with_the_error_of_a_template(peer: Peer) -> None:
    (reply,) = peer.calls(("flash", {"options": {}}))
    assert reply["error"]["code"] == api.SERVER_ERROR
    assert reply["error"]["message"] == "ZeroDivisionError: no board"
    assert "in flash" in reply["error"]["data"]["traceback"]


def test_a_transport_is_open_once_and_closed_at_the_end(peer: Peer) -> None:
    read = ("read_transport", {"n": 10, "timeout": 0})
    write = ("write_transport", {"data": base64.b85encode(b"\x00\xff!").decode(), "timeout": 1})
    opening = ("open_transport", {"options": {}})
    before, opened, again, nothing, written, got = peer.calls(
        read, opening, opening, read, write, read
    )
    assert before["error"]["code"] == api.TRANSPORT_CLOSED
    assert opened["result"] == {"session_start_s": 3.0, "session_established_s": 0.0, "baud": 0}
    assert again["error"]["code"] == api.INVALID_REQUEST
    assert nothing["error"]["code"] == api.IO_TIMEOUT
    assert written["result"] is None
    assert base64.b85decode(got["result"]) == b"\x00\xff!"
    assert peer.server.closed == 1
    peer.calls(opening, ("close_transport", {}), ("close_transport", {}))
    assert peer.server.closed == 2


@pytest.mark.parametrize(
    ("method", "params", "words"),
    [
        ("read_transport", {"n": 0, "timeout": 1}, "n must be 1 to"),
        ("read_transport", {"n": 1 << 40, "timeout": 1}, "n must be 1 to"),
        ("read_transport", {"n": 1, "timeout": -1}, "timeout must be 0 to"),
        ("read_transport", {"n": 1, "timeout": 1e300}, "timeout must be 0 to"),
        ("read_transport", {"n": 1, "timeout": None}, "timeout must be float"),
        ("write_transport", {"data": "no base85 \u00e9", "timeout": 1}, "no base85"),
        ("write_transport", {"data": "\x7f", "timeout": 1}, "no base85"),
        ("write_transport", {"data": "~~~~~", "timeout": 1}, "no base85"),
        ("write_transport", {"data": "0" * (api.MAX_DATA * 2), "timeout": 1}, "more than"),
    ],
)
def test_a_transport_takes_only_what_it_can(
    peer: Peer, method: str, params: object, words: str
) -> None:
    _, reply = peer.calls(("open_transport", {"options": {}}), (method, params))
    assert reply["error"]["code"] == api.INVALID_PARAMS
    assert words in reply["error"]["message"]


def test_a_template_that_reads_more_than_asked_for_is_told(peer: Peer) -> None:
    peer.server.device += bytes(20)
    _, reply = peer.calls(
        ("open_transport", {"options": {}}), ("read_transport", {"n": 7, "timeout": 1})
    )
    assert "gave 20 bytes, asked for 1 to 7" in reply["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "path"},
        {"choices": ("a", 1)},
        {"default": 1},
        {"choices": ("a",), "default": "b"},
        {"optional": ()},
        {"optional": ("close_transport",)},
        {"required": ("build",)},
        {"optional": "build"},
        {"help": None},
    ],
)
def test_an_option_that_contradicts_itself_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(api.ParameterError):
        ProjectOption(**{"name": "o", "help": "h", "optional": ("build",), **fields})


def mutated(dice: random.Random, line: bytes) -> bytes:
    changed = bytearray(line)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(changed))
        kind = dice.randrange(4)
        if kind == 0:
            changed[at] = dice.randrange(256)
        elif kind == 1:
            del changed[at : at + dice.randint(1, 9)]
        elif kind == 2:
            changed[at:at] = dice.choice([b'"', b"{", b"[", b"null", b"-1e999", b"\x00", b"1" * 99])
        else:
            changed[at:at] = changed[at : at + 30]
        changed = changed or bytearray(b" ")
    return bytes(changed).replace(b"\n", b" ")


def test_mutated_messages_are_each_answered_once(peer: Peer) -> None:
    dice = random.Random(7)
    data = base64.b85encode(bytes(range(64))).decode()
    right = [
        request("server_info_query", {"version": 1}),
        request("build", {"options": {"level": 2, "rate": 1.5}}),
        request("open_transport", {"options": {}}),
        request("read_transport", {"n": 7, "timeout": 0.5}),
        request("write_transport", {"data": data, "timeout": 0.5}),
        request("close_transport", {}),
    ]
    lines = [mutated(dice, dice.choice(right)) for _ in range(2000)]
    replies = peer.send(*lines, request("build", {"options": {}}, "last"))
    assert len(replies) == 2001
    assert all(("result" in reply) != ("error" in reply) for reply in replies)
    assert replies[-1]["id"] == "last" and replies[-1]["result"] is None


def test_a_message_without_an_end_takes_no_memory(peer: Peer, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(60 << 20)
    with (tmp_path / "endless").open("rb") as source, (tmp_path / "out").open("wb") as sink:
        api.serve_descriptors(peer.server, source.fileno(), sink.fileno())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20 << 10  # kilobytes
    assert (tmp_path / "out").read_bytes() == b""


def test_descriptors_have_time_outs_and_ends() -> None:
    out, into = os.pipe()
    with pytest.raises(api.IoTimeoutError, match="0.01 s"):
        api.read_descriptor(out, 10, 0.01)
    api.write_descriptor(into, b"abc", 1.0)
    assert api.read_descriptor(out, 2, 1.0) == b"ab"
    with pytest.raises(api.IoTimeoutError, match="bytes were not taken"):
        api.write_descriptor(into, bytes(1 << 20), 0.01)
    os.close(into)
    while len(api.read_descriptor(out, 1 << 16, 1.0)) == 1 << 16:
        pass
    with pytest.raises(api.TransportClosedError):
        api.read_descriptor(out, 1, 1.0)
    os.close(out)
    out, into = os.pipe()
    os.close(out)
    with pytest.raises(api.TransportClosedError):
        api.write_descriptor(into, b"a", 1.0)
    os.close(into)


def test_the_module_needs_nothing_but_python(tmp_path: Path) -> None:
    copy = tmp_path / "server.py"
    copy.write_bytes(Path(api.__file__).read_bytes())
    code = "import server, sys; print(server.VERSION, 'microddsp' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", f"import sys; sys.path[:0] = ['.']; {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(api.VERSION), "False"]
