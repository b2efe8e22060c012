"""Label files: tables of public and of other sets, the film that a row names, and what needs an option."""

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pneumoscope.dataset import Dataset, PrepareConfig, PrepareSummary, load_dataset, prepare
from pneumoscope.dataset.labels import NO_ROW
from pneumoscope.dataset.manifest import CARD_FILE
from pneumoscope.errors import DatasetError, UsageError
from twins import Twin, chexpert, covidx, lines, mimic, nih, padchest, pcxr, rsna, shenzhen, vindr

TWINS: dict[str, tuple[Callable[[Path], Twin], dict[str, int]]] = {
    "nih": (nih, {"normal": 9, "pneumonia": 18}),
    "rsna": (rsna, {"normal": 8, "pneumonia": 8}),
    "chexpert": (chexpert, {"normal": 8, "pneumonia": 4}),
    "mimic": (mimic, {"normal": 14, "pneumonia": 16}),
    "vindr": (vindr, {"normal": 10, "pneumonia": 10}),
    "pcxr": (pcxr, {"normal": 5, "pneumonia": 10}),
    "covidx": (covidx, {"normal": 10, "pneumonia": 10, "COVID-19": 10}),
    "shenzhen": (shenzhen, {"normal": 10, "tuberculosis": 10}),
    "padchest": (padchest, {"normal": 5, "pneumonia": 10}),
}


def make(twin: Twin, **settings: Any) -> tuple[PrepareSummary, Dataset]:
    settings = {"labels": twin.labels, "val_fraction": 0.25, "test_fraction": 0.25} | settings
    summary = prepare([twin.source], twin.root / "out", PrepareConfig(**settings))
    return summary, load_dataset(twin.root / "out")


def refused(twin: Twin, **settings: Any) -> str:
    with pytest.raises(UsageError) as caught:
        make(twin, **settings)
    assert not (twin.root / "out").exists()
    return str(caught.value)


