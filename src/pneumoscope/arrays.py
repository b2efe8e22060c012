"""NumPy archives that are written whole, alike each time, and read without unpickling."""

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pneumoscope.files import whole_file

#: An array's type and shape.
Kind: TypeAlias = tuple[type[np.generic], tuple[int | str, ...]]

_FAULTS = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a compressed NumPy archive (`.npz`), whole or not at all; the same arrays give the same bytes."""
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy")  # of 1980, so that no clock shows in the bytes
            archive.writestr(member, stream.getvalue(), zipfile.ZIP_DEFLATED, 9)


def read_arrays(path: Path, kinds: Mapping[str, Kind]) -> dict[str, NDArray[Any]]:
    """Read arrays of these names, each of the given type and shape.

    A shape's side is a number, or a letter that stands for the same number in all of them.

    Raises:
        ValueError: the file cannot be read, is damaged, or an array is missing or of another type or shape.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # Read whole first, which checks the bytes' sum.
            found = {name: _array(archive.read(f"{name}.npy")) for name in kinds}
    except _FAULTS as failure:
        raise ValueError(f"it cannot be read ({failure})") from failure
    sides: dict[int | str, int] = {}
    for name, (kind, shape) in kinds.items():
        array = found[name]
        there = len(shape) == array.ndim and all(
            side == length if isinstance(side, int) else sides.setdefault(side, length) == length
            for side, length in zip(shape, array.shape, strict=True)
        )
        if array.dtype != kind or not there:
            wanted = f"{np.dtype(kind)} [{', '.join(map(str, shape))}]"
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, expected {wanted}")
    return found


def _array(content: bytes) -> NDArray[Any]:
    array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    return array
