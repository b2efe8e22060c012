"""Scoring archives with processes: each film once, whatever is killed; sources, resuming and errors."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from pneumoscope.contract import load_contract
from pneumoscope.dataset import Dataset
from pneumoscope.engine import Engine, ImageFile
from pneumoscope.errors import ImageError, ScoringError, UsageError
from pneumoscope.imaging import DEFAULT_LIMITS
from pneumoscope.report import measure_drift
from pneumoscope.score.archive_scoring import Resources, score_archives
from pneumoscope.score.destination import FolderDestination
from pneumoscope.score.dispatch import Dispatcher, Event
from pneumoscope.score.listing import Source, find_source
from pneumoscope.score.processes import ProcessCrew
from pneumoscope.score.summary import SUMMARY_FILE, Summary
from pneumoscope.score.worker import Options, ScoringJob
from scoring import (
    DAMAGED_EVERY,
    SHARD_FILMS,
    FatalSource,
    Interrupting,
    check_each_once,
    drawn_films,
    make_films,
    read_rows,
    scorer_of,
    shards_of,
    source_of,
)

pytestmark = pytest.mark.slow
FILMS = 400
BOTH = Resources(cores=2, threads=1)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_films(tmp_path_factory.mktemp("score") / "films", FILMS)


def score(source: Source, out: Path, bundle: Path, **options: object) -> Summary:
    settings = {"films_per_shard": SHARD_FILMS} | options
    decide = settings.pop("options", Options())
    make_crew = settings.pop("make_crew", ProcessCrew)
    destination = FolderDestination(folder=out)
    return score_archives([source], destination, bundle, decide, make_crew, BOTH, **settings)  # type: ignore[arg-type]


def test_every_film_has_one_row_and_the_engines_decision(films: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    summary = score(source_of(films), tmp_path / "out", tiny_bundle)
    rows = read_rows(tmp_path / "out")
    check_each_once(rows, FILMS)
    assert summary.films == FILMS
    assert summary.unread == FILMS // DAMAGED_EVERY
    assert sum(summary.statuses.values()) == FILMS
    assert summary.shards.total == len(list((tmp_path / "out").glob("*.parquet")))
    assert json.loads((tmp_path / "out" / SUMMARY_FILE).read_text()) == summary.model_dump(mode="json")

    engine = Engine.load(tiny_bundle)
    for row in rows[:: FILMS // 20]:
        data = (films / row.document.image).read_bytes()
        expected = engine.predict(data, name=row.document.image).document()
        assert row.document.model_copy(update={"milliseconds": 0}) == expected.model_copy(update={"milliseconds": 0})
        assert row.file_sha256 == sha256(data).hexdigest()
        assert row.source == str(films)


def test_the_summary_has_the_figures_of_evaluate_unlabelled(films: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    summary = score(source_of(films), tmp_path / "out", tiny_bundle)
    files = [ImageFile(name=path.name, read=path.read_bytes) for path in sorted(films.rglob("*.jpeg"))]
    drift = measure_drift(tiny_bundle, files, films, tmp_path / "drift")
    assert [sign.quantity for sign in summary.signs] == [sign.quantity for sign in drift.signs]
    for one, other in zip(summary.signs, drift.signs, strict=True):
        assert one.here.value == pytest.approx(other.here.value, abs=1e-6), one.quantity
        assert one.here.low == pytest.approx(other.here.low, abs=0.02), one.quantity
        assert (one.reference, one.verdict) == (other.reference, other.verdict)
    assert summary.verdict == drift.verdict
    assert summary.reasons == drift.reasons


def command_line(films: Path, out: Path, bundle: Path) -> list[str]:
    line = [sys.executable, "-m", "pneumoscope", "score", films, "--out", out, "--bundle", bundle]
    return [*map(str, line), "--shard-films", str(SHARD_FILMS), "--cores", "2", "--threads", "1", "--quiet"]


def test_a_killed_driver_loses_and_doubles_nothing(films: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    total = len(shards_of(source_of(films), tiny_bundle))
    line = command_line(films, out, tiny_bundle)
    for share in (0.1, 0.5, 0.9):
        with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as driver:
            while len(list(out.glob("*.parquet"))) < share * total and driver.poll() is None:
                time.sleep(0.005)
            assert driver.poll() is None, driver.stderr and driver.stderr.read()
            driver.kill()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert 0.9 * total <= len(before) <= total
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert "earlier runs" in done.stdout
    again = subprocess.run([*line, "--format", "json"], capture_output=True, text=True, check=True)
    assert json.loads(again.stdout)["shards"] == {
        "total": total,
        "there": total,
        "again_after_loss": 0,
        "again_as_slow": 0,
    }
    check_each_once(read_rows(out), FILMS)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert len(after) == total
    assert before.items() <= after.items()  # no part was written twice
    assert not list(out.glob(".partial-*"))


def test_stdout_has_the_summary_only(
    tiny_bundle: Path,
    tmp_path: Path,
    command: Callable[..., SimpleNamespace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray prints messages about lost nodes on the driver's stdout while films are scored."""
    wait = ProcessCrew.wait

    def talk(crew: ProcessCrew, seconds: float) -> list[Event]:
        print("(raylet) Raylet is terminated.")
        return wait(crew, seconds)

    monkeypatch.setattr(ProcessCrew, "wait", talk)
    films = make_films(tmp_path / "films", 4)
    done = command("score", films, "--out", tmp_path / "out", "--bundle", tiny_bundle, "--format", "json")
    assert json.loads(done.out)["films"] == 4
    assert "Raylet is terminated" in done.err


