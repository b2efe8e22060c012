"""A film's file, opened once: its bytes, its radiograph, and what the manifest says of both."""

import hashlib
from dataclasses import dataclass

from pneumoscope.archive import Member
from pneumoscope.dataset.likeness import perceptual_hash
from pneumoscope.errors import ArchiveError, ImageError
from pneumoscope.imaging import Limits, Radiograph, luma_sha256, read_radiograph


@dataclass(frozen=True, kw_only=True)
class Content:
    """What is measured of a film's file: columns of the manifest, see `manifest.Film`."""

    file_sha256: str
    luma_sha256: str
    phash: str
    width: int
    height: int
    bytes: int
    mode: str


def open_film(member: Member, limits: Limits) -> tuple[bytes, Radiograph] | str:
    """Read and decode a file of a source, or say why that cannot be done."""
    try:
        data = member.read()
        return data, read_radiograph(data, limits=limits)
    except (ImageError, ArchiveError) as failure:
        return str(failure)
    except OSError as failure:
        return f"cannot be read ({failure.strerror})"


def content_of(data: bytes, radiograph: Radiograph) -> Content:
    """What the manifest says of a file's bytes and of what they were decoded to."""
    return Content(
        file_sha256=hashlib.sha256(data).hexdigest(),
        luma_sha256=luma_sha256(radiograph.luma),
        phash=perceptual_hash(radiograph.luma),
        width=radiograph.facts.width,
        height=radiograph.facts.height,
        bytes=len(data),
        mode=radiograph.facts.mode,
    )
