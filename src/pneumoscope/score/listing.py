"""Sources of films as listings: the entries of a folder, an archive, a prepared data set or a list of paths, in order.

A listing streams: it holds the names of one folder at a time, never those of the whole source. Archives and prepared
data sets are the exceptions, because their directory or manifest is read as a whole. Sources are sent to worker
processes, so they hold addresses and open nothing until they are read.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from pneumoscope.archive import Member, is_junk, open_source
from pneumoscope.dataset import load_dataset
from pneumoscope.dataset.manifest import CARD_FILE, MANIFEST_FILE
from pneumoscope.engine.film_files import is_film_file, named_like_film
from pneumoscope.errors import ArchiveError, DamagedImageError, ImageError, UsageError
from pneumoscope.imaging import DICOM_HEAD, Limits, is_dicom, read_file

LIST_SUFFIX = ".txt"
_DISK_READERS = 2  # threads that read ahead; more gain nothing on a disk


class Entry(NamedTuple):
    """One film of a source: its name there, its size in bytes, and its ETag, time or hash; 0 or empty if unknown."""

    name: str
    size: int
    stamp: str


Reader: TypeAlias = Callable[[Entry], bytes]


class Source(Protocol):
    """Where films come from. It can be pickled."""

    @property
    def address(self) -> str:
        """Absolute path or address, which the results state."""

    @property
    def stamp(self) -> str:
        """Text that changes if an archive does: its size and time; empty for sources whose entries have stamps."""

    @property
    def readers(self) -> int:
        """How many films to read at a time."""

    def is_visible(self) -> bool:
        """Whether this machine sees the source: a folder may be on another one's disk."""

    def entries(self) -> Iterator[Entry]:
        """The films, in an order that depends on the source alone."""

    def reading(self) -> AbstractContextManager[Reader]:
        """Open the source for as long as the block runs; yield a function that reads a film's bytes, from any thread.

        It raises ImageError or OSError for a film that cannot be read, and PneumoscopeError if no film can be.
        """


@dataclass(frozen=True, kw_only=True)
class _OnDisk:
    """A source at a path; see `Source`."""

    path: Path
    limits: Limits
    stamp: str = ""
    readers: int = _DISK_READERS

    @property
    def address(self) -> str:
        """The path."""
        return str(self.path)

    def is_visible(self) -> bool:
        """Whether it exists here."""
        return self.path.exists()


@dataclass(frozen=True, kw_only=True)
class Folder(_OnDisk):
    """The image files of a folder and the folders in it; linked folders are not followed."""

    def entries(self) -> Iterator[Entry]:
        """Folder by folder, each in name order. A folder that cannot be read is an entry: it becomes a rejected row."""
        unreadable: list[OSError] = []
        above = len(os.path.join(self.path, ""))  # noqa: PTH118 (a Path for each of a million names takes minutes)
        for folder, folders, files in os.walk(self.path, onerror=unreadable.append):
            folders.sort()  # in place: this is the order in which os.walk goes on
            for file in sorted(files):
                path = os.path.join(folder, file)  # noqa: PTH118
                name = path[above:]
                if not is_junk(name) and is_film_file(Path(path)):
                    yield _entry_of_file(name, path)
        for failure in unreadable:
            yield Entry(os.path.relpath(str(failure.filename), self.path), 0, "")

    def reading(self) -> AbstractContextManager[Reader]:
        """Read below the folder."""
        return nullcontext(partial(_read_below, self.path, self.limits))


@dataclass(frozen=True, kw_only=True)
class PathList(_OnDisk):
    """The files that a text file names, one per line, in its order; relative paths begin at the text file's folder."""

    def entries(self) -> Iterator[Entry]:
        """The lines, without empty ones.

        Raises:
            UsageError: a line occurs twice, or the file is not text.
        """
        seen = set[bytes]()
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                name = os.fsdecode(line.rstrip(b"\r\n"))
                if not name.strip():
                    continue
                if "\0" in name:
                    raise UsageError(f"{self.path} is not a list of paths: line {number} is not text.")
                mark = sha256(line.rstrip(b"\r\n")).digest()[:12]  # a third of the memory of the names
                if mark in seen:
                    raise UsageError(f"{self.path}: line {number} names a file for the second time; remove it.")
                seen.add(mark)
                yield _entry_of_file(name, str(self.path.parent / name))

    def reading(self) -> AbstractContextManager[Reader]:
        """Read the files that the lines name."""
        return nullcontext(partial(_read_below, self.path.parent, self.limits))


