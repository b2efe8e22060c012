"""Folds of a cross-validation that are trained at the same time, each in a process of its own."""

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
    """The work of one fold. It is sent to a new process, so it must be picklable."""

    number: int
    work: Callable[[Listener], None]
    threads: int


def threads_for_fold(number: int, *, folds: int, jobs: int, cores: int | None = None) -> int:
    """The number of PyTorch's threads for fold `number`, which begins at 1.

    The cores are shared by the folds that are trained at once. The last group may be smaller, so its folds get more
    threads each. The count must not depend on what happens to be running: with a different number of threads, PyTorch
    adds numbers in a different order, and the weights would differ from run to run.
    """
    group_size = min(jobs, folds - (number - 1) // jobs * jobs)
    return max(1, (cores or available_cores()) // group_size)


def run_in_parallel(tasks: Sequence[FoldTask], *, jobs: int, listener: Listener) -> None:
    """Run tasks in at most `jobs` processes at a time, started in order; a failure or an interrupt stops all of them.

    Raises:
        RunError: a process ended without reporting why.
        Exception: the one with which a task failed, of whatever type.
    """
    waiting, running = list(tasks), dict[Connection, tuple[FoldTask, BaseProcess]]()
    with listener.progress("cross-validation", len(tasks), "folds"):
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    task = waiting.pop(0)
                    pipe, process = _start(task)
                    running[pipe] = task, process
                readable = {*wait([*running])}
                for pipe in [each for each in running if each in readable]:
                    if _receive(pipe, *running[pipe], listener):
                        running.pop(pipe)[1].join()
                        pipe.close()
                        listener.advance(1)
        finally:
            for pipe, (_, process) in running.items():
                process.kill()  # safe: files get their final names only when they are complete
                process.join()
                pipe.close()


def _start(task: FoldTask) -> tuple[Connection, BaseProcess]:
    # Spawned, because a forked process would inherit PyTorch's threads in an unusable state.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, task))
    process.start()
    theirs.close()  # otherwise the pipe would stay open after the process ends
    return ours, process


def _receive(pipe: Connection, task: FoldTask, process: BaseProcess, listener: Listener) -> bool:
    """Receive one message from a process; return whether it was the last."""
    try:
        message: str | Exception | None = pipe.recv()
    except (EOFError, OSError):
        process.join()
        raise RunError(
            f"the process of fold {task.number} ended ({describe_exit(process.exitcode)}); is there enough memory? "
            "Continue with --resume, perhaps with a lower --jobs."
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops its processes
    end_with_parent()
    import torch

    torch.set_num_threads(task.threads)
    try:
        task.work(_Messenger(pipe))
    except Exception as failure:  # noqa: BLE001 (the parent raises it)
        if not isinstance(failure, PneumoscopeError | OSError):
            failure.add_note(traceback.format_exc())  # pickling loses the traceback
        pipe.send(failure)
    else:
        pipe.send(None)
