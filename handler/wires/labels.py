"""What the classifier wires share: every tier as a label with its score, the best first.

The scores sum to 1, and the largest is the route taken. Shared by `predict.py`,
`huggingface.py` and `classify.py`.
"""

from typing import Any

from handler.errors import ValidationError
from handler.gateway import Answer
from handler.wires.base import tier_scores


def labels(answer: Answer, most: int | None = None) -> list[dict[str, Any]]:
    """The labels of an answer, the best first; `most` of them, or all."""
    scores = tier_scores(answer)
    best = sorted(scores, key=lambda name: -scores[name])
    return [{"label": name, "score": scores[name]} for name in best[:most]]


def text(found: Any, member: str) -> str:
    """A text of a body. Raises `ValidationError` where it is none, or asks nothing."""
    if not isinstance(found, str):
        raise ValidationError(f"{member} must be a text, or a list of texts")
    if not found.strip():
        raise ValidationError(f"{member} holds a blank text; expected one that asks something")
    return found
