"""CMSIS-DSP: its C sources, from the source distribution of its Python package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.device.harness import library_flags
from benchmarks.device.job import Array, Code, Job
from benchmarks.device.peers.c_text import array, define
from benchmarks.device.peers.naive import ENVELOPE_AND_COUNTER
from microddsp.errors import BoardError
from microddsp.micro.package.objects import find_compiler
from microddsp.micro.targets import Target

VERSION = "1.10.3"
_FOLDERS = (
    *("BasicMath", "CommonTables", "ComplexMath", "FastMath", "Filtering", "Matrix"),
    *("Statistics", "Support", "Transform"),
)
# Without CMSIS-Core, which the package does not carry; floats do not use its intrinsics.
_DEFINES = ("-D__GNUC_PYTHON__", "-DARM_MATH_LOOPUNROLL")

_FLOAT = re.compile(r"f32|tables$|structs$|bitreversal2?$")

_START = '#define __GNUC_PYTHON__\n#include "arm_math.h"\nvoid job_init(void);\n'
_INIT = "#define JOB_INIT() job_init()\n"
# Where the job is one call of the library, that call alone is measured.
_PROCESS = """void job_process(const float *from, void *to);
#define JOB_PROCESS(from, to) job_process((from), (to))
"""


def code(job: Job, target: Target, folder: Path) -> Code | None:
    """Calls of CMSIS-DSP for the job.

    Raises:
        BoardError: The package cannot be had, or does not build.
    """
    make = _KINDS.get(job.kind)
    if make is None:
        return None
    source = _source(folder)
    header, text = make(job)
    packed = job.kind == "rfft"
    return Code(
        _START + header + _INIT,
        {"job.c": f'#include "job.h"\n{text}'},
        includes=(source / "Include", source / "PrivateInclude"),
        archives=(_archive(target, folder),),
        out_elements=job.block if packed else None,
        in_order=_unpacked if packed else None,
    )


@cache
def _source(folder: Path) -> Path:
    place = folder / f"cmsisdsp-{VERSION}"
    if not place.is_dir():
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check"]
        options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "-d", str(folder)]
        done = subprocess.run(
            [*pip, *options, f"cmsisdsp=={VERSION}"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise BoardError(f"cmsisdsp {VERSION} cannot be had: {done.stderr.strip()[-300:]}")
        with tarfile.open(folder / f"cmsisdsp-{VERSION}.tar.gz") as packed:
            packed.extractall(folder, filter="data")
    return place.resolve()


@cache
def _archive(target: Target, folder: Path) -> Path:
    """All of the library, one object a file."""
    source, objects = _source(folder), folder / f"cmsisdsp-{target.name}"
    archive = (objects / "libcmsisdsp.a").resolve()
    if archive.is_file():
        return archive
    shutil.rmtree(objects, ignore_errors=True)
    objects.mkdir(parents=True)
    files = [
        path
        for name in _FOLDERS
        for path in sorted((source / "Source" / f"{name}Functions").glob("arm_*.c"))
        + sorted((source / "Source" / name).glob("arm_*.c"))
        if _FLOAT.search(path.stem)
    ]
    compiler = find_compiler(target)
    includes = [f"-I{source / 'Include'}", f"-I{source / 'PrivateInclude'}"]
    flags = [*library_flags(target), *_DEFINES, *includes, "-w", "-c", *map(str, files)]
    done = subprocess.run([compiler, *flags], cwd=objects, capture_output=True, text=True)
    if done.returncode != 0:
        raise BoardError(f"CMSIS-DSP does not build:\n{done.stderr[-2000:]}", where=target.name)
    tool = compiler.removesuffix("gcc") + "ar"
    subprocess.run([tool, "rcs", str(archive), *map(str, sorted(objects.glob("*.o")))], check=True)
    return archive


def _sections(job: Job) -> str:
    """Coefficients in CMSIS-DSP's order: feedback with the other sign."""
    sos = np.asarray(job.parameters["sos"], "float64")
    rows = np.column_stack([sos[:, :3], -sos[:, 4:]])
    return array("coefficients", rows) + (
        f"#define SECTIONS {len(sos)}u\nstatic float states[2u * SECTIONS];\n"
        "arm_biquad_cascade_df2T_instance_f32 filter;\n"
    )


def _sos(job: Job) -> tuple[str, str]:
    header = f"""extern arm_biquad_cascade_df2T_instance_f32 filter;
#define JOB_PROCESS(from, to) arm_biquad_cascade_df2T_f32(&filter, (from), (to), {job.block}u)
"""
    text = f"""{_sections(job)}
void job_init(void)
{{
    arm_biquad_cascade_df2T_init_f32(&filter, SECTIONS, coefficients, states);
}}
"""
    return header, text


