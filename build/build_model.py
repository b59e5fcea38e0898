"""models/router/ → models/quantized/: the INT8 graph, its tokenizer and its manifest.

Run as a file: `python build/build_model.py --help`. What is done is told by
`router_training/artefact.py`. The same checkpoint gives the same bytes on one kind of
processor; another rounds some float tensors otherwise, in their last bit. No data set is read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from router_training.artefact import build
from router_training.encoder import BaseError

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--checkpoint", type=Path, default=ROOT / "models/router", help="from train.py [models/router]"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "models/quantized", help="[models/quantized]")
    given = parser.parse_args()
    try:
        build(given.checkpoint, given.out)
    except BaseError as error:
        sys.exit(f"build-model: {error}")


if __name__ == "__main__":
    main()
