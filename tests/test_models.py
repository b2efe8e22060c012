"""The bundle that ships with the package: it is there, it is packed, and it is what it says."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from pneumoscope import models
from pneumoscope.contract import load_contract
from pneumoscope.engine import verify
from pneumoscope.errors import BundleError
from pneumoscope.models import SHIPPED, shipped_bundle
from samples import REPOSITORY
from test_project import SHIPPED_FILES


def test_it_verifies_and_bears_its_name() -> None:
    contract = load_contract(shipped_bundle())
    assert contract.name == SHIPPED
    assert contract.population.drawings is False
    assert contract.files.keys() >= SHIPPED_FILES
    assert verify(shipped_bundle()).cases == 8


def test_an_installation_without_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "SHIPPED", "gone")
    with pytest.raises(BundleError, match=r"lacks the bundle gone, which ships with the package; give --bundle DIR\.$"):
        shipped_bundle()


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, pneumoscope.models\n"
        "sys.exit(', '.join({'numpy', 'pydantic', 'onnxruntime', 'torch', 'PIL'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_git_does_not_ignore_it() -> None:
    names = [f"src/pneumoscope/models/{SHIPPED}/{name}" for name in (*SHIPPED_FILES, "contract.json", "card.md")]
    done = subprocess.run(["git", "check-ignore", *names], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_wheel_and_source_distribution_hold_it(tmp_path: Path) -> None:
    hatchling = Path(sys.executable).parent / "hatchling"
    for target in ("wheel", "sdist"):
        command = [str(hatchling), "build", "--target", target, "--directory", str(tmp_path)]
        subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = wheel.namelist()
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as source:
        sources = [name.partition("/src/")[2] for name in source.getnames()]
    wanted = {f"pneumoscope/models/{SHIPPED}/{name}" for name in (*SHIPPED_FILES, "contract.json")}
    assert wanted <= set(packed)
    assert wanted <= set(sources)
