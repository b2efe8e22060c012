"""What the two Lambda functions share: settings, clients, the decision on a film, its log line and its metrics.

Everything is created at first use and kept while Lambda keeps the process; importing creates nothing. File names
can identify a patient. So the log never names a film, and the keys of objects are removed from AWS's messages.
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

from pneumoscope.aws.endpoint import Endpoint, TimedDecision, fit_film
from pneumoscope.aws.limits import REALTIME
from pneumoscope.aws.session import Cloud, error_code, fetch_file, translate_errors
from pneumoscope.contract import CONTRACT_FILE, DISCLAIMER, Contract, load_contract
from pneumoscope.errors import CloudError, ImageError, PneumoscopeError, UsageError
from pneumoscope.settings.aws_names import Location, S3Location

if TYPE_CHECKING:  # loads ONNX Runtime and the image decoders, which calls to an endpoint rarely need
    from pneumoscope.engine import Engine

Event: TypeAlias = dict[str, Any]
Work: TypeAlias = Callable[[Event, LambdaContext], dict[str, Any]]

#: S3's codes for an object that does not exist; MethodNotAllowed is for a version that is a delete marker.
_ABSENT_CODES = {"404", "NoSuchKey", "NoSuchVersion", "MethodNotAllowed"}
_PSEUDONYM_DIGITS = 16  # hexadecimal, 64 bits
#: How often Lambda delivers an event of an asynchronous invocation: once, and the template's MaximumRetryAttempts.
ATTEMPTS = 3
#: The table's item with the secret key of the pseudonyms; all other items are uploads already decided on.
PSEUDONYM_KEY_ITEM = "key-of-marks"  # existing tables store this name: pseudonyms were first called marks
_SECRET_BYTES = 32


class Settings(BaseModel):
    """The functions' settings, from the environment: the field `table` is the variable PNEUMOSCOPE_TABLE."""

    model_config = ConfigDict(frozen=True, alias_generator=lambda name: f"PNEUMOSCOPE_{name.upper()}")

    endpoint: str = Field(default="", description="SageMaker endpoint to call; empty: classify in this process.")
    model: S3Location = Field(description="S3 address of the model.tar.gz; contract.json is beside it.")
    bucket: str = Field(min_length=3, description="Bucket of the films and the results.")
    films_prefix: str = Field(default="films/", pattern=r"^[^/].*/$")
    results_prefix: str = Field(default="results/", pattern=r"^[^/].*/$")
    table: str = Field(min_length=3, description="DynamoDB table of the uploads already decided on.")
    cors_origins: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")], ...] = ()
    endpoint_limit: int = Field(default=REALTIME, ge=1000, description="Bytes that the endpoint accepts.")
    seconds: float = Field(default=60, ge=2, description="The function's own time limit.")
    event_age: float = Field(default=3600, ge=60, description="Seconds that an upload may wait for the function.")

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings from environment variables; an empty variable counts as unset.

        Raises:
            UsageError: a variable is missing or invalid.
        """
        try:
            return cls.model_validate({name: value for name, value in environment.items() if value})
        except ValidationError as failure:
            raise UsageError(_describe_invalid(failure)) from None

    @field_validator("model")
    @classmethod
    def _require_archive(cls, model: Location) -> Location:
        if not model.key.endswith(".tar.gz"):
            raise ValueError("it must end with .tar.gz, as s3://BUCKET/FOLDER/model.tar.gz does")
        return model

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, text: str) -> tuple[str, ...]:
        return tuple(origin.strip() for origin in text.split(",") if origin.strip())

    @model_validator(mode="after")
    def _require_separate_prefixes(self) -> Self:
        """Refuse prefixes that overlap: a result read as a film would lead to another result, without end."""
        films, results = self.films_prefix, self.results_prefix
        if films.startswith(results) or results.startswith(films):
            raise ValueError(
                f"PNEUMOSCOPE_FILMS_PREFIX {films!r} and PNEUMOSCOPE_RESULTS_PREFIX {results!r} overlap: one begins "
                "with the other; choose two that do not, such as films/ and results/"
            )
        return self

    @property
    def how(self) -> str:
        """Where films are classified, as results and log lines state it."""
        return "endpoint" if self.endpoint else "in-process"


def _describe_invalid(failure: ValidationError) -> str:
    problem = failure.errors()[0]
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    if not problem["loc"]:
        return f"{message}."
    name = problem["loc"][0]
    if problem["type"] == "missing":
        return f"the environment variable {name} is missing; set it on the function."
    return f"the environment variable {name} is {problem['input']!r:.100}: {message}; correct it on the function."


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """An S3 object as read. All fields are None if it does not exist; `data` alone is None if it is too large."""

    data: bytes | None = None
    size: int | None = None
    etag: str | None = None


@cache
def settings() -> Settings:
    """This process's settings.

    Raises:
        UsageError: a variable is missing or invalid.
    """
    return Settings.read(os.environ)


@cache
def cloud() -> Cloud:
    """This process's AWS clients.

    Their read timeout is a quarter of the function's time, so that the two attempts that the template allows
    (AWS_MAX_ATTEMPTS) end within that time.
    """
    return Cloud(read_seconds=0.25 * settings().seconds)


@cache
def logger() -> Logger:
    """The logger: one JSON document per line on stdout, which Lambda sends to CloudWatch Logs."""
    return Logger(service=os.environ.get("POWERTOOLS_SERVICE_NAME", "pneumoscope"))


def run(work: Work, event: Event, context: LambdaContext) -> dict[str, Any]:
    """Handle an invocation, with Lambda's request id in every log line.

    The event, which contains object keys, is never logged, not even if POWERTOOLS_LOGGER_LOG_EVENT asks for it.

    Raises:
        UsageError: the function's environment is invalid.
    """
    settings()
    return logger().inject_lambda_context(work, log_event=False, clear_state=True)(event, context)


def classify(film: bytes) -> TimedDecision:
    """Decide on a film by the endpoint, or in this process if none is set. A file that is not a film is rejected.

    Args:
        film: the bytes of an image file; one above the endpoint's limit is shrunk by the contract's input rule.

    Returns:
        The decision; `milliseconds` includes shrinking, calling and retrying.

    Raises:
        BusyError: the endpoint may respond later.
        CloudError: the endpoint or the model does not exist, or access to it is denied.
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
            document = rejection_document("the file is empty.", ImageError.code)
    except ImageError as refusal:
        document = rejection_document(str(refusal), refusal.code)
    milliseconds = (time.perf_counter() - started) * 1000
    return TimedDecision(prediction=document | {"notice": DISCLAIMER}, milliseconds=milliseconds, shrunk=shrunk)


