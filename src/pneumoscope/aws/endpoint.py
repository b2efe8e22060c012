"""Calls to a SageMaker endpoint that serves a bundle, through boto3."""

import json
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from botocore import exceptions

from pneumoscope.aws.session import error_code, is_local, translate_errors
from pneumoscope.contract import Contract
from pneumoscope.errors import BusyError, CloudError, ImageError, InferenceError, PneumoscopeError, UnsuitableError

#: The 2020 capstone's content type. The service accepts it for any format, which it detects from the bytes.
CONTENT_TYPE = "application/x-image"
_MODEL_ERROR = "ModelError"
_TOO_LARGE = "413"
_UNKNOWN_ENDPOINT = "ValidationError"
_NOT_SAGEMAKER = {"404", "405", "501"}  # statuses of an ordinary HTTP server; SageMaker does not use them
_UNREADABLE = {400, 415, 422}  # the service's responses to bytes that it cannot decode as a film
_TEMPORARY = {0, 408, 429, 500, 502, 503, 504}  # 0: the model did not respond in time
_ATTEMPTS = 5  # botocore retries calls that AWS throttles, but not those that a busy model behind the endpoint refuses
_FIRST_PAUSE = 0.25  # seconds; doubled after each attempt


@dataclass(frozen=True, kw_only=True)
class TimedDecision:
    """A decision on a film, and what it took.

    `prediction` is the service's JSON document, `milliseconds` the duration of all `tries` together.
    `shrunk` is true if the film exceeded the endpoint's limit and was sent as the model input instead of as it is.
    """

    prediction: dict[str, Any]
    milliseconds: float
    tries: int = 1
    shrunk: bool = False


@dataclass(frozen=True)
class Endpoint:
    """An endpoint, addressed by its name.

    Args:
        runtime: a boto3 client for `sagemaker-runtime`, as `Cloud.runtime_client` creates it.
        name: the endpoint's name.
        patience: no retry starts later than this many seconds after the first attempt.
        pause: sleeps for a number of seconds; tests replace it.
    """

    runtime: Any
    name: str
    _: KW_ONLY
    patience: float = 180.0
    pause: Callable[[float], None] = time.sleep

    def classify(self, film: bytes) -> TimedDecision:
        """Send an image file unchanged, and return the endpoint's decision.

        While the model is busy the call is repeated, with exponential backoff.

        Args:
            film: the bytes of an image file, no more than the endpoint accepts; see `fit_film`.

        Raises:
            ImageError: the model cannot decode the file, or it is larger than the endpoint accepts.
            BusyError: the endpoint is busy, stopped or out of reach; it may respond later.
            InferenceError: the model failed on the file.
            CloudError: the endpoint does not exist, or access to it is denied.
        """
        started = time.perf_counter()
        for tried in range(1, _ATTEMPTS + 1):
            try:
                prediction = self._invoke(film)
            except BusyError:
                pause = _FIRST_PAUSE * 2 ** (tried - 1)
                if tried == _ATTEMPTS or time.perf_counter() - started + pause > self.patience:
                    raise
                self.pause(pause)
            else:
                milliseconds = (time.perf_counter() - started) * 1000
                return TimedDecision(prediction=prediction, milliseconds=milliseconds, tries=tried)
        raise AssertionError("the last attempt returns or raises")

    def _invoke(self, film: bytes) -> dict[str, Any]:
        with translate_errors(f"endpoint {self.name}"):
            try:
                body = self.runtime.invoke_endpoint(
                    EndpointName=self.name, Body=film, ContentType=CONTENT_TYPE, Accept="application/json"
                )["Body"].read()
            except exceptions.ClientError as failure:
                if (explained := self._translate(failure)) is None:
                    raise
                raise explained from failure
        return read_prediction(body, self.name)

    def _translate(self, failure: exceptions.ClientError) -> PneumoscopeError | None:
        """Our error for one that only InvokeEndpoint gives; None if it is a general AWS error."""
        address = self.runtime.meta.endpoint_url
        if error_code(failure) == _UNKNOWN_ENDPOINT:
            here = "use the name that was given to `serve --as-endpoint`"
            advice = here if is_local(address) else "`pneumoscope aws status` lists the endpoints of this region"
            return CloudError(f"endpoint {self.name}: {failure.response['Error']['Message'].rstrip('.')}; {advice}.")
        if error_code(failure) in _NOT_SAGEMAKER:
            return CloudError(
                f"endpoint {self.name}: {address} answers {error_code(failure)} and is not an endpoint; if it "
                f"is `pneumoscope serve`, start that with --as-endpoint {self.name}."
            )
        if error_code(failure) == _TOO_LARGE:
            return UnsuitableError(f"the film is larger than endpoint {self.name} accepts.", code="too-large")
        if error_code(failure) != _MODEL_ERROR:
            return None
        status = int(failure.response.get("OriginalStatusCode") or 0)
        detail = problem_detail(str(failure.response.get("OriginalMessage", "")))
        if status in _UNREADABLE:
            return ImageError(detail)
        sentence = f"endpoint {self.name}: its model answered {status or 'nothing in time'} ({detail.rstrip('.')})"
        if status in _TEMPORARY:
            return BusyError(f"{sentence}; try again later, or give it more instances.")
        return InferenceError(f"{sentence}; its log is {failure.response.get('LogStreamArn', 'in CloudWatch')}.")


def fit_film(film: bytes, limit: int, contract: Callable[[], Contract | None]) -> tuple[bytes, bool]:
    """What to send to an endpoint, the image file or (if that is too large) the model input, and whether it was shrunk.

    Args:
        film: the bytes of an image file.
        limit: the largest body that the endpoint accepts, in bytes.
        contract: returns the endpoint's contract, whose input rule shrinks the film; None if it cannot be read.

    Returns:
        The file itself and False, or a PNG of the model input and True. The input rule leaves such a PNG unchanged, so
        its probabilities are those of the film.

    Raises:
        ImageError: the file cannot be decoded, or it is too large and there is no contract to shrink it by.
    """
    if len(film) <= limit:
        return film, False
    if (found := contract()) is None:
        raise UnsuitableError(
            f"the film has {len(film):,} bytes, and the endpoint accepts {limit:,}; name the endpoint's bundle "
            "with --bundle to shrink it by the model's input rule, or deploy with --variant async.",
            code="too-large",
        )
    from pneumoscope.imaging import shrink  # loads the image decoders, which most calls do not need

    return shrink(film, found.input), True


def read_prediction(body: bytes, name: str) -> dict[str, Any]:
    """The prediction in an endpoint's response.

    Raises:
        CloudError: the response is not a prediction of ours; the endpoint serves another kind of model.
    """
    document = _parse_object(body)
    if "status" not in document or "probabilities" not in document:
        raise CloudError(f"endpoint {name} does not answer like Pneumoscope's service; does it serve another model?")
    return document


def problem_detail(message: str) -> str:
    """The `detail` of a problem document (RFC 9457), or the beginning of a message that is not one."""
    return str(_parse_object(message).get("detail", message[:300]))


def _parse_object(text: str | bytes) -> dict[str, Any]:
    """The text as a JSON object; empty if it is not one."""
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
