"""The model archive: equal bytes for equal models, and nothing hostile gets through the reader."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from microddsp.errors import ArchiveError
from microddsp.micro.package import archive, plain_tar
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.targets import find_target
from microddsp.signature import InputSpec, OutputStructure, Signature, TensorSpec, Tunable

ROOT = Path(__file__).resolve().parents[2]
SIGNATURE = "executor-config/aot/plops.json"
SOURCE = "codegen/host/src/plops.c"


def small_model() -> CompiledModel:
    return CompiledModel(
        name="plops",
        target=find_target("cortex-m4f"),
        signature=Signature(
            name="plops",
            inputs=(InputSpec("x", (64, 2), "int16", scale=2.0**-15, interleaved=True),),
            outputs=(
                TensorSpec("count", (2, 1), "int32", -1),
                TensorSpec("env", (2, 64), "float32", -1),
            ),
            structure=OutputStructure("dict", ("count", "env")),
            block=64,
            state_bytes=40,
            workspace_bytes=512,
            sample_rate_hz=8000.0,
            settle_samples=300,
            tunables=(Tunable("gain", "1.gain", (2,), (1.0, 2.0)),),
        ),
        sources={"plops.h": "/* header */\n", "plops.c": '#include "plops.h"\n'},
        tir="# kernels\n",
        buffers=(("b0", 512, 0, 0, 1),),
        relax="# graph\n",
        kernels=(("plops_k0_filter", 64, 1024),),
        constant_bytes=24,
        parameters=b"constants",
    )


def model_called(name: str) -> CompiledModel:
    """The small model under another name."""
    model = small_model()
    return replace(
        model,
        name=name,
        signature=replace(model.signature, name=name),
        sources={f"{name}.h": "/* other */\n", f"{name}.c": f'#include "{name}.h"\n'},
    )


def members_of(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]


def tar_of(entries: list[tuple[tarfile.TarInfo, bytes]], fmt: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=fmt) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def entry(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def repacked(change: Callable[[dict[str, bytes]], None]) -> bytes:
    """The small model's archive after `change`, with every digest of a file made right again."""
    members = members_of(archive.to_bytes(small_model()))
    change(members)
    if "metadata.json" in members:
        try:
            metadata = json.loads(members["metadata.json"])
            hashes = metadata["modules"]["plops"]["microddsp"]["sha256"]
        except (ValueError, KeyError, TypeError, RecursionError):
            hashes = None
        if isinstance(hashes, dict):
            hashes.update(
                {k: hashlib.sha256(v).hexdigest() for k, v in members.items() if k in hashes}
            )
            members["metadata.json"] = json.dumps(metadata).encode()
    return tar_of([entry(name, content) for name, content in members.items()])


