"""Score what is shipped, as it is served, and say so everywhere it is quoted.

Run as a file: `python build/evaluate.py --help`. Prints a table of measures with their
targets, recall by task, what the threshold does and what it gets wrong; with --write also
into the manifest, docs/model-card.md and docs/pictures/. A miss that docs/decisions/0003
does not own ends with exit code 1. What is measured: `router_training/evaluation.py`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from router_training import evaluation
from router_training.sources import DataError

from handler.errors import ModelError
from handler.policy import THRESHOLD

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=evaluation.SHIPPED, help="[models/quantized]")
    parser.add_argument(
        "--checkpoint", type=Path, default=ROOT / "models/router", help="its float32 self [models/router]"
    )
    parser.add_argument(
        "--threshold", type=float, default=THRESHOLD, help="as CONFIDENCE_THRESHOLD [%(default)s]"
    )
    parser.add_argument("--threshold-table", action="store_true", help="show what every threshold would do")
    parser.add_argument("--data", type=Path, help="your own JSON lines: score a model trained on them")
    parser.add_argument("--write", action="store_true", help="into manifest, model card and pictures too")
    # What it was called when writing was the rule; it changes nothing.
    parser.add_argument("--no-write", dest="write", action="store_false", help=argparse.SUPPRESS)
    given = parser.parse_args()
    request = evaluation.Request(
        given.model, given.checkpoint, given.threshold, given.threshold_table, given.data, given.write
    )
    try:
        sys.exit(evaluation.evaluate(request))
    except (DataError, ModelError) as error:
        sys.exit(f"evaluate: {error}")


if __name__ == "__main__":
    main()
