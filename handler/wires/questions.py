"""Questions about a query, as the decision wires ask them: which of these, is it so, how much.

Which can be answered is the policy's to say (`policy.option_shares`); an answer that was
made without the model is sure of the dearest option, of "true" and of the highest level.
Shared by `systemone.py` and `decisions.py`.
"""

from collections.abc import Sequence

from handler.gateway import Answer
from handler.policy import Policy, level_shares, option_shares, predicate_share
from handler.wires.base import rounded, safe_scores

# As many of each as OpenAI's decisions allow in one request.
QUESTIONS_MAX = 400
OPTIONS_MAX = 255


def can_choose(names: Sequence[str], policy: Policy) -> bool:
    """Whether a choice between these can be answered: all tiers, all options of the policy, or all tasks."""
    if tuple(names) == policy.names:  # as nearly everybody asks
        return True
    known: tuple[Sequence[str], ...] = (policy.names, tuple(policy.options), policy.tasks)
    return bool(names) and len(set(names)) == len(names) and any(set(names) <= set(of) for of in known)


def choice(names: Sequence[str], answer: Answer) -> list[float] | None:
    """The options' probabilities, in order, with four digits; None where we cannot tell."""
    if answer.serving is None:
        return None
    policy = answer.serving.policy
    if answer.scored is not None:
        shares = option_shares(answer.scored.scores, policy, names)
        return None if shares is None else rounded(shares)
    if not can_choose(names, policy):
        return None
    if set(names) <= set(policy.names):
        places = [float(policy.names.index(name)) for name in names]
    elif set(names) <= set(policy.options):
        places = [policy.options[name] for name in names]
    else:
        shares = option_shares(safe_scores(policy), policy, names)
        return None if shares is None else rounded(shares)
    dearest = [place == max(places) for place in places]
    return rounded([is_dearest / sum(dearest) for is_dearest in dearest])


def predicate(name: str | None, answer: Answer) -> float | None:
    """The probability that it is so, with four digits; None where the policy does not know the name."""
    if name is None or answer.serving is None or name not in answer.serving.policy.predicates:
        return None
    policy = answer.serving.policy
    if answer.scored is None and not isinstance(policy.predicates[name], tuple):
        return 1.0
    scores = safe_scores(policy) if answer.scored is None else answer.scored.scores
    share = predicate_share(scores, policy, name)
    return None if share is None else round(min(max(share, 0.0), 1.0), 4)


def levels(count: int, answer: Answer) -> list[float]:
    """The levels' probabilities, lowest first, with four digits; `count` is at least 1."""
    if answer.serving is None or answer.scored is None:
        return [0.0] * (count - 1) + [1.0]
    return rounded(level_shares(answer.scored.scores, answer.serving.policy, count))


def level(shares: Sequence[float]) -> float:
    """The score itself: the mean level."""
    return round(sum(place * share for place, share in enumerate(shares)), 4)


def tokens(text: str, answer: Answer) -> int:
    """About how many tokens of a text the model read, for the members that bills are made from."""
    if answer.serving is None or answer.scored is None:
        return 0
    return min(len(text) // 4 + 1, answer.serving.router.manifest.limits.tokens_max)
