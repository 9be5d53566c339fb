"""Share of a processor that a model takes: modelled cycles of a block against its duration."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import numpy as np

from microddsp.errors import BoardError, CompileError
from microddsp.micro.boards import Board, boards
from microddsp.micro.cycles.cortex_m4 import model_cycles
from microddsp.micro.cycles.counting import build_plugin, executed, run_counted
from microddsp.micro.package.objects import compile_c
from microddsp.signature import C_TYPES, Signature, TensorSpec

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

MODELLED = "cortex-m4f"
_BLOCKS = 8
_HERE = Path(__file__).parent
_ALIGN = 16


@dataclass(frozen=True, slots=True)
class Load:
    """What one block takes, the mean of several of noise. `cycles_low` and `cycles_high` bound what
    the pipeline of the processor makes of the instructions; zero wait states."""

    instructions: float
    cycles_low: float
    cycles_high: float

    def share(self, signature: Signature, clock_hz: float) -> float:
        """The part of the processor's time, at most.

        Raises:
            CompileError: The pipeline does not know its sample rate.
        """
        if signature.sample_rate_hz is None:
            raise CompileError(
                "the load is cycles against the sample rate, and the pipeline knows none",
                where=signature.name,
                hint="a block with sample_rate_hz tells it",
            )
        return self.cycles_high * signature.sample_rate_hz / (signature.block * clock_hz)


def measure_load(model: CompiledModel) -> Load:
    """Run the model on the emulator with noise and model the cycles of what was executed.

    Raises:
        CompileError: The processor's cycles are not modelled.
        BoardError: A compiler or the emulator is missing.
    """
    if model.target.name != MODELLED:
        raise CompileError(
            f"cycles are modelled for {MODELLED} only, not for {model.target.name}",
            hint="`microddsp run --print-time` counts instructions on every board",
        )
    board = next(b for b in boards() if b.target == MODELLED)
    with tempfile.TemporaryDirectory(prefix="microddsp-") as folder:
        where = Path(folder)
        image = _build(model, board, where)
        _noise(model.signature).tofile(where / "in.bin")
        blocks = run_counted(board, image, build_plugin(where))
        objdump = model.target.compiler.removesuffix("gcc") + "objdump"
        cycles = model_cycles(image, blocks, objdump)
    build_plugin.cache_clear()  # it went with the folder
    return Load(executed(blocks) / _BLOCKS, cycles.low / _BLOCKS, cycles.high / _BLOCKS)


def _build(model: CompiledModel, board: Board, where: Path) -> Path:
    if model.name in ("main", "job"):
        raise BoardError(f"a model cannot be called {model.name!r} here", hint="another name")
    for name, text in model.sources.items():
        (where / name).write_text(text)
    for name, content in model.objects.items():
        (where / name).write_bytes(content)
    (where / "job.h").write_text(_job(model.signature))
    script = jinja2.Template((_HERE / "link.ld.j2").read_text(), undefined=jinja2.StrictUndefined)
    (where / "link.ld").write_text(script.render(board=board))
    include = f"-I{where}"
    main = compile_c(
        model.target, [_HERE / "main.c"], where / "job_main.o", ["-c", "-std=gnu11", include]
    )
    return compile_c(
        model.target,
        [main, where / f"{model.name}.c", *(where / name for name in model.objects)],
        where / "job.elf",
        [include, "-nostartfiles", "--specs=nosys.specs", "-Wl,--gc-sections", "-w"]
        + [f"-T{where / 'link.ld'}", "-Wl,--no-warn-rwx-segments"],
        ["-lm"],
    )


def _job(signature: Signature) -> str:
    """How the frame calls the model."""
    name, upper = signature.name, signature.name.upper()
    inputs, in_bytes = _places(signature.inputs)
    outputs, out_bytes = _places(signature.outputs)
    takes = [
        f"(const {C_TYPES[t.dtype]} *)(const void *)((const char *)(from) + {at})"
        for t, at in zip(signature.inputs, inputs, strict=True)
    ]
    gives = [
        f"({C_TYPES[t.dtype]} *)(void *)((char *)(to) + {at})"
        for t, at in zip(signature.outputs, outputs, strict=True)
    ]
    lines = [
        "#pragma once",
        "#include <string.h>",
        f'#include "{name}.h"',
        f"static {name}_t model;",
        f"static union {{ unsigned char bytes[{upper}_WORKSPACE_BYTES + 1]; uint64_t align; }} "
        f"workspace __attribute__((aligned({upper}_WORKSPACE_ALIGN)));",
        f"#define JOB_BLOCKS {_BLOCKS}u",
        f"#define JOB_IN_BYTES {in_bytes}u",
        f"#define JOB_OUT_BYTES {out_bytes}u",
        f"#define JOB_INIT() (void){name}_init(&model, &workspace, sizeof workspace)",
    ]
    if signature.io_in_arena:
        fills = [
            f"memcpy({name}_input_{t.name}(&model), (const char *)(from) + {at}, {t.nbytes}u);"
            for t, at in zip(signature.inputs, inputs, strict=True)
        ]
        lines += [
            f"#define JOB_PREPARE(from) do {{ {' '.join(fills)} }} while (0)",
            f"#define JOB_PROCESS(from, to) (void){name}_process(&model); (void)(to)",
        ]
    elif len(gives) == 1:
        arguments = ", ".join([*takes, *gives])
        lines.append(f"#define JOB_PROCESS(from, to) (void){name}_process(&model, {arguments})")
    else:
        arguments = ", ".join([*takes, "&outputs"])
        lines.append(
            f"#define JOB_PROCESS(from, to) const {name}_outputs_t outputs = "
            f"{{{', '.join(gives)}}}; (void){name}_process(&model, {arguments})"
        )
    return "\n".join(lines) + "\n"


def _places(specs: tuple[TensorSpec, ...]) -> tuple[list[int], int]:
    """Offsets of tensors behind each other, and bytes of them all."""
    places, at = [], 0
    for spec in specs:
        places.append(at)
        at += -(-spec.nbytes // _ALIGN) * _ALIGN
    return places, at


def noise_blocks(signature: Signature, count: int) -> list[list[np.ndarray]]:
    """For every input `count` arrays as `process` takes them; the same on every run."""
    dice = np.random.default_rng(0)
    found = []
    for spec in signature.inputs:
        arrays = []
        for _ in range(count):
            values = dice.standard_normal(spec.elements)
            if np.dtype(spec.dtype).kind in "iu":  # a quarter of full scale about the raw zero
                values = values * 0.25 / abs(spec_scale(spec)) + spec_offset(spec)
                info = np.iinfo(spec.dtype)
                values = np.clip(values, info.min, info.max)
            arrays.append(values.astype(spec.dtype).reshape(spec.shape))
        found.append(arrays)
    return found


def _noise(signature: Signature) -> np.ndarray:
    """Blocks of every input, as bytes."""
    places, nbytes = _places(signature.inputs)
    blocks = np.zeros((_BLOCKS, nbytes), "uint8")
    noise = noise_blocks(signature, _BLOCKS)
    for spec, at, arrays in zip(signature.inputs, places, noise, strict=True):
        for block, array in zip(blocks, arrays, strict=True):
            block[at : at + spec.nbytes] = array.reshape(-1).view("uint8")
    return blocks


def spec_scale(spec: TensorSpec) -> float:
    return float(getattr(spec, "scale", 1.0))


def spec_offset(spec: TensorSpec) -> float:
    return float(getattr(spec, "offset", 0.0))
