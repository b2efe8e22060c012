"""A verified bundle in S3, where endpoints and functions read it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any

from botocore import exceptions

from pneumoscope.aws.client.bucket import check_bucket, encryption
from pneumoscope.aws.client.inventory import ARCHIVE, remove_file
from pneumoscope.aws.client.package import write_model_archive
from pneumoscope.aws.client.train import TAG
from pneumoscope.aws.session import Cloud, Location, code_of, in_words
from pneumoscope.aws.unpack import unpacked
from pneumoscope.contract import CONTRACT_FILE
from pneumoscope.engine import verify
from pneumoscope.errors import CloudError, UsageError
from pneumoscope.progress import SILENT, Listener


def put_model(
    cloud: Cloud,
    source: Path | Location,
    folder: Location,
    *,
    for_ray: bool = False,
    kms_key: str | None = None,
    listener: Listener = SILENT,
) -> None:
    """Verify a bundle, and put its `model.tar.gz` and, beside it, its `contract.json` where no model is yet.

    The contract is for clients that must shrink a film by its rule. Both files bear our tag with the folder's name.

    Args:
        cloud: of the endpoint's region.
        source: a bundle, or a training job's `model.tar.gz` in S3.
        folder: where they go; a new model takes a new folder.
        for_ray: pack it for AWS's Ray Serve image, with our code.
        kms_key: key id or ARN to encrypt with; by default S3's own keys.
        listener: hears of progress.

    Raises:
        BundleError: the bundle does not verify.
        UsageError: the folder is the bucket itself, or the bucket is public.
        CloudError: there is a model already, or AWS refuses.
    """
    if not folder.key:
        raise UsageError(f"{folder} is a whole bucket; name a folder in it, such as s3://{folder.bucket}/models/one.")
    check_bucket(cloud, folder)
    options = encryption(kms_key) | {"Tagging": f"{TAG}={folder.key.rpartition('/')[2]}"}
    archive, contract = files_of(folder)
    with _verified(cloud, source, listener) as bundle, TemporaryFile() as stream:
        listener.say(f"sending {archive}")
        write_model_archive(bundle, stream, for_ray=for_ray)
        stream.seek(0)
        _put_new(cloud.client("s3"), archive, stream, options)
        try:
            _put(cloud.client("s3"), contract, (bundle / CONTRACT_FILE).read_bytes(), options)
        except CloudError:
            with suppress(CloudError):  # what failed first is told
                remove_file(cloud, archive)
            raise


def files_of(folder: Location) -> tuple[Location, Location]:
    """What `put_model` puts into a folder: the archive and the contract."""
    return folder / ARCHIVE, folder / CONTRACT_FILE


@contextmanager
def _verified(cloud: Cloud, source: Path | Location, listener: Listener) -> Iterator[Path]:
    """A bundle whose golden cases come out right here, as a folder."""
    if isinstance(source, Path):
        listener.say(f"{source}: {verify(source).cases} golden cases reproduced")
        yield source
        return
    with TemporaryDirectory(prefix="pneumoscope-") as folder:
        archive = Path(folder) / ARCHIVE
        with in_words(f"reading {source}"):
            cloud.client("s3").download_file(source.bucket, source.key, str(archive))
        with unpacked(archive) as (bundle, _):
            listener.say(f"{source}: golden cases reproduced")
            yield bundle


def _put(s3: Any, target: Location, content: bytes | IO[bytes], options: dict[str, str]) -> None:
    with in_words(f"writing {target}"):
        s3.put_object(Bucket=target.bucket, Key=target.key, Body=content, **options)


def _put_new(s3: Any, target: Location, stream: IO[bytes], options: dict[str, str]) -> None:
    """Write an object where none is: an endpoint, or a stack, may use what is there."""
    try:
        _put(s3, target, stream, options | {"IfNoneMatch": "*"})
    except CloudError as failure:
        cause = failure.__cause__
        if not isinstance(cause, exceptions.ClientError) or code_of(cause) != "PreconditionFailed":
            raise
        raise CloudError(f"there is {target} already; choose another place, or remove it.") from failure
