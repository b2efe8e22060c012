import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from pneumoscope.backbone import build
from pneumoscope.contract import (
    Normalisation,
    Population,
    load_contract,
    save_contract,
)
from pneumoscope.dataset import Dataset, PrepareConfig, load_dataset, prepare
from pneumoscope.documents import write_document
from pneumoscope.engine import Engine, Verification, verify
from pneumoscope.engine.normalisation import check_normalisation
from pneumoscope.errors import BundleError, RunError, UsageError
from pneumoscope.export import PARITY_TOLERANCE, export
from pneumoscope.export.exporter import _population
from pneumoscope.export.graph import write_onnx
from pneumoscope.export.quantise import logits_of
from pneumoscope.files import sha256_of
from pneumoscope.settings.training import ExportConfig
from pneumoscope.training.config import make_config
from pneumoscope.training.evidence import About, save_evidence
from pneumoscope.training.evidence import Evidence as OutOfFold
from pneumoscope.training.fit import train
from pneumoscope.training.run_directory import CARD_FILE, load_card, load_config
from samples import TINY, make_zip, noise, reencoded, small_films

FAMILIES = ["resnet18", "test_convnext", "test_efficientnet", "test_vit", "vgg19_bn"]


@pytest.mark.parametrize("arch", FAMILIES)
def test_every_family_exports_and_equals_pytorch(arch: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = 160 if arch == "test_vit" else 64
    network = build(arch, classes=3, size=size)[0].eval()
    path = tmp_path / "model.onnx"
    grid = write_onnx(network, size, path)
    assert (grid is not None) == (arch in ("resnet18", "test_efficientnet"))
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = noise(3, size)
    logits, embedding = session.run(["logits", "embedding"], {"image": images})
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).double().softmax(dim=1).numpy()
    np.testing.assert_allclose(torch.from_numpy(logits).double().softmax(dim=1), expected, atol=PARITY_TOLERANCE)
    assert embedding.shape[0] == 3
    assert embedding.ndim == 2
    if grid is not None:
        (maps,) = session.run(["activation_map"], {"image": images})
        assert maps.shape == (3, 3, *grid)


def test_the_contract_states_the_models_origin(drawn_bundle: Path, dataset: Dataset) -> None:
    contract = load_contract(drawn_bundle)
    assert contract.population == Population(age_years=None, drawings=True)  # although phantoms have published names
    assert contract.provenance.dataset == dataset.fingerprint
    assert {"onnx", "onnxruntime", "torch", "python"} <= contract.provenance.versions.keys()
    assert contract.activation_map is not None
    assert contract.activation_map.height == contract.activation_map.width
    assert set(contract.files) == {
        path.relative_to(drawn_bundle).as_posix()
        for path in drawn_bundle.rglob("*")
        if path.is_file() and path.name != "contract.json"
    }


