"""One training run's configuration: validated when built, saved with the run, read from recipes."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from pneumoscope.documents import Document, Text, first_problem
from pneumoscope.errors import UsageError


class TrainConfig(Document):
    """Every choice that shapes the weights. Fields without a default must be in the recipe."""

    schema_version: Literal[1] = Field(default=1, description="Of the stored document.")
    recipe: Text = Field(description="Name of the recipe these values began from.")
    arch: Text = Field(description="A timm network by name; resnet50 and vgg19_bn get the capstone's heads.")
    size: int = Field(default=224, ge=32, le=1024, description="Side of the square input, in pixels.")
    weights: Text = Field(default="imagenet", description="imagenet, none, or a file of weights.")
    freeze: bool = Field(default=False, description="Train the classifier only.")
    head_epochs: int = Field(
        default=0,
        ge=0,
        description="First epochs that train the classifier only, so that a random one does not spoil what the "
        "network knows (arXiv:2202.10054).",
    )
    head_scale: float | None = Field(
        default=None, gt=0, le=1, description="Standard deviation of the classifier's first weights; timm's if null."
    )
    batch_norm_momentum: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Weight of a step in batch norm's running means; .01 keeps those of ImageNet through fine-tuning.",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of the classifier's inputs dropped.")
    drop_path: float = Field(default=0.0, ge=0, lt=1, description="Stochastic depth (arXiv:1603.09382).")
    epochs: int = Field(ge=1, le=10_000, description="Passes over the train films.")
    batch_size: int = Field(default=32, ge=1, le=4096, description="Films in one step of one process.")
    accumulate: int = Field(default=1, ge=1, le=1024, description="Steps whose gradients are added up.")
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="SGD with momentum, or AdamW.")
    lr: float = Field(gt=0, le=10, description="Learning rate; the peak for cosine and onecycle.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="SGD's momentum.")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Weight decay.")
    schedule: Literal["constant", "cosine", "onecycle"] = Field(default="constant", description="Learning rate's path.")
    rise: float = Field(default=0.3, gt=0, lt=1, description="Share of the steps in which onecycle rises.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="Mixed precision; weights stay fp32."
    )
    class_weights: Literal["none", "sqrt", "balanced"] = Field(
        default="none", description="Weigh classes by the inverse (or its root) of their frequency."
    )
    prior: Literal["train", "uniform"] = Field(
        default="train",
        description="Class frequencies that the probabilities stand for. With uniform, the train part's are added to "
        "the logits in the loss only (logit adjustment, arXiv:2007.07314).",
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Label smoothing of the cross-entropy.")
    mixup: float = Field(
        default=0.0, ge=0, le=10, description="Films of a batch are mixed by shares of Beta(a, a) (arXiv:1710.09412)."
    )
    logit_penalty: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Half of it times the mean squared length of the logits is added to the loss: spectral "
        "decoupling, against shortcuts (arXiv:2011.09468).",
    )
    teacher_share: float = Field(
        default=0.5, ge=0, le=1, description="With teachers: their share of the target; the rest is the label."
    )
    augment: Literal["none", "light", "robust"] = Field(default="none", description="Augmentation policy.")
    crop: float = Field(default=0.55, gt=0, le=1, description="Smallest share of the area that robust keeps.")
    jitter: float = Field(default=1.0, ge=0, le=3, description="Strength of robust's changes of exposure.")
    mirror: bool = Field(default=False, description="Robust mirrors every other film.")
    crop_size: int | None = Field(
        default=None,
        ge=32,
        le=1024,
        description="Side to which robust brings its crops; smaller than size, it trains faster, and crops look as "
        "large as whole films do later (arXiv:1906.06423). Null: size.",
    )
    read_size: int | None = Field(
        default=None, ge=32, le=1024, description="Side at which robust reads films before it crops. Null: size."
    )
    ema: float | None = Field(default=None, gt=0, lt=1, description="Decay of the weights' moving average.")
    patience: int | None = Field(
        default=None, ge=1, description="Stop after this many epochs without a better validation macro-F1."
    )
    keep: Literal["last", "best"] = Field(
        default="last", description="Whose weights the run ends with; best is by macro-F1."
    )
    compiled: bool = Field(default=False, description="Train with torch.compile: minutes to start, then faster.")
    workers: int = Field(default=0, ge=0, le=64, description="Processes that augment; 0 does it in the main one.")
    seed: int = Field(default=0, ge=0, description="Seed of initial weights, order, augmentation and dropout.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.augment != "robust" and (self.crop_size or self.read_size or self.mirror):
            raise ValueError("crop_size, read_size and mirror belong to augment 'robust'; set that, or leave them out")
        if self.head_epochs >= self.epochs:
            raise ValueError(f"head_epochs ({self.head_epochs}) must be fewer than epochs ({self.epochs})")
        return self


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
