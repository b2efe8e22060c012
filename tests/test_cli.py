import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.main import get_command

from pneumoscope import __version__
from pneumoscope.cli.app import app
from pneumoscope.dataset import Dataset
from pneumoscope.phantom import encode_jpeg, film
from pneumoscope.settings.training import TrainConfig
from samples import INTERRUPTIBLE, TINY, assert_fails, make_zip, small_films

Command = Callable[..., SimpleNamespace]
FILM = encode_jpeg(film("virus", patient=1))


def test_help_loads_nothing_heavy() -> None:
    """The time that it takes is measured in benchmarks/engine.py."""
    code = (
        "import sys; sys.argv = ['pneumoscope', '--help']\n"
        "import pneumoscope.cli\n"
        "try: pneumoscope.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'PIL', 'pydantic', 'onnxruntime', 'torch', 'rich.console'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not a medical device" in done.stdout
    assert "2 wrong usage" in " ".join(done.stdout.split())


def test_commands_have_help(command: Command) -> None:
    root = get_command(app)
    names = [[name] for name in root.commands if name != "data"]  # type: ignore[attr-defined]
    names += [["data", name] for name in ("audit", "fetch", "phantom", "prepare")]
    assert ["demo"] in names
    for name in names:
        done = command(*name, "--help")
        assert done.code == 0
        assert "Usage: " in done.out


def test_every_training_setting_has_an_option() -> None:
    train = get_command(app).commands["train"]  # type: ignore[attr-defined]
    options = {parameter.name for parameter in train.params}
    assert set(TrainConfig.model_fields) - {"schema_version"} <= options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["predict", "--foo", "x"],
            "no such option: --foo (Possible options: --format); see `pneumoscope predict --help`.",
        ),
        (["predict"], "missing argument 'images'; see `pneumoscope predict --help`."),
        (["predikt"], "no such command 'predikt'. Did you mean 'predict'? See `pneumoscope --help`."),
        (["aws", "x"], "no such command 'x'; see `pneumoscope aws --help`."),
        (
            ["predict", "x.jpeg"],
            "invalid value for 'images': path 'x.jpeg' does not exist; see `pneumoscope predict --help`.",
        ),
        (["serve", "--port"], "option '--port' requires an argument."),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: list[str], message: str, command: Command) -> None:
    done = command(*arguments)
    assert (done.code, done.out, done.err) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize("arguments", [[], ["data"], ["aws"]])
