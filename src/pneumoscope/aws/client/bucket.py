"""S3 buckets: checks of region and public access before anything is uploaded, and the files in them."""

from collections.abc import Callable, Iterator
from typing import IO, Any

from pneumoscope.aws.session import Cloud, call_or_none, translate_errors
from pneumoscope.errors import CloudError, UsageError
from pneumoscope.settings.aws_names import Location

_PUBLIC_GROUPS = (
    "http://acs.amazonaws.com/groups/global/AllUsers",
    "http://acs.amazonaws.com/groups/global/AuthenticatedUsers",
)
_UNSET = "NoSuchPublicAccessBlockConfiguration|NoSuchBucketPolicy|OwnershipControlsNotFoundError"
# All four must be on: each one alone leaves another way to publish a bucket.
_BLOCKED = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


def check_bucket(cloud: Cloud, place: Location, *, allow_public: bool | None = None) -> None:
    """Refuse a bucket that does not exist, is in another region than the job, or is open to the public.

    Args:
        cloud: the clients for the job's region.
        place: any location in the bucket.
        allow_public: accept a public bucket. False names the option --allow-public in the message; None, for commands
            without that option, does not.

    Raises:
        UsageError: the bucket is public, and `allow_public` is not true.
        CloudError: the bucket does not exist, is in another region, or access to it is denied.
    """
    check_region(cloud, place)
    if not allow_public and (why := _why_public(cloud.client("s3"), place.bucket)):
        way_out = "" if allow_public is None else ", or pass --allow-public if the films are public anyway"
        raise UsageError(
            f"bucket {place.bucket} is open to the public ({why}); turn on Block Public Access for it{way_out}."
        )


def check_region(cloud: Cloud, place: Location) -> None:
    """Refuse a bucket that does not exist, or is in another region than the command works in.

    Raises:
        CloudError: it is one of these, or access to it is denied.
    """
    # For a bucket in another region S3 answers 301, which botocore follows: the call succeeds and names the region.
    head = call_or_none(f"bucket {place.bucket}", cloud.client("s3").head_bucket, "404", Bucket=place.bucket)
    if head is None:
        sentence = f"bucket {place.bucket} does not exist; create it with: aws s3 mb s3://{place.bucket}"
        raise CloudError(f"{sentence} --region {cloud.region}")
    region = head.get("BucketRegion", cloud.region)
    if region != cloud.region:
        raise CloudError(
            f"bucket {place.bucket} is in {region}, but this command works in {cloud.region}; pass "
            f"--region {region}, or choose a bucket in {cloud.region}."
        )


def encryption(kms_key: str | None) -> dict[str, str]:
    """The encryption arguments of calls that write an object: with a KMS key, or with S3's own keys."""
    if kms_key is None:
        return {"ServerSideEncryption": "AES256"}
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key}


def list_files(cloud: Cloud, place: Location, *, folders: bool = True) -> Iterator[dict[str, Any]]:
    """The objects under a prefix, each with `Key`, `Size` and the other fields of S3's listing.

    Without `folders`, only those directly under it: S3 then skips a folder at once, even one of a million objects.

    Raises:
        CloudError: listing the bucket is denied.
    """
    where = {"Bucket": place.bucket, "Prefix": f"{place.key}/" if place.key else ""}
    where |= {} if folders else {"Delimiter": "/"}
    with translate_errors(f"listing {place}"):
        for page in cloud.client("s3").get_paginator("list_objects_v2").paginate(**where):
            yield from page.get("Contents", [])


def write_file(cloud: Cloud, file: Location, content: bytes | IO[bytes], **options: str) -> None:
    """Write an object to S3; `options` are arguments of `put_object`, such as those of `encryption`.

    Raises:
        CloudError: AWS refuses.
    """
    with translate_errors(f"writing {file}"):
        cloud.client("s3").put_object(Bucket=file.bucket, Key=file.key, Body=content, **options)


def remove_file(cloud: Cloud, file: Location) -> None:
    """Delete an object from S3, if it exists.

    Raises:
        CloudError: AWS refuses.
    """
    with translate_errors(f"removing {file}"):
        cloud.client("s3").delete_object(Bucket=file.bucket, Key=file.key)


def _why_public(s3: Any, bucket: str) -> str | None:
    """Why the bucket is public, or None."""

    def read(setting: Callable[..., Any]) -> dict[str, Any]:
        return call_or_none(f"bucket {bucket}", setting, _UNSET, Bucket=bucket) or {}

    block = read(s3.get_public_access_block).get("PublicAccessBlockConfiguration", {})
    if all(block.get(name) for name in _BLOCKED):
        return None
    # RestrictPublicBuckets makes a public policy ineffective, and IgnorePublicAcls a public access control list.
    if not block.get("RestrictPublicBuckets"):
        status = read(s3.get_bucket_policy_status).get("PolicyStatus", {})
        if status.get("IsPublic"):
            return "its policy says so"
    if not block.get("IgnorePublicAcls"):
        grants = read(s3.get_bucket_acl).get("Grants", [])
        if any(grant["Grantee"].get("URI") in _PUBLIC_GROUPS for grant in grants):
            return "its access control list says so"
    return None
