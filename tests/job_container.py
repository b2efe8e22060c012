"""A training container with the folders and variables that SageMaker provides, for the tests of training jobs."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pneumoscope.aws.client.package import training_archive
from pneumoscope.aws.unpack import extract
from samples import TINY

Command = Callable[..., SimpleNamespace]
# Strings, because platforms store them as such.
HYPERPARAMETERS = {name: str(value) for name, value in {**TINY, "size": 32, "epochs": 2}.items()}
EPOCHS = 5  # of jobs that are interrupted after the first one
TIMEOUT = 300  # seconds, for any single job


class Container:
    """The folders of a training container below `base`, and the command that is started in it."""

    def __init__(self, base: Path, *, checkpoints: bool = False) -> None:
        self.base = base
        self.program = [sys.executable, "-m", "pneumoscope.aws.job", "train"]
        for folder in ("model", "output/data", "input/config", "input/data", *["checkpoints"] * checkpoints):
            (base / folder).mkdir(parents=True, exist_ok=True)
        self.log = base.with_name(f"{base.name}.log")

    def use_aws_image(self, folder: Path) -> dict[str, str]:
        """Run the code that `aws train` sends, with a Python that has our dependencies but not our package.

        Returns:
            The variables by which that Python finds the dependencies.
        """
        (folder / "sourcedir.tar.gz").write_bytes(training_archive())
        extract(folder / "sourcedir.tar.gz", folder / "code")
        libraries = folder / "libraries"
        libraries.mkdir()
        for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
            if "pneumoscope" not in path.name and path.suffix != ".pth":
                (libraries / path.name).symlink_to(path)
        self.program = [str(Path(sys.base_prefix) / "bin" / "python3"), str(folder / "code" / "train.py")]
        return {"PYTHONPATH": str(libraries), "VIRTUAL_ENV": ""}

    def script_mode(self, train: Path, test: Path | None = None) -> dict[str, str]:
        """The variables that script-mode images set."""
        variables = {
            "SM_CHANNEL_TRAIN": str(train),
            "SM_MODEL_DIR": str(self.base / "model"),
            "SM_OUTPUT_DATA_DIR": str(self.base / "output/data"),
            "SM_NUM_GPUS": "0",
            "SAGEMAKER_BASE_DIR": str(self.base),
        }
        return variables | ({} if test is None else {"SM_CHANNEL_TEST": str(test)})

    def custom_image(self, train: Path, hyperparameters: dict[str, str]) -> dict[str, str]:
        """Write the platform's files for a custom image; return its variables.

        The platform sets the job's name. It does not set SAGEMAKER_BASE_DIR, which here moves /opt/ml to `base`.
        """
        shutil.copytree(train, self.base / "input/data/train")
        config = self.base / "input/config"
        (config / "hyperparameters.json").write_text(json.dumps(hyperparameters))
        (config / "resourceconfig.json").write_text(json.dumps({"current_host": "algo-1", "hosts": ["algo-1"]}))
        return {"TRAINING_JOB_NAME": "films-2026", "SAGEMAKER_BASE_DIR": str(self.base)}

    def start(
        self, environment: dict[str, str], *arguments: str, within: tuple[str, ...] = ()
    ) -> "subprocess.Popen[bytes]":
        own = {"TMPDIR": str(self.log.parent)}  # pytest removes the files of killed jobs
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [*within, *self.program, *arguments],
                env=platform_free_environment() | own | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, environment: dict[str, str], *arguments: str, within: tuple[str, ...] = ()) -> int:
        process = self.start(environment, *arguments, within=within)
        try:
            return process.wait(TIMEOUT)
        finally:
            process.kill()

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def epochs(self) -> list[str]:
        """The epochs in the log's epoch lines, in order."""
        return re.findall(r"^epoch (\d+)/", self.output, re.MULTILINE)

    @property
    def reason(self) -> str:
        return (self.base / "output/failure").read_text()

    def metrics_rows(self) -> list[dict[str, str]]:
        """The rows of the run's `metrics.csv`, one per epoch."""
        with (self.base / "output/data/run/metrics.csv").open(newline="") as stream:
            return list(csv.DictReader(stream))

    def was_resumed(self) -> bool:
        """Whether the last process ran only the last epochs, not the first; the metrics must have each epoch once."""
        epochs = [str(number + 1) for number in range(EPOCHS)]
        assert [row["epoch"] for row in self.metrics_rows()] == epochs
        return 0 < len(self.epochs) < EPOCHS and epochs[-len(self.epochs) :] == self.epochs

    def report(self, split: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.base / f"output/data/report-{split}/report.json").read_text())
        return document

    def wait_for_epoch(self, number: int, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + TIMEOUT
        while str(number) not in self.epochs:
            assert process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.01)


def platform_free_environment() -> dict[str, str]:
    """This process's variables without those of any platform; one thread per process, because many run at once."""
    foreign = ("SM_", "SAGEMAKER_", "TRAINING_JOB_", "PNEUMOSCOPE_", "TORCHELASTIC_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return own | {"OMP_NUM_THREADS": "1"}


def as_arguments(hyperparameters: dict[str, str]) -> list[str]:
    """Hyper-parameters as script mode passes them."""
    return [part for name, value in hyperparameters.items() for part in (f"--{name}", value)]


def paths_in(folder: Path) -> list[str]:
    """The paths of all files and folders below a folder, relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
