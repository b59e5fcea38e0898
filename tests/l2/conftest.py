"""What the tests of the shared cache level stand on: a tiny model, real Redis servers, real gateways."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.l2 import tiny_model
from tests.l2.gateways import GatewayProcess
from tests.l2.redis_servers import RedisServer


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make(tmp_path_factory.mktemp("other-model"), seed=1)


@pytest.fixture(scope="session")
def uncached(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway without any cache: what it answers is right."""
    gateway = GatewayProcess(tmp_path_factory.mktemp("uncached"), model)
    yield gateway
    gateway.stop()


@pytest.fixture
def later() -> Iterator[ExitStack]:
    """What must be ended, whatever happens; last begun, first ended."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start_redis(tmp_path: Path, later: ExitStack) -> Callable[..., RedisServer]:
    """Start a Redis with these options, and end it with the test."""

    def start(*options: str, running: bool = True, sentinel: bool = False) -> RedisServer:
        server = RedisServer(tmp_path, *options, sentinel=sentinel)
        later.callback(server.kill)
        if running:
            server.start()
        return server

    return start


@pytest.fixture
def start_gateway(tmp_path: Path, model: Path, later: ExitStack) -> Callable[..., GatewayProcess]:
    """Start a gateway with these settings, and end it with the test."""

    def start(*, folder: Path | None = None, **settings: str | float) -> GatewayProcess:
        gateway = GatewayProcess(tmp_path, folder or model, **settings)
        later.callback(gateway.stop)
        return gateway

    return start
