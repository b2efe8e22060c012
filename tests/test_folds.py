"""Cross-validation, from folds to the evidence and the report."""

import json
import multiprocessing
import shutil
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pneumoscope.contract import InputRule
from pneumoscope.dataset import Dataset, Record
from pneumoscope.dataset.stress import stress_film
from pneumoscope.errors import DatasetError, PneumoscopeError, RunError, UsageError
from pneumoscope.imaging import load_input
from pneumoscope.progress import Listener
from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.config import make_config
from pneumoscope.training.evidence import load_evidence, save_evidence
from pneumoscope.training.fold_processes import threads_for_fold
from pneumoscope.training.folds import cross_validate, fold_datasets, report_on, stress_inputs
from pneumoscope.training.predict import load_network
from samples import TINY
from test_evidence import random_evidence


def tiny(**changes: Any) -> TrainConfig:
    return make_config({"recipe": "tiny", **TINY}, changes)


class Stop(Exception):  # noqa: N818 (it is not an error)
    """Ends a command from within, as Ctrl-C would."""


class StopAt(Listener):
    """Stops at the `times`-th line that begins with these words."""

    def __init__(self, words: str, *, times: int = 1) -> None:
        self.words, self.left = words, times

    def say(self, line: str) -> None:
        self.left -= line.startswith(self.words)
        if not self.left:
            raise Stop


class Lines(Listener):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class KillAtFirstLine(Listener):
    """Kills one of the two processes at the first line that either reports, long before either is done."""

    killed = False

    def say(self, line: str) -> None:
        del line
        if not self.killed:
            self.killed = True
            multiprocessing.active_children()[0].kill()


@dataclass(frozen=True)
class Finished:
    out: Path
    report: dict[str, Any]


