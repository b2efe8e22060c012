"""The responses of batch transform jobs, gathered into the Parquet parts that `pneumoscope score` writes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from pneumoscope import __version__
from pneumoscope.archive import printable
from pneumoscope.aws.client.transform import SUFFIX, Run
from pneumoscope.aws.session import TRANSFERS, Cloud, translate_errors
from pneumoscope.contract import Contract
from pneumoscope.engine import choose_rule
from pneumoscope.engine.bundle import model_name
from pneumoscope.engine.document import DecisionDocument, ModelName
from pneumoscope.errors import CloudError
from pneumoscope.parallel import map_ordered
from pneumoscope.score.listing import Entry
from pneumoscope.score.parts import About, Layout, contract_sha256, write_part
from pneumoscope.score.shards import Shard
from pneumoscope.score.tally import Row, Tally
from pneumoscope.score.worker import Scorer, ScoringJob
from pneumoscope.settings.aws_names import Location
from pneumoscope.settings.serve import BATCH_MEGABYTES, MEGABYTE

_BESIDE = ("notice", "batch")  # keys of a response that are not the decision's


@dataclass(frozen=True, kw_only=True)
class Gatherer:
    """Makes Parquet parts from the responses to a run's films.

    Args:
        cloud: the clients for the job's region.
        run: whose responses they are.
        folder: of the films in S3.
        bundle: folder on this machine with the model that the job runs.
        contract: of the bundle.
        job: source, destination and options.
        responses: names of the responses that there are; see `transform.list_responses`.
    """

    cloud: Cloud
    run: Run
    folder: Location
    bundle: Path
    contract: Contract
    job: ScoringJob
    responses: set[str]

    def to_send(self, shard: Shard) -> list[Entry]:
        """The shard's films that a job has to decide on: those without a response, except those that it cannot take."""
        return [entry for entry in shard.entries() if is_sendable(entry) and self._response(entry) is None]

    def publish(self, shard: Shard) -> bool:
        """Publish the part of a shard; return False, and publish nothing, if a response is missing.

        Raises:
            CloudError: a response cannot be read, or is not one of this model's.
        """
        entries = shard.entries()
        if any(is_sendable(entry) and self._response(entry) is None for entry in entries):
            return False
        rows = list(self._rows(entries))
        embedding = next((len(row.embedding) for row in rows if row.embedding is not None), None)
        layout = Layout.of(self.contract, embedding=embedding if self.job.options.embedding else None)
        about = About(
            schema_version=1,
            pneumoscope=__version__,
            shard=shard.name,
            source=self._address,
            model=ModelName(**model_name(self.contract)),
            contract=contract_sha256(self.contract),
            tally=Tally.of(rows),
        )
        self.job.destination.publish(shard.name, write_part(rows, layout, about))
        return True

    @property
    def _address(self) -> str:
        return printable(self.job.sources[0].address)

    def _rows(self, entries: Sequence[Entry]) -> Iterator[Row]:
        here = iter(self._decide_here([entry for entry in entries if not is_sendable(entry)]))
        sent = map_ordered(self._read, [each for each in entries if is_sendable(each)], workers=TRANSFERS)
        for entry in entries:
            yield next(sent) if is_sendable(entry) else next(here)

    def _decide_here(self, entries: list[Entry]) -> Iterator[Row]:
        """Rows of films that no job can take: each is rejected, as `pneumoscope score` rejects it."""
        if not entries:
            return iter(())
        return self._scorer.rows(0, entries)

    @cached_property
    def _scorer(self) -> Scorer:
        return Scorer(self.bundle, self.job)

    def _response(self, entry: Entry) -> str | None:
        """The name of a film's response; None if the film has no response.

        AWS's page of TransformOutput and its own example differ on which part of a film's key the response's key keeps.
        """
        key = (self.folder / entry.name).key
        names = (entry.name, key, "/".join(key.split("/")[-entry.name.count("/") - 2 :]))
        return next((name for name in names if name in self.responses), None)

    def _read(self, entry: Entry) -> Row:
        file = self.run.responses / f"{self._response(entry)}{SUFFIX}"
        with translate_errors(f"reading {file}"):
            found = self.cloud.client("s3").get_object(Bucket=file.bucket, Key=file.key)
            content = found["Body"].read()
        return parse_response(content, entry.name, self._address, self.contract, coverage=self.job.options.coverage)


def is_sendable(entry: Entry) -> bool:
    """Whether a batch transform job can take a film. An empty object, or one over 100 MB, would make the job fail."""
    return 0 < entry.size <= BATCH_MEGABYTES * MEGABYTE


def parse_response(content: bytes, name: str, source: str, contract: Contract, *, coverage: float | None = None) -> Row:
    """The row of a film from the response of a service that runs with `--batch`.

    Args:
        content: the response's bytes.
        name: of the film in its source.
        source: the source's address.
        contract: of the model that the response must come from.
        coverage: at which the film must be decided; by default the contract's own.

    Raises:
        CloudError: it is not such a response, or is another model's, or at another coverage.
    """
    try:
        response: dict[str, Any] = json.loads(content)
        facts = response["batch"]
        document = {key: value for key, value in response.items() if key not in _BESIDE}
        decision = DecisionDocument.model_validate(document | {"image": printable(name)})
        embedding = facts["embedding"]
        row = Row(
            document=decision,
            source=source,
            file_sha256=facts["file_sha256"],
            distance=facts["distance"],
            embedding=None if embedding is None else np.array(embedding, np.float32),
            shares=facts["shares"],
        )
    except (ValueError, KeyError, TypeError, ValidationError) as failure:
        raise CloudError(
            f"the response to {printable(name)} is not one of `pneumoscope serve --batch`; is --image of this version?"
        ) from failure
    if decision.model.sha256 != model_name(contract)["sha256"]:
        raise CloudError(f"the response to {printable(name)} is of another model than --model; delete the responses.")
    expected = choose_rule(contract, coverage=coverage).row.coverage
    # Container images older than the variable PNEUMOSCOPE_COVERAGE ignore it.
    if decision.status != "rejected" and decision.coverage != expected:
        raise CloudError(
            f"the response to {printable(name)} is at coverage {decision.coverage}, not {expected}; is --image of this "
            "version?"
        )
    return row
