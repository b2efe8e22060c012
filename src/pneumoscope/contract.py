"""The bundle's contract: everything about a model that is not its weights.

Stored as `contract.json`, sealed: its field `sha256` is the hash of the file's own bytes, with zeros in the
place of the hash. No field has a default: a missing field is an error. Documents of older schema versions
are read and converted, each version by one function.
"""

import hashlib
import json
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import Field, model_validator

from pneumoscope.contract_history import from_version_1, from_version_2, from_version_3
from pneumoscope.documents import Document, Sha256, Text, read_document
from pneumoscope.errors import BundleError
from pneumoscope.files import write_text

CONTRACT_FILE = "contract.json"
SCHEMA_VERSION = 4
DISCLAIMER = "For research use only. Not a medical device; not for diagnosis or treatment."

_NO_SEAL = "0" * 64  # stands in the place of the hash while it is computed
_SEAL = re.compile(rb'^\{\s*"sha256": "([0-9a-f]{64})"')

Years = Annotated[float, Field(ge=0, le=150)]


class InputRule(Document):
    """How an image's luma becomes the model's input, `uint8 [N, 1, size, size]`."""

    size: int = Field(ge=16, le=1024, description="Height and width of the input, in pixels.")
    channels: Literal[1] = Field(description="Luma only.")
    resize: Literal["squash"] = Field(description="Both sides become `size`; the aspect ratio is not kept.")
    filter: Literal["bilinear-antialiased"] = Field(
        description="Pillow's BILINEAR, whose support widens when shrinking."
    )
    decode_margin: float = Field(
        ge=1, le=8, description="A JPEG may be decoded smaller, if both sides stay at least this many times `size`."
    )
    colours: Literal["bt601"] = Field(description="Colours become ITU-R BT.601 luma, a JPEG's own Y channel.")
    transparency: Literal["over-black"] = Field(description="Transparent pixels are laid over black.")
    orientation: Literal["upright"] = Field(description="EXIF, TIFF or DICOM orientation is undone.")
    deep_greys: Literal["min-max"] = Field(description="16-bit greys: the image's own extremes become 0 and 255.")
    dicom: Literal["voi"] = Field(
        description="DICOM: modality LUT, VOI LUT or window, inverted once if MONOCHROME1 or LUT shape INVERSE."
    )

    @classmethod
    def squash(cls, size: int) -> Self:
        """The only rule of this version, at the given size."""
        # Each Literal above allows one value. It is taken from there, so that the rule is written only once.
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        only = {name: get_args(kind)[0] for name, kind in kinds.items() if get_origin(kind) is Literal}
        return cls(size=size, decode_margin=1.5, **only)

    def fingerprint(self) -> str:
        """SHA-256 of the rule, the key of caches of model inputs."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class Normalisation(Document):
    """Applied inside the ONNX graph: `(pixel / 255 - mean) / std`."""

    mean: float = Field(ge=0, le=1)
    std: float = Field(gt=0, le=1)


#: ImageNet's published mean and standard deviation, averaged over the three channels.
GREY_IMAGENET = Normalisation(mean=0.449, std=0.226)


#: The predictions that set calibration and thresholds: those of cross-validation, each by a network that had not seen
#: the film's patient (out-of-fold), or those of the one network for its validation split. `none`: not known.
EvidenceKind = Literal["none", "validation", "out-of-fold"]
Probability = Annotated[float, Field(ge=0, le=1)]


class Calibration(Document):
    """Probabilities are `softmax(scale * logits + bias)`, with a scale and a bias for each class.

    `temperature` has one scale for all classes and no bias; `none` keeps the network's own probabilities.
    """

    method: Literal["none", "temperature", "vector"]
    scale: dict[Text, Annotated[float, Field(gt=0)]]
    bias: dict[Text, float]
    prior: dict[Text, Probability] | None = Field(
        description="Class frequencies that the probabilities assume; null: those of the train films, not recorded."
    )
    evidence: EvidenceKind
    films: int | None = Field(ge=1, description="Number of unseen films that it was fitted to; null: none.")


class Sides(Document):
    """Thresholds of a group's two sides: `inside` on the group's probability, `outside` on 1 minus it."""

    inside: Probability
    outside: Probability


class CoverageRow(Document):
    """Conformal thresholds at one coverage, and how they did on films that did not set them.

    A class, or a side of a group, fits a film if its probability reaches the threshold. `observed`,
    `answered` and `accuracy` are cross-fitted: each film is judged by a calibration and thresholds that were set on
    films of other patients.
    """

    coverage: float | None = Field(
        gt=0,
        lt=1,
        description="Share of each class's films whose prediction set must contain that class; the same share holds "
        "for the sides of groups. Null: not known.",
    )
    classes: dict[Text, Probability]
    groups: dict[Text, Sides]
    observed: dict[Text, Probability | None] = Field(description="By class, the observed share; null: no films.")
    answered: Probability | None = Field(description="Share of the films that are answered, at level `class`.")
    accuracy: Probability | None = Field(description="Share of the answered films with the right class.")


class OperatingPoint(Document):
    """A threshold on a group's probability that was set for a sensitivity or a specificity.

    A film whose probability of the group reaches `threshold` is assigned to the group. The observed rates are
    cross-fitted, and classes are weighted by the prior.
    """

    name: Text
    group: Text
    aim: Literal["sensitivity", "specificity"]
    level: float = Field(gt=0, lt=1, description="Sensitivity or specificity to reach at least.")
    threshold: Probability
    sensitivity: Probability
    specificity: Probability


class Decision(Document):
    """When the model answers. `coverage` names the default row of the table."""

    coverage: float | None = Field(gt=0, lt=1)
    table: tuple[CoverageRow, ...] = Field(min_length=1)
    operating_points: tuple[OperatingPoint, ...]
    evidence: EvidenceKind
    films: int | None = Field(ge=1, description="Number of unseen films that set the thresholds; null: not known.")

    def row(self, coverage: float | None) -> CoverageRow | None:
        """The row of a coverage, or None. The row of `self.coverage` always exists."""
        return next((row for row in self.table if row.coverage == coverage), None)

    @model_validator(mode="after")
    def _has_its_default(self) -> Self:
        coverages = [row.coverage for row in self.table]
        names = [point.name for point in self.operating_points]
        if self.coverage not in coverages or len({*coverages}) < len(coverages) or len({*names}) < len(names):
            raise ValueError(
                f"coverage {self.coverage} must be one row's, and rows and operating points must be distinct"
            )
        return self


#: The gate's codes for a film without a fault, and for one that is mirrored and otherwise without a fault.
FILM, MIRRORED = "film", "mirrored"
#: Number of values that describe a picture's textures.
TEXTURES = 39


class Textures(Document):
    """Which kind of picture a rejected one is, by its textures (`engine.texture`) and the gate's scores.

    Of the kinds, the one with the largest `score_weight * score + textures @ weights + bias` is reported.
    """

    score_weight: float = Field(ge=0, description="Weight of the gate's own score of a kind.")
    weights: dict[Text, Annotated[tuple[float, ...], Field(min_length=TEXTURES, max_length=TEXTURES)]] = Field(
        min_length=2, description="By kind, the weight of each texture."
    )
    bias: dict[Text, float]


class Gate(Document):
    """Which model inputs are rejected, by the graph's outputs `gate [N, F]` and `distance [N, 2]`.

    `distance` is what the training films' principal components leave unexplained of the features, at two depths: a sum
    of squares, in units of the training films' mean (Jackson and Mudholkar, Technometrics 1979;21:341).
    """

    codes: tuple[Text, ...] = Field(
        description="Meaning of each score of `gate`: a film, a film with a fault, another kind of picture."
    )
    film_from: float = Field(
        ge=0,
        le=1,
        description="Accept an input if film and mirrored together have at least this share of the scores' softmax.",
    )
    mirrored_from: float = Field(ge=0, le=1, description="Least share at which a film is reported as mirrored.")
    distances: tuple[float, float] = Field(description="Accept distances up to these.")
    coloured: float = Field(gt=0, le=1, description="Accept a share of coloured pixels up to this.")
    false_rejects: float = Field(
        gt=0, lt=1, description="Share of the films, as they are and augmented, that the limits were set to reject."
    )
    films: int = Field(
        ge=1,
        description="Number of model inputs that set the limits: each film as it is and augmented, so two per film. "
        "Each was scored by a gate that had not learnt from its film.",
    )
    textures: Textures | None = Field(description="null: the scores alone decide which kind of picture is reported.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.codes)) != len(self.codes) or not {FILM, MIRRORED} < set(self.codes):
            raise ValueError(f"codes must be distinct, with {FILM!r}, {MIRRORED!r} and some more: {self.codes}")
        kinds = self.textures
        if kinds is not None and not (kinds.weights.keys() == kinds.bias.keys() <= {*self.codes}):
            raise ValueError(
                "field 'textures' must have weights and a bias for the same kinds, and all among the codes"
            )
        return self


class ActivationMap(Document):
    """The class-activation map among the graph's outputs, and when to warn about it.

    The map is exact (Zhou et al. 2016, arXiv:1512.04150): the mean of a class's map plus the
    classifier's bias is its logit. `border` and `corner` are shares of a side.
    """

    method: Literal["cam"]
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    border: float = Field(gt=0, lt=0.5, description="Width of the outer border.")
    corner: float = Field(gt=0, lt=0.5, description="Side of each corner's square.")
    warn_from: float = Field(
        gt=0, le=1, description="Warn if the border or the corners hold at least this share of the map."
    )

    @classmethod
    def of_grid(cls, height: int, width: int) -> Self:
        """The rule of this version for a map of this grid."""
        # An even map has 0.44 of its mass in this border and 0.25 in these corners: a warning needs more.
        return cls(method="cam", height=height, width=width, border=0.125, corner=0.25, warn_from=0.5)


class Quantisation(Document):
    """How the int8 model was made, and how it compares with fp32."""

    calibration_films: int = Field(ge=1, description="Number of train films that set the ranges of activations.")
    operators: Literal["all", "layers"] = Field(
        description="What is in int8: all operators, or only layers with weights."
    )
    kept_fp32: tuple[Text, ...] = Field(description="Layers kept in fp32 because int8 changed their results too much.")
    films: int = Field(
        ge=1, description="Number of films compared: validation films, or train films if there is no validation split."
    )
    agreement: float = Field(ge=0, le=1, description="Share of these films with the same most probable class.")
    macro_f1: float = Field(ge=0, le=1)
    macro_f1_fp32: float = Field(ge=0, le=1)


class Population(Document):
    """The patients whom the films show."""

    age_years: tuple[Years, Years] | None = Field(description="Youngest and oldest; null: not known.")
    drawings: bool | None = Field(description="Whether all train films are drawings, of no patient; null: not known.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.age_years is not None and self.age_years[0] > self.age_years[1]:
            raise ValueError(f"the youngest is older than the oldest: {self.age_years}")
        return self


class Provenance(Document):
    """Where the model comes from."""

    arch: Text
    recipe: Text
    weights: Text
    dataset: Sha256 = Field(description="SHA-256 of the data set's manifest.")
    evidence: Sha256 | None = Field(description="SHA-256 of the file of out-of-fold predictions, or null.")
    commit: str | None = Field(description="Git commit of the code that trained the model, or null.")
    versions: dict[str, str]


class Contract(Document):
    """The whole contract. `classes` is the order of the model's outputs."""

    schema_version: Literal[4]
    name: Text
    version: Text
    intended_use: Text
    population: Population
    classes: tuple[Text, ...] = Field(min_length=2)
    groups: dict[Text, tuple[Text, ...]]
    input: InputRule
    normalisation: Normalisation
    calibration: Calibration
    decision: Decision
    activation_map: ActivationMap | None
    gate: Gate | None = Field(description="null: the bundle was exported before gates existed.")
    precision: Literal["fp32", "int8"]
    quantisation: Quantisation | None
    provenance: Provenance
    files: dict[str, Sha256] = Field(description="Every other file of the bundle and its SHA-256.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_classes(self.classes, self.groups)
        self._check_tables()
        for name in self.files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
                raise ValueError(f"file {name!r} is not inside the bundle")
        if (self.precision == "int8") != (self.quantisation is not None):
            raise ValueError("field 'quantisation' is required with precision int8 and must be null otherwise")
        return self

    def _check_tables(self) -> None:
        calibration, decision = self.calibration, self.decision
        for name, values in (("scale", calibration.scale), ("bias", calibration.bias), ("prior", calibration.prior)):
            if values is not None and values.keys() != {*self.classes}:
                raise ValueError(f"field 'calibration.{name}' must name each of: {', '.join(self.classes)}")
        for row in decision.table:
            if row.classes.keys() != {*self.classes} or row.groups.keys() != self.groups.keys():
                raise ValueError(f"row {row.coverage} of field 'decision.table' must name each class and each group")
        for point in decision.operating_points:
            if point.group not in self.groups:
                raise ValueError(f"operating point {point.name!r} is of {point.group!r}, which is not a group")


def check_classes(classes: tuple[str, ...], groups: dict[str, tuple[str, ...]]) -> None:
    """Check classes and groups.

    Raises:
        ValueError: classes are not distinct, or a group is not a proper subset of them or bears the name of a class.
    """
    if len(set(classes)) != len(classes):
        raise ValueError(f"classes are not distinct: {', '.join(classes)}")
    for group, members in groups.items():
        if not 0 < len(set(members)) < len(classes) or not set(members) <= set(classes):
            raise ValueError(f"group {group!r} must name some, not all, of: {', '.join(classes)}")
        if group in classes:
            raise ValueError(f"group {group!r} has the name of a class")


def save_contract(contract: Contract, bundle: Path) -> None:
    """Write `contract.json` into a bundle folder, sealed."""
    # The seal comes first, where it can be found and blanked without parsing; it covers every byte but its own.
    text = json.dumps({"sha256": _NO_SEAL} | contract.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"
    write_text(bundle / CONTRACT_FILE, text.replace(_NO_SEAL, hashlib.sha256(text.encode()).hexdigest(), 1))


def load_contract(bundle: Path) -> Contract:
    """Read and check `contract.json` of a bundle folder, of this schema version or an older one.

    Raises:
        BundleError: there is no such folder or file; it is not JSON, of a newer schema version, or changed since it
            was written; or a field is missing, unknown or out of range.
    """
    path = bundle / CONTRACT_FILE
    if not path.is_file():
        raise BundleError(f"{bundle} is not a bundle (it has no {CONTRACT_FILE}); make one with `pneumoscope export`.")
    content = path.read_bytes()
    try:
        contract = read_document(Contract, json.dumps(_upgraded(content)).encode(), strict=True)
        if json.loads(content)["schema_version"] > 1:  # version 1 had no seal
            _check_seal(content)
    except _TooNewError as failure:
        raise BundleError(f"{path} cannot be read: {failure}.") from failure
    except ValueError as failure:
        raise BundleError(f"{path} is not valid: {failure}; export the bundle again.") from failure
    return contract


def _upgraded(content: bytes) -> dict[str, Any]:
    """The stored document without its seal, converted to the newest schema version.

    Raises:
        ValueError: it cannot be read or converted; the message is a few words.
    """
    try:
        document = json.loads(content)
    except RecursionError as failure:
        raise ValueError("it is nested too deeply") from failure
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 (read as any other fault of the file)
    version = document.get("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int):
        raise ValueError("field 'schema_version' is not a number")  # noqa: TRY004 (as above)
    if version > SCHEMA_VERSION:
        raise _TooNewError(
            f"schema version {version} is newer than {SCHEMA_VERSION}, the last that this program reads; "
            "upgrade pneumoscope"
        )
    document = {name: value for name, value in document.items() if name != "sha256"}
    if version == 1:
        document = from_version_1(document)
    if version <= 2:
        document = from_version_2(document)
    return from_version_3(document) if version < SCHEMA_VERSION else document


class _TooNewError(ValueError):
    """The document was written by a later version of this program."""


def _check_seal(content: bytes) -> None:
    if (match := _SEAL.match(content)) is None:
        raise ValueError("field 'sha256' is missing; it must be the first field")
    blank = content[: match.start(1)] + _NO_SEAL.encode() + content[match.end(1) :]
    if hashlib.sha256(blank).hexdigest().encode() != match[1]:
        raise ValueError("it was changed since it was written")
