"""From a bundle and the bytes of a film to a decision, with ONNX Runtime and without torch."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from pneumoscope.contract import CONTRACT_FILE, Contract, load_contract
from pneumoscope.errors import BundleError, ImageError
from pneumoscope.files import sha256_of
from pneumoscope.imaging import DEFAULT_LIMITS, Limits, Luma, load_input
from pneumoscope.metrics import softmax
from pneumoscope.parallel import available_cores, map_ordered

Status: TypeAlias = Literal["answered", "abstained", "rejected"]

MODEL_FILE, GOLDEN_FOLDER, GOLDEN_FILE = "model.onnx", "golden", "golden.json"
#: Largest difference of a probability between machines that `verify` accepts.
GOLDEN_TOLERANCE = 1e-3
_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One film's decision; `as_json` gives the documented schema."""

    image: str
    classes: tuple[str, ...]
    group_names: tuple[str, ...]
    status: Status
    label: str | None
    class_index: int | None
    probabilities: dict[str, float]
    groups: dict[str, float]
    prediction_set: tuple[str, ...]
    reasons: tuple[str, ...]
    model: dict[str, str]
    milliseconds: float

    def as_json(self) -> dict[str, Any]:
        """The prediction as plain JSON values, keys in the documented order."""
        return {
            "image": self.image,
            "status": self.status,
            "class": self.class_index,
            "label": self.label,
            "probabilities": {label: round(value, 6) for label, value in self.probabilities.items()},
            "groups": {group: round(value, 6) for group, value in self.groups.items()},
            "prediction_set": list(self.prediction_set),
            "reasons": list(self.reasons),
            "model": self.model,
            "milliseconds": round(self.milliseconds, 2),
        }


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A film as it comes: a name to report it by, and how to get the bytes of its file."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    name: str
    image: Luma | None
    reason: str
    milliseconds: float


class Engine:
    """A loaded bundle. Safe to use from several threads."""

    def __init__(self, contract: Contract, session: ort.InferenceSession, limits: Limits) -> None:
        self.contract = contract
        self.limits = limits
        self._session = session
        self._model = {
            "name": contract.name,
            "version": contract.version,
            "sha256": contract.files[MODEL_FILE],
        }

    @classmethod
    def load(cls, bundle: Path | str, *, limits: Limits = DEFAULT_LIMITS, threads: int | None = None) -> Self:
        """Load a bundle, checking every file against the contract's hash.

        Args:
            bundle: folder made by `pneumoscope export`.
            limits: what to refuse before decoding.
            threads: for the model; by default the cores this process may use.

        Raises:
            BundleError: missing, damaged, or not a bundle.
        """
        bundle = Path(bundle)
        contract = load_contract(bundle)
        _check_files(contract, bundle)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        options.log_severity_level = 3
        try:
            session = ort.InferenceSession(bundle / MODEL_FILE, options, providers=["CPUExecutionProvider"])
        except Exception as failure:
            raise BundleError(
                f"{bundle / MODEL_FILE} cannot be loaded ({failure}); export the bundle again."
            ) from failure
        _check_model(contract, session, bundle)
        return cls(contract, session, limits)

    def predict(self, data: bytes, *, name: str = "") -> Prediction:
        """Decide on one film given as the bytes of its file. Bytes that are no radiograph are `rejected`.

        Raises:
            TypeError: `data` is not bytes.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"predict takes the bytes of a film's file, got {type(data).__name__}; read it first")
        return next(self.predict_many([Encoded(name=name, read=lambda: data)]))

    def predict_many(self, films: Iterable[Encoded]) -> Iterator[Prediction]:
        """Decide on films in order. Reading and decoding run ahead in threads, a bounded number of films.

        A film that cannot be read or decoded is `rejected`. Any other error of its `read` is raised.
        """
        cores = available_cores()
        decoded = map_ordered(partial(self._decode), films, workers=cores, ahead=2 * _BATCH)
        while batch := list(islice(decoded, _BATCH)):
            yield from self._decide_batch(batch)

    def run(self, images: Luma) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Calibrated probabilities `[N, C]` and embeddings `[N, D]` of inputs `uint8 [N, 1, S, S]`.

        Raises:
            ValueError: another dtype or shape.
        """
        size = self.contract.input.size
        if images.dtype != np.uint8 or images.shape[1:] != (1, size, size):
            raise ValueError(f"expected uint8 [N, 1, {size}, {size}], got {images.dtype} {list(images.shape)}")
        logits, embedding = self._session.run(["logits", "embedding"], {"image": images})
        return softmax(np.asarray(logits) / self.contract.calibration.temperature), np.asarray(embedding)

    def _decode(self, film: Encoded) -> _Decoded:
        started = time.perf_counter()
        image, reason = None, ""
        try:
            image = load_input(film.read(), self.contract.input, limits=self.limits)
        except ImageError as failure:
            reason = str(failure)
        except OSError as failure:
            reason = f"the file cannot be read ({failure.strerror})."
        return _Decoded(name=film.name, image=image, reason=reason, milliseconds=_since(started))

    def _decide_batch(self, batch: Sequence[_Decoded]) -> Iterator[Prediction]:
        images = [film.image for film in batch if film.image is not None]
        started = time.perf_counter()
        rows = iter(self.run(np.stack(images))[0]) if images else iter(())
        share = _since(started) / max(1, len(images))
        for film in batch:
            probabilities = None if film.image is None else next(rows)
            yield self._decide(film, probabilities, film.milliseconds + (0 if film.image is None else share))

    def _decide(self, film: _Decoded, row: NDArray[np.float64] | None, milliseconds: float) -> Prediction:
        classes = self.contract.classes
        status, answer, reasons = self._judge(film, row)
        probabilities = {} if row is None else dict(zip(classes, map(float, row), strict=True))
        label = None if answer is None else classes[answer]
        return Prediction(
            image=film.name,
            classes=classes,
            group_names=tuple(self.contract.groups),
            status=status,
            label=label,
            class_index=answer,
            probabilities=probabilities,
            groups={
                group: sum(probabilities[member] for member in members)
                for group, members in self.contract.groups.items()
                if probabilities
            },
            prediction_set=() if label is None else (label,),
            reasons=reasons,
            model=self._model,
            milliseconds=milliseconds,
        )

    def _judge(self, film: _Decoded, row: NDArray[np.float64] | None) -> tuple[Status, int | None, tuple[str, ...]]:
        """The one place where probabilities become a decision: status, class if answered, reasons."""
        if row is None:
            return "rejected", None, (film.reason,)
        best, least = int(row.argmax()), self.contract.decision.answer_from
        if row[best] < least:
            return "abstained", None, (f"largest probability {row[best]:.3f} is under {least:.3f}",)
        return "answered", best, ()