@dataclass(frozen=True, kw_only=True)
class PreparedSet(_OnDisk):
    """The films of a data set made by `data prepare`, all splits, in the manifest's order."""

    def entries(self) -> Iterator[Entry]:
        """The manifest's rows; their stamp is the file's SHA-256."""
        yield from (Entry(film.path, film.bytes, film.file_sha256) for film in load_dataset(self.path).films)

    def reading(self) -> AbstractContextManager[Reader]:
        """Read the films, and refuse one that has changed since the manifest was written."""
        return nullcontext(self._read)

    def _read(self, entry: Entry) -> bytes:
        data = read_file(self.path / entry.name, limits=self.limits)
        if sha256(data).hexdigest() != entry.stamp:
            raise DamagedImageError("it has changed since `data prepare`: its SHA-256 is not the manifest's.")
        return data


@dataclass(frozen=True, kw_only=True)
class Archive(_OnDisk):
    """The image files of a ZIP or tar archive, in name order, listed without trusting the archive's names."""

    name_encoding: str | None = None
    readers: int = 1  # members share one open file

    def entries(self) -> Iterator[Entry]:
        """The members that are image files, also those that the archive's listing refuses to read."""
        with self._open() as found:
            yield from (Entry(name, 0, "") for name in sorted(found))

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """Read members until the block ends."""
        with self._open() as found:
            yield lambda entry: _read_member(found[entry.name])

    @contextmanager
    def _open(self) -> Iterator[dict[str, Member | str]]:
        """Members by name, or the reason why a member cannot be read."""
        with open_source(self.path, max_bytes=self.limits.max_bytes, name_encoding=self.name_encoding) as listing:
            problems: dict[str, Member | str] = {
                each.name: each.reason for each in listing.problems if named_like_film(each.name)
            }
            yield problems | {each.name: each for each in listing.members if _is_film(each)}


def find_source(address: str, limits: Limits, *, name_encoding: str | None = None) -> Source:
    """The source at a path: a folder, a prepared data set, an archive or a list of paths.

    Raises:
        UsageError: it does not exist, or is an image file. Any other file counts as an archive until it is opened.
    """
    path = Path(address).absolute()
    if not path.exists():
        raise UsageError(f"{address} does not exist; give a folder, an archive, a list of paths or an s3:// prefix.")
    if (path / MANIFEST_FILE).is_file() and (path / CARD_FILE).is_file():
        return PreparedSet(path=path, limits=limits)
    if path.is_dir():
        return Folder(path=path, limits=limits)
    if path.suffix.lower() == LIST_SUFFIX:
        return PathList(path=path, limits=limits)
    if named_like_film(path.name):
        raise UsageError(f"{address} is an image file; give a folder or an archive, or use `pneumoscope predict`.")
    status = path.stat()
    stamp = f"{status.st_size}-{status.st_mtime_ns}"
    return Archive(path=path, limits=limits, stamp=stamp, name_encoding=name_encoding)


def _entry_of_file(name: str, path: str) -> Entry:
    try:
        status = os.stat(path)  # noqa: PTH116 (see Folder.entries)
    except OSError:  # it becomes a rejected row when it is read
        return Entry(name, 0, "")
    return Entry(name, status.st_size, str(status.st_mtime_ns))


def _read_below(root: Path, limits: Limits, entry: Entry) -> bytes:
    return read_file(root / entry.name, limits=limits)


def _read_member(member: Member | str) -> bytes:
    if isinstance(member, str):
        raise ImageError(f"it cannot be read from the archive: {member}.")
    try:
        return member.read()
    except ArchiveError as failure:
        raise DamagedImageError(f"it cannot be read from the archive: {failure}.") from failure


def _is_film(member: Member) -> bool:
    by_name = named_like_film(member.name)
    if by_name is not None:
        return by_name
    try:
        return is_dicom(member.head(DICOM_HEAD))
    except ArchiveError:
        return False
