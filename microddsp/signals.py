"""Recordings from files: WAV, CSV and npz, as arrays that a compiled model takes."""

from __future__ import annotations

import csv
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from microddsp.errors import SignalError, nearest
from microddsp.signature import InputSpec, Signature

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".csv", ".npz", ".wav")


def read_inputs(
    path: str | Path, signature: Signature, *, columns: Sequence[str] = ()
) -> tuple[NDArray[Any], ...]:
    """One array per input of the model, in order, of the raw type that the model takes: a signal
    is (channels, samples), also where the device takes them interleaved.

    WAV and CSV give the channels of a model with a single input; an npz holds one array per
    input name. `columns` picks CSV columns by header name or number from 0.

    Raises:
        SignalError: The file cannot be read, is empty, holds NaN or infinity, or its sample rate,
            channels or type do not fit the model.
    """
    suffix = Path(path).suffix.lower()
    try:
        if columns and suffix != ".csv":
            raise SignalError("only a CSV file has columns to choose", hint="leave --column out")
        if suffix == ".npz":
            return _read_npz(Path(path), signature)
        if len(signature.inputs) != 1:
            names = ", ".join(spec.name for spec in signature.inputs)
            raise SignalError("the model has several inputs", hint=f"give an npz with {names}")
        spec = signature.inputs[0]
        if suffix == ".wav":
            frames = _read_wav(Path(path), spec, signature.sample_rate_hz)
        elif suffix == ".csv":
            frames = read_csv(Path(path), columns)
        else:
            raise SignalError(f"unknown kind of file {suffix!r}", hint=nearest(suffix, SUFFIXES))
        return (_shaped(frames, spec),)
    except OSError as error:
        raise SignalError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except SignalError as error:
        raise SignalError(error.message, where=str(path), hint=error.hint) from error


def read_csv(path: Path, columns: Sequence[str] = ()) -> NDArray[np.float64]:
    """(samples, channels) of a text table: comma, semicolon, tab or blanks between numbers.

    Raises:
        SignalError: A cell is no number, lines differ in length, or a column is not there.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SignalError("is not a text file") from error
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise SignalError("is empty")
    delimiter = next((mark for mark in ";\t," if mark in rows[0][1]), " ")
    table = [
        (number, [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))])
        if delimiter != " "
        else (number, line.split())
        for number, line in rows
    ]
    header = table[0][1] if not any(_is_number(cell) for cell in table[0][1]) else []
    body = table[1:] if header else table
    if not body:
        raise SignalError("is empty: a header line only")
    width = len(body[0][1])
    picked = [_column(name, header, width) for name in columns] or range(width)
    samples = np.empty((len(body), len(picked)))
    for i, (number, cells) in enumerate(body):
        if len(cells) != width:
            raise SignalError(f"line {number} has {len(cells)} cells, the first one {width}")
        for k, column in enumerate(picked):
            try:
                samples[i, k] = float(cells[column])
            except ValueError as error:
                raise SignalError(
                    f"line {number}: {cells[column]!r} is no number",
                    hint="choose columns that hold numbers" if width > 1 else "",
                ) from error
    return samples


def write_npz(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name, whole or not at all.

    Raises:
        SignalError: The file cannot be written.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.part")
    try:
        try:
            with part.open("wb") as file:
                np.savez(file, allow_pickle=False, **dict(arrays))
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise SignalError(f"cannot be written: {error.strerror}", where=str(path)) from error


def _read_wav(path: Path, spec: InputSpec, sample_rate_hz: float | None) -> NDArray[Any]:
    import soundfile

    if not path.is_file():
        raise SignalError("no such file")
    try:
        with soundfile.SoundFile(path) as file:
            rate, kind = file.samplerate, file.subtype
            if spec.dtype not in ("float32", "int16", "int32"):
                raise SignalError(f"a WAV cannot give {spec.dtype} samples", hint="use npz or CSV")
            if spec.dtype == "int16" and kind != "PCM_16":
                raise SignalError(
                    f"holds {kind}, the model takes 16-bit samples", hint="convert it to PCM_16"
                )
            frames: NDArray[Any] = file.read(dtype=spec.dtype, always_2d=True)
    except soundfile.LibsndfileError as error:
        raise SignalError(f"is no audio file that can be read: {error.error_string}") from error
    if sample_rate_hz is not None and not math.isclose(rate, sample_rate_hz, rel_tol=1e-3):
        raise SignalError(
            f"has {rate} samples a second, the model is made for {sample_rate_hz:g}",
            hint="resample the recording, or compile the pipeline for its rate",
        )
    return frames


def _read_npz(path: Path, signature: Signature) -> tuple[NDArray[Any], ...]:
    names = [spec.name for spec in signature.inputs]
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise SignalError("is no npz but a single array", hint="write it with numpy.savez")
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        if isinstance(error, SignalError):
            raise
        raise SignalError(f"is no npz that can be read: {error}") from error
    if len(names) == len(arrays) == 1:  # no doubt which is meant
        arrays = dict(zip(names, arrays.values(), strict=True))
    for name in names:
        if name not in arrays:
            raise SignalError(
                f"has no array {name!r} for the input", hint=nearest(name, arrays) if arrays else ""
            )
    return tuple(_typed(arrays[spec.name], spec) for spec in signature.inputs)


def _shaped(frames: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    """(samples, channels) from a file -> (channels, samples), or a signal without channels."""
    channels = spec.shape[-1] if spec.interleaved else math.prod(spec.shape[:-1])
    if frames.shape[1] != channels:
        raise SignalError(
            f"has {frames.shape[1]} channels, input {spec.name!r} takes {channels}",
            hint="choose columns of a CSV, or compile for this channel count",
        )
    leading = (channels,) if spec.interleaved else spec.shape[:-1]
    return _typed(frames.T.reshape(*leading, -1), spec)


def _typed(signal: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    if signal.dtype.kind not in "biuf":
        raise SignalError(f"input {spec.name!r} is of type {signal.dtype}, not a number")
    if signal.size == 0:
        raise SignalError("is empty")
    if not np.isfinite(signal).all():
        first = int(np.flatnonzero(~np.isfinite(signal).ravel())[0])
        raise SignalError(f"input {spec.name!r} holds NaN or infinity, first at element {first}")
    wanted = np.dtype(spec.dtype)
    if wanted.kind in "iu" and signal.dtype != wanted:
        limits = np.iinfo(wanted)
        if (
            (signal != np.round(signal)).any()
            or signal.min() < limits.min
            or (signal.max() > limits.max)
        ):
            raise SignalError(f"input {spec.name!r} must hold whole numbers that fit {wanted}")
    return np.ascontiguousarray(signal.astype(wanted))


def _column(name: str, header: Sequence[str], width: int) -> int:
    if name in header:
        return header.index(name)
    if name.isdecimal() and int(name) < width:
        return int(name)
    known = header or [str(i) for i in range(width)]
    raise SignalError(f"there is no column {name!r}", hint=nearest(name, known))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
