"""How long films took, and on which machine."""

import platform
from pathlib import Path

import numpy as np
import onnxruntime as ort

from pneumoscope.metrics import Floats
from pneumoscope.parallel import available_cores
from pneumoscope.report.document import Latency, Times
from pneumoscope.report.scoring import SplitResults


def latency(results: SplitResults, provider: str) -> Latency:
    """The times of a pass over a split."""
    films = len(results.films) + len(results.unjudged)
    return Latency(
        processor=processor(),
        cores=available_cores(),
        provider=provider,
        onnxruntime=ort.__version__,
        films_per_second=films / max(results.seconds, 1e-9),
        decode_ms=_times(results.decode_ms),
        model_ms=_times(results.model_ms),
    )


def processor(path: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, or its architecture where the system does not give a name."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine() or "unknown"


def _times(values: Floats) -> Times:
    low, median, high = (float(each) for each in np.nanpercentile(values, (5, 50, 95)))
    return Times(median=median, low=low, high=high)
