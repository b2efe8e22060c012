"""The normalisation inside a graph, read back from its nodes, to check that it is the contract's."""

import operator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pneumoscope.contract import Normalisation
from pneumoscope.errors import BundleError

_TOLERANCE = 1e-5
_WHITE = 255.0
_LEAVES_ALONE = ("Cast", "Identity")
_ARITHMETIC = {"Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Div": operator.truediv}


def can_read_graphs() -> bool:
    """Whether the package onnx is installed; a plain installation does not have it."""
    return find_spec("onnx") is not None


def check_normalisation(path: Path, expected: Normalisation) -> None:
    """Compare the arithmetic between a graph's input and its first layer with `(pixel / 255 - mean) / std`.

    Args:
        path: an ONNX file with the input `image`.
        expected: the contract's.

    Raises:
        BundleError: the graph computes another normalisation.
    """
    scale, shift = _read_affine(path)
    wanted = (1 / (_WHITE * expected.std), -expected.mean / expected.std)
    if abs(scale - wanted[0]) * _WHITE > _TOLERANCE or abs(shift - wanted[1]) > _TOLERANCE:
        raise BundleError(
            f"{path} computes pixel × {scale:.6g} {shift:+.6g}, but the contract's mean {expected.mean:g} and "
            f"deviation {expected.std:g} require pixel × {wanted[0]:.6g} {wanted[1]:+.6g}; export the bundle again."
        )


def _read_affine(path: Path) -> tuple[float, float]:
    """`scale` and `shift` of `pixel * scale + shift`, the arithmetic of the graph before its first layer."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    # The values of a black and a white pixel are carried through the nodes; two points determine a line.
    black, white, name = 0.0, _WHITE, "image"
    while (step := _next(graph, name, constants)) is not None:
        node, number, first = step
        if (apply := _ARITHMETIC.get(node.op_type)) is not None:
            black, white = (apply(each, number) if first else apply(number, each) for each in (black, white))
        name = node.output[0]
    return (white - black) / _WHITE, black


def _next(graph: Any, name: str, constants: dict[str, Any]) -> tuple[Any, float, bool] | None:
    """The only node that uses a value, its constant, and whether the value comes first; None at the first layer."""
    users = [node for node in graph.node if name in node.input]
    if len(users) != 1:
        return None
    (node,) = users
    if node.op_type in _LEAVES_ALONE:
        return node, 0.0, True
    others = [constants[each] for each in node.input if each in constants]
    first = node.input[0] == name
    if node.op_type not in _ARITHMETIC or len(others) != 1 or others[0].size != 1:
        return None
    return (node, float(others[0].item()), first) if first or node.op_type != "Div" else None
