"""Folds of a cross-validation that are trained at the same time, each by a process of its own."""

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from typing_extensions import override

from pneumoscope.errors import PneumoscopeError, RunError
from pneumoscope.parallel import available_cores, describe_exit, end_with_parent
from pneumoscope.progress import Listener


@dataclass(frozen=True, kw_only=True)
class FoldTask:
    """The work of one fold. It is sent to a new process, so it must be possible to pickle it."""

    number: int
    work: Callable[[Listener], None]
    threads: int


def threads_of(number: int, *, folds: int, jobs: int, cores: int | None = None) -> int:
    """The number of PyTorch's threads for fold `number`, which begins at 1.

    The cores are divided among as many folds as are trained at once; the last ones may be fewer and so get more
    threads each. The number must not depend on what happens to be running, because other threads add numbers in
    another order, and the weights would then differ from run to run.
    """
    together = min(jobs, folds - (number - 1) // jobs * jobs)
    return max(1, (cores or available_cores()) // together)


def run_at_once(tasks: Sequence[FoldTask], *, jobs: int, listener: Listener) -> None:
    """Run tasks in `jobs` processes at once, in order; a failure or an interrupt ends all of them.

    Raises:
        RunError: a process ended without having said why.
        PneumoscopeError: a task failed.
    """
    left, running = list(tasks), dict[Connection, tuple[FoldTask, BaseProcess]]()
    with listener.progress("cross-validation", len(tasks), "folds"):
        try:
            while left or running:
                while left and len(running) < jobs:
                    task = left.pop(0)
                    pipe, process = _start(task)
                    running[pipe] = task, process
                readable = {*wait([*running])}
                for pipe in [each for each in running if each in readable]:
                    if _has_ended(pipe, *running[pipe], listener):
                        running.pop(pipe)[1].join()
                        pipe.close()
                        listener.advance(1)
        finally:
            for pipe, (_, process) in running.items():
                process.kill()  # what it writes gets its name only once it is whole
                process.join()
                pipe.close()


def _start(task: FoldTask) -> tuple[Connection, BaseProcess]:
    # Spawned, because a forked process would inherit PyTorch's threads in an unusable state.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, task))
    process.start()
    theirs.close()  # otherwise the end of the process would not end the pipe
    return ours, process


def _has_ended(pipe: Connection, task: FoldTask, process: BaseProcess, listener: Listener) -> bool:
    """Take one message of a process; whether it was the last."""
    try:
        message: str | Exception | None = pipe.recv()
    except (EOFError, OSError):
        process.join()
        raise RunError(
            f"the process of fold {task.number} ended ({describe_exit(process.exitcode)}); is there enough memory? "
            "Continue with --resume, perhaps with fewer --jobs."
        ) from None
    if isinstance(message, Exception):
        raise message
    if message is not None:
        listener.say(f"fold {task.number}: {message}")
    return message is None


class _Messenger(Listener):
    """Sends the lines worth keeping to the parent. Several progress bars at once could not be read."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    @override
    def say(self, line: str) -> None:
        self.pipe.send(line)


def _work(pipe: Connection, task: FoldTask) -> None:
    """The process of one fold."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its processes
    end_with_parent()
    import torch

    torch.set_num_threads(task.threads)
    try:
        task.work(_Messenger(pipe))
    except Exception as failure:  # noqa: BLE001 (the parent raises it)
        if not isinstance(failure, PneumoscopeError | OSError):
            failure.add_note(traceback.format_exc())
        pipe.send(failure)
    else:
        pipe.send(None)
