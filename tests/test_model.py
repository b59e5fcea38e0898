"""The model: served only when proven, and never swayed by a query's neighbours."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from handler.errors import ModelError
from handler.model import (
    GRAPH,
    MANIFEST,
    RUN_TOKENS,
    TOKENIZER,
    Router,
    by_length,
    calibrated,
    describe,
    files_state,
    load,
    read_manifest,
)
from handler.policy import Policy, Route, Scores, decide
from handler.query import Normalised, normalise
from tests.models import (
    TASKS,
    WORDS,
    accept_files,
    change,
    make_toy,
    toy_graph,
    toy_probabilities,
    toy_tokenizer,
)

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "models/quantized"
CHECKPOINT = ROOT / "models/router"

# From two tokens to more than the model is shown, in and out of its language.
LONG = "The ferry was late because of fog, and nobody on the quay minded in the least. " * 30
POOL = (
    "hi",
    "?",
    "Summarize this.",
    "Write a haiku about rain.",
    "What is the capital of Bolivia?",
    "def f(x): return x * 2  # why is this slow?",
    "Classify as positive or negative: great soup, kind staff.",
    "Explain compound interest to a five-year-old, with an example and a table.",
    "今日の天気は？",
    "🔥🔥🔥",
    "Prove that the square root of two is irrational, step by step, and say where it would fail for four.",
    f"Summarize the following in one sentence: {LONG[:300]}",
    f"{LONG[:600]} According to the text, why was the ferry late?",
    f"Write a story that begins so: {LONG}",
    LONG,
    "x" * 5000,
)


@pytest.fixture(scope="module")
def shipped() -> Router:
    return load(SHIPPED)


@pytest.fixture(scope="module")
def alone(shipped: Router) -> list[Scores]:
    """What the shipped model says of each text of the pool when it comes alone."""
    return [shipped.score([query])[0] for query in seen(shipped, POOL)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound toy model, for a test to spoil."""
    return make_toy(tmp_path / "toy")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Router:
    return load(make_toy(tmp_path_factory.mktemp("toy")))


def seen(router: Router, texts: "list[str] | tuple[str, ...]") -> list[Normalised]:
    return [normalise(text, router.manifest.limits) for text in texts]


def by_task(router: Router, text: str) -> dict[str, float]:
    (scores,) = router.score(seen(router, [text]))
    return dict(zip(router.manifest.tasks, scores.probabilities, strict=True))


def preferred(router: Router, scores: Scores) -> str:
    policy = Policy.of_routes(router.manifest.tasks, router.manifest.policy)
    return policy.routes[decide(scores, policy, 0.7).task]


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as refused:
        load(folder)
    return str(refused.value)


def assert_agree(router: Router, alone: Scores, in_batch: Scores) -> None:
    pairs = zip(alone.probabilities, in_batch.probabilities, strict=True)
    assert all(math.isclose(one, other, abs_tol=1e-3) for one, other in pairs)
    assert preferred(router, alone) == preferred(router, in_batch)
    assert alone.truncated == in_batch.truncated


# The shipped model


# The contract's twenty, with the route of each by default.
CONTRACT_FAST = (
    "classification", "summarization", "information_extraction", "closed_qa", "rewriting", "translation",
    "format_conversion", "chitchat", "simple_math", "simple_fact", "simple_code",
)  # fmt: skip
CONTRACT_SLOW = (
    "creative_writing", "brainstorming", "open_qa", "general_qa", "coding", "reasoning", "planning", "advice",
    "agentic",
)  # fmt: skip


def test_the_shipped_model_knows_the_contracts_tasks(shipped: Router) -> None:
    assert tuple(shipped.manifest.tasks) == CONTRACT_FAST + CONTRACT_SLOW


def test_the_shipped_policy_is_the_contracts_default(shipped: Router) -> None:
    assert shipped.manifest.policy == {
        **dict.fromkeys(CONTRACT_FAST, "fast"), **dict.fromkeys(CONTRACT_SLOW, "slow")
    }  # fmt: skip


