"""huggingface_hub's `InferenceClient.text_classification` at `/models/{name}`."""

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from lab.integrations.probes import EASY, HARD, KEY, URL, main, native, near, promise, refuses

client = InferenceClient(model=URL + "/models/router", token=KEY)


@promise
def _() -> None:
    """The first label is our decision, and the scores sum to 1."""
    for text in (EASY, HARD):
        labels = client.text_classification(text)
        assert labels[0].label == native(text=text)["route"], labels
        assert [label.score for label in labels] == sorted((label.score for label in labels), reverse=True), (
            labels
        )
        near(sum(label.score for label in labels), 1.0, "the sum")


@promise
def _() -> None:
    """`top_k` gives as many labels as it says."""
    assert len(client.text_classification(EASY, top_k=1)) == 1
    assert len(client.text_classification(EASY, top_k=50)) >= 2


@promise
def _() -> None:
    """A model that we are not is not found, and a wrong key is told so."""
    missing = refuses(
        HfHubHTTPError,
        lambda: InferenceClient(model=URL + "/models/gpt-2", token=KEY).text_classification(EASY),
    )
    stranger = refuses(
        HfHubHTTPError,
        lambda: InferenceClient(model=URL + "/models/router", token="wrong").text_classification(EASY),
    )
    statuses = [
        error.response.status_code for error in (missing, stranger) if isinstance(error, HfHubHTTPError)
    ]
    assert statuses == [404, 401], statuses


if __name__ == "__main__":
    main()