def refused(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "hostile.tar"
    path.write_bytes(data)
    with pytest.raises(ArchiveError) as caught:
        archive.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_loaded_model_equals_the_saved_one(tmp_path: Path) -> None:
    model = small_model()
    model.save(tmp_path / "plops.tar")
    assert archive.load(tmp_path / "plops.tar") == model


def test_several_models_lie_in_one_archive_by_name(tmp_path: Path) -> None:
    models = [small_model(), model_called("words")]
    archive.save(models, tmp_path / "two.tar")
    assert archive.load_models(tmp_path / "two.tar") == {"plops": models[0], "words": models[1]}
    assert archive.load(tmp_path / "two.tar", "words") == models[1]
    assert (tmp_path / "two.tar").read_bytes() == archive.to_bytes(models[::-1])
    archive.save(archive.load_models(tmp_path / "two.tar"), tmp_path / "again.tar")
    assert (tmp_path / "two.tar").read_bytes() == (tmp_path / "again.tar").read_bytes()
    with pytest.raises(ArchiveError, match=r"several models: plops, words(.|\n)*load_models"):
        archive.load(tmp_path / "two.tar")
    with pytest.raises(ArchiveError, match="did you mean 'words'"):
        archive.load(tmp_path / "two.tar", "wodrs")


@pytest.mark.parametrize("name", ["plops", "PLOPS"])
def test_models_of_one_name_are_refused(tmp_path: Path, name: str) -> None:
    """Names that differ in case only have the same macros."""
    with pytest.raises(ArchiveError, match="two models are called"):
        archive.save([small_model(), model_called(name)], tmp_path / "two.tar")
    assert not list(tmp_path.iterdir())


def test_files_of_one_model_are_not_another_ones(tmp_path: Path) -> None:
    """Each file is covered by a digest of its module; an unknown module's is refused."""
    members = members_of(archive.to_bytes([small_model(), model_called("words")]))
    metadata = json.loads(members["metadata.json"])
    del metadata["modules"]["words"]
    members["metadata.json"] = json.dumps(metadata).encode()
    assert "digest" in refused(tmp_path, tar_of([entry(n, c) for n, c in members.items()]))


def test_an_archive_of_the_layout_before_still_loads(tmp_path: Path) -> None:
    """One model, files without its name, kernels and constants not listed."""
    members = members_of(archive.to_bytes(small_model()))
    moved = {SIGNATURE: "executor-config/aot/signature.json", "src/plops.tir": "src/tir-cpu.txt"}
    for gone in ("src/plops.relax", "parameters/plops.params"):
        del members[gone]
    members = {moved.get(path, path): content for path, content in members.items()}
    metadata = json.loads(members["metadata.json"])
    module = metadata["modules"]["plops"]
    module["memory"]["functions"]["operator_functions"] = []
    module["memory"]["functions"]["main"][0]["constants_size_bytes"] = 0
    module["microddsp"]["sha256"] = {
        path: hashlib.sha256(content).hexdigest()
        for path, content in members.items()
        if path != "metadata.json"
    }
    members["metadata.json"] = json.dumps(metadata).encode()
    signature = json.loads(members["executor-config/aot/signature.json"])
    (tmp_path / "old.tar").write_bytes(tar_of([entry(n, c) for n, c in members.items()]))
    loaded = archive.load(tmp_path / "old.tar")
    assert loaded.sources == small_model().sources
    assert loaded.tir == small_model().tir
    assert loaded.signature.to_json()["outputs"][0]["name"] == signature["outputs"][0]["name"]


def test_an_archive_of_microtvm_is_told_apart(tmp_path: Path) -> None:
    metadata = {
        "version": 7,
        "modules": {
            "default": {"model_name": "default", "export_datetime": "2023-01-01 00:00:00Z"},
        },
    }
    tar = tar_of([entry("metadata.json", json.dumps(metadata).encode())])
    assert "not those of microTVM" in refused(tmp_path, tar)


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    small_model().save(tmp_path / "a.tar")
    os.chdir(tmp_path)
    small_model().save("b.tar")
    assert Path("a.tar").read_bytes() == Path("b.tar").read_bytes()


def test_members_are_sorted_and_carry_no_date_owner_or_odd_mode() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive.to_bytes(small_model()))) as tar:
        found = tar.getmembers()
    assert [m.name for m in found] == sorted(m.name for m in found)
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in found} == {
        (0, 0, 0, "", "", 0o644)
    }


def test_the_layout_is_that_of_model_library_format_version_7() -> None:
    members = members_of(archive.to_bytes(small_model()))
    assert set(members) == {
        SOURCE,
        "codegen/host/include/plops.h",
        "src/plops.tir",
        "src/plops.relax",
        "parameters/plops.params",
        SIGNATURE,
        "metadata.json",
        "README.txt",
    }
    metadata = json.loads(members["metadata.json"])
    module = metadata["modules"]["plops"]
    assert metadata["version"] == 7
    assert module["style"] == "full-model"
    assert module["executors"] == ["aot"]
    assert "export_datetime" not in module
    main = module["memory"]["functions"]["main"][0]
    assert main["workspace_size_bytes"] == 512
    assert main["constants_size_bytes"] == 24
    assert module["memory"]["functions"]["operator_functions"] == [
        {
            "function_name": "plops_k0_filter",
            "workspace": [{"device": 1, "workspace_size_bytes": 64}],
            "io": [{"device": 1, "io_size_bytes": 1024}],
        }
    ]
    assert main["inputs"] == {"x": {"size": 256, "dtype": "int16"}}
    assert main["io_size_bytes"] == 256 + 8 + 512


