"""Fetching a published archive: whole, resumable and verified; or its chest films alone.

Our own code, because pooch 1.9, fsspec 2026.9, requests 2.34 with urllib3's `Retry` and obstore 0.12 give up when a
connection breaks within a file (tried on the servers of tests/local_server.py), and remotezip 0.12 asks once for each
member and takes whatever part of the archive it is sent for the right one.
"""

import fcntl
import hashlib
import io
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pneumoscope.archive.known_archives import Published
from pneumoscope.archive.listing import DamagedError, list_zip, read_from
from pneumoscope.archive.remote import PATIENT, Answer, Interrupted, Patience, RangeFile, Remote
from pneumoscope.errors import ArchiveError, UsageError
from pneumoscope.files import sha256_of, whole_file
from pneumoscope.progress import SILENT, Listener

_READ_AHEAD = 8 << 20
_SPARE = 50_000_000  # bytes of the disk that are left alone
_PIECE = 1 << 20
_MEMBER_TRIES = 3
_LOCK = ".lock"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a whole file must be. `size` is in bytes, None where it is not known beforehand."""

    url: str
    sha256: str
    size: int | None


def fetch_file(wanted: Wanted, path: Path, *, patience: Patience = PATIENT, listener: Listener = SILENT) -> bool:
    """Fetch one file to `path`; return False if it was there already.

    Bytes go to `path` with `.part` added, and a later call goes on where an earlier one was broken off
    or killed. The size and the SHA-256 decide: what does not fit is deleted.

    Raises:
        ArchiveError: it cannot be fetched, or is not the file that was asked for.
        UsageError: another file lies at `path`, the URL is not valid, or another fetch is at work.
    """
    if path.exists():
        if path.is_file() and sha256_of(path) == wanted.sha256:
            return False
        raise UsageError(f"{path} exists and is not the file asked for; move it away or choose another --out.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with Remote(wanted.url, patience=patience, say=listener.say) as remote, _locked(part) as stream:
        resumed = _size(stream) > 0
        found = _fill(remote, stream, wanted, path, listener)
        if found != wanted.sha256 and resumed:
            listener.say("what was kept from an earlier try does not fit; fetching the whole again")
            stream.truncate(0)
            found = _fill(remote, stream, wanted, path, listener)
        if found != wanted.sha256:
            part.unlink()
            raise ArchiveError(
                f"{wanted.url} sent another file: its SHA-256 is {found}, expected {wanted.sha256}. "
                "Nothing was kept; fetch again, or pass --sha256 if you trust this address."
            )
        os.fsync(stream.fileno())
        part.replace(path)
    return True


def fetch_films(
    published: Published, folder: Path, *, url: str, patience: Patience = PATIENT, listener: Listener = SILENT
) -> int | None:
    """Fetch the chest films of a remote ZIP archive that holds more, by ranges.

    Returns how many there are, or None if all of them are in `folder` already.

    The archive's directory is read first; then the films in the order in which they lie, some megabytes
    a request. Every film is checked by its CRC-32 and appears whole under `folder` with `.part` added,
    which becomes `folder` when all are there; a later call goes on where an earlier one was broken off.

    Raises:
        ArchiveError: the archive cannot be read so, or a film arrives damaged again and again.
        UsageError: something else lies at `folder`, the URL is not valid, or another fetch is at work.
    """
    with Remote(url, patience=patience, say=listener.say) as remote:
        if folder.exists():
            with _open_remote(remote) as archive:
                if all(_is_there(folder / info.filename, info) for info in _films_of(archive, published, url)):
                    return None
            raise UsageError(f"{folder} exists and is not what would be fetched; move it away or choose another --out.")
        part = folder.with_name(f"{folder.name}.part")
        part.mkdir(parents=True, exist_ok=True)
        with _locked(part / _LOCK):
            count = _persist(remote, published, part, listener)
            (part / _LOCK).unlink()
            part.replace(folder)
    return count


def _persist(remote: Remote, published: Published, part: Path, listener: Listener) -> int:
    """Fetch what is missing; begin anew, a few times, when a film arrives damaged."""
    tries = 1
    while True:
        try:
            return _fetch_members(remote, published, part, listener)
        except DamagedError as failure:
            if tries == _MEMBER_TRIES:
                raise ArchiveError(
                    f"{remote.url}: {failure}, {tries} times; what came whole is kept in {part}. "
                    "Run the same command again, or pass --url with a mirror's address."
                ) from failure
            tries += 1
            listener.say(f"{failure}; fetching it again")


def _open_remote(remote: Remote) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BufferedReader(RangeFile(remote), _READ_AHEAD))
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as failure:
        raise ArchiveError(f"{remote.url} is not a readable ZIP archive ({failure}).") from failure


def _fetch_members(remote: Remote, published: Published, part: Path, listener: Listener) -> int:
    with _open_remote(remote) as archive:
        films = _films_of(archive, published, remote.url)
        _remove_others(part, {info.filename for info in films})
        missing = [info for info in films if not _is_there(part / info.filename, info)]
        needed, total = (sum(info.file_size for info in some) for some in (missing, films))
        _require_space(part, needed)
        with listener.progress(f"fetching {len(films):,} chest films", total, "B", done=total - needed):
            for info in missing:
                _fetch_member(archive, info, part / info.filename)
                listener.advance(info.file_size)
    return len(films)


def _remove_others(part: Path, names: set[str]) -> None:
    """Delete what is not of this archive: another mirror's films, and what a kill left half written."""
    for path in [path for path in part.rglob("*") if path.is_file() or path.is_symlink()]:
        if path.relative_to(part).as_posix() not in {*names, _LOCK}:
            path.unlink()


