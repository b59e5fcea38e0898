"""Ask the gateway through typesafe-sdk, whose `/v1/systemone` it speaks."""

import os
import sys

from typesafe_sdk import Choice, RetryPolicy, TypeSafeClient, TypeSafeError

gateway = TypeSafeClient(
    base_url=os.environ.get("QUERY_GATEWAY_URL", "http://localhost:8080"),
    api_key=os.environ.get("QUERY_GATEWAY_KEY") or "none",
    timeout=1.0,
    retry=RetryPolicy(max_retries=0),
)
TIER = Choice(criteria={"fast": None, "slow": None})


def route(prompt: str) -> str:
    """The route for a prompt. Slow, the safe side, whatever goes wrong."""
    try:
        return gateway.system_one(prompt, {"tier": TIER}).choices["tier"].choice
    except (TypeSafeError, KeyError):
        return "slow"


if __name__ == "__main__":
    for prompt in sys.argv[1:]:
        print(route(prompt))
