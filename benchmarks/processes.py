"""The peak memory of a command."""

import subprocess
import sys

# A child's peak includes its parent's memory at the fork. The caller may be large, so a small process starts the child.
_MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
assert done.returncode in (0, 1)  # 1: some films were rejected, or the command failed
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


def peak_memory(arguments: list[str]) -> float:
    """Peak resident memory of one `pneumoscope` command, in MB.

    Of a command with several processes, it is that of the largest one.
    """
    command = [sys.executable, "-c", _MEASURE, sys.executable, "-m", "pneumoscope", *arguments]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
