"""Recordings from files: what fits is read as it is, what does not is refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from microddsp.cli.run import whole_blocks
from microddsp.errors import SignalError
from microddsp.signals import read_inputs, write_npz
from microddsp.signature import InputSpec, OutputStructure, Signature, TensorSpec
from microddsp.streams import split_blocks


def signature(*inputs: InputSpec, sample_rate_hz: float | None = None) -> Signature:
    return Signature(
        name="m",
        inputs=inputs or (InputSpec("x", (1, 4), "float32"),),
        outputs=(TensorSpec("out", (1, 4), "float32", -1),),
        structure=OutputStructure(),
        block=4,
        state_bytes=0,
        workspace_bytes=0,
        sample_rate_hz=sample_rate_hz,
    )


STEREO = InputSpec("x", (2, 4), "float32")
RAW = InputSpec("x", (4, 2), "int16", scale=2.0**-15, interleaved=True)


def refused(path: Path, of: Signature | None = None, **options: Any) -> str:
    with pytest.raises(SignalError) as caught:
        read_inputs(path, of or signature(), **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_wav_gives_channels_by_time(tmp_path: Path) -> None:
    frames = np.array([[0.5, -0.5], [0.25, 0.0], [0.125, 0.75]], dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", frames, 8000, subtype="FLOAT")
    (x,) = read_inputs(tmp_path / "a.wav", signature(STEREO))
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, frames.T)


def test_a_16_bit_wav_gives_its_own_integers(tmp_path: Path) -> None:
    frames = np.array([[1, -2], [32767, -32768]], dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", frames, 8000)
    (x,) = read_inputs(tmp_path / "a.wav", signature(RAW))
    assert x.dtype == np.int16
    np.testing.assert_array_equal(x, frames.T)


def test_a_recording_reaches_an_interleaved_input_as_the_file_has_it(tmp_path: Path) -> None:
    frames = np.arange(20, dtype=np.int16).reshape(10, 2)
    np.savetxt(tmp_path / "a.csv", frames, fmt="%d", delimiter=",")
    soundfile.write(tmp_path / "a.wav", frames, 8000)
    np.savez(tmp_path / "a.npz", x=frames.T)
    of = signature(RAW)
    for name in ("a.csv", "a.wav", "a.npz"):
        signals, dropped = whole_blocks(of, read_inputs(tmp_path / name, of), "drop")
        assert dropped == 2
        blocks = [block for (block,) in split_blocks(of, signals)]
        np.testing.assert_array_equal(np.concatenate(blocks), frames[:8])


def test_a_24_bit_wav_is_not_silently_cut_to_16(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((4, 2)), 8000, subtype="PCM_24")
    assert "PCM_24" in refused(tmp_path / "a.wav", signature(RAW))


def test_a_wav_of_another_rate_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(8), 44100)
    message = refused(tmp_path / "a.wav", signature(sample_rate_hz=8000.0))
    assert "44100" in message
    assert "8000" in message


def test_a_wav_with_too_many_channels_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((8, 2)), 8000)
    assert "2 channels" in refused(tmp_path / "a.wav")


def test_an_empty_wav_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((0, 1)), 8000)
    assert "empty" in refused(tmp_path / "a.wav")


@pytest.mark.parametrize("suffix", ["wav", "npz", "csv"])
@pytest.mark.parametrize("data", [b"\0\xff\xfe\0broken", b""], ids=["noise", "empty"])
def test_a_file_of_noise_or_nothing_is_refused(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data)
    refused(path)


@pytest.mark.parametrize("suffix", ["wav", "npz", "csv"])
def test_a_missing_file_is_refused(tmp_path: Path, suffix: str) -> None:
    refused(tmp_path / f"none.{suffix}")


def test_a_cut_npz_is_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", {"x": np.zeros((1, 4), np.float32)})
    data = (tmp_path / "a.npz").read_bytes()
    for cut in range(0, len(data), 16):
        (tmp_path / "cut.npz").write_bytes(data[:cut])
        refused(tmp_path / "cut.npz")


def test_an_unknown_kind_of_file_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    assert ".wav" in refused(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    "text",
    ["1,2\n3,4\n", "left,right\n1,2\n3,4\n", "1;2\n3;4", "1\t2\n\n3\t4\n", "1 2\r\n 3  4\r\n"],
)
def test_csv_columns_are_channels(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    (x,) = read_inputs(tmp_path / "a.csv", signature(STEREO))
    np.testing.assert_array_equal(x, np.array([[1, 3], [2, 4]], np.float32))


@pytest.mark.parametrize("column", ["hr", "1"])
def test_a_csv_column_is_chosen_by_name_or_number(tmp_path: Path, column: str) -> None:
    (tmp_path / "a.csv").write_text("time,hr\n10:00,5\n10:01,6\n")
    (x,) = read_inputs(tmp_path / "a.csv", signature(), columns=[column])
    assert x.tolist() == [[5.0, 6.0]]


def test_an_unknown_csv_column_is_refused_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time,heart\n1,5\n")
    assert "'heart'" in refused(tmp_path / "a.csv", columns=["hart"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n", "empty"),
        ("1\nx\n", "line 2: 'x'"),
        ("1,2\n3\n", "line 2 has 1"),
        ("1\nnan\n", "NaN"),
        ("1\ninf\n", "NaN"),
    ],
)
def test_a_bad_csv_is_refused_with_its_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert reason in refused(tmp_path / "a.csv")


def test_an_npz_gives_arrays_by_input_name_in_the_models_order(tmp_path: Path) -> None:
    two = signature(InputSpec("b", (1, 4), "float32"), InputSpec("a", (2, 4), "int16"))
    a, b = np.arange(8, dtype=np.int64).reshape(2, 4), np.ones((1, 4))
    write_npz(tmp_path / "in.npz", {"a": a, "b": b, "other": b})
    first, second = read_inputs(tmp_path / "in.npz", two)
    assert (first.dtype, second.dtype) == (np.float32, np.int16)
    np.testing.assert_array_equal(second, a)


def test_an_npz_without_an_input_names_the_nearest(tmp_path: Path) -> None:
    write_npz(tmp_path / "in.npz", {"xx": np.zeros((1, 4)), "other": np.zeros((1, 4))})
    assert "'xx'" in refused(tmp_path / "in.npz")


def test_the_only_array_of_an_npz_is_the_only_input(tmp_path: Path) -> None:
    write_npz(tmp_path / "in.npz", {"anything": np.ones((1, 4), np.float32)})
    (found,) = read_inputs(tmp_path / "in.npz", signature())
    np.testing.assert_array_equal(found, np.ones((1, 4)))


@pytest.mark.parametrize(
    "array",
    [
        np.array([["a"]]),
        np.zeros((1, 0)),
        np.array([[np.nan]]),
        np.array([[1j]]),
        np.array([[{}]], dtype=object),
    ],
    ids=["text", "empty", "nan", "complex", "object"],
)
def test_an_array_that_is_no_signal_is_refused(tmp_path: Path, array: Any) -> None:
    np.savez(tmp_path / "in.npz", x=array)
    refused(tmp_path / "in.npz")


@pytest.mark.parametrize("value", [0.5, 40000.0])
def test_a_value_that_16_bits_cannot_hold_is_refused(tmp_path: Path, value: float) -> None:
    write_npz(tmp_path / "in.npz", {"x": np.full((4, 2), value)})
    refused(tmp_path / "in.npz", signature(RAW))


def test_two_inputs_need_an_npz(tmp_path: Path) -> None:
    two = signature(InputSpec("b", (1, 4), "float32"), InputSpec("a", (1, 4), "float32"))
    (tmp_path / "a.csv").write_text("1\n")
    assert "npz" in refused(tmp_path / "a.csv", two)


def test_an_npz_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out.npz").mkdir()
    with pytest.raises(SignalError):
        write_npz(tmp_path / "out.npz", {"x": np.zeros(1)})
    assert [p.name for p in tmp_path.iterdir()] == ["out.npz"]
