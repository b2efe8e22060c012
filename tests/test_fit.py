"""Training: head epochs, runs without validation, and resuming with all settings that draw numbers or keep state."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pneumoscope.dataset import Dataset
from pneumoscope.errors import UsageError
from pneumoscope.files import sha256_of
from pneumoscope.progress import Listener
from pneumoscope.training.config import make_config
from pneumoscope.training.fit import train
from pneumoscope.training.module import rate_factor
from pneumoscope.training.run_directory import LAST, load_card
from pneumoscope.training.teachers import describe_teacher, teacher_probabilities
from samples import TINY


class Stop(Exception):  # noqa: N818 (it is not an error)
    """Ends a command from within, as Ctrl-C would."""


class StopAfter(Listener):
    """Stops when an epoch is over, or a few batches later."""

    def __init__(self, epoch: int, *, batches: int = 0) -> None:
        self.epoch, self.batches, self.reached = epoch, batches, False

    def say(self, line: str) -> None:
        self.reached = self.reached or line.startswith(f"epoch {self.epoch}/")
        if self.reached and not self.batches:
            raise Stop

    def advance(self, count: int) -> None:
        self.batches -= self.reached and count > 0
        if self.reached and not self.batches:
            raise Stop


def donor(arch: str, path: Path) -> dict[str, Tensor]:
    """Write weights for a network with one channel and three classes; return them under this package's names."""
    torch.manual_seed(5)
    state: dict[str, Tensor] = timm.create_model(arch, num_classes=3, in_chans=1).state_dict()
    torch.save(state, path)
    return {f"body.{name}": value for name, value in state.items()}


