"""The Lambda function behind API Gateway: it answers a posted film with its decision. Large films go through S3.

    POST /predictions   the body is an image file: returns its decision
    POST /jobs          returns a form to upload a film of up to 100 MB, and the path of its result
    GET  /jobs/{id}     returns the decision once there is one, or reports that there will be none

Behind an HTTP API (payload version 2.0), API Gateway itself answers CORS preflight requests and ignores a function's
CORS headers; behind a REST API (version 1.0), the function answers them.
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
_WORK_SECONDS = 1800  # for the three attempts on a film, in addition to the time that its event may wait
_STORED_AS = "application/octet-stream"  # the format is detected from the bytes
_RETRY_SECONDS = 5  # in the Retry-After of a 503
_POLL_SECONDS = 2  # in the Retry-After of a 202
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
    """Answer a request from API Gateway.

    Args:
        event: the event of an HTTP API (payload version 2.0) or a REST API (version 1.0).
        context: Lambda's invocation context.

    Returns:
        The response in the form that API Gateway expects.

    Raises:
        UsageError: the function's environment is invalid.
    """
    return shared.run(_resolver(str(event.get("version", ""))).resolve, event, context)


@cache
def _resolver(version: str) -> ApiGatewayResolver:
    resolver: ApiGatewayResolver = (
        APIGatewayHttpResolver(debug=False) if version == "2.0" else APIGatewayRestResolver(cors=_cors(), debug=False)
    )
    resolver.post("/predictions")(predict)
    resolver.post("/jobs")(create_job)
    resolver.get("/jobs/<job>")(read_job)
    resolver.exception_handler(Problem)(_problem_response)
    resolver.exception_handler(NotFoundError)(_not_found_response)
    resolver.exception_handler(BusyError)(_busy_response)
    resolver.exception_handler(Exception)(_fault_response)
    return resolver


def _cors() -> CORSConfig | None:
    if not (origins := settings().cors_origins):
        return None
    exposed = ["Retry-After", _REQUEST_ID]
    return CORSConfig(origins[0], list(origins[1:]), expose_headers=exposed, max_age=_PREFLIGHT_SECONDS)


def predict() -> Response[str]:
    """Decide on the film in the body. A body that is not an image gets a 422.

    For a picture that the gate rejects, the decision is returned.
    """
    film = _read_film()
    decided = shared.classify(film)
    shared.record(decided, bytes=len(film))
    if not UNREAD.isdisjoint(decided.prediction["reason_codes"]):
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, decided.prediction["reasons"][0])
    return _respond(HTTPStatus.OK, decided.prediction)


def create_job() -> Response[str]:
    """Return a form to upload a film of up to 100 MB. The form asks for no file name, which may identify a patient."""
    return _respond(HTTPStatus.ACCEPTED, _new_job())


def read_job(job: str) -> Response[str]:
    """Return the decision on an uploaded film; 202 while one may still come, 410 when none will.

    This function has no access to films, so it cannot distinguish an id whose film is not uploaded yet from an id that
    was never issued. Both get a 202 until the time in the id, plus the longest time that a decision can take, is over.
    """
    started = _start_time(job)
    if started is None:
        sentence = "unknown job id; POST /jobs creates one, a version 7 UUID in lower case."
        raise Problem(HTTPStatus.BAD_REQUEST, sentence)
    key = f"{settings().films_prefix}{job}"
    if (result := _read_json(shared.result_key(key))) is not None:
        return _respond(HTTPStatus.OK, result["decision"])
    failed = _read_json(shared.failure_key(key)) or {"tries": 0}
    # The event can wait twice for up to the event age: once in EventBridge, once in Lambda's queue.
    until = started + _UPLOAD_SECONDS + 2 * settings().event_age + _WORK_SECONDS
    if failed["tries"] >= shared.ATTEMPTS or time.time() > until:
        sentence = (
            "no film was uploaded in time, or the film could not be processed; create a new job, or report the id to "
            "the operator."
        )
        raise Problem(HTTPStatus.GONE, sentence, more={"job": {"id": job, "status": "failed"}})
    pending = {"id": job, "status": "pending", "result": f"/jobs/{job}"}
    return _respond(HTTPStatus.ACCEPTED, pending, {"Retry-After": str(_POLL_SECONDS)})


def _read_film() -> bytes:
    """The image file in the request's body.

    Raises:
        Problem: 400 (no body, or not base64), 413 (too large) or 415 (another content type).
    """
    request = BaseRouter.current_event
    content_type, is_film = film_type(request.headers.get("content-type"))
    if not is_film:
        accepted = ", ".join(RAW)
        sentence = f"the content type is {content_type[:60] or 'missing'}; accepted are {accepted}."
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, sentence, headers={"Accept": accepted})
    body = request.body or ""
    announced = request.headers.get("content-length") or ""
    # By the announced length, too: a request that arrives without its large body still gets the upload form.
    if len(body) * 3 // 4 > API_FILM or (announced.isdecimal() and int(announced) > API_FILM):
        sentence = (
            f"the film has more than {API_FILM:,} bytes, the limit of this route; upload it with the form in `upload`."
        )
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence, more={"upload": _new_job()})
    if not body:
        raise Problem(HTTPStatus.BAD_REQUEST, "the request has no body; send the bytes of an image file as the body.")
    if not request.is_base64_encoded:
        sentence = "the body came as text; send the image file unchanged (a REST API needs */* as a binary media type)."
        raise Problem(HTTPStatus.BAD_REQUEST, sentence)
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error:
        raise Problem(HTTPStatus.BAD_REQUEST, "the body is marked as base64 but is not valid base64.") from None


def _new_job() -> dict[str, Any]:
    """A form to upload one film under one key, valid for 15 minutes.

    It is a presigned POST because S3 then enforces the range of sizes and the content type; with a presigned PUT URL it
    would not.
    """
    job, max_bytes, content_type = _new_id(), shared.max_film_bytes(), {"Content-Type": _STORED_AS}
    form = _signing_client().generate_presigned_post(
        settings().bucket,
        f"{settings().films_prefix}{job}",
        Fields=content_type,
        Conditions=[content_type, ["content-length-range", 1, max_bytes]],
        ExpiresIn=_UPLOAD_SECONDS,
    )
    expires = datetime.now(UTC) + timedelta(seconds=_UPLOAD_SECONDS)
    limits = {"max_bytes": max_bytes, "expires": expires.isoformat(timespec="seconds")}
    file = {"file": "file"}  # the name of the form's field for the film
    return {"id": job, "upload": {"method": "POST", **form, **file, **limits}, "result": f"/jobs/{job}"}


def _new_id() -> str:
    """A version 7 UUID (RFC 9562): its first 48 bits are the job's creation time in ms, 74 bits are random."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    number = number & ~(0xF << 76) | 7 << 76  # version 7
    number = number & ~(0b11 << 62) | 0b10 << 62  # variant 10, RFC 9562
    return str(uuid.UUID(int=number))


