"""Films through an endpoint, by whichever way it takes them."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pneumoscope.aws.client.bucket import remove_file, write_file
from pneumoscope.aws.client.inventory import config_of, limits_of
from pneumoscope.aws.endpoint import CONTENT_TYPE, Answer, Endpoint, read_prediction, said_by_model
from pneumoscope.aws.limits import ASYNCHRONOUS, REALTIME, SERVERLESS
from pneumoscope.aws.session import Cloud, ask_for, in_words, stand_in
from pneumoscope.contract import CONTRACT_FILE, DISCLAIMER, Contract, load_contract
from pneumoscope.engine import rejection
from pneumoscope.errors import AnswerError, BundleError, BusyError, CloudError, ImageError, UnsuitableError, UsageError
from pneumoscope.imaging import shrink
from pneumoscope.settings.aws import Variant
from pneumoscope.settings.names import Location, parse_location

_LIMITS: dict[Variant, int] = {"realtime": REALTIME, "serverless": SERVERLESS, "async": ASYNCHRONOUS}


class Client:
    """Sends films to an endpoint.

    Args:
        cloud: of the endpoint's region.
        name: of the endpoint.
        variant: how it is to be asked; by default as AWS says it is. A stand-in on
            this machine is taken for a real-time one.
        bundle: the endpoint's bundle, for its input rule; by default the contract beside its model in S3.
        patience: seconds to wait for an asynchronous answer.

    Raises:
        CloudError: there is no such endpoint, or access to it is denied.
        BundleError: the bundle is none, or damaged.
        UsageError: a stand-in is to be asked otherwise than in real time.
    """

    def __init__(
        self,
        cloud: Cloud,
        name: str,
        *,
        variant: Variant | None = None,
        bundle: Path | None = None,
        patience: float = 900.0,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cloud, self.name, self._bundle = cloud, name, bundle
        self._patience, self._pause = patience, pause
        self._place: Location | None = None
        if bundle is not None:
            load_contract(bundle)  # what is wrong with it is said at once
        if stand_in() and variant not in (None, "realtime"):
            raise UsageError(f"a service on this machine stands in for a real-time endpoint, not for {variant} ones.")
        if variant is None and not stand_in():
            variant, self._place = limits_of(cloud, name)
        self.variant: Variant = variant or "realtime"
        self.limit = _LIMITS[self.variant]

    @cached_property
    def contract(self) -> Contract | None:
        """The endpoint's contract, if it is within reach.

        Raises:
            BundleError: it is damaged.
            CloudError: AWS refuses.
        """
        if self._bundle is not None:
            return load_contract(self._bundle)
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
        if len(film) <= self.limit:
            return self._asked(film)
        if self.contract is None:
            raise UnsuitableError(
                f"the film has {len(film):,} bytes, and the endpoint takes {self.limit:,}; name the endpoint's bundle "
                "with --bundle to shrink it by the model's own rule, or deploy with --variant async.",
                code="too-large",
            )
        return replace(self._asked(shrink(film, self.contract.input)), shrunk=True)

    def _asked(self, content: bytes) -> Answer:
        if self.variant == "async":
            return self._through_s3(content)
        return self._endpoint.classify(content)

    @cached_property
    def _endpoint(self) -> Endpoint:
        return Endpoint(self._cloud.asker(), self.name, limit=self.limit, pause=self._pause)

    def _through_s3(self, content: bytes) -> Answer:
        """An asynchronous endpoint: the film into S3, the answer out of it, and the film removed.

        A film stays that nobody waits for any more: the endpoint may come to it yet.
        """
        started = time.perf_counter()
        film = self._inbox / str(uuid.uuid4())
        write_file(self._cloud, film, content)  # encrypted as the bucket says
        with ExitStack() as left:
            left.callback(remove_file, self._cloud, film)
            with in_words(f"endpoint {self.name}"):
                accepted = self._cloud.client("sagemaker-runtime").invoke_endpoint_async(
                    EndpointName=self.name, InputLocation=str(film), ContentType=CONTENT_TYPE, Accept="application/json"
                )
            try:
                body = self._awaited(accepted["OutputLocation"], accepted.get("FailureLocation"))
            except (BusyError, KeyboardInterrupt):
                left.pop_all()
                raise
        milliseconds = (time.perf_counter() - started) * 1000
        prediction = read_prediction(body, self.name)
        return Answer(prediction=prediction, milliseconds=milliseconds, tries=1)

    @cached_property
    def _inbox(self) -> Location:
        """Beside the endpoint's answers, where its role may read."""
        config = config_of(self._cloud, self.name)
        if "AsyncInferenceConfig" not in config:
            raise CloudError(f"endpoint {self.name} is not asynchronous; leave out --variant.")
        return parse_location(config["AsyncInferenceConfig"]["OutputConfig"]["S3OutputPath"]).folder / "films"

    def _awaited(self, output: str, failure: str | None) -> bytes:
        for seconds in _longer_and_longer(self._patience):
            if (body := self._object(output)) is not None:
                return body
            if failure is not None and (reason := self._object(failure)) is not None:
                raise _failed(self.name, reason.decode(errors="replace"))
            self._pause(seconds)
        raise BusyError(f"endpoint {self.name} gave no answer in {self._patience:g} s; it may come yet, in {output}.")

    def _object(self, address: str) -> bytes | None:
        """An object's bytes, if it is there."""
        place, read = parse_location(address), self._cloud.client("s3").get_object
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


def _longer_and_longer(total: float) -> Iterator[float]:
    waited, seconds = 0.0, 0.5
    while waited <= total:
        yield seconds
        waited, seconds = waited + seconds, min(10.0, seconds * 1.5)


def as_document(name: str, client: Client, answer: Answer) -> dict[str, Any]:
    """A film's answer as one JSON document: the documented prediction, and what the call took."""
    return answer.prediction | {"image": name, "endpoint": _call(client, answer)}


def as_refusal(name: str, client: Client, failure: ImageError | CloudError | OSError) -> dict[str, Any]:
    """A film that has no answer, as the same JSON document: rejected, and why."""
    contract = None
    with suppress(CloudError, BundleError):  # report the film's own failure, not this one
        contract = client.contract
    refused = rejection(contract, _code(failure), str(failure), image=name).as_json()
    return refused | {"notice": DISCLAIMER, "endpoint": _call(client, None)}


def _code(failure: ImageError | CloudError | OSError) -> str:
    if isinstance(failure, ImageError):
        return failure.code
    return "unanswered" if isinstance(failure, CloudError) else "unreadable"


def _call(client: Client, answer: Answer | None) -> dict[str, Any]:
    return {
        "name": client.name,
        "variant": client.variant,
        "milliseconds": round(answer.milliseconds, 1) if answer else 0.0,
        "tries": answer.tries if answer else 0,
        "shrunk": answer.shrunk if answer else False,
    }