@pytest.mark.parametrize("place", range(0, 100, 9))
def test_the_error_names_the_file_of_a_changed_byte(own_bundle: Path, place: int) -> None:
    for path in sorted(own_bundle.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            changed = bytearray(content)
            changed[len(content) * place // 100] ^= 0x10
            path.write_bytes(changed)
            with pytest.raises(BundleError, match=path.name):
                Engine.load(own_bundle)
            path.write_bytes(content)


def test_the_model_reveals_nothing_about_the_machine_that_wrote_it(tiny_bundle: Path) -> None:
    content = (tiny_bundle / "model.onnx").read_bytes()
    for trace in (b".py", b"site-packages", str(Path.home()).encode(), b"pneumoscope/"):
        assert trace not in content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cases": []}, "cases"),
        ({"schema_version": 99}, "schema_version"),
        ({"tolerance": 5}, "tolerance"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_golden_cases_are_read_strictly(own_bundle: Path, change: dict[str, Any], message: str) -> None:
    path = own_bundle / "golden" / "golden.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    contract = load_contract(own_bundle)
    files = contract.files | {"golden/golden.json": sha256_of(path)}
    save_contract(contract.model_copy(update={"files": files}), own_bundle)
    with pytest.raises(BundleError, match=rf"golden\.json is not valid: .*{message}"):
        verify(own_bundle)


def test_a_golden_case_that_needs_a_missing_extra_is_listed_as_left_out(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pneumoscope.engine.golden.find_spec", lambda _: None)
    assert verify(tiny_bundle) == Verification(cases=7, left_out=("virus-monochrome1.dcm",))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A data set whose files are not marked as drawings, in place of films of the published archive."""
    folder = tmp_path_factory.mktemp("films")
    prepare([make_zip(folder / "a.zip", small_films())], folder / "dataset", PrepareConfig(val_fraction=0.25))
    return load_dataset(folder / "dataset")


def test_films_without_a_published_name_have_no_known_ages(films: Dataset) -> None:
    """One film of another source is enough: its patient may have any age."""
    assert _population(films, None) == Population(age_years=(1, 5), drawings=False)
    other = replace(films.films[0], source="adults:NORMAL/scan.jpeg")
    mixed = replace(films, films=(*films.films[1:], other))
    assert _population(mixed, None) == Population(age_years=None, drawings=False)


def test_one_train_film_that_is_not_a_drawing_makes_it_a_model_of_films(
    phantom_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    assert _population(dataset, None).drawings
    mixed = Path(shutil.copytree(phantom_folder, tmp_path / "mixed"))
    path = mixed / dataset.split("train")[-1].source.partition(":")[2]
    path.write_bytes(reencoded(path.read_bytes(), quality=90))  # as another program writes it: without the mark
    prepare([mixed], tmp_path / "dataset", PrepareConfig(val_fraction=0.25))
    assert not _population(load_dataset(tmp_path / "dataset"), None).drawings


def test_ages_can_be_given(tiny_run: Path, dataset: Dataset, tmp_path: Path) -> None:
    export(tiny_run, dataset, tmp_path / "bundle", ExportConfig(ages=(18, 90)))
    assert load_contract(tmp_path / "bundle").population.age_years == (18, 90)


@pytest.mark.parametrize("option", [("--ages", "old"), ("--ages", "9-3"), ("--precision", "int4")])
def test_bad_options_are_refused(
    command: Callable[..., SimpleNamespace], tiny_run: Path, tmp_path: Path, option: tuple[str, str]
) -> None:
    done = command("export", tiny_run, "--out", tmp_path / "bundle", *option)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert not (tmp_path / "bundle").exists()


def test_golden_cases_cover_jpeg_png_tiff_and_dicom(tiny_bundle: Path) -> None:
    document = json.loads((tiny_bundle / "golden" / "golden.json").read_text())
    suffixes = {Path(case["file"]).suffix for case in document["cases"]}
    assert suffixes == {".jpeg", ".png", ".tiff", ".dcm"}
    assert "rejected" in {case["status"] for case in document["cases"]}
    assert {case["needs"] for case in document["cases"]} == {None, "dicom"}


@pytest.fixture(scope="module")
def final_run(all_train: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("final") / "run"
    train(all_train, make_config({"recipe": "pneumoscope-base", **TINY, "epochs": 1, "prior": "uniform"}, {}), run)
    return run


def evidence_file(path: Path, dataset: Dataset, run: Path) -> Path:
    """Out-of-fold predictions that are correct four times in five; their rows are not in the manifest's order."""
    random = np.random.default_rng(0)
    films = [dataset.films[place] for place in random.permutation(len(dataset.films))]
    label = np.array([dataset.classes.index(film.label) for film in films])
    said = np.where(random.random(len(films)) < 0.8, label, (label + 1) % 3)
    logits = (2 * np.eye(3)[said] + random.normal(size=(len(films), 3)) * 0.1).astype(np.float32)
    about = About(
        schema_version=1,
        classes=dataset.classes,
        groups=dataset.groups,
        dataset=dataset.fingerprint,
        folds=3,
        seed=0,
        config=load_config(run),
        commit=None,
        versions={},
    )
    evidence = OutOfFold(
        about=about,
        film=np.array([list(bytes.fromhex(film.file_sha256)) for film in films], np.uint8),
        patient=np.arange(len(films), dtype=np.int32),
        label=label.astype(np.int8),
        fold=(np.arange(len(films)) % 3).astype(np.int8),
        logits=logits,
        stress=logits,
        embedding=np.zeros((len(films), 4), np.float16),
    )
    save_evidence(evidence, path)
    return path


def test_a_run_on_all_films_is_exported_on_out_of_fold_evidence(
    final_run: Path, all_train: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"all films of .* train.*--evidence"):
        export(final_run, all_train, tmp_path / "none")
    path = evidence_file(tmp_path / "evidence.npz", all_train, final_run)
    done = export(final_run, all_train, tmp_path / "bundle", ExportConfig(evidence=path))
    contract = load_contract(tmp_path / "bundle")
    assert done.decision == contract.decision
    assert contract.decision.films == contract.calibration.films == len(all_train.films)
    assert contract.calibration.evidence == contract.decision.evidence == "out-of-fold"
    assert contract.calibration.prior == dict.fromkeys(contract.classes, 1 / 3)
    assert contract.provenance.evidence == sha256_of(path)
    assert contract.calibration.method == "temperature"
    assert contract.calibration.scale["virus"] != 1.0
    row = contract.decision.row(0.9)
    assert row is not None
    assert all(0 < least < 1 for least in row.classes.values())
    verify(tmp_path / "bundle")


def test_the_card_has_the_facts_that_a_reader_looks_for(final_run: Path, all_train: Dataset, tmp_path: Path) -> None:
    path = evidence_file(tmp_path / "evidence.npz", all_train, final_run)
    export(final_run, all_train, tmp_path / "bundle", ExportConfig(evidence=path))
    card = (tmp_path / "bundle" / "card.md").read_text()
    assert "card.md" in load_contract(tmp_path / "bundle").files
    assert "Not a medical device" in card
    assert "All training films are drawings, not radiographs of patients." in card
    assert "| accuracy | 0." in card
    assert "official test part" in card  # from the recipe's notes
    assert "Kermany" not in card  # although the drawings have published names
    for part in ("## What it is", "## Films", "## Figures", "## Limits"):
        assert part in card


def test_evidence_of_another_recipe_or_of_other_films_is_refused(
    final_run: Path, all_train: Dataset, tiny_run: Path, tmp_path: Path
) -> None:
    other = evidence_file(tmp_path / "other.npz", all_train, tiny_run)  # of other settings
    with pytest.raises(RunError, match=r"prior 'train' instead of 'uniform'.*cross-validate with the run's recipe"):
        export(final_run, all_train, tmp_path / "bundle", ExportConfig(evidence=other))
    taught = shutil.copytree(final_run, tmp_path / "taught")
    card = load_card(taught)
    write_document(card.model_copy(update={"teachers": ("evidence.npz",)}), taught / CARD_FILE)
    own = evidence_file(tmp_path / "own.npz", all_train, final_run)
    with pytest.raises(RunError, match=r"soft targets \(--teachers\).*leave out --evidence"):
        export(taught, all_train, tmp_path / "bundle", ExportConfig(evidence=own))
    few = replace(all_train, films=all_train.films[:30])
    with pytest.raises(RunError, match=f"{len(all_train.films) - 30} of {len(all_train.films)} films are not among"):
        export(
            final_run,
            all_train,
            tmp_path / "bundle",
            ExportConfig(evidence=evidence_file(tmp_path / "few.npz", few, final_run)),
        )
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(("arch", "weights"), [("test_resnet", "none"), ("tf_efficientnet_lite0", "imagenet")])
def test_the_graph_normalises_as_the_contract_states(arch: str, weights: str, tmp_path: Path) -> None:
    network, _ = build(arch, classes=3, size=64, weights=weights)
    write_onnx(network, 64, tmp_path / "model.onnx")
    check_normalisation(tmp_path / "model.onnx", network.normalisation)
    with pytest.raises(BundleError, match=r"the contract's mean 0\.3 and deviation 0\.226"):
        check_normalisation(tmp_path / "model.onnx", Normalisation(mean=0.3, std=0.226))


def test_verify_detects_a_graph_with_a_different_normalisation(own_bundle: Path) -> None:
    model = onnx.load(own_bundle / "model.onnx")
    (mean,) = [each for each in model.graph.initializer if each.dims == [] and _value(each) == pytest.approx(0.449)]
    mean.CopyFrom(onnx.numpy_helper.from_array(np.array(0.448, np.float32), mean.name))
    onnx.save(model, own_bundle / "model.onnx")
    contract = load_contract(own_bundle)
    files = contract.files | {"model.onnx": sha256_of(own_bundle / "model.onnx")}
    save_contract(contract.model_copy(update={"files": files}), own_bundle)
    with pytest.raises(BundleError, match="computes pixel"):
        verify(own_bundle)


def _value(initializer: onnx.TensorProto) -> float:
    return float(onnx.numpy_helper.to_array(initializer).item())


def test_a_graph_with_weights_in_another_file_is_refused(own_bundle: Path) -> None:
    model = onnx.load(own_bundle / "model.onnx")
    onnx.save(model, own_bundle / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    contract = load_contract(own_bundle)
    files = contract.files | {"model.onnx": sha256_of(own_bundle / "model.onnx")}
    save_contract(contract.model_copy(update={"files": files}), own_bundle)
    with pytest.raises(BundleError, match="stores weights in other files, which no hash covers"):
        Engine.load(own_bundle)


@pytest.mark.parametrize("ages", [(0.0, 200.0), (18.0, 2.0)])
def test_export_refuses_impossible_ages_at_once(
    ages: tuple[float, float], tiny_run: Path, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"ages \(.*\) are not valid"):
        export(tiny_run, dataset, tmp_path / "bundle", ExportConfig(ages=ages))
    assert not list(tmp_path.iterdir())


def test_export_refuses_a_model_that_differs_from_pytorch(
    tiny_run: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(model: Path, images: np.ndarray) -> np.ndarray:
        return logits_of(model, images)[:, ::-1]

    monkeypatch.setattr("pneumoscope.export.exporter.logits_of", off)
    with pytest.raises(BundleError, match="differs from PyTorch"):
        export(tiny_run, dataset, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_export_refuses_unfinished_and_foreign_runs(tiny_run: Path, dataset: Dataset, tmp_path: Path) -> None:
    import shutil

    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    (run / "weights.safetensors").unlink()
    with pytest.raises(RunError, match=r"no weights\.safetensors.*--resume"):
        export(run, dataset, tmp_path / "bundle")
    (run / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError, match="damaged"):
        export(run, dataset, tmp_path / "bundle")
    card = json.loads((run / "run.json").read_text()) | {"dataset": "0" * 64}
    (run / "run.json").write_text(json.dumps(card))
    with pytest.raises(RunError, match="is not the data set"):
        export(run, dataset, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
