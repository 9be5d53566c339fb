"""Templates as platforms: created, built, flashed, opened, run; ours and somebody else's."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from microddsp.cli.app import main
from microddsp.errors import (
    BoardError,
    DeviceFaultError,
    DeviceLostError,
    DeviceTimeoutError,
    LinkError,
    TemplateError,
)
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.platforms import (
    Template,
    build_project,
    check_options,
    create_project,
    find_platform,
    flash_project,
    read_project,
)
from microddsp.micro.project_api.server import PROGRAM
from microddsp.micro.session import BoardSession, open_project
from tests.micro.conftest import make_model

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/template_project"
SERVE = "from microddsp.micro.project_api.adapter import serve\n\nserve({!r}, __file__)\n"
ONES = np.ones((1, 16), np.float32)
BODY = """    if (x[0] == 2.0f) {
        y[0] = *(volatile float *)8;
    }
    if (x[0] == 3.0f) {
        for (volatile int32_t forever = 1; forever != 0;) {
        }
    }
    if (x[0] == 4.0f) {
        _exit(9);
    }
    for (int32_t i = 0; i < 8; ++i) {
        self->sum += x[i];
        y[i] = self->sum;
    }"""
HARM = BODY.replace("y[0] = *(volatile float *)8;", '__asm__ volatile("udf #0");').replace(
    "_exit(9);", "y[1] = 0.0f;"
)
Edit = Callable[..., Path]


def renamed(model: CompiledModel, name: str) -> CompiledModel:
    def words(text: str) -> str:
        return text.replace("probe", name).replace("PROBE", name.upper())

    return replace(
        model,
        name=name,
        signature=replace(model.signature, name=name),
        sources={words(file): words(text) for file, text in model.sources.items()},
    )


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built project of the example."""
    folder = tmp_path_factory.mktemp("example") / "fw"
    model = make_model(BODY, target="host", helpers="#include <unistd.h>")
    create_project(folder, model, platform=Template(EXAMPLE))
    build_project(folder, {"optimise": "1"})
    return folder


@pytest.fixture
def edited(tmp_path: Path) -> Edit:
    """A copy of a folder whose server has other words in it."""

    def make(source: Path, *changes: tuple[str, str]) -> Path:
        folder = tmp_path / "edited"
        shutil.copytree(source, folder)
        text = (folder / PROGRAM).read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (folder / PROGRAM).write_text(text)
        return folder

    return make


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same firmware, built in this process and through the project API."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "template").mkdir()
    (folder / "template" / PROGRAM).write_text(SERVE.format("qemu"))
    model = make_model(HARM)
    for name, platform in (("here", "qemu"), ("there", Template(folder / "template"))):
        project = create_project(
            folder / name, model, options={"stack": "4096", "profile": "yes"}, platform=platform
        )
        build_project(project.directory)
    return folder / "here", folder / "there"


def test_the_example_is_created_built_and_run(example: Path, running: Callable) -> None:
    project = read_project(example)
    assert (project.platform, project.image) == ("template", example / "firmware")
    flash_project(example)  # nothing to do, and no error
    with open_project(example) as board:
        assert board.run(ONES).tolist() == [list(range(1, 17))]
        timing = board.time(ONES)
        assert (timing.board, timing.unit) == ("a-process", "nanoseconds")
        pids = board._link.process_ids()
        assert all(map(running, pids))
    assert not any(map(running, pids))


def test_the_shortest_template_of_the_documentation_works(tmp_path: Path) -> None:
    docs = (EXAMPLE.parents[1] / "docs/project-api.md").read_text()
    program = re.search(r"```py\n(# microddsp_api_server.py.*?)```", docs, re.DOTALL)
    header = re.search(r"```c\n(#define BOARD_STACK_BYTES.*?)```", docs, re.DOTALL)
    assert program and header
    (tmp_path / "template").mkdir()
    (tmp_path / "template" / PROGRAM).write_text(program[1])
    (tmp_path / "template/board.h").write_text(header[1])
    template = Template(tmp_path / "template")
    create_project(tmp_path / "fw", make_model(target="host"), platform=template)
    build_project(tmp_path / "fw")
    with open_project(tmp_path / "fw") as board:
        assert board.run(ONES).tolist() == [list(range(1, 17))]


