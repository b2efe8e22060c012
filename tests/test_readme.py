"""Every command block of the README runs, in its order, as a newcomer would run it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from pneumoscope.models import SHIPPED
from pneumoscope.phantom import encode_jpeg, film, write_archive_zip
from samples import REPOSITORY

BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", (REPOSITORY / "README.md").read_text(), re.MULTILINE | re.DOTALL)
TOOLS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README assumes: an archive of version 2's shape, and a film."""
    folder = tmp_path_factory.mktemp("desk")
    write_archive_zip(folder / "ChestXRay2017.zip", count=90)
    (folder / "film.jpeg").write_bytes(encode_jpeg(film("virus", patient=1)))
    return folder


def run(line: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=os.environ | {"PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    # The bundle that ships rejects the film of these tests, which is drawn.
    expected = int(line == "pneumoscope predict film.jpeg")
    assert done.returncode == expected, f"{line}\n{done.stdout}\n{done.stderr}"
    assert not expected or "a drawing or a logo" in done.stdout
    return done.stdout


def test_there_are_blocks_of_both_kinds() -> None:
    assert [kind for kind, _ in BLOCKS] == ["bash", "bash", "bash", "bash", "bash", "python", "bash", "python"]


@pytest.mark.skipif(not (REPOSITORY / ".venv" / ".ready").exists(), reason="`make` has not set up .venv here")
def test_make_demo_runs_the_main_job(tmp_path: Path) -> None:
    """`make test`, the other line of the block, is what runs this; its steps are checked dry."""
    assert BLOCKS[0][1].splitlines() == ["make demo", "make test"]
    shown = run("make demo", REPOSITORY, DEMO=str(tmp_path / "demo"))
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


def test_the_other_blocks_run_in_order(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service listens on another port than the README says, which something else here may have."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    monkeypatch.setenv("PNEUMOSCOPE_PORT", port)
    with ExitStack() as until_the_end:
        for kind, written in BLOCKS[1:]:
            block = written.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
            if kind == "bash":
                lines = block.splitlines()
                if lines[0].startswith("pneumoscope serve"):
                    until_the_end.enter_context(running(lines.pop(0), desk, port))
                shown = [run(line, desk) for line in lines]
                if "--format json" in block:
                    assert json.loads(shown[-1])["status"] in ("answered", "abstained")  # few films set thresholds
            else:
                (desk / "block.py").write_text(block)
                assert run(f"{shutil.which('python', path=TOOLS)} block.py", desk).startswith(("answered", "abstained"))


@contextmanager
def running(line: str, folder: Path, port: str) -> Iterator[None]:
    """A service as the README starts it, ready."""
    process = subprocess.Popen([TOOLS / line.split()[0], *line.split()[1:]], cwd=folder, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
                assert answer.status == 200
                break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        assert process.wait(30) == 0
