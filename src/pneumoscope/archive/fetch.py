"""Download of a published archive, resumable and verified: the whole file, or its chest films only.

No library does this: pooch 1.9, fsspec 2026.9, requests 2.34 with urllib3's `Retry` and obstore 0.12 give up when a
connection breaks within a file (tried on the servers of tests/local_server.py), and remotezip 0.12 makes one request
per member and does not check which part of the archive it is sent.
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

from pneumoscope.archive.listing import DamagedError, list_zip, read_from
from pneumoscope.archive.published_archives import PublishedArchive
from pneumoscope.archive.remote import (
    DEFAULT_RETRY,
    RangeFile,
    RangeResponse,
    Remote,
    RetryPolicy,
    TransferInterrupted,
)
from pneumoscope.errors import ArchiveError, UsageError
from pneumoscope.files import sha256_of, whole_file
from pneumoscope.progress import SILENT, Listener

_READ_AHEAD = 8 << 20  # bytes per request; a larger film is refused
_SPARE = 50_000_000  # bytes of the disk that stay free
_PIECE = 1 << 20
_MEMBER_TRIES = 3  # for films that arrive damaged
_LOCK = ".lock"


@dataclass(frozen=True, kw_only=True)
class ExpectedFile:
    """A file to download and how it is verified. `size` is in bytes, None if it is not known beforehand."""

    url: str
    sha256: str
    size: int | None


def fetch_file(
    expected: ExpectedFile, path: Path, *, policy: RetryPolicy = DEFAULT_RETRY, listener: Listener = SILENT
) -> bool:
    """Download one file to `path`; return False if it was there already.

    Bytes are written to `path` with `.part` added, and a later call continues where an earlier one was interrupted or
    killed. A download that does not have the expected SHA-256 is deleted.

    Raises:
        ArchiveError: the file cannot be downloaded, or is not the expected one.
        UsageError: there is another file at `path`, the URL is not valid, or another download is writing it.
    """
    if path.exists():
        if path.is_file() and sha256_of(path) == expected.sha256:
            return False
        raise UsageError(f"{path} exists and is not the expected file; move it away or choose another --out.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with Remote(expected.url, policy=policy, say=listener.say) as remote, _locked(part) as stream:
        resumed = _size(stream) > 0
        digest = _download(remote, stream, expected, path, listener)
        # The kept part may be of another file or mirror, which only the hash shows.
        if digest != expected.sha256 and resumed:
            listener.say("the bytes kept from an earlier try do not match; fetching the whole file again")
            stream.truncate(0)
            digest = _download(remote, stream, expected, path, listener)
        if digest != expected.sha256:
            part.unlink()
            raise ArchiveError(
                f"{expected.url} sent another file: its SHA-256 is {digest}, expected {expected.sha256}. "
                "Nothing was kept; fetch again, or pass --sha256 if you trust this URL."
            )
        # The bytes must be on the disk before the name is: a crash must not leave an incomplete file under it.
        os.fsync(stream.fileno())
        part.replace(path)
    return True


def fetch_films(
    published: PublishedArchive,
    folder: Path,
    *,
    url: str,
    policy: RetryPolicy = DEFAULT_RETRY,
    listener: Listener = SILENT,
) -> int | None:
    """Download only the chest films of a remote ZIP archive, by range requests.

    The archive's directory is read first, then the films in the order in which they are stored, several megabytes per
    request. Every film is checked by its CRC-32 and written whole into the folder `folder` with `.part` added, which is
    renamed to `folder` when all films are there; a later call continues where an earlier one was interrupted.

    Returns:
        The number of films, or None if all of them are in `folder` already.

    Raises:
        ArchiveError: the archive cannot be read by ranges, or a film arrives damaged again and again.
        UsageError: `folder` has other content, the URL is not valid, or another download is writing it.
    """
    with Remote(url, policy=policy, say=listener.say) as remote:
        if folder.exists():
            with _open_remote(remote) as archive:
                if all(_is_there(folder / info.filename, info) for info in _films_of(archive, published, url)):
                    return None
            raise UsageError(f"{folder} exists and does not contain the films; move it away or choose another --out.")
        part = folder.with_name(f"{folder.name}.part")
        part.mkdir(parents=True, exist_ok=True)
        with _locked(part / _LOCK):
            count = _fetch_with_retries(remote, published, part, listener)
            (part / _LOCK).unlink()
            part.replace(folder)
    return count


def _fetch_with_retries(remote: Remote, published: PublishedArchive, part: Path, listener: Listener) -> int:
    """Download what is missing; try again if a film arrives damaged, with at most three tries in all."""
    tries = 1
    while True:
        try:
            return _fetch_members(remote, published, part, listener)
        except DamagedError as failure:
            if tries == _MEMBER_TRIES:
                raise ArchiveError(
                    f"{remote.url}: {failure}, {tries} times; the films that arrived whole are kept in {part}. "
                    "Run the same command again, or pass --url with a mirror."
                ) from failure
            tries += 1
            listener.say(f"{failure}; fetching it again")


def _open_remote(remote: Remote) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BufferedReader(RangeFile(remote), _READ_AHEAD))
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as failure:
        raise ArchiveError(f"{remote.url} is not a readable ZIP archive ({failure}).") from failure


def _fetch_members(remote: Remote, published: PublishedArchive, part: Path, listener: Listener) -> int:
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
    """Delete files that are not of this archive: another mirror's films, and files half written by a killed process."""
    for path in [path for path in part.rglob("*") if path.is_file() or path.is_symlink()]:
        if path.relative_to(part).as_posix() not in {*names, _LOCK}:
            path.unlink()


