"""Peak memory and time of `pneumoscope predict` on folders of 200 and 2,000 films, each in its own process.

    python benchmarks/predicting.py BUNDLE [--films FOLDER]

Without --films, 200 phantoms of about 0.2 megapixels are used; the larger folder holds links to them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pneumoscope.imaging import SUFFIXES
from pneumoscope.phantom import write_archive_folder


def measure(bundle: Path, folder: Path) -> tuple[float, float]:
    """Peak resident memory in MB and seconds of one command."""
    command = [sys.executable, "-m", "pneumoscope", "predict", str(bundle), str(folder), "--format", "json"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"predict failed on {folder}")
    return usage.ru_maxrss / 1024, time.perf_counter() - started


def link(films: list[Path], folder: Path, count: int) -> Path:
    """A folder with `count` names for the given films."""
    folder.mkdir()
    for number in range(count):
        source = films[number % len(films)]
        (folder / f"{number:05d}{source.suffix}").symlink_to(source.resolve())
    return folder


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--films", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = arguments.films
        if source is None:
            source = folder / "phantoms"
            write_archive_folder(source, count=200, overwrite=False)
        films = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
        print(f"{'films':>8}{'peak MB':>10}{'seconds':>10}{'films/s':>10}")
        peaks = []
        for count in (200, 2000):
            peak, seconds = measure(arguments.bundle, link(films, folder / str(count), count))
            peaks.append(peak)
            print(f"{count:>8}{peak:>10.0f}{seconds:>10.1f}{count / seconds:>10.1f}")
        print(f"growth from 200 to 2,000 films: {peaks[1] - peaks[0]:.0f} MB, ratio {peaks[1] / peaks[0]:.2f}")


if __name__ == "__main__":
    main()
