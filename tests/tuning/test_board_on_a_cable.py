"""Tuning on a board behind a serial line, whose flash is written for each image of candidates."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import microddsp
from microddsp import dsp
from microddsp.micro import boards

BOARDS = Path(boards.__file__).parent
# "Flashing": the emulator starts anew with the image, its UART on a new pseudo-terminal.
FLASH = """
import os, re, subprocess, sys
from pathlib import Path
image, here = Path(sys.argv[1]), Path(sys.argv[2])
if (here / "pid").is_file():
    os.kill(int((here / "pid").read_text()), 9)
copy = here / "flashed.elf"
copy.write_bytes(image.read_bytes())
command = "qemu-system-arm -M mps2-an386 -display none -monitor none -serial pty -kernel".split()
started = subprocess.Popen(
    [*command, copy], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    start_new_session=True,
)
port = here / "port"
port.unlink(missing_ok=True)
port.symlink_to(re.search(r"/dev/pts/\\d+", started.stdout.readline())[0])
(here / "pid").write_text(str(started.pid))
"""


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[Path]:
    """A folder with the board's file and its port."""
    ours = (BOARDS / "mps2-an386.toml").read_text().partition("[qemu]")[0]
    (tmp_path / "flash.py").write_text(FLASH)
    command = f'["{sys.executable}", "{tmp_path}/flash.py", "{{image}}", "{tmp_path}"]'
    (tmp_path / "b.toml").write_text(
        f'{ours}[serial]\ndriver = "uart_cmsdk.c"\nflash = {command}\n'
    )
    (tmp_path / "port").symlink_to("/dev/null")
    yield tmp_path
    if (tmp_path / "pid").is_file():
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.qemu
def test_candidates_are_flashed_checked_and_timed(cable: Path) -> None:
    pipeline = torch.nn.Sequential(
        dsp.Gain(3.0), dsp.Envelope(attack_s=0.002, release_s=0.05, sample_rate_hz=8000)
    )
    result = microddsp.tune(
        pipeline,
        torch.zeros(1, 8),
        records=cable / "db",
        board=str(cable / "b.toml"),
        port=str(cable / "port"),
        trials=4,
    )
    (kernel,) = result.kernels
    assert (kernel.trials, kernel.failed) == (4, 0)
    assert kernel.best <= kernel.default
    assert 1 <= result.flashes <= 3  # the default's, then those of the others together
