"""Labels and patients, read from the names of files and folders."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumoscope.dataset.grammar import (
    Identity,
    Naming,
    follows_archive,
    identify,
    parse_published,
    parse_version2,
    parse_version3,
)
from pneumoscope.dataset.places import place


@pytest.mark.parametrize(
    ("stem", "label", "patient"),
    [
        ("person1000_virus_1681", "virus", "virus/person1000"),
        ("person1_bacteria_1", "bacteria", "bacteria/person1"),
        ("person447_virus_921_1", "virus", "virus/person447"),
        ("IM-0001-0001", "normal", "normal/IM-0001"),
        ("IM-0011-0001-0002", "normal", "normal/IM-0011"),
        ("NORMAL2-IM-0007-0001", "normal", "normal/NORMAL2-IM-0007"),
        ("person1_bacteria_1~0badcafe", "bacteria", "bacteria/person1"),
    ],
)
def test_version2_names(stem: str, label: str, patient: str) -> None:
    assert (
        parse_version2(stem) == parse_published(stem) == Identity(label=label, patient=patient, naming=Naming.VERSION2)
    )
    assert parse_version3(stem) is None


@pytest.mark.parametrize("stem", ["person1_fungus_1", "IM-0001", "VIRUS-1-2", "person_virus_1", "xIM-0001-0001", ""])
def test_other_names_are_not_version2(stem: str) -> None:
    assert parse_version2(stem) is None


@pytest.mark.parametrize(
    ("stem", "label", "patient"),
    [
        ("VIRUS-3637528-0002", "virus", "3637528"),
        ("BACTERIA-213622-0001", "bacteria", "213622"),
        ("NORMAL-28501-0001", "normal", "28501"),
        ("NORMAL-28501-0001~0badcafe", "normal", "28501"),
    ],
)
def test_version3_names(stem: str, label: str, patient: str) -> None:
    assert (
        parse_version3(stem) == parse_published(stem) == Identity(label=label, patient=patient, naming=Naming.VERSION3)
    )
    assert parse_version2(stem) is None


@pytest.mark.parametrize("stem", ["FUNGUS-1-1", "VIRUS-1", "VIRUS-1-1-1", "VIRUS--1", "person1_virus_1", ""])
def test_other_names_are_not_version3(stem: str) -> None:
    assert parse_version3(stem) is None


@given(number=st.integers(0, 10**6), film_number=st.integers(0, 10**6), label=st.sampled_from(["bacteria", "virus"]))
def test_version2_names_carry_label_and_number(number: int, film_number: int, label: str) -> None:
    found = parse_version2(f"person{number}_{label}_{film_number}")
    assert found == Identity(label=label, patient=f"{label}/person{number}", naming=Naming.VERSION2)


def test_places() -> None:
    assert place("chest_xray/chest_xray/Train/PNEUMONIA/a.jpeg").folder == "PNEUMONIA"
    assert place("data/val/cat/deep/er/a.jpeg").folder == "cat"
    assert place("data/val/cat/a.jpeg").part == "train"
    assert place("a.jpeg").folder is None


def test_folder_and_name_must_agree() -> None:
    def read(name: str) -> Identity | str:
        return identify(name, place(name).folder, archive=True, patient_pattern=None)

    assert read("NORMAL/person1_virus_1.jpeg") == "unknown label: the file name states virus, the folder NORMAL"
    assert read("PNEUMONIA/IM-0001-0001.jpeg") == "unknown label: the file name states normal, the folder PNEUMONIA"
    assert read("virus/person1_virus_1.jpeg") == Identity(
        label="virus", patient="virus/person1", naming=Naming.VERSION2
    )
    assert isinstance(read("PNEUMONIA/hello.jpeg"), str)
    assert follows_archive(["NORMAL/IM-0001-0001.jpeg"])
    assert not follows_archive(["cat/IM-0001-0001.jpeg"])
    assert read("figures/1.png") == "unknown label: figures is not one of the archive's class folders"


def test_patients_by_pattern() -> None:
    named = identify("cat/p7_1.png", "cat", archive=False, patient_pattern=re.compile(r"(?P<patient>p\d+)_"))
    assert named == Identity(label="cat", patient="p7", naming=Naming.PATTERN)
    assert identify("cat/p7_1.png", "cat", archive=False, patient_pattern=re.compile(r"p(\d+)")) == Identity(
        label="cat", patient="7", naming=Naming.PATTERN
    )
    assert "unknown patient" in str(identify("cat/x.png", "cat", archive=False, patient_pattern=re.compile(r"p\d+")))
