"""How a table of labels is read: by the rule of a public set, recognised by its columns, or by the user's rule."""

import tomllib
from collections import Counter
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from pneumoscope.dataset.tables import fold
from pneumoscope.documents import Document, Text, first_problem
from pneumoscope.errors import UsageError
from pneumoscope.settings.data import PrepareConfig, Several

ANY = "*"
_LONGEST_NAME = 100  # bytes


def folder_name(name: str) -> str:
    """Check that a class name can be a folder's name on Linux, macOS and Windows, and return it.

    Windows' reserved names are admitted: "CON" is a common label for controls.

    Raises:
        ValueError: it cannot.
    """
    if name != name.strip().strip(".") or not name.isprintable() or set(name) & set('/\\:*?"<>|'):
        raise ValueError(f"{name!r} cannot be a class: it cannot be a folder's name")
    if not 0 < len(name.encode()) <= _LONGEST_NAME:
        raise ValueError(f"a class has a name of 1 to {_LONGEST_NAME} bytes (in UTF-8)")
    return name


ClassName = Annotated[str, AfterValidator(folder_name)]


def _check_findings_once(classes: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Raise ValueError if a finding belongs to two classes."""
    counts = Counter(fold(finding) for findings in classes.values() for finding in findings)
    if several := [finding for finding, count in counts.items() if count > 1]:
        raise ValueError(f"{several[0]!r} is a finding of two classes")
    return classes


class TableRule(Document):
    """How a table is read: a public set's rule in `known_sets.toml`, or a user's given by --label-map.

    Columns are compared without regard to case. A table that has all `columns` is recognised as the set `name`.
    `labels` is one column of labels, or several columns, each named after a finding and containing yes or no.
    `patient_pattern` finds the patient in the image's path. `reader` is the column of a film's readers, whose majority
    decides. `separator` is between the labels of a cell; `[]` is a list as Python writes it. `classes` are the findings
    of each class, where "*" is any other finding; if there are no `classes`, every label is a class.
    """

    name: Text = "the table"
    columns: tuple[Text, ...] = ()
    image: Text | None = None
    labels: tuple[Text, ...] = ()
    patient: Text | None = None
    patient_pattern: Text | None = None
    split: Text | None = None
    view: Text | None = None
    reader: Text | None = None
    separator: Literal["|", ";", ",", "[]"] | None = None
    several: Several | None = None
    classes: Annotated[dict[ClassName, tuple[Text, ...]], AfterValidator(_check_findings_once)] = Field(default={})

    @cached_property
    def class_of(self) -> dict[str, str]:
        """The class of each folded finding."""
        return {fold(finding): name for name, findings in self.classes.items() for finding in findings}


class _KnownSets(Document):
    set: tuple[TableRule, ...]


def known_sets() -> tuple[TableRule, ...]:
    """The rules of the public sets whose tables are known."""
    text = (resources.files("pneumoscope") / "dataset" / "known_sets.toml").read_text(encoding="utf-8")
    return _KnownSets.model_validate(tomllib.loads(text)).set


def choose_rule(columns: set[str], config: PrepareConfig) -> TableRule:
    """The rule by which label files are read: the known set's, changed by the user's map and options.

    Args:
        columns: the folded names of all label files' columns.
        config: has the user's map and options.

    Raises:
        UsageError: the set is not known and the options do not name all columns, or a column is missing.
    """
    # Of several sets that fit, the one with most columns is the most specific.
    fitting = [rule for rule in known_sets() if {fold(column) for column in rule.columns} <= columns]
    rule = max(fitting, key=lambda rule: len(rule.columns), default=TableRule())
    own = {} if config.label_map is None else _read_map(config.label_map)
    if config.label_column:
        # Other label columns than the known set's: its classes and separator do not apply to them.
        own = {"classes": {}, "several": None, "separator": None} | own | {"labels": config.label_column}
    options = {
        "image": config.image_column,
        "patient": config.patient_column,
        "split": config.split_column,
        "view": config.view_column,
        "several": config.several,
    }
    own |= {name: value for name, value in options.items() if value is not None}
    changed = TableRule.model_validate(rule.model_dump() | own)
    labels = changed.labels or tuple(each for each in changed.class_of if each != ANY)
    by_option = {fold(each) for each in (*config.label_column, config.split_column or "")}
    _refuse_missing(changed, labels, columns, by_option=by_option)
    return changed.model_copy(update={"labels": tuple(each for each in labels if fold(each) in columns)})


def _read_map(path: Path) -> dict[str, Any]:
    """The fields that a user's --label-map sets."""
    try:
        rule = TableRule.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as failure:
        raise UsageError(f"--label-map {path}: {first_problem(failure)}.") from failure
    except (OSError, ValueError) as failure:
        raise UsageError(f"--label-map {path} is not a TOML file ({failure}).") from failure
    return {name: getattr(rule, name) for name in rule.model_fields_set}


def _refuse_missing(rule: TableRule, labels: tuple[str, ...], columns: set[str], *, by_option: set[str]) -> None:
    """Raise UsageError if the columns of images and labels are not known, or a needed column is missing.

    Of several label columns, only those of a class and those that the user named (`by_option`) are needed: published
    tables differ in the others.
    """
    there = ", ".join(sorted(filter(None, columns)))
    if rule.image is None or not labels:
        what = [name for name, value in (("--image-column", rule.image), ("--label-column", labels)) if not value]
        raise UsageError(
            f"the label files are not of a known set ({', '.join(each.name for each in known_sets())}); name their "
            f"columns with {' and '.join(what)}. The columns are: {there}."
        )
    needed = [rule.image, rule.patient, rule.view]
    needed += [each for each in labels if len(labels) == 1 or fold(each) in rule.class_of or fold(each) in by_option]
    needed += [rule.split] if fold(rule.split or "") in by_option else []
    for column in needed:
        if column is not None and fold(column) not in columns:
            raise UsageError(
                f"{rule.name}: no column {column!r} in the label files; if another file has it, pass that file by "
                f"another --labels. The columns are: {there}."
            )