@cache
def _signing_client() -> Any:
    """An S3 client that signs forms for the regional endpoint.

    The global endpoint answers requests for recently created buckets with a redirect.
    """
    import boto3
    from botocore.config import Config

    s3 = {"addressing_style": "virtual", "us_east_1_regional_endpoint": "regional"}
    return boto3.client("s3", region_name=cloud().region, config=Config(signature_version="s3v4", s3=s3))


def _start_time(job: str) -> float | None:
    """The creation time in a job id, in seconds since 1970; None if it is not an id of ours."""
    try:
        found = uuid.UUID(job)
    except ValueError:
        return None
    return (found.int >> 80) / 1000 if str(found) == job and found.version == 7 else None


def _read_json(key: str) -> dict[str, Any] | None:
    """The JSON document at a key under the results' prefix, or None."""
    found = shared.read_object("reading the result", key)
    return None if found.data is None else dict(json.loads(found.data))


def _problem_response(problem: Problem) -> Response[str]:
    document = {
        "type": "about:blank",
        "title": problem.status.phrase,
        "status": problem.status.value,
        "detail": problem.detail,
        "request_id": _request_id(),
    }
    return _respond(problem.status, document | problem.more, problem.headers, content_type="application/problem+json")


def _not_found_response(_: NotFoundError) -> Response[str]:
    sentence = "this path does not exist; use POST /predictions, POST /jobs or GET /jobs/{id}."
    return _problem_response(Problem(HTTPStatus.NOT_FOUND, sentence))


def _busy_response(failure: BusyError) -> Response[str]:
    logger().warning("busy", extra={"reason": shared.log_reason(failure)})
    sentence = f"the model is busy or not ready; try again in {_RETRY_SECONDS} s."
    headers = {"Retry-After": str(_RETRY_SECONDS)}
    return _problem_response(Problem(HTTPStatus.SERVICE_UNAVAILABLE, sentence, headers=headers))


def _fault_response(failure: Exception) -> Response[str]:
    logger().error("fault", extra={"reason": shared.log_reason(failure)})
    sentence = f"the service has failed; report the request id {_request_id()} to the operator."
    return _problem_response(Problem(HTTPStatus.INTERNAL_SERVER_ERROR, sentence))


def _respond(
    status: HTTPStatus, document: Any, headers: dict[str, str] | None = None, *, content_type: str = "application/json"
) -> Response[str]:
    all_headers = {**_HEADERS, _REQUEST_ID: _request_id(), **(headers or {})}
    return Response(status.value, content_type, json.dumps(document, allow_nan=False), all_headers)


def _request_id() -> str:
    return str(BaseRouter.lambda_context.aws_request_id)
