"""The tutorial notebook runs from its first cell to its last, and is stored without what it shows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from samples import REPOSITORY
from test_language import stumbles

TUTORIAL = REPOSITORY / "docs" / "get-started" / "tutorial.ipynb"
TOOLS = Path(sys.executable).parent
#: A cell that is put before the first one: from there on, every warning is an error.
STRICT: dict[str, Any] = {
    "cell_type": "code",
    "id": "strict",
    "metadata": {},
    "execution_count": None,
    "outputs": [],
    "source": "import warnings\nwarnings.simplefilter('error')",
}


def notebook() -> dict[str, Any]:
    """The notebook as it is stored, format 4 of Jupyter."""
    stored: dict[str, Any] = json.loads(TUTORIAL.read_text(encoding="utf-8"))
    return stored


def texts(kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in notebook()["cells"] if cell["cell_type"] == kind]


def test_it_is_stored_without_outputs() -> None:
    stored = notebook()
    assert set(stored["metadata"]) == {"kernelspec", "language_info"}
    for cell in stored["cells"]:
        assert cell["metadata"] == {}, cell["id"]
        assert cell.get("outputs", []) == [], cell["id"]
        assert cell.get("execution_count") is None, cell["id"]


def test_it_is_in_plain_words_and_says_what_it_is_not() -> None:
    words = texts("markdown")
    assert [each for text in words for each in stumbles(text)] == []
    assert "Not a medical device" in words[0]


@pytest.mark.parametrize("stage", ["prepare", "audit", "train", "export", "verify", "evaluate", "predict", "draw"])
def test_it_shows_every_stage(stage: str) -> None:
    assert re.search(rf"\b{stage}\b", "\n".join(texts("code")))


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    """In a folder of its own, with warnings as errors."""
    running = notebook()
    running["cells"].insert(0, STRICT)
    path = tmp_path / "tutorial.ipynb"
    path.write_text(json.dumps(running), encoding="utf-8")
    # Files of Jupyter and of the notebook go into our folder; commands are found as in an activated environment.
    jupyter = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "TMPDIR")
    environment = os.environ | {name: str(tmp_path) for name in jupyter}
    environment["PATH"] = f"{TOOLS}{os.pathsep}{os.environ['PATH']}"
    command = [str(TOOLS / "jupyter-execute"), "--inplace", "--timeout=900", str(path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    printed = "".join("".join(output["text"]) for output in outputs if output.get("name") == "stdout")
    assert "golden cases reproduced" in printed
    assert "rejected\n('drawing',)" in printed
    (work,) = tmp_path.glob("pneumoscope-tutorial-*")
    assert (work / "report" / "report.html").is_file()