@pytest.fixture(scope="module")
def done(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    out = tmp_path_factory.mktemp("folds") / "cv"
    return Finished(out, cross_validate(dataset, tiny(), out, folds=2))


def test_folds_cover_train_and_validation_patient_by_patient(dataset: Dataset) -> None:
    parts = fold_datasets(dataset, folds=3, seed=0)
    held: defaultdict[str, list[int]] = defaultdict(list)
    patients: defaultdict[str, set[int]] = defaultdict(set)
    expected = {film.path for film in dataset.films if film.split != "test"}
    for number, part in enumerate(parts):
        assert {film.split for film in part.films} == {"train", "val"}
        assert {film.path for film in part.films} == expected
        assert not {film.patient for film in part.split("train")} & {film.patient for film in part.split("val")}
        for film in part.split("val"):
            held[film.path].append(number)
            patients[film.patient].add(number)
    assert held.keys() == expected
    assert all(len(numbers) == 1 for numbers in [*held.values(), *patients.values()])
    other = [part.fingerprint for seed in (0, 1) for part in fold_datasets(dataset, folds=3, seed=seed)]
    assert len({dataset.fingerprint, *other}) == 7


def test_the_evidence_predicts_each_film_outside_test_by_the_network_that_has_not_seen_it(
    done: Finished, dataset: Dataset
) -> None:
    evidence = load_evidence(done.out / "evidence.npz")
    films = [film for film in dataset.films if film.split != "test"]
    assert [bytes(row).hex() for row in evidence.film] == [film.file_sha256 for film in films]
    assert [dataset.classes[label] for label in evidence.label] == [film.label for film in films]
    numbers = {film.patient: number for film, number in zip(films, evidence.patient, strict=True)}
    assert [numbers[film.patient] for film in films] == evidence.patient.tolist()
    assert len(set(numbers.values())) == len(numbers)
    rule = InputRule.squash(TINY["size"])
    for number, part in enumerate(fold_datasets(dataset, folds=2, seed=0)):
        held = {film.path for film in part.split("val")}
        rows = [row for row, film in enumerate(films) if film.path in held]
        assert evidence.fold[rows].tolist() == [number] * len(rows)
        images = np.stack([load_input(dataset.read(films[row]), rule) for row in rows])
        with torch.no_grad():
            logits, embedding = load_network(done.out / f"fold-{number + 1}").forward_with_embedding(
                torch.from_numpy(images)
            )
        np.testing.assert_allclose(evidence.logits[rows], logits.numpy(), atol=1e-4)
        np.testing.assert_allclose(evidence.embedding[rows], embedding.numpy(), rtol=2e-3, atol=2e-3)
    assert np.isfinite(evidence.stress).all()
    assert not np.allclose(evidence.stress, evidence.logits, atol=1e-3)


def test_the_report_is_computed_from_the_evidence(done: Finished, dataset: Dataset) -> None:
    report = json.loads((done.out / "report.json").read_text())
    assert report == done.report == report_on(load_evidence(done.out / "evidence.npz"))
    films = [film for film in dataset.films if film.split != "test"]
    assert report["films"] == len(films)
    assert report["patients"] == len({film.patient for film in films})
    evidence = load_evidence(done.out / "evidence.npz")
    accuracy = float((evidence.logits.argmax(axis=1) == evidence.label).mean())
    assert report["plain"]["accuracy"]["value"] == pytest.approx(accuracy, abs=1e-6)
    assert report["plain"].keys() == report["stress"].keys()
    shares = [float(np.mean(evidence.fold == fold)) for fold in range(2)]
    by_fold = [part["plain"]["accuracy"]["value"] for part in report["folds"]]
    assert np.dot(shares, by_fold) == pytest.approx(accuracy, abs=1e-6)


def test_stopped_twice_and_resumed_it_gives_the_same_bytes(done: Finished, dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "cv"
    with pytest.raises(Stop):
        cross_validate(dataset, tiny(), out, folds=2, listener=StopAt("fold 2"))
    assert not (out / "evidence.npz").exists()
    first = out / "fold-1" / "outputs.npz"
    before = first.stat().st_mtime_ns
    with pytest.raises(Stop):
        cross_validate(dataset, tiny(), out, folds=2, resume=True, listener=StopAt("epoch 1"))
    torch.rand(13)  # whatever the global random state is by now
    cross_validate(dataset, tiny(), out, folds=2, resume=True)
    assert first.stat().st_mtime_ns == before
    for name in ("evidence.npz", "report.json"):
        assert (out / name).read_bytes() == (done.out / name).read_bytes()


def test_folds_trained_at_once_and_interrupted_give_the_same_evidence(
    done: Finished, dataset: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "cv"
    with pytest.raises(Stop):
        cross_validate(dataset, tiny(), out, folds=2, jobs=2, listener=StopAt("fold 2: epoch 1"))
    assert not multiprocessing.active_children()
    assert not (out / "evidence.npz").exists()
    lines = Lines()
    cross_validate(dataset, tiny(), out, folds=2, jobs=2, resume=True, listener=lines)
    assert all(line.startswith("fold ") for line in lines.lines)
    found, expected = (load_evidence(folder / "evidence.npz") for folder in (out, done.out))
    # With a different number of threads, numbers are added in a different order.
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-3)
    np.testing.assert_array_equal(found.fold, expected.fold)
    assert not list(out.rglob(".last.ckpt.partial"))


def test_a_fold_whose_process_is_killed_is_reported_and_can_be_continued(
    done: Finished, dataset: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "cv"
    with pytest.raises(
        RunError, match=r"the process of fold [12] ended \(signal SIGKILL\); is there enough memory\? Cont"
    ):
        cross_validate(dataset, tiny(), out, folds=2, jobs=2, listener=KillAtFirstLine())
    assert not multiprocessing.active_children()
    report = cross_validate(dataset, tiny(), out, folds=2, resume=True)
    assert report["films"] == done.report["films"]


def test_the_error_of_a_fold_is_the_same_for_one_job_and_for_two(dataset: Dataset, tmp_path: Path) -> None:
    config = tiny(weights=str(tmp_path / "absent.pth"))
    messages = []
    for jobs in (1, 2):
        with pytest.raises(PneumoscopeError) as caught:
            cross_validate(dataset, config, tmp_path / f"cv{jobs}", folds=2, jobs=jobs)
        messages.append((type(caught.value), str(caught.value)))
    assert messages[0] == messages[1]


def test_cores_are_shared_by_the_folds_that_are_trained_at_once() -> None:
    assert [threads_for_fold(number, folds=5, jobs=2, cores=2) for number in range(1, 6)] == [1, 1, 1, 1, 2]
    assert [threads_for_fold(number, folds=5, jobs=3, cores=12) for number in range(1, 6)] == [4, 4, 4, 6, 6]
    assert [threads_for_fold(number, folds=5, jobs=96, cores=96) for number in range(1, 6)] == [19] * 5
    assert threads_for_fold(2, folds=5, jobs=4, cores=2) == 1


def test_a_damaged_fold_is_reported_and_can_be_repeated(done: Finished, dataset: Dataset, tmp_path: Path) -> None:
    out = Path(shutil.copytree(done.out, tmp_path / "folds"))
    path = out / "fold-2" / "outputs.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(RunError, match=r"fold-2/outputs\.npz is damaged .*; delete it and continue with --resume"):
        cross_validate(dataset, tiny(), out, folds=2, resume=True)
    path.unlink()
    cross_validate(dataset, tiny(), out, folds=2, resume=True)
    assert (out / "evidence.npz").read_bytes() == (done.out / "evidence.npz").read_bytes()


def test_a_resume_keeps_everything_that_shapes_the_folds(done: Finished, dataset: Dataset, tmp_path: Path) -> None:
    def resume(out: Path = done.out, *, config: TrainConfig | None = None, **choices: Any) -> None:
        cross_validate(dataset, config or tiny(), out, resume=True, **{"folds": 2, **choices})

    differ = r"needs the folds, seed, configuration and data set of .*, and these differ"
    for choice in ({"config": tiny(lr=0.5)}, {"folds": 3}, {"seed": 1}):
        with pytest.raises(UsageError, match=differ):
            resume(**choice)
    with pytest.raises(UsageError, match=differ):
        cross_validate(replace(dataset, fingerprint="0" * 64), tiny(), done.out, folds=2, resume=True)
    with pytest.raises(UsageError, match="exists already; continue with --resume, or choose another --out"):
        cross_validate(dataset, tiny(), done.out, folds=2)
    with pytest.raises(RunError, match=r"is not a cross-validation \(it has no folds\.json\)"):
        resume(tmp_path)
    (tmp_path / "folds.json").write_text("{}")
    with pytest.raises(RunError, match=r"folds\.json is not valid: .*; start again with another --out"):
        resume(tmp_path)


def test_a_refused_cross_validation_leaves_nothing(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"patients, too few for 50 folds; choose fewer folds\."):
        cross_validate(dataset, tiny(), tmp_path / "cv", folds=50)
    for choice in ({"patience": 2}, {"keep": "best"}):
        with pytest.raises(UsageError, match="by the films that cross-validation tests on; leave them out"):
            cross_validate(dataset, tiny(**choice), tmp_path / "cv", folds=2)
    assert not list(tmp_path.iterdir())


def test_compiled_folds_without_a_compiler_leave_nothing(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler"):
        cross_validate(dataset, tiny(compiled=True), tmp_path / "cv")
    assert not (tmp_path / "cv").exists()


def test_a_stress_film_that_is_blank_is_left_out(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    films, rule = dataset.split("val")[:3], InputRule.squash(48)
    whole, usable = stress_inputs(dataset, films, rule, seed=0)
    assert whole.shape == (3, 1, 48, 48)
    assert usable.tolist() == [True] * 3
    assert whole.dtype == np.uint8
    again, _ = stress_inputs(dataset, films, rule, seed=0)
    other, _ = stress_inputs(dataset, films, rule, seed=1)
    np.testing.assert_array_equal(whole, again)
    assert not np.array_equal(whole, other)

    def all_but_one(film: Record, *rest: Any, **options: Any) -> Any:
        return None if film == films[1] else stress_film(film, *rest, **options)

    monkeypatch.setattr("pneumoscope.training.folds.stress_film", all_but_one)
    images, usable = stress_inputs(dataset, films, rule, seed=0)
    assert usable.tolist() == [True, False, True]
    np.testing.assert_array_equal(images[[0, 2]], whole[[0, 2]])


def test_stress_figures_use_only_the_films_that_have_a_stress_film(dataset: Dataset, tmp_path: Path) -> None:
    evidence = random_evidence(dataset)  # one stress film is blank
    save_evidence(evidence, tmp_path / "evidence.npz")
    report = report_on(load_evidence(tmp_path / "evidence.npz"))
    kept = np.arange(len(evidence.label)) != 1
    accuracy = float((evidence.stress[kept].argmax(axis=1) == evidence.label[kept]).mean())
    assert report["stress"]["accuracy"]["value"] == pytest.approx(accuracy, abs=1e-6)
