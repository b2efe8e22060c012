"""The Lambda function behind an API: a film is posted, its decision comes back; large films go by way of S3.

    POST /predictions   a film's file as the body: its decision
    POST /jobs          a place to upload a film of any size to, and where its result will be
    GET  /jobs/{id}     the decision, once the film was uploaded and decided on, or that there will be none

Behind an HTTP API (payload version 2.0) API Gateway itself answers what browsers ask about origins (CORS), and
ignores what a function says of it; behind a REST API (version 1.0) the function answers.
"""

import base64
import binascii
import json
import secrets
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from http import HTTPStatus
from typing import Any

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, APIGatewayRestResolver, CORSConfig, Response
from aws_lambda_powertools.event_handler.api_gateway import ApiGatewayResolver, BaseRouter
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.utilities.typing import LambdaContext

from pneumoscope.aws.functions import shared
from pneumoscope.aws.functions.shared import Event, cloud, logger, settings
from pneumoscope.aws.limits import API_FILM
from pneumoscope.errors import UNREAD, BusyError
from pneumoscope.settings.serve import RAW, film_type

_UPLOAD_SECONDS = 900
_WORK_SECONDS = 1800  # for three tries on a film, after it has waited for the function
_STORED_AS = "application/octet-stream"  # what the bytes are is read from themselves
_AGAIN_SECONDS = 5  # when busy
_POLL_SECONDS = 2
_PREFLIGHT_SECONDS = 600
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_REQUEST_ID = "X-Request-Id"


@dataclass(eq=False)
class Problem(Exception):  # noqa: N818 (the standard's word)
    """A request that is answered with a problem document (RFC 9457)."""

    status: HTTPStatus
    detail: str
    headers: dict[str, str] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)


def handler(event: Event, context: LambdaContext) -> dict[str, Any]:
    """Answer a request that API Gateway passes on.

    Args:
        event: of an HTTP API (payload version 2.0) or a REST API.
        context: Lambda's.

    Returns:
        The answer, as API Gateway takes it.

    Raises:
        UsageError: the function's environment is wrong.
    """
    return shared.run(_resolver(str(event.get("version", ""))).resolve, event, context)


@cache
def _resolver(version: str) -> ApiGatewayResolver:
    kind, cors = (APIGatewayHttpResolver, None) if version == "2.0" else (APIGatewayRestResolver, _cors())
    resolver: ApiGatewayResolver = kind(cors=cors, debug=False)
    resolver.post("/predictions")(predict)
    resolver.post("/jobs")(begin)
    resolver.get("/jobs/<job>")(look)
    answers = {Problem: _problem, NotFoundError: _not_found, BusyError: _busy, Exception: _fault}
    for failure, answer in answers.items():
        resolver.exception_handler(failure)(answer)
    return resolver


def _cors() -> CORSConfig | None:
    if not (origins := settings().cors_origins):
        return None
    exposed = ["Retry-After", _REQUEST_ID]
    return CORSConfig(origins[0], list(origins[1:]), expose_headers=exposed, max_age=_PREFLIGHT_SECONDS)


def predict() -> Response[str]:
    """Decide on the film that is the body. No image in it is 422; no frontal chest film is an answer."""
    film = _film()
    decided = shared.classify(film)
    shared.record(decided, bytes=len(film))
    if not UNREAD.isdisjoint(decided.prediction["reason_codes"]):
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, decided.prediction["reasons"][0])
    return _respond(HTTPStatus.OK, decided.prediction)


def begin() -> Response[str]:
    """Give a place for a film of any size, without its name."""
    return _respond(HTTPStatus.ACCEPTED, _new_job())


def look(job: str) -> Response[str]:
    """The decision on an uploaded film; 202 while one can still come, and 410 if none will.

    This function has no access to films: it cannot tell an id whose film is not uploaded yet from an id that nobody was
    given. Both are answered 202 until the time in the id has run out.
    """
    begun = _begun(job)
    if begun is None:
        sentence = "unknown job id; POST /jobs gives one, a UUID of version 7 in small letters."
        raise Problem(HTTPStatus.BAD_REQUEST, sentence)
    key = f"{settings().films_prefix}{job}"
    if (result := _object(shared.result_key(key))) is not None:
        return _respond(HTTPStatus.OK, result["decision"])
    failed = _object(shared.failure_key(key)) or {"tries": 0}
    until = begun + _UPLOAD_SECONDS + 2 * settings().event_age + _WORK_SECONDS
    if failed["tries"] >= shared.TRIES or time.time() > until:
        sentence = "no film came in time, or it could not be decided on; begin again, or report the id to the operator."
        raise Problem(HTTPStatus.GONE, sentence, more={"job": {"id": job, "status": "failed"}})
    pending = {"id": job, "status": "pending", "result": f"/jobs/{job}"}
    return _respond(HTTPStatus.ACCEPTED, pending, {"Retry-After": str(_POLL_SECONDS)})


