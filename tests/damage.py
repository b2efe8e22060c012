"""Damage image files of every format and classify them: each must give a prediction in time, without growing memory.

python tests/damage.py --bundle BUNDLE --cases 20000 --seed 7

`rejected` with a reason is a prediction as well. A case that raises an exception or takes over two seconds ends the
program with the case's number; the crash of a codec ends it, too, but without a number. The number and the seed
reproduce the case.
"""

import argparse
import json
import random
import re
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from dicoms import damaged, one_of_each
from pneumoscope.engine import Engine
from pneumoscope.phantom import encode_jpeg, film
from samples import encode

MAX_SECONDS = 2.0
MAX_GROWTH = 60.0  # MB, after the warm-up


def main() -> None:
    """Parse the arguments, run the cases, print the number of cases of each status, the slowest case and the growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    warnings.filterwarnings("error", module="pneumoscope")
    engine = Engine.load(arguments.bundle)
    films = list((one_of_each() | rasters()).items())
    outcomes: Counter[str] = Counter()
    slowest, warm_up_end, memory_after_warm_up = 0.0, arguments.cases // 4, 0.0
    for case in range(arguments.cases):
        kind, data = films[case % len(films)]
        status, seconds = classify(
            engine, damaged(data, random.Random(f"{arguments.seed} {case}")), f"case {case}, {kind}"
        )
        outcomes[status] += 1
        slowest = max(slowest, seconds)
        memory_after_warm_up = peak_memory() if case == warm_up_end else memory_after_warm_up
    growth = peak_memory() - memory_after_warm_up
    print(json.dumps(outcomes | {"slowest_s": round(slowest, 3), "growth_mb": round(growth, 1)}))
    if growth > MAX_GROWTH:
        raise MemoryError(f"memory grew by {growth:.0f} MB after the first {warm_up_end} cases")


def classify(engine: Engine, data: bytes, case: str) -> tuple[str, float]:
    """Status and seconds of one prediction."""
    began = time.perf_counter()
    try:
        status = engine.predict(data).status
    except BaseException as other:
        other.add_note(case)
        raise
    seconds = time.perf_counter() - began
    if seconds > MAX_SECONDS:
        raise TimeoutError(f"{case} took {seconds:.1f} seconds")
    return status, seconds


def rasters() -> dict[str, bytes]:
    """A small phantom in every format other than DICOM."""
    luma = film("virus", patient=2, size=(120, 140))
    grey = Image.fromarray(luma)
    deep = Image.fromarray(luma.astype(np.uint16) * 257)
    return {
        "jpeg": encode_jpeg(luma),
        "jpeg progressive": encode_jpeg(luma, progressive=True),
        "jpeg colour": encode(grey.convert("RGB"), "JPEG"),
        "jpeg cmyk": encode(grey.convert("CMYK"), "JPEG"),
        "png": encode(grey),
        "png 16 bit": encode(deep),
        "png 1 bit": encode(grey.convert("1")),
        "png palette": encode(grey.convert("RGB").quantize(64)),
        "png alpha": encode(grey.convert("RGBA")),
        "webp": encode(grey, "WEBP"),
        "webp lossless": encode(grey, "WEBP", lossless=True),
        "bmp": encode(grey, "BMP"),
        "gif": encode(grey, "GIF"),
        "tiff": encode(deep, "TIFF"),
        "tiff lzw": encode(grey, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encode(grey, "TIFF", compression="jpeg"),
    }


def peak_memory() -> float:
    """The peak memory of this process in MB; `getrusage` would include the parent's at the fork."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


if __name__ == "__main__":
    main()
