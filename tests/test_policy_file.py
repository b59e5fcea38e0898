"""An operator's policy: taken whole, or refused with the line and what is accepted."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.policy import OPTIONS, Policy, Route, Tier, UnknownTask
from handler.policy_file import PolicyError, PolicyFile, parse, policy_for, read, write
from tests.models import FAST, SLOW, TASKS

ROUTES: dict[str, Route] = {**dict.fromkeys(FAST, "fast"), **dict.fromkeys(SLOW, "slow")}

WHOLE = """\
source = "tasks"  # the default

[need]
open_qa = 0.6
"coding" = 1

[[tier]]
name = "small"
need_max = 0.3

[[tier]]
name = "middle"
need_max = 0.7

[[tier]]
name = "large"
need_max = 1

[options]
EASY = 0.5
HARD = 1.0

[predicates]
needs_large = 0.4
is_code = ["coding"]
"""


def parsed(text: str) -> PolicyFile:
    return parse(text.encode(), "policy.toml")


def refusal(text: str | bytes) -> str:
    with pytest.raises(PolicyError) as refused:
        parse(text if isinstance(text, bytes) else text.encode(), "policy.toml")
    return str(refused.value)


def fitted(text: str, **options: Any) -> Policy:
    return policy_for(TASKS, ROUTES, file=parsed(text), **options)


def unfit(text: str, **options: Any) -> str:
    with pytest.raises(PolicyError) as refused:
        fitted(text, **options)
    return str(refused.value)


def test_a_whole_file_is_read_as_it_was_meant() -> None:
    policy = parsed(WHOLE)

    assert policy.source == "tasks"
    assert policy.need == {"open_qa": 0.6, "coding": 1.0}
    assert policy.tiers == (Tier("small", 0.3), Tier("middle", 0.7), Tier("large", 1.0))
    assert policy.options == {"EASY": 0.5, "HARD": 1.0}
    assert policy.predicates == {"needs_large": 0.4, "is_code": ("coding",)}


@pytest.mark.parametrize("text", ["", " \n\t", "\n# nothing yet\n", "\ufeff", "\ufeff# nothing yet"])
def test_a_file_that_says_nothing_is_refused_by_name(text: str) -> None:
    assert refusal(text).startswith("policy.toml is empty, or holds nothing but comments; accepted: ")


def test_a_file_that_names_its_source_alone_is_the_default_policy() -> None:
    policy = fitted('source = "tasks"')

    assert policy.routes == ROUTES
    assert policy.names == ("fast", "slow")
    assert policy.options == OPTIONS


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[need]\nopen_qa = 1.5", 2, "open_qa is 1.5; accepted: a number from 0 to 1"),
        ("[need]\n\n# why\nopen_qa = -0.1", 4, "accepted: a number from 0 to 1"),
        ("[need]\nopen_qa = nan", 2, "accepted: a number from 0 to 1"),
        ("[need]\nopen_qa = inf", 2, "accepted: a number from 0 to 1"),
        ("[need]\nopen_qa = true", 2, "open_qa is True; accepted: a number from 0 to 1"),
        ("[need]\nopen_qa = '0.5'", 2, "open_qa is '0.5'; accepted: a number from 0 to 1"),
        ("need.open_qa = 7", 1, "open_qa is 7; accepted: a number from 0 to 1"),
        ("\nneed = { open_qa = 7 }", 2, "open_qa is 7; accepted: a number from 0 to 1"),
        ("\nneed = 3", 2, "need is 3; accepted: a table [need]"),
        ("\nneeds = 3", 2, "'needs' is not a member; accepted: source, need, tier, options, predicates; "
                           "did you mean 'need'?"),
        ("\n[tiers]\na = 1", 2, "did you mean 'tier'?"),
        ("\nsource = 'votes'", 2, "source is 'votes'; accepted: tasks, outcomes"),
        ("\nsource = 1", 2, "source is 1; accepted: tasks, outcomes"),
        ("\nsource = ['tasks']", 2, "accepted: tasks, outcomes"),
        ("\ntier = 1", 2, "tier is 1; accepted: tables [[tier]]"),
        ("\n[tier]\nname = 'a'", 2, "tier is a table; accepted: tables [[tier]]"),
        ("[[tier]]\nname = 'a'\nneed_max = 1", 1, "1 tier(s); accepted: 2 to 10"),
        ("tier = []", 1, "0 tier(s); accepted: 2 to 10"),
        ("[[tier]]\nname = 'a'\n\n[[tier]]\nname = 'b'\nneed_max = 1", 1, "a tier without need_max"),
        ("[[tier]]\nname = 'a'\nneed_max = 0.5\n[[tier]]\nneed_max = 1", 4, "a tier without name"),
        ("[[tier]]\nname = 'a'\nneed_max = 0.5\n[[tier]]\nname = 'a'\nneed_max = 1", 5,
         "a second tier is called 'a'"),
        ("[[tier]]\nname = 'a'\nneed_max = 0.5\n[[tier]]\nname = 'b'\nneed_max = 0.5", 6,
         "tier 'b' has need_max 0.5; accepted: over the 0.5 of the tier before it"),
        ("[[tier]]\nname = 'a'\nneed_max = 0.5\n[[tier]]\nname = 'b'\nneed_max = 0.9", 6,
         "the last tier has need_max 0.9; accepted: 1"),
        ("[[tier]]\nname = 'a'\nneed_max = 0.5\n[[tier]]\nname = 'b'\nneed_min = 1", 6,
         "'need_min' is not a member; accepted: name, need_max; did you mean 'need_max'?"),
        ("[[tier]]\nname = 'a b'\nneed_max = 0.5\n[[tier]]\nname = 'b'\nneed_max = 1", 2,
         "a name is 'a b'; accepted: 1 to 64 letters, digits, and _ . : -"),
        ("[[tier]]\nname = 1\nneed_max = 0.5\n[[tier]]\nname = 'b'\nneed_max = 1", 2, "a name is 1; accepted"),
        ("[[tier]]\nname = ''\nneed_max = 0.5\n[[tier]]\nname = 'b'\nneed_max = 1", 2, "a name is ''"),
        ("[[tier]]\nname = 'é'\nneed_max = 0.5\n[[tier]]\nname = 'b'\nneed_max = 1", 2, "a name is 'é'"),
        ("[options]\nEASY = 2", 2, "EASY is 2; accepted: a number from 0 to 1"),
        ("[options]\n'VERY EASY' = 1", 2, "a name is 'VERY EASY'"),
        ("[predicates]\nis_code = []", 2, "is_code is []; accepted: a bound of need, 0 to 1, or a list of tasks"),
        ("[predicates]\nis_code = true", 2, "accepted: a bound of need, 0 to 1, or a list of tasks"),
        ("[predicates]\nis_code = [1]", 2, "accepted: a bound of need, 0 to 1, or a list of tasks"),
        ("[predicates]\nis_code = 1.01", 2, "is_code is 1.01; accepted: a number from 0 to 1"),
        ("[need]\nopen_qa = ", 2, "this is not TOML"),
        ("[need]\nopen_qa = 0.5\nopen_qa = 0.6\n", 3, "this is not TOML"),
        ("[need\n", 1, "this is not TOML"),
        (f"[need]\nopen_qa = {'9' * 5000}\n", 2, "this is not TOML"),
        (f"[need]\nopen_qa = 0x{'f' * 5000}\n", 2, "open_qa is a very long number; accepted"),
        ("a = [" * 5000, 1, "this is not TOML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_file_and_line(text: str, line: int, message: str) -> None:
    told = refusal(text)

    assert told.startswith(f"policy.toml:{line}: ")
    assert message in told


def test_bytes_that_are_no_text_are_told_by_line() -> None:
    assert refusal(b"# one\n# two\xff\n") == "policy.toml:2: bytes that are not UTF-8"


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode(errors="replace")))
def test_no_bytes_whatever_are_more_than_refused(content: bytes) -> None:
    read_or_refused = "read"

    try:
        parse(content, "policy.toml")
    except PolicyError as exc:
        read_or_refused = str(exc)

    assert read_or_refused == "read" or read_or_refused.startswith("policy.toml")


def test_a_message_repeats_no_more_of_a_value_than_a_glance() -> None:
    assert len(refusal(f"source = '{'x' * 5000}'")) < 200


@pytest.mark.parametrize(
    ("text", "line"),
    [("[need]\npoetry = 1", 2), ("[predicates]\n\nis_art = ['coding', 'poetry']", 3)],
)
def test_a_task_that_the_model_does_not_know_is_told_with_those_there_are(text: str, line: int) -> None:
    told = unfit(text)

    assert told.startswith(f"policy.toml:{line}: 'poetry' is not a task of this model, which knows classif")


def test_a_learnt_need_takes_a_model_that_has_learnt() -> None:
    assert unfit("\nsource = 'outcomes'").startswith('policy.toml:2: source = "outcomes" takes a model that')


def test_a_model_that_has_learnt_serves_what_it_learnt_where_the_policy_says_so() -> None:
    policy = fitted("source = 'outcomes'\n[need]\ncoding = 0", learnt=True)

    assert policy.learns
    assert policy.overridden == {"coding"}


def test_tasks_that_the_file_does_not_name_keep_the_models_need() -> None:
    policy = fitted("[need]\nopen_qa = 0.25")

    assert dict(zip(policy.tasks, policy.needs, strict=True)) == {
        task: 0.25 if task == "open_qa" else float(task in SLOW) for task in TASKS
    }


def test_fast_tasks_without_a_file_are_fast_alone() -> None:
    policy = policy_for(TASKS, ROUTES, fast_tasks=["coding"])

    assert [task for task, route in policy.routes.items() if route == "fast"] == ["coding"]


def test_fast_tasks_go_with_tiers() -> None:
    policy = fitted(WHOLE.replace("[need]", "[x]").replace("[x]\nopen_qa = 0.6\n\"coding\" = 1\n", ""),
                    fast_tasks=["coding"])  # fmt: skip

    assert (policy.routes["coding"], policy.routes["closed_qa"]) == ("small", "large")


def test_an_unknown_fast_task_is_refused_by_name() -> None:
    with pytest.raises(UnknownTask, match=r"^poetry: not a task"):
        policy_for(TASKS, ROUTES, fast_tasks=["poetry"])


def test_a_threshold_is_the_first_boundary_where_the_file_names_no_tiers() -> None:
    assert fitted("[need]\ncoding = 0.5", threshold=0.8).boundaries() == pytest.approx((0.2, 1.0))


# Files and settings


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "setting", "line"),
    [
        ("\n[need]\ncoding = 1", {"fast_tasks": True}, 2),
        ("\nsource = 'outcomes'", {"fast_tasks": True}, 2),
        (WHOLE, {"threshold_given": True}, 7),
    ],
)
def test_a_file_and_a_setting_that_say_the_same_thing_are_refused_together(
    text: str, setting: dict[str, bool], line: int, tmp_path: Path
) -> None:
    path = written(tmp_path, text)

    with pytest.raises(PolicyError) as refused:
        read(path, **setting)

    assert str(refused.value).startswith(f"{path}:{line}: ")
    assert ("ROUTE_FAST_TASKS" if "fast_tasks" in setting else "CONFIDENCE_THRESHOLD") in str(refused.value)


def test_a_file_that_says_nothing_of_tiers_goes_with_a_threshold(tmp_path: Path) -> None:
    policy = read(written(tmp_path, "[need]\ncoding = 0.5"), threshold_given=True)

    assert policy.tiers == ()


def test_a_file_that_is_not_there_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"nowhere\.toml cannot be read \(No such file or directory\)"):
        read(tmp_path / "nowhere.toml")


def test_a_file_of_a_gigabyte_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    with path.open("wb") as file:
        file.truncate(1_000_000_000)

    with pytest.raises(PolicyError, match="is not a policy: it is over 1000000 bytes"):
        read(path)


def test_two_files_of_one_content_have_one_version(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)

    assert read(path).version == parsed(WHOLE).version != parsed(WHOLE + "\n").version


@given(
    st.dictionaries(st.sampled_from(TASKS), st.floats(0, 1)),
    st.lists(st.floats(0, 0.99), min_size=1, max_size=4, unique=True).map(sorted),
)
def test_a_policy_that_we_write_is_read_back_as_it_was(need: dict[str, float], bounds: list[float]) -> None:
    tiers = tuple(Tier(f"t.{i}", bound) for i, bound in enumerate([*bounds, 1.0]))

    policy = parsed(write(tiers=tiers, need=need, comments=["made by a test", ""]))

    assert (policy.need, policy.tiers) == (need, tiers)
