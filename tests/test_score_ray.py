"""Scoring on a real Ray cluster of this machine: each film once, whatever is killed or stopped; and its errors."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from local_server import listening
from ray_cluster import Cluster, free_port, running_cluster
from scoring import SHARD_FILMS, check_each_once, make_films, read_rows, shards_of, source_of

pytestmark = pytest.mark.slow
FILMS = 400
TOKEN, WRONG = "a" * 32, "b" * 32


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_films(tmp_path_factory.mktemp("score") / "films", FILMS)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head with one core, which requires a token."""
    with running_cluster(cores=1, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as running:
        yield running


def start(
    films: Path, out: Path, bundle: Path, address: str, *more: str, token: str = TOKEN
) -> "subprocess.Popen[str]":
    line = [sys.executable, "-m", "pneumoscope", "score", films, "--out", out, "--bundle", bundle, "--ray", address]
    return subprocess.Popen(
        [*map(str, line), "--shard-films", str(SHARD_FILMS), "--quiet", "--format", "json", *more],
        env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(driver: "subprocess.Popen[str]") -> SimpleNamespace:
    out, err = driver.communicate(timeout=240)
    return SimpleNamespace(code=driver.returncode, out=out, err=err)


def await_parts(driver: "subprocess.Popen[str]", out: Path, count: float) -> None:
    while len(list(out.glob("*.parquet"))) < count:
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize("by_client", [False, True])
def test_the_cluster_scores_each_film_once(
    cluster: Cluster, films: Path, tiny_bundle: Path, tmp_path: Path, *, by_client: bool
) -> None:
    address = cluster.client if by_client else cluster.address
    done = finish(start(films, tmp_path / "out", tiny_bundle, address))
    if "Initialization failure from server" in done.err:  # on a busy machine, Ray starts the client's server too late
        done = finish(start(films, tmp_path / "out", tiny_bundle, address))
    assert done.code == 0, done.err
    assert json.loads(done.out)["films"] == FILMS
    check_each_once(read_rows(tmp_path / "out"), FILMS)


@pytest.mark.parametrize(
    ("share", "what"),
    [(0.1, signal.SIGKILL), (0.5, signal.SIGKILL), (0.9, signal.SIGKILL), (0.5, signal.SIGSTOP)],
)
def test_a_lost_node_loses_and_doubles_nothing(
    cluster: Cluster, films: Path, tiny_bundle: Path, tmp_path: Path, share: float, what: signal.Signals
) -> None:
    """A stopped node is noticed after 30 seconds, or earlier if only its shard is left and takes too long."""
    node = cluster.add_node(cores=1, token=TOKEN)
    out, total = tmp_path / "out", len(shards_of(source_of(films), tiny_bundle))
    try:
        driver = start(films, out, tiny_bundle, cluster.address)
        await_parts(driver, out, share * total)
        cluster.kill(node, what)
        done = finish(driver)
    finally:
        cluster.kill(node)
    assert done.code == 0, done.err
    check_each_once(read_rows(out), FILMS)
    assert len(list(out.glob("*.parquet"))) == total


def test_after_a_killed_driver_scoring_continues_where_it_stopped(
    cluster: Cluster, films: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    out, total = tmp_path / "out", len(shards_of(source_of(films), tiny_bundle))
    for share in (0.1, 0.5, 0.9):
        driver = start(films, out, tiny_bundle, cluster.address)
        await_parts(driver, out, share * total)
        driver.kill()
        driver.communicate()
        cluster.await_free(1, TOKEN)
    for _ in range(2):
        done = finish(start(films, out, tiny_bundle, cluster.address))
        assert done.code == 0, done.err
        assert json.loads(done.out)["shards"]["there"] >= 0.9 * total
    check_each_once(read_rows(out), FILMS)


@pytest.mark.parametrize(
    ("more", "token", "code", "sentence"),
    [
        ((), WRONG, 1, "refuses the token"),
        (("--cores", "9"), TOKEN, 2, "--cores 9: the Ray cluster at"),
        (("--threads", "4"), TOKEN, 2, "the largest node of the Ray cluster"),
    ],
)
def test_what_a_cluster_refuses_is_one_sentence(
    more: tuple[str, ...], token: str, code: int, sentence: str, cluster: Cluster, films: Path, tiny_bundle: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    done = finish(start(films, tmp_path / "out", tiny_bundle, cluster.address, *more, token=token))
    assert (done.code, done.err.count("\n")) == (code, 1), done.err
    assert sentence in done.err


def test_a_missing_cluster_is_explained(films: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    with listening(server):
        for address, code, sentence in (
            (f"127.0.0.1:{free_port()}", 1, "no Ray cluster answers at"),
            (f"ray://127.0.0.1:{free_port()}", 1, "no Ray cluster answers at"),
            (f"127.0.0.1:{server.server_address[1]}", 1, "does not answer as a Ray cluster does"),
            ("nonsense", 2, "is not an address of a Ray cluster"),
        ):
            done = finish(start(films, tmp_path / "out", tiny_bundle, address))
            assert (done.code, sentence in done.err) == (code, True), done.err
