"""tritonclient.http at `/v2`."""

from typing import Any

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from lab.integrations.probes import EASY, HARD, KEY, URL, main, native, promise, refuses

client = triton.InferenceServerClient(URL.removeprefix("http://"), network_timeout=10.0)
HEADERS = {"authorization": f"Bearer {KEY}"}
TEXTS = [EASY, HARD, "Übersetze: guten Morgen ☀"]


def texts(*given: str, binary: bool = True) -> Any:
    made = triton.InferInput("text", [len(given)], "BYTES")
    made.set_data_from_numpy(np.array(given, dtype=np.object_), binary_data=binary)
    return made


def infer(made: Any, **more: Any) -> Any:
    return client.infer(
        more.pop("model", "router"), [made], headers=dict(more.pop("headers", HEADERS)), **more
    )


def words(told: Any, name: str) -> list[str]:
    return [word.decode() if isinstance(word, bytes) else str(word) for word in told.as_numpy(name)]


@promise
def _() -> None:
    """Binary tensors, as it sends them by default, come back as our decisions in order."""
    told = infer(texts(*TEXTS), request_id="seven")
    wanted = [native(text=text) for text in TEXTS]
    assert words(told, "route") == [answer["route"] for answer in wanted], told.get_response()
    assert words(told, "label") == [answer["label"] for answer in wanted], told.get_response()
    assert words(told, "task") == [answer["task"] for answer in wanted], told.get_response()
    confidence = told.as_numpy("confidence")
    assert confidence.dtype == np.float32, confidence
    assert np.allclose(confidence, [answer["confidence"] for answer in wanted], atol=1e-3), confidence
    assert told.get_response()["id"] == "seven", told.get_response()


@promise
def _() -> None:
    """JSON tensors and single outputs, binary or not, are what was asked for."""
    outputs = [
        triton.InferRequestedOutput("route", binary_data=False),
        triton.InferRequestedOutput("confidence"),
    ]
    told = infer(texts(EASY, binary=False), outputs=outputs)
    assert words(told, "route") == [native(text=EASY)["route"]], told.get_response()
    assert told.as_numpy("confidence").shape == (1,), told.get_response()
    assert told.as_numpy("label") is None, told.get_response()


@promise
def _() -> None:
    """Compressed requests are read, and compressed answers may be asked for."""
    for how in ("gzip", "deflate"):
        told = infer(texts(EASY, HARD), request_compression_algorithm=how, response_compression_algorithm=how)
        assert words(told, "route") == [native(text=text)["route"] for text in (EASY, HARD)], how


@promise
def _() -> None:
    """Health and metadata name the server, the model and its tensors."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("router")
    assert not client.is_model_ready("gpt-2")
    assert client.get_server_metadata(headers=HEADERS)["name"]
    told = client.get_model_metadata("router", headers=HEADERS)
    assert [tensor["name"] for tensor in told["inputs"]] == ["text"], told
    assert {tensor["name"] for tensor in told["outputs"]} == {"label", "route", "task", "confidence"}, told


@promise
def _() -> None:
    """An unknown model, output or key is an error that it can read."""
    unknown = [triton.InferRequestedOutput("colour")]
    for more in ({"model": "gpt-2"}, {"outputs": unknown}, {"headers": {"authorization": "Bearer wrong"}}):
        raised = refuses(InferenceServerException, lambda more=more: infer(texts(EASY), **more))
        assert isinstance(raised, InferenceServerException)
        assert "an exception occurred" not in str(raised.message()), raised
        assert str(raised.status()).startswith("4"), raised.status()


if __name__ == "__main__":
    main()