def _films_of(archive: zipfile.ZipFile, published: PublishedArchive, url: str) -> list[zipfile.ZipInfo]:
    """Members of the chest films' folder, in the order in which they are stored, so that reads go forward.

    Raises:
        ArchiveError: there are none, or one of them must not be unpacked.
    """

    def among_films(name: str) -> bool:
        return published.films_folder in PurePosixPath(name).parts[:-1]

    listing = list_zip(archive, _READ_AHEAD)
    for problem in listing.problems:
        if among_films(problem.name):
            raise ArchiveError(f"{url}: {problem.name!r} is not fetched: {problem.reason}.")
    names = {member.name for member in listing.members if among_films(member.name)}
    films = [info for info in archive.infolist() if info.filename in names]
    if not films:
        raise ArchiveError(f"{url} contains no folder {published.films_folder}; is it version 3's archive?")
    return sorted(films, key=lambda info: info.header_offset)


def _is_there(path: Path, info: zipfile.ZipInfo) -> bool:
    return path.is_file() and path.stat().st_size == info.file_size and zlib.crc32(path.read_bytes()) == info.CRC


def _fetch_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    message = f"{info.filename} arrived damaged"
    # One byte more than stated, so that zipfile reaches the end, where it checks the CRC-32; but not all of a bomb.
    data = read_from(archive.open, info, info.file_size + 1, message=message)
    if len(data) != info.file_size:
        raise DamagedError(f"{message} (not of the size that the archive states)")
    with whole_file(path) as partial:
        partial.write_bytes(data)


def _download(remote: Remote, stream: BinaryIO, expected: ExpectedFile, path: Path, listener: Listener) -> str:
    """Download what `stream` lacks of the file; return the SHA-256 of the result."""
    size = remote.size() if expected.size is None else expected.size
    if expected.size is not None and _size(stream) > expected.size:
        stream.truncate(0)
    download = _Download(remote=remote, stream=stream, expected=expected, listener=listener)
    with listener.progress(f"fetching {path.name}", size, "B", done=_size(stream)):
        remote.retry(download.attempt, progress=lambda: _size(stream))
    digest = hashlib.sha256()
    stream.seek(0)
    with listener.progress("checking SHA-256", _size(stream), "B"):
        while piece := stream.read(_PIECE):
            digest.update(piece)
            listener.advance(len(piece))
    return digest.hexdigest()


@dataclass(kw_only=True)
class _Download:
    """The requests for a file's missing bytes. `ranges` becomes false when the server has sent a wrong range."""

    remote: Remote
    stream: BinaryIO
    expected: ExpectedFile
    listener: Listener
    ranges: bool = True

    def attempt(self) -> None:
        """Make one request and write the bytes that it brings.

        Raises:
            TransferInterrupted: another request should be made.
            ArchiveError: another request would not help.
        """
        held = self.stream.seek(0, os.SEEK_END)
        if held and held == self.expected.size:
            return
        with self.remote.request(held if self.ranges else 0) as response:
            total = self._checked_total(response.total)
            if response.start != held:
                self._start_over(response, held, total)
                held = 0
            _require_space(Path(self.stream.name).parent, (total or held) - held)
            for piece in response.pieces:
                self.stream.write(piece)
                self.listener.advance(len(piece))
                if total is not None and self.stream.tell() > total:
                    raise ArchiveError(
                        f"{self.remote.url} sent more than the {total:,} bytes that it announced; "
                        "pass --url with a mirror."
                    )
        if total is not None and self.stream.tell() < total:
            raise TransferInterrupted(f"it ended {total - self.stream.tell():,} bytes early")

    def _checked_total(self, announced: int | None) -> int | None:
        """The size of the whole file, as expected or else as announced; refuse an announced size that differs."""
        expected = self.expected.size
        if expected is not None and announced is not None and announced != expected:
            raise ArchiveError(
                f"{self.remote.url} offers {announced:,} bytes, expected {expected:,}: it is another file; "
                "pass --url with a mirror."
            )
        return announced if expected is None else expected

    def _start_over(self, response: RangeResponse, held: int, total: int | None) -> None:
        """Drop the bytes held if the response is the whole file, which has at least as many, or if they are too many.

        Status 416 shows the latter.

        Raises:
            TransferInterrupted: the response is anything else, or the bytes held were too many.
        """
        if response.start not in (0, total):
            self.ranges = False
            raise TransferInterrupted("it sent another part of the file")
        if response.start != total and (total is None or total < held):
            raise TransferInterrupted("it sent something other than the rest of the file")
        self.stream.truncate(0)
        self.listener.advance(-held)
        if response.start == total:  # status 416: nothing after the bytes held, so they are too many
            raise TransferInterrupted("the bytes kept are longer than the file")
        self.listener.say("the server does not continue where the transfer broke off; fetching from the start")


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise ArchiveError(
            f"{folder} has {free // 1_000_000:,} MB free; {-(-(needed + _SPARE) // 1_000_000):,} MB are needed. "
            "Make room, or choose another --out."
        )


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading and writing, locked against other processes until the block ends.

    If it is empty then, it is deleted.
    """
    with path.open("a+b", buffering=0) as stream:
        try:
            # The system releases this lock when the process ends, so a killed download does not block the next one.
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as failure:
            raise UsageError(f"{path} is being written by another download; wait for it or stop it.") from failure
        try:
            yield stream
        finally:
            if _size(stream) == 0:
                path.unlink(missing_ok=True)


def _size(stream: BinaryIO) -> int:
    return os.fstat(stream.fileno()).st_size
