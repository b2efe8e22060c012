"""Downloads from a real server that misbehaves in the ways servers do."""

import hashlib
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from local_server import CONTENT, QUICK, SHA256, Server, kill_fetch_when, serving
from pneumoscope.archive import fetch
from pneumoscope.archive.fetch import ExpectedFile, fetch_file
from pneumoscope.errors import ArchiveError, UsageError
from pneumoscope.progress import Listener
from samples import names_in


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(CONTENT) as running:
        yield running


def get(server: Server, behaviour: str, path: Path, *, size: int | None = len(CONTENT), sha256: str = SHA256) -> bool:
    return fetch_file(ExpectedFile(url=server.url(behaviour), sha256=sha256, size=size), path, policy=QUICK)


@pytest.mark.parametrize(
    "behaviour",
    ["good", "redirect", "busy-twice", "breaks", "no-ranges", "no-ranges-breaks-once", "stalls-once", "no-length"],
)
@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_bad_server_still_gives_the_right_file(
    server: Server, behaviour: str, size: int | None, tmp_path: Path
) -> None:
    assert get(server, behaviour, tmp_path / "a.zip", size=size)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert names_in(tmp_path) == {"a.zip"}


def test_a_broken_connection_is_resumed_by_range(server: Server, tmp_path: Path) -> None:
    get(server, "breaks", tmp_path / "a.zip")
    third = len(CONTENT) // 3
    assert [header for _, header in server.requests] == [None, f"bytes={third + 1}-", f"bytes={2 * third + 3}-"]


def test_a_kept_part_is_resumed_and_a_foreign_one_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:1234])
    get(server, "good", tmp_path / "a.zip")
    (tmp_path / "b.zip.part").write_bytes(b"x" * 1234)
    get(server, "good", tmp_path / "b.zip")
    (tmp_path / "c.zip.part").write_bytes(CONTENT + b"too long")
    get(server, "good", tmp_path / "c.zip")
    (tmp_path / "d.zip.part").write_bytes(CONTENT)
    get(server, "good", tmp_path / "d.zip", size=None)
    asked = ["bytes=1234-", "bytes=1234-", None, None, "bytes=0-0", "bytes=300000-"]
    assert [header for _, header in server.requests] == asked
    assert all((tmp_path / f"{name}.zip").read_bytes() == CONTENT for name in "abcd")


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("missing", "the server answers 404 Not Found; check the URL"),
        ("circle", "redirects too often"),
        ("announces-more", "offers 300,007 bytes, expected 300,000: it is another file"),
        ("announces-less", "offers 299,993 bytes, expected 300,000: it is another file"),
        ("corrupt", "sent another file: its SHA-256 is"),
    ],
)
def test_permanent_failures_are_not_retried_and_keep_nothing(
    server: Server, behaviour: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ArchiveError, match=message):
        get(server, behaviour, tmp_path / "a.zip")
    assert server.times[behaviour] == (21 if behaviour == "circle" else 1)
    assert not names_in(tmp_path)


@pytest.mark.parametrize("behaviour", ["announces-more", "announces-less"])
def test_a_wrong_size_never_gives_a_wrong_file(server: Server, behaviour: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError):
        get(server, behaviour, tmp_path / "a.zip", size=None)
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize(("behaviour", "times"), [("always-busy", 3), ("breaks-at-once", 3), ("wrong-range", 5)])
def test_a_server_that_keeps_failing_is_given_up_on(server: Server, behaviour: str, times: int, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="Run the same command again to continue"):
        get(server, behaviour, tmp_path / "a.zip")
    assert server.times[behaviour] <= times
    assert not (tmp_path / "a.zip").exists()


def test_an_unreachable_server_and_an_invalid_url(tmp_path: Path) -> None:
    with serving(b"") as gone:
        url = gone.url("good")
    with pytest.raises(ArchiveError, match=r"cannot be fetched .*refused.* Is this machine online\?"):
        fetch_file(ExpectedFile(url=url, sha256=SHA256, size=None), tmp_path / "a.zip", policy=QUICK)
    for address in ("ftp://example.org/a.zip", "nonsense", "http://", f"http://{'a' * 70}.com/x", "http://.com/"):
        with pytest.raises(UsageError, match="is not a URL"):
            fetch_file(ExpectedFile(url=address, sha256=SHA256, size=None), tmp_path / "a.zip", policy=QUICK)


def test_an_existing_file_is_verified_and_never_overwritten(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(CONTENT)
    assert not get(server, "good", path)
    assert not server.requests
    path.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists and is not the expected file"):
        get(server, "good", path)
    assert path.read_bytes() == b"mine"


def test_a_full_disk_is_detected_before_anything_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=50_100_000))
    with pytest.raises(ArchiveError, match=r"has 50 MB free; 51 MB are needed\. Make room"):
        get(server, "good", tmp_path / "a.zip")
    assert not names_in(tmp_path)


