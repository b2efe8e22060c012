"""CloudFormation stacks: creating, updating, waiting and deleting."""

import time
from collections.abc import Callable, Container
from itertools import chain
from typing import Any

from pneumoscope.aws.session import Cloud, call_or_none, translate_errors
from pneumoscope.errors import CloudError
from pneumoscope.progress import SILENT, Listener

_DONE = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "DELETE_COMPLETE"}
_IN_PROGRESS_SUFFIX = "_IN_PROGRESS"
# The statuses that begin an operation. A failed creation also deletes the stack; that is still the same operation.
_CHANGE_STARTS, _DELETION_STARTS = ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS"), ("DELETE_IN_PROGRESS",)
_CANCELLED = "cancelled"  # in the reasons of resources that failed only because another one had failed


def find_stack(cloud: Cloud, name: str) -> dict[str, Any] | None:
    """CloudFormation's description of a stack, or None. A deleted stack is found only by its id.

    Raises:
        CloudError: access to it is denied.
    """
    describe = cloud.client("cloudformation").describe_stacks
    reply = call_or_none(f"stack {name}", describe, ".*does not exist", StackName=name)
    return dict(reply["Stacks"][0]) if reply and reply["Stacks"] else None


def stack_parameters(stack: dict[str, Any]) -> dict[str, str]:
    """A stack's parameters by name."""
    return {each["ParameterKey"]: each.get("ParameterValue", "") for each in stack.get("Parameters", [])}


def list_stacks(cloud: Cloud) -> list[dict[str, Any]]:
    """CloudFormation's descriptions of all stacks in the region.

    Raises:
        CloudError: access to them is denied.
    """
    with translate_errors("listing stacks"):
        pages = cloud.client("cloudformation").get_paginator("describe_stacks").paginate()
        return [each for page in pages for each in page["Stacks"]]


def put_stack(cloud: Cloud, name: str, template: str, parameters: dict[str, str], tags: dict[str, str]) -> str | None:
    """Create a stack, or update the existing one with this template and these parameters.

    CloudFormation deletes a stack whose creation fails, and rolls back an update that fails.

    Returns:
        The id of the stack to wait for, or None if it has this template and these parameters already.

    Raises:
        CloudError: AWS refuses, or the stack is being changed by another operation.
    """
    client, existing = cloud.client("cloudformation"), find_stack(cloud, name)
    arguments: dict[str, Any] = {
        "StackName": name,
        "TemplateBody": template,
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        "Capabilities": ["CAPABILITY_IAM"],
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }
    if existing is None:
        with translate_errors(f"stack {name}"):
            return str(client.create_stack(**arguments, OnFailure="DELETE")["StackId"])
    updated = call_or_none(f"stack {name}", client.update_stack, ".*No updates", **arguments)
    return None if updated is None else str(existing["StackId"])


def await_stack(
    cloud: Cloud,
    stack_id: str,
    *,
    listener: Listener = SILENT,
    poll_seconds: float = 5.0,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until a stack has been created, updated or deleted.

    boto3's own waiters report neither progress nor the cause of a failure.

    Raises:
        CloudError: the operation failed; the message has the cause.
    """
    statuses: list[str] = []
    while (stack := find_stack(cloud, stack_id)) is not None:
        name, status = stack["StackName"], stack["StackStatus"]
        status_text = status.replace("_", " ").lower()
        if [status] != statuses[-1:]:
            listener.say(f"stack {name}: {status_text}")
            statuses.append(status)
        # DELETE_COMPLETE is a success only if a deletion was waited for; otherwise it means that the creation failed.
        is_deletion = statuses[0].startswith("DELETE")
        if status in _DONE and (status != "DELETE_COMPLETE" or is_deletion):
            return
        if not status.endswith(_IN_PROGRESS_SUFFIX):
            cause = _failure_cause(cloud, stack_id, _DELETION_STARTS if is_deletion else _CHANGE_STARTS)
            raise CloudError(f"stack {name} failed ({status_text}): {cause}.")
        pause(poll_seconds)


def delete_stack(cloud: Cloud, stack: dict[str, Any], *, pause: Callable[[float], None] = time.sleep) -> None:
    """Delete a stack, and wait until it no longer exists.

    Raises:
        CloudError: AWS refuses, or the deletion fails.
    """
    with translate_errors(f"deleting stack {stack['StackName']}"):
        cloud.client("cloudformation").delete_stack(StackName=stack["StackName"])
    await_stack(cloud, stack["StackId"], pause=pause)


def _failure_cause(cloud: Cloud, stack_id: str, starts: Container[str]) -> str:
    """AWS's reason for the first failure in the stack's last operation; later ones are mostly consequences.

    Args:
        cloud: the account and region.
        stack_id: the stack's id.
        starts: the stack's own statuses that begin such an operation. The events before it are of earlier operations.
    """
    failures = []
    with translate_errors("the stack's events"):
        pages = cloud.client("cloudformation").get_paginator("describe_stack_events").paginate(StackName=stack_id)
        for event in chain.from_iterable(page["StackEvents"] for page in pages):  # newest first
            status, reason = event["ResourceStatus"], event.get("ResourceStatusReason", "")
            if event.get("PhysicalResourceId") == stack_id and status in starts:
                break
            if status.endswith("_FAILED") and _CANCELLED not in reason:
                failures.append(f"{event['LogicalResourceId']}: {reason}")
    return failures[-1].rstrip(". ") if failures else "AWS gives no reason"