def _chain(job: Job) -> tuple[str, str]:
    """The library has the filter and the rectifier; the rest is plain C."""
    constants = "".join(
        define(name.upper(), job.parameters[name]) for name in ("attack", "release", "high", "low")
    )
    text = f"""{_sections(job)}{constants}
#define REFRACTORY {job.parameters["refractory"]}
{ENVELOPE_AND_COUNTER}
static float filtered[{job.block}];
void job_init(void)
{{
    arm_biquad_cascade_df2T_init_f32(&filter, SECTIONS, coefficients, states);
}}
void job_process(const float *from, void *to)
{{
    arm_biquad_cascade_df2T_f32(&filter, from, filtered, {job.block}u);
    arm_abs_f32(filtered, filtered, {job.block}u);
    follow_and_count(filtered, to, {job.block});
}}
"""
    return _PROCESS, text


def _fir(job: Job) -> tuple[str, str]:
    taps = np.asarray(job.parameters["taps"])
    header = f"""extern arm_fir_instance_f32 filter;
#define JOB_PROCESS(from, to) arm_fir_f32(&filter, (from), (to), {job.block}u)
"""
    text = f"""{array("taps", taps[::-1])}
#ifdef ARM_MATH_MVEF /* Helium keeps working memory in front of the state */
static float states[{len(taps) + 2 * job.block - 1}];
#else
static float states[{len(taps) + job.block - 1}];
#endif
arm_fir_instance_f32 filter;
void job_init(void)
{{
    arm_fir_init_f32(&filter, {len(taps)}u, taps, states, {job.block}u);
}}
"""
    return header, text


def _unpacked(packed: Array) -> Array:
    """Real and imaginary parts of all bins; the library puts the last bin behind the first."""
    zero = np.zeros((len(packed), 1), packed.dtype)
    return np.hstack([packed[:, :1], zero, packed[:, 2:], packed[:, 1:2], zero])


def _rfft(job: Job) -> tuple[str, str]:
    header = """extern arm_rfft_fast_instance_f32 transform;
#define JOB_PROCESS(from, to) arm_rfft_fast_f32(&transform, (float *)(from), (to), 0u)
"""
    text = f"""arm_rfft_fast_instance_f32 transform;
void job_init(void)
{{
    (void)arm_rfft_fast_init_{job.block}_f32(&transform);
}}
"""
    return header, text


def _log_mel(job: Job) -> tuple[str, str]:
    """Composed: the library's own arm_mfcc_f32 takes magnitudes and scales twice besides."""
    bank = np.asarray(job.parameters["bank"])
    used = [np.flatnonzero(row) for row in bank]
    lengths = ", ".join(str(len(bins)) for bins in used)
    starts = ", ".join(str(bins[0]) for bins in used)
    weights = np.concatenate([row[bins] for row, bins in zip(bank, used, strict=True)])
    dct = job.parameters.get("dct")
    last, table = "bands", ""
    if dct is not None:
        last = "mel"
        table = array("dct", dct) + (
            f"static const arm_matrix_instance_f32 matrix = {{{len(dct)}, {len(bank)}, "
            f"(float *)dct}};\nstatic float mel[{len(bank)}];\n"
        )
    text = f"""{array("window", job.parameters["window"])}{array("weights", weights)}{table}
static const unsigned char starts[] = {{{starts}}};
static const unsigned char lengths[] = {{{lengths}}};
static arm_rfft_fast_instance_f32 transform;
static float frame[{job.block}];
static float spectrum[{job.block}];
void job_init(void)
{{
    (void)arm_rfft_fast_init_{job.block}_f32(&transform);
}}
void job_process(const float *from, void *to)
{{
    const float *weight = weights;
    float *bands = to;
    arm_mult_f32(from, window, frame, {job.block}u);
    arm_rfft_fast_f32(&transform, frame, spectrum, 0u);
    spectrum[1] = 0.0f;
    arm_cmplx_mag_squared_f32(spectrum, frame, {job.block // 2}u);
    for (int i = 0; i < {len(bank)}; i++) {{
        arm_dot_prod_f32(&frame[starts[i]], weight, lengths[i], &{last}[i]);
        weight += lengths[i];
    }}
    arm_offset_f32({last}, {job.parameters["floor"]}f, {last}, {len(bank)}u);
    arm_vlog_f32({last}, {last}, {len(bank)}u);
    {"" if dct is None else "arm_mat_vec_mult_f32(&matrix, mel, bands);"}
}}
"""
    return _PROCESS, text


_KINDS: dict[str, Callable[[Job], tuple[str, str]]] = {
    "sos": _sos,
    "chain": _chain,
    "fir": _fir,
    "rfft": _rfft,
    "log-mel": _log_mel,
}
