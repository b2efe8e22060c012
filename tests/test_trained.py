"""Films that a bundle was trained on: found by pixels and by perceptual hash, refused in one sentence."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pneumoscope.contract import Population, load_contract, save_contract
from pneumoscope.dataset import Dataset, PrepareConfig, Record, load_dataset, prepare
from pneumoscope.dataset.likeness import NEAR_DISTANCE
from pneumoscope.errors import BundleError, UsageError
from pneumoscope.imaging import read_luma
from pneumoscope.phantom import encode_jpeg
from pneumoscope.report import FILMS_FILE, Options, TrainedFilms, evaluate, load_trained, refuse_trained
from pneumoscope.report.trained import Overlap

PLAIN = Options(shortcuts=False)


def a_film(number: int, **changes: str) -> Record:
    """A record of a manifest, with hashes made from its number."""
    random = np.random.default_rng(number)
    values = {
        "path": f"test/normal/{number}.jpeg",
        "luma_sha256": random.bytes(32).hex(),
        "phash": random.bytes(32).hex(),
    }
    rest = {"label": "normal", "split": "test", "patient": str(number), "source": "a:b", "file_sha256": "0" * 64}
    return Record(**(rest | values | changes), width=1, height=1, bytes=1, mode="L")


def with_bits(phash: str, count: int) -> str:
    """A perceptual hash that differs in this number of bits."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(phash), np.uint8))
    bits[np.random.default_rng(0).permutation(256)[:count]] ^= 1
    return np.packbits(bits).tobytes().hex()


def test_films_are_found_by_pixels_and_by_perceptual_hash() -> None:
    films = [a_film(number) for number in range(40)]
    trained = TrainedFilms.of(films)
    asked = [
        a_film(100),
        a_film(101, luma_sha256=films[3].luma_sha256),
        a_film(102, phash=with_bits(films[7].phash, NEAR_DISTANCE)),
        a_film(103, phash=with_bits(films[7].phash, NEAR_DISTANCE + 1)),
    ]
    assert trained.overlap(asked) == Overlap(same=(asked[1].path,), near=(asked[2].path,))
    assert trained.overlap(asked, near=False) == Overlap(same=(asked[1].path,), near=())
    assert not trained.overlap([asked[0], asked[3]])
    assert not trained.overlap([])
    assert not TrainedFilms.of([]).overlap(asked)


def test_tens_of_thousands_of_films_are_compared_in_seconds() -> None:
    random = np.random.default_rng(10**6)
    many = TrainedFilms(
        pixels=random.integers(256, size=(50_000, 8), dtype=np.uint8),
        likeness=random.integers(256, size=(50_000, 32), dtype=np.uint8),
    )
    films = [a_film(number) for number in range(1000)]
    started = time.monotonic()
    assert not many.overlap(films)
    assert time.monotonic() - started < 10


def test_the_refusal_has_counts_and_two_examples() -> None:
    refuse_trained(Overlap(same=(), near=()), 5, "split 'test' of DS", "model")
    with pytest.raises(
        UsageError,
        match=r"model was trained on 3 of the 5 films of split 'test' of DS \(2 with equal pixels, 1 nearly the "
        r"same\), such as a and b; figures",
    ):
        refuse_trained(Overlap(same=("a", "b"), near=("c",)), 5, "split 'test' of DS", "model")


def test_a_bundle_recognises_its_train_films_and_no_others(drawn_bundle: Path, dataset: Dataset) -> None:
    trained = load_trained(drawn_bundle, load_contract(drawn_bundle))
    assert trained is not None
    train = dataset.split("train")
    assert [bytes(row).hex() for row in trained.pixels] == [film.luma_sha256[:16] for film in train]
    assert [bytes(row).hex() for row in trained.likeness] == [film.phash for film in train]
    assert not trained.overlap(dataset.split("test"), near=False)
    assert len(trained.overlap(train).same) == len(train)


def test_the_error_names_a_damaged_file(own_bundle: Path) -> None:
    (own_bundle / FILMS_FILE).write_bytes(b"PK")
    with pytest.raises(BundleError, match=r"films\.npz is damaged: it cannot be read"):
        load_trained(own_bundle, load_contract(own_bundle))


def test_another_data_set_that_contains_train_films_is_refused(
    tiny_bundle: Path, dataset: Dataset, tmp_path: Path, command: Callable[..., SimpleNamespace]
) -> None:
    prepare([dataset.root], tmp_path / "all", PrepareConfig(test_only=True))
    done = command("evaluate", tmp_path / "all", "--bundle", tiny_bundle, "--out", tmp_path / "report")
    assert done.code == 2
    assert done.err.count("\n") == 1
    count = len(dataset.split("train"))
    assert f"was trained on {count} of the 90 films of split 'test'" in done.err
    assert not (tmp_path / "report").exists()
    own = command("evaluate", dataset.root, "--bundle", tiny_bundle, "--out", tmp_path / "own", "--no-shortcuts")
    assert own.code == 0, own.err


def test_a_resized_copy_is_refused_for_films_and_not_for_drawings(
    own_bundle: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """Films saved in another size or quality have other pixels; of phantoms, only those with equal pixels count."""
    for film in dataset.split("train")[:3]:
        image = Image.fromarray(read_luma(dataset.read(film)))
        luma = np.asarray(image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC))
        path = tmp_path / "source" / film.label / f"{Path(film.path).stem}-large.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(luma, quality=60))
    for label in dataset.classes:
        (tmp_path / "source" / label).mkdir(exist_ok=True)
    others = {film.label: film for film in dataset.split("test")}
    for label, film in others.items():
        (tmp_path / "source" / label / f"{Path(film.path).stem}.jpeg").write_bytes(dataset.read(film))
    prepare([tmp_path / "source"], tmp_path / "large", PrepareConfig(test_only=True))
    large = replace(load_dataset(tmp_path / "large"), groups=dataset.groups)
    with pytest.raises(UsageError, match=r"\(0 with equal pixels, 3 nearly the same\)"):
        evaluate(own_bundle, large, "test", tmp_path / "out", PLAIN)
    drawings = load_contract(own_bundle).model_copy(update={"population": Population(age_years=None, drawings=True)})
    save_contract(drawings, own_bundle)
    assert evaluate(own_bundle, large, "test", tmp_path / "out", PLAIN).n == len(large.films)
