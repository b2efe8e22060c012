import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

import pneumoscope
from pneumoscope.contract import InputRule
from pneumoscope.dataset import Dataset
from pneumoscope.errors import DatasetError, RunError, UsageError
from pneumoscope.files import sha256_of
from pneumoscope.imaging import Limits, load_input
from pneumoscope.progress import Listener
from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.augment import apply_seeded, policy
from pneumoscope.training.config import load_recipe, make_config, recipe_names
from pneumoscope.training.fit import train
from pneumoscope.training.history import best_epoch, is_finished
from pneumoscope.training.inputs import CachedFilms, EpochOrder, cache_inputs, labels_of
from pneumoscope.training.loss import weigh_classes
from pneumoscope.training.module import rate_factor
from pneumoscope.training.run_directory import load_card, load_config
from samples import TINY

# Uses all the state that a resume must restore: order, augmentation, optimiser moments, schedule, weight average,
# patience, best epoch.
STATEFUL = {
    **TINY,
    "recipe": "hard",
    "epochs": 4,
    "optimizer": "adamw",
    "lr": 5e-3,
    "schedule": "onecycle",
    "accumulate": 2,
    "ema": 0.9,
    "augment": "light",
    "class_weights": "sqrt",
    "label_smoothing": 0.05,
    "patience": 3,
    "keep": "best",
}

KILLER = """
import os, signal, sys
from pathlib import Path
import lightning.pytorch as pl
from pneumoscope.dataset import load_dataset
from pneumoscope.progress import Listener
from pneumoscope.training.config import make_config
from pneumoscope.training.fit import train
data, run, values, moment = Path(sys.argv[1]), Path(sys.argv[2]), eval(sys.argv[3]), sys.argv[4]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Killer(Listener):
    epochs = batches = 0
    def say(self, line):
        self.epochs, self.batches = self.epochs + line.startswith("epoch"), 0
    def advance(self, count):
        self.batches += 1
        if moment == "mid-epoch" and self.epochs == 2 and self.batches == 2:
            die()

killer = Killer()
save = pl.Trainer.save_checkpoint
def save_half(trainer, path, *options):
    save(trainer, path, *options)
    if moment == "mid-checkpoint" and killer.epochs == 2:
        os.truncate(path, os.path.getsize(path) // 2)
        die()
pl.Trainer.save_checkpoint = save_half
train(load_dataset(data), make_config(values, {}), run, listener=killer)
"""


class Recorder(Listener):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.tasks: list[tuple[str, int]] = []

    def begin(self, task: str, total: int | None, unit: str, *, done: int = 0) -> None:
        assert total is not None
        self.tasks.append((f"{task} {unit}", total - done))

    def say(self, line: str) -> None:
        self.lines.append(line)


def kill_at(moment: str, dataset: Dataset, run: Path, values: dict[str, Any]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(dataset.root), str(run), repr(values), moment],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == -9, done.stderr


