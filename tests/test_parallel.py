import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pneumoscope.parallel import available_cores, map_ordered


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of 8 cores without control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    return tmp_path


def write(root: Path, **files: str) -> None:
    """Write files named by keyword: `__` stands for a slash, `_dot_` for a dot."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def test_affinity_alone_counts_without_a_control_group(machine: Path) -> None:
    assert available_cores(machine) == 8


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("3200000 100000", 8),
        ("", 8),
    ],
)
def test_version_2_quota(machine: Path, limit: str, cores: int) -> None:
    write(machine, proc__self__cgroup="0::/", sys__fs__cgroup__cpu_dot_max=limit)
    assert available_cores(machine) == cores


def test_the_quota_of_a_parent_group_counts(machine: Path) -> None:
    write(
        machine,
        proc__self__cgroup="0::/pod/box",
        sys__fs__cgroup__pod__cpu_dot_max="300000 100000",
        sys__fs__cgroup__pod__box__cpu_dot_max="max 100000",
    )
    assert available_cores(machine) == 3


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("400000", 4)])
def test_version_1_quota(machine: Path, quota: str, cores: int) -> None:
    (machine / "sys/fs/cgroup/cpu/docker").mkdir(parents=True)
    (machine / "sys/fs/cgroup/cpu/docker/cpu.cfs_quota_us").write_text(quota)
    (machine / "sys/fs/cgroup/cpu/docker/cpu.cfs_period_us").write_text("100000")
    write(machine, proc__self__cgroup="5:memory:/docker\n4:cpu,cpuacct:/docker")
    assert available_cores(machine) == cores


def test_this_machine() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_order_is_kept_and_work_ahead_is_bounded() -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = map_ordered(lambda item: -item, endless(), workers=4, ahead=6)
    assert [next(results) for _ in range(10)] == [-item for item in range(1, 11)]
    assert taken <= 16
    results.close()  # type: ignore[attr-defined]


def test_an_error_comes_in_order_and_ends_the_threads() -> None:
    results = map_ordered(lambda item: 1 // item, [1, 1, 0, 1], workers=2, ahead=3)
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pneumoscope")]
