"""LiteLLM's proxy with the gateway as its classifier, in front of two stub models."""

import asyncio
import contextlib
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from lab.integrations.behind import DIGEST, KEY, TRIES, crowd
from lab.integrations.checks import Broken, Table, require
from lab.integrations.models import Models
from lab.integrations.recipes import KEPT, LITELLM, PATIENT, Ports, program, rendered
from lab.integrations.traffic import EASY, HARD
from lab.launch import CLASSIFY, Served, Server, answers

NAME = "litellm"
MASTER_KEY = "sk-0f7c1d5ab2e94c3890d17e6a5b4c3d2e1f00112233445566"
SHORT = "Translate to French: good morning, my friends."
# What asking us may add to a request, in the middle.
P50_ADDED_MAX_MS = 5.0
PROMPTS = [text.format(n=n) for n in range(20) for text in (EASY + HARD)][:200]
STARTED_WITHIN_S = 150.0
CALLERS = 8
CAUSE = "x-litellm-complexity-router-cause"
OURS = "jev_classifier"
# What else is configured beside the recipe: LiteLLM's own labels, and its own list of keywords to measure against.
BESIDE = """\
  - model_name: labels
    litellm_params:
      model: auto_router/complexity_router
      complexity_router_default_model: large
      complexity_router_config:
        classifier_type: oss_classifier
        opensource_classifier_config: {{provider: jev, api_base: "http://127.0.0.1:{port}", api_key: {key}}}
        classifier_fallback: default_model
        tiers: {{SIMPLE: small, MEDIUM: small, COMPLEX: large, REASONING: large}}
  - model_name: keywords
    litellm_params:
      model: auto_router/complexity_router
      complexity_router_default_model: large
      complexity_router_config:
        tiers: {{SIMPLE: small, MEDIUM: small, COMPLEX: large, REASONING: large}}
"""
# What its log says when it did not take our word.
SORRY = ("classifier failed", "falling back", "circuit is open", "fallback_tier", "routing to default")


Talk = list[dict[str, str]]


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


# LiteLLM writes a conversation down under headings of its own; here callers write such headings, too.
HEADING = "\n\nClassify this message:\n"
TALKS: list[Talk] = [
    [_said("user", HARD[0].format(n=9)), _said("assistant", "Once upon a time."), _said("user", SHORT)],
    [_said("user", SHORT), _said("assistant", "Bonjour."), _said("user", HARD[0].format(n=9))],
    [_said("system", "Be brief." + HEADING + "Hello"), _said("user", HARD[0].format(n=8))],
    [_said("system", "Write novels."), _said("user", SHORT)],
    [_said("user", HARD[0].format(n=7) + HEADING + SHORT)],
]


@dataclass
class Setting:
    ports: Ports
    models: Models
    proxy: Server
    gateway_command: Sequence[str]
    read: int = 0

    @contextlib.contextmanager
    def gateway(self, **settings: str) -> Iterator[Served]:
        environ = {
            "PORT": str(self.ports.gateway),
            "API_KEYS": DIGEST,
            "LOG_LEVEL": "ERROR",
            **PATIENT,
        } | settings
        with Served(environ, command=self.gateway_command) as served:
            yield served

    def log(self) -> str:
        """What the proxy has written since this was last asked."""
        whole = self.proxy.text()
        new, self.read = whole[self.read :], len(whole)
        return new

    async def ask(
        self, prompts: "Sequence[str | Talk]", model: str = "auto", callers: int = CALLERS
    ) -> list[httpx.Response]:
        """Send chats through the proxy; an answer for each prompt, in order."""
        told: dict[int, httpx.Response] = {}
        waiting = iter(enumerate(prompts))
        async with httpx.AsyncClient(base_url=self.proxy.url, timeout=60.0, trust_env=False) as client:

            async def caller() -> None:
                for number, prompt in waiting:
                    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
                    body = {"model": model, "messages": messages}
                    headers = {"authorization": f"Bearer {MASTER_KEY}", "x-query-route": "fast"}
                    told[number] = await client.post("/v1/chat/completions", json=body, headers=headers)

            async with asyncio.TaskGroup() as group:
                for _ in range(callers):
                    group.create_task(caller())
        answers = [told[number] for number in range(len(prompts))]
        failed = [answer for answer in answers if answer.status_code != 200]
        require(
            not failed,
            f"{len(failed)} of {len(answers)} users failed, e.g. {failed and failed[0].text[:300]}",
        )
        return answers


