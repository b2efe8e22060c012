"""The training cache, the order of films, and augmentation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from listeners import Recorder
from pneumoscope.contract import InputRule
from pneumoscope.dataset import Dataset
from pneumoscope.errors import DatasetError
from pneumoscope.imaging import Limits, load_input
from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.augment import apply_seeded, policy
from pneumoscope.training.config import make_config
from pneumoscope.training.fit import train
from pneumoscope.training.inputs import CachedFilms, EpochOrder, cache_inputs
from samples import TINY


def test_cache_equals_the_inputs_and_is_made_once(dataset: Dataset, tmp_path: Path) -> None:
    rule, recorder = InputRule.squash(40), Recorder()
    array = cache_inputs(dataset, "val", rule, tmp_path, listener=recorder)
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable
    expected = np.stack([load_input(dataset.read(film), rule) for film in dataset.split("val")])
    np.testing.assert_array_equal(array, expected)
    cache_inputs(dataset, "val", rule, tmp_path, listener=recorder)
    cache_inputs(dataset, "val", InputRule.squash(48), tmp_path, listener=recorder)
    assert recorder.tasks == [("decoding val images", len(array))] * 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cache_folder_that_cannot_be_made_is_an_error(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="--cache"):
        cache_inputs(dataset, "val", InputRule.squash(40), tmp_path / "file" / "cache")


def test_order_is_a_pure_function_of_seed_and_epoch() -> None:
    order = EpochOrder(20, seed=3)
    epochs = []
    for epoch in (0, 1, 0):
        order.set_epoch(epoch)
        epochs.append([key - epoch * 20 for key in order])
    assert sorted(epochs[0]) == list(range(20))
    assert epochs[0] == epochs[2] != epochs[1]
    assert list(EpochOrder(20, seed=3)) == epochs[0] != list(EpochOrder(20, seed=4))


def augmenting(name: str, size: int) -> TrainConfig:
    return make_config({"recipe": "tiny", **TINY, "augment": name, "size": size}, {})


def test_augmentation_depends_on_seed_epoch_and_film_only() -> None:
    images = np.random.default_rng(0).integers(0, 255, (3, 1, 32, 32), dtype=np.uint8)
    films, others = (
        CachedFilms(images, np.array([0, 1, 2]), augment=policy(augmenting("robust", 32)), seed=seed) for seed in (1, 2)
    )
    batch, labels, _ = films.__getitems__([3, 4, 5])  # epoch 1
    again, *_ = films.__getitems__([4])
    later, *_ = films.__getitems__([7])
    assert labels.tolist() == [0, 1, 2]
    torch.testing.assert_close(batch[1:2], again)
    assert not torch.equal(again, later)
    assert not torch.equal(again, others.__getitems__([4])[0])


@pytest.mark.parametrize("name", ["light", "robust"])
def test_policies_keep_shape_and_dtype_and_the_global_random_state(name: str) -> None:
    transform = policy(augmenting(name, 40))
    assert transform is not None
    image = torch.arange(1600, dtype=torch.uint8).reshape(1, 40, 40)
    state = torch.random.get_rng_state()
    for number in range(30):
        changed = apply_seeded(transform, image, number)
        assert changed.shape == image.shape
        assert changed.dtype == image.dtype
    assert torch.equal(torch.random.get_rng_state(), state)
    assert policy(augmenting("none", 40)) is None


def test_a_last_batch_of_one_film_is_left_out(dataset: Dataset, tmp_path: Path) -> None:
    count = len(dataset.split("train"))
    # At 32 px the last features are 1x1, and batch norm refuses a batch of one film.
    config = make_config({"recipe": "x", **TINY, "size": 32, "batch_size": count - 1, "epochs": 1}, {})
    assert np.isfinite(train(dataset, config, tmp_path / "run")[0]["train_loss"])


def test_a_damaged_cache_is_replaced(dataset: Dataset, tmp_path: Path) -> None:
    rule = InputRule.squash(40)
    expected = np.array(cache_inputs(dataset, "val", rule, tmp_path))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:500])
    np.testing.assert_array_equal(cache_inputs(dataset, "val", rule, tmp_path), expected)


def test_the_data_sets_limits_apply_to_the_cache(dataset: Dataset, tmp_path: Path) -> None:
    small = replace(dataset, limits=Limits(max_pixels=1000))
    with pytest.raises(DatasetError, match=r"jpeg: .*at most 1,000"):
        cache_inputs(small, "val", InputRule.squash(40), tmp_path)
    assert not list(tmp_path.iterdir())


def test_augmentation_never_reseeds_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = policy(augmenting("light", 40))
    assert transform is not None
    monkeypatch.setattr(torch, "manual_seed", None)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", None)
    apply_seeded(transform, torch.zeros(1, 40, 40, dtype=torch.uint8), 1)
