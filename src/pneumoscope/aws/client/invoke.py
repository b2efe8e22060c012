"""Sending films to an endpoint of any variant: real-time, serverless or asynchronous."""

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
from pneumoscope.aws.client.inventory import endpoint_config, variant_and_contract
from pneumoscope.aws.endpoint import CONTENT_TYPE, Endpoint, TimedDecision, fit_film, problem_detail, read_prediction
from pneumoscope.aws.limits import ASYNCHRONOUS, REALTIME, SERVERLESS
from pneumoscope.aws.session import Cloud, call_or_none, translate_errors, uses_stand_in
from pneumoscope.contract import CONTRACT_FILE, DISCLAIMER, Contract, load_contract
from pneumoscope.engine import rejection
from pneumoscope.errors import BundleError, BusyError, CloudError, ImageError, InferenceError, UsageError
from pneumoscope.settings.aws import Variant
from pneumoscope.settings.aws_names import Location, parse_location

_LIMITS: dict[Variant, int] = {"realtime": REALTIME, "serverless": SERVERLESS, "async": ASYNCHRONOUS}


@dataclass
class Client:
    """Sends films to an endpoint.

    Args:
        cloud: the clients for the endpoint's region.
        name: the endpoint's name.
        variant: the endpoint's variant; by default read from AWS. A stand-in on this machine is a real-time endpoint.
        bundle: the endpoint's bundle, for its input rule; by default the contract beside its model in S3.
        patience: how many seconds to wait for an asynchronous response.
        pause: sleeps for a number of seconds; tests replace it.

    `limit` is the largest body that the endpoint accepts, in bytes.

    Raises:
        CloudError: the endpoint does not exist, or access to it is denied.
        BundleError: the folder is not a bundle, or is damaged.
        UsageError: the stand-in on this machine is given another variant than real-time.
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
        if self.bundle is not None:
            load_contract(self.bundle)  # report a damaged bundle before the first film
        if uses_stand_in() and self.variant not in (None, "realtime"):
            sentence = f"a service on this machine stands in for real-time endpoints only, not for {self.variant} ones."
            raise UsageError(sentence)
        if self.variant is None and not uses_stand_in():
            self.variant = self._description[0]
        self.variant = self.variant or "realtime"
        self.limit = _LIMITS[self.variant]

    @cached_property
    def _description(self) -> tuple[Variant, Location | None]:
        """The variant that AWS states, and where the contract beside the endpoint's model is."""
        return variant_and_contract(self.cloud, self.name)

    @cached_property
    def contract(self) -> Contract | None:
        """The endpoint's contract, or None if it is neither in a bundle nor in S3.

        Raises:
            BundleError: the contract is damaged.
            CloudError: AWS refuses.
        """
        if self.bundle is not None:
            return load_contract(self.bundle)
        location = None if uses_stand_in() else self._description[1]
        if location is None or (content := self._read_object(str(location))) is None:
            return None
        with TemporaryDirectory(prefix="pneumoscope-") as folder:
            (Path(folder) / CONTRACT_FILE).write_bytes(content)
            return load_contract(Path(folder))

    def classify(self, film: bytes) -> TimedDecision:
        """The endpoint's decision on an image file, which is sent unchanged unless it is too large for the endpoint.

        Raises:
            ImageError: the file cannot be decoded, or is too large and there is no contract to shrink it by.
            BusyError: the endpoint is busy, stopped or out of reach.
            InferenceError: the model failed on the file.
            CloudError: AWS refuses.
        """
        content, shrunk = fit_film(film, self.limit, lambda: self.contract)
        send = self._through_s3 if self.variant == "async" else self._endpoint.classify
        return replace(send(content), shrunk=shrunk)

    @cached_property
    def _endpoint(self) -> Endpoint:
        return Endpoint(self.cloud.runtime_client(), self.name, pause=self.pause)

    def _through_s3(self, content: bytes) -> TimedDecision:
        """Call an asynchronous endpoint: put the film into S3, read the response from there, and delete the film.

        If the wait is given up, the film stays: the endpoint may still read it.
        """
        started = time.perf_counter()
        # A random name, because the film's own may identify a patient.
        film = self._inbox / str(uuid.uuid4())
        write_file(self.cloud, film, content)  # encrypted by the bucket's default
        with ExitStack() as cleanup:
            cleanup.callback(remove_file, self.cloud, film)
            with translate_errors(f"endpoint {self.name}"):
                accepted = self.cloud.client("sagemaker-runtime").invoke_endpoint_async(
                    EndpointName=self.name, InputLocation=str(film), ContentType=CONTENT_TYPE, Accept="application/json"
                )
            try:
                body = self._await_response(accepted["OutputLocation"], accepted.get("FailureLocation"))
            except (BusyError, KeyboardInterrupt):
                cleanup.pop_all()
                raise
        milliseconds = (time.perf_counter() - started) * 1000
        return TimedDecision(prediction=read_prediction(body, self.name), milliseconds=milliseconds)

    @cached_property
    def _inbox(self) -> Location:
        """The folder for films, beside the endpoint's responses: its role may read there."""
        config = endpoint_config(self.cloud, self.name)
        if "AsyncInferenceConfig" not in config:
            raise CloudError(f"endpoint {self.name} is not asynchronous; leave out --variant.")
        return parse_location(config["AsyncInferenceConfig"]["OutputConfig"]["S3OutputPath"]).folder / "films"

    def _await_response(self, output: str, failure: str | None) -> bytes:
        waited, seconds = 0.0, 0.5
        while waited <= self.patience:
            if (body := self._read_object(output)) is not None:
                return body
            if failure is not None and (reason := self._read_object(failure)) is not None:
                raise _translate_failure(self.name, reason.decode(errors="replace"))
            self.pause(seconds)
            waited, seconds = waited + seconds, min(10.0, seconds * 1.5)
        raise BusyError(
            f"endpoint {self.name} did not answer in {self.patience:g} s; its response may still appear at {output}."
        )

    def _read_object(self, address: str) -> bytes | None:
        """The bytes of an S3 object, or None if it does not exist."""
        place, read = parse_location(address), self.cloud.client("s3").get_object
        reply = call_or_none(f"reading {address}", read, "NoSuchKey", Bucket=place.bucket, Key=place.key)
        with translate_errors(f"reading {address}"):
            return None if reply is None else bytes(reply["Body"].read())


