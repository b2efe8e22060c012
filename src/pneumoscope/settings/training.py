"""Settings of the commands from a data set to a bundle, and the training configuration they share."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pneumoscope.documents import Document, Text
from pneumoscope.settings.option import Cache, Overwrite, Precision, Quiet, Run, Spelling


class TrainConfig(Document):
    """Every choice that shapes the weights. Fields without a default must be in the recipe."""

    schema_version: Annotated[Literal[1], Spelling(hidden=True)] = Field(
        default=1, description="Of the stored document."
    )
    recipe: Annotated[Text, Spelling(hidden=True)] = Field(description="Name of the recipe these values began from.")
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
        default=None, gt=0, le=1, description="Standard deviation of the classifier's first weights; by default timm's."
    )
    batch_norm_momentum: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Weight of a step in batch norm's running means; .01 keeps those of ImageNet through fine-tuning.",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of the classifier's inputs dropped.")
    drop_path: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of residual branches dropped in a step: stochastic depth (arXiv:1603.09382).",
    )
    epochs: int = Field(ge=1, le=10_000, description="Passes over the train films.")
    batch_size: int = Field(default=32, ge=1, le=4096, description="Films in one step of one process.")
    accumulate: int = Field(default=1, ge=1, le=1024, description="Steps whose gradients are added up.")
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="SGD with momentum, or AdamW.")
    lr: float = Field(gt=0, le=10, description="Learning rate; the peak for cosine and onecycle.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="SGD's momentum.")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Weight decay.")
    schedule: Literal["constant", "cosine", "onecycle"] = Field(
        default="constant", description="How the learning rate changes over the steps."
    )
    rise: float = Field(default=0.3, gt=0, lt=1, description="Share of the steps in which onecycle rises.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="Of the arithmetic; bf16 and fp16 are mixed precision, the weights stay fp32."
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
        default=0.0,
        ge=0,
        le=10,
        description="The a of Beta(a, a), by whose shares films of a batch are mixed; 0 mixes none (arXiv:1710.09412).",
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
        "large as whole films do later (arXiv:1906.06423). By default as size.",
    )
    read_size: int | None = Field(
        default=None,
        ge=32,
        le=1024,
        description="Side at which robust reads films before it crops; by default as size.",
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


Changes = Annotated[dict[str, Any], Spelling(changes=TrainConfig)]
#: Of the films that judge nothing may be chosen, and there are no teachers.
FoldChanges = Annotated[dict[str, Any], Spelling(changes=TrainConfig, without=("patience", "keep", "teacher_share"))]


class Train(Document):
    """Of `train`. `changes` are single values of the recipe that the command line gives."""

    out: Path = Field(description="The run directory to make, or with --resume to go on with.")
    data: Annotated[Path | None, Spelling(path="existing")] = Field(
        default=None, description="A data set made by `data prepare`."
    )
    recipe: str | None = Field(default=None, description="A recipe's name (above) or a TOML file; by default quick.")
    resume: bool = Field(default=False, description="Go on after the last completed epoch of --out.")
    changes: Changes
    teachers: Annotated[tuple[Path, ...], Spelling(path="existing")] = Field(
        default=(),
        description="A finished run, or the evidence.npz of cross-validate, whose predictions become soft targets. "
        "Repeatable.",
    )
    cache: Cache = None
    quiet: Quiet = False


class CrossValidate(Document):
    """Of `cross-validate`."""

    data: Annotated[Path, Spelling(path="existing")] = Field(description="A data set made by `data prepare`.")
    out: Path = Field(description="The folder to make, or with --resume to go on with.")
    recipe: str = Field(default="quick", description="A recipe's name (see `train --help`) or a TOML file.")
    folds: int = Field(default=5, ge=2, le=50, description="Parts that each are predicted once.")
    fold_seed: int = Field(default=0, ge=0, description="Seed of the folds and of the stress films.")
    resume: bool = Field(default=False, description="Keep finished folds, and go on with an interrupted one.")
    changes: FoldChanges
    cache: Cache = None
    quiet: Quiet = False


def _parse_ages(given: Any) -> Any:
    """`18-90`, as on the command line, → `(18, 90)`."""
    if not isinstance(given, str):
        return given
    youngest, dash, oldest = given.partition("-")
    if not (dash and youngest.isdecimal() and oldest.isdecimal() and int(youngest) <= int(oldest)):
        raise ValueError(f"{given!r} is not of the form YOUNGEST-OLDEST in whole years, such as 18-90")
    return int(youngest), int(oldest)


class ExportConfig(Document):
    """What a bundle is to be, beyond its run."""

    name: str | None = Field(default=None, min_length=1, description="The model's name, by default the run's.")
    precision: Precision = Field(
        default="fp32", description="int8 is smaller and several times faster; refused unless it answers like fp32."
    )
    ages: Annotated[tuple[float, float] | None, BeforeValidator(_parse_ages), Spelling(kind=str)] = Field(
        default=None, description="Patients' ages in whole years, e.g. 18-90; known for the published archives."
    )
    evidence: Annotated[Path | None, Spelling(path="existing file")] = Field(
        default=None,
        description="evidence.npz of cross-validate, of the run's films, network and prior: sets calibration and "
        "thresholds.",
    )


class Export(Document):
    """Of `export`."""

    run: Run
    out: Path = Field(description="The bundle to make.")
    data: Annotated[Path | None, Spelling(path="existing")] = Field(
        default=None, description="The run's data set, if it has moved since."
    )
    config: ExportConfig
    overwrite: Overwrite = False
    quiet: Quiet = False
