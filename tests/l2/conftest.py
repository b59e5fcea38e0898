"""What the tests of the shared cache level stand on: a tiny model, real Redis servers, real gateways."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.launch import Served
from lab.redis_server import RedisServer, binary
from tests.l2 import tiny_model
from tests.l2.certificates import unavailable

# Without L1, so that L2 is met; answers equal to the last digit, whoever came along.
ONE_BY_ONE = {
    "CACHE_L1_SIZE": "0",
    "BATCH_MAX_SIZE": "1",
    "LANES": "1",
    "DRAIN_LINGER_MS": "0",
    "REQUEST_TIMEOUT_MS": "10000",
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make(tmp_path_factory.mktemp("other-model"), seed=1)


@pytest.fixture(scope="session")
def uncached(model: Path) -> Iterator[Served]:
    """A gateway without any cache: what it answers is right."""
    with Served({**ONE_BY_ONE, "MODEL_PATH": str(model)}) as gateway:
        yield gateway


@pytest.fixture
def later() -> Iterator[ExitStack]:
    """What must be ended, whatever happens; last begun, first ended."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start_redis(tmp_path: Path, later: ExitStack) -> Callable[..., RedisServer]:
    """Start a Redis with these options, and end it with the test."""
    try:
        binary()
    except FileNotFoundError as why:
        unavailable(str(why))

    def start(*options: str, running: bool = True, sentinel: bool = False) -> RedisServer:
        server = RedisServer(tmp_path, *options, sentinel=sentinel)
        later.callback(server.kill)
        if running:
            server.start()
        return server

    return start


@pytest.fixture
def start_gateway(model: Path, later: ExitStack) -> Callable[..., Served]:
    """Start a gateway with these settings, and end it with the test."""

    def start(*, folder: Path | None = None, **settings: str | float) -> Served:
        given = {name: str(value) for name, value in settings.items()}
        return later.enter_context(Served({**ONE_BY_ONE, "MODEL_PATH": str(folder or model), **given}))

    return start
