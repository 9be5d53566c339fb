"""Model Library Format: one tar with the C of a model and all that is known of it.

The layout is version 7's, as microTVM wrote it, but without dates: equal models give equal bytes.
Reading only parses. Nothing is extracted, imported or run, and whatever the writer does not write
(links, devices, extended headers, odd names) is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from microddsp.errors import ArchiveError, CompileError
from microddsp.micro.aot.memory_options import ALIGNMENTS
from microddsp.micro.package.layout import metadata_of, readme_of
from microddsp.micro.package.names import is_c_name
from microddsp.micro.targets import find_target
from microddsp.outline import Outline
from microddsp.signature import C_TYPES, Signature, TensorSpec

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

FORMAT_VERSION = 7
MAX_ARCHIVE_BYTES = 64 * 2**20
MAX_MEMBER_BYTES = 16 * 2**20
MAX_MEMBERS = 64
MAX_ELEMENTS = 2**28

_BLOCK = 512
_OBJECTS = "codegen/host/lib/"
_PATH = re.compile(r"[A-Za-z0-9_.+-]+(/[A-Za-z0-9_.+-]+)*")
_STRUCTURES = ("tensor", "tuple", "dict", "namedtuple")
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)


def save(model: CompiledModel, path: str | Path) -> None:
    """Write `model` to `path`, whole or not at all.

    Raises:
        ArchiveError: The file cannot be written.
    """
    data = to_bytes(model)
    target = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise ArchiveError(f"cannot write: {error.strerror}", where=str(target)) from error


def to_bytes(model: CompiledModel) -> bytes:
    """The archive as bytes, the same for equal models on every computer."""
    name = model.name
    files = {
        f"codegen/host/src/{name}.c": model.sources[f"{name}.c"],
        f"codegen/host/include/{name}.h": model.sources[f"{name}.h"],
        "src/tir-cpu.txt": model.tir,
        "executor-config/aot/signature.json": _json(model.signature.to_json()),
        "README.txt": readme_of(model),
    }
    contents = {path: text.encode() for path, text in files.items()}
    contents |= {f"{_OBJECTS}{file}": content for file, content in model.objects.items()}
    hashes = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    contents["metadata.json"] = _json(metadata_of(model, FORMAT_VERSION, hashes)).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(contents):
            content = contents[path]
            member = tarfile.TarInfo(path)
            member.size = len(content)
            member.mode = 0o644
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def load(path: str | Path) -> CompiledModel:
    """Read an archive that `save` wrote. Parses only: no code of the archive runs here.

    Raises:
        ArchiveError: The file is missing, damaged, of another version, or tries something.
    """
    try:
        return _model(_members(_read(Path(path))))
    except ArchiveError as error:
        raise ArchiveError(error.message, where=str(path), hint=error.hint) from error


def _read(path: Path) -> bytes:
    try:
        # A pipe would block for ever: it is looked at before it is opened.
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise ArchiveError("is not a file")
        if info.st_size > MAX_ARCHIVE_BYTES:
            raise ArchiveError(f"is larger than {MAX_ARCHIVE_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise ArchiveError(f"cannot be read: {error.strerror}") from error


def _members(data: bytes) -> dict[str, bytes]:
    """Path -> content of every file in a plain ustar archive.

    The headers are parsed by `tarfile`, the walk is ours: `tarfile`'s own follows links and
    chains of extended headers that a hostile archive can make endless.
    """
    found: dict[str, bytes] = {}
    headers = at = 0
    while True:
        header = data[at : at + _BLOCK]
        if header == bytes(_BLOCK):
            break
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise ArchiveError(f"is no tar or is damaged: {error} at byte {at}") from error
        at += _BLOCK
        headers += 1
        if headers > MAX_MEMBERS:
            raise ArchiveError(f"has more than {MAX_MEMBERS} members")
        if member.type not in (*_REGULAR, tarfile.DIRTYPE):
            raise ArchiveError(f"{member.name!r} is no plain file (type {member.type!r})")
        path = _safe_path(member.name)
        if not 0 <= member.size <= MAX_MEMBER_BYTES:
            raise ArchiveError(f"{path} is larger than {MAX_MEMBER_BYTES >> 20} MiB")
        content = data[at : at + member.size]
        if len(content) < member.size:
            raise ArchiveError(f"is truncated inside {path}")
        at += -(-member.size // _BLOCK) * _BLOCK
        if member.type in _REGULAR:
            if path in found:
                raise ArchiveError(f"has {path} twice")
            found[path] = content
    tail = data[at:]
    if len(tail) < 2 * _BLOCK:
        raise ArchiveError("is truncated: the end mark is missing")
    if tail.strip(b"\0"):
        raise ArchiveError("has data behind its end")
    return found


def _safe_path(name: str) -> str:
    path = name.removeprefix("./").rstrip("/") or "."
    parts = PurePosixPath(path).parts
    if name.startswith("/") or ".." in parts or not _PATH.fullmatch(path):
        raise ArchiveError(f"{name!r} is no path that an archive may hold")
    return path


def _model(members: dict[str, bytes]) -> CompiledModel:
    from microddsp.micro.package.model import CompiledModel

    metadata = _object(_parse(members, "metadata.json"), "metadata.json")
    if metadata.get("version") != FORMAT_VERSION:
        raise ArchiveError(
            f"is of format version {metadata.get('version')!r}, not {FORMAT_VERSION}",
            hint="compile the model again with this microddsp",
        )
    modules = _object(metadata.get("modules"), "modules")
    if len(modules) != 1:
        raise ArchiveError(f"holds {len(modules)} models, not one")
    name, entry = next(iter(modules.items()))
    _identifier(name, "model")
    ours = _object(_object(entry, name).get("microddsp"), "microddsp")
    hashes = _object(ours.get("sha256"), "sha256")
    for path in sorted(members.keys() - {"metadata.json"}):
        if hashes.get(path) != hashlib.sha256(members[path]).hexdigest():
            raise ArchiveError(f"{path} does not match its digest: the archive was changed")
    model = CompiledModel(
        name=name,
        target=_target(ours.get("target")),
        signature=_signature(members, name),
        sources={
            f"{name}.c": _text(members, f"codegen/host/src/{name}.c"),
            f"{name}.h": _text(members, f"codegen/host/include/{name}.h"),
        },
        tir=_text(members, "src/tir-cpu.txt"),
        buffers=_buffers(ours.get("buffers")),
        objects=_objects(members, name),
        outline=_outline(ours.get("outline")),
    )
    if model.digest != ours.get("digest"):
        raise ArchiveError("the sources do not match the model's digest")
    return model


def _objects(members: dict[str, bytes], name: str) -> dict[str, bytes]:
    """The kernels as object code: bytes that are only handed on to a linker."""
    found = {p.removeprefix(_OBJECTS): m for p, m in members.items() if p.startswith(_OBJECTS)}
    for file, content in found.items():
        if file != f"{name}_kernels.o" or not content.startswith(b"\x7fELF"):
            raise ArchiveError(f"{_OBJECTS}{file} is no object file of this model")
    return found


def _target(name: Any) -> Any:
    if not isinstance(name, str):
        raise ArchiveError("names no target")
    try:
        return find_target(name)
    except CompileError as error:
        raise ArchiveError(error.message, hint=error.hint) from error


def _signature(members: dict[str, bytes], name: str) -> Signature:
    from pydantic import TypeAdapter, ValidationError

    path = "executor-config/aot/signature.json"
    data = _object(_parse(members, path), path)
    try:
        TypeAdapter(Signature).validate_json(members[path], strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ArchiveError(f"signature: {place}: {first['msg']}") from error
    signature = Signature.from_json(data)
    if signature.name != name:
        raise ArchiveError(f"signature is of {signature.name!r}, the model is {name!r}")
    structure = signature.structure
    if structure.kind not in _STRUCTURES or structure.names != tuple(
        spec.name for spec in signature.outputs
    ):
        raise ArchiveError("signature: the output structure does not fit the outputs")
    if structure.type_name:
        _identifier(structure.type_name, "output type")
    for spec in (*signature.inputs, *signature.outputs):
        _check_tensor(spec)
    names = [spec.name for spec in (*signature.inputs, *signature.outputs)]
    sizes = (signature.block - 1, signature.state_bytes, signature.workspace_bytes)
    if not signature.inputs or not signature.outputs or len(set(names)) != len(names):
        raise ArchiveError("signature: inputs and outputs must be there, each name once")
    align = signature.workspace_align
    if not all(0 <= size <= MAX_ELEMENTS for size in sizes) or align not in ALIGNMENTS:
        raise ArchiveError("signature: a size makes no sense")
    return signature


def _check_tensor(spec: TensorSpec) -> None:
    _identifier(spec.name, "tensor")
    sane = all(size > 0 for size in spec.shape) and spec.elements <= MAX_ELEMENTS
    axis = spec.stream_axis
    if spec.dtype not in C_TYPES or not sane or (axis is not None and not -4 <= axis < 4):
        raise ArchiveError(f"signature: {spec.name} has shape {spec.shape} of {spec.dtype}")


def _buffers(rows: Any) -> tuple[tuple[str, int, int, int, int], ...]:
    if not isinstance(rows, list) or not all(
        isinstance(row, list)
        and [type(value) for value in row] == [str, int, int, int, int]
        and re.fullmatch(r"[\w.]{1,200}", row[0], re.ASCII)
        for row in rows
    ):
        raise ArchiveError("the list of buffers cannot be read")
    return tuple((str(r[0]), int(r[1]), int(r[2]), int(r[3]), int(r[4])) for r in rows)


def _outline(data: Any) -> Outline | None:
    return None if data is None else Outline.from_json(_object(data, "outline"))


def _identifier(name: str, what: str) -> None:
    if not is_c_name(name):
        raise ArchiveError(f"{what} name {name!r} is no C identifier, or a keyword")


def _text(members: dict[str, bytes], path: str) -> str:
    if path not in members:
        raise ArchiveError(f"lacks {path}")
    try:
        return members[path].decode()
    except UnicodeDecodeError as error:
        raise ArchiveError(f"{path} is not text: {error}") from error


def _parse(members: dict[str, bytes], path: str) -> Any:
    try:
        return json.loads(_text(members, path))
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{path} is no JSON: {error}") from error


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ArchiveError(f"{what} is missing or of the wrong kind")
    return value


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
