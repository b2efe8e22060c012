"""How much changes to a recipe gain: each variant is cross-validated on one GPU, on the same augmented films.

    python benchmarks/variants.py DATASET --out OUT --variant base: --variant "bare:mixup=0,label_smoothing=0"

Each variant is a name and the settings of the recipe that it changes, as in a recipe's TOML file. Steps are those of
`pneumoscope train`, but films that do not fill a last batch are left out of an epoch, variants share the augmented
films, and a step is recorded once as a CUDA graph. On a CPU this works, slowly.

For each variant, OUT gets `NAME.npz` with the logits of all films, each predicted by the network that has not seen
its patient, as it is and as its stress version; a file that exists is used again if its settings are the same. The
table has each figure as trained, and after vector scaling that is fitted to the other folds' plain films. It also has
differences from the first variant, with 95 % intervals over patients, which do not include the spread of seeds.
"""

import argparse
import time
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_convert

from calibration import cross_fitted
from pneumoscope import metrics
from pneumoscope.backbone import Network
from pneumoscope.contract import InputRule
from pneumoscope.dataset import Dataset, load_dataset
from pneumoscope.metrics import Floats, HeldOutFilms
from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.augment import derive_seed, policy
from pneumoscope.training.config import load_recipe, make_config
from pneumoscope.training.folds import fold_datasets, stress_inputs
from pneumoscope.training.inputs import CACHE_FOLDER, Batch, CachedFilms, cache_inputs, labels_of
from pneumoscope.training.loss import Objective
from pneumoscope.training.module import rate_factor
from pneumoscope.training.network import new_network

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
#: Settings for which this script supports one value only; a variant must not change them.
FIXED = {
    "optimizer": "adamw",
    "augment": "robust",
    "precision": "fp32",
    "prior": "uniform",
    "head_epochs": 0,
    "accumulate": 1,
    "freeze": False,
    "patience": None,
    "keep": "last",
}
#: Settings on which the augmented films depend.
AUGMENTATION = {"epochs", "seed", "size", "crop", "jitter", "mirror", "crop_size", "read_size"}
_BATCH, _WARM_UP = 256, 3
RESAMPLES = 1000


class Films(NamedTuple):
    """A data set's train and validation films: inputs `uint8 [N, 1, S, S]`, labels, and the rows of each fold."""

    dataset: Dataset
    plain: NDArray[np.uint8]
    stress: NDArray[np.uint8]
    labels: NDArray[np.int64]
    held_out: list[NDArray[np.int64]]


def main() -> None:
    """Train what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variant", action="append", required=True, metavar="NAME:SETTING=VALUE,…")
    parser.add_argument("--recipe", default="pneumoscope-base")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="processes that augment films")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    variants = [parse(text, arguments.recipe) for text in arguments.variant]
    if len({config.size for _, config in variants}) > 1:
        raise SystemExit("all variants must read films at one size.")
    films = read(load_dataset(arguments.dataset), variants[0][1].size, arguments.folds)
    results = []
    for name, config in variants:
        path, settings = arguments.out / f"{name}.npz", f"{films.dataset.fingerprint} {arguments.folds} {config!r}"
        if not path.is_file():
            started = time.monotonic()
            found = cross_validate(config, films, arguments.workers)
            np.savez(path, plain=found["plain"], stress=found["stress"], settings=np.array(settings))
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        with np.load(path) as stored:
            if str(stored["settings"]) != settings:
                raise SystemExit(f"{path} is of other settings or films; delete it, or name the variant anew.")
            results.append((name, {part: stored[part] for part in ("plain", "stress")}))
    report(results, films)


def parse(text: str, recipe: str) -> tuple[str, TrainConfig]:
    """A variant's name and configuration, from `NAME:SETTING=VALUE,…`."""
    name, _, changes = text.partition(":")
    values = tomllib.loads(changes.replace(",", "\n"))
    config = make_config(load_recipe(recipe), values)
    if different := [key for key, value in FIXED.items() if getattr(config, key) != value]:
        raise SystemExit(f"{name}: this script needs {', '.join(f'{key} {FIXED[key]}' for key in different)}.")
    return name, config


