"""Ask the gateway through huggingface_hub's InferenceClient."""

import os
import sys

import httpx2
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError

gateway = InferenceClient(
    model=os.environ.get("QUERY_GATEWAY_URL", "http://localhost:8080") + "/models/router",
    token=os.environ.get("QUERY_GATEWAY_KEY") or "none",
    timeout=1.0,
)


def route(prompt: str) -> str:
    """The route for a prompt. Slow, the safe side, whatever goes wrong."""
    try:
        labels = gateway.text_classification(prompt)
    except (HfHubHTTPError, InferenceTimeoutError, httpx2.HTTPError):
        return "slow"
    return max(labels, key=lambda label: label.score).label


if __name__ == "__main__":
    for prompt in sys.argv[1:]:
        print(route(prompt))
