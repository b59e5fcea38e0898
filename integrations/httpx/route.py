"""Ask the gateway with plain httpx: one prompt, or a whole conversation."""

import os
import sys

import httpx

gateway = httpx.Client(
    base_url=os.environ.get("QUERY_GATEWAY_URL", "http://localhost:8080"),
    headers={"x-api-key": os.environ.get("QUERY_GATEWAY_KEY", "")},
    timeout=1.0,
)


def route(messages: list[dict]) -> str:
    """The route for a conversation. Slow, the safe side, whatever goes wrong."""
    try:
        answer = gateway.post("/v1/query-classify", json={"messages": messages})
        return answer.raise_for_status().json()["route"]
    except (httpx.HTTPError, KeyError):
        return "slow"


if __name__ == "__main__":
    for prompt in sys.argv[1:]:
        print(route([{"role": "user", "content": prompt}]))
