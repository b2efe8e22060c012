"""The stress split: validation films cropped, with blurred corners, saved again."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from pneumoscope.dataset import PrepareConfig, load_dataset, prepare
from pneumoscope.imaging import read_radiograph
from samples import encode, noise_film, prepare_archives, reencoded, small_films


def test_the_stress_split_stores_validation_films_alike_for_every_class(tmp_path: Path) -> None:
    members = {
        name: reencoded(data) if "NORMAL" in name else data  # the encoding gives the class away
        for name, data in small_films(9).items()
    }
    summary, out = prepare_archives(tmp_path, members, stress=True)
    stress, val = out.split("stress"), out.split("val")
    assert {(each.patient, each.label, each.source) for each in stress} == {
        (each.patient, each.label, each.source) for each in val
    }
    assert len(stress) == len(val)
    assert summary.counts["stress"] == summary.counts["val"]
    tables = set()
    for each in stress:
        data = out.read(each)
        with Image.open(out.root / each.path) as image:
            assert not image.getexif()
            assert image.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
            tables.add(tuple(image.quantization[0]))  # type: ignore[attr-defined]
        facts = read_radiograph(data).facts
        assert facts.format == "JPEG"
        assert facts.mode == "L"
        assert facts.width == stress[0].width
        assert facts.height == stress[0].height
        assert min(facts.width, facts.height) == 128
        assert each.path.startswith(f"stress/{each.label}/")
    assert len(tables) == 1
    assert {read_radiograph(out.read(each)).facts.format for each in val} == {"JPEG", "PNG"}


def test_odd_films_do_not_stop_the_stress_split(tmp_path: Path) -> None:
    def frame(seed: str) -> Image.Image:
        """Black within a narrow frame of noise; a crop leaves too little of the frame."""
        luma = np.tile(noise_film(seed), (4, 4))
        luma[7:-7, 7:-7] = 0
        return Image.fromarray(luma)

    films = {
        f"{label}/{kind}{number}.png": encode(Image.fromarray(luma))
        for label in ("cat", "dog")
        for number in range(12)
        for kind, luma in (
            ("plain", noise_film(f"{label}{number}")),
            ("long", np.repeat(noise_film(f"{number}{label}"), 40, 1)),
        )
    } | {f"cat/frame{number}.png": encode(frame(f"frame{number}")) for number in range(12)}
    _, out = prepare_archives(tmp_path, films, stress=True)
    stress_sources = {each.source for each in out.split("stress")}
    left_out = {each.source for each in out.split("val")} - stress_sources
    assert stress_sources
    assert left_out
    assert all("frame" in source for source in left_out)


def test_a_stress_split_is_skipped_when_the_data_set_is_a_source(tmp_path: Path) -> None:
    _, out = prepare_archives(tmp_path, small_films(9), stress=True)
    prepare([out.root], tmp_path / "again", PrepareConfig(val_fraction=0.25))
    assert len(load_dataset(tmp_path / "again").films) == len(out.films) - len(out.split("stress"))


def test_a_bundle_is_evaluated_on_the_stress_split(
    tiny_bundle: Path, phantom_folder: Path, tmp_path: Path, command: Callable[..., SimpleNamespace]
) -> None:
    prepare([phantom_folder], tmp_path / "data", PrepareConfig(val_fraction=0.25, stress=True))
    out = load_dataset(tmp_path / "data")
    done = command("evaluate", out.root, "--bundle", tiny_bundle, "--split", "stress", "--out", tmp_path / "report")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["n"] == len(out.split("val"))
    assert report["dataset"]["split"] == "stress"
