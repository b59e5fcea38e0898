"""`ModelHolder`: how a gateway without a model gets one. On virtual time."""

import asyncio
import io
import json
from concurrent.futures import Future
from pathlib import Path

import pytest

from handler.errors import ModelError, ModelNotReady
from handler.log import Log
from handler.model import Router
from handler.model_holder import RETRY_S, ModelHolder
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


def test_a_bug_in_loading_ends_the_process_rather_than_being_retried() -> None:
    def load() -> Router:
        raise ZeroDivisionError

    holder = ModelHolder(Path("models"), load, Log(io.StringIO()))

    with pytest.raises(ZeroDivisionError):
        asyncio.run(holder.fill(sleep=at_once))
