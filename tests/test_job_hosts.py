"""Training jobs on two hosts, and on hosts with several GPUs."""

import json
import os
import random
import signal
import socket
import subprocess
import tarfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from job_container import EPOCHS, HYPERPARAMETERS, TIMEOUT, Command, Container, as_arguments, paths_in
from pneumoscope.aws.job import pipeline
from pneumoscope.aws.job.container import read_job
from pneumoscope.dataset import Dataset
from pneumoscope.engine import Engine
from pneumoscope.errors import UsageError
from pneumoscope.metrics import cross_entropy, softmax
from pneumoscope.training.inputs import CachedFilms, EpochOrder, make_loaders
from pneumoscope.training.world import World

OTHER_FAILED = "another process of this training has failed or is gone; its own message says why."


@pytest.fixture(scope="module")
def two_hosts(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Container, Container]:
    """A job on two hosts, of which the second is stopped after the first epoch; then started again and finished."""
    folder = tmp_path_factory.mktemp("hosts")
    hosts = (Container(folder / "first", checkpoints=True), Container(folder / "second"))
    arguments = as_arguments(HYPERPARAMETERS | {"ema": "0.9", "epochs": str(EPOCHS)})
    processes = start_on(hosts, [dataset.root] * 2, arguments)
    hosts[0].wait_for_epoch(1, processes[0])
    processes[1].terminate()
    assert 0 not in exit_codes(processes, hosts)
    assert [paths_in(host.base / "model") for host in hosts] == [[], []]
    assert hosts[0].reason == OTHER_FAILED
    assert not (hosts[1].base / "output/failure").exists()  # it was stopped; it did not fail
    assert "forcefully" not in hosts[1].output  # torchrun's message when it has to kill processes
    processes = start_on(hosts, [dataset.root] * 2, arguments)
    assert exit_codes(processes, hosts) == [0, 0], hosts[0].output + hosts[1].output
    return hosts


def exit_codes(processes: list[subprocess.Popen[bytes]], hosts: tuple[Container, Container]) -> list[int]:
    """Wait for the processes; if one hangs, end all and fail with what they printed and where they were."""
    try:
        return [process.wait(TIMEOUT) for process in processes]
    except subprocess.TimeoutExpired:
        for process in processes:
            _end_with_stacks(process.pid)
        pytest.fail(f"a process hangs.\nFirst host:\n{hosts[0].output}\nSecond host:\n{hosts[1].output}")
    finally:
        for process in processes:
            process.kill()


def _end_with_stacks(process: int) -> None:
    """End a process and all that it started; each prints the stacks of its threads (`PYTHONFAULTHANDLER`)."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            _end_with_stacks(int(child))
        os.kill(process, signal.SIGABRT)
        time.sleep(1)  # until it has printed


def _free_port() -> int:
    """A free port below those that the system gives to a process that asks for any, such as another test."""
    while True:
        port = random.randrange(20_000, 32_000)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue


def start_on(
    hosts: tuple[Container, Container], channels: list[Path], arguments: list[str]
) -> list[subprocess.Popen[bytes]]:
    """Start a job's process on each host. The hosts are two names of this machine, each with its own folders."""
    names = ["127.0.0.1", "localhost"]
    cluster = {
        "SM_HOSTS": json.dumps(names),
        pipeline.PORT_VARIABLE: str(_free_port()),
        "PYTHONFAULTHANDLER": "1",
    }
    return [
        host.start(host.script_mode(channel) | cluster | {"SM_CURRENT_HOST": name}, *arguments)
        for host, channel, name in zip(hosts, channels, names, strict=True)
    ]


def test_two_hosts_train_one_model(two_hosts: tuple[Container, Container], command: Command, tmp_path: Path) -> None:
    first, second = two_hosts
    assert paths_in(second.base / "model") == paths_in(second.base / "output/data") == []
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
    last, report = two_hosts[0].metrics_rows()[-1], two_hosts[0].report("val")["metrics"]
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
    assert 0 not in exit_codes(processes, hosts)
    assert hosts[1].reason.startswith("no usable image found")
    assert hosts[0].reason == OTHER_FAILED
    assert hosts[1].output.splitlines()[-1] == f"error: {hosts[1].reason}"


def test_each_host_starts_one_process_per_gpu() -> None:
    environment = {
        "SM_MODEL_DIR": "/m",
        "SM_CHANNEL_TRAIN": "/",
        "SM_HOSTS": '["algo-1", "algo-2"]',
        "SM_NUM_GPUS": "4",
    }
    job = read_job(environment | {"SM_CURRENT_HOST": "algo-2", "SM_NETWORK_INTERFACE_NAME": "eth0"})
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
    single = read_job({"SM_MODEL_DIR": "/m", "SM_CHANNEL_TRAIN": "/"})
    assert not pipeline.needs_launch(single, {})


def test_ranks_share_an_epoch_without_repeating_a_film() -> None:
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