def read(dataset: Dataset, size: int, folds: int) -> Films:
    """Decode the train and validation films, make stress versions, and deal both into folds like `cross-validate`."""
    parts = fold_datasets(dataset, folds=folds, seed=0)
    # Cross-validation divides the train and the validation films, so all of them count as train here.
    dataset = replace(dataset, films=tuple(replace(film, split="train") for film in parts[0].films))
    rule, records = InputRule.squash(size), dataset.split("train")
    place = {film.path: row for row, film in enumerate(records)}
    stress, usable = stress_inputs(dataset, records, rule, seed=0)
    if not usable.all():
        raise SystemExit(f"{(~usable).sum():,} films are blank when they are cropped; leave them out of the data set.")
    return Films(
        dataset=dataset,
        plain=np.array(cache_inputs(dataset, "train", rule, dataset.root / CACHE_FOLDER)),
        stress=stress,
        labels=labels_of(dataset, "train"),
        held_out=[np.array([place[film.path] for film in part.split("val")]) for part in parts],
    )


def cross_validate(config: TrainConfig, films: Films, workers: int) -> dict[str, NDArray[np.float32]]:
    """Logits `float32 [N, C]` of all films, `plain` and `stress`, by one network per fold."""
    crops = augmented(config, films, workers)
    found: dict[str, NDArray[np.float32]] = {}
    for held_out in films.held_out:
        rows = np.setdiff1d(np.arange(len(films.labels)), held_out)
        network = train(config, crops, films.labels, rows, len(films.dataset.classes))
        for name, images in (("plain", films.plain), ("stress", films.stress)):
            logits = predict(network, images[held_out])
            found.setdefault(name, np.zeros((len(films.labels), logits.shape[1]), np.float32))[held_out] = logits
    return found


_CROPS: dict[str, Tensor] = {}  # of one augmentation: they take gigabytes


def augmented(config: TrainConfig, films: Films, workers: int) -> Tensor:
    """Each film's crop in each epoch, `uint8 [epochs * N, 1, S, S]` on the device; kept for the next variant."""
    key = config.model_dump_json(include=AUGMENTATION)
    if key not in _CROPS:
        _CROPS.clear()
        rule = InputRule.squash(config.read_size or config.size)
        images = cache_inputs(films.dataset, "train", rule, films.dataset.root / CACHE_FOLDER)
        source = CachedFilms(images, films.labels, seed=config.seed, augment=policy(config))
        keys = range(config.epochs * len(films.labels))
        loader: DataLoader[Batch] = DataLoader(
            source,
            batch_size=_BATCH,
            sampler=keys,
            num_workers=workers,
            collate_fn=default_convert,
        )
        _CROPS[key] = torch.cat([batch.images for batch in loader]).to(DEVICE)
    return _CROPS[key]


