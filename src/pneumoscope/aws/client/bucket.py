"""A bucket: where it is and who may read it, before anything is put into it; its files."""

from collections.abc import Callable, Iterator
from typing import IO, Any

from pneumoscope.aws.session import Cloud, ask_for, in_words
from pneumoscope.errors import CloudError, UsageError
from pneumoscope.settings.aws_names import Location

_EVERYBODY = (
    "http://acs.amazonaws.com/groups/global/AllUsers",
    "http://acs.amazonaws.com/groups/global/AuthenticatedUsers",
)
_UNSET = "NoSuchPublicAccessBlockConfiguration|NoSuchBucketPolicy|OwnershipControlsNotFoundError"
_BLOCKED = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


def check_bucket(cloud: Cloud, place: Location, *, allow_public: bool | None = None) -> None:
    """Refuse a bucket that is missing, in another region than the job, or open to the public.

    Args:
        cloud: of the job's region.
        place: anything in the bucket.
        allow_public: the answer to --allow-public; None where nobody may choose it.

    Raises:
        UsageError: it is public, and that was not allowed.
        CloudError: it is missing, in another region, or access to it is denied.
    """
    # Of one in another region, botocore follows S3's 301 there.
    head = ask_for(f"bucket {place.bucket}", cloud.client("s3").head_bucket, "404", Bucket=place.bucket)
    if head is None:
        sentence = f"bucket {place.bucket} does not exist; make it with: aws s3 mb s3://{place.bucket}"
        raise CloudError(f"{sentence} --region {cloud.region}")
    region = head.get("BucketRegion", cloud.region)
    if region != cloud.region:
        raise CloudError(
            f"bucket {place.bucket} is in {region}, but the work is to be done in {cloud.region}; pass "
            f"--region {region}, or choose a bucket in {cloud.region}."
        )
    if not allow_public and (why := _public(cloud.client("s3"), place.bucket)):
        way_out = "" if allow_public is None else ", or pass --allow-public if the films are public anyway"
        raise UsageError(
            f"bucket {place.bucket} is open to the public ({why}); turn on Block Public Access for it{way_out}."
        )


def encryption(kms_key: str | None) -> dict[str, str]:
    """The arguments of what writes an object: encrypted with a key of KMS, or with S3's own."""
    if kms_key is None:
        return {"ServerSideEncryption": "AES256"}
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key}


def list_files(cloud: Cloud, place: Location) -> Iterator[dict[str, Any]]:
    """What lies under a prefix: `Key`, `Size` and what else S3 lists.

    Raises:
        CloudError: access to the bucket's list of files is denied.
    """
    prefix = f"{place.key}/" if place.key else ""
    with in_words(f"listing {place}"):
        for page in cloud.client("s3").get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=prefix):
            yield from page.get("Contents", [])


def write_file(cloud: Cloud, file: Location, content: bytes | IO[bytes], **options: str) -> None:
    """Put an object into S3; `options` are `put_object`'s, such as `encryption` gives.

    Raises:
        CloudError: AWS refuses.
    """
    with in_words(f"writing {file}"):
        cloud.client("s3").put_object(Bucket=file.bucket, Key=file.key, Body=content, **options)


def remove_file(cloud: Cloud, file: Location) -> None:
    """Remove an object from S3, if it is there.

    Raises:
        CloudError: AWS refuses.
    """
    with in_words(f"removing {file}"):
        cloud.client("s3").delete_object(Bucket=file.bucket, Key=file.key)


def _public(s3: Any, bucket: str) -> str | None:
    """Why the bucket is public, or None."""

    def read(setting: Callable[..., Any]) -> dict[str, Any]:
        return ask_for(f"bucket {bucket}", setting, _UNSET, Bucket=bucket) or {}

    block = read(s3.get_public_access_block).get("PublicAccessBlockConfiguration", {})
    if all(block.get(name) for name in _BLOCKED):
        return None
    if not block.get("RestrictPublicBuckets"):
        status = read(s3.get_bucket_policy_status).get("PolicyStatus", {})
        if status.get("IsPublic"):
            return "its policy says so"
    if not block.get("IgnorePublicAcls"):
        grants = read(s3.get_bucket_acl).get("Grants", [])
        if any(grant["Grantee"].get("URI") in _EVERYBODY for grant in grants):
            return "its access control list says so"
    return None
