"""Prompts and two larger encoders → build/prompts/judgements.npz: what teachers say of each prompt.

Run as a file: `python build/judge.py --help`. Done once: `just train` learns from what is kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from router_training import encoder, teachers
from router_training.sources import DataError

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True, help="the folder of all-mpnet-base-v2")
    parser.add_argument(
        "--base", default=encoder.HUB_NAME, help="MiniLM, as `just train` takes it [%(default)s]"
    )
    parser.add_argument(
        "--steps", type=int, help="stop each teacher after so many steps, to try the pipeline"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "models/.training", help="state to resume from [models/.training]"
    )
    given = parser.parse_args()
    try:
        teachers.judge(teachers.voices(given.teacher, given.base), given.work, steps_max=given.steps)
    except (DataError, encoder.BaseError) as error:
        sys.exit(f"judge: {error}")


if __name__ == "__main__":
    main()
