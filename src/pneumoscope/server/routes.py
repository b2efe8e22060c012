"""The API: predictions, the model's contract, health and metrics. SageMaker's routes are in `sagemaker`."""

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
from pneumoscope.server.model_card import card
from pneumoscope.server.problems import UPLOAD_PROBLEMS, Busy, describe_problems
from pneumoscope.server.responses import DecisionResponse, FormResponse, Heatmap, batch_facts, render
from pneumoscope.server.service import Reserve, Service, while_connected
from pneumoscope.server.telemetry import CONTENT_TYPE
from pneumoscope.server.uploads import FORM, UploadedFilm, media_type, read_films
from pneumoscope.settings.serve import MOST_FILMS, Batch

_BEARER = HTTPBearer(auto_error=False, description="Only if the service has a token.")
_FILE = {"type": "string", "format": "binary"}
BINARY = {"schema": _FILE}
DOCUMENTED = ("image/jpeg", "image/png", "image/tiff", "application/dicom", "application/octet-stream")
_FILMS = {"type": "array", "items": _FILE, "minItems": 1, "maxItems": MOST_FILMS}
_FORM_SCHEMA = {"type": "object", "properties": {"films": _FILMS}, "required": ["films"], "additionalProperties": False}


class Live(BaseModel):
    """The process answers."""

    status: str


class ModelDocument(BaseModel):
    """The bundle's contract, the card that explains it, and the service's limits."""

    contract: dict[str, Any]
    card: dict[str, Any]
    service: dict[str, Any]


class Options(BaseModel):
    """Options of a request for decisions."""

    level: Level = Field(default="class", description="`group` answers with a group's name, such as pneumonia.")
    coverage: float | None = Field(
        default=None,
        description="Coverage to decide at, one of the contract's table; by default the service's. See /v1/model.",
    )
    operating_point: str | None = Field(
        default=None,
        description="Decides at level group by a stored threshold, without a coverage. See /v1/model.",
    )
    heatmap: Heatmap = Field(default="none", description="`maps` as numbers, or an `overlay` as a picture.")
    preview: bool = Field(default=False, description="Adds a picture of the film as it was read.")


def service_of(request: Request) -> Service:
    """The service of the application that a request came to."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


CurrentService = Annotated[Service, Depends(service_of)]


async def _reserve_memory(service: CurrentService) -> AsyncIterator[Reserve]:
    """Memory for a request, until its response is sent."""
    with service.memory() as reserve:
        yield reserve


Memory = Annotated[Reserve, Depends(_reserve_memory)]


def require_token(
    service: CurrentService, bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]
) -> None:
    """Raise HTTPException 401 unless the request carries the configured token."""
    token = service.config.token
    assert token is not None  # without a token, no route depends on this
    if bearer is None or not secrets.compare_digest(bearer.credentials.encode(), token.get_secret_value().encode()):
        raise HTTPException(
            HTTPStatus.UNAUTHORIZED,
            "the bearer token is missing or wrong; send it as `Authorization: Bearer TOKEN`.",
            headers={"WWW-Authenticate": "Bearer"},
        )


router = APIRouter()
guarded = APIRouter()  # with a token, `require_token` runs before these routes


@guarded.post(
    "/v1/predictions",
    summary="Decide on films",
    response_description="One film as the body: its decision. A form: the decisions on its files, in their order.",
    responses=UPLOAD_PROBLEMS | {200: {"model": DecisionResponse | FormResponse}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": dict.fromkeys(DOCUMENTED, BINARY) | {FORM: {"schema": _FORM_SCHEMA}},
        }
    },
)
async def predict(request: Request, reserve: Memory, options: Annotated[Options, Query()]) -> JSONResponse:
    """Post the file of one film as the body, or up to 32 files as a form.

    An abstention, or a rejection because the film is not a frontal chest film, is a 200 with its `status`. Bytes from
    which no image can be read are a 422; in a form beside readable files, or with `Prefer: handling=lenient`
    (RFC 7240), such a file is `rejected` instead. For research use only; not a medical device.
    """
    return await _decide(request, reserve, options)


@guarded.get("/v1/model", summary="The model", responses=describe_problems(HTTPStatus.UNAUTHORIZED))
async def model(service: CurrentService) -> ModelDocument:
    """The contract as stored in the bundle, a card that explains it, and this service's limits."""
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
    responses=describe_problems(HTTPStatus.UNAUTHORIZED)
    | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format."}},
)
async def metrics(service: CurrentService) -> Response:
    """Counts, times and drift, for Prometheus; nothing about a single film."""
    return Response(service.telemetry.exposition(), media_type=CONTENT_TYPE)


