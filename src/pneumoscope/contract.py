"""The bundle's contract: everything about a model that is not its weights.

Stored as `contract.json`. No field has a default: a missing field is an error.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pneumoscope.errors import BundleError
from pneumoscope.files import write_text

CONTRACT_FILE = "contract.json"
DISCLAIMER = "For research use only. Not a medical device; not for diagnosis or treatment."

Text = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Document(BaseModel):
    """Base of every stored document: frozen, and nothing unknown in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Stored = TypeVar("Stored", bound=Document)


class InputRule(Document):
    """How an image's luma becomes the model's input, `uint8 [N, 1, size, size]`."""

    size: int = Field(ge=16, le=1024, description="Height and width of the input, in pixels.")
    channels: Literal[1] = Field(description="Luma only.")
    resize: Literal["squash"] = Field(description="Both sides to `size`; the aspect is not kept.")
    filter: Literal["bilinear-antialiased"] = Field(description="Pillow's BILINEAR, which widens when shrinking.")
    decode_margin: float = Field(ge=1, le=8, description="JPEG may decode at a DCT scale this many times `size`.")
    deep_greys: Literal["min-max"] = Field(description="16-bit greys: the image's own extremes become 0 and 255.")

    @classmethod
    def squash(cls, size: int) -> Self:
        """The one rule of this version, at the given size."""
        return cls(
            size=size,
            channels=1,
            resize="squash",
            filter="bilinear-antialiased",
            decode_margin=1.5,
            deep_greys="min-max",
        )

    def fingerprint(self) -> str:
        """SHA-256 over the rule, to key caches of prepared inputs."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class Normalisation(Document):
    """Applied inside the ONNX graph: `(pixel / 255 - mean) / std`."""

    mean: float = Field(ge=0, le=1)
    std: float = Field(gt=0, le=1)


#: The average over the channels of ImageNet's published mean and standard deviation.
GREY_IMAGENET = Normalisation(mean=0.449, std=0.226)


class Calibration(Document):
    """Probabilities are `softmax(logits / temperature)`; 1 leaves them as trained."""

    temperature: float = Field(gt=0)


class Decision(Document):
    """When the model answers. Below `answer_from` the largest probability is not enough."""

    answer_from: float = Field(ge=0, le=1)


class Provenance(Document):
    """Where the model comes from."""

    arch: Text
    recipe: Text
    weights: Text
    dataset: Sha256 = Field(description="SHA-256 of the data set's manifest.")
    commit: str | None = Field(description="Git commit of the code that trained it, when there was one.")
    versions: dict[str, str]


class Contract(Document):
    """The whole contract. `classes` is the order of the model's outputs."""

    schema_version: Literal[1]
    name: Text
    version: Text
    intended_use: Text
    classes: tuple[Text, ...] = Field(min_length=2)
    groups: dict[Text, tuple[Text, ...]]
    input: InputRule
    normalisation: Normalisation
    calibration: Calibration
    decision: Decision
    provenance: Provenance
    files: dict[str, Sha256] = Field(description="Every other file of the bundle and its SHA-256.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_classes(self.classes, self.groups)
        return self


def check_classes(classes: tuple[str, ...], groups: dict[str, tuple[str, ...]]) -> None:
    """Raise ValueError unless classes are distinct and every group is a proper part of them."""
    if len(set(classes)) != len(classes):
        raise ValueError(f"classes are not distinct: {', '.join(classes)}")
    for group, members in groups.items():
        if not 0 < len(set(members)) < len(classes) or not set(members) <= set(classes):
            raise ValueError(f"group {group!r} must name some, not all, of: {', '.join(classes)}")
        if group in classes:
            raise ValueError(f"group {group!r} has the name of a class")


def read_document(kind: type[Stored], content: bytes) -> Stored:
    """Validate a stored JSON document in which every field must be present, defaults or not.

    Raises:
        ValueError: not JSON, or a field missing, unknown or out of range; the message is a few words.
    """
    try:
        document = kind.model_validate_json(content)
    except ValidationError as failure:
        raise ValueError(first_problem(failure)) from failure
    _require_all(document)
    return document


def _require_all(document: Document) -> None:
    for name in type(document).model_fields:
        if name not in document.model_fields_set:
            raise ValueError(f"field {name!r} is missing")
        if isinstance(value := getattr(document, name), Document):
            _require_all(value)


def save_contract(contract: Contract, bundle: Path) -> None:
    """Write `contract.json` into a bundle folder."""
    write_text(bundle / CONTRACT_FILE, contract.model_dump_json(indent=2) + "\n")


def load_contract(bundle: Path) -> Contract:
    """Read and check `contract.json` of a bundle folder.

    Raises:
        BundleError: no such folder or file, not JSON, a field missing, unknown or out of range.
    """
    path = bundle / CONTRACT_FILE
    if not path.is_file():
        raise BundleError(f"{bundle} is not a bundle (it has no {CONTRACT_FILE}); make one with `pneumoscope export`.")
    try:
        return read_document(Contract, path.read_bytes())
    except ValueError as failure:
        raise BundleError(f"{path} is not valid: {failure}; export the bundle again.") from failure


def first_problem(failure: ValidationError) -> str:
    """The first problem of a failed validation in a few words, with the field's dotted name."""
    problem = failure.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"field '{field}' is missing"
    if problem["type"] == "extra_forbidden":
        return f"field '{field}' is not known"
    words = problem["msg"].removeprefix("Value error, ")
    return f"field '{field}': {words} (got {problem['input']!r:.60})" if field else words
