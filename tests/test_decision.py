"""From probabilities to a route: the policy, the threshold and the safe side."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handler.decision import Decision, Policy, Route, Scores, UnknownTask, decide, override
from tests.models import FAST, SLOW, TASKS

ROUTES: dict[str, Route] = {**dict.fromkeys(FAST, "fast"), **dict.fromkeys(SLOW, "slow")}
POLICY = Policy(TASKS, ROUTES)

float32s = st.floats(width=32)
either_route: st.SearchStrategy[Route] = st.sampled_from(("fast", "slow"))
policies = st.lists(either_route, min_size=len(TASKS), max_size=len(TASKS)).map(
    lambda routes: Policy(TASKS, dict(zip(TASKS, routes, strict=True)))
)
thresholds = st.floats(0, 1)


def scores_of(weights: list[float]) -> Scores:
    return Scores.of([weight / sum(weights) for weight in weights])


any_scores = st.lists(st.floats(1e-6, 1), min_size=len(TASKS), max_size=len(TASKS)).map(scores_of)


def given_to(**probabilities: float) -> Scores:
    """Scores with these tasks' probabilities; every task that is not named has none."""
    return Scores.of([probabilities.get(task, 0.0) for task in TASKS])


def decided(scores: Scores, *, policy: Policy = POLICY, threshold: float = 0.7) -> Decision:
    return decide(scores, policy, threshold)


@given(st.lists(float32s, max_size=20))
def test_probabilities_come_out_as_they_were_packed(probabilities: list[float]) -> None:
    scores = Scores.of(probabilities)

    pairs = zip(scores.probabilities, probabilities, strict=True)
    assert all(seen == packed or (math.isnan(seen) and math.isnan(packed)) for seen, packed in pairs)


@given(st.lists(float32s, max_size=20))
def test_scores_take_four_bytes_a_task(probabilities: list[float]) -> None:
    assert len(Scores.of(probabilities).packed) == 4 * len(probabilities)


def test_a_summarization_is_fast() -> None:
    decision = decided(given_to(summarization=0.9, coding=0.1))

    assert (decision.route, decision.label, decision.task) == ("fast", "0", "summarization")


def test_coding_is_slow() -> None:
    decision = decided(given_to(coding=0.9, summarization=0.1))

    assert (decision.route, decision.label, decision.task) == ("slow", "1", "coding")


def test_a_route_is_preferred_by_the_sum_of_its_tasks() -> None:
    scores = given_to(summarization=0.4, coding=0.3, reasoning=0.3)

    decision = decided(scores)

    assert decision.route == "slow"
    assert decision.confidence == pytest.approx(0.6)


def test_the_task_is_the_most_probable_of_the_preferred_route_though_another_is_likelier() -> None:
    scores = given_to(summarization=0.4, coding=0.35, reasoning=0.25)

    assert decided(scores).task == "coding"


def test_a_doubtful_fast_answer_is_sent_to_slow() -> None:
    decision = decided(given_to(closed_qa=0.6, open_qa=0.4))

    assert (decision.route, decision.label, decision.low_confidence) == ("slow", "1", True)


def test_a_doubtful_fast_answer_says_what_the_model_preferred() -> None:
    decision = decided(given_to(closed_qa=0.6, open_qa=0.4))

    assert decision.task == "closed_qa"
    assert decision.confidence == pytest.approx(0.6)


def test_a_doubtful_slow_answer_stays_slow_without_a_reason() -> None:
    decision = decided(given_to(open_qa=0.55, closed_qa=0.45))

    assert (decision.route, decision.low_confidence) == ("slow", False)
    assert decision.confidence == pytest.approx(0.55)


def test_a_fast_answer_exactly_as_sure_as_the_threshold_is_fast() -> None:
    scores = given_to(closed_qa=0.75, open_qa=0.25)

    assert decided(scores, threshold=0.75).route == "fast"


def test_a_tie_goes_to_slow() -> None:
    decision = decided(given_to(closed_qa=0.5, open_qa=0.5), threshold=0)

    assert (decision.route, decision.task) == ("slow", "open_qa")


def test_a_task_that_is_moved_to_the_other_route_takes_its_probability_along() -> None:
    moved = Policy(TASKS, ROUTES | {"coding": "fast"})
    scores = given_to(coding=0.9, summarization=0.1)

    decision = decided(scores, policy=moved)

    assert (decision.route, decision.task) == ("fast", "coding")
    assert decision.confidence == pytest.approx(1.0)


