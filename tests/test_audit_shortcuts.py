"""The audit of what gives the class away: shortcut baselines and encodings; and how test films differ from train."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from audits import audit_leaks, codes
from pneumoscope.audit import Audit, audit
from pneumoscope.imaging import read_luma
from pneumoscope.phantom import encode_jpeg, film
from samples import REAL, encode, make_zip

ORIGINALS = REAL / "originals-160.zip"


def test_every_baseline_and_shift_has_its_interval_and_chance(clean_data: Path) -> None:
    found = audit(clean_data)
    rows = {(row.features, row.task, row.tested_on) for row in found.shortcuts}
    sets = ("metadata", "intensity", "border", "thumbnail")
    assert rows == {
        (f, t, on) for f in sets for t in ("classes", "pneumonia") for on in ("held-out folds", "test", "stress")
    }
    for row in found.shortcuts:
        assert 0 <= row.accuracy.low <= row.accuracy.value <= row.accuracy.high <= 1
        assert row.auroc.low <= row.auroc.value <= row.auroc.high
    counts = {
        label: sum(c.films for c in found.counts if c.label == label and c.split == "test") for label in found.classes
    }
    stress = next(r for r in found.shortcuts if (r.features, r.task, r.tested_on) == ("metadata", "classes", "stress"))
    assert stress.n == sum(row.films for row in found.counts if row.split == "val")
    chances = {row.chance for row in found.shortcuts if row.tested_on == "test" and row.task == "classes"}
    assert chances == {round(max(counts.values()) / sum(counts.values()), 4)}
    assert {(row.label, row.features) for row in found.shifts} == {(label, f) for label in found.classes for f in sets}


def test_phantoms_show_no_encoding_difference(clean_data: Path) -> None:
    found = audit_leaks(clean_data)
    assert not any(code.startswith("encoding-differs") for code in codes(found))
    assert found.not_measured == ("the shortcut baselines and shifts: not requested",)
    assert not found.shortcuts


def test_an_encoding_that_reveals_the_class_is_a_warning(phantom_members: dict[str, bytes], tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[305] = "a scanner"
    stored = {
        name: encode(Image.fromarray(read_luma(held)), "JPEG", quality=96, exif=tags) if "NORMAL" in name else held
        for name, held in phantom_members.items()
    }
    found = audit(make_zip(tmp_path / "a.zip", stored))
    assert {"shortcut-metadata-pneumonia", "encoding-differs-train"} <= codes(found, "warning")
    meaning = next(each.meaning for each in found.findings if each.code == "encoding-differs-train")
    assert "EXIF in 100 % of normal and 0 % of bacteria" in meaning
    assert "JPEG quality about 96 in normal and 85 in bacteria" in meaning
    best = next(r for r in found.shortcuts if (r.features, r.task, r.tested_on) == ("metadata", "pneumonia", "test"))
    assert best.accuracy.value > 0.95


def test_a_class_of_few_films_gives_no_encoding_warning(tmp_path: Path) -> None:
    films = {f"ill/{n}.png": encode(Image.fromarray(film("virus", patient=n, size=(210, 230)))) for n in range(19)}
    films |= {f"well/{n}.jpeg": encode_jpeg(film("normal", patient=n, size=(210, 230))) for n in range(30)}
    assert not any(
        code.startswith("encoding-differs") for code in codes(audit_leaks(make_zip(tmp_path / "a.zip", films)))
    )
    films["ill/more.png"] = encode(Image.fromarray(film("virus", patient=99, size=(210, 230))))
    assert "encoding-differs-all" in codes(audit_leaks(make_zip(tmp_path / "b.zip", films)))


def test_a_rare_class_that_metadata_reveal_is_a_warning(tmp_path: Path) -> None:
    films = {f"ill/{n:03d}.png": encode(Image.fromarray(film("virus", patient=n, size=(210, 230)))) for n in range(120)}
    films |= {f"well/{n}.jpeg": encode_jpeg(film("normal", patient=n, size=(210, 230))) for n in range(8)}
    found = audit(make_zip(tmp_path / "a.zip", films))
    assert "shortcut-metadata-classes" in codes(found, "warning")


def test_a_test_part_that_differs_from_train_is_a_warning(phantom_members: dict[str, bytes], tmp_path: Path) -> None:
    stored = {
        name: encode_jpeg((read_luma(held) // 4 + 150).astype(np.uint8)) if "/test/NORMAL" in name else held
        for name, held in phantom_members.items()
    }
    found = audit(make_zip(tmp_path / "a.zip", stored))
    shifted = {(row.label, row.features) for row in found.shifts if row.auroc.low > 0.9}
    assert ("normal", "intensity") in shifted
    assert not {label for label, _ in shifted} - {"normal"}
    assert "shift-intensity-normal" in codes(found, "warning")


def test_without_test_normals_pneumonia_or_not_is_no_task(phantom_members: dict[str, bytes], tmp_path: Path) -> None:
    some = {name: held for name, held in phantom_members.items() if "/test/NORMAL" not in name}
    found = audit(make_zip(tmp_path / "a.zip", some))
    tested = {row.task for row in found.shortcuts if row.tested_on == "test"}
    assert tested == {"classes"}, "without normals there is no task of pneumonia or not"
    assert {row.label for row in found.shifts} == {"bacteria", "virus"}
    Audit.model_validate_json(found.model_dump_json())


def test_a_class_with_one_patient_that_fills_a_fold(phantom_members: dict[str, bytes], tmp_path: Path) -> None:
    """Three patients, one of them in both splits: some training fold has films of one split only."""
    films = {name: held for name, held in phantom_members.items() if "NORMAL" not in name}
    shots = {
        patient: [encode_jpeg(film("normal", patient=patient, shot=shot)) for shot in range(10)]
        for patient in (1, 2, 3)
    }
    films["chest_xray/test/NORMAL/IM-0001-0001.jpeg"] = shots[1][0]
    films |= {f"chest_xray/{('train', 'test')[s % 2]}/NORMAL/IM-0002-{s:04d}.jpeg": shots[2][s] for s in range(10)}
    films["chest_xray/train/NORMAL/IM-0003-0001.jpeg"] = shots[3][0]
    found = audit(make_zip(tmp_path / "a.zip", films))
    assert {row.label for row in found.shifts} == {"bacteria", "normal", "virus"}
    assert "patient-crosses-splits" in codes(found, "error")


@pytest.mark.skipif(not ORIGINALS.exists(), reason="the real originals are not on this machine")
def test_the_real_originals_show_the_encoding_leak(tmp_path: Path) -> None:
    found = audit(ORIGINALS, tmp_path / "audit")
    best = next(row for row in found.shortcuts if (row.features, row.task) == ("metadata", "pneumonia"))
    assert best.accuracy.low > 0.9
    assert {"shortcut-metadata-pneumonia", "encoding-differs-train"} <= codes(found, "warning")
    assert not codes(found, "error")
