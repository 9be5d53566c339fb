"""The command line: fast answers, one message per error, exit codes, JSON."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from microddsp.cli.app import main

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = """
import torch
from microddsp import dsp

RATE = 8000


class Plops(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.band = dsp.Bandpass(low_hz=90.0, high_hz=700.0, order=4, sample_rate_hz=RATE)
        self.envelope = dsp.Envelope(attack_s=0.002, release_s=0.05, sample_rate_hz=RATE)

    def forward(self, x):
        return {"envelope": self.envelope(self.band(x))}


def plops():
    return Plops()


def broken():
    return 1 / 0


def number():
    return 4


def imprecise():
    return dsp.Lowpass(1.0, 2, sample_rate_hz=16000, form="direct")
"""
# Runs the command and then reports what was imported: the light commands must stay light.
LIGHT = """
import sys
from microddsp.cli.app import main
try:
    main(sys.argv[1:])
finally:
    heavy = {"torch", "tvm", "scipy", "matplotlib"} & set(sys.modules)
    print("HEAVY", *sorted(heavy), file=sys.stderr)
"""


def microddsp(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "microddsp", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def light(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """As `microddsp`, in well under half a second of CPU time and without heavy imports."""
    # Generous, and the least of several: the promise is about an idle machine, this one runs tests.
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", LIGHT, *arguments],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "HEAVY\n" in done.stderr, done.stderr
        took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if took < 2.0:
            break
    assert took < 2.0
    return done


def test_a_name_that_the_terminal_cannot_write_is_no_error() -> None:
    program = "from microddsp.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "compile", "--help"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "60", "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\u2026" in done.stdout


def words(text: str) -> str:
    """The message without the box around it."""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", text)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("cli")
    (where / "pipeline.py").write_text(PIPELINE)
    time = np.arange(6400) / 8000
    np.savez(where / "in.npz", x=np.sin(2 * np.pi * 300 * time)[None].astype(np.float32))
    return where


@pytest.fixture(scope="session")
def archive(folder: Path) -> Path:
    done = microddsp(
        "compile", "pipeline.py:plops", "--name", "plops", "-o", "plops.tar", "--json", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "plops"
    return folder / "plops.tar"


# ---- fast


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("-h",),
        ("--version",),
        ("boards",),
        ("targets",),
        ("ops",),
        ("compile", "--help"),
        ("run", "--help"),
        ("fit", "--help"),
        ("verify-gradients", "--help"),
        ("ops", "--derivatives"),
        ("micro", "--help"),
        ("micro", "create-project", "--help"),
        ("micro", "create", "--platform", "zephyr", "--list-options"),
        ("micro", "create", "--platform", "standalone", "--list-options", "--json"),
    ],
    ids=" ".join,
)
def test_a_question_is_answered_without_heavy_imports(arguments: tuple[str, ...]) -> None:
    done = light(*arguments)
    assert done.returncode == 0
    assert done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("complie",), "'compile'"),
        (("compile",), "Missing argument"),
        (("compile", "m.py:f"), "no file 'm.py'"),
        (("compile", "m.pt2"), "no file 'm.pt2'"),
        (("compile", "a.onnx"), "names no factory"),
        (("compile", "a b:f"), "neither a .py file nor a module"),
        (("compile", "MODEL:plps"), "did you mean 'plops'"),
        (("compile", "MODEL:plops", "--target", "cortex-m4"), "did you mean 'cortex-m4f'"),
        (("compile", "MODEL:plops", "--taget", "cortex-m4f"), "--target"),
        (("compile", "MODEL:plops", "--block", "0"), "--block"),
        (("compile", "MODEL:plops", "--unroll", "0"), "--unroll"),
        (("compile", "MODEL:plops", "--block", "x"), "--block"),
        (("compile", "MODEL:plops", "--channels", "-1"), "--channels"),
        (("compile", "MODEL:plops", "--input-shape", "x"), "write name:channels,samples"),
        (("compile", "MODEL:plops", "--input-shape", "x:1,0"), "write name:channels,samples"),
        (("compile", "MODEL:plops", "--input-dtype", "s61"), "did you mean 's16'"),
        (("compile", "MODEL:plops", "--input-scale", "0"), "scale"),
        (("compile", "MODEL:plops", "--input-offset", "nan"), "offset"),
        (("compile", "MODEL:plops", "--name", "int"), "cannot prefix C names"),
        (("compile", "MODEL:plops", "--name", "a-b"), "cannot prefix C names"),
        (("compile", "MODEL:plops", "--budget", "rom=1K"), "'rom'"),
        (("compile", "MODEL:plops", "--budget", "ram=lots"), "'--budget': 'lots' is no size"),
        (("compile", "MODEL:plops", "--budget", "ram=1K,ram=2K"), "ram is given twice"),
        (("boards", "--file", "none.toml"), "'--file': none.toml: cannot be read"),
        (("compile", "MODEL:plops", "--emit", "rust"), "'--emit': unknown 'rust'"),
        (("compile", "MODEL:plops", "-o", "none/at/all.tar"), "no folder"),
        (("run", "none.tar", "-i", "MODEL"), "no file 'none.tar'"),
        (("run", "MODEL", "-i", "MODEL", "--board", "mps2-an368"), "did you mean"),
        (("run", "MODEL", "-i", "MODEL", "-o", "out.csv"), ".npz"),
        (("run", "MODEL", "-i", "MODEL", "--tail", "keep"), "known: drop, error"),
        (("run", "MODEL", "-i", "MODEL", "--verify", "x"), "names no factory"),
        (("run", "MODEL", "-i", "MODEL", "--port", "/dev/x"), "is not behind a serial port"),
        (("run", "MODEL", "-i", "MODEL", "--board", "rpc://a:1/k", "--port", "x"), "its server"),
        (("tune", "MODEL:plops"), "-o says where"),
        (("tune", "MODEL:plops", "-o", "d", "--board", "host", "--port", "x"), "serial port"),
        (("farm", "serve", "--tracker", "a:1", "--port", "x"), "is not behind a serial port"),
        (("report", "MODEL:plops", "--name", "x"), "for an archive"),
        (("micro", "build", "tests"), "is no project: it has no project.json"),
        (("micro", "run", "tests"), "is no project: it has no project.json"),
        (("micro", "debug", "nowhere"), "no folder 'nowhere'"),
        (("micro", "create"), "microddsp micro create MODEL.tar DIR"),
        (("micro", "create", "none.tar", "new"), "no file 'none.tar'"),
        (("micro", "create", "new", "MODEL"), "the model comes first"),
        (("micro", "create", "MODEL", "new", "--platform", "qmeu"), "did you mean 'qemu'"),
        (("micro", "create", "MODEL", "new", "--platform", "x"), "template"),
        (("micro", "create", "--platform", "qmeu", "--list-options"), "did you mean 'qemu'"),
        (("micro", "create", "MODEL", "new", "--board", "x"), "mps2-an386"),
        (("micro", "create", "MODEL", "new", "--board", "x", "-o", "board=y"), "differ"),
        (("micro", "create-project", "new", "MODEL", "qmeu"), "did you mean 'qemu'"),
        (
            ("micro", "create", "MODEL", "new", "--platform", "template", "--template-dir", "x"),
            "there is no template",
        ),
        (("micro", "create-project", "new", "MODEL", "qemu", "-o", "a"), "key=value"),
        (("micro", "create-project", "new", "MODEL", "qemu", "-o", "borad=x"), "'board'"),
        (("micro", "create-project", "new", "MODEL", "qemu", "-o", "board=x"), "mps2-an386"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_argument_is_told_at_once(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = light(*(text.replace("MODEL", str(folder / "pipeline.py")) for text in arguments))
    assert done.returncode == 2
    assert message in words(done.stderr)
    assert "Traceback" not in done.stderr


def test_a_pass_that_is_not_there_is_a_wrong_argument(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only TVM knows them: it is imported for that, and nothing is compiled."""
    for option, message in (
        (("--disabled-pass", "FuseOp"), "there is no pass 'FuseOp'"),
        (("--disabled-pass", "LegalizeOps"), "cannot be left out"),
        (("--print-ir-after", "FuseOp"), "there is no pass 'FuseOp'"),
        (("--pass-config", "tirx.enable_fast_math=true"), "would change the numbers"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["compile", f"{folder / 'pipeline.py'}:plops", *option])
        assert ended.value.code == 2
        assert message in words(capsys.readouterr().err)


@pytest.mark.parametrize("command", ["boards", "targets", "ops"])
def test_a_list_is_the_same_in_json(command: str) -> None:
    rows = json.loads(light(command, "--json").stdout)
    text = light(command).stdout
    assert rows
    for row in rows:
        assert row["name"] in text


# ---- errors of the user's own


def test_what_is_no_archive_is_a_user_error_in_one_message(folder: Path) -> None:
    done = microddsp("run", "pipeline.py", "-i", "in.npz", cwd=folder)
    assert done.returncode == 1
    assert done.stderr.startswith("microddsp: error: pipeline.py: is no tar")
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(folder: Path) -> None:
    done = microddsp("run", "pipeline.py", "-i", "in.npz", "--debug", cwd=folder)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_an_error_in_the_users_file_names_its_line(folder: Path) -> None:
    done = microddsp("compile", "pipeline.py:broken", cwd=folder)
    assert done.returncode == 1
    line = PIPELINE.splitlines().index("    return 1 / 0") + 1
    assert f"pipeline.py:{line}: ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_factory_that_gives_no_module_is_refused(folder: Path) -> None:
    done = microddsp("compile", "pipeline.py:number", cwd=folder)
    assert done.returncode == 1
    assert "gives int, not a torch.nn.Module" in done.stderr


def test_a_warning_is_one_line_without_code(folder: Path) -> None:
    done = microddsp("compile", "pipeline.py:imprecise", "--unroll", "2", cwd=folder)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("microddsp: warning: Lowpass: in direct form and float32 this filter is")


# ---- the way through


def test_a_compiled_model_runs_on_this_computer(archive: Path, folder: Path) -> None:
    done = microddsp(
        *("run", "plops.tar", "-i", "in.npz", "-o", "out.npz", "--board", "host", "--json"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"]["envelope"]["shape"] == [1, 6400]
    with np.load(folder / "out.npz") as outputs:
        assert outputs["envelope"].shape == (1, 6400)
        assert outputs["envelope"].max() > 0.5


def test_compile_says_what_the_model_takes(archive: Path, folder: Path) -> None:
    done = microddsp("compile", "pipeline.py:plops", "-o", "again.tar", cwd=folder)
    assert done.returncode == 0, done.stderr
    for word in ("flash", "RAM", "stack", "again.tar", "x float32 1x64"):
        assert word in done.stdout


def test_a_budget_that_is_too_small_is_a_user_error(folder: Path) -> None:
    done = microddsp("compile", "pipeline.py:plops", "--budget", "ram=8", cwd=folder)
    assert done.returncode == 1
    assert "ram" in done.stderr
    assert not (folder / "plops_none.tar").exists()


def test_a_recording_with_a_wrong_channel_count_is_a_user_error(
    archive: Path, folder: Path
) -> None:
    (folder / "two.csv").write_text("1,2\n3,4\n")
    done = microddsp("run", "plops.tar", "-i", "two.csv", "--board", "host", cwd=folder)
    assert done.returncode == 1
    assert "2 channels" in done.stderr


def test_a_verification_is_told_as_a_table(archive: Path, folder: Path) -> None:
    options = ("--board", "host", "--verify", "pipeline.py:plops")
    done = microddsp("run", "plops.tar", "-i", "in.npz", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "verification: plops on host, " in done.stdout
    assert "ok" in done.stdout and "{" not in done.stdout


@pytest.mark.qemu
def test_a_run_on_qemu_is_timed_and_verified(archive: Path, folder: Path) -> None:
    done = microddsp(
        *("run", "plops.tar", "-i", "in.npz", "--print-time", "--verify", "pipeline.py:plops"),
        *("--profile", "--json"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["time"]["unit"] == "instructions"
    assert sum(part["share"] for part in result["profile"]) == pytest.approx(1.0)
    assert result["verification"]


def test_a_run_on_this_computer_is_timed_too(archive: Path, folder: Path) -> None:
    options = ("--board", "host", "--print-time", "--profile")
    done = microddsp("run", "plops.tar", "-i", "in.npz", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "nanoseconds_median" in done.stdout
    assert "profile of a block, nanoseconds" in done.stdout
    assert "rest of plops_process" in done.stdout


@pytest.mark.qemu
def test_a_project_is_made_built_and_run(archive: Path, folder: Path) -> None:
    made = microddsp("micro", "create", "plops.tar", "fw", "--json", cwd=folder)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)
    assert (folder / "fw/Makefile").is_file()
    for command in ("build", "run"):
        done = microddsp("micro", command, "fw", "--json", cwd=folder)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)


def test_a_project_does_not_overwrite_a_folder_with_files(archive: Path, folder: Path) -> None:
    done = microddsp("micro", "create-project", ".", "plops.tar", "qemu", cwd=folder)
    assert done.returncode == 1
    assert (folder / "pipeline.py").is_file()


def test_a_damaged_project_and_a_place_that_cannot_be_written_are_user_errors(
    archive: Path, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "project.json").write_text("{}")
    damaged = microddsp("micro", "build", tmp_path, cwd=folder)
    unwritable = microddsp("micro", "create", "plops.tar", "pipeline.py/fw", cwd=folder)
    for done, words in ((damaged, "project.json is damaged"), (unwritable, "cannot be written")):
        assert done.returncode == 1
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_wrong_option_of_a_project_is_a_usage_error(archive: Path, folder: Path) -> None:
    made = microddsp("micro", "create", "plops.tar", "of-host", "--platform", "host", cwd=folder)
    assert made.returncode == 0, made.stderr
    for command in ("build", "flash", "run"):
        done = microddsp("micro", command, "of-host", "-o", "colour=red", cwd=folder)
        assert done.returncode == 2
        assert "platform host has no option 'colour'" in words(done.stderr)
    done = microddsp("micro", "run", "of-host", "--port", "/dev/x", cwd=folder)
    assert done.returncode == 2
    assert "host is not behind a serial port" in words(done.stderr)
    done = microddsp(
        *("micro", "create", "plops.tar", "of-zephyr", "--platform", "zephyr", "--board", "x"),
        cwd=folder,
    )
    assert done.returncode == 2
    assert "-o clock=HZ" in words(done.stderr)
