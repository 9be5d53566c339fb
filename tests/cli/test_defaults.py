"""`--config`: defaults for any command from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from microddsp.cli.app import app
from microddsp.cli.defaults import read_defaults

GROUP: Any = get_command(app)

TOML = """
[compile]
target = "cortex-m7"
workspace-byte-alignment = 16
tap = ["0", "1"]
io-in-arena = true

[micro.create-project]
force = true
"""
EXPECTED = {
    "compile": {
        "target": "cortex-m7",
        "workspace_byte_alignment": 16,
        "tap": ["0", "1"],
        "io_in_arena": True,
    },
    "micro": {"create-project": {"force": True}},
}


def test_toml_and_json_give_defaults_by_parameter(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text(TOML)
    (tmp_path / "d.json").write_text(json.dumps(EXPECTED))
    assert read_defaults(tmp_path / "d.toml", GROUP) == EXPECTED
    assert read_defaults(tmp_path / "d.json", GROUP) == EXPECTED


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[compil]", "no command 'compil'"),
        ("[compile]\ntargt = 1", "no option 'targt'"),
        ("compile = 3", "a table"),
        ("[compile]\ntap = 1", "needs a list"),
        ("[compile]\ntarget = [1]", "a single value"),
        ("[compile", "cannot be read"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "d.toml"
    path.write_text(text)
    with pytest.raises(typer.BadParameter, match=words):
        read_defaults(path, GROUP)


def test_a_default_is_used_and_what_is_typed_wins(tmp_path: Path) -> None:
    """Target and budget of the file are wrong: whichever is not replaced is refused."""
    path = tmp_path / "d.toml"
    path.write_text('[compile]\ntarget = "z80"\nbudget = "rom=1"')
    (tmp_path / "m.py").write_text("def f(): ...\n")
    command = ["--config", str(path), "compile", f"{tmp_path / 'm.py'}:f"]
    run = CliRunner().invoke
    assert "z80" in run(app, command).output
    typed = run(app, [*command, "--target", "cortex-m0"])
    assert "rom" in typed.output and "z80" not in typed.output
    assert typed.exit_code == 2
    missing = run(app, ["--config", str(tmp_path / "none.toml"), "boards"])
    assert missing.exit_code == 2
