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

_CUT_OFF = (exceptions.IncompleteReadError, exceptions.HTTPClientError)  # botocore does not repeat these in a body
_PAUSE_SECONDS = 0.3
_CONFLICTS = 8  # tries of a write that another write of the same name got in the way of
#: Errors that concern one film, as errors of a file system.
_FILM_ERRORS = {
    "NoSuchKey": (errno.ENOENT, "it was removed after it was listed"),
    "PreconditionFailed": (errno.ESTALE, "it was changed after it was listed"),
}


@dataclass(frozen=True, kw_only=True)
class S3Films:
    """The image files under a prefix, in S3's order of keys.

    A file is a film by its suffix. One without a suffix, or with a number in its place, is taken for a DICOM file, as
    hospitals name them: to read the beginning of every object would double the requests.
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
        """True: S3 is the same from everywhere."""
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
    """A prefix for parts. S3 accepts a part only if no other has its name, so that the first one stays.

    `kms_key` is the id or ARN of a KMS key to encrypt with; without it, the bucket's own setting holds.
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
        """True: S3 is the same from everywhere."""
        return True

    def names(self) -> set[str]:
        """The names of the files directly under the prefix."""
        above = len(self.location.key) + 1 if self.location.key else 0
        return {each["Key"][above:] for each in list_files(_cloud(self.region), self.location, folders=False)}

    def publish(self, name: str, content: bytes) -> bool:
        """Put a part, unless there is one of its name.

        An object appears whole or not at all. If the reply to a put is lost, botocore puts again and S3 refuses,
        because the part is there: no reply is needed to know that there is one part.

        Raises:
            BusyError: other writes of this name were in the way again and again.
            CloudError: S3 refuses.
        """
        file = self.location / name
        put = _cloud(self.region).client("s3").put_object
        with translate_errors(f"writing {file}"):
            for _ in range(_CONFLICTS):
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
        raise BusyError(f"writing {file}: other writes of the same part were in the way; try again later.")

    def replace(self, name: str, content: bytes) -> None:
        """Put an object, in place of an earlier one."""
        write_file(_cloud(self.region), self.location / name, content, **self._encryption)

    def tail(self, name: str, size: int) -> bytes:
        """Read the end of an object."""
        return _body(_cloud(self.region), self.location / name, Range=f"bytes=-{size}")

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects under the prefix."""
        for name in names:
            remove_file(_cloud(self.region), self.location / name)

    def tidy(self) -> None:
        """Do nothing: S3 keeps no incomplete object of a single put."""

    @property
    def _encryption(self) -> dict[str, str]:
        return {} if self.kms_key is None else encryption(self.kms_key)


@cache  # clients are made once per process, and worker processes are spawned, not forked
def _cloud(region: str | None) -> Cloud:
    return Cloud(region=region)


def _body(cloud: Cloud, file: Location, **how: str) -> bytes:
    """The bytes of an object, again if the connection breaks within them.

    Raises:
        OSError: the object is not there, or is not the one that `how` requires.
        CloudError: S3 refuses.
    """
    get: Any = cloud.client("s3").get_object
    left = attempts()
    while True:
        left -= 1
        with translate_errors(f"reading {file}"):
            try:
                return bytes(get(Bucket=file.bucket, Key=file.key, **how)["Body"].read())
            except exceptions.ClientError as failure:
                if error_code(failure) in _FILM_ERRORS:
                    raise OSError(*_FILM_ERRORS[error_code(failure)]) from failure
                raise
            except _CUT_OFF:
                if left <= 0:
                    raise
        time.sleep(_PAUSE_SECONDS)


def _is_film(name: str) -> bool:
    by_name = named_like_film(name)
    if by_name is not None:
        return by_name
    suffix = PurePosixPath(name).suffix[1:]
    return not suffix or suffix.isdecimal()
