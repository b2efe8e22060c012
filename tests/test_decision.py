from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pneumoscope.contract import ActivationMap, Contract, Decision, OperatingPoint, Population, load_contract
from pneumoscope.engine.attention import rim_shares
from pneumoscope.engine.decision import Rule, choose_rule, decide, judge, reject
from pneumoscope.engine.document import Level
from pneumoscope.errors import UsageError
from pneumoscope.imaging import Reason
from samples import coverage_row

RULE = ActivationMap.of_grid(7, 7)


ROW = coverage_row(0.9, {"bacteria": 0.3, "normal": 0.5, "virus": 0.3}, {"pneumonia": (0.7, 0.6)})
POINT = OperatingPoint(
    name="sensitivity-0.95",
    group="pneumonia",
    aim="sensitivity",
    level=0.95,
    threshold=0.2,
    sensitivity=0.95,
    specificity=0.9,
)
CLASS, GROUP = Rule(level="class", row=ROW), Rule(level="group", row=ROW)


@pytest.fixture(scope="module")
def contract(tiny_bundle: Path) -> Contract:
    """Bacteria, normal, virus and the group pneumonia, and a row at 90 % coverage."""
    wide = coverage_row(0.99, dict.fromkeys(ROW.classes, 0.1), {"pneumonia": (0.1, 0.1)})
    return load_contract(tiny_bundle).model_copy(
        update={
            "decision": Decision(
                coverage=0.9, table=(ROW, wide), operating_points=(POINT,), evidence="out-of-fold", films=100
            ),
            "population": Population(age_years=(1, 5), drawings=False),
            "activation_map": RULE,
        }
    )


UNDETERMINED = "pneumonia, type undetermined"
ALL = ("bacteria", "normal", "virus")


@pytest.mark.parametrize(
    ("probabilities", "status", "label", "possible", "codes"),
    [
        ([0.1, 0.2, 0.7], "answered", "virus", ("virus",), ()),
        ([0.7, 0.2, 0.1], "answered", "bacteria", ("bacteria",), ()),
        ([0.2, 0.6, 0.2], "answered", "normal", ("normal",), ()),
        ([0.3, 0.1, 0.6], "abstained", UNDETERMINED, ("bacteria", "virus"), ("several-classes",)),
        # Both types fit; the absence of pneumonia does not, although pneumonia misses its own threshold.
        ([0.31, 0.35, 0.34], "abstained", UNDETERMINED, ("bacteria", "virus"), ("several-classes",)),
        # Classes on both sides of the group.
        ([0.4, 0.5, 0.1], "abstained", None, ("bacteria", "normal"), ("several-classes",)),
        # One class, and neither side of the group.
        ([0.15, 0.4, 0.45], "abstained", None, ("virus",), ("group-unclear",)),
        ([0.23, 0.55, 0.22], "abstained", None, ("normal",), ("group-unclear",)),
        ([0.27, 0.46, 0.27], "abstained", None, (), ("no-class",)),
    ],
)
def test_probabilities_become_a_decision(
    contract: Contract,
    probabilities: list[float],
    status: str,
    label: str | None,
    possible: tuple[str, ...],
    codes: tuple[str, ...],
) -> None:
    verdict = decide(contract, np.array(probabilities), None, rule=CLASS)
    assert (verdict.status, verdict.label, verdict.prediction_set) == (status, label, possible)
    assert verdict.class_index == (contract.classes.index(str(label)) if status == "answered" else None)
    assert verdict.reason_codes == codes
    assert verdict.coverage == 0.9


def test_reasons_name_the_set_and_its_coverage(contract: Contract) -> None:
    def reasons(*probabilities: float) -> tuple[str, ...]:
        return decide(contract, np.array(probabilities), None, rule=CLASS).reasons

    assert reasons(0.3, 0.1, 0.6) == ("at 90 % coverage the film may be bacteria or virus.",)
    assert reasons(0.27, 0.46, 0.27) == ("at 90 % coverage no class is probable enough to fit the film.",)
    assert reasons(0.15, 0.4, 0.45) == (
        "at 90 % coverage virus is the only class that fits, but neither pneumonia nor its absence fits the film.",
    )
    older = Rule(level="class", row=coverage_row(None, dict.fromkeys(ALL, 0.5), {"pneumonia": (0.5, 0.5)}))
    assert decide(contract, np.array([0.4, 0.35, 0.25]), None, rule=older).reasons == (
        "by this bundle's threshold no class is probable enough to fit the film.",
    )


