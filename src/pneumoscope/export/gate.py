"""The gate: learnt from films, from faults made of them, and from pictures that are no films.

A linear classifier of the network's features says which fault it is (one score for each); the share of the features
that the films' principal components leave unexplained, at two depths, says how unlike all films an input is. Both are
fitted anew for every exported model. Their limits come from films that the fitted gate has not seen.
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
from pneumoscope.export.pictures import KINDS, Kind, Random, draw
from pneumoscope.export.quantise import evenly_spaced, run_model
from pneumoscope.imaging import Luma
from pneumoscope.metrics import Floats, softmax
from pneumoscope.parallel import map_ordered
from pneumoscope.progress import SILENT, Listener

CODES = (FILM, *FAULT_MAKERS, *KINDS)
#: Share of varied films that the limits may reject, all together; and of coloured pixels that a film may have.
FALSE_REJECTS, COLOURED = 0.01, 0.05
FILMS = 600
_PICTURES = {"photograph": 1.0, "drawing": 1.5, "screenshot": 0.75, "noise": 0.5, "slice": 0.75}  # for each film
_FEWEST = 60
_VARIED = 0.7  # share of faulty films that are varied as well
_FOLDS = 5
_COMPONENTS = 32
_FLOOR = 0.1  # of the mean deviation is added to each: some features are hardly ever more than zero
_PLACES, _WIDE = 4, 512  # places along a side where features are kept apart; half as many of very wide networks
_STEPS, _BATCH, _RATE, _DECAY = 400, 256, 5e-3, 1e-2


@dataclass(frozen=True, kw_only=True, eq=False)
class GateSamples:
    """What a gate is fitted to: features `float32 [N, E]`, index of the code `[N]`, patient, or -1, `[N]`.

    `embedding` of the E features are the embedding's; the others are the `pool`ed middle features.
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
        patients: theirs.
        drawings: the films are drawings themselves, so that our phantoms are no fault.
        seed: of what is drawn and fitted.
        listener: hears about the slow parts.

    Returns:
        The contract's part, and what `join_gate` takes.
    """
    samples = gate_samples(model, films, patients, drawings=drawings, seed=seed, listener=listener)
    judged = [_held_out_outputs(samples, fold, seed) for fold in range(_FOLDS)]
    film, mirrored, distances = (np.concatenate(part) for part in zip(*judged, strict=True))
    share, margin = FALSE_REJECTS / 3, 1 + 1 / math.sqrt(len(film))  # three limits; few films show less of the tail
    return Gate(
        codes=CODES,
        film_from=round(min(0.5, float(np.quantile(film, share)) / margin), 6),
        mirrored_from=round(max(0.5, float(np.quantile(mirrored, 1 - FALSE_REJECTS))), 6),
        distances=tuple(round(float(limit) * margin, 6) for limit in np.quantile(distances, 1 - share, axis=0)),
        coloured=COLOURED,
        false_rejects=FALSE_REJECTS,
        films=len(film),
    ), fit_weights(samples, np.ones(len(samples.code), bool), seed)


def gate_samples(
    model: Path, films: Luma, patients: Sequence[str], *, drawings: bool, seed: int, listener: Listener = SILENT
) -> GateSamples:
    """Films as they are and varied, each fault of them, and pictures of each kind, as features of the model."""
    places = evenly_spaced(len(films), FILMS)
    chosen = [films[place, 0] for place in places]
    names, numbers = np.unique([patients[place] for place in places], return_inverse=True)
    if len(names) < _FOLDS:  # too few to judge by patient
        numbers = np.arange(len(chosen))
    makers: list[tuple[str, int, Callable[[int, Random], Luma]]] = [
        (FILM, len(chosen), lambda row, _: chosen[row]),
        (FILM, len(chosen), lambda row, random: augment(chosen[row], random)),
        *((code, len(chosen), partial(_faulty, code, chosen)) for code in FAULT_MAKERS),
        *((kind, _count(kind, len(chosen)), partial(_picture, kind, chosen[0].shape[0], drawings)) for kind in KINDS),
    ]
    features, codes, owners = list[Floats](), list[int](), list[NDArray[np.int64]]()
    found: tuple[Floats, Floats, Floats] | None = None
    for number, (code, count, make) in enumerate(listener.track("teaching the gate", makers, len(makers), "kinds")):
        randoms = [np.random.default_rng([seed, number, row]) for row in range(count)]
        made = np.stack(list(map_ordered(lambda each, make=make: make(*each), enumerate(randoms))))  # type: ignore[misc]
        found = features_of(model, made[:, np.newaxis])
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
    """Embeddings `[N, D]`, pooled middle features `[N, M × G]`, and the matrix that pooled them, `[h × w, G]`."""
    embeddings, layouts, pool = [], [], None
    for embedding, middle in run_model(model, ["embedding", MIDDLE], images):
        count, width, height, breadth = middle.shape
        pool = _pool(height, breadth, width) if pool is None else pool
        embeddings.append(embedding)
        layouts.append((middle.reshape(count, width, -1) @ pool).reshape(count, -1))
    assert pool is not None
    return np.concatenate(embeddings), np.concatenate(layouts), pool


def fit_weights(samples: GateSamples, rows: NDArray[np.bool_], seed: int) -> GateWeights:
    """The gate of some rows of a samples."""
    features, codes = samples.features[rows], samples.code[rows]
    films = features[codes == CODES.index(FILM)]
    mean, deviation = _moments(features)
    weight, bias = _classifier(np.clip((features - mean) / deviation, -LIMIT, LIMIT), codes, seed)
    centre, breadth = _moments(films)
    scaled = (films - centre) / breadth
    (first, unit), (second, other) = (_components(part) for part in np.split(scaled, [samples.embedding], axis=1))
    return GateWeights(
        pool=samples.pool,
        mean=mean,
        deviation=deviation,
        weight=weight,
        bias=bias,
        centre=centre,
        spread=breadth,
        components=(first, second),
        unit=(unit, other),
    )


def apply(gate: GateWeights, features: Floats) -> tuple[Floats, Floats]:
    """Scores `[N, F]` and distances `[N, 2]` of features `[N, E]`: in NumPy what `join_gate` puts into the graph."""
    scaled = np.clip((features - gate.mean) / gate.deviation, -LIMIT, LIMIT)
    parts = np.split((features - gate.centre) / gate.spread, [gate.components[0].shape[1]], axis=1)
    rest = [
        (np.square(part).sum(axis=1) - np.square(part @ components.T).sum(axis=1)) / unit
        for part, components, unit in zip(parts, gate.components, gate.unit, strict=True)
    ]
    return scaled @ gate.weight.T + gate.bias, np.stack(rest, axis=1)


def _held_out_outputs(samples: GateSamples, fold: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """Of films that a gate has not seen: shares of a film and of a mirrored one, and distances."""
    held = (samples.patient >= 0) & (samples.patient % _FOLDS == fold)
    scores, distances = apply(
        fit_weights(samples, ~held, seed), samples.features[held & (samples.code == CODES.index(FILM))]
    )
    shares = softmax(scores)
    film, mirrored = shares[:, CODES.index(FILM)], shares[:, CODES.index(MIRRORED)]
    return film + mirrored, mirrored, distances


def _classifier(features: Floats, codes: NDArray[np.int64], seed: int) -> tuple[Floats, Floats]:
    """Weights `[F, E]` and biases `[F]` of a linear classifier for which all codes count alike."""
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
    """Mean and deviation `[E]`; a feature that hardly varies is not blown up."""
    deviation = features.std(axis=0)
    return features.mean(axis=0), deviation + _FLOOR * float(deviation.mean()) + 1e-9


def _components(scaled: Floats) -> tuple[Floats, float]:
    """The first principal components `[K, E]` of standardised films `[N, E]`, and what they leave of one on average."""
    count = max(1, min(_COMPONENTS, len(scaled) // 4, scaled.shape[1] // 4))  # fewer films would all be explained whole
    gram = scaled @ scaled.T  # of films, who are fewer than features
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    used = values > values[0] * 1e-6
    components = (scaled.T @ vectors[:, used] / np.sqrt(values[used])).T
    rest = np.square(scaled).sum(axis=1) - np.square(scaled @ components.T).sum(axis=1)
    return components.astype(np.float32), max(float(rest.mean()), 1e-9)


def _pool(height: int, width: int, channels: int) -> Floats:
    """The matrix `[height × width, G]` that averages a map over G even places, overlapping if they must."""
    places = _PLACES if channels <= _WIDE else _PLACES // 2

    def along(length: int) -> Floats:
        weights = np.zeros((length, min(places, length)))
        for place in range(weights.shape[1]):
            edges = place * length // weights.shape[1], -(-(place + 1) * length // weights.shape[1])
            weights[slice(*edges), place] = 1 / (edges[1] - edges[0])
        return weights

    return np.kron(along(height), along(width)).astype(np.float32)


def _faulty(code: str, films: Sequence[Luma], row: int, random: Random) -> Luma:
    """A film with a fault, varied more often than not."""
    film = augment(films[row], random) if random.random() < _VARIED else films[row]
    return np.ascontiguousarray(FAULT_MAKERS[code](film, random))


def _picture(kind: Kind, side: int, drawings: bool, _: int, random: Random) -> Luma:  # noqa: FBT001 (by `partial`)
    return draw(kind, random, side, phantoms=not drawings)


def _count(kind: Kind, films: int) -> int:
    """How many pictures of a kind: as many for each film, though not too few."""
    return max(_FEWEST, round(_PICTURES[kind] * films))
