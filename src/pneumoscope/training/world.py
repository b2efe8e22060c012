"""The processes that train together: their ranks, how they wait for each other, and how they exchange values.

torchrun starts one process per GPU, or one per host, and gives each its rank in environment variables. A process
that was started alone is a world of one, for which everything here does nothing. Only the functions that need torch
load it; a rank can be read without.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pneumoscope.errors import RunError, UsageError

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# While one host prepares and decodes a large data set, the others wait.
_TIMEOUT = timedelta(hours=4)


@dataclass(frozen=True, kw_only=True)
class World:
    """One of the processes that train together. Ranks count from 0; those of a host are consecutive."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "World":
        """This process's place by torchrun's variables; a world of one if torchrun has not started it.

        >>> World.from_environment({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}).hosts
        2
        """
        if not is_launched(environment):
            return cls()
        rank, size, local_rank, local_size = (int(environment[name]) for name in _VARIABLES)
        return cls(rank=rank, size=size, local_rank=local_rank, local_size=local_size)

    @property
    def hosts(self) -> int:
        """The number of hosts; torchrun starts equally many processes on each."""
        return self.size // self.local_size

    @property
    def is_leader(self) -> bool:
        """Whether this process has rank 0; it writes the results of all."""
        return self.rank == 0

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes, by rank; waits for all."""
        if self.size == 1:
            return [value]
        # Not all_gather_object, which goes over the GPUs if there are any.
        return [_broadcast(value, source) for source in range(self.size)]

    def from_leader(self, make: Callable[[], Value]) -> Value:
        """Call `make` in rank 0 only, and return its value in every process."""
        if self.size == 1:
            return make()
        value: Value = _broadcast(make() if self.is_leader else None, 0)
        return value

    def from_host_leader(self, value: Value) -> Value:
        """The value of this host's first process."""
        return self.gather(value)[self.rank - self.local_rank]

    def wait(self) -> None:
        """Return when every process has called this."""
        self.gather(None)

    @contextmanager
    def host_by_host(self) -> Iterator[None]:
        """Run the block in each host's first process, and then in the others, which find the files that it made."""
        if self.local_rank:
            self.wait()
        yield
        if not self.local_rank:
            self.wait()


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun, or a launcher that sets the same variables, has started this process."""
    return environment.keys() >= set(_VARIABLES)


def _broadcast(value: Any, source: int) -> Any:
    """The value of the process of rank `source`."""
    import torch
    from torch import distributed

    box = [value]  # torch replaces the list's item in the receiving processes
    with translate_peer_errors():
        distributed.broadcast_object_list(box, src=source, device=torch.device("cpu"))
    return box[0]


@contextmanager
def process_group(world: World) -> Iterator[None]:
    """Connect the processes of a world while the block runs; a nested call does nothing.

    Raises:
        UsageError: this host has fewer GPUs than processes.
        RunError: the other processes cannot be reached.
    """
    if world.size == 1:
        yield
        return
    from torch import distributed

    if distributed.is_initialized():
        yield
        return
    device = _device(world)
    with translate_peer_errors():
        distributed.init_process_group(
            "gloo" if device is None else "cpu:gloo,cuda:nccl", timeout=_TIMEOUT, device_id=device
        )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _device(world: World) -> "torch.device | None":
    """This process's GPU, or None if the host has none at all."""
    import torch

    if not (count := torch.cuda.device_count()):
        return None
    if count < world.local_size:
        raise UsageError(f"{world.local_size} processes were started on a host with {count} GPUs; start one per GPU.")
    torch.cuda.set_device(world.local_rank)
    return torch.device("cuda", world.local_rank)


@contextmanager
def translate_peer_errors() -> Iterator[None]:
    """Translate torch's errors about other processes.

    Raises:
        RunError: another process has failed or ended.
    """
    from torch import distributed

    try:
        yield
    except RuntimeError as failure:
        # Gloo raises a plain RuntimeError; its message begins with a path of Gloo's source.
        if not isinstance(failure, distributed.DistError) and "/gloo/" not in str(failure):
            raise
        raise RunError("another process of this training has failed or is gone; its own message says why.") from failure
