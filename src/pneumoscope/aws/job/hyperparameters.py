"""A training job's hyper-parameters, in every way that SageMaker and AWS's tools spell them.

Script mode passes them as arguments (`--batch_size 32 --freeze true`), an image of one's own finds them in a file, and
AWS's SDK writes values as JSON, so that a text has quotation marks of its own.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from pneumoscope.documents import Document, Text, first_problem
from pneumoscope.errors import UsageError
from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.config import load_recipe, make_config

_TOOLKITS = "sagemaker_"  # what the platform's own tools add for themselves
_PLATFORMS = {"out", "data", "cache", "resume", "teachers", "help"}  # options of `train` that a job cannot choose


class JobOptions(Document):
    """What a job may be told beside the fields of the training configuration."""

    recipe: Text = Field(default="quick", description="Name of a recipe that the configuration begins from.")
    export_precision: Literal["fp32", "int8"] = Field(default="fp32", description="Of the bundle's arithmetic.")
    quiet: bool = Field(default=False, description="Print neither progress nor messages.")


_SWITCHES = {
    name for kind in (TrainConfig, JobOptions) for name, field in kind.model_fields.items() if field.annotation is bool
}


def read_hyperparameters(stored: Mapping[str, str], arguments: Sequence[str]) -> tuple[TrainConfig, JobOptions]:
    """A job's training configuration and its options; of a name given twice, the last one counts.

    Args:
        stored: by name, as the platform's file has them.
        arguments: of the job's command; a leading `train`, which SageMaker passes, means nothing.

    Raises:
        UsageError: one is unknown, out of range, or not a job's to choose.
    """
    given = list(arguments[1:] if arguments[:1] == ["train"] else arguments)
    values = _named([*((name, _plain(value)) for name, value in stored.items()), *_pairs(given)])
    options = {name: values.pop(name) for name in JobOptions.model_fields if name in values}
    try:
        wanted = JobOptions.model_validate(options)
    except ValidationError as failure:
        raise UsageError(f"hyper-parameters: {first_problem(failure)}.") from failure
    return make_config(load_recipe(wanted.recipe), values), wanted


def _pairs(arguments: list[str]) -> Iterator[tuple[str, str]]:
    """Names and values of `--name value`, `--name=value` and `--name`, which means true."""
    while arguments:
        name, joined, value = arguments.pop(0).partition("=")
        if not name.startswith("--"):
            raise UsageError(f"unexpected argument {name!r}; a training job takes hyper-parameters as --name value.")
        if not joined:
            value = arguments.pop(0) if arguments and not arguments[0].startswith("--") else "true"
        yield name[2:], value


def _named(given: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The values by the names of our fields: `no-freeze: true` is `freeze: false`."""
    found: dict[str, Any] = {}
    for spelled, value in given:
        name = spelled.lower().replace("-", "_")
        if name in _PLATFORMS:
            raise UsageError(f"hyper-parameter {spelled!r} is the platform's to say in a training job; leave it out.")
        if (positive := name.removeprefix("no_")) in _SWITCHES:
            found[positive] = _truth(spelled, value) is (name == positive)
        elif not name.startswith(_TOOLKITS):
            found[name] = value
    return found


def _truth(name: str, value: str) -> bool:
    try:
        return TypeAdapter(bool).validate_python(value or "true")
    except ValidationError:
        raise UsageError(f"hyper-parameter {name!r} is {value!r}; give true or false.") from None


def _plain(value: str) -> str:
    """A value without the quotation marks of JSON.

    >>> _plain('"quick"'), _plain("16")
    ('quick', '16')
    """
    try:
        decoded = json.loads(value)
    except ValueError:
        return value
    return decoded if isinstance(decoded, str) else value