def _film() -> bytes:
    """The request's body, checked.

    Raises:
        Problem: 400, 413 or 415.
    """
    request = BaseRouter.current_event
    kind, is_film = film_type(request.headers.get("content-type"))
    if not is_film:
        accepted = ", ".join(RAW)
        sentence = f"the content type is {kind[:60] or 'missing'}; accepted are {accepted}."
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, sentence, headers={"Accept": accepted})
    body = request.body or ""
    announced = request.headers.get("content-length") or ""
    if len(body) * 3 // 4 > API_FILM or (announced.isdecimal() and int(announced) > API_FILM):
        sentence = (
            f"the film has more than {API_FILM:,} bytes, the most that comes through here; upload it to `upload`."
        )
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence, more={"upload": _new_job()})
    if not body:
        raise Problem(HTTPStatus.BAD_REQUEST, "the request holds no film; send the bytes of a film's file as its body.")
    if not request.is_base64_encoded:
        sentence = "the body came as text; send the film's file as it is (a REST API needs */* as a binary media type)."
        raise Problem(HTTPStatus.BAD_REQUEST, sentence)
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error:
        raise Problem(HTTPStatus.BAD_REQUEST, "the body is not the base64 that it is said to be.") from None


def _new_job() -> dict[str, Any]:
    """A form to upload one film under one key, for a quarter of an hour.

    S3 holds a form to a range of sizes and to a content type; a link to PUT to (a presigned URL) it would not.
    """
    job, most, kind = _new_id(), shared.most_bytes(), {"Content-Type": _STORED_AS}
    form = _signing().generate_presigned_post(
        settings().bucket,
        f"{settings().films_prefix}{job}",
        Fields=kind,
        Conditions=[kind, ["content-length-range", 1, most]],
        ExpiresIn=_UPLOAD_SECONDS,
    )
    expires = datetime.now(UTC) + timedelta(seconds=_UPLOAD_SECONDS)
    limits = {"max_bytes": most, "expires": expires.isoformat(timespec="seconds")}
    return {"id": job, "upload": {"method": "POST", **form, "file": "file", **limits}, "result": f"/jobs/{job}"}


def _new_id() -> str:
    """A UUID of version 7 (RFC 9562): its first 48 bits tell when the job began, 74 others are random."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    number = number & ~(0xF << 76) | 7 << 76  # the version
    number = number & ~(0b11 << 62) | 0b10 << 62  # the variant
    return str(uuid.UUID(int=number))


@cache
def _signing() -> Any:
    """A client that signs links for the bucket's own region; the global address sends new buckets' users elsewhere."""
    import boto3
    from botocore.config import Config

    s3 = {"addressing_style": "virtual", "us_east_1_regional_endpoint": "regional"}
    return boto3.client("s3", region_name=cloud().region, config=Config(signature_version="s3v4", s3=s3))


def _begun(job: str) -> float | None:
    """When a job began, in seconds since 1970; None if it has no id of ours."""
    try:
        found = uuid.UUID(job)
    except ValueError:
        return None
    return (found.int >> 80) / 1000 if str(found) == job and found.version == 7 else None


def _object(key: str) -> dict[str, Any] | None:
    """A JSON document beside the results, if it is there."""
    found = shared.read_object("reading the result", key)
    return None if found.data is None else dict(json.loads(found.data))


def _problem(problem: Problem) -> Response[str]:
    document = {
        "type": "about:blank",
        "title": problem.status.phrase,
        "status": problem.status.value,
        "detail": problem.detail,
        "request_id": _request_id(),
    }
    return _respond(problem.status, document | problem.more, problem.headers, kind="application/problem+json")


def _not_found(_: NotFoundError) -> Response[str]:
    sentence = "there is nothing here; there are POST /predictions, POST /jobs and GET /jobs/{id}."
    return _problem(Problem(HTTPStatus.NOT_FOUND, sentence))


def _busy(failure: BusyError) -> Response[str]:
    logger().warning("busy", extra={"reason": shared.told(failure)})
    sentence = f"the model is busy or not ready; try again in {_AGAIN_SECONDS} s."
    headers = {"Retry-After": str(_AGAIN_SECONDS)}
    return _problem(Problem(HTTPStatus.SERVICE_UNAVAILABLE, sentence, headers=headers))


def _fault(failure: Exception) -> Response[str]:
    logger().error("fault", extra={"reason": shared.told(failure)})
    sentence = f"a fault of this service; tell its operator the request id {_request_id()}."
    return _problem(Problem(HTTPStatus.INTERNAL_SERVER_ERROR, sentence))


def _respond(
    status: HTTPStatus, document: Any, headers: dict[str, str] | None = None, *, kind: str = "application/json"
) -> Response[str]:
    named = {**_HEADERS, _REQUEST_ID: _request_id(), **(headers or {})}
    return Response(status.value, kind, json.dumps(document, allow_nan=False), named)


def _request_id() -> str:
    return str(BaseRouter.lambda_context.aws_request_id)
