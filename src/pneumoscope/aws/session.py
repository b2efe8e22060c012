"""AWS clients, and the translation of their errors into ours."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from boto3.exceptions import Boto3Error
from botocore import UNSIGNED, exceptions
from botocore.config import Config

from pneumoscope.errors import BusyError, CloudError, UsageError
from pneumoscope.settings.aws_names import Location
from pneumoscope.settings.serve import is_loopback

TRANSFERS = 16  # concurrent transfers; they are bound by the network, not by the CPU
_ATTEMPTS = 6  # botocore's default of three gives up after two seconds of throttling
_READ_SECONDS = 70.0  # SageMaker allows a model 60 s to answer; wait slightly longer than that
_MAX_MESSAGE = 300  # characters of an AWS error message
# Beginnings of AWS error codes. AWS's messages name the problem but not the remedy, which we add for these.
_BUSY_CODES = (
    "ModelNotReady",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "TooManyRequests",
)
_DENIED_CODES = ("AccessDenied", "UnauthorizedOperation", "403", "Forbidden")
_CREDENTIAL_CODES = (
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "UnrecognizedClient",
)
#: Operations that IAM authorises under another name: a policy must allow the name on the right.
_IAM_ACTIONS = {
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "HeadBucket": "ListBucket",
    "HeadObject": "GetObject",
    "ListObjectsV2": "ListBucket",
}
_RUNTIME_VARIABLE = "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"
_STAND_IN_ADVICE = "check that `pneumoscope serve --bundle BUNDLE --as-endpoint NAME` runs there"


class Cloud:
    """boto3 clients for one region, each created once, with exponential backoff between retries.

    Args:
        region: such as `eu-central-1`; by default the region of the environment or the profile.
        anonymous: send requests unsigned, for a stand-in on this machine.
        read_seconds: read timeout of each attempt, in seconds.

    Raises:
        CloudError: no region is set, or the profile does not exist.
    """

    def __init__(
        self, *, region: str | None = None, anonymous: bool = False, read_seconds: float = _READ_SECONDS
    ) -> None:
        import boto3

        with translate_errors():
            self._session = boto3.Session(region_name=region)
        self._signature = {"signature_version": UNSIGNED} if anonymous else {}
        if self._session.region_name is None:
            raise CloudError("no AWS region is set; pass --region, or set AWS_DEFAULT_REGION.")
        self.region: str = self._session.region_name
        self._seconds = read_seconds
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """The boto3 client for a service."""
        if service not in self._clients:
            self._clients[service] = self._create(service, attempts=attempts(), read_timeout=self._seconds)
        return self._clients[service]

    def runtime_client(self, seconds: float = _READ_SECONDS) -> Any:
        """A boto3 client for `sagemaker-runtime` that tries each call once, with a read timeout of `seconds`."""
        # `Endpoint` repeats calls itself, because botocore would not repeat those that a busy model refuses.
        return self._create("sagemaker-runtime", attempts=1, read_timeout=seconds)

    def _create(self, service: str, *, attempts: int, read_timeout: float) -> Any:
        config = Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=min(10.0, read_timeout),
            read_timeout=read_timeout,
            max_pool_connections=TRANSFERS,
            **self._signature,
        )
        with translate_errors():
            try:
                return self._session.client(service, config=config)
            except exceptions.BotoCoreError:
                raise
            except ValueError as failure:  # an invalid endpoint address in the environment or the profile
                raise CloudError(
                    f"{str(failure).rstrip('.')}; correct AWS_ENDPOINT_URL or AWS_ENDPOINT_URL_"
                    f"{service.upper().replace('-', '_')}; they must begin with http:// or https://."
                ) from failure


def uses_stand_in() -> bool:
    """Whether a service on this machine stands in for `sagemaker-runtime`; it needs no region and no credentials.

    Raises:
        UsageError: the stand-in's address does not begin with http:// or https://.
    """
    url = os.environ.get(_RUNTIME_VARIABLE, "")
    if url and urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(
            f"{_RUNTIME_VARIABLE} is {url!r}, which is not an HTTP address; an example is http://127.0.0.1:8080."
        )
    # A second address, for SageMaker's other API, means an emulated AWS account: then regions and credentials matter.
    emulated = ("AWS_ENDPOINT_URL_SAGEMAKER", "AWS_ENDPOINT_URL")
    return is_local(url) and not any(os.environ.get(name) for name in emulated)


def is_local(url: str) -> bool:
    """Whether a URL points to this machine."""
    return is_loopback(urlsplit(url).hostname or "")


def attempts() -> int:
    """Attempts per call: AWS_MAX_ATTEMPTS, which botocore also reads, or else six."""
    variable = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return int(variable) if variable.isdecimal() and int(variable) > 0 else _ATTEMPTS


@contextmanager
def translate_errors(what: str = "") -> Iterator[None]:
    """Turn the errors of boto3 and botocore into ours.

    Args:
        what: the operation, which begins the message: "reading s3://films/a.png".

    Raises:
        BusyError: the failure is temporary; the operation may succeed later.
        CloudError: the operation will not succeed as it is.
    """
    try:
        yield
    except (exceptions.BotoCoreError, exceptions.ClientError, Boto3Error) as failure:
        error_class, sentence = (
            _describe_response(failure) if isinstance(failure, exceptions.ClientError) else _describe_failure(failure)
        )
        raise error_class(f"{what}: {sentence}" if what else sentence) from failure


def call_or_none(what: str, call: Callable[..., Any], expected: str, /, **arguments: Any) -> dict[str, Any] | None:
    """The response of an AWS call, or None if AWS answers with an expected error, such as a missing object.

    Args:
        what: the operation, as for `translate_errors`.
        call: a method of a boto3 client.
        expected: a regular expression for the start of "CODE: MESSAGE" of the expected errors, such as `NoSuchKey|404`.
            The message is matched too because some services use one code for all their errors.
        arguments: keyword arguments of the call.

    Raises:
        CloudError: AWS answers with another error.
    """
    with translate_errors(what):
        try:
            return dict(call(**arguments))
        except exceptions.ClientError as failure:
            if re.match(expected, f"{error_code(failure)}: {failure.response.get('Error', {}).get('Message')}"):
                return None
            raise


def fetch_file(cloud: Cloud, file: Location, path: Path) -> None:
    """Download an S3 object to a path.

    Raises:
        CloudError: the object does not exist, or AWS refuses.
    """
    with translate_errors(f"reading {file}"):
        cloud.client("s3").download_file(file.bucket, file.key, str(path))


def error_code(failure: exceptions.ClientError) -> str:
    """The error code of an AWS error response."""
    return str(failure.response.get("Error", {}).get("Code", "Unknown"))


def _describe_response(failure: exceptions.ClientError) -> tuple[type[CloudError], str]:
    """The class and the text of our error for an error response of AWS."""
    code = error_code(failure)
    message = _shorten(str(failure.response.get("Error", {}).get("Message", ""))) or code
    status = failure.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code.startswith(_BUSY_CODES) or status in (429, 500, 502, 503, 504):
        return BusyError, f"AWS is busy, or throttles requests ({code}); try again later."
    if code.startswith(_DENIED_CODES):
        action = _IAM_ACTIONS.get(failure.operation_name, failure.operation_name)
        return CloudError, f"AWS denies access ({message}); allow {action} for your user or role."
    if code.startswith(_CREDENTIAL_CODES):
        return CloudError, f"AWS does not accept the credentials ({code}); renew them, or set AWS_PROFILE."
    if code == "NoSuchBucket":
        return CloudError, "the bucket does not exist; create it, or check its name."
    return CloudError, f"{message} ({code})."


def _describe_failure(failure: exceptions.BotoCoreError | Boto3Error) -> tuple[type[CloudError], str]:
    """The class and the text of our error if no response came: no credentials, no connection, or not in time."""
    match failure:
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError():
            way_out = "run `aws configure`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            return CloudError, f"there are no AWS credentials; {way_out}."
        case exceptions.ReadTimeoutError():
            return BusyError, f"{_address_in(failure)} did not answer in time; try again later."
        case exceptions.HTTPClientError() | exceptions.ConnectionError():
            url, runtime = _address_in(failure), os.environ.get(_RUNTIME_VARIABLE, "")
            stands_in = runtime and url.startswith(runtime) and is_local(url)
            advice = _STAND_IN_ADVICE if stands_in else "check the network and the region"
            return BusyError, f"{url} cannot be reached; {advice}."
        case Boto3Error():  # a file transfer that failed repeatedly
            return BusyError, f"{_shorten(str(failure))}; try again later."
    return CloudError, f"{_shorten(str(failure))}."


def _address_in(failure: exceptions.BotoCoreError) -> str:
    return str(failure.kwargs.get("endpoint_url") or "AWS")


def _shorten(text: str) -> str:
    """The text on one line, cut to a readable length: AWS's validation errors list every accepted value."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= _MAX_MESSAGE else f"{line[:_MAX_MESSAGE]}…"
