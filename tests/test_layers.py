"""Who may import whom, what is locked, and what is never committed, as docs/architecture.md has it."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
HANDLER = ROOT / "handler"
REQUIREMENTS = ROOT / "requirements"


class Layer(NamedTuple):
    """A row of the table of layers. Modules that are apart do not import one another."""

    name: str
    modules: tuple[str, ...]
    apart: bool


def read_layers(page: str) -> list[Layer]:
    """The table of docs/architecture.md, lowest layer first."""
    table = page.partition("## Layers")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z]+)( \(apart\))? \| (`.*?`) \|", table, re.MULTILINE)
    return [
        Layer(name, tuple(re.findall(r"`(\w+)`", modules)), bool(apart)) for name, apart, modules in rows
    ][::-1]


LAYERS = read_layers((ROOT / "docs/architecture.md").read_text(encoding="utf-8"))
# Stages and facts know nothing of HTTP; `wire` is read by whoever writes to the outside.
ONLY_IN: dict[str, set[str]] = {
    "litestar": {"app"},
    "granian": {"server"},
    "uvloop": {"server"},
    "prometheus_client": {"telemetry"},
    "onnxruntime": {"model"},
    "tokenizers": {"model"},
    "redis": {"redis_link", "redis_cluster"},
    "opentelemetry": {"otlp"},
    "requests": {"otlp"},
}
NEVER = {
    "torch",
    "transformers",
    "optimum",
    "onnx",
    "pickle",
    "cloudpickle",
    "joblib",
    "dill",
    "shelve",
    "marshal",
}

LOCKS = sorted(REQUIREMENTS.glob("*.txt"))
LOCKS.remove(REQUIREMENTS / "not-served.txt")
ENTRY = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^\s;]+)(?: ; (?P<marker>[^\\]+?))?"
    r"(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})+)"
)

# A folder of modules counts as one: what is in it stands on one layer.
MODULES = sorted(
    {path.relative_to(HANDLER).parts[0].removesuffix(".py") for path in HANDLER.rglob("*.py")} - {"__init__"}
)


def sources(module: str) -> list[Path]:
    file = HANDLER / f"{module}.py"
    return [file] if file.is_file() else sorted((HANDLER / module).rglob("*.py"))


@cache
def imported(module: str) -> frozenset[str]:
    """Every module that a module of ours names in an import, wherever in its text."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sources(module)]
    return frozenset(name for tree in trees for name in _names(tree))


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "our own imports are written in full"
            name = node.module or ""
            # `from handler import wire` names a module, `from handler import __version__` does not.
            yield from ((f"handler.{alias.name}" if name == "handler" else name) for alias in node.names)


def imported_by(module: str) -> set[str]:
    return {name.split(".")[1] for name in imported(module) if name.startswith("handler.")} & set(MODULES) - {
        module
    }


def libraries(module: str) -> set[str]:
    return {name.split(".")[0] for name in imported(module)} - {"handler"}


def layer(module: str) -> int:
    return next(i for i, row in enumerate(LAYERS) if module in row.modules)


# Imports


def test_every_module_has_its_place_in_the_table_of_layers() -> None:
    placed = [module for row in LAYERS for module in row.modules]

    assert sorted(placed) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_no_import_points_to_a_layer_above(module: str) -> None:
    above = {other for other in imported_by(module) if layer(other) > layer(module)}

    assert not above


@pytest.mark.parametrize("row", [row for row in LAYERS if row.apart], ids=lambda row: row.name)
def test_modules_that_are_apart_do_not_import_one_another(row: Layer) -> None:
    known = {module: imported_by(module) & set(row.modules) for module in row.modules}

    assert not {module: others for module, others in known.items() if others}


def test_the_story_knows_neither_http_nor_the_process() -> None:
    assert {LAYERS[layer(other)].name for other in imported_by("gateway")} <= {"facts", "tools", "stages"}


def test_no_import_goes_round_in_a_circle() -> None:
    seen: list[str] = []
    waiting = set(MODULES)

    while ready := {module for module in waiting if imported_by(module) <= set(seen)}:
        seen += sorted(ready)
        waiting -= ready

    assert not waiting


@pytest.mark.parametrize(("library", "home"), ONLY_IN.items())
def test_a_library_has_one_home(library: str, home: set[str]) -> None:
    users = {module for module in MODULES if library in libraries(module)}

    assert users == home


@pytest.mark.parametrize("module", MODULES)
def test_what_builds_a_model_is_never_imported_to_serve_one(module: str) -> None:
    assert not libraries(module) & NEVER


@pytest.mark.parametrize(
    "library", ["litestar", "granian", "onnxruntime", "tokenizers", "redis", "numpy", "opentelemetry"]
)
def test_the_command_line_does_not_import_what_only_some_commands_need(library: str) -> None:
    code = f"import sys, handler.cli; print({library!r} in sys.modules)"

    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "False"


@pytest.mark.parametrize(
    "library", ["litestar", "granian", "onnxruntime", "tokenizers", "redis", "numpy", "opentelemetry"]
)
def test_a_process_imports_its_runtime_and_its_framework_side_by_side(library: str) -> None:
    """Neither comes with the server's own module: one is imported on the loader's thread meanwhile."""
    code = f"import sys, handler.server; print({library!r} in sys.modules)"

    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "False"


def test_the_story_does_not_know_the_web_framework_even_through_others() -> None:
    code = "import sys, handler.gateway; print({'litestar', 'granian'} & set(sys.modules))"

    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "set()"


