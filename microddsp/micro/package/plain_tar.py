"""A tar of plain files: written without dates, read without trust.

Reading only parses. Nothing is extracted, and whatever is not written here (links, devices,
extended headers, odd names) is refused.
"""

from __future__ import annotations

import io
import json
import re
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from microddsp.errors import ArchiveError

MAX_ARCHIVE_BYTES = 64 * 2**20
MAX_MEMBER_BYTES = 16 * 2**20
MAX_MEMBERS = 256

_BLOCK = 512
_PATH = re.compile(r"[A-Za-z0-9_.+-]+(/[A-Za-z0-9_.+-]+)*")
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)


def packed(contents: Mapping[str, bytes]) -> bytes:
    """A tar of these files, without dates and owners.

    Raises:
        ArchiveError: It would be larger than what is read.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(contents):
            content = contents[path]
            _check_size(path, len(content))
            member = tarfile.TarInfo(path)
            member.size = len(content)
            member.mode = 0o644
            tar.addfile(member, io.BytesIO(content))
    _check_size("the archive", buffer.tell(), MAX_ARCHIVE_BYTES)
    return buffer.getvalue()


def _check_size(what: str, nbytes: int, most: int = MAX_MEMBER_BYTES) -> None:
    if not 0 <= nbytes <= most:
        raise ArchiveError(f"{what} is larger than {most >> 20} MiB")


def read_file(path: Path) -> bytes:
    """The bytes of an archive, if it is a file and not too large."""
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


def members_of(data: bytes) -> dict[str, bytes]:
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
        _check_size(path, member.size)
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


def text_of(members: dict[str, bytes], path: str) -> str:
    if path not in members:
        raise ArchiveError(f"lacks {path}")
    try:
        return members[path].decode()
    except UnicodeDecodeError as error:
        raise ArchiveError(f"{path} is not text: {error}") from error


def json_of(members: dict[str, bytes], path: str) -> Any:
    try:
        return json.loads(text_of(members, path))
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{path} is no JSON: {error}") from error


def object_of(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ArchiveError(f"{what} is missing or of the wrong kind")
    return value


def either(members: dict[str, bytes], path: str, older: str) -> str:
    """Where the file is: archives of one model had names without the model's before."""
    return older if path not in members and older in members else path
