"""What goes wrong, as problem documents (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from pneumoscope.errors import UsageError

MEDIA_TYPE = "application/problem+json"


class ProblemDocument(BaseModel):
    """RFC 9457 section 3.1, with the request's id."""

    type: str = Field(description="Always about:blank: the title says it all.")
    title: str
    status: int
    detail: str
    request_id: str


class Problem(Exception):  # noqa: N818 (the standard's word)
    """A request that is answered with a problem document."""

    def __init__(self, status: HTTPStatus, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


class Busy(Problem):
    """No room now; `after` is in how many seconds there may be."""

    def __init__(self, detail: str, *, after: int) -> None:
        super().__init__(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": str(after)})


def respond(status: HTTPStatus, detail: str, request_id: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The problem document as a response."""
    document = _document(status, detail, request_id)
    return JSONResponse(document.model_dump(), status.value, headers=headers, media_type=MEDIA_TYPE)


def text_of(status: HTTPStatus, detail: str, request_id: str) -> str:
    """The problem document as text."""
    return _document(status, detail, request_id).model_dump_json()


def _document(status: HTTPStatus, detail: str, request_id: str) -> ProblemDocument:
    return ProblemDocument(
        type="about:blank", title=status.phrase, status=status.value, detail=detail, request_id=request_id
    )


def install(app: FastAPI) -> None:
    """The one table from exceptions to statuses."""

    def request_id(request: Request) -> str:
        return str(request.state.request_id)

    async def problem(request: Request, failure: Exception) -> JSONResponse:
        assert isinstance(failure, Problem)
        return respond(failure.status, failure.detail, request_id(request), failure.headers)

    async def usage(request: Request, failure: Exception) -> JSONResponse:
        return respond(HTTPStatus.BAD_REQUEST, str(failure), request_id(request))

    async def validation(request: Request, failure: Exception) -> JSONResponse:
        assert isinstance(failure, RequestValidationError)
        first = failure.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return respond(HTTPStatus.BAD_REQUEST, f"{where}: {first['msg']}.", request_id(request))

    async def http(request: Request, failure: Exception) -> JSONResponse:
        assert isinstance(failure, HTTPException)
        status = HTTPStatus(failure.status_code)
        detail = _WORDS.get(status, str(failure.detail))
        return respond(status, detail, request_id(request), failure.headers)

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(UsageError, usage)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)


_WORDS = {
    HTTPStatus.NOT_FOUND: "there is nothing at this address; /docs lists what there is.",
    HTTPStatus.METHOD_NOT_ALLOWED: "this address does not take this method; the header Allow lists those it takes.",
}


def documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of these problems."""
    return {
        status.value: {
            "description": _MEANINGS[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
        }
        for status in statuses
    }


_MEANINGS = {
    HTTPStatus.BAD_REQUEST: "Malformed: an option out of range, a body that is no form, no film in it.",
    HTTPStatus.UNAUTHORIZED: "The bearer token is missing or wrong.",
    HTTPStatus.REQUEST_TIMEOUT: "The body did not arrive in time.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is over the limit.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "Not an accepted content type, or a content encoding.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "No film of the request can be decoded.",
    HTTPStatus.SERVICE_UNAVAILABLE: "Not ready yet, or the queue is full: try again after Retry-After seconds.",
}
