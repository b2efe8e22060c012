"""Names that AWS accepts: of jobs and endpoints, of instance types, of places in S3."""

import re
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from pneumoscope.errors import UsageError

#: Beginning of an address in S3.
S3 = "s3://"
# Families with a g after the generation, such as c7g, are Graviton; Grace has names like p6e-gb200.
_ARM = re.compile(r"[a-z]+\d+g[a-z]*|.*-gb\d+")


def checked_name(value: str) -> str:
    """Return the name if SageMaker accepts it for jobs, models and endpoints (its service model in botocore).

    Raises:
        ValueError: SageMaker does not accept it.
    """
    if re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", value) is None:
        raise ValueError(f"{value!r} is not a SageMaker name: letters, digits and hyphens between them, at most 63")
    return value


EndpointName: TypeAlias = Annotated[str, AfterValidator(checked_name)]


def _check_x86(instance_type: str) -> str:
    found = re.fullmatch(r"ml\.([a-z0-9-]+)\.[a-z0-9-]+", instance_type)
    if found is None:
        raise ValueError(f"{instance_type!r} is not an instance type; an example is ml.c6i.large")
    if _ARM.fullmatch(found[1]):
        raise ValueError(f"{instance_type} has ARM processors, and the images are for x86; an example is ml.c6i.large")
    return instance_type


#: An instance type that the images run on: they are built for x86.
InstanceType: TypeAlias = Annotated[str, AfterValidator(_check_x86)]


@dataclass(frozen=True, kw_only=True)
class Location:
    """`s3://bucket/key`; the key can be empty and never begins with a slash."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def folder(self) -> "Location":
        """The folder that it is in."""
        return Location(bucket=self.bucket, key=self.key.rpartition("/")[0])

    def __truediv__(self, name: str) -> "Location":
        return Location(bucket=self.bucket, key=f"{self.key.rstrip('/')}/{name}" if self.key else name)


def parse_location(text: str) -> Location:
    """Split an S3 address into bucket and key.

    >>> parse_location("s3://films/2026/a.png").key
    '2026/a.png'

    Raises:
        UsageError: it is not an S3 address.
    """
    # S3's rules for bucket names; slashes at either end of the key are dropped.
    found = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/+(.*))?", text)
    if found is None:
        raise UsageError(
            f"{text!r} is not an S3 address; write s3://BUCKET/PREFIX, the bucket in 3 to 63 "
            "lower-case letters, digits, hyphens and dots."
        )
    return Location(bucket=found[1], key=(found[2] or "").rstrip("/"))


def _validate_location(value: str | Location) -> Location:
    try:
        return value if isinstance(value, Location) else parse_location(value)
    except UsageError as failure:
        raise ValueError(str(failure).rstrip(".")) from None


def _refuse_alias(value: str) -> str:
    if value.rpartition(":")[2].startswith("alias/"):
        raise ValueError(f"{value!r} is an alias; give the key's id or ARN, which AWS accepts everywhere")
    return value


#: A setting that names a key of one's own.
Key = Annotated[
    Annotated[str, AfterValidator(_refuse_alias)] | None,
    Field(description="Id or ARN of a KMS key to encrypt with; by default, S3 encrypts with its own keys."),
]
#: A setting that is an S3 address.
S3Location: TypeAlias = Annotated[Location, BeforeValidator(_validate_location)]
