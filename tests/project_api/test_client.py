"""The client's end of the project API, against servers that fail in every way."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from microddsp.errors import (
    IoTimeoutError,
    TemplateError,
    TemplateLostError,
    TemplateTimeoutError,
    TemplateVersionError,
    TransportClosedError,
)
from microddsp.micro.project_api import server as api
from microddsp.micro.project_api.client import ProjectClient
from microddsp.micro.project_api.messages import Messages, data_of, info_of, transport_of

# `behave(method, params)` of each test stands between these.
BEFORE = """import json, os, subprocess, sys, time
requests, replies = int(sys.argv[2]), int(sys.argv[4])
INFO = {"platform_name": "odd", "is_template": True, "version": 1}
def put(text):
    os.write(replies, text if isinstance(text, bytes) else text.encode())
def reply(result):
    put(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}) + "\\n")
def fail(code, message, **more):
    error = {"code": code, "message": message, **more}
    put(json.dumps({"jsonrpc": "2.0", "id": number, "error": error}) + "\\n")
"""
AFTER = """
for line in os.fdopen(requests, "rb"):
    message = json.loads(line)
    number = message["id"]
    behave(message["method"], message["params"])
"""
LIMITS = {name: 60.0 for name in api.PARAMETERS}
Start = Callable[..., ProjectClient]
METHODS: dict[str, Callable[[ProjectClient], object]] = {
    "server_info_query": lambda client: client.info(),
    "generate_project": lambda client: client.generate_project(Path(), Path(), Path(), {}),
    "build": lambda client: client.build({}),
    "flash": lambda client: client.flash({}),
    "open_transport": lambda client: client.open_transport({}),
    "read_transport": lambda client: client.read_transport(10, 0.1),
    "write_transport": lambda client: client.write_transport(b"abc", 0.1),
    "close_transport": lambda client: client.close_transport(),
}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    clients: list[ProjectClient] = []

    def make(behaviour: str, **limits: float) -> ProjectClient:
        lines = "".join(f"    {line}\n" for line in behaviour.splitlines())
        program = f"{BEFORE}def behave(method, params):\n{lines}{AFTER}"
        (tmp_path / api.PROGRAM).write_text(program)
        clients.append(ProjectClient(tmp_path, {**LIMITS, **limits}))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def runs(pid: int) -> bool:
    """Whether a process runs; one that ended and was not collected does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def is_gone(client: ProjectClient) -> bool:
    return not client.server.running and not runs(client.server.process_id)


def test_a_folder_without_a_server_is_no_template(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="has no microddsp_api_server.py"):
        ProjectClient(tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_a_server_that_dies_is_an_error_with_its_last_words(start: Start, method: str) -> None:
    client = start("print('the cable is gone', flush=True)\nos._exit(3)")
    with pytest.raises(TemplateLostError, match=f"ended in {method}:\nthe cable is gone"):
        METHODS[method](client)
    assert is_gone(client)
    with pytest.raises(TemplateLostError, match="the server has ended"):
        client.info()


def test_a_server_that_is_killed_while_it_works_is_an_error(start: Start) -> None:
    client = start("time.sleep(60)")
    threading.Timer(0.3, os.kill, (client.server.process_id, signal.SIGKILL)).start()
    with pytest.raises(TemplateLostError, match="ended in build"):
        client.build({})
    assert is_gone(client)


def test_a_server_that_hangs_ends_with_all_that_it_started(start: Start, tmp_path: Path) -> None:
    hang = "if method == 'server_info_query':\n    reply(INFO)\n    return\n"
    hang += "p = subprocess.Popen(['sleep', '600'])\nopen('pid', 'w').write(str(p.pid))\np.wait()"
    client = start(hang, build=1.0)
    client.info()  # it is there
    begin = time.monotonic()
    with pytest.raises(TemplateTimeoutError, match="build did not end within 1 s"):
        client.build({})
    assert time.monotonic() - begin < 60.0
    assert is_gone(client)
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 60.0
    while runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not runs(child)


def test_a_server_that_ignores_its_end_is_ended(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microddsp.micro.project_api.client.ASK_S", 0.1)
    monkeypatch.setattr("microddsp.micro.project_api.client.STOP_S", 0.3)
    ignore = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)"
    client = start(ignore, flash=0.3)
    with pytest.raises(TemplateTimeoutError):
        client.flash({})
    assert is_gone(client)


def test_a_server_that_talks_without_an_end_is_ended(start: Start) -> None:
    client = start("while True: print('x' * 5000)", build=0.5)
    with pytest.raises(TemplateTimeoutError):
        client.build({})
    assert is_gone(client)


def test_a_server_that_closes_its_terminal_is_still_answered(start: Start) -> None:
    client = start("os.close(1)\nos.close(2)\ntime.sleep(0.1)\nreply(None)\ntime.sleep(0.1)")
    client.build({})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("put('garbage\\n')", "no JSON"),
        ("put(b'\\xff\\n')", "no JSON"),
        ("put('[' * 100000 + '\\n')", "no JSON"),
        ("put('[]\\n')", "none of JSON-RPC"),
        ("put('{}\\n{}\\n')", "none of JSON-RPC"),
        (
            "line = json.dumps({'jsonrpc': '2.0', 'id': 1, 'result': 1})\nput((line + '\\n') * 2)",
            "nobody asked for",
        ),
        ("put('x' * (1 << 16))\nwhile True: put('x' * (1 << 16))", "more than 1048576 bytes"),
        ("number = 7\nput(json.dumps({'jsonrpc': '2.0', 'id': 7, 'result': 1}) + '\\n')", "not"),
        ("put(json.dumps({'jsonrpc': '2.0', 'id': number}) + '\\n')", "this is not its reply"),
        ("put(json.dumps({'jsonrpc': '2.0', 'id': True, 'result': 1}) + '\\n')", "not its reply"),
        ("fail('no', 'number')", "error is none of JSON-RPC"),
        ("fail(1, 2)", "error is none of JSON-RPC"),
    ],
)
def test_what_is_no_answer_ends_the_server(start: Start, answer: str, words: str) -> None:
    client = start(answer)
    with pytest.raises(TemplateLostError, match=words):
        client.build({})
    assert is_gone(client)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (api.SERVER_ERROR, TemplateError),
        (api.INVALID_PARAMS, TemplateError),
        (api.METHOD_NOT_FOUND, TemplateError),
        (api.TRANSPORT_CLOSED, TransportClosedError),
        (api.IO_TIMEOUT, IoTimeoutError),
        (api.UNSUPPORTED_VERSION, TemplateVersionError),
    ],
)
def test_an_error_has_its_type_and_the_servers_traceback(
    start: Start, code: int, kind: type[TemplateError], tmp_path: Path
) -> None:
    client = start(f"fail({code}, 'no luck', data={{'traceback': 'line 12, in build'}})")
    for _ in range(2):  # it goes on
        with pytest.raises(TemplateError, match="no luck") as caught:
            client.build({})
        assert type(caught.value) is kind
        assert caught.value.code == code
        assert caught.value.server_traceback == "line 12, in build"
        assert "line 12, in build" in caught.value.__notes__[0]
        assert caught.value.where == str(tmp_path)


