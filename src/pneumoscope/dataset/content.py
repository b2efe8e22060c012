"""Reading an image file once: its bytes, its radiograph, and the manifest's columns about both."""

import hashlib
from dataclasses import dataclass

from pneumoscope.archive import Member
from pneumoscope.dataset.likeness import perceptual_hash
from pneumoscope.errors import ArchiveError, ImageError
from pneumoscope.imaging import Limits, Radiograph, luma_sha256, read_radiograph


@dataclass(frozen=True, kw_only=True)
class Content:
    """The columns of the manifest that are measured on the file; see `manifest.Record`."""

    file_sha256: str
    luma_sha256: str
    phash: str
    width: int
    height: int
    bytes: int
    mode: str


def open_film(member: Member, limits: Limits) -> tuple[bytes, Radiograph] | str:
    """Read and decode a file of a source: its bytes and radiograph, or the reason why that is not possible."""
    try:
        data = member.read()
        return data, read_radiograph(data, limits=limits)
    except (ImageError, ArchiveError) as failure:
        return str(failure)
    except OSError as failure:
        return f"cannot be read ({failure.strerror})"


def content_of(data: bytes, radiograph: Radiograph) -> Content:
    """The manifest's columns about a file's bytes and its radiograph."""
    return Content(
        file_sha256=hashlib.sha256(data).hexdigest(),
        luma_sha256=luma_sha256(radiograph.luma),
        phash=perceptual_hash(radiograph.luma),
        width=radiograph.facts.width,
        height=radiograph.facts.height,
        bytes=len(data),
        mode=radiograph.facts.mode,
    )