def train(
    config: TrainConfig, crops: Tensor, labels: NDArray[np.int64], rows: NDArray[np.int64], classes: int
) -> Network:
    """Train a network on the films `rows`; its weights are the moving average's if the recipe has one."""
    torch.manual_seed(config.seed)
    network, _ = new_network(config, classes, weights=config.weights)
    network.to(DEVICE).to(memory_format=torch.channels_last).train()
    steps = Steps(config, network, Objective(config, labels[rows], classes).to(DEVICE), crops, torch.from_numpy(labels))
    chooser, size = torch.Generator().manual_seed(derive_seed(config.seed, len(rows))), config.batch_size
    batches: list[tuple[Tensor, Tensor]] = []
    for epoch in range(config.epochs):
        order = torch.from_numpy(rows)[torch.randperm(len(rows), generator=chooser)]
        full = order[: len(rows) // size * size].reshape(-1, size).to(DEVICE)
        batches += [(epoch * len(labels) + batch, batch) for batch in full]
    factor = rate_factor(config.schedule, len(batches), rise=config.rise)
    random = np.random.default_rng(config.seed)
    steps.record()
    for number, (places, films) in enumerate(batches):
        share = float(random.beta(config.mixup, config.mixup)) if config.mixup else 1.0
        other = torch.randperm(size, generator=chooser)
        steps.take(places, films, other, max(share, 1 - share), config.lr * factor(number))
    return steps.finish()


class Steps:
    """One training step, with its inputs in tensors that keep their place, so that a CUDA graph can repeat it."""

    def __init__(
        self, config: TrainConfig, network: Network, objective: nn.Module, crops: Tensor, labels: Tensor
    ) -> None:
        self.network, self.objective, self.crops = network, objective, crops
        self.targets = nn.functional.one_hot(labels).float().to(DEVICE)
        self.places = torch.zeros(config.batch_size, dtype=torch.int64, device=DEVICE)
        self.films, self.other = torch.zeros_like(self.places), torch.zeros_like(self.places)
        self.own, self.rate = torch.ones((), device=DEVICE), torch.zeros((), device=DEVICE)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=self.rate, weight_decay=config.weight_decay, capturable=DEVICE.type == "cuda"
        )
        floats = [*network.parameters(), *(each for each in network.buffers() if each.is_floating_point())]
        self.state: list[Tensor] = [each.detach() for each in floats]
        self.average = [each.clone() for each in self.state]
        self.keep = config.ema or 0.0
        self.graph: torch.cuda.CUDAGraph | None = None

    def record(self) -> None:
        """Record the step, if there is a GPU, and undo what recording did."""
        if DEVICE.type != "cuda":
            return
        before, beside = [each.clone() for each in self.state], torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):  # graphs need a warm-up on another stream
            for _ in range(_WARM_UP):
                self._step()
        torch.cuda.current_stream().wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._step()
        for each, old, average in zip(self.state, before, self.average, strict=True):
            each.copy_(old)
            average.copy_(old)
        for moments in self.optimizer.state.values():
            for value in moments.values():
                value.zero_()

    def take(self, places: Tensor, films: Tensor, other: Tensor, own: float, rate: float) -> None:
        """Train on the crops `places` of `films`, each mixed with an `other` one of the batch."""
        for tensor, values in ((self.places, places), (self.films, films), (self.other, other)):
            tensor.copy_(values)
        self.own.fill_(own)
        self.rate.fill_(rate)
        if self.graph is None:
            self._step()
        else:
            self.graph.replay()

    def _step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        images, targets = self.crops[self.places].float(), self.targets[self.films]
        images, targets = (torch.lerp(each[self.other], each, self.own) for each in (images, targets))
        logits = self.network(images.contiguous(memory_format=torch.channels_last))
        self.objective(logits, targets).backward()
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.state, 1 - self.keep)

    def finish(self) -> Network:
        """The network with its averaged weights, in evaluation mode."""
        for each, average in zip(self.state, self.average, strict=True):
            each.copy_(average)
        return self.network.eval()


@torch.inference_mode()
def predict(network: Network, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits `float32 [N, C]` of inputs `uint8 [N, 1, S, S]`."""
    starts = range(0, len(images), _BATCH)
    logits = [network(torch.from_numpy(images[start : start + _BATCH]).to(DEVICE)) for start in starts]
    return torch.cat(logits).float().cpu().numpy()


def report(variants: Sequence[tuple[str, dict[str, NDArray[np.float32]]]], films: Films) -> None:
    """Print the figures of each variant, and its differences from the first one."""
    records, classes, groups = films.dataset.split("train"), films.dataset.classes, films.dataset.groups
    fold, patients = np.zeros(len(records), np.int8), [film.patient for film in records]
    for number, rows in enumerate(films.held_out):
        fold[rows] = number
    uniform = np.full(len(classes), 1 / len(classes))
    print("variant, films, probabilities; each figure, and its difference from the first variant with a 95 % interval")
    baseline: dict[str, Floats] = {}
    for name, logits in variants:
        held_out = HeldOutFilms(
            logits=logits["plain"].astype(np.float64),
            truth=films.labels,
            patient=np.unique(patients, return_inverse=True)[1],
            fold=fold,
            weights=metrics.prior_weights(films.labels, uniform),
        )
        for part, values in logits.items():
            for method in ("none", "vector"):
                shares = cross_fitted(held_out, values.astype(np.float64), method)
                other = baseline.setdefault(f"{part} {method}", shares)
                found = metrics.compare_predictions(
                    films.labels,
                    shares,
                    other,
                    patients,
                    classes=classes,
                    groups=groups,
                    priors=("uniform", "uniform"),
                    resamples=RESAMPLES,
                )
                figures = ["accuracy", *(f"group_accuracy.{group}" for group in groups), "macro_auroc", "cross_entropy"]
                print(f"{name}, {part}, {'as trained' if method == 'none' else 'calibrated'}")
                for each in figures:
                    this, _, gain, low, high, _ = found[each]
                    change = "" if shares is other else f"{gain:+.4f} ({low:+.4f} to {high:+.4f})"
                    print(f"  {each:26} {this:.4f}  {change}".rstrip())


if __name__ == "__main__":
    main()
