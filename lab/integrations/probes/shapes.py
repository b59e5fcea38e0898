"""The shapes of servers that have no client of their own: text-embeddings-inference, vLLM Semantic Router."""

import os
from typing import Any

import httpx

from lab.integrations.probes import EASY, HARD, KEY, URL, main, native, near, promise

client = httpx.Client(base_url=URL, headers={"authorization": f"Bearer {KEY}"}, timeout=10.0)
# The names of the tiers that the gateway was started with.
TIERS = set(os.environ.get("QUERY_GATEWAY_TIERS", "fast,slow").split(","))


def best(labels: list[dict[str, Any]]) -> str:
    return str(max(labels, key=lambda label: label["score"])["label"])


@promise
def _() -> None:
    """`/predict` answers one text with a flat list, best first, and a batch with a list of lists."""
    for inputs in (EASY, [EASY]):
        labels = client.post("/predict", json={"inputs": inputs}).raise_for_status().json()
        assert labels[0]["label"] == native(text=EASY)["route"], labels
        near(sum(label["score"] for label in labels), 1.0, "the sum")
    batch = (
        client.post("/predict", json={"inputs": [[EASY], [HARD]], "truncate": True}).raise_for_status().json()
    )
    assert [labels[0]["label"] for labels in batch] == [
        native(text=text)["route"] for text in (EASY, HARD)
    ], batch


@promise
def _() -> None:
    """`/predict` refuses pairs and nothing at all in text-embeddings-inference's own form."""
    for inputs in ([EASY, HARD], [[EASY, HARD]], [], 1):
        answer = client.post("/predict", json={"inputs": inputs})
        assert answer.status_code == 422, (inputs, answer.text)
        assert isinstance(answer.json()["error"], str), answer.text
        assert answer.json()["error_type"], answer.text


@promise
def _() -> None:
    """`/info` says what classifies, and by which labels."""
    told = client.get("/info").raise_for_status().json()
    assert told["model_id"], told
    assert set(told["model_type"]["classifier"]["id2label"].values()) == TIERS, told


@promise
def _() -> None:
    """`/classify` with `inputs` answers with exactly the tiers, each once, and the scores sum to 1."""
    for text in (EASY, HARD):
        labels = client.post("/classify", json={"inputs": text}).raise_for_status().json()
        assert sorted(label["label"] for label in labels) == sorted(TIERS), labels
        near(sum(label["score"] for label in labels), 1.0, "the sum")
        assert best(labels) == native(text=text)["route"], labels


@promise
def _() -> None:
    """`/classify` with neither key, or with both, is the caller's error."""
    for body in ({}, {"inputs": EASY, "input": [EASY]}):
        assert client.post("/classify", json=body).status_code in (400, 422), body


if __name__ == "__main__":
    main()
