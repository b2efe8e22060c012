"""Settings of the commands that read films with a bundle or a run, and of the demo."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pneumoscope.documents import Document
from pneumoscope.settings.option import (
    Bundle,
    Coverage,
    Images,
    MaxPixels,
    Overwrite,
    Point,
    Provider,
    Quiet,
    Run,
    Spelling,
)


class Demo(Document):
    """Of `demo`."""

    out: Path = Field(default=Path("demo"), description="Folder for everything the demo makes.")
    overwrite: Overwrite = False
    quiet: Quiet = False


class Verify(Document):
    """Of `verify`."""

    bundle: Bundle = None


class Evaluate(Document):
    """Of `evaluate`."""

    dataset: Annotated[Path, Spelling(argument=True, metavar="DATASET", path="existing")] = Field(
        description="A data set made by `data prepare`."
    )
    out: Path = Field(description="Folder for report.json and predictions.csv.")
    bundle: Bundle = None
    split: str = Field(default="test", description="train, val, test or stress.")
    coverage: Coverage = None
    overwrite: Overwrite = False
    quiet: Quiet = False


class Predict(Document):
    """Of `predict`."""

    images: Images
    bundle: Bundle = None
    form: Annotated[Literal["table", "json", "csv"], Spelling(names=("--format",))] = Field(
        default="table", description="How to print."
    )
    heatmap: Annotated[Path | None, Spelling(path="folder")] = Field(
        default=None, description="Folder for pictures of where the model looked, one per film."
    )
    level: Literal["class", "group"] = Field(
        default="class", description="group answers with a group's name, such as pneumonia, where a class is in one."
    )
    coverage: Coverage = None
    operating_point: Point = None
    provider: Provider = "cpu"
    max_pixels: MaxPixels = 100_000_000
    quiet: Quiet = False


class Explain(Document):
    """Of `explain`."""

    run: Run
    images: Images
    out: Annotated[Path, Spelling(path="folder")] = Field(description="Folder for the pictures, one per film.")
    label: Annotated[str | None, Spelling(names=("--class",))] = Field(
        default=None, description="Explain this class, not the most probable."
    )
    max_pixels: MaxPixels = 100_000_000
