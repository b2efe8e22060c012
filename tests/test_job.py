"""SageMaker training jobs, run as real processes with the environment variables and folders that SageMaker provides."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from job_container import EPOCHS, HYPERPARAMETERS, Command, Container, as_arguments, paths_in, platform_free_environment
from pneumoscope.aws.job import pipeline
from pneumoscope.aws.job.container import failure_reason, read_job
from pneumoscope.aws.job.hyperparameters import read_hyperparameters
from pneumoscope.aws.job_metrics import METRICS
from pneumoscope.dataset import Dataset
from pneumoscope.engine import verify
from pneumoscope.errors import DatasetError, PneumoscopeError, RunError, UsageError
from pneumoscope.imaging import SUFFIXES
from samples import REPOSITORY


def class_folders(dataset: Dataset, folder: Path) -> Path:
    """Copy the films of a data set into one folder per class, without a manifest."""
    for film in dataset.films:
        target = folder / film.label / Path(film.path).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(dataset.root / film.path, target)
    return folder


@pytest.fixture(scope="module")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Container:
    """A finished job in script mode, with a boolean passed as `False` and names passed with underscores."""
    container = Container(tmp_path_factory.mktemp("script") / "ml")
    before = paths_in(dataset.root)
    environment = container.script_mode(dataset.root, test=dataset.root)
    environment |= container.use_aws_image(container.log.parent)
    code = container.run(environment, *as_arguments(HYPERPARAMETERS | {"freeze": "False"}))
    assert code == 0, container.output
    assert paths_in(dataset.root) == before  # a channel may be read-only
    return container


def test_a_job_leaves_a_bundle_reports_and_its_run(trained: Container, dataset: Dataset, command: Command) -> None:
    assert command("verify", "--bundle", trained.base / "model").code == 0
    for split in ("val", "test"):
        assert trained.report(split)["n"] == len(dataset.split(split))
        assert trained.report(split)["dataset"]["split"] == split
    assert paths_in(trained.base / "output/data/run") == ["config.json", "curves.png", "metrics.csv", "run.json"]
    config = json.loads((trained.base / "output/data/run/config.json").read_text())
    assert config["batch_size"] == 16
    assert not config["freeze"]
    assert config["size"] == 32
    assert not (trained.base / "output/failure").exists()


def test_the_metric_definitions_match_every_epoch_line_and_no_other(trained: Container) -> None:
    columns = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1")
    expressions = [expression for _, expression in METRICS]
    epoch_lines = [line for line in trained.output.splitlines() if line.startswith("epoch ")]
    for row, line in zip(trained.metrics_rows(), epoch_lines, strict=True):
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
    assert paths_in(container.base / "model") == []
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


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"speed": "9"}, "field 'speed' is not known"),
        ({"freeze": "maybe"}, "hyper-parameter 'freeze' is 'maybe'; give true or false"),
        ({"epochs": "two"}, "field 'epochs'"),
        ({"export_precision": "int4"}, "field 'export_precision'"),
        ({"lr": "-1"}, "'lr'"),
        ({"out": "run"}, "'out' cannot be set in a training job"),
    ],
    ids=["unknown", "switch", "number", "precision", "range", "out"],
)
def test_an_invalid_hyperparameter_is_reported_to_the_platform(
    setting: dict[str, str], message: str, dataset: Dataset, tmp_path: Path
) -> None:
    container = Container(tmp_path / "ml")
    assert container.run(container.custom_image(dataset.root, HYPERPARAMETERS | setting)) == 2
    assert message in container.reason
    assert len(container.reason.splitlines()) == 1
    assert "Traceback" not in container.output
    assert paths_in(container.base / "model") == []


def test_a_damaged_data_set_is_reported_without_names_of_films(dataset: Dataset, tmp_path: Path) -> None:
    container = Container(tmp_path / "ml")
    (container.base / "output/failure").write_text("the failure of an earlier job")
    channel = Path(shutil.copytree(dataset.root, tmp_path / "channel"))
    film = channel / dataset.split("train")[0].path
    film.write_bytes(b"no film")
    assert container.run(container.script_mode(channel), *as_arguments(HYPERPARAMETERS)) == 1
    assert container.reason == (
        "a film has changed since `data prepare` (its SHA-256 is not the manifest's); prepare the data set again."
    )
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

    def copy_and_stop(source: Path, target: Path) -> None:
        assert not (model / "contract.json").exists()
        if source.name == "contract.json":
            os.kill(os.getpid(), signal.SIGTERM)
        target.write_bytes(source.read_bytes())
        copied.append(source.name)

    monkeypatch.setattr(shutil, "copyfile", copy_and_stop)
    with pytest.raises(KeyboardInterrupt), pipeline.stoppable():
        pipeline._install(trained.base / "model", model)
    assert copied
    assert paths_in(model) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_test_channel_is_checked_before_training(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(PneumoscopeError, match=r"channel 'test' has no manifest\.csv"):
        pipeline._open_test(tmp_path, dataset)
    for name in ("manifest.csv", "dataset.json"):
        text = (dataset.root / name).read_text()
        (tmp_path / name).write_text(text.replace("virus", "viral"))
    with pytest.raises(PneumoscopeError, match="'test' bacteria, normal, viral; they must be the same"):
        pipeline._open_test(tmp_path, dataset)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SM_CHANNEL_TRAIN": "/nowhere"}, "no channel 'train'"),
        ({"SM_HOSTS": "algo-1"}, "SM_HOSTS is not a JSON list"),
        ({"SM_CURRENT_HOST": "algo-3"}, "'algo-3', is not one of the job's hosts"),
    ],
    ids=["channel", "hosts", "host"],
)
def test_the_platforms_variables_are_checked(variables: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_job({"SM_MODEL_DIR": "/m", "SM_CHANNEL_TRAIN": "/"} | variables)


def test_train_requires_out_outside_a_training_job(command: Command, dataset: Dataset) -> None:
    done = command("train", "--data", dataset.root)
    assert done.code == 2, done.err
    assert "missing option '--out'" in done.err, done.err


def test_hyperparameters_are_read_in_every_spelling() -> None:
    for given, meant in (
        ("--batch_size 32 --epochs 3", {"batch_size": 32, "epochs": 3}),
        ("train --batch-size=32", {"batch_size": 32}),
        ("--freeze true --mirror False", {"freeze": True, "mirror": False}),
        ("--freeze", {"freeze": True}),
        ("--freeze --no_freeze=true", {"freeze": False}),
        ("--freeze --no_freeze=true --no-freeze false", {"freeze": True}),  # the last one counts
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
    command_line = [sys.executable, "-m", "pneumoscope.aws.job", "train"]
    done = subprocess.run(command_line, env=platform_free_environment(), capture_output=True, text=True, check=False)
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
            reason = failure_reason(failure)
            assert "Smith" not in reason
            assert len(reason) > len("a film")
    assert len(failure_reason(RunError("x" * 5000))) == 1024


def test_a_test_channel_with_films_to_train_on_is_refused_before_training(dataset: Dataset) -> None:
    """`evaluate` would refuse them hours later. The reason names no film, because it goes to the platform."""
    pipeline._refuse_overlap(dataset, dataset)  # its test films are not among its train films
    leaked = replace(dataset.split("train")[0], split="test")
    with pytest.raises(DatasetError, match=r"1 of the \d+ films in channel 'test' are also in") as caught:
        pipeline._refuse_overlap(dataset, replace(dataset, films=(*dataset.split("test"), leaked)))
    assert leaked.path not in str(caught.value)
