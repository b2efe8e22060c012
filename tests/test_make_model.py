"""`make model`, from an archive to a bundle with its evidence: of phantoms, with a small network."""

import hashlib
import json
from pathlib import Path

import pytest

from pages import shell
from pneumoscope.engine import verify
from pneumoscope.phantom import write_archive_zip
from samples import REPOSITORY, TINY

SET_UP = REPOSITORY / ".venv" / ".ready"


def test_without_an_archive_make_model_asks_for_one(tmp_path: Path) -> None:
    done = shell(f"MODEL={tmp_path / 'model'} make model", REPOSITORY)
    assert done.code == 2
    assert "ARCHIVE is missing; run: make model ARCHIVE=FILE.zip" in done.err
    assert not (tmp_path / "model").exists()


@pytest.mark.skipif(not SET_UP.exists(), reason="`make` has not set up .venv here")
def test_make_model_goes_from_the_archive_to_a_bundle_with_its_evidence(tmp_path: Path) -> None:
    write_archive_zip(tmp_path / "archive.zip", count=60)
    recipe, made = tmp_path / "tiny.toml", tmp_path / "model"
    recipe.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in TINY.items()))
    line = f"make model MODEL={made} ARCHIVE={tmp_path / 'archive.zip'} RECIPE={recipe}"
    done = shell(line, REPOSITORY)
    assert done.code == 0, f"{done.out}\n{done.err}"
    contract = json.loads((made / "bundle" / "contract.json").read_text())
    evidence = (made / "folds" / "evidence.npz").read_bytes()
    assert contract["name"] == "pneumoscope-base"
    assert contract["provenance"]["evidence"] == hashlib.sha256(evidence).hexdigest()
    assert verify(made / "bundle").cases > 0
    assert "Nothing to be done" in shell(line, REPOSITORY).out
