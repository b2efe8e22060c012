"""Several sources as one data set, and the stress split."""

import json
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pneumoscope.dataset import Dataset, PrepareConfig, load_dataset, prepare
from pneumoscope.dataset.likeness import NEAR_DISTANCE, near_pairs, perceptual_hash
from pneumoscope.dataset.manifest import DatasetCard
from pneumoscope.dataset.prepare import PrepareSummary
from pneumoscope.imaging import describe, read_luma
from pneumoscope.phantom import encode_jpeg, film
from samples import REAL, as_version3, make_zip, small_films, stored_anew

PRACTICE = REAL / "ChestXRay2017-224-practice.zip"


def make(folder: Path, *sources: dict[str, bytes], **settings: Any) -> tuple[PrepareSummary, Dataset]:
    """Prepare ZIP archives of these members."""
    folder.mkdir(exist_ok=True)
    paths = [make_zip(folder / f"v{number + 2}.zip", members) for number, members in enumerate(sources)]
    summary = prepare(paths, folder / "out", PrepareConfig(val_fraction=0.25, **settings))
    return summary, load_dataset(folder / "out")


def card_of(data: Dataset) -> DatasetCard:
    return DatasetCard.model_validate_json((data.root / "dataset.json").read_bytes())


def splits_of(data: Dataset, key: str) -> dict[str, set[str]]:
    splits = defaultdict(set)
    for each in data.films:
        splits[getattr(each, key)].add(each.split)
    return splits


@pytest.mark.parametrize("lossless", [False, True])
def test_the_union_of_both_versions_holds_every_film_once(tmp_path: Path, *, lossless: bool) -> None:
    two = small_films()
    three = as_version3({name: stored_anew(data) if lossless else data for name, data in two.items()})
    summary, out = make(tmp_path, two, three)
    assert len(out.films) == len(two)
    assert [(each.films, each.matched) for each in summary.sources] == [(36, 0), (36, 36)]
    assert not summary.refused
    assert not summary.duplicates
    assert all(each.patient.isdecimal() for each in out.films)  # version 3's numbers
    assert all(each.source.startswith("v2.zip:chest_xray/") for each in out.films)
    assert all(" | v3.zip:CellData/" in each.source for each in out.films)
    assert all(len(held) == 1 for held in splits_of(out, "patient").values())
    alone = make(tmp_path / "alone", two)[1]
    assert {(each.luma_sha256, each.label) for each in alone.films} == {
        (each.luma_sha256, each.label) for each in out.films
    }
    assert Counter(each.split for each in out.films)["test"] == Counter(each.split for each in alone.films)["test"]


def test_a_source_adds_what_the_others_lack_and_known_patients_keep_their_numbers(tmp_path: Path) -> None:
    two = small_films(8)
    names = sorted(name for name in two if "/train/" in name)
    lacking = [names[0], names[-1]]
    three = as_version3(two)
    three = {new: data for (new, data), old in zip(three.items(), two, strict=True) if old not in lacking}
    three["CellData/chest_xray/train/PNEUMONIA/VIRUS-77-0001.jpeg"] = encode_jpeg(
        film("virus", patient=77, size=(64, 72))
    )
    summary, out = make(tmp_path, two, three)
    assert len(out.films) == len(two) + 1
    assert [each.films - each.matched for each in summary.sources] == [len(two), 1]
    assert all(each.patient.isdecimal() for each in out.films), (
        "a film that only version 2 has keeps its patient's number"
    )


def test_a_film_or_patient_of_any_test_part_is_never_trained_on(tmp_path: Path) -> None:
    two = small_films()
    three = {}  # here the first two patients' first films are the test part, and all others are train
    for name, content in as_version3(two).items():
        first = ("4000001-0001", "4000002-0001")
        part = "test" if any(number in name for number in first) else "train"
        three[re.sub("/(train|test)/", f"/{part}/", name)] = content
    _, out = make(tmp_path, two, three)
    tested = {Path(name).name for name in two | three if "/test/" in name}
    for each in out.films:
        names = {Path(part).name for part in each.source.split(" | ")}
        assert (each.split == "test") == bool(names & tested)
    assert all(len(held) == 1 for held in splits_of(out, "patient").values())
    left_out = card_of(out).refused
    assert {each.reason for each in left_out} == {"its patient, or an identical film, is also in a test part"}


def test_exact_duplicates_stay_but_lie_in_one_split(tmp_path: Path) -> None:
    members = small_films(9)
    copies = {}
    for number, (name, data) in enumerate(sorted(members.items())):
        if "/train/" in name and "NORMAL" in name:
            copies[f"chest_xray/train/NORMAL/IM-{900 + number:04d}-0001.jpeg"] = data
    summary, out = make(tmp_path / "kept", members | copies)
    assert len(out.films) == len(members) + len(copies)
    assert all(len(held) == 1 for held in splits_of(out, "luma_sha256").values())
    assert sorted(len(group.films) for group in summary.duplicates) == [2] * len(copies)
    assert card_of(out).duplicates == summary.duplicates
    dropped, out = make(tmp_path / "dropped", members | copies, drop_duplicates=True)
    assert len(out.films) == len(members)
    assert dropped.duplicates == summary.duplicates
    assert not dropped.refused