@pytest.fixture(scope="module")
def uninterrupted(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("resume") / "whole"
    train(dataset, make_config(STATEFUL, {}), run)
    return run


@pytest.mark.parametrize("moment", ["mid-epoch", "mid-checkpoint"])
def test_resume_after_kill_is_bit_for_bit(moment: str, dataset: Dataset, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    kill_at(moment, dataset, run, STATEFUL)
    assert not (run / "weights.safetensors").exists()
    assert len((run / "metrics.csv").read_text().splitlines()) == 1 + 2
    recorder = Recorder()
    train(dataset, make_config(STATEFUL, {}), run, resume=True, listener=recorder)
    assert [line.split()[1] for line in recorder.lines if line.startswith("epoch")] == ["3/4", "4/4"]
    assert sha256_of(run / "weights.safetensors") == sha256_of(uninterrupted / "weights.safetensors")
    assert (run / "metrics.csv").read_bytes() == (uninterrupted / "metrics.csv").read_bytes()


@timm.models.register_model
def tiny_resnet_with_dropout(**options: Any) -> Any:
    """A network that draws from torch's global random state while it trains."""
    return timm.create_model("test_resnet", **{**options, "drop_rate": 0.5})


def test_resume_with_dropout_is_bit_for_bit(dataset: Dataset, tmp_path: Path) -> None:
    values = {**STATEFUL, "arch": "tiny_resnet_with_dropout"}
    train(dataset, make_config(values, {}), tmp_path / "whole")

    class Stop(Recorder):
        def say(self, line: str) -> None:
            super().say(line)
            if line.startswith("epoch 2/"):
                raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        train(dataset, make_config(values, {}), tmp_path / "again", listener=Stop())
    torch.rand(17)  # whatever the global random state is by now
    train(dataset, make_config(values, {}), tmp_path / "again", resume=True)
    hashes = {sha256_of(tmp_path / run / "weights.safetensors") for run in ("whole", "again")}
    assert len(hashes) == 1


def test_resuming_a_finished_run_changes_nothing(dataset: Dataset, uninterrupted: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    before = sha256_of(run / "weights.safetensors")
    (run / "weights.safetensors").unlink()  # killed after the last checkpoint, before anything else
    (run / "metrics.csv").unlink()
    history = train(dataset, make_config(STATEFUL, {}), run, resume=True)
    assert len(history) == 4
    assert sha256_of(run / "weights.safetensors") == before
    assert (run / "metrics.csv").read_bytes() == (uninterrupted / "metrics.csv").read_bytes()


def test_resume_refuses_another_configuration_or_data_set(
    dataset: Dataset, uninterrupted: Path, phantom_zip: Path, tmp_path: Path
) -> None:
    from pneumoscope.dataset import PrepareConfig, load_dataset, prepare

    with pytest.raises(UsageError, match=r"lr \(0.005 → 0.1\)"):
        train(dataset, make_config(STATEFUL, {"lr": 0.1}), uninterrupted, resume=True)
    prepare([phantom_zip], tmp_path / "other", PrepareConfig(seed=8, val_fraction=0.25))
    with pytest.raises(RunError, match="is not the data set"):
        train(load_dataset(tmp_path / "other"), make_config(STATEFUL, {}), uninterrupted, resume=True)
    with pytest.raises(RunError, match="not a training run"):
        train(dataset, make_config(STATEFUL, {}), tmp_path / "nothing", resume=True)
    run = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    (run / "checkpoints" / "last.ckpt").write_bytes(b"half a checkpoint")
    with pytest.raises(RunError, match=r"last\.ckpt is damaged"):
        train(dataset, make_config(STATEFUL, {}), run, resume=True)


def test_the_run_directory_has_the_documented_files(tiny_run: Path, dataset: Dataset) -> None:
    with (tiny_run / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1"]
    assert list(rows[0]) == columns
    assert [row["epoch"] for row in rows] == ["1", "2"]
    card = json.loads((tiny_run / "run.json").read_text())
    assert card["dataset"] == dataset.fingerprint
    assert card["classes"] == list(dataset.classes)
    assert {"torch", "timm", "python", "pneumoscope"} <= set(card["versions"])
    assert TrainConfig.model_validate_json((tiny_run / "config.json").read_text()).arch == "test_resnet"
    with Image.open(tiny_run / "curves.png") as curves:
        assert curves.width > 500
    assert list((tiny_run / "tensorboard").glob("events.*"))
    weights = load_file(tiny_run / "weights.safetensors")
    assert weights["body.fc.weight"].shape[0] == 3


def test_tensorboard_has_the_figures(tiny_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tiny_run / "tensorboard"))
    events.Reload()
    assert {"train_loss", "train_accuracy", "val_loss", "val_accuracy"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("val_accuracy")) == 2


def test_the_recorded_validation_figures_are_those_of_the_weights(tiny_run: Path, dataset: Dataset) -> None:
    """Recompute the last epoch's validation accuracy from the saved weights and the files."""
    from pneumoscope.export import load_network

    rule = InputRule.squash(TINY["size"])
    images = np.stack([load_input(dataset.read(film), rule) for film in dataset.split("val")])
    with torch.no_grad():
        predicted = load_network(tiny_run)(torch.from_numpy(images)).argmax(dim=1).numpy()
    accuracy = float((predicted == labels_of(dataset, "val")).mean())
    with (tiny_run / "metrics.csv").open(newline="") as stream:
        recorded = float(list(csv.DictReader(stream))[-1]["val_accuracy"])
    assert recorded == pytest.approx(accuracy, abs=1e-6)


def test_a_seed_gives_the_same_weights_and_another_seed_others(
    tiny_run: Path, dataset: Dataset, tmp_path: Path
) -> None:
    for name, seed in (("same", 0), ("other", 1)):
        train(dataset, make_config({"recipe": "tiny", **TINY}, {"seed": seed}), tmp_path / name)
    hashes = [sha256_of(run / "weights.safetensors") for run in (tiny_run, tmp_path / "same", tmp_path / "other")]
    assert hashes[0] == hashes[1] != hashes[2]


def test_frozen_weights_do_not_change(dataset: Dataset, tmp_path: Path) -> None:
    values = {"recipe": "tiny", **TINY, "freeze": True}
    train(dataset, make_config(values, {"epochs": 1}), tmp_path / "one")
    train(dataset, make_config(values, {"epochs": 2}), tmp_path / "two")
    one, two = (load_file(tmp_path / run / "weights.safetensors") for run in ("one", "two"))
    assert {name for name in one if not torch.equal(one[name], two[name])} == {"body.fc.weight", "body.fc.bias"}


def test_patience_stops_and_keep_best_keeps_the_best(dataset: Dataset, tmp_path: Path) -> None:
    values = {"recipe": "tiny", **TINY, "epochs": 30, "patience": 2, "keep": "best", "lr": 0.05}
    history = train(dataset, make_config(values, {}), tmp_path / "run")
    assert len(history) < 30
    assert len(history) - 1 - best_epoch(history) == 2
    shorter = train(
        dataset, make_config(values, {"epochs": best_epoch(history) + 1, "keep": "last"}), tmp_path / "short"
    )
    assert shorter == history[: len(shorter)]
    hashes = {sha256_of(tmp_path / run / "weights.safetensors") for run in ("run", "short")}
    assert len(hashes) == 1


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_mixed_precision_trains(precision: str, dataset: Dataset, tmp_path: Path) -> None:
    history = train(
        dataset, make_config({"recipe": "tiny", **TINY}, {"precision": precision, "epochs": 1}), tmp_path / "run"
    )
    assert np.isfinite(history[0]["train_loss"])
    assert all(
        value.dtype == torch.float32
        for value in load_file(tmp_path / "run" / "weights.safetensors").values()
        if value.is_floating_point()
    )


def test_an_existing_run_is_not_overwritten(tiny_run: Path, dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="exists already"):
        train(dataset, make_config({"recipe": "tiny", **TINY}, {}), tiny_run)


def test_cache_equals_the_inputs_and_is_made_once(dataset: Dataset, tmp_path: Path) -> None:
    rule, recorder = InputRule.squash(40), Recorder()
    array = cache_inputs(dataset, "val", rule, tmp_path, listener=recorder)
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable
    expected = np.stack([load_input(dataset.read(film), rule) for film in dataset.split("val")])
    np.testing.assert_array_equal(array, expected)
    cache_inputs(dataset, "val", rule, tmp_path, listener=recorder)
    cache_inputs(dataset, "val", InputRule.squash(48), tmp_path, listener=recorder)
    assert recorder.tasks == [("decoding val images", len(array))] * 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cache_folder_that_cannot_be_made_is_an_error(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="--cache"):
        cache_inputs(dataset, "val", InputRule.squash(40), tmp_path / "file" / "cache")


def test_order_is_a_pure_function_of_seed_and_epoch() -> None:
    order = EpochOrder(20, seed=3)
    epochs = []
    for epoch in (0, 1, 0):
        order.set_epoch(epoch)
        epochs.append([key - epoch * 20 for key in order])
    assert sorted(epochs[0]) == list(range(20))
    assert epochs[0] == epochs[2] != epochs[1]


def augmenting(name: str, size: int) -> TrainConfig:
    return make_config({"recipe": "tiny", **TINY, "augment": name, "size": size}, {})


def test_augmentation_depends_on_seed_epoch_and_film_only() -> None:
    images = np.random.default_rng(0).integers(0, 255, (3, 1, 32, 32), dtype=np.uint8)
    films = CachedFilms(images, np.array([0, 1, 2]), augment=policy(augmenting("robust", 32)), seed=1)
    batch, labels, _ = films.__getitems__([3, 4, 5])  # epoch 1
    again, *_ = films.__getitems__([4])
    later, *_ = films.__getitems__([7])
    assert labels.tolist() == [0, 1, 2]
    torch.testing.assert_close(batch[1:2], again)
    assert not torch.equal(again, later)


@pytest.mark.parametrize("name", ["light", "robust"])
def test_policies_keep_shape_and_dtype_and_the_global_random_state(name: str) -> None:
    transform = policy(augmenting(name, 40))
    assert transform is not None
    image = torch.arange(1600, dtype=torch.uint8).reshape(1, 40, 40)
    state = torch.random.get_rng_state()
    for number in range(30):
        changed = apply_seeded(transform, image, number)
        assert changed.shape == image.shape
        assert changed.dtype == image.dtype
    assert torch.equal(torch.random.get_rng_state(), state)
    assert policy(augmenting("none", 40)) is None


def test_schedules() -> None:
    constant, onecycle = rate_factor("constant", 100), rate_factor("onecycle", 100)
    assert {constant(step) for step in (0, 50, 200)} == {1.0}
    rates = [onecycle(step) for step in range(101)]
    assert max(rates) == pytest.approx(1)
    assert rates.index(max(rates)) == 30
    assert rates[0] < 0.1
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_class_weights() -> None:
    labels = np.array([0, 0, 0, 0, 1])
    assert weigh_classes(labels, 2, "none") is None
    for how, ratio in (("balanced", 4.0), ("sqrt", 2.0)):
        weights = weigh_classes(labels, 2, how)
        assert weights is not None
        assert float(weights[1] / weights[0]) == pytest.approx(ratio)
        assert float(weights.mean()) == pytest.approx(1)


def test_patience_and_epochs_end_training() -> None:
    config = make_config({"recipe": "tiny", **TINY, "epochs": 9, "patience": 2}, {})
    history = [{"val_macro_f1": value} for value in (0.1, 0.5, 0.5, 0.4)]
    assert best_epoch(history) == 1
    assert [is_finished(history[:count], config) for count in range(5)] == [False, False, False, False, True]


CAPSTONE = {
    "capstone-vgg19-frozen": ("vgg19_bn", True, 10),
    "capstone-resnet50-short": ("resnet50", False, 2),
    "capstone-vgg19": ("vgg19_bn", False, 4),
    "capstone-resnet50": ("resnet50", False, 4),
}


def test_recipes_are_the_capstones() -> None:
    assert set(recipe_names()) == {*CAPSTONE, "quick", "pneumoscope-base"}
    for name, (arch, freeze, epochs) in CAPSTONE.items():
        config = make_config(load_recipe(name), {})
        assert config.recipe == name
        assert config.arch == arch
        assert config.freeze == freeze
        assert config.epochs == epochs
        assert config.weights == "imagenet"
        assert config.optimizer == "sgd"
        assert config.augment == "none"
        assert config.size == 224


def test_recipes_are_read_from_files_and_wrong_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('arch = "resnet18"\nepochs = 3\nlr = 0.1\n')
    config = make_config(load_recipe(str(path)), {"epochs": 5})
    assert config.recipe == "mine"
    assert config.arch == "resnet18"
    assert config.epochs == 5
    path.write_text("arch = ")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_recipe(str(path))
    with pytest.raises(UsageError, match="neither a file nor one of: capstone"):
        load_recipe("nonsense")
    for values, words in (
        ({"lr": -1}, "'lr'"),
        ({"speed": 9}, "'speed' is not known"),
        ({"augment": "wild"}, "'augment'"),
    ):
        with pytest.raises(UsageError, match=words):
            make_config(load_recipe("quick") | values, {})
    with pytest.raises(UsageError, match="'arch' is missing"):
        make_config({"recipe": "x", "epochs": 1, "lr": 1}, {})


def test_training_reports_its_progress(dataset: Dataset, tmp_path: Path) -> None:
    recorder = Recorder()
    train(
        dataset,
        make_config({"recipe": "tiny", **TINY}, {"epochs": 1}),
        tmp_path / "run",
        cache=tmp_path / "cache",
        listener=recorder,
    )
    count = len(dataset.split("train"))
    assert ("training images", count) in recorder.tasks
    assert ("decoding train images", count) in recorder.tasks
    for words in ("epoch 1/1", "train loss", "accuracy", "val loss", "macro-F1", "images/s"):
        assert words in recorder.lines[-1]
    assert not os.environ.get("PL_GLOBAL_SEED")


def test_a_resume_does_not_need_the_initial_weights(dataset: Dataset, tmp_path: Path) -> None:
    donor = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    weights = tmp_path / "donor.pt"
    torch.save(donor.state_dict(), weights)
    recorder = Recorder()
    values = {"recipe": "tiny", **TINY, "weights": str(weights)}
    train(dataset, make_config(values, {}), tmp_path / "run", listener=recorder)
    assert "tensors loaded from donor.pt" in recorder.lines[0]
    (tmp_path / "run" / "weights.safetensors").unlink()
    weights.unlink()
    assert len(train(dataset, make_config(values, {}), tmp_path / "run", resume=True)) == 2
    assert (tmp_path / "run" / "weights.safetensors").is_file()


def test_the_weights_normalisation_travels_from_the_run_to_the_bundle(dataset: Dataset, tmp_path: Path) -> None:
    """timm publishes test_resnet with mean and deviation .5."""
    from pneumoscope.contract import GREY_IMAGENET, load_contract
    from pneumoscope.export import export, load_network

    donor, run = timm.create_model("test_resnet", num_classes=3, in_chans=1), tmp_path / "run"
    torch.save(donor.state_dict(), tmp_path / "donor.pt")
    values = {"recipe": "tiny", **TINY, "weights": str(tmp_path / "donor.pt"), "epochs": 1}
    train(dataset, make_config(values, {}), run)
    half = load_card(run).normalisation
    assert (half.mean, half.std) == (0.5, 0.5) != (GREY_IMAGENET.mean, GREY_IMAGENET.std)
    assert load_network(run).normalisation == half
    export(run, dataset, tmp_path / "bundle")
    assert load_contract(tmp_path / "bundle").normalisation == half


@pytest.mark.parametrize("field", ["size", "schema_version"])
def test_a_missing_field_of_a_run_is_an_error_not_a_default(field: str, tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    document = json.loads((run / "config.json").read_text())
    del document[field]
    (run / "config.json").write_text(json.dumps(document))
    with pytest.raises(RunError, match=f"field '{field}' is missing"):
        load_config(run)


@pytest.mark.parametrize(("arch", "size"), [("inception_v3", 32), ("test_vit", 97)])
def test_a_network_that_cannot_take_the_size_leaves_nothing(
    arch: str, size: int, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"--arch {arch} .*--size {size}"):
        train(dataset, make_config({"recipe": "x", **TINY, "arch": arch, "size": size}, {}), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_last_batch_of_one_film_is_left_out(dataset: Dataset, tmp_path: Path) -> None:
    count = len(dataset.split("train"))
    config = make_config({"recipe": "x", **TINY, "batch_size": count - 1, "epochs": 1}, {})
    assert np.isfinite(train(dataset, config, tmp_path / "run")[0]["train_loss"])


def test_a_damaged_cache_is_replaced(dataset: Dataset, tmp_path: Path) -> None:
    rule = InputRule.squash(40)
    expected = np.array(cache_inputs(dataset, "val", rule, tmp_path))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:500])
    np.testing.assert_array_equal(cache_inputs(dataset, "val", rule, tmp_path), expected)


def test_the_data_sets_limits_apply_to_the_cache(dataset: Dataset, tmp_path: Path) -> None:
    small = replace(dataset, limits=Limits(max_pixels=1000))
    with pytest.raises(DatasetError, match=r"jpeg: .*at most 1,000"):
        cache_inputs(small, "val", InputRule.squash(40), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_commit_is_that_of_the_package_itself(tmp_path: Path) -> None:
    """A package that is inside another repository, and untracked there, has no commit."""
    package = tmp_path / "theirs" / "pneumoscope"
    shutil.copytree(Path(pneumoscope.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for command in ("init -q", "-c user.name=a -c user.email=a@a commit -q --allow-empty -m theirs"):
        subprocess.run(["git", "-C", str(tmp_path / "theirs"), *command.split(" ")], check=True)
    code = "from pneumoscope.training import run_directory; print(run_directory.__file__, run_directory.code_commit())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "theirs", capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(package / "training" / "run_directory.py"), "None"]


def test_the_run_records_the_path_of_its_data_set(tiny_run: Path, dataset: Dataset) -> None:
    assert json.loads((tiny_run / "run.json").read_text())["data"] == str(dataset.root.resolve())


def test_augmentation_never_reseeds_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = policy(augmenting("light", 40))
    assert transform is not None
    monkeypatch.setattr(torch, "manual_seed", None)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", None)
    apply_seeded(transform, torch.zeros(1, 40, 40, dtype=torch.uint8), 1)
