"""Every command block of the README runs, in its order, as a newcomer would run it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pages import TOOLS, Desk, blocks, shell
from pneumoscope.models import SHIPPED
from pneumoscope.phantom import encode_jpeg, film, write_archive_zip
from samples import REPOSITORY

README = REPOSITORY / "README.md"
BLOCKS = blocks(README)
INSTALL, MAKE, *USE = BLOCKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README assumes: an archive of version 2's shape, and a film."""
    folder = tmp_path_factory.mktemp("desk")
    write_archive_zip(folder / "ChestXRay2017.zip", count=90)
    (folder / "film.jpeg").write_bytes(encode_jpeg(film("virus", patient=1)))
    return folder


def run(line: str, folder: Path) -> str:
    """What a line of bash prints; it must succeed."""
    done = shell(line, folder)
    assert done.code == 0, f"{line}\n{done.out}\n{done.err}"
    return str(done.out)


def test_the_readme_is_short_and_has_blocks_of_both_kinds() -> None:
    assert len(README.read_text().splitlines()) < 120
    assert [block.kind for block in BLOCKS] == ["bash", "bash", "bash", "bash", "bash", "python"]
    assert all(block.reason is None and block.code == 0 for block in BLOCKS)


def test_three_lines_install_and_predict(folder: Path, tmp_path: Path) -> None:
    """As far as this goes offline: the package alone is built and installed; its dependencies are those of
    this environment.

    The bundle that ships rejects the film of these tests, which is drawn.
    """
    environment, install, predict = INSTALL.lines()
    assert environment == "python3 -m venv env && . env/bin/activate"
    assert install == "pip install ."
    uv = TOOLS.parent / "tools" / "bin" / "uv"
    if uv.exists():
        package = f"{uv} pip install --no-deps --no-build-isolation --offline --target {tmp_path} {REPOSITORY}"
        run(f"VIRTUAL_ENV={TOOLS.parent} {package}", folder)
        assert (tmp_path / "pneumoscope" / "models" / SHIPPED / "model.onnx").is_file()
        done = shell(f"PYTHONPATH={tmp_path} {predict}", folder)
    else:
        done = shell(predict, folder)
    assert done.code == 1
    assert "a drawing or a logo" in done.out


@pytest.mark.skipif(not (REPOSITORY / ".venv" / ".ready").exists(), reason="`make` has not set up .venv here")
def test_make_demo_runs_the_main_job(tmp_path: Path) -> None:
    """The other line of the block, `make test`, is what runs these tests; it is only checked by a dry run."""
    assert MAKE.lines() == ["make demo", "make test"]
    shown = run(f"DEMO={tmp_path / 'demo'} make demo", REPOSITORY)
    report = json.loads((tmp_path / "demo" / "report" / "report.json").read_text())
    assert report["metrics"]["accuracy"]["value"] >= 0.90
    assert "Not a medical device" in shown
    first, own = re.findall(r"^model: (.+)", shown, re.MULTILINE)
    assert first.startswith(f"{SHIPPED} ")
    assert first.endswith(" (ships with the package)")
    assert own.startswith("phantom-demo ")
    assert shown.count("These are drawings, not radiographs") == 2
    assert shown.count("this model was trained on drawings") == 3
    for line in shown.splitlines():
        if line.startswith(str(tmp_path)):
            assert Path(line.split(": ")[0]).exists()
    steps = run("make --dry-run test", REPOSITORY)
    for step in ("ruff check", "ruff format --check", "mypy", "lint-imports", "pytest"):
        assert step in steps


def test_the_other_blocks_run_in_order(folder: Path, command: Callable[..., SimpleNamespace]) -> None:
    with Desk(folder, command) as desk:
        for block in USE:
            shown = desk.run(block)
            if "--format json" in block.text:
                document = json.loads(shown.splitlines()[-1])
                assert document["status"] in ("answered", "abstained")  # few films set thresholds
            if block.kind == "python":
                assert shown.startswith(("answered", "abstained"))
