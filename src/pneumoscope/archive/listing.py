"""ZIP archives and folders as a list of members that are read safely, and never unpacked under their own names."""

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

# Left behind by Windows; macOS and others use names with a leading dot.
_JUNK_NAMES = frozenset({"thumbs.db", "desktop.ini"})
# Exceptions of zipfile, its decompressors and the file system on damaged or unsupported members.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError, RuntimeError)
#: A member that unpacks to more than 200 times its packed size is taken for a decompression bomb; small ones are not.
MAX_RATIO = 200
SMALL = 1_000_000  # bytes
_UNPRINTABLE_NAME = "a name with control characters or undecodable bytes; rename it"


class DamagedError(ArchiveError):
    """A file or a member cannot be read, or its bytes do not match its CRC-32."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of a source.

    `name` is its path inside the source, with forward slashes. `read` returns its bytes, `head` at most the
    given number of them, from the beginning.
    """

    name: str
    read: Callable[[], bytes]
    head: Callable[[int], bytes]

    @classmethod
    def of_file(cls, name: str, path: Path) -> Self:
        """A file on disk."""
        return cls(name=name, read=path.read_bytes, head=partial(read_from, path.open, "rb"))


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A file or folder of a source that cannot be used, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The content of a source.

    `members` and `problems` are in name order. `junk` counts files of the operating system, `excluded` those that were
    left out on request.
    """

    members: list[Member]
    problems: list[Problem]
    junk: int
    excluded: int = 0


def is_junk(name: str) -> bool:
    """Whether a path is a file that operating systems leave behind.

    >>> is_junk("__MACOSX/a/._b.jpeg"), is_junk("a/.DS_Store"), is_junk("a/b.jpeg")
    (True, True, False)
    """
    parts = PurePosixPath(name).parts
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in parts) or (
        bool(parts) and parts[-1].lower() in _JUNK_NAMES
    )


def list_folder(root: Path, max_bytes: int) -> Listing:
    """List a folder; see `open_source`."""
    unreadable: list[OSError] = []

    def found() -> Iterator[tuple[str | None, Member]]:
        for folder, folders, files in os.walk(root, onerror=unreadable.append):
            # `os.walk` does not follow links to folders; they are listed to be reported as problems.
            links = [name for name in folders if Path(folder, name).is_symlink()]
            for path in (Path(folder, file) for file in [*files, *links]):
                name = path.relative_to(root).as_posix()
                yield _refusal(path, name, max_bytes), Member.of_file(name, path)

    return _build_listing(found(), unreadable)


def printable(name: str) -> str:
    r"""A name that is safe in any output: control characters and undecodable bytes are escaped.

    >>> printable("a\rb.png")
    'a\\x0db.png'
    """
    safe = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in safe)


def _refusal(path: Path, name: str, max_bytes: int) -> str | None:
    """The reason why a file of a folder cannot be used, or None."""
    if printable(name) != name:
        return _UNPRINTABLE_NAME
    if path.is_dir():
        return "a linked folder; give the folder that it points to"
    if not path.is_file():
        return "not a regular file"
    size = path.stat().st_size
    return too_large(size, max_bytes) if size > max_bytes else None


def list_zip(archive: zipfile.ZipFile, max_bytes: int, *, name_encoding: str | None = None) -> Listing:
    """List an open ZIP archive; see `open_source`."""
    infos = archive.infolist()
    names = decode_names(zip_names(infos), name_encoding, archive=archive.filename or "the archive")
    return list_archive(
        (
            _unreadable(info, max_bytes),
            Member(
                name=name,
                # zipfile reads at most as many bytes as the directory states, and `_unreadable` has compared that
                # number with `max_bytes`.
                read=partial(read_from, archive.open, info, max_bytes, message="damaged in the archive"),
                head=partial(read_from, archive.open, info),
            ),
        )
        for info, name in zip(infos, names, strict=True)
    )


def list_archive(stored: Iterable[tuple[str | None, Member]]) -> Listing:
    """List the files of an archive under safe names.

    A backslash separates folders, as in archives that some Windows programs write.

    Args:
        stored: for each member, the reason not to read it, or None, and the member under its stored name.
    """

    def found() -> Iterator[tuple[str | None, Member]]:
        seen: set[str] = set()
        for fault, member in stored:
            if member.name.endswith(("/", "\\")):  # a folder
                continue
            path = PurePosixPath(member.name.replace("\\", "/"))
            name, unsafe = str(path), _unsafe(path)
            repeated = "the archive contains this name twice" if name in seen else None
            yield unsafe or fault or repeated, member if unsafe else replace(member, name=name)
            seen.add(name)

    return _build_listing(found())


def _build_listing(found: Iterable[tuple[str | None, Member]], unreadable: Iterable[OSError] = ()) -> Listing:
    """Sort members into usable ones, problems and junk; `unreadable` are the errors of folders that cannot be read."""
    members, problems, junk = [], [], 0
    for reason, member in found:
        if is_junk(member.name):
            junk += 1
        elif reason:
            problems.append(Problem(name=printable(member.name), reason=reason))
        else:
            members.append(member)
    problems += [
        Problem(name=printable(str(each.filename)), reason=f"cannot be read ({each.strerror})") for each in unreadable
    ]
    return Listing(
        members=sorted(members, key=lambda member: member.name),
        problems=sorted(problems, key=lambda problem: problem.name),
        junk=junk,
    )


def _unsafe(path: PurePosixPath) -> str | None:
    """The reason why a path in an archive must not be used, or None."""
    # A colon in the first part is a Windows drive.
    if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        return "unsafe path in the archive"
    return _UNPRINTABLE_NAME if printable(str(path)) != str(path) else None


def _unreadable(info: zipfile.ZipInfo, max_bytes: int) -> str | None:
    """The reason why a ZIP member must not be read, or None."""
    # The upper half of the external attributes is the Unix mode (APPNOTE.TXT 4.4.15).
    if stat.S_ISLNK(info.external_attr >> 16):
        return "a symbolic link"
    # Bit 0 marks encryption (APPNOTE.TXT 4.4.4).
    if info.flag_bits & 0x1:
        return "encrypted"
    if info.file_size > max_bytes:
        return too_large(info.file_size, max_bytes)
    if info.file_size > SMALL and info.file_size > MAX_RATIO * info.compress_size:
        return f"decompression bomb ({info.compress_size:,} bytes unpack to {info.file_size:,})"
    return None


def read_from(opener: Callable[[Any], IO[bytes]], what: Any, count: int, *, message: str = "cannot be read") -> bytes:
    """Read at most `count` bytes of what `opener` opens.

    Raises:
        DamagedError: the bytes cannot be read; the error's text begins with `message`.
    """
    try:
        with opener(what) as stream:
            return stream.read(count)
    except _DAMAGE as failure:
        raise DamagedError(f"{message} ({failure})") from failure


def too_large(size: int, max_bytes: int) -> str:
    """The reason why a file of this size is refused."""
    return f"{size:,} bytes; at most {max_bytes:,} are accepted"
