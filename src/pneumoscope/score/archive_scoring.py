"""Scoring sources into a destination: list, cut into shards, let a crew score those whose parts are missing, sum up."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import TypeAlias

from pneumoscope.archive import printable
from pneumoscope.contract import Contract, load_contract
from pneumoscope.engine import choose_rule
from pneumoscope.engine.reference import load_reference
from pneumoscope.errors import DatasetError, ScoringError, UsageError
from pneumoscope.parallel import map_ordered
from pneumoscope.progress import SILENT, Listener
from pneumoscope.score.destination import Destination
from pneumoscope.score.dispatch import Crew, Dispatcher
from pneumoscope.score.listing import Source
from pneumoscope.score.parts import SUFFIX, contract_sha256, footer_size, read_about
from pneumoscope.score.shards import FILMS, PREFIX, Shard, make_shards
from pneumoscope.score.summary import SUMMARY_FILE, Shards, Summary, summarise
from pneumoscope.score.tally import Tally
from pneumoscope.score.worker import Options, ScoringJob

SHARDS_FILE = "_shards.json"
_TAIL = 16_384  # bytes: larger than most footers, so that one request is enough
_TAIL_READERS = 16
#: Makes a crew from a bundle, a job, and the number of workers.
CrewMaker: TypeAlias = Callable[[Path, ScoringJob, int], Crew]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Cores to use, and threads per worker; None for one thread, or more if there are fewer shards than cores."""

    cores: int
    threads: int | None = None

    def share(self, shards: int) -> tuple[int, int]:
        """Workers and threads per worker for this many shards.

        >>> Resources(cores=8).share(100), Resources(cores=8).share(3), Resources(cores=8, threads=4).share(100)
        ((8, 1), (3, 2), (2, 4))
        """
        threads = self.threads or max(1, self.cores // max(1, shards))
        return max(1, min(shards, self.cores // threads)), threads


def score_archives(
    sources: Sequence[Source],
    destination: Destination,
    bundle: Path,
    options: Options,
    make_crew: CrewMaker,
    resources: Resources,
    *,
    films_per_shard: int = FILMS,
    remove_others: bool = False,
    listener: Listener = SILENT,
) -> Summary:
    """Score the films of all sources; parts that exist already are kept. Called again, it goes on.

    Args:
        sources: each once.
        destination: for the parts, `_shards.json` and `_summary.json`.
        bundle: folder of a bundle.
        options: how to decide, and what to store.
        make_crew: makes the workers.
        resources: how many workers there are.
        films_per_shard: approximately; a different number makes different shards, with different names.
        remove_others: delete parts of other sources, models or options from `destination`, once all parts are written.
        listener: receives progress.

    Raises:
        PneumoscopeError: nothing can be scored, or a shard could not be; parts that are written stay.
    """
    contract = load_contract(bundle)
    choose_rule(contract, level=options.level, coverage=options.coverage, operating_point=options.operating_point)
    reference = load_reference(bundle, contract)
    destination.prepare()
    shards = list_shards(sources, options.decision_key(contract_sha256(contract)), films_per_shard, listener)
    there, others = sort_parts(destination, shards, remove_others=remove_others)
    missing = [shard for shard in shards if shard.name not in there]
    workers, threads = resources.share(len(missing))
    # Written first, so that a destination that refuses it fails here, and not after the first shard.
    destination.replace(SHARDS_FILE, listed_shards(shards, sources))
    job = ScoringJob(sources=tuple(sources), destination=destination, options=options, threads=threads)
    started, films = time.monotonic(), sum(shard.films for shard in missing)
    outcome = Shards(total=len(shards), there=len(there), again_after_loss=0, again_as_slow=0)
    if missing:
        outcome = _run(partial(make_crew, bundle, job, workers), shards, missing, outcome, listener)
    seconds = time.monotonic() - started
    destination.remove(others)
    destination.tidy()
    summary = summarise(
        contract,
        reference,
        read_tally(destination, shards, contract),
        shards=outcome,
        sources=tuple(printable(source.address) for source in sources),
        options=asdict(options),
        scored=films,
        seconds=seconds,
        workers=workers if missing else 0,
        threads=threads if missing else 0,
    )
    destination.replace(SUMMARY_FILE, (summary.model_dump_json(indent=2) + "\n").encode())
    return summary


def list_shards(sources: Sequence[Source], decision_key: str, films: int, listener: Listener) -> list[Shard]:
    """The shards of all sources.

    Raises:
        UsageError: a source is given twice, or there is no film.
    """
    addresses = [source.address for source in sources]
    if repeated := {each for each in addresses if addresses.count(each) > 1}:
        raise UsageError(f"{printable(min(repeated))} is given twice; give each source once.")
    shards = list[Shard]()
    with listener.progress("listing", None, "films"):
        for number, source in enumerate(sources):
            for shard in make_shards(source, number, decision_key=decision_key, films=films):
                shards.append(shard)
                listener.advance(shard.films)
    if not shards:
        raise UsageError(f"no image file in {', '.join(map(printable, addresses))}; nothing was scored.")
    return shards


def read_tally(destination: Destination, shards: Sequence[Shard], contract: Contract) -> Tally:
    """The sum of the parts' tallies, read from their files' ends.

    Raises:
        ScoringError: a part is not what its name promises.
    """
    expected = contract_sha256(contract)

    def read(shard: Shard) -> Tally:
        try:
            tail = destination.tail(shard.name, _TAIL)
        except FileNotFoundError as failure:
            raise ScoringError(
                f"{shard.name} vanished from {destination.address}; run the same command again."
            ) from failure
        if (needed := footer_size(tail)) > len(tail):
            tail = destination.tail(shard.name, needed)
        try:
            about = read_about(tail)
        except DatasetError as failure:
            raise ScoringError(
                f"{shard.name} in {destination.address} is not a whole part; delete it and run again."
            ) from failure
        if (about.shard, about.contract, about.tally.films) != (shard.name, expected, shard.films):
            raise ScoringError(
                f"{shard.name} in {destination.address} has other films than its name promises; delete it and run "
                "again."
            )
        return about.tally

    return reduce(add, map_ordered(read, shards, workers=_TAIL_READERS), Tally.of([]))


def sort_parts(destination: Destination, shards: Sequence[Shard], *, remove_others: bool) -> tuple[set[str], set[str]]:
    """The parts in the destination that belong to these shards, and the other parts.

    Raises:
        UsageError: there are others, and they must not be removed.
    """
    parts = {name for name in destination.names() if name.startswith(PREFIX) and name.endswith(SUFFIX)}
    wanted = {shard.name for shard in shards}
    others = parts - wanted
    if others and not remove_others:
        raise UsageError(
            f"{destination.address} has {len(others):,} parts of other films, another model or other options; choose "
            "another --out, or pass --remove-others to delete them at the end."
        )
    return parts & wanted, others


def listed_shards(shards: Sequence[Shard], sources: Sequence[Source]) -> bytes:
    """The document `_shards.json`: all parts, new and existing ones, each with its source and number of films."""
    parts = [
        {"part": shard.name, "source": printable(sources[shard.source].address), "films": shard.films}
        for shard in shards
    ]
    return (json.dumps({"schema_version": 1, "parts": parts}, indent=1) + "\n").encode()


def _run(
    make_crew: Callable[[], Crew], shards: Sequence[Shard], missing: Sequence[Shard], before: Shards, listener: Listener
) -> Shards:
    """Score the missing shards; return `before` with the counts of shards that were given to a worker again."""
    total, left = (sum(shard.films for shard in each) for each in (shards, missing))
    if before.there:
        listener.say(f"{before.there:,} of {before.total:,} parts exist already")
    crew = make_crew()
    try:
        with listener.progress("scoring", total, "films", done=total - left):
            outcome = Dispatcher(crew, missing, listener).run()
    finally:
        crew.close()
    return Shards(total=before.total, there=before.there, again_after_loss=outcome.lost, again_as_slow=outcome.slow)
