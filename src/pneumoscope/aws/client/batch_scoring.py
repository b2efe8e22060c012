"""Scoring a folder of S3 by batch transform jobs: plan, send what is missing, gather the responses, sum up.

Every step can be repeated. Parts have the names that `pneumoscope score` gives them, so that one command goes on where
the other ended.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from pneumoscope.archive import printable
from pneumoscope.aws.client import transform
from pneumoscope.aws.client.gather import Gatherer
from pneumoscope.aws.client.model_upload import send_model
from pneumoscope.aws.client.train import role_arn
from pneumoscope.aws.client.transform import Films, Run
from pneumoscope.aws.session import Cloud
from pneumoscope.contract import load_contract
from pneumoscope.engine import MODEL_FILE, choose_rule
from pneumoscope.engine.reference import load_reference
from pneumoscope.errors import CloudError
from pneumoscope.progress import SILENT, Listener
from pneumoscope.score.archive_scoring import SHARDS_FILE, list_shards, listed_shards, read_tally, sort_parts
from pneumoscope.score.destination import Destination
from pneumoscope.score.listing import Entry, Source
from pneumoscope.score.parts import contract_sha256
from pneumoscope.score.shards import Shard
from pneumoscope.score.summary import SUMMARY_FILE, Shards, Summary, summarise
from pneumoscope.score.worker import Options, ScoringJob
from pneumoscope.settings.aws import Score

#: Folders beside the parts. The leading underscore hides them from readers that take every file for a part.
MODELS, RESPONSES = "_models", "_answers"
_DIGITS = 12  # hexadecimal digits of a name


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The films of a folder and what has become of them.

    `there` and `others` are names of parts in the destination: those of `shards`, and all others.
    """

    settings: Score
    shards: Sequence[Shard]
    there: set[str]
    others: set[str]
    gatherer: Gatherer

    @property
    def missing(self) -> list[Shard]:
        """The shards whose parts are not there."""
        return [shard for shard in self.shards if shard.name not in self.there]

    @cached_property
    def to_send(self) -> list[Entry]:
        """The films that a job still has to decide on."""
        return [entry for shard in self.missing for entry in self.gatherer.to_send(shard)]

    def describe(self) -> str:
        """What there is and what is left to do, in a sentence."""
        megabytes = sum(entry.size for entry in self.to_send) / 1e6
        return (
            f"{sum(shard.films for shard in self.shards):,} films; shards: {len(self.shards):,}, of which "
            f"{len(self.there):,} are scored; films to send: {len(self.to_send):,} ({megabytes:,.1f} MB)."
        )


def plan(
    cloud: Cloud,
    settings: Score,
    source: Source,
    destination: Destination,
    bundle: Path,
    *,
    listener: Listener = SILENT,
) -> Batch:
    """List the films and what there is of their results.

    Args:
        cloud: the clients for the job's region.
        settings: of `pneumoscope aws score`.
        source: the films of `settings.source`.
        destination: `settings.out`.
        bundle: `settings.model` on this machine, verified; it must stay there until `finish` returns.
        listener: receives progress.

    Raises:
        UsageError: there is no film, the destination has other parts, or the model has no such coverage.
        CloudError: AWS refuses.
    """
    contract, options = load_contract(bundle), Options(embedding=settings.embedding, coverage=settings.coverage)
    choose_rule(contract, coverage=options.coverage)
    destination.prepare()
    shards = list_shards([source], options.decision_key(contract_sha256(contract)), settings.shard_films, listener)
    there, others = sort_parts(destination, shards, remove_others=settings.remove_others)
    key = hashlib.sha256("".join(shard.name for shard in shards).encode()).hexdigest()[:_DIGITS]
    run = Run(key=key, responses=settings.out / RESPONSES / key)
    gatherer = Gatherer(
        cloud=cloud,
        run=run,
        folder=settings.source,
        bundle=bundle,
        contract=contract,
        job=ScoringJob(sources=(source,), destination=destination, options=options, threads=1),
        responses=transform.list_responses(cloud, run),
    )
    return Batch(settings=settings, shards=shards, there=there, others=others, gatherer=gatherer)


