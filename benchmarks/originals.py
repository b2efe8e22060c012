"""Whether full-size originals and their small copies get the same class, from a network that has not seen the film.

python benchmarks/originals.py FOLDS DATASET ORIGINALS.zip

FOLDS is the folder of `pneumoscope cross-validate` on DATASET, which has the small copies.
"""

import argparse
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np

from pneumoscope.archive import open_source
from pneumoscope.contract import InputRule
from pneumoscope.dataset import Record, load_dataset
from pneumoscope.imaging import SUFFIXES, Limits, Luma, load_input
from pneumoscope.training.evidence import load_evidence
from pneumoscope.training.folds import EVIDENCE_FILE, fold_datasets
from pneumoscope.training.predict import predict_inputs


def main() -> None:
    """Print the share of originals with the class of their copy, and the films that change class."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folds", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("originals", type=Path)
    arguments = parser.parse_args()
    about = load_evidence(arguments.folds / EVIDENCE_FILE).about
    rule = InputRule.squash(about.config.size)
    dataset = load_dataset(arguments.dataset)
    parts = fold_datasets(dataset, folds=about.folds, seed=about.seed)
    held: dict[str, tuple[int, Record]] = {
        PurePosixPath(film.path).stem: (number, film) for number, part in enumerate(parts) for film in part.split("val")
    }
    pairs: defaultdict[int, list[tuple[str, Luma, Luma]]] = defaultdict(list)
    with open_source(arguments.originals, max_bytes=Limits().max_bytes) as listing:
        for member in listing.members:
            stem = PurePosixPath(member.name).stem
            if PurePosixPath(member.name).suffix.lower() in SUFFIXES and stem in held:
                number, film = held[stem]
                small = load_input(dataset.read(film), rule, limits=dataset.limits)
                pairs[number].append((film.path, load_input(member.read(), rule, limits=dataset.limits), small))
    changed, total, difference = [], 0, 0.0
    for number, films in sorted(pairs.items()):
        names, large, small_ones = zip(*films, strict=True)
        one, other = (
            predict_inputs(arguments.folds / f"fold-{number + 1}", np.stack(x))[0] for x in (large, small_ones)
        )
        changed += [name for name, differs in zip(names, one.argmax(1) != other.argmax(1), strict=True) if differs]
        difference = max(difference, float(np.abs(one - other).max()))
        total += len(names)
    share = 1 - len(changed) / total
    print(f"{total - len(changed)} of {total} originals get the class of their small copy ({100 * share:.1f} %)")
    print(f"largest difference in a logit: {difference:.3f}")
    for name in changed:
        print(f"changed: {name}")


if __name__ == "__main__":
    main()
