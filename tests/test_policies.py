"""The documented roles and policies of `deploy/aws` allow what is needed, and no more."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions

from account import (
    PLACE,
    REGION,
    become_documented_user,
    become_nobody,
    deploy_settings,
    train_settings,
)
from local_cloud import LocalCloud
from pneumoscope.aws.client.deploy import deploy
from pneumoscope.aws.client.inventory import deployed_resources, status, variant_and_contract
from pneumoscope.aws.client.train import follow, start
from pneumoscope.aws.client.upload import upload
from pneumoscope.aws.session import Cloud, translate_errors
from pneumoscope.dataset import Dataset
from pneumoscope.errors import (
    CloudError,
)
from samples import REPOSITORY

pytestmark = pytest.mark.usefixtures("aws")


def test_the_documented_role_allows_what_a_job_needs_and_no_more(
    shared_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The role's two documents, trust and permissions, are put into IAM; then calls are tried with the latter."""
    folder, iam = REPOSITORY / "deploy" / "aws", shared_cloud.client("iam")
    policy = (folder / "sagemaker-role.json").read_text().replace("BUCKET", PLACE.bucket)
    iam.create_role(RoleName="films", AssumeRolePolicyDocument=(folder / "sagemaker-trust.json").read_text())
    iam.put_role_policy(RoleName="films", PolicyName="films", PolicyDocument=policy)
    become_nobody(shared_cloud, monkeypatch)
    iam.put_user_policy(UserName="nobody", PolicyName="films", PolicyDocument=policy)
    theirs = {"LocationConstraint": REGION}
    shared_cloud.client("s3").create_bucket(Bucket="theirs", CreateBucketConfiguration=theirs)
    shared_cloud.client("s3").put_object(Bucket=PLACE.bucket, Key="films/a.png", Body=b"film")
    somebody = Cloud(region=REGION)
    with shared_cloud.guarded():
        s3 = somebody.client("s3")
        s3.put_object(Bucket=PLACE.bucket, Key="runs/a", Body=b"x")
        assert s3.get_object(Bucket=PLACE.bucket, Key="runs/a")["Body"].read() == b"x"
        assert s3.get_object(Bucket=PLACE.bucket, Key="films/a.png")["Body"].read() == b"film"
        for forbidden in (s3.delete_object, partial(s3.put_object, Body=b"x")):
            with pytest.raises(CloudError, match="denies"), translate_errors():
                forbidden(Bucket=PLACE.bucket, Key="films/a.png")
        with pytest.raises(CloudError, match="denies"), translate_errors():
            s3.put_object(Bucket="theirs", Key="a", Body=b"x")
        with pytest.raises(CloudError, match="denies"), translate_errors():
            somebody.client("iam").list_users()


