"""Uploading a data set to S3: once, encrypted, and only into an existing bucket of the region that is not public."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from account import (
    PLACE,
    REGION,
    RecordingListener,
    become_nobody,
    head_object,
    train_settings,
)
from local_cloud import LocalCloud
from pneumoscope.aws.client.bucket import check_bucket, list_files
from pneumoscope.aws.client.train import start
from pneumoscope.aws.client.upload import upload
from pneumoscope.aws.session import Cloud
from pneumoscope.dataset import Dataset, PrepareConfig, load_dataset, prepare
from pneumoscope.errors import (
    CloudError,
    DatasetError,
    UsageError,
)
from pneumoscope.settings.aws_names import parse_location

pytestmark = pytest.mark.usefixtures("aws")


def test_a_data_set_is_uploaded_once_encrypted_and_readable_again(aws: Cloud, dataset: Dataset, tmp_path: Path) -> None:
    heard = RecordingListener()
    first = upload(aws, dataset, PLACE, listener=heard)
    assert first.sent == len(dataset.films) + 2
    assert first.there == 0
    assert heard.units == sum(each.bytes for each in dataset.films)
    assert head_object(aws, "films/manifest.csv")["ServerSideEncryption"] == "AES256"
    again = upload(aws, dataset, PLACE)
    assert again.sent == 0
    assert again.sent_bytes == 0
    assert again.there == len(dataset.films) + 2
    for each in list_files(aws, PLACE):
        target = tmp_path / each["Key"]
        target.parent.mkdir(parents=True, exist_ok=True)
        aws.client("s3").download_file(PLACE.bucket, each["Key"], str(target))
    copy = load_dataset(tmp_path / "films")
    assert copy.fingerprint == dataset.fingerprint
    assert [copy.read(each) for each in copy.films[:3]] == [dataset.read(each) for each in dataset.films[:3]]


def test_another_key_encrypts_files_that_exist_already(aws: Cloud, shared_cloud: LocalCloud, dataset: Dataset) -> None:
    upload(aws, dataset, PLACE)
    key = shared_cloud.client("kms").create_key()["KeyMetadata"]["KeyId"]
    assert upload(aws, dataset, PLACE, kms_key=key).there == 0
    head = head_object(aws, "films/manifest.csv")
    assert head["ServerSideEncryption"] == "aws:kms"
    assert head["SSEKMSKeyId"].endswith(key)
    assert upload(aws, dataset, PLACE, kms_key=key).sent == 0


def test_changed_and_deleted_files_are_sent_again(aws: Cloud, dataset: Dataset) -> None:
    upload(aws, dataset, PLACE)
    changed = dataset.films[0]
    spoilt = bytes(changed.bytes)  # the same length, but other bytes
    aws.client("s3").put_object(Bucket=PLACE.bucket, Key=f"films/{changed.path}", Body=spoilt)
    aws.client("s3").delete_object(Bucket=PLACE.bucket, Key=f"films/{dataset.films[1].path}")
    assert upload(aws, dataset, PLACE).sent == 2
    body = aws.client("s3").get_object(Bucket=PLACE.bucket, Key=f"films/{changed.path}")["Body"].read()
    assert body == dataset.read(changed)


def test_an_interrupted_upload_leaves_no_manifest_and_can_be_continued(
    aws: Cloud, dataset: Dataset, tmp_path: Path
) -> None:
    copy = load_dataset(Path(shutil.copytree(dataset.root, tmp_path / "data")))
    last = copy.films[-1]
    (copy.root / last.path).write_bytes(b"another")
    with pytest.raises(DatasetError, match="has changed since `data prepare`"):
        upload(aws, copy, PLACE)
    keys = {each["Key"] for each in list_files(aws, PLACE)}
    assert keys
    assert "films/manifest.csv" not in keys
    (copy.root / last.path).write_bytes(dataset.read(dataset.films[-1]))
    done = upload(aws, copy, PLACE)
    assert done.there == len(keys)
    assert "films/manifest.csv" in {each["Key"] for each in list_files(aws, PLACE)}


def test_an_interrupted_upload_over_another_data_set_leaves_no_manifest(
    aws: Cloud, dataset: Dataset, phantom_folder: Path, tmp_path: Path
) -> None:
    """The old manifest would vouch for films of two data sets, and a job would start on them."""
    upload(aws, dataset, PLACE)
    start(aws, train_settings(name="before"))
    prepare([phantom_folder], tmp_path / "other", PrepareConfig(val_fraction=0.5))
    other = load_dataset(tmp_path / "other")
    (other.root / other.films[-1].path).write_bytes(b"damaged")
    with pytest.raises(DatasetError, match="has changed since `data prepare`"):
        upload(aws, other, PLACE)
    with pytest.raises(CloudError, match=r"films has no manifest.csv, so its upload is incomplete; repeat"):
        start(aws, train_settings(name="after"))
    upload(aws, dataset, PLACE)
    start(aws, train_settings(name="again"))


def test_an_unchanged_manifest_is_never_removed(aws: Cloud, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(aws, dataset, PLACE)

    def removed(**_: Any) -> None:
        pytest.fail("the manifest was the same")

    monkeypatch.setattr(aws.client("s3"), "delete_object", removed)
    assert upload(aws, dataset, PLACE).sent == 0


def test_a_missing_public_or_distant_bucket_is_refused(aws: Cloud, shared_cloud: LocalCloud) -> None:
    s3 = shared_cloud.client("s3")
    ireland = shared_cloud.client("s3", region_name="eu-west-1")
    ireland.create_bucket(Bucket="in-ireland", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    with pytest.raises(
        CloudError, match=r"in-ireland is in eu-west-1, but .* in eu-central-1; pass --region eu-west-1"
    ):
        check_bucket(aws, parse_location("s3://in-ireland/x"))
    with pytest.raises(CloudError, match=r"bucket nowhere does not exist; create it with: aws s3 mb"):
        check_bucket(aws, parse_location("s3://nowhere"))
    everybody = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::films-bucket/*"}
        ],
    }
    check_bucket(aws, PLACE)
    s3.put_bucket_policy(Bucket=PLACE.bucket, Policy=json.dumps(everybody))
    with pytest.raises(UsageError, match=r"films-bucket is open to the public \(its policy says so\)"):
        check_bucket(aws, PLACE)
    check_bucket(aws, PLACE, allow_public=True)
    blocked = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    s3.put_public_access_block(Bucket=PLACE.bucket, PublicAccessBlockConfiguration=blocked)
    check_bucket(aws, PLACE)


def test_a_bucket_opened_by_its_access_control_list_is_refused(aws: Cloud, shared_cloud: LocalCloud) -> None:
    shared_cloud.client("s3").put_bucket_acl(Bucket=PLACE.bucket, ACL="public-read")
    with pytest.raises(UsageError, match="access control list"):
        check_bucket(aws, PLACE)


def test_denied_access_is_one_sentence(
    shared_cloud: LocalCloud, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    become_nobody(shared_cloud, monkeypatch)
    with shared_cloud.guarded(), pytest.raises(CloudError, match=r"AWS denies access .*allow \w+ for") as failure:
        upload(Cloud(region=REGION), dataset, PLACE)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("address", ["films", "s3:/films", "s3://", "s3://UPPER/x", "https://films.s3.amazonaws.com"])
def test_an_invalid_s3_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"write s3://BUCKET/PREFIX"):
        parse_location(address)
