"""int8: close to fp32, refused otherwise."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from pneumoscope.backbone import build
from pneumoscope.contract import (
    InputRule,
    Quantisation,
    load_contract,
)
from pneumoscope.dataset import Dataset
from pneumoscope.engine import Engine, verify
from pneumoscope.errors import BundleError
from pneumoscope.export import export
from pneumoscope.export.exporter import calibration_films
from pneumoscope.export.graph import write_onnx
from pneumoscope.export.quantise import _PROBES, EVERYTHING, Comparison, _Quantiser, evenly_spaced, is_alike, logits_of
from pneumoscope.imaging import load_input
from pneumoscope.settings.training import ExportConfig
from samples import TINY, noise


@pytest.mark.parametrize("count", [1, 12, 13, 23, 64, 65, 127, 250])
def test_probes_are_evenly_spaced_over_all_images(count: int) -> None:
    chosen = evenly_spaced(count, 12)
    assert len(chosen) == len(set(chosen.tolist())) == min(count, 12)
    assert chosen[0] == 0
    assert chosen[-1] == count - 1
    steps = np.diff(chosen).tolist()
    assert max(steps, default=0) - min(steps, default=0) <= 1


def test_calibration_films_are_train_films_with_the_same_number_per_class(dataset: Dataset) -> None:
    films = calibration_films(dataset)
    assert {film.split for film in films} == {"train"}
    counts = {label: sum(film.label == label for film in films) for label in dataset.classes}
    there = {label: sum(film.label == label for film in dataset.split("train")) for label in dataset.classes}
    assert counts == {label: min(32, count) for label, count in there.items()}
    assert len({film.path for film in films}) == len(films)


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
    predictions = [[Engine.load(each).predict(dataset.read(film)) for film in films] for each in (fp32, int8)]
    best = [[max(one.probabilities, key=one.probabilities.__getitem__) for one in row] for row in predictions]
    same = np.mean([one == two for one, two in zip(*best, strict=True)])
    assert same == pytest.approx(figures.agreement)
    assert figures.films == len(films)
    assert verify(int8) == verify(fp32)
    maps = [predictions[place][0].maps for place in (0, 1)]
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
    path = _Quantiser(tmp_path / "model.onnx", tmp_path, evidence).write(EVERYTHING)
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
    quantiser = _Quantiser(tmp_path / "model.onnx", tmp_path, evidence)
    choices = list(quantiser.choices(SILENT))
    assert [(choice.operators, choice.kept) for choice in choices[:2]] == [("all", ()), ("layers", ())]
    assert all(set(one.kept) < set(two.kept) for one, two in pairwise(choices[1:]))
    last = choices[-1].kept
    assert 0 < len(last) <= len(quantiser.layers) // 2
    probes = images[evenly_spaced(len(images), _PROBES)]
    reference = logits_of(quantiser.ready, probes)
    harm = {
        layer: float(np.square(logits_of(quantiser.write(EVERYTHING, only=layer), probes) - reference).mean())
        for layer in quantiser.layers
    }
    assert max(harm, key=harm.__getitem__) in choices[2].kept
    model = onnx.load(quantiser.write(choices[-1]))
    quantised = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    weights = {node.name: node.input[1] for node in model.graph.node if node.name in quantiser.layers}
    assert {name for name, weight in weights.items() if weight not in quantised} == set(last)
