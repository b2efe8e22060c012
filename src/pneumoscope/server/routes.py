"""The API: predictions, the model's contract, SageMaker's two routes, health and metrics."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from pneumoscope import __version__
from pneumoscope.contract import DISCLAIMER
from pneumoscope.engine import Level, Prediction
from pneumoscope.errors import UNREAD
from pneumoscope.heatmap import LONGEST_SIDE
from pneumoscope.imaging import ACCEPTED
from pneumoscope.server.answers import Answer, Answers, Heatmap, render
from pneumoscope.server.model_card import card
from pneumoscope.server.problems import POSTING, Busy, documented
from pneumoscope.server.service import Room, Service, while_connected
from pneumoscope.server.telemetry import CONTENT_TYPE
from pneumoscope.server.uploads import FORM, Posted, media_type, read_films
from pneumoscope.settings.serve import MOST_FILMS

_BEARER = HTTPBearer(auto_error=False, description="Only if the service was given a token.")
_FILE = {"type": "string", "format": "binary"}
_BINARY = {"schema": _FILE}
_DOCUMENTED = ("image/jpeg", "image/png", "image/tiff", "application/dicom", "application/octet-stream")
_FILMS = {"type": "array", "items": _FILE, "minItems": 1, "maxItems": MOST_FILMS}
_FORM_SCHEMA = {"type": "object", "properties": {"films": _FILMS}, "required": ["films"], "additionalProperties": False}


class Live(BaseModel):
    """The process answers."""

    status: str


class ModelDocument(BaseModel):
    """The bundle's contract and what it means in words."""

    contract: dict[str, Any]
    card: dict[str, Any]
    service: dict[str, Any]


class Options(BaseModel):
    """What may be asked for with films."""

    level: Level = Field(default="class", description="`group` answers with a group's name, such as pneumonia.")
    coverage: float | None = Field(
        default=None, description="Of a row of the model's table, by default the service's; see /v1/model."
    )
    operating_point: str | None = Field(
        default=None,
        description="Decides alone: at level group, from a stored threshold on; see /v1/model.",
    )
    heatmap: Heatmap = Field(default="none", description="`maps` as numbers, or an `overlay` as a picture.")
    preview: bool = Field(default=False, description="Give a picture of the film as it was read.")


def service_of(request: Request) -> Service:
    """The service of the application that a request came to."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


Shared = Annotated[Service, Depends(service_of)]


async def _room_of(service: Shared) -> AsyncIterator[Room]:
    """Memory for a request, until its answer has gone out."""
    with service.room() as room:
        yield room


Held = Annotated[Room, Depends(_room_of)]


def require_token(service: Shared, given: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]) -> None:
    """Raise HTTPException 401 unless the request carries the configured token."""
    token = service.config.token
    assert token is not None  # without one, no route asks for it
    if given is None or not secrets.compare_digest(given.credentials.encode(), token.get_secret_value().encode()):
        raise HTTPException(
            HTTPStatus.UNAUTHORIZED,
            "the bearer token is missing or wrong; send it as `Authorization: Bearer TOKEN`.",
            headers={"WWW-Authenticate": "Bearer"},
        )


router = APIRouter()
guarded = APIRouter()  # `require_token` comes before these, if there is a token


@guarded.post(
    "/v1/predictions",
    summary="Decide on films",
    response_description="One film as the body: its decision. A form: the decisions on its files, in their order.",
    responses=POSTING | {200: {"model": Answer | Answers}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": dict.fromkeys(_DOCUMENTED, _BINARY) | {FORM: {"schema": _FORM_SCHEMA}},
        }
    },
)
async def predict(request: Request, room: Held, options: Annotated[Options, Query()]) -> JSONResponse:
    """Post a film's file as the body, or up to 32 as a form.

    A film that is abstained on, or no frontal chest film, is a 200 and says so in `status`. 422 is for bytes that
    no image can be read from; beside readable ones in a form, or with `Prefer: handling=lenient` (RFC 7240), such
    a file has the status `rejected`. For research use only; not a medical device.
    """
    return await _decide(request, room, options)


@guarded.post(
    "/invocations",
    summary="Decide on a film (SageMaker)",
    responses=POSTING | {200: {"model": Answer}},
    openapi_extra={
        "requestBody": {"required": True, "content": dict.fromkeys((*_DOCUMENTED, "application/x-image"), _BINARY)}
    },
)
async def invoke(request: Request, room: Held) -> JSONResponse:
    """SageMaker's container contract: one film in, its decision out."""
    return await decide(request, room)


@guarded.get("/v1/model", summary="The model", responses=documented(HTTPStatus.UNAUTHORIZED))
async def model(service: Shared) -> ModelDocument:
    """The contract as it lies in the bundle, a card in words, and this service's limits."""
    contract, config = service.contract, service.config
    return ModelDocument(
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


@router.get("/healthz", summary="Alive")
async def healthz() -> Live:
    """The process answers; whether it can decide is for `/readyz`."""
    return Live(status="alive")


@router.get("/readyz", summary="Ready", responses=documented(HTTPStatus.SERVICE_UNAVAILABLE))
@router.get("/ping", summary="Ready (SageMaker)", responses=documented(HTTPStatus.SERVICE_UNAVAILABLE))
async def readyz(service: Shared) -> Live:
    """The golden cases came out right on this machine."""
    _ = service.engine
    return Live(status="ready")


async def decide(request: Request, room: Room) -> JSONResponse:
    """The decision on the one film that is a request's body.

    Raises:
        HTTPException: see `/invocations`.
    """
    if media_type(request) == FORM:
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send one film as the body, not a form.")
    return await _decide(request, room, Options())


async def _decide(request: Request, room: Room, options: Options) -> JSONResponse:
    service, as_form = service_of(request), media_type(request) == FORM
    rule = service.rule(options.level, options.coverage, options.operating_point)
    _ = service.engine
    service.require_room()
    started = time.perf_counter()
    films = await read_films(request, service, room)
    service.telemetry.stage_seconds.labels("read").observe(time.perf_counter() - started)
    service.require_room(len(films))
    tasks = [
        service.predict(
            film.data,
            name=film.name,
            rule=rule,
            finish=partial(_finish, service, film, options, str(request.state.request_id)),
            picture_side=LONGEST_SIDE if options.preview or options.heatmap == "overlay" else None,
        )
        for film in films
    ]
    decided = await while_connected(_gone(request), asyncio.gather(*tasks))
    predictions = [prediction for prediction, _ in decided]
    unread = all(UNREAD & set(prediction.reason_codes) for prediction in predictions)
    if unread and "handling=lenient" not in request.headers.get("prefer", "").lower():
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, predictions[0].reasons[0])
    answers = [answer for _, answer in decided]
    content = {"predictions": answers} if as_form else answers[0]
    plain = options.heatmap == "none" and not options.preview
    response = JSONResponse(content) if plain else await asyncio.to_thread(JSONResponse, content)  # may be megabytes
    room(len(response.body))
    return response


def _finish(
    service: Service, film: Posted, options: Options, request_id: str, prediction: Prediction
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
