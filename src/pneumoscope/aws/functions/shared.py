"""What the two Lambda functions share: settings, clients, one way to a decision, its record and its metrics.

Everything is made at first use and kept while Lambda keeps the process; importing does nothing. What is
written to the log never names a film: file names, and what AWS says of keys, may tell of a patient.
"""

import hmac
import math
import os
import secrets
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeAlias

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pneumoscope.aws.endpoint import Answer, Endpoint, fit_film
from pneumoscope.aws.limits import REALTIME
from pneumoscope.aws.session import Cloud, code_of, fetch_file, in_words
from pneumoscope.contract import CONTRACT_FILE, DISCLAIMER, Contract, load_contract
from pneumoscope.errors import CloudError, ImageError, PneumoscopeError, UsageError
from pneumoscope.settings.aws_names import Location, Place

if TYPE_CHECKING:  # these load the model's libraries, which an endpoint's caller rarely needs
    from pneumoscope.engine import Engine

Event: TypeAlias = dict[str, Any]
Work: TypeAlias = Callable[[Event, LambdaContext], dict[str, Any]]

_GONE = {"404", "NoSuchKey", "NoSuchVersion", "MethodNotAllowed"}  # the last: a version that marks a deletion
_DIGITS = 16  # of a film's mark in the log
#: Of an event that Lambda delivers by itself, at first and again: the template's MaximumRetryAttempts and one.
TRIES = 3
#: The item of the table that holds the key of marks; the others are films done.
KEY_OF_MARKS = "key-of-marks"
_SECRET_BYTES = 32


class Settings(BaseModel):
    """The functions' environment: a field's variable is its name in capitals after PNEUMOSCOPE_."""

    model_config = ConfigDict(frozen=True, alias_generator=lambda name: f"PNEUMOSCOPE_{name.upper()}")

    endpoint: str = Field(default="", description="SageMaker endpoint to ask; empty: classify in this process.")
    model: Place = Field(description="The model.tar.gz; contract.json lies beside it.")
    bucket: str = Field(min_length=3, description="Of films and results.")
    films_prefix: str = Field(default="films/", pattern=r"^[^/].*/$")
    results_prefix: str = Field(default="results/", pattern=r"^[^/].*/$")
    table: str = Field(min_length=3, description="DynamoDB table that remembers which uploads are done.")
    cors_origins: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")], ...] = ()
    endpoint_limit: int = Field(default=REALTIME, ge=1000, description="Bytes that the endpoint takes.")
    seconds: float = Field(default=60, ge=2, description="The function's own time limit.")
    event_age: float = Field(default=3600, ge=60, description="Seconds that an upload may wait for the function.")

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """Take the settings from environment variables; an empty one is as none.

        Raises:
            UsageError: one is missing or wrong.
        """
        try:
            return cls.model_validate({name: value for name, value in environment.items() if value})
        except ValidationError as failure:
            raise UsageError(_explained(failure)) from None

    @field_validator("model")
    @classmethod
    def _archive(cls, given: Location) -> Location:
        if not given.key.endswith(".tar.gz"):
            raise ValueError("it names no model.tar.gz")
        return given

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _separate(cls, given: str) -> tuple[str, ...]:
        return tuple(origin.strip() for origin in given.split(",") if origin.strip())

    @model_validator(mode="after")
    def _apart(self) -> Self:
        """A result that was itself taken for a film would make the next result, and so on without end."""
        films, results = self.films_prefix, self.results_prefix
        if films.startswith(results) or results.startswith(films):
            raise ValueError(
                f"PNEUMOSCOPE_FILMS_PREFIX {films!r} and PNEUMOSCOPE_RESULTS_PREFIX {results!r} contain one another; "
                "choose two that do not, such as films/ and results/"
            )
        return self

    @property
    def how(self) -> str:
        """How films are decided on, for results and the log."""
        return "endpoint" if self.endpoint else "in-process"


