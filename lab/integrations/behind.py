"""A gateway behind a proxy, in every state that it can be in: what do the proxy's users see?

One promise for all of it: no user's request fails, and what is not decided goes to the large model.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import httpx

from lab.drive import Driver, meanwhile, poisson, post
from lab.integrations.checks import Broken, Table, Verdict, require
from lab.integrations.models import Models, Received
from lab.integrations.recipes import PATIENT, PROXIES, Ports, Proxy, rendered, started
from lab.integrations.traffic import FORGED, Came, Chat, broken, chats, send
from lab.launch import CLASSIFY, ROOT, Served, Server, answers, apart, free_port
from lab.measure import closed
from lab.rows import spread
from lab.texts import texts

KEY = "key-of-the-proxy"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
DECIDED = ("x-query-route", "x-query-label", "x-query-task", "x-query-confidence", "x-query-reason")
# A user who waits longer than this for a proxy that asks in vain has been failed too. Recipes give the
# gateway a quarter of a second; the rest is for machines that are busy with other things.
PATIENCE_S = 20.0
# What asking may add to a request through Envoy: alone, and at half of the gateway's capacity.
P50_ADDED_MAX_MS = 3.0
P99_ADDED_MAX_MS = 15.0
P99_ROUNDS = 5  # whose median counts: a P99 of some hundred answers is three of them
ENVOYS_LAST_FILTER = "          - name: envoy.filters.http.router"
TWELVE_WORDS = "Please tell me in one short line what the number {} is for"
# On such a machine even a good gateway answers too late now and then, and the large model is right then.
TRIES = 4
LATE = ("timeout", "overloaded")


@dataclass
class Setting:
    """Everything that a check about a proxy needs."""

    proxy: Proxy
    ports: Ports
    models: Models
    gateway_command: Sequence[str]

    @contextlib.contextmanager
    def gateway(self, *, cpus: Sequence[int] = (), **settings: str) -> Iterator[Served]:
        """A gateway on this run's port, which asks for the proxy's key."""
        environ = {
            "PORT": str(self.ports.gateway),
            "API_KEYS": DIGEST,
            "LOG_LEVEL": "ERROR",
            **PATIENT,
        } | settings
        wait_for = "/health/live" if "MODEL_PATH" in settings else "/health/ready"
        with Served(environ, command=self.gateway_command, wait_for=wait_for, cpus=cpus) as served:
            yield served

    async def users(self, sent: Sequence[Chat], *, small_for: Mapping[bytes, bool] | None, what: str) -> str:
        """Send these requests and hold what came of them against the promise.

        small_for  which bodies the small model shall get; None: either model may have any
        """
        url = f"http://127.0.0.1:{self.ports.chat}"
        self.models.taken()
        came = await send(url, sent)
        received = self.models.taken()
        failed = [c for c in came if c.status != 200 or not c.whole]
        require(not failed, f"{what}: {len(failed)} of {len(came)} failed, e.g. {_said(failed)}")
        slowest = max(c.seconds for c in came)
        require(slowest < PATIENCE_S, f"{what}: a user waited {slowest:.1f} s")
        got = Counter(c.model for c in came)
        for request in received:
            _clean(request)
        if small_for is not None:
            late = await self._wrong(came, received, small_for, what)
            for _ in range(TRIES):
                if not late:
                    break
                again = await send(url, [c.chat for c in late], callers=2)
                late = await self._wrong(again, self.models.taken(), small_for, what)
            require(
                not late, f"{what}: {len(late)} were decided too late {TRIES + 1} times, e.g. {_said(late)}"
            )
        return (
            f"{len(came)} of {len(sent)} answered: {got['small']} small, {got['large']} large; "
            f"slowest {slowest * 1000:.0f} ms"
        )

    async def _wrong(
        self, came: Sequence[Came], received: Sequence[Received], small_for: Mapping[bytes, bool], what: str
    ) -> list[Came]:
        """Those that the large model got because the answer was late. Raises `Broken` if any went astray."""
        told = {request.body: request for request in received}
        wrong = [c for c in came if (c.model == "small") != small_for.get(c.chat.body, False)]
        astray = [c for c in wrong if c.model == "small" or not _late(told[c.chat.body])]
        require(
            not astray, f"{what}: {len(astray)} of {len(came)} went to the other model, e.g. {_said(astray)}"
        )
        return wrong


def _late(request: Received) -> bool:
    """Whether the proxy had no decision in time, and so no header, or one that says so."""
    routes, reasons = request.all("x-query-route"), request.all("x-query-reason")
    return not routes or any(reason in LATE for reason in reasons)


def _said(came: Sequence[Came]) -> str:
    kinds = Counter(c.chat.kind for c in came)
    first = came[0] if came else None
    return f"{dict(kinds)}; first: {first.status if first else ''} {first.problem[:160] if first else ''}"


def _clean(request: Received) -> None:
    """Raise `Broken` where a model was shown what only the proxy and the gateway may know."""
    about = [(name, value) for name, value in request.headers if name.startswith("x-query-")]
    for name, value in about:
        require(name in DECIDED, f"a model received {name}")
        require(FORGED not in value, f"a model received a forged {name}")
    repeated = [name for name, count in Counter(name for name, _ in about).items() if count > 1]
    require(not repeated, f"a model received {repeated} twice")


async def decisions(gateway: Served, sent: Sequence[Chat], proxy: Proxy) -> dict[bytes, bool]:
    """What the gateway itself says of these requests: whether the small model shall answer.

    Only of those that the proxy shows it whole.
    """
    small: dict[bytes, bool] = {}
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30.0, trust_env=False) as client:
        for chat in sent:
            if not proxy.asks(chat) or chat.kind == "not a chat":
                continue
            headers = {"content-type": "application/json", "x-api-key": KEY}
            headers |= {name: value for name, value in chat.headers if name == "content-encoding"}
            answer = await client.post(CLASSIFY, content=chat.body, headers=headers)
            require(
                answer.status_code == 200,
                f"the gateway itself says {answer.status_code} to a {chat.kind} request",
            )
            small[chat.body] = answer.json()["route"] == "fast"
    return small


async def running(setting: Setting, gateway: Served) -> str:
    """Every request goes where the gateway says, and forged headers change nothing."""
    sent = chats()
    small_for = await decisions(gateway, sent, setting.proxy)
    for model, answer in (("small", True), ("large", False)):
        require(
            answer in small_for.values(), f"the gateway sends nothing to the {model} model: nothing is shown"
        )
    return await setting.users(sent, small_for=small_for, what="running")


async def broken_bodies(setting: Setting) -> str:
    """What no router can read goes to the large model, whole."""
    return await setting.users(broken(), small_for={}, what="broken bodies")


async def frozen(setting: Setting, gateway: Served) -> str:
    """The gateway's process is stopped in mid-air (SIGSTOP): every user waits a bounded time, then goes slow."""
    group = gateway.process.pid
    os.killpg(group, signal.SIGSTOP)
    try:
        seen = await setting.users(chats(), small_for={}, what="frozen")
    finally:
        os.killpg(group, signal.SIGCONT)
    sent = [chat for chat in chats() if chat.kind == "plain"][:40]
    for _ in range(20):
        # What was asked while it stood is answered first.
        await asyncio.sleep(0.25)
        with contextlib.suppress(Broken, httpx.HTTPError):
            small_for = await decisions(gateway, sent, setting.proxy)
            await setting.users(sent, small_for=small_for, what="thawed")
            return f"{seen}; right again afterwards"
    raise Broken("thawed: requests still go where they should not")


