"""Ask the gateway from LangChain: `OpenAIDecisions` with another base URL."""

import os
import sys

import openai
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_openai.decisions import Choice, OpenAIDecisions

gateway = OpenAIDecisions(
    model="router",
    base_url=os.environ.get("QUERY_GATEWAY_URL", "http://localhost:8080") + "/v1",
    api_key=os.environ.get("QUERY_GATEWAY_KEY") or "none",
    timeout=1.0,
    max_retries=0,
)
TIER = Choice(instructions="Which model shall answer?", choices={"fast": None, "slow": None})


def route(messages: list[BaseMessage]) -> str:
    """The route for a conversation. Slow, the safe side, whatever goes wrong."""
    try:
        answer = gateway.invoke({"input": messages, "questions": {"tier": TIER}})
    except openai.OpenAIError:
        return "slow"
    return str(answer.choices["tier"].choice) if "tier" in answer.choices else "slow"


if __name__ == "__main__":
    for prompt in sys.argv[1:]:
        print(route([HumanMessage(prompt)]))