@router.get("/healthz", summary="Alive")
async def healthz() -> Live:
    """The process answers; `/readyz` reports whether it can decide."""
    return Live(status="alive")


@router.get("/readyz", summary="Ready", responses=describe_problems(HTTPStatus.SERVICE_UNAVAILABLE))
async def readyz(service: CurrentService) -> Live:
    """This process has reproduced the golden cases."""
    _ = service.engine  # raises Busy until it is ready
    return Live(status="ready")


async def decide(request: Request, reserve: Reserve, *, batch: Batch | None = None) -> JSONResponse:
    """The decision on the one film in a request's body.

    Args:
        request: the request.
        reserve: reserves memory for it.
        batch: as for `serve --batch`.

    Raises:
        HTTPException: see `/invocations`.
    """
    if media_type(request) == FORM:
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send one film as the body, not a form.")
    return await _decide(request, reserve, Options(), batch=batch)


async def _decide(request: Request, reserve: Reserve, options: Options, *, batch: Batch | None = None) -> JSONResponse:
    service, as_form = service_of(request), media_type(request) == FORM
    rule = service.rule(options.level, options.coverage, options.operating_point)
    _ = service.engine  # refuse before the body is read, which may take long
    service.require_queue_space()
    started = time.perf_counter()
    films = await read_films(request, service, reserve)
    service.telemetry.stage_seconds.labels("read").observe(time.perf_counter() - started)
    service.require_queue_space(len(films))
    tasks = [
        service.predict(
            film.data,
            name=film.name,
            rule=rule,
            finish=partial(_finish, service, film, options, str(request.state.request_id), batch),
            picture_side=LONGEST_SIDE if options.preview or options.heatmap == "overlay" else None,
        )
        for film in films
    ]
    decided = await while_connected(_wait_for_disconnect(request), asyncio.gather(*tasks))
    predictions = [prediction for prediction, _ in decided]
    unread = all(UNREAD & set(prediction.reason_codes) for prediction in predictions)
    if unread and batch is None and "handling=lenient" not in request.headers.get("prefer", "").lower():
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, predictions[0].reasons[0])
    documents = [document for _, document in decided]
    content = {"predictions": documents} if as_form else documents[0]
    plain = options.heatmap == "none" and not options.preview
    response = (
        JSONResponse(content) if plain else await asyncio.to_thread(JSONResponse, content)
    )  # megabytes of maps and pictures would block the loop
    reserve(len(response.body))
    return response


def _finish(
    service: Service,
    film: UploadedFilm,
    options: Options,
    request_id: str,
    batch: Batch | None,
    prediction: Prediction,
) -> tuple[Prediction, dict[str, Any]]:
    """Log a decision, if there is a log, and render it. Runs in a thread."""
    if service.journal is not None:
        try:
            service.journal.keep(film.data, prediction, request_id)
        except OSError:
            sentence = "the decision is withheld, because it cannot be written to the log; report this to the operator."
            raise Busy(sentence, retry_after=30) from None
    with service.telemetry.stage_seconds.labels("draw").time():
        document = render(prediction, heat=options.heatmap, preview=options.preview)
    if batch is not None:
        document["batch"] = batch_facts(prediction, film.data, service.reference, batch)
    return prediction, document


async def _wait_for_disconnect(request: Request) -> None:
    """Return when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