def _explained(failure: ValidationError) -> str:
    problem = failure.errors()[0]
    words = problem["msg"].removeprefix("Value error, ").rstrip(".")
    if not problem["loc"]:
        return f"{words}."
    name = problem["loc"][0]
    if problem["type"] == "missing":
        return f"the environment variable {name} is missing; set it on the function."
    return f"the environment variable {name} is {problem['input']!r:.100}: {words}; correct it on the function."


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was read of an object; nothing of one that is not there, and no data of one that is too large."""

    data: bytes | None = None
    size: int | None = None
    etag: str | None = None


@cache
def settings() -> Settings:
    """This process's settings.

    Raises:
        UsageError: a variable is missing or wrong.
    """
    return Settings.read(os.environ)


@cache
def cloud() -> Cloud:
    """This process's clients of AWS; what does not answer them is given up within the function's time."""
    return Cloud(answer_seconds=0.25 * settings().seconds)


@cache
def logger() -> Logger:
    """Structured lines on stdout, which Lambda keeps."""
    return Logger(service=os.environ.get("POWERTOOLS_SERVICE_NAME", "pneumoscope"))


def run(work: Work, event: Event, context: LambdaContext) -> dict[str, Any]:
    """Do a call's work with Lambda's request id in every line of the log.

    The event is in none of them, whatever powertools' variables say.

    Raises:
        UsageError: the function's environment is wrong.
    """
    settings()
    return logger().inject_lambda_context(work, log_event=False, clear_state=True)(event, context)


def classify(film: bytes) -> Answer:
    """Decide on a film by the endpoint, or in this process if none is set. What is no film is rejected.

    Args:
        film: the bytes of a file; one above the endpoint's limit is shrunk by the contract's rule.

    Returns:
        The decision; its `milliseconds` are the whole way's.

    Raises:
        BusyError: the endpoint may answer later.
        CloudError: there is no such endpoint or model, or it may not be used.
        BundleError: the model is damaged.
    """
    started, shrunk = time.perf_counter(), False
    try:
        if not settings().endpoint:
            document = _engine().predict(film).as_json()
        elif film:
            content, shrunk = fit_film(film, settings().endpoint_limit, _contract)
            document = _endpoint().classify(content).prediction
        else:
            document = refuse("the file is empty.", ImageError.code)
    except ImageError as refusal:
        document = refuse(str(refusal), refusal.code)
    milliseconds = (time.perf_counter() - started) * 1000
    return Answer(prediction=document | {"notice": DISCLAIMER}, milliseconds=milliseconds, shrunk=shrunk)


def refuse(reason: str, code: str) -> dict[str, Any]:
    """The document that the service gives of a file it rejects, for a file that did not come so far."""
    from pneumoscope.engine import rejection

    return rejection(_contract(), code, reason).as_json() | {"notice": DISCLAIMER}


@cache
def _endpoint() -> Endpoint:
    """Of one film: who is not answered can still say so, and a busy endpoint is asked again early or not at all."""
    seconds = settings().seconds
    return Endpoint(cloud().asker(0.75 * seconds), settings().endpoint, patience=0.15 * seconds)


@cache
def _engine() -> "Engine":
    """The bundle in S3, loaded and verified; its files are not kept."""
    from pneumoscope.aws.unpack import fetch_bundle

    with fetch_bundle(cloud(), settings().model) as (_, engine):
        return engine


def most_bytes() -> int:
    """The largest file that is read as a film."""
    from pneumoscope.imaging import DEFAULT_LIMITS

    return DEFAULT_LIMITS.max_bytes


def result_key(film: str) -> str:
    """Where the result of the film at a key lies."""
    return f"{settings().results_prefix}{film.removeprefix(settings().films_prefix)}.json"


def failure_key(film: str) -> str:
    """Where it lies how often the film at a key could not be decided on; no result's key ends so."""
    return f"{settings().results_prefix}{film.removeprefix(settings().films_prefix)}.failed"


@cache
def _contract() -> Contract:
    if not settings().endpoint:
        return _engine().contract
    with TemporaryDirectory() as folder:
        fetch_file(cloud(), settings().model.folder / CONTRACT_FILE, Path(folder) / CONTRACT_FILE)
        return load_contract(Path(folder))


