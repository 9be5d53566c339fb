"""The page in a real browser: something is seen, nothing complained about or asked for."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch

import microddsp
from microddsp import dsp

NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Seen:
    """A screenshot (rows, columns, 3), what the console said, and what was asked of a network."""

    pixels: np.ndarray
    console: list[str]
    asked: list[str]


def look(page: Path, folder: Path, *, dark: bool = False) -> Seen:
    found = [path for path in map(shutil.which, NAMES) if path]
    assert found, "no browser: tools/packages.sh browser"
    shot, log = folder / "shot.png", folder / "net.json"
    command = [
        *(found[0], "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--hide-scrollbars", "--window-size=1200,2400", "--enable-logging=stderr", "--v=0"),
        *("--disable-background-networking", "--disable-component-update", "--no-first-run"),
        *(f"--user-data-dir={folder / 'profile'}", f"--screenshot={shot}", f"--log-net-log={log}"),
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert shot.is_file(), done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Seen(
        matplotlib.image.imread(shot)[..., :3], console, _asked(json.loads(log.read_text()))
    )


def _asked(log: dict[str, Any]) -> list[str]:
    """Addresses that the page itself asked for: what has a file as its origin."""
    started = [event.get("params", {}) for event in log["events"]]
    return [
        p["url"]
        for p in started
        if str(p.get("url", "")).startswith(("http:", "https:", "ws:"))
        and not str(p.get("initiator", "not an origin")).startswith(("http", "not"))
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pipeline = torch.nn.Sequential(
        dsp.Bandpass(100.0, 900.0, 4, sample_rate_hz=8000),
        dsp.Frames(64, 32),
        torch.nn.Linear(64, 8),
        torch.nn.ReLU(),
        torch.nn.Linear(8, 4),
    )
    model = microddsp.compile(pipeline, torch.zeros(1, 64), name="seen")
    path = tmp_path_factory.mktemp("page") / "report.html"
    microddsp.report(model, pipeline, budget={"ram": "16K"}).save(path)
    return path


def test_the_page_is_seen_in_light_and_dark(page: Path, tmp_path: Path) -> None:
    light = look(page, tmp_path)
    assert light.console == [] and light.asked == []
    assert light.pixels.mean() > 0.85
    dark = look(page, tmp_path, dark=True)
    assert dark.pixels.mean() < 0.25
    for seen in (light, dark):
        rows = seen.pixels.std(axis=(1, 2))
        assert (rows > 0.02).mean() > 0.5  # something is drawn on most lines
        colours = {tuple(p) for p in (seen.pixels[::4, ::4].reshape(-1, 3) * 15).astype(int)}
        assert len(colours) > 20


def test_what_a_browser_complains_about_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<body><img src='http://127.0.0.1:9/x.png'><script>console.error('oh')</script>"
    )
    seen = look(page, tmp_path)
    assert any("oh" in line for line in seen.console)
    assert "http://127.0.0.1:9/x.png" in seen.asked
    assert seen.pixels.std() < 0.02