@given(any_scores, thresholds)
def test_a_policy_without_slow_tasks_answers_fast_and_sure(scores: Scores, threshold: float) -> None:
    decision = decided(scores, policy=Policy(TASKS, dict.fromkeys(TASKS, "fast")), threshold=threshold)

    assert (decision.route, decision.confidence, decision.low_confidence) == ("fast", 1.0, False)


@given(any_scores, thresholds)
def test_a_policy_without_fast_tasks_answers_slow(scores: Scores, threshold: float) -> None:
    decision = decided(scores, policy=Policy(TASKS, dict.fromkeys(TASKS, "slow")), threshold=threshold)

    assert (decision.route, decision.low_confidence) == ("slow", False)
    assert decision.confidence == pytest.approx(1.0)


@given(any_scores, policies, thresholds)
@example(Scores.of([0.0] * 4 + [1.0000001] + [0.0] * 5), POLICY, 0.7)
def test_confidence_is_that_of_a_preferred_route(scores: Scores, policy: Policy, threshold: float) -> None:
    decision = decided(scores, policy=policy, threshold=threshold)

    assert 0.5 <= decision.confidence <= 1.0 or decision.confidence == pytest.approx(1.0)
    assert decision.confidence <= 1.0


@given(any_scores, policies, thresholds)
def test_confidence_is_the_sum_of_the_preferred_routes_tasks(
    scores: Scores, policy: Policy, threshold: float
) -> None:
    decision = decided(scores, policy=policy, threshold=threshold)

    of_route = policy.routes[decision.task]
    total = sum(
        p for task, p in zip(TASKS, scores.probabilities, strict=True) if policy.routes[task] == of_route
    )
    assert decision.confidence == pytest.approx(total, abs=1e-5)


@given(any_scores, policies, thresholds)
def test_no_task_of_the_preferred_route_is_likelier_than_the_one_named(
    scores: Scores, policy: Policy, threshold: float
) -> None:
    decision = decided(scores, policy=policy, threshold=threshold)

    by_task = dict(zip(TASKS, scores.probabilities, strict=True))
    rivals = [by_task[task] for task in TASKS if policy.routes[task] == policy.routes[decision.task]]
    assert by_task[decision.task] == max(rivals)


@given(any_scores, policies, thresholds)
def test_a_fast_answer_is_never_less_sure_than_the_threshold(
    scores: Scores, policy: Policy, threshold: float
) -> None:
    decision = decided(scores, policy=policy, threshold=threshold)

    assert decision.route == "slow" or decision.confidence >= threshold


@given(any_scores, policies, st.tuples(thresholds, thresholds).map(sorted))
def test_a_higher_threshold_never_turns_slow_into_fast(
    scores: Scores, policy: Policy, pair: list[float]
) -> None:
    low, high = (decided(scores, policy=policy, threshold=threshold) for threshold in pair)

    assert (low.route, high.route) != ("slow", "fast")


@given(any_scores, policies, thresholds)
def test_the_reason_low_confidence_means_that_fast_was_preferred_and_slow_taken(
    scores: Scores, policy: Policy, threshold: float
) -> None:
    decision = decided(scores, policy=policy, threshold=threshold)

    assert decision.low_confidence == (policy.routes[decision.task] != decision.route)


@given(st.booleans())
def test_a_decision_says_whether_the_query_was_cut(truncated: bool) -> None:
    scores = Scores.of([1.0] + [0.0] * 9, truncated=truncated)

    assert decided(scores).truncated is truncated


@pytest.mark.parametrize(
    "routes",
    [
        pytest.param({task: route for task, route in ROUTES.items() if task != "coding"}, id="one missing"),
        pytest.param(ROUTES | {"poetry": "slow"}, id="one too many"),
        pytest.param({}, id="none"),
    ],
)
def test_a_policy_that_does_not_route_exactly_the_tasks_is_refused(routes: dict[str, Route]) -> None:
    with pytest.raises(ValueError, match=r"must route exactly the tasks classification, .*, reasoning"):
        Policy(TASKS, routes)


@given(st.lists(st.sampled_from(TASKS), unique=True))
def test_an_operators_policy_makes_the_tasks_that_it_names_fast_and_no_others(fast: list[str]) -> None:
    routes = override(TASKS, fast)

    assert {task for task in TASKS if routes[task] == "fast"} == set(fast)
    assert set(routes) == set(TASKS)


def test_an_operators_policy_that_names_an_unknown_task_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnknownTask, match=r"^poetry: not a task of this model, which knows classification, "):
        override(TASKS, ["coding", "poetry"])
