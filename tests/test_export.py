import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from pneumoscope import metrics
from pneumoscope.backbone import build
from pneumoscope.contract import (
    Calibration,
    Decision,
    InputRule,
    Normalisation,
    Population,
    Quantisation,
    load_contract,
    save_contract,
)
from pneumoscope.dataset import Dataset, PrepareConfig, load_dataset, prepare
from pneumoscope.documents import write_document
from pneumoscope.engine import Engine, Rule, Verification, judge, verify
from pneumoscope.engine.normalisation import check_normalisation
from pneumoscope.errors import BundleError, RunError, UsageError
from pneumoscope.export import PARITY_TOLERANCE, export
from pneumoscope.export.calibration import CalibrationSet, calibrate, validation_films
from pneumoscope.export.exporter import _population, calibration_films
from pneumoscope.export.graph import write_onnx
from pneumoscope.export.quantise import EVERYTHING, Comparison, _Recipe, evenly_spaced, is_alike
from pneumoscope.files import sha256_of
from pneumoscope.imaging import load_input
from pneumoscope.settings.training import ExportConfig
from pneumoscope.training.config import make_config
from pneumoscope.training.evidence import About, save_evidence
from pneumoscope.training.evidence import Evidence as OutOfFold
from pneumoscope.training.fit import train
from pneumoscope.training.run_directory import CARD_FILE, load_card, load_config
from samples import TINY, make_zip, reencoded, small_films

FAMILIES = ["resnet18", "test_convnext", "test_efficientnet", "test_vit", "vgg19_bn"]


