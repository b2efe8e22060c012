"""Two Ray nodes on one machine, each in a Linux network namespace of its own, joined by a virtual cable.

Each node has its own address, ports, processes and temporary folder, and reaches the other by network alone. Disks,
processors and memory are one machine's. Network namespaces need Linux, root, and `ip` of the package iproute2.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

HEAD, OTHER = "10.213.0.1", "10.213.0.2"  # both are seen inside the namespaces only
# In a namespace every port is free. With ports of ours, a raylet need not wait for its agents to choose some.
_PORT = 6379
AGENTS = ("metrics-export", "dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent")
# Ray's own limits are too short for a busy machine.
LONG_LIMITS = {"RAY_raylet_start_wait_time_s": "240", "RAY_agent_register_timeout_ms": "240000"}
# Ray gives its workers a niceness of 15, with which they would lose to others on a busy machine.
_EQUAL = {"RAY_worker_niceness": "0"}
_READY_SECONDS, _END_SECONDS = 240.0, 20.0
_COUNT_CORES = """
import ray, sys, time
ray.init(sys.argv[1], logging_level=40, log_to_driver=False)
while ray.cluster_resources().get("CPU", 0) < int(sys.argv[2]):
    time.sleep(0.2)
"""


def why_not() -> str | None:
    """Why this machine cannot make two Ray nodes, as a sentence; None if it can. It makes a namespace, to try."""
    if not _ray().exists():
        return "Ray is not installed beside this Python; run: pip install '.[score]'."
    if shutil.which("ip") is None:
        return "the command ip is missing; install the package iproute2."
    name = f"pneumoscope-{os.getpid()}-try"
    try:
        for words in (f"netns add {name}", f"-n {name} link add cable type veth peer name end"):
            tried = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
            if tried.returncode:
                why = " ".join(tried.stderr.split())
                return f"network namespaces cannot be made ({why}); run this as root, and outside a container."
    finally:
        _remove(name)
    return None


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Two running nodes, by the names of their namespaces.

    `environment` has the cluster's token, and `address` is that of the head's Global Control Service.
    """

    head: str
    other: str
    environment: dict[str, str]
    address: str = f"{HEAD}:{_PORT}"

    def start(self, *line: object, errors: int | None = None) -> "subprocess.Popen[str]":
        """Start a command in the head's namespace, with a pipe for what it prints; `errors` is Popen's `stderr`."""
        inside = ["ip", "netns", "exec", self.head, *map(str, line)]
        return subprocess.Popen(inside, env=self.environment, stdout=subprocess.PIPE, stderr=errors, text=True)

    def kill(self) -> None:
        """End the other node, as if its machine lost power."""
        _kill_all(self.other)

    def unplug(self) -> None:
        """Cut the cable: both nodes go on, and neither hears of the other."""
        _ip("-n", self.other, "link", "set", "cable", "down")


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    """A head and another node with one core each, until the block ends, in whichever way it ends.

    Raises:
        SystemExit: Ray did not start; its log is in the message.
    """
    head, other = (f"pneumoscope-{os.getpid()}-{name}" for name in ("head", "other"))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    nodes = Nodes(head=head, other=other, environment=os.environ | LONG_LIMITS | _EQUAL | token)
    with ExitStack() as stack:
        for name in (head, other):
            stack.callback(_remove, name)  # before it is made: an interruption may come in between
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", "cable", "netns", head, "type", "veth", "peer", "name", "cable", "netns", other)
        for name, address in ((head, HEAD), (other, OTHER)):
            _ip("-n", name, "address", "add", f"{address}/30", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up")
        log = stack.enter_context(tempfile.NamedTemporaryFile(prefix="ray-log-"))
        for name, options in (
            (head, ("--head", f"--port={_PORT}", "--include-dashboard=false", f"--node-ip-address={HEAD}")),
            (other, (f"--address={nodes.address}", f"--node-ip-address={OTHER}")),
        ):
            _start(stack, nodes, log.fileno(), name, *options)
        _await(nodes, Path(log.name))
        yield nodes


def _start(stack: ExitStack, nodes: Nodes, log: int, namespace: str, *options: str) -> None:
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # the paths of its sockets must be short
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    options += tuple(f"--{agent}-port={_PORT + number}" for number, agent in enumerate(AGENTS, 1))
    fixed = ("--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats", "--block")
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, str(_ray()), "start", *options, *fixed, f"--temp-dir={folder}"],
        env=nodes.environment,
        stdout=log,
        stderr=log,
        # Ctrl-C must not reach it before the driver has ended. A session of its own would also keep Ctrl-C away, but
        # Linux shares out a busy processor by session (sched_autogroup, sched(7)), which would favour the nodes.
        process_group=0,
    )
    stack.callback(_end, process, namespace)


def _await(nodes: Nodes, log: Path) -> None:
    """Wait until both nodes have joined."""
    until = time.monotonic() + _READY_SECONDS
    while time.monotonic() < until:
        line = (sys.executable, "-c", _COUNT_CORES, nodes.address, 2)
        with nodes.start(*line, errors=subprocess.DEVNULL) as asked:
            try:
                if asked.wait(max(1.0, until - time.monotonic())) == 0:
                    return
            except subprocess.TimeoutExpired:
                pass
            finally:
                asked.kill()
    raise SystemExit(f"Ray did not start two nodes within {_READY_SECONDS:.0f} s:\n{log.read_text()[-3000:]}")


def _end(process: "subprocess.Popen[bytes]", namespace: str) -> None:
    _kill_all(namespace)
    process.wait()


def _kill_all(namespace: str) -> None:
    """Kill every process of a namespace, and those that they start meanwhile."""
    until = time.monotonic() + _END_SECONDS
    while (found := _processes(namespace)) and time.monotonic() < until:
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def _processes(namespace: str) -> list[int]:
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    return [int(each) for each in listed.stdout.split()]


def _remove(namespace: str) -> None:
    """Delete a namespace with its end of the cable, if it was made."""
    _kill_all(namespace)
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _ray() -> Path:
    return Path(sys.executable).parent / "ray"
