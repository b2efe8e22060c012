"""NumPy archives: written whole and reproducibly, read without unpickling."""

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pneumoscope.files import whole_file

#: An array's type and shape; a letter in the shape is a length that all arrays of the archive share.
Kind: TypeAlias = tuple[type[np.generic], tuple[int | str, ...]]

_FAULTS = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a compressed NumPy archive (`.npz`), whole or not at all; the same arrays give the same bytes."""
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, so that the bytes do not depend on the clock
            archive.writestr(member, stream.getvalue(), zipfile.ZIP_DEFLATED, 9)


def read_arrays(path: Path, kinds: Mapping[str, Kind]) -> dict[str, NDArray[Any]]:
    """Read the arrays named in `kinds`, each of the type and shape given there.

    A length in a shape is a number, or a letter that stands for the same number in all arrays.

    Raises:
        ValueError: the file cannot be read or is damaged, or an array is missing or of another type or shape.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # Each member is read whole before it is parsed: ZipFile checks the CRC-32 only at the member's end.
            found = {name: _array(archive.read(f"{name}.npy")) for name in kinds}
    except _FAULTS as failure:
        raise ValueError(f"it cannot be read ({failure})") from failure
    lengths: dict[int | str, int] = {}
    for name, (kind, shape) in kinds.items():
        array = found[name]
        fits = len(shape) == array.ndim and all(
            expected == length if isinstance(expected, int) else lengths.setdefault(expected, length) == length
            for expected, length in zip(shape, array.shape, strict=True)
        )
        if array.dtype != kind or not fits:
            specified = f"{np.dtype(kind)} [{', '.join(map(str, shape))}]"
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, expected {specified}")
    return found


def _array(content: bytes) -> NDArray[Any]:
    array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    return array
