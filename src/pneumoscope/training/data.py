"""Prepared inputs: decoded once to one memory-mapped array, then read in a reproducible order."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from pneumoscope.contract import InputRule
from pneumoscope.dataset import Dataset, Film
from pneumoscope.errors import DatasetError, ImageError, UsageError
from pneumoscope.files import whole_file
from pneumoscope.imaging import DECODER_VERSION, load_input
from pneumoscope.parallel import available_cores, map_ordered
from pneumoscope.progress import SILENT, Listener
from pneumoscope.training.augment import Augment, apply_seeded, derive_seed
from pneumoscope.training.world import World

#: In the data set, unless another folder is given.
CACHE_FOLDER = ".cache"


class Batch(NamedTuple):
    """Inputs `uint8 [N, 1, S, S]`, labels `int64 [N]`, and teachers' probabilities `float32 [N, C]`, if there are."""

    images: Tensor
    labels: Tensor
    teacher: Tensor | None = None


def cache_inputs(
    dataset: Dataset, split: str, rule: InputRule, folder: Path, *, listener: Listener = SILENT
) -> NDArray[np.uint8]:
    """The inputs of a split as a read-only memory map, `uint8 [N, 1, S, S]` in manifest order.

    Made once; the file's name is a hash of the films' contents, the contract's input rule and the
    decoder's version, so a changed film, rule or decoder never meets an old array.

    Raises:
        DatasetError: a film cannot be read, or `folder` cannot be written.
    """
    found = find_cached(dataset, split, rule, folder)
    if found is None:
        path = _cache_file(dataset, split, rule, folder)
        _fill(dataset, dataset.split(split), rule, path, listener)
        found = find_cached(dataset, split, rule, folder)
    assert found is not None
    return found


def find_cached(dataset: Dataset, split: str, rule: InputRule, folder: Path) -> NDArray[np.uint8] | None:
    """What `cache_inputs` has made before, or None."""
    return _open(_cache_file(dataset, split, rule, folder), (len(dataset.split(split)), 1, rule.size, rule.size))


def _cache_file(dataset: Dataset, split: str, rule: InputRule, folder: Path) -> Path:
    key = hashlib.sha256(f"{rule.fingerprint()} decoder {DECODER_VERSION} Pillow {PIL.__version__}".encode())
    for film in dataset.split(split):
        key.update(film.file_sha256.encode())
    return folder / f"{split}-{rule.size}-{key.hexdigest()[:16]}.npy"


def read_input(dataset: Dataset, film: Film, rule: InputRule) -> NDArray[np.uint8]:
    """One film's input, `uint8 [1, S, S]`.

    Raises:
        DatasetError: the film cannot be read.
    """
    try:
        return load_input(dataset.read(film), rule, limits=dataset.limits)
    except ImageError as failure:
        raise DatasetError(f"{dataset.root / film.path}: {failure}") from failure


def labels_of(dataset: Dataset, split: str) -> NDArray[np.int64]:
    """Class indices of a split, `int64 [N]` in manifest order."""
    index = {label: number for number, label in enumerate(dataset.classes)}
    return np.array([index[film.label] for film in dataset.split(split)], np.int64)


class CachedFilms(TorchDataset[Batch]):
    """Cached inputs and labels, fetched a batch at a time by keys of `EpochOrder`."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        *,
        augment: Augment | None,
        seed: int,
        teacher: NDArray[np.float32] | None = None,
    ) -> None:
        self.images, self.labels = images, torch.from_numpy(labels)
        self.augment, self.seed = augment, seed
        self.teacher = None if teacher is None else torch.from_numpy(teacher)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: list[int]) -> Batch:
        epochs_and_indices = [divmod(key, len(self)) for key in keys]
        indices = [index for _, index in epochs_and_indices]
        images = torch.from_numpy(self.images[indices])
        if self.augment is not None:
            changed = [
                apply_seeded(self.augment, image, self.seed, epoch, index)
                for image, (epoch, index) in zip(images, epochs_and_indices, strict=True)
            ]
            images = torch.stack(changed)
        return Batch(images, self.labels[indices], None if self.teacher is None else self.teacher[indices])


class EpochOrder(Sampler[int]):
    """A shuffled order that is a pure function of (seed, epoch), and of it the share of one of several ranks.

    Yields `epoch * N + index`, so whoever fetches the film knows the epoch too, in any process. All
    ranks take equally many films, none twice: the fewer than `ranks` films that are left over are
    others in each epoch.
    """

    def __init__(self, count: int, *, seed: int, rank: int = 0, ranks: int = 1) -> None:
        self.count, self.seed, self.epoch = count, seed, 0
        self.rank, self.ranks = rank, ranks

    def __len__(self) -> int:
        return self.count // self.ranks

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch, also after a resume."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        order = torch.randperm(self.count, generator=generator).tolist()
        for index in order[self.rank : len(self) * self.ranks : self.ranks]:
            yield self.epoch * self.count + index


class FilmsModule(pl.LightningDataModule):
    """Train and validation loaders over cached inputs; in a world of several processes, this one's share.

    Without validation films, `val` is None. Every validation film is in one share and once: samplers that
    fill up the last batches, as torch's does, would count some films twice.

    Raises:
        UsageError: there are too few films for so many processes.
    """

    def __init__(
        self, train: CachedFilms, val: CachedFilms | None, *, batch_size: int, workers: int, seed: int, world: World
    ) -> None:
        super().__init__()
        self.train, self.val, self.world = train, val, world
        self.batch_size, self.workers, self.seed = batch_size, workers, seed
        validated = world.size if val is None else len(val)
        if world.size > 1 and (len(train) < 2 * world.size or validated < world.size):
            raise UsageError(
                f"{len(train)} train and {validated} val films are too few for {world.size} processes, which need two "
                "and one each; start fewer."
            )

    def train_dataloader(self) -> DataLoader[Batch]:
        order = EpochOrder(len(self.train), seed=self.seed, rank=self.world.rank, ranks=self.world.size)
        return DataLoader(
            self.train,
            batch_size=self.batch_size,
            sampler=order,
            num_workers=self.workers,
            drop_last=len(order) % self.batch_size == 1,  # batch norm cannot learn from one film
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> Any:
        if self.val is None:
            return []
        share = range(self.world.rank, len(self.val), self.world.size)
        return DataLoader(self.val, batch_size=max(64, self.batch_size), sampler=share, collate_fn=_as_it_is)


def _open(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The cached array, or None if there is none or it is damaged."""
    try:
        array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape else None


def _as_it_is(batch: Any) -> Any:
    """`__getitems__` has made the batch already."""
    return batch


def _fill(dataset: Dataset, films: list[Film], rule: InputRule, path: Path, listener: Listener) -> None:
    cores = available_cores()
    try:
        with (
            listener.progress(f"decoding {path.name.split('-')[0]}", len(films), "images"),
            whole_file(path) as partial,
        ):
            array = np.lib.format.open_memmap(
                partial, mode="w+", dtype=np.uint8, shape=(len(films), 1, rule.size, rule.size)
            )
            inputs = map_ordered(lambda film: read_input(dataset, film, rule), films, workers=cores, ahead=8 * cores)
            for index, image in enumerate(inputs):
                array[index] = image
                listener.advance(1)
            array.flush()
    except OSError as failure:
        raise DatasetError(
            f"{path.parent} cannot be written ({failure.strerror}); pass --cache FOLDER for the decoded images."
        ) from failure
