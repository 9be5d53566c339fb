"""Model Library Format: one tar with the C of a model and all that is known of it.

The layout is version 7's, as microTVM wrote it, but without dates: equal models give equal bytes.
Reading only parses. Nothing is extracted, imported or run, and whatever the writer does not write
(links, devices, extended headers, odd names) is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import stat
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from microddsp.errors import ArchiveError, CompileError, nearest
from microddsp.micro.aot.memory_options import ALIGNMENTS
from microddsp.micro.package.layout import module_of, readme_of
from microddsp.micro.package.metadata import FORMAT_VERSION, Metadata, Module
from microddsp.micro.package.names import is_c_name
from microddsp.micro.targets import Target, find_target
from microddsp.outline import Outline
from microddsp.signature import C_TYPES, Signature, TensorSpec

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

MAX_ARCHIVE_BYTES = 64 * 2**20
MAX_MEMBER_BYTES = 16 * 2**20
MAX_MEMBERS = 256
MAX_ELEMENTS = 2**28

_BLOCK = 512
_OBJECTS = "codegen/host/lib/"
_PATH = re.compile(r"[A-Za-z0-9_.+-]+(/[A-Za-z0-9_.+-]+)*")
_STRUCTURES = ("tensor", "tuple", "dict", "namedtuple")
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)


def save(model: CompiledModel | Sequence[CompiledModel], path: str | Path) -> None:
    """Write one or several models to `path`, whole or not at all.

    Raises:
        ArchiveError: The file cannot be written, or two models have one name.
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


def to_bytes(model: CompiledModel | Sequence[CompiledModel]) -> bytes:
    """The archive as bytes, the same for equal models on every computer."""
    several = list(model) if isinstance(model, Sequence) else [model]
    models = sorted(several, key=lambda one: one.name)
    _check_names([one.name for one in models])
    readme = "\n".join(readme_of(one) for one in models).encode()
    contents: dict[str, bytes] = {"README.txt": readme}
    modules: dict[str, Module] = {}
    for one in models:
        own = _files_of(one)
        contents |= own
        own["README.txt"] = readme
        hashes = {path: hashlib.sha256(content).hexdigest() for path, content in own.items()}
        modules[one.name] = module_of(one, hashes)
    contents["metadata.json"] = _json(Metadata(modules=modules).model_dump(mode="json")).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(contents):
            content = contents[path]
            member = tarfile.TarInfo(path)
            member.size = len(content)
            member.mode = 0o644
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise ArchiveError("there is no model to write")
    # macros are in capitals: names that differ in case only would share them
    seen = Counter(name.upper() for name in names)
    for name in names:
        if seen[name.upper()] > 1:
            raise ArchiveError(
                f"two models are called {name!r}", hint="compile one with another name"
            )


def _files_of(model: CompiledModel) -> dict[str, bytes]:
    """What belongs to one model: path -> content."""
    name = model.name
    texts = {
        f"codegen/host/src/{name}.c": model.sources[f"{name}.c"],
        f"codegen/host/include/{name}.h": model.sources[f"{name}.h"],
        f"src/{name}.tir": model.tir,
        f"executor-config/aot/{name}.json": _json(model.signature.to_json()),
    }
    files = {path: text.encode() for path, text in texts.items()}
    files |= {f"{_OBJECTS}{file}": content for file, content in model.objects.items()}
    if model.relax:
        files[f"src/{name}.relax"] = model.relax.encode()
    if model.parameters:
        files[f"parameters/{name}.params"] = model.parameters
    return files


def load(path: str | Path, name: str | None = None) -> CompiledModel:
    """The only model of an archive that `save` wrote, or the one of that name. Parses only: no code
    of the archive runs here.

    Raises:
        ArchiveError: The file is missing, damaged, of another version, or tries something; it holds
            several models and none was named, or not that one.
    """
    models = load_models(path)
    if name is None and len(models) > 1:
        raise ArchiveError(
            f"holds several models: {', '.join(models)}",
            where=str(path),
            hint=f'say which: load(path, "{next(iter(models))}") or --name; or load_models(path)',
        )
    chosen = next(iter(models)) if name is None else name
    if chosen not in models:
        raise ArchiveError(
            f"holds no model {chosen!r}", where=str(path), hint=nearest(chosen, models)
        )
    return models[chosen]


def load_models(path: str | Path) -> dict[str, CompiledModel]:
    """All models of an archive by name, as `load` reads them.

    Raises:
        ArchiveError: The file is missing, damaged, of another version, or tries something.
    """
    try:
        return _models(_members(_read(Path(path))))
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


def _models(members: dict[str, bytes]) -> dict[str, CompiledModel]:
    metadata = _metadata(members)
    for name, module in metadata.modules.items():
        if not is_c_name(name) or module.model_name != name:
            raise ArchiveError(f"model name {name!r} is no C identifier, or not the module's")
    _check_names(list(metadata.modules))
    hashes: dict[str, set[str]] = {}
    for module in metadata.modules.values():
        for path, digest in module.microddsp.sha256.items():
            hashes.setdefault(path, set()).add(digest)
    for path in sorted(members.keys() - {"metadata.json"}):
        if hashes.get(path) != {hashlib.sha256(members[path]).hexdigest()}:
            raise ArchiveError(f"{path} does not match its digest: the archive was changed")
    for path in sorted(hashes.keys() - members.keys() - {"README.txt"}):
        raise ArchiveError(f"lacks {path}")
    _check_objects(members, metadata.modules)
    return {name: _model(members, name, module) for name, module in metadata.modules.items()}


