"""Fitting the gate to films, to films with artificial faults, and to pictures that are not films.

A linear classifier of the network's features gives a score per code: a film, a fault, or another kind of picture. What
the films' principal components leave unexplained of the features, at two depths, measures how much an input differs
from all films. Both are fitted anew for every exported model. Their limits come from films that the fitted gate has not
seen. `kinds` fits the part that names the kind of a rejected picture.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pneumoscope.contract import FILM, MIRRORED, Gate
from pneumoscope.export.faults import FAULT_MAKERS, augment
from pneumoscope.export.graph import LIMIT, MIDDLE, GateWeights
from pneumoscope.export.kinds import fit_textures
from pneumoscope.export.pictures import KINDS, Kind, Random, draw
from pneumoscope.export.quantise import evenly_spaced, run_model
from pneumoscope.imaging import Luma
from pneumoscope.metrics import Floats, softmax
from pneumoscope.parallel import map_ordered
from pneumoscope.progress import SILENT, Listener

CODES = (FILM, *FAULT_MAKERS, *KINDS)
#: Share of films, as they are and augmented, that all limits together may reject; largest share of coloured pixels.
FALSE_REJECTS, COLOURED = 0.01, 0.05
FILMS = 600
_PICTURES = {"photograph": 1.0, "drawing": 1.5, "screenshot": 0.75, "noise": 0.5, "slice": 0.75}  # per film
_FEWEST = 60  # pictures of each kind
_AUGMENTED = 0.7  # share of faulty films that are also augmented
_FOLDS = 5
_COMPONENTS = 32
_FLOOR = 0.1  # share of the mean deviation that is added to each: some features are almost always zero
_PLACES, _WIDE = 4, 512  # pooling cells along a side; half as many if the network has more channels than this
_STEPS, _BATCH, _RATE, _DECAY = 400, 256, 5e-3, 1e-2


@dataclass(frozen=True, kw_only=True, eq=False)
class GateSamples:
    """What a gate is fitted to: features `float32 [N, E]`, indices of codes `[N]`, patients `[N]` (-1: not a film).

    The first `embedding` of the E features are the network's embedding; the others come from a layer in the middle,
    averaged by the matrix `pool`.
    """

    features: Floats
    code: NDArray[np.int64]
    patient: NDArray[np.int64]
    embedding: int
    pool: Floats


def fit_gate(
    model: Path,
    films: Luma,
    patients: Sequence[str],
    *,
    drawings: bool = False,
    seed: int = 0,
    listener: Listener = SILENT,
) -> tuple[Gate, GateWeights]:
    """Fit the gate of an ONNX model that `write_onnx`, or `quantise`, has written.

    Args:
        model: the file.
        films: train films, `uint8 [N, 1, S, S]`; at most `FILMS` of them are used.
        patients: the patient of each film, `[N]`.
        drawings: whether the films are drawings themselves; no phantoms are then among the pictures to reject.
        seed: seed of the drawn pictures and of the fit.
        listener: is notified of the progress of slow parts.

    Returns:
        The gate's limits for the contract, and its weights for `join_gate`.
    """
    samples = gate_samples(model, films, patients, drawings=drawings, seed=seed, listener=listener)
    judged = [_held_out_outputs(samples, fold, seed) for fold in range(_FOLDS)]
    film, mirrored, distances = (np.concatenate(part) for part in zip(*judged, strict=True))
    # Three limits share the false rejections. The margin widens them: a small sample shows too little of the tail.
    share, margin = FALSE_REJECTS / 3, 1 + 1 / math.sqrt(len(film))
    return Gate(
        codes=CODES,
        film_from=round(min(0.5, float(np.quantile(film, share)) / margin), 6),
        mirrored_from=round(max(0.5, float(np.quantile(mirrored, 1 - FALSE_REJECTS))), 6),
        distances=tuple(round(float(limit) * margin, 6) for limit in np.quantile(distances, 1 - share, axis=0)),
        coloured=COLOURED,
        false_rejects=FALSE_REJECTS,
        films=len(film),
        textures=fit_textures(films.shape[-1], films=min(FILMS, len(films)), seed=seed, listener=listener),
    ), fit_weights(samples, np.ones(len(samples.code), bool), seed)


def gate_samples(
    model: Path, films: Luma, patients: Sequence[str], *, drawings: bool, seed: int, listener: Listener = SILENT
) -> GateSamples:
    """Features of films as they are and augmented, of each fault of them, and of pictures of each kind."""
    places = evenly_spaced(len(films), FILMS)
    chosen = [films[place, 0] for place in places]
    names, numbers = np.unique([patients[place] for place in places], return_inverse=True)
    if len(names) < _FOLDS:  # too few patients for folds by patient
        numbers = np.arange(len(chosen))
    makers: list[tuple[str, int, Callable[[int, Random], Luma]]] = [
        (FILM, len(chosen), lambda row, _: chosen[row]),
        (FILM, len(chosen), lambda row, random: augment(chosen[row], random)),
        *((code, len(chosen), partial(_faulty, code, chosen)) for code in FAULT_MAKERS),
        *((kind, _count(kind, len(chosen)), partial(_picture, kind, chosen[0].shape[0], drawings)) for kind in KINDS),
    ]
    features, codes, owners = list[Floats](), list[int](), list[NDArray[np.int64]]()
    found: tuple[Floats, Floats, Floats] | None = None
    for number, (code, count, make) in enumerate(listener.track("fitting the gate", makers, len(makers), "kinds")):
        randoms = [np.random.default_rng([seed, number, row]) for row in range(count)]
        inputs = np.stack(list(map_ordered(lambda each, make=make: make(*each), enumerate(randoms))))  # type: ignore[misc]
        found = features_of(model, inputs[:, np.newaxis])
        features.append(np.concatenate(found[:2], axis=1))
        codes += [CODES.index(code)] * count
        owners.append(numbers if code not in KINDS else np.full(count, -1))
    assert found is not None
    return GateSamples(
        features=np.concatenate(features),
        code=np.array(codes),
        patient=np.concatenate(owners),
        embedding=found[0].shape[1],
        pool=found[2],
    )


def features_of(model: Path, images: Luma) -> tuple[Floats, Floats, Floats]:
    """Embeddings `[N, D]`, middle features `[N, M × G]` (M channels, G cells), their pooling matrix `[h × w, G]`."""
    embeddings, layouts, pool = [], [], None
    for embedding, middle in run_model(model, ["embedding", MIDDLE], images):
        count, channels, height, width = middle.shape
        pool = _pool(height, width, channels) if pool is None else pool
        embeddings.append(embedding)
        layouts.append((middle.reshape(count, channels, -1) @ pool).reshape(count, -1))
    assert pool is not None
    return np.concatenate(embeddings), np.concatenate(layouts), pool


def fit_weights(samples: GateSamples, rows: NDArray[np.bool_], seed: int) -> GateWeights:
    """The gate's weights, fitted to the rows of the samples that a mask `bool [N]` selects."""
    features, codes = samples.features[rows], samples.code[rows]
    films = features[codes == CODES.index(FILM)]
    mean, deviation = _moments(features)
    weight, bias = _classifier(np.clip((features - mean) / deviation, -LIMIT, LIMIT), codes, seed)
    centre, spread = _moments(films)
    scaled = (films - centre) / spread
    (first, unit), (second, other) = (_components(part) for part in np.split(scaled, [samples.embedding], axis=1))
    return GateWeights(
        pool=samples.pool,
        mean=mean,
        deviation=deviation,
        weight=weight,
        bias=bias,
        centre=centre,
        spread=spread,
        components=(first, second),
        unit=(unit, other),
    )


