"""Out-of-fold evidence: the predictions of cross-validation's networks for films they have not seen, in one file.

A compressed NumPy archive, never unpickled. One row per film, in manifest order:

==============  ====================================================================================
`about`         JSON (`About`): classes, prior, recipe, data set
`film`          SHA-256 of the film's file, `uint8 [N, 32]`
`patient`       number of its patient, `int32 [N]`, valid only within the file
`label`         class index, `int8 [N]`
`fold`          the fold whose network has not seen it, from 0, `int8 [N]`
`logits`        of the film, `float32 [N, C]`
`stress`        of the film's stress version (`dataset.stress`), `float32 [N, C]`; NaN if blank
`embedding`     input of the last linear layer, `float16 [N, D]`
==============  ====================================================================================
"""

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pneumoscope.arrays import write_arrays
from pneumoscope.documents import Document, Sha256, Text, read_document
from pneumoscope.errors import RunError
from pneumoscope.metrics import Floats, HeldOutFilms, prior_weights, summarise
from pneumoscope.settings.training import TrainConfig

_TYPES = {
    "film": np.uint8,
    "patient": np.int32,
    "label": np.int8,
    "fold": np.int8,
    "logits": np.float32,
    "stress": np.float32,
    "embedding": np.float16,
}


class About(Document):
    """The description of an evidence file: what its rows and columns mean."""

    schema_version: Literal[1]
    classes: tuple[Text, ...] = Field(min_length=2)
    groups: dict[Text, tuple[Text, ...]]
    dataset: Sha256
    folds: int = Field(ge=2)
    seed: int = Field(ge=0, description="Of the folds and of the stress films.")
    config: TrainConfig
    commit: str | None
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """The content of an evidence file; shapes and types are in the module's docstring."""

    about: About
    film: NDArray[np.uint8]
    patient: NDArray[np.int32]
    label: NDArray[np.int8]
    fold: NDArray[np.int8]
    logits: NDArray[np.float32]
    stress: NDArray[np.float32]
    embedding: NDArray[np.float16]

    def rows(self, hashes: list[str]) -> NDArray[np.int64]:
        """The rows of films given by the SHA-256 of their files.

        Raises:
            RunError: a film is not in the file.
        """
        # By content: the final run's data set (`data prepare --train-only`) has other paths than cross-validation's.
        known = {bytes(row).hex(): number for number, row in enumerate(self.film)}
        if missing := [each for each in hashes if each not in known]:
            raise RunError(
                f"{len(missing)} of {len(hashes)} films are not among the evidence's {len(known)}; "
                "cross-validate on this data set."
            )
        return np.array([known[each] for each in hashes], np.int64)

    def figures(self, probabilities: Floats, rows: NDArray[np.bool_] | slice = slice(None)) -> dict[str, Any]:
        """Figures for some rows of `probabilities` `[N, C]`, with 95 % intervals over patients; see `summarise`."""
        return summarise(
            self.label[rows].astype(np.int64),
            probabilities[rows],
            list(self.patient[rows].astype(str)),
            classes=self.about.classes,
            groups=self.about.groups,
            prior=self.about.config.prior,
        )

    def unseen(self) -> HeldOutFilms:
        """The films for calibration; with a uniform prior, every class has the same weight."""
        truth, count = self.label.astype(np.int64), len(self.about.classes)
        frequencies = np.bincount(truth, minlength=count) / len(truth)
        uniform = self.about.config.prior == "uniform"
        return HeldOutFilms(
            logits=self.logits.astype(np.float64),
            truth=truth,
            patient=self.patient,
            fold=self.fold,
            weights=prior_weights(truth, np.full(count, 1 / count) if uniform else frequencies),
        )


def save_evidence(evidence: Evidence, path: Path) -> None:
    """Write an evidence file, whole or not at all; the same content gives the same bytes."""
    arrays = {name: getattr(evidence, name) for name in _TYPES}
    arrays["about"] = np.frombuffer(evidence.about.model_dump_json().encode(), np.uint8)
    write_arrays(path, arrays)


def load_evidence(path: Path) -> Evidence:
    """Read an evidence file.

    Raises:
        RunError: there is no such file, or it is not an evidence file.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; make it with `pneumoscope cross-validate`.")
    try:
        with zipfile.ZipFile(path) as archive:
            content: dict[str, Any] = {name: _read(archive, name) for name in _TYPES}
            about = read_document(About, _read(archive, "about").tobytes())
        evidence = Evidence(about=about, **content)
        _check(evidence)
    # `zipfile` raises RuntimeError for an encrypted member.
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as failure:
        raise RunError(
            f"{path} is not an evidence file ({failure}); make it with `pneumoscope cross-validate`."
        ) from failure
    return evidence


def _read(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """An array of the archive. Its bytes are read whole first: only then does `zipfile` check their checksum."""
    stream = io.BytesIO(archive.read(f"{name}.npy"))
    # Unpickling could run code from the file.
    array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _check(evidence: Evidence) -> None:
    """Raise ValueError unless every array has its type and shape, and labels and folds are in range."""
    rows, classes = evidence.label.size, len(evidence.about.classes)
    width = {"film": (32,), "logits": (classes,), "stress": (classes,), "embedding": evidence.embedding.shape[-1:]}
    for name, dtype in _TYPES.items():
        array, shape = getattr(evidence, name), (rows, *width.get(name, ()))
        if array.shape != shape or array.dtype != dtype:
            expected = f"{np.dtype(dtype)} {list(shape)}"
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, expected {expected}")
    for name, numbers, count in (("label", evidence.label, classes), ("fold", evidence.fold, evidence.about.folds)):
        if not rows or not 0 <= numbers.min() <= numbers.max() < count:
            raise ValueError(f"{name} must be numbers from 0 to {count - 1}, one per film")
