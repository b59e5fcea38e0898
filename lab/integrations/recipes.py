"""The recipes of `integrations/`, as they stand there but for addresses and the key.

A recipe names the addresses that its reader would change. Here they are changed for ports of this
run, so that what is proven is the file that is copied.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.integrations.checks import NotHere, require
from lab.integrations.traffic import Chat
from lab.launch import ROOT, Server, free_port

RECIPES = ROOT / "integrations"
CLIENTS = ROOT / ".venv-integrations"
LITELLM = ROOT / ".venv-litellm"
KEY_IN_RECIPE = "change-me"
# What every recipe calls its four ends.
ADDRESSES = {
    "chat": "127.0.0.1:8000",
    "small": "127.0.0.1:9001",
    "large": "127.0.0.1:9002",
    "gateway": "127.0.0.1:8080",
}
# Ends that only some recipes have.
INNER = {"ask": "127.0.0.1:8001", "decided": "127.0.0.1:8002"}
# The runner's own questions may take their time where the machine is busy with other things.
PATIENT = {"REQUEST_TIMEOUT_MS": "20000"}
KEPT = ("PATH", "HOME", "LANG", "TMPDIR")


@dataclass(frozen=True)
class Ports:
    """Where everything of one run listens."""

    gateway: int = field(default_factory=free_port)
    small: int = field(default_factory=free_port)
    large: int = field(default_factory=free_port)
    chat: int = field(default_factory=free_port)
    ask: int = field(default_factory=free_port)
    decided: int = field(default_factory=free_port)


@dataclass(frozen=True)
class Proxy:
    """A proxy and its recipe.

    command       what runs it, given the folder that holds its recipe
    asked_max     bytes of a body that it sends to the gateway whole; of longer ones a part, or nothing
    chunked       whether it asks about a body whose length is not said first
    forgiving     whether it lets users through whatever status the gateway answers with
    torn          whether it lets users through when an answer breaks off after its head
    """

    name: str
    folder: str
    files: Sequence[str]
    command: Callable[[Path], list[str]]
    asked_max: int
    chunked: bool = True
    forgiving: bool = True
    torn: bool = True

    def asks(self, chat: Chat) -> bool:
        """Whether the gateway sees the whole body of this request."""
        return 0 < len(chat.body) <= self.asked_max and (self.chunked or not chat.stream)


def program(name: str, *, venv: Path | None = None, how: str = "") -> str:
    """The path of an installed program. Raises `NotHere`."""
    if venv is not None:
        found = venv / "bin" / name
        if found.exists():
            return str(found)
        raise NotHere(f"there is no {name}: scripts/install.sh integrations")
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        raise NotHere(f"there is no {name}: {how}")
    return path


def _envoy(file: str) -> Callable[[Path], list[str]]:
    return lambda folder: [
        *(program("envoy", venv=CLIENTS), "-c", str(folder / file)),
        *("--disable-hot-restart", "--concurrency", "1", "-l", "warning"),
    ]


def _nginx(folder: Path) -> list[str]:
    how = "apt-get install nginx-light libnginx-mod-http-js libnginx-mod-http-headers-more-filter"
    nginx = program("nginx", how=how)
    for module in ("ngx_http_js_module", "ngx_http_headers_more_filter_module"):
        if not Path(f"/usr/lib/nginx/modules/{module}.so").exists():
            raise NotHere(f"nginx has no {module}: {how}")
    return [nginx, "-p", str(folder), "-c", "nginx.conf", "-g", "daemon off;"]


def _haproxy(folder: Path) -> list[str]:
    return [program("haproxy", how="apt-get install haproxy"), "-C", str(folder), "-f", "haproxy.cfg", "-db"]


def _traefik(folder: Path) -> list[str]:
    return ["env", "-C", str(folder), program("traefik", venv=CLIENTS), "--configfile=traefik.yaml"]


PROXIES = {
    proxy.name: proxy
    for proxy in (
        Proxy(
            "envoy-ext-authz", "envoy", ["ext-authz.yaml"], _envoy("ext-authz.yaml"), 65536, forgiving=False
        ),
        Proxy("envoy-lua", "envoy", ["lua.yaml"], _envoy("lua.yaml"), 65536, chunked=False),
        Proxy("nginx", "nginx", ["nginx.conf", "route.js"], _nginx, 65536),
        Proxy("haproxy", "haproxy", ["haproxy.cfg", "route.lua"], _haproxy, 60000),
        Proxy("traefik", "traefik", ["traefik.yaml", "routes.yaml"], _traefik, 999_999, torn=False),
    )
}


@contextlib.contextmanager
def rendered(folder: str, files: Sequence[str], ports: Ports, key: str) -> Iterator[Path]:
    """A recipe in a folder of its own, with the addresses of this run and a key."""
    with tempfile.TemporaryDirectory(prefix="integration-") as name:
        made = Path(name)
        # Servers that start as root and serve as somebody else must still read their files.
        made.chmod(0o755)
        texts = {file: (RECIPES / folder / file).read_text() for file in files}
        for end, address in (ADDRESSES | INNER).items():
            needed = end in ADDRESSES and end != "chat"
            require(
                not needed or any(address in text for text in texts.values()),
                f"integrations/{folder}: no file names the address {address}",
            )
        for file, text in texts.items():
            for end, address in (ADDRESSES | INNER).items():
                host, port = address.split(":")
                ours = str(getattr(ports, end))
                text = text.replace(address, f"{host}:{ours}")
                text = text.replace(
                    f"address: {host}, port_value: {port}}}", f"address: {host}, port_value: {ours}}}"
                )
            (made / file).write_text(text.replace(KEY_IN_RECIPE, key))
        yield made


@contextlib.contextmanager
def started(proxy: Proxy, ports: Ports, key: str) -> Iterator[Server]:
    """The proxy, running from its recipe. Raises `NotHere` where it is not installed."""
    with rendered(proxy.folder, proxy.files, ports, key) as folder:
        environ = {name: value for name, value in os.environ.items() if name in KEPT}
        with Server(proxy.command(folder), port=ports.chat, environ=environ) as server:
            yield server
