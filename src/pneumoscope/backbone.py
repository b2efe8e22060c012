"""Networks by timm's names, with one grey input channel and normalisation inside."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from pneumoscope.contract import GREY_IMAGENET, Normalisation
from pneumoscope.errors import UsageError, WeightsError

IMAGENET, NONE = "imagenet", "none"
_CAPSTONE_VGG = "vgg19_bn"
_HUB_FILE = "model.safetensors"
# torchvision keeps VGG's hidden layers as `classifier`; timm keeps them as convolutions.
_TORCHVISION_VGG = {"classifier.0.": "pre_logits.fc1.", "classifier.3.": "pre_logits.fc2.", "classifier.6.": "head.fc."}
_WRAPPERS = ("state_dict", "model", "model_state")
_PREFIXES = ("network.", "module.", "model.", "body.")


@dataclass(frozen=True, kw_only=True)
class WeightsAccount:
    """What happened to a file of weights."""

    source: str
    loaded: tuple[str, ...]
    summed: tuple[str, ...]
    left_random: tuple[str, ...]
    not_used: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded from {self.source}"]
        if self.summed:
            parts.append(f"{', '.join(self.summed)} summed over its colour channels")
        if self.left_random:
            parts.append(f"{len(self.left_random)} left at random ({_few(self.left_random)})")
        if self.not_used:
            parts.append(f"{len(self.not_used)} of the file not used ({_few(self.not_used)})")
        return "; ".join(parts)


class Network(nn.Module):
    """`uint8 [N, 1, S, S]` → logits `float [N, C]`.

    `body` is timm's network; `second_head` is the capstone's second head for `vgg19_bn` and empty for
    every other network. Modules named in `frozen` keep their weights and batch-norm statistics.
    """

    body: Any  # timm's interface is not typed
    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, second_head: nn.Sequential, normalisation: Normalisation) -> None:
        super().__init__()
        self.body = body
        self.second_head = second_head
        self.frozen: list[nn.Module] = []
        self.register_buffer("mean", torch.tensor(normalisation.mean), persistent=False)
        self.register_buffer("std", torch.tensor(normalisation.std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.second_head(self.body(self.normalise(images)))
        return logits

    def forward_with_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[N, C]` and the input of the last linear layer, `[N, D]`."""
        images = self.normalise(images)
        if len(self.second_head):
            embedding = self.second_head[:-1](self.body(images))
            logits: Tensor = self.second_head[-1](embedding)
            return logits, embedding
        features = self.body.forward_features(images)
        embedding = self.body.forward_head(features, pre_logits=True)
        return self.body.forward_head(features), embedding.flatten(1)

    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, embedding and class-activation maps `[N, C, h, w]` of a network that has `exact_maps`."""
        features = self.body.forward_features(self.normalise(images))
        embedding = self.body.forward_head(features, pre_logits=True)
        weight = self.body.get_classifier().weight
        maps = nn.functional.conv2d(features, weight[:, :, None, None])
        return self.body.forward_head(features), embedding.flatten(1), maps

    def exact_maps(self, size: int) -> tuple[int, int] | None:
        """Height and width of the class-activation maps of inputs of this size, if the network has exact ones.

        It has them if its logits are one linear layer of the spatial mean of its last features (Zhou et
        al. 2016, arXiv:1512.04150), which is tried out on noise: the mean of a map is then a logit less
        its bias.
        """
        classifier = self.body.get_classifier()
        if len(self.second_head) or not isinstance(classifier, nn.Linear):
            return None
        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(0, 256, (2, 1, size, size), generator=generator, dtype=torch.uint8)
        with torch.no_grad():
            features = self.body.forward_features(self.normalise(noise))
            if features.ndim != 4 or features.shape[1] != classifier.in_features:
                return None
            logits, expected = self.body.forward_head(features), classifier(features.mean(dim=(2, 3)))
        exact = torch.allclose(logits, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max() + 1))
        return (features.shape[2], features.shape[3]) if exact else None

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels 0 to 255 of any dtype to `(pixel / 255 - mean) / std`."""
        return (images.to(self.mean.dtype) / 255 - self.mean) / self.std

    def freeze_features(self) -> None:
        """Freeze the feature extractor: VGG's convolutions, otherwise all but the classifier."""
        extractor = self.body.features if len(self.second_head) else self.body
        classifier = self.body.get_classifier()
        kept = set(classifier.modules())
        self.frozen = [module for module in extractor.modules() if _is_leaf(module) and module not in kept]
        for parameter in extractor.parameters():
            parameter.requires_grad = False
        for parameter in classifier.parameters():
            parameter.requires_grad = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "Network":  # noqa: FBT001, FBT002 (torch's signature)
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self