def test_the_shipped_model_gives_out_a_state_that_no_neighbour_moves(shipped: Router) -> None:
    queries = seen(shipped, ["hello", "what is 15% of 60?", LONG, "Plan a week in Oslo for two"])

    together = shipped._infer(shipped.token_ids(queries), True)[1]  # padded to the longest
    alone = [shipped.run([query], hidden=True).hidden for query in queries]

    assert together is not None
    assert (together.shape, together.dtype) == ((4, 384), np.dtype("<f4"))
    assert np.array_equal(together, np.concatenate([state for state in alone if state is not None]))


@pytest.mark.parametrize("text", ["hi", "what is 15% of 60?", "thanks, that's all"])
def test_the_shipped_model_sends_what_everybody_can_answer_fast(text: str, shipped: Router) -> None:
    (scores,) = shipped.score(seen(shipped, [text]))

    policy = Policy.of_routes(shipped.manifest.tasks, shipped.manifest.policy)
    assert decide(scores, policy, 0.5).route == "fast"


@pytest.mark.parametrize(
    ("text", "route"),
    [
        (f"Summarize the following in one sentence: {LONG[:160]}", "fast"),
        ("Write a short story about a lighthouse keeper who collects storms", "slow"),
    ],
)
def test_the_shipped_model_routes_what_nobody_would_argue_about(
    text: str, route: Route, shipped: Router
) -> None:
    (scores,) = shipped.score(seen(shipped, [text]))

    decision = decide(scores, Policy.of_routes(shipped.manifest.tasks, shipped.manifest.policy), 0.7)

    assert decision.route == route


@settings(max_examples=40, deadline=None)
@given(batch=st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=32))
def test_a_query_has_the_same_scores_in_any_batch_as_alone(
    batch: list[int], shipped: Router, alone: list[Scores]
) -> None:
    together = shipped.score(seen(shipped, [POOL[i] for i in batch]))

    for i, scores in zip(batch, together, strict=True):
        assert_agree(shipped, alone[i], scores)


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(max_size=200), min_size=1, max_size=6))
def test_any_text_has_the_same_scores_beside_any_other_as_alone(texts: list[str], shipped: Router) -> None:
    queries = seen(shipped, texts)

    together = shipped.score(queries)

    for query, scores in zip(queries, together, strict=True):
        assert_agree(shipped, shipped.score([query])[0], scores)


@pytest.mark.parametrize("size", [2, 3, 8, 31, 32, 64])
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_short_query_is_not_swayed_by_a_batch_of_long_ones(
    size: int, place: str, shipped: Router, alone: list[Scores]
) -> None:
    neighbours = [LONG] * (size - 1)
    batch = [POOL[2], *neighbours] if place == "first" else [*neighbours, POOL[2]]

    together = shipped.score(seen(shipped, batch))

    assert_agree(shipped, alone[2], together[0 if place == "first" else -1])


def test_several_threads_at_once_get_what_one_gets(shipped: Router, alone: list[Scores]) -> None:
    queries = seen(shipped, POOL)

    with ThreadPoolExecutor(4) as threads:
        runs = list(threads.map(lambda _: shipped.score(queries), range(8)))

    for run in runs:
        for one, scores in zip(alone, run, strict=True):
            assert_agree(shipped, one, scores)


@pytest.mark.parametrize("folder", [SHIPPED, CHECKPOINT], ids=lambda folder: folder.name)
def test_nothing_that_is_shipped_can_hold_a_pickle(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]

    assert files
    assert {path.suffix for path in files} <= {".json", ".onnx", ".safetensors", ".txt", ".md"}
    # Pickle's protocol mark, and the zip that torch.save makes.
    assert not any(path.read_bytes().startswith((b"\x80", b"PK")) for path in files)


def test_both_model_folders_together_are_at_most_60_megabytes() -> None:
    sizes = [path.stat().st_size for folder in (SHIPPED, CHECKPOINT) for path in folder.rglob("*")]

    assert sum(sizes) <= 60e6


# A folder that cannot be served is refused by name


def test_a_sound_folder_is_loaded(folder: Path) -> None:
    assert load(folder).manifest.name == "toy"


@pytest.mark.parametrize("name", [MANIFEST, GRAPH, TOKENIZER])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()

    assert refusal(folder) == f"Model file not found: {folder / name}"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere") == f"Model file not found: {tmp_path / 'nowhere' / MANIFEST}"


