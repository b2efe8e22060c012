"""Names as AWS takes them: of jobs and endpoints, of types of instance, of places in S3."""

import re
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator

from pneumoscope.errors import UsageError

_ARM = re.compile(r"[a-z]+\d+g[a-z]*|.*-gb\d+")


def checked_name(given: str) -> str:
    """SageMaker's rule for names of jobs, models and endpoints, of its service model in botocore.

    Raises:
        ValueError: it is no such name.
    """
    if re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", given) is None:
        raise ValueError(f"{given!r} is no name for SageMaker: letters, digits and hyphens between them, at most 63")
    return given


EndpointName: TypeAlias = Annotated[str, AfterValidator(checked_name)]


def _on_x86(instance_type: str) -> str:
    found = re.fullmatch(r"ml\.([a-z0-9-]+)\.[a-z0-9-]+", instance_type)
    if found is None:
        raise ValueError(f"{instance_type!r} is no type of instance; an example is ml.c6i.large")
    if _ARM.fullmatch(found[1]):
        raise ValueError(f"{instance_type} has ARM processors, and the images are for x86; an example is ml.c6i.large")
    return instance_type


#: A type of instance that the images run on.
InstanceType: TypeAlias = Annotated[str, AfterValidator(_on_x86)]


@dataclass(frozen=True, kw_only=True)
class Location:
    """`s3://bucket/key`; the key may be empty, and never begins with a slash."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def folder(self) -> "Location":
        """What it lies in."""
        return Location(bucket=self.bucket, key=self.key.rpartition("/")[0])

    def __truediv__(self, name: str) -> "Location":
        return Location(bucket=self.bucket, key=f"{self.key.rstrip('/')}/{name}" if self.key else name)


def parse_location(text: str) -> Location:
    """Take an S3 address apart.

    >>> parse_location("s3://films/2026/a.png").key
    '2026/a.png'

    Raises:
        UsageError: it is no address in S3.
    """
    found = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/+(.*))?", text)
    if found is None:
        raise UsageError(
            f"{text!r} is no address in S3; write s3://BUCKET/PREFIX, the bucket with 3 to 63 small letters and digits."
        )
    return Location(bucket=found[1], key=(found[2] or "").rstrip("/"))


def _located(given: str | Location) -> Location:
    try:
        return given if isinstance(given, Location) else parse_location(given)
    except UsageError as failure:
        raise ValueError(str(failure).rstrip(".")) from None


#: A setting that names a place in S3.
Place: TypeAlias = Annotated[Location, BeforeValidator(_located)]