def rejection_document(reason: str, code: str) -> dict[str, Any]:
    """The service's document for a rejected file, for files that are rejected before the model sees them."""
    from pneumoscope.engine import rejection

    return rejection(_contract(), code, reason).as_json() | {"notice": DISCLAIMER}


@cache
def _endpoint() -> Endpoint:
    """The endpoint, with time limits for one film."""
    # One attempt may take three quarters of the function's time, so that a failure can still be logged; retries start
    # only in the first 15 %, so that a late one is never cut off by the function's time limit.
    seconds = settings().seconds
    return Endpoint(cloud().runtime_client(0.75 * seconds), settings().endpoint, patience=0.15 * seconds)


@cache
def _engine() -> "Engine":
    """The engine of the bundle in S3, loaded and verified; its files are not kept on disk."""
    from pneumoscope.aws.unpack import fetch_bundle

    with fetch_bundle(cloud(), settings().model) as (_, engine):
        return engine


def max_film_bytes() -> int:
    """The largest file that is decoded as a film, in bytes."""
    from pneumoscope.imaging import DEFAULT_LIMITS

    return DEFAULT_LIMITS.max_bytes


def result_key(film: str) -> str:
    """The key of the result for the film at a key."""
    return f"{settings().results_prefix}{film.removeprefix(settings().films_prefix)}.json"


def failure_key(film: str) -> str:
    """The key of the count of failures for the film at a key; results end in .json, so the two cannot collide."""
    return f"{settings().results_prefix}{film.removeprefix(settings().films_prefix)}.failed"


@cache
def _contract() -> Contract:
    if not settings().endpoint:
        return _engine().contract
    with TemporaryDirectory() as folder:
        fetch_file(cloud(), settings().model.folder / CONTRACT_FILE, Path(folder) / CONTRACT_FILE)
        return load_contract(Path(folder))


@contextmanager
def redact_errors(what: str) -> Iterator[None]:
    """Turn botocore's errors into ours by their codes alone: AWS's messages and URLs quote the object's key.

    Args:
        what: the operation, such as "reading the film".

    Raises:
        BusyError: the failure is temporary; the operation may succeed later.
        CloudError: the operation will not succeed as it is.
    """
    try:
        with translate_errors(what):
            yield
    except CloudError as failure:
        cause = failure.__cause__
        code = error_code(cause) if isinstance(cause, ClientError) else type(cause).__name__
        sentence = f"{what}: AWS answers {code}; check that the function's role allows it and that AWS can be reached."
        raise type(failure)(sentence) from None  # a chained traceback would quote the key


