"""Model inputs for training: decoded once into a memory-mapped array, then read in a reproducible order."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_convert
from torch.utils.data import Dataset as TorchDataset

from pneumoscope.contract import InputRule
from pneumoscope.dataset import Dataset, Record
from pneumoscope.errors import DatasetError, ImageError, UsageError
from pneumoscope.files import whole_file
from pneumoscope.imaging import DECODER_VERSION, Luma, load_input
from pneumoscope.parallel import map_ordered
from pneumoscope.progress import SILENT, Listener
from pneumoscope.training.augment import Augment, apply_seeded, derive_seed
from pneumoscope.training.world import World

#: Inside the data set, unless another folder is given.
CACHE_FOLDER = ".cache"


class Batch(NamedTuple):
    """Inputs `uint8 [N, 1, S, S]`, labels `int64 [N]`, and the teachers' probabilities `float32 [N, C]`, if any."""

    images: Tensor
    labels: Tensor
    teacher: Tensor | None = None


def cache_inputs(
    dataset: Dataset, split: str, rule: InputRule, folder: Path, *, listener: Listener = SILENT
) -> NDArray[np.uint8]:
    """The inputs of a split as a read-only memory map, `uint8 [N, 1, S, S]` in manifest order.

    The array is made once. Its file name has a hash of the films' contents, the contract's input rule and the
    decoder's and Pillow's versions, so that a changed film, rule or decoder gets a new array.

    Raises:
        DatasetError: a film cannot be read, or `folder` cannot be written.
    """
    found = find_cached(dataset, split, rule, folder)
    if found is None:
        films = dataset.split(split)
        shape = (len(films), 1, rule.size, rule.size)
        try:
            with whole_file(_cache_file(films, rule, folder)) as partial:
                array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
                for index, image in enumerate(read_inputs(dataset, films, rule, listener)):
                    array[index] = image
                array.flush()
        except OSError as failure:
            raise DatasetError(
                f"{folder} cannot be written ({failure.strerror}); pass --cache FOLDER for the decoded images."
            ) from failure
        found = find_cached(dataset, split, rule, folder)  # opened again, read-only
    assert found is not None
    return found


def find_cached(dataset: Dataset, split: str, rule: InputRule, folder: Path) -> NDArray[np.uint8] | None:
    """The array that `cache_inputs` made before; None if there is none, or it is damaged."""
    films = dataset.split(split)
    try:
        array: NDArray[np.uint8] = np.load(_cache_file(films, rule, folder), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == (len(films), 1, rule.size, rule.size) else None


def read_inputs(dataset: Dataset, films: Sequence[Record], rule: InputRule, listener: Listener) -> Iterator[Luma]:
    """Yield the inputs of films, `uint8 [1, S, S]` each, decoded in threads.

    Raises:
        DatasetError: a film cannot be read.
    """

    def read(film: Record) -> Luma:
        try:
            return load_input(dataset.read(film), rule, limits=dataset.limits)
        except ImageError as failure:
            raise DatasetError(f"{dataset.root / film.path}: {failure}") from failure

    return listener.track(f"decoding {films[0].split}", map_ordered(read, films), len(films))


def _cache_file(films: Sequence[Record], rule: InputRule, folder: Path) -> Path:
    key = hashlib.sha256(f"{rule.fingerprint()} decoder {DECODER_VERSION} Pillow {PIL.__version__}".encode())
    for film in films:
        key.update(film.file_sha256.encode())
    return folder / f"{films[0].split}-{rule.size}-{key.hexdigest()[:16]}.npy"


def labels_of(dataset: Dataset, split: str) -> NDArray[np.int64]:
    """Class indices of a split, `int64 [N]` in manifest order."""
    return np.array([dataset.classes.index(film.label) for film in dataset.split(split)], np.int64)


#: The loader of train films, and that of validation films, if any.
Loaders: TypeAlias = tuple[DataLoader[Batch], list[DataLoader[Batch]]]


class CachedFilms(TorchDataset[Batch]):
    """Cached inputs and labels, fetched one batch at a time by the keys of `EpochOrder`."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        *,
        seed: int,
        augment: Augment | None = None,
        teacher: NDArray[np.float32] | None = None,
    ) -> None:
        self.images, self.labels = images, torch.from_numpy(labels)
        self.augment, self.seed = augment, seed
        self.teacher = None if teacher is None else torch.from_numpy(teacher)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: list[int]) -> Batch:
        places = [divmod(key, len(self)) for key in keys]
        indices = [index for _, index in places]
        images = torch.from_numpy(self.images[indices])
        if self.augment is not None:
            films = zip(images, places, strict=True)
            images = torch.stack([apply_seeded(self.augment, image, self.seed, *place) for image, place in films])
        return Batch(images, self.labels[indices], None if self.teacher is None else self.teacher[indices])


class EpochOrder(Sampler[int]):
    """One rank's share of a shuffled order that is a pure function of (seed, epoch).

    Yields `epoch * count + index`, so that the worker process that fetches a film also knows the epoch. All
    ranks take equally many films, none twice. Up to `ranks - 1` films are left over, different ones in each
    epoch.
    """

    def __init__(self, count: int, *, seed: int, rank: int = 0, ranks: int = 1) -> None:
        self.count, self.seed, self.epoch = count, seed, 0
        self.rank, self.ranks = rank, ranks

    def __len__(self) -> int:
        return self.count // self.ranks

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before every epoch, also after a resume."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        order = torch.randperm(self.count, generator=generator).tolist()
        for index in order[self.rank : len(self) * self.ranks : self.ranks]:
            yield self.epoch * self.count + index


def make_loaders(
    train: CachedFilms, val: CachedFilms | None, *, batch_size: int, workers: int, seed: int, world: World
) -> Loaders:
    """The loaders of train films and of validation films, if any; with several processes, of this one's share.

    Every validation film is in exactly one share. torch's distributed sampler would make all shares equally large by
    repeating films, and so count some films twice.

    Raises:
        UsageError: there are too few films for so many processes.
    """
    validated = world.size if val is None else len(val)
    if world.size > 1 and (len(train) < 2 * world.size or validated < world.size):
        raise UsageError(
            f"{len(train)} train and {0 if val is None else len(val)} validation films are too few for {world.size} "
            "processes: each needs two train films and, if there is a validation split, one of its films; start fewer."
        )
    order = EpochOrder(len(train), seed=seed, rank=world.rank, ranks=world.size)
    train_loader = DataLoader(
        train,
        batch_size=batch_size,
        sampler=order,
        num_workers=workers,
        drop_last=len(order) % batch_size == 1,  # batch norm cannot normalise a batch of one film
        collate_fn=default_convert,  # keeps the batch that `__getitems__` made
        pin_memory=torch.cuda.is_available(),
    )
    if val is None:
        return train_loader, []
    share = range(world.rank, len(val), world.size)
    return train_loader, [DataLoader(val, batch_size=max(64, batch_size), sampler=share, collate_fn=default_convert)]
