"""Uploading a prepared data set to S3: in parallel, encrypted, and only files that are not there yet."""

import base64
import hashlib
from dataclasses import dataclass
from mimetypes import guess_type

from pneumoscope.aws.client.bucket import check_bucket, encryption, list_files, remove_file, write_file
from pneumoscope.aws.session import TRANSFERS, Cloud, call_or_none
from pneumoscope.dataset import Dataset, Record
from pneumoscope.dataset.manifest import CARD_FILE, MANIFEST_FILE
from pneumoscope.parallel import map_ordered
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.aws_names import Location


@dataclass(frozen=True, kw_only=True)
class UploadSummary:
    """The outcome of an upload: files sent, bytes in these, and files that were in S3 already."""

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
) -> UploadSummary:
    """Put a data set's files under a prefix. The manifest goes last, so a prefix that has one is complete.

    The manifest of another data set is removed first: it would vouch for films that are being replaced. A file that
    exists with the same SHA-256 and the same encryption is not sent again, so repeating an interrupted upload continues
    it. Every film is checked against the manifest as it is read.

    Args:
        cloud: the clients for the region in which the training job will run.
        dataset: a prepared data set.
        place: bucket and prefix.
        kms_key: id or ARN of the KMS key to encrypt with; by default S3's own keys.
        allow_public: accept a bucket that the public can read.
        listener: receives progress.

    Raises:
        UsageError: the bucket is public.
        CloudError: the bucket does not exist, is in another region, or AWS refuses.
        DatasetError: a film's file has changed since the manifest was written.
    """
    check_bucket(cloud, place, allow_public=allow_public)
    options = encryption(kms_key)
    present = {each["Key"]: each["Size"] for each in list_files(cloud, place)}
    manifest, content = place / MANIFEST_FILE, (dataset.root / MANIFEST_FILE).read_bytes()
    if manifest.key in present and not _is_same(cloud, manifest, content, options, present):
        remove_file(cloud, manifest)

    def send(film: Record) -> tuple[int, bool]:
        content = dataset.read(film)
        return len(content), _put(cloud, place / film.path, content, options, present)

    sizes = list[int]()  # of the files sent
    with listener.progress("uploading", sum(film.bytes for film in dataset.films), "B"):
        for size, sent in map_ordered(send, dataset.films, workers=TRANSFERS, ahead=2 * TRANSFERS):
            listener.advance(size)
            if sent:
                sizes.append(size)
    for name in (CARD_FILE, MANIFEST_FILE):
        content = (dataset.root / name).read_bytes()
        if _put(cloud, place / name, content, options, present):
            sizes.append(len(content))
    there = len(dataset.films) + 2 - len(sizes)
    return UploadSummary(sent=len(sizes), sent_bytes=sum(sizes), there=there)


def _put(cloud: Cloud, target: Location, content: bytes, options: dict[str, str], present: dict[str, int]) -> bool:
    """Write an object unless it exists unchanged; return whether it was written."""
    if _is_same(cloud, target, content, options, present):
        return False
    content_type = guess_type(target.key)[0] or "application/octet-stream"
    write_file(cloud, target, content, ChecksumAlgorithm="SHA256", ContentType=content_type, **options)
    return True


def _is_same(cloud: Cloud, target: Location, content: bytes, options: dict[str, str], present: dict[str, int]) -> bool:
    """Whether the object exists with the same bytes and the wanted encryption."""
    if present.get(target.key) != len(content):
        return False
    read, place = cloud.client("s3").head_object, {"Bucket": target.bucket, "Key": target.key}
    head = call_or_none(f"reading {target}", read, "404", **place, ChecksumMode="ENABLED")
    if head is None:  # deleted since it was listed
        return False
    # S3 returns the key's ARN, which ends with the id that the option may give.
    same_key = str(head.get("SSEKMSKeyId", "")).endswith(options.get("SSEKMSKeyId", ""))
    same_bytes = head.get("ChecksumSHA256") == base64.b64encode(hashlib.sha256(content).digest()).decode()
    return same_bytes and same_key and head.get("ServerSideEncryption") == options["ServerSideEncryption"]
