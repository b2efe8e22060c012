"""An archive to audit, and what an audit found."""

from pathlib import Path

import numpy as np
from PIL import Image

from pneumoscope.audit import Audit, audit
from pneumoscope.phantom import encode_jpeg, population


def small_archive(count: int, *, seed: int) -> dict[str, bytes]:
    """Phantoms of 240 by 208 pixels, by paths like the published archive's; every fourth patient is in test."""
    films = {}
    for phantom in population(count, seed=seed):
        part = "test" if phantom.patient % 4 == 0 else "train"
        folder = "NORMAL" if phantom.finding == "normal" else "PNEUMONIA"
        small = np.asarray(Image.fromarray(phantom.luma).resize((240, 208)))
        films[f"chest_xray/{part}/{folder}/{phantom.name}"] = encode_jpeg(small)
    return films


def codes(found: Audit, severity: str | None = None) -> set[str]:
    return {each.code for each in found.findings if severity in (None, each.severity)}


def audit_leaks(path: Path, out: Path | None = None) -> Audit:
    """An audit without the shortcut baselines, which take most of its time."""
    return audit(path, out, shortcuts=False)


def films_of(found: Audit, code: str) -> set[str]:
    return {name for each in found.findings if each.code == code for name in each.films}