def test_both_types_of_pneumonia_and_its_absence_fit(contract: Contract) -> None:
    row = coverage_row(0.9, {"bacteria": 0.3, "normal": 0.9, "virus": 0.3}, {"pneumonia": (0.6, 0.3)})
    verdict = decide(contract, np.array([0.31, 0.35, 0.34]), None, rule=Rule(level="class", row=row))
    assert (verdict.status, verdict.label) == ("abstained", None)
    assert verdict.reason_codes == ("several-classes", "group-unclear")


def test_the_only_class_that_fits_is_not_answered_if_another_is_more_probable(contract: Contract) -> None:
    """Possible because thresholds differ by class."""
    row = coverage_row(0.9, {"bacteria": 0.9, "normal": 0.9, "virus": 0.05}, {"pneumonia": (0.5, 0.5)})
    verdict = decide(contract, np.array([0.8, 0.1, 0.1]), None, rule=Rule(level="class", row=row))
    assert (verdict.status, verdict.label, verdict.prediction_set) == ("abstained", None, ("virus",))
    assert verdict.reasons == ("at 90 % coverage virus is the only class that fits, but bacteria is more probable.",)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [((0.1, 0.1), "both pneumonia and its absence fit the film"), ((0.9, 0.2), "pneumonia does not fit the film")],
)
def test_a_class_and_its_group_must_agree(contract: Contract, thresholds: tuple[float, float], message: str) -> None:
    row = coverage_row(0.9, dict.fromkeys(ALL, 0.5), {"pneumonia": thresholds})
    verdict = decide(contract, np.array([0.1, 0.2, 0.7]), None, rule=Rule(level="class", row=row))
    assert (verdict.status, verdict.reason_codes) == ("abstained", ("group-unclear",))
    assert verdict.reasons[0].endswith(f"{message}.")


def test_a_probability_at_the_threshold_fits(contract: Contract) -> None:
    row = coverage_row(0.9, {"bacteria": 0.5, "normal": 0.5, "virus": 0.75}, {"pneumonia": (0.75, 0.5)})
    rule = Rule(level="class", row=row)
    assert decide(contract, np.array([0.0, 0.25, 0.75]), None, rule=rule).label == "virus"
    assert decide(contract, np.array([0.0, 0.25 + 1e-9, 0.75 - 1e-9]), None, rule=rule).status == "abstained"


@pytest.mark.parametrize(
    ("probabilities", "status", "label", "possible"),
    [
        ([0.35, 0.1, 0.55], "answered", "pneumonia", ("bacteria", "virus")),
        ([0.1, 0.7, 0.2], "answered", "normal", ("normal",)),
        ([0.3, 0.35, 0.35], "abstained", None, ()),
    ],
)
def test_level_group_answers_with_groups(
    contract: Contract, probabilities: list[float], status: str, label: str | None, possible: tuple[str, ...]
) -> None:
    """The sides decide, whichever classes are in the set."""
    verdict = decide(contract, np.array(probabilities), None, rule=GROUP)
    assert (verdict.status, verdict.label, verdict.prediction_set) == (status, label, possible)
    assert verdict.class_index == (1 if label == "normal" else None)
    assert verdict.reason_codes == (("group-unclear",) if status == "abstained" else ())
    both = Rule(level="group", row=coverage_row(0.99, dict.fromkeys(ALL, 0.5), {"pneumonia": (0.1, 0.1)}))
    unclear = decide(contract, np.array(probabilities), None, rule=both)
    if min(probabilities[1], 1 - probabilities[1]) > 0.1:
        assert (unclear.status, unclear.prediction_set) == ("abstained", ALL)
        assert unclear.reasons == ("at 99 % coverage the film may be pneumonia or normal.",)


@pytest.mark.parametrize(
    ("probabilities", "label"),
    [([0.1, 0.6, 0.2, 0.1], "normal"), ([0.1, 0.4, 0.1, 0.4], None), ([0.4, 0.1, 0.5, 0.0], "pneumonia")],
)
def test_the_class_set_chooses_among_classes_outside_the_groups(probabilities: list[float], label: str | None) -> None:
    shares = dict(zip(("bacteria", "normal", "virus", "fracture"), probabilities, strict=True))
    row = coverage_row(0.9, dict.fromkeys(shares, 0.35), {"pneumonia": (0.5, 0.5)})
    verdict = judge({"pneumonia": ("bacteria", "virus")}, shares, Rule(level="group", row=row))
    assert verdict.label == label
    assert verdict.status == ("abstained" if label is None else "answered")
    assert verdict.prediction_set == (
        ("bacteria", "virus") if label == "pneumonia" else (label or "normal",) + (() if label else ("fracture",))
    )


