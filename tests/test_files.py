import errno
import os
from pathlib import Path

import pytest

from pneumoscope.errors import UsageError
from pneumoscope.files import whole_directory, whole_file


def make(path: Path, *, overwrite: bool = False, text: str = "new") -> None:
    with whole_directory(path, overwrite=overwrite, holding="mark") as folder:
        (folder / "mark").write_text(text)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail() -> None:
        with whole_directory(tmp_path / "out", holding="mark") as folder:
            (folder / "mark").write_text("half")
            assert not (tmp_path / "out").exists()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())
    make(tmp_path / "out")
    assert (tmp_path / "out" / "mark").read_text() == "new"
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_only_our_own_folders_are_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out, text="old")
    with pytest.raises(UsageError, match="exists already"):
        make(out)
    make(out, overwrite=True)
    assert (out / "mark").read_text() == "new"
    (out / "mark").rename(out / "thesis")
    with pytest.raises(UsageError, match="did not make it"):
        make(out, overwrite=True)
    assert (out / "thesis").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_working_folder_links_files_and_mounts_are_never_replaced(
    overwrite: bool,  # noqa: FBT001 (pytest gives it by name)
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "mark").write_text("thesis")
    monkeypatch.chdir(here)
    (tmp_path / "link").symlink_to(here)
    (tmp_path / "file").write_text("1")
    for path in (Path(), here, tmp_path, tmp_path / "link", tmp_path / "file", Path("/proc"), Path.home()):
        with pytest.raises(UsageError, match="cannot be made"):
            make(path, overwrite=overwrite)
    assert (here / "mark").read_text() == "thesis"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "here", "link"]


def test_a_home_folder_below_a_link_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "disk" / "ann")
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "ann"))
    for path in (Path.home(), tmp_path / "disk" / "ann"):
        with pytest.raises(UsageError, match="home or working folder"):
            make(path, overwrite=True)


def test_the_old_folder_survives_a_failed_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "out", text="old")
    rename = Path.rename

    def full(path: Path, target: Path) -> Path:
        if ".partial-" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        make(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "mark").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_old_folder_survives_an_interrupt_between_the_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "out", text="old")
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if ".partial-" in path.name:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "mark").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_put_back_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "out", text="old")
    rename = Path.rename
    moved: list[Path] = []

    def broken(path: Path, target: Path) -> Path:
        if moved:
            raise OSError(errno.EIO, "Input/output error")
        moved.append(path)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OSError, match="Input/output"):
        make(tmp_path / "out", overwrite=True)
    (kept,) = tmp_path.glob(".out.old-*/out/mark")
    assert kept.read_text() == "old"


def test_a_file_keeps_its_old_content_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with whole_file(path) as partial:
            partial.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]
