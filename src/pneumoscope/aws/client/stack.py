"""A stack of CloudFormation: made or updated, waited for, and deleted."""

import time
from collections.abc import Callable
from typing import Any

from pneumoscope.aws.session import Cloud, ask_for, in_words
from pneumoscope.errors import CloudError
from pneumoscope.progress import SILENT, Listener

_DONE = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "DELETE_COMPLETE"}
_UNDER_WAY = "_IN_PROGRESS"
_CANCELLED = "cancelled"  # in the reasons of what failed only because something else had


def find_stack(cloud: Cloud, name: str) -> dict[str, Any] | None:
    """CloudFormation's description of a stack by name (or id, by which deleted ones are found, too), or None.

    Raises:
        CloudError: access to it is denied.
    """
    describe = cloud.client("cloudformation").describe_stacks
    reply = ask_for(f"stack {name}", describe, ".*does not exist", StackName=name)
    return dict(reply["Stacks"][0]) if reply and reply["Stacks"] else None


def parameters_of(stack: dict[str, Any]) -> dict[str, str]:
    """A stack's parameters by name."""
    return {each["ParameterKey"]: each.get("ParameterValue", "") for each in stack.get("Parameters", [])}


def list_stacks(cloud: Cloud) -> list[dict[str, Any]]:
    """CloudFormation's descriptions of every stack of the region.

    Raises:
        CloudError: access to them is denied.
    """
    with in_words("listing stacks"):
        pages = cloud.client("cloudformation").get_paginator("describe_stacks").paginate()
        return [each for page in pages for each in page["Stacks"]]


def put_stack(cloud: Cloud, name: str, template: str, parameters: dict[str, str], tags: dict[str, str]) -> str:
    """Make a stack, or give the one that is there this template and these parameters; its id.

    A stack that cannot be made is deleted again; one that cannot be updated stays as it was.

    Raises:
        CloudError: AWS refuses, or the stack is being changed at the moment.
    """
    client, there = cloud.client("cloudformation"), find_stack(cloud, name)
    arguments: dict[str, Any] = {
        "StackName": name,
        "TemplateBody": template,
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        "Capabilities": ["CAPABILITY_IAM"],
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }
    if there is None:
        with in_words(f"stack {name}"):
            return str(client.create_stack(**arguments, OnFailure="DELETE")["StackId"])
    ask_for(f"stack {name}", client.update_stack, ".*No updates", **arguments)
    return str(there["StackId"])


def await_stack(
    cloud: Cloud,
    stack: str,
    *,
    listener: Listener = SILENT,
    every: float = 5.0,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until a stack, by id, is made, updated or deleted.

    CloudFormation's own waiters report nothing while they wait, and when they give up, not why.

    Raises:
        CloudError: it is not going to be; the message has the reason.
    """
    seen = [""]
    while (found := find_stack(cloud, stack)) is not None:
        name, status = found["StackName"], found["StackStatus"]
        words = status.replace("_", " ").lower()
        if status != seen[-1]:
            listener.say(f"stack {name}: {words}")
            seen.append(status)
        # One that was being made and has been deleted has failed.
        if status in _DONE and (status != "DELETE_COMPLETE" or seen[1].startswith("DELETE")):
            return
        if not status.endswith(_UNDER_WAY):
            raise CloudError(f"stack {name} {words}: {_reason(cloud, stack)}.")
        pause(every)


def delete_stack(cloud: Cloud, stack: dict[str, Any], *, pause: Callable[[float], None] = time.sleep) -> None:
    """Delete a stack, and wait until it is gone.

    Raises:
        CloudError: AWS refuses, or it cannot be deleted.
    """
    with in_words(f"deleting stack {stack['StackName']}"):
        cloud.client("cloudformation").delete_stack(StackName=stack["StackName"])
    await_stack(cloud, stack["StackId"], pause=pause)


def _reason(cloud: Cloud, stack: str) -> str:
    """What failed first of the stack's last change, in AWS's words."""
    with in_words("the stack's events"):
        pages = cloud.client("cloudformation").get_paginator("describe_stack_events").paginate(StackName=stack)
        events = [each for page in pages for each in page["StackEvents"]]  # the newest first
    failed = [
        f"{each['LogicalResourceId']}: {each.get('ResourceStatusReason', '')}"
        for each in events
        if each["ResourceStatus"].endswith("_FAILED") and _CANCELLED not in each.get("ResourceStatusReason", "")
    ]
    return failed[-1].rstrip(". ") if failed else "AWS gives no reason"
