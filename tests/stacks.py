"""CloudFormation stacks in moto, and their templates as resolved there."""

import ast
import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from cfnlint.decode import decode
from moto.cloudformation.models import cloudformation_backends
from moto.cloudformation.parsing import clean_json

from local_cloud import LocalCloud

ACCOUNT, REGION = "123456789012", "eu-central-1"
# Moto's CloudFormation warns about these types, which it does not create. Tests check their resolved properties.
NOT_IN_MOTO = (
    "ApiGatewayV2::(Api|Authorizer|Integration|Route|Stage)|ApplicationAutoScaling::Scal(ableTarget|ingPolicy)|"
    "CloudWatch::Alarm|Lambda::EventInvokeConfig|S3::BucketPolicy|SQS::QueuePolicy"
)
#: For `pytest.mark.filterwarnings`.
UNMADE = f"ignore:Tried to parse AWS::({NOT_IN_MOTO}) but".replace("::", "..") + ":UserWarning"


def long_form(template: Path) -> str:
    """A template as written, in CloudFormation's long form, as JSON."""
    read, problems = decode(str(template))
    assert not problems
    return json.dumps(read)


class Names:
    """A stack's references, resolved: to `<LogicalId>` if moto did not create the resource."""

    def __init__(self, made: Any) -> None:
        self._made = made
        self.lazy_condition_map = made.lazy_condition_map

    def __getitem__(self, name: str) -> Any:
        found = self._made[name]
        return f"<{name}>" if found is None and name != "AWS::NoValue" else found

    def get(self, name: str) -> Any:
        return self[name]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A stack in moto, and its template with resolved references."""

    name: str
    template: dict[str, Any]
    names: Any
    aws: LocalCloud

    def __getitem__(self, logical: str) -> Any:
        """A resource's properties, resolved; None if the stack does not have it."""
        resource = self.template["Resources"][logical]
        if not self.has(resource):
            return None
        return clean_json(resource["Properties"], self.names)

    def has(self, resource: dict[str, Any]) -> bool:
        return "Condition" not in resource or bool(self.names.lazy_condition_map[resource["Condition"]])

    def of(self, kind: str) -> dict[str, Any]:
        """The properties of all resources of a type, by logical id."""
        resources = self.template["Resources"]
        return {name: self[name] for name, each in resources.items() if each["Type"] == f"AWS::{kind}" and self[name]}

    def id(self, logical: str) -> str:
        return str(clean_json({"Ref": logical}, self.names))

    def arn(self, logical: str) -> str:
        return str(clean_json({"Fn::GetAtt": [logical, "Arn"]}, self.names))

    def policies(self, role: str) -> dict[str, dict[str, Any]]:
        """The documents of a role's policies in IAM, by name."""
        iam, name = self.aws.client("iam"), self.id(role)
        found = {}
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
            document = iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
            # moto stores a role's inline policies as the text of a Python dictionary, not as JSON
            found[policy] = ast.literal_eval(document) if isinstance(document, str) else document
        return found

    def allowed(self, role: str) -> list[dict[str, Any]]:
        statements = chain.from_iterable(each["Statement"] for each in self.policies(role).values())
        return [each for each in statements if each["Effect"] == "Allow"]


def make_stack(aws: LocalCloud, name: str, template: dict[str, Any], parameters: dict[str, str]) -> Stack:
    """Create a stack from a template without transforms."""
    made = aws.client("cloudformation").create_stack(
        StackName=name,
        TemplateBody=json.dumps(template),
        Parameters=_listed(parameters),
        Capabilities=["CAPABILITY_IAM"],
    )
    return _found(aws, name, template, made["StackId"])


def update_stack(stack: Stack, parameters: dict[str, str]) -> Stack:
    """Update a stack with other parameters."""
    made = stack.aws.client("cloudformation").update_stack(
        StackName=stack.name,
        TemplateBody=json.dumps(stack.template),
        Parameters=_listed(parameters),
        Capabilities=["CAPABILITY_IAM"],
    )
    return _found(stack.aws, stack.name, stack.template, made["StackId"])


def _listed(parameters: dict[str, str]) -> list[dict[str, str]]:
    return [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]


def _found(aws: LocalCloud, name: str, template: dict[str, Any], stack_id: str) -> Stack:
    resources = cloudformation_backends[ACCOUNT][REGION].stacks[stack_id].resource_map
    return Stack(name=name, template=template, names=Names(resources), aws=aws)
