import contextlib
import gzip
import io
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumoscope.archive import Listing, is_junk, open_source
from pneumoscope.dataset import PrepareConfig, load_dataset, prepare
from pneumoscope.errors import ArchiveError, PneumoscopeError, UsageError
from samples import make_zip, small_films

LIMIT = 1_000_000


def listing(path: Path, limit: int = LIMIT) -> Listing:
    with open_source(path, max_bytes=limit) as found:
        return found


def test_members_come_in_name_order_and_can_be_read(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"b/2.png": b"two", "a/1.png": b"one"})
    with open_source(path, max_bytes=LIMIT) as found:
        assert [(member.name, member.read()) for member in found.members] == [("a/1.png", b"one"), ("b/2.png", b"two")]


def test_a_folder_and_a_zip_archive_are_listed_alike(tmp_path: Path) -> None:
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


def test_damage_within_an_lzma_member_is_an_archive_error(tmp_path: Path) -> None:
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
    data[central + 8] |= 1  # the flag of an encrypted member
    path.write_bytes(data)
    reasons = {problem.name: problem.reason for problem in listing(path).problems}
    assert reasons == {
        "a/link.jpeg": "a symbolic link",
        "a/twice.jpeg": "the archive contains this name twice",
        "a/secret.jpeg": "encrypted",
    }


def test_bombs_and_large_members_are_problems(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/bomb.png", bytes(3_000_000))
    assert "decompression bomb" in listing(path, limit=10_000_000).problems[0].reason
    assert "at most 1,000,000" in listing(path).problems[0].reason


def test_a_member_that_is_larger_than_its_stated_size_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/liar.png", bytes(range(256)) * 40)
    data = bytearray(path.read_bytes())
    central = data.rfind(b"PK\x01\x02")
    data[central + 24 : central + 28] = (100).to_bytes(4, "little")  # the unpacked size, stated too small
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


def test_junk_is_recognised_by_any_part_of_a_path() -> None:
    assert is_junk(".hidden/a.jpeg")
    assert is_junk("a/desktop.ini")
    assert not is_junk("../a.jpeg")


def names_of(path: Path, encoding: str | None = None) -> list[str]:
    with open_source(path, max_bytes=LIMIT, name_encoding=encoding) as found:
        assert found.problems == []
        assert all(member.read() == b"film" for member in found.members)
        return [member.name for member in found.members]


def zip_of_bytes(path: Path, *names: bytes, flag: int = 0, extra: bytes = b"") -> Path:
    """A ZIP archive whose names are these bytes."""
    fill = [chr(ord("A") + number) * len(name) for number, name in enumerate(names)]
    with zipfile.ZipFile(path, "w") as archive:
        for stand_in in fill:
            info = zipfile.ZipInfo(stand_in)
            info.extra = extra
            archive.writestr(info, b"film")
    data = path.read_bytes()
    for stand_in, name in zip(fill, names, strict=True):
        data = data.replace(stand_in.encode(), name)
    for record, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        parts = data.split(record)
        flags = struct.pack("<H", flag)
        data = record.join([parts[0], *(part[: offset - 4] + flags + part[offset - 2 :] for part in parts[1:])])
    path.write_bytes(data)
    return path


def tar_of(path: Path, members: dict[str, bytes], mode: Any = "w", encoding: str = "utf-8") -> Path:
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT, encoding=encoding) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_backslashes_separate_folders_before_names_are_checked(tmp_path: Path) -> None:
    names = [rb"films\normal\1.png", rb"films\ill/2.png", rb"films\empty" + b"\\"]
    assert names_of(zip_of_bytes(tmp_path / "a.zip", *names)) == ["films/ill/2.png", "films/normal/1.png"]
    bad = [rb"\\host\1.png", rb"C:\1.png", rb"a\..\..\1.png", b"a/1.png", rb"a\1.png"]
    found = listing(zip_of_bytes(tmp_path / "b.zip", *bad))
    assert [member.name for member in found.members] == ["a/1.png"]
    assert sorted(problem.reason for problem in found.problems) == [
        "the archive contains this name twice",
        *["unsafe path in the archive"] * 3,
    ]


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("正常/1.png", "gbk"), ("正常/表.png", "shift_jis"), ("정상/1.png", "euc_kr"), ("Größe/1.png", "cp437")],
)
def test_names_in_old_encodings_need_an_option(name: str, encoding: str, tmp_path: Path) -> None:
    path = zip_of_bytes(tmp_path / "a.zip", name.encode(encoding), b"plain/2.png")
    with pytest.raises(UsageError, match="1 of them are not UTF-8; pass --name-encoding") as raised:
        names_of(path)
    assert f"{encoding}: {name}" in str(raised.value)
    assert names_of(path, encoding) == sorted([name, "plain/2.png"])
    with pytest.raises(UsageError, match="--name-encoding ascii: 1 of the names"):
        names_of(path, "ascii")


def test_names_that_were_misread_and_rewritten_are_restored(tmp_path: Path) -> None:
    misread = "正常/1.png".encode("gbk").decode("cp437")
    path = make_zip(tmp_path / "a.zip", {misread: b"film"})
    with pytest.raises(UsageError, match=r"gbk: 正常/1\.png"):
        names_of(path)
    assert names_of(path, "gbk") == ["正常/1.png"]
    others = [name.encode("gbk").decode("cp437") for name in ("正常/1.png", "鎴/2.png")]
    assert names_of(make_zip(tmp_path / "c.zip", dict.fromkeys(others, b"film")), "gbk") == ["正常/1.png", "鎴/2.png"]
    assert names_of(make_zip(tmp_path / "b.zip", {"é/1.png".encode().decode("cp437"): b"film"})) == ["é/1.png"]


