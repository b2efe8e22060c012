"""The training configuration: contradictions are refused in one sentence."""

from typing import Any

import pytest

from pneumoscope.errors import UsageError
from pneumoscope.training.config import load_recipe, make_config
from samples import TINY


def refusal_of(**settings: Any) -> str:
    """The message with which these settings are refused."""
    with pytest.raises(UsageError) as caught:
        make_config({"recipe": "x", **TINY, **settings}, {})
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("setting", [{"crop_size": 64}, {"read_size": 64}, {"mirror": True}])
@pytest.mark.parametrize("augment", ["none", "light"])
def test_settings_of_the_robust_augmentation_need_it(setting: dict[str, Any], augment: str) -> None:
    assert refusal_of(augment=augment, **setting).endswith(
        ": crop_size, read_size and mirror belong to augment 'robust'; set that, or leave them out."
    )
    make_config({"recipe": "x", **TINY, "augment": "robust", **setting}, {})


@pytest.mark.parametrize("head_epochs", [2, 3])
def test_the_head_must_not_take_all_epochs(head_epochs: int) -> None:
    assert refusal_of(head_epochs=head_epochs, epochs=2) == (
        f"training configuration: head_epochs ({head_epochs}) must be fewer than epochs (2)."
    )
    make_config({"recipe": "x", **TINY, "head_epochs": 1, "epochs": 2}, {})


def test_a_filter_must_have_a_middle() -> None:
    assert refusal_of(eval_low_pass=4) == "training configuration: eval_low_pass (4) must be odd."


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("head_scale", 0),
        ("batch_norm_momentum", 1.5),
        ("dropout", 1),
        ("drop_path", -0.1),
        ("eval_low_pass", 0),
        ("rise", 0),
        ("rise", 1),
        ("prior", "test"),
        ("mixup", -1),
        ("logit_penalty", 2),
        ("teacher_share", 1.1),
        ("crop", 0),
        ("jitter", 4),
        ("crop_size", 16),
        ("read_size", 2000),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: Any) -> None:
    assert f"field '{field}'" in refusal_of(augment="robust", **{field: value})


def test_the_recipe_of_the_shipped_model() -> None:
    config = make_config(load_recipe("pneumoscope-base"), {})
    assert config.arch == "tf_efficientnet_lite0"
    assert config.weights == "imagenet"
    assert config.augment == "robust"
    assert config.prior == "uniform"
    assert config.head_epochs < config.epochs
