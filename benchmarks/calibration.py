"""Which calibration method is best on films that it was not fitted to, and what the decision then answers.

python benchmarks/calibration.py EVIDENCE.npz

Everything is cross-fitted: calibration and thresholds for each fold's films are fitted to the other folds' films.
NLL and ECE weight the films to the evidence's prior; all other figures count every film once.
Intervals are of the difference between two methods on the same films, by a bootstrap over patients.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from pneumoscope import metrics
from pneumoscope.engine import Rule, judge
from pneumoscope.export.calibration import COVERAGES, CalibrationSet, calibrate
from pneumoscope.metrics import Floats, HeldOutFilms
from pneumoscope.training.evidence import load_evidence

BINS = 15
PAIRS = (("temperature", "none"), ("vector", "temperature"), ("dirichlet", "vector"))
RESAMPLES = 2000


def main() -> None:
    """Print tables of the methods, of their differences and of coverages, for plain and for stress films."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evidence", type=Path)
    evidence = load_evidence(parser.parse_args().evidence)
    plain = evidence.unseen()
    usable = np.asarray(~np.isnan(evidence.stress).any(axis=1))
    for name, logits, rows in (
        ("plain", plain.logits, np.ones_like(usable)),
        ("stress", evidence.stress.astype(float), usable),
    ):
        print(f"{name}: {rows.sum():,} films")
        compare(plain, logits, rows)
    calibration_set = CalibrationSet(
        films=plain,
        kind="out-of-fold",
        prior=np.bincount(plain.truth, plain.weights).astype(float),
        classes=evidence.about.classes,
        groups=evidence.about.groups,
    )
    decide(calibration_set, evidence.stress.astype(float), usable)


def compare(films: HeldOutFilms, logits: Floats, rows: NDArray[np.bool_]) -> None:
    """Compare methods, fitted to other folds' plain films, on the `rows` (`bool [N]`) of the logits `[N, C]`."""
    by_method = {
        name: cross_fitted(films, logits, name)[rows] for name in ("none", "temperature", "vector", "dirichlet")
    }
    selected = films.at(rows)
    losses = {name: metrics.film_losses(selected.truth, shares) for name, shares in by_method.items()}
    for name, shares in by_method.items():
        accuracy = np.mean(shares.argmax(axis=1) == selected.truth)
        loss = float(np.average(losses[name], weights=selected.weights))
        error = calibration_errors(selected, shares, np.ones((1, len(selected.truth))))[0]
        print(f"  {name:12} NLL {loss:.4f}  ECE {error:.4f}  accuracy {accuracy:.4f}")
    resampled = np.concatenate(
        list(metrics.bootstrap_weights(selected.patient.astype(str).tolist(), resamples=RESAMPLES))
    )
    errors = {name: calibration_errors(selected, shares, resampled.astype(float)) for name, shares in by_method.items()}
    for one, other in PAIRS:
        low, high = metrics.difference_interval(losses[one], losses[other], selected, resamples=RESAMPLES)
        less, more = metrics.percentile_interval(np.subtract(errors[one], errors[other]))
        print(f"  {one} against {other}: NLL {low:+.4f} to {high:+.4f}, ECE {less:+.4f} to {more:+.4f}")


def cross_fitted(films: HeldOutFilms, logits: Floats, method: str) -> Floats:
    """Probabilities `[N, C]` for logits `[N, C]`, by a method fitted to the other folds' plain films."""
    found = np.empty(logits.shape)
    for held, others in films.parts():
        if method == "dirichlet":
            found[held] = dirichlet(others, logits[held])
        else:
            scaling = metrics.fit(others, "vector" if method == "vector" else "temperature")
            found[held] = metrics.softmax(logits[held]) if method == "none" else scaling.probabilities(logits[held])
    return found


def dirichlet(films: HeldOutFilms, logits: Floats) -> Floats:
    """Full Dirichlet calibration (Kull et al. 2019, arXiv:1910.12656): a linear map of the log-probabilities.

    Off-diagonal entries are regularised with a weight of 0.001, as in ODIR; the intercept, unlike there, is not.
    """
    classes = logits.shape[1]
    known = np.log(np.clip(metrics.softmax(films.logits), 1e-12, 1))

    def parts(parameters: Floats) -> tuple[Floats, Floats]:
        return parameters[: classes**2].reshape(classes, classes), parameters[classes**2 :]

    def loss(parameters: Floats) -> float:
        matrix, bias = parts(parameters)
        losses = metrics.film_losses(films.truth, metrics.softmax(known @ matrix + bias))
        off = matrix - np.diag(np.diag(matrix))
        return float(np.average(losses, weights=films.weights) + 1e-3 * (off**2).sum())

    start = np.concatenate([np.eye(classes).ravel(), np.zeros(classes)])
    matrix, bias = parts(minimize(loss, start).x)
    return metrics.softmax(np.log(np.clip(metrics.softmax(logits), 1e-12, 1)) @ matrix + bias)


def calibration_errors(films: HeldOutFilms, shares: Floats, counts: Floats) -> Floats:
    """Expected calibration error of the largest probability, in bins of equal width, per row of `counts` `[B, N]`."""
    confidence = shares.max(axis=1)
    gap = films.weights * (confidence - (shares.argmax(axis=1) == films.truth))
    bins = np.eye(BINS)[np.minimum((confidence * BINS).astype(int), BINS - 1)]
    return np.asarray(np.abs(counts @ (bins * gap[:, np.newaxis])).sum(axis=1) / (counts @ films.weights))


def decide(calibration_set: CalibrationSet, stress: Floats, usable: NDArray[np.bool_]) -> None:
    """Print what is answered at each coverage, for plain films and for `usable` stress films (`bool [N]`)."""
    films = calibration_set.films
    fitted = [(held, calibrate(replace(calibration_set, films=others))) for held, others in films.parts()]
    for name, logits, rows in (("plain", films.logits, np.ones_like(usable)), ("stress", stress, usable)):
        print(f"{name}: coverage; answered, correct of these, type undetermined; coverage of each class")
        for coverage in COVERAGES:
            answer, labels = np.full(len(films.truth), -1), np.empty(len(films.truth), object)
            kept = np.zeros(logits.shape, np.bool_)
            for held, (calibration, decision) in fitted:
                row = decision.row(coverage)
                assert row is not None
                scale, bias = (np.array([*part.values()]) for part in (calibration.scale, calibration.bias))
                shares = metrics.softmax(logits[held] * scale + bias)
                kept[held] = shares >= [*row.classes.values()]
                verdicts = [
                    judge(calibration_set.groups, calibration_set.by_class(each), Rule(level="class", row=row))
                    for each in shares
                ]
                answer[held] = [-1 if each.class_index is None else each.class_index for each in verdicts]
                labels[held] = [each.label if each.status == "abstained" else None for each in verdicts]
            answer, truth = answer[rows], films.truth[rows]
            answered = answer >= 0
            right = np.mean((answer == truth)[answered]) if answered.any() else np.nan
            undetermined = np.mean(labels[rows] != np.array(None))
            observed = ", ".join(f"{share:.3f}" for share in metrics.class_coverage(kept[rows], truth))
            print(f"  {coverage:.2f}; {answered.mean():.3f}, {right:.3f}, {undetermined:.3f}; {observed}")


if __name__ == "__main__":
    main()
