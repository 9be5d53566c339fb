"""Model Library Format: one tar with the C of a model and all that is known of it.

The layout is version 7's, as microTVM wrote it, but without dates: equal models give equal bytes.
Reading only parses: nothing is extracted, imported or run.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microddsp.errors import ArchiveError, CompileError, nearest
from microddsp.micro.package.layout import module_of, readme_of
from microddsp.micro.package.metadata import FORMAT_VERSION, Metadata, Module
from microddsp.micro.package.names import is_c_name
from microddsp.micro.package.plain_tar import (
    either,
    json_of,
    members_of,
    object_of,
    packed,
    read_file,
    text_of,
)
from microddsp.micro.package.signature_file import read_signature
from microddsp.micro.targets import Target, find_target
from microddsp.outline import Outline

if TYPE_CHECKING:
    from microddsp.micro.package.model import CompiledModel

_OBJECTS = "codegen/host/lib/"


def models_of(
    model: CompiledModel | Iterable[CompiledModel] | Mapping[str, CompiledModel],
) -> list[CompiledModel]:
    """One or several models, or what `load_models` gave, as a list."""
    several = model.values() if isinstance(model, Mapping) else model
    return list(several) if isinstance(several, Iterable) else [several]


def save(
    model: CompiledModel | Sequence[CompiledModel] | Mapping[str, CompiledModel], path: str | Path
) -> None:
    """Write one or several models, or what `load_models` gave, to `path`, whole or not at all.

    Raises:
        ArchiveError: The file cannot be written, two models have one name, or they are larger than
            what `load` reads.
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


def to_bytes(
    model: CompiledModel | Sequence[CompiledModel] | Mapping[str, CompiledModel],
) -> bytes:
    """The archive as bytes, the same for equal models on every computer."""
    models = sorted(models_of(model), key=lambda one: one.name)
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
    return packed(contents)


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
        return _models(members_of(read_file(Path(path))))
    except ArchiveError as error:
        raise ArchiveError(error.message, where=str(path), hint=error.hint) from error


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

    data = object_of(json_of(members, "metadata.json"), "metadata.json")
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
        signature=read_signature(members, name),
        sources={
            f"{name}.c": text_of(members, f"codegen/host/src/{name}.c"),
            f"{name}.h": text_of(members, f"codegen/host/include/{name}.h"),
        },
        tir=text_of(members, either(members, f"src/{name}.tir", "src/tir-cpu.txt")),
        buffers=tuple(ours.buffers),
        objects=_objects(members, name),
        outline=Outline.from_json(ours.outline) if ours.outline is not None else None,
        relax=text_of(members, f"src/{name}.relax") if f"src/{name}.relax" in members else "",
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


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
