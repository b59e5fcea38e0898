"""The proof that instances which live for seconds leave their counters whole: it fails where they do not."""

from pathlib import Path

import pytest

from lab import short_lived
from lab.receiver import Receiver
from lab.short_lived import Life, Seen

WHOLE = Life(1.0, 0, Seen(3, 0, []), 0.0)


class Counted(Receiver):
    """A receiver to which so many answers came."""

    answers = grown = 3.0

    def total(self, name: str, **labels: str) -> float:
        return self.answers

    def increase(self, name: str, **labels: str) -> float:
        return self.grown


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No collector, and no time to wait for what does not come."""
    monkeypatch.setattr(short_lived, "COLLECTOR", "nowhere")
    monkeypatch.setattr(short_lived, "Receiver", Counted)
    monkeypatch.setattr(short_lived, "ARRIVES_S", 0.0)
    monkeypatch.setattr("sys.argv", ["short-lived", "--instances", "1"])
    monkeypatch.setenv("NOT_PROVEN", str(tmp_path / "not-proven"))


@pytest.mark.parametrize(
    ("life", "code"),
    [
        (WHOLE, 0),
        (WHOLE._replace(code=1), 1),
        (WHOLE._replace(seen=Seen(4, 0, [])), 1),
        (WHOLE._replace(seen=Seen(2, 0, [])), 1),
        (WHOLE._replace(seen=Seen(3, 1, [])), 1),
        (WHOLE._replace(seen=Seen(3, 0, ["503"])), 1),
    ],
    ids=["whole", "bad end", "one too few", "one too many", "a span missing", "an error"],
)
def test_it_fails_unless_all_is_counted_once(
    life: Life, code: int, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(short_lived, "live", lambda url, seconds: life)

    assert short_lived.main() == code


def test_it_fails_where_an_answer_is_counted_that_increased_nothing(
    alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(short_lived, "live", lambda url, seconds: WHOLE)
    monkeypatch.setattr(Counted, "grown", 2.0)

    assert short_lived.main() == 1
