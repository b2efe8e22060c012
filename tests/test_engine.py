import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import dicoms
from pneumoscope.contract import InputRule, load_contract, save_contract
from pneumoscope.dataset import Dataset
from pneumoscope.engine import Engine, ImageFile, rejection
from pneumoscope.errors import UsageError
from pneumoscope.export import PARITY_TOLERANCE, load_network
from pneumoscope.imaging import Limits, load_input
from pneumoscope.metrics import softmax
from pneumoscope.phantom import encode_jpeg, film
from samples import REPOSITORY, TINY, encode

FILM = encode_jpeg(film("bacteria", patient=1))


def image_file(name: str, data: bytes) -> ImageFile:
    return ImageFile(name=name, read=lambda: data)


def test_onnx_equals_pytorch_on_every_validation_film(engine: Engine, tiny_run: Path, dataset: Dataset) -> None:
    images = np.stack([load_input(dataset.read(each), engine.contract.input) for each in dataset.split("val")])
    outputs = engine.run(images)
    with torch.no_grad():
        logits, embedding, _, maps = load_network(tiny_run).outputs(torch.from_numpy(images), maps=True)
    assert outputs.maps is not None
    assert set(engine.contract.calibration.scale.values()) == {50.0}
    np.testing.assert_allclose(softmax(outputs.logits), logits.softmax(dim=1).numpy(), atol=PARITY_TOLERANCE)
    np.testing.assert_allclose(outputs.probabilities, softmax(50 * outputs.logits.astype(float)))
    np.testing.assert_allclose(outputs.embedding, embedding.numpy(), atol=1e-3)
    np.testing.assert_allclose(outputs.maps, maps.numpy(), atol=1e-3)


def test_the_graph_takes_bytes_and_normalises_itself(tiny_bundle: Path) -> None:
    graph = onnx.load(tiny_bundle / "model.onnx").graph
    image = graph.input[0].type.tensor_type
    assert image.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_param or d.dim_value for d in image.shape.dim][1:] == [1, TINY["size"], TINY["size"]]
    assert image.shape.dim[0].dim_param
    names = [output.name for output in graph.output]
    assert names == ["logits", "embedding", "activation_map", "gate", "distance"]
    assert not list(tiny_bundle.glob("*.data"))


def test_a_batch_gives_what_single_films_give(engine: Engine) -> None:
    films = [image_file(str(n), encode_jpeg(film("virus", patient=n))) for n in range(1, 20)]
    together = list(engine.predict_many(films))
    assert [each.image for each in together] == [each.name for each in films]
    for each, one in zip(films, together, strict=True):
        alone = engine.predict(each.read())
        for label, probability in alone.probabilities.items():
            assert one.probabilities[label] == pytest.approx(probability, abs=1e-5)


