"""Labelled prompts → models/router/: a Hugging Face checkpoint of the router.

Run as a file: `python build/train.py --help`. What is done is told by
`router_training/training.py`. Stopped at any point, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from router_training import encoder
from router_training.sources import DataError
from router_training.training import RECIPES, Order, train

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    order = _order()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("train: stopped; the same command goes on"))
    try:
        train(order)
    except (DataError, encoder.BaseError) as error:
        sys.exit(f"train: {error}")


def _order() -> Order:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        type=Path,
        help='your own JSON lines {"text", "task"}; without it, the sets of DATA_DIR or the hub and build/prompts/',
    )
    parser.add_argument(
        "--fast-tasks", default="", help="with --data: comma-separated tasks that go fast; all others go slow"
    )
    parser.add_argument(
        "--base",
        default=encoder.HUB_NAME,
        help="base encoder: a folder, the wheel file that holds it, or a hub name [%(default)s]",
    )
    parser.add_argument("--recipe", choices=RECIPES, help="[full; with --data: own]")
    parser.add_argument("--layers", type=int, help="layers of the router, instead of the recipe's")
    parser.add_argument("--steps", type=int, help="stop training after this many steps, to try the pipeline")
    parser.add_argument("--seed", type=int, default=7, help="[%(default)s]")
    parser.add_argument("--out", type=Path, default=ROOT / "models/router", help="[models/router]")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "models/.training", help="state to resume from [models/.training]"
    )
    given = parser.parse_args()
    return Order(
        base=given.base,
        out=given.out,
        work=given.work,
        data=given.data,
        fast_tasks=tuple(task.strip() for task in given.fast_tasks.split(",") if task.strip()),
        recipe=given.recipe,
        layers=given.layers,
        steps_max=given.steps,
        seed=given.seed,
    )


if __name__ == "__main__":
    main()
