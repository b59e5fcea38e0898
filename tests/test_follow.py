"""Files that change under a running gateway: taken up whole, or refused and told once. On virtual time."""

import asyncio
import io
import json
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from handler import wiring
from handler.aside import TookTooLong
from handler.follow import LOAD_WITHIN_S, LOOK_S, RETRY_S, Followed, Follower, fingerprint
from handler.keys import Keyring, digest
from handler.log import Log
from handler.model_holder import ModelHolder
from handler.settings import from_env
from tests import virtual
from tests.models import LIMITS, change, make_toy


async def at_once(work: Callable[[], Any]) -> Any:
    return work()


class World:
    """One followed file of one word; `poison` cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "word.txt"
        self.path.write_text("one")
        self.loads = 0
        self.lines = io.StringIO()
        self.word = "one"
        self.item = Followed("WORD_FILE", "word", (self.path,), self.load, self.place)
        self.follower = Follower([self.item], Log(self.lines), in_thread=at_once)

    def load(self) -> str:
        self.loads += 1
        word = self.path.read_text()
        if word == "poison":
            raise ValueError("line 1: a word that nobody can read")
        if word == "bug":
            raise ZeroDivisionError("secret")
        return word

    def place(self, word: str) -> dict[str, Any]:
        if word == "misfit":
            raise ValueError("a word that does not fit the model")
        self.word = word
        return {"word": word}

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.lines.getvalue().splitlines()]

    def followed(self, steps: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            following = asyncio.create_task(self.follower.run())
            await asyncio.sleep(0)
            await steps()
            following.cancel()

        virtual.run(main())


def test_a_changed_file_is_taken_up_within_a_look(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def steps() -> None:
        world.path.write_text("another")
        await asyncio.sleep(LOOK_S * 1.01)

    world.followed(steps)

    assert world.word == "another"
    assert world.events() == ["word_loaded"]


def test_a_file_that_does_not_change_is_not_read_again(tmp_path: Path) -> None:
    world = World(tmp_path)

    world.followed(lambda: asyncio.sleep(3600))

    assert world.loads == 0


def test_a_hangup_makes_it_look_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def steps() -> None:
        world.path.write_text("another")
        world.follower.nudge()
        await asyncio.sleep(LOOK_S / 100)

    world.followed(steps)

    assert world.word == "another"


def test_a_file_that_cannot_be_read_leaves_the_old_one(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def steps() -> None:
        world.path.write_text("poison")
        await asyncio.sleep(LOOK_S * 2)

    world.followed(steps)

    assert world.word == "one"
    assert world.item.trouble == "line 1: a word that nobody can read"
    line = json.loads(world.lines.getvalue())
    assert (line["setting"], line["error_type"]) == ("WORD_FILE", "SettingsError")
    assert line["message"] == "line 1: a word that nobody can read; what was loaded before stays in force"


def test_what_is_read_but_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def steps() -> None:
        world.path.write_text("misfit")
        await asyncio.sleep(LOOK_S * 2)

    world.followed(steps)

    assert (world.word, world.item.trouble) == ("one", "a word that does not fit the model")


def test_one_lasting_reason_is_told_once(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def steps() -> None:
        world.path.write_text("poison")
        await asyncio.sleep(3600)

    world.followed(steps)

    assert world.events() == ["word_not_loaded"]


def test_a_refused_file_is_tried_again_from_time_to_time_though_it_looks_the_same(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def steps() -> None:
        world.path.write_text("poison")
        await asyncio.sleep(RETRY_S * 3.5)

    world.followed(steps)

    assert world.loads == 4


def test_a_hangup_makes_it_try_a_refused_file_again(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def steps() -> None:
        world.path.write_text("poison")
        await asyncio.sleep(LOOK_S * 1.5)
        world.follower.nudge()
        await asyncio.sleep(0.01)

    world.followed(steps)

    assert world.loads == 2


def test_a_file_that_is_mended_is_in_no_trouble(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def steps() -> None:
        world.path.write_text("poison")
        await asyncio.sleep(LOOK_S * 2)
        world.path.write_text("better")
        await asyncio.sleep(LOOK_S * 2)

    world.followed(steps)

    assert (world.word, world.item.trouble) == ("better", None)


def test_a_file_that_goes_away_leaves_what_was_read_of_it(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def steps() -> None:
        world.path.unlink()
        await asyncio.sleep(LOOK_S * 2)

    world.followed(steps)

    assert world.word == "one"
    assert world.item.trouble == f"{world.path} cannot be read (No such file or directory)"


def test_a_bug_in_reading_ends_nothing_and_quotes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def steps() -> None:
        world.path.write_text("bug")
        await asyncio.sleep(LOOK_S * 2)
        world.path.write_text("better")
        await asyncio.sleep(LOOK_S * 2)

    world.followed(steps)

    assert world.word == "better"
    assert "secret" not in world.lines.getvalue()
    assert json.loads(world.lines.getvalue().splitlines()[0])["exception"] == "ZeroDivisionError"


def test_a_change_between_the_first_look_and_the_first_reading_is_not_missed(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.path.write_text("changed meanwhile")

    world.followed(lambda: asyncio.sleep(LOOK_S * 1.01))

    assert world.word == "changed meanwhile"


def test_what_hangs_keeps_nothing_else_from_being_taken_up(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    world, hanging = World(tmp_path), World(tmp_path / "other").item
    hanging.setting = "HANGING_FILE"

    async def in_thread(call: Callable[[], Any]) -> Any:
        if call == hanging.load:
            await asyncio.sleep(LOAD_WITHIN_S)
            raise TookTooLong("no answer")
        return call()

    world.follower = Follower([hanging, world.item], Log(world.lines), in_thread=in_thread)
    seen = []

    async def steps() -> None:
        hanging.paths[0].write_text("another")
        for word in ("another", "a third", "a fourth"):
            world.path.write_text(word)
            await asyncio.sleep(LOOK_S * 2.01)
            seen.append(world.word)
        await asyncio.sleep(LOAD_WITHIN_S)

    world.followed(steps)

    assert seen == ["another", "a third", "a fourth"]
    assert hanging.trouble == "the volume that it stands on does not answer"


async def test_a_file_that_changes_while_a_gateway_is_put_together_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, real = tmp_path / "keys", wiring.open_keyring
    file.write_text(digest(b"old").hex())

    def open_and_change(name: str, given: str, path: str) -> Keyring | None:
        opened = real(name, given, path)
        file.write_text(digest(b"new").hex() + "\n")
        return opened

    monkeypatch.setattr(wiring, "open_keyring", open_and_change)
    parts = wiring.assemble(
        from_env({"API_KEYS_FILE": str(file), "MODEL_PATH": str(tmp_path)}), Log(io.StringIO())
    )
    await parts.follower.look()

    assert parts.callers is not None
    assert (parts.callers.admits(b"old"), parts.callers.admits(b"new")) == (False, True)


@pytest.mark.parametrize("changed", [False, True])
def test_a_model_that_changes_while_it_is_first_loaded_is_read_again(tmp_path: Path, changed: bool) -> None:
    settings = from_env({"MODEL_PATH": str(make_toy(tmp_path / "models"))})
    holder = ModelHolder(settings.model_folder, lambda: wiring.load_router(settings), Log(io.StringIO()))
    holder.place(wiring.load_router(settings))

    if changed:
        change(settings.model_folder, limits=LIMITS | {"tail_chars_max": 101})
    followed = wiring.followed_model(settings, holder)

    assert (followed.taken == followed.look()) is not changed


def test_a_volume_swapped_by_symlink_is_seen(tmp_path: Path) -> None:
    """As Kubernetes does it: the file leads through `..data`, which is renamed over the old one."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "policy.toml").write_text("same bytes, same size")
        os.utime(tmp_path / version / "policy.toml", ns=(0, 0))
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "policy.toml").symlink_to("..data/policy.toml")
    before = fingerprint(tmp_path / "policy.toml")

    (tmp_path / "..new").symlink_to("v2")
    (tmp_path / "..new").rename(tmp_path / "..data")

    assert fingerprint(tmp_path / "policy.toml") != before


def test_a_folder_changes_with_any_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    (tmp_path / "manifest.json").write_bytes(b"{}")
    before = fingerprint(tmp_path)

    (tmp_path / "model.onnx").write_bytes(b"other weights")

    assert fingerprint(tmp_path) != before


def test_a_right_that_comes_back_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("")
    path.chmod(0)
    before = fingerprint(path)

    path.chmod(0o644)

    assert fingerprint(path) != before


def test_what_is_not_there_has_an_empty_fingerprint(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "nowhere") == ()
