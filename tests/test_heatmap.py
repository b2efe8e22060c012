import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from pneumoscope.cli.app import app
from pneumoscope.contract import DISCLAIMER
from pneumoscope.engine import Engine, ImageFile, Prediction
from pneumoscope.errors import ImageError, PneumoscopeError, UsageError
from pneumoscope.explain import Explainer, last_features
from pneumoscope.heatmap import LONGEST_SIDE, HeatmapContent, content_of_prediction, draw, strength
from pneumoscope.imaging import raster
from pneumoscope.metrics import softmax
from pneumoscope.phantom import encode_jpeg, film
from pneumoscope.server.app import create_app
from pneumoscope.settings.serve import ServeConfig

FILM = encode_jpeg(film("bacteria", patient=1, size=(300, 360)))


def picture_of(activation: np.ndarray, luma: np.ndarray | None = None) -> np.ndarray:
    luma = film("virus", patient=2, size=(600, 700)) if luma is None else luma
    data = draw(HeatmapContent(luma=luma, activation=activation.astype(np.float32), label="virus", lines=("words",)))
    with Image.open(BytesIO(data)) as picture:
        assert picture.format == "PNG"
        assert picture.mode == "RGB"
        return np.asarray(picture)


def test_colour_is_where_the_map_is_high_and_nowhere_else() -> None:
    activation = np.full((7, 7), -1.0)
    activation[1, 5] = 4
    picture = picture_of(activation)[:600].astype(int)
    colour = picture.max(axis=2) - picture.min(axis=2)
    row, column = np.unravel_index(colour.argmax(), colour.shape)
    assert row * 7 // 600 == 1
    assert column * 7 // 700 == 5
    assert colour[300:, :350].max() == 0  # the film itself, grey
    np.testing.assert_array_equal(picture[300:, :350, 0], film("virus", patient=2, size=(600, 700))[300:, :350])


def test_a_map_without_a_positive_part_leaves_the_film_grey() -> None:
    picture = picture_of(-np.ones((7, 7)))[:600]
    assert (picture.max(axis=2) == picture.min(axis=2)).all()
    assert strength(-np.ones((2, 2), np.float32)).max() == 0


@pytest.mark.parametrize("size", [(2000, 900), (900, 2400), (60, 40), (16, 700)])
def test_a_picture_is_of_limited_size_and_the_text_has_room(size: tuple[int, int]) -> None:
    luma = np.tile(np.linspace(0, 255, size[1]).astype(np.uint8), (size[0], 1))
    picture = picture_of(np.ones((7, 7)), luma)
    assert max(picture.shape[0] - 100, picture.shape[1]) <= LONGEST_SIDE
    assert picture.shape[1] >= 580


def predict_with_film(bundle: Path, data: bytes) -> Prediction:
    """A prediction that keeps its film."""
    film = ImageFile(name="", read=lambda: data)
    return next(Engine.load(bundle).predict_many([film], picture_side=LONGEST_SIDE))


def test_a_picture_of_a_prediction_names_the_class_and_has_the_disclaimer(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import ImageDraw

    written: list[str] = []
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda _pen, _place, text, *_more, **_options: written.append(text)
    )
    prediction = predict_with_film(tiny_bundle, FILM)
    assert prediction.attention is not None
    explained = content_of_prediction(prediction)
    assert explained is not None
    draw(explained)
    assert DISCLAIMER in written
    assert any(f"what speaks for {prediction.attention.label}" in line for line in written)
    assert any(line.startswith(prediction.status) for line in written)


def test_a_rejected_film_has_no_picture(tiny_bundle: Path) -> None:
    assert content_of_prediction(predict_with_film(tiny_bundle, b"no film")) is None
    assert content_of_prediction(Engine.load(tiny_bundle).predict(FILM)) is None, "the film was not kept"


def test_grad_cam_of_a_network_that_ends_in_a_mean_is_its_exact_map(tiny_run: Path, tiny_bundle: Path) -> None:
    """For these networks the gradient of a logit is the classifier's weight divided by the number of positions.

    Selvaraju et al. 2017, section 3.1.
    """
    prediction = Engine.load(tiny_bundle).predict(FILM)
    assert prediction.maps is not None
    for index, label in enumerate(prediction.classes):
        found = Explainer(tiny_run).explain(FILM, label=label)
        exact = np.clip(prediction.maps[index], 0, None)
        np.testing.assert_allclose(found.activation * exact.size, exact, atol=1e-3)
        assert prediction.outputs is not None
        np.testing.assert_allclose([*found.probabilities.values()], softmax(prediction.outputs.logits), atol=1e-4)
    top = Explainer(tiny_run).explain(FILM)
    assert prediction.attention is not None
    assert top.label == prediction.attention.label
    assert top.attention.border == pytest.approx(prediction.attention.border, abs=1e-3)