@pytest.mark.parametrize(("inside", "label"), [(0.2, "pneumonia"), (0.19, "normal"), (0.9, "pneumonia")])
def test_an_operating_point_always_answers(contract: Contract, inside: float, label: str) -> None:
    rule = choose_rule(contract, operating_point="sensitivity-0.95")
    assert rule.level == "group"
    verdict = decide(contract, np.array([0, 1 - inside, inside]), None, rule=rule)
    assert (verdict.status, verdict.label, verdict.coverage) == ("answered", label, None)
    assert verdict.reasons == (
        "decided at operating point sensitivity-0.95: pneumonia at a probability of 0.200 or more.",
    )


def test_a_rule_is_chosen_by_the_contracts_tables(contract: Contract) -> None:
    assert choose_rule(contract) == CLASS
    assert choose_rule(contract, level="group", coverage=0.9) == GROUP
    assert choose_rule(contract, coverage=0.99).row.coverage == 0.99
    alone = choose_rule(contract, operating_point="sensitivity-0.95")
    assert (alone.level, alone.point) == ("group", POINT)
    both = choose_rule(contract, level="class", coverage=0.99, operating_point="sensitivity-0.95")
    assert (both.level, both.point) == ("group", POINT)
    for wanted, words in (
        ({"coverage": 0.95}, r"coverage 0\.95 is not in this model's table; accepted: 0\.9 or 0\.99\.$"),
        ({"operating_point": "best"}, r"'best' is not in this model's table; accepted: sensitivity-0\.95\.$"),
    ):
        with pytest.raises(UsageError, match=words):
            choose_rule(contract, **wanted)


@pytest.mark.parametrize("groups", [{}, {"a": ("bacteria", "virus"), "b": ("normal", "virus")}])
def test_level_group_needs_groups_that_share_no_class(contract: Contract, groups: dict[str, tuple[str, ...]]) -> None:
    for wanted in ({"level": "group"}, {"operating_point": "sensitivity-0.95"}):
        with pytest.raises(UsageError, match="use level 'class'"):
            choose_rule(contract.model_copy(update={"groups": groups}), **wanted)  # type: ignore[arg-type]


def test_a_group_is_data_and_may_be_missing() -> None:
    rule = Rule(level="class", row=coverage_row(0.9, ROW.classes))
    verdict = judge({}, {"bacteria": 0.5, "normal": 0.1, "virus": 0.4}, rule)
    assert (verdict.status, verdict.label) == ("abstained", None)
    assert judge({}, {"bacteria": 0.6, "normal": 0.3, "virus": 0.1}, rule).label == "bacteria"


def test_a_set_with_only_some_classes_of_a_group_is_still_undetermined() -> None:
    shares = {"bacteria": 0.45, "normal": 0.05, "virus": 0.45, "fungus": 0.05}
    row = coverage_row(0.9, dict.fromkeys(shares, 0.3), {"pneumonia": (0.9, 0.9)})
    verdict = judge({"pneumonia": ("bacteria", "virus", "fungus")}, shares, Rule(level="class", row=row))
    assert (verdict.label, verdict.prediction_set) == (UNDETERMINED, ("bacteria", "virus"))


PARTS = st.lists(st.floats(0.001, 1), min_size=3, max_size=3)


@given(
    parts=PARTS,
    classes=PARTS,
    sides=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    level=st.sampled_from(["class", "group"]),
)
@example(parts=[0.25, 0.25, 0.5], classes=[0.25, 1.0, 0.5], sides=(1.0, 1.0), level="class")
def test_an_answer_is_in_the_set_and_its_group_is_clear(
    parts: list[float], classes: list[float], sides: tuple[float, float], level: Level
) -> None:
    groups: dict[str, tuple[str, ...]] = {"pneumonia": ("bacteria", "virus")}
    shares = {label: part / sum(parts) for label, part in zip(ALL, parts, strict=True)}
    row = coverage_row(0.9, dict(zip(ALL, classes, strict=True)), {"pneumonia": sides})
    verdict = judge(groups, shares, Rule(level=level, row=row))
    inside = shares["bacteria"] + shares["virus"]
    clear = (inside >= sides[0]) != (1 - inside >= sides[1])
    fitting = tuple(label for label in ALL if shares[label] >= row.classes[label])
    if level == "class":
        assert verdict.prediction_set == fitting
        answers = len(fitting) == 1 and clear and (fitting == ("normal",)) == (inside < sides[0])
        assert (verdict.status == "answered") == (answers and fitting[0] == max(shares, key=shares.__getitem__))
        # The group may miss its own threshold, too: it is enough that its absence does.
        undetermined = fitting == ("bacteria", "virus") and not 1 - inside >= sides[1]
        assert (verdict.label == UNDETERMINED) == undetermined
    else:
        assert (verdict.status == "answered") == clear
    assert bool(verdict.reasons) == (verdict.status == "abstained")
    assert all(reason.endswith(".") for reason in verdict.reasons)


