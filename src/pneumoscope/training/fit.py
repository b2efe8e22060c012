"""Training, from a data set to a run directory; also after an interruption."""

import pickle
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Checkpoint, EMAWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from numpy.typing import NDArray
from typing_extensions import override

from pneumoscope.backbone import NONE, Network
from pneumoscope.contract import InputRule
from pneumoscope.dataset import Dataset
from pneumoscope.documents import write_document
from pneumoscope.errors import DatasetError, RunError, UsageError
from pneumoscope.files import refuse_existing, whole_directory, whole_file
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.augment import policy
from pneumoscope.training.config import check_compiler
from pneumoscope.training.history import EpochRecord, best_epoch, is_finished
from pneumoscope.training.inputs import CACHE_FOLDER, CachedFilms, Loaders, cache_inputs, labels_of, make_loaders
from pneumoscope.training.loss import Objective
from pneumoscope.training.module import Classifier
from pneumoscope.training.network import new_network
from pneumoscope.training.quiet import quiet
from pneumoscope.training.run_directory import (
    BEST,
    CARD_FILE,
    CONFIG_FILE,
    LAST,
    TEACHER_FILE,
    WEIGHTS_FILE,
    RunCard,
    code_commit,
    library_versions,
    load_card,
    load_config,
    save_history,
    save_weights,
)
from pneumoscope.training.teachers import describe_teacher, teacher_probabilities
from pneumoscope.training.world import World, process_group, translate_peer_errors

_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
_LOGGERS = ("lightning.pytorch", "torch.utils.cpp_extension")
# Warnings that advise other set-ups: our loader reads a memory map, and frozen layers are in eval mode on purpose.
_IGNORED_WARNINGS = (
    r".*does not have many workers.*",
    r".*module\(s\) in eval mode.*",
    r".*smaller than the logging interval.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*`broadcast_buffers` is deprecated.*",  # its successor is not in every torch we accept
)


def train(
    dataset: Dataset,
    config: TrainConfig,
    run: Path,
    *,
    resume: bool = False,
    cache: Path | None = None,
    teachers: Sequence[Path] = (),
    listener: Listener = SILENT,
) -> list[EpochRecord]:
    """Train a network on a data set's train split; return the history, one record per epoch.

    With `resume`, training continues after the last completed epoch of `run`; on a CPU the final
    weights are then, bit for bit, those of a run that was never interrupted. Torch's global random
    state is seeded.

    Under torchrun, every process calls this and returns the same history. Only the process of rank 0
    reads and writes `run` and reports to its listener.

    Args:
        dataset: has a split `train` and, unless all its films are for training, `val`.
        config: the run's configuration; with `resume` it must equal the saved one.
        run: the run directory to make; with `resume`, the one to continue.
        resume: see above.
        cache: folder for decoded inputs; by default `.cache` in the data set.
        teachers: finished runs, or evidence files of cross-validation, whose probabilities become soft
            targets (Hinton et al. 2015, arXiv:1503.02531). A resume reads the targets from the run.
        listener: receives progress.

    Raises:
        UsageError, DatasetError, RunError, WeightsError.
    """
    world = World.from_environment()
    listener = listener if world.is_leader else SILENT
    with process_group(world):
        has_checkpoint = world.from_leader(lambda: _check_run(run, config, dataset, resume=resume))
        _require_one_data_set(dataset, world)
        cache = cache or dataset.root / CACHE_FOLDER
        weights = NONE if has_checkpoint else config.weights
        module, card, description = _build(dataset, config, teachers, weights=weights)
        listener.say(f"{config.arch}, {card.parameters:,} weights, {card.trainable:,} of them trained; {description}")
        teacher = world.from_leader(lambda: _soft_targets(run, dataset, teachers, cache, listener, resume=resume))
        # One process per host decodes the films; the others find the cache.
        with world.host_by_host():
            loaders = _loaders(dataset, config, world, cache, listener, teacher)
        if world.is_leader and not resume:
            with whole_directory(run, holding="") as folder:
                write_document(config, folder / CONFIG_FILE)
                write_document(card, folder / CARD_FILE)
                if teacher is not None:
                    np.save(folder / TEACHER_FILE, teacher)
        history = world.from_leader(lambda: _saved_history(run / LAST))
        if not is_finished(history, config):
            films = len(dataset.split("train"))
            recorder = Recorder(run, config, listener, films=films, done=len(history), ranks=world.size)
            history = _fit(module, loaders, recorder, world)
        elif world.is_leader:
            save_history(run, history)
        # A run that was killed after its last epoch has a checkpoint, but no final weights yet.
        if world.is_leader and not (run / WEIGHTS_FILE).is_file():
            save_weights(run, run / (BEST if config.keep == "best" else LAST))
        world.wait()
    return history


