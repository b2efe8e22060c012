"""How a setting is spelled on the command line, and the settings that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pneumoscope.documents import Document
from pneumoscope.models import SHIPPED

BUNDLE_VARIABLE = "PNEUMOSCOPE_BUNDLE"


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """What pydantic does not know of a setting; stands among the field's annotations."""

    names: tuple[str, ...] = ()
    """As typer takes them, such as `--freeze/--no-freeze`; by default made from the field's name."""
    argument: bool = False
    metavar: str | None = None
    variable: str | None = None
    """An environment variable that sets it, too."""
    path: Literal["existing", "existing file", "existing folder", "file", "folder", ""] = ""
    kind: Any = None
    """The type on the command line, if it is not the field's."""
    changes: type[Document] | None = None
    """The field is a dictionary of changes to such a document; each of its fields becomes an option."""
    without: tuple[str, ...] = ()
    """Fields of `changes` that are no options here."""
    hidden: bool = False
    """It is no option."""


Images = Annotated[
    tuple[Path, ...], Spelling(argument=True, path="existing"), Field(description="Image files, or folders of them.")
]
Bundle = Annotated[
    Path | None,
    Spelling(path="existing folder", variable=BUNDLE_VARIABLE),
    Field(description=f"A bundle made by `export`; by default {SHIPPED}, which ships with the package."),
]
Run = Annotated[Path, Spelling(argument=True, path="existing folder"), Field(description="A finished run directory.")]
Overwrite = Annotated[bool, Field(description="Replace what lies at --out.")]
Quiet = Annotated[bool, Field(description="Do not print progress or messages.")]
MaxPixels = Annotated[int, Field(ge=1, description="Refuse images with more pixels.")]
Provider = Annotated[str, Field(description="ONNX Runtime's execution provider: cpu, cuda, …")]
Cache = Annotated[Path | None, Field(description="Folder for decoded images, by default inside --data.")]
Coverage = Annotated[
    float | None,
    Field(gt=0, lt=1, description="Share of each class's films whose set holds it; a row of the bundle's table."),
]
Point = Annotated[
    str | None,
    Field(description="Such as sensitivity-0.95: decides alone, at level group, from a stored threshold on."),
]
Precision = Literal["fp32", "int8"]
