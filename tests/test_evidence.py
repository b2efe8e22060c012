"""The evidence file, and the soft targets that come from it or from a run."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pneumoscope.contract import InputRule
from pneumoscope.dataset import Dataset
from pneumoscope.errors import RunError
from pneumoscope.files import sha256_of
from pneumoscope.metrics import Scaling, choose_method, fit, fit_temperature, softmax
from pneumoscope.training.config import make_config
from pneumoscope.training.evidence import About, Evidence, load_evidence, save_evidence
from pneumoscope.training.inputs import cache_inputs, labels_of
from pneumoscope.training.loss import log_prior
from pneumoscope.training.predict import load_network
from pneumoscope.training.teachers import describe_teacher, teacher_probabilities
from samples import TINY

ARRAYS = ("film", "patient", "label", "fold", "logits", "stress", "embedding")


def random_evidence(dataset: Dataset, **settings: Any) -> Evidence:
    """Evidence with random predictions for all films of a data set."""
    count, random = len(dataset.films), np.random.default_rng(0)
    stress = random.normal(size=(count, 3)).astype(np.float32)
    stress[1] = np.nan
    return Evidence(
        about=About(
            schema_version=1,
            classes=dataset.classes,
            groups=dataset.groups,
            dataset=dataset.fingerprint,
            folds=2,
            seed=0,
            config=make_config({"recipe": "tiny", **TINY, **settings}, {}),
            commit=None,
            versions={},
        ),
        film=np.array([list(bytes.fromhex(film.file_sha256)) for film in dataset.films], np.uint8),
        patient=np.arange(count, dtype=np.int32),
        label=np.array([dataset.classes.index(film.label) for film in dataset.films], np.int8),
        fold=(np.arange(count) % 2).astype(np.int8),
        logits=random.normal(size=(count, 3)).astype(np.float32),
        stress=stress,
        embedding=random.normal(size=(count, 5)).astype(np.float16),
    )


def calibrated(evidence: Evidence) -> Scaling:
    films = evidence.unseen()
    return fit(films, choose_method(films))


def shuffled(evidence: Evidence) -> Evidence:
    order = np.random.default_rng(1).permutation(len(evidence.label))
    return replace(evidence, **{name: getattr(evidence, name)[order] for name in ARRAYS})


def saved(evidence: Evidence, path: Path) -> Path:
    save_evidence(evidence, path)
    return path


def test_evidence_is_read_as_written_and_has_the_same_bytes(dataset: Dataset, tmp_path: Path) -> None:
    evidence = random_evidence(dataset)
    one, two = (saved(evidence, tmp_path / name) for name in ("one.npz", "two.npz"))
    found = load_evidence(one)
    assert found.about == evidence.about
    for name in ARRAYS:
        array = getattr(found, name)
        assert array.dtype == getattr(evidence, name).dtype
        np.testing.assert_array_equal(array, getattr(evidence, name))
    assert one.read_bytes() == two.read_bytes()
    assert saved(found, tmp_path / "three.npz").read_bytes() == one.read_bytes()


def test_rows_are_found_by_the_films_hashes(dataset: Dataset) -> None:
    evidence = shuffled(random_evidence(dataset))
    hashes = [film.file_sha256 for film in dataset.split("val")]
    rows = evidence.rows(hashes)
    assert [bytes(evidence.film[row]).hex() for row in rows] == hashes
    with pytest.raises(RunError, match=rf"1 of 2 films are not among the evidence's {len(dataset.films)}; cross-valid"):
        evidence.rows([hashes[0], "0" * 64])


def test_a_file_that_is_not_evidence_is_an_error(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "other.npz", logits=np.zeros((2, 3)))
    whole = saved(random_evidence(dataset), tmp_path / "whole.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("text.npz", "array.npy", "other.npz", "half.npz", "empty.npz"):
        with pytest.raises(
            RunError, match=r"is not an evidence file \(.*\); make it with `pneumoscope cross-validate`\."
        ):
            load_evidence(tmp_path / name)
    with pytest.raises(RunError, match="no such file; make it with"):
        load_evidence(tmp_path / "gone.npz")


def test_a_changed_byte_is_detected_or_harmless(dataset: Dataset, tmp_path: Path) -> None:
    evidence = random_evidence(dataset)
    whole, path = saved(evidence, tmp_path / "whole.npz").read_bytes(), tmp_path / "changed.npz"
    noticed = 0
    for place in np.random.default_rng(0).integers(len(whole), size=150):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        try:
            found = load_evidence(path)
        except RunError:
            noticed += 1
        else:
            assert all(np.array_equal(getattr(found, n), getattr(evidence, n), equal_nan=n == "stress") for n in ARRAYS)
    assert noticed > 100


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("logits", lambda array: array[:, :2], r"logits is float32 \[90, 2\], expected float32 \[90, 3\]"),
        ("film", lambda array: array[1:], r"film is uint8 \[89, 32\]"),
        ("stress", lambda array: array.astype(np.float64), "stress is float64"),
        ("embedding", lambda array: array[:, 0], "embedding is float16"),
        ("label", lambda array: array + np.int8(1), "label must be numbers from 0 to 2"),
        ("fold", lambda array: array - np.int8(1), "fold must be numbers from 0 to 1"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(
    name: str, change: Any, message: str, dataset: Dataset, tmp_path: Path
) -> None:
    evidence = random_evidence(dataset)
    path = saved(replace(evidence, **{name: change(getattr(evidence, name))}), tmp_path / "odd.npz")
    with pytest.raises(RunError, match=message):
        load_evidence(path)


def test_a_missing_field_of_the_description_is_an_error(dataset: Dataset, tmp_path: Path) -> None:
    path = saved(random_evidence(dataset), tmp_path / "whole.npz")
    with np.load(path) as stored:
        arrays: dict[str, Any] = dict(stored)
    about = json.loads(arrays["about"].tobytes())
    del about["seed"]
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with zipfile.ZipFile(tmp_path / "older.npz", "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, array)
    with pytest.raises(RunError, match="field 'seed' is missing"):
        load_evidence(tmp_path / "older.npz")


def test_soft_targets_from_evidence_are_found_by_hash_and_at_the_train_prior(dataset: Dataset, tmp_path: Path) -> None:
    """Rows are in any order. Probabilities are calibrated, and moved from equal frequencies to the train part's."""
    rows = [row for row, film in enumerate(dataset.films) if film.split == "train"]
    shift = log_prior(labels_of(dataset, "train"), 3)
    for prior, added in (("train", np.zeros(3)), ("uniform", shift)):
        evidence = random_evidence(dataset, prior=prior)
        path = saved(shuffled(evidence), tmp_path / f"{prior}.npz")
        found = teacher_probabilities(dataset, [path], cache=tmp_path)
        assert found.dtype == np.float32
        np.testing.assert_allclose(
            found, softmax(calibrated(evidence).logits(evidence.logits[rows]) + added), rtol=1e-5
        )
    both = teacher_probabilities(dataset, [tmp_path / "train.npz", tmp_path / "uniform.npz"], cache=tmp_path)
    one, two = (
        teacher_probabilities(dataset, [tmp_path / f"{prior}.npz"], cache=tmp_path) for prior in ("train", "uniform")
    )
    np.testing.assert_allclose(both, (one + two) / 2, rtol=1e-5)


