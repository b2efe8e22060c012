"""The API: predictions, the model's contract, SageMaker's two routes, health and metrics."""

import asyncio
import secrets
import time
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from pneumoscope import __version__
from pneumoscope.contract import DISCLAIMER
from pneumoscope.engine import Level, Prediction, coarse
from pneumoscope.heatmap import LONGEST_SIDE
from pneumoscope.imaging import ACCEPTED
from pneumoscope.server.answers import Answer, Answers, Heatmap, render
from pneumoscope.server.card import card
from pneumoscope.server.films import FORM, Posted, media_type, read_films
from pneumoscope.server.problems import Busy, Problem, documented
from pneumoscope.server.service import Buffer, Service, while_connected
from pneumoscope.server.telemetry import CONTENT_TYPE
from pneumoscope.settings.serve import MOST_FILMS

_UNREAD = {"undecodable", "unreadable"}
_BEARER = HTTPBearer(auto_error=False, description="Only if the service was given a token.")
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_DOCUMENTED = ("image/jpeg", "image/png", "image/tiff", "application/dicom", "application/octet-stream")
_POSTING = documented(
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_FORM_SCHEMA = {
    "schema": {
        "type": "object",
        "properties": {
            "films": {
                "type": "array",
                "items": {"type": "string", "format": "binary"},
                "minItems": 1,
                "maxItems": MOST_FILMS,
            }
        },
        "required": ["films"],
        "additionalProperties": False,
    }
}


class Live(BaseModel):
    """The process answers."""

    status: str


class ModelDocument(BaseModel):
    """The bundle's contract and what it means in words."""

    contract: dict[str, Any]
    card: dict[str, Any]
    service: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Options:
    level: Level
    heatmap: Heatmap
    preview: bool


def service_of(request: Request) -> Service:
    """The service of the application that a request came to."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


Shared = Annotated[Service, Depends(service_of)]


def require_token(service: Shared, given: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]) -> None:
    """Raise Problem 401 unless the request carries the configured token, if there is one."""
    if service.config.token is None:
        return
    wanted = service.config.token.get_secret_value().encode()
    if given is None or not secrets.compare_digest(given.credentials.encode(), wanted):
        raise Problem(
            HTTPStatus.UNAUTHORIZED,
            "the bearer token is missing or wrong; send it as `Authorization: Bearer TOKEN`.",
            headers={"WWW-Authenticate": "Bearer"},
        )


router = APIRouter()
guarded = APIRouter(dependencies=[Depends(require_token)])


@guarded.post(
    "/v1/predictions",
    summary="Decide on films",
    response_description="One film as the body: its decision. A form: the decisions on its files, in their order.",
    responses=_POSTING | {200: {"model": Answer | Answers}},
    openapi_extra={
        "requestBody": {"required": True, "content": dict.fromkeys(_DOCUMENTED, _BINARY) | {FORM: _FORM_SCHEMA}}
    },
)
async def predict(
    request: Request,
    service: Shared,
    level: Annotated[Level, Query(description="`group` answers with a group's name, such as pneumonia.")] = "class",
    heatmap: Annotated[Heatmap, Query(description="`maps` as numbers, or an `overlay` as a picture.")] = "none",
    preview: Annotated[bool, Query(description="Give a picture of the film as it was read.")] = False,  # noqa: FBT002
) -> JSONResponse:
    """Post a film's file as the body (JPEG, PNG, TIFF, DICOM), or up to 32 as a form.

    A film that is abstained on, or no frontal chest film, is a 200 and says so in `status`. 422 is for bytes that
    no image can be read from; beside readable ones in a form, or with `Prefer: handling=lenient` (RFC 7240), such
    a file has the status `rejected`. For research use only; not a medical device.
    """
    options = _Options(level=level, heatmap=heatmap, preview=preview)
    if level == "group":
        coarse(service.contract)
    return await _decide(request, options, as_form=media_type(request) == FORM)


@guarded.post(
    "/invocations",
    summary="Decide on a film (SageMaker)",
    responses=_POSTING | {200: {"model": Answer}},
    openapi_extra={
        "requestBody": {"required": True, "content": dict.fromkeys((*_DOCUMENTED, "application/x-image"), _BINARY)}
    },
)
async def invoke(request: Request) -> JSONResponse:
    """SageMaker's container contract: one film in, its decision out."""
    return await decide(request)


@guarded.get(
    "/v1/model",
    summary="The model",
    response_model=ModelDocument,
    responses=documented(HTTPStatus.UNAUTHORIZED),
)
async def model(service: Shared) -> JSONResponse:
    """The contract as it lies in the bundle, a card in words, and this service's limits."""
    contract, config = service.contract, service.config
    document = ModelDocument(
        contract=contract.model_dump(mode="json"),
        card=card(contract),
        service={
            "version": __version__,
            "accepted": ACCEPTED,
            "max_bytes": config.max_bytes,
            "max_pixels": config.max_pixels,
            "max_films": MOST_FILMS,
            "heatmap": contract.activation_map is not None,
            "notice": DISCLAIMER,
        },
    )
    return JSONResponse(document.model_dump())


@guarded.get(
    "/metrics",
    summary="Metrics",
    response_class=Response,
    responses=documented(HTTPStatus.UNAUTHORIZED)
    | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format."}},
)
async def metrics(service: Shared) -> Response:
    """Counts, times and drift, for Prometheus; nothing of any one film."""
    return Response(service.telemetry.page(), media_type=CONTENT_TYPE)


@router.get("/healthz", summary="Alive", response_model=Live)
async def healthz() -> JSONResponse:
    """The process answers; whether it can decide is for `/readyz`."""
    return JSONResponse({"status": "alive"})


@router.get("/readyz", summary="Ready", response_model=Live, responses=documented(HTTPStatus.SERVICE_UNAVAILABLE))
@router.get(
    "/ping", summary="Ready (SageMaker)", response_model=Live, responses=documented(HTTPStatus.SERVICE_UNAVAILABLE)
)
async def readyz(service: Shared) -> JSONResponse:
    """The golden cases came out right on this machine."""
    _ = service.engine
    return JSONResponse({"status": "ready"})


async def decide(request: Request) -> JSONResponse:
    """The decision on the one film that is a request's body.

    Raises:
        Problem: see `/invocations`.
    """
    if media_type(request) == FORM:
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send one film as the body, not a form.")
    return await _decide(request, _Options(level="class", heatmap="none", preview=False))


async def _decide(request: Request, options: _Options, *, as_form: bool = False) -> JSONResponse:
    service = service_of(request)
    _ = service.engine
    service.require_room()
    request.state.room = room = Buffer(service)  # closed by the boundary, when the answer has gone out
    started = time.perf_counter()
    films = await read_films(request, service, room)
    service.telemetry.stage_seconds.labels("read").observe(time.perf_counter() - started)
    service.require_room(len(films))
    tasks = [
        service.predict(
            film.data,
            name=film.name,
            level=options.level,
            finish=partial(_finish, service, film, options, str(request.state.request_id)),
            picture_side=LONGEST_SIDE if options.preview or options.heatmap == "overlay" else None,
        )
        for film in films
    ]
    decided = await while_connected(_gone(request), asyncio.gather(*tasks))
    predictions = [prediction for prediction, _ in decided]
    unread = all(_UNREAD & set(prediction.reason_codes) for prediction in predictions)
    if unread and "handling=lenient" not in request.headers.get("prefer", "").lower():
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, predictions[0].reasons[0])
    answers = [answer for _, answer in decided]
    content = {"predictions": answers} if as_form else answers[0]
    plain = options.heatmap == "none" and not options.preview
    response = JSONResponse(content) if plain else await asyncio.to_thread(JSONResponse, content)  # may be megabytes
    room.take(len(response.body))
    return response


def _finish(
    service: Service, film: Posted, options: _Options, request_id: str, prediction: Prediction
) -> tuple[Prediction, dict[str, Any]]:
    """Keep and render a decision; in a thread."""
    if service.journal is not None:
        try:
            service.journal.keep(film.data, prediction, request_id)
        except OSError:
            sentence = "the log of decisions cannot be written, so none is given; tell the operator."
            raise Busy(sentence, after=30) from None
    with service.telemetry.stage_seconds.labels("draw").time():
        return prediction, render(prediction, wanted=options.heatmap, preview=options.preview)


async def _gone(request: Request) -> None:
    """Wait until the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
