"""The part of SageMaker's runtime API that boto3's `invoke_endpoint` needs, for development without an AWS account.

Errors follow botocore's service model of `sagemaker-runtime`, which takes the error code from `x-amzn-ErrorType`.
"""

from http import HTTPStatus

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pneumoscope.aws.limits import REALTIME
from pneumoscope.server.problems import respond
from pneumoscope.server.routes import Memory, decide, service_of

VARIANT = "AllTraffic"
_NO_ACCOUNT = "000000000000"
_ERROR = "x-amzn-ErrorType"

router = APIRouter(include_in_schema=False)  # AWS documents this API; our OpenAPI document leaves it out


@router.post("/endpoints/{name}/invocations")
async def invoke_endpoint(request: Request, name: str, room: Memory) -> JSONResponse:
    """InvokeEndpoint, for the single endpoint that this service stands in for."""
    config = service_of(request).config
    if name != config.as_endpoint:
        return _error(HTTPStatus.BAD_REQUEST, "ValidationError", f"Endpoint {name} of account {_NO_ACCOUNT} not found.")
    # Only the announced length is checked, so that a body over the limit is refused without being read.
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > REALTIME:
        sentence = f"HTTP content length exceeded {REALTIME} bytes."
        return _error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "413", sentence)
    try:
        response = await decide(request, room)
    except HTTPException as problem:
        return _model_error(problem, name, str(request.state.request_id))
    response.headers["x-Amzn-Invoked-Production-Variant"] = VARIANT
    return response


def _model_error(problem: HTTPException, name: str, request_id: str) -> JSONResponse:
    status = problem.status_code
    original = bytes(respond(HTTPStatus(status), problem.detail, request_id).body).decode()
    return _error(
        HTTPStatus.FAILED_DEPENDENCY,
        "ModelError",
        f'Received {"client" if status < 500 else "server"} error ({status}) from primary with message "{original}".',
        OriginalStatusCode=status,
        OriginalMessage=original,
        LogStreamArn=f"arn:aws:logs:local:{_NO_ACCOUNT}:log-group:/aws/sagemaker/Endpoints/{name}",
    )


def _error(status: HTTPStatus, code: str, message: str, **more: object) -> JSONResponse:
    return JSONResponse({"Message": message, "message": message, **more}, status.value, headers={_ERROR: code})
