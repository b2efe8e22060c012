from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumoscope.contract import ActivationMap, Contract, Decision, Population, load_contract
from pneumoscope.engine.attention import rim_shares
from pneumoscope.engine.decision import decide, reject
from pneumoscope.errors import UsageError
from pneumoscope.imaging import Reason

RULE = ActivationMap.of_grid(7, 7)


@pytest.fixture(scope="module")
def contract(tiny_bundle: Path) -> Contract:
    """Bacteria, normal, virus and the group pneumonia, answered from 0.6."""
    return load_contract(tiny_bundle).model_copy(
        update={
            "decision": Decision(answer_from=0.6, coverage=0.95, films=100),
            "population": Population(age_years=(1, 5), drawings=False),
            "activation_map": RULE,
        }
    )


@pytest.mark.parametrize(
    ("probabilities", "status", "answer", "label", "possible"),
    [
        ([0.1, 0.2, 0.7], "answered", 2, "virus", ("virus",)),
        ([0.6, 0.2, 0.2], "answered", 0, "bacteria", ("bacteria",)),
        ([0.5, 0.1, 0.4], "abstained", None, "pneumonia, type undetermined", ("bacteria", "virus")),
        ([0.3, 0.5, 0.2], "abstained", None, None, ("bacteria", "normal", "virus")),
    ],
)
def test_probabilities_become_a_decision(
    contract: Contract,
    probabilities: list[float],
    status: str,
    answer: int | None,
    label: str | None,
    possible: tuple[str, ...],
) -> None:
    verdict = decide(contract, np.array(probabilities), None)
    assert verdict.status == status
    assert verdict.class_index == answer
    assert verdict.label == label
    assert verdict.prediction_set == possible
    assert bool(verdict.reasons) == (status == "abstained")


@pytest.mark.parametrize(
    ("probabilities", "status", "answer", "label", "possible"),
    [
        ([0.35, 0.1, 0.55], "answered", None, "pneumonia", ("bacteria", "virus")),
        ([0.1, 0.7, 0.2], "answered", 1, "normal", ("normal",)),
        ([0.3, 0.45, 0.25], "abstained", None, None, ("bacteria", "normal", "virus")),
    ],
)
def test_level_group_answers_with_groups(
    contract: Contract,
    probabilities: list[float],
    status: str,
    answer: int | None,
    label: str | None,
    possible: tuple[str, ...],
) -> None:
    """Sums decide, even where another class is the most probable one."""
    verdict = decide(contract, np.array(probabilities), None, level="group")
    assert verdict.status == status
    assert verdict.class_index == answer
    assert verdict.label == label
    assert verdict.prediction_set == possible
    assert verdict.reason_codes == (("below-threshold",) if status == "abstained" else ())