@contextmanager
def nameless(what: str) -> Iterator[None]:
    """Turn botocore's errors into ours by their codes alone: AWS's sentences and addresses quote the object's key.

    Args:
        what: names what was tried, such as "reading the film".

    Raises:
        BusyError: it may work later.
        CloudError: it will not.
    """
    try:
        with in_words(what):
            yield
    except CloudError as failure:
        cause = failure.__cause__
        code = code_of(cause) if isinstance(cause, ClientError) else type(cause).__name__
        sentence = f"{what}: AWS answers {code}; look whether the function's role may, and whether S3 is reachable."
        raise type(failure)(sentence) from None


def read_object(what: str, key: str, *, version: str | None = None, most: float = math.inf) -> Found:
    """An object of the bucket as its version was, or if it has none, as it is now; up to `most` bytes of it.

    Its length is known before it is read. `what` names it, as for `nameless`.

    Raises:
        BusyError, CloudError: it cannot be read, though it may be there.
    """
    place = {"Bucket": settings().bucket, "Key": key} | ({} if version is None else {"VersionId": version})
    with nameless(what):
        try:
            reply = cloud().client("s3").get_object(**place)
        except ClientError as failure:
            if is_absent(failure, key):
                return Found()
            raise
        size = int(reply["ContentLength"])
        with closing(reply["Body"]) as body:
            data = body.read() if size <= most else None
    return Found(data=data, size=size, etag=reply["ETag"].strip('"'))


def is_absent(failure: ClientError, key: str) -> bool:
    """Whether an object could not be read because it is not there.

    Where listing is allowed for a prefix only, S3 may say AccessDenied of what is missing; a listing tells.
    """
    if code_of(failure) != "AccessDenied":
        return code_of(failure) in _GONE
    found = cloud().client("s3").list_objects_v2(Bucket=settings().bucket, Prefix=key, MaxKeys=1)
    return not any(each["Key"] == key for each in found.get("Contents", []))


def record(decided: Answer, **more: Any) -> None:
    """Write one line of log on a decision, and count it in CloudWatch's metrics."""
    prediction, status = decided.prediction, str(decided.prediction["status"])
    said = {name: prediction[name] for name in ("status", "label", "probabilities", "reason_codes")} | {
        "model": prediction["model"]["sha256"],
        "how": settings().how,
        "shrunk": decided.shrunk,
        "milliseconds": round(decided.milliseconds, 1),
    }
    logger().info("decision", extra=more | said)
    namespace = os.environ.get("POWERTOOLS_METRICS_NAMESPACE", "Pneumoscope")
    metrics = EphemeralMetrics(service=logger().service, namespace=namespace)
    metrics.add_dimensions(service=logger().service, status=status)  # beside the service alone
    metrics.add_metric("Decisions", MetricUnit.Count, 1)
    metrics.add_metric("Rejected", MetricUnit.Count, int(status == "rejected"))
    metrics.add_metric("Milliseconds", MetricUnit.Milliseconds, decided.milliseconds)
    metrics.flush_metrics()


def mark(*names: str) -> str:
    """What stands for a film in the log: the beginning of an HMAC over its names.

    Keyed with a secret: otherwise anyone who guesses a name could confirm it beside a diagnosis.

    Raises:
        BusyError, CloudError: the stack's table cannot be used.
    """
    return hmac.new(_secret(), "\0".join(names).encode(), "sha256").hexdigest()[:_DIGITS]


@cache
def _secret() -> bytes:
    """The stack's key of marks: drawn by the first function that needs it, and the same for all from then on."""
    with nameless("reading the key of marks"):
        reply = (
            cloud()
            .client("dynamodb")
            .update_item(
                TableName=settings().table,
                Key={"id": {"S": KEY_OF_MARKS}},
                UpdateExpression="SET hmac_key = if_not_exists(hmac_key, :new)",
                ExpressionAttributeValues={":new": {"B": secrets.token_bytes(_SECRET_BYTES)}},
                ReturnValues="ALL_NEW",
            )
        )
    return bytes(reply["Attributes"]["hmac_key"]["B"])


def told(failure: BaseException) -> str:
    """An error for the log: our sentences as they are; of others, which may quote a film, the kind and the place."""
    if isinstance(failure, PneumoscopeError):
        return str(failure)
    frames = reversed(traceback.extract_tb(failure.__traceback__))
    return f"{type(failure).__name__} at {' < '.join(f'{each.name}:{each.lineno}' for each in frames)}."