def test_the_documented_user_can_upload_train_deploy_list_and_remove(
    shared_cloud: LocalCloud, dataset: Dataset, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    become_documented_user(shared_cloud, monkeypatch)
    with shared_cloud.guarded():
        somebody = Cloud(region=REGION)
        somebody.client("s3").put_object(Bucket=PLACE.bucket, Key="films/manifest.csv", Body=b"another's")
        upload(somebody, dataset, PLACE)
        start(somebody, train_settings())
        follow(somebody, "capstone-1", pause=lambda _: None)
        deploy(somebody, deploy_settings(tiny_bundle, role="trainer-endpoint"))
        assert variant_and_contract(somebody, "films")[0] == "realtime"
        assert {each["name"] for each in status(somebody)} == {"films", "capstone-1"}
        for each in list(deployed_resources(somebody, "films")):
            each.remove()
        assert [each["name"] for each in status(somebody)] == ["capstone-1"]
        with pytest.raises(CloudError, match="denies"), translate_errors():
            somebody.client("s3").delete_object(Bucket=PLACE.bucket, Key=f"films/{dataset.films[0].path}")
        with pytest.raises(CloudError, match="denies"), translate_errors():
            somebody.client("iam").list_users()


@pytest.mark.parametrize(
    ("policies", "reads", "writes"),
    [
        (["endpoint-role"], {"models/one/model.tar.gz"}, set[str]()),
        (
            ["endpoint-role", "endpoint-async"],
            {"models/one/model.tar.gz", "models/one/films/a"},
            {"models/one/answers/a", "models/one/failures/a"},
        ),
        (["endpoint-role", "endpoint-capture"], {"models/one/model.tar.gz"}, {"captures/a"}),
    ],
)
def test_the_documented_role_of_an_endpoint_reads_the_model_and_little_else(
    policies: list[str], reads: set[str], writes: set[str], shared_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ("model.tar.gz", "contract.json", "films/a", "answers/a", "failures/a")
    places = {"films/a.png", "captures/a", "runs/a", *(f"models/one/{key}" for key in keys)}
    for place in places:
        shared_cloud.client("s3").put_object(Bucket=PLACE.bucket, Key=place, Body=b"x")
    become_nobody(shared_cloud, monkeypatch)
    for name in policies:
        document = (REPOSITORY / "deploy" / "aws" / f"{name}.json").read_text().replace("BUCKET", PLACE.bucket)
        shared_cloud.client("iam").put_user_policy(UserName="nobody", PolicyName=name, PolicyDocument=document)

    def may(call: Any, place: str, **more: Any) -> bool:
        try:
            call(Bucket=PLACE.bucket, Key=place, **more)
        except exceptions.ClientError as failure:
            if failure.response["Error"]["Code"] != "AccessDenied":
                raise
            return False
        return True

    s3 = Cloud(region=REGION).client("s3")
    with shared_cloud.guarded():
        assert {place for place in places if may(s3.get_object, place)} == reads
        assert {place for place in places if may(s3.put_object, place, Body=b"y")} == writes
        assert not [place for place in places if may(s3.delete_object, place)]


def test_the_documented_user_removes_only_tagged_resources_and_model_files() -> None:
    """Checked in the text of the policy, because moto ignores conditions."""
    policy = json.loads((REPOSITORY / "deploy" / "aws" / "user.json").read_text())
    for statement in policy["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        removing = [each for each in actions if re.search(r":(Delete|Deregister|Stop|Update(Endpoint|Stack)$)", each)]
        by_place = {"s3:DeleteObject", "cloudwatch:DeleteAlarms", "logs:DeleteLogGroup", "cloudformation:DeleteStack"}
        if by_place & set(removing):
            named = statement["Resource"]
            assert not {"*", "arn:aws:s3:::BUCKET/*"} & {*([named] if isinstance(named, str) else named)}
        elif removing:
            assert statement["Condition"] == {"Null": {"aws:ResourceTag/pneumoscope": "false"}}
            assert actions == removing
        if "sagemaker:AddTags" in actions:  # else the user could tag, and then remove, anything
            assert "sagemaker:TaggingAction" in statement["Condition"]["StringEquals"]


def test_the_documented_policy_of_a_key_is_valid(aws: Cloud) -> None:
    policy = (REPOSITORY / "deploy" / "aws" / "key.json").read_text().replace("KEY", "arn:aws:kms:eu-central-1:1:key/a")
    aws.client("iam").put_role_policy(RoleName="trainer", PolicyName="key", PolicyDocument=policy)


def test_the_documented_command_empties_a_bucket_with_versions(aws: Cloud) -> None:
    s3 = aws.client("s3")
    s3.put_bucket_versioning(Bucket=PLACE.bucket, VersioningConfiguration={"Status": "Enabled"})
    for body in (b"1", b"2"):
        s3.put_object(Bucket=PLACE.bucket, Key="films/a", Body=body)
    s3.delete_object(Bucket=PLACE.bucket, Key="films/a")
    text = (REPOSITORY / "docs" / "how-to" / "aws.md").read_text()
    (line,) = re.findall(r'^python -c "(.+)"$', text, re.MULTILINE)
    emptied = [sys.executable, "-c", line.replace("STACK-BUCKET", PLACE.bucket)]
    subprocess.run(emptied, check=True)
    s3.delete_bucket(Bucket=PLACE.bucket)
