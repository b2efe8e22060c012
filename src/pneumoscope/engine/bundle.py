"""Checking a bundle's files, and loading its ONNX model."""

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from pneumoscope.contract import CONTRACT_FILE, Contract
from pneumoscope.engine.gate import DISTANCE, GATE
from pneumoscope.errors import BundleError, UsageError
from pneumoscope.files import sha256_of
from pneumoscope.metrics import Scaling

MODEL_FILE = "model.onnx"
MAPS = "activation_map"
CPU = "cpu"
#: The key `location` of a tensor's `external_data` (onnx.proto, StringStringEntryProto), as protobuf writes it.
_EXTERNAL = b"\x0a\x08location\x12"
_EXECUTION_PROVIDER = "ExecutionProvider"
_REMOTE = "AzureExecutionProvider"  # listed by every build, but it calls a cloud service and computes nothing itself


@dataclass(frozen=True, eq=False)
class Outputs:
    """The model's outputs for N inputs, or for one input without the first axis.

    Logits `[N, C]`, calibrated probabilities `[N, C]`, embeddings `[N, D]`; and, if the model has them, activation maps
    `[N, C, h, w]`, the gate's scores `[N, F]` and its distances `[N, 2]`.
    """

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float64]
    embedding: NDArray[np.float32]
    maps: NDArray[np.float32] | None
    scores: NDArray[np.float32] | None
    distances: NDArray[np.float32] | None

    def row(self, number: int) -> "Outputs":
        """The outputs for one input."""
        optional = (self.maps, self.scores, self.distances)
        rows = [None if values is None else values[number] for values in optional]
        return Outputs(self.logits[number], self.probabilities[number], self.embedding[number], *rows)


def model_name(contract: Contract) -> dict[str, str]:
    """Name, version and SHA-256 of a contract's model, as documents state them."""
    return {"name": contract.name, "version": contract.version, "sha256": contract.files[MODEL_FILE]}


def scaling(contract: Contract) -> Scaling:
    """A contract's calibration, with its numbers in the order of the model's outputs."""
    calibration = contract.calibration
    scale, bias = (
        np.array([values[label] for label in contract.classes]) for values in (calibration.scale, calibration.bias)
    )
    return Scaling(method=calibration.method, scale=scale, bias=bias)


def check_files(contract: Contract, bundle: Path) -> None:
    """Compare every file with the contract's hash.

    Raises:
        BundleError: a file is missing or changed; the message names it.
    """
    if MODEL_FILE not in contract.files:
        raise BundleError(f"{bundle / CONTRACT_FILE} does not list {MODEL_FILE}; export the bundle again.")
    for name, expected in contract.files.items():
        path = bundle / name
        if not path.is_file():
            raise BundleError(f"{path} is missing; copy the whole bundle, or export it again.")
        if sha256_of(path) != expected:
            raise BundleError(f"{path} was changed since export (its SHA-256 differs); export the bundle again.")


def open_model(bundle: Path, contract: Contract, *, provider: str, threads: int) -> ort.InferenceSession:
    """Load a bundle's model for one of ONNX Runtime's execution providers.

    Args:
        bundle: the folder.
        contract: states the inputs and outputs that the model must have.
        provider: `cpu`, or another by its short name, such as `cuda`; there is no silent fallback to the CPU.
        threads: number of threads for the operators on the CPU.

    Raises:
        UsageError: this ONNX Runtime has no such provider, or the provider does not start on this machine.
        BundleError: the model cannot be loaded, or does not match the contract.
    """
    chosen = _provider(provider)
    _refuse_external_weights(bundle)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Waiting threads spin for 100 µs, long enough for the pause between two operators, and then sleep: the decoding
    # threads need the cores, and spinning would use up a container's CPU quota.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "100")
    try:
        session = ort.InferenceSession(bundle / MODEL_FILE, options, providers=[chosen], enable_fallback=0)
    except Exception as failure:
        if provider != CPU:
            raise UsageError(
                f"provider {provider!r} does not start on this machine ({failure}); use {CPU!r}."
            ) from failure
        raise BundleError(f"{bundle / MODEL_FILE} cannot be loaded ({failure}); export the bundle again.") from failure
    if session.get_providers()[0] != chosen:
        raise UsageError(f"provider {provider!r} does not start on this machine; use {CPU!r}.")
    _check_model(contract, session, bundle)
    return session


def _refuse_external_weights(bundle: Path) -> None:
    """Raise BundleError if the graph stores tensors in other files, which the contract's hashes do not cover."""
    # A search of the bytes, as a plain installation does not have the package onnx to parse the graph with.
    path = bundle / MODEL_FILE
    if path.stat().st_size == 0:
        return
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(_EXTERNAL) >= 0:
            raise BundleError(
                f"{path} stores weights in other files, which no hash covers; save it as one file "
                "(onnx.save with save_as_external_data=False) and export the bundle again."
            )


def _provider(name: str) -> str:
    providers: list[str] = ort.get_available_providers()
    available = {each.removesuffix(_EXECUTION_PROVIDER).lower(): each for each in providers if each != _REMOTE}
    if name.lower() not in available:
        raise UsageError(
            f"provider {name!r} is not in this ONNX Runtime, which has: {', '.join(sorted(available))}; choose one of "
            "these, or install a build that has it (for CUDA, onnxruntime-gpu in place of onnxruntime)."
        )
    return available[name.lower()]


def _check_model(contract: Contract, session: ort.InferenceSession, bundle: Path) -> None:
    """Raise BundleError unless the graph has the inputs and outputs that the contract states."""
    size, classes, grid = contract.input.size, len(contract.classes), contract.activation_map
    image = [(each.name, each.type, each.shape[1:]) for each in session.get_inputs()]
    outputs = {each.name: each.shape[1:] for each in session.get_outputs()}
    expected = {"logits": [classes]} | ({MAPS: [classes, grid.height, grid.width]} if grid else {})
    if contract.gate is not None:
        expected |= {GATE: [len(contract.gate.codes)], DISTANCE: [len(contract.gate.distances)]}
    if (
        image != [("image", "tensor(uint8)", [1, size, size])]
        or isinstance(session.get_inputs()[0].shape[0], int)  # a batch of one size only
        or "embedding" not in outputs
        or any(outputs.get(name) != shape for name, shape in expected.items())
    ):
        raise BundleError(
            f"{bundle / MODEL_FILE} takes {image} and gives {outputs}; the contract states uint8 "
            f"[N, 1, {size}, {size}] and {expected}; export the bundle again."
        )
