"""`ModelHolder`: how a gateway without a model gets one. On virtual time."""

import asyncio
import io
import json
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest

from handler.errors import ModelError, ModelNotReady
from handler.log import Log
from handler.model import CurvePoint, Router
from handler.model_holder import RETRY_S, ModelHolder
from handler.policy import UnknownTask
from handler.policy_file import PolicyError, PolicyFile, parse
from tests import virtual
from tests.fakes import FakeRouter


class Folder:
    """A model folder whose files turn good at the n-th look."""

    def __init__(self, good_at: int) -> None:
        self.good_at = good_at
        self.looks = 0
        self.reason = "Model file not found: models/quantized/manifest.json"

    def load(self) -> Router:
        self.looks += 1
        if self.looks < self.good_at:
            raise ModelError(self.reason)
        return FakeRouter()  # type: ignore[return-value]


def load_fake() -> Router:
    return FakeRouter()  # type: ignore[return-value]


async def at_once(_: float) -> None:
    await asyncio.sleep(0)


def events(lines: io.StringIO) -> list[str]:
    return [json.loads(line)["event"] for line in lines.getvalue().splitlines()]


def test_a_model_that_appears_is_taken_up() -> None:
    lines, folder = io.StringIO(), Folder(good_at=4)
    holder = ModelHolder(Path("models"), folder.load, Log(lines))

    asyncio.run(holder.fill(sleep=at_once))

    assert holder.loaded
    assert holder.version == "fake"
    assert folder.looks == 4


def loaded(**options: Any) -> tuple[ModelHolder, io.StringIO]:
    lines = io.StringIO()
    holder = ModelHolder(Path("models"), load_fake, Log(lines), **options)
    holder.place(FakeRouter())  # type: ignore[arg-type]
    return holder, lines


def policy_file(text: str) -> PolicyFile:
    return parse(text.encode(), "policy.toml")


def test_a_policy_file_is_in_force_from_the_first_model_on() -> None:
    holder, _ = loaded(policy_file=policy_file("[need]\ncreative_writing = 0.25"))

    assert holder.serving.policy.needs == (0.0, 0.25)


def test_another_policy_file_takes_the_place_of_the_first_for_the_same_model() -> None:
    holder, _ = loaded(policy_file=policy_file("[need]\ncreative_writing = 0.25"))
    router = holder.serving.router

    holder.place_policy(policy_file("[need]\ncreative_writing = 0.75"))

    assert holder.serving.policy.needs == (0.0, 0.75)
    assert holder.serving.router is router


def test_a_policy_file_that_does_not_fit_the_model_leaves_the_old_policy() -> None:
    holder, _ = loaded(policy_file=policy_file("[need]\ncreative_writing = 0.25"))

    with pytest.raises(PolicyError, match="'poetry' is not a task"):
        holder.place_policy(policy_file("[need]\npoetry = 0.75"))

    holder.place(FakeRouter())  # type: ignore[arg-type]
    assert holder.serving.policy.needs == (0.0, 0.25)


def test_a_policy_file_that_comes_before_the_model_waits_for_it() -> None:
    holder = ModelHolder(Path("models"), load_fake, Log(io.StringIO()))

    holder.place_policy(policy_file("[need]\ncreative_writing = 0.25"))
    holder.place(FakeRouter())  # type: ignore[arg-type]

    assert holder.serving.policy.needs == (0.0, 0.25)


@pytest.mark.parametrize(
    ("options", "threshold", "tiers"),
    [
        ({}, 0.7, {"fast": 0.3, "slow": 1.0}),
        ({"threshold": 0.9}, 0.9, {"fast": 0.1, "slow": 1.0}),
        ({"threshold": 0.2}, 0.5, {"fast": 0.5, "slow": 1.0}),
        (
            {"policy_file": parse(b"tier = [{name = 'a', need_max = 0.4}, {name = 'b', need_max = 1}]", "p")},
            0.6,
            {"a": 0.4, "b": 1.0},
        ),
    ],
)
def test_the_policy_in_force_is_told_with_its_threshold(
    options: dict[str, Any], threshold: float, tiers: dict[str, float]
) -> None:
    holder, _ = loaded(**options)

    told = holder.policy_statistics()

    assert told is not None
    assert (told.threshold, told.tiers) == (threshold, tiers)


def test_there_is_no_policy_to_tell_of_before_there_is_a_model() -> None:
    assert ModelHolder(Path("m"), load_fake, Log(io.StringIO())).policy_statistics() is None


def test_an_operators_old_list_of_fast_tasks_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler.policy.FIRST_TASKS", frozenset({"creative_writing"}))

    _, lines = loaded(fast_tasks=["creative_writing"])

    warning = json.loads(lines.getvalue().splitlines()[-1])
    assert (warning["event"], warning["tasks"]) == ("new_tasks_kept_slow", ["summarization"])


def test_one_lasting_reason_is_logged_once() -> None:
    lines, folder = io.StringIO(), Folder(good_at=10)

    asyncio.run(ModelHolder(Path("models"), folder.load, Log(lines)).fill(sleep=at_once))

    assert events(lines) == ["model_not_ready", "model_loaded"]


def test_until_then_the_reason_is_told() -> None:
    holder = ModelHolder(Path("models"), Folder(good_at=99).load, Log(io.StringIO()))

    async def main() -> None:
        first: Future[Router] = Future()
        first.set_exception(ModelError("Permission denied: models/quantized/model.onnx"))
        filling = asyncio.create_task(holder.fill(first))
        await asyncio.sleep(RETRY_S / 2)
        filling.cancel()

    virtual.run(main())

    with pytest.raises(ModelNotReady, match="Permission denied"):
        _ = holder.serving