def test_an_archive_repacked_by_tar_still_loads(tmp_path: Path) -> None:
    members = members_of(archive.to_bytes(small_model()))
    entries = [entry("./codegen/", type=tarfile.DIRTYPE)]
    entries += [entry(f"./{name}", content, mtime=1) for name, content in members.items()]
    path = tmp_path / "again.tar"
    path.write_bytes(tar_of(entries, tarfile.GNU_FORMAT))
    assert archive.load(path) == small_model()


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "plops.tar").mkdir()
    with pytest.raises(ArchiveError, match="cannot write"):
        small_model().save(tmp_path / "plops.tar")
    assert [p.name for p in tmp_path.iterdir()] == ["plops.tar"]


def test_a_tar_cut_at_any_block_is_refused_or_whole(tmp_path: Path) -> None:
    data = archive.to_bytes(small_model())
    content_end = len(data.rstrip(b"\0"))
    for cut in range(0, len(data), 512):
        if cut >= -(-content_end // 512) * 512 + 1024:
            (tmp_path / "whole.tar").write_bytes(data[:cut])
            assert archive.load(tmp_path / "whole.tar") == small_model()
        else:
            refused(tmp_path, data[:cut])


def test_a_tar_cut_inside_a_block_is_refused(tmp_path: Path) -> None:
    data = archive.to_bytes(small_model())
    for cut in (1, 100, 511, 513, 700, 1025):
        refused(tmp_path, data[:cut])


def test_every_flipped_byte_of_a_file_or_header_is_noticed(tmp_path: Path) -> None:
    data = bytearray(archive.to_bytes(small_model()))
    content_end = len(bytes(data).rstrip(b"\0"))
    path = tmp_path / "flipped.tar"
    for at in range(0, content_end, 97):
        data[at] ^= 0x20
        path.write_bytes(data)
        try:
            assert archive.load(path) == small_model(), at
        except ArchiveError:
            pass
        data[at] ^= 0x20


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../out", "a/../../b", "..", ".", "", "./", "a\\b", "a//b", "a b", "ä", "a\nb"],
)
def test_an_unsafe_path_is_refused(tmp_path: Path, name: str) -> None:
    refused(tmp_path, tar_of([entry(name, b"x")], tarfile.GNU_FORMAT))


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.LNKTYPE,
        tarfile.SYMTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CONTTYPE,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.GNUTYPE_SPARSE,
        b"Z",
    ],
)
def test_anything_but_a_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    assert "no plain file" in refused(
        tmp_path, tar_of([entry("metadata.json", type=kind, linkname="/etc/passwd")])
    )


def test_a_chain_of_extended_headers_is_refused(tmp_path: Path) -> None:
    header = entry("long", type=tarfile.GNUTYPE_LONGNAME)[0].tobuf(tarfile.GNU_FORMAT)
    refused(tmp_path, header * 20_000 + bytes(1024))


def test_a_file_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    both = [entry("metadata.json", b"{}"), entry("./metadata.json", b"{}")]
    assert "twice" in refused(tmp_path, tar_of(both))


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    many = [entry(f"f{i}") for i in range(plain_tar.MAX_MEMBERS + 1)]
    assert "more than" in refused(tmp_path, tar_of(many))


@pytest.mark.parametrize("size", [plain_tar.MAX_MEMBER_BYTES + 1, 8**11 - 1, 2**62])
def test_a_header_that_claims_a_huge_file_is_refused(tmp_path: Path, size: int) -> None:
    info = tarfile.TarInfo("metadata.json")
    info.size = size
    assert "larger" in refused(tmp_path, info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))


