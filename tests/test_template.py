"""The SAM template as written: linted, and its parameters and rules checked."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.cloudformation.parsing import ResourceMap, clean_json, parse_condition

from sam_template import ALWAYS, CASES, DIGEST, IN_CHINA, TEMPLATE, source
from samples import REPOSITORY
from stacks import ACCOUNT, REGION

TOOLS = Path(sys.executable).parent


def test_cfn_lint_finds_nothing() -> None:
    command = [str(TOOLS / "cfn-lint"), "--include-checks", "I", "--", str(TEMPLATE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout == ""


def test_sam_finds_nothing() -> None:
    sam = shutil.which("sam")
    if sam is None:
        pytest.skip("the SAM CLI is not installed")
    environment = os.environ | {"AWS_DEFAULT_REGION": REGION, "SAM_CLI_TELEMETRY": "0"}
    command = [sam, "validate", "--lint", "--template", str(TEMPLATE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is a valid SAM Template" in done.stdout


def test_cloudformation_can_read_its_yaml() -> None:
    """CloudFormation accepts no anchors and aliases."""
    aliased = re.compile(r"(^|[\s\[{,])[&*]\w", re.MULTILINE)
    assert aliased.search("Tags: *tags")
    assert not aliased.search(TEMPLATE.read_text())


def test_every_parameter_and_output_is_described_bounded_and_grouped() -> None:
    template = source()
    for name, each in template["Parameters"].items():
        assert each["Description"].endswith("."), name
        assert each.keys() & {"AllowedPattern", "AllowedValues", "MinValue"}, name
    for name, each in template["Outputs"].items():
        assert each["Description"].endswith("."), name
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert [name for group in groups for name in group["Parameters"]] == list(template["Parameters"])


def test_everything_is_closed_by_default() -> None:
    defaults = {name: each.get("Default") for name, each in source()["Parameters"].items()}
    assert {name for name, value in defaults.items() if value is None} == set(ALWAYS)
    assert defaults["ApiAuthorization"] == "AWS_IAM"
    assert defaults["CorsOrigins"] == ""
    assert defaults["Serving"] == "none"
    assert defaults["CapturePercentage"] == 0


@given(st.data())
def test_no_prefix_contains_another(data: st.DataObject) -> None:
    parameters = ("FilmsPrefix", "ResultsPrefix")
    patterns = [source()["Parameters"][name]["AllowedPattern"] for name in parameters]
    films, results = (data.draw(st.from_regex(each, fullmatch=True)).rstrip("\n") for each in patterns)
    for one, other in ((films, results), (films, "captures/"), (results, "captures/")):
        assert not one.startswith(other)
        assert not other.startswith(one)
    assert not re.fullmatch(patterns[0], results)
    assert not re.fullmatch(patterns[1], films)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (
            "ImageUri",
            [ALWAYS["ImageUri"], DIGEST, IN_CHINA],
            ["pneumoscope:1.0", ALWAYS["ImageUri"].removesuffix(":1.0"), IN_CHINA.replace(".cn/", ".de/")],
        ),
        ("ModelPrefix", ["models", "models/2026-11-23"], ["", "/models", "models/", "a//b"]),
        ("CorsOrigins", ["", "https://a.example", "http://localhost:3000"], ["*", "http://a.example", "https://a/"]),
        ("KmsKeyArn", ["", CASES["realtime"]["KmsKeyArn"]], ["alias/films", "0c5e"]),
        ("OnUploadConcurrency", ["", "0", "10"], ["-1", "many"]),
    ],
)
def test_patterns_accept_good_values_and_refuse_bad_ones(name: str, good: list[str], bad: list[str]) -> None:
    pattern = source()["Parameters"][name]["AllowedPattern"]
    assert [value for value in good + bad if re.fullmatch(pattern, value)] == good


@pytest.mark.parametrize(
    ("parameters", "broken"),
    [
        ({}, set()),
        (CASES["realtime"], set()),
        ({"ApiAuthorization": "JWT"}, {"JwtIsComplete"}),
        ({"ApiAuthorization": "JWT", "JwtIssuer": "https://issuer.example.org"}, {"JwtIsComplete"}),
        ({"CapturePercentage": "1"}, {"CaptureIsRealtime"}),
        ({"CapturePercentage": "1", "Serving": "serverless"}, {"CaptureIsRealtime"}),
    ],
)
def test_rules_refuse_impossible_parameters(parameters: dict[str, str], broken: set[str]) -> None:
    template = source()
    given_parameters = ResourceMap("id", "name", ALWAYS | parameters, {}, REGION, ACCOUNT, template, None)
    given_parameters.load_parameters()

    def true(condition: Any) -> bool:
        return parse_condition(condition, given_parameters, {})

    found = {
        name
        for name, rule in template["Rules"].items()
        if true(rule["RuleCondition"]) and not all(true(each["Assert"]) for each in rule["Assertions"])
    }
    assert found == broken


def test_no_resource_names_a_partition() -> None:
    """In China, ARNs and image registries have other names."""
    assert not re.search(r"arn:aws[:-]", json.dumps(source()["Resources"]))
    template, parameters = source(), ALWAYS | {"ImageUri": IN_CHINA, "Serving": "realtime"}
    names = ResourceMap("id", "name", parameters, {}, "cn-north-1", ACCOUNT, template, None)
    names.load_parameters()
    names._parsed_resources["AWS::Partition"] = "aws-cn"  # moto assumes the same partition everywhere
    names.load_conditions()
    statements = template["Resources"]["ServingRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    pull = next(each for each in statements if each["Sid"] == "PullImage")
    assert clean_json(pull["Resource"], names) == f"arn:aws-cn:ecr:cn-north-1:{ACCOUNT}:repository/team/pneumoscope"


def test_the_documented_key_policy_is_for_cloudwatch_logs() -> None:
    statement = json.loads((REPOSITORY / "deploy" / "aws" / "key-for-logs.json").read_text())
    assert statement["Principal"] == {"Service": "logs.REGION.amazonaws.com"}
    assert statement["Condition"]["ArnLike"]
