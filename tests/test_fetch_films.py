"""The published archives, and the chest films of version 3, fetched by range requests."""

import io
import random
import zipfile
from pathlib import Path

import pytest

from listeners import Recorder
from local_server import CONTENT, QUICK, Server, kill_fetch_when, serving
from pneumoscope.archive import fetch, open_source
from pneumoscope.archive.fetch import fetch_films
from pneumoscope.archive.published_archives import PUBLISHED_ARCHIVES
from pneumoscope.dataset import PrepareConfig, prepare
from pneumoscope.errors import ArchiveError, UsageError
from pneumoscope.progress import Listener
from samples import as_version3, make_zip, names_in, small_films


@pytest.fixture(scope="module")
def version3_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive like version 3: chest films among many other images."""
    rng = random.Random(2)
    eyes_before = {f"CellData/OCT/train/CNV/CNV-{n}-1.jpeg": rng.randbytes(40_000) for n in range(20)}
    eyes_after = {f"CellData/OCT/test/DRUSEN/DRUSEN-{n}-1.jpeg": rng.randbytes(40_000) for n in range(20)}
    junk = {"__MACOSX/CellData/chest_xray/._x": b"junk", "CellData/chest_xray/.DS_Store": b"junk"}
    return make_zip(
        tmp_path_factory.mktemp("three") / "ZhangLabData.zip",
        eyes_before | as_version3(small_films()) | junk | eyes_after,
    )


def fetch_version3(server: Server, behaviour: str, folder: Path, listener: Listener | None = None) -> int | None:
    """Fetch the chest films from a server with this behaviour; return how many, or None if all were there already."""
    return fetch_films(
        PUBLISHED_ARCHIVES[3], folder, url=server.url(behaviour), policy=QUICK, listener=listener or Listener()
    )


@pytest.fixture
def small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_READ_AHEAD", 65_536)


@pytest.mark.usefixtures("small_reads")
@pytest.mark.parametrize("behaviour", ["good", "redirect", "busy-twice", "breaks-ranges", "corrupt-once"])
def test_only_the_chest_films_are_fetched_by_ranges(version3_zip: Path, behaviour: str, tmp_path: Path) -> None:
    with serving(version3_zip.read_bytes()) as server:
        if behaviour == "corrupt-once":  # the damaged byte is in the middle, which must be a film
            assert b"BACTERIA" in server.content[len(server.content) // 2 - 4000 :][:8000]
        listener = Recorder()
        assert fetch_version3(server, behaviour, tmp_path / "chest", listener) == 36
        assert any("fetching it again" in text for text in listener.lines) == (behaviour == "corrupt-once")
        interrupted = any("the transfer was interrupted" in text for text in listener.lines)
        assert interrupted == (behaviour in ("busy-twice", "breaks-ranges"))
        if behaviour == "good":
            ranges = [header.partition("=")[2].split("-") for _, header in server.requests if header]  # bytes=0-99
            assert sum(int(stop) + 1 - int(start) for start, stop in ranges) < len(server.content) / 3
    with zipfile.ZipFile(version3_zip) as archive, open_source(tmp_path / "chest", max_bytes=10**7) as source:
        assert len(source.members) == 36
        assert all(member.read() == archive.read(member.name) for member in source.members)
    summary = prepare([tmp_path / "chest"], tmp_path / "data", PrepareConfig(val_fraction=0.25))
    assert summary.sources[0].films == 36
    assert summary.sources[0].refused == 0


@pytest.mark.usefixtures("small_reads")
def test_films_already_present_are_not_fetched_again(version3_zip: Path, tmp_path: Path) -> None:
    with serving(version3_zip.read_bytes()) as server:
        fetch_version3(server, "good", tmp_path / "one")
        (tmp_path / "one").rename(tmp_path / "two.part")
        some = sorted((tmp_path / "two.part").rglob("*.jpeg"))
        some[0].unlink()
        some[1].write_bytes(bytes(some[1].stat().st_size))
        server.requests.clear()
        fetch_version3(server, "good", tmp_path / "two")
        assert len(server.requests) <= 6  # the size, three for the archive's directory, and at most one per film
        with zipfile.ZipFile(version3_zip) as archive:
            for path in some[:2]:
                name = path.relative_to(tmp_path / "two.part").as_posix()
                assert (tmp_path / "two" / name).read_bytes() == archive.read(name)
        assert fetch_version3(server, "good", tmp_path / "two") is None
        next((tmp_path / "two").rglob("*.jpeg")).write_bytes(b"mine")
        with pytest.raises(UsageError, match="does not contain the films"):
            fetch_version3(server, "good", tmp_path / "two")


@pytest.mark.parametrize(
    ("behaviour", "tries", "hint"),
    [
        ("always-busy", QUICK.first_attempts, "The server is busy"),
        ("busy-later", QUICK.attempts, "Whatever is already on the disk is kept"),
    ],
)
def test_a_server_that_has_answered_before_is_tried_more_often(
    version3_zip: Path, behaviour: str, tries: int, hint: str, tmp_path: Path
) -> None:
    message = rf"tried {tries} times\). {hint}"
    with serving(version3_zip.read_bytes()) as server, pytest.raises(ArchiveError, match=message):
        fetch_version3(server, behaviour, tmp_path / "chest")


@pytest.mark.usefixtures("small_reads")
def test_stray_files_in_the_part_folder_are_not_kept(version3_zip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chest.part" / "CellData" / "chest_xray" / "train" / "NORMAL"
    folder.mkdir(parents=True)
    (folder / "NORMAL-999-0001.jpeg").write_bytes(b"of another mirror")
    (folder / ".NORMAL-1-0001.jpeg.partial-abc").write_bytes(b"left by a kill")
    with serving(version3_zip.read_bytes()) as server:
        assert fetch_version3(server, "good", tmp_path / "chest") == 36
        assert len([path for path in (tmp_path / "chest").rglob("*") if path.is_file()]) == 36


@pytest.mark.usefixtures("small_reads")
def test_a_folder_without_the_films_is_not_overwritten(version3_zip: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with serving(version3_zip.read_bytes()) as server, pytest.raises(UsageError, match="does not contain the films"):
        fetch_version3(server, "good", tmp_path / "empty")


@pytest.mark.usefixtures("small_reads")
@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("no-ranges", "does not serve parts of a file; fetch the whole file with --full"),
        ("no-length", "does not state its size"),
        ("corrupt", "arrived damaged .* 3 times; the films that arrived whole are kept"),
        ("missing", "404"),
    ],
)
def test_servers_that_cannot_send_the_films_are_refused(
    version3_zip: Path, behaviour: str, message: str, tmp_path: Path
) -> None:
    with serving(version3_zip.read_bytes()) as server, pytest.raises(ArchiveError, match=message):
        fetch_version3(server, behaviour, tmp_path / "chest")
    assert not (tmp_path / "chest").exists()


@pytest.mark.parametrize("kind", ["no zip", "other zip", "unsafe"])
def test_remote_files_other_than_version_3_are_refused(kind: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/chest_xray/../../../x.jpeg" if kind == "unsafe" else "a/b.jpeg", b"1")
    content, message = {
        "no zip": (CONTENT, "is not a readable ZIP archive"),
        "other zip": (stream.getvalue(), "contains no folder chest_xray"),
        "unsafe": (stream.getvalue(), "unsafe path"),
    }[kind]
    with serving(content) as server, pytest.raises(ArchiveError, match=message):
        fetch_version3(server, "good", tmp_path / "chest")
    assert not (tmp_path / "x.jpeg").exists()


def test_a_killed_version_3_fetch_is_resumed(tmp_path: Path) -> None:
    """Films at two places, farther apart than what one request reads, so that the first ones are kept."""
    rng, films = random.Random(3), list(as_version3(small_films()).items())
    between, after = (
        {f"CellData/OCT/{name}-{n}.jpeg": rng.randbytes(1_000_000) for n in range(count)}
        for name, count in (("CNV", 9), ("DRUSEN", 4))
    )
    path = make_zip(tmp_path / "ZhangLabData.zip", dict(films[:18]) | between | dict(films[18:]) | after)
    out, kept = tmp_path / "out", tmp_path / "out" / "ZhangLabData-chest.part"
    with zipfile.ZipFile(path) as archive, serving(path.read_bytes()) as server:
        command = ("--version", 3, "--out", out, "--url", server.url("slow"), "--quiet")
        for _ in range(3):
            assert kill_fetch_when(lambda: server.sent, server.sent + rng.randrange(1, 8_000_000), *command)
        assert kill_fetch_when(lambda: len(list(kept.rglob("*.jpeg"))), 18, *command)
        before = len(server.requests)
        assert not kill_fetch_when(lambda: 0, 1, *command)
        ranges = {asked.removeprefix("bytes=") for _, asked in server.requests[before:] if asked} - {"0-0"}
        second_place = archive.getinfo(films[18][0]).header_offset
        assert min(int(each.split("-")[0]) for each in ranges) >= second_place, "the first films were requested again"
        assert names_in(out) == {"ZhangLabData-chest"}
        assert all((out / "ZhangLabData-chest" / name).read_bytes() == data for name, data in films)


def test_the_published_archives_are_the_documented_ones() -> None:
    assert {version: each.file for version, each in PUBLISHED_ARCHIVES.items()} == {
        2: "ChestXRay2017.zip",
        3: "ZhangLabData.zip",
    }
    for each in PUBLISHED_ARCHIVES.values():
        assert each.url.startswith("https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/")
        assert len(each.sha256) == 64