def _metadata(members: dict[str, bytes]) -> Metadata:
    from pydantic import ValidationError

    data = _object(_parse(members, "metadata.json"), "metadata.json")
    if data.get("version") != FORMAT_VERSION:
        raise ArchiveError(
            f"is of format version {data.get('version')!r}, not {FORMAT_VERSION}",
            hint="compile the model again with this microddsp",
        )
    try:
        return Metadata.model_validate_json(members["metadata.json"])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ArchiveError(
            f"metadata.json: {place}: {first['msg']}",
            hint="only archives of microddsp are read, not those of microTVM",
        ) from error


def _model(members: dict[str, bytes], name: str, module: Module) -> CompiledModel:
    from microddsp.micro.package.model import CompiledModel

    ours, functions = module.microddsp, module.memory.functions
    model = CompiledModel(
        name=name,
        target=_target(ours.target),
        signature=_signature(members, name),
        sources={
            f"{name}.c": _text(members, f"codegen/host/src/{name}.c"),
            f"{name}.h": _text(members, f"codegen/host/include/{name}.h"),
        },
        tir=_text(members, _either(members, f"src/{name}.tir", "src/tir-cpu.txt")),
        buffers=tuple(ours.buffers),
        objects=_objects(members, name),
        outline=Outline.from_json(ours.outline) if ours.outline is not None else None,
        relax=_text(members, f"src/{name}.relax") if f"src/{name}.relax" in members else "",
        kernels=tuple(
            (f.function_name, f.workspace[0].workspace_size_bytes, f.io[0].io_size_bytes)
            for f in functions.operator_functions
        ),
        constant_bytes=functions.main[0].constants_size_bytes,
        parameters=members.get(f"parameters/{name}.params", b""),
    )
    if model.digest != ours.digest:
        raise ArchiveError("the sources do not match the model's digest")
    return model


def _either(members: dict[str, bytes], path: str, older: str) -> str:
    """Where the file is: archives of one model had names without the model's before."""
    return older if path not in members and older in members else path


def _check_objects(members: dict[str, bytes], names: Iterable[str]) -> None:
    wanted = {f"{_OBJECTS}{name}_kernels.o" for name in names}
    for path in members:
        if path.startswith(_OBJECTS) and path not in wanted:
            raise ArchiveError(f"{path} is no object file of a model in this archive")


def _objects(members: dict[str, bytes], name: str) -> dict[str, bytes]:
    """The kernels as object code: bytes that are only handed on to a linker."""
    file = f"{name}_kernels.o"
    content = members.get(f"{_OBJECTS}{file}")
    if content is None:
        return {}
    if not content.startswith(b"\x7fELF"):
        raise ArchiveError(f"{_OBJECTS}{file} is no object file")
    return {file: content}


def _target(name: str) -> Target:
    try:
        return find_target(name)
    except CompileError as error:
        raise ArchiveError(error.message, hint=error.hint) from error


def _signature(members: dict[str, bytes], name: str) -> Signature:
    from pydantic import TypeAdapter, ValidationError

    folder = "executor-config/aot"
    path = _either(members, f"{folder}/{name}.json", f"{folder}/signature.json")
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
    _check_tunables(signature)
    names = [spec.name for spec in (*signature.inputs, *signature.outputs)]
    sizes = (signature.block - 1, signature.state_bytes, signature.workspace_bytes)
    if not signature.inputs or not signature.outputs or len(set(names)) != len(names):
        raise ArchiveError("signature: inputs and outputs must be there, each name once")
    align = signature.workspace_align
    if not all(0 <= size <= MAX_ELEMENTS for size in sizes) or align not in ALIGNMENTS:
        raise ArchiveError("signature: a size makes no sense")
    return signature


def _check_tunables(signature: Signature) -> None:
    names = [tunable.name for tunable in signature.tunables]
    for tunable in signature.tunables:
        _identifier(tunable.name, "tunable")
        sane = all(size > 0 for size in tunable.shape) and tunable.path.isprintable()
        if not sane or math.prod(tunable.shape) != len(tunable.value):
            raise ArchiveError(f"signature: tunable {tunable.name} makes no sense")
    if len(set(names)) != len(names):
        raise ArchiveError("signature: a tunable is there twice")


def _check_tensor(spec: TensorSpec) -> None:
    _identifier(spec.name, "tensor")
    sane = all(size > 0 for size in spec.shape) and spec.elements <= MAX_ELEMENTS
    axis = spec.stream_axis
    if spec.dtype not in C_TYPES or not sane or (axis is not None and not -4 <= axis < 4):
        raise ArchiveError(f"signature: {spec.name} has shape {spec.shape} of {spec.dtype}")


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