def network_in(checkpoint: Path) -> dict[str, Tensor]:
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    return {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(("arch", "head"), [("test_resnet", "fc"), ("test_efficientnet", "classifier")])
def test_head_epochs_train_the_classifier_only_and_then_everything(
    arch: str, head: str, dataset: Dataset, tmp_path: Path
) -> None:
    first = donor(arch, tmp_path / "donor.pt")
    values = {"recipe": "x", **TINY, "arch": arch, "weights": str(tmp_path / "donor.pt"), "head_epochs": 1}
    run = tmp_path / "run"
    with pytest.raises(Stop):
        train(dataset, make_config(values, {}), run, listener=StopAfter(1))
    after_head = network_in(run / LAST)
    assert changed(first, after_head) == {f"body.{head}.weight", f"body.{head}.bias"}
    train(dataset, make_config(values, {}), run, resume=True)
    then = changed(after_head, load_file(run / "weights.safetensors"))
    assert {name for name in first if not name.endswith("weight")} <= then  # running means and biases
    assert len(then) > 0.8 * len(first)  # norms after a branch that starts at zero have hardly any gradient yet
    assert load_card(run).trainable == load_card(run).parameters


def test_the_schedule_begins_after_the_head() -> None:
    rates = [rate_factor("onecycle", 100, rise=0.25, head=20)(step) for step in range(101)]
    assert set(rates[:20]) == {1.0}
    assert rates[20] == pytest.approx(0.04)
    assert rates.index(max(rates[20:]), 20) == 40
    assert rates[100] == pytest.approx(0, abs=1e-9)
    cosine = rate_factor("cosine", 100, head=20)
    assert [round(cosine(step), 3) for step in (19, 20, 60, 100)] == [1, 1, 0.5, 0]


# Every setting that draws random numbers or has state to restore, besides those of test_training.
EVERYTHING: dict[str, Any] = {
    **TINY,
    "recipe": "hard",
    "epochs": 3,
    "head_epochs": 1,
    "head_scale": 0.01,
    "batch_norm_momentum": 0.05,
    "dropout": 0.2,
    "drop_path": 0.1,
    "low_pass": 5,
    "eval_low_pass": 7,
    "optimizer": "adamw",
    "schedule": "onecycle",
    "rise": 0.2,
    "accumulate": 2,
    "prior": "uniform",
    "label_smoothing": 0.05,
    "mixup": 0.4,
    "logit_penalty": 0.01,
    "teacher_share": 0.6,
    "augment": "robust",
    "mirror": True,
    "crop_size": 40,
    "read_size": 64,
    "ema": 0.9,
}


def test_with_every_setting_a_resume_is_bit_for_bit_across_the_end_of_the_head_epochs(
    tiny_run: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """The file of initial weights is deleted meanwhile; the normalisation that it brought must stay."""
    weights, cache = tmp_path / "donor.pt", tmp_path / "cache"
    donor("test_resnet", weights)
    config = make_config({**EVERYTHING, "weights": str(weights)}, {})
    train(dataset, config, tmp_path / "whole", teachers=[tiny_run], cache=cache)
    moments = {"head": StopAfter(1), "body": StopAfter(2), "within": StopAfter(1, batches=2)}
    for name, moment in moments.items():
        with pytest.raises(Stop):
            train(dataset, config, tmp_path / name, teachers=[tiny_run], cache=cache, listener=moment)
    weights.unlink()
    torch.rand(17)  # whatever the global random state is by now
    for name in moments:
        train(dataset, config, tmp_path / name, resume=True, cache=cache)
        for file in ("weights.safetensors", "metrics.csv", "teacher.npy", "run.json"):
            assert sha256_of(tmp_path / name / file) == sha256_of(tmp_path / "whole" / file), (name, file)
    card = load_card(tmp_path / "whole")
    assert card.teachers == (describe_teacher(tiny_run),)
    assert card.normalisation.mean == 0.5
    assert card.normalisation.std == 0.5
    soft_targets = np.load(tmp_path / "whole" / "teacher.npy")
    np.testing.assert_array_equal(soft_targets, teacher_probabilities(dataset, [tiny_run], cache=cache))
    untaught = tmp_path / "untaught"
    with pytest.raises(Stop):
        train(dataset, make_config({**EVERYTHING, "weights": "none"}, {}), untaught, cache=cache, listener=StopAfter(1))
    assert not (untaught / "teacher.npy").exists()
    assert load_card(untaught).teachers == ()


def test_without_validation_films_it_trains_to_the_end_and_resumes(all_train: Dataset, tmp_path: Path) -> None:
    config = make_config({"recipe": "tiny", **TINY}, {})
    history = train(all_train, config, tmp_path / "whole")
    assert [set(record) for record in history] == [{"epoch", "train_loss", "train_accuracy"}] * 2
    with (tmp_path / "whole" / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        assert float(row["train_loss"]) > 0
        assert [row[name] for name in ("val_loss", "val_accuracy", "val_macro_f1")] == [""] * 3
    with Image.open(tmp_path / "whole" / "curves.png") as curves:
        assert curves.width > 500
    with pytest.raises(Stop):
        train(all_train, config, tmp_path / "again", listener=StopAfter(1))
    train(all_train, config, tmp_path / "again", resume=True)
    for file in ("weights.safetensors", "metrics.csv"):
        assert sha256_of(tmp_path / "again" / file) == sha256_of(tmp_path / "whole" / file)


@pytest.mark.parametrize("choice", [{"patience": 2}, {"keep": "best"}])
def test_without_validation_films_nothing_can_be_the_best(
    choice: dict[str, Any], all_train: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="patience and keep 'best' need validation films, and this data set has only"):
        train(all_train, make_config({"recipe": "tiny", **TINY}, choice), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_take_the_crop_size_is_an_error(dataset: Dataset, tmp_path: Path) -> None:
    values = {"recipe": "x", **TINY, "arch": "vit_tiny_patch16_224", "size": 96, "augment": "robust", "crop_size": 64}
    with pytest.raises(UsageError, match=r"--arch vit_tiny_patch16_224 cannot take --crop-size 64 .*; leave it out\."):
        train(dataset, make_config(values, {}), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_compiled_training_takes_the_same_steps(dataset: Dataset, tmp_path: Path) -> None:
    """Also with a filter that is used in training only, which would otherwise be made while compiling."""
    tiny = {"recipe": "tiny", **TINY, "epochs": 1, "eval_low_pass": 7}
    curves = [
        train(dataset, make_config({**tiny, "compiled": compiled}, {}), tmp_path / name)
        for name, compiled in (("eager", False), ("compiled", True))
    ]
    assert curves[1][0]["train_loss"] == pytest.approx(curves[0][0]["train_loss"], rel=1e-3)


def test_compiled_training_without_a_compiler_says_what_to_do(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    config = make_config({"recipe": "tiny", **TINY, "compiled": True}, {})
    with pytest.raises(
        UsageError, match=r"needs a C\+\+ compiler, and (g|clang)\+\+ is not found; .* --no-compiled\.$"
    ):
        train(dataset, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
