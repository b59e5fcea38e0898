"""One gateway for all tests that leave it as it was."""

from collections.abc import Iterator

import pytest

from lab.launch import Served


@pytest.fixture(scope="session")
def gateway() -> Iterator[Served]:
    with Served({"LOG_REQUESTS": "1"}) as served:
        yield served