def _films_of(archive: zipfile.ZipFile, published: Published, url: str) -> list[zipfile.ZipInfo]:
    """Members of the chest films' folder, in the order in which they lie in the archive.

    Raises:
        ArchiveError: there are none, or one of them must not be unpacked.
    """

    def among_films(name: str) -> bool:
        return published.films_folder in PurePosixPath(name).parts[:-1]

    listing = list_zip(archive, _READ_AHEAD)
    for problem in listing.problems:
        if among_films(problem.name):
            raise ArchiveError(f"{url}: {problem.name!r} is not fetched: {problem.reason}.")
    wanted = {member.name for member in listing.members if among_films(member.name)}
    films = [info for info in archive.infolist() if info.filename in wanted]
    if not films:
        raise ArchiveError(f"{url} holds no folder {published.films_folder}; is it version 3's archive?")
    return sorted(films, key=lambda info: info.header_offset)


def _is_there(path: Path, info: zipfile.ZipInfo) -> bool:
    return path.is_file() and path.stat().st_size == info.file_size and zlib.crc32(path.read_bytes()) == info.CRC


def _fetch_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    said = f"{info.filename} arrived damaged"
    # One byte more than it says, so that zipfile comes to the end, where it checks the CRC-32; but not all of a bomb.
    data = read_from(archive.open, info, info.file_size + 1, said=said)
    if len(data) != info.file_size:
        raise DamagedError(f"{said} (not of the size that the archive says)")
    with whole_file(path) as partial:
        partial.write_bytes(data)


def _fill(remote: Remote, stream: BinaryIO, wanted: Wanted, path: Path, listener: Listener) -> str:
    """Bring `stream` to the whole file's length; the SHA-256 that it has then."""
    size = remote.size() if wanted.size is None else wanted.size
    if wanted.size is not None and _size(stream) > wanted.size:
        stream.truncate(0)
    fill = _Fill(remote=remote, stream=stream, wanted=wanted, listener=listener)
    with listener.progress(f"fetching {path.name}", size, "B", done=_size(stream)):
        remote.insist(fill.attempt, reached=lambda: _size(stream))
    digest = hashlib.sha256()
    stream.seek(0)
    with listener.progress("checking SHA-256", _size(stream), "B"):
        while piece := stream.read(_PIECE):
            digest.update(piece)
            listener.advance(len(piece))
    return digest.hexdigest()


@dataclass(kw_only=True)
class _Fill:
    """Requests for what is missing, until nothing is. `ranges` is off once the server has got them wrong."""

    remote: Remote
    stream: BinaryIO
    wanted: Wanted
    listener: Listener
    ranges: bool = True

    def attempt(self) -> None:
        """One request.

        Raises:
            Interrupted: make another one.
            ArchiveError: it is of no use.
        """
        held = self.stream.seek(0, os.SEEK_END)
        if held and held == self.wanted.size:
            return
        with self.remote.ask(held if self.ranges else 0) as answer:
            total = self._agreed(answer.total)
            if answer.start != held:
                self._start_over(answer, held, total)
                held = 0
            _require_space(Path(self.stream.name).parent, (total or held) - held)
            for piece in answer.pieces:
                self.stream.write(piece)
                self.listener.advance(len(piece))
                if total is not None and self.stream.tell() > total:
                    raise ArchiveError(
                        f"{self.remote.url} sent more than the {total:,} bytes it announced; pass --url."
                    )
        if total is not None and self.stream.tell() < total:
            raise Interrupted(f"it ended {total - self.stream.tell():,} bytes early")

    def _agreed(self, announced: int | None) -> int | None:
        expected = self.wanted.size
        if expected is not None and announced is not None and announced != expected:
            raise ArchiveError(
                f"{self.remote.url} offers {announced:,} bytes, expected {expected:,}: it is another file. Pass --url."
            )
        return announced if expected is None else expected

    def _start_over(self, answer: Answer, held: int, total: int | None) -> None:
        """Drop what is held, unless what is offered instead cannot be the file."""
        if answer.start not in (0, total):
            self.ranges = False
            raise Interrupted("it sent another part of the file")
        if answer.start != total and (total is None or total < held):
            raise Interrupted("it answers with something else than the rest of the file")
        self.stream.truncate(0)
        self.listener.advance(-held)
        if answer.start == total:
            raise Interrupted("what was kept is longer than the file")
        self.listener.say("the server does not go on where it was broken off; fetching from the start")


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise ArchiveError(
            f"{folder} has {free / 1e6:,.0f} MB free; {(needed + _SPARE) / 1e6:,.0f} MB are needed. "
            "Make room, or choose another --out."
        )


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading and writing, kept from other processes until the block ends."""
    with path.open("a+b", buffering=0) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as failure:
            raise UsageError(f"{path} is being written by another fetch; wait for it or stop it.") from failure
        try:
            yield stream
        finally:
            if _size(stream) == 0:
                path.unlink(missing_ok=True)


def _size(stream: BinaryIO) -> int:
    return os.fstat(stream.fileno()).st_size
