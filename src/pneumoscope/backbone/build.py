"""Networks by their timm names, with one grey input channel, initial weights, and normalisation inside."""

from pathlib import Path
from typing import Any

import timm
from torch import nn

from pneumoscope.backbone.network import Network
from pneumoscope.backbone.pretrained import fetch_state, published_normalisation
from pneumoscope.backbone.weights import WeightsReport, load_state, load_weights
from pneumoscope.contract import GREY_IMAGENET, Normalisation
from pneumoscope.errors import UsageError

IMAGENET, NONE = "imagenet", "none"
_CAPSTONE_VGG = "vgg19_bn"


def build(
    arch: str,
    *,
    classes: int,
    size: int,
    weights: str = NONE,
    freeze: bool = False,
    normalisation: Normalisation | None = None,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    low_pass: int = 1,
    eval_low_pass: int | None = None,
) -> tuple[Network, WeightsReport | None]:
    """Build a network and load its initial weights.

    `vgg19_bn` keeps its 1000 outputs, followed by ReLU, Dropout(0.5) and Linear(1000, classes), and
    torchvision's dropout of 0.5 between its hidden layers. Every other network has timm's own
    classifier with `classes` outputs (`resnet50`: Linear(2048, classes)).

    The first convolution's weights for three channels are summed into weights for one. That is exact,
    because all channels of a grey film are equal and normalised alike.

    Args:
        arch: a timm model name.
        classes: number of outputs, at least 2.
        size: side of the square input, for networks that fix it when built (vision transformers).
        weights: `imagenet`, `none`, or a path to a safetensors file or a torch state dict.
        freeze: see `Network.freeze_features`.
        normalisation: applied inside the network; by default the one that the network's published weights expect,
            or ImageNet's with random weights.
        dropout: share of the classifier's inputs that is dropped while training.
        drop_path: share of residual branches that is dropped in the last block while training (stochastic depth).
        low_pass: taps of the binomial filter before the first layer, odd; 1 for none.
        eval_low_pass: its taps in evaluation mode; by default the same.

    Raises:
        UsageError: timm has no such network, or the network cannot be built for this size, has several classifiers or
            lacks an option.
        WeightsError: the weights cannot be fetched, read, or matched.
    """
    if not timm.is_model(arch):
        near = ", ".join(timm.list_models(f"*{arch[:6]}*")[:5])
        hint = f"similar names: {near}" if near else "timm.list_models() lists them"
        raise UsageError(f"--arch {arch!r} is not a timm network; {hint}.")
    fixed = _fixed_options(arch, size)
    body = _body(arch, size, fixed | _head_options(arch, classes, dropout, drop_path))
    if not isinstance(body.get_classifier(), nn.Module):
        raise UsageError(f"--arch {arch!r} has several classifiers; choose a network with one.")
    second_head = nn.Sequential()
    if arch == _CAPSTONE_VGG:
        second_head = nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.Linear(1000, classes))
    if normalisation is None:
        normalisation = normalisation_of(arch, weights)
    network = Network(body, second_head, normalisation, low_pass, eval_low_pass)
    report = _load(network, arch, weights, fixed)
    if freeze:
        network.freeze_features()
    return network, report


def normalisation_of(arch: str, weights: str) -> Normalisation:
    """What a network's weights expect: the published normalisation, or ImageNet's for random ones."""
    return GREY_IMAGENET if weights == NONE else published_normalisation(arch)


def _load(network: Network, arch: str, weights: str, fixed: dict[str, Any]) -> WeightsReport | None:
    if weights == NONE:
        return None
    if weights == IMAGENET:
        state, source = fetch_state(arch, fixed)
        return load_state(network, state, source=source)
    return load_weights(network, Path(weights))


def _fixed_options(arch: str, size: int) -> dict[str, Any]:
    """Options of the network on which the shapes of its weights depend."""
    published = timm.get_pretrained_cfg(arch)
    return {"img_size": size} if published is not None and published.fixed_input_size else {}


def _head_options(arch: str, classes: int, dropout: float, drop_path: float) -> dict[str, Any]:
    if arch == _CAPSTONE_VGG:
        if dropout or drop_path:
            raise UsageError(f"--arch {arch} has the capstone's dropout of 0.5; leave dropout and drop_path out.")
        return {"num_classes": 1000, "drop_rate": 0.5}
    stochastic = {"drop_path_rate": drop_path} if drop_path else {}  # not every network has the option
    return {"num_classes": classes} | ({"drop_rate": dropout} if dropout else {}) | stochastic


def _body(arch: str, size: int, options: dict[str, Any]) -> Any:
    try:
        return timm.create_model(arch, in_chans=1, **options)
    except (OSError, RuntimeError, ValueError, AssertionError) as failure:
        raise UsageError(f"--arch {arch} cannot be built for --size {size} ({failure}); try 224.") from failure
    except TypeError as failure:
        raise UsageError(f"--arch {arch} has no such option ({failure}); leave dropout or drop_path out.") from failure
