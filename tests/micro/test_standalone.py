"""The model for somebody's own firmware: each layout is built, those that can run are run."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from microddsp.errors import BoardError
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.platforms import build_project, create_project
from microddsp.micro.session import open_project
from microddsp.micro.targets import find_target
from microddsp.signature import InputSpec, OutputStructure, Signature, TensorSpec
from tests.micro.conftest import HEADER, SOURCE

Maker = Callable[..., CompiledModel]
STRICT = "-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wundef -Werror"
# What Arduino's headers give to a sketch.
ARDUINO_H = """#pragma once
#include <math.h>
#include <stdint.h>
const int A0 = 14;
unsigned long micros();
int analogRead(int pin);
struct Printer {
    void begin(long baud);
    void println(const char *text);
    void println(long number);
    void println(int number);
    void println(double number);
};
extern Printer Serial;
void setup();
void loop();
"""


def run(command: list[str], where: Path, text: str | None = None) -> str:
    done = subprocess.run(
        command, cwd=where, input=text or "", capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def pair() -> CompiledModel:
    """Frames of two int16 channels, interleaved, blocks of 4; sums and last samples come out."""
    signature = Signature(
        "probe",
        (InputSpec("x", (4, 2), "int16", -1, interleaved=True),),
        (TensorSpec("sums", (2,), "int32", None), TensorSpec("last", (2, 1), "float32", -1)),
        OutputStructure("tuple", ("sums", "last")),
        block=4,
        state_bytes=4,
        workspace_bytes=16,
    )
    outputs = "typedef struct probe_outputs { int32_t *sums; float *last; } probe_outputs_t;\n"
    one, two = "const float *x, float *y", "const int16_t *x, const probe_outputs_t *to"
    body = """    (void)self;
    to->sums[0] = x[0] + x[2] + x[4] + x[6];
    to->sums[1] = x[1] + x[3] + x[5] + x[7];
    to->last[0] = x[6];
    to->last[1] = x[7];"""
    header = HEADER.format(workspace=16).replace(one, two)
    header = header.replace(
        "#define PROBE_WORKSPACE_A", "#define PROBE_BLOCK_LEN 4u\n#define PROBE_WORKSPACE_A"
    )
    header = header.replace("probe_status_t probe_init(", outputs + "probe_status_t probe_init(", 1)
    sources = {"probe.h": header, "probe.c": SOURCE.format(body=body, helpers="").replace(one, two)}
    return CompiledModel("probe", find_target("cortex-m3"), signature, sources)


@pytest.fixture(scope="module")
def summing(probe: Maker) -> CompiledModel:
    """The running sum of float blocks of 8, with the macro that a compiled header has."""
    model = probe(target="cortex-m3")
    header = model.sources["probe.h"].replace(
        "#define PROBE_WORKSPACE_B", "#define PROBE_BLOCK_LEN 8u\n#define PROBE_WORKSPACE_B", 1
    )
    return CompiledModel(
        "probe", model.target, model.signature, {**model.sources, "probe.h": header}
    )


@pytest.fixture(scope="module")
def folder(summing: CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("standalone") / "fw"
    create_project(where, summing, platform="standalone")
    return where


@pytest.fixture(scope="module")
def pair_folder(pair: CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("standalone") / "fw"
    create_project(where, pair, platform="standalone")
    return where


def test_the_make_example_gives_the_models_answers(folder: Path) -> None:
    run(["make", "-s", f"CFLAGS={STRICT}"], folder)
    lines = run(["./probe_example"], folder, "\n".join(map(str, range(20)))).splitlines()
    assert [list(map(float, line.split())) for line in lines] == [
        list(np.cumsum(range(20))[:8]),
        list(np.cumsum(range(20))[8:16]),
    ]


def test_several_channels_and_outputs_keep_their_order(pair_folder: Path) -> None:
    run(["make", "-s", f"CFLAGS={STRICT}"], pair_folder)
    said = run(["./probe_example"], pair_folder, "1 10 2 20 3 30 4 40  5 50 6 60 7 70 8 80")
    assert said.splitlines() == ["10 100 4 40 ", "26 260 8 80 "]


def test_the_cmake_target_builds(pair: CompiledModel, tmp_path: Path) -> None:
    where = tmp_path / "fw"
    create_project(where, pair, platform="standalone", options={"layouts": "cmake"})
    assert not (where / "Makefile").exists()
    image = build_project(where)
    assert run([str(image)], where, "1 2 3 4 5 6 7 8") == "16 20 7 8 \n"


def test_a_full_queue_refuses_and_counts_what_is_lost(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "test.c").write_text(
        """#include <stdio.h>
