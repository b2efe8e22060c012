"""A SageMaker endpoint that serves a bundle, asked through boto3."""

import json
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from botocore import exceptions

from pneumoscope.aws.session import code_of, in_words, is_here
from pneumoscope.contract import Contract
from pneumoscope.errors import AnswerError, BusyError, CloudError, ImageError, PneumoscopeError, UnsuitableError

#: The capstone's content type; what the bytes are is read from themselves.
CONTENT_TYPE = "application/x-image"
_MODEL_ERROR = "ModelError"
_TOO_LARGE = "413"
_UNKNOWN = "ValidationError"
_NO_ENDPOINT = {"404", "405", "501"}  # an HTTP server's answers, not SageMaker's
_NO_FILM = {400, 415, 422}  # the service's answers to bytes that are no film
_LATER = {0, 408, 429, 500, 502, 503, 504}
_TRIES = 5  # ours: botocore repeats what AWS throttles, but not what a busy model behind an endpoint answers
_FIRST_PAUSE = 0.25  # seconds; doubled each time


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An endpoint's decision: `prediction` is the documented document, `milliseconds` the whole call's.

    `shrunk` says that the film was sent as the model reads it instead of as it is.
    """

    prediction: dict[str, Any]
    milliseconds: float
    tries: int = 1
    shrunk: bool = False


@dataclass(frozen=True)
class Endpoint:
    """An endpoint by name.

    Args:
        runtime: boto3's client of `sagemaker-runtime`, as `Cloud.asker` makes it.
        name: of the endpoint.
        patience: seconds after which nothing is asked again.
        pause: waits so many seconds.
    """

    runtime: Any
    name: str
    _: KW_ONLY
    patience: float = 180.0
    pause: Callable[[float], None] = time.sleep

    def classify(self, film: bytes) -> Answer:
        """Send a film's file as it is, and give the endpoint's decision.

        A model that is busy is asked again, after longer and longer pauses.

        Args:
            film: the bytes of a file, no more than the endpoint takes; see `fit_film`.

        Raises:
            ImageError: the model cannot read them.
            BusyError: the endpoint is busy, stopped or out of reach; it may answer later.
            AnswerError: the model failed on them.
            CloudError: there is no such endpoint, or access to it is denied.
        """
        started = time.perf_counter()
        for tried in range(1, _TRIES + 1):
            try:
                prediction = self._ask(film)
            except BusyError:
                pause = _FIRST_PAUSE * 2 ** (tried - 1)
                if tried == _TRIES or time.perf_counter() - started + pause > self.patience:
                    raise
                self.pause(pause)
            else:
                milliseconds = (time.perf_counter() - started) * 1000
                return Answer(prediction=prediction, milliseconds=milliseconds, tries=tried)
        raise AssertionError("the last try returns or raises")

    def _ask(self, film: bytes) -> dict[str, Any]:
        with in_words(f"endpoint {self.name}"):
            try:
                body = self.runtime.invoke_endpoint(
                    EndpointName=self.name, Body=film, ContentType=CONTENT_TYPE, Accept="application/json"
                )["Body"].read()
            except exceptions.ClientError as failure:
                if (explained := self._explained(failure)) is None:
                    raise
                raise explained from failure
        return read_prediction(body, self.name)

    def _explained(self, failure: exceptions.ClientError) -> PneumoscopeError | None:
        """The error in our words, or None if it is not of this operation alone."""
        address = self.runtime.meta.endpoint_url
        if code_of(failure) == _UNKNOWN:
            here = "its name is the one that `serve --as-endpoint` was given"
            advice = here if is_here(address) else "`pneumoscope aws status` lists the endpoints of this region"
            return CloudError(f"endpoint {self.name}: {failure.response['Error']['Message'].rstrip('.')}; {advice}.")
        if code_of(failure) in _NO_ENDPOINT:
            return CloudError(
                f"endpoint {self.name}: {address} answers {code_of(failure)} and is no endpoint; if it is this "
                f"product's service, start it with --as-endpoint {self.name}."
            )
        if code_of(failure) == _TOO_LARGE:
            return UnsuitableError(f"the film is larger than endpoint {self.name} takes.", code="too-large")
        if code_of(failure) != _MODEL_ERROR:
            return None
        status = int(failure.response.get("OriginalStatusCode") or 0)
        said = said_by_model(str(failure.response.get("OriginalMessage", "")))
        if status in _NO_FILM:
            return ImageError(said)
        sentence = f"endpoint {self.name}: its model answered {status or 'nothing in time'} ({said.rstrip('.')})"
        if status in _LATER:
            return BusyError(f"{sentence}; try again later, or give it more instances.")
        return AnswerError(f"{sentence}; its log is {failure.response.get('LogStreamArn', 'in CloudWatch')}.")


def fit_film(film: bytes, limit: int, contract: Callable[[], Contract | None]) -> tuple[bytes, bool]:
    """What of a film goes to an endpoint, and whether it was shrunk: the file, or a larger one as the model reads it.

    Args:
        film: the bytes of a file.
        limit: the largest body that the endpoint takes, in bytes.
        contract: gives the endpoint's contract, for its input rule; None if it is not within reach.

    Raises:
        ImageError: it cannot be read, or is too large and there is no contract to shrink it by.
    """
    if len(film) <= limit:
        return film, False
    if (found := contract()) is None:
        raise UnsuitableError(
            f"the film has {len(film):,} bytes, and the endpoint takes {limit:,}; name the endpoint's bundle "
            "with --bundle to shrink it by the model's own rule, or deploy with --variant async.",
            code="too-large",
        )
    from pneumoscope.imaging import shrink  # loads what decodes films, which an endpoint's caller rarely needs

    return shrink(film, found.input), True


def read_prediction(body: bytes, name: str) -> dict[str, Any]:
    """An endpoint's answer as a prediction.

    Raises:
        CloudError: it is none; another kind of model answers there.
    """
    document = _document(body)
    if "status" not in document or "probabilities" not in document:
        raise CloudError(f"endpoint {name} does not answer like this product's service; is it another model's?")
    return document


def said_by_model(message: str) -> str:
    """The sentence in a service's problem document (RFC 9457), or the message as it is."""
    return str(_document(message).get("detail", message[:300]))


def _document(text: str | bytes) -> dict[str, Any]:
    """The JSON object that a text holds; an empty one if it holds none."""
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