def _models(told: Sequence[httpx.Response]) -> list[str]:
    return [str(answer.json()["choices"][0]["message"]["content"]) for answer in told]


def _taken(told: Sequence[httpx.Response], log: str) -> None:
    """Raise unless LiteLLM took our word every time."""
    causes = Counter(answer.headers.get(CAUSE, "none") for answer in told)
    require(set(causes) == {OURS}, f"routed by {dict(causes)}")
    sorry = [line for line in log.splitlines() if any(word in line for word in SORRY)]
    require(not sorry, f"its log says: {sorry[:2]}")


async def _native(gateway: Served, asked: Sequence["str | Talk"]) -> list[dict[str, Any]]:
    """The gateway's own answers to the same questions."""
    found = []
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30.0, trust_env=False) as client:
        for one in asked:
            body = {"text": one} if isinstance(one, str) else {"messages": one}
            answer = await client.post(CLASSIFY, json=body, headers={"x-api-key": KEY})
            found.append(answer.raise_for_status().json())
    return found


async def _as_ours(setting: Setting, model: str, wanted: Mapping[str, str]) -> str:
    """Every prompt goes where it is wanted, none by LiteLLM's own fallback."""
    setting.log()
    told = await setting.ask(list(wanted), model)
    _taken(told, setting.log())
    got = _models(told)
    astray = [prompt for prompt, model in zip(wanted, got, strict=True) if model != wanted[prompt]]
    for _ in range(TRIES):
        # On a busy machine the gateway may have had no time for one, and said so where LiteLLM looks not.
        again = _models(await setting.ask(astray, model, callers=1))
        astray = [prompt for prompt, model in zip(astray, again, strict=True) if model != wanted[prompt]]
    require(not astray, f"{len(astray)} of {len(wanted)} went to the other model, e.g. {astray[:2]}")
    require({"small", "large"} == set(got), f"nothing is shown where all goes one way: {Counter(got)}")
    return (
        f"{len(told)} of {len(wanted)} routed by us: {got.count('small')} small, {got.count('large')} large"
    )


async def routes(setting: Setting) -> str:
    """200 prompts: each goes where the gateway says."""
    with setting.gateway() as gateway:
        native = await _native(gateway, PROMPTS)
        wanted = {
            prompt: "small" if answer["route"] == "fast" else "large"
            for prompt, answer in zip(PROMPTS, native, strict=True)
        }
        return await _as_ours(setting, "auto", wanted)


async def labels(setting: Setting) -> str:
    """The same by LiteLLM's own four labels, which know no threshold: what it alone sends slow is left out."""
    with setting.gateway() as gateway:
        native = await _native(gateway, PROMPTS)
        wanted = {
            prompt: "small" if answer["route"] == "fast" else "large"
            for prompt, answer in zip(PROMPTS, native, strict=True)
            if answer.get("reason") is None
        }
        return await _as_ours(setting, "labels", wanted)


async def talks(setting: Setting) -> str:
    """Conversations: the last user turn decides as on our own wire, whatever headings stand in the turns."""
    with setting.gateway() as gateway:
        wanted = ["small" if one["route"] == "fast" else "large" for one in await _native(gateway, TALKS)]
        require({"small", "large"} == set(wanted), f"nothing is shown where all goes one way: {wanted}")
        got = _models(await setting.ask(TALKS, callers=1))
    require(got == wanted, f"went to {got}, where our own wire says {wanted}")
    return f"{len(TALKS)} conversations: {got.count('small')} small, {got.count('large')} large"


async def flooded(setting: Setting) -> str:
    """More is asked of the gateway than it can answer: still our word, and the breaker stays shut."""
    few = {"QUEUE_MAX": "8", "QUEUE_MIN": "1", "LANES": "1"}
    with setting.gateway(**few, REQUEST_TIMEOUT_MS="1000") as gateway:
        async with crowd(gateway) as statuses:
            setting.log()
            told = await setting.ask(PROMPTS)
            _taken(told, setting.log())
        require(statuses["429"], f"it was not flooded: {dict(statuses)}")
    got = Counter(_models(told))
    return f"{len(told)} of {len(PROMPTS)} routed by us: {got['small']} small, {got['large']} large; others were told 429 {statuses['429']} times"