class Recorder(Checkpoint):
    """Reports every batch to a listener; writes metrics, curves and a checkpoint after each epoch, whole or not at all.

    A subclass of Checkpoint, because Lightning runs these after all other hooks: the epoch is complete by then.
    """

    def __init__(
        self, run: Path, config: TrainConfig, listener: Listener, *, films: int, done: int, ranks: int
    ) -> None:
        self.run, self.config, self.listener = run, config, listener
        self.films, self.done, self.ranks = films, done, ranks
        self.started = 0.0

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.listener.begin("training", self.films * self.config.epochs, "images", done=self.films * self.done)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.monotonic()

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:
        self.listener.advance(self.ranks * len(batch[1][1]))

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        history = pl_module.history
        # Only a complete checkpoint gets its final name: if the process is killed while it writes, the one before
        # stays. `best` is copied first: if the process is killed between the two, a resumed run repeats the epoch and
        # copies it again.
        partial = (self.run / LAST).with_name(".last.ckpt.partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            if self.config.keep == "best" and best_epoch(history) == len(history) - 1:
                with whole_file(self.run / BEST) as copy:
                    shutil.copyfile(partial, copy)
            partial.replace(self.run / LAST)
            save_history(self.run, history)
        self._report(history[-1])
        if is_finished(history, self.config):
            trainer.should_stop = True

    def _report(self, record: EpochRecord) -> None:
        seconds = time.monotonic() - self.started
        parts = [
            f"epoch {int(record['epoch'])}/{self.config.epochs}",
            f"train loss {record['train_loss']:.4f} accuracy {record['train_accuracy']:.4f}",
            f"{seconds:.1f} s, {self.films / seconds:.0f} images/s",
        ]
        if "val_loss" in record:
            loss, accuracy, macro_f1 = (record[f"val_{name}"] for name in ("loss", "accuracy", "macro_f1"))
            parts.insert(2, f"val loss {loss:.4f} accuracy {accuracy:.4f} macro-F1 {macro_f1:.4f}")
        self.listener.say("  ".join(parts))


class KeepSigterm(pl.Callback):
    """Keeps this process's SIGTERM handler. Lightning's waits for every process, and the others may get no signal."""

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)


def _build(
    dataset: Dataset, config: TrainConfig, teachers: Sequence[Path], *, weights: str
) -> tuple[Classifier, RunCard, str]:
    """The module, its card, and a description of its initial weights.

    With a checkpoint to continue from, `weights` is `NONE`: the checkpoint has the weights, and the initial ones may no
    longer be available.
    """
    # Before the network is built, because its initial weights are drawn from torch's random state.
    torch.manual_seed(config.seed)
    network, report = new_network(config, len(dataset.classes), weights=weights)
    _try_out(network, config)
    description = f"initial weights: {weights}" if report is None else str(report)
    network.to(memory_format=torch.channels_last)  # 1.3 times as fast on a CPU
    classes = len(dataset.classes)
    objective = Objective(config, labels_of(dataset, "train"), classes)
    module = Classifier(network, config, objective=objective, classes=classes, validates=dataset.has("val"))
    card = RunCard(
        schema_version=1,
        data=str(dataset.root.resolve()),
        dataset=dataset.fingerprint,
        classes=dataset.classes,
        groups=dataset.groups,
        initial_weights=weights if report is None else str(report),
        normalisation=network.normalisation,
        teachers=tuple(map(describe_teacher, teachers)),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        trainable=sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad),
        commit=code_commit(),
        versions=library_versions(),
    )
    return module, card, description


def _try_out(network: Network, config: TrainConfig) -> None:
    """Run one forward pass per size, so that a size that the network cannot take fails before anything is written."""
    # If both sides are equal, the second entry replaces the first.
    sides = {config.crop_size or config.size: "--crop-size", config.size: "--size"}
    for side, option in sides.items():
        try:
            images = torch.zeros(1, 1, side, side, dtype=torch.uint8)
            with torch.no_grad():
                network.train().prepare(images)  # makes training's low-pass filter before the network is compiled
                network.eval()(images)
        except (RuntimeError, AssertionError, ValueError) as failure:
            remedy = "try 224" if option == "--size" else "leave it out"
            raise UsageError(f"--arch {config.arch} cannot take {option} {side} ({failure}); {remedy}.") from failure
    network.train()


def _soft_targets(
    run: Path, dataset: Dataset, teachers: Sequence[Path], cache: Path, listener: Listener, *, resume: bool
) -> NDArray[np.float32] | None:
    """The teachers' probabilities for the train films, `float32 [N, C]`; with `resume`, as saved in the run."""
    if not resume:
        return teacher_probabilities(dataset, teachers, cache=cache, listener=listener) if teachers else None
    if not (run / TEACHER_FILE).is_file():
        return None
    saved: NDArray[np.float32] = np.load(run / TEACHER_FILE, allow_pickle=False)
    return saved


