"""The peak memory of a command."""

import subprocess
import sys

# A child's peak includes its parent's memory at the fork. The caller may be large, so a small process starts the child.
_MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.exit(done.returncode)
"""


def peak_memory(arguments: list[str], *, may_reject: bool = False) -> float:
    """Peak resident memory of one `pneumoscope` command, in MB; of several processes, that of the largest one.

    Args:
        arguments: what follows `pneumoscope`.
        may_reject: accept exit code 1, by which `predict` also says that it has rejected some films.

    Raises:
        RuntimeError: the command failed.
    """
    command = [sys.executable, "-c", _MEASURE, sys.executable, "-m", "pneumoscope", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in ((0, 1) if may_reject else (0,)):
        raise RuntimeError(f"{' '.join(arguments)} ended with code {done.returncode}")
    return float(done.stdout)
