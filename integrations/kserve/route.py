"""Ask the gateway through kserve's InferenceRESTClient, many prompts at once."""

import asyncio
import os
import sys

import httpx
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

URL = os.environ.get("QUERY_GATEWAY_URL", "http://localhost:8080")
HEADERS = {"authorization": f"Bearer {os.environ.get('QUERY_GATEWAY_KEY') or 'none'}"}


async def routes(prompts: list[str]) -> list[str]:
    """A route for each prompt. Slow, the safe side, whatever goes wrong."""
    text = InferInput("text", [len(prompts)], "BYTES", data=prompts)
    async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=5.0)) as gateway:
        try:
            request = InferRequest(model_name="router", infer_inputs=[text])
            answer = await gateway.infer(URL, request, model_name="router", headers=dict(HEADERS))
        except httpx.HTTPError:
            return ["slow"] * len(prompts)
    return next(list(output.data) for output in answer.outputs if output.name == "route")


if __name__ == "__main__":
    print("\n".join(asyncio.run(routes(sys.argv[1:]))))
