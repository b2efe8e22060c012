"""Listing of tar archives, plain or compressed, by the same rules as ZIP archives."""

import bz2
import gzip
import io
import lzma
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Lock
from typing import IO, TypeAlias

from pneumoscope.archive.listing import MAX_RATIO, SMALL, Listing, Member, list_archive, too_large
from pneumoscope.archive.names import decode_names
from pneumoscope.errors import ArchiveError

_Opener: TypeAlias = Callable[[Path], io.BufferedIOBase]
# Magic numbers of gzip, bzip2 and xz.
_COMPRESSED: dict[bytes, _Opener] = {b"\x1f\x8b": gzip.GzipFile, b"BZh": bz2.BZ2File, b"\xfd7zXZ\x00": lzma.LZMAFile}
_DAMAGE = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError, OverflowError, RecursionError)
_MAX_HEADER = 1_000_000
_CHUNK = 1 << 20


class _Headers(io.RawIOBase):
    """A stream that lets `tarfile` read at most a megabyte of headers per member.

    `tarfile` trusts the lengths in headers, such as those of long names and of the maps of sparse files, even if they
    are negative.

    Raises:
        tarfile.ReadError: from `read`, if it is asked for more or for a negative length.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream
        self.allowed = _MAX_HEADER

    def read(self, size: int = -1, /) -> bytes:
        self.allowed -= size
        if size < 0 or self.allowed < 0:
            raise tarfile.ReadError("a header is too large")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def is_tar(path: Path) -> bool:
    """Whether a file begins with a tar header, or is compressed by gzip, bzip2 or xz."""
    head = _head(path)
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return _opener(head) is not None
    return True


@contextmanager
def open_tar(path: Path, *, max_bytes: int, name_encoding: str | None) -> Iterator[Listing]:
    """List a tar archive; its members can be read, from any thread, until the block ends.

    A compressed archive is first unpacked into an unnamed file in the folder for temporary files: otherwise its
    members could not be read in arbitrary order.

    Raises:
        ArchiveError: it is not a tar archive, is truncated or damaged, or unpacks to more than 200 times its size and
            more than a megabyte.
        UsageError: see `decode_names`.
    """
    opener = _opener(_head(path))
    with path.open("rb") if opener is None else tempfile.TemporaryFile() as stream:
        if opener is not None:
            _unpack(path, opener, stream)
        yield _list(stream, path, max_bytes, name_encoding)


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(tarfile.BLOCKSIZE)


def _opener(head: bytes) -> _Opener | None:
    """The class that unpacks a file with these first bytes, or None."""
    return next((each for magic, each in _COMPRESSED.items() if head.startswith(magic)), None)


def _unpack(path: Path, opener: _Opener, unpacked: IO[bytes]) -> None:
    limit = max(SMALL, MAX_RATIO * path.stat().st_size)
    try:
        with opener(path) as stream:
            while chunk := stream.read(_CHUNK):
                unpacked.write(chunk)
                if unpacked.tell() > limit:
                    raise ArchiveError(f"{path} is a decompression bomb: it unpacks to more than {limit:,} bytes.")
    except _DAMAGE as failure:
        raise ArchiveError(
            f"{path} cannot be unpacked into {tempfile.gettempdir()} ({failure}); "
            "fetch it again, or set TMPDIR to a folder with more room."
        ) from failure


def _list(stream: IO[bytes], path: Path, max_bytes: int, encoding: str | None) -> Listing:
    try:
        infos = [info for info in _headers(stream) if not info.isdir()]
    except _DAMAGE as failure:
        raise ArchiveError(
            f"{path} is neither a folder nor a readable ZIP or tar archive ({failure}); if it should be one, "
            "fetch it again."
        ) from failure
    # Surrogates, which are not printable, stand for bytes that are not UTF-8; `decode_names` decodes such names.
    stored = [info.name if info.name.isprintable() else _bytes_of(info.name) for info in infos]
    # All members share one stream, so a lock keeps seek and read of a thread together.
    names, lock = decode_names(stored, encoding, archive=str(path)), Lock()
    return list_archive(
        (
            _refusal(info, max_bytes),
            Member(
                name=name,
                read=partial(_read, stream, lock, info.offset_data, info.size),
                head=partial(_read_head, stream, lock, info.offset_data, info.size),
            ),
        )
        for info, name in zip(infos, names, strict=True)
    )


def _headers(stream: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Every member's header.

    `tarfile` stops without an error at a damaged header, and never ends if a size is negative. Both are checked here.
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    headers = _Headers(stream)
    # `r:` is plain tar only: a compressed archive is already unpacked, within the limit.
    with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        end = -1
        while (info := archive.next()) is not None:
            if info.size < 0 or archive.offset <= end or info.offset_data + info.size > size:
                raise tarfile.ReadError("a member extends beyond the end: the archive is truncated or damaged")
            end, headers.allowed = archive.offset, _MAX_HEADER
            yield info
        # A complete archive ends with a block of zeros.
        stream.seek(archive.offset)
        block = stream.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE or any(block):
            raise tarfile.ReadError("a header is missing: the archive is truncated or damaged")


def _bytes_of(name: str) -> str | bytes:
    """A name as bytes if it is not UTF-8, else as text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape")
    return name


def _refusal(info: tarfile.TarInfo, max_bytes: int) -> str | None:
    """The reason why a member cannot be used, or None."""
    if info.issym():
        return "a symbolic link"
    if info.islnk():
        return "a hard link"
    # A sparse file states a size that its stored data do not have.
    if not info.isreg() or info.issparse():
        return "not a regular file"
    return too_large(info.size, max_bytes) if info.size > max_bytes else None


def _read(stream: IO[bytes], lock: Lock, start: int, size: int) -> bytes:
    with lock:
        stream.seek(start)
        return stream.read(size)


def _read_head(stream: IO[bytes], lock: Lock, start: int, size: int, count: int) -> bytes:
    return _read(stream, lock, start, min(size, count))
