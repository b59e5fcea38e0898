"""From a user's rows to a served model, each script run as a file."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from router_training import encoder
from tiny_world import run

from handler.model import Router, cut_tokens, load
from handler.policy import Policy, decide
from handler.query import normalise

Train = Callable[..., subprocess.CompletedProcess[str]]

TEXTS = [f"where is my parcel {'please ' * (i * 7)}{i}" for i in range(12)]


@pytest.fixture(scope="module")
def router(quantized: Path) -> Router:
    return load(quantized)


def test_the_checkpoint_is_what_others_can_open(checkpoint: Path) -> None:
    names = {path.name for path in checkpoint.iterdir()}

    assert {"config.json", "model.safetensors", "tokenizer.json", "router.json"} <= names
    assert json.loads((checkpoint / "config.json").read_text())["id2label"]["2"] == "tracking"


def test_the_users_policy_reaches_the_manifest(router: Router) -> None:
    assert router.manifest.policy == {"account": "slow", "complaint": "slow", "tracking": "fast"}


def test_one_checkpoint_makes_the_same_bytes_twice(checkpoint: Path, quantized: Path, tmp_path: Path) -> None:
    run("build_model.py", "--checkpoint", checkpoint, "--out", tmp_path / "again")

    for path in quantized.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_one_seed_trains_the_same_weights_twice(train: Train, checkpoint: Path, tmp_path: Path) -> None:
    train(tmp_path / "router", tmp_path / "work")

    again = (tmp_path / "router" / "model.safetensors").read_bytes()
    assert again == (checkpoint / "model.safetensors").read_bytes()


def test_the_same_command_finds_its_own_state_again(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "router", tmp_path / "work")
    train(tmp_path / "router", tmp_path / "work")

    assert len(list((tmp_path / "work").glob("router-*.pt"))) == 1


def test_a_router_can_be_made_shallower(train: Train, tmp_path: Path) -> None:
    done = train(tmp_path / "router", tmp_path / "work", "--recipe", "full", "--layers", 1)

    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "router" / "config.json").read_text())["num_hidden_layers"] == 1


def test_training_goes_on_from_a_checkpoint_of_its_own(
    train: Train, checkpoint: Path, tmp_path: Path
) -> None:
    done = train(tmp_path / "router", tmp_path / "work", "--base", checkpoint)

    assert done.returncode == 0, done.stderr
    went_on = (tmp_path / "router" / "model.safetensors").read_bytes()
    assert went_on != (checkpoint / "model.safetensors").read_bytes()


def test_training_that_goes_on_from_its_own_output_does_not_find_itself_done(
    train: Train, checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint, tmp_path / "router")
    for _ in range(2):
        train(tmp_path / "router", tmp_path / "work", "--base", tmp_path / "router")

    assert len(list((tmp_path / "work").glob("router-*.pt"))) == 2


def test_the_checkpoint_says_what_it_was_trained_on(checkpoint: Path) -> None:
    mix = json.loads((checkpoint / "router.json").read_text())["training_mix"]

    assert set(mix) == {"tracking", "complaint", "account"}
    assert sum(mix.values()) == pytest.approx(1, abs=1e-5)


def test_the_training_mix_reaches_the_manifest(checkpoint: Path, quantized: Path) -> None:
    trained, served = (
        json.loads(path.read_text()) for path in (checkpoint / "router.json", quantized / "manifest.json")
    )

    assert served["training_mix"] == trained["training_mix"]


def test_weights_are_signed_and_fit_seven_bits(quantized: Path) -> None:
    graph = onnx.load(quantized / "model.onnx").graph
    weights = {node.input[1] for node in graph.node if node.op_type in ("QAttention", "MatMulIntegerToFloat")}

    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name in weights}
    # Two layers of projection and two of feed-forward; one attention, and the last one in three.
    assert len(stored) == 2 * 3 + 1 + 3
    assert all(weight.dtype == "int8" and abs(weight).max() <= 63 for weight in stored.values())


def test_nothing_in_the_graph_is_left_unread(quantized: Path) -> None:
    graph = onnx.load(quantized / "model.onnx").graph
    read = {name for node in graph.node for name in node.input} | {given.name for given in graph.output}

    assert [node.name for node in graph.node if not read & set(node.output)] == []
    assert [tensor.name for tensor in graph.initializer if tensor.name not in read] == []


def test_what_an_attention_gives_out_is_evened_out_in_its_weights_for_nothing(
    router: Router, checkpoint: Path
) -> None:
    import numpy as np
    from router_training import artefact, integer_graph

    from handler.model import padded, session

    limits = router.manifest.limits
    rows = encoder.token_ids(encoder.read_tokenizer(checkpoint), TEXTS[:3], limits)
    plain = artefact.float_graph_of(checkpoint, limits)
    evened, ranges = integer_graph.even_attended(plain, artefact._ranges(plain, rows))

    for row in rows:
        given = padded([row])
        before, after = (
            session(model.SerializeToString()).run(["logits"], given)[0] for model in (plain, evened)
        )
        np.testing.assert_allclose(after, before, atol=1e-5)
    seen = artefact._ranges(evened, rows)
    for name, expected in ranges.items():
        np.testing.assert_allclose(seen[name].high, expected.high, atol=1e-4)


def test_a_query_scores_the_same_alone_as_in_any_batch(router: Router) -> None:
    queries = [normalise(text, router.manifest.limits) for text in TEXTS]

    together = router.score(queries)

    assert [router.score([query])[0] for query in queries] == together


def test_training_cuts_a_text_where_serving_cuts_it(router: Router, checkpoint: Path) -> None:
    limits = router.manifest.limits
    long = normalise("where is my parcel number 9 " * 40, limits)

    (row,) = encoder.token_ids(encoder.read_tokenizer(checkpoint), [long.text], limits)

    (whole,) = router.token_ids([long])
    served, cut = (
        cut_tokens(whole, router.manifest.limits),
        [len(whole) > router.manifest.limits.tokens_max + 2],
    )
    assert cut == [True]
    assert row == served


def test_integers_take_the_float_checkpoints_route(router: Router, checkpoint: Path) -> None:
    import numpy as np
    from router_training.calibration import probabilities
    from router_training.fitting import logits as logits_of

    manifest = router.manifest
    queries = [normalise(text, manifest.limits) for text in TEXTS]
    ids = encoder.token_ids(encoder.read_tokenizer(checkpoint), [q.text for q in queries], manifest.limits)
    logits = logits_of(encoder.load(checkpoint, manifest.tasks), ids, "float")

    expected = probabilities(logits, manifest.temperature)
    served = [scores.probabilities for scores in router.score(queries)]
    np.testing.assert_allclose(served, expected, atol=0.03)


def test_a_state_is_given_out_beside_the_same_scores(router: Router) -> None:
    queries = [normalise(text, router.manifest.limits) for text in TEXTS]

    run_of_both = router.run(queries, hidden=True)

    assert run_of_both.hidden is not None
    assert run_of_both.hidden.shape == (len(TEXTS), 32)
    assert run_of_both.hidden.dtype == "float32"
    assert run_of_both.scores == router.score(queries)


def test_the_state_is_the_mean_of_what_the_float_checkpoints_last_layer_reads(
    router: Router, checkpoint: Path
) -> None:
    import numpy as np
    import torch

    queries = [normalise(text, router.manifest.limits) for text in TEXTS]
    model = encoder.load(checkpoint, router.manifest.tasks).eval()
    expected = []
    for query in queries:
        (row,) = encoder.token_ids(encoder.read_tokenizer(checkpoint), [query.text], router.manifest.limits)
        with torch.inference_mode():
            states = model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states
        expected.append(states[-2][0].mean(dim=0).numpy())

    hidden = router.run(queries, hidden=True).hidden

    assert hidden is not None
    np.testing.assert_allclose(hidden, np.stack(expected), atol=0.02)


def test_what_was_seen_of_a_text_cut_by_tokens_is_its_head_and_its_tail(router: Router) -> None:
    text = " ".join(f"{i:03d}" for i in range(120))  # a token a digit

    spans = router.seen(text)

    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    assert sum(end - start for start, end in spans) < len(text)


def test_a_built_model_decides(router: Router) -> None:
    policy = Policy.of_routes(router.manifest.tasks, router.manifest.policy)

    decision = decide(router.score([normalise("where is it", router.manifest.limits)])[0], policy, 0.7)

    assert decision.task in router.manifest.tasks


def test_a_users_model_is_scored_on_the_users_test_side(quantized: Path, own_rows: Path) -> None:
    done = run("evaluate.py", "--model", quantized, "--data", own_rows)

    assert done.returncode == 0, done.stderr
    assert "route accuracy" in done.stdout


def test_without_data_what_needs_them_is_not_measured(checkpoint: Path, quantized: Path) -> None:
    manifest = (quantized / "manifest.json").read_bytes()

    done = run("evaluate.py", "--model", quantized, "--checkpoint", checkpoint)

    assert "| B |" in done.stdout
    assert "not measured" in done.stdout
    assert "Traceback" not in done.stderr
    assert (quantized / "manifest.json").read_bytes() == manifest, "nothing is written unasked"


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("train.py", ["--data", "nowhere.jsonl"]),
        ("train.py", ["--fast-tasks", "x"]),
        ("build_model.py", ["--checkpoint", "nowhere"]),
        ("evaluate.py", ["--model", "nowhere"]),
    ],
)
def test_a_users_mistake_is_told_in_a_line(script: str, arguments: list[str]) -> None:
    done = run(script, *arguments)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(script.split(".")[0].replace("_", "-") + ": ")


@pytest.mark.parametrize("script", ["train.py", "build_model.py", "evaluate.py"])
def test_every_script_explains_itself(script: str) -> None:
    done = run(script, "--help")

    assert done.returncode == 0
    assert "usage:" in done.stdout
