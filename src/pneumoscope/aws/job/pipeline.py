"""A training job, from its channels to the bundle in its model directory, on one host or on several."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pneumoscope.aws.job.container import TrainingJob
from pneumoscope.contract import CONTRACT_FILE
from pneumoscope.dataset import Dataset, PrepareConfig, load_dataset, prepare
from pneumoscope.dataset.manifest import MANIFEST_FILE
from pneumoscope.engine import verify
from pneumoscope.errors import DatasetError
from pneumoscope.phantom import is_phantom
from pneumoscope.progress import SILENT, Listener
from pneumoscope.report import Options, Report, TrainedFilms, evaluate
from pneumoscope.settings.option import Precision
from pneumoscope.settings.training import ExportConfig, TrainConfig
from pneumoscope.training.run_directory import CARD_FILE, CONFIG_FILE, CURVES_FILE, LAST, METRICS_FILE
from pneumoscope.training.world import World, is_launched, process_group

#: The environment variable with the port on which the first host listens for the others.
PORT_VARIABLE = "PNEUMOSCOPE_MASTER_PORT"
_DEFAULT_PORT = "29500"
_GRACE_SECONDS = 60.0  # from SIGTERM until started processes are killed; SageMaker kills the container after 120 s
_RUN_FILES = (CONFIG_FILE, CARD_FILE, METRICS_FILE, CURVES_FILE)


def needs_launch(job: TrainingJob, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the job needs several processes that have not been started yet."""
    return not is_launched(environment) and len(job.hosts) * max(1, job.gpus) > 1


def launch(job: TrainingJob, arguments: Sequence[str]) -> int:
    """Run the job's command with these arguments in all of this host's processes, by torchrun; return the exit code."""
    module = ["-m", "pneumoscope.aws.job", *arguments]
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *_torchrun_options(job), *module],
        env=os.environ | _network_variables(job),
    )
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    return code if code >= 0 else 128 - code  # a process killed by signal N exits with 128 + N, as in a shell


def run_job(
    job: TrainingJob, config: TrainConfig, *, precision: Precision = "fp32", listener: Listener = SILENT
) -> list[Report]:
    """Train on the channel `train`, install the bundle in the model directory, evaluate it on `val` and channel `test`.

    The channel `train` is a prepared data set, or a folder of class folders or ZIP archives, which is prepared first.
    Nothing is written into channels. If the job keeps checkpoints, an interrupted run in their folder is resumed.
    Every process of the job calls this function; only the leading one writes and returns the reports.

    Raises:
        PneumoscopeError: the channels, an interrupted run or the configuration are invalid.
    """
    world = World.from_environment()
    with tempfile.TemporaryDirectory(prefix="pneumoscope-job-") as folder:
        with process_group(world):
            work = world.from_host_leader(Path(folder))
            with world.host_by_host():
                dataset = _open_channel(job.train, work / "dataset", listener)
            if not dataset.has("val"):  # checked before training: the export would refuse it hours later
                raise DatasetError(
                    "channel 'train' has only train films, and a job sets its thresholds by validation films; "
                    "prepare the data set without --train-only."
                )
            test = None if job.test is None else _open_test(job.test, dataset)
            run = _train(job, config, dataset, work, world, listener)
        return _deliver(job, run, dataset, test, work, precision, listener) if world.is_leader else []


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM, by which the platform stops a job, interrupt the block as Ctrl-C does.

    Linux ignores SIGTERM for a container's first process unless that process installs a handler.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _torchrun_options(job: TrainingJob) -> list[str]:
    """The options of torchrun for this host."""
    return [
        f"--nnodes={len(job.hosts)}",
        f"--node-rank={job.hosts.index(job.host)}",
        f"--nproc-per-node={max(1, job.gpus)}",
        f"--master-addr={job.hosts[0]}",
        f"--master-port={os.environ.get(PORT_VARIABLE, _DEFAULT_PORT)}",
    ]


def _network_variables(job: TrainingJob) -> dict[str, str]:
    """Variables that select the hosts' network interface, if the platform names one and the user has not chosen."""
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return {name: job.interface for name in names if job.interface and name not in os.environ}