@pytest.mark.parametrize("name", [MANIFEST, GRAPH, TOKENIZER])
def test_a_folder_in_a_files_place_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()

    assert refusal(folder).startswith(f"{folder / name} cannot be read")


@pytest.mark.parametrize("name", [MANIFEST, GRAPH, TOKENIZER])
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_what_would_never_end_is_refused_unread(what: str, name: str, folder: Path) -> None:
    (folder / name).unlink()
    if what == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero")

    assert refusal(folder) == f"{folder / name} cannot be read: it is no regular file"


def test_a_file_that_no_graph_can_be_is_refused_unread(folder: Path) -> None:
    with (folder / GRAPH).open("wb") as file:
        file.truncate(2**31)

    assert refusal(folder) == f"{folder / GRAPH} has 2147483648 bytes; accepted: at most 2147483647"


@pytest.mark.parametrize("name", [GRAPH, TOKENIZER])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_a_single_changed_bit_is_noticed(name: str, place: float, folder: Path) -> None:
    content = bytearray((folder / name).read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    (folder / name).write_bytes(content)

    message = refusal(folder)

    assert message.startswith(f"{folder / name} has sha256 ")
    assert "but its manifest says" in message


@pytest.mark.parametrize("name", [GRAPH, TOKENIZER])
def test_a_file_cut_short_is_noticed(name: str, folder: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])

    assert refusal(folder).startswith(f"{folder / name} has sha256 ")


