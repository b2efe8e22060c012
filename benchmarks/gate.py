"""What the gate rejects, measured on films and pictures that it was not fitted to.

    python benchmarks/gate.py FOLDS DATASET [KIND=FOLDER ...] [--folds 1,2] [--films 400]

FOLDS is a finished cross-validation of DATASET with the default --folds 5 and --fold-seed 0. For each fold, a gate is
fitted to the fold's network and train films, as `export` does it. It is then applied to the fold's held-out films, as
they are, as stress films, varied and with each fault, and to pictures: newly drawn ones, and those of each FOLDER,
which should be rejected with the code KIND. For each FOLDER, a second row shows the codes that follow from the gate's
scores alone, without its measures of texture.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pneumoscope.contract import MIRRORED, Gate, InputRule
from pneumoscope.dataset import Dataset, load_dataset
from pneumoscope.engine.gate import DISTANCE, GATE, find_fault, mirror_warning
from pneumoscope.errors import ImageError, UnsuitableError
from pneumoscope.export.faults import FAULT_MAKERS, augment
from pneumoscope.export.gate import FILMS, fit_gate
from pneumoscope.export.graph import join_gate, write_onnx
from pneumoscope.export.pictures import KINDS, draw
from pneumoscope.export.quantise import evenly_spaced, run_model
from pneumoscope.imaging import Luma, Radiograph, read_for_input, to_input
from pneumoscope.progress import SILENT
from pneumoscope.training.folds import fold_datasets, stress_inputs
from pneumoscope.training.inputs import read_inputs
from pneumoscope.training.predict import load_network
from pneumoscope.training.run_directory import load_config

DRAWN = 100  # pictures of each kind per fold


def main() -> None:
    """Apply the gate fold by fold, and print one table for all folds together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folds", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("pictures", nargs="*", metavar="KIND=FOLDER")
    parser.add_argument("--folds", dest="chosen", default="1,2,3,4,5")
    parser.add_argument("--films", type=int, default=400)
    arguments = parser.parse_args()
    counts_by_kind: dict[str, Counter[str]] = {}
    parts = fold_datasets(load_dataset(arguments.dataset), folds=5, seed=0)
    for number in map(int, arguments.chosen.split(",")):
        judge_fold(
            parts[number - 1], arguments.folds / f"fold-{number}", arguments.films, arguments.pictures, counts_by_kind
        )
    for name, codes in counts_by_kind.items():
        total = codes.total()
        rejected = total - codes["accepted"] - codes[f"accepted, {MIRRORED}"]
        shares = ", ".join(f"{code} {count}" for code, count in codes.most_common())
        print(f"{name:<44}{100 * rejected / total:>8.2f} % of {total:>5}   {shares}")


def judge_fold(
    part: Dataset, run: Path, films: int, pictures: list[str], counts_by_kind: dict[str, Counter[str]]
) -> None:
    """Fit one fold's gate, and count its outcomes for each kind of input."""
    rule = InputRule.squash(load_config(run).size)
    train, held = part.split("train"), part.split("val")
    train = [train[place] for place in evenly_spaced(len(train), FILMS)]
    held = [held[place] for place in evenly_spaced(len(held), films)]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        write_onnx(load_network(run), rule.size, model)
        inputs = np.stack(list(read_inputs(part, train, rule, SILENT)))
        gate, weights = fit_gate(model, inputs, [film.patient for film in train])
        join_gate(model, weights)
        print(f"{run.name}: {gate.model_dump_json(exclude={'textures'})}", flush=True)
        unseen = np.stack(list(read_inputs(part, held, rule, SILENT)))
        stress, usable = stress_inputs(part, held, rule, seed=0)
        kinds = {"film": unseen, "stress film": stress[usable], **_faults(unseen[:, 0]), **_drawn(rule.size, run.name)}
        for name, images in kinds.items():
            counts_by_kind.setdefault(name, Counter()).update(
                _outcomes(model, gate, images, [(0.0, 0.0)] * len(images))
            )
        for kind, _, place in (each.partition("=") for each in pictures):
            found = list(_read(Path(place), rule))
            images = np.stack([image for image, _ in found])
            shares = [pair for _, pair in found]
            for limits, how in ((gate, ""), (gate.model_copy(update={"textures": None}), ", scores alone")):
                counts = counts_by_kind.setdefault(f"{kind}: {Path(place).name}{how}", Counter())
                counts.update(_outcomes(model, limits, images, shares))


def _faults(films: Luma) -> dict[str, Luma]:
    random = np.random.default_rng(0)
    made = {
        code: np.stack([make(film, random) for film in films])[:, np.newaxis] for code, make in FAULT_MAKERS.items()
    }
    return {"varied film": np.stack([augment(film, random) for film in films])[:, np.newaxis], **made}


def _drawn(side: int, name: str) -> dict[str, Luma]:
    random = np.random.default_rng(list(name.encode()))
    return {
        f"drawn {kind}": np.stack([draw(kind, random, side) for _ in range(DRAWN)])[:, np.newaxis] for kind in KINDS
    }


def _outcomes(model: Path, gate: Gate, images: Luma, shares: list[tuple[float, float]]) -> Iterator[str]:
    """The code of each image, or `accepted`; `shares` are those of its file's coloured and transparent pixels."""
    found = run_model(model, [GATE, DISTANCE], images)
    rows = ((score, distance) for scores, distances in found for score, distance in zip(scores, distances, strict=True))
    for (scores, distances), (coloured, transparent), image in zip(rows, shares, images, strict=True):
        if (why := find_fault(gate, scores, distances, coloured, image, transparent=transparent)) is not None:
            yield why.code
        else:
            yield "accepted" if mirror_warning(gate, scores) is None else f"accepted, {MIRRORED}"


def _read(folder: Path, rule: InputRule) -> Iterator[tuple[Luma, tuple[float, float]]]:
    """Model inputs of the files that can be decoded, each with its shares of coloured and of transparent pixels."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            radiograph = _radiograph(path.read_bytes(), rule)
            if radiograph is None:
                continue
            yield to_input(radiograph.luma, rule), (radiograph.coloured or 0.0, radiograph.transparent)


def _radiograph(data: bytes, rule: InputRule) -> Radiograph | None:
    """The radiograph that the engine would decide on, also for a picture with hardly any grey."""
    try:
        return read_for_input(data, rule)
    except UnsuitableError as refusal:
        found: Radiograph | None = refusal.radiograph
        return found
    except ImageError:
        return None


if __name__ == "__main__":
    main()
