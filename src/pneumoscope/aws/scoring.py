"""S3 as a source of films and a destination for parts, for `score`; clients are made in each process that uses them."""

import errno
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from botocore import exceptions

from pneumoscope.archive import is_junk
from pneumoscope.aws.client.bucket import check_bucket, check_region, encryption, list_files, remove_file, write_file
from pneumoscope.aws.session import TRANSFERS, Cloud, attempts, error_code, translate_errors
from pneumoscope.engine.film_files import named_like_film
from pneumoscope.errors import BusyError, ImageError
from pneumoscope.imaging import Limits
from pneumoscope.score.listing import Entry
from pneumoscope.settings.aws_names import Location

#: Errors while a body is read; botocore retries only errors that occur before that.
_CUT_OFF = (exceptions.IncompleteReadError, exceptions.HTTPClientError)
_PAUSE_SECONDS = 0.3
_CONFLICT_TRIES = 8  # of a write that conflicts with another write of the same name
#: S3's error codes that concern one film only, each with the OSError to raise instead.
_FILM_ERRORS = {
    "NoSuchKey": (errno.ENOENT, "it was removed after it was listed"),
    "PreconditionFailed": (errno.ESTALE, "it was changed after it was listed"),
}


@dataclass(frozen=True, kw_only=True)
class S3Films:
    """The image files under a prefix, in S3's order of keys.

    Files are chosen by suffix. A file without a suffix, or with a number as its suffix, is taken for DICOM, because
    hospitals name DICOM files so. Its first bytes are not checked: that would double the requests. `stamp` is empty,
    because every entry has its own, the ETag; see `Source`.
    """

    location: Location
    region: str | None
    limits: Limits
    stamp: str = ""
    readers: int = TRANSFERS

    @property
    def address(self) -> str:
        """`s3://bucket/prefix`."""
        return str(self.location)

    def is_visible(self) -> bool:
        """True: every machine reads the same S3."""
        return True

    def entries(self) -> Iterator[Entry]:
        """The films, with their ETags.

        Raises:
            CloudError: the bucket does not exist, is in another region, or access is denied.
        """
        cloud = _cloud(self.region)
        check_region(cloud, self.location)
        above = len(self.location.key) + 1 if self.location.key else 0
        for each in list_files(cloud, self.location):
            name = each["Key"][above:]
            if not name.endswith("/") and not is_junk(name) and _is_film(name):
                yield Entry(name, each["Size"], each["ETag"])

    def reading(self) -> AbstractContextManager[Callable[[Entry], bytes]]:
        """Read objects; one that was changed since it was listed is refused."""
        return nullcontext(self._read)

    def _read(self, entry: Entry) -> bytes:
        if entry.size > self.limits.max_bytes:
            raise ImageError(f"the file has {entry.size:,} bytes; at most {self.limits.max_bytes:,} are accepted.")
        return _body(_cloud(self.region), self.location / entry.name, IfMatch=entry.stamp)


@dataclass(frozen=True, kw_only=True)
class S3Destination:
    """A prefix for parts. S3 refuses a part whose name is taken, so that the first one stays.

    `kms_key` is the id or ARN of a KMS key to encrypt with; without it, the bucket's own setting applies.
    """

    location: Location
    region: str | None
    kms_key: str | None = None

    @property
    def address(self) -> str:
        """`s3://bucket/prefix`."""
        return str(self.location)

    def prepare(self) -> None:
        """Check the bucket.

        Raises:
            CloudError: it does not exist, is in another region, or access is denied.
            UsageError: it is open to the public.
        """
        check_bucket(_cloud(self.region), self.location)

    def is_visible(self) -> bool:
        """True: every machine reads the same S3."""
        return True

    def names(self) -> set[str]:
        """The names of the files directly under the prefix."""
        above = len(self.location.key) + 1 if self.location.key else 0
        return {each["Key"][above:] for each in list_files(_cloud(self.region), self.location, folders=False)}

    def publish(self, name: str, content: bytes) -> bool:
        """Put a part, unless there is one of its name; return whether it was put.

        An object appears whole or not at all. If S3's reply to a put is lost, botocore sends the put again, and S3
        refuses it, because the part is there. The result is then False, although this call put the part.

        Raises:
            BusyError: every try conflicted with another write of this name.
            CloudError: S3 refuses.
        """
        file = self.location / name
        put = _cloud(self.region).client("s3").put_object
        with translate_errors(f"writing {file}"):
            for _ in range(_CONFLICT_TRIES):
                try:
                    put(Bucket=file.bucket, Key=file.key, Body=content, IfNoneMatch="*", **self._encryption)
                except exceptions.ClientError as failure:
                    if error_code(failure) == "PreconditionFailed":
                        return False
                    if error_code(failure) != "ConditionalRequestConflict":
                        raise
                    time.sleep(_PAUSE_SECONDS)
                else:
                    return True
        raise BusyError(f"writing {file}: other processes keep writing the same part; try again later.")

    def replace(self, name: str, content: bytes) -> None:
        """Put an object, in place of an earlier one."""
        write_file(_cloud(self.region), self.location / name, content, **self._encryption)

    def tail(self, name: str, size: int) -> bytes:
        """Read the last bytes of an object, at most `size`."""
        return _body(_cloud(self.region), self.location / name, Range=f"bytes=-{size}")

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects under the prefix."""
        for name in names:
            remove_file(_cloud(self.region), self.location / name)

    def tidy(self) -> None:
        """Do nothing: a single put leaves no incomplete object in S3."""

    @property
    def _encryption(self) -> dict[str, str]:
        return {} if self.kms_key is None else encryption(self.kms_key)


@cache  # clients are made once per process, and worker processes are spawned, not forked
def _cloud(region: str | None) -> Cloud:
    return Cloud(region=region)


def _body(cloud: Cloud, file: Location, **request: str) -> bytes:
    """The bytes of an object, read anew if the connection breaks meanwhile; `request` has GetObject's parameters.

    Raises:
        OSError: the object is not there, or is not the one that `IfMatch` requires.
        CloudError: S3 refuses.
    """
    get: Any = cloud.client("s3").get_object
    remaining = attempts()
    while True:
        remaining -= 1
        with translate_errors(f"reading {file}"):
            try:
                return bytes(get(Bucket=file.bucket, Key=file.key, **request)["Body"].read())
            except exceptions.ClientError as failure:
                if error_code(failure) in _FILM_ERRORS:
                    raise OSError(*_FILM_ERRORS[error_code(failure)]) from failure
                raise
            except _CUT_OFF:
                if remaining <= 0:
                    raise
        time.sleep(_PAUSE_SECONDS)


def _is_film(name: str) -> bool:
    by_name = named_like_film(name)
    if by_name is not None:
        return by_name
    suffix = PurePosixPath(name).suffix[1:]
    return not suffix or suffix.isdecimal()
