"""One training run's configuration: validated when built, saved with the run, read from recipes."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from pneumoscope.contract import Document, Text, first_problem
from pneumoscope.errors import UsageError


class TrainConfig(Document):
    """Every choice that shapes the weights. Fields without a default must be in the recipe."""

    schema_version: Literal[1] = Field(default=1, description="Of the stored document.")
    recipe: Text = Field(description="Name of the recipe these values began from.")
    arch: Text = Field(description="A timm network by name; resnet50 and vgg19_bn get the capstone's heads.")
    size: int = Field(default=224, ge=32, le=1024, description="Side of the square input, in pixels.")
    weights: Text = Field(default="imagenet", description="imagenet, none, or a file of weights.")
    freeze: bool = Field(default=False, description="Train the classifier only.")
    epochs: int = Field(ge=1, le=10_000, description="Passes over the train films.")
    batch_size: int = Field(default=32, ge=1, le=4096, description="Films in one step of one process.")
    accumulate: int = Field(default=1, ge=1, le=1024, description="Steps whose gradients are added up.")
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="SGD with momentum, or AdamW.")
    lr: float = Field(gt=0, le=10, description="Learning rate; the peak for cosine and onecycle.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="SGD's momentum.")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Weight decay.")
    schedule: Literal["constant", "cosine", "onecycle"] = Field(default="constant", description="Learning rate's path.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="Mixed precision; weights stay fp32."
    )
    class_weights: Literal["none", "sqrt", "balanced"] = Field(
        default="none", description="Weigh classes by the inverse (or its root) of their frequency."
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Label smoothing of the cross-entropy.")
    augment: Literal["none", "light", "robust"] = Field(default="none", description="Augmentation policy.")
    ema: float | None = Field(default=None, gt=0, lt=1, description="Decay of the weights' moving average.")
    patience: int | None = Field(
        default=None, ge=1, description="Stop after this many epochs without a better validation macro-F1."
    )
    keep: Literal["last", "best"] = Field(
        default="last", description="Whose weights the run ends with; best is by macro-F1."
    )
    workers: int = Field(default=0, ge=0, le=64, description="Processes that augment; 0 does it in the main one.")
    seed: int = Field(default=0, ge=0, description="Seed of initial weights, order, augmentation and dropout.")


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("pneumoscope") / "recipes"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(recipe: str) -> dict[str, Any]:
    """The values of a shipped recipe by name, or of a TOML file by path.

    Raises:
        UsageError: no such recipe or file, or not TOML.
    """
    if recipe in recipe_names():
        text = (resources.files("pneumoscope") / "recipes" / f"{recipe}.toml").read_text(encoding="utf-8")
    elif Path(recipe).is_file():
        text = _read(Path(recipe))
    else:
        raise UsageError(f"--recipe {recipe!r} is neither a file nor one of: {', '.join(recipe_names())}.")
    try:
        return {"recipe": Path(recipe).stem, **tomllib.loads(text)}
    except tomllib.TOMLDecodeError as failure:
        raise UsageError(f"--recipe {recipe} is not valid TOML: {failure}.") from failure


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as failure:
        raise UsageError(f"--recipe {path} is not text in UTF-8; give a TOML file.") from failure


def make_config(values: dict[str, Any], changes: dict[str, Any]) -> TrainConfig:
    """Build a configuration from recipe values and the changes asked for (None means unchanged).

    Raises:
        UsageError: a value is missing, unknown or out of range.
    """
    merged = values | {name: value for name, value in changes.items() if value is not None}
    try:
        return TrainConfig.model_validate(merged)
    except ValidationError as failure:
        raise UsageError(f"training configuration: {first_problem(failure)}.") from failure