async def stopped(setting: Setting) -> str:
    """Nobody listens where the gateway was."""
    return await setting.users(chats(), small_for={}, what="stopped")


async def modelless(setting: Setting) -> str:
    """The gateway runs, but has no model."""
    return await setting.users(chats(), small_for={}, what="without a model")


@contextlib.asynccontextmanager
async def crowd(gateway: Served) -> AsyncIterator[Counter[str]]:
    """Callers in a process of their own, who ask more than the gateway can answer while the block lasts.

    Gives the statuses that they were answered with, once the block is over.
    """
    statuses: Counter[str] = Counter()
    command = [sys.executable, "-m", "lab.integrations.crowd", str(gateway.port), KEY]
    crowding = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    try:
        await asyncio.sleep(1.5)
        yield statuses
    finally:
        with contextlib.suppress(ProcessLookupError):
            crowding.terminate()
        told, _ = await crowding.communicate()
        statuses.update(json.loads(told or b"{}"))


async def flooded(setting: Setting) -> str:
    """More is asked of the gateway than it can answer: its refusals are no user's failures."""
    with setting.gateway(QUEUE_MAX="8", QUEUE_MIN="1", LANES="1") as gateway:
        async with crowd(gateway) as statuses:
            seen = await setting.users(chats(), small_for=None, what="flooded")
        require(statuses["429"], f"it was not flooded: {dict(statuses)}")
    return f"{seen}; meanwhile others were told {_counts(statuses)}"