def _translate_failure(name: str, reason: str) -> ImageError | InferenceError:
    """Our error for an asynchronous endpoint's failure report."""
    # The report is text of SageMaker's that quotes the service's problem document and, in brackets, its HTTP status.
    begin = reason.find("{")
    detail = problem_detail(reason[begin : reason.rfind("}") + 1]) if begin >= 0 else reason.strip()[:300]
    # The statuses with which the service refuses a film; any other is the endpoint's failure.
    if any(f"({status})" in reason for status in (400, 415, 422)):
        return ImageError(detail)
    return InferenceError(f"endpoint {name} failed: {detail}")


def decision_document(name: str, client: Client, decision: TimedDecision) -> dict[str, Any]:
    """A film's decision as one JSON document: the prediction, and the call's variant, duration and attempts."""
    call = {
        "name": client.name,
        "variant": client.variant,
        "milliseconds": round(decision.milliseconds, 1),
        "tries": decision.tries,
        "shrunk": decision.shrunk,
    }
    return decision.prediction | {"image": name, "endpoint": call}


def failure_document(name: str, client: Client, failure: ImageError | CloudError | OSError) -> dict[str, Any]:
    """The document of `decision_document` for a film without a response: status `rejected`, with the reason."""
    contract = None
    with suppress(CloudError, BundleError):  # report the film's own failure, not one of reading the contract
        contract = client.contract
    refused = rejection(contract, _reason_code(failure), str(failure)).as_json() | {"notice": DISCLAIMER}
    return decision_document(name, client, TimedDecision(prediction=refused, milliseconds=0.0, tries=0))


def _reason_code(failure: ImageError | CloudError | OSError) -> str:
    if isinstance(failure, ImageError):
        return failure.code
    return "unanswered" if isinstance(failure, CloudError) else "unreadable"
