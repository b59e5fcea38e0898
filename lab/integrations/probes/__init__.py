"""What each public client promises its users, asked of a gateway through that very client.

These run in the clients' own environments, as `python -m lab.integrations.probes.NAME`, and import
nothing of ours but this module and nothing that those environments lack. One promise is one function;
its docstring is the promise.
"""

import json
import os
import sys
import traceback
import urllib.request
from collections.abc import Callable
from typing import Any

URL = os.environ.get("QUERY_GATEWAY_URL", "")
KEY = os.environ.get("QUERY_GATEWAY_KEY", "")
EASY = "Summarize the following article in two sentences: The lighthouse was built in 1857."
HARD = "Write a story of twenty pages about a lighthouse keeper who forgets the sea."
LONG = "Summarize in one line: " + "The lighthouse was built in 1857 and still stands on the shore. " * 40
TALK = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": HARD},
    {"role": "assistant", "content": "Once upon a time."},
    {"role": "user", "content": EASY},
]

_promises: list[Callable[[], None]] = []


def promise(kept: Callable[[], None]) -> Callable[[], None]:
    """Mark a function as a promise: it raises where the promise is not kept."""
    _promises.append(kept)
    return kept


def native(*, text: str = "", messages: list[dict[str, str]] | None = None) -> dict[str, Any]:
    """The gateway's own answer to the same question, on its own wire."""
    asked = {"messages": messages} if messages else {"text": text}
    request = urllib.request.Request(
        URL + "/v1/query-classify",
        json.dumps(asked).encode(),
        {"content-type": "application/json", "x-api-key": KEY},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        told: dict[str, Any] = json.loads(answer.read())
        return told


def refuses(error: type[BaseException], ask: Callable[[], Any]) -> BaseException:
    """Raise unless asking raises this error; give it."""
    try:
        told = ask()
    except error as raised:
        return raised
    raise AssertionError(f"answered {told!r}, where {error.__name__} was due")


def near(value: float, wanted: float, what: str, within: float = 0.02) -> None:
    """Raise unless a number is about another."""
    assert abs(value - wanted) <= within, f"{what} is {value}, not {wanted}"


def main() -> None:
    """Check every promise of this process, print what became of each as a line of JSON, and exit."""
    broken = 0
    for kept in _promises:
        problem = ""
        try:
            kept()
        except BaseException as raised:
            frame = traceback.extract_tb(raised.__traceback__)[-1]
            problem = f"{type(raised).__name__}: {raised} (line {frame.lineno}: {frame.line})"
        broken += bool(problem)
        print(
            json.dumps({"promise": (kept.__doc__ or kept.__name__).strip(), "problem": problem}), flush=True
        )
    sys.exit(1 if broken else 0)
