"""`pneumoscope predict` and `evaluate` on the command line: formats, exit codes, options and bad files."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from pneumoscope.contract import load_contract, save_contract
from pneumoscope.dataset import Dataset
from pneumoscope.engine import Engine
from pneumoscope.models import SHIPPED, shipped_bundle
from pneumoscope.phantom import encode_jpeg, film
from processes import peak_memory
from samples import assert_fails, coverage_row, parse_decision, png_header

Command = Callable[..., SimpleNamespace]
FILM = encode_jpeg(film("virus", patient=1))


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    (folder / "deeper").mkdir(parents=True)
    (folder / "a.jpeg").write_bytes(FILM)
    (folder / "deeper" / "b.JPG").write_bytes(FILM)
    (folder / "notes.txt").write_text("not a film")
    return folder


def test_json_is_one_document_per_line_and_nothing_else(command: Command, tiny_bundle: Path, films: Path) -> None:
    (films / "c.jpeg").write_bytes(b"text")
    refused = json.loads(command("predict", "--bundle", tiny_bundle, films / "c.jpeg", "--format", "json").out)
    assert parse_decision(refused).status == "rejected"
    (films / "c.jpeg").unlink()
    done = command("predict", "--bundle", tiny_bundle, films, "--format", "json")
    assert done.code == 0, done.err
    documents = [json.loads(line) for line in done.out.splitlines()]
    assert [Path(document["image"]).name for document in documents] == ["a.jpeg", "b.JPG"]
    assert {parse_decision(document).status for document in documents} == {"answered"}


def test_csv_and_table_have_one_row_per_image_file(command: Command, tiny_bundle: Path, films: Path) -> None:
    (films / "bad.png").write_text("text")
    (films / "._a.jpeg").write_text("a resource fork, which macOS leaves behind")
    (films / "zz.dcm").write_bytes(b"\0" * 128 + b"DICM")
    done = command("predict", "--bundle", tiny_bundle, films, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["status"] for row in rows] == ["answered", "rejected", "rejected", "answered"]
    assert float(rows[0]["p_bacteria"]) + float(rows[0]["p_normal"]) + float(rows[0]["p_virus"]) == pytest.approx(
        1, abs=1e-5
    )
    assert rows[1]["p_bacteria"] == ""
    assert rows[1]["reason_codes"] == "undecodable"
    assert rows[0]["prediction_set"] == rows[0]["label"]
    table = command("predict", "--bundle", tiny_bundle, films).out.splitlines()
    assert table[0].split() == ["status", "label", "bacteria", "normal", "virus", "pneumonia", "ms", "image"]
    assert [line.split()[0] for line in table[1:]] == ["answered", "rejected", "rejected", "answered"]


def test_without_a_bundle_the_shipped_one_is_used_and_named(command: Command, films: Path) -> None:
    shipped = load_contract(shipped_bundle())
    named = f"{SHIPPED} {shipped.version} (ships with the package)"
    done = command("predict", films)
    assert done.code == 1  # the films are drawings, which it rejects
    assert done.out.count("drawing or a logo") == 2
    assert done.err.splitlines()[0] == f"model: {named}", done.err
    for document in map(json.loads, command("predict", films, "--format", "json").out.splitlines()):
        assert document["model"]["sha256"] == shipped.files["model.onnx"]
    assert command("verify").out == f"{named}: 8 golden cases reproduced.\n"
    for name in ("predict", "serve", "verify", "evaluate"):
        shown = " ".join(command(name, "--help").out.split())
        assert f"by default {SHIPPED}, which ships with the package" in shown


def test_a_given_bundle_is_named_on_stderr_and_in_the_csv(command: Command, tiny_bundle: Path, films: Path) -> None:
    done = command("predict", films, "--bundle", tiny_bundle)
    assert done.err.splitlines()[0] == f"model: tiny 0.1.0 ({tiny_bundle})"
    (row, _) = csv.DictReader(io.StringIO(command("predict", films, "--bundle", tiny_bundle, "--format", "csv").out))
    assert row["model"].startswith("tiny 0.1.0 ")


def test_old_forms_of_commands_are_refused_and_the_new_ones_named(
    command: Command, tiny_bundle: Path, dataset: Dataset, films: Path, tmp_path: Path
) -> None:
    """A bundle among the image files must not be searched for them: its golden cases are image files."""
    moved = f"{tiny_bundle} is a bundle; pass it as --bundle {tiny_bundle}."
    assert_fails(command("predict", tiny_bundle, films), 2, moved)
    assert_fails(command("predict", films, tiny_bundle, "--bundle", tiny_bundle), 2, moved)
    assert_fails(command("verify", tiny_bundle), 2, moved)
    report = ("--out", tmp_path / "report")
    assert_fails(command("evaluate", tiny_bundle, *report), 2, moved)
    assert_fails(command("evaluate", dataset.root, tiny_bundle, *report), 2, moved)
    old = command("evaluate", tiny_bundle, "--data", dataset.root, *report)
    assert_fails(old, 2, "pneumoscope evaluate DATASET --bundle BUNDLE --out REPORT")


def test_predict_goes_on_past_bad_files_and_exits_with_1(command: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    files = {
        "1-text.png": b"I am text",
        "2-truncated.jpeg": FILM[: len(FILM) // 2],
        "3-huge.png": png_header(60_000, 60_000),
        "4-good.jpeg": FILM,
        "5-empty.jpeg": b"",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    done = command("predict", "--bundle", tiny_bundle, tmp_path, "--format", "json")
    assert done.code == 1
    assert done.err == ""
    documents = [json.loads(line) for line in done.out.splitlines()]
    assert [document["status"] for document in documents] == [
        "rejected",
        "rejected",
        "rejected",
        "answered",
        "rejected",
    ]
    for document, words in zip(
        documents, ("not an accepted image", "damaged", "60000×60000", "", "empty"), strict=True
    ):
        assert words in " ".join(document["reasons"])


def test_predict_wrong_usage(command: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    assert_fails(command("predict", "--bundle", tiny_bundle, tmp_path), 2, "no image file in")
    assert_fails(command("predict", "--bundle", tiny_bundle, tmp_path / "nothing.png"), 2, "does not exist")
    assert_fails(command("predict", "--bundle", tiny_bundle, tmp_path, "--format", "xml"), 2, "xml")
    assert_fails(command("predict", "--bundle", tmp_path, tmp_path), 1, "is not a bundle", "pneumoscope export")


def test_a_provider_that_is_not_installed_is_an_error(command: Command, tiny_bundle: Path, films: Path) -> None:
    assert_fails(
        command("predict", "--bundle", tiny_bundle, films, "--provider", "cuda"), 2, "'cuda'", "which has: cpu;"
    )


def test_progress_over_a_long_folder_is_shown_on_stderr(command: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number}.jpeg").write_bytes(FILM)
    done = command("predict", "--bundle", tiny_bundle, tmp_path, "--format", "json")
    assert len([json.loads(line) for line in done.out.splitlines()]) == 60
    assert "classifying: 60 images in" in done.err
    assert command("predict", "--bundle", tiny_bundle, tmp_path, "--format", "json", "--quiet").err == ""


def test_an_abstention_in_every_output_format(command: Command, own_bundle: Path, tmp_path: Path) -> None:
    film_file = tmp_path / "film.jpeg"
    film_file.write_bytes(FILM)
    contract, shares = load_contract(own_bundle), Engine.load(own_bundle).predict(FILM).probabilities
    pair = sorted(sorted(shares, key=lambda label: -shares[label])[:2])
    fitting = {label: 0.0 if label in pair else 1.0 for label in shares}
    table = (coverage_row(0.9, fitting, {"either": (0.01, 0.999)}),)
    unsure = contract.decision.model_copy(update={"table": table, "operating_points": ()})
    changed = {"decision": unsure, "groups": {"either": tuple(pair)}}
    save_contract(contract.model_copy(update=changed), own_bundle)
    document = json.loads(command("predict", "--bundle", own_bundle, film_file, "--format", "json").out)
    assert document["status"] == "abstained"
    assert document["class"] is None
    assert document["label"] == "either, type undetermined"
    assert document["prediction_set"] == pair
    assert "abstained either? " in command("predict", "--bundle", own_bundle, film_file).out
    (row,) = csv.DictReader(io.StringIO(command("predict", "--bundle", own_bundle, film_file, "--format", "csv").out))
    assert row["label"] == document["label"]
    assert row["prediction_set"] == "; ".join(pair)
    assert row["coverage"] == "0.9"
    assert row["reasons"] == f"at 90 % coverage the film may be {pair[0]} or {pair[1]}."


def test_coverage_and_operating_point_are_options(command: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    film_file = tmp_path / "film.jpeg"
    film_file.write_bytes(FILM)
    predict = partial(command, "predict", "--bundle", tiny_bundle, film_file, "--format", "json")
    wide = json.loads(predict("--coverage", "0.99").out)
    assert (wide["status"], wide["coverage"], len(wide["prediction_set"])) == ("abstained", 0.99, 3)
    point = json.loads(predict("--operating-point", "sensitivity-0.95").out)
    assert (point["label"], point["coverage"], point["reason_codes"]) == ("pneumonia", None, ["operating-point"])
    assert_fails(predict("--coverage", "0.7"), 2, "coverage 0.7 is not in this model's table; accepted: 0.9 or 0.99.")
    assert_fails(predict("--coverage", "1"), 2, "--coverage 1: input should be less than 1")
    assert_fails(predict("--operating-point", "best"), 2, "accepted: sensitivity-0.95 or specificity-0.95")
    for wrong in (("--coverage", "0.7"), ("--operating-point", "best")):
        assert_fails(command("serve", "--bundle", tiny_bundle, "--port", 0, *wrong), 2, "not in this model's table")


def test_evaluate_at_a_coverage(command: Command, tiny_bundle: Path, dataset: Dataset, tmp_path: Path) -> None:
    for coverage, status in (("0.9", "answered"), ("0.99", "abstained")):
        out = tmp_path / coverage
        done = command("evaluate", dataset.root, "--bundle", tiny_bundle, "--out", out, "--coverage", coverage)
        assert done.code == 0, done.err
        report = json.loads((out / "report.json").read_text())
        assert max(report["decisions"]["statuses"], key=report["decisions"]["statuses"].get) == status
    missing = command("evaluate", dataset.root, "--bundle", tiny_bundle, "--out", tmp_path / "no", "--coverage", "0.5")
    assert_fails(missing, 2, "coverage 0.5 is not in this model's table")


def test_an_unreadable_file_alone_is_rejected(command: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "ok.jpeg").write_bytes(FILM)
    done = command("predict", "--bundle", tiny_bundle, tmp_path, "--format", "json")
    assert done.code == 1
    first, second = (json.loads(line) for line in done.out.splitlines())
    assert first["status"] == "rejected"
    assert second["status"] == "answered"
    assert "cannot be read" in first["reasons"][0]


def test_a_bundle_with_a_missing_field(command: Command, own_bundle: Path, films: Path) -> None:
    document = json.loads((own_bundle / "contract.json").read_text())
    del document["normalisation"]
    (own_bundle / "contract.json").write_text(json.dumps(document))
    assert_fails(
        command("predict", "--bundle", own_bundle, films),
        1,
        "field 'normalisation' is missing",
        "export the bundle again",
    )
    assert_fails(command("verify", "--bundle", own_bundle), 1, "field 'normalisation' is missing")


def test_a_file_name_that_is_not_text_is_printed_in_every_format(
    command: Command, tiny_bundle: Path, tmp_path: Path
) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpeg")).write_bytes(FILM)
    for form in ("table", "json", "csv"):
        done = command("predict", "--bundle", tiny_bundle, tmp_path, "--format", form)
        assert done.code == 0, done.err
        assert "udcff.jpeg" in done.out


def test_memory_is_flat_from_200_to_2000_films(tiny_bundle: Path, tmp_path: Path) -> None:
    peaks = []
    (tmp_path / "film.jpeg").write_bytes(FILM)
    for count in (200, 2000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            (folder / f"{number}.jpeg").hardlink_to(tmp_path / "film.jpeg")
        peaks.append(peak_memory(["predict", "--bundle", str(tiny_bundle), str(folder), "--format", "json"]))
    assert peaks[1] - peaks[0] < 1800 * len(FILM) / 1e6 / 2


@pytest.mark.parametrize("form", ["csv", "table"])
def test_names_that_the_terminal_cannot_encode_are_escaped(form: str, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "胸部.jpeg").write_bytes(encode_jpeg(film("normal", patient=1)))
    done = subprocess.run(
        [sys.executable, "-m", "pneumoscope", "predict", "--bundle", str(tiny_bundle), ".", "--format", form],
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr, done.stderr
    assert b"\\u80f8\\u90e8.jpeg" in done.stdout
