"""The gate: its place in the graph, what it rejects, and which faults can be corrected."""

import io
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import ValidationError

from pneumoscope.contract import FILM, MIRRORED, TEXTURES, Gate, Textures, load_contract
from pneumoscope.dataset import Dataset
from pneumoscope.engine import Engine, ImageFile
from pneumoscope.engine.gate import can_undo, find_fault, mirror_warning, undo
from pneumoscope.engine.texture import textures
from pneumoscope.export.faults import FAULT_MAKERS, mirror
from pneumoscope.export.gate import CODES, FILMS, apply, features_of, fit_weights, gate_samples
from pneumoscope.export.graph import join_gate, write_onnx
from pneumoscope.export.kinds import fit_textures
from pneumoscope.export.pictures import KINDS, Kind, draw
from pneumoscope.imaging import read_radiograph
from pneumoscope.imaging.colour import coloured_share
from pneumoscope.imaging.film import resize
from pneumoscope.phantom import encode_jpeg, film
from pneumoscope.training.predict import load_network
from samples import TINY, encode

SIDE = TINY["size"]
FAULTS = sorted(set(FAULT_MAKERS) - {MIRRORED})


def gate_of(engine: Engine) -> Gate:
    assert engine.contract.gate is not None
    return engine.contract.gate


def colour_jpeg(rgb: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=90)
    return stream.getvalue()


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_is_undone_to_the_pixel(code: str) -> None:
    original = film("normal", patient=3, size=(96, 96))
    faulty = FAULT_MAKERS[code](original, np.random.default_rng(1))
    assert can_undo(code)
    assert not np.array_equal(faulty, original)
    assert np.array_equal(undo(code, np.ascontiguousarray(faulty)), original)


def test_other_faults_cannot_be_undone() -> None:
    assert not any(map(can_undo, (*KINDS, FILM, MIRRORED, "unlike-films")))


def test_a_turn_is_named_as_the_viewer_sees_it() -> None:
    letter = np.zeros((8, 8), np.uint8)
    letter[0] = 255  # a bar at the top, which a clockwise turn moves to the right
    random = np.random.default_rng(0)
    assert FAULT_MAKERS["rotated-90"](letter, random)[:, -1].all()
    assert FAULT_MAKERS["rotated-270"](letter, random)[:, 0].all()
    assert FAULT_MAKERS["rotated-180"](letter, random)[-1].all()