@pytest.mark.parametrize("part", [0, 1, 2], ids=["empty", "a third", "two thirds"])
def test_a_broken_graph_that_its_manifest_vouches_for_is_refused(part: int, folder: Path) -> None:
    content = (folder / GRAPH).read_bytes()
    (folder / GRAPH).write_bytes(content[: len(content) * part // 3])
    accept_files(folder)

    assert refusal(folder).startswith(f"{folder / GRAPH} is not a graph that this ONNX Runtime can open")


@pytest.mark.parametrize("place", ["weights.bin", "{folder}/weights.bin", "../weights.bin", "/etc/hostname"])
def test_a_graph_that_points_at_another_file_is_refused(
    place: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer of the model's folder gets no other file of the machine read."""
    monkeypatch.chdir(folder)
    graph = onnx.load(folder / GRAPH)
    weights = next(one for one in graph.graph.initializer if one.data_type == onnx.TensorProto.FLOAT)
    for file in (folder / "weights.bin", folder.parent / "weights.bin"):
        file.write_bytes(onnx.numpy_helper.to_array(weights).tobytes())
    weights.ClearField("raw_data")
    weights.ClearField("float_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=place.format(folder=folder))
    (folder / GRAPH).write_bytes(graph.SerializeToString())
    accept_files(folder)

    assert refusal(folder).startswith(f"{folder / GRAPH} is not a graph that this ONNX Runtime can open")


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff\xfe"])
def test_a_broken_tokenizer_that_its_manifest_vouches_for_is_refused(content: bytes, folder: Path) -> None:
    (folder / TOKENIZER).write_bytes(content)
    accept_files(folder)

    assert refusal(folder).startswith(f"{folder / TOKENIZER} is not a tokenizer")


def test_another_models_tokenizer_is_noticed_by_its_bytes(folder: Path) -> None:
    (folder / TOKENIZER).write_bytes(toy_tokenizer((*WORDS[:4], *reversed(WORDS[4:]))))

    assert refusal(folder).startswith(f"{folder / TOKENIZER} has sha256 ")


def test_another_models_tokenizer_that_its_manifest_vouches_for_is_noticed_by_its_scores(
    folder: Path,
) -> None:
    (folder / TOKENIZER).write_bytes(toy_tokenizer((*WORDS[:4], *reversed(WORDS[4:]))))
    accept_files(folder)

    assert "on its golden queries" in refusal(folder)


def test_another_models_graph_that_its_manifest_vouches_for_is_noticed_by_its_scores(folder: Path) -> None:
    (folder / GRAPH).write_bytes(toy_graph(weight=20.0))
    accept_files(folder)

    assert refusal(folder).startswith(f"{folder / GRAPH} is off by 0.")


def test_a_golden_mismatch_says_how_far_off_and_what_is_allowed(folder: Path) -> None:
    off = toy_probabilities("summarization")
    off[0] += 0.25
    change(folder, golden=[{"text": "summarization", "probabilities": off}])

    message = refusal(folder)

    assert "is off by 0.2500 on its golden queries" in message
    assert "its manifest allows 0.001" in message


def test_a_model_without_golden_queries_is_refused(folder: Path) -> None:
    change(folder, golden=[])

    assert refusal(folder) == f"{folder / MANIFEST} has no golden queries to prove the model with"


def test_a_graph_with_another_number_of_scores_is_refused(folder: Path) -> None:
    change(folder, golden=[{"text": "coding", "probabilities": [0.5, 0.5]}])

    assert "gives (10,) scores a query, not (2,)" in refusal(folder)


def test_a_graph_that_fails_on_a_golden_query_is_refused(folder: Path) -> None:
    (folder / TOKENIZER).write_bytes(
        toy_tokenizer(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijk", *TASKS))
    )
    accept_files(folder)  # its ids lie outside the graph's table

    assert refusal(folder).startswith(f"{folder / GRAPH} failed on a golden query")


@pytest.mark.parametrize("number", [0, 3, 99])
def test_another_format_is_refused(number: int, folder: Path) -> None:
    change(folder, format=number)

    assert refusal(folder) == (f"{folder / MANIFEST} has format {number}; this gateway reads formats 1 and 2")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"policy": dict.fromkeys(TASKS[1:], "slow")}, id="a task without a route"),
        pytest.param({"policy": dict.fromkeys([*TASKS, "poetry"], "slow")}, id="a route without a task"),
        pytest.param({"tasks": [*TASKS, TASKS[0]]}, id="a task twice"),
    ],
)
def test_a_policy_that_does_not_cover_the_tasks_is_refused(changes: dict[str, Any], folder: Path) -> None:
    change(folder, **changes)

    assert refusal(folder) == f"{folder / MANIFEST}: the policy must route each task once"


@pytest.mark.parametrize(
    "mix",
    [
        {"classification": 0.5, "summarization": 0.3},
        {"classification": 0.5, "small talk": 0.5},
        {"classification": 1.5, "summarization": -0.5},
    ],
)
def test_a_training_mix_that_is_none_is_refused(mix: dict[str, float], folder: Path) -> None:
    change(folder, training_mix=mix)

    with pytest.raises(ModelError, match="training_mix"):
        load(folder)


def test_a_model_may_say_what_it_was_trained_on(folder: Path) -> None:
    mix = {"classification": 0.25, "coding": 0.75}
    change(folder, training_mix=mix)

    assert load(folder).manifest.training_mix == mix


def test_a_model_need_not_say_what_it_was_trained_on(folder: Path) -> None:
    assert load(folder).manifest.training_mix == {}


@pytest.mark.parametrize("temperature", [0, -1])
def test_a_temperature_that_is_not_over_0_is_refused(temperature: float, folder: Path) -> None:
    change(folder, temperature=temperature)

    assert refusal(folder) == f"{folder / MANIFEST}: temperature must be over 0"


@pytest.mark.parametrize("name", [GRAPH, TOKENIZER])
def test_a_manifest_that_does_not_vouch_for_a_file_is_refused(name: str, folder: Path) -> None:
    files = read_manifest(folder).files
    change(folder, files={other: sha256 for other, sha256 in files.items() if other != name})

    assert refusal(folder) == f"{folder / MANIFEST} gives no sha256 for {name}"


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"format": 1}', b"\xff", b'{"format": "1"}'])
def test_a_manifest_that_is_none_is_refused(content: bytes, folder: Path) -> None:
    (folder / MANIFEST).write_bytes(content)

    assert refusal(folder).startswith(f"{folder / MANIFEST} is not a model manifest")


def test_a_policy_with_an_unknown_route_is_refused(folder: Path) -> None:
    change(folder, policy=dict.fromkeys(TASKS, "sideways"))

    assert refusal(folder).startswith(f"{folder / MANIFEST} is not a model manifest")


def test_what_a_manifest_says_beyond_our_needs_is_ignored(folder: Path) -> None:
    change(folder, scores={"route": 0.9}, tools={"torch": "2"})

    assert load(folder).manifest.name == "toy"


