"""The manifest of a data set, and what happens if a data set is not what its manifest states."""

import csv
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pneumoscope.dataset import Dataset, load_dataset
from pneumoscope.dataset.manifest import Record, format_manifest, parse_manifest
from pneumoscope.errors import DatasetError


def test_manifest_columns_are_the_documented_ones(dataset: Dataset) -> None:
    with (dataset.root / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    documented = "path label split patient source file_sha256 luma_sha256 phash width height bytes mode"
    assert list(rows[0]) == documented.split(" ")
    row = rows[0]
    path = dataset.root / row["path"]
    with Image.open(path) as image:
        assert str(image.width) == row["width"]
        assert str(image.height) == row["height"]
        assert image.mode == row["mode"]
    assert int(row["bytes"]) == path.stat().st_size


def test_manifest_survives_a_round_trip() -> None:
    odd = Record(
        path='train/a/"x",\n.png', label="a", split="train", patient="a/1", source="s:é", file_sha256="0" * 64,
        luma_sha256="1" * 64, phash="2" * 64, width=3, height=4, bytes=5, mode="L",
    )  # fmt: skip
    assert parse_manifest(format_manifest([odd])) == [odd]
    with pytest.raises(ValueError, match="not the header"):
        parse_manifest("a,b\n1,2\n")


def test_a_changed_film_is_an_error(dataset: Dataset, tmp_path: Path) -> None:
    copy = load_dataset(Path(shutil.copytree(dataset.root, tmp_path / "copy")))
    film_row = copy.films[0]
    path = copy.root / film_row.path
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(DatasetError, match="has changed since `data prepare`"):
        copy.read(film_row)
    path.unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        copy.read(film_row)


def test_not_a_data_set(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match="not a prepared data set"):
        load_dataset(tmp_path)
    copy = Path(shutil.copytree(dataset.root, tmp_path / "copy"))
    card = (copy / "dataset.json").read_text()
    (copy / "dataset.json").write_text(card.replace('"seed"', '"sead"'))
    with pytest.raises(DatasetError, match=r"config\.sead"):
        load_dataset(copy)
    (copy / "dataset.json").write_text(card)
    (copy / "manifest.csv").write_text("nonsense\n")
    with pytest.raises(DatasetError, match=r"1 values\) is not the header"):
        load_dataset(copy)
    with pytest.raises(DatasetError, match="no split 'stress'"):
        dataset.split("stress")
