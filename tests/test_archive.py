import stat
import zipfile
from pathlib import Path

import pytest

from pneumoscope.archive import Listing, is_junk, open_source
from pneumoscope.errors import ArchiveError
from samples import make_zip

LIMIT = 1_000_000


def listing(path: Path, limit: int = LIMIT) -> Listing:
    with open_source(path, max_bytes=limit) as found:
        return found


def test_members_come_in_name_order_and_can_be_read(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"b/2.png": b"two", "a/1.png": b"one"})
    with open_source(path, max_bytes=LIMIT) as found:
        assert [(member.name, member.read()) for member in found.members] == [("a/1.png", b"one"), ("b/2.png", b"two")]


def test_folder_and_zip_list_alike(tmp_path: Path) -> None:
    names = ["x/NORMAL/1.jpeg", "x/._1.jpeg", "x/.DS_Store", "__MACOSX/x/1.jpeg", "x/Thumbs.db"]
    for name in names:
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
    archive = make_zip(tmp_path / "a.zip", dict.fromkeys(names, b"1"))
    for source in (tmp_path / "folder", archive):
        found = listing(source)
        assert [member.name for member in found.members] == ["x/NORMAL/1.jpeg"]
        assert found.junk == 4
        assert found.problems == []


@pytest.mark.parametrize(
    "name", [".", "", "../evil.jpeg", "/etc/evil.jpeg", "a/../../evil.jpeg", "a\\..\\evil.jpeg", "C:/evil.jpeg"]
)
def test_unsafe_names_are_problems(tmp_path: Path, name: str) -> None:
    found = listing(make_zip(tmp_path / "a.zip", {name: b"1", "ok/1.jpeg": b"1"}))
    assert [(problem.name, problem.reason) for problem in found.problems] == [(name, "unsafe path in the archive")]
    assert [member.name for member in found.members] == ["ok/1.jpeg"]


def test_odd_compression_is_a_problem_of_the_member(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a/1.png", bytes(range(256)) * 20)
    data = bytearray(path.read_bytes())
    data[60:70] = b"\xff" * 10
    path.write_bytes(data)
    with open_source(path, max_bytes=LIMIT) as found, pytest.raises(ArchiveError, match="damaged"):
        found.members[0].read()


def test_links_encryption_and_repeats_are_problems(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    link = zipfile.ZipInfo("a/link.jpeg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, b"/etc/passwd")
        archive.writestr("a/twice.jpeg", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a/twice.jpeg", b"2")
        archive.writestr("a/secret.jpeg", b"3")
    data = bytearray(path.read_bytes())
    central = data.rfind(b"PK\x01\x02")
    data[central + 8] |= 1  # the flag that says encrypted
    path.write_bytes(data)
    reasons = {problem.name: problem.reason for problem in listing(path).problems}
    assert reasons == {
        "a/link.jpeg": "a symbolic link",
        "a/twice.jpeg": "the archive holds this name twice",
        "a/secret.jpeg": "encrypted",
    }


def test_bombs_and_large_members_are_problems(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/bomb.png", bytes(3_000_000))
    assert "decompression bomb" in listing(path, limit=10_000_000).problems[0].reason
    assert "at most 1,000,000" in listing(path).problems[0].reason


def test_a_member_that_lies_about_its_size_is_not_read_past_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/liar.png", bytes(range(256)) * 40)
    data = bytearray(path.read_bytes())
    central = data.rfind(b"PK\x01\x02")
    data[central + 24 : central + 28] = (100).to_bytes(4, "little")  # the unpacked size, said to be small
    path.write_bytes(data)
    with open_source(path, max_bytes=LIMIT) as found, pytest.raises(ArchiveError, match="damaged"):
        found.members[0].read()


def test_damaged_members_name_the_damage(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a/1.jpeg": b"some bytes of an image"})
    data = path.read_bytes().replace(b"some bytes", b"sOme bytes")
    path.write_bytes(data)
    with open_source(path, max_bytes=LIMIT) as found, pytest.raises(ArchiveError, match="CRC"):
        found.members[0].read()


def test_not_an_archive(tmp_path: Path) -> None:
    text = tmp_path / "a.zip"
    text.write_text("no archive")
    with pytest.raises(ArchiveError, match="neither a folder nor a readable ZIP"):
        listing(text)
    with pytest.raises(ArchiveError, match="does not exist"):
        listing(tmp_path / "nothing")


def test_junk_is_by_path_part() -> None:
    assert is_junk(".hidden/a.jpeg")
    assert is_junk("a/desktop.ini")
    assert not is_junk("../a.jpeg")