# The state of a folder that was loaded


def test_an_untouched_folder_is_present(folder: Path) -> None:
    assert files_state(folder, read_manifest(folder)) == "present"


@pytest.mark.parametrize("name", [MANIFEST, GRAPH, TOKENIZER])
def test_a_folder_without_one_of_its_files_is_missing(name: str, folder: Path) -> None:
    loaded = read_manifest(folder)

    (folder / name).unlink()

    assert files_state(folder, loaded) == "missing"


def test_a_folder_with_another_models_manifest_is_changed(folder: Path) -> None:
    loaded = read_manifest(folder)

    (folder / GRAPH).write_bytes(toy_graph(weight=20.0))
    accept_files(folder)

    assert files_state(folder, loaded) == "changed"


def test_a_folder_with_a_broken_manifest_is_changed(folder: Path) -> None:
    loaded = read_manifest(folder)

    (folder / MANIFEST).write_bytes(b"{")

    assert files_state(folder, loaded) == "changed"


@pytest.mark.parametrize(
    "other",
    [
        {"temperature": 9.0},
        {"policy": dict.fromkeys(TASKS, "slow")},
        {"golden_tolerance": 0.5},
        {"name": "another"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_folder_whose_manifest_alone_says_otherwise_is_changed(other: dict[str, Any], folder: Path) -> None:
    loaded = read_manifest(folder)

    change(folder, **other)

    assert files_state(folder, loaded) == "changed"


@pytest.mark.parametrize("name", [GRAPH, TOKENIZER])
def test_a_folder_whose_file_was_damaged_is_changed(name: str, folder: Path) -> None:
    loaded = read_manifest(folder)
    content = (folder / name).read_bytes()

    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    assert files_state(folder, loaded) == "changed"


def test_a_folder_that_was_never_loaded_is_changed_as_soon_as_it_holds_a_model(folder: Path) -> None:
    assert files_state(folder, None) == "changed"


# The digest, which names a model's answers in the caches


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 1.5},
        {
            "limits": {
                "head_tokens_max": 7,
                "tail_tokens_max": 3,
                "head_chars_max": 300,
                "tail_chars_max": 100,
            }
        },
        {
            "limits": {
                "head_tokens_max": 6,
                "tail_tokens_max": 3,
                "head_chars_max": 300,
                "tail_chars_max": 101,
            }
        },
        {"tasks": [*reversed(TASKS)]},
        {"files": {GRAPH: "0" * 64, TOKENIZER: "1" * 64}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_whatever_could_change_a_score_changes_the_digest(changes: dict[str, Any], folder: Path) -> None:
    before = read_manifest(folder).digest

    change(folder, **changes)

    assert read_manifest(folder).digest != before


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "another"},
        {"policy": dict.fromkeys(TASKS, "slow")},
        {"golden": []},
        {"golden_tolerance": 0.5},
        {"training_mix": dict.fromkeys(TASKS, 0.1)},
        {"scores": {"route": 0.9}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_cannot_change_a_score_leaves_the_digest(changes: dict[str, Any], folder: Path) -> None:
    before = read_manifest(folder).digest

    change(folder, **changes)

    assert read_manifest(folder).digest == before


def test_a_digest_does_not_depend_on_the_order_of_a_manifests_members(folder: Path) -> None:
    before = read_manifest(folder)
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes())

    manifest["files"] = dict(reversed(manifest["files"].items()))
    (folder / MANIFEST).write_bytes(msgspec.json.encode(dict(reversed(manifest.items()))))

    assert read_manifest(folder).digest == before.digest


def test_a_version_is_the_digests_beginning(toy: Router) -> None:
    assert toy.version == toy.digest.hex()[:12]


# Head and tail


# The toy is shown six tokens of a query's head and three of its tail.
@pytest.mark.parametrize("place", [0, 5, 17, 19])
def test_a_long_query_is_seen_at_both_its_ends(place: int, toy: Router) -> None:
    words = ["word"] * 20
    words[place] = "coding"

    assert by_task(toy, " ".join(words))["coding"] == pytest.approx(toy_probabilities("coding", words=9)[8])


@pytest.mark.parametrize("place", [6, 10, 16])
def test_a_long_query_is_not_seen_in_its_middle(place: int, toy: Router) -> None:
    words = ["word"] * 20
    words[place] = "coding"

    assert by_task(toy, " ".join(words))["coding"] == pytest.approx(0.1)


@pytest.mark.parametrize("text", ["coding " + "word" * 1000, "word" * 1000 + " coding"])
def test_a_query_over_the_character_limit_is_seen_at_both_its_ends(text: str, toy: Router) -> None:
    assert by_task(toy, text)["coding"] > 0.9


@pytest.mark.parametrize(("words", "truncated"), [(1, False), (9, False), (10, True), (200, True)])
def test_a_query_is_truncated_when_tokens_are_left_out(words: int, truncated: bool, toy: Router) -> None:
    (scores,) = toy.score(seen(toy, ["a " * words]))

    assert scores.truncated is truncated


@pytest.mark.parametrize(("chars", "truncated"), [(400, False), (401, True)])
def test_a_query_is_truncated_when_characters_are_left_out(chars: int, truncated: bool, toy: Router) -> None:
    (scores,) = toy.score(seen(toy, ["a" * chars]))

    assert scores.truncated is truncated


def test_one_truncated_query_leaves_its_neighbours_whole(toy: Router) -> None:
    batch = toy.score(seen(toy, ["coding", "a " * 200, "reasoning"]))

    assert [scores.truncated for scores in batch] == [False, True, False]


def test_the_padding_and_truncation_in_a_tokenizers_file_are_switched_off(toy: Router) -> None:
    eight_words = "word " * 7 + "coding"  # the file says: five tokens at most, padded to sixteen

    assert by_task(toy, eight_words)["coding"] == pytest.approx(toy_probabilities("coding", words=8)[8])


# Scores


@pytest.mark.parametrize("task", TASKS)
def test_scores_come_in_the_order_of_the_manifests_tasks(task: str, toy: Router) -> None:
    scores = by_task(toy, f"{task} please")

    assert max(scores, key=scores.__getitem__) == task


@pytest.mark.parametrize("text", ["", " \n", "\x00", "�", "\u202e"])
def test_even_an_odd_text_has_scores_that_sum_to_1(text: str, shipped: Router) -> None:
    (scores,) = shipped.score(seen(shipped, [text]))

    assert sum(scores.probabilities) == pytest.approx(1.0, abs=1e-5)


def test_a_run_tells_where_its_time_went(toy: Router) -> None:
    run = toy.run(seen(toy, ["coding"]))

    assert run.tokenize_s > 0
    assert run.infer_s > 0


logits_of_any_size = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.just(10)), elements=st.floats(-1000, 1000, width=32)
)


