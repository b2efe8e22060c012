"""Several sources as one data set."""

import re
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pneumoscope.dataset import Dataset, PrepareConfig, load_dataset, prepare
from pneumoscope.dataset.likeness import NEAR_DISTANCE, near_pairs, perceptual_hash
from pneumoscope.dataset.manifest import DatasetCard
from pneumoscope.dataset.split import join
from pneumoscope.imaging import read_luma
from pneumoscope.phantom import encode_jpeg, film
from samples import REAL, as_version3, encode, make_zip, noise_film, prepare_archives, reencoded, small_films

TESTED = "its patient, or an identical or nearly identical film, is also in a test part"
PRACTICE = REAL / "ChestXRay2017-224-practice.zip"


def card_of(data: Dataset) -> DatasetCard:
    return DatasetCard.model_validate_json((data.root / "dataset.json").read_bytes())


def splits_of(data: Dataset, key: str) -> dict[str, set[str]]:
    splits = defaultdict(set)
    for each in data.films:
        splits[getattr(each, key)].add(each.split)
    return splits


@pytest.mark.parametrize("as_png", [False, True])
def test_the_union_of_both_versions_has_every_film_once(tmp_path: Path, *, as_png: bool) -> None:
    two = small_films()
    three = as_version3({name: reencoded(data) if as_png else data for name, data in two.items()})
    summary, out = prepare_archives(tmp_path, two, three)
    assert len(out.films) == len(two)
    assert [(each.films, each.matched) for each in summary.sources] == [(36, 0), (36, 36)]
    assert not summary.refused
    assert not summary.duplicates
    assert all(each.patient.isdecimal() for each in out.films)  # version 3's numbers
    assert all(each.source.startswith("v2.zip:chest_xray/") for each in out.films)
    assert all(" | v3.zip:CellData/" in each.source for each in out.films)
    assert all(len(held) == 1 for held in splits_of(out, "patient").values())
    alone = prepare_archives(tmp_path / "alone", two)[1]
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
    summary, out = prepare_archives(tmp_path, two, three)
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
    _, out = prepare_archives(tmp_path, two, three)
    tested = {Path(name).name for name in two | three if "/test/" in name}
    for each in out.films:
        names = {Path(part).name for part in each.source.split(" | ")}
        assert (each.split == "test") == bool(names & tested)
    assert all(len(held) == 1 for held in splits_of(out, "patient").values())
    left_out = card_of(out).refused
    assert {each.reason for each in left_out} == {TESTED}


def test_exact_duplicates_are_kept_in_one_split(tmp_path: Path) -> None:
    members = small_films(9)
    copies = {}
    for number, (name, data) in enumerate(sorted(members.items())):
        if "/train/" in name and "NORMAL" in name:
            copies[f"chest_xray/train/NORMAL/IM-{900 + number:04d}-0001.jpeg"] = data
    summary, out = prepare_archives(tmp_path / "kept", members | copies)
    assert len(out.films) == len(members) + len(copies)
    assert all(len(held) == 1 for held in splits_of(out, "luma_sha256").values())
    assert sorted(len(group.films) for group in summary.duplicates) == [2] * len(copies)
    assert card_of(out).duplicates == summary.duplicates
    dropped, out = prepare_archives(tmp_path / "dropped", members | copies, drop_duplicates=True)
    assert len(out.films) == len(members)
    assert dropped.duplicates == summary.duplicates
    assert not dropped.refused


def test_duplicates_are_matched_one_to_one_across_sources(tmp_path: Path) -> None:
    two = small_films()
    name, data = next(each for each in two.items() if "/train/" in each[0] and "virus" in each[0])
    twice = two | {name.replace("person1_virus", "person900_virus"): data}
    three = as_version3(twice)
    assert len(prepare_archives(tmp_path / "both", twice, three)[1].films) == len(twice)
    assert len(prepare_archives(tmp_path / "one", two, three)[1].films) == len(twice)
    assert len(prepare_archives(tmp_path / "other", twice, as_version3(two))[1].films) == len(twice)


def test_conflicting_labels_are_left_out_unless_kept(tmp_path: Path) -> None:
    two = small_films()
    name, data = next(each for each in two.items() if "/train/" in each[0] and "virus" in each[0])
    across = {f"chest_xray/train/PNEUMONIA/BACTERIA-{number}-0001.jpeg": data for number in (1, 2)}
    summary, out = prepare_archives(tmp_path / "left", two, across)
    assert len(out.films) == len(two) - 1
    reason = "conflicting labels: the same pixels are labelled bacteria and virus (--keep-conflicts keeps them)"
    assert Counter(each.reason for each in summary.refused) == {reason: 3}
    assert name in {each.name for each in summary.refused}
    summary, out = prepare_archives(tmp_path / "kept", two, across, keep_conflicts=True)
    assert len(out.films) == len(two) + 2
    assert not summary.refused
    assert all(len(held) == 1 for held in splits_of(out, "luma_sha256").values())