@pytest.mark.parametrize("kind", ["example", "host"])
def test_several_models_are_in_one_project_of_a_template(kind: str, tmp_path: Path) -> None:
    """A template that knows nothing of it, and a platform of ours behind the API."""
    folder = EXAMPLE
    if kind == "host":
        folder = tmp_path / "template"
        folder.mkdir()
        (folder / PROGRAM).write_text(SERVE.format("host"))
    scaled = "for (int32_t i = 0; i < 8; ++i) { y[i] = 3.0f * x[i]; }"
    models = [make_model(target="host"), renamed(make_model(scaled, target="host"), "by_3")]
    by_name = {model.name: model for model in models}  # as `load_models` gives them
    project = create_project(tmp_path / "fw", by_name, platform=Template(folder))
    assert [s.name for s in project.signatures] == ["probe", "by_3"]
    build_project(tmp_path / "fw")
    with open_project(tmp_path / "fw") as board:
        assert board["by_3"].run(ONES).tolist() == [[3.0] * 16]
        assert board["probe"].run(ONES).tolist() == [list(range(1, 17))]


def test_a_project_that_lost_one_of_its_models_is_told(edited: Edit, tmp_path: Path) -> None:
    keep_one = (
        'shutil.copy(archive, project_dir / "model.tar")',
        "from microddsp.micro.package.archive import load_models\n"
        '        load_models(archive)["probe"].save(project_dir / "model.tar")',
    )
    folder = edited(EXAMPLE, keep_one)
    models = [make_model(target="host"), renamed(make_model(target="host"), "other")]
    with pytest.raises(TemplateError, match="the project has another model"):
        create_project(tmp_path / "fw", models, platform=Template(folder))
    assert not (tmp_path / "fw").exists()  # it can be tried again
    (tmp_path / "fw").mkdir()
    with pytest.raises(TemplateError, match="the project has another model"):
        create_project(tmp_path / "fw", models, platform=Template(folder))
    assert not any((tmp_path / "fw").iterdir())


def test_a_project_of_a_template_that_is_not_built_is_told(tmp_path: Path) -> None:
    create_project(tmp_path / "fw", make_model(target="host"), platform=Template(EXAMPLE))
    for use in (flash_project, open_project):
        with pytest.raises(BoardError, match="there is no firmware") as said:
            use(tmp_path / "fw")
        assert said.value.hint == "build the project first"


def test_a_device_of_a_template_fails_as_any_other(example: Path) -> None:
    with open_project(example, timeout_s=20.0) as board:
        with pytest.raises(DeviceFaultError, match="probe_process"):
            board.run(2 * ONES)
        board.run(ONES)  # the session goes on
        with pytest.raises(DeviceLostError, match="the device is gone"):
            board.run(4 * ONES)
        with pytest.raises(DeviceLostError):
            board.run(ONES)


def test_a_device_of_a_template_that_hangs_is_an_error_in_time(
    example: Path, edited: Edit, running: Callable
) -> None:
    folder = edited(example, ("TransportInfo()", "TransportInfo(20.0, 1.5)"))
    board = open_project(folder, timeout_s=0.1)  # the template's own time is longer
    pids = board._link.process_ids()
    with pytest.raises(DeviceTimeoutError, match="1.5 s"):
        board.run(3 * ONES)
    board.close()
    assert not any(map(running, pids))


NOISE = """if __name__ == "__main__":
    import random

    dice = random.Random(5)
    read = Server.read_transport

    def harmed(server, n, timeout):
        data = bytearray(read(server, n, timeout))
        while dice.random() < 0.2 and len(data) > 1:
            del data[dice.randrange(len(data))]
        return bytes(data)

    Server.read_transport = harmed
"""