@given(logits=logits_of_any_size, temperature=st.floats(0.125, 8, width=32))
def test_calibrated_rows_sum_to_1(logits: Any, temperature: float) -> None:
    probabilities = calibrated(logits, temperature)

    assert probabilities.dtype == np.float32
    assert np.all(probabilities >= 0)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


@given(logits=logits_of_any_size, temperature=st.floats(0.125, 8, width=32))
def test_calibration_never_changes_which_task_is_likeliest(logits: Any, temperature: float) -> None:
    probabilities = calibrated(logits, temperature)

    likeliest = np.take_along_axis(probabilities, logits.argmax(axis=1, keepdims=True), axis=1)
    assert np.all(likeliest[:, 0] == probabilities.max(axis=1))


@given(logits=logits_of_any_size)
def test_a_higher_temperature_is_never_surer(logits: Any) -> None:
    cool, warm = calibrated(logits, 1.0), calibrated(logits, 2.0)

    assert np.all(warm.max(axis=1) <= cool.max(axis=1) + 1e-6)


def test_calibrating_leaves_the_logits_as_they_were() -> None:
    logits = np.array([[1.0, 2.0]], dtype=np.float32)

    calibrated(logits, 1.0)

    assert logits.tolist() == [[1.0, 2.0]]


def test_a_description_names_version_and_tasks(toy: Router) -> None:
    described = describe(toy)

    assert described["version"] == toy.version
    assert described["tasks"] == toy.manifest.tasks


