"""Initial weights: read from a file or a state dict, renamed, fitted to a network, and reported."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from pneumoscope.errors import WeightsError

# torchvision keeps VGG's hidden layers as `classifier`; timm keeps them as convolutions.
_TORCHVISION_VGG = {"classifier.0.": "pre_logits.fc1.", "classifier.3.": "pre_logits.fc2.", "classifier.6.": "head.fc."}
# Keys under which checkpoints store a state dict, and prefixes that training wrappers put before its names.
_WRAPPERS = ("state_dict", "model", "model_state")
_PREFIXES = ("network.", "module.", "model.", "body.")
_COUNTER = "num_batches_tracked"  # of batch norm: not a weight, so never reported as random or as not used
# efficientnet_pytorch's names → timm's: outside the blocks, in blocks with an expansion, and in blocks without.
_AROUND = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_SQUEEZE = {"_depthwise_conv": "conv_dw", "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_NORMS = {"_bn0": "bn1", "_bn1": "bn2", "_bn2": "bn3"}
_EXPANDING = _SQUEEZE | _NORMS | {"_expand_conv": "conv_pw", "_project_conv": "conv_pwl"}
_PLAIN = _SQUEEZE | {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


@dataclass(frozen=True, kw_only=True)
class WeightsReport:
    """Which tensors of published weights, or of a file of weights, a network has loaded."""

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
            parts.append(f"{len(self.left_random)} keep their random values ({_abbreviate(self.left_random)})")
        if self.not_used:
            parts.append(f"{len(self.not_used)} of its tensors not used ({_abbreviate(self.not_used)})")
        return "; ".join(parts)


def load_weights(network: nn.Module, path: Path) -> WeightsReport:
    """Load the tensors of a file that fit a network, and report the others.

    Accepted are safetensors and torch state dicts (loaded without running any code in them), bare or
    under `state_dict`, `model` or `model_state`, with the names of timm, of torchvision or of `efficientnet_pytorch`.

    Raises:
        WeightsError: unreadable, or less than half of the network fits.
    """
    return load_state(network, read_state(path), source=path.name)


def load_state(network: nn.Module, state: dict[str, Tensor], *, source: str) -> WeightsReport:
    """Load the tensors of a state dict that fit a network, and report the others. `source` is its name in the report.

    Raises:
        WeightsError: less than half of the network fits.
    """
    state = _rename(state, network.state_dict())
    expected = network.state_dict()
    fitting: dict[str, Tensor] = {}
    summed, not_used = [], []
    for name, tensor in state.items():
        if name in expected and (fitted := _fit(tensor, expected[name])) is not None:
            fitting[name] = fitted
            if fitted.numel() != tensor.numel():  # a reshaped tensor keeps its number of values, a summed one does not
                summed.append(name)
        elif not name.endswith(_COUNTER):
            not_used.append(name)
    body = [name for name in expected if name.startswith("body.") and not name.endswith(_COUNTER)]
    fits = sum(name in fitting for name in body)
    if fits * 2 < len(body):
        raise WeightsError(
            f"{source} does not fit this network: {fits} of {len(body)} tensors match by name and shape; "
            "check --arch against the network the weights were made with."
        )
    network.load_state_dict(fitting, strict=False)
    return WeightsReport(
        source=source,
        loaded=tuple(fitting),
        summed=tuple(summed),
        left_random=tuple(name for name in expected if name not in fitting and not name.endswith(_COUNTER)),
        not_used=tuple(not_used),
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a file, without running any code in it.

    Raises:
        WeightsError: the file does not exist, or it has no state dict.
    """
    if not path.is_file():
        raise WeightsError(f"--weights {path}: no such file; give imagenet, none or a file of weights.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)  # unpickles tensors only, runs no code
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
        raise WeightsError(f"--weights {path} has no state dict; save the network's state_dict() and give that.")
    return {str(name): tensor for name, tensor in loaded.items()}


def _rename(state: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a file's tensors from timm's, torchvision's or `efficientnet_pytorch`'s names to this package's."""
    if "_conv_stem.weight" in state:
        state = _rename_efficientnet(state, expected)
    renamed = {}
    for name, tensor in state.items():
        ours = name
        if ours not in expected:
            for prefix in _PREFIXES:
                ours = ours.removeprefix(prefix)
            for theirs, timms in _TORCHVISION_VGG.items():
                if ours.startswith(theirs) and f"body.{timms}weight" in expected:
                    ours = ours.replace(theirs, timms)
            ours = f"body.{ours}"
        renamed[ours if ours in expected else name] = tensor
    return renamed


def _rename_efficientnet(state: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the `efficientnet_pytorch` family to timm's names.

    That family numbers its blocks from the first to the last; timm numbers stages, and the blocks in each. A block
    without an expansion has no first convolution, so timm names its norms and its projection differently.
    """
    blocks = list(dict.fromkeys(match[0] for name in expected if (match := re.search(r"blocks\.\d+\.\d+\.", name))))
    expands = {name.split(".")[1] for name in state if "_expand_conv" in name}
    renamed = {}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        if part == "_blocks":
            number, layer, kind = rest.split(".", 2)
            names = _EXPANDING if number in expands else _PLAIN
            place = blocks[int(number)] if int(number) < len(blocks) else ""
            renamed[f"{place}{names.get(layer, layer)}.{kind}"] = tensor
        else:
            renamed[f"{_AROUND.get(part, part)}.{rest}"] = tensor
    return renamed


def _fit(tensor: Tensor, expected: Tensor) -> Tensor | None:
    """The tensor in the expected shape (unchanged, linear to convolution, or colours summed), or None."""
    if tensor.shape == expected.shape:
        return tensor
    if tensor.ndim == 2 and expected.ndim == 4 and tensor.numel() == expected.numel():
        return tensor.reshape(expected.shape)
    if tensor.ndim == expected.ndim == 4 and tensor.shape[1] == 3 and expected.shape[1] == 1:
        adapted = adapt_input_conv(1, tensor)
        return adapted if adapted.shape == expected.shape else None
    return None


def _abbreviate(names: tuple[str, ...], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