def _counts(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{status} {count} times" for status, count in sorted(statuses.items()))


async def asked(setting: Setting) -> str:
    """What reaches the gateway: the proxy's key alone, none of the user's, and a bounded body."""
    async with Models(setting.ports.gateway, 0) as recorder:
        await send(f"http://127.0.0.1:{setting.ports.chat}", chats())
        questions = recorder.taken()
    require(len(questions) > 200, f"the gateway was asked {len(questions)} times in 300")
    for question in questions:
        require(question.path.startswith("/v1/route"), f"the gateway was asked at {question.path}")
        keys = question.all("x-query-gateway-key")
        require(keys == [KEY], f"the gateway was shown {len(keys)} keys, or the wrong one")
        for name in ("authorization", "cookie"):
            require(not question.all(name), f"the gateway was shown the user's {name}")
        require(
            not any(FORGED in value for _, value in question.headers), "the gateway was shown a forged header"
        )
    longest = max(len(question.body) for question in questions)
    require(longest <= max(setting.proxy.asked_max, 65536), f"the gateway was sent {longest} bytes")
    return f"asked {len(questions)} times; longest {longest} bytes; the user's own key stayed with the user"


# What a port can answer that is not a gateway, as raw bytes; empty: the connection is closed.
BAD_ANSWERS = [
    b"",
    b"\x00\x01\x02garbage\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 503 No\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nx-query-route: unheard-of\r\ncontent-length: 2\r\n\r\n{}",
]
TORN = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{}"
REFUSALS = [
    b"HTTP/1.1 401 Who\r\nwww-authenticate: Bearer\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 404 Where\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 302 There\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 429 Busy\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n",
]


async def misbehaving(setting: Setting) -> str:
    """Something else listens where the gateway should be, and answers all kinds of nonsense."""
    bad = BAD_ANSWERS + (REFUSALS if setting.proxy.forgiving else []) + ([TORN] if setting.proxy.torn else [])
    turn = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal turn
        turn += 1
        with contextlib.suppress(OSError):
            await reader.read(1 << 16)
            writer.write(bad[turn % len(bad)])
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", setting.ports.gateway)
    try:
        seen = await setting.users(chats(), small_for={}, what="misbehaving")
    finally:
        server.close()
        await server.wait_closed()
    return f"{seen}; {len(bad)} kinds of bad answer"


async def added(setting: Setting, pairs: int = 300) -> str:
    """What asking costs a user of Envoy: against the same configuration without the filter.

    Alone, and while others ask the gateway for half of what it can answer. The gateway has a CPU of its own;
    Envoy, the models, the user and the others share the last one. Raises `Broken` over the limits.
    """
    with contextlib.ExitStack() as stack:
        split = stack.enter_context(apart())
        gateway = stack.enter_context(setting.gateway(cpus=split.gateway[:1]))
        urls = []
        for asking in (True, False):
            ports = dataclasses.replace(setting.ports, chat=free_port())
            folder = stack.enter_context(rendered(setting.proxy.folder, setting.proxy.files, ports, KEY))
            if not asking:
                _take_filter_out(folder / setting.proxy.files[0])
            server = stack.enter_context(Server(setting.proxy.command(folder), port=ports.chat, environ={}))
            urls.append(server.url)
        p50, _ = _added(await _took(urls, range(pairs)))
        per_s = await asyncio.to_thread(_half_of_capacity, gateway)
        spawning = multiprocessing.get_context("spawn")
        ours, theirs = spawning.Pipe()
        others = spawning.Process(target=_others, args=(gateway.port, per_s, theirs), daemon=True)
        others.start()
        rounds = [
            _added(await _took(urls, range(number * pairs, (number + 1) * pairs)))[1]
            for number in range(1, P99_ROUNDS + 1)
        ]
        ours.send("over")
        codes, lost = await asyncio.to_thread(ours.recv)
        others.join()
    require(not lost and set(codes) == {200}, f"beside it: {codes} and {lost} lost")
    p99 = statistics.median(rounds)
    told = (
        f"adds {p50:+.1f} ms at p50 (at most {P50_ADDED_MAX_MS:g}), and {spread(rounds, '{:+.1f}')} ms at P99 "
        f"(at most {P99_ADDED_MAX_MS:g}) beside {per_s:.0f} queries a second, half of capacity"
    )
    require(p50 <= P50_ADDED_MAX_MS and p99 <= P99_ADDED_MAX_MS, told)
    return told


def _take_filter_out(file: Path) -> None:
    text = file.read_text()
    start = text.index("          - name: envoy.filters.http.ext_authz")
    file.write_text(text[:start] + text[text.index(ENVOYS_LAST_FILTER) :])


def _others(port: int, per_s: float, told: Connection) -> None:
    """Ask so often until told that it is over, and say what came back.

    In a process of its own: as a thread it would hold the interpreter's lock when the user's answer comes.
    """
    with meanwhile(Driver(port), lambda driver: driver.open(_asked(1), poisson(per_s, 1))) as driver:
        told.recv()
    told.send((dict(driver.seen.codes), driver.seen.lost))


async def _took(urls: Sequence[str], numbers: Iterable[int]) -> list[list[float]]:
    """Milliseconds of one turn of twelve words, to each URL in turns."""
    took: list[list[float]] = [[] for _ in urls]
    async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
        for number in numbers:
            ask = {"messages": [{"role": "user", "content": TWELVE_WORDS.format(number)}]}
            for place, url in enumerate(urls):
                began = time.perf_counter()
                answer = await client.post(f"{url}/v1/chat/completions", json=ask)
                took[place].append((time.perf_counter() - began) * 1000)
                require(answer.status_code == 200, f"{answer.status_code} while measuring")
    return took


def _added(took: Sequence[Sequence[float]]) -> tuple[float, float]:
    """p50 and P99 of the first, less those of the second."""
    asking, bare = (sorted(milliseconds) for milliseconds in took)
    return at(asking, 0.5) - at(bare, 0.5), at(asking, 0.99) - at(bare, 0.99)


def _asked(seed: int) -> Iterator[bytes]:
    """Endless questions of a proxy, each a query of its own."""
    key = f"x-query-gateway-key: {KEY}\r\n"
    return (
        post("/v1/route", {"messages": [{"role": "user", "content": text}]}, extra=key)
        for text in texts(seed)
    )


def _half_of_capacity(gateway: Served) -> float:
    """Half of the questions a second that a closed loop gets answered."""
    return statistics.median(closed(gateway, _asked(seed), seconds=1.0).per_s for seed in (2, 3, 4)) / 2


def at(ordered: Sequence[float], share: float) -> float:
    """A quantile of ordered numbers."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def check(name: str, table: Table, gateway_command: Sequence[str], *, measure: bool = False) -> None:
    """All states of one proxy, as rows of the table."""
    proxy = PROXIES[name]
    ports = Ports()

    with contextlib.ExitStack() as stack:

        async def start() -> str:
            proxy_server = stack.enter_context(started(proxy, ports, KEY))
            # Some listen before they have read their routes.
            for _ in range(200):
                if await asyncio.to_thread(answers, proxy_server.url):
                    return "started from its recipe"
                await asyncio.sleep(0.1)
            raise Broken(f"nothing comes through it:\n{proxy_server.text()[-1500:]}")

        async with Models(ports.small, ports.large) as models:
            setting = Setting(proxy, ports, models, gateway_command)
            if not await table.run(f"{name}/start", start) or table.results[-1].verdict is Verdict.SKIPPED:
                return
            await table.run(f"{name}/stopped", lambda: stopped(setting))
            await table.run(f"{name}/misbehaving", lambda: misbehaving(setting))
            await table.run(f"{name}/asked", lambda: asked(setting))
            with setting.gateway() as gateway:
                await table.run(f"{name}/running", lambda: running(setting, gateway))
                await table.run(f"{name}/broken-bodies", lambda: broken_bodies(setting))
                await table.run(f"{name}/frozen", lambda: frozen(setting, gateway))
            await table.run(f"{name}/flooded", lambda: flooded(setting))
            if measure and name == "envoy-ext-authz":
                await table.run(f"{name}/added", lambda: added(setting))
            with setting.gateway(MODEL_PATH="/nowhere"):
                await table.run(f"{name}/without-a-model", lambda: modelless(setting))