# What loading a model must not do


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def test_onnx_runtimes_telemetry_is_switched_off_before_the_first_session() -> None:
    recorded = run_python(
        f"""
import onnxruntime as ort
really_off, Session = ort.disable_telemetry_events, ort.InferenceSession
ort.disable_telemetry_events = lambda: (print("off"), really_off())
ort.InferenceSession = lambda *args, **kwargs: (print("session"), Session(*args, **kwargs))[1]
from pathlib import Path
from handler.model import load
load(Path({str(SHIPPED)!r}))
"""
    )

    assert recorded.split() == ["off", "session"]


def test_loading_a_model_needs_no_pickle() -> None:
    code = f"""
import pickle, sys
from pathlib import Path
def refuse(*_, **__): raise AssertionError("unpickled")
pickle.load = pickle.loads = pickle.Unpickler = refuse
from handler.model import load
load(Path({str(SHIPPED)!r}))
print("loaded")
"""

    assert run_python(code).strip() == "loaded"


Spoil = Callable[[Path], None]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / GRAPH).unlink(),
        lambda folder: (folder / TOKENIZER).write_bytes(b"{}"),
        lambda folder: change(folder, format=3),
    ],
    ids=["no graph", "another tokenizer", "another format"],
)
def test_what_was_loaded_answers_on_whatever_becomes_of_its_files(spoil: Spoil, folder: Path) -> None:
    router = load(folder)
    before = router.score(seen(router, ["coding please"]))

    spoil(folder)

    assert router.score(seen(router, ["coding please"])) == before


@given(st.lists(st.integers(3, 114), min_size=1, max_size=64))
def test_every_query_of_a_batch_is_in_exactly_one_run(lengths: list[int]) -> None:
    runs = by_length(lengths)

    assert sorted(place for run in runs for place in run) == list(range(len(lengths)))


@given(st.lists(st.integers(3, 114), min_size=1, max_size=64))
def test_no_length_is_padded_where_a_run_of_its_own_would_cost_less(lengths: list[int]) -> None:
    for run in by_length(lengths):
        longest = max(lengths[place] for place in run)
        for length in {lengths[place] for place in run}:
            alike = sum(lengths[place] == length for place in run)
            assert (longest - length) * alike <= RUN_TOKENS


def test_queries_of_one_length_share_one_run() -> None:
    assert by_length([16] * 32) == [list(range(32))]


def test_one_long_query_does_not_make_its_short_neighbours_long() -> None:
    assert by_length([16, 100, 16, 17]) == [[1], [3, 0, 2]]


def test_a_model_that_is_loaded_beside_another_shares_its_tokenizer(tmp_path: Path) -> None:
    first = load(make_toy(tmp_path / "first"))

    assert load(make_toy(tmp_path / "second"), beside=first).tokenizer is first.tokenizer


def test_a_model_with_another_tokenizer_reads_its_own(tmp_path: Path) -> None:
    first = load(make_toy(tmp_path / "first"))
    folder = make_toy(tmp_path / "second")
    (folder / TOKENIZER).write_bytes(toy_tokenizer((*WORDS, "another")))
    accept_files(folder)

    second = load(folder, beside=first)

    assert second.tokenizer is not first.tokenizer
    assert second.token_ids([Normalised("another")]) != first.token_ids([Normalised("another")])


def test_a_loaded_model_does_not_keep_its_graph_a_second_time(shipped: Router) -> None:
    kept = [name for name, value in vars(shipped._session).items() if isinstance(value, bytes)]

    assert kept == []


def test_the_readmes_first_answer_is_what_is_answered(shipped: Router) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    text = readme.split('"text": "', 1)[1].split('"', 1)[0]
    line = readme.split("```json\n", 1)[1].splitlines()[0]
    told = msgspec.json.decode(line)

    (scores,) = shipped.score(seen(shipped, [text]))
    answer = decide(scores, Policy.of_routes(shipped.manifest.tasks, shipped.manifest.policy))

    assert msgspec.json.encode(told).decode() == line, "written as a gateway writes it"
    assert (told["label"], told["route"], told["task"]) == (answer.label, answer.route, answer.task)
    assert told["confidence"] == pytest.approx(answer.confidence, abs=shipped.manifest.golden_tolerance)