def test_the_graph_computes_the_gate_that_was_fitted(tiny_run: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    write_onnx(load_network(tiny_run), SIDE, model)
    films = np.stack([film("normal", patient=number, size=(SIDE, SIDE)) for number in range(12)])[:, np.newaxis]
    samples = gate_samples(model, films, [str(number) for number in range(12)], drawings=True, seed=0)
    weights = fit_weights(samples, np.ones(len(samples.code), bool), seed=0)
    embedding, pooled, _ = features_of(model, films)
    expected = apply(weights, np.concatenate([embedding, pooled], axis=1))
    before = ort.InferenceSession(model).run(["logits", "embedding"], {"image": films})
    join_gate(model, weights)
    session = ort.InferenceSession(model)
    assert [each.name for each in session.get_outputs()] == [
        "logits",
        "embedding",
        "activation_map",
        "gate",
        "distance",
    ]
    *after, scores, distances = session.run(["logits", "embedding", "gate", "distance"], {"image": films})
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(scores, expected[0], atol=1e-3)
    np.testing.assert_allclose(distances, expected[1], rtol=1e-2, atol=1e-2)


def test_limits_reject_few_films_that_the_gate_was_not_fitted_to(engine: Engine, dataset: Dataset) -> None:
    films = dataset.split("test")
    statuses = [engine.predict(dataset.read(each)).status for each in films]
    assert statuses.count("rejected") <= 0.05 * len(films)
    gate = gate_of(engine)
    assert gate.codes == CODES
    assert gate.films == 2 * min(FILMS, len(dataset.split("train")))  # each as it is and augmented


@pytest.mark.parametrize("code", FAULTS)
def test_films_with_a_fault_are_rejected_with_its_code(engine: Engine, dataset: Dataset, code: str) -> None:
    random = np.random.default_rng(0)
    codes = []
    for each in dataset.split("test"):
        faulty = FAULT_MAKERS[code](np.asarray(Image.open(io.BytesIO(dataset.read(each)))), random)
        prediction = engine.predict(encode_jpeg(np.ascontiguousarray(faulty)))
        codes.append(prediction.reason_codes[0] if prediction.status == "rejected" else "accepted")
    assert codes.count(code) >= 0.9 * len(codes), codes


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_that_are_not_films_are_rejected(engine: Engine, kind: Kind) -> None:
    pictures = [draw(kind, np.random.default_rng([99, seed]), 200, phantoms=False) for seed in range(20)]
    predictions = [engine.predict(encode_jpeg(picture)) for picture in pictures if 10 < np.median(picture) < 245]
    rejected = [prediction for prediction in predictions if prediction.status == "rejected"]
    assert len(rejected) >= 0.7 * len(
        predictions
    )  # by a network trained on a few dozen drawings; see test_models for one of real films
    assert all(prediction.probabilities == {} and prediction.label is None for prediction in rejected)


def test_a_rejected_film_keeps_the_models_outputs(engine: Engine) -> None:
    prediction = engine.predict(encode_jpeg(255 - film("normal", patient=1)))
    assert prediction.reason_codes[0] == "inverted"
    assert "negative" in prediction.reasons[0]
    assert "--fix-orientation" in prediction.reasons[0]
    assert prediction.outputs is not None
    assert prediction.outputs.probabilities.sum() == pytest.approx(1)
    assert prediction.maps is not None


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_is_corrected_only_on_request(tiny_bundle: Path, engine: Engine, code: str) -> None:
    upright = film("bacteria", patient=7, size=(400, 400))
    faulty = encode_jpeg(np.ascontiguousarray(FAULT_MAKERS[code](upright, np.random.default_rng(1))), quality=100)
    assert engine.predict(faulty).status == "rejected"
    fixing = Engine.load(tiny_bundle, fix_orientation=True)
    prediction = fixing.predict(faulty)
    assert prediction.status != "rejected"
    assert code in prediction.reason_codes
    expected = engine.predict(encode_jpeg(upright, quality=100))
    for label, share in expected.probabilities.items():
        assert prediction.probabilities[label] == pytest.approx(share, abs=0.05)
    (kept,) = fixing.predict_many([ImageFile(name="x", read=lambda: faulty)], picture_side=400)
    assert kept.luma is not None
    shown = resize(upright, *kept.luma.shape)
    assert np.abs(kept.luma.astype(int) - shown).mean() < 4  # the picture shows the corrected film


def test_colours_are_seen_although_the_model_input_is_grey(engine: Engine) -> None:
    grey = film("normal", patient=1, size=(256, 256))
    rgb = np.stack([grey, grey, grey], axis=2)
    assert engine.predict(colour_jpeg(rgb)).status != "rejected"
    painted = rgb.copy()
    painted[:, :128] = (painted[:, :128] * (1.0, 0.4, 0.3)).astype(np.uint8)
    prediction = engine.predict(colour_jpeg(painted))
    assert prediction.status == "rejected"
    assert prediction.reason_codes[0] in ("photograph", "drawing", "screenshot")
    assert "% of its pixels are coloured" in prediction.reasons[0]
    png = io.BytesIO()
    Image.fromarray(painted).quantize(64).save(png, "PNG")
    assert engine.predict(png.getvalue()).status == "rejected"


def test_a_picture_of_few_greys_gets_the_gates_code_if_it_has_one(engine: Engine) -> None:
    page = Image.new("L", (800, 1000), 255)
    pen = ImageDraw.Draw(page)
    for line in range(30):
        pen.text((60, 40 + 30 * line), "the quick brown fox jumps over the lazy dog " * 2, fill=0)
    stream = io.BytesIO()
    page.save(stream, "PNG")
    prediction = engine.predict(stream.getvalue())
    assert prediction.status == "rejected"
    assert prediction.reason_codes[0] in (*KINDS, "greys")
    assert prediction.outputs is not None
    black = np.zeros((200, 200), np.uint8)
    black[:10, :40] = film("normal", patient=1, size=(10, 40))
    without = Engine(engine.contract.model_copy(update={"gate": None}), engine._session, engine.limits)
    for each in (engine, without):
        prediction = each.predict(encode_jpeg(black, quality=95))
        assert prediction.status == "rejected"
        assert prediction.probabilities == {}
    assert without.predict(stream.getvalue()).reason_codes[0] == "greys"


def test_a_tint_or_a_small_mark_is_not_a_coloured_picture() -> None:
    grey = film("normal", patient=1, size=(128, 128)).astype(float)
    blue = np.stack([grey * 0.9, grey * 0.95, np.clip(grey * 1.1 + 8, 0, 255)], axis=2).astype(np.uint8)
    assert coloured_share(blue) < 0.02
    marked = np.stack([grey] * 3, axis=2).astype(np.uint8)
    marked[4:14, 4:24] = (255, 220, 0)
    assert 0.005 < coloured_share(marked) < 0.02
    random = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    assert coloured_share(random) > 0.8


@pytest.fixture
def limits() -> Gate:
    return Gate(
        codes=(FILM, MIRRORED, "inverted", "photograph"),
        film_from=0.5,
        mirrored_from=0.8,
        distances=(2.0, 3.0),
        coloured=0.05,
        false_rejects=0.01,
        films=100,
        textures=None,
    )


def scores(**shares: float) -> NDArray[np.float32]:
    return np.log([shares.get(code, 1e-6) for code in (FILM, MIRRORED, "inverted", "photograph")]).astype(np.float32)


NEAR = np.array([1.0, 1.0], np.float32)
GREY = np.full((1, 64, 64), 128, np.uint8)


def test_each_limit_gives_its_own_reason(limits: Gate) -> None:
    assert find_fault(limits, scores(film=0.9), NEAR, 0.0, GREY) is None
    assert find_fault(limits, scores(film=0.3, mirrored=0.3, inverted=0.4), NEAR, None, GREY) is None
    inverted = find_fault(limits, scores(film=0.2, inverted=0.5, photograph=0.3), NEAR, 0.0, GREY)
    assert inverted is not None
    assert inverted.code == "inverted"
    coloured = find_fault(limits, scores(film=0.9), NEAR, 0.06, GREY)
    assert coloured is not None
    assert coloured.code == "photograph"
    for distances in ((2.1, 1.0), (1.0, 3.1)):
        far = find_fault(limits, scores(film=0.9), np.array(distances, np.float32), 0.0, GREY)
        assert far is not None
        assert far.code == "unlike-films"
    assert mirror_warning(limits, scores(film=0.9)) is None
    mirrored = mirror_warning(limits, scores(film=0.1, mirrored=0.9))
    assert mirrored is not None
    assert mirrored.code == MIRRORED


def test_textures_of_even_noisy_and_striped_pictures() -> None:
    random = np.random.default_rng(0)
    even, noise = np.full((64, 64), 200, np.uint8), random.integers(0, 256, (64, 64)).astype(np.uint8)
    line = even.copy()
    line[20:24] = 0
    shares = [np.exp(textures(each)) - 0.01 for each in (even, noise, line)]
    assert all(each.shape == (TEXTURES,) and each.dtype == np.float32 for each in shares)
    # After eight shares of levels: for each size of blocks, the background and nine contrasts; then grain; then edges.
    background, contrasts, grain, (upright, level, edges) = 8, slice(9, 18), slice(28, 36), (36, 37, 38)
    assert shares[0][background] == pytest.approx(1, abs=1e-5)
    assert shares[1][background] == pytest.approx(0, abs=1e-5)
    assert shares[1][contrasts][:7].max() < 0.05
    assert shares[1][grain].max() < 0.2
    assert shares[2][background] == pytest.approx(15 / 16, abs=1e-5)
    assert shares[2][0] == pytest.approx(1 / 16, abs=1e-5)  # without the commonest level
    assert (shares[2][upright], shares[2][level]) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))
    assert 0 < shares[2][edges] < shares[1][edges]