def test_a_rejection_has_only_a_reason(contract: Contract) -> None:
    verdict = reject(contract, Reason("undecodable", "the file is empty."))
    assert verdict.status == "rejected"
    assert verdict.label is None
    assert verdict.prediction_set == ()
    assert verdict.reasons == ("the file is empty.",)


def test_every_decision_of_a_model_trained_on_drawings_says_so(contract: Contract) -> None:
    drawn = contract.model_copy(update={"population": Population(age_years=None, drawings=True)})
    answered, abstained = (decide(drawn, np.array(row), None, rule=CLASS) for row in ([0.1, 0.2, 0.7], [0.5, 0.1, 0.4]))
    assert answered.reasons == (
        "this model was trained on drawings, not on radiographs; its answer says nothing about a patient.",
    )
    assert abstained.reason_codes == ("several-classes", "trained-on-drawings")
    rejected = reject(drawn, Reason("undecodable", "the file is empty."))
    assert rejected.reason_codes == ("undecodable", "trained-on-drawings")
    unknown = contract.model_copy(update={"population": Population(age_years=None, drawings=None)})
    assert decide(unknown, np.array([0.1, 0.2, 0.7]), None, rule=CLASS).reasons == ()


@pytest.mark.parametrize(
    ("age", "reported"), [(None, False), (0.9, True), (1, False), (5.9, False), (6, True), (34, True)]
)
def test_an_age_outside_the_population_is_reported(contract: Contract, age: float | None, *, reported: bool) -> None:
    verdict = decide(contract, np.array([0.1, 0.2, 0.7]), None, rule=CLASS, age_years=age)
    assert verdict.status == "answered"
    assert ["trained on ages 1 to 5" in reason for reason in verdict.reasons] == [True] * reported
    anyone = contract.model_copy(update={"population": Population(age_years=None, drawings=False)})
    assert decide(anyone, np.array([0.1, 0.2, 0.7]), None, rule=CLASS, age_years=age).reasons == ()


@pytest.mark.parametrize(
    ("age", "message"),
    [(0.016, "under 1 year old"), (7.9, "7 years old"), (34.2, "34 years old"), (95.2, "90 years old or older")],
)
def test_an_age_is_reported_in_whole_years_and_not_above_90(contract: Contract, age: float, message: str) -> None:
    (reason,) = decide(contract, np.array([0.1, 0.2, 0.7]), None, rule=CLASS, age_years=age).reasons
    assert reason.startswith(f"the patient is {message};")
    assert reason.endswith(".")


def test_notes_of_the_film_are_passed_on(contract: Contract) -> None:
    verdict = decide(contract, np.array([0.1, 0.2, 0.7]), None, rule=CLASS, notes=(Reason("greys", "a note."),))
    assert verdict.reasons == ("a note.",)
    assert verdict.reason_codes == ("greys",)


def maps_of(grid: np.ndarray) -> np.ndarray:
    """Maps of three classes; the last one is the given one."""
    return np.stack([np.ones_like(grid), np.ones_like(grid), grid]).astype(np.float32)


def test_attention_at_the_rim_is_reported(contract: Contract) -> None:
    central = np.zeros((7, 7))
    central[2:5, 2:5] = 1
    edge, corner = np.zeros((7, 7)), np.zeros((7, 7))
    edge[0] = 1
    corner[6, 6] = 1
    sure = np.array([0.1, 0.2, 0.7])
    for grid, share in ((central, None), (np.ones((7, 7)), None), (edge, "91 %"), (corner, "98 %")):
        verdict = decide(contract, sure, maps_of(grid), rule=CLASS)
        assert verdict.status == "answered"
        assert [
            f"edge of the film: {share} of the map for virus is at the border" in reason for reason in verdict.reasons
        ] == ([True] if share else [])
        assert all(reason.endswith(".") for reason in verdict.reasons)


def test_a_map_without_a_positive_part_has_no_shares(contract: Contract) -> None:
    attention = decide(contract, np.array([0.1, 0.2, 0.7]), maps_of(-np.ones((7, 7))), rule=CLASS).attention
    assert attention is not None
    assert attention.as_json() == {"class": "virus", "border": None, "corners": None}


def test_a_constant_map_has_the_shares_of_the_areas() -> None:
    for height, width in ((7, 7), (5, 9), (1, 1), (28, 28)):
        border, corners = rim_shares(np.full((height, width), 3.5), RULE) or (0, 0)
        assert border == pytest.approx(1 - 0.75**2)
        assert corners == pytest.approx(0.25)


@given(seed=st.integers(0, 1000), side=st.integers(1, 14), scale=st.floats(0.01, 100))
def test_shares_agree_with_those_of_an_enlarged_map(seed: int, side: int, scale: float) -> None:
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