def test_a_negative_size_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("metadata.json")
    info.size = -512
    refused(tmp_path, info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.tar"
    with path.open("wb") as file:
        file.truncate(plain_tar.MAX_ARCHIVE_BYTES + 1)
    with pytest.raises(ArchiveError, match="larger"):
        archive.load(path)


def test_a_model_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    model = small_model()
    model.sources["plops.c"] += " " * plain_tar.MAX_MEMBER_BYTES
    with pytest.raises(ArchiveError, match="plops.c is larger than 16 MiB"):
        archive.save(model, tmp_path / "plops.tar")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 512, b"\x1f\x8b" + b"x" * 600, bytes(1024)])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path, data)


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe"):
        with pytest.raises(ArchiveError):
            archive.load(path)


def test_data_behind_the_end_is_refused(tmp_path: Path) -> None:
    assert "behind" in refused(tmp_path, archive.to_bytes(small_model()) + b"more")


@pytest.mark.parametrize("name", sorted(members_of(archive.to_bytes(small_model()))))
def test_a_missing_member_is_named(tmp_path: Path, name: str) -> None:
    data = repacked(lambda members: members.pop(name) and None)
    if name == "README.txt":
        (tmp_path / "ok.tar").write_bytes(data)
        assert archive.load(tmp_path / "ok.tar") == small_model()
    else:
        assert name in refused(tmp_path, data)


def test_a_changed_source_is_refused_even_with_its_own_digest_made_right(tmp_path: Path) -> None:
    def change(members: dict[str, bytes]) -> None:
        members[SOURCE] += b"/* more */\n"

    assert "digest" in refused(tmp_path, repacked(change))


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    members = members_of(archive.to_bytes(small_model()))
    members["src/plops.tir"] += b"x"
    data = tar_of([entry(name, content) for name, content in members.items()])
    assert "digest" in refused(tmp_path, data)


def test_a_file_that_no_digest_covers_is_refused(tmp_path: Path) -> None:
    def change(members: dict[str, bytes]) -> None:
        members["codegen/host/src/more.c"] = b"int x;"

    assert "digest" in refused(tmp_path, repacked(change))


METADATA: list[Callable[[dict[str, Any]], Any]] = [
    lambda m: m.update(version=6),
    lambda m: m.update(version="7"),
    lambda m: m.update(modules=[]),
    lambda m: m.update(modules={}),
    lambda m: m["modules"].update(other={}),
    lambda m: m.update(modules={"plops": []}),
    lambda m: m.update(modules={"a b": m["modules"]["plops"]}),
    lambda m: m.update(modules={"../x": m["modules"]["plops"]}),
    lambda m: m["modules"]["plops"].pop("microddsp"),
    lambda m: m["modules"]["plops"]["microddsp"].update(target="z80"),
    lambda m: m["modules"]["plops"]["microddsp"].update(target=4),
    lambda m: m["modules"]["plops"]["microddsp"].update(digest="0"),
    lambda m: m["modules"]["plops"]["microddsp"].update(sha256=[]),
    lambda m: m["modules"]["plops"]["microddsp"].update(buffers=[["b", "1", 0, 0, 0]]),
    lambda m: m["modules"]["plops"]["microddsp"].update(buffers=None),
    lambda m: m["modules"]["plops"].update(model_name="other"),
    lambda m: m["modules"]["plops"].update(style="operator"),
    lambda m: m["modules"]["plops"].update(executors=["graph"]),
    lambda m: m["modules"]["plops"].update(extra=1),
    lambda m: m["modules"]["plops"]["memory"]["functions"].update(main=[]),
    lambda m: m["modules"]["plops"]["memory"]["functions"]["main"][0].update(device=2),
    lambda m: m["modules"].update(PLOPS=m["modules"]["plops"] | {"model_name": "PLOPS"}),
]


