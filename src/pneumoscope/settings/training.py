"""Settings of the commands from a data set to a bundle, and the training configuration they share."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pneumoscope.documents import Document, Text
from pneumoscope.settings.option import Cache, Overwrite, Precision, Quiet, Run, Spelling, Whole


class TrainConfig(Document):
    """Every choice that shapes the weights. A recipe must give the fields that have no default."""

    schema_version: Annotated[Literal[1], Spelling(hidden=True)] = Field(
        default=1, description="Version of the stored document."
    )
    recipe: Annotated[Text, Spelling(hidden=True)] = Field(
        description="Name of the recipe that these values started from."
    )
    arch: Text = Field(description="Name of a timm network; resnet50 and vgg19_bn get the 2020 capstone's classifiers.")
    size: int = Field(default=224, ge=32, le=1024, description="Side of the square input, in pixels.")
    weights: Text = Field(
        default="imagenet", description="Initial weights: imagenet, none (random), or a file of weights."
    )
    freeze: bool = Field(default=False, description="Train the classifier only; the other layers stay as they are.")
    head_epochs: int = Field(
        default=0,
        ge=0,
        description="Number of epochs at the start that train only the classifier, so that its random weights do not "
        "distort pretrained features (arXiv:2202.10054).",
    )
    head_scale: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Standard deviation of the classifier's initial weights; by default timm's.",
    )
    batch_norm_momentum: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Weight of each step in batch norm's running statistics; with 0.01, fine-tuning keeps more "
        "of ImageNet's.",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout rate of the classifier's inputs.")
    drop_path: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of residual branches skipped in the last block while training; earlier blocks skip fewer: "
        "stochastic depth (arXiv:1603.09382).",
    )
    low_pass: Annotated[Literal[1, 3, 5, 7, 9, 11], Whole] = Field(
        default=1,
        description="Taps along each axis of a fixed binomial filter before the first layer; 1: no filter. It removes "
        "fine detail that JPEG compression changes.",
    )
    eval_low_pass: int | None = Field(
        default=None,
        ge=1,
        le=31,
        description="Taps of this filter outside training, odd; by default --low-pass. Training crops are enlarged, so "
        "their detail is coarser than that of whole films; whole films can therefore bear a longer filter.",
    )
    epochs: int = Field(ge=1, le=10_000, description="Passes over the train films.")
    batch_size: int = Field(default=32, ge=1, le=4096, description="Films per step and process.")
    accumulate: int = Field(
        default=1, ge=1, le=1024, description="Steps whose gradients are accumulated for one update of the weights."
    )
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="SGD with momentum, or AdamW.")
    lr: float = Field(gt=0, le=10, description="Learning rate; with cosine and onecycle, its peak.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of SGD; adamw ignores it.")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Weight decay of the optimizer.")
    schedule: Literal["constant", "cosine", "onecycle"] = Field(
        default="constant", description="How the learning rate changes from step to step."
    )
    rise: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="Share of the steps in which onecycle raises the learning rate to its peak.",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32",
        description="Precision of the arithmetic; bf16 and fp16 are mixed precision, with weights in fp32.",
    )
    class_weights: Literal["none", "sqrt", "balanced"] = Field(
        default="none",
        description="Class weights in the loss: equal, the inverse of the frequency (balanced), or its root (sqrt).",
    )
    prior: Literal["train", "uniform"] = Field(
        default="train",
        description="Class frequencies that the probabilities assume: those of the train films, or equal ones. uniform "
        "adds the logarithms of the train films' frequencies to the logits, in the loss only (logit adjustment, "
        "arXiv:2007.07314).",
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Label smoothing of the cross-entropy.")
    mixup: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Mix films in pairs: one share per batch is drawn from Beta(a, a) with this a, and each film keeps "
        "the larger part of itself. 0 turns it off (arXiv:1710.09412).",
    )
    logit_penalty: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Spectral decoupling, against shortcuts: half of this value times the mean squared length of the "
        "logits is added to the loss (arXiv:2011.09468).",
    )
    teacher_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="With teachers: share of their probabilities in the training target; the rest is the label.",
    )
    augment: Literal["none", "light", "robust"] = Field(
        default="none",
        description="Augmentation: light varies position and exposure a little; robust also framing, sharpness, noise "
        "and JPEG quality.",
    )
    crop: float = Field(
        default=0.55,
        gt=0,
        le=1,
        description="With --augment robust: smallest share of a film's area that a crop keeps.",
    )
    jitter: float = Field(
        default=1.0,
        ge=0,
        le=3,
        description="With --augment robust: strength of its changes of exposure; 0 turns them off.",
    )
    mirror: bool = Field(default=False, description="With --augment robust: mirror films with probability 0.5.")
    crop_size: int | None = Field(
        default=None,
        ge=32,
        le=1024,
        description="With --augment robust: side of its crops, in pixels; by default --size. A smaller side makes "
        "training faster, and lets things appear as large in crops as they later do in whole films (arXiv:1906.06423).",
    )
    read_size: int | None = Field(
        default=None,
        ge=32,
        le=1024,
        description="With --augment robust: side at which films are read before they are cropped, in pixels; by "
        "default --size.",
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Decay of a moving average of the weights, such as 0.995; by default there is no average.",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Stop after this many epochs without a better validation macro-F1; by default never.",
    )
    keep: Literal["last", "best"] = Field(
        default="last",
        description="Epoch whose weights are kept; best is the one with the highest validation macro-F1.",
    )
    compiled: bool = Field(
        default=False, description="Train with torch.compile, which takes minutes to start and is faster after that."
    )
    workers: int = Field(
        default=0, ge=0, le=64, description="Processes that augment films; 0 augments in the main process."
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of the initial weights, the order of films, augmentation and dropout."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.augment != "robust" and (self.crop_size or self.read_size or self.mirror):
            raise ValueError("crop_size, read_size and mirror belong to augment 'robust'; set that, or leave them out")
        if self.eval_low_pass is not None and self.eval_low_pass % 2 == 0:
            raise ValueError(f"eval_low_pass ({self.eval_low_pass}) must be odd")
        if self.head_epochs >= self.epochs:
            raise ValueError(f"head_epochs ({self.head_epochs}) must be fewer than epochs ({self.epochs})")
        return self


Changes = Annotated[dict[str, Any], Spelling(changes=TrainConfig)]
#: A fold's held-out films must not decide when to stop or which weights to keep; and there are no teachers.
FoldChanges = Annotated[dict[str, Any], Spelling(changes=TrainConfig, without=("patience", "keep", "teacher_share"))]


class Train(Document):
    """Settings of `train`. `changes` are the values that the command line sets instead of the recipe's."""

    out: Path = Field(description="Run directory to make or, with --resume, to continue.")
    data: Annotated[Path | None, Spelling(path="existing")] = Field(
        default=None, description="A data set made by `data prepare`; with --resume, by default the run's own."
    )
    recipe: str | None = Field(
        default=None,
        description="Name of a recipe (see above) or a TOML file; by default quick, with --resume the run's own.",
    )
    resume: bool = Field(default=False, description="Continue after the last completed epoch in --out.")
    changes: Changes
    teachers: Annotated[tuple[Path, ...], Spelling(path="existing")] = Field(
        default=(),
        description="A finished run, or the evidence.npz of `cross-validate`, whose probabilities become part of the "
        "training target (see --teacher-share). Repeatable; several are averaged.",
    )
    cache: Cache = None
    quiet: Quiet = False


