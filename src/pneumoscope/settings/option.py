"""How a setting appears on the command line, and the settings that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from pneumoscope.documents import Document
from pneumoscope.models import SHIPPED

BUNDLE_VARIABLE = "PNEUMOSCOPE_BUNDLE"


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """How a field appears on the command line, where pydantic cannot know it; one of the field's annotations."""

    names: tuple[str, ...] = ()
    """Option names in typer's notation, such as `--freeze/--no-freeze`; by default made from the field's name."""
    argument: bool = False
    """Positional: an argument instead of an option."""
    metavar: str | None = None
    """Placeholder for the value in the help text."""
    variable: str | None = None
    """Environment variable that also sets it."""
    path: Literal["existing", "existing file", "existing folder", "file", "folder", ""] = ""
    """What a path must be; checked before the command runs."""
    kind: Any = None
    """Type on the command line, where it differs from the field's."""
    changes: type[Document] | None = None
    """The field is a dictionary of changes to such a document; each field of that document becomes an option."""
    without: tuple[str, ...] = ()
    """Fields of `changes` that do not become options."""
    hidden: bool = False
    """The field does not become an option."""


def _to_number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _text_codec(value: str) -> str:
    try:
        "".encode(value)
    except LookupError as failure:
        raise ValueError(f"{value!r} is not one of Python's text codecs, such as gbk, shift_jis or cp437") from failure
    return value


Codec = Annotated[str, AfterValidator(_text_codec)]
#: For a choice of whole numbers: command lines and SageMaker give text, which pydantic does not convert for a Literal.
Whole = BeforeValidator(_to_number)

Images = Annotated[
    tuple[Path, ...], Spelling(argument=True, path="existing"), Field(description="Image files, or folders of them.")
]
Bundle = Annotated[
    Path | None,
    Spelling(path="existing folder", variable=BUNDLE_VARIABLE),
    Field(description=f"A bundle made by `export`; by default {SHIPPED}, which ships with the package."),
]
Run = Annotated[
    Path, Spelling(argument=True, path="existing folder"), Field(description="Directory of a finished training run.")
]
Overwrite = Annotated[bool, Field(description="Replace an earlier result of this command at --out.")]
Quiet = Annotated[bool, Field(description="Do not print progress or messages.")]
MaxPixels = Annotated[int, Field(ge=1, description="Reject images with more than this many pixels.")]
Provider = Annotated[
    str, Field(description="ONNX Runtime execution provider, such as cpu or cuda; there is no fallback to cpu.")
]
Cache = Annotated[Path | None, Field(description="Folder for decoded images; by default inside --data.")]
Coverage = Annotated[
    float | None,
    Field(
        gt=0,
        lt=1,
        description="Coverage of the prediction sets: share of each class's films whose set is to contain that class, "
        "such as 0.9. The bundle's contract lists the possible values and the default.",
    ),
]
Point = Annotated[
    str | None,
    Field(description="Decide by this stored threshold alone, such as sensitivity-0.95, and answer at level group."),
]
FixOrientation = Annotated[
    bool,
    Field(description="Correct negatives and films rotated by right angles, which are rejected otherwise."),
]
Precision = Literal["fp32", "int8"]