def start(cloud: Cloud, batch: Batch, *, listener: Listener = SILENT) -> str | None:
    """The name of the job that decides on the remaining films: a running one, or a new one; None if none remains.

    Raises:
        UsageError: the bucket is public.
        CloudError: the role does not exist, or AWS refuses.
    """
    settings, gatherer = batch.settings, batch.gatherer
    # Written first, so that a destination that cannot be written to ends the command here, and not after the job.
    gatherer.job.destination.replace(SHARDS_FILE, listed_shards(batch.shards, gatherer.job.sources))
    jobs = transform.jobs_of(cloud, gatherer.run)
    if jobs and transform.is_running(jobs[-1]):
        return str(jobs[-1]["TransformJobName"])
    if not batch.to_send:
        return None
    role = role_arn(cloud, settings.role)
    digest = gatherer.contract.files[MODEL_FILE][:_DIGITS]
    model = settings.out / MODELS / digest
    send_model(
        cloud, gatherer.bundle, model, tag=gatherer.run.name, for_ray=False, kms_key=settings.kms_key, listener=listener
    )
    films = Films(
        source=settings.source,
        names=[entry.name for entry in batch.to_send],
        largest=max(entry.size for entry in batch.to_send),
    )
    return transform.start(cloud, settings, gatherer.run, len(jobs) + 1, films, model, role)


def finish(
    cloud: Cloud,
    batch: Batch,
    name: str | None,
    *,
    listener: Listener = SILENT,
    pause: Callable[[float], None] = time.sleep,
) -> Summary:
    """Wait for a job, publish the parts of all shards whose films have responses, and write the summary.

    Args:
        cloud: the clients for the job's region.
        batch: from `plan`.
        name: of the job, from `start`.
        listener: receives progress.
        pause: sleeps for a number of seconds; tests replace it.

    Raises:
        CloudError: the job failed or left films out; the parts that could be made are there.
    """
    failure = None
    if name is not None:
        job = transform.follow(cloud, name, listener=listener, pause=pause)
        failure = transform.explain_failure(cloud, job, listener)
    gatherer = replace(batch.gatherer, responses=transform.list_responses(cloud, batch.gatherer.run))
    unanswered = gather(gatherer, batch.missing, listener)
    if failure is not None:
        raise failure
    if unanswered:
        raise CloudError(
            f"{unanswered:,} films have no response in {gatherer.run.responses}; run the same command again to send "
            "them."
        )
    jobs = transform.jobs_of(cloud, gatherer.run)
    for job in jobs:
        transform.remove_model(cloud, job["ModelName"])
    gatherer.job.destination.remove(batch.others)
    return sum_up(batch, gatherer, jobs)


def gather(gatherer: Gatherer, shards: Sequence[Shard], listener: Listener) -> int:
    """Publish the parts of the shards whose films all have responses; return how many films have none."""
    unanswered = 0
    with listener.progress("gathering", sum(shard.films for shard in shards), "films"):
        for shard in shards:
            if not gatherer.publish(shard):
                unanswered += len(gatherer.to_send(shard))
            listener.advance(shard.films)
    return unanswered


def sum_up(batch: Batch, gatherer: Gatherer, jobs: Sequence[dict[str, Any]]) -> Summary:
    """Write the summary of all parts. Its speed is that of the jobs, by AWS's times, without the start of instances."""
    took = sum((transform.duration(job) for job in jobs), timedelta())
    last = jobs[-1] if jobs else {}
    destination, contract = gatherer.job.destination, gatherer.contract
    summary = summarise(
        contract,
        load_reference(gatherer.bundle, contract),
        read_tally(destination, batch.shards, contract),
        shards=Shards(total=len(batch.shards), there=len(batch.there), again_after_loss=0, again_as_slow=0),
        sources=tuple(printable(source.address) for source in gatherer.job.sources),
        options=asdict(gatherer.job.options),
        scored=len(gatherer.responses),
        seconds=took.total_seconds(),
        workers=last.get("TransformResources", {}).get("InstanceCount", 0),
        threads=last.get("MaxConcurrentTransforms", 0),
    )
    destination.replace(SUMMARY_FILE, (summary.model_dump_json(indent=2) + "\n").encode())
    return summary
