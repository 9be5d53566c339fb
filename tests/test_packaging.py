"""The distribution holds all of its files, and set-up says in one line what it lacks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): version for name, version in pairs}


def requirement_names() -> set[str]:
    extras = PROJECT["project"]["optional-dependencies"].values()
    every = [*PROJECT["project"]["dependencies"], *(text for group in extras for text in group)]
    return {canonical(re.match(r"[\w.-]+", text)[0]) for text in every}  # type: ignore[index]


def test_every_requirement_has_a_tested_version() -> None:
    assert requirement_names() <= set(constraints())


def test_tvm_and_its_ffi_are_exact_everywhere() -> None:
    wanted = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post0"}
    for name, version in wanted.items():
        assert f"{name}=={version}" in PROJECT["project"]["dependencies"]
        assert constraints()[name] == version


def test_the_version_is_the_same_everywhere() -> None:
    import microddsp

    assert PROJECT["project"]["version"] == microddsp.__version__
    assert f"## [{microddsp.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_set_up_names_no_package_index() -> None:
    files = ["pyproject.toml", "constraints.txt", "Makefile", ".ci/run", *ROOT.glob("tools/*.sh")]
    for file in files:
        assert not re.search(r"https?://|index-url", (ROOT / file).read_text()), file


def test_continuous_integration_runs_the_readmes_line() -> None:
    assert "\nmake test" in (ROOT / ".ci/run").read_text()
    assert "\nmake test" in (ROOT / "README.md").read_text()
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_a_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(ROOT / "microddsp", tmp_path / "source/microddsp", ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", tmp_path, tmp_path / "source"], check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = set(wheel.namelist())
    source = tmp_path / "source"
    files = {p.relative_to(source).as_posix() for p in source.glob("microddsp/**/*") if p.is_file()}
    assert files <= packed
    assert any(name.endswith("licenses/LICENSE") for name in packed)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A PATH with a shell's plain tools, and no compiler, no QEMU, no apt-get."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("bash", "env", "id", "cat", "cut", "sha256sum", "dirname", "rm"):
        (folder / tool).symlink_to(str(shutil.which(tool)))
    return folder


def packages(path: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", ROOT / "tools/packages.sh"]
    return subprocess.run(command, env={"PATH": str(path)}, capture_output=True, text=True)


def test_without_debian_the_missing_packages_are_named_in_one_line(bare: Path) -> None:
    done = packages(bare)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "qemu-system-arm gcc-arm-none-eabi libnewlib-arm-none-eabi" in done.stderr
    assert "no Debian" in done.stderr


def test_without_root_and_sudo_the_missing_packages_are_named_in_one_line(bare: Path) -> None:
    (bare / "apt-get").symlink_to("/bin/false")
    (bare / "id").unlink()
    (bare / "id").write_text("#!/usr/bin/env bash\necho 1000\n")
    (bare / "id").chmod(0o755)
    done = packages(bare)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no sudo" in done.stderr
    assert "qemu-system-arm" in done.stderr


def test_without_a_new_enough_python_one_line_says_so(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    (tmp_path / "tools/packages.sh").write_text("#!/usr/bin/env bash\n")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        ["bash", tmp_path / "tools/setup.sh"],
        env={**os.environ, "PYTHON": "false"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "microddsp: Python 3.11 or newer is missing (tried: false); install it or set PYTHON"
    ]
    assert not (tmp_path / ".venv").exists()