@pytest.mark.parametrize("groups", [{}, {"a": ("bacteria", "virus"), "b": ("normal", "virus")}])
def test_level_group_needs_groups_apart(contract: Contract, groups: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(UsageError, match="use level 'class'"):
        decide(contract.model_copy(update={"groups": groups}), np.array([0.1, 0.2, 0.7]), None, level="group")


def test_an_abstention_says_how_far_it_was(contract: Contract) -> None:
    (reason,) = decide(contract, np.array([0.5, 0.1, 0.4]), None).reasons
    assert reason == "the largest probability, 0.500 for bacteria, is under 0.600"
    (reason,) = decide(contract, np.array([0.5999, 0.0, 0.4001]), None).reasons
    assert reason == "the largest probability, 0.599900 for bacteria, is under 0.600000"


def test_a_group_is_data_and_may_be_missing(contract: Contract) -> None:
    verdict = decide(contract.model_copy(update={"groups": {}}), np.array([0.5, 0.1, 0.4]), None)
    assert verdict.label is None
    assert verdict.prediction_set == contract.classes


def test_a_rejection_has_a_reason_and_nothing_else(contract: Contract) -> None:
    verdict = reject(contract, Reason("undecodable", "the file is empty."))
    assert verdict.status == "rejected"
    assert verdict.label is None
    assert verdict.prediction_set == ()
    assert verdict.reasons == ("the file is empty.",)


def test_a_model_trained_on_drawings_says_so_of_every_film(contract: Contract) -> None:
    drawn = contract.model_copy(update={"population": Population(age_years=None, drawings=True)})
    answered, abstained = (decide(drawn, np.array(row), None) for row in ([0.1, 0.2, 0.7], [0.5, 0.1, 0.4]))
    assert answered.reasons == (
        "this model was trained on drawings, not on radiographs; its answer says nothing about a patient",
    )
    assert abstained.reason_codes == ("below-threshold", "trained-on-drawings")
    rejected = reject(drawn, Reason("undecodable", "the file is empty."))
    assert rejected.reason_codes == ("undecodable", "trained-on-drawings")
    unknown = contract.model_copy(update={"population": Population(age_years=None, drawings=None)})
    assert decide(unknown, np.array([0.1, 0.2, 0.7]), None).reasons == ()


@pytest.mark.parametrize(("age", "told"), [(None, False), (0.9, True), (1, False), (5.9, False), (6, True), (34, True)])
def test_an_age_outside_the_population_is_told(contract: Contract, age: float | None, *, told: bool) -> None:
    verdict = decide(contract, np.array([0.1, 0.2, 0.7]), None, age_years=age)
    assert verdict.status == "answered"
    assert ["trained on ages 1 to 5" in reason for reason in verdict.reasons] == [True] * told
    anyone = contract.model_copy(update={"population": Population(age_years=None, drawings=False)})
    assert decide(anyone, np.array([0.1, 0.2, 0.7]), None, age_years=age).reasons == ()


@pytest.mark.parametrize(
    ("age", "words"),
    [(0.016, "under 1 year old"), (7.9, "7 years old"), (34.2, "34 years old"), (95.2, "90 years old or older")],
)
def test_an_age_is_told_in_whole_years_and_not_past_90(contract: Contract, age: float, words: str) -> None:
    (reason,) = decide(contract, np.array([0.1, 0.2, 0.7]), None, age_years=age).reasons
    assert reason.startswith(f"the patient is {words};")


@pytest.mark.parametrize(
    ("probabilities", "groups", "label"),
    [
        # The group is sure enough, but without the most probable class.
        ([0.118, 0.465, 0.417], {"pneumonia": ("bacteria", "virus")}, None),
        # Of two that are, the more probable one, whatever their order.
        ([0.55, 0.15, 0.3], {"a": ("bacteria", "normal"), "b": ("bacteria", "virus")}, "b, type undetermined"),
    ],
)
def test_a_group_is_named_only_with_the_most_probable_class(
    contract: Contract, probabilities: list[float], groups: dict[str, tuple[str, ...]], label: str | None
) -> None:
    decision = contract.decision.model_copy(update={"answer_from": 0.6 if label else 0.474})
    changed = contract.model_copy(update={"groups": groups, "decision": decision})
    verdict = decide(changed, np.array(probabilities), None)
    assert verdict.status == "abstained"
    assert verdict.label == label
    assert contract.classes[int(np.argmax(probabilities))] in verdict.prediction_set


def test_notes_of_the_film_are_passed_on(contract: Contract) -> None:
    told = decide(contract, np.array([0.1, 0.2, 0.7]), None, notes=(Reason("greys", "a note"),))
    assert told.reasons == ("a note",)
    assert told.reason_codes == ("greys",)


def maps_of(grid: np.ndarray) -> np.ndarray:
    """Maps of three classes; the last one is the given one."""
    return np.stack([np.ones_like(grid), np.ones_like(grid), grid]).astype(np.float32)


def test_a_look_at_the_rim_is_told(contract: Contract) -> None:
    central = np.zeros((7, 7))
    central[2:5, 2:5] = 1
    edge, corner = np.zeros((7, 7)), np.zeros((7, 7))
    edge[0] = 1
    corner[6, 6] = 1
    sure = np.array([0.1, 0.2, 0.7])
    for grid, share in ((central, None), (np.ones((7, 7)), None), (edge, "91%"), (corner, "98%")):
        verdict = decide(contract, sure, maps_of(grid))
        assert verdict.status == "answered"
        assert [f"rim of the film: of the map for virus, {share}" in reason for reason in verdict.reasons] == (
            [True] if share else []
        )


def test_a_map_without_a_positive_part_has_no_shares(contract: Contract) -> None:
    attention = decide(contract, np.array([0.1, 0.2, 0.7]), maps_of(-np.ones((7, 7)))).attention
    assert attention is not None
    assert attention.as_json() == {"class": "virus", "border": None, "corners": None}


def test_an_even_map_has_the_areas_shares() -> None:
    for height, width in ((7, 7), (5, 9), (1, 1), (28, 28)):
        border, corners = rim_shares(np.full((height, width), 3.5), RULE) or (0, 0)
        assert border == pytest.approx(1 - 0.75**2)
        assert corners == pytest.approx(0.25)


@given(seed=st.integers(0, 1000), side=st.integers(1, 14), scale=st.floats(0.01, 100))
def test_shares_are_those_of_the_map_drawn_large(seed: int, side: int, scale: float) -> None:
    grid = np.random.default_rng(seed).normal(size=(side, side))
    shares = rim_shares(scale * grid, RULE)
    large = np.clip(np.kron(grid, np.ones((8, 8))), 0, None)
    total, rim, quarter = large.sum(), side, 2 * side  # of 8 * side: an eighth and a quarter
    if total == 0:
        assert shares is None
        return
    inner = large[rim:-rim, rim:-rim].sum()
    squares = sum(
        large[rows, columns].sum()
        for rows in (slice(None, quarter), slice(-quarter, None))
        for columns in (slice(None, quarter), slice(-quarter, None))
    )
    assert shares is not None
    assert shares[0] == pytest.approx(1 - inner / total)
    assert shares[1] == pytest.approx(squares / total)
