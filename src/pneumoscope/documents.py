"""Frozen pydantic models of stored documents, settings and decisions; a stored document must have every field."""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pneumoscope.files import write_text

Text = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Document(BaseModel):
    """Base of these pydantic models: frozen, without unknown fields, without NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Stored = TypeVar("Stored", bound=Document)


def write_document(document: Document, path: Path) -> None:
    """Store a document as indented JSON, whole or not at all."""
    write_text(path, document.model_dump_json(indent=2) + "\n")


def read_document(kind: type[Stored], content: bytes, *, strict: bool = False) -> Stored:
    """Read a stored JSON document. Every field must be present, even one that has a default.

    With `strict`, values are not converted: a number given as text, or as true or false, is an error.

    Raises:
        ValueError: it is not JSON, or a field is missing, unknown or out of range; the message is a few words.
    """
    try:
        document = kind.model_validate_json(content, strict=strict or None)
    except ValidationError as failure:
        raise ValueError(first_problem(failure)) from failure
    _require_all(document)
    return document


def first_problem(failure: ValidationError) -> str:
    """The first problem of a failed validation in a few words, with the field's dotted name."""
    problem = failure.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"field '{field}' is missing"
    if problem["type"] == "extra_forbidden":
        return f"field '{field}' is not known"
    message = problem["msg"].removeprefix("Value error, ")
    return f"field '{field}': {message} (got {problem['input']!r:.60})" if field else message


def _require_all(document: Document) -> None:
    # pydantic fills absent fields with their defaults, but in a stored document an absent field is an error.
    for name in type(document).model_fields:
        if name not in document.model_fields_set:
            raise ValueError(f"field {name!r} is missing")
        if isinstance(value := getattr(document, name), Document):
            _require_all(value)