def test_duplicates_are_matched_one_to_one_across_sources(tmp_path: Path) -> None:
    two = small_films()
    name, data = next(each for each in two.items() if "/train/" in each[0] and "virus" in each[0])
    twice = two | {name.replace("person1_virus", "person900_virus"): data}
    three = as_version3(twice)
    assert len(make(tmp_path / "both", twice, three)[1].films) == len(twice)
    assert len(make(tmp_path / "one", two, three)[1].films) == len(twice)
    assert len(make(tmp_path / "other", twice, as_version3(two))[1].films) == len(twice)


def test_conflicting_labels_are_left_out_unless_kept(tmp_path: Path) -> None:
    two = small_films()
    name, data = next(each for each in two.items() if "/train/" in each[0] and "virus" in each[0])
    across = {f"chest_xray/train/PNEUMONIA/BACTERIA-{number}-0001.jpeg": data for number in (1, 2)}
    summary, out = make(tmp_path / "left", two, across)
    assert len(out.films) == len(two) - 1
    reason = "conflicting labels: the same pixels are called bacteria and virus (--keep-conflicts keeps them)"
    assert Counter(each.reason for each in summary.refused) == {reason: 3}
    assert name in {each.name for each in summary.refused}
    summary, out = make(tmp_path / "kept", two, across, keep_conflicts=True)
    assert len(out.films) == len(two) + 2
    assert not summary.refused
    assert all(len(held) == 1 for held in splits_of(out, "luma_sha256").values())


def test_a_conflicting_test_film_still_keeps_its_patient_from_train(tmp_path: Path) -> None:
    two = small_films()
    name, data = next(each for each in two.items() if "person3_virus" in each[0])  # in the test part
    two["chest_xray/train/PNEUMONIA/person3_virus_77.jpeg"] = encode_jpeg(film("virus", patient=3, shot=9))
    two = {each: held for each, held in two.items() if "person3_virus" not in each or each == name or "_77" in each}
    two["chest_xray/train/PNEUMONIA/person900_bacteria_1.jpeg"] = data
    _, out = make(tmp_path, two)
    assert not [each for each in out.films if each.patient == "virus/person3"]


def test_near_duplicates_are_listed_grouped_and_merged_only_on_request(tmp_path: Path) -> None:
    two = small_films()
    lossy = as_version3({name: stored_anew(data, quality=60) for name, data in two.items()})
    summary, out = make(tmp_path / "listed", two, lossy)
    assert [each.matched for each in summary.sources] == [0, 0]
    pairs = {frozenset(part.partition(":")[0] for part in pair.films) for pair in summary.near_duplicates}
    assert len(summary.near_duplicates) >= 36
    assert frozenset({"v2.zip", "v3.zip"}) in pairs
    assert all(pair.distance <= NEAR_DISTANCE and not pair.merged for pair in summary.near_duplicates)
    assert len(out.films) == 72
    test_names = {each.source for each in out.films if each.split == "test"}
    for pair in summary.near_duplicates:
        if pair.distance <= 4:  # surely the same film
            assert (pair.films[0] in test_names) == (pair.films[1] in test_names)
    merged, out = make(tmp_path / "merged", two, lossy, merge_near=True)
    assert len(out.films) == 36
    assert sum(pair.merged for pair in merged.near_duplicates) == 36
    assert all(each.patient.isdecimal() and " | " in each.source for each in out.films)
    for each in out.films:  # every film met itself, not a look-alike
        old, new = each.source.split(" | ")
        assert as_version3(two)[new.partition(":")[2]] == two[old.partition(":")[2]]


def test_a_re_encoded_test_film_of_another_source_is_left_out_of_train(tmp_path: Path) -> None:
    two = small_films()
    name, data = next(each for each in two.items() if "/test/" in each[0] and "virus" in each[0])
    other = {"chest_xray/train/PNEUMONIA/VIRUS-99-0001.jpeg": stored_anew(data, quality=70)}
    summary, out = make(tmp_path, two, other)
    assert [each.name for each in summary.refused] == list(other)
    assert name.rpartition("/")[2] in {Path(each.path).name for each in out.split("test")}


def test_the_same_union_gives_the_same_manifest(tmp_path: Path) -> None:
    two = small_films()
    texts = [
        (make(tmp_path / str(number), two, as_version3(two), stress=True)[1].root / "manifest.csv").read_bytes()
        for number in range(2)
    ]
    assert texts[0] == texts[1]