def test_grad_cam_changes_with_the_weights(tiny_run: Path) -> None:
    """Randomised weights must give another map: the sanity check of Adebayo et al. 2018."""
    explainer = Explainer(tiny_run)
    before = [explainer.explain(FILM, label=label).activation for label in explainer.classes]
    torch.manual_seed(5)
    for parameter in explainer.network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    after = [explainer.explain(FILM, label=label).activation for label in explainer.classes]
    assert not np.allclose(np.stack(before), np.stack(after), rtol=0.2)


@pytest.mark.slow
def test_vgg_is_explained_before_its_last_pooling() -> None:
    from pneumoscope.backbone import build

    network = build("vgg19_bn", classes=3, size=64)[0].eval()
    assert isinstance(last_features(network, 64), torch.nn.ReLU)
    assert network.exact_maps(64) is None


@pytest.mark.parametrize("arch", ["test_convnext", "test_efficientnet", "resnet18"])
def test_other_families_have_features_to_map(arch: str) -> None:
    from pneumoscope.backbone import build

    network = build(arch, classes=3, size=64)[0].eval()
    module, shapes = last_features(network, 64), []
    module.register_forward_hook(lambda *values: shapes.append(values[-1].shape))
    with torch.inference_mode():
        network(torch.zeros(1, 1, 64, 64))
    channels, height, width = shapes[0][1:]
    assert channels >= 64
    assert height == width == 2


def test_a_transformer_is_not_explained() -> None:
    from pneumoscope.backbone import build

    with pytest.raises(UsageError, match="no convolutional features"):
        last_features(build("test_vit", classes=3, size=160)[0].eval(), 160)


def test_explaining_refuses_unknown_classes_and_bad_films(tiny_run: Path) -> None:
    explainer = Explainer(tiny_run)
    with pytest.raises(UsageError, match="'cat' is not one of the model's: bacteria, normal, virus"):
        explainer.explain(FILM, label="cat")
    with pytest.raises(ImageError, match="not an accepted image"):
        explainer.explain(b"no film")


def test_predict_writes_one_picture_per_film(
    command: Callable[..., SimpleNamespace], tiny_bundle: Path, tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        (tmp_path / "films" / folder).mkdir(parents=True)
        (tmp_path / "films" / folder / "one.jpeg").write_bytes(FILM)
    (tmp_path / "films" / "b" / "zero.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = command(
        "predict", "--bundle", tiny_bundle, tmp_path / "films", "--heatmap", tmp_path / "maps", "--format", "json"
    )
    assert done.code == 1
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["status"] == "rejected" for line in lines] == [False, False, True]
    assert all(0 <= line["attention"]["border"] <= 1 for line in lines[:2] if line["attention"]["border"] is not None)
    assert lines[2]["attention"] is None
    pictures = sorted(path.relative_to(tmp_path / "maps") for path in (tmp_path / "maps").rglob("*.png"))
    assert pictures == [Path("a/one.jpeg.map.png"), Path("b/one.jpeg.map.png")]


def test_pictures_never_replace_films_or_each_other(
    command: Callable[..., SimpleNamespace], tiny_bundle: Path, tmp_path: Path
) -> None:
    films = tmp_path / "films"
    for name in ("x.jpeg", "x~2.jpeg", "sub/x.jpeg", "x.png"):
        (films / name).parent.mkdir(parents=True, exist_ok=True)
        (films / name).write_bytes(FILM)
    (tmp_path / "x.jpeg").write_bytes(FILM)
    for folder in (films, films / "maps", films / "sub"):
        done = command("predict", "--bundle", tiny_bundle, films, "--heatmap", folder)
        assert done.code == 2
        assert "whose films are read" in done.err
    assert all(path.read_bytes() == FILM for path in films.rglob("*.*"))
    done = command(
        "predict", "--bundle", tiny_bundle, films, tmp_path / "x.jpeg", films / "x.jpeg", "--heatmap", tmp_path
    )
    assert done.code == 0, done.err
    assert len(list(tmp_path.rglob("*.map.png"))) == 6
    assert (tmp_path / "x.jpeg").read_bytes() == FILM
    again = command("predict", "--bundle", tiny_bundle, tmp_path, "--format", "csv")
    assert ".map.png" not in again.out


