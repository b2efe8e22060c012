"""Random predictions for tests of the metrics."""

import numpy as np

from pneumoscope import metrics


def sample(seed: int, classes: int = 3, films: int | None = None) -> tuple[metrics.Indices, metrics.Floats]:
    """True classes, each once and `films` more at random, and probabilities with ties: `classes + films` films."""
    random = np.random.default_rng(seed)
    films = int(random.integers(5, 60)) if films is None else films
    truth = np.concatenate([np.arange(classes), random.integers(classes, size=films)])
    logits = np.round(random.normal(size=(len(truth), classes)) * 2) / 2 + np.eye(classes)[truth]
    return truth, metrics.softmax(logits)


def smooth(seed: int, classes: int = 3) -> tuple[metrics.Indices, metrics.Floats]:
    """As `sample`, but without ties and without values at the edge of a bin."""
    truth, probabilities = sample(seed, classes)
    random = np.random.default_rng(seed)
    return truth, metrics.softmax(np.log(probabilities) + random.normal(size=probabilities.shape))


def film_weights(seed: int, films: int) -> metrics.Floats:
    """Three rows of weights: resampled films, fractions, and only some of the films."""
    random = np.random.default_rng(seed)
    some = random.random(films) * (random.random(films) < 0.7)
    return np.stack([random.multinomial(films, np.full(films, 1 / films)).astype(float), random.random(films), some])