def test_a_group_without_a_command_shows_its_help(arguments: list[str], command: Command) -> None:
    done = command(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err == command(*arguments, "--help").out


def test_one_of_several_training_processes_ends_without_what_libraries_do_at_exit() -> None:
    """A thread of torch's may abort it there, although the training has succeeded."""
    code = """
import atexit, os
from pneumoscope.cli.exits import run
atexit.register(os.abort)
run(lambda: print("done"))
"""
    ranks = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    for more, expected in ((ranks, 0), ({}, -signal.SIGABRT)):
        done = subprocess.run([sys.executable, "-c", code], env=os.environ | more, capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (expected, b"done\n")


def test_version(command: Command) -> None:
    assert command("--version").out.strip() == f"pneumoscope {__version__}"


def test_a_run_without_weights(command: Command, tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "run.json"):
        (run / name).write_bytes((tiny_run / name).read_bytes())
    assert_fails(command("export", run, "--out", tmp_path / "bundle"), 1, "no weights.safetensors", "--resume")
    assert not (tmp_path / "bundle").exists()
    assert_fails(command("export", tmp_path, "--out", tmp_path / "bundle"), 1, "is not a training run")


def test_prepare_bad_input(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    empty, single = tmp_path / "empty", tmp_path / "single"
    empty.mkdir()
    (single / "cat").mkdir(parents=True)
    (single / "cat" / "1.jpeg").write_bytes(FILM)
    assert_fails(command("data", "prepare", empty, "--out", out), 1, "no usable image found")
    assert_fails(command("data", "prepare", single, "--out", out), 1, "only one class found (cat)")
    assert_fails(command("data", "prepare", tmp_path / "gone", "--out", out), 2, "does not exist")
    assert_fails(
        command("data", "prepare", single, "--out", out, "--val-fraction", 2),
        2,
        "--val-fraction 2: input should be less than 1; see `",
    )
    assert_fails(command("data", "prepare", single, "--out", out, "--group", "x"), 2, "--group", "NAME=CLASS,CLASS")
    (tmp_path / "a.zip").write_text("no zip")
    assert_fails(command("data", "prepare", tmp_path / "a.zip", "--out", out), 1, "nor a readable ZIP")
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_prepare_refuses_an_unsafe_path_in_an_archive(command: Command, tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", small_films() | {"../evil.jpeg": FILM})
    strict = command("data", "prepare", archive, "--out", tmp_path / "strict", "--strict")
    assert_fails(strict, 1, "../evil.jpeg: unsafe path in the archive")
    assert not (tmp_path / "strict").exists()
    done = command("data", "prepare", archive, "--out", tmp_path / "out", "--val-fraction", 0.25)
    assert done.code == 1
    assert "a.zip:../evil.jpeg: unsafe path in the archive" in done.out
    assert (tmp_path / "out" / "manifest.csv").is_file()
    assert not list(tmp_path.rglob("evil*"))


def test_prepare_prints_counts_and_speed(command: Command, tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", small_films())
    done = command("data", "prepare", archive, "--out", tmp_path / "out", "--val-fraction", 0.25)
    assert done.code == 0
    assert "a.zip: 36 films read" in done.out
    assert "images/s" in done.err
    quiet = command("data", "prepare", archive, "--out", tmp_path / "two", "--val-fraction", 0.25, "--quiet")
    assert quiet.err == ""
    assert "next: pneumoscope train --data" in done.err


@pytest.mark.slow
def test_the_flow_step_by_step(command: Command, tmp_path: Path) -> None:
    """Train, resume, export, verify and evaluate, with the commands that a user types."""
    archive = make_zip(tmp_path / "a.zip", small_films())
    assert command("data", "prepare", archive, "--out", tmp_path / "DS", "--val-fraction", 0.25).code == 0
    recipe = tmp_path / "tiny.toml"
    recipe.write_text("".join(f"{name} = {value!r}\n" for name, value in TINY.items()))
    run, bundle, report = tmp_path / "run", tmp_path / "bundle", tmp_path / "report"
    done = command("train", "--data", tmp_path / "DS", "--out", run, "--recipe", recipe, "--epochs", 1)
    assert done.code == 0, done.err
    assert "epoch 1/1" in done.err
    assert "Warning" not in done.err
    again = command("train", "--out", run, "--resume")
    assert again.code == 0, again.err
    done = command("export", run, "--out", bundle)
    assert done.code == 0, done.err
    assert command("verify", "--bundle", bundle).out == f"run 0.1.0 ({bundle}): 8 golden cases reproduced.\n"
    done = command("evaluate", tmp_path / "DS", "--bundle", bundle, "--out", report)
    assert done.code == 0, done.err
    assert done.out.startswith(f"model: run 0.1.0 ({bundle})\n")
    assert "pneumonia or not: accuracy" in done.out
    assert f"written: {report / 'report.html'}, {report / 'report.json'}" in done.out
    assert json.loads((report / "report.json").read_text())["n"] == 12
    manifest = shutil.copytree(tmp_path / "DS", tmp_path / "moved") / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(".zip:", "-copy.zip:"))
    done = command("evaluate", tmp_path / "moved", "--bundle", bundle, "--out", tmp_path / "foreign")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "foreign" / "report.json").read_text())["dataset"]["seen"] == "no"
    done = command("data", "prepare", tmp_path / "DS", "--out", tmp_path / "all", "--test-only")
    assert f"next: pneumoscope evaluate {tmp_path / 'all'} --bundle BUNDLE --out REPORT" in done.err
    done = command("evaluate", tmp_path / "all", "--bundle", bundle, "--out", tmp_path / "external")
    assert_fails(done, 2, "run was trained on ")
    assert_fails(command("export", run, "--out", bundle), 2, "exists already")
    score = ("evaluate", tmp_path / "DS", "--bundle", bundle, "--out")
    assert_fails(command(*score, report), 2, "exists already")
    assert_fails(command(*score, tmp_path / "other", "--split", "x"), 1, "no split 'x'")


def test_train_bad_input(command: Command, dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    data = ("train", "--out", out, "--data", dataset.root)
    assert_fails(command("train", "--out", out), 2, "--data is missing")
    assert_fails(command(*data, "--recipe", "nonsense"), 2, "capstone-resnet50")
    assert_fails(command(*data, "--lr", -1), 2, "--lr -1: input should be greater than 0")
    assert_fails(command(*data, "--arch", "resnet51"), 2, "is not a timm network")
    assert_fails(command(*data, "--weights", "gone.pt"), 1, "no such file")
    assert_fails(command(*data, "--recipe", Path(sys.executable).resolve()), 2, "not text in UTF-8")
    assert_fails(command("train", "--out", out, "--data", tmp_path), 1, "not a prepared data set")
    assert_fails(command("train", "--out", out, "--resume"), 1, "not a training run")
    assert not out.exists()


@pytest.mark.slow
def test_cross_validation_and_training_with_its_evidence(command: Command, tmp_path: Path) -> None:
    """With the commands that a user types; an impossible one ends in one sentence and writes nothing."""
    data, out, recipe = tmp_path / "DS", tmp_path / "cv", tmp_path / "tiny.toml"
    archive = make_zip(tmp_path / "a.zip", small_films())
    assert command("data", "prepare", archive, "--out", data, "--val-fraction", 0.25).code == 0
    recipe.write_text("".join(f"{name} = {value!r}\n" for name, value in TINY.items()))
    ask = ("cross-validate", "--data", data, "--out", out, "--recipe", recipe, "--epochs", 1, "--folds")
    assert_fails(command(*ask, 1), 2, "--folds", "greater than or equal to 2")
    assert_fails(command(*ask, 9), 1, "has 4 patients, too few for 9 folds; choose fewer folds.")
    assert_fails(command("cross-validate", "--data", tmp_path / "gone", "--out", out), 2, "does not exist")
    assert_fails(command("cross-validate", "--data", tmp_path, "--out", out), 1, "not a prepared data set")
    assert not out.exists()
    done = command(*ask, 2)
    assert done.code == 0, done.err
    assert "24 films of 12 patients, each by a network that has not seen them" in " ".join(done.out.split())
    for words in ("accuracy", "sensitivity.virus", "group_auroc.pneumonia"):
        assert words in done.out
    assert f"written: {out / 'report.json'}, {out / 'evidence.npz'}" in done.out
    assert "fold 2 of 2" in done.err
    assert_fails(command(*ask, 2), 2, "exists already; continue with --resume")
    again = command(*ask, 2, "--resume", "--quiet")
    assert again.code == 0
    assert again.err == ""
    assert again.out == done.out

    taught = ("train", "--data", data, "--out", tmp_path / "run", "--recipe", recipe, "--epochs", 1, "--teachers")
    assert_fails(command(*taught, recipe), 1, "is not an evidence file", "pneumoscope cross-validate")
    assert_fails(command(*taught, tmp_path), 1, "neither a finished run nor a file of predictions")
    assert not (tmp_path / "run").exists()
    done = command(*taught, out / "evidence.npz")
    assert done.code == 0, done.err
    (teacher,) = json.loads((tmp_path / "run" / "run.json").read_text())["teachers"]
    assert teacher.startswith("evidence.npz, SHA-256 ")
    again = command("train", "--out", tmp_path / "run", "--resume", "--teachers", out / "evidence.npz")
    assert_fails(again, 2, "--resume keeps the run's teachers; leave out --teachers")


def test_a_data_set_for_a_final_model(command: Command, tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", small_films(2))
    done = command("data", "prepare", archive, "--out", tmp_path / "all", "--train-only")
    assert done.code == 0, done.err
    assert f"next: pneumoscope train --data {tmp_path / 'all'} --out RUN" in done.err
    both = command("data", "prepare", archive, "--out", tmp_path / "no", "--train-only", "--test-only")
    assert_fails(both, 2, "--test-only and --train-only contradict each other")


def test_a_missing_extra_is_named(tmp_path: Path, dataset: Dataset) -> None:
    """Run as in a base installation: torch cannot be imported."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "sys.modules['lightning'] = None; sys.modules['timm'] = None\n"
        "from pneumoscope.cli import main\n"
        f"sys.argv = ['pneumoscope', 'train', '--data', {str(dataset.root)!r}, '--out', {str(tmp_path / 'run')!r}]\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'pneumoscope[train]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_terminal_shows_a_bar_with_speed_and_time_left(tmp_path: Path) -> None:
    """Run under a pseudo-terminal."""
    import pty

    archive = make_zip(tmp_path / "a.zip", small_films(12))
    primary, secondary = pty.openpty()
    arguments = [sys.executable, "-m", "pneumoscope", "data", "prepare", str(archive), "--out", str(tmp_path / "out")]
    running = subprocess.Popen(arguments, stderr=secondary, stdout=subprocess.DEVNULL, close_fds=True)
    os.close(secondary)
    shown = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            shown += os.read(primary, 4096)
        except OSError:
            break
    os.close(primary)
    assert running.wait(timeout=60) == 0
    assert "reading a.zip" in shown.decode()
    assert "images/s" in shown.decode()
    assert "━" in shown.decode()


@pytest.mark.slow
def test_ctrl_c_in_training_says_how_to_resume(dataset: Dataset, tmp_path: Path) -> None:
    recipe, run = tmp_path / "tiny.toml", tmp_path / "run"
    recipe.write_text("".join(f"{name} = {value!r}\n" for name, value in {**TINY, "epochs": 5000}.items()))
    arguments = ["train", "--data", str(dataset.root), "--out", str(run), "--recipe", str(recipe)]
    running = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while running.poll() is None and not (run / "metrics.csv").exists():
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.splitlines()[-1] == f"interrupted; resume with: pneumoscope train --out {run} --resume"
    assert "Traceback" not in err
    assert not (run / "weights.safetensors").exists()


def test_export_asks_for_a_data_set_that_has_moved(command: Command, tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    card = json.loads((run / "run.json").read_text()) | {"data": "/moved/away"}
    (run / "run.json").write_text(json.dumps(card))
    assert_fails(command("export", run, "--out", tmp_path / "bundle"), 2, "/moved/away does not exist; pass --data")


def test_markup_in_class_names_is_text(command: Command, tmp_path: Path) -> None:
    members = {
        f"{label}/{number}.jpeg": encode_jpeg(film("normal", patient=number + 40 * shift, size=(64, 72)))
        for shift, label in enumerate(("[bold]", "plain"))
        for number in range(12)
    }
    archive = make_zip(tmp_path / "[red]a.zip", members)
    done = command("data", "prepare", archive, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "[bold]" in done.out
    assert "[red]a.zip" in done.out


def test_a_demo_does_not_replace_a_folder_that_it_did_not_make(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "run").mkdir(parents=True)
    (tmp_path / "mine" / "run" / "thesis.txt").write_text("1")
    assert_fails(command("demo", "--out", tmp_path / "mine", "--overwrite"), 2, "did not make it")
    assert (tmp_path / "mine" / "run" / "thesis.txt").exists()


@pytest.mark.slow
def test_ctrl_c_before_training_begins_does_not_offer_to_resume(dataset: Dataset, tmp_path: Path) -> None:
    """The interrupt comes while torch is being loaded."""
    code = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'pneumoscope.training.fit': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from pneumoscope.cli import main\n"
        f"sys.argv = ['pneumoscope', 'train', '--data', {str(dataset.root)!r}, '--out', {str(tmp_path / 'run')!r}]\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.splitlines() == ["loading PyTorch", "interrupted; nothing was made"]
    assert not list(tmp_path.iterdir())
