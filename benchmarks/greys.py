"""How many pixels of ordinary films are black or white, and how many grey levels they have: for `imaging.levels`.

    python benchmarks/greys.py ARCHIVE...

Each ARCHIVE is a folder or ZIP archive of films. Prints quantiles of the share of black and white pixels, the lowest
number of grey levels, and every film that is refused or gets a note.
"""

import argparse
from pathlib import Path

import numpy as np

from pneumoscope.archive import open_source
from pneumoscope.errors import ImageError
from pneumoscope.imaging import DEFAULT_LIMITS, SUFFIXES, levels, read_radiograph


def main() -> None:
    """Parse the arguments, read every film, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archives", nargs="+", type=Path)
    for path in parser.parse_args().archives:
        found = []
        with open_source(path, max_bytes=DEFAULT_LIMITS.max_bytes) as listing:
            for member in listing.members:
                if Path(member.name).suffix.lower() not in SUFFIXES:
                    continue
                try:
                    film = read_radiograph(member.read())
                except ImageError as refusal:
                    print(f"{member.name}: {refusal}")
                    continue
                for reason in film.notes:
                    print(f"{member.name}: {reason.text}")
                shares = np.asarray(levels.histogram(film.luma)) / film.luma.size
                found.append((shares[0] + shares[255], (shares > levels.RARE).sum()))
        ends, counts = np.asarray(found).T
        shown = ", ".join(f"{100 * share:.0f} %: {np.quantile(ends, share):.3f}" for share in (0.5, 0.95, 0.99, 1))
        print(f"{path.name}: {len(found)} films; black or white {shown}; at least {counts.min():.0f} levels of grey")


if __name__ == "__main__":
    main()
