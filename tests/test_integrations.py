"""The recipes' own pages and the runner's own parts; the programs themselves: `just integrations`."""

import asyncio
import hashlib
import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from handler.offline import LocalRouter
from handler.settings import WIRES
from handler.wires import endpoints
from lab.integrations import __main__ as runner
from lab.integrations import behind, clients, litellm
from lab.integrations.__main__ import names
from lab.integrations.checks import Broken, NotHere, Table, Verdict, chosen
from lab.integrations.models import Received
from lab.integrations.recipes import ADDRESSES, KEY_IN_RECIPE, PROXIES, RECIPES, Ports, rendered
from lab.integrations.traffic import CLAIMS, FORGED, REQUESTS, broken, chats
from lab.launch import MODEL

README = (RECIPES / "README.md").read_text()


def test_every_check_is_named_in_the_table_of_recipes() -> None:
    proven = re.findall(r"\| `([a-z0-9-]+)/[a-z…-]+` \|", README)

    assert sorted(proven) == sorted(names())


def test_every_file_of_a_recipe_is_linked_from_the_table() -> None:
    linked = set(re.findall(r"\]\(([a-z0-9][a-z0-9./-]+)\)", README))

    files = {str(path.relative_to(RECIPES)) for path in RECIPES.glob("*/*") if path.suffix != ".pyc"}

    assert {file for file in files if "__pycache__" not in file} == linked


@pytest.fixture
def ray_recipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ray's recipe, with something in the place of Ray, which is not installed here."""
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    spec = importlib.util.spec_from_file_location("ray_recipe", RECIPES / "ray/classify.py")
    assert spec is not None
    assert spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    monkeypatch.setattr("sys.argv", ["classify.py", "prompts", "routes", "--actors", "1"])
    monkeypatch.setattr(recipe, "write", MagicMock())
    return recipe


def read_as(recipe: Any, *columns: str) -> None:
    """Let the recipe's data set have these columns."""
    recipe.read = lambda path, kind: SimpleNamespace(
        schema=lambda: SimpleNamespace(names=list(columns)), map_batches=MagicMock()
    )


@pytest.mark.parametrize(
    "taken", [["label"], ["route"], ["task"], ["confidence"], ["need"], ["label", "reason"]]
)
def test_rays_recipe_refuses_a_data_set_whose_columns_it_would_write_over(
    taken: list[str], ray_recipe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    read_as(ray_recipe, "text", *taken)

    with pytest.raises(SystemExit) as ended:
        ray_recipe.main()

    assert ended.value.code == 2
    assert (
        f"prompts has columns that would be lost: {', '.join(taken)}; rename them" in capsys.readouterr().err
    )
    ray_recipe.write.assert_not_called()


def test_rays_recipe_writes_a_data_set_of_other_columns(ray_recipe: Any) -> None:
    read_as(ray_recipe, "text", "labels", "id")

    ray_recipe.main()

    ray_recipe.write.assert_called_once()


def test_rays_recipe_knows_every_column_that_a_router_adds(ray_recipe: Any) -> None:
    assert LocalRouter.open(MODEL).classify_many(["a"]).keys() == ray_recipe.ADDED


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_recipe_takes_its_addresses_and_its_key_from_the_runner(name: str) -> None:
    proxy = PROXIES[name]
    ports = Ports(gateway=1, small=2, large=3, chat=4, ask=5, decided=6)

    with rendered(proxy.folder, proxy.files, ports, "a-key") as folder:
        made = "\n".join((folder / file).read_text() for file in proxy.files)

    settings = re.sub(r"^\s*(#|--|//).*$", "", made, flags=re.M)
    assert KEY_IN_RECIPE not in settings
    assert "a-key" in settings
    for address in ADDRESSES.values():
        assert address not in settings


def test_the_same_requests_are_sent_every_time() -> None:
    chats.cache_clear()

    first = [chat.body for chat in chats()]
    chats.cache_clear()

    assert [chat.body for chat in chats()] == first
    assert len(first) == len(broken()) == REQUESTS


def test_a_forged_request_claims_each_header_that_means_something() -> None:
    claimed = {name.lower() for name, _ in CLAIMS}

    assert claimed == {*behind.DECIDED, "x-query-gateway-key"}


@pytest.mark.parametrize(
    "header",
    [("x-query-gateway-key", "any"), ("x-query-task", FORGED), ("x-query-anything", "else")],
)
def test_a_model_that_is_shown_what_it_may_not_see_is_a_failure(header: tuple[str, str]) -> None:
    received = Received("small", "POST", "/", [header], b"")

    with pytest.raises(Broken):
        behind._clean(received)


def test_a_decision_that_reaches_the_model_twice_is_a_failure() -> None:
    received = Received("small", "POST", "/", [("x-query-route", "fast")] * 2, b"")

    with pytest.raises(Broken, match="twice"):
        behind._clean(received)


async def _raise(problem: Exception) -> str:
    raise problem


@pytest.mark.parametrize(
    ("problem", "verdict"),
    [
        (NotHere("apt-get install it"), Verdict.SKIPPED),
        (Broken("no"), Verdict.FAILED),
        (OSError("no"), Verdict.FAILED),
    ],
)
def test_a_row_says_how_its_check_ended(problem: Exception, verdict: Verdict) -> None:
    table = Table()

    asyncio.run(table.run("a/b", lambda: _raise(problem)))

    assert [(row.name, row.verdict) for row in table.results] == [("a/b", verdict)]
    assert table.counts()[verdict] == 1


def test_names_are_chosen_by_how_they_begin() -> None:
    assert chosen(["envoy-lua", "nginx", "envoy-ext-authz"], ["envoy"]) == ["envoy-lua", "envoy-ext-authz"]


def test_a_name_that_nothing_begins_with_is_told() -> None:
    with pytest.raises(ValueError, match="apache"):
        chosen(names(), ["apache"])


def test_the_runners_keys_are_those_that_the_gateway_is_told_of() -> None:
    for key, digest in ((behind.KEY, behind.DIGEST), (clients.KEY, clients.DIGEST)):
        assert hashlib.sha256(key.encode()).hexdigest() == digest


def test_litellm_is_pinned_by_hash_to_a_release_that_is_not_the_reported_one() -> None:
    lock = (Path(__file__).parent.parent / "requirements" / "litellm.txt").read_text()

    pinned = re.search(r"^litellm==(\S+) \\\n    --hash=sha256:", lock, flags=re.M)

    assert pinned
    assert pinned[1] != "1.107.0"
    assert litellm.NAME in names()


@pytest.mark.parametrize("name", WIRES)
def test_the_page_tells_every_path_of_a_wire(name: str) -> None:
    row = re.search(rf"^\| `{name}` \|.*$", README, re.MULTILINE)

    assert row
    assert [e.path for e in endpoints((name,)) if e.path.removesuffix("/*") not in row[0]] == []


def test_a_large_check_is_run_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    async def run(wanted: list[str], *_: object, **__: object) -> Table:
        ran.append(list(wanted))
        return Table()

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the test runner keeps its own
    for arguments in ([], ["ray"]):
        monkeypatch.setattr("sys.argv", ["just integrations", *arguments])
        runner.main()

    assert ran == [[name for name in names() if name != "ray"], ["ray"]]


def test_ray_is_locked_beside_the_libraries_that_are_served() -> None:
    locks = Path(__file__).parent.parent / "requirements"
    entry = re.compile(r"^([a-z0-9-]+==\S+)", re.M)

    served = set(entry.findall((locks / "serve.txt").read_text()))

    assert served <= set(entry.findall((locks / "ray.txt").read_text()))
