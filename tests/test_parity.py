"""docs/parity.md: each line has a test that exists, or says why there is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in (ROOT / "docs/parity.md").read_text().splitlines()
    if line.startswith("|") and not re.match(r"\|(---|\s*microTVM\s*\|)", line)
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_each_line_names_a_test_or_a_reason(row: list[str]) -> None:
    feature, here, test = row
    assert feature and here
    if not test:
        assert here.startswith("dropped: ") or here.startswith("dropped with")
        return
    file, _, name = test.strip("`").partition("::")
    text = (ROOT / file).read_text()
    assert name == "" or re.search(rf"^def {re.escape(name)}\(", text, re.MULTILINE)