def test_a_prediction_has_the_documented_schema(engine: Engine) -> None:
    document = json.loads(json.dumps(engine.predict(FILM, name="a.jpeg").as_json()))
    keys = (
        "image status class label probabilities groups prediction_set coverage reasons reason_codes attention model "
        "milliseconds"
    )
    assert list(document) == keys.split(" ")
    assert document["image"] == "a.jpeg"
    assert document["status"] == "answered"
    assert ["bacteria", "normal", "virus"][document["class"]] == document["label"]
    assert list(document["probabilities"]) == ["bacteria", "normal", "virus"]
    assert sum(document["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert document["label"] == max(document["probabilities"], key=document["probabilities"].get)
    pneumonia = document["probabilities"]["bacteria"] + document["probabilities"]["virus"]
    assert document["groups"] == {"pneumonia": pytest.approx(pneumonia, abs=1e-5)}
    assert document["prediction_set"] == [document["label"]]
    assert document["coverage"] == 0.9
    assert document["reasons"] == document["reason_codes"] == []
    assert set(document["model"]) == {"name", "version", "sha256"}
    assert document["milliseconds"] > 0


def test_a_model_trained_on_drawings_says_so_with_every_decision(drawn_bundle: Path) -> None:
    """Such a model once answered a patient's film with virus, 99.8 %, without a warning."""
    films = [image_file("film", FILM), image_file("bad", b"hello")]
    good, bad = (each.as_json() for each in Engine.load(drawn_bundle).predict_many(films))
    assert good["reason_codes"] == ["trained-on-drawings"]
    assert "not on radiographs; its answer says nothing about a patient" in good["reasons"][0]
    assert bad["reason_codes"] == ["undecodable", "trained-on-drawings"]


def test_a_file_that_is_not_a_film_is_rejected_with_a_reason_and_the_rest_goes_on(engine: Engine) -> None:
    films = [image_file("bad", b"hello"), image_file("good", FILM), image_file("cut", FILM[:900])]
    bad, good, cut = engine.predict_many(films)
    assert [bad.status, good.status, cut.status] == ["rejected", "answered", "rejected"]
    document = bad.as_json()
    assert document["class"] is None
    assert document["label"] is None
    assert document["probabilities"] == {}
    assert document["groups"] == {}
    assert "not an accepted image" in document["reasons"][0]
    assert document["reason_codes"] == ["undecodable"]
    assert document["coverage"] is None
    assert bad.brightness is None
    assert set(bad.stages) == {"decode"}
    assert set(good.stages) == {"decode", "model"}
    assert good.brightness is not None
    assert 0 < good.brightness < 1


def test_a_film_is_decided_on_by_the_given_rule(engine: Engine) -> None:
    usual = engine.predict(FILM)
    assert engine.predict(FILM, rule=engine.rule(coverage=0.9)) == usual
    wide = engine.predict(FILM, rule=engine.rule(coverage=0.99))
    assert (wide.status, wide.label, wide.coverage) == ("abstained", None, 0.99)
    assert wide.prediction_set == engine.contract.classes
    assert wide.class_index is None
    assert wide.probabilities == usual.probabilities
    assert wide.reasons == ("at 99 % coverage the film may be bacteria, normal or virus.",)
    for point, label in (("sensitivity-0.95", "pneumonia"), ("specificity-0.95", "normal")):
        found = engine.predict(FILM, rule=engine.rule(operating_point=point))
        assert (found.status, found.label, found.coverage) == ("answered", label, None)
    with pytest.raises(UsageError, match=r"accepted: 0\.9 or 0\.99"):
        engine.rule(coverage=0.8)


def test_many_films_are_decided_on_by_one_rule(engine: Engine) -> None:
    films = [image_file(str(number), FILM) for number in range(20)]
    rule = engine.rule(coverage=0.99)
    assert {each.coverage for each in engine.predict_many(films, rule=rule)} == {0.99}
    assert {each.coverage for each in engine.predict_many(films)} == {0.9}


def test_probabilities_are_calibrated_class_by_class(own_bundle: Path) -> None:
    contract = load_contract(own_bundle)
    scale, bias = {"bacteria": 2.0, "normal": 0.5, "virus": 1.0}, {"bacteria": 0.1, "normal": -0.3, "virus": 0.2}
    calibration = contract.calibration.model_copy(update={"method": "vector", "scale": scale, "bias": bias})
    save_contract(contract.model_copy(update={"calibration": calibration}), own_bundle)
    prediction = Engine.load(own_bundle).predict(FILM)
    assert prediction.outputs is not None
    calibrated = prediction.outputs.logits.astype(float) * [2.0, 0.5, 1.0] + [0.1, -0.3, 0.2]
    np.testing.assert_allclose([*prediction.probabilities.values()], softmax(calibrated))


def test_the_same_film_in_every_encoding_gives_the_same_probabilities(engine: Engine) -> None:
    luma = film("virus", patient=5, size=(300, 300))
    grey = Image.fromarray(luma)
    deep = Image.fromarray((luma.astype(np.uint16) - luma.min()) * 257)
    stretched = np.rint((luma.astype(float) - luma.min()) * 255 / (int(luma.max()) - luma.min())).astype(np.uint8)
    expected = engine.predict(encode(grey)).probabilities
    assert expected
    for data in (encode(grey, "TIFF"), encode(grey.convert("RGB")), encode(grey.convert("RGBA"))):
        assert engine.predict(data).probabilities == expected
    from_deep = engine.predict(encode(deep)).probabilities
    assert from_deep == engine.predict(encode(Image.fromarray(stretched))).probabilities


@pytest.mark.parametrize("syntax", dicoms.EXACT)
def test_the_same_film_as_dicom_and_as_png_gives_the_same_probabilities(engine: Engine, syntax: str) -> None:
    luma = film("bacteria", patient=4, size=(300, 320))
    deep = (luma.astype(np.uint16) - luma.min()) * 16
    for values, negative in ((luma, 255 - luma), (deep, deep.max() - deep)):
        expected = engine.predict(encode(Image.fromarray(values)))
        bits = 8 if values.dtype == np.uint8 else 12
        upright = engine.predict(dicoms.dicom(values, syntax, BitsStored=bits))
        inverted = engine.predict(
            dicoms.dicom(negative, syntax, BitsStored=bits, PhotometricInterpretation="MONOCHROME1")
        )
        assert expected.status != "rejected"
        assert upright.probabilities == expected.probabilities
        assert inverted.probabilities == expected.probabilities


def test_a_dicom_files_notes_and_age_are_among_the_reasons(engine: Engine) -> None:
    luma = film("bacteria", patient=4, size=(300, 320))
    prediction = engine.predict(dicoms.dicom(luma, PatientAge="034Y", Modality=None))
    assert prediction.status != "rejected"
    assert any("34 years old; the model was trained on ages 1 to 5" in reason for reason in prediction.reasons)
    assert any("does not state its modality" in reason for reason in prediction.reasons)
    assert (
        engine.predict(dicoms.dicom(luma, PatientAge="003Y")).reasons
        == engine.predict(encode(Image.fromarray(luma))).reasons
    )
    lateral = engine.predict(dicoms.dicom(luma, ViewPosition="LL"))
    assert lateral.status == "rejected"
    assert "lateral" in lateral.reasons[0]


def test_predicting_is_lazy_and_bounded(engine: Engine) -> None:
    taken = 0

    def endless() -> Iterator[ImageFile]:
        nonlocal taken
        while True:
            taken += 1
            yield image_file("", FILM)

    predictions = engine.predict_many(endless())
    for _ in range(20):
        next(predictions)
    assert taken <= 20 + 32
    predictions.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("where", ["source", "read"])
def test_films_before_an_error_are_answered_first(engine: Engine, where: str) -> None:
    def unreadable() -> bytes:
        raise RuntimeError("out of films")

    def some() -> Iterator[ImageFile]:
        for number in range(11):
            yield image_file(str(number), FILM)
        if where == "source":
            raise RuntimeError("out of films")
        yield ImageFile(name="bad", read=unreadable)
        yield image_file("after", FILM)

    names = list[str]()
    with pytest.raises(RuntimeError, match="out of films"):
        names.extend(prediction.image for prediction in engine.predict_many(some()))
    assert names == [str(number) for number in range(11)]


def test_several_threads_may_use_one_engine(engine: Engine) -> None:
    expected = engine.predict(FILM).probabilities
    found = []
    threads = [threading.Thread(target=lambda: found.append(engine.predict(FILM).probabilities)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 6


def test_predict_requires_bytes_and_load_accepts_a_string(tiny_bundle: Path) -> None:
    with pytest.raises(TypeError, match="takes the bytes of an image file, got str"):
        Engine.load(str(tiny_bundle)).predict("film.jpeg")  # type: ignore[arg-type]


def test_limits_reach_the_decoder(tiny_bundle: Path) -> None:
    prediction = Engine.load(tiny_bundle, limits=Limits(max_pixels=1000)).predict(FILM)
    assert "at most 1,000" in prediction.reasons[0]


def test_run_checks_dtype_and_shape(engine: Engine) -> None:
    for images in (
        np.zeros((1, 1, 48, 48), np.float32),
        np.zeros((1, 48, 48), np.uint8),
        np.zeros((1, 3, 48, 48), np.uint8),
    ):
        with pytest.raises(ValueError, match="expected uint8"):
            engine.run(images)  # type: ignore[arg-type]


def test_the_map_is_exact(engine: Engine, tiny_run: Path, dataset: Dataset) -> None:
    """The mean of a class's map plus the classifier's bias is its logit."""
    images = np.stack([load_input(dataset.read(each), engine.contract.input) for each in dataset.split("val")])
    network = load_network(tiny_run)
    with torch.no_grad():
        logits = network(torch.from_numpy(images)).numpy()
    bias = network.body.get_classifier().bias.detach().numpy()
    maps = engine.run(images).maps
    assert maps is not None
    np.testing.assert_allclose(maps.mean(axis=(2, 3)) + bias, logits, atol=1e-4)


def test_random_weights_give_another_map(tiny_run: Path, dataset: Dataset) -> None:
    """Adebayo et al. 2018: a map that does not depend on the weights explains nothing."""
    from pneumoscope.backbone import build

    def centred(values: torch.Tensor) -> torch.Tensor:
        return values - values.mean(dim=2, keepdim=True)

    images = torch.from_numpy(
        np.stack([load_input(dataset.read(each), InputRule.squash(TINY["size"])) for each in dataset.split("val")[:8]])
    )
    trained = load_network(tiny_run)
    torch.manual_seed(7)
    random = build(TINY["arch"], classes=3, size=TINY["size"])[0].eval()
    with torch.no_grad():
        maps, others = trained.outputs(images, maps=True)[3].flatten(2), random.outputs(images, maps=True)[3].flatten(2)
    alike = torch.nn.functional.cosine_similarity(centred(maps), centred(others), dim=2)
    assert alike.mean().abs() < 0.5
    assert not torch.allclose(maps, others, rtol=0.1)


def test_only_an_available_provider_is_accepted(tiny_bundle: Path) -> None:
    assert Engine.load(tiny_bundle, provider="cpu").predict(FILM).probabilities
    with pytest.raises(
        UsageError, match=r"provider 'cuda' is not in this ONNX Runtime, which has: .*cpu.*onnxruntime-gpu"
    ):
        Engine.load(tiny_bundle, provider="cuda")


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["engine", "report", "dataset", "imaging", "metrics", "contract", "archive", "phantom", "cli"]
)
def test_inference_never_imports_torch(module: str) -> None:
    code = (
        f"import sys, pneumoscope.{module};"
        "heavy = {'torch', 'timm', 'lightning', 'torchvision', 'sklearn', 'matplotlib'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_predicting_never_imports_torch(tiny_bundle: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pneumoscope.engine import verify;"
        f"assert verify(Path({str(tiny_bundle)!r})).cases == 8; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_damaged_files_of_every_kind_get_a_prediction(tiny_bundle: Path) -> None:
    """In a separate process, since the codecs are native code; the full run is `--cases 20000`."""
    script = REPOSITORY / "tests" / "damage.py"
    done = subprocess.run(
        [sys.executable, str(script), "--bundle", str(tiny_bundle), "--cases", "1500", "--seed", "7"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = json.loads(done.stdout)
    assert outcomes["answered"] + outcomes.get("abstained", 0) + outcomes["rejected"] == 1500
    assert min(outcomes["answered"], outcomes["rejected"]) > 100


def test_the_input_rule_is_the_default_one_at_the_runs_size(engine: Engine) -> None:
    assert engine.contract.input == InputRule.squash(int(TINY["size"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny_bundle", "drawn_bundle"])
def test_a_rejection_outside_the_engine_has_the_same_keys(request: pytest.FixtureRequest, name: str) -> None:
    engine = Engine.load(request.getfixturevalue(name))
    own = engine.predict(b"text", name="a.png")
    same = rejection(engine.contract, own.reason_codes[0], own.reasons[0], image="a.png")
    assert same == own
    assert list(same.as_json()) == list(own.as_json())
    unknown = rejection(None, "unreadable", "the file cannot be read.").as_json()
    assert list(unknown) == list(own.as_json())
    assert set(unknown["model"].values()) == {""}
