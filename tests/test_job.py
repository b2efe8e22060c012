"""SageMaker training jobs: real processes, in variables and folders laid out as SageMaker does."""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pneumoscope.aws.client.package import training_archive
from pneumoscope.aws.job import pipeline, platform
from pneumoscope.aws.job.hyperparameters import read_hyperparameters
from pneumoscope.aws.job_metrics import METRICS
from pneumoscope.aws.unpack import extract
from pneumoscope.dataset import Dataset
from pneumoscope.engine import Engine, verify
from pneumoscope.errors import DatasetError, PneumoscopeError, RunError, UsageError
from pneumoscope.imaging import SUFFIXES
from pneumoscope.metrics import cross_entropy, softmax
from pneumoscope.training.inputs import CachedFilms, EpochOrder, make_loaders
from pneumoscope.training.world import World
from samples import REPOSITORY, TINY

Command = Callable[..., SimpleNamespace]
# As strings, in which form platforms store them.
HYPERPARAMETERS = {name: str(value) for name, value in {**TINY, "size": 32, "epochs": 2}.items()}
EPOCHS = 5  # of jobs that are interrupted after the first one
TIMEOUT = 300  # seconds, for any single job
OTHER_FAILED = "another process of this training has failed or is gone; its own message says why."


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
        """Write the platform's files for a custom image; return the only variables that the platform sets for it."""
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
                env=surroundings() | own | environment,
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

    def figures(self) -> list[dict[str, str]]:
        with (self.base / "output/data/run/metrics.csv").open(newline="") as stream:
            return list(csv.DictReader(stream))

    def was_resumed(self) -> bool:
        """Whether the last process ran exactly the epochs that an earlier one had not finished."""
        epochs = [str(number + 1) for number in range(EPOCHS)]
        assert [row["epoch"] for row in self.figures()] == epochs
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


