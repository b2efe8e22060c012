"""Films through an endpoint, by whichever way it takes them."""

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pneumoscope.aws.client.bucket import remove_file, write_file
from pneumoscope.aws.client.inventory import config_of, limits_of
from pneumoscope.aws.endpoint import CONTENT_TYPE, Answer, Endpoint, fit_film, read_prediction, said_by_model
from pneumoscope.aws.limits import ASYNCHRONOUS, REALTIME, SERVERLESS
from pneumoscope.aws.session import Cloud, ask_for, in_words, stand_in
from pneumoscope.contract import CONTRACT_FILE, DISCLAIMER, Contract, load_contract
from pneumoscope.engine import rejection
from pneumoscope.errors import AnswerError, BundleError, BusyError, CloudError, ImageError, UsageError
from pneumoscope.settings.aws import Variant
from pneumoscope.settings.aws_names import Location, parse_location

_LIMITS: dict[Variant, int] = {"realtime": REALTIME, "serverless": SERVERLESS, "async": ASYNCHRONOUS}


@dataclass
class Client:
    """Sends films to an endpoint.

    Args:
        cloud: of the endpoint's region.
        name: of the endpoint.
        variant: how it is to be asked; by default as AWS says it is. A stand-in on
            this machine is taken for a real-time one.
        bundle: the endpoint's bundle, for its input rule; by default the contract beside its model in S3.
        patience: seconds to wait for an asynchronous answer.
        pause: waits so many seconds.

    `limit` is the largest body that the endpoint takes, in bytes.

    Raises:
        CloudError: there is no such endpoint, or access to it is denied.
        BundleError: the bundle is none, or damaged.
        UsageError: a stand-in is to be asked otherwise than in real time.
    """

    cloud: Cloud
    name: str
    _: KW_ONLY
    variant: Variant | None = None
    bundle: Path | None = None
    patience: float = 900.0
    pause: Callable[[float], None] = time.sleep
    limit: int = field(init=False)

    def __post_init__(self) -> None:
        self._place: Location | None = None
        if self.bundle is not None:
            load_contract(self.bundle)  # so that a faulty bundle is reported at once
        if stand_in() and self.variant not in (None, "realtime"):
            sentence = f"a service on this machine stands in for a real-time endpoint, not for {self.variant} ones."
            raise UsageError(sentence)
        if self.variant is None and not stand_in():
            self.variant, self._place = limits_of(self.cloud, self.name)
        self.variant = self.variant or "realtime"
        self.limit = _LIMITS[self.variant]

    @cached_property
    def contract(self) -> Contract | None:
        """The endpoint's contract, if it is within reach.

        Raises:
            BundleError: it is damaged.
            CloudError: AWS refuses.
        """
        if self.bundle is not None:
            return load_contract(self.bundle)
        if self._place is None or (content := self._object(str(self._place))) is None:
            return None
        with TemporaryDirectory(prefix="pneumoscope-") as folder:
            (Path(folder) / CONTRACT_FILE).write_bytes(content)
            return load_contract(Path(folder))

    def classify(self, film: bytes) -> Answer:
        """The endpoint's decision on a film's file, sent as it is unless it is too large for the endpoint.

        Raises:
            ImageError: it cannot be read, or is too large and there is no contract to shrink it by.
            BusyError: the endpoint is busy, stopped or out of reach.
            AnswerError: the model failed on it.
            CloudError: AWS refuses.
        """
        content, shrunk = fit_film(film, self.limit, lambda: self.contract)
        ask = self._through_s3 if self.variant == "async" else self._endpoint.classify
        return replace(ask(content), shrunk=shrunk)

    @cached_property
    def _endpoint(self) -> Endpoint:
        return Endpoint(self.cloud.asker(), self.name, pause=self.pause)

    def _through_s3(self, content: bytes) -> Answer:
        """An asynchronous endpoint: the film into S3, the answer out of it, and the film removed.

        A film stays that nobody waits for any more: the endpoint may come to it yet.
        """
        started = time.perf_counter()
        film = self._inbox / str(uuid.uuid4())
        write_file(self.cloud, film, content)  # encrypted as the bucket says
        with ExitStack() as left:
            left.callback(remove_file, self.cloud, film)
            with in_words(f"endpoint {self.name}"):
                accepted = self.cloud.client("sagemaker-runtime").invoke_endpoint_async(
                    EndpointName=self.name, InputLocation=str(film), ContentType=CONTENT_TYPE, Accept="application/json"
                )
            try:
                body = self._awaited(accepted["OutputLocation"], accepted.get("FailureLocation"))
            except (BusyError, KeyboardInterrupt):
                left.pop_all()
                raise
        milliseconds = (time.perf_counter() - started) * 1000
        return Answer(prediction=read_prediction(body, self.name), milliseconds=milliseconds)

    @cached_property
    def _inbox(self) -> Location:
        """Beside the endpoint's answers, where its role may read."""
        config = config_of(self.cloud, self.name)
        if "AsyncInferenceConfig" not in config:
            raise CloudError(f"endpoint {self.name} is not asynchronous; leave out --variant.")
        return parse_location(config["AsyncInferenceConfig"]["OutputConfig"]["S3OutputPath"]).folder / "films"

    def _awaited(self, output: str, failure: str | None) -> bytes:
        waited, seconds = 0.0, 0.5
        while waited <= self.patience:
            if (body := self._object(output)) is not None:
                return body
            if failure is not None and (reason := self._object(failure)) is not None:
                raise _failed(self.name, reason.decode(errors="replace"))
            self.pause(seconds)
            waited, seconds = waited + seconds, min(10.0, seconds * 1.5)
        raise BusyError(f"endpoint {self.name} gave no answer in {self.patience:g} s; it may come yet, in {output}.")

    def _object(self, address: str) -> bytes | None:
        """An object's bytes, if it is there."""
        place, read = parse_location(address), self.cloud.client("s3").get_object
        reply = ask_for(f"reading {address}", read, "NoSuchKey", Bucket=place.bucket, Key=place.key)
        with in_words(f"reading {address}"):
            return None if reply is None else bytes(reply["Body"].read())


def _failed(name: str, reason: str) -> ImageError | AnswerError:
    """An asynchronous endpoint's word on why it has no answer, which quotes the model's."""
    begin = reason.find("{")
    said = said_by_model(reason[begin : reason.rfind("}") + 1]) if begin >= 0 else reason.strip()[:300]
    if any(f"({status})" in reason for status in (400, 415, 422)):
        return ImageError(said)
    return AnswerError(f"endpoint {name} failed: {said}")


def as_document(name: str, client: Client, answer: Answer) -> dict[str, Any]:
    """A film's answer as one JSON document: the documented prediction, and what the call took."""
    call = {
        "name": client.name,
        "variant": client.variant,
        "milliseconds": round(answer.milliseconds, 1),
        "tries": answer.tries,
        "shrunk": answer.shrunk,
    }
    return answer.prediction | {"image": name, "endpoint": call}


def as_refusal(name: str, client: Client, failure: ImageError | CloudError | OSError) -> dict[str, Any]:
    """A film that has no answer, as the same JSON document: rejected, and why."""
    contract = None
    with suppress(CloudError, BundleError):  # report the film's own failure, not this one
        contract = client.contract
    refused = rejection(contract, _code(failure), str(failure)).as_json() | {"notice": DISCLAIMER}
    return as_document(name, client, Answer(prediction=refused, milliseconds=0.0, tries=0))


def _code(failure: ImageError | CloudError | OSError) -> str:
    if isinstance(failure, ImageError):
        return failure.code
    return "unanswered" if isinstance(failure, CloudError) else "unreadable"
