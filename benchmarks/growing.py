"""Time and peak memory of `data prepare` on 5,000 and on 50,000 small phantoms.

python benchmarks/growing.py [--films 5000 50000]

Drawing the phantoms takes some minutes, which are not measured.
"""

import argparse
import os
import tempfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from pneumoscope.phantom import FINDINGS, encode_jpeg, film
from processes import peak_memory

FILMS_PER_PATIENT = 2
SIZE = (64, 72)


def draw(number: int) -> tuple[str, bytes]:
    """One small phantom, named as in version 2 of the archive; every fifth patient is in the test part."""
    finding = FINDINGS[number % len(FINDINGS)]
    patient, shot = divmod(number // len(FINDINGS), FILMS_PER_PATIENT)
    part = "test" if patient % 5 == 0 else "train"
    name = (
        f"NORMAL/IM-{patient:06d}-{shot:04d}.jpeg"
        if finding == "normal"
        else f"PNEUMONIA/person{patient}_{finding}_{number}.jpeg"
    )
    return f"chest_xray/{part}/{name}", encode_jpeg(film(finding, patient=patient, shot=shot, size=SIZE))


def write_archives(folder: Path, counts: list[int]) -> Iterator[tuple[int, Path]]:
    """Write an archive of the first phantoms for each count."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        drawn = list(pool.map(draw, range(max(counts)), chunksize=200))
    for count in counts:
        path = folder / f"{count}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in drawn[:count]:
                archive.writestr(zipfile.ZipInfo(name), data)
        yield count, path


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, nargs="+", default=[5000, 50000])
    counts = sorted(parser.parse_args().films)
    first = None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archives = list(write_archives(folder, counts))
        print(f"{'films':>8}{'seconds':>9}{'films/s':>9}{'peak MB':>9}{'time ratio':>12}")
        for count, path in archives:
            started = time.perf_counter()
            out = str(folder / "out")
            peak = peak_memory(["data", "prepare", str(path), "--out", out, "--overwrite", "--quiet"])
            seconds = time.perf_counter() - started
            first = first or seconds
            print(f"{count:>8}{seconds:>9.1f}{count / seconds:>9.0f}{peak:>9.0f}{seconds / first:>12.1f}", flush=True)


if __name__ == "__main__":
    main()
