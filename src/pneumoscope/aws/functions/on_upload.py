"""The Lambda function behind a bucket: it decides on every uploaded film, and writes a result and a log line.

S3, directly or through EventBridge, delivers an event at least once; an upload is decided on once however often its
event is delivered. A file that is not a film is not an error: its result has the status `rejected`. What prevents a
decision is raised: Lambda then retries, and after the last attempt sends the event to the dead-letter queue.

Of two uploads to one key, the result of the later one is kept.

The result of `films/NAME` is `results/NAME.json`, with the default prefixes; `results/NAME.failed` counts its failures.
"""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal
from urllib.parse import unquote_plus

from aws_lambda_powertools.utilities.idempotency import DynamoDBPersistenceLayer, IdempotencyConfig, idempotent_function
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
    IdempotencyPersistenceLayerError,
)
from aws_lambda_powertools.utilities.typing import LambdaContext

from pneumoscope.aws.endpoint import TimedDecision
from pneumoscope.aws.functions import shared
from pneumoscope.aws.functions.shared import Event, StoredObject, cloud, logger, settings
from pneumoscope.aws.session import call_or_none
from pneumoscope.errors import BusyError, CloudError, ImageError, PneumoscopeError, UsageError

_CREATED = ("Object Created", "ObjectCreated:")  # as EventBridge and as S3 itself name the event
_SEQUENCER = "sequencer"  # key in a result's metadata
_CONFLICT = "PreconditionFailed|ConditionalRequestConflict"
_IDENTITY = "[bucket, key, version || sequencer]"  # equal for all events of one upload, and for no others
_REMEMBER_SECONDS = 2 * 24 * 3600  # EventBridge retries for up to 24 h, and Lambda keeps an event for up to 6 h


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An object that was put into a bucket; `key` is decoded, as S3 stores it."""

    bucket: str
    key: str
    version: str | None
    sequencer: str | None

    @property
    def pseudonym(self) -> str:
        """The film's pseudonym in the log."""
        return shared.pseudonym(self.bucket, self.key)


def handler(event: Event, context: LambdaContext) -> dict[str, Any]:
    """Decide on the films of an event, and store the results.

    Args:
        event: EventBridge's "Object Created", or S3's own notification of one or several objects.
        context: Lambda's invocation context.

    Returns:
        `films`, the number of films in the event, and `ignored`, the number of its other records.

    Raises:
        PneumoscopeError: some films could not be decided on now. The others are done, and a retry skips them.
    """
    return shared.run(_process_event, event, context)


def _process_event(event: Event, context: LambdaContext) -> dict[str, Any]:
    _idempotency_config().register_lambda_context(context)  # lets the "in progress" mark of a crashed call expire
    done: Counter[str] = Counter(films=0, ignored=0)
    failures = list[PneumoscopeError]()
    # Lambda accepts partial failures from queues and streams only, so one failed film fails the whole event.
    for each in records(event):
        try:
            done[_process_record(each, str(context.aws_request_id))] += 1
        except Exception as failure:  # noqa: BLE001 (the event's other films are processed, whatever fails)
            failures.append(
                failure if isinstance(failure, PneumoscopeError) else CloudError(shared.log_reason(failure))
            )
    if failures:
        raise failures[0] if len(failures) == 1 else CloudError(" ".join(map(str, failures)))
    return dict(done)


def _process_record(each: Event, request_id: str) -> Literal["films", "ignored"]:
    """Decide on the film of one record, or ignore the record."""
    upload = read_record(each)
    reason = "not the creation of an object" if upload is None else ignore_reason(upload)
    if upload is None or reason is not None:
        logger().info("ignored", extra={"reason": reason})
        return "ignored"
    try:
        _decide_once()(upload=upload, request_id=request_id)
    except IdempotencyAlreadyInProgressError:
        raise BusyError("another call is deciding on this film; try again later.") from None
    except IdempotencyPersistenceLayerError as failure:
        raise CloudError(
            f"table {settings().table} cannot be used ({failure}); check it and the function's role."
        ) from None
    except Exception as failure:
        _record_failure(upload, failure)
        raise
    return "films"


def _record_failure(upload: Upload, failure: Exception) -> None:
    """Log that a film failed, and count its failures beside the results, where the API reads them."""
    logger().error("failed", extra={"film": upload.pseudonym, "reason": shared.log_reason(failure)})
    place = {"Bucket": upload.bucket, "Key": shared.failure_key(upload.key)}
    with suppress(CloudError), shared.redact_errors("counting the failure"):  # the caller raises the film's own failure
        # Without s3:ListBucket for this prefix, S3 answers AccessDenied for a missing object.
        before = call_or_none("", cloud().client("s3").get_object, "NoSuchKey|AccessDenied", **place)
        tries = 0 if before is None else json.loads(before["Body"].read())["tries"]
        content = json.dumps({"tries": tries + 1}).encode()
        cloud().client("s3").put_object(**place, Body=content, ContentType="application/json")


