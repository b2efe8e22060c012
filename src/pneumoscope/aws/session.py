"""Clients of AWS, and its refusals in words."""

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

TRANSFERS = 16  # at once; they wait for the network, not for a core
_ATTEMPTS = 6  # botocore's own three are over after two seconds of throttling
_ANSWER_SECONDS = 70.0  # SageMaker gives a model a minute
_LONGEST = 300  # characters of what AWS says
#: Beginnings of AWS's codes. Its sentences say what was refused; what to do about these, none of them says.
_BUSY = ("ModelNotReady", "RequestLimitExceeded", "ServiceUnavailable", "SlowDown", "Throttling", "TooManyRequests")
_DENIED = ("AccessDenied", "UnauthorizedOperation", "403", "Forbidden")
_KEYS = ("ExpiredToken", "InvalidAccessKeyId", "InvalidClientTokenId", "SignatureDoesNotMatch", "UnrecognizedClient")
#: What IAM calls an operation where it has another name.
_ALLOWED_BY = {
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "HeadBucket": "ListBucket",
    "HeadObject": "GetObject",
    "ListObjectsV2": "ListBucket",
}
_RUNTIME = "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"
_SERVE = "see that `pneumoscope serve --bundle BUNDLE --as-endpoint NAME` runs there"


class Cloud:
    """Clients of one region, made once each, with retries that wait longer each time.

    Args:
        region: such as `eu-central-1`; by default what the environment or the profile says.
        anonymous: without credentials, for a stand-in on this machine.
        answer_seconds: how long an answer is waited for, each time.

    Raises:
        CloudError: there is no region, or no such profile.
    """

    def __init__(
        self, *, region: str | None = None, anonymous: bool = False, answer_seconds: float = _ANSWER_SECONDS
    ) -> None:
        import boto3

        with in_words():
            self._session = boto3.Session(region_name=region)
        self._signature = {"signature_version": UNSIGNED} if anonymous else {}
        if self._session.region_name is None:
            raise CloudError("no AWS region is set; pass --region, or set AWS_DEFAULT_REGION.")
        self.region: str = self._session.region_name
        self._seconds = answer_seconds
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """boto3's client of a service."""
        if service not in self._clients:
            self._clients[service] = self._made(service, attempts=attempts(), read_timeout=self._seconds)
        return self._clients[service]

    def asker(self, seconds: float = _ANSWER_SECONDS) -> Any:
        """boto3's client of `sagemaker-runtime`, which asks once and waits so long for the answer."""
        return self._made("sagemaker-runtime", attempts=1, read_timeout=seconds)

    def _made(self, service: str, *, attempts: int, read_timeout: float) -> Any:
        config = Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=min(10.0, read_timeout),
            read_timeout=read_timeout,
            max_pool_connections=TRANSFERS,
            **self._signature,
        )
        with in_words():
            try:
                return self._session.client(service, config=config)
            except exceptions.BotoCoreError:
                raise
            except ValueError as failure:  # of an address in the environment or the profile
                raise CloudError(
                    f"{str(failure).rstrip('.')}; correct AWS_ENDPOINT_URL or AWS_ENDPOINT_URL_"
                    f"{service.upper().replace('-', '_')}, which begin with http:// or https://."
                ) from failure


def stand_in() -> bool:
    """Whether `sagemaker-runtime` is played by a service on this machine, which knows no regions and no keys.

    Raises:
        UsageError: the service's address does not begin with http:// or https://.
    """
    url = os.environ.get(_RUNTIME, "")
    if url and urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(f"{_RUNTIME} is {url!r}, which is no address; write http://127.0.0.1:8080, for example.")
    return is_here(url) and not any(os.environ.get(name) for name in ("AWS_ENDPOINT_URL_SAGEMAKER", "AWS_ENDPOINT_URL"))


def is_here(url: str) -> bool:
    """Whether an address is on this machine."""
    return is_loopback(urlsplit(url).hostname or "")


