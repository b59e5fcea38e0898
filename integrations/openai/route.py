"""Ask the gateway through the OpenAI SDK's decisions, and send the chat to the model that it names."""

import os
import sys

import openai

gateway = openai.OpenAI(
    base_url=os.environ.get("QUERY_GATEWAY_URL", "http://localhost:8080") + "/v1",
    api_key=os.environ.get("QUERY_GATEWAY_KEY") or "none",
    timeout=1.0,
    max_retries=0,
)
TIER = {
    "type": "choice",
    "name": "tier",
    "instructions": "Which model shall answer?",
    "choices": [{"value": "fast"}, {"value": "slow"}],
}


def route(prompt: str) -> str:
    """The route for a prompt. Slow, the safe side, whatever goes wrong."""
    try:
        answer = gateway.decisions.create(model="router", input=prompt, questions=[TIER]).answers[0]
    except openai.OpenAIError:
        return "slow"
    return str(answer.choice) if answer.type == "choice" else "slow"


if __name__ == "__main__":
    for prompt in sys.argv[1:]:
        print(route(prompt))