def _loaders(
    dataset: Dataset,
    config: TrainConfig,
    world: World,
    folder: Path,
    listener: Listener,
    teacher: NDArray[np.float32] | None,
) -> Loaders:
    def cached(split: str, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        images = cache_inputs(dataset, split, InputRule.squash(size), folder, listener=listener)
        return images, labels_of(dataset, split)

    seed, size = config.seed, config.size
    films = CachedFilms(*cached("train", config.read_size or size), seed=seed, augment=policy(config), teacher=teacher)
    val = CachedFilms(*cached("val", size), seed=seed) if dataset.has("val") else None
    return make_loaders(films, val, batch_size=config.batch_size, workers=config.workers, seed=seed, world=world)


def _fit(module: Classifier, loaders: Loaders, recorder: Recorder, world: World) -> list[EpochRecord]:
    config, run = recorder.config, recorder.run
    callbacks: list[pl.Callback] = [recorder]
    if config.ema is not None:
        callbacks.append(EMAWeightAveraging(decay=config.ema))
    if world.size > 1:
        callbacks.append(KeepSigterm())
    with quiet(*_LOGGERS, advice=_IGNORED_WARNINGS), _checkpoint(run, world) as checkpoint, translate_peer_errors():
        trainer = pl.Trainer(
            **_placement(world, head_first=config.head_epochs > 0),
            precision=_PRECISION[config.precision],
            max_epochs=config.epochs,
            accumulate_grad_batches=config.accumulate,
            # With this, the same seed gives the same weights on the same GPU; on a CPU, it does so anyway. Layers that
            # are not deterministic warn.
            deterministic="warn" if torch.cuda.is_available() else None,
            callbacks=callbacks,
            logger=TensorBoardLogger(run, name="tensorboard", version=""),
            default_root_dir=run,
            num_sanity_val_steps=0,
            limit_val_batches=1.0 if loaders[1] else 0,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=True,
            # Our loaders already give each process its share of the films.
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(module, *loaders, ckpt_path=checkpoint, weights_only=True)
        except SystemExit as stop:  # Lightning turns Ctrl-C into this
            raise (KeyboardInterrupt if trainer.interrupted else stop) from stop
        finally:
            recorder.listener.end()
    return module.history


def _placement(world: World, *, head_first: bool) -> dict[str, Any]:
    """Lightning's options for where to train: on this machine's first device, or as one of several processes."""
    if world.size == 1:
        return {"accelerator": "auto", "devices": 1}
    return {
        "accelerator": "cuda" if torch.cuda.is_available() else "cpu",
        "devices": world.local_size,
        "num_nodes": world.hosts,
        "plugins": [TorchElasticEnvironment()],
        # DDP would broadcast buffers in every forward pass, for which all processes need equally many batches. In
        # validation their numbers of batches differ, so `Classifier` broadcasts once, before it. In head epochs most
        # parameters get no gradients.
        "strategy": DDPStrategy(broadcast_buffers=False, find_unused_parameters=head_first),
    }


@contextmanager
def _checkpoint(run: Path, world: World) -> Iterator[Path | None]:
    """The checkpoint to continue from, if any, as a file that this process can read: `run` may be on another host."""
    last = run / LAST
    if world.size == 1:
        yield last if last.is_file() else None
        return
    content = world.from_leader(lambda: last.read_bytes() if last.is_file() else None)
    with tempfile.TemporaryDirectory(prefix="pneumoscope-") as folder:
        copy = Path(folder) / last.name
        if content is not None:
            copy.write_bytes(content)
        yield None if content is None else copy


def _saved_history(last: Path) -> list[EpochRecord]:
    if not last.is_file():
        return []
    try:
        # `weights_only`: a checkpoint must not run code when it is loaded.
        history: list[EpochRecord] = torch.load(last, map_location="cpu", weights_only=True)["history"]
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as failure:
        error = type(failure).__name__
        raise RunError(f"{last} is damaged ({error}); train again with another --out.") from failure
    return history


def _check_run(run: Path, config: TrainConfig, dataset: Dataset, *, resume: bool) -> bool:
    """Whether there is a checkpoint to continue from. Raises if the run or the options do not fit."""
    if not dataset.has("val") and (config.patience is not None or config.keep == "best"):
        raise UsageError(
            "patience and keep 'best' need validation films, and this data set has only train films; leave these "
            "options out."
        )
    check_compiler(config, resume=resume)
    if resume:
        _check_resume(run, config, dataset)
    else:
        refuse_existing(run, overwrite=False, holding="", instead="continue with --resume, or choose another --out")
    return (run / LAST).is_file()


def _require_one_data_set(dataset: Dataset, world: World) -> None:
    if len(set(world.gather(dataset.fingerprint))) > 1:
        raise DatasetError(
            "the hosts have different data sets; give every host the whole data set (on SageMaker: "
            "S3DataDistributionType FullyReplicated)."
        )


def _check_resume(run: Path, config: TrainConfig, dataset: Dataset) -> None:
    saved, card = load_config(run), load_card(run)
    before, now = saved.model_dump(), config.model_dump()
    if changed := [f"{name} ({before[name]!r} → {now[name]!r})" for name in before if before[name] != now[name]]:
        raise UsageError(f"--resume keeps the configuration of {run}, but this differs: {', '.join(changed)}.")
    if card.dataset != dataset.fingerprint:
        raise RunError(f"--resume: {dataset.root} is not the data set that {run} was trained on ({card.data}).")
