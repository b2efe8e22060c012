"""Files and folders that are written whole or not at all, and their hashes."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pneumoscope.errors import UsageError

_CHOOSE_ANOTHER = "choose another --out."


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not made from the file's own name, which may already be as long as a name can be. In the same folder, because a
    # rename is atomic within one file system only.
    handle, name = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())  # mkstemp makes files that only the owner can read
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_directory(path: Path, *, overwrite: bool = False, holding: str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` if the block ends without an error.

    With `overwrite`, an existing folder is replaced only if it holds an entry named `holding`, which shows that this
    command made it: a mistyped path must not cost anyone a folder.

    Raises:
        UsageError: `path` exists and must not be replaced.
    """
    refuse_existing(path, overwrite=overwrite, holding=holding)
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        _replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_existing(
    path: Path, *, overwrite: bool, holding: str, instead: str = "choose another --out, or pass --overwrite"
) -> None:
    """Check that `path` is free, an empty folder, or with `overwrite` a folder that this command made.

    Args:
        path: the file or folder to be made.
        overwrite: accept a folder that is to be replaced.
        holding: an entry that such a folder must have.
        instead: advice for the message, if `path` exists.

    Raises:
        UsageError: something else is at `path`.
    """
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_dir() or path.is_mount() or path.resolve() in _protected_folders():
        raise UsageError(
            f"{path} cannot be made: a file, link, mount point, home or working folder is there; {_CHOOSE_ANOTHER}"
        )
    if not any(path.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{path} exists already; {instead}.")
    if not (path / holding).exists():
        raise UsageError(
            f"{path} is not replaced: it has no {holding!r}, so this command did not make it; {_CHOOSE_ANOTHER}"
        )


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Write an indented JSON document, whole or not at all. NaN is refused: use None."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces so that it need not fit in memory."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _replace(new: Path, path: Path) -> None:
    """Move `new` to `path`. An old folder there is deleted last, and put back if the move fails."""
    if not path.exists():
        new.rename(path)
        return
    # rename(2) replaces only empty folders, so the old one is moved aside first.
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old-", dir=path.parent))
    path.rename(old / path.name)
    try:
        new.rename(path)
    except BaseException:  # an interrupt, too
        (old / path.name).rename(path)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def _protected_folders() -> set[Path]:
    """Folders that are never replaced: the working folder, its parents, and the home folder."""
    here = Path.cwd()
    return {here, *here.parents, Path.home().resolve()}


def _umask() -> int:
    """This process's file mode creation mask.

    `os.umask` can read it only by setting it, for all threads; Linux also shows it in /proc/self/status.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("Umask:")), 8)
    except (OSError, ValueError, StopIteration):  # macOS, Windows
        mask = os.umask(0)
        os.umask(mask)
        return mask