class CrossValidate(Document):
    """Settings of `cross-validate`."""

    data: Annotated[Path, Spelling(path="existing")] = Field(description="A data set made by `data prepare`.")
    out: Path = Field(description="Folder to make or, with --resume, to continue.")
    recipe: str = Field(default="quick", description="Name of a recipe (see `train --help`) or a TOML file.")
    folds: int = Field(
        default=5,
        ge=2,
        le=50,
        description="Number of folds; each is predicted by a network that was trained on the others.",
    )
    fold_seed: int = Field(
        default=0, ge=0, description="Seed of the patients' assignment to folds, and of the stress films."
    )
    jobs: int = Field(
        default=1,
        ge=1,
        description="Folds that are trained at the same time, each in a process of its own with a share of the cores. "
        "On a CPU, one job per core is fastest; the recipe of the shipped bundle takes up to 6 GB of memory per job. "
        "Several jobs can also share one GPU.",
    )
    resume: bool = Field(default=False, description="Keep the finished folds in --out and continue interrupted ones.")
    changes: FoldChanges
    cache: Cache = None
    quiet: Quiet = False


def _parse_ages(value: Any) -> Any:
    """`18-90`, as on the command line, → `(18, 90)`."""
    if not isinstance(value, str):
        return value
    youngest, dash, oldest = value.partition("-")
    if not (dash and youngest.isdecimal() and oldest.isdecimal() and int(youngest) <= int(oldest)):
        raise ValueError(f"{value!r} is not of the form YOUNGEST-OLDEST in whole years, such as 18-90")
    return int(youngest), int(oldest)


class ExportConfig(Document):
    """What `export` decides about a bundle; all else comes from the run."""

    name: str | None = Field(default=None, min_length=1, description="Name of the model; by default the run's.")
    precision: Precision = Field(
        default="fp32",
        description="int8 is smaller and usually faster; the export fails unless int8 decides like fp32.",
    )
    ages: Annotated[tuple[float, float] | None, BeforeValidator(_parse_ages), Spelling(kind=str)] = Field(
        default=None,
        description="Range of the patients' ages in whole years, e.g. 18-90; not needed for the archive of Kermany "
        "et al., where it is known.",
    )
    evidence: Annotated[Path | None, Spelling(path="existing file")] = Field(
        default=None,
        description="evidence.npz of a `cross-validate` with the run's films and recipe, to set calibration "
        "and thresholds; by default the validation split sets them.",
    )


class Export(Document):
    """Settings of `export`."""

    run: Run
    out: Path = Field(description="Folder of the bundle to make.")
    data: Annotated[Path | None, Spelling(path="existing")] = Field(
        default=None, description="The run's data set, if it has moved since training."
    )
    config: ExportConfig
    overwrite: Overwrite = False
    quiet: Quiet = False