def test_evidence_is_calibrated_at_its_declared_prior(dataset: Dataset) -> None:
    """Logits divided by 4 give 4 times the scale. At a uniform prior, more films of one class change nothing."""

    def factor(evidence: Evidence) -> float:
        return float(
            fit_temperature(*(getattr(evidence.unseen(), name) for name in ("logits", "truth", "weights"))).scale[0]
        )

    truth = np.array([dataset.classes.index(film.label) for film in dataset.films])
    evidence = random_evidence(dataset, prior="train")
    # The first class gets surer logits than the others, so that its weight matters.
    shift = np.diag([2, 0.5, 0.5]).astype(np.float32)[truth]
    evidence = replace(evidence, logits=evidence.logits + shift)
    assert factor(replace(evidence, logits=evidence.logits / np.float32(4))) == pytest.approx(4 * factor(evidence))
    doubled = [row for row, label in enumerate(evidence.label) for _ in range(1 + (label == 0))]
    for prior, same in (("train", False), ("uniform", True)):
        one = replace(evidence, about=random_evidence(dataset, prior=prior).about)
        more = replace(one, **{name: getattr(one, name)[doubled] for name in ARRAYS})
        assert (factor(more) == pytest.approx(factor(one), rel=1e-3)) is same


def test_soft_targets_from_a_run_are_its_probabilities(tiny_run: Path, dataset: Dataset, tmp_path: Path) -> None:
    images = cache_inputs(dataset, "train", InputRule.squash(TINY["size"]), tmp_path)
    with torch.no_grad():
        logits = load_network(tiny_run)(torch.from_numpy(np.array(images))).double().numpy()
    np.testing.assert_allclose(teacher_probabilities(dataset, [tiny_run], cache=tmp_path), softmax(logits), atol=1e-5)
    uniform = Path(shutil.copytree(tiny_run, tmp_path / "uniform"))
    config = json.loads((uniform / "config.json").read_text()) | {"prior": "uniform"}
    (uniform / "config.json").write_text(json.dumps(config))
    expected = softmax(logits + log_prior(labels_of(dataset, "train"), 3))
    np.testing.assert_allclose(teacher_probabilities(dataset, [uniform], cache=tmp_path), expected, atol=1e-5)


def test_teachers_of_other_classes_or_films_are_refused(tiny_run: Path, dataset: Dataset, tmp_path: Path) -> None:
    evidence = random_evidence(dataset)
    foreign = saved(
        replace(evidence, about=evidence.about.model_copy(update={"classes": ("cat", "dog", "emu")})),
        tmp_path / "a.npz",
    )
    with pytest.raises(RunError, match="has the classes cat, dog, emu, the data set bacteria, normal, virus; they"):
        teacher_probabilities(dataset, [foreign], cache=tmp_path)
    few = saved(replace(evidence, **{name: getattr(evidence, name)[:10] for name in ARRAYS}), tmp_path / "b.npz")
    with pytest.raises(RunError, match="films are not among the evidence's 10"):
        teacher_probabilities(dataset, [few], cache=tmp_path)
    other = replace(dataset, classes=("bacteria", "normal"))
    with pytest.raises(RunError, match="they must be the same"):
        teacher_probabilities(other, [tiny_run], cache=tmp_path)
    with pytest.raises(RunError, match="is not a training run"):
        teacher_probabilities(dataset, [tmp_path], cache=tmp_path)


def test_a_teacher_is_described_by_name_and_hash(tiny_run: Path, dataset: Dataset, tmp_path: Path) -> None:
    path = saved(random_evidence(dataset), tmp_path / "evidence.npz")
    assert describe_teacher(path) == f"evidence.npz, SHA-256 {sha256_of(path)}"
    assert describe_teacher(tiny_run) == f"tiny, SHA-256 {sha256_of(tiny_run / 'weights.safetensors')}"
    with pytest.raises(RunError, match="neither a finished run nor a file of predictions; see --teachers"):
        describe_teacher(tmp_path)
