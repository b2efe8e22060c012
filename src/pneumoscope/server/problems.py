"""Errors as problem documents (RFC 9457)."""

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from pneumoscope.errors import UsageError

MEDIA_TYPE = "application/problem+json"


class ProblemDocument(BaseModel):
    """RFC 9457 section 3.1, with the request's id."""

    type: str = Field(description="Always about:blank: the status explains itself.")
    title: str
    status: int
    detail: str
    request_id: str


class Busy(HTTPException):
    """The service cannot take the request now; it may in `retry_after` seconds."""

    def __init__(self, detail: str, *, retry_after: int) -> None:
        super().__init__(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": str(retry_after)})


def respond(status: HTTPStatus, detail: str, request_id: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The problem document as a response."""
    document = ProblemDocument(
        type="about:blank", title=status.phrase, status=status.value, detail=detail, request_id=request_id
    )
    return JSONResponse(document.model_dump(), status.value, headers=headers, media_type=MEDIA_TYPE)


async def _respond_to(request: Request, failure: Exception) -> JSONResponse:
    status, detail, headers = HTTPStatus.BAD_REQUEST, str(failure), None
    if isinstance(failure, HTTPException):
        status, headers = HTTPStatus(failure.status_code), failure.headers
        detail = _DETAILS.get(status, failure.detail)
    elif isinstance(failure, RequestValidationError):
        first = failure.errors()[0]
        detail = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}."
    return respond(status, detail, str(request.state.request_id), headers)


#: The one table of exceptions that become problem documents; for `FastAPI(exception_handlers=…)`.
HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    HTTPException: _respond_to,
    RequestValidationError: _respond_to,
    UsageError: _respond_to,
}

_DETAILS = {
    HTTPStatus.NOT_FOUND: "there is nothing at this address; /docs lists the addresses.",
    HTTPStatus.METHOD_NOT_ALLOWED: "this address does not accept this method; the header Allow lists those it does.",
}


def describe_problems(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of these problems."""
    return {
        status.value: {
            "description": _MEANINGS[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
        }
        for status in statuses
    }


_MEANINGS = {
    HTTPStatus.BAD_REQUEST: "Malformed: an option is out of range, a form cannot be read, or the body has no film.",
    HTTPStatus.UNAUTHORIZED: "The bearer token is missing or wrong.",
    HTTPStatus.REQUEST_TIMEOUT: "The body did not arrive in time.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is over the limit.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The content type is not accepted, or the body has a content encoding.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "No film of the request can be decoded.",
    HTTPStatus.SERVICE_UNAVAILABLE: "Not ready, full, or unable to write its log: try again after Retry-After seconds.",
}

UPLOAD_PROBLEMS = describe_problems(*_MEANINGS)  # a route that takes films may answer with any of them
