"""Threads for work that releases the interpreter lock: decoding, hashing, inference."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores(root: Path = Path("/")) -> int:
    """Cores this process may use, at least 1: its affinity, and its control group's share of time, rounded up.

    Containers are limited by either. `root` is where `proc` and `sys` are found.
    """
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return os.cpu_count() or 1
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), _quota(root))))


def _quota(root: Path) -> float:
    """The smallest CPU quota of this process's control group and those above it, in cores; infinite if none.

    Linux kernel, Documentation/admin-guide/cgroup-v2.rst (`cpu.max`) and scheduler/sched-bwc.rst.
    """
    quotas = [math.inf]
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        inside = top / group.lstrip("/")
        quotas += [_quota_in(folder) for folder in (inside, *inside.parents) if folder.is_relative_to(top)]
    return min(quotas)


def _quota_in(folder: Path) -> float:
    limit = _read(folder / "cpu.max").split()  # version 2: "max 100000" or "150000 100000"
    if not limit:
        limit = [_read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()]
    try:
        quota, period = map(int, limit)
    except ValueError:
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def _read(path: Path) -> str:
    """A file's text, or nothing if there is no such file."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int | None = None, ahead: int | None = None
) -> Iterator[Result]:
    """Apply `function` to `items` in `workers` threads, by default one per core; yield results in order.

    At most `ahead` items, by default 4 per worker, are in flight or waiting to be taken, so memory stays
    flat however long `items` is. An exception of `function` or of `items` is raised at its place.
    """
    workers = workers or available_cores()
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="pneumoscope") as pool:
        try:
            for future in _submitted(pool, function, items):
                pending.append(future)
                if len(pending) >= (ahead or 4 * workers):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _submitted(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Future[Result]]:
    """The work on each item; an error of `items` itself is the last one's result, after what came before it."""
    try:
        for item in items:
            yield pool.submit(function, item)
    except Exception as trouble:  # noqa: BLE001 (raised at its place)
        failed = Future[Result]()
        failed.set_exception(trouble)
        yield failed
