"""Quick runs, on phantoms, of some tables in benchmarks/. Their figures mean nothing here."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

import calibration
import capstone
import metrics as figures_table
import variants
from capstone import Clock, Row
from pneumoscope.dataset import Dataset
from pneumoscope.training.config import load_recipe
from pneumoscope.training.evidence import save_evidence
from samples import TINY
from test_evidence import random_evidence

TINY_ROWS = (
    Row(name="tiny", recipe="quick", changes=TINY),
    Row(name="from-the-hub", recipe="quick", changes=TINY | {"weights": "imagenet"}),
    Row(name="left-out", recipe="quick"),
)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(huggingface_hub, "get_session", refuse)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)


@pytest.mark.usefixtures("offline")
def test_the_capstones_table(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(capstone, "ROWS", TINY_ROWS)

    def run(epochs: int) -> str:
        line = ["capstone.py", str(dataset.root), "--out", str(tmp_path), "--only", "tiny", "from-the-hub"]
        monkeypatch.setattr(sys, "argv", [*line, "--max-epochs", str(epochs)])
        capstone.main()
        return capsys.readouterr().out

    lines = run(1).splitlines()
    assert lines[0].startswith("The capstone's table, redone: ")
    assert "AT MOST 1 EPOCHS PER ROW" in lines[1]
    tiny, hub, left_out = lines[-3:]
    table = json.loads((tmp_path / "capstone.json").read_text())
    films = dataset.split("test")
    assert table["films"] == len(films)
    assert table["patients"] == len({film.patient for film in films})
    first, second, third = table["rows"]

    figure = first["figures"]["accuracy"]
    assert figure["low"] <= figure["value"] <= figure["high"]
    assert f"{figure['value']:.3f} ({figure['low']:.3f}–{figure['high']:.3f})" in tiny
    assert f"{first['figures']['group_accuracy.pneumonia']['value']:.3f}" in tiny
    assert f"{first['parameters']:,}" in tiny
    assert first["not_run"] is None
    assert first["epochs"] == 1
    assert first["config"]["epochs"] == 1
    assert first["config"]["arch"] == "test_resnet"
    assert first["training_seconds"] > 0
    assert first["film_ms"] > 0
    assert first["cross_entropy"] > 0

    words = "not run: the ImageNet weights of 'test_resnet' could not be fetched (is this machine offline?)"
    assert hub.split(maxsplit=1) == ["from-the-hub", words]
    assert "HF_HOME" in second["not_run"]
    assert left_out.split(maxsplit=1) == ["left-out", "not run: not requested"]
    assert third["not_run"] == "not requested"

    exported = (tmp_path / "tiny" / "bundle" / "model.onnx").stat()
    run(1)
    again = json.loads((tmp_path / "capstone.json").read_text())["rows"][0]
    assert (tmp_path / "tiny" / "bundle" / "model.onnx").stat() == exported
    for name in ("figures", "cross_entropy", "training_seconds", "epochs"):
        assert again[name] == first[name]
    with pytest.raises(SystemExit, match=r"keeps the configuration .* epochs \(1 → 2\)"):
        run(2)


def test_every_row_is_a_configuration_of_its_own() -> None:
    full = [capstone.configuration(row, None, 0) for row in capstone.ROWS]
    assert len({config.model_dump_json() for config in full}) == len({row.name for row in capstone.ROWS}) == len(full)
    for row, config in zip(capstone.ROWS, full, strict=True):
        changed = load_recipe(row.recipe) | row.changes
        assert {name: getattr(config, name) for name in changed} == changed
        assert capstone.configuration(row, 1, 0).epochs == 1


def test_epoch_times_survive_an_interruption(tmp_path: Path) -> None:
    path = tmp_path / "seconds.json"
    for epochs in ((1, 2), (3,)):
        clock = Clock(path)
        clock.begin("training", 30, "images")
        for epoch in epochs:
            clock.say(f"epoch {epoch}/3  train loss 1.0000")
    assert Clock(path).total(3) == sum(json.loads(path.read_text()).values()) > 0
    assert Clock(path).total(4) is None


def test_the_table_of_computing_times(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["metrics.py", "--films", "60", "90", "--resamples", "40", "--looped", "2"])
    figures_table.main()
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["films", "resamples", "figures", "seconds", "loop", "ratio"]
    assert [row.split()[:3] for row in rows] == [["60", "40", "43"], ["90", "40", "43"]]
    assert all(float(value) > 0 for row in rows for value in row.split()[4:])


def test_the_table_of_variants(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {"optimizer": "adamw", "schedule": "onecycle", "augment": "robust", "prior": "uniform", "mixup": 0.2}
    recipe = tmp_path / "tiny.toml"
    lines = (TINY | tiny | {"epochs": 1, "ema": 0.5}).items()
    recipe.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in lines))
    out = ["--out", str(tmp_path / "out"), "--folds", "2", "--recipe", str(recipe)]
    names = ["--variant", "short:", "--variant", "long:epochs=12,mixup=0"]
    monkeypatch.setattr(sys, "argv", ["variants.py", str(dataset.root), *out, *names])
    monkeypatch.setattr(variants, "RESAMPLES", 50)
    variants.main()
    table = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in table[:2]] == ["short", "long"]  # the seconds that each took
    count = len(dataset.split("train")) + len(dataset.split("val"))
    for name in ("short", "long"):
        with np.load(tmp_path / "out" / f"{name}.npz") as stored:
            for part in ("plain", "stress"):
                assert stored[part].shape == (count, 3)
                assert stored[part].any(axis=1).all()  # every film is in one fold
    losses = {line: float(table[number + 4].split()[1]) for number, line in enumerate(table) if "as trained" in line}
    assert losses["long, plain, as trained"] < losses["short, plain, as trained"]
    variants.main()
    assert capsys.readouterr().out.splitlines() == table[2:]
    monkeypatch.setattr(sys, "argv", ["variants.py", str(dataset.root), *out, "--variant", "sgd:optimizer='sgd'"])
    with pytest.raises(SystemExit, match="sgd: this script needs optimizer adamw"):
        variants.main()
    monkeypatch.setattr(sys, "argv", ["variants.py", str(dataset.root), *out, "--variant", "short:seed=1"])
    with pytest.raises(SystemExit, match=r"short\.npz is of other settings or films"):
        variants.main()
    monkeypatch.setattr(sys, "argv", ["variants.py", str(dataset.root), *out, *names[:2], "--variant", "large:size=64"])
    with pytest.raises(SystemExit, match="read films at one size"):
        variants.main()


def test_the_table_of_calibrations(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The logits name the right class more than four times in five, and are much too small."""
    evidence = random_evidence(dataset, prior="uniform")
    predicted = np.where(np.random.default_rng(0).random(len(evidence.label)) < 0.8, evidence.label, 0)
    logits = (0.1 * evidence.logits + 0.3 * np.eye(3)[predicted]).astype(np.float32)
    save_evidence(replace(evidence, logits=logits), tmp_path / "evidence.npz")
    monkeypatch.setattr(sys, "argv", ["calibration.py", str(tmp_path / "evidence.npz")])
    monkeypatch.setattr(calibration, "RESAMPLES", 50)
    calibration.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"plain: {len(evidence.label)} films"
    assert lines[8] == f"stress: {len(evidence.label) - 1} films"  # one of them was blank
    losses = {line.split()[0]: float(line.split()[2]) for line in lines[1:5]}
    assert losses["none"] > losses["temperature"] + 0.1
    assert lines[5].startswith("  temperature against none: NLL -")
    rows = [line for line in lines if line.startswith("  0.")]
    assert [row.split(";")[0].strip() for row in rows] == ["0.80", "0.85", "0.90", "0.95", "0.99"] * 2