def records(event: Event) -> list[Event]:
    """The records in an event: one in EventBridge's, a list in S3's, and none in S3's test event.

    A dead letter of Lambda's contains the event that failed, so it can be sent again unchanged.

    Raises:
        UsageError: the event is from neither service.
    """
    if isinstance(event.get("requestPayload"), dict):
        return records(event["requestPayload"])
    if event.get("Event") == "s3:TestEvent":
        return []
    if "detail-type" in event:
        return [event]
    if isinstance(event.get("Records"), list):
        return list(event["Records"])
    raise UsageError(
        "the event is neither EventBridge's nor a notification of S3; connect the function to a bucket by one of these."
    )


def read_record(each: Event) -> Upload | None:
    """The upload in a record; None if the record is of another event of a bucket, such as a deletion.

    Raises:
        UsageError: it is not a record of S3.
    """
    by_eventbridge = "detail-type" in each
    try:
        if not (each["detail-type"] if by_eventbridge else each["eventName"]).startswith(_CREATED):
            return None
        detail = each["detail" if by_eventbridge else "s3"]
        stored = detail["object"]
        version = stored.get("version-id" if by_eventbridge else "versionId")
        return Upload(
            bucket=detail["bucket"]["name"],
            key=stored["key"] if by_eventbridge else unquote_plus(stored["key"]),  # S3 form-encodes keys
            version=None if version == "null" else version,  # what a bucket without versioning reports
            sequencer=stored.get("sequencer"),
        )
    except (KeyError, TypeError) as failure:
        raise UsageError(f"the event's record lacks {failure}; connect the function to S3 or EventBridge.") from None


def ignore_reason(upload: Upload) -> str | None:
    """Why an object is not one of our films, or None. Results are never read as films."""
    if upload.bucket != settings().bucket:
        return "another bucket"
    if upload.key.startswith(settings().results_prefix):
        return "a result"
    if not upload.key.startswith(settings().films_prefix):
        return "outside the films' prefix"
    return "a folder" if upload.key.endswith("/") else None


@cache
def _idempotency_config() -> IdempotencyConfig:
    return IdempotencyConfig(
        event_key_jmespath=_IDENTITY, expires_after_seconds=_REMEMBER_SECONDS, hash_function="sha256"
    )


@cache
def _decide_once() -> Callable[..., None]:
    """`_decide`, made idempotent: an upload that is done already is not decided on again."""
    table = DynamoDBPersistenceLayer(settings().table, boto3_client=cloud().client("dynamodb"))
    once: Callable[..., None] = idempotent_function(
        _decide, data_keyword_argument="upload", persistence_store=table, config=_idempotency_config()
    )
    return once


def _decide(*, upload: Upload, request_id: str) -> None:
    film = shared.read_object("reading the film", upload.key, version=upload.version, max_bytes=shared.max_film_bytes())
    decided = _decision(film)
    if not _store(upload, film, decided, request_id):
        logger().info("outdated", extra={"film": upload.pseudonym})
    shared.record(decided, film=upload.pseudonym, bytes=film.size)


def _decision(film: StoredObject) -> TimedDecision:
    """The decision on a film; a missing or too large one is rejected."""
    if film.data is not None:
        return shared.classify(film.data)
    if film.size is None:
        document = shared.rejection_document("the file cannot be read (the object no longer exists).", "unreadable")
    else:
        sentence = f"the file has {film.size:,} bytes; at most {shared.max_film_bytes():,} are accepted."
        document = shared.rejection_document(sentence, ImageError.code)
    return TimedDecision(prediction=document, milliseconds=0.0)


def _store(upload: Upload, film: StoredObject, decided: TimedDecision, request_id: str) -> bool:
    """Write the result unless that of a later upload to the same key exists; return whether it was written."""
    document = {
        "film": asdict(upload) | {"etag": film.etag, "bytes": film.size},
        "decision": decided.prediction,
        "how": settings().how,
        "shrunk": decided.shrunk,
        "request_id": request_id,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    place = {"Bucket": upload.bucket, "Key": shared.result_key(upload.key)}
    content = json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
    with shared.redact_errors("storing the result"):
        sequencer, unchanged = _read_stored(place)
        if _is_later(sequencer, upload.sequencer):
            return False
        put, options = cloud().client("s3").put_object, place | unchanged | {"ContentType": "application/json"}
        metadata = {_SEQUENCER: upload.sequencer or ""}
        response = call_or_none("", put, _CONFLICT, **options, Body=content, Metadata=metadata)
    if response is None:  # the result has changed since it was read: a retry compares the sequencers again
        raise BusyError("another call stored a result for this film's key meanwhile; try again later.")
    return True


def _read_stored(place: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The sequencer of the stored result, and the S3 condition by which only that very result is replaced."""
    found = call_or_none("", cloud().client("s3").head_object, "404|403", **place)
    if found is None:  # S3 answers 403 for a missing object where the role lacks s3:ListBucket
        return "", {"IfNoneMatch": "*"}
    return str(found["Metadata"].get(_SEQUENCER, "")), {"IfMatch": found["ETag"]}


def _is_later(one: str, other: str | None) -> bool:
    """Whether one S3 sequencer is of a later event than another one of the same key.

    Sequencers are hexadecimal. To compare two of different lengths, the shorter one is padded with zeros on its right
    (docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html).
    """
    if not one or not other:
        return False
    length = max(len(one), len(other))
    return one.upper().ljust(length, "0") > other.upper().ljust(length, "0")
