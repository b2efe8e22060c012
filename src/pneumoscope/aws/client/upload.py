"""A prepared data set into S3: in parallel, encrypted, and only what is not there already."""

import base64
import hashlib
from dataclasses import dataclass
from mimetypes import guess_type

from pneumoscope.aws.client.bucket import check_bucket, encryption, list_files, remove_file, write_file
from pneumoscope.aws.session import TRANSFERS, Cloud, ask_for
from pneumoscope.dataset import Dataset, Record
from pneumoscope.dataset.manifest import CARD_FILE, MANIFEST_FILE
from pneumoscope.parallel import map_ordered
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.aws_names import Location


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """What was done: files sent and bytes in them, and files that were there already."""

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
    options = encryption(kms_key)
    present = {each["Key"]: each["Size"] for each in list_files(cloud, place)}
    manifest, content = place / MANIFEST_FILE, (dataset.root / MANIFEST_FILE).read_bytes()
    if manifest.key in present and not _is_same(cloud, manifest, content, options, present):
        remove_file(cloud, manifest)

    def send(film: Record) -> tuple[int, bool]:
        content = dataset.read(film)
        return len(content), _put(cloud, place / film.path, content, options, present)

    sizes = list[int]()  # of what was sent
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
    return Uploaded(sent=len(sizes), sent_bytes=sum(sizes), there=there)


def _put(cloud: Cloud, target: Location, content: bytes, options: dict[str, str], present: dict[str, int]) -> bool:
    """Send a file unless it is there; whether it was sent."""
    if _is_same(cloud, target, content, options, present):
        return False
    kind = guess_type(target.key)[0] or "application/octet-stream"
    write_file(cloud, target, content, ChecksumAlgorithm="SHA256", ContentType=kind, **options)
    return True


def _is_same(cloud: Cloud, target: Location, content: bytes, options: dict[str, str], present: dict[str, int]) -> bool:
    """Whether the same bytes are there, encrypted as they are to be."""
    if present.get(target.key) != len(content):
        return False
    read, place = cloud.client("s3").head_object, {"Bucket": target.bucket, "Key": target.key}
    head = ask_for(f"reading {target}", read, "404", **place, ChecksumMode="ENABLED")
    if head is None:  # gone since it was listed
        return False
    same_key = str(head.get("SSEKMSKeyId", "")).endswith(options.get("SSEKMSKeyId", ""))  # told as an ARN
    same_bytes = head.get("ChecksumSHA256") == base64.b64encode(hashlib.sha256(content).digest()).decode()
    return same_bytes and same_key and head.get("ServerSideEncryption") == options["ServerSideEncryption"]
