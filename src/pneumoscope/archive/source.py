"""Opening a source of image files: a folder, a ZIP archive or a tar archive."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pneumoscope.archive.listing import Listing, list_folder, list_zip
from pneumoscope.archive.tar import is_tar, open_tar
from pneumoscope.errors import ArchiveError


@contextmanager
def open_source(path: Path, *, max_bytes: int, name_encoding: str | None = None) -> Iterator[Listing]:
    """List a folder, a ZIP archive or a tar archive; its members can be read until the block ends.

    Files that operating systems leave behind (`__MACOSX/`, `._*`, `.DS_Store`, other hidden files, `Thumbs.db`) are
    counted and left out. A member of an archive is listed as a problem if its path is absolute or contains `..`, if it
    is a link or a device, is encrypted, repeats a name, is larger than `max_bytes`, or (in a ZIP archive, above
    1 MB) unpacks to more than 200 times its packed size.

    Args:
        path: the archive or folder.
        max_bytes: size limit of one member.
        name_encoding: text codec of file names in an archive that are not stated to be UTF-8.

    Raises:
        ArchiveError: `path` is neither a folder nor a readable archive.
        UsageError: an archive's names cannot be decoded; see `decode_names`.
    """
    if path.is_dir():
        yield list_folder(path, max_bytes)
        return
    if not path.is_file():
        raise ArchiveError(f"{path} does not exist; give a ZIP or tar archive or a folder.")
    try:
        archive = None if is_tar(path) else zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as failure:
        raise ArchiveError(
            f"{path} is neither a folder nor a readable ZIP or tar archive ({failure}); if it should be one, "
            "fetch it again."
        ) from failure
    if archive is None:
        with open_tar(path, max_bytes=max_bytes, name_encoding=name_encoding) as listing:
            yield listing
        return
    with archive:
        yield list_zip(archive, max_bytes, name_encoding=name_encoding)