def test_workers_end_with_their_driver(films: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    line = command_line(films, tmp_path / "out", tiny_bundle)
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        while driver.poll() is None and not list((tmp_path / "out").glob("*.parquet")):
            time.sleep(0.01)
        assert driver.poll() is None
        children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()
        assert len(children) >= 2
        driver.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_killed_worker_is_replaced(films: Path, tiny_bundle: Path, tmp_path: Path, share: float) -> None:
    crews: list[ProcessCrew] = []

    def make_crew(*given: object) -> ProcessCrew:
        crews.append(ProcessCrew(*given))  # type: ignore[arg-type]
        return crews[0]

    def kill_one() -> None:
        pid = next(iter(crews[0]._workers.values())).process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    listener = Interrupting(int(share * FILMS), kill_one)
    summary = score(source_of(films), tmp_path / "out", tiny_bundle, make_crew=make_crew, listener=listener)
    assert listener.interrupted
    assert crews[0]._started == 3
    check_each_once(read_rows(tmp_path / "out"), FILMS)
    assert summary.shards.total == len(list((tmp_path / "out").glob("*.parquet")))
    assert listener.films == FILMS


def test_a_stopped_worker_loses_no_film(films: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    shards = shards_of(source_of(films), tiny_bundle)
    destination = FolderDestination(folder=tmp_path / "out")
    destination.prepare()
    job = ScoringJob(sources=(source_of(films),), destination=destination, options=Options(), threads=1)
    crew = ProcessCrew(tiny_bundle, job, 2)

    def stop_one() -> None:
        pid = next(iter(crew._workers.values())).process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)

    listener = Interrupting(FILMS // 2, stop_one)
    listener.task = "scoring"
    try:
        Dispatcher(crew, shards, listener, silent_seconds=5).run()
    finally:
        crew.close()
    assert listener.interrupted
    check_each_once(read_rows(tmp_path / "out"), FILMS)


def test_a_shard_that_kills_its_workers_is_given_up(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match=r"from 'fatal.jpeg' on, was given up after 3 tries.*SIGKILL"):
        score(FatalSource(), tmp_path / "out", tiny_bundle)
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_a_shard_tried_twice_leaves_one_part(films: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    destination = FolderDestination(folder=tmp_path / "out")
    destination.prepare()
    shard = shards_of(source_of(films), tiny_bundle)[0]
    for _ in range(2):
        scorer_of(source_of(films), destination, tiny_bundle).score(shard, lambda _: None)
    assert destination.names() == {shard.name}
    assert len(read_rows(tmp_path / "out")) == shard.films
    assert destination.publish(shard.name, b"another") is False
    assert len(read_rows(tmp_path / "out")) == shard.films


def test_the_embedding_is_stored_if_requested(films: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    destination = FolderDestination(folder=tmp_path)
    options = Options(embedding=True)
    shard = shards_of(source_of(films), tiny_bundle, options)[0]
    assert shard.name != shards_of(source_of(films), tiny_bundle)[0].name
    scorer_of(source_of(films), destination, tiny_bundle, options).score(shard, lambda _: None)
    row = read_rows(tmp_path)[0]
    outputs = Engine.load(tiny_bundle).predict((films / row.document.image).read_bytes()).outputs
    assert outputs is not None
    assert row.embedding is not None
    assert row.embedding == pytest.approx(outputs.embedding, rel=1e-4, abs=1e-5)


def test_each_kind_of_source_has_its_films(dataset: Dataset, tiny_bundle: Path, tmp_path: Path) -> None:
    contents = dict(zip("abcdef", drawn_films(), strict=False))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in contents.items():
            archive.writestr(f"x/{name}.jpeg", data)
        archive.writestr("../evil.jpeg", contents["a"])
        archive.writestr("notes.txt", "no film")
    (tmp_path / "x").mkdir()
    for name, data in contents.items():
        (tmp_path / "x" / f"{name}.jpeg").write_bytes(data)
    (tmp_path / "x" / "gone.jpeg").symlink_to(tmp_path / "nowhere")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "x", "x")
    (tmp_path / "list.txt").write_text("x/a.jpeg\n\nx/missing.jpeg\n")
    expected = {
        "a.zip": ([f"x/{name}.jpeg" for name in contents], ["../evil.jpeg"]),
        "a.tar.gz": ([f"x/{name}.jpeg" for name in contents], ["x/gone.jpeg"]),
        "x": ([f"{name}.jpeg" for name in contents], ["gone.jpeg"]),
        "list.txt": (["x/a.jpeg"], ["x/missing.jpeg"]),
    }
    for given, (read, unread) in expected.items():
        source = find_source(str(tmp_path / given), DEFAULT_LIMITS)
        destination = FolderDestination(folder=tmp_path / f"out-{given}")
        destination.prepare()
        for shard in shards_of(source, tiny_bundle):
            scorer_of(source, destination, tiny_bundle).score(shard, lambda _: None)
        rows = read_rows(destination.folder)
        assert sorted(row.document.image for row in rows if not row.unread) == read, given
        assert sorted(row.document.image for row in rows if row.unread) == unread, given
    prepared = find_source(str(dataset.root), DEFAULT_LIMITS)
    assert [entry.stamp for entry in prepared.entries()] == [film.file_sha256 for film in dataset.films]


def test_a_film_that_has_changed_since_the_manifest_is_rejected(dataset: Dataset) -> None:
    source = find_source(str(dataset.root), DEFAULT_LIMITS)
    entry = next(iter(source.entries()))
    with source.reading() as read:
        assert read(entry)
        with pytest.raises(ImageError, match="it has changed since `data prepare`"):
            read(entry._replace(stamp="0" * 64))


def test_the_names_of_shards_depend_on_films_and_options(films: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    def names(**changes: object) -> list[str]:
        return [each.name for each in shards_of(source_of(films), tiny_bundle, replace(Options(), **changes))]  # type: ignore[arg-type]

    assert names() == names()
    assert not {*names()} & {*names(level="group")}
    path = make_films(tmp_path / "films", 30)
    first = [each.name for each in shards_of(source_of(path), tiny_bundle)]
    os.utime(path / "000" / "000000.jpeg", (1, 1))
    second = [each.name for each in shards_of(source_of(path), tiny_bundle)]
    assert first[0] != second[0]
    assert first[1:] == second[1:]


def test_parts_of_other_films_are_not_mixed_in(tiny_bundle: Path, tmp_path: Path) -> None:
    one, other = (make_films(tmp_path / name, 30) for name in ("one", "other"))
    score(source_of(one), tmp_path / "out", tiny_bundle)
    with pytest.raises(UsageError, match=r"parts of other films, another model or other options.*--remove-others"):
        score(source_of(other), tmp_path / "out", tiny_bundle)
    assert {row.source for row in read_rows(tmp_path / "out")} == {str(one)}
    score(source_of(other), tmp_path / "out", tiny_bundle, remove_others=True)
    rows = read_rows(tmp_path / "out")
    assert {row.source for row in rows} == {str(other)}
    assert len(rows) == 30


def test_a_part_with_different_films_is_detected(tiny_bundle: Path, tmp_path: Path) -> None:
    path = make_films(tmp_path / "films", 40)
    score(source_of(path), tmp_path / "out", tiny_bundle)
    first, second, *_ = sorted((tmp_path / "out").glob("*.parquet"))
    for content, message in (
        (second.read_bytes(), "other films than its name promises"),
        (second.read_bytes()[:-100], f"{first.name} in .* is not a whole part; delete it"),
        (b"", "is not a whole part"),
    ):
        first.write_bytes(content)
        with pytest.raises(ScoringError, match=message):
            score(source_of(path), tmp_path / "out", tiny_bundle)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere", "--out", "o"], 2, "nowhere does not exist; give a folder, an archive"),
        (["empty", "--out", "o"], 2, "no image file in .*empty; nothing was scored"),
        (["film.jpeg", "--out", "o"], 2, "film.jpeg is an image file; give a folder"),
        (["films", "--out", "film.jpeg"], 2, "film.jpeg cannot be made"),
        (["films", "films", "--out", "o"], 2, "films is given twice"),
        (["films", "--out", "o", "--name-encoding", "gkb"], 2, "'gkb' is not one of Python's text codecs"),
        (["twice.txt", "--out", "o"], 2, "line 2 names a file for the second time"),
        (["broken.zip", "--out", "o"], 1, "broken.zip is neither a folder nor a readable ZIP or tar archive"),
        (["films", "--out", "o", "--coverage", "0.31"], 2, "coverage 0.31 is not in this model's table"),
        (["films", "--out", "s3://A"], 2, "--out: 's3://A' is not an S3 address"),
        (["films", "--out", "o", "--cores", "0"], 2, "cores"),
        (["films", "--out", "o", "--kms-key", "a"], 2, "--kms-key encrypts results in S3, but --out is not in S3"),
        (
            ["films", "--out", "s3://films", "--kms-key", "alias/a"],
            2,
            "'alias/a' is an alias; give the key's id or ARN",
        ),
    ],
)
def test_bad_input_is_refused_with_its_reason(
    arguments: list[str],
    code: int,
    message: str,
    command: Callable[..., SimpleNamespace],
    tiny_bundle: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "films").mkdir()
    for path in (tmp_path / "film.jpeg", tmp_path / "films" / "a.jpeg"):
        path.write_bytes(drawn_films()[0])
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 no archive")
    (tmp_path / "twice.txt").write_text("films/a.jpeg\nfilms/a.jpeg\n")
    done = command("score", *arguments, "--bundle", tiny_bundle, "--quiet", cwd=tmp_path)
    assert done.code == code
    assert re.search(message, done.err), done.err
    assert not list((tmp_path).rglob("*.parquet"))


def test_the_names_of_shards_depend_on_the_contract(tiny_bundle: Path, drawn_bundle: Path, films: Path) -> None:
    """The two bundles have the same network."""
    assert load_contract(tiny_bundle).files["model.onnx"] == load_contract(drawn_bundle).files["model.onnx"]
    assert shards_of(source_of(films), tiny_bundle)[0].name != shards_of(source_of(films), drawn_bundle)[0].name
