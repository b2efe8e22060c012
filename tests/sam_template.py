"""The SAM template, read and translated as AWS does it, and the cases in which tests create its stack."""

import json
from functools import cache
from typing import Any

from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

from local_cloud import LocalCloud
from samples import REPOSITORY
from stacks import ACCOUNT, REGION, Stack, long_form, make_stack

TEMPLATE = REPOSITORY / "deploy" / "aws" / "template.yaml"

#: The parameters without a default.
ALWAYS = {
    "ImageUri": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/pneumoscope:1.0",
    "ModelBucketName": "models-of-ours",
    "ModelPrefix": "models/one",
}
DIGEST = f"210987654321.dkr.ecr.us-east-1.amazonaws.com/team/pneumoscope@sha256:{'0' * 64}"
IN_CHINA = f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn/team/pneumoscope:1.0"
#: By case, the parameters that differ from `ALWAYS` and from the template's defaults.
CASES: dict[str, dict[str, str]] = {
    "plain": {},
    "realtime": {
        "ImageUri": DIGEST,
        "Serving": "realtime",
        "CapturePercentage": "10",
        "KmsKeyArn": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0c5e",
        "Tracing": "Active",
        "CorsOrigins": "https://films.example.org,http://localhost:8080",
        "ApiAuthorization": "JWT",
        "JwtIssuer": "https://issuer.example.org",
        "JwtAudience": "films",
        "AlarmTopicArn": f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms",
        "OnUploadConcurrency": "4",
        "FilmsPrefix": "films/ward-3/",
    },
    "serverless": {"Serving": "serverless", "ApiAuthorization": "NONE"},
}


@cache
def source_text() -> str:
    return long_form(TEMPLATE)


def source() -> dict[str, Any]:
    """The template as written, in CloudFormation's long form."""
    return dict(json.loads(source_text()))


def translate(parameters: dict[str, str]) -> dict[str, Any]:
    """The template as the SAM transform passes it to CloudFormation."""
    return dict(Translator({}, Parser()).translate(source(), dict(parameters)))


def make(aws: LocalCloud, name: str, case: dict[str, str]) -> Stack:
    return make_stack(aws, name, translate(ALWAYS | case), ALWAYS | case)
