"""A Ray cluster on this machine: a head, and nodes that can be killed or stopped, each in its own process group."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray_nodes import AGENTS, LONG_LIMITS

_TIMEOUT_SECONDS = 240.0
_NODE_TRIES, _NODE_SECONDS = 4, 90.0
_RAY = str(Path(sys.executable).parent / "ray")


class Cluster:
    """A running head; `address` is that of its Global Control Service, `client` that of the Ray Client server."""

    def __init__(self, folder: Path, *, cores: int, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._processes: dict[int, subprocess.Popen[bytes]] = {}  # first processes, by process group
        port, client = free_port(), free_port()
        self.address, self.client = f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}"
        ports = (f"--port={port}", f"--ray-client-server-port={client}", f"--temp-dir={folder}")
        self._start("--head", *ports, "--include-dashboard=false", f"--num-cpus={cores}")
        try:
            self._await(port)
            self._await(client)
        except AssertionError:
            self.close()
            raise

    def add_node(self, *, cores: int, token: str) -> int:
        """Start another node and return its process group, for `kill`. A raylet may give up on a busy machine: retry.

        The node has a resource of its own, since a killed node's cores may still count for a while.
        """
        for _ in range(_NODE_TRIES):
            name = f"node-{len(self._processes)}"
            resources = f"--resources={json.dumps({name: 1})}"
            group = self._start(f"--address={self.address}", f"--num-cpus={cores}", resources)
            if self._has(name, 1, token, _NODE_SECONDS):
                return group
            self.kill(group)
        raise AssertionError(f"no node could be added:\n{(self._folder / 'log').read_text(errors='replace')[-3000:]}")

    def kill(self, group: int, what: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a node's processes, workers among them."""
        with suppress(ProcessLookupError):
            os.killpg(group, what)

    def await_free(self, cores: int, token: str) -> None:
        """Wait until at least this many cores are free."""
        assert self._has("CPU", cores, token, _TIMEOUT_SECONDS, free=True)

    def _has(self, resource: str, count: int, token: str, seconds: float, *, free: bool = False) -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._count(resource, token, free=free) >= count:
                return True
        return False

    def _count(self, resource: str, token: str, *, free: bool) -> int:
        """How much of a resource the cluster has, with `free` what is not in use; 0 if it does not answer."""
        what = "available_resources" if free else "cluster_resources"
        amount = f"ray.{what}().get({resource!r}, 0)"
        code = f"import ray; ray.init({self.address!r}, logging_level=40); print('AMOUNT', {amount})"
        environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        asked = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        found = re.search(r"AMOUNT (\d+)", asked.stdout)  # Ray prints warnings beside it
        return int(found[1]) if found else 0

    def close(self) -> None:
        """Kill everything."""
        for group, process in reversed(self._processes.items()):
            self.kill(group)
            process.wait()

    def _start(self, *options: str) -> int:
        # A raylet waits only a few seconds until its agents report their ports; with ports from us it need not wait.
        options += tuple(f"--{agent}-port={free_port()}" for agent in AGENTS)
        fixed = ("--node-ip-address=127.0.0.1", "--disable-usage-stats", "--block", "--object-store-memory=100000000")
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [_RAY, "start", *options, *fixed],
                env=os.environ | LONG_LIMITS | self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes[process.pid] = process
        return process.pid

    def _await(self, port: int) -> None:
        until = time.monotonic() + _TIMEOUT_SECONDS
        while time.monotonic() < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.1)
        raise AssertionError((self._folder / "log").read_text(errors="replace")[-3000:])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_cluster(*, cores: int, **environment: str) -> Iterator[Cluster]:
    """A cluster of one node with this many cores, until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # the paths of its sockets must be short
    cluster = Cluster(folder, cores=cores, environment=environment)
    try:
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)