def test_utf8_is_recognised_by_its_flag_or_its_bytes(tmp_path: Path) -> None:
    name = "正常/é.png"
    assert names_of(zip_of_bytes(tmp_path / "a.zip", name.encode(), flag=0x800)) == [name]
    assert names_of(zip_of_bytes(tmp_path / "b.zip", name.encode())) == [name]
    assert names_of(zip_of_bytes(tmp_path / "c.zip", name.encode(), flag=0x800), "gbk") == [name]


def test_the_unicode_path_of_info_zip_is_used_if_its_checksum_is_right(tmp_path: Path) -> None:
    stored, name = "正常/1.png".encode("gbk"), "正常/1.png".encode()
    for crc, encoding in ((zlib.crc32(stored), None), (7, "gbk")):
        content = b"\x01" + struct.pack("<I", crc) + name
        extra = struct.pack("<HH", 0x7075, len(content)) + content
        path = zip_of_bytes(tmp_path / "a.zip", stored, extra=extra)
        assert names_of(path, encoding) == ["正常/1.png"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_archives_are_sources(mode: str, tmp_path: Path) -> None:
    members = small_films()
    archive = tar_of(tmp_path / "a.tar", {f"./{name}": data for name, data in members.items()}, mode)
    for name, source in {"tar": archive, "zip": make_zip(tmp_path / "a.zip", members)}.items():
        prepare([source], tmp_path / name, PrepareConfig(val_fraction=0.25))
    tables = [
        {(film.path, film.patient, film.luma_sha256) for film in load_dataset(tmp_path / name).films}
        for name in ("tar", "zip")
    ]
    assert tables[0] == tables[1]


def test_a_tar_archive_is_read_from_many_threads(tmp_path: Path) -> None:
    members = {f"a/{number}.png": bytes([number]) * 5000 for number in range(64)}
    with (
        open_source(tar_of(tmp_path / "a.tgz", members, "w:gz"), max_bytes=LIMIT) as found,
        ThreadPoolExecutor(8) as pool,
    ):
        read = dict(zip((m.name for m in found.members), pool.map(lambda m: m.read(), found.members), strict=True))
        assert found.members[0].head(2) == b"\0\0"
    assert read == members


def test_unsafe_members_of_a_tar_archive_are_problems(tmp_path: Path) -> None:
    films = {"../1.png": b"", "/etc/2.png": b"", r"a\3.png": b"", "a/3.png": b"", "big": bytes(LIMIT + 1)}
    path = tar_of(tmp_path / "a.tar", films)
    kinds = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE}
    with tarfile.open(path, "a") as archive:
        for name, kind in {**kinds, "folder": tarfile.DIRTYPE}.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    found = listing(path)
    assert [member.name for member in found.members] == ["a/3.png"]
    assert {problem.name: problem.reason for problem in found.problems} == {
        "../1.png": "unsafe path in the archive",
        "/etc/2.png": "unsafe path in the archive",
        "a/3.png": "the archive contains this name twice",
        "big": "1,000,001 bytes; at most 1,000,000 are accepted",
        "link": "a symbolic link",
        "hard": "a hard link",
        "device": "not a regular file",
        "pipe": "not a regular file",
    }


def test_a_truncated_or_damaged_tar_archive_is_refused_as_a_whole(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "a.tar", {f"{number}.png": bytes(600) for number in range(3)}).read_bytes()
    packed = gzip.compress(whole)
    flipped = bytearray(whole)
    flipped[1536 + 20] ^= 1
    for name, data in {
        "in a film": whole[:2200],
        "in a header": whole[:1700],
        "between films": whole[:1536],
        "in the padding": whole[:1200],
        "before the end": whole[: 3 * 1536],
        "header": bytes(flipped),
        "packed": packed[:-12],
        "packed byte": packed[:40] + b"\0\0" + packed[42:],
        "no tar": gzip.compress(b"notes"),
        "no tar at all": b"\x1f\x8b",
    }.items():
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(ArchiveError, match=r"cut|damaged|neither|cannot be unpacked"):
            pytest.fail(f"{name} was read: {listing(tmp_path / 'bad')}")


def test_a_compressed_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "bomb.tgz").write_bytes(gzip.compress(bytes(30_000_000)))
    with pytest.raises(ArchiveError, match="decompression bomb: it unpacks to more than"):
        listing(tmp_path / "bomb.tgz")
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.tgz"]


def test_names_of_old_encodings_in_tar_archives(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", {"正常/1.png": b"film"}, encoding="gbk")
    with pytest.raises(UsageError, match=r"gbk: 正常/1\.png"):
        names_of(path)
    assert names_of(path, "gbk") == ["正常/1.png"]


@given(at=st.integers(0, 4 * 512 - 1), value=st.binary(min_size=1, max_size=12))
@settings(deadline=None, max_examples=200)
def test_any_damage_of_headers_is_refused_or_harmless(at: int, value: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = tar_of(Path(folder) / "a.tar", {"1" * 120 + ".png": b"film", "2.png": b"film"})
        data = bytearray(path.read_bytes())
        data[at : at + len(value)] = value
        for start in range(0, len(data), 512):  # with a correct checksum, so that the header is accepted
            header = data[start : start + 512]
            if header[257:262] == b"ustar":
                header[148:156] = b" " * 8
                data[start + 148 : start + 156] = b"%06o\0 " % sum(header)
        path.write_bytes(data)
        with contextlib.suppress(PneumoscopeError), open_source(path, max_bytes=LIMIT) as found:
            assert all(len(member.read()) <= LIMIT for member in found.members)
