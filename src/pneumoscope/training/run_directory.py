"""The run directory: the results of a training run, and the state from which `--resume` continues.

============================  =====================================================================
`config.json`                 the configuration (`TrainConfig`)
`run.json`                    data set, classes, initial weights, versions, commit (`RunCard`)
`teacher.npy`                 with teachers: their probabilities for the train films, `float32 [N, C]`
`metrics.csv`                 loss, accuracy and validation macro-F1 of each epoch
`curves.png`                  loss and accuracy of each epoch as charts
`tensorboard/`                the content of `metrics.csv` for TensorBoard
`checkpoints/last.ckpt`       the state after the last completed epoch, for `--resume`
`checkpoints/best.ckpt`       with `keep` `best`: the state after the best epoch so far
`weights.safetensors`         the final weights; written when training has finished
============================  =====================================================================
"""

import csv
import io
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pneumoscope import __version__
from pneumoscope.contract import Normalisation
from pneumoscope.documents import Document, Sha256, Stored, Text, read_document
from pneumoscope.errors import RunError
from pneumoscope.files import whole_file, write_text
from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.history import FIGURES, EpochRecord

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE, CARD_FILE, WEIGHTS_FILE = "config.json", "run.json", "weights.safetensors"
METRICS_FILE, CURVES_FILE, TEACHER_FILE = "metrics.csv", "curves.png", "teacher.npy"
LAST, BEST = Path("checkpoints/last.ckpt"), Path("checkpoints/best.ckpt")
_REPORTED = ("torch", "timm", "lightning", "numpy", "pillow")


class RunCard(Document):
    """`run.json`: the origin of the weights."""

    schema_version: Literal[1]
    data: Text = Field(description="Absolute path of the data set, with links resolved.")
    dataset: Sha256
    classes: tuple[Text, ...] = Field(min_length=2)
    groups: dict[Text, tuple[Text, ...]]
    initial_weights: Text
    normalisation: Normalisation = Field(
        description="Inside the network: the normalisation that its initial weights expect."
    )
    teachers: tuple[Text, ...] = Field(description="Sources of the soft targets; empty if there are none.")
    parameters: int = Field(ge=1)
    trainable: int = Field(ge=1)
    commit: str | None
    versions: dict[str, str]


def load_config(run: Path) -> TrainConfig:
    """Read `config.json`.

    Raises:
        RunError: it is not a run directory, or is damaged.
    """
    return _load(run, CONFIG_FILE, TrainConfig)


def load_card(run: Path) -> RunCard:
    """Read `run.json`.

    Raises:
        RunError: it is not a run directory, or is damaged.
    """
    return _load(run, CARD_FILE, RunCard)


def load_weights(run: Path) -> "dict[str, Tensor]":
    """The final weights of a finished run.

    Raises:
        RunError: the run has no weights yet, or the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_finished(run)
    path = run / WEIGHTS_FILE
    try:
        return load_file(path)
    except (SafetensorError, OSError) as failure:
        raise RunError(f"{path} is damaged ({failure}); train again.") from failure


def check_finished(run: Path) -> None:
    """Raise RunError unless `run` is a run directory with final weights."""
    load_config(run)
    if not (run / WEIGHTS_FILE).is_file():
        raise RunError(
            f"{run} has no {WEIGHTS_FILE}: training did not finish; continue with `pneumoscope train --resume`."
        )


def save_weights(run: Path, checkpoint: Path) -> None:
    """Write a checkpoint's network weights (the moving average, if the run has one) as the final weights."""
    import torch
    from safetensors.torch import save_file

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "network."
    # Training keeps weights in channels-last order; safetensors stores contiguous tensors only.
    tensors = {
        name.removeprefix(prefix): value.contiguous() for name, value in state.items() if name.startswith(prefix)
    }
    with whole_file(run / WEIGHTS_FILE) as partial:
        save_file(tensors, partial)


def save_history(run: Path, history: list[EpochRecord]) -> None:
    """Write `metrics.csv` and `curves.png`."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["epoch", *FIGURES])
    for record in history:
        figures = (f"{record[name]:.6f}" if name in record else "" for name in FIGURES)
        writer.writerow([int(record["epoch"]), *figures])
    write_text(run / METRICS_FILE, stream.getvalue())
    _draw(run / CURVES_FILE, history)


def library_versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that shape the weights."""
    # Not from this package's metadata: a training job has the package as a folder, not installed.
    own = {"python": platform.python_version(), "pneumoscope": __version__}
    return own | {name: metadata.version(name) for name in _REPORTED}


def code_commit() -> str | None:
    """Git commit of the package's code (with `-dirty` if it has changed since), or None if git does not track it."""
    here = ["git", "-C", str(Path(__file__).parent)]
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "timeout": 10}
    try:
        # The installed package may lie inside another project's repository, whose commit would mean nothing.
        subprocess.run([*here, "ls-files", "--error-unmatch", Path(__file__).name], **options)
        # Without a tag that it may name, `describe --always` gives the commit.
        describe = [*here, "describe", "--always", "--exclude", "*", "--dirty", "--abbrev=40"]
        return str(subprocess.run(describe, **options).stdout).strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _load(run: Path, name: str, kind: type[Stored]) -> Stored:
    path = run / name
    if not path.is_file():
        raise RunError(f"{run} is not a training run (it has no {name}); make one with `pneumoscope train`.")
    try:
        return read_document(kind, path.read_bytes())
    except ValueError as failure:
        raise RunError(f"{path} is not valid: {failure}; train again.") from failure


def _draw(path: Path, history: list[EpochRecord]) -> None:
    # Not pyplot, which keeps global state and chooses a backend by the environment.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [record["epoch"] for record in history]
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, style in (("train", "--"), ("val", "-")):
            if f"{part}_{quantity}" not in history[0]:
                continue
            axes.plot(epochs, [record[f"{part}_{quantity}"] for record in history], style, marker=".", label=part)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel({"loss": "cross-entropy (nats)", "accuracy": "accuracy"}[quantity])
        axes.grid(alpha=0.3)
        axes.legend()
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