#include "probe_stream.h"
static probe_stream_t s;
int main(void)
{
    probe_frame_t f = {{1.0f}};
    float y[8];
    int refused = 0;
    (void)probe_stream_init(&s);
    const int early = probe_stream_process(&s, y);
    for (unsigned i = 0; i < PROBE_STREAM_FRAMES + 3u; ++i) {
        refused += probe_stream_put(&s, &f) != 0;
    }
    (void)probe_stream_process(&s, y);
    (void)printf("%d %d %u %g %d", early, refused, (unsigned)probe_stream_lost(&s), (double)y[7],
                 probe_stream_put(&s, &f));
    return 0;
}
"""
    )
    src = folder / "src"
    sources = [str(src / "probe.c"), str(src / "probe_stream.c"), "test.c"]
    run(["cc", *STRICT.split(), "-std=c99", f"-I{src}", *sources, "-o", "test"], tmp_path)
    assert run(["./test"], tmp_path) == "-2 3 3 8 0"


def test_a_queue_of_another_size_than_its_source_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "test.c").write_text(
        '#include "probe_stream.h"\nstatic probe_stream_t s;\n'
        "int main(void)\n{\n    return -(int)probe_stream_init(&s);\n}\n"
    )
    src = folder / "src"
    sources = [str(src / "probe.c"), str(src / "probe_stream.c")]
    more = "-DPROBE_STREAM_FRAMES=64u"
    for flags, status in (([], 2), ([more], 0)):
        run(["cc", "-c", f"-I{src}", *flags, *sources], tmp_path)
        run(["cc", f"-I{src}", more, "test.c", "probe.o", "probe_stream.o", "-o", "t"], tmp_path)
        assert subprocess.run([tmp_path / "t"]).returncode == status


def test_counters_that_are_not_read_at_once_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "avr.h").write_text(
        "#include <stdint.h>\n#undef UINTPTR_MAX\n#define UINTPTR_MAX 0xffffu\n"
    )
    command = ["cc", "-include", "avr.h", "-E", str(folder / "src/probe_stream.h")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "processors of 32 bits or more" in done.stderr


@pytest.mark.parametrize("text", ["1 2 3 abc", "1 2 3 40000"])
def test_the_example_says_what_is_no_number_of_the_input(pair_folder: Path, text: str) -> None:
    run(["make", "-s"], pair_folder)
    command = [str(pair_folder / "probe_example")]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not a number that the input takes" in done.stderr


def test_a_cpp_product_takes_the_cmake_target(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.16)\nproject(product CXX)\n"
        f"add_subdirectory({folder} probe)\nadd_executable(product main.cpp)\n"
        "target_link_libraries(product PRIVATE probe)\n"
    )
    (tmp_path / "main.cpp").write_text(
        '#include "probe_stream.h"\nstatic probe_stream_t s;\n'
        "int main() { return probe_stream_init(&s); }\n"
    )
    run(["cmake", "-B", "build", "."], tmp_path)
    run(["cmake", "--build", "build"], tmp_path)
    run(["build/product"], tmp_path)


ONE_SECOND = """
static unsigned long now;
static long readings;
Printer Serial;
unsigned long micros() { return now; }
int analogRead(int) { return 512 + (int)(++readings % 2); }
void Printer::begin(long) {}
void Printer::println(const char *) {}
void Printer::println(long) {}
void Printer::println(int) {}
void Printer::println(double) {}
int main()
{
    for (setup(); now < 1000000; ++now) {
        loop();
    }
    return (readings >= 44099) && (readings <= 44101) ? 0 : 1;
}
"""


def test_the_sketch_keeps_a_rate_that_is_no_whole_number_of_microseconds(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "Arduino.h").write_text(ARDUINO_H)
    sketch = (folder / "examples/probe_serial/probe_serial.ino").read_text()
    fence = '#include <Arduino.h>\nextern "C" {\n#include <probe_stream.h>\n}\n'
    (tmp_path / "sketch.cpp").write_text(fence + sketch + ONE_SECOND)
    src = folder / "src"
    sources = [str(src / "probe.c"), str(src / "probe_stream.c")]
    flags = ["-DPROBE_SAMPLE_RATE_HZ=44100u", f"-I{src}", f"-I{tmp_path}"]
    run(["cc", *flags, "-c", *sources], tmp_path)
    objects = ["probe.o", "probe_stream.o"]
    run(["g++", "-std=c++11", *flags, "sketch.cpp", *objects, "-o", "sketch"], tmp_path)
    run(["./sketch"], tmp_path)


@pytest.mark.parametrize("which", ["folder", "pair_folder"])
def test_the_arduino_library_compiles(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(which)
    properties = (folder / "library.properties").read_text()
    for key in (
        "name",
        "version",
        "author",
        "maintainer",
        "sentence",
        "paragraph",
        "architectures",
    ):
        assert f"{key}=" in properties
    (tmp_path / "Arduino.h").write_text(ARDUINO_H)
    sketch = (folder / "examples/probe_serial/probe_serial.ino").read_text()
    (tmp_path / "sketch.cpp").write_text("#include <Arduino.h>\n" + sketch)
    flags = [
        "-mcpu=cortex-m3",
        "-mthumb",
        f"-I{folder / 'src'}",
        f"-I{tmp_path}",
        "-Wall",
        "-Werror",
    ]
    run(["arm-none-eabi-g++", "-std=c++17", *flags, "-c", "sketch.cpp"], tmp_path)
    sources = sorted(str(path) for path in (folder / "src").glob("*.c"))
    run(["arm-none-eabi-gcc", "-std=gnu11", *flags, "-c", *sources], tmp_path)
    objects = [path.name for path in sorted(tmp_path.glob("*.o"))]
    run(["arm-none-eabi-ld", "-r", *objects, "-o", "all.o"], tmp_path)
    undefined = run(["arm-none-eabi-nm", "-u", "all.o"], tmp_path)
    assert "probe" not in undefined  # C and C++ agree on the names


@pytest.mark.qemu
def test_the_cmsis_example_runs(folder: Path) -> None:
    build_project(folder)
    said = run(["make", "-s", "run"], folder / "cmsis").split()
    got = np.array([struct.unpack(">f", bytes.fromhex(word))[0] for word in said], np.float32)
    n = np.arange(32)
    x = ((n * 37) % 200 - 100).astype(np.float32) / np.float32(100.0)
    assert np.array_equal(got, np.add.accumulate(x, dtype=np.float32))


@pytest.mark.qemu
def test_the_cmsis_example_refuses_a_rate_that_systick_cannot_keep(
    folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "fw")
    makefile = copy / "cmsis/Makefile"
    makefile.write_text(makefile.read_text().replace("-DSEMI", "-DPROBE_SAMPLE_RATE_HZ=1u -DSEMI"))
    done = subprocess.run(
        ["make", "-sB", "run"], cwd=copy / "cmsis", capture_output=True, text=True
    )
    assert "Error 4" in done.stderr


def test_layouts_that_are_not_asked_for_are_not_written(
    summing: CompiledModel, tmp_path: Path
) -> None:
    create_project(tmp_path, summing, platform="standalone", options={"layouts": "arduino"})
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "README.md",
        "example",
        "examples",
        "library.properties",
        "project.json",
        "src",
    }
    with pytest.raises(BoardError, match="Arduino's or Zephyr's own tools"):
        build_project(tmp_path)
    with pytest.raises(BoardError, match="no RPC server"):
        open_project(tmp_path)


def test_wrong_layouts_are_refused(summing: CompiledModel, probe: Maker, tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="did you mean 'cmake'"):
        create_project(tmp_path, summing, platform="standalone", options={"layouts": "make,cmaek"})
    with pytest.raises(BoardError, match="no board for target host"):
        create_project(
            tmp_path, probe(target="host"), platform="standalone", options={"layouts": "cmsis"}
        )
    with pytest.raises(BoardError, match="compile with target='cortex-m4f'"):
        create_project(tmp_path, summing, "mps2-an386", platform="standalone")
    with pytest.raises(BoardError, match="one model"):
        create_project(tmp_path, [summing, summing], platform="standalone")


def test_inputs_in_the_workspace_are_refused(pair: CompiledModel, tmp_path: Path) -> None:
    inside = CompiledModel(
        "probe", pair.target, replace(pair.signature, io_in_arena=True), pair.sources
    )
    with pytest.raises(BoardError, match="--io-in-arena"):
        create_project(tmp_path, inside, platform="standalone")


def test_a_model_that_takes_no_stream_is_refused(probe: Maker, tmp_path: Path) -> None:
    model = probe()
    model.signature = Signature(
        "probe",
        (InputSpec("x", (8,), "float32", None),),
        model.signature.outputs,
        OutputStructure(),
        block=8,
        state_bytes=4,
        workspace_bytes=0,
    )
    with pytest.raises(BoardError, match="'x' is no stream"):
        create_project(tmp_path / "fw", model, platform="standalone")
