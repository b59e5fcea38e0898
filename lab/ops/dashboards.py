"""Prove the dashboards without Grafana: their JSON by its queries.

python -m lab.ops.dashboards                    every expression parses
python -m lab.ops.dashboards --prometheus URL   and returns data there
"""

import argparse
import json
import sys
import time
import urllib.parse
import urllib.request
from typing import Any

import promql_parser

from lab.launch import ROOT

FOLDER = ROOT / "monitoring/grafana/dashboards"
MAY_BE_EMPTY = {
    "Failures a second, by type": "nothing failed",
    # tests/test_shadow.py counts them.
    **dict.fromkeys(
        (
            "Same route",
            "Moved to another tier",
            "Same task, by the task of the model in service",
            "Its time",
            "Compared, and not",
        ),
        "no second model is compared in the drill",
    ),
}


def panels(name: str) -> list[dict[str, Any]]:
    board = json.loads((FOLDER / f"{name}.json").read_text())
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expression(target: dict[str, Any]) -> str:
    """A query as Grafana sends it."""
    return str(target["expr"]).replace("$__rate_interval", "1m")


def asked(prometheus: str, query: str, minutes: float) -> list[dict[str, Any]]:
    now = time.time()
    arguments = {
        "query": query,
        "start": now - minutes * 60,
        "end": now,
        "step": max(5.0, minutes * 60 / 120),
    }
    url = f"{prometheus}/api/v1/query_range?{urllib.parse.urlencode(arguments)}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        found = json.loads(answer.read())["data"]["result"]
    return [s for s in found if any(value != "NaN" for _, value in s["values"])]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prometheus")
    parser.add_argument("--minutes", type=float, default=5)
    options = parser.parse_args()
    empty, queries = [], 0
    for name in ("overview", "model"):
        for panel in panels(name):
            for target in panel["targets"]:
                query = expression(target)
                try:
                    promql_parser.parse(query)
                except ValueError as wrong:
                    raise SystemExit(f"{name}: {panel['title']}: {wrong}: {query}") from None
                queries += 1
                if options.prometheus:
                    found = asked(options.prometheus, query, options.minutes)
                    if not found and panel["title"] not in MAY_BE_EMPTY:
                        empty.append(f"{name}: {panel['title']}: {query}")
    print(f"{queries} expressions parse" + (f", {len(empty)} return nothing" if options.prometheus else ""))
    print("\n".join(empty))
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
