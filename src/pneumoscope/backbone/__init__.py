"""Networks by timm's names: `build` makes one, with its weights; `Network` is what it makes."""

from pneumoscope.backbone.build import IMAGENET, NONE, build, normalisation_of
from pneumoscope.backbone.network import Network
from pneumoscope.backbone.weights import WeightsAccount, load_weights

__all__ = ["IMAGENET", "NONE", "Network", "WeightsAccount", "build", "load_weights", "normalisation_of"]
