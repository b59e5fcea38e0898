"""Ask the gateway through infinity_client, many prompts at once."""

import os
import sys

import httpx
from infinity_client import AuthenticatedClient
from infinity_client.api.default import classify
from infinity_client.models import ClassifyInput, ClassifyResult

gateway = AuthenticatedClient(
    base_url=os.environ.get("QUERY_GATEWAY_URL", "http://localhost:8080"),
    token=os.environ.get("QUERY_GATEWAY_KEY") or "none",
    timeout=httpx.Timeout(5.0),
)


def routes(prompts: list[str]) -> list[str]:
    """A route for each prompt. Slow, the safe side, whatever goes wrong."""
    try:
        answer = classify.sync(client=gateway, body=ClassifyInput(input_=prompts, model="router"))
    except httpx.HTTPError:
        answer = None
    if not isinstance(answer, ClassifyResult):
        return ["slow"] * len(prompts)
    return [max(labels, key=lambda label: label.score).label for labels in answer.data]


if __name__ == "__main__":
    print("\n".join(routes(sys.argv[1:])))
