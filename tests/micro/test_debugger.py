"""A firmware under gdb's remote protocol, which the test speaks itself."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from microddsp.errors import BoardError
from microddsp.micro.boards import find_board
from microddsp.micro.debugger import DebugServer
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.platforms import Project, build_project, create_project
from microddsp.micro.rpc.symbols import Symbols

pytestmark = pytest.mark.qemu
Maker = Callable[..., CompiledModel]
Running = Callable[[int], bool]
ROOT = Path(__file__).resolve().parents[2]


class Gdb:
    """A little of gdb: `$text#checksum`, each acknowledged with +."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), 20.0)

    def ask(self, text: str) -> str:
        self._socket.sendall(f"${text}#{sum(text.encode()) % 256:02x}".encode())
        said = b""
        while b"#" not in said or len(said.partition(b"#")[2]) < 2:
            more = self._socket.recv(4096)
            assert more
            said += more
        self._socket.sendall(b"+")
        return said.partition(b"$")[2].partition(b"#")[0].decode()

    def pc(self) -> int:
        return int.from_bytes(bytes.fromhex(self.ask("g")[15 * 8 : 16 * 8]), "little")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def project(probe: Maker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = create_project(tmp_path_factory.mktemp("debug") / "p", probe(), "mps2-an386")
    build_project(made.directory)
    yield made


def test_a_breakpoint_in_the_model_is_met(project: Project, running: Running) -> None:
    symbols = Symbols(project.image)
    start, there = (symbols.value(name) for name in ("reset_handler", "probe_process"))
    assert start and there
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    with DebugServer(project) as server:
        assert server.has_lines
        assert str(project.image) in server.gdb_command
        assert f"'target remote {server.address}'" in server.gdb_command
        gdb = Gdb(server.address)
        assert gdb.ask("?").startswith("T05")
        assert gdb.pc() == start & ~1
        assert gdb.ask(f"Z0,{there & ~1:x},2") == "OK"
        for _ in range(2):  # the next block comes by itself
            assert gdb.ask("c").startswith("T05")
            assert gdb.pc() == there & ~1
        now = {p.pid for p in psutil.Process().children(recursive=True)}
        below = [pid for pid in now - before if running(pid)]
        assert len(below) >= 2
        gdb.close()
    assert not any(map(running, below))
    assert symbols.find(there).line.startswith("probe.c:")


def test_ctrl_c_ends_the_command_and_its_emulator(project: Project, running: Running) -> None:
    command = (
        # a shell's background job ignores it
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from microddsp.cli.app import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", command, "micro", "debug", str(project.directory)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout
    told = [process.stdout.readline() for _ in range(3)]
    assert "-ex 'break probe_process'" in told[1]
    address = told[0].split()[-1].rstrip(":")
    with pytest.raises(BoardError, match="gdb cannot be served") as taken:
        DebugServer(project, gdb_port=int(address.rpartition(":")[2]))
    assert "--gdb-port" in taken.value.hint
    Gdb(address).close()  # it answers as soon as it is told of
    below = [p.pid for p in psutil.Process(process.pid).children(recursive=True)]
    assert len(below) == 2
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert process.stdout.read() == "ended\n"
    process.stdout.close()
    assert not any(map(running, below))
    assert not Path(f"/proc/{below[0]}").exists()  # ended and collected, not orphaned


BOARD_FILE = """description = "a board"
target = "cortex-m4f"
clock_hz = 80_000_000
stack_bytes = 8192
[flash]
origin = 0x08000000
kbytes = 1024
[ram]
origin = 0x20000000
kbytes = 96
[serial]
driver = "uart_cmsdk.c"
"""


def test_a_real_boards_server_is_what_its_file_says(tmp_path: Path, project: Project) -> None:
    script = tmp_path / "server.py"
    script.write_text("import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])")
    (tmp_path / "mine.toml").write_text(
        BOARD_FILE + f'debug = ["{sys.executable}", "{script}", "{tmp_path}/told", "{{gdb_port}}"]'
    )
    own = Project(
        *(project.directory, "serial", find_board(str(tmp_path / "mine.toml"))),
        *(project.image, project.signatures, {}),
    )
    with DebugServer(own) as server:
        server.wait()
        assert (tmp_path / "told").read_text() == server.address.rpartition(":")[2]


def test_a_board_without_a_server_for_gdb_says_so(tmp_path: Path, project: Project) -> None:
    (tmp_path / "mine.toml").write_text(BOARD_FILE)
    for board, words in (
        (find_board(str(tmp_path / "mine.toml")), "names no server for gdb"),
        (find_board("host"), "is a process of this computer"),
        (None, "your own tools"),
    ):
        own = Project(project.directory, "x", board, project.image, project.signatures, {})
        with pytest.raises(BoardError, match=words):
            DebugServer(own)
