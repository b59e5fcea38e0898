"""The document at /schema, taken at its word: thousands of made requests, and every answer is in it."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
    unsupported_method,
)

from handler.schema import document
from lab.launch import Served

# For each of some thirty operations.
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "60"))

api = schemathesis.openapi.from_dict(json.loads(document()))


@schemathesis.serializer("application/x-ndjson")
def one_line(ctx: Any, value: Any) -> bytes:
    """A stream of one line, whatever stands in it."""
    return json.dumps(value).encode() + b"\n"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served({"REQUEST_TIMEOUT_MS": "60000"}) as served:
        yield served


@api.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,  # the same requests in every run
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_documented_and_none_is_a_5xx(case: schemathesis.Case[Any], served: Served) -> None:
    if (asked := timeout_ms(case)) is not None and 0 < asked < 60_000:
        case.headers["x-request-timeout-ms"] = "60000"  # a nanosecond is answered with 504, as asked for
    # Unknown headers and members are let pass by contract, which it takes for a breach.
    # A body may have one form of several, and name only what the policy knows: no schema says so.
    excluded: list[Any] = [negative_data_rejection, positive_data_acceptance]
    if case.path.startswith("/v1/route"):  # answers whatever comes, with any method
        excluded.append(unsupported_method)
    case.call_and_validate(base_url=served.url, excluded_checks=excluded)


def timeout_ms(case: schemathesis.Case[Any]) -> float | None:
    try:
        return float(case.headers["x-request-timeout-ms"])
    except (KeyError, ValueError, TypeError):
        return None
