"""How long all figures with 95 % intervals take: `summarise` against a loop over scikit-learn's metrics.

python benchmarks/metrics.py [--films 600 5232] [--resamples 2000] [--looped 20]

Intervals are by the patient-clustered bootstrap. The predictions are random, with two films per patient. The loop
computes the plain figures only: rates, AUROCs, average precisions, Brier score and cross-entropy. `--looped` of its
resamples are timed, and their time is scaled to all.
"""

import argparse
import time
from typing import Any

import numpy as np
from sklearn import metrics as sk

from pneumoscope.metrics import Floats, Indices, bootstrap_weights, softmax, summarise

CLASSES = ("bacteria", "normal", "virus")


def predictions(films: int) -> tuple[Indices, Floats, list[str]]:
    """True classes, probabilities of a fairly good model, and patients with two films each."""
    random = np.random.default_rng(0)
    truth = random.integers(len(CLASSES), size=films)
    logits = random.normal(size=(films, len(CLASSES))) + 2 * np.eye(len(CLASSES))[truth]
    return truth, softmax(logits), [str(film // 2) for film in range(films)]


def seconds_of_summary(films: int, resamples: int) -> tuple[int, float]:
    """The number of figures that `summarise` returns, and the seconds that it takes."""
    truth, probabilities, patients = predictions(films)
    groups: dict[str, tuple[str, ...]] = {"pneumonia": ("bacteria", "virus")}
    started = time.perf_counter()
    found = summarise(
        truth, probabilities, patients, classes=CLASSES, groups=groups, prior="uniform", resamples=resamples
    )
    return len(found), time.perf_counter() - started


def seconds_of_loop(films: int, resamples: int, looped: int) -> float:
    """Seconds that scikit-learn's figures take, one resample after another."""
    truth, probabilities, patients = predictions(films)
    rows = next(bootstrap_weights(patients, resamples=looped))
    started = time.perf_counter()
    for weights in rows:
        _one_resample(truth, probabilities, weights)
    return (time.perf_counter() - started) * resamples / len(rows)


def _one_resample(truth: Indices, probabilities: Floats, weights: Any) -> None:
    predicted, options = probabilities.argmax(axis=1), {"sample_weight": weights}
    sk.accuracy_score(truth, predicted, **options)
    sk.matthews_corrcoef(truth, predicted, **options)
    sk.precision_recall_fscore_support(truth, predicted, zero_division=np.nan, **options)
    for label in range(len(CLASSES)):
        sk.recall_score(truth != label, predicted != label, **options)
        sk.precision_score(truth != label, predicted != label, zero_division=np.nan, **options)
        sk.roc_auc_score(truth == label, probabilities[:, label], **options)
        sk.average_precision_score(truth == label, probabilities[:, label], **options)
    sk.brier_score_loss(truth, probabilities, labels=range(len(CLASSES)), **options)
    sk.log_loss(truth, probabilities, labels=range(len(CLASSES)), **options)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, nargs="+", default=[600, 5232])
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--looped", type=int, default=20)
    arguments = parser.parse_args()
    print(f"{'films':>8}{'resamples':>13}{'figures':>9}{'seconds':>9}{'loop':>9}{'ratio':>8}")
    for films in arguments.films:
        figures, seconds = seconds_of_summary(films, arguments.resamples)
        loop = seconds_of_loop(films, arguments.resamples, min(arguments.looped, arguments.resamples))
        print(
            f"{films:>8}{arguments.resamples:>13}{figures:>9}{seconds:>9.2f}{loop:>9.1f}{loop / seconds:>8.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
