"""ZIP archives that do harm: unsafe paths, links, bombs, encryption, wrong sizes, and very many members."""

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pneumoscope.archive import open_source
from pneumoscope.dataset import PrepareConfig, load_dataset, prepare
from pneumoscope.errors import ArchiveError, DatasetError
from samples import small_films

FOLDER = "chest_xray/train/NORMAL"


def zip64(name: str, data: bytes, *, claimed: int) -> bytes:
    """A one-member ZIP64 archive whose directory states another unpacked size (APPNOTE 6.3.10, 4.5.3)."""
    encoded, see_extra, date = name.encode(), 0xFFFFFFFF, 33
    true, lying = (struct.pack("<HHQQ", 1, 16, size, len(data)) for size in (len(data), claimed))
    sizes = zlib.crc32(data), see_extra, see_extra, len(encoded), len(true)
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 45, 0, 0, 0, date, *sizes)
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 45, 45, 0, 0, 0, date, *sizes, 0, 0, 0, 0, 0)
    body, directory = local + encoded + true + data, entry + encoded + lying
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), len(body), 0)
    return body + directory + end


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good films among hostile members."""
    path = tmp_path_factory.mktemp("hostile") / "hostile.zip"
    link = zipfile.ZipInfo(f"{FOLDER}/IM-0101-0001.jpeg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in small_films().items():
            archive.writestr(zipfile.ZipInfo(name), data)
        archive.writestr("../../IM-0102-0001.jpeg", b"climbs out")
        archive.writestr(f"{FOLDER}/../../../../IM-0103-0001.jpeg", b"climbs out")
        archive.writestr("/IM-0104-0001.jpeg", b"absolute")
        archive.writestr("C:/IM-0105-0001.jpeg", b"absolute")
        archive.writestr(link, b"/etc/passwd")
        archive.writestr(f"{FOLDER}/IM-0106-0001.jpeg", b"\xff\xd8\xff first")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(f"{FOLDER}/IM-0106-0001.jpeg", b"\xff\xd8\xff second")
        archive.writestr(f"{FOLDER}/IM-0107-0001.jpeg", bytes(9_000_000), zipfile.ZIP_DEFLATED)
        archive.writestr(f"{FOLDER}/IM-0108-0001.jpeg", b"secret")
    content = bytearray(path.read_bytes())
    content[content.rfind(b"PK\x01\x02") + 8] |= 1  # the flag of an encrypted member
    path.write_bytes(content)
    return path


def test_every_hostile_member_is_reported_and_the_films_are_kept(
    hostile: Path, tmp_path: Path, command: Callable[..., SimpleNamespace]
) -> None:
    desk = tmp_path / "a" / "b" / "c" / "d"
    desk.mkdir(parents=True)
    done = command("data", "prepare", hostile, "--out", desk / "data", "--val-fraction", "0.3", cwd=desk)
    assert done.code == 1
    assert "Traceback" not in done.err
    for line in (
        "hostile.zip:../../IM-0102-0001.jpeg: unsafe path in the archive",
        f"hostile.zip:{FOLDER}/../../../../IM-0103-0001.jpeg: unsafe path in the archive",
        "hostile.zip:/IM-0104-0001.jpeg: unsafe path in the archive",
        "hostile.zip:C:/IM-0105-0001.jpeg: unsafe path in the archive",
        f"hostile.zip:{FOLDER}/IM-0101-0001.jpeg: a symbolic link",
        f"hostile.zip:{FOLDER}/IM-0106-0001.jpeg: the archive contains this name twice",
        f"hostile.zip:{FOLDER}/IM-0107-0001.jpeg: decompression bomb",
        f"hostile.zip:{FOLDER}/IM-0108-0001.jpeg: encrypted",
    ):
        assert line in done.out
    assert len(load_dataset(desk / "data").films) == 36
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file() and "IM-01" in path.name) == []
    assert not list(tmp_path.rglob("*.partial-*"))


@pytest.mark.parametrize(("claimed", "message"), [(1 << 40, "at most 100,000,000 are accepted"), (40, "damaged")])
def test_wrong_zip64_sizes_are_detected(claimed: int, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zip64(f"{FOLDER}/IM-0001-0001.jpeg", bytes(range(256)) * 40, claimed=claimed))
    with open_source(path, max_bytes=100_000_000) as found:
        if found.problems:
            assert message in found.problems[0].reason
        else:
            with pytest.raises(ArchiveError, match=message):
                found.members[0].read()


def test_a_correct_zip64_is_read(tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    (tmp_path / "a.zip").write_bytes(zip64("a/1.jpeg", data, claimed=len(data)))
    with open_source(tmp_path / "a.zip", max_bytes=100_000_000) as found:
        assert found.members[0].read() == data


@pytest.mark.parametrize("offset", [12, 16])  # of the directory's size and of its offset
def test_a_directory_at_another_place_than_stated_is_refused(offset: int, hostile: Path, tmp_path: Path) -> None:
    content = bytearray(hostile.read_bytes())
    end = content.rfind(b"PK\x05\x06")
    content[end + offset : end + offset + 4] = b"\xfe\xff\xff\x0f"
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises((ArchiveError, DatasetError)) as caught:
        prepare([tmp_path / "a.zip"], tmp_path / "data", PrepareConfig())
    assert re.search("neither a folder nor a readable ZIP|damaged in the archive", str(caught.value))
    assert not (tmp_path / "data").exists()


def test_two_hundred_thousand_empty_members_are_refused_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "empty.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in small_films().items():
            archive.writestr(zipfile.ZipInfo(name), data)
        for number in range(200_000):
            archive.writestr(zipfile.ZipInfo(f"{FOLDER}/IM-{number:06d}-0001.jpeg"), b"")
    summary = prepare([path], tmp_path / "data", PrepareConfig(val_fraction=0.3))
    assert summary.sources[0].films == 36
    assert summary.sources[0].refused == 200_000
    assert {each.reason for each in summary.refused} == {"the file is empty."}


def test_many_refusals_of_one_kind_are_reported_in_a_few_lines(
    tmp_path: Path, command: Callable[..., SimpleNamespace]
) -> None:
    path = tmp_path / "empty.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in small_films().items():
            archive.writestr(zipfile.ZipInfo(name), data)
        for number in range(500):
            archive.writestr(zipfile.ZipInfo(f"{FOLDER}/IM-{number:06d}-0001.jpeg"), b"")
    done = command("data", "prepare", path, "--out", tmp_path / "data", "--val-fraction", "0.3")
    assert "500 refused" in done.out
    assert "and 495 more: the file is empty." in done.out
    assert len(done.out.splitlines()) < 30