def surroundings() -> dict[str, str]:
    """This process's variables without those of any platform; one thread per process, because many run at once."""
    foreign = ("SM_", "SAGEMAKER_", "TRAINING_JOB_", "PNEUMOSCOPE_", "TORCHELASTIC_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return own | {"OMP_NUM_THREADS": "1"}


def as_arguments(hyperparameters: dict[str, str]) -> list[str]:
    """Hyper-parameters as script mode passes them."""
    return [part for name, value in hyperparameters.items() for part in (f"--{name}", value)]


def content(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def class_folders(dataset: Dataset, folder: Path) -> Path:
    """Copy the films of a data set into one folder per class, without a manifest."""
    for film in dataset.films:
        target = folder / film.label / Path(film.path).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(dataset.root / film.path, target)
    return folder


@pytest.fixture(scope="module")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Container:
    """A finished job in script mode, with booleans and names in the platform's spelling."""
    container = Container(tmp_path_factory.mktemp("script") / "ml")
    before = content(dataset.root)
    environment = container.script_mode(dataset.root, test=dataset.root)
    environment |= container.use_aws_image(container.log.parent)
    code = container.run(environment, *as_arguments(HYPERPARAMETERS | {"freeze": "False"}))
    assert code == 0, container.output
    assert content(dataset.root) == before  # a channel may be read-only
    return container


def test_a_job_leaves_a_bundle_reports_and_its_run(trained: Container, dataset: Dataset, command: Command) -> None:
    assert command("verify", "--bundle", trained.base / "model").code == 0
    for split in ("val", "test"):
        assert trained.report(split)["n"] == len(dataset.split(split))
        assert trained.report(split)["dataset"]["split"] == split
    assert content(trained.base / "output/data/run") == ["config.json", "curves.png", "metrics.csv", "run.json"]
    config = json.loads((trained.base / "output/data/run/config.json").read_text())
    assert config["batch_size"] == 16
    assert not config["freeze"]
    assert config["size"] == 32
    assert not (trained.base / "output/failure").exists()


def test_the_metric_definitions_match_every_epoch_line_and_no_other(trained: Container) -> None:
    columns = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1")
    expressions = [expression for _, expression in METRICS]
    for row, line in zip(trained.figures(), [x for x in trained.output.splitlines() if x[:6] == "epoch "], strict=True):
        found = [re.findall(expression, line) for expression in expressions]
        assert found == [[f"{float(row[column]):.4f}"] for column in columns]
    others = [line for line in trained.output.splitlines() if not line.startswith("epoch ")]
    assert not [line for line in others for expression in expressions if re.search(expression, line)]


def test_a_custom_image_resumes_after_a_spot_interruption(dataset: Dataset, tmp_path: Path) -> None:
    """The channel is not a prepared data set; hyper-parameters come from a file, some in quotation marks."""
    container = Container(tmp_path / "ml", checkpoints=True)
    hyperparameters = HYPERPARAMETERS | {
        "epochs": str(EPOCHS),
        "arch": '"test_resnet"',
        "no-freeze": "true",
        "sagemaker_region": '"eu-central-1"',
    }
    environment = container.custom_image(class_folders(dataset, tmp_path / "films"), hyperparameters)
    process = container.start(environment)
    container.wait_for_epoch(1, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert content(container.base / "model") == []
    assert container.run(environment) == 0, container.output
    assert container.was_resumed()
    verify(container.base / "model")
    assert json.loads((container.base / "model/contract.json").read_text())["name"] == "films-2026"
    assert not (container.base / "output/data/report-test").exists()


def in_opt_ml(base: Path) -> tuple[str, ...]:
    """The prefix that runs a command in a mount namespace where `base` is /opt/ml."""
    script = 'mount -t tmpfs none /opt && mkdir /opt/ml && mount --bind "$0" /opt/ml && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, str(base))


def test_a_job_runs_in_opt_ml_itself(dataset: Dataset, tmp_path: Path) -> None:
    container = Container(tmp_path / "ml")
    if os.getuid() or not shutil.which("unshare"):
        pytest.skip("only root can lay out /opt/ml in a mount namespace, with unshare")
    needed = (Path(sys.prefix), Path(sys.base_prefix), REPOSITORY, tmp_path)
    if any(path.resolve().is_relative_to("/opt") for path in needed):
        pytest.skip("the interpreter or the repository is in /opt itself, which the test hides")
    if subprocess.run([*in_opt_ml(container.base), "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounts are not allowed here")
    environment = container.custom_image(dataset.root, HYPERPARAMETERS | {"epochs": "1"})
    del environment["SAGEMAKER_BASE_DIR"]
    assert container.run(environment, within=in_opt_ml(container.base)) == 0, container.output
    verify(container.base / "model")
    assert container.report("val")["n"] == len(dataset.split("val"))


@pytest.fixture(scope="module")
def two_hosts(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Container, Container]:
    """A job on two hosts, of which the second is stopped after the first epoch; then started again and finished."""
    folder = tmp_path_factory.mktemp("hosts")
    hosts = (Container(folder / "first", checkpoints=True), Container(folder / "second"))
    arguments = as_arguments(HYPERPARAMETERS | {"ema": "0.9", "epochs": str(EPOCHS)})
    processes = start_on(hosts, [dataset.root] * 2, arguments)
    hosts[0].wait_for_epoch(1, processes[0])
    processes[1].terminate()
    assert 0 not in [process.wait(TIMEOUT) for process in processes]
    assert [content(host.base / "model") for host in hosts] == [[], []]
    assert hosts[0].reason == OTHER_FAILED
    assert not (hosts[1].base / "output/failure").exists()  # it was stopped; it did not fail
    assert "forcefully" not in hosts[1].output  # torchrun's message when it has to kill processes
    processes = start_on(hosts, [dataset.root] * 2, arguments)
    assert [process.wait(TIMEOUT) for process in processes] == [0, 0], hosts[0].output + hosts[1].output
    return hosts


def start_on(
    hosts: tuple[Container, Container], channels: list[Path], arguments: list[str]
) -> "list[subprocess.Popen[bytes]]":
    """Start a job's process on each host. The hosts are two names of this machine, each with its own folders."""
    names = ["127.0.0.1", "localhost"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    cluster = {"SM_HOSTS": json.dumps(names), pipeline.PORT_VARIABLE: port}
    return [
        host.start(host.script_mode(channel) | cluster | {"SM_CURRENT_HOST": name}, *arguments)
        for host, channel, name in zip(hosts, channels, names, strict=True)
    ]


def test_two_hosts_train_one_model(two_hosts: tuple[Container, Container], command: Command, tmp_path: Path) -> None:
    first, second = two_hosts
    assert content(second.base / "model") == content(second.base / "output/data") == []
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(first.base / "model", arcname=".")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "model", filter="data")
    done = command("verify", "--bundle", tmp_path / "model")
    assert done.code == 0
    assert "reproduced" in done.out


def test_two_hosts_resume_and_only_the_first_reports_epochs(two_hosts: tuple[Container, Container]) -> None:
    assert two_hosts[0].was_resumed()
    assert two_hosts[1].epochs == []


def test_two_hosts_count_every_film_once(two_hosts: tuple[Container, Container], dataset: Dataset) -> None:
    """An odd number of validation films: the bundle in one process gives the figures of training on two hosts."""
    assert len(dataset.split("val")) % 2 == 1
    last, report = two_hosts[0].figures()[-1], two_hosts[0].report("val")["metrics"]
    assert float(last["val_accuracy"]) == pytest.approx(report["accuracy"]["value"], abs=2e-6)
    assert float(last["val_macro_f1"]) == pytest.approx(report["macro_f1"]["value"], abs=2e-6)
    engine = Engine.load(two_hosts[0].base / "model")
    outputs = [engine.predict(dataset.read(film)).outputs for film in dataset.split("val")]
    logits = np.stack([each.logits for each in outputs if each is not None])  # the report's loss is calibrated
    truth = np.array([dataset.classes.index(film.label) for film in dataset.split("val")])
    assert float(last["val_loss"]) == pytest.approx(cross_entropy(truth, softmax(logits)), abs=1e-4)


def test_a_host_that_lost_the_other_one_reports_that_it_is_not_the_cause(dataset: Dataset, tmp_path: Path) -> None:
    """The host that failed reports its reason; the other one refers to it."""
    hosts = (Container(tmp_path / "first"), Container(tmp_path / "second"))
    (tmp_path / "empty").mkdir()
    processes = start_on(hosts, [dataset.root, tmp_path / "empty"], as_arguments(HYPERPARAMETERS))
    assert 0 not in [process.wait(TIMEOUT) for process in processes]
    assert hosts[1].reason.startswith("no usable image found")
    assert hosts[0].reason == OTHER_FAILED
    assert hosts[1].output.splitlines()[-1] == f"error: {hosts[1].reason}"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"speed": "9"}, "field 'speed' is not known"),
        ({"freeze": "maybe"}, "hyper-parameter 'freeze' is 'maybe'; give true or false"),
        ({"epochs": "two"}, "field 'epochs'"),
        ({"export_precision": "int4"}, "field 'export_precision'"),
        ({"lr": "-1"}, "'lr'"),
        ({"out": "run"}, "'out' is set by the platform"),
    ],
    ids=["unknown", "switch", "number", "precision", "range", "out"],
)
def test_an_invalid_hyperparameter_is_reported_to_the_platform(
    wrong: dict[str, str], words: str, dataset: Dataset, tmp_path: Path
) -> None:
    container = Container(tmp_path / "ml")
    assert container.run(container.custom_image(dataset.root, HYPERPARAMETERS | wrong)) == 2
    assert words in container.reason
    assert len(container.reason.splitlines()) == 1
    assert "Traceback" not in container.output
    assert content(container.base / "model") == []


