"""Images per second of data preparation and of the training cache, on an archive or on phantoms.

python benchmarks/preparing.py [ARCHIVE] [--size 224]
"""

import argparse
import tempfile
import time
from pathlib import Path

from pneumoscope.contract import InputRule
from pneumoscope.dataset import PrepareConfig, load_dataset, prepare
from pneumoscope.phantom import write_archive_zip
from pneumoscope.training.inputs import cache_inputs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path, nargs="?")
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = arguments.archive
        if archive is None:
            archive = folder / "phantoms.zip"
            write_archive_zip(archive, count=600)
        print(f"{'stage':<16}{'images':>8}{'seconds':>9}{'images/s':>10}")
        started = time.perf_counter()
        prepare([archive], folder / "data", PrepareConfig())
        seconds = time.perf_counter() - started
        dataset = load_dataset(folder / "data")
        count = len(dataset.films)
        print(f"{'data prepare':<16}{count:>8}{seconds:>9.1f}{count / seconds:>10.0f}")
        started = time.perf_counter()
        cached = sum(
            len(cache_inputs(dataset, split, InputRule.squash(arguments.size), folder / "cache"))
            for split in ("train", "val", "test")
        )
        seconds = time.perf_counter() - started
        print(f"{'training cache':<16}{cached:>8}{seconds:>9.1f}{cached / seconds:>10.0f}")


if __name__ == "__main__":
    main()