def test_sources_of_one_name_are_told_apart(tmp_path: Path) -> None:
    two = small_films()
    paths = []
    for number, members in enumerate((two, as_version3(two))):
        (tmp_path / str(number)).mkdir()
        paths.append(make_zip(tmp_path / str(number) / "a.zip", members))
    summary = prepare(paths, tmp_path / "out", PrepareConfig(val_fraction=0.25))
    assert [(each.name, each.matched) for each in summary.sources] == [("a.zip", 0), ("a.zip#2", 36)]


@given(
    bits=st.lists(st.lists(st.integers(0, 255), max_size=8), min_size=0, max_size=12),
    distance=st.integers(0, 8),
)
@settings(deadline=None)
def test_near_pairs_are_exactly_those_within_the_distance(bits: list[list[int]], distance: int) -> None:
    """Hashes made by flipping a few bits of one hash, against comparing all with all."""
    table = np.random.default_rng(0).integers(0, 2, 256).astype(np.uint8)
    rows = []
    for flips in bits:
        row = table.copy()
        row[flips] ^= 1
        rows.append(row)
    hashes = [np.packbits(row).tobytes().hex() for row in rows]
    wanted = {
        (one, other, int((rows[one] != rows[other]).sum()))
        for other in range(len(rows))
        for one in range(other)
        if (rows[one] != rows[other]).sum() <= distance
    }
    found = near_pairs(hashes, distance=distance)
    assert {(pair.first, pair.second, pair.distance) for pair in found} == wanted
    assert [pair.distance for pair in found] == sorted(pair.distance for pair in found)


def test_a_perceptual_hash_survives_storage_and_tells_patients_apart() -> None:
    def bits(luma: Any) -> int:
        return int(perceptual_hash(luma), 16)

    lumas = [film("normal", patient=patient) for patient in range(12)]
    for luma in lumas:
        small = np.asarray(Image.fromarray(luma).resize((luma.shape[1] // 2, luma.shape[0] // 2)))
        for changed in (read_luma(encode_jpeg(luma, quality=40)), small):
            assert (bits(luma) ^ bits(changed)).bit_count() <= NEAR_DISTANCE
    apart = [(bits(one) ^ bits(other)).bit_count() for one in lumas for other in lumas if one is not other]
    assert min(apart) > NEAR_DISTANCE


def test_the_stress_split_is_validation_stored_alike_for_every_class(tmp_path: Path) -> None:
    members = {
        name: stored_anew(data) if "NORMAL" in name else data  # the encoding gives the class away
        for name, data in small_films(9).items()
    }
    summary, out = make(tmp_path, members, stress=True)
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
        facts = describe(data)
        assert (facts.format, facts.mode) == ("JPEG", "L")
        assert min(facts.width, facts.height) == 128
        assert each.path.startswith(f"stress/{each.label}/")
    assert len(tables) == 1
    assert {describe(out.read(each)).format for each in val} == {"JPEG", "PNG"}


def test_a_stress_split_is_passed_over_when_the_data_set_is_a_source_again(tmp_path: Path) -> None:
    _, out = make(tmp_path, small_films(9), stress=True)
    prepare([out.root], tmp_path / "again", PrepareConfig(val_fraction=0.25))
    assert len(load_dataset(tmp_path / "again").films) == len(out.films) - len(out.split("stress"))


def test_a_bundle_is_evaluated_on_the_stress_split(
    tiny_bundle: Path, phantom_folder: Path, tmp_path: Path, command: Callable[..., SimpleNamespace]
) -> None:
    prepare([phantom_folder], tmp_path / "data", PrepareConfig(val_fraction=0.25, stress=True))
    out = load_dataset(tmp_path / "data")
    done = command("evaluate", tiny_bundle, "--data", out.root, "--split", "stress", "--out", tmp_path / "report")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["n"] == len(out.split("val"))
    assert report["dataset"]["split"] == "stress"


@pytest.mark.skipif(not PRACTICE.exists(), reason="the real practice archive is not on this machine")
def test_the_real_union_is_5232_films_without_a_leak(tmp_path: Path) -> None:
    with zipfile.ZipFile(PRACTICE) as archive:
        two = {name: archive.read(name) for name in archive.namelist() if name.endswith(".jpeg")}
    three = as_version3(
        {name: data if number % 9 else stored_anew(data) for number, (name, data) in enumerate(two.items())}
    )
    paths = [PRACTICE, make_zip(tmp_path / "ZhangLabData.zip", three)]
    summary = prepare(paths, tmp_path / "out", PrepareConfig())
    out = load_dataset(tmp_path / "out")
    assert len(out.films) == len(two) == 5232
    assert [(each.films, each.matched) for each in summary.sources] == [(5232, 0), (5232, 5232)]
    assert not summary.refused
    assert not summary.near_duplicates
    assert len(out.split("test")) == 520
    for key in ("patient", "luma_sha256"):
        assert all(len(held) == 1 for held in splits_of(out, key).values())
    assert all(each.patient.isdecimal() for each in out.films)
