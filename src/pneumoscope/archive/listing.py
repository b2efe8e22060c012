"""ZIP archives and folders as a list of members, read safely and never unpacked by their own names."""

import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from pneumoscope.archive.names import decode_names, zip_names
from pneumoscope.errors import ArchiveError

_JUNK_NAMES = frozenset({"thumbs.db", "desktop.ini"})
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError, RuntimeError)
MAX_RATIO = 200
SMALL = 1_000_000
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
    """What a source holds: its members in name order, what was refused, how much was junk, or left out on request."""

    members: list[Member]
    problems: list[Problem]
    junk: int
    excluded: int = 0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of an archive as it stands there; `fault` says why it must not be read, by the archive's own means."""

    name: str
    fault: str | None
    read: Callable[[], bytes]
    head: Callable[[int], bytes]


def is_junk(name: str) -> bool:
    """Whether a path is operating-system litter.

    >>> is_junk("__MACOSX/a/._b.jpeg"), is_junk("a/.DS_Store"), is_junk("a/b.jpeg")
    (True, True, False)
    """
    parts = PurePosixPath(name).parts
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in parts) or (
        bool(parts) and parts[-1].lower() in _JUNK_NAMES
    )


def list_folder(root: Path, max_bytes: int) -> Listing:
    """What a folder holds; see `open_source`."""
    members, problems, junk = [], [], 0
    closed: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=closed.append):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for file in [*files, *links]:
            path = Path(folder, file)
            name = path.relative_to(root).as_posix()
            if is_junk(name):
                junk += 1
            elif reason := _unfit(path, name, max_bytes):
                problems.append(Problem(name=printable(name), reason=reason))
            else:
                members.append(Member.of_file(name, path))
    problems += [
        Problem(name=printable(str(each.filename)), reason=f"cannot be read ({each.strerror})") for each in closed
    ]
    return _sorted(members, problems, junk)


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
    return too_large(size, max_bytes) if size > max_bytes else None


def list_zip(archive: zipfile.ZipFile, max_bytes: int, *, name_encoding: str | None = None) -> Listing:
    """What an open archive holds; see `open_source`."""
    infos = archive.infolist()
    names = decode_names(zip_names(infos), name_encoding, of=archive.filename or "the archive")
    return listing_of(
        Entry(
            name=name,
            fault=_unreadable(info, max_bytes),
            read=partial(_read_member, archive, info, max_bytes),
            head=partial(read_from, archive.open, info),
        )
        for info, name in zip(infos, names, strict=True)
    )


def listing_of(entries: Iterable[Entry]) -> Listing:
    """The files of an archive by safe names; a backslash separates folders, as it does where some archives are made."""
    members, problems, junk = [], [], 0
    seen: set[str] = set()
    for entry in entries:
        if entry.name.endswith(("/", "\\")):  # a folder
            continue
        path = PurePosixPath(entry.name.replace("\\", "/"))
        name = str(path)
        if is_junk(name):
            junk += 1
        elif reason := _unsafe(path) or entry.fault or ("the archive holds this name twice" if name in seen else None):
            problems.append(Problem(name=printable(entry.name), reason=reason))
        else:
            members.append(Member(name=name, read=entry.read, head=entry.head))
        seen.add(name)
    return _sorted(members, problems, junk)


def _sorted(members: list[Member], problems: list[Problem], junk: int) -> Listing:
    return Listing(
        members=sorted(members, key=lambda member: member.name),
        problems=sorted(problems, key=lambda problem: problem.name),
        junk=junk,
    )


def _unsafe(path: PurePosixPath) -> str | None:
    """Why a path in an archive must not be used, or None."""
    if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        return "unsafe path in the archive"
    return _ODD_NAME if printable(str(path)) != str(path) else None


def _unreadable(info: zipfile.ZipInfo, max_bytes: int) -> str | None:
    """Why a ZIP member must not be read, or None."""
    if stat.S_ISLNK(info.external_attr >> 16):
        return "a symbolic link"
    if info.flag_bits & 0x1:
        return "encrypted"
    if info.file_size > max_bytes:
        return too_large(info.file_size, max_bytes)
    if info.file_size > SMALL and info.file_size > MAX_RATIO * info.compress_size:
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
        raise ArchiveError(too_large(len(data), max_bytes))
    return data


def too_large(size: int, max_bytes: int) -> str:
    """Why a file of this size is not taken."""
    return f"{size:,} bytes; at most {max_bytes:,} are accepted"
