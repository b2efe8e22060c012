"""An int8 model from an fp32 one by static quantisation, refused unless it answers like the fp32 model.

Activations are unsigned and weights signed, with one scale per channel, as quantise-dequantise pairs (QDQ). Weights use
only 7 bits: sums of products then cannot overflow the 16-bit lanes of processors without VNNI, and every processor
computes the same integers. Ranges of activations come from train films. If the int8 model does not answer like fp32,
the operators between layers (sums, activations, norms) stay in fp32, and then also the layers whose quantisation moves
the logits most, measured one by one.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from pneumoscope import metrics
from pneumoscope.contract import Quantisation
from pneumoscope.engine.bundle import MAPS
from pneumoscope.errors import BundleError
from pneumoscope.imaging import Luma
from pneumoscope.parallel import available_cores
from pneumoscope.progress import SILENT, Listener
from pneumoscope.training.quiet import quiet

MIN_AGREEMENT = 0.99
MAX_F1_LOSS = 0.005
_LAYERS = ("Conv", "Gemm", "MatMul")
_PROBES = 12  # films on which the effect of a single layer is measured
_BATCH = 8
_QUANTISER_LOGGER = "root"  # the logger on which the quantiser gives advice
_TIMINGS = 15


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The films that an int8 model is made and evaluated with; images are `uint8 [N, 1, S, S]`, labels `int64 [N]`.

    `calibration` is empty if no int8 model is wanted.
    """

    calibration: Luma
    validation: Luma
    labels: NDArray[np.int64]
    classes: int


def quantise(fp32: Path, out: Path, films: Comparison, *, listener: Listener = SILENT) -> Quantisation:
    """Write the int8 model of an fp32 model and compare the two.

    Args:
        fp32: an ONNX file made by `write_onnx`.
        out: the ONNX file to write.
        films: train films to calibrate with, and films to compare on: validation films, or train films of a
            data set without a validation split (some of them may be films to calibrate with).
        listener: is notified of the progress of slow parts.

    Raises:
        BundleError: the model does not answer like fp32 even with up to half its layers in fp32; nothing is written.
    """
    with tempfile.TemporaryDirectory() as name:
        quantiser = _Quantiser(fp32, Path(name), films)
        reference = logits_of(fp32, films.validation)
        figures = None
        for choice in quantiser.choices(listener):
            model = quantiser.write(choice)
            figures = _compare(reference, logits_of(model, films.validation), films, choice)
            if is_alike(figures):
                shutil.move(model, out)
                return figures
        assert figures is not None
        # All operators in int8 is the fastest choice: its gain bounds the others'.
        gain = speed_gain(fp32, quantiser.write(EVERYTHING), films.validation[:1])
    raise BundleError(
        f"int8 gives the same class as fp32 on {100 * figures.agreement:.1f} % of {figures.films} films compared "
        f"(macro-F1 {figures.macro_f1:.3f}, fp32 {figures.macro_f1_fp32:.3f}) even with {len(figures.kept_fp32)} "
        f"layers in fp32; at least {100 * MIN_AGREEMENT:.0f} % and a loss under {MAX_F1_LOSS:g} are required. "
        f"It would be at most {gain:.1f} times as fast. No bundle was written: export with --precision fp32."
    )


def speed_gain(fp32: Path, int8: Path, image: Luma) -> float:
    """How many times as fast as the fp32 model the int8 model is on this machine.

    Measured on one input, `uint8 [1, 1, S, S]`: the fastest run of each model, in alternation.
    """
    sessions = [_session(fp32), _session(int8)]
    seconds: list[list[float]] = [[], []]
    for _ in range(_TIMINGS):
        # Alternating, so that other work on the machine slows both alike; the minimum is the run it disturbed least.
        for session, taken in zip(sessions, seconds, strict=True):
            started = time.perf_counter()
            session.run(["logits"], {"image": image})
            taken.append(time.perf_counter() - started)
    return min(seconds[0]) / min(seconds[1])


