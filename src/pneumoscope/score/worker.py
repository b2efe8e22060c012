"""Scoring one shard with one loaded bundle: the same function for a process on this machine and for a Ray cluster."""

import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np

from pneumoscope import __version__
from pneumoscope.archive import printable
from pneumoscope.engine import Engine, ImageFile, Prediction
from pneumoscope.engine.document import ModelName
from pneumoscope.engine.reference import load_reference
from pneumoscope.errors import ImageError, ScoringError
from pneumoscope.imaging import DECODER_VERSION, Limits
from pneumoscope.parallel import map_ordered
from pneumoscope.score.destination import Destination
from pneumoscope.score.listing import Entry, Reader, Source
from pneumoscope.score.parts import About, Layout, contract_sha256, write_part
from pneumoscope.score.shards import Shard
from pneumoscope.score.tally import Row, Tally

_AHEAD = 4  # films read ahead per reading thread
_REPORT_EVERY = 25  # films


@dataclass(frozen=True, kw_only=True)
class Options:
    """How films are decided on, and what is stored of them; see `Engine`."""

    level: Literal["class", "group"] = "class"
    coverage: float | None = None
    operating_point: str | None = None
    fix_orientation: bool = False
    max_pixels: int = Limits().max_pixels
    embedding: bool = False

    def decision_key(self, contract: str) -> str:
        """What decides on the films, as text: a contract's hash, these options, and the way films are decoded."""
        return f"{contract} {self} decoder={DECODER_VERSION}"


@dataclass(frozen=True, kw_only=True)
class ScoringJob:
    """What every worker of a run needs besides the bundle. It can be pickled."""

    sources: tuple[Source, ...]
    destination: Destination
    options: Options
    threads: int


@dataclass(frozen=True, kw_only=True)
class _Fetched:
    """A film's bytes with their hash, or the error instead of them."""

    data: bytes | ImageError | OSError
    sha256: str | None

    def read(self) -> bytes:
        """The bytes.

        Raises:
            ImageError, OSError: they could not be read.
        """
        if isinstance(self.data, bytes):
            return self.data
        raise self.data


class Scorer:
    """A loaded bundle that scores shards of a job, one at a time."""

    def __init__(self, bundle: Path, job: ScoringJob) -> None:
        """Load the bundle and run it once; its files are not needed afterwards.

        Raises:
            ScoringError: this machine does not see a source or the destination.
            BundleError: the bundle is missing or damaged.
            UsageError: the model has no such coverage, operating point or groups.
        """
        # Otherwise each film of a folder that is not there would become a rejected row.
        hidden = [source.address for source in job.sources if not source.is_visible()]
        if hidden or not job.destination.is_visible():
            missing = hidden[0] if hidden else job.destination.address
            raise ScoringError(
                f"machine {socket.gethostname()} does not see {printable(missing)}; "
                "every machine must see sources and destination under the same path; share the folder, or use s3://."
            )
        options = job.options
        limits = Limits(max_pixels=options.max_pixels)
        self._job = job
        self._engine = Engine.load(bundle, limits=limits, threads=job.threads, fix_orientation=options.fix_orientation)
        self._rule = self._engine.rule(
            level=options.level, coverage=options.coverage, operating_point=options.operating_point
        )
        contract = self._engine.contract
        self._reference = load_reference(bundle, contract)
        size = contract.input.size
        # With several threads there is a second session, which opens on its first run.
        outputs = self._engine.run(np.zeros((1, 1, size, size), np.uint8), single_core=True)
        self._layout = Layout.of(contract, embedding=outputs.embedding.shape[1] if options.embedding else None)
        self._contract = contract_sha256(contract)
        self._opened: tuple[int, Reader] | None = None
        self._stack = ExitStack()

    def score(self, shard: Shard, report: Callable[[int], None]) -> Tally:
        """Score the films of a shard and publish its part. A film that cannot be read or decoded is a rejected row.

        Args:
            shard: of this scorer's job.
            report: is called with the number of films done so far, now and then.

        Raises:
            PneumoscopeError: the source or the destination cannot be used.
            OSError: the part cannot be written.
        """
        rows = list[Row]()
        for row in self.rows(shard.source, shard.entries()):
            rows.append(row)
            if len(rows) % _REPORT_EVERY == 0:
                report(len(rows))
        tally = Tally.of(rows)
        about = About(
            schema_version=1,
            pneumoscope=__version__,
            shard=shard.name,
            source=printable(self._job.sources[shard.source].address),
            model=ModelName(**self._engine.model),
            contract=self._contract,
            tally=tally,
        )
        self._job.destination.publish(shard.name, write_part(rows, self._layout, about))
        return tally

    def rows(self, number: int, entries: Sequence[Entry]) -> Iterator[Row]:
        """Score films of the job's source of this number, in order; see `score`."""
        source = self._job.sources[number]
        fetch = partial(_fetch, self._reader(number))
        hashes = deque[str | None]()

        def films() -> Iterator[ImageFile]:
            fetched = map_ordered(fetch, entries, workers=source.readers, ahead=_AHEAD * source.readers)
            for entry, each in zip(entries, fetched, strict=True):
                hashes.append(each.sha256)
                yield ImageFile(name=printable(entry.name), read=each.read)

        address = printable(source.address)
        for prediction in self._engine.predict_many(films(), rule=self._rule, threads=self._job.threads):
            yield self._row(prediction, address, hashes.popleft())

    def _row(self, prediction: Prediction, address: str, file_sha256: str | None) -> Row:
        document, outputs = prediction.document(), prediction.outputs
        if outputs is None:
            return Row(document=document, source=address, file_sha256=file_sha256, shares={})
        distance = None if self._reference is None else float(self._reference.distance(outputs.embedding))
        return Row(
            document=document,
            source=address,
            file_sha256=file_sha256,
            distance=distance,
            # A copy: a view into a batch's array would keep the outputs of the whole batch in memory.
            embedding=outputs.embedding.copy() if self._layout.embedding is not None else None,
            shares=dict(zip(prediction.classes, map(float, outputs.probabilities), strict=True)),
        )

    def _reader(self, number: int) -> Reader:
        """The reader of a source, kept open for the next shard: opening a large archive takes seconds."""
        if self._opened is None or self._opened[0] != number:
            self.close()
            self._opened = number, self._stack.enter_context(self._job.sources[number].reading())
        return self._opened[1]

    def close(self) -> None:
        """Close the source that is open."""
        self._opened = None
        self._stack.close()


def _fetch(read: Reader, entry: Entry) -> _Fetched:
    try:
        data = read(entry)
    except (ImageError, OSError) as failure:
        return _Fetched(data=failure, sha256=None)
    return _Fetched(data=data, sha256=sha256(data).hexdigest())