def own(root: Path, findings: list[str], *, header: str = "Filename;Finding;Patient", name: str = "own.csv") -> Twin:
    """An unknown set: at least twelve films, two per patient, and a table with semicolons."""
    twin = Twin(root)
    rows = []
    for number in range(max(12, len(findings))):
        twin.film(f"all/{number}.png", str(number // 2))
        rows.append((f"{number}.png", findings[number % len(findings)], number // 2))
    twin.table(name, lines(header.split(";"), rows, ";"))
    return twin


COLUMNS: dict[str, Any] = {"image_column": "filename", "label_column": ("finding",), "patient_column": "patient"}


@pytest.mark.parametrize("name", TWINS)
def test_a_public_set_is_prepared_with_one_command(
    name: str, tmp_path: Path, command: Callable[..., SimpleNamespace]
) -> None:
    build, classes = TWINS[name]
    twin = build(tmp_path)
    options = [part for path in twin.labels for part in ("--labels", path)]
    fractions = ("--val-fraction", "0.25", "--test-fraction", "0.25")
    done = command("data", "prepare", twin.source, "--out", tmp_path / "out", *options, *fractions)
    made = load_dataset(tmp_path / "out")
    assert Counter(film.label for film in made.films) == classes, done.err
    assert f"({', '.join(path.name for path in twin.labels)}): " in done.out
    splits = defaultdict(set)
    for film in made.films:
        splits[twin.patients[Path(film.path).stem.partition("~")[0]]].add(film.split)
    if name != "chexpert":  # all its films have the same name
        assert all(len(held) == 1 for held in splits.values())
    parts = defaultdict(set)
    for film in made.films:
        parts[film.patient].add(film.split)
    assert all(len(held) == 1 for held in parts.values())
    assert all(made.split(split) for split in ("train", "val", "test"))


def test_published_splits_are_kept(tmp_path: Path) -> None:
    lists = make(nih(tmp_path / "nih"))[1]
    assert {film.patient for film in lists.split("test")} == {"10", "12"}  # 11 has no class
    tables = make(mimic(tmp_path / "mimic"))[1]
    assert {film.patient for film in tables.split("test")} == {"10000002", "10000005"}
    files = make(vindr(tmp_path / "vindr"))[1]
    assert {film.source.partition(":")[2].partition("/")[0] for film in files.split("test")} == {"test"}


def test_films_that_are_left_out_are_listed_with_their_reason(tmp_path: Path) -> None:
    reasons = Counter(each.reason for each in make(mimic(tmp_path / "mimic"))[0].refused)
    assert reasons == {"its view in the label files is not frontal": 16, "its row in the label files has no label": 2}
    twin = rsna(tmp_path / "rsna")
    twin.labels[1].write_text(twin.labels[1].read_text() + "gone,Normal\n")
    summary = make(twin, labels=twin.labels[1:])[0]
    assert Counter(each.reason for each in summary.refused) == {"its label does not belong to a class": 8, NO_ROW: 1}
    assert summary.without_file == 1
    readers = vindr(tmp_path / "vindr")
    text = readers.labels[0].read_text().splitlines()
    text[3] = text[3].replace("R2", "R9").rpartition(",")[0] + ",0"  # the first film keeps one reader's finding
    readers.labels[0].write_text("\n".join(text))
    (refused,) = make(readers)[0].refused
    assert refused.reason == "none of its labels was given by more than half of its readers"


def test_boxes_alone_do_not_give_the_class_normal(tmp_path: Path) -> None:
    twin = rsna(tmp_path)
    assert make(twin, labels=twin.labels[:1])[1].classes == ("no-pneumonia", "pneumonia")


def test_a_missing_part_of_a_table_is_named(tmp_path: Path) -> None:
    twin = mimic(tmp_path)
    assert "MIMIC-CXR: no column 'dicom_id'" in refused(twin, labels=twin.labels[:1])
    assert "MIMIC-CXR: no column 'ViewPosition'" in refused(twin, labels=[twin.labels[0], twin.labels[2]])
    other = twin.table("other.csv", "a,b\n1,2\n")
    message = refused(twin, labels=[*twin.labels[:2], other], view_column="b")
    assert "other.csv shares no column with mimic-cxr-2.0.0-metadata.csv" in message


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_any_delimiter_and_unicode_form(delimiter: str, encoding: str, tmp_path: Path) -> None:
    twin = own(tmp_path, ["Fièvre", "gesund"])
    text = twin.labels[0].read_text().replace(";", delimiter)
    twin.labels[0].write_text(text, encoding=encoding)
    assert make(twin, **COLUMNS)[1].classes == ("Fièvre", "gesund")


def test_columns_are_matched_without_regard_to_case_and_spaces(tmp_path: Path) -> None:
    twin = own(tmp_path, ["ill", "well"], header=" File  Name;FINDING; Patient ")
    made = make(twin, **(COLUMNS | {"image_column": "file name"}))[1]
    assert {film.patient for film in made.films} == set(map(str, range(6)))


def test_an_unknown_table_needs_options(tmp_path: Path) -> None:
    message = refused(own(tmp_path, ["ill", "well"]))
    assert "name their columns with --image-column and --label-column" in message
    assert "filename, finding, patient" in message
    assert "CheXpert" in message


@pytest.mark.parametrize(
    ("findings", "message"),
    [
        (["ill|tired", "well"], "6 images have several labels, up to 2; pass --several"),
        (["ill, tired; cold", "well"], "--several"),
        ([f"finding {number}" for number in range(24)], "24 different labels in 'finding'"),
        (["No Opacity / Not Normal", "well"], "cannot be a class.*--label-map"),
        (["..", "well"], "cannot be a class.*--label-map"),
        (["Well", "well"], "classes differ in case.*'Well' .6 films. and 'well'.*--merge-classes"),
    ],
)
def test_ambiguous_labels_need_an_option(findings: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        make(own(tmp_path, findings), **COLUMNS)


def test_several_labels_by_option(tmp_path: Path) -> None:
    twin = own(tmp_path, ["ill|tired", "well", "ill"])
    skipped = make(twin, several="skip", **COLUMNS)[0]
    assert {each.reason for each in skipped.refused} == {"it has several labels (--several skip)"}
    whole = own(tmp_path / "whole", ["ill, tired", "well"])
    assert make(whole, several="whole", **COLUMNS)[1].classes == ("ill, tired", "well")
    both = own(tmp_path / "both", ["ill|well", "well", "ill"])
    reasons = {each.reason for each in make(both, several="mapped", **COLUMNS)[0].refused}
    assert reasons == {"its labels belong to several classes"}


def test_a_map_gives_columns_and_classes(tmp_path: Path) -> None:
    twin = own(tmp_path, ["Flu", "cold, mild", "fit"])
    rule = tmp_path / "map.toml"
    rule.write_text(
        'image = "filename"\nlabels = ["finding"]\n[classes]\nwell = ["Fit"]\nill = ["flu", "cold, mild"]\n'
    )
    summary, made = make(twin, label_map=rule)
    assert Counter(film.label for film in made.films) == {"ill": 8, "well": 4}
    assert "labels of the table (own.csv): well = Fit; ill = flu or cold, mild" in str(summary.labels)
    card = (made.root / CARD_FILE).read_text()
    assert '"own.csv"' in card
    assert '"map.toml"' in card
    assert str(tmp_path) not in card
    rule.write_text('[classes]\nill = ["*"]\nwell = ["no  finding"]')
    assert make(nih(tmp_path / "nih"), label_map=rule)[1].classes == ("ill", "well")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[classes]\nill = ["flue"]\nwell = ["fit"]',
            "no image has 'flue', the findings of class 'ill'; change them by --label-map",
        ),
        ('[classes]\nill = ["flu"]\nwell = ["Flu"]', "'flu' is a finding of two classes"),
        ('[classes]\n"a/b" = ["flu"]', "'a/b' cannot be a class"),
        ('[classes]\n"a." = ["flu"]', "'a.' cannot be a class"),
        (f'[classes]\n{"肺" * 34!r} = ["flu"]', "a class has a name of 1 to 100 bytes"),
        ("colums = []", "field 'colums' is not known"),
        ("= 1", "is not a TOML file"),
    ],
)
def test_mistakes_in_a_map_are_named(text: str, message: str, tmp_path: Path) -> None:
    twin = own(tmp_path, ["flu", "fit"])
    (tmp_path / "map.toml").write_text(text)
    assert message in refused(twin, label_map=tmp_path / "map.toml", **COLUMNS)


def test_yes_and_no_columns_of_an_unknown_table(tmp_path: Path) -> None:
    twin = own(tmp_path, ["yes;no", "No;TRUE", "0;1.0", "true;-1"], header="Filename;Ill;Well;Patient")
    twin.labels[0].write_text(twin.labels[0].read_text().replace('"', ""))
    columns = {"image_column": "filename", "label_column": ("ill", "well")}
    assert Counter(film.label for film in make(twin, **columns)[1].films) == {"ill": 6, "well": 6}
    twin.labels[0].write_text(twin.labels[0].read_text().replace("yes", "maybe"))
    with pytest.raises(UsageError, match="column 'ill' of the label files contains 'maybe'"):
        prepare([twin.source], tmp_path / "other", PrepareConfig(labels=tuple(twin.labels), **columns))


def test_split_and_view_columns(tmp_path: Path) -> None:
    twin = own(tmp_path, ["ill", "well"], header="Filename;Finding;Patient")
    rows = []
    for number in range(12):
        part = ("Training", "A", "testing set")[number // 4]
        rows.append((f"{number}.png", "ill" if number % 2 else "well", part, "AP supine" if number else "lateral"))
    table = twin.table("parts.csv", lines(("filename", "finding", "part", "view"), rows))
    settings = COLUMNS | {"labels": [table], "patient_column": None, "split_column": "part", "view_column": "view"}
    assert "the split column contains 'A'; pass --split-folder \"A=train\"" in refused(twin, **settings)
    typo = "no source has a folder of this name, and no label file names it as a split or a folder"
    assert typo in refused(twin, split_folders={"a": "val", "testing": "test"}, **settings)
    summary, made = make(twin, split_folders={"a": "val"}, **settings)
    assert {Path(film.path).stem for film in made.split("test")} == {"8", "9", "10", "11"}
    assert [each.reason for each in summary.refused] == ["its view in the label files is not frontal"]
    assert "no column 'parts'" in refused(own(tmp_path / "two", ["a"]), **(COLUMNS | {"split_column": "parts"}))


def test_rows_name_files_by_as_many_folders_as_they_need(tmp_path: Path) -> None:
    twin = Twin(tmp_path)
    rows = []
    for number in range(12):
        twin.film(f"export/p{number // 2}/s1/{number % 2}.PNG")
        rows.append((rf"old\disk\P{number // 2}\s1\{number % 2}.jpg", "ill" if number % 3 else "well"))
    twin.table("own.tsv", lines(("filename", "finding"), rows, "\t"))
    settings = {"image_column": "filename", "label_column": ("finding",)}
    assert len(make(twin, **settings)[1].films) == 12


def test_two_files_for_one_row_are_an_error(tmp_path: Path) -> None:
    twin = own(tmp_path, ["ill", "well"])
    twin.film("copies/3.png")
    assert "1 images of the label files fit several files each" in refused(twin, **COLUMNS)
    summary = make(twin, exclude=("copies",), **COLUMNS)[0]
    assert summary.sources[0].excluded == 1
    assert summary.refused == ()


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    twin = own(tmp_path, ["ill", "well"])
    for content, words in (
        (b"", "is empty"),
        (b"PK\x03\x04rest", "is a workbook or an archive"),
        (b"filename\nx\ny\n", "is not a table: its first line has one value"),
        (b"filename,finding\n1.png,\xff\n", "is not UTF-8.*--name-encoding"),
        (b"filename,finding\n1.png,a,b\n", "line 2 has 3 values, but there are 2 columns"),
        (b"\x1f\x8bnothing", "cannot be read"),
        (b"1.png\n2.png\n", "lists of images contain no labels"),
        (b"filename,finding\nx.png,ill\n", "the label files name none of the files"),
    ):
        (tmp_path / "bad.csv").write_bytes(content)
        with pytest.raises(UsageError, match=words):
            make(twin, labels=[tmp_path / "bad.csv"], image_column="filename", label_column=("finding",))


def test_options_of_label_files_need_label_files(tmp_path: Path) -> None:
    twin = own(tmp_path, ["ill", "well"])
    assert refused(twin, labels=[], **COLUMNS) == "--image-column needs label files; pass them by --labels FILE."


def test_rows_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    twin = own(tmp_path, ["ill", "well"])
    twin.labels[0].write_text(twin.labels[0].read_text() + "0.png;ill;99\n")
    assert "'0.png', have rows of different patients" in refused(twin, **COLUMNS)


def test_without_class_folders_the_error_names_label_files(tmp_path: Path) -> None:
    twin = own(tmp_path, ["ill", "well"])
    with pytest.raises(DatasetError, match=r"only one class found \(all\).*--labels FILE"):
        make(twin, labels=[])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"no usable image found.*--labels FILE"):
        prepare([tmp_path / "empty"], tmp_path / "out", PrepareConfig())


def test_dataset_cards_older_than_label_files_are_read(tmp_path: Path) -> None:
    made = make(own(tmp_path, ["ill", "well"]), **COLUMNS)[1]
    card = made.root / CARD_FILE
    text = card.read_text()
    start, end = text.index('    "split_folders"'), text.index('    "groups"')
    card.write_text(text[:start] + text[end:])
    assert load_dataset(made.root).classes == ("ill", "well")
    card.write_text(text.replace('    "seed": 0,\n', ""))
    with pytest.raises(DatasetError, match="seed"):
        load_dataset(made.root)
