"""Drift of films without labels: a bundle's reference, the signs of a difference, and their verdicts."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pneumoscope.contract import load_contract
from pneumoscope.dataset import Dataset
from pneumoscope.documents import read_document
from pneumoscope.engine import Engine, ImageFile
from pneumoscope.engine.reference import (
    FAR_QUANTILE,
    About,
    DecisionStatistics,
    Reference,
    load_reference,
    save_reference,
)
from pneumoscope.errors import BundleError, UsageError
from pneumoscope.phantom import encode_jpeg, film
from pneumoscope.report import Drift, measure_drift
from pneumoscope.report.document import Figure
from pneumoscope.report.drift import _share, far_share
from samples import encode

ABOUT = About(
    schema_version=1,
    trained_films=10,
    published=False,
    embedded_films=400,
    embedded_split="val",
    answers=DecisionStatistics(
        films=400, source="validation", rejected=0, abstained=0.2, class_shares={"a": 1}, mean_probabilities={"a": 1}
    ),
)


def random_embeddings(count: int = 400, dimensions: int = 30, *, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    scale = np.linspace(0.1, 3, dimensions)
    return (random.normal(size=(count, dimensions)) * scale + 5 * scale).astype(np.float32)


def image_files(contents: dict[str, bytes]) -> list[ImageFile]:
    return [ImageFile(name=name, read=lambda data=data: data) for name, data in contents.items()]  # type: ignore[misc]


def test_one_in_a_hundred_of_the_references_films_is_far() -> None:
    reference = Reference.of(random_embeddings(), ABOUT)
    far = (reference.distance(random_embeddings()) > 1).mean()
    assert far == pytest.approx(1 - FAR_QUANTILE / 100, abs=0.003)
    others = (reference.distance(random_embeddings(2000, seed=1)) > 1).mean()
    assert others <= far_share(400)[1]
    assert (reference.distance(random_embeddings(seed=1) + 3) > 1).mean() > 0.9
    assert reference.distance(random_embeddings()[0]).shape == ()


def test_a_constant_dimension_adds_no_distance() -> None:
    embeddings = random_embeddings()
    embeddings[:, 3] = 7
    reference = Reference.of(embeddings, ABOUT)
    moved = embeddings.copy()
    moved[:, 3] = 7 + 1e-3
    np.testing.assert_allclose(reference.distance(moved), reference.distance(embeddings))
    nothing = Reference.of(np.ones((5, 4), np.float32), ABOUT)
    assert np.isfinite(nothing.distance(np.ones(4))).all()


def test_a_reference_is_read_back_unchanged(tmp_path: Path, drawn_bundle: Path) -> None:
    contract = load_contract(drawn_bundle)
    save_reference(reference := Reference.of(random_embeddings(), ABOUT), tmp_path)
    found = load_reference(tmp_path, contract)
    assert found is not None
    assert found.about == ABOUT
    np.testing.assert_array_equal(found.distance(random_embeddings()), reference.distance(random_embeddings()))
    (tmp_path / "reference.npz").write_bytes(b"none")
    with pytest.raises(BundleError, match=r"reference\.npz is damaged"):
        load_reference(tmp_path, contract)
    old = contract.model_copy(update={"files": {"model.onnx": "0" * 64}})
    assert load_reference(tmp_path, old) is None


def test_the_bundles_reference_is_of_its_validation_films(drawn_bundle: Path, dataset: Dataset) -> None:
    engine = Engine.load(drawn_bundle)
    reference = load_reference(drawn_bundle, engine.contract)
    assert reference is not None
    films = dataset.split("val")
    outputs = [engine.predict(dataset.read(each)).outputs for each in films]
    embeddings = np.stack([each.embedding for each in outputs if each is not None])
    np.testing.assert_allclose(reference.mean, embeddings.mean(axis=0), rtol=1e-4, atol=1e-5)
    assert reference.about.embedded_films == len(films) == reference.about.answers.films
    assert reference.about.answers.source == "validation"
    assert sum(reference.about.answers.class_shares.values()) == pytest.approx(1)
    assert reference.about.trained_films == len(dataset.split("train"))
    assert not reference.about.published


def test_the_references_out_of_fold_answers_agree_with_the_report(described_bundle: Path) -> None:
    reference = load_reference(described_bundle, load_contract(described_bundle))
    report = json.loads((described_bundle / "report.json").read_text())
    assert reference is not None
    assert reference.about.answers.source == "out-of-fold"
    assert reference.about.answers.films == report["n"]
    assert reference.about.answers.abstained == pytest.approx(
        report["decisions"]["shares"]["abstained"]["value"], abs=1e-6
    )


def test_films_like_the_references_are_alike_and_noise_is_not(
    drawn_bundle: Path, dataset: Dataset, tmp_path: Path
) -> None:
    own = image_files({each.path: dataset.read(each) for each in dataset.split("test")})
    alike = measure_drift(drawn_bundle, own, tmp_path, tmp_path / "alike")
    assert alike.n == len(own)
    assert not [
        sign for sign in alike.signs if sign.quantity.startswith("share predicted as") and sign.grade == "different"
    ]
    random = np.random.default_rng(0)
    noise = image_files(
        {f"{n}.png": encode_png(random.integers(256, size=(90, 80), dtype=np.uint8)) for n in range(60)}
    )
    strange = measure_drift(drawn_bundle, noise, tmp_path, tmp_path / "strange")
    far = next(sign for sign in strange.signs if sign.quantity == "share beyond distance 1")
    assert far.grade == "different"
    assert "share beyond distance 1" in strange.verdict
    assert read_document(Drift, (tmp_path / "strange" / "drift.json").read_bytes()) == strange
    assert strange.verdict in (tmp_path / "strange" / "drift.html").read_text().replace("&#39;", "'")


def encode_png(luma: np.ndarray) -> bytes:
    from PIL import Image

    return encode(Image.fromarray(luma))


def test_files_that_do_not_reach_the_model_are_counted_and_a_folder_of_them_is_an_error(
    drawn_bundle: Path, tmp_path: Path
) -> None:
    films = image_files({"a.jpeg": encode_jpeg(film("virus", patient=1, size=(80, 90))), "b.jpeg": b"no"})
    found = measure_drift(drawn_bundle, films, tmp_path, tmp_path / "out")
    assert (found.n, [each.film for each in found.unjudged]) == (2, ["b.jpeg"])
    rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert len(rows) == 3
    assert rows[2].startswith("b.jpeg,rejected,")
    with pytest.raises(UsageError, match=r"none of the 1 image files in .* reached the model"):
        measure_drift(drawn_bundle, films[1:], tmp_path, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("value", "spread", "expected", "films", "message"),
    [
        (0.4, 0.05, 0.2, 1000, "higher than the reference"),
        (0.1, 0.05, 0.3, 1000, "lower than the reference"),
        (0.4, 0.05, 0.2, 12, "no clear difference"),  # the reference has too few films to conclude
        (0.4, 0.3, 0.2, 1000, "no clear difference"),
        (0.21, 0.001, 0.2, 10**8, "no clear difference"),  # certain, but too small to matter
    ],
)
def test_a_share_differs_only_beyond_chance_on_both_sides(
    value: float, spread: float, expected: float, films: int, message: str
) -> None:
    here = Figure(value=value, low=value - spread, high=value + spread)
    assert _share("share", here, expected, films).verdict == message


def test_evaluate_compares_a_folder_with_the_reference(
    tiny_bundle: Path, phantom_folder: Path, tmp_path: Path, command: Callable[..., SimpleNamespace]
) -> None:
    out = tmp_path / "drift"
    done = command("evaluate", "--unlabelled", phantom_folder, "--bundle", tiny_bundle, "--out", out)
    assert done.code == 0, done.err
    assert "share beyond" in done.out
    document = json.loads((out / "drift.json").read_text())
    assert document["n"] == 90
    again = command("evaluate", "--unlabelled", phantom_folder, "--bundle", tiny_bundle, "--out", out)
    assert again.code == 2
    for extra in (("--split", "val"), ("--compare", tiny_bundle), ("--coverage", "0.9")):
        wrong = command("evaluate", "--unlabelled", phantom_folder, "--out", tmp_path / "x", *extra)
        assert wrong.code == 2
        assert f"--unlabelled cannot be combined with {extra[0]}" in wrong.err
    neither = command("evaluate", "--out", tmp_path / "x")
    assert neither.code == 2
    assert "give either a data set" in neither.err
    both = command("evaluate", phantom_folder, "--unlabelled", phantom_folder, "--out", tmp_path / "x")
    assert both.code == 2