@given(st.integers(16, 70), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_textures_of_any_size_are_logarithms_of_shares(side: int, seed: int) -> None:
    found = np.exp(textures(draw("drawing", np.random.default_rng(seed), side)))
    assert found.shape == (TEXTURES,)
    assert found.min() > 0.0099
    assert found.max() < 1.0101


def test_textures_recognise_kinds_of_pictures_that_they_were_not_fitted_to() -> None:
    rule = fit_textures(SIDE, films=60)
    assert rule == fit_textures(SIDE, films=60)
    assert rule != fit_textures(SIDE, films=60, seed=1)
    weights, bias = np.array(list(rule.weights.values())), np.array(list(rule.bias.values()))
    for kind in rule.weights:
        drawn = [draw(kind, np.random.default_rng([77, row]), SIDE, phantoms=False) for row in range(40)]  # type: ignore[arg-type]
        found = np.stack([textures(each) for each in drawn]) @ weights.T + bias
        assert (
            np.mean([list(rule.weights)[place] == kind for place in found.argmax(axis=1)]) > 0.6
        )  # the pictures are few and small


def of_textures(kind: str) -> Textures:
    """Weights by which every picture is of one kind."""
    kinds = ("photograph", "drawing", "screenshot")
    weights = dict.fromkeys(kinds, (0.0,) * TEXTURES)
    return Textures(score_weight=0.01, weights=weights, bias={each: float(each == kind) for each in kinds})


@pytest.mark.parametrize(
    ("by_scores", "coloured", "by_textures", "code"),
    [
        ("film", 0.5, "screenshot", "screenshot"),
        ("drawing", 0.5, "photograph", "photograph"),
        ("screenshot", 0.0, "drawing", "drawing"),
        ("photograph", None, "drawing", "drawing"),
        ("drawing", 0.0, "photograph", "drawing"),  # phantoms have a photograph's grain
        ("inverted", 0.0, "photograph", "inverted"),
        ("noise", 0.0, "photograph", "noise"),
        ("film", 0.0, "photograph", None),
    ],
)
def test_textures_decide_the_kind_of_a_rejected_picture_and_never_reject(
    engine: Engine, by_scores: str, coloured: float | None, by_textures: str, code: str | None
) -> None:
    gate = gate_of(engine)
    values = np.where(np.array(gate.codes) == by_scores, 5.0, 0.0).astype(np.float32)
    limits = gate.model_copy(update={"distances": (9.0, 9.0), "textures": of_textures(by_textures)})
    found = find_fault(limits, values, NEAR, coloured, GREY)
    assert (None if found is None else found.code) == code
    older = find_fault(limits.model_copy(update={"textures": None}), values, NEAR, coloured, GREY)
    assert (older is None) == (found is None)


def test_a_picture_cut_out_of_its_background_is_not_a_screenshot(engine: Engine) -> None:
    """And more often a drawing than a photograph, unless its textures are clearly a photograph's."""
    gate = gate_of(engine)
    values = np.where(np.array(gate.codes) == "noise", 5.0, 0.0).astype(np.float32)
    cases = (
        ("screenshot", 1.0, 0.25, "screenshot"),
        ("screenshot", 1.0, 0.26, "drawing"),
        ("photograph", 1.0, 0.26, "drawing"),
        ("photograph", 3.0, 0.26, "photograph"),
    )
    for kind, lead, transparent, code in cases:
        rule = of_textures(kind)
        rule = rule.model_copy(
            update={"bias": {name: lead * (name == kind) for name in rule.bias}, "score_weight": 0.0}
        )
        limits = gate.model_copy(update={"textures": rule})
        coloured = find_fault(limits, values, NEAR, 0.5, GREY, transparent=transparent)
        by_scores = find_fault(limits, values, NEAR, 0.0, GREY, transparent=transparent)
        assert coloured is not None
        assert by_scores is not None
        assert coloured.code == code
        assert by_scores.code == (code if transparent > 0.25 else "noise")


def test_transparency_is_measured_and_reaches_the_gate(engine: Engine) -> None:
    logo = np.zeros((120, 120, 4), np.uint8)
    logo[20:100, 20:100] = (220, 30, 40, 255)
    logo[20:100, 20:100, 1] = np.arange(80)
    assert read_radiograph(encode(Image.fromarray(logo, "RGBA"))).transparent == pytest.approx(5 / 9, abs=0.02)
    found = engine.predict(encode(Image.fromarray(logo, "RGBA")))
    assert found.status == "rejected"
    assert found.reason_codes[0] != "screenshot"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_black_shape_on_a_transparent_background_is_a_drawing(engine: Engine, mode: str) -> None:
    shape = np.zeros((64, 64, 4), np.uint8)
    shape[30:32, 10:50, 3] = 90
    image = Image.fromarray(shape, "RGBA").convert(mode) if mode != "P" else Image.fromarray(shape, "RGBA").quantize()
    found = engine.predict(encode(image))
    assert found.reason_codes == ("drawing",)
    assert "like a logo" in found.reasons[0]
    shape[..., 3] = 0
    assert engine.predict(encode(Image.fromarray(shape, "RGBA"))).reason_codes == ("blank",)


def test_scores_count_beside_textures(engine: Engine) -> None:
    gate = gate_of(engine)
    values = np.where(np.array(gate.codes) == "drawing", 5.0, 0.0).astype(np.float32)
    for weight, code in ((0.1, "photograph"), (1.0, "drawing")):
        rule = of_textures("photograph").model_copy(update={"score_weight": weight})
        found = find_fault(gate.model_copy(update={"textures": rule}), values, NEAR, 0.5, GREY)
        assert found is not None
        assert found.code == code


def test_textures_of_other_numbers_or_kinds_are_refused(limits: Gate) -> None:
    rule, lean = of_textures("drawing").model_dump(), limits.model_dump()
    whole = lean | {"codes": (*limits.codes, "drawing", "screenshot")}
    Gate.model_validate(whole | {"textures": rule})
    other_bias, few_weights = {"bias": {"drawing": 0.0}}, {"weights": dict.fromkeys(rule["bias"], (0.0,))}
    for gate, broken in ((whole, rule | other_bias), (whole, rule | few_weights), (lean, rule)):
        with pytest.raises(ValidationError, match="textures"):  # the codes of `lean` lack two of the three kinds
            Gate.model_validate(gate | {"textures": broken})


def test_a_gate_with_missing_or_repeated_codes_is_refused(limits: Gate) -> None:
    for codes in ((FILM, "inverted"), (MIRRORED, "inverted"), (FILM, MIRRORED), (FILM, FILM, MIRRORED, "noise")):
        with pytest.raises(ValidationError, match="codes must be distinct"):
            Gate.model_validate(limits.model_dump() | {"codes": codes})


def test_a_high_score_for_mirrored_gives_a_warning_and_no_rejection(engine: Engine) -> None:
    gate = gate_of(engine)
    outputs = engine.predict(encode_jpeg(film("normal", patient=2))).outputs
    assert outputs is not None
    assert outputs.scores is not None
    swapped = outputs.scores.copy()
    swapped[gate.codes.index(MIRRORED)] = swapped.max() + 20
    assert mirror_warning(gate, swapped) is not None
    assert find_fault(gate, swapped, np.zeros(2, np.float32), 0.0, GREY) is None
    always = engine.contract.model_copy(update={"gate": gate.model_copy(update={"mirrored_from": 0.0})})
    prediction = Engine(always, engine._session, engine.limits).predict(encode_jpeg(film("normal", patient=2)))
    assert prediction.status != "rejected"
    assert MIRRORED in prediction.reason_codes
    assert np.array_equal(mirror(mirror(film("normal", patient=2))), film("normal", patient=2))


def test_an_older_bundle_without_a_gate_rejects_nothing_by_it(tiny_bundle: Path) -> None:
    engine = Engine.load(tiny_bundle)
    without = Engine(engine.contract.model_copy(update={"gate": None}), engine._session, engine.limits)
    assert without.predict(encode_jpeg(255 - film("normal", patient=1))).status != "rejected"
    assert load_contract(tiny_bundle).gate is not None