def test_a_transport_that_loses_bytes_has_frames(edited: Edit, tmp_path: Path) -> None:
    template = edited(
        EXAMPLE,
        ('"port_buffer.*", ', '"frames.*", "uart.h", "uart_posix.c", '),
        ('"port_p*.c"', '"port_posix.c", "port_protect.c"'),
        ("TransportInfo()", "TransportInfo(baud=4_000_000)"),
        ('if __name__ == "__main__":\n', NOISE),
    )
    model = make_model(target="host")
    create_project(tmp_path / "fw", model, platform=Template(template))
    build_project(tmp_path / "fw", {"optimise": "0"})
    with open_project(tmp_path / "fw", timeout_s=20.0) as board:
        for _ in range(5):
            assert board.run(ONES).tolist() == [list(range(1, 17))]


@pytest.mark.parametrize("when", ["idle", "busy"])
def test_a_server_killed_in_a_session_is_an_error(
    example: Path, running: Callable, when: str
) -> None:
    board = open_project(example, timeout_s=30.0)
    pids = board._link.process_ids()
    if when == "idle":
        os.kill(pids[1], signal.SIGKILL)
    else:
        killer = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {pids[1]}"])
    with pytest.raises(DeviceLostError, match="server ended"):
        board.run((1 if when == "idle" else 3) * ONES)
    if when == "busy":
        killer.wait()
    board.close()
    assert not any(map(running, pids))


def test_a_server_whose_bridge_is_killed_ends_with_its_device(
    example: Path, running: Callable
) -> None:
    board = open_project(example)
    bridge, server = board._link.process_ids()
    device = int(Path(f"/proc/{server}/task/{server}/children").read_text())
    os.kill(bridge, signal.SIGKILL)
    deadline = time.monotonic() + 60.0
    while (running(server) or running(device)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not running(server) and not running(device)
    with pytest.raises(LinkError):
        board.run(ONES)
    board.close()


@pytest.mark.parametrize(
    ("method", "broken", "words"),
    [
        ("open_transport", "raise KeyError('cable')", r"KeyError: 'cable' \(File .*line \d+"),
        ("open_transport", "import os; os._exit(4)", "the server ended in open_transport"),
        ("read_transport", "raise KeyError('cable')", r"KeyError: 'cable' \(File .*line \d+"),
        ("write_transport", "raise KeyError('cable')", r"KeyError: 'cable' \(File .*line \d+"),
        ("read_transport", "import os; os._exit(4)", "server ended"),
        ("open_transport", "return None", "open_transport gave NoneType, not TransportInfo"),
        ("read_transport", "return None", "read_transport gave NoneType, not bytes"),
        ("read_transport", "return b''", "where nothing came, raise IoTimeoutError"),
        ("read_transport", "return bytes(n)", "the device sent what is no answer"),
        ("open_transport", "raise ValueError('\\udcff')", r"ValueError: \\udcff"),
        ("read_transport", "raise ValueError('\\udcff')", r"ValueError: \\udcff"),
    ],
)
def test_a_transport_that_fails_is_a_link_error(
    example: Path, edited: Edit, method: str, broken: str, words: str
) -> None:
    head = next(
        line
        for line in (EXAMPLE / PROGRAM).read_text().splitlines()
        if line.startswith(f"    def {method}(")
    )
    folder = edited(example, (head, f"{head}\n        {broken}"))
    with pytest.raises(LinkError, match=words):
        open_project(folder)


def test_what_a_server_says_is_logged(
    example: Path, edited: Edit, caplog: pytest.LogCaptureFixture
) -> None:
    folder = edited(
        example,
        ("    def build(self, options):", "    def build(self, options):\n        print('built')"),
    )
    with caplog.at_level(logging.INFO, "microddsp.template"):
        build_project(folder)
    assert "built" in caplog.messages


def test_a_build_that_fails_shows_the_compilers_words(example: Path, edited: Edit) -> None:
    folder = edited(example)
    (folder / "probe.c").write_text("int nonsense")
    with pytest.raises(TemplateError, match="make") as caught:
        build_project(folder)
    assert re.search(r"probe\.c:1:\d+: error: ", str(caught.value))
    assert "CalledProcessError" in caught.value.server_traceback


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimize": "1"}, "did you mean 'optimise'"),
        ({"heap": "much"}, "not a whole number"),
        ({"optimise": "4"}, "unknown optimise '4'"),
        ({"verbose": "maybe"}, "not yes or no"),
        ({"board": "x"}, "has no option 'board'"),
    ],
)
def test_options_of_a_template_are_checked(options: dict[str, str], words: str) -> None:
    with pytest.raises(BoardError) as caught:
        check_options(Template(EXAMPLE), options)
    assert words in str(caught.value)


