"""Scoring on two Ray nodes with a network between them: each film once, even if a node dies or is cut off."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import timed_score
from ray_nodes import Nodes, two_nodes, why_not
from scoring import check_each_once, make_films, read_rows, shards_of, source_of

pytestmark = pytest.mark.slow
FILMS, SHARD_FILMS = 2000, 50


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    if (why := why_not()) is not None:
        pytest.skip(why)
    with two_nodes() as running:
        yield running


@pytest.mark.parametrize("breakdown", [Nodes.kill, Nodes.unplug], ids=["killed", "unplugged"])
def test_a_node_that_is_gone_loses_and_doubles_nothing(
    nodes: Nodes, tiny_bundle: Path, tmp_path: Path, breakdown: Callable[[Nodes], None]
) -> None:
    """An unplugged node still has its shard, finishes it, and sees the same folder for the parts."""
    films, out = make_films(tmp_path / "films", FILMS), tmp_path / "out"
    total = len(shards_of(source_of(films), tiny_bundle, films=SHARD_FILMS))
    line = [sys.executable, timed_score.__file__, films, out, "--bundle", tiny_bundle, "--ray", nodes.address]
    driver = nodes.start(*line, "--shard-films", SHARD_FILMS, errors=subprocess.PIPE)
    assert driver.stdout is not None
    first = driver.stdout.readline().strip()
    assert first == timed_score.EACH_FINISHED_ONE, driver.communicate()
    breakdown(nodes)
    printed, problems = driver.communicate(timeout=240)
    assert driver.returncode == 0, problems
    summary = next(each for each in printed.splitlines() if each.startswith("{"))  # Ray prints messages there, too
    assert json.loads(summary)["rescored_shards"] > 0, "no shard of the node that is gone was scored again"
    check_each_once(read_rows(out), FILMS)
    assert len(list(out.glob("*.parquet"))) == total
