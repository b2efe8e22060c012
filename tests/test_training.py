import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

import pneumoscope
from listeners import Recorder
from pneumoscope.contract import InputRule
from pneumoscope.dataset import Dataset
from pneumoscope.errors import RunError, UsageError
from pneumoscope.files import sha256_of
from pneumoscope.imaging import load_input
from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.config import load_recipe, make_config, recipe_names
from pneumoscope.training.fit import train
from pneumoscope.training.history import best_epoch, is_finished
from pneumoscope.training.inputs import labels_of
from pneumoscope.training.loss import weigh_classes
from pneumoscope.training.module import rate_factor
from pneumoscope.training.run_directory import load_card, load_config
from samples import TINY


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
    """Recompute the last epoch's validation accuracy and loss from the saved weights and the files."""
    from pneumoscope.export import load_network

    rule, truth = InputRule.squash(TINY["size"]), torch.tensor(labels_of(dataset, "val"))
    images = np.stack([load_input(dataset.read(film), rule) for film in dataset.split("val")])
    with torch.no_grad():
        logits = load_network(tiny_run)(torch.from_numpy(images))
    with (tiny_run / "metrics.csv").open(newline="") as stream:
        recorded = list(csv.DictReader(stream))[-1]
    accuracy = float((logits.argmax(dim=1) == truth).float().mean())
    assert float(recorded["val_accuracy"]) == pytest.approx(accuracy, abs=1e-6)
    loss = float(torch.nn.functional.cross_entropy(logits, truth))
    assert float(recorded["val_loss"]) == pytest.approx(loss, abs=1e-4)


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
def test_weights_stay_fp32_with_and_without_mixed_precision(precision: str, dataset: Dataset, tmp_path: Path) -> None:
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


def test_patience_ends_training() -> None:
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


def test_four_recipes_repeat_the_capstones_settings() -> None:
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


def test_the_commit_of_a_tagged_release_is_its_hash(tmp_path: Path) -> None:
    package = tmp_path / "pneumoscope"
    shutil.copytree(Path(pneumoscope.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@a"]
    for command in ("init -q", "add pneumoscope/training", "commit -q -m one", "tag --annotate v1.0.0 -m one"):
        subprocess.run([*git, *command.split(" ")], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    code = "from pneumoscope.training.run_directory import code_commit; print(code_commit())"
    for expected in (head, f"{head}-dirty"):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
        with (package / "training" / "run_directory.py").open("a") as file:
            file.write("# changed")


def test_the_run_records_the_path_of_its_data_set(tiny_run: Path, dataset: Dataset) -> None:
    assert json.loads((tiny_run / "run.json").read_text())["data"] == str(dataset.root.resolve())
