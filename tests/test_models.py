"""The bundle that ships with the package: it is in the wheel, it verifies, and it decides as it claims."""

import os
import subprocess
import sys
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pneumoscope import models
from pneumoscope.contract import load_contract
from pneumoscope.engine import Engine, ImageFile, verify
from pneumoscope.engine.normalisation import check_normalisation
from pneumoscope.errors import BundleError
from pneumoscope.export.faults import FAULT_MAKERS
from pneumoscope.export.pictures import KINDS, Kind, draw
from pneumoscope.files import sha256_of
from pneumoscope.imaging import read_luma
from pneumoscope.models import SHIPPED, shipped_bundle
from pneumoscope.phantom import FINDINGS, Finding, encode_jpeg, film
from pneumoscope.training.evidence import load_evidence
from samples import REAL, REPOSITORY
from test_project import SHIPPED_FILES


def test_it_verifies_and_has_its_name() -> None:
    contract = load_contract(shipped_bundle())
    assert contract.name == SHIPPED
    assert contract.population.drawings is False
    assert contract.files.keys() >= SHIPPED_FILES
    assert verify(shipped_bundle()).cases == 8


def test_it_is_small_and_its_evidence_is_the_one_in_the_repository() -> None:
    files = [path for path in shipped_bundle().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 16_000_000
    path = REPOSITORY / "evidence" / f"{SHIPPED}.npz"
    assert path.stat().st_size < 15_000_000
    contract, evidence = load_contract(shipped_bundle()), load_evidence(path)
    assert contract.provenance.evidence == sha256_of(path)
    assert contract.calibration.films == contract.decision.films == len(evidence.label)
    assert evidence.about.classes == contract.classes


def test_its_card_has_what_a_reader_must_know() -> None:
    card = (shipped_bundle() / "card.md").read_text()
    for words in ("Not a medical device", "1 to 5 years", "CC BY 4.0", "rscbjbr9sj", "95 % interval", "## Limits"):
        assert words in card
    assert "official test part" in card


@pytest.mark.parametrize("kind", KINDS)
def test_it_rejects_pictures_that_are_not_films(kind: Kind) -> None:
    engine = Engine.load(shipped_bundle())
    random = np.random.default_rng([77, *kind.encode()])
    pictures = [draw(kind, random, 256, phantoms=False) for _ in range(100)]
    predictions = list(engine.predict_many(ImageFile(name=kind, read=partial(encode_jpeg, each)) for each in pictures))
    assert {prediction.status for prediction in predictions} == {"rejected"}
    codes = [prediction.reason_codes[0] for prediction in predictions]
    assert codes.count(kind) + codes.count("blank") >= 0.9 * len(codes), codes


@pytest.mark.parametrize("finding", FINDINGS)
def test_it_rejects_drawn_films_as_drawings(finding: Finding) -> None:
    engine = Engine.load(shipped_bundle())
    for patient in range(5):
        prediction = engine.predict(encode_jpeg(film(finding, patient=patient, seed=5)))
        assert prediction.status == "rejected"
        assert prediction.reason_codes[0] == "drawing"


@pytest.mark.parametrize("archive", ["originals-160.zip", "ChestXRay2017-224-practice.zip"])
def test_it_accepts_real_films_and_names_their_faults(archive: str) -> None:
    path = REAL / archive
    if not path.is_file():
        pytest.skip(f"the real films of {archive} are not here")
    engine = Engine.load(shipped_bundle())
    with zipfile.ZipFile(path) as films:
        names = [name for name in sorted(films.namelist()) if name.endswith("eg")]
        data = [films.read(name) for name in names[:: max(1, len(names) // 100)]]
    statuses = [engine.predict(each).status for each in data]
    assert statuses.count("rejected") <= 0.02 * len(statuses)
    for code, make in FAULT_MAKERS.items():
        faulty = [make(read_luma(each), np.random.default_rng(0)) for each in data[::5]]
        predictions = [engine.predict(encode_jpeg(np.ascontiguousarray(each))) for each in faulty]
        assert sum(code in each.reason_codes for each in predictions) >= 0.9 * len(predictions)


def test_its_graph_normalises_as_its_contract_says() -> None:
    contract = load_contract(shipped_bundle())
    check_normalisation(shipped_bundle() / "model.onnx", contract.normalisation)
    assert contract.normalisation.mean == 0.5
    assert contract.normalisation.std == 0.5


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
    assert done.returncode == 1
    assert done.stdout == ""


def test_wheel_and_source_distribution_contain_it(tmp_path: Path) -> None:
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


def test_classifying_leaves_no_record_of_use_behind(tmp_path: Path) -> None:
    """ONNX Runtime 1.32 would write one below the home folder."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-m", "pneumoscope", "verify"], env=environment, check=True, capture_output=True)
    assert not list(tmp_path.rglob("*"))