def attempts() -> int:
    """How often a call is tried: AWS_MAX_ATTEMPTS, the variable that botocore reads, or six times."""
    given = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else _ATTEMPTS


@contextmanager
def in_words(what: str = "") -> Iterator[None]:
    """Turn botocore's errors into ours.

    Args:
        what: names what was tried, for the message: "reading s3://films/a.png".

    Raises:
        BusyError: it may work later.
        CloudError: it will not.
    """
    try:
        yield
    except (exceptions.BotoCoreError, exceptions.ClientError, Boto3Error) as failure:
        kind, sentence = _refusal(failure) if isinstance(failure, exceptions.ClientError) else _trouble(failure)
        raise kind(f"{what}: {sentence}" if what else sentence) from failure


def ask_for(what: str, call: Callable[..., Any], expected: str, /, **arguments: Any) -> dict[str, Any] | None:
    """AWS's answer to a call, or None if it refuses as expected: what is asked for is not there, or not as thought.

    Args:
        what: names what is tried, as for `in_words`.
        call: a method of a client.
        expected: how code and sentence of such refusals begin, as a regular expression: `NoSuchKey|404`. Some services
            have one code for everything.
        arguments: of the call.

    Raises:
        CloudError: AWS refuses for another reason.
    """
    with in_words(what):
        try:
            return dict(call(**arguments))
        except exceptions.ClientError as failure:
            if re.match(expected, f"{code_of(failure)}: {failure.response.get('Error', {}).get('Message')}"):
                return None
            raise


def fetch_file(cloud: Cloud, file: Location, path: Path) -> None:
    """Copy an object of S3 to a path.

    Raises:
        CloudError: it is not there, or AWS refuses.
    """
    with in_words(f"reading {file}"):
        cloud.client("s3").download_file(file.bucket, file.key, str(path))


def code_of(failure: exceptions.ClientError) -> str:
    """AWS's word for what is wrong."""
    return str(failure.response.get("Error", {}).get("Code", "Unknown"))


def _refusal(failure: exceptions.ClientError) -> tuple[type[CloudError], str]:
    """An answer of AWS's."""
    code = code_of(failure)
    said = _shortened(str(failure.response.get("Error", {}).get("Message", ""))) or code
    status = failure.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code.startswith(_BUSY) or status in (429, 500, 502, 503, 504):
        return BusyError, f"AWS is busy or throttles ({code}); try again later."
    if code.startswith(_DENIED):
        action = _ALLOWED_BY.get(failure.operation_name, failure.operation_name)
        return CloudError, f"AWS denies it ({said}); let {action} be allowed to the user or role that you are."
    if code.startswith(_KEYS):
        return CloudError, f"AWS does not accept the credentials ({code}); renew them, or choose AWS_PROFILE."
    if code == "NoSuchBucket":
        return CloudError, "there is no such bucket; create it, or check its name."
    return CloudError, f"{said} ({code})."


def _trouble(failure: exceptions.BotoCoreError | Boto3Error) -> tuple[type[CloudError], str]:
    """What kept AWS from answering, or from being asked."""
    match failure:
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError():
            way_out = "run `aws configure`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            return CloudError, f"there are no AWS credentials; {way_out}."
        case exceptions.ReadTimeoutError():
            return BusyError, f"{_address(failure)} gave no answer in time; try again later."
        case exceptions.HTTPClientError() | exceptions.ConnectionError():
            url, runtime = _address(failure), os.environ.get(_RUNTIME, "")
            stands_in = runtime and url.startswith(runtime) and is_here(url)
            advice = _SERVE if stands_in else "check the network and the region"
            return BusyError, f"{url} cannot be reached; {advice}."
        case Boto3Error():  # a file's transfer that broke off again and again
            return BusyError, f"{_shortened(str(failure))}; try again later."
    return CloudError, f"{_shortened(str(failure))}."


def _address(failure: exceptions.BotoCoreError) -> str:
    return str(failure.kwargs.get("endpoint_url") or "AWS")


def _shortened(text: str) -> str:
    """On one line, and not longer than anyone reads: AWS lists every value that it would take."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