def test_the_serial_number_says_which_board_is_opened(example: Path, edited: Edit) -> None:
    with pytest.raises(BoardError, match="open_transport has no option 'serial_number'"):
        open_project(example, serial_number="B7")
    takes = """OPTIONS = (
    ProjectOption("serial_number", "which board", optional=("open_transport",)),
"""
    tells = (
        "    def open_transport(self, options):\n        raise OSError(options['serial_number'])\n"
    )
    head = "    def open_transport(self, options):\n"
    folder = edited(example, ("OPTIONS = (\n", takes), (head, tells))
    with pytest.raises(LinkError, match="OSError: B7"):
        open_project(folder, serial_number="B7")


def test_a_required_option_is_asked_for(edited: Edit, tmp_path: Path) -> None:
    folder = edited(
        EXAMPLE,
        ('default=1 << 20, optional=("generate_project",)', 'required=["generate_project"]'),
    )
    model = make_model(target="host")
    with pytest.raises(BoardError, match="needs option 'heap': bytes for tensors"):
        create_project(tmp_path / "fw", model, platform=Template(folder))
    options = {"heap": "65536"}
    create_project(tmp_path / "fw", model, options=options, platform=Template(folder))
    assert "BOARD_HEAP_BYTES 65536u" in (tmp_path / "fw/board.h").read_text()
    assert read_project(tmp_path / "fw").options == options
    with pytest.raises(BoardError, match="'heap' has no meaning for build"):
        build_project(tmp_path / "fw", {"heap": "65536"})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('is_template = not (HERE / "model.tar").is_file()', "is_template = True", "calls itself"),
        ('is_template, "model.tar"', 'is_template, "none.tar"', "the project has no model"),
        ('is_template, "model.tar"', 'is_template, "../model.tar"', "outside the project"),
        ('OPTIONS, "firmware"', 'OPTIONS, "/bin/sh"', "outside the project"),
        ('"target": "host"', '"target": "toaster"', "the project's board makes no sense"),
        ("Path(__file__).name, ", '"Makefile", ', "has no microddsp_api_server.py"),
    ],
)
def test_a_template_that_writes_no_project_is_told(
    edited: Edit, tmp_path: Path, old: str, new: str, words: str
) -> None:
    template = Template(edited(EXAMPLE, (old, new)))
    with pytest.raises(TemplateError, match=words):
        create_project(tmp_path / "fw", make_model(target="host"), platform=template)


def test_a_template_without_a_board_has_nothing_to_ask(edited: Edit, tmp_path: Path) -> None:
    template = Template(edited(EXAMPLE, ('"firmware", BOARD)', '"firmware")')))
    create_project(tmp_path / "fw", make_model(target="host"), platform=template)
    with pytest.raises(BoardError, match="no RPC server to ask"):
        open_project(tmp_path / "fw")


def test_a_project_is_no_template(example: Path, tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="is a project, no template"):
        create_project(tmp_path / "fw", make_model(target="host"), platform=Template(example))


@pytest.mark.qemu
def test_firmware_made_through_the_api_is_the_same(pair: tuple[Path, Path]) -> None:
    here, there = map(read_project, pair)
    assert (there.platform, here.platform) == ("template", "qemu")
    assert there.board and here.board and there.board.name == here.board.name == "mps2-an386"
    assert there.pieces == here.pieces
    images = []
    for project in (here, there):
        binary = project.directory / "image.bin"
        command = ["arm-none-eabi-objcopy", "-O", "binary", str(project.image), str(binary)]
        subprocess.run(command, check=True)
        images.append(binary.read_bytes())
    assert images[0] == images[1]


