"""The Lambda function behind a bucket: a film is put there, its decision appears beside it and in the log.

Delivered at least once, by S3 itself or through EventBridge, and safe to deliver again: a film's upload is
decided on once. What is no film is a result like any other. Only what may be otherwise later is raised:
Lambda then tries again, and hands the event to the dead-letter queue when it has tried often enough.

Of two uploads to one key the later one's result stays.

A film's result lies at its key without the films' prefix, under the results' prefix, with `.json` after it; how often
it failed lies there with `.failed` after it.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
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
from botocore.exceptions import ClientError

from pneumoscope.aws.functions.shared import (
    Decision,
    Event,
    classify,
    cloud,
    decision,
    failure_key,
    is_absent,
    logger,
    mark,
    most_bytes,
    nameless,
    observed,
    record,
    refuse,
    result_key,
    settings,
    told,
)
from pneumoscope.aws.session import ask_for
from pneumoscope.errors import BusyError, CloudError, PneumoscopeError, UsageError

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
        return mark(self.bucket, self.key)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was read of an upload; nothing of one that is gone."""

    data: bytes | None
    size: int | None
    etag: str | None


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
    settings()
    return observed(_take)(event, context)


def _take(event: Event, context: LambdaContext) -> dict[str, Any]:
    _remembering().register_lambda_context(context)  # so that a call that dies is not at work for ever
    done: Counter[str] = Counter(films=0, ignored=0)
    failures = list[PneumoscopeError]()
    for each in records(event):  # Lambda takes partial answers about queues and streams only, not about such an event
        try:
            done[_settle(each, str(context.aws_request_id))] += 1
        except PneumoscopeError as failure:
            failures.append(failure)
        except Exception as failure:  # noqa: BLE001 (whatever it is, the event's other films have their turn)
            failures.append(CloudError(told(failure)))
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
    logger().error("failed", extra={"film": upload.mark, "reason": told(failure)})
    place = {"Bucket": upload.bucket, "Key": failure_key(upload.key)}
    with suppress(CloudError), nameless("noting the failure"):  # the film's own failure is raised
        content = json.dumps({"tries": _tries(place) + 1}).encode()
        cloud().client("s3").put_object(**place, Body=content, ContentType="application/json")


def _tries(place: dict[str, str]) -> int:
    """How often a film failed before."""
    # Without the right to list, S3 denies access to what is absent.
    reply = ask_for("", cloud().client("s3").get_object, "NoSuchKey|AccessDenied", **place)
    return 0 if reply is None else int(json.loads(reply["Body"].read())["tries"])


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
def _once() -> Callable[..., dict[str, str]]:
    """`_decide`, but for an upload that is done already: its answer is then what it was."""
    table = DynamoDBPersistenceLayer(settings().table, boto3_client=cloud().client("dynamodb"))
    once: Callable[..., dict[str, str]] = idempotent_function(
        _decide, data_keyword_argument="upload", persistence_store=table, config=_remembering()
    )
    return once


def _decide(*, upload: Upload, request_id: str) -> dict[str, str]:
    found, decided = _decided(upload)
    if not _store(upload, found, decided, request_id):
        logger().info("outdated", extra={"film": upload.mark})
    record(decided, film=upload.mark, bytes=found.size)
    return {"status": str(decided.prediction["status"])}


def _decided(upload: Upload) -> tuple[Found, Decision]:
    """Read a film, if it is there and not too large, and decide on it."""
    started = time.perf_counter()
    found = _read(upload)
    if found.data is not None:
        return found, classify(found.data)
    if found.size is None:
        reason, code = "the file cannot be read (the object is gone).", "unreadable"
    else:
        reason, code = f"the file has {found.size:,} bytes; at most {most_bytes():,} are accepted.", "undecodable"
    return found, decision(refuse(reason, code), started=started)


def _read(upload: Upload) -> Found:
    """The object as its version was, or if it has none, as it is now; its length is known before it is read."""
    version = {} if upload.version is None else {"VersionId": upload.version}
    with nameless("reading the film"):
        try:
            reply = cloud().client("s3").get_object(Bucket=upload.bucket, Key=upload.key, **version)
        except ClientError as failure:
            if is_absent(failure, upload.bucket, upload.key):
                return Found(data=None, size=None, etag=None)
            raise
        size = int(reply["ContentLength"])
        with closing(reply["Body"]) as body:
            data = body.read() if size <= most_bytes() else None
    return Found(data=data, size=size, etag=reply["ETag"].strip('"'))


def _store(upload: Upload, found: Found, decided: Decision, request_id: str) -> bool:
    """Write the result, unless there is one of a later upload to the same key; whether it was written."""
    document = {
        "film": asdict(upload) | {"etag": found.etag, "bytes": found.size},
        "decision": decided.prediction,
        "how": decided.how,
        "shrunk": decided.shrunk,
        "request_id": request_id,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    place = {"Bucket": upload.bucket, "Key": result_key(upload.key)}
    content = json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
    with nameless("storing the result"):
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
    if found is None:  # it is absent: S3 answers 403, as the role may not list
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
