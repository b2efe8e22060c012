"""Training that is killed and resumed gives the same weights, bit for bit."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from listeners import Recorder
from pneumoscope.dataset import Dataset
from pneumoscope.errors import RunError, UsageError
from pneumoscope.files import sha256_of
from pneumoscope.training.config import make_config
from pneumoscope.training.fit import train
from samples import TINY


@timm.models.register_model
def tiny_resnet_with_dropout(**options: Any) -> Any:
    """A network that draws from torch's global random state while it trains."""
    return timm.create_model("test_resnet", **{**options, "drop_rate": 0.5})


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


def test_a_run_killed_after_its_last_epoch_is_completed(dataset: Dataset, uninterrupted: Path, tmp_path: Path) -> None:
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
