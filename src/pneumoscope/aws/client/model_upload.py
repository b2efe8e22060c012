"""Putting a verified bundle into S3, where endpoints and functions read it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from pneumoscope.aws.client.bucket import check_bucket, encryption, remove_file, write_file
from pneumoscope.aws.client.inventory import ARCHIVE
from pneumoscope.aws.client.package import write_model_archive
from pneumoscope.aws.client.train import TAG
from pneumoscope.aws.session import Cloud, call_or_none
from pneumoscope.aws.unpack import fetch_bundle
from pneumoscope.contract import CONTRACT_FILE
from pneumoscope.engine import verify
from pneumoscope.errors import CloudError, UsageError
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.aws import PutModel
from pneumoscope.settings.aws_names import Location


def put_model(cloud: Cloud, settings: PutModel, *, listener: Listener = SILENT) -> None:
    """Verify a bundle, and put it into a folder of S3 that has no model yet; see `send_model`.

    Raises:
        BundleError: the bundle fails verification.
        UsageError: the folder is the bucket itself, or the bucket is public.
        CloudError: the folder has a model already, or AWS refuses.
    """
    folder, for_ray = settings.folder, settings.serving == "ray"
    if not folder.key:
        raise UsageError(f"{folder} is a whole bucket; name a folder in it, such as s3://{folder.bucket}/models/one.")
    tag = folder.key.rpartition("/")[2]
    with verified_bundle(cloud, settings.source, listener) as bundle:
        if not send_model(cloud, bundle, folder, tag=tag, for_ray=for_ray, kms_key=settings.kms_key, listener=listener):
            raise CloudError(f"{folder / ARCHIVE} exists already; choose another folder, or remove it.")


def send_model(
    cloud: Cloud,
    bundle: Path,
    folder: Location,
    *,
    tag: str,
    for_ray: bool,
    kms_key: str | None,
    listener: Listener = SILENT,
) -> bool:
    """Write a bundle's `model.tar.gz` and, beside it, its `contract.json`; False if the folder has a model already.

    Clients read the contract to shrink films by its input rule. `teardown` finds both files by the tag that they carry.

    Raises:
        UsageError: the bucket is public.
        CloudError: AWS refuses.
    """
    check_bucket(cloud, folder)
    options = encryption(kms_key) | {"Tagging": f"{TAG}={tag}"}
    archive = folder / ARCHIVE
    with TemporaryFile() as stream:
        write_model_archive(bundle, stream, for_ray=for_ray)
        stream.seek(0)
        listener.say(f"sending {archive}")
        put, place = cloud.client("s3").put_object, {"Bucket": archive.bucket, "Key": archive.key, "IfNoneMatch": "*"}
        if call_or_none(f"writing {archive}", put, "PreconditionFailed", Body=stream, **place, **options) is None:
            return False  # never overwrite it: an endpoint may be using it
    try:
        write_file(cloud, folder / CONTRACT_FILE, (bundle / CONTRACT_FILE).read_bytes(), **options)
    except CloudError:
        remove_model(cloud, folder)
        raise
    return True


def remove_model(cloud: Cloud, folder: Location) -> None:
    """Remove a model that nothing uses. Failures are ignored: the caller already reports the error that led here."""
    for name in (ARCHIVE, CONTRACT_FILE):
        with suppress(CloudError):
            remove_file(cloud, folder / name)


@contextmanager
def verified_bundle(cloud: Cloud, source: Path | Location, listener: Listener) -> Iterator[Path]:
    """The folder of a bundle whose golden cases were reproduced on this machine.

    Raises:
        BundleError: a golden case was not reproduced, or the bundle is damaged.
        CloudError: the bundle cannot be read from S3.
    """
    if isinstance(source, Path):
        listener.say(f"{source}: {verify(source).cases} golden cases reproduced")
        yield source
        return
    with fetch_bundle(cloud, source) as (bundle, _):
        listener.say(f"{source}: golden cases reproduced")
        yield bundle