def test_proxies_come_from_the_environment(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url("").rstrip("/"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    wanted = ExpectedFile(url="http://archive.invalid/good", sha256=SHA256, size=None)
    assert fetch_file(wanted, tmp_path / "a.zip", policy=QUICK)
    monkeypatch.setenv("HTTP_PROXY", "gopher://nowhere")
    with pytest.raises(UsageError, match="the proxy in the environment"):
        fetch_file(wanted, tmp_path / "b.zip", policy=QUICK)


def test_progress_counts_every_byte_once(server: Server, tmp_path: Path) -> None:
    class Ear(Listener):
        def __init__(self) -> None:
            self.counted: dict[str, int] = {}
            self.task = ""

        def begin(self, task: str, total: int | None, unit: str, *, done: int = 0) -> None:
            assert total == len(CONTENT)
            assert unit == "B"
            self.task = task
            self.counted[task] = done

        def advance(self, count: int) -> None:
            self.counted[self.task] += count

    for behaviour in ("breaks", "no-ranges-breaks-once"):
        ear = Ear()
        wanted = ExpectedFile(url=server.url(behaviour), sha256=SHA256, size=len(CONTENT))
        fetch_file(wanted, tmp_path / f"{behaviour}.zip", policy=QUICK, listener=ear)
        assert ear.counted == {f"fetching {behaviour}.zip": len(CONTENT), "checking SHA-256": len(CONTENT)}


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_the_hash_is_right_after_twenty_kills_at_random_points(tmp_path: Path) -> None:
    rng = random.Random(1)
    content = rng.randbytes(2_000_000)
    digest = hashlib.sha256(content).hexdigest()
    kills = 0
    with serving(content) as running:
        for trial in range(5):
            out = tmp_path / str(trial)
            part = out / "ChestXRay2017.zip.part"
            command = ("--version", 2, "--out", out, "--url", running.url("slow"), "--sha256", digest, "--quiet")
            for reached in sorted(rng.randrange(1, len(content) * 9 // 10) for _ in range(4)):
                kills += kill_fetch_when(partial(size_of, part), reached, *command)
                assert not (out / "ChestXRay2017.zip").exists()
            assert not kill_fetch_when(lambda: 0, 1, *command)
            assert hashlib.sha256((out / "ChestXRay2017.zip").read_bytes()).hexdigest() == digest
            assert names_in(out) == {"ChestXRay2017.zip"}
        assert kills == 20
        assert sum(header is not None for _, header in running.requests) >= 15, (
            "it was resumed, and did not start again"
        )


def test_two_fetches_of_one_file_do_not_mix(server: Server, tmp_path: Path) -> None:
    with fetch._locked(tmp_path / "a.zip.part"), pytest.raises(UsageError, match="another download"):
        get(server, "good", tmp_path / "a.zip")


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_web_page_instead_of_the_rest_does_not_destroy_the_kept_part(
    server: Server, size: int | None, tmp_path: Path
) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:-9])
    with pytest.raises(ArchiveError):
        get(server, "maintenance", tmp_path / "a.zip", size=size)
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:-9]
    get(server, "good", tmp_path / "a.zip", size=size)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_complete_part_is_finished_without_a_known_size(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    get(server, "curt", tmp_path / "a.zip", size=None)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    (tmp_path / "b.zip.part").write_bytes(CONTENT + b"too long")
    get(server, "good", tmp_path / "b.zip", size=None)
    assert (tmp_path / "b.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [("to-nowhere", UsageError), ("to-ftp", UsageError), ("long-numbers", ArchiveError)],
)
def test_unusual_responses_give_our_own_error_and_no_file(
    server: Server, behaviour: str, error: type[Exception], tmp_path: Path
) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:10])
    with pytest.raises(error):
        get(server, behaviour, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--version", "4"), 2, "--version 4: input should be 2 or 3"),
        (("--version", "2", "--full"), 2, "--full is for version 3"),
        (("--version", "2", "--sha256", "abc"), 2, "64 hexadecimal digits"),
        (("--version", "3", "--sha256", "0" * 64), 2, "needs --full"),
        (("--version", "2", "--url", "nonsense"), 2, "is not a URL"),
    ],
)
def test_wrong_usage_of_the_command(
    command: Callable[..., SimpleNamespace], arguments: tuple[str, ...], code: int, message: str, tmp_path: Path
) -> None:
    done = command("data", "fetch", *arguments, "--out", tmp_path / "out")
    assert done.code == code
    assert message in " ".join(done.err.replace("│", " ").split())
    assert "Traceback" not in done.err


def test_the_command_names_the_next_step(
    command: Callable[..., SimpleNamespace], server: Server, tmp_path: Path
) -> None:
    arguments = ("data", "fetch", "--version", 2, "--out", tmp_path, "--url", server.url("good"), "--sha256", SHA256)
    done = command(*arguments)
    assert done.code == 0
    assert done.out == ""
    assert "fetching ChestXRay2017.zip: 300.0 kB in" in done.err
    assert f"next: pneumoscope data prepare {tmp_path / 'ChestXRay2017.zip'} --out DATASET" in done.err
    assert "already there" in command(*arguments).err
    failed = command(*arguments[:-1], "0" * 64)
    assert failed.code == 2
    assert "exists and is not the expected file" in failed.err
