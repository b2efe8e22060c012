"""Labels from tables: the rows of each image are combined, and its class follows from its findings."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from pneumoscope.dataset.places import PublishedSplit, place, refuse_unclear, split_by_name
from pneumoscope.dataset.rules import ANY, TableRule, choose_rule, folder_name
from pneumoscope.dataset.tables import FILE_SPLIT, LabelFile, Table, fold, join_tables, open_label_file
from pneumoscope.errors import UsageError
from pneumoscope.settings.data import PrepareConfig, SplitFolder

# Reasons why an image is left out.
NO_ROW = "no row of the label files names it"
_NO_LABEL = "its row in the label files has no label"
_NO_CLASS = "its label does not belong to a class"
_SEVERAL = "its labels belong to several classes"
_SKIPPED = "it has several labels (--several skip)"
_DISAGREED = "none of its labels was given by more than half of its readers"
_NOT_FRONTAL = "its view in the label files is not frontal"
_NO_VIEW = "its view is not in the label files"

_LITERAL = "[]"  # separator of a cell that contains a Python list, see `TableRule`
_MAX_CLASSES = 20
_TRUE = frozenset({"1", "1.0", "true", "yes"})
_FALSE = frozenset({"", "0", "0.0", "-1", "-1.0", "false", "no", "nan"})  # -1 means uncertain
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")


@dataclass(kw_only=True, slots=True)
class TableFilm:
    """What the rows state about an image: its class, or else the `reason` why it is left out."""

    image: str
    label: str = ""
    reason: str | None = None
    patient: str | None = None
    split: PublishedSplit | None = None


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """The content of all label files: the images that they name.

    `label_summary` is one line on how they were read. `split_names` are the texts that may state a split, case folded:
    values of the split column, and the folders of images.
    """

    films: tuple[TableFilm, ...]
    label_summary: str
    split_names: frozenset[str]


@dataclass(slots=True)
class _ImageRows:
    """The rows of one image, combined.

    `readings` are the findings of each reader. `view_problem` is the reason to leave the image out for its view.
    `conflict` names what differs between rows although it must not: patients or splits.
    """

    readings: dict[str, set[str]] = field(default_factory=dict)
    patient: str = ""
    split: PublishedSplit | None = None
    view_problem: str | None = None
    conflict: str | None = None


def read_labels(config: PrepareConfig) -> Labelling | None:
    """Read the label files of `data prepare`; None if there are none.

    Raises:
        UsageError: a file cannot be read, or can be read in several ways and no option states which is right.
    """
    if not config.labels:
        _refuse_options_without_tables(config)
        return None
    files = [open_label_file(path, encoding=config.name_encoding) for path in config.labels]
    tables = [file for file in files if not file.is_list]
    if not tables:
        raise UsageError("--labels: lists of images contain no labels; pass the table of labels by another --labels.")
    rule = choose_rule({column for file in tables for column in file.columns}, config)
    wanted = [rule.image, *rule.labels, rule.patient, rule.split, rule.view, rule.reader]
    table = join_tables(tables, image=fold(rule.image or ""), wanted={fold(column) for column in wanted if column})
    rows = _collect(table, rule, {name.casefold(): split for name, split in config.split_folders.items()})
    _add_lists(rows, [file for file in files if file.is_list])
    films = tuple(_assign_classes(rows, rule))
    _refuse_unused(rule, rows)
    names = ", ".join(file.name for file in files)
    return Labelling(
        films=films,
        label_summary=f"labels of {rule.name} ({names}): {_describe(rule, films)}",
        split_names=_split_names(table, rule),
    )


def _refuse_options_without_tables(config: PrepareConfig) -> None:
    """Raise UsageError if there are settings of label files, and no label files."""
    options = {
        "--label-map": config.label_map,
        "--image-column": config.image_column,
        "--label-column": config.label_column,
        "--patient-column": config.patient_column,
        "--split-column": config.split_column,
        "--view-column": config.view_column,
        "--several": config.several,
    }
    if names := [name for name, value in options.items() if value]:
        raise UsageError(f"{names[0]} needs label files; pass them by --labels FILE.")


def _collect(table: Table, rule: TableRule, named: Mapping[str, SplitFolder]) -> dict[str, _ImageRows]:
    """Combine the rows of each image; `named` are the splits of folders or values that the user has stated."""
    columns = {column: at for at, column in enumerate(table.columns)}

    def find(column: str | None) -> int | None:
        return columns.get(fold(column or ""))

    image, patient, split, view, reader = map(find, (rule.image, rule.patient, rule.split, rule.view, rule.reader))
    assert image is not None, "`choose_rule` requires its column"
    file_split = find(FILE_SPLIT)
    pattern = None if rule.patient_pattern is None else _compile(rule.patient_pattern)
    labels = [(columns[fold(column)], column) for column in rule.labels]
    films: dict[str, _ImageRows] = {}
    without_split: set[str] = set()
    for row in table.rows:
        if not (name := row[image].replace("\\", "/")):
            continue
        film = films.setdefault(name, _ImageRows())
        findings = _labels_in_cell(row[labels[0][0]], rule) if len(labels) == 1 else _positive_columns(row, labels)
        film.readings.setdefault("" if reader is None else row[reader], set()).update(findings)
        if patient is not None:
            _add_patient(film, row[patient])
        elif pattern is not None and (found := pattern.search(name)) is not None:
            _add_patient(film, found[0])
        if view is not None and not _is_frontal(row[view]):
            film.view_problem = _NOT_FRONTAL if row[view] else _NO_VIEW
        # The split column counts first, then folders in the image's path, then the label file's name.
        part = None if split is None else _split_of_value(row[split], named)
        part = part or (place(name, named).split if "/" in name else None)
        part = part or (None if file_split is None else _split_of_value(row[file_split], named))
        _add_split(film, part)
        if part is None:
            without_split.add(name.rpartition("/")[0])
    refuse_unclear([folders.split("/") for folders in without_split], named)
    if not films:
        raise UsageError(f"the column {rule.image!r} of the label files is empty.")
    return films


def _split_names(table: Table, rule: TableRule) -> frozenset[str]:
    columns = {column: at for at, column in enumerate(table.columns)}
    places = [columns[name] for name in (fold(rule.split or ""), fold(FILE_SPLIT)) if name in columns]
    images = (row[columns[fold(rule.image or "")]].replace("\\", "/") for row in table.rows)
    folders = {part for name in images for part in name.split("/")[:-1]}
    return frozenset(each.casefold() for each in folders | {row[at] for row in table.rows for at in places})


def _add_patient(film: _ImageRows, patient: str) -> None:
    if patient and film.patient not in ("", patient):
        film.conflict = "patients"
    film.patient = patient or film.patient


def _add_split(film: _ImageRows, split: PublishedSplit | None) -> None:
    # Train and val are joined later, so only test against another split is a conflict.
    if split is not None and film.split is not None and (film.split == "test") != (split == "test"):
        film.conflict = "splits"
    film.split = split or film.split


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as failure:
        raise UsageError(f"patient_pattern {pattern!r} is not a regular expression ({failure}).") from failure


def _split_of_value(value: str, named: Mapping[str, SplitFolder]) -> PublishedSplit | None:
    """The split that a value of the split column states; None for an empty value or one that the user has set to none.

    Raises:
        UsageError: the value is not clear.
    """
    split = named.get(value.casefold()) or split_by_name(value)
    if split in ("train", "val", "test"):
        return split
    if split == "none" or not value:
        return None
    raise UsageError(
        f'the split column contains {value!r}; pass --split-folder "{value}=train", or =val, =test or =none.'
    )


def _labels_in_cell(cell: str, rule: TableRule) -> Iterable[str]:
    """The labels in a cell."""
    if fold(cell) in ("", "nan"):
        return ()
    if rule.separator == _LITERAL:
        return [text for one, other in _QUOTED.findall(cell) if (text := (one or other).strip())]
    # A label that the map names may itself contain the separator.
    if rule.several == "whole" or fold(cell) in rule.class_of:
        return (cell,)
    # If no separator is stated, it is the first of `|`, `;` and `,` that the cell contains.
    separator: str | None = rule.separator or next((each for each in "|;," if each in cell), None)
    return (cell,) if separator is None else [text for each in cell.split(separator) if (text := each.strip())]


def _positive_columns(row: Sequence[str], labels: Iterable[tuple[int, str]]) -> Iterator[str]:
    """The columns whose value is yes.

    Raises:
        UsageError: a value is neither yes nor no.
    """
    for at, column in labels:
        value = row[at]
        if value in _FALSE:
            continue
        if (folded := fold(value)) in _TRUE:
            yield column
        elif folded not in _FALSE:
            raise UsageError(
                f"column {column!r} of the label files contains {value!r}; yes is 1, true or yes, and no is 0, -1, "
                "false, no or empty. If it is a column of labels, pass it alone by --label-column."
            )


def _add_lists(rows: dict[str, _ImageRows], lists: Sequence[LabelFile]) -> None:
    """Set the splits of images by lists of images; if there are lists, they override the tables.

    Raises:
        UsageError: a list's name states no split, or an image is in lists of two splits.
    """
    splits: dict[str, PublishedSplit] = {}
    for file in lists:
        if file.part is None:
            raise UsageError(
                f"{file.name} is a list of images, but its name does not state one of train, val and test; rename it."
            )
        for (name,) in file.rows(file.columns):
            image = name.replace("\\", "/").rpartition("/")[2]
            if splits.setdefault(image, file.part) != file.part:
                raise UsageError(f"{image!r} is in lists of two splits; list each image once.")
    if splits:
        for image, row in rows.items():
            # Also None: if there are lists, an image that is in none of them has no split.
            row.split = splits.get(image.rpartition("/")[2])


def _assign_classes(rows: Mapping[str, _ImageRows], rule: TableRule) -> Iterator[TableFilm]:
    """Every image with its class, or with the reason why it has none.

    Raises:
        UsageError: images have several labels and no option states what to do, an image has several patients or
            splits, or labels that are to be classes are too many or not valid as folder names.
    """
    findings = {image: _majority_findings(row) for image, row in rows.items()}
    if rule.several is None and (several := [len(each) for each in findings.values() if len(each) > 1]):
        raise UsageError(
            f"{len(several):,} images have several labels, up to {max(several)}; pass --several mapped (use the one "
            "class that --label-map gives their labels), skip (leave them out) or whole (the cell's text is one "
            "label)."
        )
    _refuse_contradictions(rows)
    if not rule.classes:
        _refuse_names({each for found in findings.values() for each in found}, rule)
    for image, row in rows.items():
        found = findings[image]
        labels = {_class_of(each, rule) for each in found} - {""}
        reason = _why_left_out(row, found, labels, rule)
        yield TableFilm(
            image=image,
            label=next(iter(labels)) if reason is None else "",
            reason=reason,
            patient=row.patient or None,
            split=row.split,
        )


def _class_of(finding: str, rule: TableRule) -> str:
    """The class of a finding; an empty text if it belongs to none."""
    return rule.class_of.get(fold(finding), rule.class_of.get(ANY, "")) if rule.classes else finding


def _majority_findings(row: _ImageRows) -> set[str]:
    """The findings of an image that more than half of its readers have given."""
    if len(row.readings) == 1:
        return next(iter(row.readings.values()))
    counts = Counter(finding for findings in row.readings.values() for finding in findings)
    # Of three radiologists, as in VinDr-CXR, two must agree.
    return {finding for finding, count in counts.items() if 2 * count > len(row.readings)}


def _why_left_out(row: _ImageRows, findings: set[str], labels: set[str], rule: TableRule) -> str | None:
    """The reason to leave an image out, or None; `labels` are the classes of its `findings`."""
    # The view comes first: a lateral film is left out whatever its labels are.
    if row.view_problem is not None:
        return row.view_problem
    if not findings:
        return _DISAGREED if any(row.readings.values()) else _NO_LABEL
    if rule.several == "skip" and len(findings) > 1:
        return _SKIPPED
    return _SEVERAL if len(labels) > 1 else None if labels else _NO_CLASS


@lru_cache(maxsize=1000)
def _is_frontal(view: str) -> bool:
    """Whether a view is frontal by its name, such as PA, AP, AP_horizontal, Frontal or postero-anterior."""
    words = set(re.findall(r"[a-z]+", view.casefold()))
    if "ll" in words or any(word.startswith("lat") for word in words):
        return False
    # Spelled as one word, as two, or with a hyphen: postero-anterior, anteroposterior.
    joined = "".join(sorted(words))
    return bool(words & {"pa", "ap", "frontal"}) or ("anter" in joined and "poster" in joined)


def _refuse_contradictions(rows: Mapping[str, _ImageRows]) -> None:
    """Raise UsageError if rows of one image name different patients or splits."""
    if several := [(image, row.conflict) for image, row in rows.items() if row.conflict]:
        image, what = several[0]
        raise UsageError(
            f"{len(several):,} images, such as {image!r}, have rows of different {what} in the label files; "
            "correct the rows."
        )


def _refuse_names(findings: set[str], rule: TableRule) -> None:
    """Raise UsageError if the labels are too many for one class each, or one cannot be a folder's name."""
    if len(findings) > _MAX_CLASSES:
        raise UsageError(
            f"{len(findings):,} different labels in {', '.join(map(repr, rule.labels))} of the label files; map "
            "them to classes by --label-map."
        )
    for finding in findings:
        try:
            folder_name(finding)
        except ValueError as failure:
            raise UsageError(f"{failure}; give it another name by --label-map.") from failure


def _refuse_unused(rule: TableRule, rows: Mapping[str, _ImageRows]) -> None:
    """Raise UsageError if a class has no image with any of its findings: the map is wrong, or is for another set."""
    # Findings of all readings count, also those that no majority shares: the map is right if they occur at all.
    there = {fold(each) for row in rows.values() for findings in row.readings.values() for each in findings}
    for name, findings in rule.classes.items():
        if ANY not in findings and not there & {fold(each) for each in findings}:
            raise UsageError(
                f"{rule.name}: no image has {' or '.join(map(repr, findings))}, the findings of class {name!r}; "
                f"change them by --label-map. The labels are: {', '.join(sorted(there)[:_MAX_CLASSES])}."
            )


def _describe(rule: TableRule, films: Sequence[TableFilm]) -> str:
    """How classes follow from labels, for a person to check."""
    if not rule.classes:
        classes = sorted({film.label for film in films if film.reason is None})
        return f"every label is a class ({', '.join(classes)})"
    mapping = [
        f"{name} = {' or '.join('any other label' if each == ANY else each for each in findings)}"
        for name, findings in rule.classes.items()
    ]
    return "; ".join(mapping)
