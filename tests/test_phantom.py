from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pneumoscope.dataset.grammar import parse_version2
from pneumoscope.errors import UsageError
from pneumoscope.files import sha256_of
from pneumoscope.imaging import Luma, read_luma
from pneumoscope.phantom import FINDINGS, Finding, encode_jpeg, film, is_phantom, population, write_archive_folder


def test_the_same_arguments_give_the_same_pixels() -> None:
    np.testing.assert_array_equal(film("virus", patient=4, shot=2), film("virus", patient=4, shot=2))
    for other in (film("virus", patient=4, shot=3), film("virus", patient=5, shot=2)):
        assert (
            other.shape != film("virus", patient=4, shot=2).shape or (other != film("virus", patient=4, shot=2)).any()
        )


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_film_looks_like_a_chest(finding: Finding) -> None:
    """Dark lungs on both sides of a bright midline, under air at the upper corners."""
    luma = film(finding, patient=7, size=(300, 330)).astype(float)
    assert luma.shape == (300, 330)
    spine = luma[100:160, 155:175].mean()
    lungs = (luma[100:160, 80:110].mean(), luma[100:160, 220:250].mean())
    assert max(lungs) < spine - 25
    assert max(luma[:20, :8].mean(), luma[:20, -8:].mean()) < 60


def test_findings_look_different() -> None:
    """A consolidation brightens one region; an interstitial pattern roughens both lungs."""

    def roughness(finding: Finding) -> float:
        luma = film(finding, patient=11, size=(300, 330)).astype(float)
        return float(np.abs(np.diff(luma[90:170, 70:130], axis=1)).mean())

    assert roughness("virus") > 1.5 * roughness("normal")
    brightness = {
        finding: np.mean([_brightest_lung(film(finding, patient=patient, size=(300, 330))) for patient in range(1, 25)])
        for finding in _COMPARED
    }
    assert brightness["bacteria"] > brightness["normal"] + 8


_COMPARED: tuple[Finding, ...] = ("normal", "bacteria")


def _brightest_lung(luma: Luma) -> float:
    """The brightest of eight patches in the two lungs, against the film's own mean."""
    patches = [luma[row : row + 30, column : column + 40].mean() for row in (70, 105, 140, 170) for column in (70, 220)]
    return float(max(patches) - luma.mean())


def test_population_is_balanced_named_and_varied() -> None:
    phantoms = list(population(60, seed=1))
    assert Counter(phantom.finding for phantom in phantoms) == dict.fromkeys(FINDINGS, 20)
    assert len({phantom.name for phantom in phantoms}) == 60
    assert len({phantom.luma.shape for phantom in phantoms}) > 50
    for phantom in phantoms:
        identity = parse_version2(Path(phantom.name).stem)
        assert identity is not None
        assert identity.label == phantom.finding
    assert max(Counter(phantom.patient for phantom in phantoms).values()) > 1


def test_archive_folder_is_reproducible_and_split_by_patient(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_archive_folder(tmp_path / name, count=45, seed=9, overwrite=False)
    hashes = [
        {path.relative_to(tmp_path / name): sha256_of(path) for path in (tmp_path / name).rglob("*.jpeg")}
        for name in ("one", "two")
    ]
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 45
    parts: dict[str, set[str]] = {}
    for path in hashes[0]:
        identity = parse_version2(path.stem)
        assert identity is not None
        parts.setdefault(str(identity.patient), set()).add(path.parts[1])
    assert all(len(parts_of) == 1 for parts_of in parts.values())
    assert {patient.split("/")[0] for patient, parts_of in parts.items() if "test" in parts_of} == set(FINDINGS)


def test_every_film_of_an_archive_is_marked_as_drawn(tmp_path: Path) -> None:
    write_archive_folder(tmp_path / "one", count=45, overwrite=False)
    assert all(is_phantom(path.read_bytes()) for path in (tmp_path / "one").rglob("*.jpeg"))
    drawn = next((tmp_path / "one").rglob("*.jpeg")).read_bytes()
    assert not is_phantom(encode_jpeg(read_luma(drawn)))
    assert not is_phantom(b"")


def test_too_few_phantoms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 30"):
        write_archive_folder(tmp_path / "a", count=3, overwrite=False)
