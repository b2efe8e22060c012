"""Settings of the commands that read films with a bundle or a run, and of the demo."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pneumoscope.documents import Document
from pneumoscope.settings.option import (
    Bundle,
    Coverage,
    FixOrientation,
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
    """Settings of `demo`."""

    out: Path = Field(default=Path("demo"), description="Folder for everything the demo makes.")
    overwrite: Overwrite = False
    quiet: Quiet = False


class Verify(Document):
    """Settings of `verify`."""

    bundle: Bundle = None


class Evaluate(Document):
    """Settings of `evaluate`."""

    dataset: Annotated[Path | None, Spelling(argument=True, metavar="DATASET", path="existing")] = Field(
        default=None, description="A data set made by `data prepare`."
    )
    out: Path = Field(
        description="Folder for report.html, report.json, card.md and predictions.csv; with --unlabelled, for "
        "drift.html, drift.json and predictions.csv."
    )
    bundle: Bundle = None
    split: str | None = Field(
        default=None, description="Split to evaluate: train, val, test or stress; by default test."
    )
    coverage: Coverage = None
    compare: Annotated[Path | None, Spelling(path="existing folder")] = Field(
        default=None, description="Another bundle to evaluate on the same films and to compare with, film by film."
    )
    external: Annotated[Path | None, Spelling(path="existing file")] = Field(
        default=None,
        description="TOML file that maps the labels of an external data set to the bundle's classes or groups.",
    )
    unlabelled: Annotated[Path | None, Spelling(path="existing")] = Field(
        default=None,
        description="Image files without labels, instead of DATASET, to compare with the bundle's reference films.",
    )
    shortcuts: bool = Field(
        default=True, description="Also measure the audit's shortcut baselines, which takes most of the time."
    )
    overwrite: Overwrite = False
    quiet: Quiet = False

    @model_validator(mode="after")
    def _either_dataset_or_unlabelled(self) -> Self:
        if (self.dataset is None) == (self.unlabelled is None):
            raise ValueError("give either a data set to report on, or films without labels with --unlabelled")
        need_dataset = {
            "split": self.split,
            "coverage": self.coverage,
            "compare": self.compare,
            "external": self.external,
        }
        given = [f"--{name}" for name, value in need_dataset.items() if value is not None]
        if self.unlabelled is not None and given:
            raise ValueError(f"--unlabelled cannot be combined with {', '.join(given)}; such options need a DATASET")
        return self


class Predict(Document):
    """Settings of `predict`."""

    images: Images
    bundle: Bundle = None
    form: Annotated[Literal["table", "json", "csv"], Spelling(names=("--format",))] = Field(
        default="table", description="Output format: a table, one JSON document per line, or CSV."
    )
    heatmap: Annotated[Path | None, Spelling(path="folder")] = Field(
        default=None, description="Folder for pictures of where the model looked, one per film."
    )
    level: Literal["class", "group"] = Field(
        default="class",
        description="Answer with a class, or with the group that contains it, such as pneumonia.",
    )
    coverage: Coverage = None
    operating_point: Point = None
    fix_orientation: FixOrientation = False
    provider: Provider = "cpu"
    max_pixels: MaxPixels = 100_000_000
    quiet: Quiet = False


class Explain(Document):
    """Settings of `explain`."""

    run: Run
    images: Images
    out: Annotated[Path, Spelling(path="folder")] = Field(description="Folder for the pictures, one per film.")
    label: Annotated[str | None, Spelling(names=("--class",))] = Field(
        default=None, description="Class to explain; by default the most probable one."
    )
    max_pixels: MaxPixels = 100_000_000
