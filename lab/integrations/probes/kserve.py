"""kserve's `InferenceRESTClient` at `/v2`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

from lab.integrations.probes import EASY, HARD, KEY, URL, main, native, promise, refuses

HEADERS = {"authorization": f"Bearer {KEY}"}


def run(ask: Callable[[InferenceRESTClient], Awaitable[Any]]) -> Any:
    async def asking() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=10)) as client:
            return await ask(client)

    return asyncio.run(asking())


def infer(made: InferInput, *, model: str = "router", headers: dict[str, str] = HEADERS) -> Any:
    request = InferRequest(model_name=model, infer_inputs=[made])
    return run(lambda client: client.infer(URL, request, model_name=model, headers=dict(headers)))


def words(told: Any, name: str) -> list[str]:
    (found,) = [output for output in told.outputs if output.name == name]
    return [word.decode() if isinstance(word, bytes) else word for word in found.data]


@promise
def _() -> None:
    """Texts as JSON are our decisions in order."""
    told = infer(InferInput("text", [2], "BYTES", data=[EASY, HARD]))
    assert words(told, "route") == [native(text=text)["route"] for text in (EASY, HARD)], told
    assert told.model_name == "router", told


@promise
def _() -> None:
    """Texts in binary form are read too."""
    made = InferInput("text", [2], "BYTES")
    made.set_data_from_numpy(np.array([EASY.encode(), HARD.encode()], dtype=np.object_), binary_data=True)
    assert words(infer(made), "route") == [native(text=text)["route"] for text in (EASY, HARD)]


@promise
def _() -> None:
    """Health is said in JSON: it dies of an empty 200."""
    assert run(lambda client: client.is_server_live(URL)) is True
    assert run(lambda client: client.is_server_ready(URL)) is True
    assert run(lambda client: client.is_model_ready(URL, "router")) is True
    assert run(lambda client: client.is_model_ready(URL, "gpt-2")) is False


@promise
def _() -> None:
    """An unknown model and a wrong key are errors that it can read."""
    made = InferInput("text", [1], "BYTES", data=[EASY])
    missing = refuses(httpx.HTTPStatusError, lambda: infer(made, model="gpt-2"))
    stranger = refuses(httpx.HTTPStatusError, lambda: infer(made, headers={"authorization": "Bearer wrong"}))
    statuses = [
        error.response.status_code
        for error in (missing, stranger)
        if isinstance(error, httpx.HTTPStatusError)
    ]
    assert statuses == [404, 401], statuses


if __name__ == "__main__":
    main()
