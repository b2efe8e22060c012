"""What the gate is fitted to: pictures that are not films, and films with faults."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumoscope.export.faults import FAULT_MAKERS, augment
from pneumoscope.export.gate import CODES, fit_gate, gate_samples
from pneumoscope.export.graph import write_onnx
from pneumoscope.export.pictures import KINDS, Kind, draw, library_photographs
from pneumoscope.phantom import film
from pneumoscope.training.predict import load_network
from samples import TINY


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_vary_and_are_reproducible(kind: Kind) -> None:
    drawn = [draw(kind, np.random.default_rng(seed), 64) for seed in range(12)]
    again = [draw(kind, np.random.default_rng(seed), 64) for seed in range(12)]
    assert all(np.array_equal(one, other) for one, other in zip(drawn, again, strict=True))
    assert all(picture.shape == (64, 64) and picture.dtype == np.uint8 for picture in drawn)
    assert len({picture.tobytes() for picture in drawn}) == 12
    assert np.mean([picture.std() > 2 for picture in drawn]) > 0.8


def test_the_libraries_photographs_are_found() -> None:
    photographs = library_photographs()
    assert len(photographs) >= 15
    assert all(photograph.ndim == 2 and min(photograph.shape) >= 64 for photograph in photographs)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_an_augmented_film_is_still_a_film(seed: int) -> None:
    original = film("virus", patient=1, size=(96, 96))
    varied = augment(original, np.random.default_rng(seed))
    assert varied.shape == original.shape
    assert varied.dtype == np.uint8
    assert varied.std() > 10


def test_the_samples_have_every_code_and_all_faults_of_a_film_have_its_patient(tiny_run: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    write_onnx(load_network(tiny_run), TINY["size"], model)
    size = (TINY["size"], TINY["size"])
    films = np.stack([film("normal", patient=number // 2, size=size) for number in range(12)])[:, np.newaxis]
    samples = gate_samples(model, films, [str(number // 2) for number in range(12)], drawings=True, seed=0)
    assert set(samples.code.tolist()) == set(range(len(CODES)))
    pictures = np.isin(samples.code, [CODES.index(kind) for kind in KINDS])
    assert (samples.patient[pictures] == -1).all()
    assert np.bincount(samples.patient[~pictures]).tolist() == [2 * (2 + len(FAULT_MAKERS))] * 6
    first, again = (fit_gate(model, films, ["a"] * 12, drawings=True) for _ in range(2))
    assert first[0] == again[0]
    np.testing.assert_array_equal(first[1].weight, again[1].weight)
