"""The folder of compiled kernels: yours alone, whole files only, built once."""

import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm

from microddsp.errors import MicroddspError
from microddsp.relax_ops import envelope, kernel_cache
from microddsp.relax_ops.event_counter import _kernel
from microddsp.relax_ops.sample_operator import SAMPLE_OPERATORS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MICRODDSP_CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def build() -> tvm.IRModule:
    return _kernel("float32")


def no_build() -> tvm.IRModule:
    raise AssertionError("it is there already")


def count_events(module) -> int:
    state, following = np.zeros((1, 3), "int32"), np.zeros((1, 3), "int32")
    module["count"](
        *map(
            tvm.runtime.tensor,
            (
                np.array([[0.0, 1.0, 0.0, 1.0]], "float32"),
                np.array([[0.6, 0.4]], "float32"),
                state,
                np.zeros(1, "int32"),
                np.zeros((1, 4), "float32"),
            ),
        ),
        last := tvm.runtime.tensor(following),
    )
    return int(last.numpy()[0, 2])


def test_a_kernel_is_built_once_and_then_loaded(folder: Path) -> None:
    assert count_events(kernel_cache.load("counter", build)) == 2
    assert count_events(kernel_cache.load("counter", no_build)) == 2


def test_the_folder_is_closed_to_others(folder: Path) -> None:
    assert kernel_cache.cache_folder() == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_without_the_variable_it_lies_in_the_users_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("MICRODDSP_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kernel_cache.cache_folder() == tmp_path / "microddsp"


def test_a_user_without_a_home_is_told_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setenv("MICRODDSP_CACHE_DIR", str(tmp_path / "own"))
    assert kernel_cache.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("MICRODDSP_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(MicroddspError, match="no home folder") as caught:
        kernel_cache.cache_folder()
    assert "MICRODDSP_CACHE_DIR" in str(caught.value.hint)


def test_a_folder_that_others_may_write_is_refused(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(MicroddspError, match="not yours alone"):
        kernel_cache.load("counter", no_build)


def test_a_folder_of_somebody_else_is_refused(folder: Path, monkeypatch) -> None:
    kernel_cache.cache_folder()
    monkeypatch.setattr("os.getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(MicroddspError, match="not yours alone"):
        kernel_cache.cache_folder()


def test_a_folder_that_cannot_be_made_is_an_error_with_a_way_out(folder: Path) -> None:
    folder.write_text("a file in the way")
    with pytest.raises(MicroddspError, match="cannot be made") as caught:
        kernel_cache.cache_folder()
    assert "MICRODDSP_CACHE_DIR" in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [lambda whole: b"", lambda whole: whole[:1000], lambda whole: whole[:-1] + b"?", bytes.upper],
    ids=["empty", "cut", "last byte", "letters"],
)
def test_a_damaged_file_is_built_again(folder: Path, damage) -> None:
    kernel_cache.load("counter", build)
    file = folder / "counter.so"
    damaged = damage(file.read_bytes())
    file.unlink()  # the loaded library stays as it is
    file.write_bytes(damaged)
    with pytest.warns(UserWarning, match="damaged"):
        assert count_events(kernel_cache.load("counter", build)) == 2
    assert count_events(kernel_cache.load("counter", no_build)) == 2


def test_who_waits_for_the_lock_does_not_build_again(folder: Path) -> None:
    built = []

    def slowly() -> tvm.IRModule:
        built.append(threading.get_ident())
        return build()

    workers = [
        threading.Thread(target=kernel_cache.load, args=("counter", slowly)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(built) == 1
    assert sorted(file.name for file in folder.iterdir()) == ["counter.so", "lock"]


def test_the_key_tells_apart_whatever_changes_the_code(monkeypatch) -> None:
    def key(name: str = "sos", count: int = 10, lanes: int = 8, dtype: str = "float32") -> str:
        return kernel_cache.step_key(name, SAMPLE_OPERATORS[name].step(count), lanes, dtype)

    keys = [key(), key(count=5), key(lanes=1), key(dtype="float64"), key("first_order", 3)]
    assert len(set(keys)) == len(keys) and key() == keys[0]
    kernel_cache._environment.cache_clear()
    monkeypatch.setattr(kernel_cache, "_cpu", lambda: "another computer")
    try:
        assert key() != keys[0]
    finally:
        kernel_cache._environment.cache_clear()


def test_a_cached_kernel_runs_without_tvm_and_torchs_compiler() -> None:
    envelope(torch.ones(1, 8), torch.tensor([0.5, 0.1]), torch.zeros(1, 1))  # builds it
    program = """
import sys, torch
from microddsp.relax_ops import envelope
envelope(torch.ones(1, 8), torch.tensor([0.5, 0.1]), torch.zeros(1, 1))
print(sorted({"tvm", "torch._dynamo"} & set(sys.modules)))
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "[]"
