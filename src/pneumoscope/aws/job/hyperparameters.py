"""A training job's hyper-parameters, in every spelling that SageMaker and AWS's tools use.

Script mode passes them as arguments (`--batch_size 32 --freeze true`); a custom image finds them in a file. AWS's SDK
encodes each value as JSON, so strings arrive with quotation marks.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from pneumoscope.documents import Document, Text, first_problem
from pneumoscope.errors import UsageError
from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.config import load_recipe, make_config

_TOOLKIT_PREFIX = "sagemaker_"  # parameters that AWS's toolkit adds for itself
#: Options of `train` that a job sets itself, or does not support.
_RESERVED = {"out", "data", "cache", "resume", "teachers", "help"}


class JobOptions(Document):
    """A job's options besides the fields of the training configuration."""

    recipe: Text = Field(default="quick", description="Name of the recipe to start from.")
    export_precision: Literal["fp32", "int8"] = Field(default="fp32", description="Arithmetic of the bundle's model.")
    quiet: bool = Field(default=False, description="Print neither progress nor messages.")


_SWITCHES = {
    name
    for model in (TrainConfig, JobOptions)
    for name, field in model.model_fields.items()
    if field.annotation is bool
}


def read_hyperparameters(stored: Mapping[str, str], arguments: Sequence[str]) -> tuple[TrainConfig, JobOptions]:
    """A job's training configuration and its options. If a name is given twice, the last value counts.

    Args:
        stored: values by name, as in the platform's file `hyperparameters.json`.
        arguments: the arguments of the job's command. A leading `train`, which SageMaker passes, is ignored.

    Raises:
        UsageError: a hyper-parameter is unknown, out of range, or cannot be set in a job; or an argument has no `--`.
    """
    options = list(arguments[1:] if arguments[:1] == ["train"] else arguments)
    values = _by_field([*((name, _unquote(value)) for name, value in stored.items()), *_pairs(options)])
    job_values = {name: values.pop(name) for name in JobOptions.model_fields if name in values}
    try:
        job_options = JobOptions.model_validate(job_values)
    except ValidationError as failure:
        raise UsageError(f"hyper-parameters: {first_problem(failure)}.") from failure
    return make_config(load_recipe(job_options.recipe), values), job_options


def _pairs(arguments: list[str]) -> Iterator[tuple[str, str]]:
    """Names and values from `--name value`, `--name=value`, or `--name` alone, which has the value true."""
    while arguments:
        name, joined, value = arguments.pop(0).partition("=")
        if not name.startswith("--"):
            raise UsageError(f"unexpected argument {name!r}; a training job takes hyper-parameters as --name value.")
        if not joined:
            value = arguments.pop(0) if arguments and not arguments[0].startswith("--") else "true"
        yield name[2:], value


def _by_field(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The values by our field names; `no-freeze: true` becomes `freeze: false`."""
    found: dict[str, Any] = {}
    for spelled, value in pairs:
        name = spelled.lower().replace("-", "_")
        if name in _RESERVED:
            raise UsageError(
                f"hyper-parameter {spelled!r} cannot be set in a training job: it is set by the job, or not supported; "
                "leave it out."
            )
        # Switches may be negated, as on our command line; of `freeze` and `no_freeze` the last one counts.
        if (positive := name.removeprefix("no_")) in _SWITCHES:
            found[positive] = _parse_bool(spelled, value) is (name == positive)
        elif not name.startswith(_TOOLKIT_PREFIX):
            found[name] = value
    return found


def _parse_bool(name: str, value: str) -> bool:
    try:
        return TypeAdapter(bool).validate_python(value or "true")
    except ValidationError:
        raise UsageError(f"hyper-parameter {name!r} is {value!r}; give true or false.") from None


def _unquote(value: str) -> str:
    """A value; a JSON string loses its quotation marks.

    >>> _unquote('"quick"'), _unquote("16")
    ('quick', '16')
    """
    try:
        decoded = json.loads(value)
    except ValueError:
        return value
    return decoded if isinstance(decoded, str) else value