def build(
    arch: str,
    *,
    classes: int,
    size: int,
    weights: str = NONE,
    freeze: bool = False,
    normalisation: Normalisation = GREY_IMAGENET,
) -> tuple[Network, WeightsAccount | None]:
    """Build a network and load its initial weights.

    `vgg19_bn` keeps its 1000 outputs, followed by ReLU, Dropout(0.5) and Linear(1000, classes), and
    torchvision's dropout of 0.5 between its hidden layers. Every other network has timm's own
    classifier with `classes` outputs (`resnet50`: Linear(2048, classes)).

    A first convolution for three channels becomes one for one channel by summing its weights, which
    is exact because all channels of a grey film are equal and normalised alike.

    Args:
        arch: a timm model name.
        classes: number of outputs, at least 2.
        size: side of the square input, for networks that fix it when built (vision transformers).
        weights: `imagenet`, `none`, or a path to a safetensors file or a torch state dict.
        freeze: see `Network.freeze_features`.
        normalisation: applied inside the network.

    Raises:
        UsageError: timm has no such network, or it has no single linear classifier.
        WeightsError: the weights cannot be fetched, read, or matched.
    """
    if not timm.is_model(arch):
        near = ", ".join(timm.list_models(f"*{arch[:6]}*")[:5])
        hint = f"similar names: {near}" if near else "timm.list_models() lists them"
        raise UsageError(f"--arch {arch!r} is not a timm network; {hint}.")
    body = _body(arch, classes, size, pretrained=weights == IMAGENET)
    if not isinstance(body.get_classifier(), nn.Module):
        raise UsageError(f"--arch {arch!r} has several classifiers; choose a network with one.")
    second_head = nn.Sequential()
    if arch == _CAPSTONE_VGG:
        second_head = nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.Linear(1000, classes))
    network = Network(body, second_head, normalisation)
    account = load_weights(network, Path(weights)) if weights not in (IMAGENET, NONE) else None
    if freeze:
        network.freeze_features()
    return network, account


def load_weights(network: Network, path: Path) -> WeightsAccount:
    """Load what fits of a file of weights into a network, and say what did not.

    Accepted are safetensors and torch state dicts (loaded without running any code in them), bare or
    under `state_dict`/`model`, with timm's or torchvision's names.

    Raises:
        WeightsError: unreadable, or less than half of the network fits.
    """
    state = _rename(_read_state(path), set(network.state_dict()))
    wanted = network.state_dict()
    fitting: dict[str, Tensor] = {}
    summed, not_used = [], []
    for name, tensor in state.items():
        if name in wanted and (fitted := _fit(tensor, wanted[name])) is not None:
            fitting[name] = fitted
            if fitted.shape != tensor.shape and fitted.numel() != tensor.numel():
                summed.append(name)
        else:
            not_used.append(name)
    body = [name for name in wanted if name.startswith("body.")]
    if sum(name in fitting for name in body) * 2 < len(body):
        raise WeightsError(
            f"{path} does not fit this network: {len(fitting)} of {len(wanted)} tensors match by name and shape; "
            "check --arch against the network the file was made with."
        )
    network.load_state_dict(fitting, strict=False)
    return WeightsAccount(
        source=path.name,
        loaded=tuple(fitting),
        summed=tuple(summed),
        left_random=tuple(name for name in wanted if name not in fitting and not name.endswith("num_batches_tracked")),
        not_used=tuple(not_used),
    )


def _body(arch: str, classes: int, size: int, *, pretrained: bool) -> Any:
    options = {"num_classes": 1000, "drop_rate": 0.5} if arch == _CAPSTONE_VGG else {"num_classes": classes}
    published = timm.get_pretrained_cfg(arch)
    if published is not None and published.fixed_input_size:
        options["img_size"] = size
    if pretrained and published is not None and published.hf_hub_id:
        _require_reachable(arch, published.hf_hub_id)
    try:
        return timm.create_model(arch, pretrained=pretrained, in_chans=1, **options)
    except (OSError, RuntimeError, ValueError, AssertionError) as failure:
        if pretrained:
            raise WeightsError(_how_to_get(arch)) from failure
        raise UsageError(f"--arch {arch} cannot be built for --size {size} ({failure}); try 224.") from failure


def _require_reachable(arch: str, repository: str) -> None:
    """Ask the hub once; left alone, its client retries for most of a minute when offline."""
    from huggingface_hub import get_session, hf_hub_url, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(repository, _HUB_FILE), str):
        return
    try:
        get_session().head(hf_hub_url(repository, _HUB_FILE), follow_redirects=True, timeout=10)
    except Exception as failure:
        raise WeightsError(_how_to_get(arch)) from failure


def _how_to_get(arch: str) -> str:
    """What to do when published weights cannot be fetched."""
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


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"--weights {path}: no such file; give {IMAGENET!r}, {NONE!r} or a file of weights.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as failure:
        raise WeightsError(
            f"--weights {path} is neither safetensors nor a plain torch state dict ({type(failure).__name__}); "
            "save the network's state_dict() and give that."
        ) from failure
    return _unwrap(loaded, path)


def _unwrap(loaded: object, path: Path) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError(f"--weights {path} holds no state dict; save the network's state_dict() and give that.")
    return {str(name): tensor for name, tensor in loaded.items()}


def _rename(state: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Our names for the tensors of a file that uses timm's or torchvision's."""
    renamed = {}
    for name, tensor in state.items():
        ours = name
        if ours not in wanted:
            for prefix in _PREFIXES:
                ours = ours.removeprefix(prefix)
            for theirs, timms in _TORCHVISION_VGG.items():
                if ours.startswith(theirs) and f"body.{timms}weight" in wanted:
                    ours = ours.replace(theirs, timms)
            ours = f"body.{ours}"
        renamed[ours if ours in wanted else name] = tensor
    return renamed


def _fit(tensor: Tensor, wanted: Tensor) -> Tensor | None:
    """The tensor in the wanted shape: as it is, a linear layer as a convolution, or colours summed."""
    if tensor.shape == wanted.shape:
        return tensor
    if tensor.ndim == 2 and wanted.ndim == 4 and tensor.numel() == wanted.numel():
        return tensor.reshape(wanted.shape)
    if tensor.ndim == wanted.ndim == 4 and tensor.shape[1] == 3 and wanted.shape[1] == 1:
        adapted = adapt_input_conv(1, tensor)
        return adapted if adapted.shape == wanted.shape else None
    return None


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _few(names: Iterable[str], most: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (", …" if len(listed) > most else "")
