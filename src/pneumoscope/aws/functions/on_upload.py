"""The Lambda function behind a bucket: a film is put there, its decision appears beside it and in the log.

Delivered at least once, by S3 itself or through EventBridge, and safe to deliver again: a film's upload is
decided on once. What is no film is a result like any other. Only what may be otherwise later is raised:
Lambda then tries again, and hands the event to the dead-letter queue when it has tried often enough.

Of two uploads to one key the later one's result stays.

A film's result lies at its key without the films' prefix, under the results' prefix, with `.json` after it; how often
it failed lies there with `.failed` after it.
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

from pneumoscope.aws.endpoint import Answer
from pneumoscope.aws.functions import shared
from pneumoscope.aws.functions.shared import Event, Found, cloud, logger, settings
from pneumoscope.aws.session import ask_for
from pneumoscope.errors import BusyError, CloudError, ImageError, PneumoscopeError, UsageError

_CREATED = ("Object Created", "ObjectCreated:")  # EventBridge's and S3's
_SEQUENCER = "sequencer"  # in a result's metadata
_CHANGED = "PreconditionFailed|ConditionalRequestConflict"
_IDENTITY = "[bucket, key, version || sequencer]"  # the same of every event that tells of an upload, and of no other
_REMEMBERED = 2 * 24 * 3600  # seconds; EventBridge delivers for a day, Lambda keeps an event for six hours


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An object that was put into a bucket. `key` is as in S3, decoded."""

    bucket: str
    key: str
    version: str | None
    sequencer: str | None

    @property
    def mark(self) -> str:
        """Stands for it in the log."""
        return shared.mark(self.bucket, self.key)


def handler(event: Event, context: LambdaContext) -> dict[str, Any]:
    """Decide on the films that an event tells of, and store the results.

    Args:
        event: EventBridge's "Object Created", or S3's own notification of one or several objects.
        context: Lambda's.

    Returns:
        How many films the event told of, and how many of its objects are none of ours.

    Raises:
        PneumoscopeError: some films could not be decided on now; the others are done, and stay so.
    """
    return shared.run(_take, event, context)


def _take(event: Event, context: LambdaContext) -> dict[str, Any]:
    _remembering().register_lambda_context(context)  # so that a call that dies is not at work for ever
    done: Counter[str] = Counter(films=0, ignored=0)
    failures = list[PneumoscopeError]()
    for each in records(event):  # Lambda takes partial answers about queues and streams only, not about such an event
        try:
            done[_settle(each, str(context.aws_request_id))] += 1
        except Exception as failure:  # noqa: BLE001 (whatever it is, the event's other films have their turn)
            failures.append(failure if isinstance(failure, PneumoscopeError) else CloudError(shared.told(failure)))
    if failures:
        raise failures[0] if len(failures) == 1 else CloudError(" ".join(map(str, failures)))
    return dict(done)


def _settle(each: Event, request_id: str) -> Literal["films", "ignored"]:
    """Do what one record asks for."""
    upload = read_record(each)
    reason = "no object was created" if upload is None else refusal(upload)
    if upload is None or reason is not None:
        logger().info("ignored", extra={"reason": reason})
        return "ignored"
    try:
        _once()(upload=upload, request_id=request_id)
    except IdempotencyAlreadyInProgressError:
        raise BusyError("another call decides on this film at the moment; try again later.") from None
    except IdempotencyPersistenceLayerError as failure:
        raise CloudError(f"table {settings().table} cannot be used ({failure}); look at it and at the role.") from None
    except Exception as failure:
        _note(upload, failure)
        raise
    return "films"


def _note(upload: Upload, failure: Exception) -> None:
    """Write into the log that a film failed, and beside the results how often, for the API to answer so."""
    logger().error("failed", extra={"film": upload.mark, "reason": shared.told(failure)})
    place = {"Bucket": upload.bucket, "Key": shared.failure_key(upload.key)}
    with suppress(CloudError), shared.nameless("noting the failure"):  # the film's own failure is raised
        # Without the right to list, S3 denies access to what is absent.
        before = ask_for("", cloud().client("s3").get_object, "NoSuchKey|AccessDenied", **place)
        tries = 0 if before is None else json.loads(before["Body"].read())["tries"]
        content = json.dumps({"tries": tries + 1}).encode()
        cloud().client("s3").put_object(**place, Body=content, ContentType="application/json")