def test_a_conflicting_test_film_still_keeps_its_patient_out_of_train(tmp_path: Path) -> None:
    two = small_films()
    name, data = next(each for each in two.items() if "person3_virus" in each[0])  # in the test part
    two["chest_xray/train/PNEUMONIA/person3_virus_77.jpeg"] = encode_jpeg(film("virus", patient=3, shot=9))
    two = {each: held for each, held in two.items() if "person3_virus" not in each or each == name or "_77" in each}
    two["chest_xray/train/PNEUMONIA/person900_bacteria_1.jpeg"] = data
    _, out = prepare_archives(tmp_path, two)
    assert not [each for each in out.films if each.patient == "virus/person3"]


def test_near_duplicates_are_listed_grouped_and_merged_only_on_request(tmp_path: Path) -> None:
    two = small_films()
    lossy = as_version3({name: reencoded(data, quality=60) for name, data in two.items()})
    summary, out = prepare_archives(tmp_path / "listed", two, lossy)
    assert [each.matched for each in summary.sources] == [0, 0]
    pairs = {frozenset(part.partition(":")[0] for part in pair.films) for pair in summary.near_duplicates}
    assert len(summary.near_duplicates) >= 36
    assert frozenset({"v2.zip", "v3.zip"}) in pairs
    assert all(pair.distance <= NEAR_DISTANCE and not pair.merged for pair in summary.near_duplicates)
    assert len(out.films) == 72
    split_of = {each.source: each.split for each in out.films}
    for pair in summary.near_duplicates:
        assert split_of[pair.films[0]] == split_of[pair.films[1]]
    merged, out = prepare_archives(tmp_path / "merged", two, lossy, merge_near=True)
    assert len(out.films) == 36
    assert sum(pair.merged for pair in merged.near_duplicates) == 36
    assert all(each.patient.isdecimal() and " | " in each.source for each in out.films)
    for each in out.films:  # every film was matched with itself, not with a similar one
        old, new = each.source.split(" | ")
        assert as_version3(two)[new.partition(":")[2]] == two[old.partition(":")[2]]


def test_a_re_encoded_test_film_of_another_source_is_left_out_of_train(tmp_path: Path) -> None:
    two = small_films()
    name, data = next(each for each in two.items() if "/test/" in each[0] and "virus" in each[0])
    other = {"chest_xray/train/PNEUMONIA/VIRUS-99-0001.jpeg": reencoded(data, quality=70)}
    summary, out = prepare_archives(tmp_path, two, other)
    assert [each.name for each in summary.refused] == list(other)
    assert name.rpartition("/")[2] in {Path(each.path).name for each in out.split("test")}


def test_a_re_encoded_test_film_is_left_out_whichever_source_has_it(tmp_path: Path) -> None:
    two = small_films()
    name, data = next(each for each in two.items() if "/test/" in each[0] and "virus" in each[0])
    other = {
        "chest_xray/train/PNEUMONIA/VIRUS-98-0001.jpeg": data,
        "chest_xray/train/PNEUMONIA/VIRUS-99-0001.jpeg": reencoded(data, quality=60),
    }
    summary, out = prepare_archives(tmp_path / "across", two, other)
    assert "chest_xray/train/PNEUMONIA/VIRUS-99-0001.jpeg" in {each.name for each in summary.refused}
    within = {"chest_xray/train/PNEUMONIA/person99_virus_99.jpeg": reencoded(data, quality=60)}
    summary, out = prepare_archives(tmp_path / "within", two | within)
    assert [each.name for each in summary.refused] == list(within)
    assert name.rpartition("/")[2] in {Path(each.path).name for each in out.split("test")}


def test_a_patient_with_an_unreadable_test_film_is_never_trained_on(tmp_path: Path) -> None:
    two = small_films(9)
    two["chest_xray/test/NORMAL/IM-0001-0009.jpeg"] = encode_jpeg(film("normal", patient=1, shot=9))[:400]
    summary, out = prepare_archives(tmp_path, two)
    assert not [each for each in out.films if each.patient == "normal/IM-0001"]
    reasons = Counter(each.reason for each in summary.refused)
    assert reasons[TESTED] == 2