def noise(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Inputs that a network distinguishes: smooth fields of several scales."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 1, 8, 8)).astype(np.float32)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=(size, size), mode="bilinear")
    return smooth.numpy().astype(np.uint8)


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


def out_of_fold(count: int = 3000, seed: int = 0) -> CalibrationSet:
    """Films of three classes, two per patient, whose logits need vector scaling at a uniform prior."""
    random = np.random.default_rng(seed)
    truth = random.choice(3, size=count // 2, p=[0.5, 0.3, 0.2]).repeat(2)
    wanted = 1.4 * random.normal(size=(count, 3)) + 2.2 * np.eye(3)[truth]
    patient = np.arange(count) // 2
    films = metrics.HeldOutFilms(
        logits=(wanted - [0.7, -1.5, 0.8]) / [1.2, 2.5, 1.0],
        truth=truth,
        patient=patient,
        fold=patient % 5,
        weights=metrics.prior_weights(truth, np.full(3, 1 / 3)),
    )
    return CalibrationSet(
        films=films,
        kind="out-of-fold",
        prior=np.full(3, 1 / 3),
        classes=("bacteria", "normal", "virus"),
        groups={"pneumonia": ("bacteria", "virus")},
    )


@pytest.fixture(scope="module")
def calibrated() -> tuple[Calibration, Decision]:
    return calibrate(out_of_fold())


def test_the_calibration_is_chosen_and_names_its_films(calibrated: tuple[Calibration, Decision]) -> None:
    calibration, decision = calibrated
    assert calibration.method == "vector"
    assert calibration.evidence == decision.evidence == "out-of-fold"
    assert calibration.films == decision.films == 3000
    assert calibration.prior == {"bacteria": 1 / 3, "normal": 1 / 3, "virus": 1 / 3}
    assert calibration.scale["normal"] > 1.5 * calibration.scale["virus"]
    assert decision.coverage == 0.9
    assert [row.coverage for row in decision.table] == [0.8, 0.85, 0.9, 0.95, 0.99]


def test_thresholds_reach_their_coverage_on_further_films(calibrated: tuple[Calibration, Decision]) -> None:
    """For every class, for both sides of the group, and in the figures that the contract states."""
    (calibration, decision), more = calibrated, out_of_fold(20_000, seed=1)
    scale, bias = (np.array([*part.values()]) for part in (calibration.scale, calibration.bias))
    probabilities, truth = metrics.softmax(more.films.logits * scale + bias), more.films.truth
    for row in decision.table:
        assert row.coverage is not None
        kept = probabilities >= [*row.classes.values()]
        found = metrics.class_coverage(kept, truth)
        np.testing.assert_allclose(found, row.coverage, atol=0.03)
        assert [*row.observed.values()] == pytest.approx([row.coverage] * 3, abs=0.01)
        inside = probabilities[:, [0, 2]].sum(axis=1)
        sides = row.groups["pneumonia"]
        assert (inside >= sides.inside)[truth != 1].mean() == pytest.approx(row.coverage, abs=0.03)
        assert (1 - inside >= sides.outside)[truth == 1].mean() == pytest.approx(row.coverage, abs=0.03)
        rule = Rule(level="class", row=row)
        verdicts = [judge(more.groups, more.by_class(shares), rule) for shares in probabilities[:4000]]
        answers = np.array([-1 if each.class_index is None else each.class_index for each in verdicts])
        assert np.mean(answers >= 0) == pytest.approx(row.answered, abs=0.04)
        assert np.mean((answers == truth[:4000])[answers >= 0]) == pytest.approx(row.accuracy, abs=0.05)


def test_operating_points_reach_their_aim_on_films_that_did_not_set_them(
    calibrated: tuple[Calibration, Decision],
) -> None:
    points = {point.name: point for point in calibrated[1].operating_points}
    assert [*points] == ["sensitivity-0.95", "sensitivity-0.99", "specificity-0.95"]
    assert points["sensitivity-0.95"].sensitivity == pytest.approx(0.95, abs=0.01)
    assert points["sensitivity-0.99"].sensitivity == pytest.approx(0.99, abs=0.01)
    assert points["specificity-0.95"].specificity == pytest.approx(0.95, abs=0.01)
    assert points["sensitivity-0.99"].threshold < points["sensitivity-0.95"].threshold
    assert points["sensitivity-0.99"].specificity < points["sensitivity-0.95"].specificity


def test_figures_are_of_films_that_did_not_set_the_thresholds() -> None:
    """Labels that nothing predicts: on the films that set the thresholds, sets would cover more than on others."""
    given = out_of_fold(300)
    shuffled = np.random.default_rng(0).permutation(given.films.truth)
    _, decision = calibrate(replace(given, films=replace(given.films, truth=shuffled)))
    row = decision.row(0.9)
    assert row is not None
    assert row.answered == pytest.approx(0.05, abs=0.06)
    assert all(share == pytest.approx(0.9, abs=0.06) for share in row.observed.values())


def test_a_group_on_one_side_only_has_no_operating_points() -> None:
    given = out_of_fold(300)
    sick = given.films.truth != 1
    calibration, decision = calibrate(replace(given, films=given.films.at(sick)))
    assert decision.operating_points == ()
    row = decision.row(0.9)
    assert row is not None
    assert row.classes["normal"] == 0  # a class without films is in every set
    assert row.observed["normal"] is None
    assert calibration.method == "temperature"


def test_several_groups_have_points_of_their_own() -> None:
    given = replace(out_of_fold(300), groups={"pneumonia": ("bacteria", "virus"), "well": ("normal",)})
    names = [point.name for point in calibrate(given)[1].operating_points]
    assert names[:2] == ["pneumonia-sensitivity-0.95", "pneumonia-sensitivity-0.99"]
    assert names[-1] == "well-specificity-0.95"


def test_a_run_without_evidence_is_calibrated_on_its_validation_split(
    steady_run: Path, dataset: Dataset, tmp_path: Path, command: Callable[..., SimpleNamespace]
) -> None:
    done = command("export", steady_run, "--out", tmp_path / "bundle", "--quiet")
    assert done.code == 0, done.err
    contract, films = load_contract(tmp_path / "bundle"), dataset.split("val")
    calibration, decision = contract.calibration, contract.decision
    assert calibration.evidence == decision.evidence == "validation"
    assert calibration.films == decision.films == len(films)
    assert calibration.method == "temperature"
    train_films = dataset.split("train")
    shares = {label: sum(film.label == label for film in train_films) / len(train_films) for label in dataset.classes}
    assert calibration.prior == pytest.approx(shares)
    assert f"it answers 0% of {len(films)} unseen films (validation)" in done.out
    assert "each class has too few unseen films to be excluded" in done.out
    assert "too few to predict how many films it will answer" in done.out
    engine = Engine.load(tmp_path / "bundle")
    truth = np.array([dataset.classes.index(film.label) for film in films])
    outputs = engine.run(np.stack([load_input(dataset.read(film), contract.input) for film in films]))
    weights = metrics.prior_weights(truth, np.array([shares[label] for label in dataset.classes]))
    expected = metrics.fit_temperature(outputs.logits, truth, weights, cautious=True)
    np.testing.assert_allclose(outputs.probabilities, expected.probabilities(outputs.logits), atol=1e-3)


def test_validation_films_are_dealt_into_folds_by_patient(dataset: Dataset) -> None:
    films = dataset.split("val")
    found = validation_films(films, np.zeros((len(films), 3), np.float32), dataset, np.full(3, 1 / 3))
    homes = {(film.patient, fold) for film, fold in zip(films, found.fold, strict=True)}
    assert len(homes) == len({film.patient for film in films})
    assert len({*found.fold.tolist()}) > 1
    np.testing.assert_allclose(np.bincount(found.truth, found.weights), 1 / 3)


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
    ("change", "words"),
    [
        ({"cases": []}, "cases"),
        ({"schema_version": 99}, "schema_version"),
        ({"tolerance": 5}, "tolerance"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_golden_cases_are_read_strictly(own_bundle: Path, change: dict[str, Any], words: str) -> None:
    path = own_bundle / "golden" / "golden.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    contract = load_contract(own_bundle)
    files = contract.files | {"golden/golden.json": sha256_of(path)}
    save_contract(contract.model_copy(update={"files": files}), own_bundle)
    with pytest.raises(BundleError, match=rf"golden\.json is not valid: .*{words}"):
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


@pytest.mark.parametrize("count", [1, 12, 13, 23, 64, 65, 127, 250])
def test_probes_are_evenly_spaced_over_all_images(count: int) -> None:
    chosen = evenly_spaced(count, 12)
    assert len(chosen) == len(set(chosen.tolist())) == min(count, 12)
    assert chosen[0] == 0
    assert chosen[-1] == count - 1


def test_ages_can_be_given(tiny_run: Path, dataset: Dataset, tmp_path: Path) -> None:
    export(tiny_run, dataset, tmp_path / "bundle", ExportConfig(ages=(18, 90)))
    assert load_contract(tmp_path / "bundle").population.age_years == (18, 90)


def test_calibration_films_are_train_films_with_the_same_number_per_class(dataset: Dataset) -> None:
    films = calibration_films(dataset)
    assert {film.split for film in films} == {"train"}
    counts = {label: sum(film.label == label for film in films) for label in dataset.classes}
    there = {label: sum(film.label == label for film in dataset.split("train")) for label in dataset.classes}
    assert counts == {label: min(32, count) for label, count in there.items()}
    assert len({film.path for film in films}) == len(films)


@pytest.fixture(scope="module")
def steady_run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained long enough that rounding does not change its classes."""
    from pneumoscope.training.config import make_config
    from pneumoscope.training.fit import train

    run = tmp_path_factory.mktemp("runs") / "steady"
    values: dict[str, Any] = {"recipe": "steady", **TINY, "epochs": 12, "optimizer": "adamw", "lr": 0.004}
    train(dataset, make_config(values, {}), run)
    return run


def test_int8_answers_like_fp32_and_reports_the_agreement(
    command: Callable[..., SimpleNamespace], steady_run: Path, dataset: Dataset, tmp_path: Path
) -> None:
    fp32, int8 = tmp_path / "fp32", tmp_path / "int8"
    export(steady_run, dataset, fp32)
    done = command("export", steady_run, "--out", int8, "--precision", "int8", "--quiet")
    assert done.code == 0, done.err
    assert "int8: the same class as fp32 on" in done.out
    contract = load_contract(int8)
    figures = contract.quantisation
    assert contract.precision == "int8"
    assert figures is not None
    assert is_alike(figures)
    films = dataset.split("val")
    answers = [[Engine.load(each).predict(dataset.read(film)) for film in films] for each in (fp32, int8)]
    best = [[max(one.probabilities, key=one.probabilities.__getitem__) for one in row] for row in answers]
    same = np.mean([one == two for one, two in zip(*best, strict=True)])
    assert same == pytest.approx(figures.agreement)
    assert figures.films == len(films)
    assert verify(int8) == verify(fp32)
    maps = [answers[place][0].maps for place in (0, 1)]
    assert maps[0] is not None
    assert maps[1] is not None
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.98


def test_int8_weights_are_signed_with_a_scale_per_channel_and_activations_unsigned(
    steady_run: Path, dataset: Dataset, tmp_path: Path
) -> None:
    export(steady_run, dataset, tmp_path / "int8", ExportConfig(precision="int8"))
    graph = onnx.load(tmp_path / "int8" / "model.onnx").graph
    tensors = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    weights = [each for each in tensors.values() if each.dtype == np.int8 and each.ndim == 4]
    assert weights
    assert all(np.abs(each.astype(int)).max() <= 64 for each in weights)  # 7 bits: no overflow without VNNI
    zero_points = {tensors[node.input[2]].dtype for node in graph.node if node.op_type == "QuantizeLinear"}
    assert zero_points == {np.dtype(np.uint8)}
    scales = [tensors[node.input[1]] for node in graph.node if node.op_type == "DequantizeLinear"]
    assert any(each.ndim == 1 and len(each) > 1 for each in scales)
    heads = [node for node in graph.node if {"logits", "activation_map"} & set(node.output)]
    assert {node.op_type for node in heads} <= {"Gemm", "Conv", "MatMul", "Add"}
    assert all(name in tensors and tensors[name].dtype == np.float32 for node in heads for name in node.input[1:])


@pytest.mark.parametrize("arch", ["resnet18", "test_convnext", "test_efficientnet"])
def test_every_family_has_an_int8_form(arch: str, tmp_path: Path) -> None:
    """Whether it also answers alike depends on the training; export measures that itself."""
    torch.manual_seed(0)
    write_onnx(build(arch, classes=3, size=64)[0].eval(), 64, tmp_path / "model.onnx")
    images = noise(12, 64)
    evidence = Comparison(calibration=images, validation=images, labels=np.zeros(12, np.int64), classes=3)
    path = _Recipe(tmp_path / "model.onnx", tmp_path, evidence).write(EVERYTHING)
    weights = [each for each in onnx.load(path).graph.initializer if each.data_type == onnx.TensorProto.INT8]
    assert len(weights) >= 4
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images})
    (expected,) = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"]).run(
        ["logits"], {"image": images}
    )
    assert logits.shape == (12, 3)
    assert np.abs(logits - expected).max() < 0.3 * np.abs(expected).max()


def figures(agreement: float, macro_f1: float) -> Quantisation:
    return Quantisation(
        calibration_films=96,
        operators="all",
        kept_fp32=(),
        films=100,
        agreement=agreement,
        macro_f1=macro_f1,
        macro_f1_fp32=0.8,
    )


@pytest.mark.parametrize(
    ("agreement", "macro_f1", "alike"),
    [(0.99, 0.8, True), (0.989, 0.8, False), (1, 0.7951, True), (1, 0.795, False), (0.99, 0.9, True)],
)
def test_when_int8_is_alike(agreement: float, macro_f1: float, *, alike: bool) -> None:
    assert is_alike(figures(agreement, macro_f1)) is alike


def test_int8_that_is_not_alike_enough_is_refused(
    steady_run: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The required agreement cannot be reached: every choice of layers is tried, then nothing is written."""
    monkeypatch.setattr("pneumoscope.export.quantise.MIN_AGREEMENT", 1.01)
    with pytest.raises(BundleError, match=r"int8 gives the same class as fp32 on .*--precision fp32"):
        export(steady_run, dataset, tmp_path / "int8", ExportConfig(precision="int8"))
    assert not list(tmp_path.iterdir())


def test_harmful_layers_are_left_in_fp32(tmp_path: Path, dataset: Dataset, steady_run: Path) -> None:
    from pneumoscope.export import load_network
    from pneumoscope.progress import SILENT

    network = load_network(steady_run)
    write_onnx(network, TINY["size"], tmp_path / "model.onnx")
    rule = InputRule.squash(TINY["size"])
    images = np.stack([load_input(dataset.read(each), rule) for each in calibration_films(dataset)[:24]])
    evidence = Comparison(calibration=images, validation=images, labels=np.zeros(24, np.int64), classes=3)
    recipe = _Recipe(tmp_path / "model.onnx", tmp_path, evidence)
    choices = list(recipe.choices(SILENT))
    assert [(choice.operators, choice.kept) for choice in choices[:2]] == [("all", ()), ("layers", ())]
    assert all(set(one.kept) < set(two.kept) for one, two in pairwise(choices[1:]))
    last = choices[-1].kept
    assert 0 < len(last) <= len(recipe.layers) // 2
    model = onnx.load(recipe.write(choices[-1]))
    quantised = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    weights = {node.name: node.input[1] for node in model.graph.node if node.name in recipe.layers}
    assert {name for name, weight in weights.items() if weight not in quantised} == set(last)


@pytest.mark.parametrize("option", [("--ages", "old"), ("--ages", "9-3"), ("--precision", "int4")])
def test_bad_options_are_one_sentence(
    command: Callable[..., SimpleNamespace], tiny_run: Path, tmp_path: Path, option: tuple[str, str]
) -> None:
    done = command("export", tiny_run, "--out", tmp_path / "bundle", *option)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert not (tmp_path / "bundle").exists()


def test_golden_cases_cover_every_encoding(tiny_bundle: Path) -> None:
    document = json.loads((tiny_bundle / "golden" / "golden.json").read_text())
    suffixes = {Path(case["file"]).suffix for case in document["cases"]}
    assert suffixes == {".jpeg", ".png", ".tiff", ".dcm"}
    assert "rejected" in {case["status"] for case in document["cases"]}
    assert {case["needs"] for case in document["cases"]} == {None, "dicom"}


@pytest.fixture(scope="module")
def all_train(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A data set in which all films are train films."""
    out = tmp_path_factory.mktemp("all-train") / "data"
    prepare([phantom_folder], out, PrepareConfig(train_only=True))
    return load_dataset(out)


@pytest.fixture(scope="module")
def final_run(all_train: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("final") / "run"
    train(all_train, make_config({"recipe": "pneumoscope-base", **TINY, "epochs": 1, "prior": "uniform"}, {}), run)
    return run


def evidence_file(path: Path, dataset: Dataset, run: Path) -> Path:
    """Out-of-fold predictions that are correct four times in five, with rows in another order than the manifest."""
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
    assert "They are drawings, not radiographs of patients." in card
    assert "| accuracy | 0." in card
    assert "official test part" in card  # from the recipe's notes
    assert "Kermany" not in card  # although the drawings have published names
    for part in ("## What it is", "## Films", "## Figures", "## Limits"):
        assert part in card


def test_evidence_of_another_recipe_or_of_other_films_is_refused(
    final_run: Path, all_train: Dataset, tiny_run: Path, tmp_path: Path
) -> None:
    other = evidence_file(tmp_path / "other.npz", all_train, tiny_run)  # of other settings
    with pytest.raises(RunError, match=r"prior 'train' and 'uniform'.*cross-validate with the run's recipe"):
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
            tmp_path / "b",
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


def test_verify_notices_a_graph_of_another_normalisation(own_bundle: Path) -> None:
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