def test_a_server_of_another_version_is_refused(start: Start) -> None:
    client = start("reply({**INFO, 'version': 2})")
    with pytest.raises(TemplateVersionError, match="server speaks version 2 .* this microddsp 1"):
        client.info()
    assert is_gone(client)


def test_a_read_that_gives_more_than_asked_for_ends_the_server(start: Start) -> None:
    client = start("import base64\nreply(base64.b85encode(bytes(11)).decode())")
    with pytest.raises(TemplateLostError, match="gave 11 bytes, asked for 1 to 10"):
        client.read_transport(10, 0.1)
    assert is_gone(client)


def test_a_read_that_takes_longer_than_asked_for_ends_the_server(start: Start) -> None:
    client = start("time.sleep(60)", read_transport=0.2)
    with pytest.raises(TemplateTimeoutError, match="read_transport did not end within 0.3 s"):
        client.read_transport(10, 0.1)
    assert is_gone(client)


def test_too_many_options_are_not_sent(start: Start) -> None:
    client = start("reply(None)")
    with pytest.raises(TemplateError, match="the options have"):
        client.build({"name": "x" * api.MAX_MESSAGE})
    client.build({"name": "x" * 100_000})


GOOD = {
    "platform_name": "p",
    "is_template": False,
    "model_library_format_path": "m.tar",
    "project_options": [{"name": "o", "help": "h", "optional": ["build"]}],
    "image": "i",
    "board": {"name": "b"},
    "profile": {"m": ["k0"]},
    "version": 1,
}


@pytest.mark.parametrize(
    "change",
    [
        {"platform_name": 1},
        {"is_template": 1},
        {"image": None},
        {"board": []},
        {"profile": []},
        {"profile": {"m": "k0"}},
        {"profile": {"m": [1]}},
        {"more": 1},
        {"project_options": {}},
        {"project_options": [1]},
        {"project_options": [{"name": "o"}]},
        {"project_options": [{"name": "o", "help": "h", "optional": [[]]}]},
        {"project_options": GOOD["project_options"] * 2},
    ],
)
def test_an_info_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    assert info_of(GOOD).project_options[0].name == "o"
    with pytest.raises(TemplateLostError):
        info_of({**GOOD, **change})


@pytest.mark.parametrize(
    "result",
    [
        None,
        [],
        {"more": 1},
        {"session_start_s": -1},
        {"session_start_s": 1e9},
        {"session_start_s": "1"},
        {"baud": -1},
    ],
)
def test_times_that_make_no_sense_are_refused(result: object) -> None:
    assert transport_of({"session_start_s": 2, "baud": 9600}).baud == 9600
    with pytest.raises(TemplateLostError):
        transport_of(result)


def test_mutated_replies_are_taken_or_typed_errors() -> None:
    dice = random.Random(3)
    results = [GOOD, {"session_start_s": 2.0}, "VPaSF", None]
    for _ in range(3000):
        messages = Messages()
        messages.request("build", {})
        line = bytearray(
            json.dumps({"jsonrpc": "2.0", "id": 1, "result": dice.choice(results)}), "ascii"
        )
        for _ in range(dice.randint(0, 3)):
            at = dice.randrange(len(line))
            line[at : at + dice.randint(0, 4)] = dice.choice(
                [b"", b"[", b'"', b"1e999", b"\xff", b"{}"]
            )
        try:
            for reply in messages.feed(bytes(line) + b"\n"):
                for check in (info_of, transport_of, lambda result: data_of(result, 4)):
                    try:
                        check(reply.result)
                    except (TemplateLostError, TemplateVersionError):
                        pass
        except TemplateLostError:
            pass
