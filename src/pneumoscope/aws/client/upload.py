"""A prepared data set into S3: in parallel, encrypted, and only what is not there already."""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from mimetypes import guess_type
from typing import Any

from botocore import exceptions

from pneumoscope.aws.client.bucket import check_bucket, encryption
from pneumoscope.aws.session import TRANSFERS, Cloud, code_of, in_words
from pneumoscope.dataset import Dataset, Film
from pneumoscope.dataset.manifest import CARD_FILE, MANIFEST_FILE
from pneumoscope.parallel import map_ordered
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.names import Location


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """What was done: files sent and bytes in them, and files that were there already."""

    place: Location
    sent: int
    sent_bytes: int
    there: int


def upload(
    cloud: Cloud,
    dataset: Dataset,
    place: Location,
    *,
    kms_key: str | None = None,
    allow_public: bool = False,
    listener: Listener = SILENT,
) -> Uploaded:
    """Put a data set's files under a prefix; the manifest last, so that a prefix with one is whole.

    Another data set's manifest is removed first: it would vouch for films that are being replaced. A file that is
    there with the same SHA-256 and encryption is not sent again, so a broken upload goes on when it is asked for
    again. Every film is checked against the manifest as it is read.

    Args:
        cloud: of the region that the training job will run in.
        dataset: a prepared data set.
        place: bucket and prefix.
        kms_key: key id or ARN to encrypt with; by default S3's own keys.
        allow_public: put it into a bucket that the public can read.
        listener: hears of progress.

    Raises:
        UsageError: the bucket is public.
        CloudError: it is missing, elsewhere, or AWS refuses.
        DatasetError: a film's file is not the one the manifest names.
    """
    check_bucket(cloud, place, allow_public=allow_public)
    s3 = cloud.client("s3")
    options = encryption(kms_key)
    present = _sizes(s3, place)
    _disown(s3, place / MANIFEST_FILE, (dataset.root / MANIFEST_FILE).read_bytes(), options, present)

    def send(film: Film) -> tuple[int, bool]:
        content = dataset.read(film)
        return len(content), _put(s3, place / film.path, content, options, present)

    count, sent_bytes = 0, 0
    with listener.progress("uploading", sum(film.bytes for film in dataset.films), "B"):
        for size, sent in map_ordered(send, dataset.films, workers=TRANSFERS, ahead=2 * TRANSFERS):
            listener.advance(size)
            count, sent_bytes = count + sent, sent_bytes + size * sent
    for name in (CARD_FILE, MANIFEST_FILE):
        content = (dataset.root / name).read_bytes()
        sent = _put(s3, place / name, content, options, present)
        count, sent_bytes = count + sent, sent_bytes + len(content) * sent
    return Uploaded(place=place, sent=count, sent_bytes=sent_bytes, there=len(dataset.films) + 2 - count)


def _sizes(s3: Any, place: Location) -> dict[str, int]:
    """Keys that are under the prefix, and their sizes."""
    return {each["Key"]: each["Size"] for each in listed(s3, place)}


def listed(s3: Any, place: Location) -> Iterator[dict[str, Any]]:
    """What lies under a prefix.

    Raises:
        CloudError: the bucket may not be listed.
    """
    prefix = f"{place.key}/" if place.key else ""
    with in_words(f"listing {place}"):
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=prefix):
            yield from page.get("Contents", [])


def _disown(s3: Any, manifest: Location, content: bytes, options: dict[str, str], present: dict[str, int]) -> None:
    """Remove a manifest unless it is the one that is to be there."""
    if manifest.key not in present or _is_same(s3, manifest, content, options, present):
        return
    with in_words(f"removing {manifest}"):
        s3.delete_object(Bucket=manifest.bucket, Key=manifest.key)
    del present[manifest.key]


def _put(s3: Any, target: Location, content: bytes, options: dict[str, str], present: dict[str, int]) -> bool:
    """Send a file unless it is there; whether it was sent."""
    if _is_same(s3, target, content, options, present):
        return False
    with in_words(f"writing {target}"):
        s3.put_object(
            Bucket=target.bucket,
            Key=target.key,
            Body=content,
            ChecksumAlgorithm="SHA256",
            ChecksumSHA256=_checksum(content),
            ContentType=guess_type(target.key)[0] or "application/octet-stream",
            **options,
        )
    return True


def _checksum(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


def _is_same(s3: Any, target: Location, content: bytes, options: dict[str, str], present: dict[str, int]) -> bool:
    """Whether the same bytes are there, encrypted as they are to be."""
    if present.get(target.key) != len(content):
        return False
    with in_words(f"reading {target}"):
        try:
            head = s3.head_object(Bucket=target.bucket, Key=target.key, ChecksumMode="ENABLED")
        except exceptions.ClientError as failure:
            if code_of(failure) == "404":  # gone since it was listed
                return False
            raise
    if (
        head.get("ChecksumSHA256") != _checksum(content)
        or head.get("ServerSideEncryption") != options["ServerSideEncryption"]
    ):
        return False
    return str(head.get("SSEKMSKeyId", "")).endswith(options.get("SSEKMSKeyId", ""))  # told as an ARN
