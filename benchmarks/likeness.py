"""Distances of perceptual hashes: between different films, and between a film and its re-encodings.

python benchmarks/likeness.py ARCHIVE [--sample 300]
"""

import argparse
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumoscope.archive import open_source
from pneumoscope.dataset.likeness import NEAR_DISTANCE, perceptual_hash
from pneumoscope.imaging import SUFFIXES, Limits, Luma, luma_sha256, read_luma

CHANGES: dict[str, tuple[int, float, float]] = {  # JPEG quality, scale, gamma
    "quality 75": (75, 1.0, 1.0),
    "quality 50": (50, 1.0, 1.0),
    "quality 30": (30, 1.0, 1.0),
    "half size": (90, 0.5, 1.0),
    "double size": (90, 2.0, 1.0),
    "half size, quality 75": (75, 0.5, 1.0),
    "gamma 1.2": (90, 1.0, 1.2),
}


def changed(luma: Luma, quality: int, scale: float, gamma: float) -> Luma:
    """The film after resizing, a change of gamma, and re-encoding."""
    image = Image.fromarray(luma)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    image = image.point([round(255 * (level / 255) ** gamma) for level in range(256)])
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return read_luma(stream.getvalue())


def bits(luma: Luma) -> NDArray[np.uint8]:
    """The hash as 32 bytes."""
    return np.frombuffer(bytes.fromhex(perceptual_hash(luma)), np.uint8)


def nearest(hashes: NDArray[np.uint8]) -> int:
    """The smallest Hamming distance between any two of the hashes (`uint8 [N, 32]`)."""
    return min(int(np.bitwise_count(hashes[at + 1 :] ^ hashes[at]).sum(axis=1).min()) for at in range(len(hashes) - 1))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--sample", type=int, default=300)
    arguments = parser.parse_args()
    with open_source(arguments.archive, max_bytes=Limits().max_bytes) as listing:
        members = [member for member in listing.members if Path(member.name).suffix.lower() in SUFFIXES]
        different = {luma_sha256(luma): bits(luma) for luma in (read_luma(member.read()) for member in members)}
        hashes = np.stack(list(different.values()))
        pairs = len(hashes) * (len(hashes) - 1) // 2
        print(f"threshold {NEAR_DISTANCE} of 256 bits")
        print(f"{pairs:,} pairs of {len(hashes):,} different films: the nearest are {nearest(hashes)} apart")
        step = max(1, len(members) // arguments.sample)
        lumas = [read_luma(member.read()) for member in members[::step]]
    print(f"{'re-encoding':<24}{'median':>8}{'99 %':>8}{'largest':>8}   of {len(lumas)} films")
    for name, change in CHANGES.items():
        found = [int(np.bitwise_count(bits(luma) ^ bits(changed(luma, *change))).sum()) for luma in lumas]
        print(f"{name:<24}{np.median(found):>8.0f}{np.percentile(found, 99):>8.0f}{max(found):>8}")


if __name__ == "__main__":
    main()
