"""Which files of a folder are read as films: by their suffix, else by their first bytes."""

from contextlib import suppress
from pathlib import Path

from pneumoscope.archive import is_junk
from pneumoscope.imaging import DICOM_HEAD, DICOM_INDEX, SUFFIXES, UNSUPPORTED_SUFFIXES, is_dicom

PICTURE_SUFFIX = ".map.png"  # heat maps; never read as films, so they may lie among the films of a later call


def named_like_film(name: str) -> bool | None:
    """Whether a file is a film by its name; None if only its first bytes tell.

    DICOM files of a hospital's archive often have no suffix, or the last part of a UID in its place. An image
    suffix that is not accepted counts as a film's, so that the file is reported and not passed over.

    >>> named_like_film("a.jpeg"), named_like_film("a.jpeg.map.png"), named_like_film("1.2.840.1")
    (True, False, None)
    """
    path = Path(name)
    if is_junk(path.name) or path.name.endswith(PICTURE_SUFFIX) or path.name.upper() == DICOM_INDEX:
        return False
    return True if path.suffix.lower() in SUFFIXES | UNSUPPORTED_SUFFIXES else None


def is_film_file(path: Path) -> bool:
    """Whether a file on disk is to be read as a film."""
    by_name = named_like_film(path.name)
    if by_name is not None:
        return by_name
    with suppress(OSError):
        if path.is_file():  # reading a pipe would wait
            with path.open("rb") as stream:
                return is_dicom(stream.read(DICOM_HEAD))
    return False
