"""A network as an ONNX file, normalisation inside."""

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from pneumoscope.backbone import Network
from pneumoscope.engine.bundle import MAPS
from pneumoscope.training.quiet import quiet

_OPSET = 18


class _Outputs(nn.Module):
    """What the graph computes: logits and embedding, and class-activation maps where they are exact."""

    def __init__(self, network: Network, *, maps: bool) -> None:
        super().__init__()
        self.network = network
        self.maps = maps

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.network.outputs(image) if self.maps else self.network.forward_with_embedding(image)


def write_onnx(network: Network, size: int, path: Path) -> tuple[int, int] | None:
    """Write a network as one ONNX file without external data.

    The graph takes `image`, `uint8 [N, 1, size, size]`, and gives `logits [N, C]`, `embedding [N, D]`
    and, if the network has exact class-activation maps, `activation_map [N, C, h, w]`.

    Returns:
        Height and width of the maps, or None if there are none.
    """
    network = network.eval()
    grid = network.exact_maps(size)
    with quiet("torch.onnx"), torch.no_grad():  # the exporter warns of its own internals
        torch.onnx.export(
            _Outputs(network, maps=grid is not None).eval(),
            (torch.zeros(2, 1, size, size, dtype=torch.uint8),),
            str(path),
            input_names=["image"],
            output_names=["logits", "embedding", *([MAPS] if grid else [])],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            opset_version=_OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
        _forget_its_making(path)
    return grid


def _forget_its_making(path: Path) -> None:
    """Take out what the exporter notes of this machine: the source files and lines behind each node."""
    model = onnx.load(path)
    for graph in [model.graph, *model.functions]:
        for part in [graph, *graph.node, *graph.value_info]:
            part.ClearField("doc_string")
            part.ClearField("metadata_props")
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        value.ClearField("metadata_props")
    model.ClearField("metadata_props")
    onnx.save(model, path)