def test_identical_films_of_two_patients_join_them(tmp_path: Path) -> None:
    films = {
        f"{part}/{label}/{patient}{label[0]}/{shot}.png": encode(Image.fromarray(noise_film(f"{label}{patient}{shot}")))
        for label in ("cat", "dog")
        for part, patients in (("train", ("p1", "p2", "p3")), ("test", ("p4",)))
        for patient in patients
        for shot in range(2)
    }
    same = encode(Image.fromarray(noise_film("same")))
    films |= {"train/cat/p1c/same.png": same, "test/cat/p4c/same.png": same}
    _, out = prepare_archives(tmp_path, films, patient_pattern=r"/(p\d[cd])/", class_folder="outermost")
    assert not [each for each in out.films if each.patient == "p1c"]
    assert len([each for each in out.films if each.split == "test" and each.label == "cat"]) == 3


def test_scans_of_the_retina_are_skipped(tmp_path: Path) -> None:
    three = as_version3(small_films())
    eyes = {
        f"CellData/OCT/train/NORMAL/NORMAL-{number}-1.jpeg": reencoded(held)
        for number, held in enumerate(three.values())
    }
    eyes |= {f"CellData/OCT/train/CNV/CNV-{number}-{shot}.jpeg": b"an eye" for number in range(30) for shot in range(3)}
    summary, out = prepare_archives(tmp_path, three | eyes)
    assert out.classes == ("bacteria", "normal", "virus")
    assert len(out.films) == len(three)
    assert summary.sources[0].films == 36
    assert summary.sources[0].refused == 0
    assert summary.sources[0].other_files == len(eyes)


def test_added_counts_the_films_in_the_data_set(tmp_path: Path) -> None:
    two = small_films()
    tested = {name: held for name, held in two.items() if "/test/" in name}
    again = {name.replace("/test/", "/train/"): reencoded(held, quality=70) for name, held in tested.items()}
    summary, _ = prepare_archives(tmp_path, two, again)
    assert [each.added for each in summary.sources] == [36, 0]


@pytest.mark.slow
def test_very_many_similar_films_give_a_list_of_bounded_length() -> None:
    table = np.random.default_rng(0).integers(0, 2, 256).astype(np.uint8)
    hashes = []
    for number in range(1500):
        row = table.copy()
        row[number % 256] ^= 1
        hashes.append(np.packbits(row).tobytes().hex())
    pairs = near_pairs(hashes)
    assert len(pairs) < 1500 * 32 * 17
    leader = join([[str(pair.first), str(pair.second)] for pair in pairs])
    assert len(set(leader.values())) == 1
    assert len(leader) == 1500


def test_the_same_union_gives_the_same_manifest(tmp_path: Path) -> None:
    two = small_films()
    folders = [tmp_path / "first", tmp_path / "second"]
    one, other = (prepare_archives(folder, two, as_version3(two), stress=True)[1] for folder in folders)
    assert (one.root / "manifest.csv").read_bytes() == (other.root / "manifest.csv").read_bytes()


def test_sources_of_the_same_name_get_numbers(tmp_path: Path) -> None:
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
    """Hashes with a few flipped bits of one hash; compared with a search of all pairs."""
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


def test_a_perceptual_hash_survives_re_encoding_and_distinguishes_patients() -> None:
    def bits(luma: Any) -> int:
        return int(perceptual_hash(luma), 16)

    lumas = [film("normal", patient=patient) for patient in range(12)]
    for luma in lumas:
        small = np.asarray(Image.fromarray(luma).resize((luma.shape[1] // 2, luma.shape[0] // 2)))
        for changed in (read_luma(encode_jpeg(luma, quality=40)), small):
            assert (bits(luma) ^ bits(changed)).bit_count() <= NEAR_DISTANCE
    apart = [(bits(one) ^ bits(other)).bit_count() for one in lumas for other in lumas if one is not other]
    assert min(apart) > NEAR_DISTANCE


@pytest.mark.slow
@pytest.mark.skipif(not PRACTICE.exists(), reason="the real practice archive is not on this machine")
def test_the_real_union_is_5232_films_without_a_leak(tmp_path: Path) -> None:
    with zipfile.ZipFile(PRACTICE) as archive:
        two = {name: archive.read(name) for name in archive.namelist() if name.endswith(".jpeg")}
    three = as_version3(
        {name: data if number % 9 else reencoded(data) for number, (name, data) in enumerate(two.items())}
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
