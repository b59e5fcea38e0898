"""Public clients that ask a gateway: the scripts of `integrations/` as they stand there, and their promises.

A script takes prompts and prints a route for each. It is run in the environment that its client is
installed in, with the gateway's address and key in QUERY_GATEWAY_URL and QUERY_GATEWAY_KEY.
"""

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import httpx

from lab.integrations.checks import NotHere, Table, require
from lab.integrations.recipes import CLIENTS, PATIENT, RECIPES
from lab.integrations.traffic import EASY, HARD
from lab.launch import CLASSIFY, ROOT, Served, free_port

KEY = "key-of-the-client"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
PROMPTS = [text.format(n=n) for n, text in enumerate(EASY + HARD, 20)]
SCRIPT_WITHIN_S = 120.0
# Where nobody listens, and nobody will: a port that the kernel gives to no one.
NOBODY = "http://127.0.0.1:1"


@dataclass(frozen=True)
class Client:
    """A public client and its recipe.

    probe     the module of `lab.integrations.probes` with what it promises; empty: none
    script    its file in its folder; empty: the recipe is no script
    settings  what the gateway is started with for it
    """

    name: str
    probe: str = ""
    script: str = "route.py"
    settings: Mapping[str, str] = field(default_factory=dict)
    tiers: str = "fast,slow"


KNOWN = {
    client.name: client
    for client in (
        Client("httpx"),
        Client("openai", probe="openai"),
        Client("langchain", probe="langchain"),
        Client("typesafe", probe="typesafe"),
        Client("huggingface", probe="huggingface"),
        Client("infinity", probe="infinity"),
        Client("triton", probe="triton"),
        Client("kserve", probe="kserve"),
        Client("text-embeddings-inference", probe="shapes"),
        Client(
            "semantic-router",
            probe="shapes",
            script="",
            settings={"POLICY_FILE": str(RECIPES / "semantic-router" / "policy.toml")},
            tiers="easy,medium,hard",
        ),
    )
}


async def _run(arguments: Sequence[str], url: str, key: str, **more: str) -> tuple[int, str, str]:
    """Run Python in the clients' environment; exit code, output, and what it complained of."""
    python = CLIENTS / "bin" / "python"
    if not python.exists():
        raise NotHere("the clients are not installed: scripts/install.sh integrations")
    environ = {
        name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")
    }
    environ |= {"QUERY_GATEWAY_URL": url, "QUERY_GATEWAY_KEY": key, "NO_PROXY": "*"} | more
    process = await asyncio.create_subprocess_exec(
        str(python),
        *arguments,
        cwd=ROOT,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SCRIPT_WITHIN_S):
            out, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, out.decode(), complained.decode()


async def _routes(client: Client, url: str, key: str) -> list[str]:
    """What a script prints for `PROMPTS`."""
    script = str(RECIPES / client.name / client.script)
    code, printed, complained = await _run([script, *PROMPTS], url, key)
    require(code == 0, f"{script} ended with {code}: {complained.strip()[-400:]}")
    return printed.split()


async def native(gateway: Served) -> list[str]:
    """What the gateway says of `PROMPTS` on its own wire."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20.0, trust_env=False) as asking:
        answers = [
            await asking.post(CLASSIFY, json={"text": prompt}, headers={"x-api-key": KEY})
            for prompt in PROMPTS
        ]
    return [str(answer.raise_for_status().json()["route"]) for answer in answers]


async def answers(client: Client, gateway: Served) -> str:
    """The script prints what the gateway decided, for every prompt."""
    wanted = await native(gateway)
    require({"fast", "slow"} <= set(wanted), f"nothing is shown where all goes one way: {wanted}")
    told = await _routes(client, gateway.url, KEY)
    require(told == wanted, f"printed {told}, where the gateway says {wanted}")
    return f"{len(told)} prompts: {told.count('fast')} fast, {told.count('slow')} slow, as on the gateway's own wire"


async def fails_safe(client: Client, gateway: Served) -> str:
    """Without a gateway, or with the wrong key, every prompt is slow, and nothing is raised."""
    cases = {"without a gateway": (NOBODY, KEY), "with a wrong key": (gateway.url, "wrong")}
    printed = await asyncio.gather(*(_routes(client, url, key) for url, key in cases.values()))
    for what, told in zip(cases, printed, strict=True):
        require(told == ["slow"] * len(PROMPTS), f"{what} it printed {told}")
    return "no gateway, a wrong key: slow, and nothing raised"


async def promises(client: Client, gateway: Served) -> str:
    """All that the client's own users rely on."""
    module = f"lab.integrations.probes.{client.probe}"
    _, printed, complained = await _run(
        ["-W", "ignore", "-m", module],
        gateway.url,
        KEY,
        QUERY_GATEWAY_TIERS=client.tiers,
        PYTHONPATH=str(ROOT),
    )
    told = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    require(told, f"{module} said nothing: {complained.strip()[-400:]}")
    broken = [f"{one['promise']} {one['problem']}" for one in told if one["problem"]]
    require(not broken, f"{len(broken)} of {len(told)} promises broken:\n" + "\n".join(broken))
    return f"{len(told)} promises kept"


@contextlib.asynccontextmanager
async def _gateway(client: Client, command: Sequence[str]) -> AsyncIterator[Served]:
    settings = {"PORT": str(free_port()), "API_KEYS": DIGEST, "LOG_LEVEL": "ERROR", **PATIENT} | dict(
        client.settings
    )
    with Served(settings, command=command) as gateway:
        yield gateway


async def check(name: str, table: Table, gateway_command: Sequence[str]) -> None:
    """All about one client, as rows of the table."""
    client = KNOWN[name]
    async with _gateway(client, gateway_command) as gateway:
        rows = {"answers": answers, "fails-safe": fails_safe} if client.script else {}
        rows |= {"promises": promises} if client.probe else {}
        # Importing such a client takes seconds of one core: they need not wait for each other.
        await asyncio.gather(
            *(table.run(f"{name}/{row}", partial(kept, client, gateway)) for row, kept in rows.items())
        )
