"""The processes that train together: who they are, how they wait for each other, what they tell each other.

torchrun starts one process a GPU, or one a host, and says in variables who each one is. A process
started alone is a world of one, for which everything here does nothing. torch is loaded by what needs
it: who one is can be asked without.
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

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# One host may prepare and decode a large data set while the others wait for it.
_PATIENCE = timedelta(hours=4)


@dataclass(frozen=True, kw_only=True)
class World:
    """One process among those that train together. Ranks count from 0; a host's follow each other."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> "World":
        """What torchrun says of this process; a world of one if it was not started by it.

        >>> World.of({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}).hosts
        2
        """
        if not is_launched(environment):
            return cls()
        rank, size, local_rank, local_size = (int(environment[name]) for name in _NAMES)
        return cls(rank=rank, size=size, local_rank=local_rank, local_size=local_size)

    @property
    def hosts(self) -> int:
        """How many hosts there are; torchrun starts as many processes on each."""
        return self.size // self.local_size

    @property
    def leads(self) -> bool:
        """Whether this process writes what all have made."""
        return self.rank == 0

    def gather(self, value: Value) -> list[Value]:
        """Everybody's value, by rank; waits for all."""
        if self.size == 1:
            return [value]
        # Not all_gather_object: that one goes over the GPUs where there are any.
        return [_broadcast(value, source) for source in range(self.size)]

    def share(self, make: Callable[[], Value]) -> Value:
        """What `make` gives in rank 0, everywhere; only there it is called."""
        if self.size == 1:
            return make()
        value: Value = _broadcast(make() if self.leads else None, 0)
        return value

    def of_host(self, value: Value) -> Value:
        """The value of this host's first process."""
        return self.gather(value)[self.rank - self.local_rank]

    def wait(self) -> None:
        """Return when every process has come here."""
        self.gather(None)

    @contextmanager
    def host_by_host(self) -> Iterator[None]:
        """The block runs in each host's first process, and then in the others, which find its files."""
        if self.local_rank:
            self.wait()
        yield
        if not self.local_rank:
            self.wait()


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun, or what sets the same variables, has started this process."""
    return environment.keys() >= set(_NAMES)


def _broadcast(value: Any, source: int) -> Any:
    """The value of the process of rank `source`."""
    import torch
    from torch import distributed

    box = [value]
    with peers_may_fail():
        distributed.broadcast_object_list(box, src=source, device=torch.device("cpu"))
    return box[0]


@contextmanager
def together(world: World) -> Iterator[None]:
    """Connect the processes of a world while the block runs; within such a block it does nothing.

    Raises:
        UsageError: this host has fewer GPUs than processes.
        RunError: the others cannot be reached.
    """
    if world.size == 1:
        yield
        return
    from torch import distributed

    if distributed.is_initialized():
        yield
        return
    device = _device(world)
    with peers_may_fail():
        distributed.init_process_group(
            "gloo" if device is None else "cpu:gloo,cuda:nccl", timeout=_PATIENCE, device_id=device
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
        raise UsageError(f"{world.local_size} processes were started on a host of {count} GPUs; start one a GPU.")
    torch.cuda.set_device(world.local_rank)
    return torch.device("cuda", world.local_rank)


@contextmanager
def peers_may_fail() -> Iterator[None]:
    """Put into words what torch says when another process is gone.

    Raises:
        RunError: one is.
    """
    from torch import distributed

    try:
        yield
    except RuntimeError as failure:
        # Gloo raises a plain RuntimeError that begins with the place in its source.
        if not isinstance(failure, distributed.DistError) and "/gloo/" not in str(failure):
            raise
        raise RunError("another process of this training has failed or is gone; its own message says why.") from failure
