"""The Parquet layout of scored films: rows come back as they were, and tallies add up."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyarrow import BufferReader

from pneumoscope.contract import load_contract
from pneumoscope.engine import Engine
from pneumoscope.errors import DatasetError
from pneumoscope.models import shipped_bundle
from pneumoscope.phantom import FINDINGS, encode_jpeg, film
from pneumoscope.score.parts import About, Layout, contract_sha256, footer_size, read_about, read_part, write_part
from pneumoscope.score.tally import Row, Tally


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Drawn films decided without the gate, both answered and abstained on; one that the gate rejects; one unread."""
    engine = Engine.load(shipped_bundle(), threads=1)
    without_gate = Engine(engine.contract.model_copy(update={"gate": None}), engine._session, engine.limits)
    drawn = [encode_jpeg(film(finding, patient=number)) for number, finding in enumerate(FINDINGS)]
    halves = {
        "classes": dict.fromkeys(FINDINGS, 0.5),
        "groups": {"pneumonia": dict.fromkeys(("inside", "outside"), 0.5)},
    }
    row = engine.rule().row
    majority = replace(engine.rule(), row=row.model_validate(row.model_dump() | halves))
    predictions = [without_gate.predict(data, rule=majority) for data in drawn]
    predictions += [engine.predict(drawn[0]), engine.predict(b"not an image")]
    return [
        Row(
            document=each.document(),
            source="films",
            file_sha256="0" * 64,
            distance=None if each.outputs is None else 0.5 + number,
            embedding=None if each.outputs is None else each.outputs.embedding,
            shares={} if each.outputs is None else dict(zip(each.classes, each.outputs.probabilities, strict=True)),
        )
        for number, each in enumerate(predictions)
    ]


def about(rows: list[Row]) -> About:
    contract = load_contract(shipped_bundle())
    return About(
        schema_version=1,
        pneumoscope="1.0",
        shard="part-1",
        source="films",
        model=rows[0].document.model,
        contract=contract_sha256(contract),
        tally=Tally.of(rows),
    )


def test_rows_come_back_as_they_were(rows: list[Row]) -> None:
    assert rows[0].embedding is not None
    layout = Layout.of(load_contract(shipped_bundle()), embedding=len(rows[0].embedding))
    content = write_part(rows, layout, about(rows))
    found = read_part(content)
    assert [row.document for row in found] == [row.document for row in rows]
    assert {row.document.status for row in rows} == {"answered", "abstained", "rejected"}
    for one, other in zip(found, rows, strict=True):
        assert (one.source, one.file_sha256, one.distance) == (other.source, other.file_sha256, other.distance)
        if other.embedding is None:
            assert one.embedding is None
        else:
            np.testing.assert_array_equal(one.embedding, other.embedding)


def test_a_parts_facts_are_read_from_its_end(rows: list[Row]) -> None:
    content = write_part(rows, Layout.of(load_contract(shipped_bundle())), about(rows))
    tail = content[-footer_size(content[-8:]) :]
    assert len(tail) < len(content)
    assert read_about(tail) == about(rows)


def test_columns_are_the_documents_fields(rows: list[Row]) -> None:
    contract = load_contract(shipped_bundle())
    names = pq.read_schema(BufferReader(write_part(rows, Layout.of(contract), about(rows)))).names
    document = rows[0].document.model_dump(by_alias=True)
    assert names == [*document, "source", "file_sha256", "distance"]


def test_a_model_without_groups_has_no_such_column(rows: list[Row]) -> None:
    plain = [replace(row, document=row.document.model_copy(update={"groups": {}})) for row in rows]
    content = write_part(plain, Layout(classes=FINDINGS, groups=()), about(plain))
    assert "groups" not in pq.read_schema(BufferReader(content)).names
    assert [row.document for row in read_part(content)] == [row.document for row in plain]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 400])
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(DatasetError, match="not a Parquet part"):
        read_part(content)
    with pytest.raises(DatasetError, match="not a Parquet part"):
        read_about(content)


def test_tallies_of_parts_add_up(rows: list[Row]) -> None:
    whole, first, second = Tally.of(rows), Tally.of(rows[:1]), Tally.of(rows[1:])
    added = first + second
    for name in Tally.model_fields:
        assert getattr(added, name) == pytest.approx(getattr(whole, name)), name
    assert (whole.films, whole.unread, whole.judged, whole.measured) == (5, 1, 4, 4)
    assert whole.far == 3
    assert sum(whole.probability_sums.values()) == pytest.approx(4)


def test_rows_of_documents_alone_are_tallied_too(rows: list[Row]) -> None:
    tally = Tally.of(Row(document=row.document, source="s3://films", file_sha256=None) for row in rows)
    assert (tally.films, tally.unread, tally.judged, tally.measured) == (5, 1, 4, 0)
    assert tally.weighed == 3


def test_the_layout_is_imported_without_pyarrow_or_ray() -> None:
    code = "import sys, pneumoscope.score.parts; print({'pyarrow', 'ray', 'boto3'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
