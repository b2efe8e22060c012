"""Networks by their timm names: `build` makes a `Network` and loads its initial weights."""

from pneumoscope.backbone.build import IMAGENET, NONE, build, normalisation_of
from pneumoscope.backbone.network import Network
from pneumoscope.backbone.weights import WeightsReport, load_weights

__all__ = ["IMAGENET", "NONE", "Network", "WeightsReport", "build", "load_weights", "normalisation_of"]
