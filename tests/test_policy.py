"""From probabilities to a route: the policy, the threshold and the safe side."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handler.model_holder import policy_statistics
from handler.policy import (
    Decision,
    Policy,
    Route,
    Scores,
    Tier,
    UnknownTask,
    decide,
    kept_slow,
    level_shares,
    option_shares,
    override,
    predicate_share,
    route_shares,
)
from tests.models import FAST, SLOW, TASKS

ROUTES: dict[str, Route] = {**dict.fromkeys(FAST, "fast"), **dict.fromkeys(SLOW, "slow")}
POLICY = Policy.of_routes(TASKS, ROUTES)

float32s = st.floats(width=32)
either_route: st.SearchStrategy[Route] = st.sampled_from(("fast", "slow"))
policies = st.lists(either_route, min_size=len(TASKS), max_size=len(TASKS)).map(
    lambda routes: Policy.of_routes(TASKS, dict(zip(TASKS, routes, strict=True)))
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
    moved = Policy.of_routes(TASKS, ROUTES | {"coding": "fast"})
    scores = given_to(coding=0.9, summarization=0.1)

    decision = decided(scores, policy=moved)

    assert (decision.route, decision.task) == ("fast", "coding")
    assert decision.confidence == pytest.approx(1.0)


@given(any_scores, thresholds)
def test_a_policy_without_slow_tasks_answers_fast_and_sure(scores: Scores, threshold: float) -> None:
    decision = decided(
        scores, policy=Policy.of_routes(TASKS, dict.fromkeys(TASKS, "fast")), threshold=threshold
    )

    assert (decision.route, decision.confidence, decision.low_confidence) == ("fast", 1.0, False)


@given(any_scores, thresholds)
def test_a_policy_without_fast_tasks_answers_slow(scores: Scores, threshold: float) -> None:
    decision = decided(
        scores, policy=Policy.of_routes(TASKS, dict.fromkeys(TASKS, "slow")), threshold=threshold
    )

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
        Policy.of_routes(TASKS, routes)


@given(st.lists(st.sampled_from(TASKS), unique=True))
def test_an_operators_policy_makes_the_tasks_that_it_names_fast_and_no_others(fast: list[str]) -> None:
    routes = override(TASKS, fast)

    assert {task for task in TASKS if routes[task] == "fast"} == set(fast)
    assert set(routes) == set(TASKS)


def test_an_operators_policy_that_names_an_unknown_task_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnknownTask, match=r"^poetry: not a task of this model, which knows classification, "):
        override(TASKS, ["coding", "poetry"])


# Needs, tiers and learnt needs

needs = st.lists(st.floats(0, 1), min_size=len(TASKS), max_size=len(TASKS)).map(
    lambda each: dict(zip(TASKS, each, strict=True))
)
tiers = st.lists(st.floats(0, 0.999), min_size=1, max_size=5, unique=True).map(
    lambda bounds: [Tier(f"tier-{i}", bound) for i, bound in enumerate([*sorted(bounds), 1.0])]
)
numbered = st.builds(
    lambda needs, tiers, learns: Policy(
        TASKS,
        needs,
        tiers=tiers,
        source="outcomes" if learns else "tasks",
        overridden=TASKS[:2] if learns else (),
    ),
    needs,
    st.just(()) | tiers,
    st.booleans(),
)
learnt_scores = st.builds(
    lambda weights, learnt: Scores.of([w / sum(weights) for w in weights], learnt=learnt),
    st.lists(st.floats(1e-6, 1), min_size=len(TASKS), max_size=len(TASKS)),
    st.floats(0, 1, width=32),
)
maybe_threshold = st.none() | thresholds
THREE = (Tier("small", 0.2), Tier("middle", 0.6), Tier("large", 1.0))


def three(**needs: float) -> Policy:
    """Three tiers; every task that is not named needs a large model."""
    return Policy(TASKS, {task: needs.get(task, 1.0) for task in TASKS}, tiers=THREE)


def test_a_need_is_the_mean_of_the_tasks_needs_weighed_by_their_probabilities() -> None:
    policy = Policy(TASKS, dict.fromkeys(TASKS, 0.0) | {"coding": 1.0, "open_qa": 0.5})

    decision = decided(given_to(coding=0.25, open_qa=0.5, closed_qa=0.25), policy=policy)

    assert decision.need == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("need", "route", "label"),
    [
        (0.1, "small", "0"),
        (0.2, "small", "0"),
        (0.4, "middle", "1"),
        (0.6, "middle", "1"),
        (0.9, "large", "2"),
    ],
)
def test_a_tier_answers_needs_up_to_and_including_its_own_bound(need: float, route: str, label: str) -> None:
    decision = decide(given_to(coding=1.0), three(coding=need))

    assert (decision.route, decision.label) == (route, label)


def test_a_query_takes_its_task_from_the_tier_that_it_is_sent_to() -> None:
    policy = three(closed_qa=0.0, open_qa=0.5)
    scores = given_to(closed_qa=0.4, open_qa=0.35, coding=0.25)

    decision = decide(scores, policy)

    assert (decision.route, decision.task) == ("middle", "open_qa")


def test_a_tier_to_which_no_task_belongs_names_the_likeliest_task_of_all() -> None:
    scores = given_to(closed_qa=0.6, coding=0.4)

    decision = decide(scores, three(closed_qa=0.0))

    assert (decision.route, decision.task) == ("middle", "closed_qa")


def test_a_threshold_moves_the_first_boundary_and_no_other() -> None:
    policy = three()

    assert policy.boundaries(0.6) == pytest.approx((0.4, 0.6, 1.0))
    assert policy.boundaries() == (0.2, 0.6, 1.0)


@given(st.lists(st.floats(0.01, 0.99), min_size=2, max_size=2, unique=True).map(sorted), thresholds)
def test_no_threshold_moves_the_first_boundary_over_a_half_or_its_own_place_or_the_second(
    bounds: list[float], threshold: float
) -> None:
    policy = Policy(
        TASKS, dict.fromkeys(TASKS, 1.0), tiers=[Tier("a", bounds[0]), Tier("b", bounds[1]), Tier("c", 1.0)]
    )

    first, second, last = policy.boundaries(threshold)

    assert first <= min(max(0.5, bounds[0]), second)
    assert (second, last) == (bounds[1], 1.0)


@given(learnt_scores, needs, st.just(()) | tiers, thresholds)
@example(given_to(coding=0.5, closed_qa=0.5), {**dict.fromkeys(TASKS, 0.0), "coding": 1.0},
         [Tier("a", 0.9), Tier("b", 1.0)], 0.7)  # fmt: skip
def test_the_threshold_that_is_told_gives_the_policys_own_decisions(
    scores: Scores, needs: dict[str, float], tiers: list[Tier], threshold: float
) -> None:
    policy = Policy(TASKS, needs, tiers=tiers, threshold=threshold)

    told = policy_statistics(policy, None).threshold

    assert decide(scores, policy, told) == decide(scores, policy)
    assert policy.boundaries(told) == policy.boundaries()


@given(st.integers(0, 1000).map(lambda n: n / 1000), st.integers(0, 1000).map(lambda n: n / 1000))
def test_a_need_of_just_the_boundary_keeps_its_tier_under_the_threshold_that_is_told(
    first: float, need: float
) -> None:
    policy = Policy(TASKS, dict.fromkeys(TASKS, need), tiers=[Tier("a", first), Tier("b", 1.0)])
    scores = given_to(coding=1.0)

    told = policy_statistics(policy, None).threshold

    assert (
        decide(scores, policy, told).label == decide(scores, policy).label == ("0" if need <= first else "1")
    )
    assert len(str(told)) <= 5


def test_a_query_that_its_own_threshold_keeps_from_the_first_tier_says_so() -> None:
    decision = decide(given_to(coding=1.0), three(coding=0.15), threshold=0.9)

    assert (decision.route, decision.reason) == ("middle", "low_confidence")


@given(learnt_scores, numbered, maybe_threshold)
def test_a_route_is_the_cheapest_whose_boundary_the_need_does_not_pass(
    scores: Scores, policy: Policy, threshold: float | None
) -> None:
    decision = decide(scores, policy, threshold)

    able = [i for i, bound in enumerate(policy.boundaries(threshold)) if decision.need <= bound]
    assert decision.label == str(able[0])
    assert decision.route == policy.names[able[0]]


@given(learnt_scores, numbered, maybe_threshold)
def test_a_margin_is_the_distance_to_the_nearest_boundary_between_two_tiers(
    scores: Scores, policy: Policy, threshold: float | None
) -> None:
    decision = decide(scores, policy, threshold)

    between = policy.boundaries(threshold)[:-1]
    assert decision.margin == min(abs(decision.need - bound) for bound in between)


@given(learnt_scores, numbered, maybe_threshold)
def test_confidence_is_the_greater_of_need_and_its_rest(
    scores: Scores, policy: Policy, threshold: float | None
) -> None:
    decision = decide(scores, policy, threshold)

    assert decision.confidence == max(decision.need, 1 - decision.need)


@given(learnt_scores, numbered)
def test_no_need_lies_outside_zero_and_one(scores: Scores, policy: Policy) -> None:
    assert 0 <= policy.need(scores) <= 1


def test_a_learnt_need_is_taken_where_the_policy_says_so() -> None:
    policy = Policy(TASKS, dict.fromkeys(TASKS, 0.0), source="outcomes")

    decision = decide(Scores.of([1.0] + [0.0] * 9, learnt=0.875), policy)

    assert (decision.need, decision.route, decision.task) == (0.875, "slow", TASKS[0])


def test_a_task_that_the_policy_names_overrides_the_learnt_need_for_its_share() -> None:
    policy = Policy(
        TASKS, dict.fromkeys(TASKS, 1.0) | {"coding": 0.0}, source="outcomes", overridden=["coding"]
    )
    scores = Scores.of(
        [0.75 if t == "coding" else 0.25 if t == "open_qa" else 0.0 for t in TASKS], learnt=0.5
    )

    assert policy.need(scores) == 0.125


def test_scores_without_a_learnt_need_are_refused_by_a_policy_that_takes_it() -> None:
    policy = Policy(TASKS, dict.fromkeys(TASKS, 1.0), source="outcomes")

    with pytest.raises(ValueError, match="learnt from outcomes"):
        decide(given_to(coding=1.0), policy)


# Shares: what wires show that return a probability a route, option or level


@given(learnt_scores, numbered, maybe_threshold)
def test_whoever_takes_the_largest_share_of_the_tiers_takes_the_route_decided(
    scores: Scores, policy: Policy, threshold: float | None
) -> None:
    decision = decide(scores, policy, threshold)

    shares = route_shares(decision.need, policy.boundaries(threshold))

    rounded = [round(share, 4) for share in shares]
    assert rounded.count(max(rounded)) == 1
    assert policy.names[rounded.index(max(rounded))] == decision.route


@given(learnt_scores, numbered, maybe_threshold)
def test_shares_of_tiers_are_probabilities(scores: Scores, policy: Policy, threshold: float | None) -> None:
    shares = route_shares(policy.need(scores), policy.boundaries(threshold))

    assert len(shares) == len(policy.tiers)
    assert min(shares) >= 0
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize(("need", "slow"), [(0.0, 0.0), (0.15, 0.25), (0.65, 0.75), (1.0, 1.0)])
def test_a_share_of_slow_grows_linearly_on_both_sides_of_the_boundary(need: float, slow: float) -> None:
    assert route_shares(need, (0.3, 1.0)) == pytest.approx([1 - slow, slow])


@given(st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted), st.floats(0, 0.99))
def test_a_greater_need_never_has_a_smaller_share_of_slow(pair: list[float], boundary: float) -> None:
    low, high = (route_shares(need, (boundary, 1.0))[1] for need in pair)

    assert low <= high


@given(learnt_scores, numbered, maybe_threshold, st.data())
def test_options_of_one_kind_share_out_all_probability(
    scores: Scores, policy: Policy, threshold: float | None, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from([policy.names, tuple(policy.options), policy.tasks]))
    names = data.draw(st.lists(st.sampled_from(kind), min_size=1, unique=True))

    shares = option_shares(scores, policy, names, threshold)

    assert shares is not None
    assert min(shares) >= 0
    assert sum(shares) == pytest.approx(1)


def test_an_option_has_the_probability_of_the_tasks_whose_need_falls_to_it() -> None:
    policy = Policy(TASKS, {task: 0.0 if task in FAST else 1.0 for task in TASKS} | {"open_qa": 0.4})
    scores = given_to(closed_qa=0.5, open_qa=0.3, coding=0.2)

    shares = option_shares(scores, policy, ["REASONING", "SIMPLE", "COMPLEX", "MEDIUM"])

    assert shares == pytest.approx([0.2, 0.5, 0.0, 0.3])


def test_the_greatest_option_asked_about_answers_for_all_that_is_left() -> None:
    scores = given_to(closed_qa=0.5, coding=0.5)

    assert option_shares(scores, POLICY, ["SIMPLE", "MEDIUM"]) == pytest.approx([0.5, 0.5])


def test_a_threshold_moves_the_shares_of_tiers_and_not_those_of_options() -> None:
    policy = Policy(["easy", "hard"], {"easy": 0.0, "hard": 1.0}, threshold=0.65)
    scores = Scores.of([0.6, 0.4])

    tiers = option_shares(scores, policy, ["fast", "slow"])
    options = option_shares(scores, policy, ["SIMPLE", "REASONING"])

    assert tiers
    assert tiers[1] > 0.5  # as it is decided: 0.6 is under the threshold
    assert options == pytest.approx([0.6, 0.4])


def test_options_with_one_bound_share_what_falls_to_it() -> None:
    scores = given_to(closed_qa=0.5, coding=0.5)

    shares = option_shares(scores, POLICY, ["SIMPLE", "NON_REASONING", "REASONING"])

    assert shares == pytest.approx([0.25, 0.25, 0.5])


def test_tasks_share_out_what_falls_to_those_asked_about() -> None:
    scores = given_to(closed_qa=0.5, coding=0.3, open_qa=0.2)

    assert option_shares(scores, POLICY, ["coding", "closed_qa"]) == pytest.approx([0.375, 0.625])


def test_a_tier_that_is_not_asked_about_is_answered_for_by_the_next_dearer_one() -> None:
    policy = three(closed_qa=0.0)

    shares = option_shares(given_to(closed_qa=1.0), policy, ["large", "middle"])

    assert shares == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize(
    "names", [[], ["fast", "coding"], ["SIMPLE", "slow"], ["poetry"], ["fast", "fast"], ["FAST", "SLOW"]]
)
def test_options_of_no_kind_or_of_two_are_not_answered(names: list[str]) -> None:
    assert option_shares(given_to(coding=1.0), POLICY, names) is None


@given(learnt_scores, numbered, st.integers(1, 12))
def test_levels_share_out_all_probability(scores: Scores, policy: Policy, levels: int) -> None:
    shares = level_shares(scores, policy, levels)

    assert len(shares) == levels
    assert min(shares) >= 0
    assert sum(shares) == pytest.approx(1)


def test_a_need_on_the_edge_of_two_levels_falls_to_the_lower() -> None:
    policy = Policy(TASKS, dict.fromkeys(TASKS, 0.25))

    assert level_shares(given_to(coding=1.0), policy, 4) == pytest.approx([1, 0, 0, 0])


@pytest.mark.parametrize(("fast", "expected"), [(0.75, 0.25 / 0.3 / 2), (0.35, 1 - 0.5 * 0.35 / 0.7)])
def test_needs_large_is_a_half_where_the_boundary_lies(fast: float, expected: float) -> None:
    share = predicate_share(given_to(closed_qa=fast, coding=1 - fast), POLICY, "needs_large")

    assert share == pytest.approx(expected)


def test_a_predicate_may_be_a_list_of_tasks() -> None:
    policy = Policy(TASKS, dict.fromkeys(TASKS, 1.0), predicates={"is_code": ("coding", "reasoning")})

    assert predicate_share(given_to(coding=0.5, reasoning=0.25, open_qa=0.25), policy, "is_code") == 0.75


def test_a_predicate_that_the_policy_does_not_name_is_not_answered() -> None:
    assert predicate_share(given_to(coding=1.0), POLICY, "is_rude") is None


# Upgrading


def test_an_operators_list_of_old_names_keeps_the_new_easy_tasks_slow() -> None:
    routes: dict[str, Route] = ROUTES | {"rewriting": "fast", "chitchat": "fast", "planning": "slow"}

    assert kept_slow(routes, ["summarization", "closed_qa"]) == ["rewriting", "chitchat"]


@pytest.mark.parametrize("fast", [[], ["summarization", "chitchat"]])
def test_a_list_that_names_a_new_task_is_nobodys_old_one(fast: list[str]) -> None:
    routes: dict[str, Route] = ROUTES | {"rewriting": "fast", "chitchat": "fast"}

    assert kept_slow(routes, fast) == []
