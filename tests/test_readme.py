"""What the README shows works as it is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


def python_example() -> str:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]


def test_the_example_is_fifteen_lines_at_most() -> None:
    assert len([line for line in python_example().splitlines() if line.strip()]) <= 15


def test_the_example_runs_as_written(tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(python_example())
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "plops.tar").is_file()
    device, pytorch, flash, ram = map(int, done.stdout.split())
    assert device == pytorch == 5
    assert flash > 0
    assert ram > 0


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for link in LINK.findall(path.read_text()):
        if not link.startswith("http"):
            assert (path.parent / link).exists(), link


def test_every_command_of_the_docs_exists() -> None:
    from microddsp.cli.app import app

    known = {command.name for command in app.registered_commands}
    groups = {
        group.name: {command.name for command in group.typer_instance.registered_commands}
        for group in app.registered_groups
    }
    assert "micro" in groups
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        for block in re.findall(r"```(?:sh)?\n(.*?)```", page.read_text(), re.DOTALL):
            for name, sub in re.findall(r"^microddsp (\S+) ?(\S*)", block, re.MULTILINE):
                assert name in known | groups.keys() | {"COMMAND"}, page
                # `tune MODEL` stands for `tune model MODEL`
                assert name not in groups or sub in groups[name] or "model" in groups[name], page