def _open_channel(channel: Path, prepared: Path, listener: Listener) -> Dataset:
    """The channel's data set. An unprepared one is prepared once, in the folder `prepared`."""
    if (channel / MANIFEST_FILE).is_file():
        return load_dataset(channel)
    if not (prepared / MANIFEST_FILE).is_file():
        archives = sorted(path for path in channel.iterdir() if path.suffix.lower() == ".zip")
        done = prepare([*archives, channel], prepared, PrepareConfig(), listener=listener)
        films = sum(number for counts in done.counts.values() for number, _ in counts.values())
        listener.say(f"the channel is prepared: {films} films used, {len(done.refused)} refused")
    return load_dataset(prepared)


def _open_test(channel: Path, dataset: Dataset) -> Dataset:
    """The data set to test on. It is checked before training, not hours later."""
    if not (channel / MANIFEST_FILE).is_file():
        raise DatasetError(
            f"channel 'test' has no {MANIFEST_FILE}; give a data set made by `pneumoscope data prepare`."
        )
    test = load_dataset(channel)
    test.split("test")
    if set(test.classes) != set(dataset.classes):
        trained, tested = ", ".join(dataset.classes), ", ".join(test.classes)
        raise DatasetError(
            f"channel 'train' has the classes {trained}, channel 'test' {tested}; they must be the same."
        )
    _refuse_overlap(dataset, test)
    return test


def _refuse_overlap(dataset: Dataset, test: Dataset) -> None:
    """Refuse test films that will be trained on: hours later, `evaluate` would refuse them."""
    training, films = dataset.split("train"), test.split("test")
    drawn = all(is_phantom(dataset.read(film)) for film in training)
    # As in `evaluate`: phantoms resemble each other so much that among them only equal pixels count.
    overlap = TrainedFilms.of(training).overlap(films, near=not drawn)
    if overlap:
        raise DatasetError(
            f"{len(overlap.same)} of the {len(films)} films in channel 'test' are also in channel 'train', and "
            f"{len(overlap.near)} more are nearly identical to one there; test on films of other patients."
        )


def _train(
    job: TrainingJob, config: TrainConfig, dataset: Dataset, work: Path, world: World, listener: Listener
) -> Path:
    """Train, or resume; return the run's directory."""
    listener.say("loading PyTorch")
    from pneumoscope.training.fit import train  # after the checks: it takes seconds

    run = (job.checkpoints or work) / "run"
    if resume := world.from_leader(lambda: _can_resume(run)):
        listener.say("resuming the run in the checkpoint directory")
    train(dataset, config, run, resume=resume, cache=work / "cache", listener=listener)
    return run


def _can_resume(run: Path) -> bool:
    """Whether there is a run to resume. Incomplete remains of one without a checkpoint are deleted."""
    if all((run / name).is_file() for name in (CONFIG_FILE, CARD_FILE)):
        return True
    if not (run / LAST).exists():
        shutil.rmtree(run, ignore_errors=True)
    return False


def _deliver(
    job: TrainingJob,
    run: Path,
    dataset: Dataset,
    test: Dataset | None,
    work: Path,
    precision: Precision,
    listener: Listener,
) -> list[Report]:
    """Write the bundle, the run's files and the reports where the platform collects them; return the reports."""
    from pneumoscope.export import export

    for name in _RUN_FILES:
        _copy(run / name, job.output / "run" / name)
    listener.say("exporting and checking against PyTorch")
    bundle = work / "bundle"
    export(run, dataset, bundle, ExportConfig(name=job.name, precision=precision), listener=listener)
    _install(bundle, job.model)
    reports = []
    for data, split in ((dataset, "val"), (test, "test")):
        if data is not None:
            out, options = job.output / f"report-{split}", Options(shortcuts=False)
            reports.append(evaluate(job.model, data, split, out, options, overwrite=True, listener=listener))
    return reports


def _install(bundle: Path, model: Path) -> None:
    """Copy a bundle into an existing folder, so that the folder is always a complete bundle or not a bundle.

    The folder may be a mount, so it cannot be replaced by renaming. It is a bundle only with its contract, which is
    therefore deleted first and copied last.
    """
    (model / CONTRACT_FILE).unlink(missing_ok=True)
    files = [path.relative_to(bundle) for path in bundle.rglob("*") if path.is_file()]
    try:
        for file in sorted(files, key=lambda file: file == Path(CONTRACT_FILE)):
            _copy(bundle / file, model / file)
        verify(model)
    except BaseException:
        for entry in bundle.iterdir():
            if entry.is_dir():
                shutil.rmtree(model / entry.name, ignore_errors=True)
            else:
                (model / entry.name).unlink(missing_ok=True)
        raise


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
