"""A network as an ONNX file, with the normalisation inside the graph."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from pneumoscope.backbone import Network
from pneumoscope.engine.bundle import MAPS
from pneumoscope.engine.gate import DISTANCE, GATE
from pneumoscope.metrics import Floats
from pneumoscope.training.quiet import quiet

_OPSET = 18
#: The output with the features of the gate, which `join_gate` removes.
MIDDLE = "middle"
#: Standardised features are clipped here before they are scored, so that no single outlier decides.
LIMIT = 8.0


class _Outputs(nn.Module):
    """The module that is exported; see `Network.outputs`."""

    def __init__(self, network: Network, *, maps: bool) -> None:
        super().__init__()
        self.network = network
        self.maps = maps

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.network.outputs(image, maps=self.maps)


def write_onnx(network: Network, size: int, path: Path) -> tuple[int, int] | None:
    """Write a network as one ONNX file without external data.

    The graph takes `image`, `uint8 [N, 1, size, size]`, and outputs `logits [N, C]`, `embedding [N, D]`,
    `middle [N, M, h, w]` and, if the network has exact class-activation maps, `activation_map [N, C, h, w]`.
    The maps' `h, w` are usually smaller than those of `middle`. `join_gate` replaces `middle` with the gate.

    Returns:
        Height and width of the maps, or None if there are none.
    """
    network = network.eval()
    grid = network.exact_maps(size)
    with quiet("torch.onnx"), torch.no_grad():  # the exporter warns of its own internals
        torch.onnx.export(
            _Outputs(network, maps=grid is not None).eval(),
            # Two films: `torch.export` takes a size of 1 for a constant, and would fix the batch at one film.
            (torch.zeros(2, 1, size, size, dtype=torch.uint8),),
            str(path),
            input_names=["image"],
            output_names=["logits", "embedding", MIDDLE, *([MAPS] if grid else [])],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            opset_version=_OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
        _strip_build_traces(path)
    return grid


@dataclass(frozen=True, kw_only=True, eq=False)
class GateWeights:
    """The gate's weights, `float32`. Its E features are the D of the embedding, then M × G from the middle features.

    `pool` `[h × w, G]` averages the middle features over G cells. Scores: features are standardised by `mean` and
    `deviation` `[E]` of all samples, then multiplied by `weight` `[F, E]`, plus `bias` `[F]`. Distances: features are
    standardised by `centre` and `spread` `[E]` of the films; the sum of squares that the films' principal `components`
    `[K, D]` and `[K, M × G]` leave unexplained is divided by its mean over the films, `unit`.
    """

    pool: Floats
    mean: Floats
    deviation: Floats
    weight: Floats
    bias: Floats
    centre: Floats
    spread: Floats
    components: tuple[Floats, Floats]
    unit: tuple[float, float]


def join_gate(path: Path, gate: GateWeights) -> None:
    """Put a gate into an ONNX file that `write_onnx`, or `quantise`, has written: outputs `gate` and `distance`.

    The gate is computed in fp32, whatever the precision of the rest, and replaces the output `middle`.
    """
    model = onnx.load(path)
    graph, (first, second) = model.graph, gate.components
    sizes = (first.shape[1], second.shape[1])

    def constant(name: str, values: Any, kind: type = np.float32) -> str:
        graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values, kind), f"gate.{name}"))
        return f"gate.{name}"

    def node(kind: str, inputs: list[str], *outputs: str, **options: Any) -> str:
        names = [each if each in (GATE, DISTANCE) else f"gate.{each}" for each in outputs]
        graph.node.append(onnx.helper.make_node(kind, inputs, names, name=f"gate.{outputs[0]}_{kind}", **options))
        return names[0]

    flat = node("Reshape", [MIDDLE, constant("shape", [0, 0, -1], np.int64)], "flat")
    layout = node("Flatten", [node("MatMul", [flat, constant("pool", gate.pool)], "pooled")], "layout", axis=1)
    joined = node("Concat", ["embedding", layout], "features", axis=1)

    def standardise(name: str, mean: Floats, deviation: Floats) -> str:
        centred = node("Sub", [joined, constant(f"{name}.mean", mean)], f"{name}.centred")
        return node("Mul", [centred, constant(f"{name}.scale", 1 / deviation)], name)

    scaled = standardise("all", gate.mean, gate.deviation)
    limited = node("Clip", [scaled, constant("low", -LIMIT), constant("high", LIMIT)], "limited")
    node("Gemm", [limited, constant("weight", gate.weight), constant("bias", gate.bias)], GATE, transB=1)
    parts = [f"gate.part{number}" for number in (0, 1)]
    node(
        "Split",
        [standardise("films", gate.centre, gate.spread), constant("sizes", sizes, np.int64)],
        "part0",
        "part1",
        axis=1,
    )
    axis = constant("axis", [1], np.int64)
    distances = []
    for number, (part, components) in enumerate(zip(parts, gate.components, strict=True)):
        # The components are orthonormal, so what they leave unexplained is a difference of two sums of squares.
        inside = node("MatMul", [part, constant(f"components{number}", components.T)], f"inside{number}")
        squares = node("ReduceSumSquare", [part, axis], f"squares{number}", keepdims=1)
        explained = node("ReduceSumSquare", [inside, axis], f"explained{number}", keepdims=1)
        rest = node("Sub", [squares, explained], f"rest{number}")
        distances.append(node("Div", [rest, constant(f"unit{number}", gate.unit[number])], f"distance{number}"))
    node("Concat", distances, DISTANCE, axis=1)
    # `middle` is no longer an output: only the gate needs it.
    kept = [each for each in graph.output if each.name != MIDDLE]
    del graph.output[:]
    sizes_out = ((GATE, len(gate.bias)), (DISTANCE, len(distances)))
    new = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", size]) for name, size in sizes_out
    ]
    graph.output.extend([*kept, *new])
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _strip_build_traces(path: Path) -> None:
    """Remove what the exporter records of this machine: the source files and lines behind each node."""
    model = onnx.load(path)
    for graph in [model.graph, *model.functions]:
        for part in [graph, *graph.node, *graph.value_info]:
            part.ClearField("doc_string")
            part.ClearField("metadata_props")
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        value.ClearField("metadata_props")
    model.ClearField("metadata_props")
    onnx.save(model, path)