@pytest.mark.qemu
def test_a_session_through_the_api_is_the_same(pair: tuple[Path, Path]) -> None:
    signal_in = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)

    def all_of(board: BoardSession) -> list[object]:
        with pytest.raises(DeviceFaultError) as fault:
            board.run(2 * ONES)
        f = fault.value
        facts = (str(f), f.pc, f.function, f.line)
        return [
            board.run(signal_in).tobytes(),
            board.time(signal_in),
            board.stack_bytes(),
            facts,
            board.board.unit,
        ]

    found = []
    for folder in pair:
        with open_project(folder) as board:
            found.append(all_of(board))
    assert found[0] == found[1]


@pytest.mark.qemu
def test_an_emulator_behind_the_api_that_hangs_leaves_nothing(
    pair: tuple[Path, Path], running: Callable
) -> None:
    board = open_project(pair[1], timeout_s=3.0)
    server = board._link.process_ids()[1]
    emulator = int(Path(f"/proc/{server}/task/{server}/children").read_text())
    with pytest.raises(DeviceTimeoutError):
        board.run(3 * ONES)
    board.close()
    deadline = time.monotonic() + 60.0
    while running(emulator) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not running(emulator) and not running(server)


def test_the_errors_of_a_platform_behind_the_api_are_its_own(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    template = Template(pair[1].parent / "template")
    assert [o.name for o in template.options][:3] == [o.name for o in find_platform("qemu").options]
    with pytest.raises(TemplateError, match="the model was compiled for cortex-m4f"):
        create_project(tmp_path, make_model(), "mps2-an385", platform=template)
    with pytest.raises(TemplateError, match="has no flash to write"):
        flash_project(pair[1])
    assert json.loads((pair[1] / "project.json").read_text())["options"]["stack"] == "4096"


def ask(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out + err


def test_the_command_line_shows_a_templates_options(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("micro", "create", "--platform", "template", "--template-dir", EXAMPLE)
    status, told = ask(capsys, *words, "--list-options", "--json")
    optimise = next(o for o in json.loads(told) if o["name"] == "optimise")
    assert status == 0
    assert optimise == {
        "name": "optimise",
        "help": "-O of the compiler",
        "type": "int",
        "default": "2",
        "choices": ["0", "1", "2", "3"],
        "closed": True,
        "required": [],
        "optional": ["build"],
    }
    assert re.search(r"heap +int +1048576 +\(create\)", ask(capsys, *words, "--list-options")[1])


def test_the_command_line_makes_builds_and_runs_a_templates_project(
    example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_model(target="host").save(tmp_path / "m.tar")
    words = ("micro", "create-project", tmp_path / "fw", tmp_path / "m.tar", "template")
    template = ("--template-dir", EXAMPLE)
    status, told = ask(capsys, *words)
    assert (status, "go together" in told) == (2, True)
    status, told = ask(capsys, *words, *template, "-o", "heap=much")
    assert (status, "not a whole number" in told) == (2, True)
    status, told = ask(capsys, *words, "--template-dir", tmp_path)
    assert (status, "there is no template in" in told) == (2, True)
    assert not (tmp_path / "fw").exists()
    assert ask(capsys, *words, *template, "-o", "heap=262144")[0] == 0
    assert read_project(tmp_path / "fw").options == {"heap": "262144"}
    status, told = ask(capsys, "micro", "build", tmp_path / "fw", "-o", "optimise=9")
    assert (status, "unknown optimise '9'" in told) == (2, True)
    assert ask(capsys, "micro", "build", example, "-o", "optimise=1")[0] == 0
    assert ask(capsys, "micro", "flash", example)[0] == 0
    status, told = ask(capsys, "micro", "flash", example, "--port", "/dev/ttyS9")
    assert (status, "flash has no option 'port'" in told) == (2, True)
    status, told = ask(capsys, "micro", "run", example, "--json")
    assert status == 0
    assert json.loads(told)["board"] == "a-process"


def test_reading_a_project_runs_nothing(example: Path, tmp_path: Path) -> None:
    (tmp_path / PROGRAM).write_text("open('ran', 'w')")
    shutil.copy(example / "project.json", tmp_path)
    assert read_project(tmp_path).platform == "template"
    assert not (tmp_path / "ran").exists()
