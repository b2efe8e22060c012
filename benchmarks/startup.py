"""Wall-clock time of commands that should answer at once, next to a Python that does nothing.

python benchmarks/startup.py [BUNDLE FILM]
"""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "pneumoscope --help": ["-m", "pneumoscope", "--help"],
    "pneumoscope predict --help": ["-m", "pneumoscope", "predict", "--help"],
}


def median_seconds(arguments: list[str], rounds: int = 9) -> float:
    """Median of several runs, each in a fresh process."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    """Print the table."""
    commands = dict(COMMANDS)
    if len(sys.argv) == 3:
        commands["pneumoscope predict, one film"] = ["-m", "pneumoscope", "predict", *sys.argv[1:]]
    bare = median_seconds(COMMANDS["python -c pass"])
    print(f"{'command':<32}{'seconds':>9}{'ratio':>8}")
    for name, arguments in commands.items():
        seconds = median_seconds(arguments)
        print(f"{name:<32}{seconds:>9.3f}{seconds / bare:>8.1f}")


if __name__ == "__main__":
    main()
