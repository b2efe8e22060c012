import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, one_hot

from pneumoscope.metrics import softmax
from pneumoscope.training.config import make_config
from pneumoscope.training.inputs import Batch
from pneumoscope.training.loss import Objective, log_prior, mix
from samples import TINY

THREE_TO_ONE = np.array([0, 0, 0, 1])
LOGITS = torch.tensor([[1.0, -2.0], [0.5, 0.0], [-1.0, 3.0]])
LABELS = torch.tensor([0, 1, 1])


def objective(labels: Any = THREE_TO_ONE, classes: int = 2, **settings: Any) -> Objective:
    return Objective(make_config({"recipe": "x", **TINY, **settings}, {}), labels, classes)


def batch(labels: torch.Tensor = LABELS, teacher: torch.Tensor | None = None) -> Batch:
    return Batch(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels, teacher)


def test_the_default_loss_is_the_cross_entropy_of_the_labels() -> None:
    plain = objective()
    targets = plain.targets(batch())
    assert targets is LABELS
    torch.testing.assert_close(plain(LOGITS, targets), cross_entropy(LOGITS, LABELS))


def test_a_uniform_prior_adds_the_frequencies_to_the_logits_in_the_loss() -> None:
    """For equal logits and class frequencies 3/4 and 1/4, the loss is that of probabilities 3/4 and 1/4."""
    adjusted = objective(prior="uniform")
    undecided = torch.zeros(1, 2)
    assert float(adjusted(undecided, torch.tensor([0]))) == pytest.approx(-math.log(3 / 4))
    assert float(adjusted(undecided, torch.tensor([1]))) == pytest.approx(-math.log(1 / 4))
    assert float(objective(prior="train")(undecided, torch.tensor([1]))) == pytest.approx(math.log(2))


def test_with_equal_frequencies_a_uniform_prior_changes_nothing() -> None:
    even = np.array([0, 1, 1, 0])
    torch.testing.assert_close(
        objective(even, prior="uniform")(LOGITS, LABELS), objective(even, prior="train")(LOGITS, LABELS)
    )


def test_the_log_prior_converts_probabilities_from_equal_frequencies_to_the_labels() -> None:
    """Bayes: odds of 1 become 3 if the first class is three times as frequent."""
    logits = np.array([[0.0, 0.0], [2.0, 1.0]])
    shares = softmax(logits + log_prior(THREE_TO_ONE, 2))
    np.testing.assert_allclose(shares[0], [0.75, 0.25])
    assert shares[1, 0] / shares[1, 1] == pytest.approx(3 * math.e)
    assert np.isfinite(log_prior(THREE_TO_ONE, 3)).all()  # a class without films


def test_the_penalty_is_half_the_mean_squared_length_of_the_logits() -> None:
    squared_lengths = [5.0, 0.25, 10.0]
    difference = objective(logit_penalty=0.1)(LOGITS, LABELS) - objective()(LOGITS, LABELS)
    assert float(difference) == pytest.approx(0.1 / 2 * np.mean(squared_lengths), rel=1e-5)


def test_targets_are_interpolated_between_label_and_teacher() -> None:
    teacher = torch.tensor([[0.5, 0.5], [0.75, 0.25], [0.0, 1.0]])
    certain = one_hot(LABELS, 2).float()
    torch.testing.assert_close(objective(teacher_share=0.0).targets(batch(teacher=teacher)), certain)
    torch.testing.assert_close(objective(teacher_share=1.0).targets(batch(teacher=teacher)), teacher)
    quarter = objective(teacher_share=0.25).targets(batch(teacher=teacher))
    torch.testing.assert_close(quarter, torch.tensor([[0.875, 0.125], [0.1875, 0.8125], [0.0, 1.0]]))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_hot_targets_have_the_loss_of_their_labels(smoothing: float) -> None:
    mixed = objective(mixup=0.2, label_smoothing=smoothing)
    targets = mixed.targets(batch())
    torch.testing.assert_close(targets, one_hot(LABELS, 2).float())
    torch.testing.assert_close(mixed(LOGITS, targets), objective(label_smoothing=smoothing)(LOGITS, LABELS))


def test_without_mixup_nothing_changes() -> None:
    one = batch()
    images, targets = mix(one, one.labels, 0.0)
    assert images is one.images
    assert targets is one.labels


@given(seed=st.integers(0, 10_000), alpha=st.floats(0.05, 10), count=st.integers(1, 9))
@settings(deadline=None)
def test_mixup_mixes_films_and_targets_by_one_share_and_keeps_the_larger_part(
    seed: int, alpha: float, count: int
) -> None:
    """Every film has a class of its own here, so that targets show which films were mixed."""
    values = (torch.arange(count) * 20).to(torch.uint8)
    one = Batch(values[:, None, None, None].expand(count, 1, 2, 2), torch.arange(count))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        images, targets = mix(one, torch.eye(count), alpha)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(count))
    own = targets.diagonal()
    assert bool((own >= 0.5 - 1e-6).all())
    shares = own[own < 1 - 1e-6]
    assert len(shares) == 0 or float(shares.max() - shares.min()) < 1e-6
    torch.testing.assert_close(images[:, 0, 1, 1], targets @ values.float(), rtol=1e-4, atol=1e-3)
    assert one.images.dtype == torch.uint8
