"""Files and folders that appear whole or not at all, and their hashes."""

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

_ANOTHER = "choose another --out."


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".partial-", dir=path.parent)  # the name itself may be as long as can be
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_directory(path: Path, *, overwrite: bool = False, holding: str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` when the block ends well.

    With `overwrite`, what lies at `path` is replaced only if it is a folder that holds an entry named
    `holding`, so that a slip of the hand never costs somebody else's folder.

    Raises:
        UsageError: `path` exists and may not be replaced.
    """
    refuse_existing(path, overwrite=overwrite, holding=holding)
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        _exchange(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_existing(
    path: Path, *, overwrite: bool, holding: str, instead: str = "choose another --out, or pass --overwrite"
) -> None:
    """Raise UsageError when something non-empty lies at `path` and may not be replaced."""
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_dir() or path.is_mount() or path.resolve() in _precious():
        raise UsageError(f"{path} cannot be made: a file, link, mount, home or working folder is there; {_ANOTHER}")
    if not any(path.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{path} exists already; {instead}.")
    if not (path / holding).exists():
        raise UsageError(f"{path} is not replaced: it has no {holding!r}, so this command did not make it; {_ANOTHER}")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Write an indented JSON document, whole or not at all. NaN is refused: use None."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _exchange(new: Path, path: Path) -> None:
    """Move `new` to `path`; what was there is deleted only after that, and put back if it fails."""
    if not path.exists():
        new.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old-", dir=path.parent))
    path.rename(old / path.name)
    try:
        new.rename(path)
    except BaseException:
        (old / path.name).rename(path)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def _precious() -> set[Path]:
    """Folders that are never replaced: the working folder, its parents, and home."""
    here = Path.cwd()
    return {here, *here.parents, Path.home()}


def _umask() -> int:
    """This process's file mode creation mask, read where that needs no change of it for all threads."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("Umask:")), 8)
    except (OSError, ValueError, StopIteration):  # macOS, Windows
        mask = os.umask(0)
        os.umask(mask)
        return mask
