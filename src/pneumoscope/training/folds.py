"""Cross-validation: one run per fold, and each network's predictions for the films that it has not seen.

============================  ======================================================================
`folds.json`                  folds, seed, configuration, data set (`FoldsCard`)
`fold-1/`, `fold-2/`, …       one run directory per fold; with `outputs.npz` once the fold is done
`evidence.npz`                all films' out-of-fold predictions (`evidence`), once all folds are done
`report.json`                 figures with intervals, for plain and stress films side by side
============================  ======================================================================
"""

import hashlib
import io
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pneumoscope.contract import InputRule
from pneumoscope.dataset import Dataset, Record
from pneumoscope.dataset.split import LabelledFilm, deal_patients
from pneumoscope.dataset.stress import common_size, stress_film
from pneumoscope.documents import Document, Sha256, read_document, write_document
from pneumoscope.errors import RunError, UsageError
from pneumoscope.files import refuse_existing, whole_directory, whole_file, write_json
from pneumoscope.imaging import Luma, read_luma, to_input
from pneumoscope.metrics import softmax
from pneumoscope.parallel import map_ordered
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.config import check_compiler
from pneumoscope.training.evidence import About, Evidence, save_evidence
from pneumoscope.training.fold_processes import FoldTask, run_in_parallel, threads_for_fold
from pneumoscope.training.inputs import CACHE_FOLDER, cache_inputs
from pneumoscope.training.run_directory import WEIGHTS_FILE, code_commit, library_versions

FOLDS_FILE, EVIDENCE_FILE, REPORT_FILE, OUTPUTS_FILE = "folds.json", "evidence.npz", "report.json", "outputs.npz"


class FoldsCard(Document):
    """`folds.json`."""

    schema_version: Literal[1]
    folds: int = Field(ge=2, le=50)
    seed: int = Field(ge=0)
    dataset: Sha256
    config: TrainConfig


def cross_validate(
    dataset: Dataset,
    config: TrainConfig,
    out: Path,
    *,
    folds: int = 5,
    seed: int = 0,
    jobs: int = 1,
    resume: bool = False,
    cache: Path | None = None,
    listener: Listener = SILENT,
) -> dict[str, Any]:
    """Train one network per fold of the train and validation films, cut by patient, and report on the predictions.

    The data set's test and stress parts are not used. Every film is predicted twice by the network that has not
    seen its patient: as it is, and as its stress version (`dataset.stress`). With `resume`, finished
    folds are kept and interrupted ones continue. With `jobs` above 1, up to that many folds are trained at once, each
    in a process of its own with a share of the cores.

    Raises:
        DatasetError, RunError, UsageError, WeightsError.
    """
    if config.patience is not None or config.keep == "best":
        raise UsageError(
            "patience and keep 'best' would choose the epoch by the films that cross-validation tests on; "
            "leave them out."
        )
    check_compiler(config, resume=resume)
    card = FoldsCard(schema_version=1, folds=folds, seed=seed, dataset=dataset.fingerprint, config=config)
    parts = fold_datasets(dataset, folds=folds, seed=seed)
    _prepare_directory(out, card, resume=resume)
    cache = cache or dataset.root / CACHE_FOLDER
    unfinished = {
        number: partial(_run_fold, part, config, out / f"fold-{number}", seed, cache)
        for number, part in enumerate(parts, 1)
        if not (out / f"fold-{number}" / OUTPUTS_FILE).is_file()
    }
    if jobs > 1:
        tasks = [
            FoldTask(number=number, work=work, threads=threads_for_fold(number, folds=folds, jobs=jobs))
            for number, work in unfinished.items()
        ]
        run_in_parallel(tasks, jobs=jobs, listener=listener)
    else:
        for number, work in unfinished.items():
            listener.say(f"fold {number} of {folds}")
            work(listener)
    evidence = _gather(parts, card, out)
    save_evidence(evidence, out / EVIDENCE_FILE)
    report = report_on(evidence)
    write_json(out / REPORT_FILE, report)
    return report


def fold_datasets(dataset: Dataset, *, folds: int, seed: int) -> list[Dataset]:
    """The data set once per fold: the fold's films are `val`, the others `train`, and there is no other split.

    Raises:
        DatasetError: a class has too few patients.
    """
    films = [film for film in dataset.films if film.split in ("train", "val")]
    dealt = deal_patients(
        [LabelledFilm(label=film.label, patient=film.patient) for film in films], folds=folds, seed=seed
    )
    return [
        replace(
            dataset,
            films=tuple(
                replace(film, split="val" if fold == number else "train")
                for film, fold in zip(films, dealt, strict=True)
            ),
            # A run is tied to its data set by the fingerprint, so a resumed fold cannot continue with another fold's
            # films.
            fingerprint=hashlib.sha256(f"{dataset.fingerprint} fold {number} of {folds}, {seed}".encode()).hexdigest(),
        )
        for number in range(folds)
    ]


