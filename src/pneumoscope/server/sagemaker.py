"""SageMaker's container contract: the routes of endpoints, and of batch transform jobs.

"How Containers Serve Requests" of docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html and
your-algorithms-batch-code.html.
"""

from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from pneumoscope.engine import rejection
from pneumoscope.errors import ImageError
from pneumoscope.parallel import available_cores
from pneumoscope.server.problems import UPLOAD_PROBLEMS, describe_problems
from pneumoscope.server.responses import BatchFacts, DecisionResponse, render
from pneumoscope.server.routes import BINARY, DOCUMENTED, CurrentService, Live, Memory, decide, readyz, service_of
from pneumoscope.settings.serve import BATCH_MEGABYTES, MEGABYTE

_FILMS_PER_CORE = 2  # one is decoded while another waits for the model
_MOST_AT_ONCE = 16  # leaves 6 MB for each film, which is Batch Transform's own default
# In a batch transform job, a single 4xx makes the whole job fail. These two are about the film, not the request.
_REJECTED = {HTTPStatus.BAD_REQUEST: ImageError.code, HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too-large"}

router = APIRouter()
guarded = APIRouter()  # with a token, `require_token` runs before these routes


class ExecutionParameters(BaseModel):
    """What SageMaker asks for before a batch transform job that sets these values to 0 or leaves them out."""

    MaxConcurrentTransforms: int = Field(description="Films to send at a time.")
    BatchStrategy: Literal["SINGLE_RECORD"] = Field(default="SINGLE_RECORD", description="One film per request.")
    MaxPayloadInMB: int = Field(description="Size of the largest film, in MB.")


@guarded.post(
    "/invocations",
    summary="Decide on a film (SageMaker)",
    responses=UPLOAD_PROBLEMS | {200: {"model": DecisionResponse}},
    openapi_extra={
        "requestBody": {"required": True, "content": dict.fromkeys((*DOCUMENTED, "application/x-image"), BINARY)}
    },
)
async def invoke(request: Request, reserve: Memory) -> JSONResponse:
    """SageMaker's container contract: one film in, its decision out.

    With `serve --batch`, the response to a body that is not a film is a 200 with status `rejected`, and responses
    have a key `batch`.
    """
    service = service_of(request)
    try:
        return await decide(request, reserve, batch=service.config.batch)
    except HTTPException as problem:
        code = _REJECTED.get(HTTPStatus(problem.status_code))
        if service.config.batch is None or code is None:
            raise
        refused = render(rejection(service.contract, code, problem.detail), heat="none", preview=False)
        unknown = BatchFacts(file_sha256=None, distance=None, shares={}, embedding=None)
        return JSONResponse(refused | {"batch": unknown.model_dump()})


@router.get("/ping", summary="Ready (SageMaker)", responses=describe_problems(HTTPStatus.SERVICE_UNAVAILABLE))
async def ping(service: CurrentService) -> Live:
    """The same as `/readyz`."""
    return await readyz(service)


@router.get("/execution-parameters", summary="Limits of a batch transform job (SageMaker)")
async def execution_parameters(service: CurrentService) -> ExecutionParameters:
    """How many films a batch transform job may send at a time, and how large they may be."""
    at_once = min(_MOST_AT_ONCE, _FILMS_PER_CORE * available_cores())
    largest = min(BATCH_MEGABYTES // at_once, service.config.max_bytes // MEGABYTE)
    return ExecutionParameters(MaxConcurrentTransforms=at_once, MaxPayloadInMB=max(1, largest))
