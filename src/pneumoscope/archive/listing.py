"""ZIP archives and folders as a list of members, read safely and never unpacked by their own names."""

import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
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
    return too_large(size, max_bytes) if size > max_bytes else None


def list_zip(archive: zipfile.ZipFile, max_bytes: int, *, name_encoding: str | None = None) -> Listing:
    """What an open archive holds; see `open_source`."""
    infos = archive.infolist()
    names = decode_names(zip_names(infos), name_encoding, of=archive.filename or "the archive")
    return list_archive(
        (
            _unreadable(info, max_bytes),
            Member(
                name=name,
                read=partial(_read_member, archive, info, max_bytes),
                head=partial(read_from, archive.open, info),
            ),
        )
        for info, name in zip(infos, names, strict=True)
    )


def list_archive(stored: Iterable[tuple[str | None, Member]]) -> Listing:
    """The files of an archive under safe names; a backslash separates folders, as it does where some archives are made.

    Args:
        stored: each under the name that it has there, with the reason not to read it if there is one.
    """

    def found() -> Iterator[tuple[str | None, Member]]:
        seen: set[str] = set()
        for fault, member in stored:
            if member.name.endswith(("/", "\\")):  # a folder
                continue
            path = PurePosixPath(member.name.replace("\\", "/"))
            name, unsafe = str(path), _unsafe(path)
            repeated = "the archive holds this name twice" if name in seen else None
            yield unsafe or fault or repeated, member if unsafe else replace(member, name=name)
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