def test_a_bug_in_loading_at_the_start_ends_the_process_rather_than_being_retried() -> None:
    def load() -> Router:
        raise ZeroDivisionError

    holder = ModelHolder(Path("models"), load, Log(io.StringIO()))

    with pytest.raises(ZeroDivisionError):
        asyncio.run(holder.fill(sleep=at_once))


def of_other_tasks() -> Router:
    router = FakeRouter()
    router.manifest = msgspec.structs.replace(
        FakeRouter.manifest, tasks=["coding", "planning"], policy={"coding": "slow", "planning": "slow"}
    )
    return router  # type: ignore[return-value]


def arriving(*models: Router | Exception, **options: Any) -> tuple[ModelHolder, list[dict[str, Any]]]:
    """A gateway that started without a model, and what it says of those that come then, twice each."""
    lines = io.StringIO()
    looks = iter([ModelError("Model file not found: models"), *(model for model in models for _ in range(2))])

    def load() -> Router:
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found

    holder = ModelHolder(Path("models"), load, Log(lines), **options)
    asyncio.run(holder.fill(sleep=at_once))
    return holder, [json.loads(line) for line in lines.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        (
            of_other_tasks(),
            {"fast_tasks": ["summarization"]},
            "the model in models does not fit ROUTE_FAST_TASKS: summarization: not a task of this model",
        ),
        (
            of_other_tasks(),
            {"policy_file": parse(b"[need]\nsummarization = 0.9", "policy.toml")},
            "the model in models does not fit POLICY_FILE: policy.toml:2: ",
        ),
        (ZeroDivisionError("secret"), {}, "ZeroDivisionError while the model in models was loaded"),
    ],
    ids=["fast_tasks", "policy_file", "bug"],
)
def test_an_unfit_model_that_comes_after_a_start_without_one_is_refused_and_a_good_one_taken(
    model: Router | Exception, options: dict[str, Any], told: str
) -> None:
    holder, lines = arriving(model, load_fake(), **options)

    assert [line["event"] for line in lines] == ["model_not_ready", "model_not_ready", "model_loaded"]
    assert lines[1]["message"].startswith(told)
    assert "secret" not in str(lines)
    assert holder.version == "fake"


def test_an_unfit_model_that_is_there_at_the_start_ends_the_start() -> None:
    holder = ModelHolder(Path("models"), load_fake, Log(io.StringIO()), fast_tasks=["poetry"])

    with pytest.raises(UnknownTask):
        asyncio.run(holder.fill(sleep=at_once))


def test_a_models_measured_curve_is_told_as_its_manifest_has_it() -> None:
    point = CurvePoint(threshold=0.7, share_fast=0.4, wrong_fast=0.02, easy_fast=0.9)
    router = FakeRouter()
    router.manifest = msgspec.structs.replace(router.manifest, curve=[point])
    holder = ModelHolder(Path("m"), lambda: router, Log(io.StringIO()))  # type: ignore[arg-type, return-value]

    holder.place(router)  # type: ignore[arg-type]

    assert holder.statistics().curve == (
        {"threshold": 0.7, "share_fast": 0.4, "wrong_fast": 0.02, "easy_fast": 0.9},
    )


def with_version(version: str, name: str) -> Router:
    """A model of its own: other bytes, and so another manifest."""
    router = FakeRouter()
    router.version = version
    router.manifest = msgspec.structs.replace(FakeRouter.manifest, name=name)
    return router  # type: ignore[return-value]


def test_a_new_model_takes_the_old_ones_place() -> None:
    holder = ModelHolder(Path("models"), load_fake, Log(io.StringIO()), now=lambda: 7.0)
    holder.place(with_version("old", "a"))

    facts = holder.swap(with_version("new", "b"))

    assert (holder.version, facts["version"], facts["replaces"]) == ("new", "new", "old")
    assert holder.statistics().since == 7.0


def test_a_query_that_has_begun_ends_with_the_model_it_began_with() -> None:
    holder = ModelHolder(Path("models"), load_fake, Log(io.StringIO()))
    holder.place(with_version("old", "a"))
    begun = holder.serving

    holder.swap(with_version("new", "b"))

    assert (begun.router.version, holder.serving.router.version) == ("old", "new")


def test_a_model_that_was_swapped_is_kept_by_nobody(tmp_path: Path) -> None:
    holder = ModelHolder(tmp_path, load_fake, Log(io.StringIO()))
    holder.place(with_version("old", "a"))
    old = weakref.ref(holder.serving.router)
    holder.files()

    holder.swap(with_version("new", "b"))

    assert old() is None


def test_a_folder_that_was_only_touched_changes_nothing() -> None:
    holder = ModelHolder(Path("models"), load_fake, Log(io.StringIO()))
    holder.place(with_version("one", "a"))
    before = holder.serving

    holder.swap(with_version("one", "a"))

    assert holder.serving is before


def test_a_model_that_does_not_fit_the_operators_policy_leaves_the_old_one() -> None:
    holder = ModelHolder(
        Path("models"),
        load_fake,
        Log(io.StringIO()),
        fast_tasks=["summarization"],
    )
    holder.place(with_version("old", "a"))
    other = FakeRouter()
    other.manifest = msgspec.structs.replace(FakeRouter.manifest, tasks=["coding"], policy={"coding": "slow"})

    with pytest.raises(UnknownTask):
        holder.swap(other)  # type: ignore[arg-type]

    assert holder.version == "old"
