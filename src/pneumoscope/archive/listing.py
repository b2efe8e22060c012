"""Archives and folders as a list of members, read safely and never unpacked by their own names."""

import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from pneumoscope.errors import ArchiveError

_JUNK_NAMES = frozenset({"thumbs.db", "desktop.ini"})
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError, RuntimeError)
_MAX_RATIO = 200
_SMALL = 1_000_000
_ODD_NAME = "a name with control characters or stray bytes; rename it"


class DamagedError(ArchiveError):
    """A file's or a member's bytes cannot be read, or are not those that its CRC-32 was made of."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of a source. `name` is its path inside the source, with forward slashes; `head` its first bytes."""

    name: str
    read: Callable[[], bytes]
    head: Callable[[int], bytes]

    @classmethod
    def of_file(cls, name: str, path: Path) -> Self:
        """A file on disk."""
        return cls(name=name, read=path.read_bytes, head=partial(read_from, path.open, "rb"))


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something in a source that was not taken, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a source holds: its members in name order, what was refused, how much was junk."""

    members: list[Member]
    problems: list[Problem]
    junk: int


@contextmanager
def open_source(path: Path, *, max_bytes: int) -> Iterator[Listing]:
    """List a ZIP archive or a folder; its members can be read until the block ends.

    Operating-system junk (`__MACOSX/`, `._*`, `.DS_Store`, other hidden files, `Thumbs.db`) is
    counted and left out. A ZIP member that is absolute, climbs out with `..`, is a link, is
    encrypted, repeats a name, is over `max_bytes` or compresses more than 200 to 1 is a problem.

    Raises:
        ArchiveError: `path` is neither a folder nor a readable ZIP archive.
    """
    if path.is_dir():
        yield _list_folder(path, max_bytes)
        return
    if not path.is_file():
        raise ArchiveError(f"{path} does not exist; give a ZIP archive or a folder.")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as failure:
        raise ArchiveError(
            f"{path} is neither a folder nor a readable ZIP archive ({failure}); if it should be one, fetch it again."
        ) from failure
    with archive:
        yield list_zip(archive, max_bytes)


def is_junk(name: str) -> bool:
    """Whether a path is operating-system litter.

    >>> is_junk("__MACOSX/a/._b.jpeg"), is_junk("a/.DS_Store"), is_junk("a/b.jpeg")
    (True, True, False)
    """
    parts = PurePosixPath(name).parts
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in parts) or (
        bool(parts) and parts[-1].lower() in _JUNK_NAMES
    )


def _list_folder(root: Path, max_bytes: int) -> Listing:
    closed: list[OSError] = []

    def found() -> Iterator[tuple[str | None, Member]]:
        for folder, folders, files in os.walk(root, onerror=closed.append):
            links = [name for name in folders if Path(folder, name).is_symlink()]
            for path in (Path(folder, file) for file in [*files, *links]):
                name = path.relative_to(root).as_posix()
                yield _unfit(path, name, max_bytes), Member.of_file(name, path)

    return _listed(found(), closed)


def printable(name: str) -> str:
    r"""A name as it can be written anywhere: control characters and stray bytes are escaped.

    >>> printable("a\rb.png")
    'a\\x0db.png'
    """
    safe = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in safe)


def _unfit(path: Path, name: str, max_bytes: int) -> str | None:
    """Why a file of a folder is not taken, or None."""
    if printable(name) != name:
        return _ODD_NAME
    if path.is_dir():
        return "a linked folder; give the folder it points to"
    if not path.is_file():
        return "not a regular file"
    size = path.stat().st_size
    return _too_large(size, max_bytes) if size > max_bytes else None


def list_zip(archive: zipfile.ZipFile, max_bytes: int) -> Listing:
    """What an open archive holds; see `open_source`."""

    def found() -> Iterator[tuple[str | None, Member]]:
        seen: set[str] = set()
        for info in archive.infolist():
            name = info.filename
            if not name.endswith("/"):  # is_dir() fails on an empty name
                read, head = partial(_read_member, archive, info, max_bytes), partial(read_from, archive.open, info)
                yield _unsafe(info, max_bytes, repeated=name in seen), Member(name=name, read=read, head=head)
                seen.add(name)

    return _listed(found())


def _listed(found: Iterable[tuple[str | None, Member]], closed: Iterable[OSError] = ()) -> Listing:
    """Sort members, each with the reason not to take it if there is one; then folders that turned out to be closed."""
    members, problems, junk = [], [], 0
    for reason, member in found:
        if is_junk(member.name):
            junk += 1
        elif reason:
            problems.append(Problem(name=printable(member.name), reason=reason))
        else:
            members.append(member)
    problems += [
        Problem(name=printable(str(each.filename)), reason=f"cannot be read ({each.strerror})") for each in closed
    ]
    return Listing(
        members=sorted(members, key=lambda member: member.name),
        problems=sorted(problems, key=lambda problem: problem.name),
        junk=junk,
    )


def _unsafe(info: zipfile.ZipInfo, max_bytes: int, *, repeated: bool) -> str | None:
    """Why a ZIP member must not be read, or None."""
    path = PurePosixPath(info.orig_filename)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in info.orig_filename or ":" in path.parts[0]:
        return "unsafe path in the archive"
    if printable(info.filename) != info.filename:
        return _ODD_NAME
    if stat.S_ISLNK(info.external_attr >> 16):
        return "a symbolic link"
    if info.flag_bits & 0x1:
        return "encrypted"
    if repeated:
        return "the archive holds this name twice"
    if info.file_size > max_bytes:
        return _too_large(info.file_size, max_bytes)
    if info.file_size > _SMALL and info.file_size > _MAX_RATIO * info.compress_size:
        return f"decompression bomb ({info.compress_size:,} bytes unpack to {info.file_size:,})"
    return None


def read_from(opener: Callable[[Any], IO[bytes]], what: Any, count: int, *, said: str = "cannot be read") -> bytes:
    """At most `count` bytes of what `opener` opens.

    Raises:
        DamagedError: they cannot be read; `said` begins the sentence.
    """
    try:
        with opener(what) as stream:
            return stream.read(count)
    except _DAMAGE as failure:
        raise DamagedError(f"{said} ({failure})") from failure


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, max_bytes: int) -> bytes:
    data = read_from(archive.open, info, max_bytes + 1, said="damaged in the archive")
    if len(data) > max_bytes:
        raise ArchiveError(_too_large(len(data), max_bytes))
    return data


def _too_large(size: int, max_bytes: int) -> str:
    return f"{size:,} bytes; at most {max_bytes:,} are accepted"