def stress_inputs(
    dataset: Dataset, films: Sequence[Record], rule: InputRule, *, seed: int
) -> tuple[Luma, NDArray[np.bool_]]:
    """Stress inputs of films, `uint8 [N, 1, S, S]`, and whether each is usable (not blank), `bool [N]`."""
    size = common_size(films)
    images, usable = np.zeros((len(films), 1, rule.size, rule.size), np.uint8), np.zeros(len(films), bool)

    def stress(film: Record) -> Luma | None:
        result = stress_film(film, read_luma(dataset.read(film), limits=dataset.limits), size=size, seed=seed)
        return None if result is None else to_input(result[1].luma, rule)

    for place, image in enumerate(map_ordered(stress, films)):
        if image is not None:
            images[place], usable[place] = image, True
    return images, usable


def report_on(evidence: Evidence) -> dict[str, Any]:
    """Figures of out-of-fold predictions with 95 % intervals over patients, for plain and stress films side by side."""
    fold_rows = [np.asarray(evidence.fold == fold) for fold in range(evidence.about.folds)]
    plain, stress = softmax(evidence.logits), softmax(evidence.stress)
    return {
        "schema_version": 1,
        "films": len(evidence.label),
        "patients": len(np.unique(evidence.patient)),
        "prior": evidence.about.config.prior,
        "plain": evidence.figures(plain),
        "stress": evidence.figures(stress, np.asarray(~np.isnan(evidence.stress).any(axis=1))),
        "folds": [{"plain": evidence.figures(plain, rows)} for rows in fold_rows],
    }


def _prepare_directory(out: Path, card: FoldsCard, *, resume: bool) -> None:
    if not resume:
        refuse_existing(out, overwrite=False, holding="", instead="continue with --resume, or choose another --out")
        with whole_directory(out, holding="") as folder:
            write_document(card, folder / FOLDS_FILE)
        return
    if not (out / FOLDS_FILE).is_file():
        raise RunError(f"{out} is not a cross-validation (it has no {FOLDS_FILE}); leave out --resume to start one.")
    try:
        saved = read_document(FoldsCard, (out / FOLDS_FILE).read_bytes())
    except ValueError as failure:
        raise RunError(f"{out / FOLDS_FILE} is not valid: {failure}; start again with another --out.") from failure
    if saved != card:
        raise UsageError(f"--resume needs the folds, seed, configuration and data set of {out}, and these differ.")


def _run_fold(part: Dataset, config: TrainConfig, run: Path, seed: int, cache: Path, listener: Listener) -> None:
    from pneumoscope.training.fit import train  # torch takes seconds to load
    from pneumoscope.training.predict import predict_inputs

    if not (run / WEIGHTS_FILE).is_file():
        # A run directory without final weights is an interrupted fold.
        train(part, config, run, resume=run.is_dir(), cache=cache, listener=listener)
    rule = InputRule.squash(config.size)
    plain = cache_inputs(part, "val", rule, cache, listener=listener)
    logits, embedding = predict_inputs(run, plain, listener=listener)
    images, usable = stress_inputs(part, part.split("val"), rule, seed=seed)
    # Embeddings of stress films are not stored: nothing uses them.
    stress, _ = predict_inputs(run, images, listener=listener)
    stress[~usable] = np.nan  # the prediction for a blank film means nothing
    with whole_file(run / OUTPUTS_FILE) as partial_file, partial_file.open("wb") as stream:
        # The embeddings are by far the largest part; float16 halves them.
        np.savez(stream, logits=logits, stress=stress, embedding=embedding.astype(np.float16))


def _gather(parts: list[Dataset], card: FoldsCard, out: Path) -> Evidence:
    """The outputs of all folds as one `Evidence`, with the films in manifest order."""
    films = parts[0].films
    place = {film.path: row for row, film in enumerate(films)}
    fold = np.zeros(len(films), np.int8)
    outputs: dict[str, NDArray[Any]] = {}
    for number, part in enumerate(parts):
        rows = [place[film.path] for film in part.split("val")]
        fold[rows] = number
        for name, stored in _read_outputs(out / f"fold-{number + 1}" / OUTPUTS_FILE).items():
            whole = outputs.setdefault(name, np.zeros((len(films), stored.shape[1]), stored.dtype))
            whole[rows] = stored
    # Numbers tell patients apart without naming them.
    patients = {name: number for number, name in enumerate(sorted({film.patient for film in films}))}
    classes = parts[0].classes
    return Evidence(
        about=About(
            schema_version=1,
            classes=classes,
            groups=parts[0].groups,
            dataset=card.dataset,
            folds=card.folds,
            seed=card.seed,
            config=card.config,
            commit=code_commit(),
            versions=library_versions(),
        ),
        film=np.array([list(bytes.fromhex(film.file_sha256)) for film in films], np.uint8),
        patient=np.array([patients[film.patient] for film in films], np.int32),
        label=np.array([classes.index(film.label) for film in films], np.int8),
        fold=fold,
        logits=outputs["logits"],
        stress=outputs["stress"],
        embedding=outputs["embedding"],
    )


def _read_outputs(path: Path) -> dict[str, NDArray[Any]]:
    try:
        # From memory, because NumPy leaves a damaged file open if it gets the path.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            return {name: stored[name] for name in ("logits", "stress", "embedding")}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as failure:
        raise RunError(f"{path} is damaged ({failure}); delete it and continue with --resume.") from failure