def verify(bundle: Path) -> int:
    """Run a bundle's golden cases through the whole way from bytes; return how many there were.

    Raises:
        BundleError: a file is damaged, or a probability differs by more than `GOLDEN_TOLERANCE`.
    """
    engine = Engine.load(bundle)
    cases = json.loads((bundle / GOLDEN_FOLDER / GOLDEN_FILE).read_text(encoding="utf-8"))["cases"]
    for case in cases:
        prediction = engine.predict((bundle / GOLDEN_FOLDER / case["file"]).read_bytes(), name=case["file"])
        for label, expected in case["probabilities"].items():
            got = prediction.probabilities.get(label, float("nan"))
            if not abs(got - expected) <= GOLDEN_TOLERANCE:
                raise BundleError(
                    f"{bundle}: golden case {case['file']} gives {label} {got:.4f}, expected {expected:.4f}; "
                    "this machine does not reproduce the model, do not use it."
                )
    return len(cases)


def _check_files(contract: Contract, bundle: Path) -> None:
    if MODEL_FILE not in contract.files:
        raise BundleError(f"{bundle / CONTRACT_FILE} does not name {MODEL_FILE}; export the bundle again.")
    for name, expected in contract.files.items():
        path = bundle / name
        if not path.is_file():
            raise BundleError(f"{path} is missing; copy the whole bundle, or export it again.")
        if sha256_of(path) != expected:
            raise BundleError(f"{path} was changed since export (its SHA-256 differs); export the bundle again.")


def _check_model(contract: Contract, session: ort.InferenceSession, bundle: Path) -> None:
    """The graph takes and gives what the contract says."""
    size, classes = contract.input.size, len(contract.classes)
    image = [(each.name, each.type, each.shape[1:]) for each in session.get_inputs()]
    outputs = {each.name: each.shape[-1] for each in session.get_outputs()}
    if (
        image != [("image", "tensor(uint8)", [1, size, size])]
        or outputs.get("logits") != classes
        or ("embedding" not in outputs)
    ):
        raise BundleError(
            f"{bundle / MODEL_FILE} takes {image} and gives {outputs}; the contract says uint8 [N, 1, {size}, {size}] "
            f"and {classes} classes; export the bundle again."
        )


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
