"""Pages of the reference, made from the code as Markdown: errors, metrics, the HTTP interface, Python."""

import ast
import json
import re
from collections.abc import Iterable
from typing import Any

from prometheus_client import Metric

from handler import schema
from handler.errors import ERRORS
from handler.statistics import (
    BatcherStatistics,
    ExportStatistics,
    L1Statistics,
    L2Statistics,
    ModelStatistics,
    PolicyStatistics,
    ShadowStatistics,
)
from handler.telemetry import LATENCY_BUCKETS_S, Telemetry
from lab.launch import ROOT

# What a program that imports the gateway may use, and the modules that its story is told in.
MODULES = (
    "offline",
    "policy",
    "policy_file",
    "model",
    "errors",
    "wire",
    "settings",
    "gateway",
    "flights",
    "batching",
    "cache",
    "l2",
    "telemetry",
    "statistics",
)


def families() -> list[Metric]:
    """Every metric of ours, as a gateway with a model, a policy and Redis offers them."""
    telemetry = Telemetry()
    telemetry.watch_batcher(lambda: BatcherStatistics(True, 1, 0, 0, 0.0, 32, 0.0))
    telemetry.watch_l1(lambda: L1Statistics(0, 10))
    telemetry.watch_model(
        lambda: ModelStatistics(loaded=True, path="models", training_mix={"closed_qa": 1.0})
    )
    telemetry.watch_l2(
        lambda: L2Statistics("redis://cache", None, 0, (), {"reads": 0, "writes": 0}, {}, {}, {}, {})
    )
    telemetry.watch_refused(lambda setting: None, keys=["API_KEYS_FILE"])
    telemetry.watch_policy(
        lambda: PolicyStatistics("tasks", None, None, 0.7, {"fast": 0.3, "slow": 1.0}, {}, {}, (), None)
    )
    telemetry.watch_shadow(
        lambda: ShadowStatistics(
            loaded=True,
            path="models",
            share=0.1,
            routes={("0", "0"): 1},
            tasks={("closed_qa", True): 1},
            changes={("closed_qa", "coding"): 1},
            runs=(0,) * (len(LATENCY_BUCKETS_S) + 1),
        )
    )
    telemetry.watch_export(
        lambda: ExportStatistics({"metrics": True}, {("metrics", "failed"): 0}, {"full": 0})
    )
    telemetry.watch_connections(lambda: {"late_head": 0, "idle": 0})
    telemetry.watch_log(lambda: 0)
    telemetry.answered("0", "closed_qa", 0.9)
    return list(telemetry.registry.collect())


def metrics() -> str:
    """The table of metrics: name, kind, labels, meaning."""
    rows = []
    for family in sorted(families(), key=lambda family: family.name):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        shown = ", ".join(f"`{label}`" for label in sorted(labels))
        rows.append((f"`{name}`", family.type, shown, family.documentation))
    return _page(
        "Metrics",
        "What `/metrics` offers, from the code. What to make of it, what alerts, and which dashboard shows it: "
        "[monitoring](../monitoring.md).",
        _table(("metric", "kind", "labels", "meaning"), rows),
    )


def errors() -> str:
    """The table of errors, each with its heading in the runbook."""
    rows = [
        (
            str(error.code),
            f"`{error.status}`",
            f"[{error.error_type}](../runbook.md#{error.error_type.lower()})",
            _line(error.__doc__ or ""),
        )
        for error in ERRORS
    ]
    shape = '{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"…","details":[]}}'
    return _page(
        "Errors",
        f"Every error has one shape:\n\n```json\n{shape}\n```\n\nA message says what was seen and what would be accepted; "
        "it never repeats the query. The type is what logs and metrics call it, and leads to what to do.",
        _table(("code", "status", "type", "meaning"), rows),
    )


def http() -> str:
    """The OpenAPI document, for readers: every path, what it takes, what it answers."""
    document = json.loads(schema.document())
    parts = [
        _operation(method, path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    shapes = [_shape(name, shape) for name, shape in document["components"]["schemas"].items()]
    return _page(
        "HTTP",
        "From the OpenAPI document that a running gateway serves at `/schema`, and, with the page on, at `/docs`, where "
        "it can be tried. Keys are asked for only where `API_KEYS` or `OPS_KEYS` are set.",
        *parts,
        "## Shapes",
        *shapes,
    )


def python() -> str:
    """The public names of `handler`, by module, with their docstrings."""
    return _page(
        "Python",
        "The modules of `handler`, with all that is public in them. Only what [From Python](../python.md) shows keeps "
        "its form from one version to the next. How the modules fit together: [architecture](../architecture.md).",
        *(f"::: handler.{name}" for name in MODULES),
    )


def decisions() -> str:
    """The list of decisions, each with its title."""
    pages = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    titles = [page.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for page in pages]
    return _page(
        "Decisions",
        "What was tried, measured, and kept or not.",
        "\n".join(f"- [{title}]({page.name})" for title, page in zip(titles, pages, strict=True)),
    )


def docstring(path: str) -> str:
    """The first docstring of a Python file; empty where there is none."""
    return ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or ""


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"## {method.upper()} {path}", operation.get("summary", ""), operation.get("description", "")]
    if parameters := operation.get("parameters"):
        rows = [
            (
                f"`{each['name']}`",
                each["in"],
                "yes" if each.get("required") else "",
                each.get("description", ""),
            )
            for each in parameters
        ]
        parts.append(_table(("parameter", "in", "required", "meaning"), rows))
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"Takes `{kind}`: {_type(body.get('schema', {}))}")
    rows = [
        (
            code,
            _line(answer.get("description", "")),
            ", ".join(f"`{name}`" for name in answer.get("headers", {})),
            ", ".join(
                dict.fromkeys(_type(body.get("schema", {})) for body in answer.get("content", {}).values())
            ),
        )
        for code, answer in operation["responses"].items()
    ]
    parts.append(_table(("answer", "meaning", "headers", "body"), rows))
    return "\n\n".join(part for part in parts if part)


def _shape(name: str, shape: dict[str, Any]) -> str:
    required = shape.get("required", [])
    rows = [
        (f"`{field}`", _type(kind), "yes" if field in required else "", _line(kind.get("description", "")))
        for field, kind in shape.get("properties", {}).items()
    ]
    table = _table(("member", "type", "always", "meaning"), rows) if rows else ""
    return "\n\n".join(part for part in (f"### {name}", shape.get("description", ""), table) if part)


def _type(kind: dict[str, Any]) -> str:
    """A JSON schema in a few words; a shape of ours as a link to it."""
    if reference := kind.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in kind:
            return " or ".join(dict.fromkeys(_type(one) for one in kind[several]))
    if "enum" in kind:
        return "one of " + ", ".join(f"`{json.dumps(value)}`" for value in kind["enum"])
    if kind.get("type") == "array":
        return f"list of {_type(kind['items'])}" if isinstance(kind.get("items"), dict) else "list"
    found = kind.get("type", "anything")
    return " or ".join(found) if isinstance(found, list) else str(found)


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", *parts]) + "\n"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
