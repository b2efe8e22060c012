"""Archives of arrays: written reproducibly, and read with types, shapes and checksums checked."""

from pathlib import Path

import numpy as np
import pytest

from pneumoscope.arrays import Kind, read_arrays, write_arrays

KINDS: dict[str, Kind] = {"one": (np.uint8, ("N", 2)), "two": (np.float32, ("N",))}


def arrays(rows: int = 3) -> dict[str, np.ndarray]:
    return {"one": np.arange(2 * rows, dtype=np.uint8).reshape(rows, 2), "two": np.arange(rows, dtype=np.float32)}


def test_arrays_are_read_as_written_and_give_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        write_arrays(tmp_path / name, arrays())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    found = read_arrays(tmp_path / "a.npz", KINDS)
    for name, array in arrays().items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"one": arrays(4)["one"]}, "two is float32 .3., expected float32 .N."),
        ({"one": arrays()["one"].astype(np.int16)}, "one is int16"),
        ({"two": arrays()["one"]}, "two is uint8 .3, 2."),
        ({"one": np.zeros((3, 3), np.uint8)}, "one is uint8 .3, 3., expected uint8 .N, 2."),
    ],
)
def test_another_type_or_shape_is_an_error(tmp_path: Path, wrong: dict[str, np.ndarray], message: str) -> None:
    write_arrays(tmp_path / "a.npz", arrays() | wrong)
    with pytest.raises(ValueError, match=message):
        read_arrays(tmp_path / "a.npz", KINDS)


def test_a_damaged_or_missing_file_is_an_error(tmp_path: Path) -> None:
    write_arrays(tmp_path / "whole.npz", arrays(200))
    whole = (tmp_path / "whole.npz").read_bytes()
    changed = bytearray(whole)
    changed[200] ^= 0x20  # inside the compressed numbers
    for name, content in {
        "text": b"hello",
        "half": whole[: len(whole) // 2],
        "empty": b"",
        "changed": bytes(changed),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="it cannot be read"):
            read_arrays(tmp_path / name, KINDS)
    np.savez(tmp_path / "other.npz", three=np.zeros(3))
    with pytest.raises(ValueError, match="it cannot be read"):
        read_arrays(tmp_path / "other.npz", KINDS)
    with pytest.raises(ValueError, match="it cannot be read"):
        read_arrays(tmp_path / "gone.npz", KINDS)