def test_a_picture_that_cannot_be_written_does_not_stop_predict(
    command: Callable[..., SimpleNamespace], tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "films").mkdir()
    for name in ("a" * 244 + ".jpeg", "b.jpeg"):
        (tmp_path / "films" / name).write_bytes(FILM)
    done = command(
        "predict", "--bundle", tiny_bundle, tmp_path / "films", "--heatmap", tmp_path / "maps", "--format", "json"
    )
    assert done.code == 1
    assert len(done.out.splitlines()) == 2
    assert "no picture of" in done.err
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["b.jpeg.map.png"]


def test_an_unusable_folder_for_pictures_is_refused_before_a_film_is_read(
    command: Callable[..., SimpleNamespace], tiny_bundle: Path, tmp_path: Path
) -> None:
    film = tmp_path / "film.jpeg"
    film.write_bytes(FILM)
    done = command("predict", "--bundle", tiny_bundle, film, "--heatmap", film / "maps")
    assert done.code == 2
    assert done.out == ""
    assert (
        done.err == f"error: pictures cannot go to {film / 'maps'}: it cannot be made or written to; choose another.\n"
    )
    assert command("predict", "--bundle", tiny_bundle, film, "--heatmap", tmp_path / ("a" * 300)).code == 2


def test_explain_writes_pictures_and_json(
    command: Callable[..., SimpleNamespace], tiny_run: Path, tmp_path: Path
) -> None:
    films = tmp_path / "films"
    films.mkdir()
    (films / "film.jpeg").write_bytes(FILM)
    (films / "note.png").write_text("no film")
    done = command("explain", tiny_run, films, "--out", tmp_path / "maps", "--class", "virus")
    assert done.code == 1
    assert "note.png: not an accepted image" in done.err
    (line,) = map(json.loads, done.out.splitlines())
    assert line["method"] == "grad-cam"
    assert line["attention"]["class"] == "virus"
    assert Path(line["picture"]).read_bytes().startswith(b"\x89PNG")
    refused = command("explain", tiny_run, films / "film.jpeg", "--out", tmp_path / "maps", "--class", "cat")
    assert refused.code == 2
    assert refused.err.count("\n") == 1


def test_a_model_without_maps_points_to_explain(
    command: Callable[..., SimpleNamespace], own_bundle: Path, tmp_path: Path
) -> None:
    from pneumoscope.contract import load_contract, save_contract

    save_contract(load_contract(own_bundle).model_copy(update={"activation_map": None}), own_bundle)
    (tmp_path / "film.jpeg").write_bytes(FILM)
    done = command("predict", "--bundle", own_bundle, tmp_path / "film.jpeg", "--heatmap", tmp_path / "maps")
    assert done.code == 2
    assert "pneumoscope explain RUN IMAGE --out DIR" in done.err
    assert not (tmp_path / "maps").exists()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of each raster file that has been decoded so far."""
    lengths: list[int] = []
    read = raster.read

    def counted(data: bytes, *more: Any) -> Any:
        lengths.append(len(data))
        return read(data, *more)

    monkeypatch.setattr(raster, "read", counted)
    return lengths


def test_predict_with_pictures_decodes_each_film_once(tiny_bundle: Path, tmp_path: Path, decoded: list[int]) -> None:
    names = ["a.jpeg", "b.jpeg", "c.jpeg"]
    (tmp_path / "films").mkdir()
    for name in names:
        (tmp_path / "films" / name).write_bytes(FILM)
    arguments = ["predict", str(tmp_path / "films"), "--bundle", str(tiny_bundle), "--heatmap", str(tmp_path / "maps")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [f"{name}.map.png" for name in names]
    assert decoded == [len(FILM)] * 3


def test_a_posted_film_is_decoded_once_with_overlay_and_preview(tiny_bundle: Path, decoded: list[int]) -> None:
    def fail(failure: PneumoscopeError) -> None:
        raise failure

    service = create_app(ServeConfig(bundle=tiny_bundle), on_failure=fail, ready_first=True)
    with TestClient(service) as client:
        decoded.clear()  # of the golden cases
        params = {"heatmap": "overlay", "preview": "true"}
        response = client.post("/v1/predictions", content=FILM, params=params, headers={"Content-Type": "image/jpeg"})
        assert response.json()["overlay"]
        assert response.json()["preview"]
        plain = client.post("/v1/predictions", content=FILM, headers={"Content-Type": "image/jpeg"}).json()
    assert decoded == [len(FILM)] * 2
    assert response.json()["probabilities"] == plain["probabilities"]
