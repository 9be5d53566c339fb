"""The two C files: what they look like, what every compiler says, what they do on their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from elftools.elf.elffile import ELFFile

import microddsp
from microddsp import dsp
from microddsp.micro.targets import TARGETS

WARNINGS = (
    "-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Wcast-qual "
    "-Wcast-align=strict -Wdouble-promotion -Wswitch-enum -Wformat=2 -Wvla -Werror"
).split()
ONLY_C = ["-Wstrict-prototypes", "-Wmissing-prototypes"]
COMPILERS = {
    "c99": ["gcc", "-std=c99", *ONLY_C],
    "c11": ["gcc", "-std=c11", *ONLY_C],
    "c++17": ["g++", "-x", "c++", "-std=c++17"],
    "cortex-m4f": ["arm-none-eabi-gcc", *TARGETS["cortex-m4f"].c_flags, *ONLY_C],
    "cortex-m0": ["arm-none-eabi-gcc", *TARGETS["cortex-m0"].c_flags, *ONLY_C],
}


def plops() -> torch.nn.Module:
    return torch.nn.Sequential(
        dsp.Bandpass(400.0, 900.0, 4, sample_rate_hz=8000),
        dsp.Envelope(0.002, 0.05, sample_rate_hz=8000),
        dsp.EventCounter(0.1, 0.5, refractory_s=0.15, sample_rate_hz=8000),
    )


class Scorer(torch.nn.Module):
    """Frames of a filtered stereo signal through a small net; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.filter = dsp.Highpass(20.0, 2, sample_rate_hz=1000, initial="first_sample")
        self.frames = dsp.Frames(32, 16)
        self.conv = torch.nn.Conv1d(2, 3, 5, stride=2)
        self.dense = torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.filter(x)
        h = torch.relu(self.conv(self.frames(y))).mean(-1)
        return {"filtered": y, "score": torch.softmax(self.dense(h), -1)}


def compiled(name: str, target: str = "cortex-m4f"):
    if name == "plops":
        return microddsp.compile(plops(), torch.zeros(1, 64), name=name, target=target)
    return microddsp.compile(
        Scorer(),
        torch.zeros(2, 16),
        name=name,
        target=target,
        input=microddsp.Input(dtype="s16", interleaved=True, unit="g"),
    )


@pytest.fixture(scope="module", params=["plops", "scorer"])
def model(request):
    return compiled(request.param)


def write(model, folder: Path) -> Path:
    for name, text in model.sources.items():
        (folder / name).write_text(text)
    return folder / f"{model.name}.c"


def test_the_c_is_what_it_was(model, snapshot) -> None:
    """After a wanted change: pytest --snapshot-update, and read the difference."""
    assert model.sources == snapshot


