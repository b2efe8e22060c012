"""Where a trained network looked, for networks whose bundle has no exact map: Grad-CAM, with PyTorch.

Maps are by Selvaraju et al. 2017, arXiv:1610.02391, computed by Captum on the network's last convolutional
features. Films are preprocessed as everywhere else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import LayerGradCam
from numpy.typing import NDArray
from torch import nn

from pneumoscope.backbone import Network
from pneumoscope.contract import ActivationMap, InputRule
from pneumoscope.engine import Attention
from pneumoscope.errors import UsageError
from pneumoscope.export import load_network
from pneumoscope.imaging import DEFAULT_LIMITS, Limits, Luma, read_for_input, to_input
from pneumoscope.training.run_directory import load_card, load_config


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """The explanation of one film for one class: its map, `float32 [h, w]`, 0 or more, and where the map's mass is."""

    image: str
    label: str
    probabilities: dict[str, float]
    activation: NDArray[np.float32]
    attention: Attention
    luma: Luma

    def as_json(self) -> dict[str, Any]:
        """As plain JSON values, without the map, which only the picture shows."""
        return {
            "image": self.image,
            "method": "grad-cam",
            "probabilities": {label: round(value, 6) for label, value in self.probabilities.items()},
            "attention": self.attention.as_json(),
        }


class Explainer:
    """Explains films by the network of a finished run."""

    def __init__(self, run: Path, *, limits: Limits = DEFAULT_LIMITS) -> None:
        """Load a run.

        Raises:
            RunError: it is not a finished run.
            UsageError: the network has no convolutional features to map.
        """
        self.classes = load_card(run).classes
        self.rule = InputRule.squash(load_config(run).size)
        self.limits = limits
        self.network = load_network(run)
        self._method = LayerGradCam(self.network, last_features(self.network, self.rule.size))

    def explain(self, data: bytes, *, name: str = "", label: str | None = None) -> Explanation:
        """Explain one film, given as the bytes of its image file, for one class: by default, the most probable.

        Raises:
            ImageError: the bytes are not a usable radiograph.
            UsageError: the model does not know the class.
        """
        if label is not None and label not in self.classes:
            raise UsageError(f"class {label!r} is not one of the model's: {', '.join(self.classes)}.")
        luma = read_for_input(data, self.rule, limits=self.limits).luma
        image = torch.from_numpy(to_input(luma, self.rule)[np.newaxis].copy())
        with torch.no_grad():
            row = self.network(image).double().softmax(dim=1)[0].tolist()
        probabilities = dict(zip(self.classes, row, strict=True))
        chosen = label or max(probabilities, key=probabilities.__getitem__)
        attribution = self._method.attribute(image, target=self.classes.index(chosen), relu_attributions=True)
        activation = np.asarray(attribution.detach()[0, 0], np.float32)
        return Explanation(
            image=name,
            label=chosen,
            probabilities=probabilities,
            activation=activation,
            attention=Attention.of_map(chosen, activation, ActivationMap.of_grid(*activation.shape)),
            luma=luma,
        )


def last_features(network: Network, size: int) -> nn.Module:
    """The module whose output is the network's last convolutional features, before a pooling that follows them.

    Raises:
        UsageError: the last features are not square maps `[N, C, h, w]` with more than one position.
    """
    stages = getattr(network.body, "feature_info", None)
    last = stages[-1]["module"] if isinstance(stages, list) and stages else ""
    folder, _, number = last.rpartition(".")
    module: nn.Module = network.body.get_submodule(last)
    # VGG's last stage ends in its pooling: the layer before it has the finer map.
    if isinstance(module, nn.MaxPool2d) and number.isdecimal():
        module = network.body.get_submodule(f"{folder}.{int(number) - 1}")
    if not last or not _has_spatial_output(network, module, size):
        raise UsageError("this network has no convolutional features to map; explain a convolutional network's run.")
    return module


def _has_spatial_output(network: Network, module: nn.Module, size: int) -> bool:
    """Whether the module gives `[N, C, h, w]`, channels first, with more than one position; tried on a black image."""
    shapes: list[torch.Size] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: shapes.append(output.shape))
    try:
        with torch.no_grad():
            network(torch.zeros(1, 1, size, size, dtype=torch.uint8))
    finally:
        handle.remove()
    # Maps must be squares of at most half the input's side: other shapes are tokens, channels last, or not features.
    return len(shapes) == 1 and len(shapes[0]) == 4 and 1 < shapes[0][3] <= size // 2 and shapes[0][2] == shapes[0][3]