def records(event: Event) -> list[Event]:
    """What an event holds: EventBridge's is one by itself, S3's a list, and S3's test event nothing.

    A dead letter of Lambda's holds the event that it could not deliver, and may be sent again as it is.

    Raises:
        UsageError: it is of neither.
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
    """The upload that a record tells of; None if it tells of something else that happened in a bucket.

    Raises:
        UsageError: it is no record of S3.
    """
    by_eventbridge = "detail-type" in each
    try:
        if not (each["detail-type"] if by_eventbridge else each["eventName"]).startswith(_CREATED):
            return None
        told = each["detail" if by_eventbridge else "s3"]
        stored = told["object"]
        version = stored.get("version-id" if by_eventbridge else "versionId")
        return Upload(
            bucket=told["bucket"]["name"],
            key=stored["key"] if by_eventbridge else unquote_plus(stored["key"]),  # S3's own are as in an HTML form
            version=None if version == "null" else version,  # every object's of a bucket without versions
            sequencer=stored.get("sequencer"),
        )
    except (KeyError, TypeError) as failure:
        raise UsageError(f"the event's record lacks {failure}; connect the function to S3 or EventBridge.") from None


def refusal(upload: Upload) -> str | None:
    """Why an object is none of ours, or None. A result is never taken for a film."""
    if upload.bucket != settings().bucket:
        return "another bucket"
    if upload.key.startswith(settings().results_prefix):
        return "a result"
    if not upload.key.startswith(settings().films_prefix):
        return "outside the films' prefix"
    return "a folder" if upload.key.endswith("/") else None


@cache
def _remembering() -> IdempotencyConfig:
    return IdempotencyConfig(event_key_jmespath=_IDENTITY, expires_after_seconds=_REMEMBERED, hash_function="sha256")


@cache
def _once() -> Callable[..., None]:
    """`_decide`, but for an upload that is done already: its answer is then what it was."""
    table = DynamoDBPersistenceLayer(settings().table, boto3_client=cloud().client("dynamodb"))
    once: Callable[..., None] = idempotent_function(
        _decide, data_keyword_argument="upload", persistence_store=table, config=_remembering()
    )
    return once


def _decide(*, upload: Upload, request_id: str) -> None:
    found = shared.read_object("reading the film", upload.key, version=upload.version, most=shared.most_bytes())
    decided = _decision(found)
    if not _store(upload, found, decided, request_id):
        logger().info("outdated", extra={"film": upload.mark})
    shared.record(decided, film=upload.mark, bytes=found.size)


def _decision(found: Found) -> Answer:
    """The decision on a film, if it is there and not too large."""
    if found.data is not None:
        return shared.classify(found.data)
    if found.size is None:
        document = shared.refuse("the file cannot be read (the object is gone).", "unreadable")
    else:
        sentence = f"the file has {found.size:,} bytes; at most {shared.most_bytes():,} are accepted."
        document = shared.refuse(sentence, ImageError.code)
    return Answer(prediction=document, milliseconds=0.0)


def _store(upload: Upload, found: Found, decided: Answer, request_id: str) -> bool:
    """Write the result, unless there is one of a later upload to the same key; whether it was written."""
    document = {
        "film": asdict(upload) | {"etag": found.etag, "bytes": found.size},
        "decision": decided.prediction,
        "how": settings().how,
        "shrunk": decided.shrunk,
        "request_id": request_id,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    place = {"Bucket": upload.bucket, "Key": shared.result_key(upload.key)}
    content = json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
    with shared.nameless("storing the result"):
        sequencer, unchanged = _stored(place)
        if _is_later(sequencer, upload.sequencer):
            return False
        put, options = cloud().client("s3").put_object, place | unchanged | {"ContentType": "application/json"}
        metadata = {_SEQUENCER: upload.sequencer or ""}
        stored = ask_for("", put, _CHANGED, **options, Body=content, Metadata=metadata)
    if stored is None:
        raise BusyError("another call stored a result of this film's key meanwhile; try again later.")
    return True


def _stored(place: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The sequencer of the upload whose result is there, and the condition that it is the same when it is replaced."""
    found = ask_for("", cloud().client("s3").head_object, "404|403", **place)
    if found is None:  # S3 answers 403 for a missing object where the role may not list
        return "", {"IfNoneMatch": "*"}
    return str(found["Metadata"].get(_SEQUENCER, "")), {"IfMatch": found["ETag"]}


def _is_later(one: str, other: str | None) -> bool:
    """Whether a sequencer of S3's is of a later event than another one of the same key.

    They are hexadecimal; of two lengths, the shorter one is filled up with zeros on its right
    (docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html).
    """
    if not one or not other:
        return False
    length = max(len(one), len(other))
    return one.upper().ljust(length, "0") > other.upper().ljust(length, "0")