def evenly_spaced(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` indices below `count`, evenly spaced from the first to the last."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def is_alike(figures: Quantisation) -> bool:
    """Whether an int8 model's answers agree with fp32 well enough to be shipped."""
    return figures.agreement >= MIN_AGREEMENT and figures.macro_f1_fp32 - figures.macro_f1 < MAX_F1_LOSS


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """What is quantised: all operators, or only the layers with weights; the layers `kept` stay in fp32."""

    operators: Literal["all", "layers"]
    kept: tuple[str, ...]


EVERYTHING = _Choice(operators="all", kept=())


class _Quantiser:
    """An fp32 model, prepared and with its activation ranges measured once, from which int8 models are made."""

    def __init__(self, fp32: Path, folder: Path, films: Comparison) -> None:
        self.folder, self.films = folder, films
        self.ready = folder / "ready.onnx"
        with quiet(_QUANTISER_LOGGER, advice=()):
            quant_pre_process(str(fp32), str(self.ready), skip_symbolic_shape=True)
        graph = onnx.load(self.ready).graph
        # The last layers, which give logits and maps, always stay in fp32.
        self.heads = [node.name for node in graph.node if {"logits", MAPS} & set(node.output)]
        self.layers = [node.name for node in graph.node if node.op_type in _LAYERS and node.name not in self.heads]

    def write(self, choice: _Choice, *, only: str | None = None) -> Path:
        """Write the int8 model of a choice, or one in which only one layer is quantised."""
        out = self.folder / "int8.onnx"
        with quiet(_QUANTISER_LOGGER, advice=()):
            quantize_static(
                self.ready,
                out,
                _Reader(self.films.calibration),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                # weights of 7 bits, which cannot overflow without VNNI
                reduce_range=True,
                op_types_to_quantize=None if choice.operators == "all" else list(_LAYERS),
                nodes_to_exclude=[*self.heads, *choice.kept],
                nodes_to_quantize=[only] if only else None,
                # The ranges are measured by the first model and read from this file by all later ones.
                calibration_cache_path=self.folder / "ranges.json",
            )
        return out

    def choices(self, listener: Listener) -> Iterator[_Choice]:
        """All operators; then only layers, not the operators between them; then ever fewer layers, down to half."""
        yield EVERYTHING
        yield _Choice(operators="layers", kept=())
        harmful = self._most_harmful_first(listener)
        count = 1
        while count <= len(self.layers) // 2:
            yield _Choice(operators="layers", kept=tuple(harmful[:count]))
            # Growing steps, because each costs a model and a run over the validation films.
            count += 1 + count // 3

    def _most_harmful_first(self, listener: Listener) -> list[str]:
        """All layers, ordered by how much the quantisation of each one alone moves the logits."""
        # Train films, so that the validation films judge the choice without having made it.
        probes = self.films.calibration[evenly_spaced(len(self.films.calibration), _PROBES)]
        reference = logits_of(self.ready, probes)
        harm = {}
        for layer in listener.track("measuring layers", self.layers, len(self.layers), "layers"):
            moved = logits_of(self.write(EVERYTHING, only=layer), probes) - reference
            harm[layer] = float(np.square(moved).mean())
        return sorted(harm, key=lambda layer: -harm[layer])


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images, one at a time."""

    def __init__(self, images: Luma) -> None:
        self.images = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        return next(({"image": image[np.newaxis]} for image in self.images), None)


def _compare(
    reference: NDArray[np.float32], logits: NDArray[np.float32], films: Comparison, choice: _Choice
) -> Quantisation:
    def macro_f1(values: NDArray[np.float32]) -> float:
        confusion = metrics.confusion_matrix(films.labels, values.argmax(axis=1), films.classes)
        return float(metrics.macro_f1(confusion))

    return Quantisation(
        calibration_films=len(films.calibration),
        operators=choice.operators,
        kept_fp32=choice.kept,
        films=len(films.labels),
        agreement=float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean()),
        macro_f1=macro_f1(logits),
        macro_f1_fp32=macro_f1(reference),
    )


def logits_of(model: Path, images: Luma) -> NDArray[np.float32]:
    """An ONNX model's logits `[N, C]` for inputs `uint8 [N, 1, S, S]`."""
    return np.concatenate([logits for (logits,) in run_model(model, ["logits"], images)])


def run_model(model: Path, outputs: list[str], images: Luma) -> Iterator[list[NDArray[np.float32]]]:
    """The named outputs of an ONNX model for inputs `uint8 [N, 1, S, S]`, one batch at a time."""
    session = _session(model)
    for start in range(0, len(images), _BATCH):
        yield session.run(outputs, {"image": np.ascontiguousarray(images[start : start + _BATCH])})


def _session(model: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would slow the session beside it
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
