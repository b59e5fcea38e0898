"""Outcomes of a small and a large model: learn where the large one pays, and measure it.

    just train --outcomes rows.jsonl --out models/mine --small-model NAME --large-model NAME
    just evaluate --outcomes DIR

Run as a file: `python build/outcomes.py train --help`. `train` writes a model folder that
serves as the one it came from, and has learnt a need beside: a policy with
`source = "outcomes"` takes it. `evaluate` prints RouteLLM's tables for every file of DIR.
docs/need-and-cost.md goes through both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from outcome_training.curves import SPLITS, curve
from outcome_training.learner import Refused, learnt, needs
from outcome_training.looking import digest, labelled, looked_at, outcomes

from handler.errors import ModelError
from handler.learnt import NEED
from handler.model import GRAPH, MANIFEST, TOKENIZER, load, read_manifest
from handler.rows import BadRows

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "models/quantized"


def main() -> None:
    arguments = _parse_arguments()
    try:
        if arguments.command == "train":
            train(arguments)
        else:
            from outcome_training.report import report

            report(
                arguments.model,
                arguments.outcomes,
                write=arguments.write,
                quick=arguments.quick,
                splits=arguments.splits,
                without=arguments.without,
            )
    except (BadRows, Refused, ModelError, OSError) as error:
        sys.exit(f"{arguments.command}: {error}")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="learn a pair's need")
    train.add_argument(
        "--outcomes",
        type=Path,
        required=True,
        help='JSON lines or CSV: {"text", "small", "large"}, how good either model\'s answer was, 0 to 1',
    )
    train.add_argument("--out", type=Path, required=True, help="the folder to write; never models/quantized")
    train.add_argument("--small-model", default="small", help="the small model's name, for the manifest")
    train.add_argument("--large-model", default="large", help="the large model's name")
    train.add_argument(
        "--model", type=Path, default=SHIPPED, help="the model to start from [models/quantized]"
    )
    evaluate = commands.add_parser("evaluate", help="print RouteLLM's tables")
    evaluate.add_argument("--outcomes", type=Path, required=True, help="a folder of such files, or one file")
    evaluate.add_argument("--model", type=Path, default=SHIPPED, help="[models/quantized]")
    evaluate.add_argument("--write", action="store_true", help="into docs/need-and-cost.md and pictures too")
    # What it was called when writing was the rule; it changes nothing.
    evaluate.add_argument("--no-write", dest="write", action="store_false", help=argparse.SUPPRESS)
    evaluate.add_argument(
        "--splits",
        type=int,
        default=SPLITS,
        help=f"into halves, at random; more make the means surer [{SPLITS}]",
    )
    evaluate.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="GROUP",
        help="leave the rows of a group out; repeatable",
    )
    evaluate.add_argument("--quick", action="store_true", help="one split, and no learning curve")
    given = parser.parse_args()
    if given.command == "evaluate" and given.splits < 1:
        evaluate.error(f"--splits is {given.splits}; accepted: 1 or more")
    if given.command == "evaluate" and given.write and (given.splits != SPLITS or given.without):
        evaluate.error(
            f"--write with --splits or --without; the page's tables are of {SPLITS} and of all rows"
        )
    return given


def train(arguments: argparse.Namespace) -> None:
    """Learn from a file of outcomes, and write the model folder that serves it."""
    began = time.monotonic()
    out: Path = arguments.out
    if out.resolve().is_relative_to(SHIPPED.resolve()):
        raise Refused(
            "--out is models/quantized, the shipped model, which learns from no outcomes; name another"
        )
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not _is_ours(out))):
        raise Refused(f"--out {out} is there and holds no model that was learnt from outcomes; name another")
    _, rows = labelled(arguments.outcomes)  # every bad row is named before anything is computed
    base = load(arguments.model)
    small, large = outcomes(rows)
    looks, _ = looked_at(base, [row.text for row in rows])
    found = learnt(looks, small, large)
    golden = [golden.text for golden in base.manifest.golden]
    golden_looks, _ = looked_at(base, golden)
    facts = {
        "small": arguments.small_model,
        "large": arguments.large_model,
        "rows": len(rows),
        "digest": digest(rows),
        "mean_small": round(float(small.mean()), 4),
        "mean_large": round(float(large.mean()), 4),
        "apgr": round(found.seen.apgr, 4),
        "apgr_interval": [round(bound, 4) for bound in found.interval],
        "apgr_by_length": round(found.by_length.apgr, 4),
        "golden": [round(float(need), 6) for need in needs(found.content, golden_looks)],
    }
    _write(out, arguments.model, found.content, facts)
    router = load(out)  # verified and proven as a gateway would
    own = curve(needs(found.content, looks), small, large)
    print(
        f"learnt from {len(rows)} rows in {time.monotonic() - began:.0f} s: where {arguments.large_model} "
        f"({large.mean():.3f}) does better than {arguments.small_model} ({small.mean():.3f})\n"
        f"on rows that it had not seen (five folds): APGR {found.seen.apgr:.3f}, 90% interval "
        f"{found.interval[0]:.3f} to {found.interval[1]:.3f}; length alone {found.by_length.apgr:.3f}, chance 0.500; "
        f"on the rows that it learnt from {own.apgr:.3f}\n"
        f"half of what the large model has over the small one takes {found.seen.cpt(0.5):.0%} of the calls, "
        f"80% takes {found.seen.cpt(0.8):.0%}\n"
        f"written to {out}, version {router.version}. Serve it with MODEL_PATH={out} and a POLICY_FILE that says "
        f'source = "outcomes" (query-gateway calibrate writes one)'
    )


def _is_ours(folder: Path) -> bool:
    try:
        return read_manifest(folder).outcomes is not None
    except ModelError:
        return False


def _write(out: Path, base: Path, content: bytes, facts: dict[str, object]) -> None:
    """Write the whole folder beside, then put it in place, so that who follows it sees it whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as there:
        new = Path(there) / out.name
        new.mkdir()
        manifest = json.loads((base / MANIFEST).read_text(encoding="utf-8"))
        for name in (GRAPH, TOKENIZER):
            shutil.copyfile(base / name, new / name)
        (new / NEED).write_bytes(content)
        manifest["files"] = {name: _sha256(new / name) for name in (GRAPH, TOKENIZER, NEED)}
        manifest["outcomes"] = facts
        (new / MANIFEST).write_text(
            json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        if out.exists():
            os.replace(out, Path(there) / "old")
        os.replace(new, out)


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