def test_the_builds_folder_is_no_package() -> None:
    assert not (ROOT / "build/__init__.py").exists()


# Locks


def entries(lock: Path) -> list[str]:
    """A lock's requirements, each on a line of its own, without comments."""
    joined = lock.read_text(encoding="utf-8").replace("\\\n", "")
    lines = [re.sub(r"\s+", " ", line).strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def locked(lock: Path) -> dict[str, set[str]]:
    """Names and the versions that a lock gives them, one for each marker."""
    found: dict[str, set[str]] = {}
    for entry in entries(lock):
        match = ENTRY.fullmatch(entry)
        assert match, entry
        found.setdefault(match["name"], set()).add(match["version"])
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_pins_and_hashes_every_entry(lock: Path) -> None:
    unlocked = [entry for entry in entries(lock) if not ENTRY.fullmatch(entry)]

    assert entries(lock)
    assert not unlocked


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_names_no_index_or_host(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")

    assert not re.search(r"://|--(?:extra-)?index|--find-links|--trusted-host|(?m:^-)| @ ", text)


@pytest.mark.parametrize("name", sorted(NEVER - {"pickle", "shelve", "marshal"}))
def test_the_serving_lock_does_not_hold_what_builds_a_model(name: str) -> None:
    served = locked(REQUIREMENTS / "serve.txt")

    assert not [package for package in served if package == name or package.startswith(f"{name}-")]


def test_what_is_tested_is_what_is_served() -> None:
    served, tested = locked(REQUIREMENTS / "serve.txt"), locked(REQUIREMENTS / "dev.txt")

    assert served.items() <= tested.items()


def test_every_library_that_the_gateway_imports_is_in_the_serving_lock() -> None:
    # Python's own zstd from 3.14 on, and the same as a package before.
    ours = {"handler", "compression", *sys.stdlib_module_names}
    names = {
        {"backports": "backports-zstd", "opentelemetry": "opentelemetry-sdk"}.get(
            library, library.replace("_", "-").lower()
        )
        for module in MODULES
        for library in libraries(module)
        if library not in ours
    }

    assert names <= set(locked(REQUIREMENTS / "serve.txt"))


def test_what_the_serving_lock_lacks_of_what_its_members_declare_is_named() -> None:
    served = set(locked(REQUIREMENTS / "serve.txt"))
    left_out = set((REQUIREMENTS / "not-served.txt").read_text(encoding="utf-8").split())

    declared = {
        requirement.name.lower().replace("_", "-")
        for name in served & {found.name.lower().replace("_", "-") for found in metadata.distributions()}
        for requirement in map(Requirement, metadata.requires(name) or ())
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }

    assert not left_out & served
    assert declared - served <= left_out


# Tests

# What is no test of a module: whole gateways, whole commands, and the repository itself.
OF_THE_WHOLE = {
    "tests/test_layers.py",
    "tests/test_install.py",
    "tests/test_wheel.py",
    "tests/build/test_pipeline.py",
    "tests/l2/test_redis_failures.py",
    "tests/l2/test_shared_cache.py",
}
WHOLE_GATEWAYS = {"http", "threats"}
FOLDERS_OF_MODULES = ("handler", "handler/wires", "build/router_training", "build", "lab")


def test_a_file_of_tests_is_named_after_the_module_that_it_tests() -> None:
    modules = {
        path.stem
        for folder in FOLDERS_OF_MODULES
        for path in (ROOT / folder).iterdir()
        if path.stem[0] != "_"
    }
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if path.parent.name not in WHOLE_GATEWAYS]

    def named(path: Path) -> bool:
        words = path.stem.removeprefix("test_").split("_")
        return any("_".join(words[:count]) in modules for count in range(1, len(words) + 1))

    strange = {str(path.relative_to(ROOT)) for path in files if not named(path)}
    assert strange == OF_THE_WHOLE


# What is committed


@cache
def committed() -> tuple[Path, ...]:
    """What git tracks, or would with the next `git add`."""
    ran = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        pytest.skip("this is no git checkout")
    return tuple(path for name in ran.stdout.split("\0") if name and (path := ROOT / name).is_file())


def test_no_file_names_a_place_on_a_developers_machine() -> None:
    places = [rb"/home/[a-z][\w.-]*/", rb"/Users/[A-Za-z]", rb"[A-Z]:\\+Users\\"]
    if len(ROOT.parts) > 2:  # a checkout at /app, say, shares its name with the image
        places.append(re.escape(str(ROOT).encode()) + rb"\b")
    anywhere = re.compile(b"|".join(places))

    named = [
        str(path.relative_to(ROOT))
        for path in committed()
        # What people paste into prompts may name a place on theirs.
        if path != Path(__file__)
        and path.parent != ROOT / "build/prompts"
        and anywhere.search(path.read_bytes())
    ]

    assert not named


def test_nothing_that_is_made_anew_is_committed() -> None:
    made = re.compile(r"(^|/)(\.venv[^/]*|__pycache__|\.hypothesis|\.pytest_cache|reports|\.state)/|\.pyc$")

    assert not [path for path in committed() if made.search(str(path.relative_to(ROOT)))]


def test_pytest_passes_over_no_folder_that_holds_tests(pytestconfig: pytest.Config) -> None:
    passed_over = pytestconfig.getini("norecursedirs")
    holding = {file.parent.name for file in Path(__file__).parent.rglob("test_*.py")}

    assert {"build", "http", "l2"} <= holding
    assert not [name for name in holding for form in passed_over if fnmatch(name, form)]
