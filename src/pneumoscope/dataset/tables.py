"""Label files as one table: CSV, TSV, COVIDx's text form and lists of images, stacked or joined."""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from pneumoscope.dataset.places import Part, split_word, words_of
from pneumoscope.errors import UsageError
from pneumoscope.imaging import SUFFIXES, UNSUPPORTED_SUFFIXES

#: The column that this module adds if the names of stacked files, or of a single text form, state their split.
FILE_SPLIT = "split by the file's name"

_COVIDX = ("patient id", "filename", "class", "source")
_LIST = ("filename",)
_MAX_BYTES = 1 << 30  # after unpacking
_GZIP = b"\x1f\x8b"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_SUFFIX = "|".join(re.escape(each) for each in sorted(SUFFIXES | UNSUPPORTED_SUFFIXES))
_COVIDX_LINE = re.compile(rf"(\S+)\s+(\S.*?(?:{_SUFFIX}))\s+(\S+)(?:\s+(\S+))?\s*", re.IGNORECASE)
_LIST_LINE = re.compile(rf"[^,;\t]*(?:{_SUFFIX})\s*", re.IGNORECASE)

Row: TypeAlias = list[str]


# Cached, because columns and findings repeat in every row.
@lru_cache(maxsize=100_000)
def fold(text: str) -> str:
    """Normalise case and spaces of a column's name or a finding, for comparison.

    >>> fold(" Finding  Labels ")
    'finding labels'
    """
    return " ".join(text.casefold().split())


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """A label file whose rows are not parsed yet. `columns` are folded names; `delimiter` is None for text forms."""

    name: str
    text: str
    columns: tuple[str, ...]
    delimiter: str | None

    @property
    def part(self) -> Part | None:
        """The part that the file's name states, train (also for val) or test; None if both or neither."""
        splits = {split_word(word) for word in words_of(self.name.partition(".")[0])} - {None}
        if "test" in splits:
            return "test" if len(splits) == 1 else None
        return "train" if splits else None

    @property
    def is_list(self) -> bool:
        """Whether it contains the names of images only."""
        return self.columns == _LIST and self.delimiter is None

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        """The values of the wanted columns, row by row; an empty text for a missing column.

        Raises:
            UsageError: a row has more values than there are columns, or is not valid CSV.
        """
        at = [self.columns.index(column) if column in self.columns else None for column in wanted]
        for values in self._values():
            yield [values[each].strip() if each is not None and each < len(values) else "" for each in at]

    def _values(self) -> Iterator[Row]:
        if self.delimiter is None:
            pattern = _LIST_LINE if self.is_list else _COVIDX_LINE
            for line in filter(str.strip, self.text.splitlines()):
                match = pattern.fullmatch(line)
                assert match is not None, "`open_label_file` has matched every line"
                yield [line] if self.is_list else [each or "" for each in match.groups()]
            return
        reader = csv.reader(io.StringIO(self.text, newline=""), delimiter=self.delimiter)
        try:
            next(reader)
            for values in reader:
                if len(values) > len(self.columns) and any(values[len(self.columns) :]):
                    raise UsageError(
                        f"{self.name}: line {reader.line_num:,} has {len(values)} values, but there are "
                        f"{len(self.columns)} columns; put values that contain {self.delimiter!r} in quotes."
                    )
                if any(values):
                    yield values
        except csv.Error as failure:
            raise UsageError(f"{self.name}: line {reader.line_num:,} cannot be read ({failure}).") from failure


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows with one value per column; `columns` are folded names, `files` the names of the label files."""

    files: tuple[str, ...]
    columns: tuple[str, ...]
    rows: list[Row]


def open_label_file(path: Path, *, encoding: str | None) -> LabelFile:
    """Read a label file and determine its form.

    Args:
        path: the file, possibly compressed by gzip.
        encoding: codec of a file that is neither UTF-8 nor UTF-16.

    Raises:
        UsageError: it cannot be read, or is not a table.
    """
    text = _decode(path, _read(path), encoding)
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise UsageError(f"{path} is empty; give a table with one row per image.")
    if all(map(_LIST_LINE.fullmatch, lines)):
        return LabelFile(name=path.name, text=text, columns=_LIST, delimiter=None)
    if all(map(_COVIDX_LINE.fullmatch, lines)):
        return LabelFile(name=path.name, text=text, columns=_COVIDX, delimiter=None)
    delimiter, header = _header(text)
    if len(header) < 2:
        raise UsageError(
            f"{path} is not a table: its first line has one value. Give CSV or TSV with the columns' names in the "
            "first line, lines of `patient filename class`, or names of images only."
        )
    return LabelFile(name=path.name, text=text, columns=tuple(map(fold, header)), delimiter=delimiter)


def join_tables(files: Sequence[LabelFile], *, image: str, wanted: set[str]) -> Table:
    """Combine label files into one table: files that share more than half of their columns are stacked.

    The others are joined by the columns that they share.

    Args:
        files: the label files, without lists of images.
        image: the column that names images; the rows are those of the table that has it (of several, the longest).
        wanted: the columns that are needed, besides those by which tables are joined.

    Raises:
        UsageError: a table shares no column with the others, or no value in the shared columns.
    """
    stacks = _stacks(files)
    occurring = [column for stack in stacks for column in {each for file in stack for each in file.columns}]
    keys = {column for column in occurring if occurring.count(column) > 1}
    tables = [_stack(stack, wanted | keys) for stack in stacks]
    base = max((table for table in tables if image in table.columns), key=lambda table: len(table.rows))
    rest = [table for table in tables if table is not base]
    while rest:
        following = next((table for table in rest if set(table.columns) & set(base.columns)), None)
        if following is None:
            raise UsageError(
                f"{', '.join(rest[0].files)} shares no column with {', '.join(base.files)}, so its rows cannot be "
                "matched; rename a column, or leave the file out."
            )
        base = _attach(base, following)
        rest.remove(following)
    return base


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as plain:
            packed = plain.read(len(_GZIP)) == _GZIP
        with gzip.open(path) if packed else path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as failure:
        raise UsageError(f"{path} cannot be read ({failure}).") from failure
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{path} has more than {_MAX_BYTES:,} bytes; give a table with one row per image.")
    return data


def _decode(path: Path, data: bytes, encoding: str | None) -> str:
    if data.startswith(_WORKBOOKS):
        raise UsageError(f"{path} is a workbook or an archive; save the table as CSV and give that.")
    try:
        # "utf-8-sig" reads UTF-8 with and without a byte order mark.
        return data.decode("utf-16" if data.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError:
        pass
    try:
        return data.decode(encoding or "utf-8")
    except UnicodeDecodeError as failure:
        raise UsageError(
            f"{path} is not {encoding or 'UTF-8'}; save it as UTF-8, or pass its codec by --name-encoding, e.g. cp1252."
        ) from failure


def _header(text: str) -> tuple[str, Row]:
    """The delimiter that splits the first line into the most columns, and these columns."""
    first = io.StringIO(text[: text.find("\n") + 1] or text, newline="")
    readings = []
    for delimiter in ",;\t":
        first.seek(0)
        readings.append((delimiter, next(csv.reader(first, delimiter=delimiter), [])))
    return max(readings, key=lambda each: len(each[1]))


def _stacks(files: Sequence[LabelFile]) -> list[list[LabelFile]]:
    """Group files that share more than half of their columns: they are parts of one table."""
    stacks: list[list[LabelFile]] = []
    for file in files:
        columns = set(file.columns)
        similar = (
            stack for stack in stacks if 2 * len(columns & set(stack[0].columns)) > len(columns | set(stack[0].columns))
        )
        stack = next(similar, None)
        if stack is None:
            stacks.append([file])
        else:
            stack.append(file)
    return stacks


def _stack(files: Sequence[LabelFile], wanted: set[str]) -> Table:
    """The rows of all files in one table, with a column for the part that each file's name states."""
    columns = [column for column in dict.fromkeys(each for file in files for each in file.columns) if column in wanted]
    parts = {file.part for file in files}
    # The name of a single CSV states nothing: `train.csv` is often the only table of a set.
    has_part = parts != {None} and (len(files) > 1 or files[0].delimiter is None)
    rows: list[Row] = []
    for file in files:
        part: Row = [file.part or ""] if has_part else []
        rows += [values + part for values in file.rows(columns)]
    names = tuple(file.name for file in files)
    return Table(files=names, columns=(*columns, *([FILE_SPLIT] if has_part else [])), rows=rows)


def _attach(base: Table, other: Table) -> Table:
    """Join: the base's rows, extended by the other table's rows with equal values in the shared columns."""
    shared = [column for column in other.columns if column in base.columns]
    new = [column for column in other.columns if column not in base.columns]
    here, there = ([table.columns.index(column) for column in shared] for table in (base, other))
    added = [other.columns.index(column) for column in new]
    found: dict[tuple[str, ...], dict[tuple[str, ...], None]] = {}
    for row in other.rows:
        found.setdefault(tuple(row[at] for at in there), {})[tuple(row[at] for at in added)] = None
    nothing = {("",) * len(new): None}
    matches = [found.get(tuple(row[at] for at in here)) for row in base.rows]
    if not any(matches):
        raise UsageError(
            f"{', '.join(other.files)} and {', '.join(base.files)} share the columns {', '.join(shared)}, but no "
            "values in them; give tables that belong together."
        )
    rows = [[*row, *values] for row, match in zip(base.rows, matches, strict=True) for values in match or nothing]
    return Table(files=base.files + other.files, columns=(*base.columns, *new), rows=rows)