def read_object(what: str, key: str, *, version: str | None = None, max_bytes: float = math.inf) -> StoredObject:
    """Read an object of the bucket, unless it is larger than `max_bytes`; its length is known before its data is read.

    Args:
        what: the operation, as for `redact_errors`.
        key: the object's key.
        version: the version to read; by default the current one.
        max_bytes: the largest object whose data is read.

    Raises:
        BusyError, CloudError: the object cannot be read, although it may exist.
    """
    place = {"Bucket": settings().bucket, "Key": key} | ({} if version is None else {"VersionId": version})
    with redact_errors(what):
        try:
            reply = cloud().client("s3").get_object(**place)
        except ClientError as failure:
            if is_absent(failure, key):
                return StoredObject()
            raise
        size = int(reply["ContentLength"])
        with closing(reply["Body"]) as body:
            data = body.read() if size <= max_bytes else None
    return StoredObject(data=data, size=size, etag=reply["ETag"].strip('"'))


def is_absent(failure: ClientError, key: str) -> bool:
    """Whether an object could not be read because it does not exist.

    Where listing is allowed for a prefix only, S3 may answer AccessDenied for a missing object, too; listing the key
    tells the two apart.
    """
    if error_code(failure) != "AccessDenied":
        return error_code(failure) in _ABSENT_CODES
    found = cloud().client("s3").list_objects_v2(Bucket=settings().bucket, Prefix=key, MaxKeys=1)
    return not any(each["Key"] == key for each in found.get("Contents", []))


def record(decided: TimedDecision, **more: Any) -> None:
    """Write a decision to the log, as one line, and to CloudWatch's metrics."""
    prediction, status = decided.prediction, str(decided.prediction["status"])
    line = {name: prediction[name] for name in ("status", "label", "probabilities", "reason_codes")} | {
        "model": prediction["model"]["sha256"],
        "how": settings().how,
        "shrunk": decided.shrunk,
        "milliseconds": round(decided.milliseconds, 1),
    }
    logger().info("decision", extra=more | line)
    namespace = os.environ.get("POWERTOOLS_METRICS_NAMESPACE", "Pneumoscope")
    metrics = EphemeralMetrics(service=logger().service, namespace=namespace)
    metrics.add_dimensions(service=logger().service, status=status)  # in addition to the service alone
    metrics.add_metric("Decisions", MetricUnit.Count, 1)
    metrics.add_metric("Rejected", MetricUnit.Count, int(status == "rejected"))
    metrics.add_metric("Milliseconds", MetricUnit.Milliseconds, decided.milliseconds)
    metrics.flush_metrics()


def pseudonym(*names: str) -> str:
    """A film's pseudonym in the log: the first 16 hexadecimal digits of an HMAC-SHA256 over its names.

    The key is secret. With a plain hash, anyone who guesses a film's name could find its decision in the log.

    Raises:
        BusyError, CloudError: the stack's table cannot be read or written.
    """
    return hmac.new(_pseudonym_key(), "\0".join(names).encode(), "sha256").hexdigest()[:_PSEUDONYM_DIGITS]


@cache
def _pseudonym_key() -> bytes:
    """The stack's pseudonym key: generated by the first function that needs it, then read by all of them."""
    with redact_errors("reading the pseudonym key"):
        reply = (
            cloud()
            .client("dynamodb")
            .update_item(
                TableName=settings().table,
                Key={"id": {"S": PSEUDONYM_KEY_ITEM}},
                # One atomic operation: of functions that start at once, the first one's key counts for all.
                UpdateExpression="SET hmac_key = if_not_exists(hmac_key, :new)",
                ExpressionAttributeValues={":new": {"B": secrets.token_bytes(_SECRET_BYTES)}},
                ReturnValues="ALL_NEW",
            )
        )
    return bytes(reply["Attributes"]["hmac_key"]["B"])


def log_reason(failure: BaseException) -> str:
    """What the log states of an error.

    For our own errors it is the message; for others, whose messages may quote a film, only the type and the place.
    """
    if isinstance(failure, PneumoscopeError):
        return str(failure)
    frames = reversed(traceback.extract_tb(failure.__traceback__))
    return f"{type(failure).__name__} at {' < '.join(f'{each.name}:{each.lineno}' for each in frames)}."