def test_a_damaged_data_set_is_reported_without_names_of_films(dataset: Dataset, tmp_path: Path) -> None:
    container = Container(tmp_path / "ml")
    (container.base / "output/failure").write_text("the failure of an earlier job")
    channel = Path(shutil.copytree(dataset.root, tmp_path / "channel"))
    film = channel / dataset.split("train")[0].path
    film.write_bytes(b"no film")
    assert container.run(container.script_mode(channel), *as_arguments(HYPERPARAMETERS)) == 1
    assert container.reason == "a film is not the file the manifest names; prepare the data set again."
    assert film.name not in container.output
    assert "Traceback" not in container.output


def test_a_stopped_job_leaves_no_incomplete_bundle(
    trained: Container, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "contract.json").write_text("of an earlier job")
    copied: list[str] = []
    before = signal.getsignal(signal.SIGTERM)

    def stopped(source: Path, target: Path) -> None:
        assert not (model / "contract.json").exists()
        if source.name == "contract.json":
            os.kill(os.getpid(), signal.SIGTERM)
        target.write_bytes(source.read_bytes())
        copied.append(source.name)

    monkeypatch.setattr(shutil, "copyfile", stopped)
    with pytest.raises(KeyboardInterrupt), pipeline.stoppable():
        pipeline._install(trained.base / "model", model)
    assert copied
    assert content(model) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_test_channel_is_checked_before_training(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(PneumoscopeError, match=r"channel 'test' has no manifest\.csv"):
        pipeline._open_test(tmp_path, dataset)
    for name in ("manifest.csv", "dataset.json"):
        text = (dataset.root / name).read_text()
        (tmp_path / name).write_text(text.replace("virus", "viral"))
    with pytest.raises(PneumoscopeError, match="'test' bacteria, normal, viral; they must be the same"):
        pipeline._open_test(tmp_path, dataset)


def test_each_host_starts_one_process_per_gpu() -> None:
    environment = {
        "SM_MODEL_DIR": "/m",
        "SM_CHANNEL_TRAIN": "/",
        "SM_HOSTS": '["algo-1", "algo-2"]',
        "SM_NUM_GPUS": "4",
    }
    job = platform.read_job(environment | {"SM_CURRENT_HOST": "algo-2", "SM_NETWORK_INTERFACE_NAME": "eth0"})
    assert pipeline.needs_launch(job, {})
    started = {"RANK": "4", "WORLD_SIZE": "8", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}
    assert not pipeline.needs_launch(job, started)
    assert set(pipeline._torchrun_options(job)) >= {
        "--nnodes=2",
        "--node-rank=1",
        "--nproc-per-node=4",
        "--master-addr=algo-1",
    }
    assert pipeline._network_variables(job) == {"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "eth0"}
    single = platform.read_job({"SM_MODEL_DIR": "/m", "SM_CHANNEL_TRAIN": "/"})
    assert not pipeline.needs_launch(single, {})


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"SM_CHANNEL_TRAIN": "/nowhere"}, "no channel 'train'"),
        ({"SM_HOSTS": "algo-1"}, "SM_HOSTS is not a list"),
        ({"SM_CURRENT_HOST": "algo-3"}, "'algo-3', is not one of the job's hosts"),
    ],
    ids=["channel", "hosts", "host"],
)
def test_the_platforms_variables_are_checked(variables: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        platform.read_job({"SM_MODEL_DIR": "/m", "SM_CHANNEL_TRAIN": "/"} | variables)


def test_without_a_platform_train_needs_out(command: Command, dataset: Dataset) -> None:
    done = command("train", "--data", dataset.root)
    assert done.code == 2, done.err
    assert "Missing option '--out'" in done.err, done.err


def test_hyperparameters_are_read_in_every_spelling() -> None:
    for given, meant in (
        ("--batch_size 32 --epochs 3", {"batch_size": 32, "epochs": 3}),
        ("train --batch-size=32", {"batch_size": 32}),
        ("--freeze true --mirror False", {"freeze": True, "mirror": False}),
        ("--freeze", {"freeze": True}),
        ("--freeze --no_freeze=true", {"freeze": False}),
        ("--freeze --no_freeze=true --no-freeze false", {"freeze": True}),
        ("--weights my_net.pt --class_weights=sqrt", {"weights": "my_net.pt", "class_weights": "sqrt"}),
        ("--recipe capstone-resnet50 --lr 1e-3", {"recipe": "capstone-resnet50", "lr": 1e-3}),
    ):
        config, _ = read_hyperparameters({}, given.split())
        assert {name: getattr(config, name) for name in meant} == meant
    stored = {"batch_size": "16", "recipe": '"quick"', "sagemaker_region": '"eu-central-1"'}
    config, options = read_hyperparameters(stored, ["--quiet", "True", "--export_precision", "int8"])
    assert config.batch_size == 16
    assert config.recipe == "quick"
    assert options.quiet
    assert options.export_precision == "int8"
    for wrong in ("--un_known 3", "--epochs", "3", "--resume true", "--teachers run"):
        with pytest.raises(UsageError):
            read_hyperparameters({}, wrong.split())


def test_outside_a_job_the_command_refers_to_pneumoscope_train() -> None:
    container = [sys.executable, "-m", "pneumoscope.aws.job", "train"]
    done = subprocess.run(container, env=surroundings(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0][:6] == "error:"
    assert "run `pneumoscope train`" in done.stderr


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_a_failure_reason_names_no_film(suffix: str) -> None:
    for name in (f"Ann Smith 3{suffix}", f"12:30 Smith{suffix.upper()}"):
        for failure in (
            RunError(f"/data/val/normal/{name}: cannot decode this; the file is damaged."),
            RunError(f"val/normal/{name} cannot be evaluated: the image is blank"),
            FileNotFoundError(2, "No such file", f"/data/{name}"),
            RunError(f"no usable image. 1 inputs were refused:\n  {name}: too small"),
        ):
            reason = platform.failure_reason(failure)
            assert "Smith" not in reason
            assert len(reason) > len("a film")
    assert len(platform.failure_reason(RunError("x" * 5000))) == 1024


def test_ranks_share_an_epoch_and_validation_without_repeating_a_film() -> None:
    def of_rank(rank: int, epoch: int) -> list[int]:
        order = EpochOrder(23, seed=3, rank=rank, ranks=4)
        order.set_epoch(epoch)
        assert len(order) == 5
        return [key - 23 * epoch for key in order]

    for epoch in (0, 1):
        shares = [of_rank(rank, epoch) for rank in range(4)]
        assert [len(share) for share in shares] == [5] * 4
        assert len({index for share in shares for index in share}) == 20
        assert shares == [of_rank(rank, epoch) for rank in range(4)]
    assert of_rank(1, 0) != of_rank(1, 1)
    assert sorted(EpochOrder(23, seed=3)) == list(range(23))


def test_every_validation_film_is_in_one_share_and_a_batch_of_one_is_left_out() -> None:
    films = CachedFilms(np.zeros((11, 1, 8, 8), np.uint8), np.arange(11), augment=None, seed=0)
    shares, steps = [], []
    for rank in range(3):
        world = World(rank=rank, size=3, local_rank=rank, local_size=3)
        train, (val,) = make_loaders(films, films, batch_size=2, workers=0, seed=0, world=world)
        shares.append([int(label) for batch in val for label in batch.labels])
        steps.append([len(batch.labels) for batch in train])
    assert sorted(label for share in shares for label in share) == list(range(11))
    assert steps == [[2]] * 3  # of three films per rank
    with pytest.raises(UsageError, match="too few for 6 processes"):
        make_loaders(films, films, batch_size=2, workers=0, seed=0, world=World(size=6))


def test_a_test_channel_with_films_to_train_on_is_refused_before_training(dataset: Dataset) -> None:
    """`evaluate` would refuse them hours later. The reason names no film, because it goes to the platform."""
    pipeline._refuse_overlap(dataset, dataset)
    leaked = replace(dataset.split("train")[0], split="test")
    with pytest.raises(DatasetError, match="channel 'test' has 1 of channel 'train's films") as caught:
        pipeline._refuse_overlap(dataset, replace(dataset, films=(*dataset.split("test"), leaked)))
    assert leaked.path not in str(caught.value)