@pytest.mark.parametrize("change", METADATA)
def test_metadata_that_makes_no_sense_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    def edit(members: dict[str, bytes]) -> None:
        metadata = json.loads(members["metadata.json"])
        change(metadata)
        members["metadata.json"] = json.dumps(metadata).encode()

    refused(tmp_path, repacked(edit))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"1" * 5000, b"null"], ids=range(7)
)
def test_metadata_that_is_no_json_object_is_refused(tmp_path: Path, text: bytes) -> None:
    refused(tmp_path, repacked(lambda members: members.update({"metadata.json": text})))


FIELDS: list[Callable[[dict[str, Any]], Any]] = [
    lambda s: s.update(name="other"),
    lambda s: s.update(name=7),
    lambda s: s.pop("block"),
    lambda s: s.update(extra=1),
    lambda s: s.update(block=0),
    lambda s: s.update(block="64"),
    lambda s: s.update(state_bytes=-1),
    lambda s: s.update(workspace_bytes=2**60),
    lambda s: s.update(workspace_align=3),
    lambda s: s.update(abi_version=2),
    lambda s: s.update(sample_rate_hz=-1.0),
    lambda s: s.update(settle_samples=-1),
    lambda s: s["inputs"][0].update(scale=math.nan),
    lambda s: s["tunables"][0].update(value=[math.inf]),
    lambda s: s.update(inputs=[]),
    lambda s: s["inputs"][0].update(name="count"),
    lambda s: s["inputs"][0].update(name="x; system()"),
    lambda s: s["inputs"][0].update(name="int"),
    lambda s: s["inputs"][0].update(dtype="float16"),
    lambda s: s["inputs"][0].update(shape=[2**20, 2**20]),
    lambda s: s["inputs"][0].update(shape=[-1, 2]),
    lambda s: s["outputs"][0].update(stream_axis=99),
    lambda s: s["outputs"][0].update(shape="64"),
    lambda s: s["structure"].update(kind="code"),
    lambda s: s["tunables"][0].update(name="a; b"),
    lambda s: s["tunables"][0].update(shape=[3]),
    lambda s: s["tunables"][0].update(path="1\n#define"),
    lambda s: s["tunables"].append(s["tunables"][0]),
    lambda s: s["structure"].update(names=["count"]),
    lambda s: s["structure"].update(type_name="a b"),
]


@pytest.mark.parametrize("change", FIELDS)
def test_a_signature_that_makes_no_sense_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    def edit(members: dict[str, bytes]) -> None:
        signature = json.loads(members[SIGNATURE])
        change(signature)
        members[SIGNATURE] = json.dumps(signature).encode()

    refused(tmp_path, repacked(edit))


def test_loading_runs_nothing_and_imports_no_torch(tmp_path: Path) -> None:
    small_model().save(tmp_path / "plops.tar")
    script = (
        "import sys, microddsp; microddsp.load(sys.argv[1]);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'tvm')))"
    )
    command = [sys.executable, "-c", script, tmp_path / "plops.tar"]
    assert subprocess.run(command, cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ([], "outline: Input should be an object"),
        ({"units": [{"path": 1, "kind": "x"}]}, "valid string"),
        ({"units": [{"path": "a", "kind": "x", "inputs": [0]}]}, "does not come before"),
        ({"outputs": [3]}, "does not come before"),
        ({"calls": [{"kernel": "k", "first": 0, "last": 0, "units": [-1]}]}, "not come before"),
    ],
)
def test_an_outline_that_makes_no_sense_is_refused(
    outline: object, message: str, tmp_path: Path
) -> None:
    def put(members: dict[str, bytes]) -> None:
        metadata = json.loads(members["metadata.json"])
        metadata["modules"]["plops"]["microddsp"]["outline"] = outline
        members["metadata.json"] = json.dumps(metadata).encode()

    assert message in refused(tmp_path, repacked(put))
