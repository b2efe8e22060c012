"""Clients of AWS, and its refusals in words."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from boto3.exceptions import Boto3Error
from botocore import UNSIGNED, exceptions
from botocore.config import Config

from pneumoscope.errors import BusyError, CloudError, UsageError

TRANSFERS = 16  # at once; they wait for the network, not for a core
_ATTEMPTS = 6
_ANSWER_SECONDS = 70.0  # SageMaker gives a model a minute
_LONGEST = 300  # characters of what AWS says
_THROTTLED = {
    "ModelNotReadyException",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403", "Forbidden"}
#: What IAM calls an operation where it has another name.
_ALLOWED_BY = {
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "HeadBucket": "ListBucket",
    "HeadObject": "GetObject",
    "ListObjectsV2": "ListBucket",
}
_BAD_KEYS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_NO_BUCKET = {"NoSuchBucket"}
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

    @property
    def partition(self) -> str:
        """`aws`, `aws-cn` or `aws-us-gov`."""
        return str(self._session.get_partition_for_region(self.region))


def stand_in() -> bool:
    """Whether `sagemaker-runtime` is played by a service on this machine, which knows no regions and no keys.

    Raises:
        UsageError: the address of the service is none.
    """
    url = os.environ.get(_RUNTIME, "")
    if url and urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(f"{_RUNTIME} is {url!r}, which is no address; write http://127.0.0.1:8080, for example.")
    return is_here(url) and not any(os.environ.get(name) for name in ("AWS_ENDPOINT_URL_SAGEMAKER", "AWS_ENDPOINT_URL"))


def is_here(url: str) -> bool:
    """Whether an address is on this machine."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


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
    except exceptions.ClientError as failure:
        raise _refusal(failure, what) from failure
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as failure:
        raise CloudError(
            f"{_begin(what)}there are no AWS credentials; run `aws configure`, or set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY."
        ) from failure
    except exceptions.ReadTimeoutError as failure:
        url = str(failure.kwargs.get("endpoint_url") or "AWS")
        raise BusyError(f"{_begin(what)}{url} gave no answer in time; try again later.") from failure
    except (exceptions.HTTPClientError, exceptions.ConnectionError) as failure:
        url = str(failure.kwargs.get("endpoint_url") or "AWS")
        runtime = os.environ.get(_RUNTIME, "")
        advice = _SERVE if runtime and url.startswith(runtime) and is_here(url) else "check the network and the region"
        raise BusyError(f"{_begin(what)}{url} cannot be reached; {advice}.") from failure
    except Boto3Error as failure:  # a file's transfer that broke off again and again
        raise BusyError(f"{_begin(what)}{_shortened(str(failure))}; try again later.") from failure
    except exceptions.BotoCoreError as failure:
        raise CloudError(f"{_begin(what)}{_shortened(str(failure))}.") from failure


def code_of(failure: exceptions.ClientError) -> str:
    """AWS's word for what is wrong."""
    return str(failure.response.get("Error", {}).get("Code", "Unknown"))


def _refusal(failure: exceptions.ClientError, what: str) -> CloudError:
    code = code_of(failure)
    said = _shortened(str(failure.response.get("Error", {}).get("Message", ""))) or code
    status = failure.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    begin = _begin(what)
    if code in _THROTTLED or status in (429, 500, 502, 503, 504):
        return BusyError(f"{begin}AWS is busy or throttles ({code}); try again later.")
    if code in _DENIED:
        action = _ALLOWED_BY.get(failure.operation_name, failure.operation_name)
        return CloudError(f"{begin}AWS denies it ({said}); let {action} be allowed to the user or role that you are.")
    if code in _BAD_KEYS:
        return CloudError(f"{begin}AWS does not accept the credentials ({code}); renew them, or choose AWS_PROFILE.")
    if code in _NO_BUCKET:
        return CloudError(f"{begin}there is no such bucket; create it, or check its name.")
    return CloudError(f"{begin}{said} ({code}).")


def _begin(what: str) -> str:
    return f"{what}: " if what else ""


def _shortened(text: str) -> str:
    """On one line, and not longer than anyone reads: AWS lists every value that it would take."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
