"""The Parquet layout of scored films: one row per film, and the part's facts and tally in the file's metadata.

The first columns are the fields of the decision document, under its names and with its values; `source`,
`file_sha256`, `distance` and, if it was requested, `embedding` follow. A rejected film has null `probabilities` and
`groups`. A model without groups has no column `groups`.

PyArrow is imported only by the functions that need it, so that a driver can plan, and a server start, without it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from pneumoscope.contract import Contract
from pneumoscope.documents import Document, Sha256, Text, read_document
from pneumoscope.engine.document import DecisionDocument, ModelName
from pneumoscope.errors import DatasetError
from pneumoscope.score.tally import Row, Tally

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".parquet"
#: Key in the file's metadata; its value is the part's `About` as JSON.
ABOUT = b"pneumoscope"
_BESIDE = ("source", "file_sha256", "distance", "embedding")
_OPTIONAL = ("probabilities", "groups")  # null for a rejected film, where the document has an empty object


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What determines the columns: classes, groups, and the embedding's length (None: there is no such column)."""

    classes: tuple[str, ...]
    groups: tuple[str, ...]
    embedding: int | None = None

    @classmethod
    def of(cls, contract: Contract, *, embedding: int | None = None) -> Self:
        """The layout for a model's decisions."""
        return cls(classes=contract.classes, groups=tuple(contract.groups), embedding=embedding)


class About(Document):
    """Facts about one part, in its metadata."""

    schema_version: Literal[1]
    pneumoscope: Text
    shard: Text
    source: Text
    model: ModelName
    contract: Sha256
    tally: Tally


def contract_sha256(contract: Contract) -> str:
    """Hash of a contract's content, with the hashes of the bundle's other files: it identifies the whole bundle."""
    return hashlib.sha256(contract.model_dump_json().encode()).hexdigest()


def schema(layout: Layout) -> "pa.Schema":
    """The Arrow schema of a part.

    Raises:
        ModuleNotFoundError: PyArrow is missing; the extra `score` installs it.
    """
    import pyarrow as pa

    shares = [(name, pa.struct([(each, pa.float64()) for each in names])) for name, names in _shares(layout)]
    document = [
        ("status", pa.string()),
        ("class", pa.int16()),
        ("label", pa.string()),
        *shares,
        ("prediction_set", pa.list_(pa.string())),
        ("coverage", pa.float64()),
        ("reasons", pa.list_(pa.string())),
        ("reason_codes", pa.list_(pa.string())),
        ("attention", pa.struct([("class", pa.string()), ("border", pa.float64()), ("corners", pa.float64())])),
        ("model", pa.struct([("name", pa.string()), ("version", pa.string()), ("sha256", pa.string())])),
        ("milliseconds", pa.float64()),
    ]
    beside = [("source", pa.string()), ("file_sha256", pa.string()), ("distance", pa.float64())]
    if layout.embedding is not None:
        beside.append(("embedding", pa.list_(pa.float32(), layout.embedding)))
    return pa.schema([("image", pa.string()), *document, *beside])


def write_part(rows: Sequence[Row], layout: Layout, about: About) -> bytes:
    """The bytes of a part's Parquet file, with the rows in the given order.

    Raises:
        ModuleNotFoundError: PyArrow is missing; the extra `score` installs it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = schema(layout).with_metadata({ABOUT: about.model_dump_json().encode()})
    table = pa.Table.from_pylist([_values(row) for row in rows], schema=columns)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def read_part(content: bytes) -> list[Row]:
    """The rows of a part, from the bytes of its file.

    Raises:
        DatasetError: these are not the bytes of a part.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # `ParquetFile` reads one file as it is; `read_table` would treat it as a data set.
        found = pq.ParquetFile(pa.BufferReader(content)).read().to_pylist()
        return [_row(values) for values in found]
    except (pa.ArrowException, ValueError) as failure:
        raise DatasetError(f"not a Parquet part of scored films ({failure}); score the films again.") from failure


def read_about(tail: bytes) -> About:
    """A part's facts, from its file's last bytes: its whole footer must be among them.

    Raises:
        DatasetError: these are not the last bytes of a part.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(pa.BufferReader(tail)).metadata or {}
        return read_document(About, metadata.get(ABOUT, b""))
    except (pa.ArrowException, ValueError) as failure:
        raise DatasetError(f"not a Parquet part of scored films ({failure}); score the films again.") from failure


def footer_size(tail: bytes) -> int:
    r"""How many of a Parquet file's last bytes `read_about` needs, from at least its last eight bytes.

    Source: Parquet's file format: the footer's length as four bytes, little-endian, and `PAR1` end the file.

    >>> footer_size(b"\x10\x00\x00\x00PAR1")
    24
    """
    return int.from_bytes(tail[-8:-4], "little") + 8


def _shares(layout: Layout) -> list[tuple[str, tuple[str, ...]]]:
    return [(name, names) for name, names in (("probabilities", layout.classes), ("groups", layout.groups)) if names]


def _values(row: Row) -> dict[str, Any]:
    """A row as PyArrow takes it."""
    values = row.document.model_dump(mode="json", by_alias=True)
    for name in _OPTIONAL:
        values[name] = values[name] or None
    return values | {name: getattr(row, name) for name in _BESIDE}


def _row(values: dict[str, Any]) -> Row:
    beside = {name: values.pop(name, None) for name in _BESIDE}
    for name in _OPTIONAL:
        values[name] = values.get(name) or {}
    if beside["embedding"] is not None:
        beside["embedding"] = np.array(beside["embedding"], np.float32)
    return Row(document=DecisionDocument.model_validate(values), **beside)