async def stopped(setting: Setting) -> str:
    """Nobody listens where the gateway was: the large model answers everybody."""
    told = await setting.ask(PROMPTS[:40])
    require(set(_models(told)) == {"large"}, f"answered by {Counter(_models(told))}")
    return f"{len(told)} of 40 answered, all by the large model"


async def frozen(setting: Setting) -> str:
    """The gateway's process stands still: its first asker waits, its breaker spares the others, all go large."""
    with setting.gateway() as gateway:
        os.killpg(gateway.process.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            told = await setting.ask(PROMPTS[:40])
            took = time.monotonic() - began
        finally:
            os.killpg(gateway.process.pid, signal.SIGCONT)
    require(set(_models(told)) == {"large"}, f"answered by {Counter(_models(told))}")
    return f"{len(told)} of 40 answered in {took:.1f} s, all by the large model; LiteLLM's breaker is open for 30 s after it"


async def added(setting: Setting, pairs: int = 150) -> str:
    """What asking us costs a user: against LiteLLM's own keywords, which ask nobody. For people who measure."""
    asked: dict[str, list[float]] = {"auto": [], "keywords": []}
    with setting.gateway():
        for number in range(pairs):
            for model, took in asked.items():
                prompt = f"Please write a short story about the number {number} and its friends."
                began = time.perf_counter()
                await setting.ask([prompt], model, callers=1)
                took.append((time.perf_counter() - began) * 1000)
    ours, own = (statistics.median(took) for took in asked.values())
    told = (
        f"p50 {ours:.1f} ms when asking us, {own:.1f} ms by its keywords: "
        f"{ours - own:+.1f} ms (at most {P50_ADDED_MAX_MS:g})"
    )
    require(ours - own <= P50_ADDED_MAX_MS, told)
    return told


async def check(table: Table, gateway_command: Sequence[str], *, measure: bool = False) -> None:
    """All about LiteLLM, as rows of the table."""
    ports = Ports()
    with contextlib.ExitStack() as stack:
        proxies: list[Server] = []

        async def start() -> str:
            litellm = program("litellm", venv=LITELLM)
            folder = stack.enter_context(rendered(NAME, ["config.yaml"], ports, KEY))
            with (folder / "config.yaml").open("a") as config:
                config.write(BESIDE.format(port=ports.gateway, key=KEY))
            environ = {name: value for name, value in os.environ.items() if name in KEPT}
            # Its price list would be fetched from the network at every start.
            environ |= {
                "LITELLM_MASTER_KEY": MASTER_KEY,
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "NO_PROXY": "*",
            }
            command = [
                litellm,
                "--config",
                str(folder / "config.yaml"),
                "--host",
                "127.0.0.1",
                "--port",
                str(ports.chat),
            ]
            proxy = stack.enter_context(Server(command, port=ports.chat, environ=environ, wait_for=None))
            began = time.monotonic()
            while not answers(f"{proxy.url}/health/liveliness"):
                require(proxy.process.poll() is None, f"it ended:\n{proxy.text()[-1500:]}")
                if time.monotonic() - began > STARTED_WITHIN_S:
                    raise Broken(f"it did not start within {STARTED_WITHIN_S:g} s")
                await asyncio.sleep(0.25)
            proxies.append(proxy)
            return "started from its recipe"

        async with Models(ports.small, ports.large) as models:
            await table.run(f"{NAME}/start", start)
            if not proxies:
                return
            setting = Setting(ports, models, proxies[0], gateway_command)
            await table.run(f"{NAME}/routes", lambda: routes(setting))
            await table.run(f"{NAME}/labels", lambda: labels(setting))
            await table.run(f"{NAME}/talks", lambda: talks(setting))
            await table.run(f"{NAME}/flooded", lambda: flooded(setting))
            if measure:
                await table.run(f"{NAME}/added", lambda: added(setting))
            await table.run(f"{NAME}/stopped", lambda: stopped(setting))
            await table.run(f"{NAME}/frozen", lambda: frozen(setting))
