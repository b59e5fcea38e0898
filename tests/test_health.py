"""The deep report, beside what never answers."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from handler import health
from handler.settings import Settings
from tests.fakes import WholeGateway


def test_a_model_volume_that_hangs_holds_up_one_report_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "LOOK_S", 0.05)
    hanging = threading.Event()
    looked: list[None] = []

    def look() -> None:
        looked.append(None)
        hanging.wait()

    async def reports() -> tuple[list[str], str]:
        async with WholeGateway() as whole:
            monkeypatch.setattr(whole.model, "files", look)
            follower = SimpleNamespace(troubles=lambda _: {}, trouble=lambda _: None)
            reporter = health.Health(whole.gateway, Settings(), follower)  # type: ignore[arg-type]
            found = [(await reporter.deep()).checks.model.files for _ in range(2)]
            return list(found), reporter.live().status

    try:
        assert asyncio.run(reports()) == (["unreadable", "unreadable"], "alive")
        assert len(looked) == 1  # the second report did not wait for the volume again
    finally:
        hanging.set()