def apply(gate: GateWeights, features: Floats) -> tuple[Floats, Floats]:
    """Scores `[N, F]` and distances `[N, 2]` of features `[N, E]`: the arithmetic of `join_gate`, in NumPy."""
    scaled = np.clip((features - gate.mean) / gate.deviation, -LIMIT, LIMIT)
    parts = np.split((features - gate.centre) / gate.spread, [gate.components[0].shape[1]], axis=1)
    rest = [
        (np.square(part).sum(axis=1) - np.square(part @ components.T).sum(axis=1)) / unit
        for part, components, unit in zip(parts, gate.components, gate.unit, strict=True)
    ]
    return scaled @ gate.weight.T + gate.bias, np.stack(rest, axis=1)


def _held_out_outputs(samples: GateSamples, fold: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """For a fold's films, by a gate fitted to the others: P(film, mirrored or not), P(mirrored), distances."""
    held_out = (samples.patient >= 0) & (samples.patient % _FOLDS == fold)
    films = samples.features[held_out & (samples.code == CODES.index(FILM))]
    scores, distances = apply(fit_weights(samples, ~held_out, seed), films)
    shares = softmax(scores)
    film, mirrored = shares[:, CODES.index(FILM)], shares[:, CODES.index(MIRRORED)]
    return film + mirrored, mirrored, distances


def _classifier(features: Floats, codes: NDArray[np.int64], seed: int) -> tuple[Floats, Floats]:
    """Weights `[F, E]` and biases `[F]` of a linear classifier, in whose loss all codes count alike."""
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = torch.from_numpy(features.astype(np.float32)), torch.from_numpy(codes)
    counts = torch.bincount(targets, minlength=len(CODES)).clamp(min=1)
    weight = torch.zeros(len(CODES), features.shape[1], requires_grad=True)
    bias = torch.zeros(len(CODES), requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS)
    for _ in range(_STEPS):
        batch = torch.randint(len(inputs), (_BATCH,), generator=generator)
        loss = torch.nn.functional.cross_entropy(
            torch.nn.functional.linear(inputs[batch], weight, bias),
            targets[batch],
            weight=len(inputs) / counts / len(CODES),
            label_smoothing=0.02,
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return weight.detach().numpy(), bias.detach().numpy()


def _moments(features: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation `[E]`; the deviation has a floor, so that features that hardly vary are not blown up."""
    deviation = features.std(axis=0)
    return features.mean(axis=0), deviation + _FLOOR * float(deviation.mean()) + 1e-9


def _components(scaled: Floats) -> tuple[Floats, float]:
    """The first principal components `[K, E]` of standardised films `[N, E]`, and the mean square left unexplained."""
    # With a component per film, nothing would be left unexplained.
    count = max(1, min(_COMPONENTS, len(scaled) // 4, scaled.shape[1] // 4))
    gram = scaled @ scaled.T  # `[N, N]`: there are fewer films than features
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    used = values > values[0] * 1e-6
    components = (scaled.T @ vectors[:, used] / np.sqrt(values[used])).T
    rest = np.square(scaled).sum(axis=1) - np.square(scaled @ components.T).sum(axis=1)
    return components.astype(np.float32), max(float(rest.mean()), 1e-9)


def _pool(height: int, width: int, channels: int) -> Floats:
    """The matrix `[height × width, G]` that averages a map over G cells of nearly equal size, which may overlap."""
    places = _PLACES if channels <= _WIDE else _PLACES // 2

    def along(length: int) -> Floats:
        weights = np.zeros((length, min(places, length)))
        for place in range(weights.shape[1]):
            edges = place * length // weights.shape[1], -(-(place + 1) * length // weights.shape[1])
            weights[slice(*edges), place] = 1 / (edges[1] - edges[0])
        return weights

    return np.kron(along(height), along(width)).astype(np.float32)


def _faulty(code: str, films: Sequence[Luma], row: int, random: Random) -> Luma:
    """A film with a fault, augmented in most cases."""
    film = augment(films[row], random) if random.random() < _AUGMENTED else films[row]
    return np.ascontiguousarray(FAULT_MAKERS[code](film, random))


def _picture(kind: Kind, side: int, drawings: bool, _: int, random: Random) -> Luma:  # noqa: FBT001 (by `partial`)
    return draw(kind, random, side, phantoms=not drawings)


def _count(kind: Kind, films: int) -> int:
    """How many pictures of a kind to draw: in proportion to the films, but not too few."""
    return max(_FEWEST, round(_PICTURES[kind] * films))