@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_compiler_warns(model, compiler: str, tmp_path: Path) -> None:
    source = write(model, tmp_path)
    command = [*COMPILERS[compiler], "-O2", *WARNINGS, "-c", str(source), "-o", "model.o"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "flag", ["-ffast-math", "-Ofast", "-ffinite-math-only", "-funsafe-math-optimizations"]
)
def test_flags_that_remove_the_look_for_nan_are_refused(model, flag: str, tmp_path: Path) -> None:
    source = write(model, tmp_path)
    command = ["gcc", "-std=c99", "-O2", flag, "-c", str(source), "-o", "model.o"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "compile it without -ffast-math" in done.stderr


@pytest.mark.parametrize("compiler", ["c99", "c++17"])
def test_the_header_compiles_alone(model, compiler: str, tmp_path: Path) -> None:
    write(model, tmp_path)
    suffix = "cpp" if compiler == "c++17" else "c"
    alone = tmp_path / f"alone.{suffix}"
    alone.write_text(f'#include "{model.name}.h"\nint unused;\n')
    command = [*COMPILERS[compiler], *WARNINGS, "-c", str(alone), "-o", "alone.o"]
    subprocess.run(command, cwd=tmp_path, check=True)


def test_the_object_has_no_mutable_data_and_leaks_no_names(model, tmp_path: Path) -> None:
    source = write(model, tmp_path)
    target = model.target
    subprocess.run(
        [target.compiler, *target.c_flags, "-c", str(source), "-o", "model.o"],
        cwd=tmp_path,
        check=True,
    )
    with (tmp_path / "model.o").open("rb") as file:
        elf = ELFFile(file)
        mutable = {s.name for s in elf.iter_sections() if s["sh_flags"] & 0x1 and s["sh_size"]}
        symbols = [s for s in elf.get_section_by_name(".symtab").iter_symbols()]
    assert not mutable  # SHF_WRITE
    exported = [s for s in symbols if s["st_info"]["bind"] == "STB_GLOBAL"]
    defined = {s.name for s in exported if s["st_shndx"] != "SHN_UNDEF"}
    name = model.name
    process = {f"{name}_process", f"{name}_process_unchecked"}
    assert defined == {f"{name}_init", f"{name}_reset", *process}
    needed = {s.name for s in symbols if s["st_shndx"] == "SHN_UNDEF" and s.name}
    assert needed <= {"memset", "memcpy", "memmove", "expf"}


TWO_INSTANCES = """
#include "plops.h"
static plops_t left, right;
int main(void)
{
    float click[PLOPS_INPUT_LEN] = {0.0f}, silence[PLOPS_INPUT_LEN] = {0.0f};
    float nan[PLOPS_INPUT_LEN] = {0.0f};
    int32_t a = -1, b = -1;
    click[10] = 20.0f;
    nan[3] = (float)(0.0 / zero());
    if (plops_init(0, 0, 0u) != PLOPS_ERR_NULL) { return 1; }
    if (plops_process(&left, click, &a) != PLOPS_ERR_NOT_READY) { return 2; }
    if (plops_init(&left, 0, 0u) != PLOPS_OK || plops_init(&right, 0, 0u) != PLOPS_OK) { return 3; }
    if (plops_process(&left, 0, &a) != PLOPS_ERR_NULL) { return 4; }
    if (plops_process(&left, silence, &a) != PLOPS_OK || a != 0) { return 5; }
    if (plops_process(&right, silence, &b) != PLOPS_OK || b != 0) { return 6; }
    if (plops_process(&left, click, &a) != PLOPS_OK || a != 1) { return 7; }
    if (plops_process(&right, silence, &b) != PLOPS_OK || b != 0) { return 8; }
    if (plops_process(&left, nan, &a) != PLOPS_ERR_NONFINITE) { return 9; }
    if (plops_process(&left, silence, &a) != PLOPS_OK || a != 1) { return 10; }
    plops_reset(&left);
    if (plops_process(&left, silence, &a) != PLOPS_OK || a != 0) { return 11; }
    return 0;
}
"""


def test_two_instances_are_independent_and_recover_from_nan(tmp_path: Path) -> None:
    source = write(compiled("plops"), tmp_path)
    main = "static double zero(void) { volatile double z = 0.0; return z; }\n" + TWO_INSTANCES
    (tmp_path / "main.c").write_text(main)
    flags = "-std=c99 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all".split()
    flags += ["-fno-sanitize=float-divide-by-zero"]
    subprocess.run(
        ["gcc", *flags, str(source), "main.c", "-o", "two", "-lm"], cwd=tmp_path, check=True
    )
    done = subprocess.run([tmp_path / "two"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_object_of_another_header_is_not_ready(tmp_path: Path) -> None:
    """A header that was left behind when the model was made anew: it knows other sizes."""
    for block in (8, 16):
        net = dsp.Envelope(0.002, 0.05, sample_rate_hz=8000)
        made = microddsp.compile(net, torch.zeros(1, block), name="env", target="host")
        (tmp_path / str(block)).mkdir()
        write(made, tmp_path / str(block))
    (tmp_path / "main.c").write_text(
        '#include "env.h"\nstatic env_t env[2];\nint main(void)\n{\n'
        "    float x[16] = {0.0f}, y[16];\n    (void)env_init(&env[0], 0, 0u);\n"
        "    return env_process(&env[0], x, y) == ENV_ERR_NOT_READY;\n}\n"
    )
    for header, refused in (("8", 1), ("16", 0)):
        command = ["gcc", "-std=c99", "-O2", f"-I{header}", "-c", "main.c", "-o", "main.o"]
        subprocess.run(command, cwd=tmp_path, check=True)
        command = ["gcc", "-std=c99", "main.o", "16/env.c", "-o", "main", "-lm"]
        subprocess.run(command, cwd=tmp_path, check=True)
        assert subprocess.run([tmp_path / "main"]).returncode == refused


BLOCKS_OF_ONE = """
#include <math.h>
#include "one.h"
static one_t used, fresh;
int main(void)
{
    const float bad[] = {zero() / zero(), 1.0f / zero(), -1.0f / zero()};
    const float good = 0.5f, huge = 3.0e38f;
    one_status_t (*through_pointer)(one_t *, const float *, float *) = one_process;
    one_status_t status = ONE_OK;
    float a = 0.0f, b = 1.0f;
    if (through_pointer(&used, &good, &a) != ONE_ERR_NOT_READY) { return 1; }
    one_init(&used, 0, 0u);
    one_init(&fresh, 0, 0u);
    if (through_pointer(&used, 0, &a) != ONE_ERR_NULL) { return 2; }
    one_process_unchecked(&fresh, &good, &b);
    for (int i = 0; i < 3; ++i) {
        if (one_process(&used, &bad[i], &a) != ONE_ERR_NONFINITE) { return 3; }
        if (one_process(&used, &good, &a) != ONE_OK || a != b) { return 4; }
        if (one_process(&used, &good, &a) != ONE_OK || !isfinite(a)) { return 5; }
    }
    for (int i = 0; i < 100 && status == ONE_OK; ++i) {
        status = one_process(&used, &huge, &a);
        if (status == ONE_OK && !isfinite(a)) { return 6; }
    }
    if (status != ONE_ERR_NONFINITE) { return 7; }
    if (one_process(&used, &good, &a) != ONE_OK || a != b) { return 8; }
    return 0;
}
"""


@pytest.mark.parametrize("target", ["host", "cortex-m3"])  # with and without floats in hardware
def test_a_bad_sample_costs_a_block_of_one_sample(target: str, tmp_path: Path) -> None:
    """Also where finite samples make the infinity: no output is bad without an error."""
    sections = [[9.0, 8.0, 7.0, 1.0, -1.8, 0.9]] * 2
    pipeline = torch.nn.Sequential(dsp.SOS(sections, sample_rate_hz=8000, form="direct"))
    write(microddsp.compile(pipeline, torch.zeros(1, 1), target=target, name="one"), tmp_path)
    main = "static float zero(void) { volatile float z = 0.0f; return z; }\n" + BLOCKS_OF_ONE
    (tmp_path / "main.c").write_text(main)
    for level in ("-O0", "-O2"):
        build = ["gcc", "-std=c99", level, "one.c", "main.c", "-o", "one", "-lm"]
        subprocess.run(build, cwd=tmp_path, check=True)
        assert subprocess.run([tmp_path / "one"], check=False).returncode == 0


def test_the_same_model_gives_the_same_bytes_anywhere(tmp_path: Path) -> None:
    script = (
        "import sys, torch, microddsp\nfrom microddsp import dsp\n"
        "p = torch.nn.Sequential(dsp.Bandpass(400.0, 900.0, 4, sample_rate_hz=8000),"
        "dsp.Envelope(0.002, 0.05, sample_rate_hz=8000),"
        "dsp.EventCounter(0.1, 0.5, refractory_s=0.15, sample_rate_hz=8000))\n"
        "m = microddsp.compile(p, torch.zeros(1, 64), name='plops')\n"
        "m.save(sys.argv[1])\n"
    )
    made = []
    for seed in ("1", "2"):
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run(
            [sys.executable, "-c", script, "m.tar"], cwd=folder, env=environment, check=True
        )
        made.append((folder / "m.tar").read_bytes())
    assert made[0] == made[1]
    for name, text in compiled("plops").sources.items():
        assert microddsp.load(tmp_path / "run1" / "m.tar").sources[name] == text


@pytest.mark.qemu
def test_the_demo_chain_costs_what_it_may(tmp_path: Path) -> None:
    """Executed instructions are exact: at most 45 a sample for the chain, 8 for the counter."""
    x = np.random.default_rng(0).standard_normal((1, 640)).astype("float32")
    model = compiled("plops")
    with microddsp.open_board("mps2-an386", model) as board:
        assert board.time(x).instructions_per_sample <= 45
    assert model.memory.flash_bytes <= 2048 and model.memory.ram_bytes <= 256
    alone = microddsp.compile(plops()[2:], torch.zeros(1, 64), name="counter")
    with microddsp.open_board("mps2-an386", alone) as board:
        assert board.time(x).instructions_per_sample <= 8


def test_a_budget_that_is_too_small_says_what_takes_the_space() -> None:
    with pytest.raises(microddsp.BudgetError, match="over budget: flash(.|\n)*section"):
        microddsp.compile(plops(), torch.zeros(1, 64), name="plops", budget={"flash": 100})


def test_the_cross_compiler_is_named_when_it_is_missing(monkeypatch, tmp_path: Path) -> None:
    model = compiled("plops")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("arm-none-eabi-gcc") is None
    with pytest.raises(microddsp.BoardError, match="gcc-arm-none-eabi"):
        _ = model.memory
