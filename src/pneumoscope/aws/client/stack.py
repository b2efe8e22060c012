"""A stack of CloudFormation: made or updated, waited for, and deleted."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pneumoscope.aws.session import Cloud, ask_for, in_words
from pneumoscope.errors import CloudError
from pneumoscope.progress import SILENT, Listener

_DONE = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "DELETE_COMPLETE"}
_UNDER_WAY = "_IN_PROGRESS"
_CANCELLED = "cancelled"  # in the reasons of what failed only because something else had


@dataclass(frozen=True, kw_only=True)
class Found:
    """A stack as CloudFormation describes it."""

    id: str
    name: str
    status: str
    description: str
    made: str
    parameters: dict[str, str]


def find_stack(cloud: Cloud, name: str) -> Found | None:
    """A stack by name (or id, by which deleted ones are found, too), or None if there is none.

    Raises:
        CloudError: access to it is denied.
    """
    describe = cloud.client("cloudformation").describe_stacks
    reply = ask_for(f"stack {name}", describe, ".*does not exist", StackName=name)
    return _found(reply["Stacks"][0]) if reply and reply["Stacks"] else None


def list_stacks(cloud: Cloud) -> Iterator[Found]:
    """Every stack of the region.

    Raises:
        CloudError: access to them is denied.
    """
    with in_words("listing stacks"):
        pages = cloud.client("cloudformation").get_paginator("describe_stacks").paginate()
        found = [each for page in pages for each in page["Stacks"]]
    yield from map(_found, found)


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
    return there.id


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
    before, first = "", None
    while (found := find_stack(cloud, stack)) is not None:
        first = first or found.status
        if found.status != before:
            listener.say(f"stack {found.name}: {found.status.replace('_', ' ').lower()}")
            before = found.status
        if not found.status.endswith(_UNDER_WAY):
            break
        pause(every)
    if found is None or (found.status in _DONE and not _undone(first, found.status)):
        return
    raise CloudError(f"stack {found.name} {found.status.replace('_', ' ').lower()}: {_reason(cloud, stack)}.")


def delete_stack(cloud: Cloud, name: str) -> None:
    """Begin to delete a stack.

    Raises:
        CloudError: AWS refuses.
    """
    with in_words(f"deleting stack {name}"):
        cloud.client("cloudformation").delete_stack(StackName=name)


def _undone(first: str | None, last: str) -> bool:
    """Whether a stack that was being made has been deleted, which is how it fails."""
    return last == "DELETE_COMPLETE" and not str(first).startswith("DELETE")


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


def _found(told: dict[str, Any]) -> Found:
    return Found(
        id=str(told["StackId"]),
        name=str(told["StackName"]),
        status=str(told["StackStatus"]),
        description=str(told.get("Description", "")),
        made=told["CreationTime"].strftime("%Y-%m-%d %H:%M"),
        parameters={each["ParameterKey"]: str(each.get("ParameterValue", "")) for each in told.get("Parameters", [])},
    )
