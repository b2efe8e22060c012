"""Threads, for work that releases the interpreter lock (decoding, hashing, inference), and help for child processes."""

import math
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores(root: Path = Path("/")) -> int:
    """The number of cores that this process can use, at least 1.

    It is the smaller of the process's CPU affinity and its control group's CPU quota, rounded up: containers are
    limited by either. `root` is the folder of `proc` and `sys`.
    """
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return os.cpu_count() or 1
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), _quota(root))))


def _quota(root: Path) -> float:
    """The smallest CPU quota of this process's control group and the groups above it, in cores; infinite without one.

    Formats: Linux kernel, Documentation/admin-guide/cgroup-v2.rst (`cpu.max`) and scheduler/sched-bwc.rst.
    """
    quotas = [math.inf]
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):  # version 2 lists no controllers here
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        inside = top / group.lstrip("/")
        quotas += [_quota_in(folder) for folder in (inside, *inside.parents) if folder.is_relative_to(top)]
    return min(quotas)


def _quota_in(folder: Path) -> float:
    limit = _read(folder / "cpu.max").split()  # version 2: "max 100000" or "150000 100000"
    if not limit:  # version 1; a quota of -1 means no limit
        limit = [_read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()]
    try:
        quota, period = map(int, limit)
    except ValueError:
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def _read(path: Path) -> str:
    """A file's text, or an empty text if it cannot be read."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int | None = None, ahead: int | None = None
) -> Iterator[Result]:
    """Apply `function` to `items` in `workers` threads, by default one per core; yield the results in order.

    At most `ahead` items, by default 4 per worker, are being worked on or wait to be consumed, so that memory stays
    flat however long `items` is. An exception of `function` or `items` is raised after the results before it.
    """
    workers = workers or available_cores()
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="pneumoscope") as pool:
        try:
            for future in _submit_all(pool, function, items):
                pending.append(future)
                if len(pending) >= (ahead or 4 * workers):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:  # the consumer stopped early, or an item failed
                future.cancel()


def _submit_all(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Future[Result]]:
    """Submit each item; an error of `items` itself becomes one more future, so that earlier results come first."""
    try:
        for item in items:
            yield pool.submit(function, item)
    except Exception as error:  # noqa: BLE001 (raised when its turn comes)
        failed = Future[Result]()
        failed.set_exception(error)
        yield failed


def end_with_parent() -> None:
    """End this process as soon as the process that started it has ended, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_at_once(code: int) -> NoReturn:
    """End this process with an exit code, without what libraries do at exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def describe_exit(code: int | None) -> str:
    """How a process ended, from `Process.exitcode`: `signal SIGKILL` or `exit code 1`."""
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
