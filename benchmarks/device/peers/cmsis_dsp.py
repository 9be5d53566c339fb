"""CMSIS-DSP: its C sources, from the source distribution of its Python package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path

from benchmarks.device.harness import library_flags
from benchmarks.device.job import Code, Job
from benchmarks.device.peers.cmsis_calls import KINDS, unpacked
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


def code(job: Job, target: Target, folder: Path) -> Code | None:
    """Calls of CMSIS-DSP for the job.

    Raises:
        BoardError: The package cannot be had, or does not build.
    """
    make = KINDS.get(job.kind)
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
        in_order=unpacked if packed else None,
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
