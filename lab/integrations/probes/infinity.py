"""infinity_client at `/classify`."""

from infinity_client import AuthenticatedClient
from infinity_client.api.default import classify, health, models
from infinity_client.models import (
    ClassifyInput,
    ClassifyResult,
    HTTPValidationError,
    OpenAIModelInfo,
    ResponseHealth,
)

from lab.integrations.probes import EASY, HARD, KEY, URL, main, native, near, promise

client = AuthenticatedClient(base_url=URL, token=KEY)


@promise
def _() -> None:
    """Every text has its labels, in order, and the best of them is our decision."""
    told = classify.sync(client=client, body=ClassifyInput(input_=[EASY, HARD, EASY], model="router"))
    assert isinstance(told, ClassifyResult), told
    best = [max(labels, key=lambda label: label.score).label for labels in told.data]
    assert best == [native(text=text)["route"] for text in (EASY, HARD, EASY)], told
    for labels in told.data:
        near(sum(label.score for label in labels), 1.0, "the sum")
    assert told.usage.prompt_tokens >= 0, told
    assert told.model, told


@promise
def _() -> None:
    """It finds the server healthy, and a model to name."""
    alive = health.sync(client=client)
    assert isinstance(alive, ResponseHealth), alive
    assert alive["unix"] > 0, alive
    listed = models.sync(client=client)
    assert isinstance(listed, OpenAIModelInfo), listed
    assert listed.data, listed


@promise
def _() -> None:
    """What cannot be read is a validation error in its form."""
    told = classify.sync_detailed(client=client, body=ClassifyInput(input_=[]))
    assert told.status_code in (400, 422), told
    assert told.status_code == 400 or isinstance(told.parsed, HTTPValidationError), told


@promise
def _() -> None:
    """A wrong key is told so."""
    stranger = AuthenticatedClient(base_url=URL, token="wrong")
    told = classify.sync_detailed(client=stranger, body=ClassifyInput(input_=[EASY]))
    assert told.status_code == 401, told


if __name__ == "__main__":
    main()
