"""Where parts, the files of scored shards, go: a folder, in which a part appears whole or not at all."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pneumoscope.errors import UsageError
from pneumoscope.files import whole_file

_PARTIAL = ".partial-"  # the beginning of temporary names, see `files.whole_file`


class Destination(Protocol):
    """Where parts go. It can be pickled, and is used by every worker."""

    @property
    def address(self) -> str:
        """Path or address, for messages."""

    def prepare(self) -> None:
        """Check that parts can be put here, before any film is read; make the folder.

        Raises:
            PneumoscopeError: the destination cannot be used.
        """

    def is_visible(self) -> bool:
        """Whether this machine sees the destination: a folder may be on another one's disk."""

    def names(self) -> set[str]:
        """The names of all files here."""

    def publish(self, name: str, content: bytes) -> bool:
        """Put a part here, whole or not at all; return False if one of this name was here already and was kept."""

    def replace(self, name: str, content: bytes) -> None:
        """Write a file here, whole or not at all, in place of an earlier one."""

    def tail(self, name: str, size: int) -> bytes:
        """The last bytes of a file, at most `size`."""

    def remove(self, names: Iterable[str]) -> None:
        """Delete files."""

    def tidy(self) -> None:
        """Delete what killed workers left behind; only once every part is written."""


@dataclass(frozen=True, kw_only=True)
class FolderDestination:
    """A folder on a disk that every worker sees under the same path."""

    folder: Path

    @property
    def address(self) -> str:
        """The folder's path."""
        return str(self.folder)

    def prepare(self) -> None:
        """Make the folder.

        Raises:
            UsageError: something else is at its path, or it cannot be made or written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as failure:
            raise UsageError(f"{self.folder} cannot be made ({failure.strerror}); choose another --out.") from failure
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise UsageError(f"{self.folder} cannot be written to; choose another --out.")

    def is_visible(self) -> bool:
        """Whether the folder exists here."""
        return self.folder.is_dir()

    def names(self) -> set[str]:
        """The names of the files in the folder."""
        return set(os.listdir(self.folder))  # noqa: PTH208 (names, not paths)

    def publish(self, name: str, content: bytes) -> bool:
        """Write a temporary file, then give it its name, unless that is taken."""
        path = self.folder / name
        if path.exists():
            return False
        # Two workers may get here with the same shard. Both parts hold the same films, and the later one stays.
        self.replace(name, content)
        return True

    def replace(self, name: str, content: bytes) -> None:
        """Write a temporary file, then give it its name."""
        with whole_file(self.folder / name) as partial, partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())  # the bytes must be on the disk before the name is

    def tail(self, name: str, size: int) -> bytes:
        """Read the end of a file."""
        with (self.folder / name).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - size))
            return stream.read()

    def remove(self, names: Iterable[str]) -> None:
        """Delete files of the folder."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Delete temporary files."""
        self.remove(name for name in self.names() if name.startswith(_PARTIAL))
