"""Reading the sources: which files are films, of what label and patient, and are they whole."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from pneumoscope.archive import Listing, Member, Problem, open_source
from pneumoscope.dataset.grammar import Part, follows_version2, identify, place
from pneumoscope.dataset.manifest import Film, RefusedFile
from pneumoscope.errors import ArchiveError, ImageError
from pneumoscope.imaging import ACCEPTED, SUFFIXES, UNREAD_SUFFIXES, Limits, describe, luma_sha256, read_luma
from pneumoscope.parallel import available_cores, map_ordered
from pneumoscope.progress import Listener


@dataclass(frozen=True, kw_only=True)
class SourceSummary:
    """What one source gave."""

    name: str
    films: int
    refused: int
    junk: int
    other_files: int
    copies: int
    patients_named: bool


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A file that says what it is; not read yet."""

    member: Member
    source: str
    label: str
    patient: str
    part: Part | None


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A file that was read and lies in the incoming folder."""

    candidate: Candidate
    film: Film
    incoming: Path


@dataclass(frozen=True, kw_only=True)
class Harvest:
    """What all sources gave: films read, files refused, and a summary of each source."""

    taken: list[Taken]
    refused: list[RefusedFile]
    summaries: list[SourceSummary]


def read_sources(
    sources: Sequence[Path], incoming: Path, *, pattern: re.Pattern[str] | None, limits: Limits, listener: Listener
) -> Harvest:
    """Read and check every film of every source once, copying it into the folder `incoming`.

    Raises:
        ArchiveError: a source is neither a folder nor a readable ZIP archive.
    """
    harvest = Harvest(taken=[], refused=[], summaries=[])
    for number, path in enumerate(sources):
        folder = incoming / str(number)
        folder.mkdir(parents=True)
        with open_source(path, max_bytes=limits.max_bytes) as listing:
            harvest.summaries.append(
                _read_source(path.resolve().name, listing, folder, pattern, limits, listener, harvest)
            )
    return harvest


def _read_source(
    name: str,
    listing: Listing,
    folder: Path,
    pattern: re.Pattern[str] | None,
    limits: Limits,
    listener: Listener,
    harvest: Harvest,
) -> SourceSummary:
    before = len(harvest.taken), len(harvest.refused)
    harvest.refused.extend(RefusedFile(source=name, name=each.name, reason=each.reason) for each in listing.problems)
    candidates, others, patients_named = _candidates(listing, name, pattern, harvest.refused)
    listener.begin(f"reading {name}", len(candidates), "images")
    try:
        numbered = ((folder / f"{number:07d}", each) for number, each in enumerate(candidates))
        cores = available_cores()
        for result in map_ordered(partial(_take, limits=limits), numbered, workers=cores, ahead=4 * cores):
            if isinstance(result, Problem):
                harvest.refused.append(RefusedFile(source=name, name=result.name, reason=result.reason))
            else:
                harvest.taken.append(result)
            listener.advance(1)
    finally:
        listener.end()
    return SourceSummary(
        name=name,
        films=len(harvest.taken) - before[0],
        refused=len(harvest.refused) - before[1],
        junk=listing.junk,
        other_files=others,
        copies=0,
        patients_named=patients_named,
    )


def _candidates(
    listing: Listing, source: str, pattern: re.Pattern[str] | None, refused: list[RefusedFile]
) -> tuple[list[Candidate], int, bool]:
    """Files with an image's suffix and a known label; how many others; whether all patients are named."""
    named = True
    unread = [member.name for member in listing.members if PurePosixPath(member.name).suffix.lower() in UNREAD_SUFFIXES]
    refused += [RefusedFile(source=source, name=name, reason=f"accepted are {ACCEPTED}") for name in unread]
    images = [member for member in listing.members if PurePosixPath(member.name).suffix.lower() in SUFFIXES]
    archive = follows_version2(member.name for member in images)
    candidates = []
    for member in images:
        identity = identify(member.name, archive=archive, patient_pattern=pattern)
        if isinstance(identity, str):
            refused.append(RefusedFile(source=source, name=member.name, reason=identity))
            continue
        named = named and identity.patient is not None
        patient = identity.patient or f"{identity.label}/{source}:{member.name}"
        part = place(member.name).part
        candidates.append(Candidate(member=member, source=source, label=identity.label, patient=patient, part=part))
    return candidates, len(listing.members) - len(images) - len(unread), named


def _take(numbered: tuple[Path, Candidate], *, limits: Limits) -> Taken | Problem:
    """Read, check and copy one file."""
    incoming, candidate = numbered
    try:
        data = candidate.member.read()
        facts = describe(data, limits=limits)
        luma = read_luma(data, limits=limits)
    except (ImageError, ArchiveError) as failure:
        return Problem(name=candidate.member.name, reason=str(failure))
    except OSError as failure:
        return Problem(name=candidate.member.name, reason=f"cannot be read ({failure.strerror})")
    incoming.write_bytes(data)
    film = Film(
        path=_plain_suffix(PurePosixPath(candidate.member.name)),
        label=candidate.label,
        split="",
        patient=candidate.patient,
        source=f"{candidate.source}:{candidate.member.name}",
        file_sha256=hashlib.sha256(data).hexdigest(),
        luma_sha256=luma_sha256(luma),
        width=facts.width,
        height=facts.height,
        bytes=len(data),
        mode=facts.mode,
    )
    return Taken(candidate=candidate, film=film, incoming=incoming)


def _plain_suffix(name: PurePosixPath) -> str:
    """A file name that other programs take for an image, too: torchvision knows no .jfif."""
    return name.with_suffix(".jpeg").name if name.suffix.lower() in (".jfif", ".jpe") else name.name
