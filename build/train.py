"""Labelled prompts → models/router/: a Hugging Face checkpoint of the router.

Run as a file: `python build/train.py --help`. The story is `train()`: find the
data and the base encoder, prune its vocabulary, fine-tune a deep teacher, let a
shallow student learn from labels and teacher, set the temperature. Stopped at any
point, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import asks
import compose
import data
import encoder
import numpy as np
import own_data
import torch
import transformers
from calibration import Scaling, best_scaling, probabilities
from data import DataError, Prompt
from fit import Rows, Schedule, fit, logits
from numpy.typing import NDArray
from safetensors.torch import save_file
from tasks import POLICY, TASKS
from tokenizers import Tokenizer
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

from handler.query import Limits, normalise

ROOT = Path(__file__).resolve().parent.parent

# The ask stands first or last; between them are pasted things (docs/decisions/0003).
LIMITS = Limits(head_tokens_max=64, tail_tokens_max=48, head_chars_max=768, tail_chars_max=576)

# Sets that are all of one kind, or machine-made: calibration is for what people send.
NOT_TYPICAL = ("arena-hard-v0.1", "humaneval", "p3-sample", "self-instruct-seed-tasks")
CALIBRATION_ROWS_MIN = 100  # fewer would set the two numbers by chance


@dataclass(frozen=True)
class Recipe:
    """The amounts of everything; `full` is what ships."""

    tokens_max: int = 12_000
    teacher_layers: int = 6
    teacher_epochs: int = 3
    student_layers: int = 3
    student_epochs: int = 3
    # The teacher sees a fresh round every epoch; the student goes over a pool of rounds,
    # because every row of it costs a run of the teacher.
    pool_rounds: int = 2
    teacher_rate: float = 8e-5
    student_rate: float = 1e-4
    soft_share: float = 0.7
    # Calibrated on prompts as given, nearly every ask without its passage goes slow. So much of
    # the slow tasks' bias is given back, to keep A's floor (the curve in docs/decisions/0003).
    lean_to_fast: float = 1.6


RECIPES = {
    "full": Recipe(),
    # No teacher: a user's own data, or a first model in minutes.
    "direct": Recipe(teacher_epochs=0, student_epochs=3, soft_share=0.0, lean_to_fast=0.0),
}


def main() -> None:
    arguments = _parse_arguments()
    try:
        train(arguments)
    except (DataError, encoder.BaseError) as error:
        sys.exit(f"train: {error}")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        type=Path,
        help='your own JSON lines {"text", "task"}; without it, the public sets from DATA_DIR or the hub',
    )
    parser.add_argument(
        "--fast-tasks", help="with --data: comma-separated tasks that go fast; all others go slow"
    )
    parser.add_argument(
        "--base",
        default=encoder.HUB_NAME,
        help="base encoder: a folder, the wheel file that holds it, or a hub name [%(default)s]",
    )
    parser.add_argument("--recipe", choices=RECIPES, help="[full; with --data: direct]")
    parser.add_argument("--layers", type=int, help="layers of the student, instead of the recipe's")
    parser.add_argument(
        "--steps", type=int, help="stop each stage after this many steps, to try the pipeline"
    )
    parser.add_argument("--seed", type=int, default=7, help="[%(default)s]")
    parser.add_argument("--out", type=Path, default=ROOT / "models/router", help="[models/router]")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "models/.training", help="state to resume from [models/.training]"
    )
    return parser.parse_args()


def train(arguments: argparse.Namespace) -> None:
    """Make the checkpoint that the arguments ask for. Raises DataError or BaseError."""
    started = time.monotonic()
    prompts, tasks, policy = _prompts(arguments)
    recipe = RECIPES[arguments.recipe or ("direct" if arguments.data else "full")]
    if arguments.layers:
        recipe = replace(recipe, student_layers=arguments.layers)
    base = encoder.find_base(arguments.base, arguments.work)
    state = arguments.work / _state_name(arguments, recipe, prompts)

    torch.manual_seed(arguments.seed)
    layers = recipe.teacher_layers if recipe.teacher_epochs else recipe.student_layers
    model = encoder.load(base, tasks, layers)
    tokenizer = _pruned(model, encoder.read_tokenizer(base), prompts, recipe)
    rounds = _Rounds([p for p in prompts if p.side == "train"], tasks, tokenizer, arguments.seed)
    schedule = Schedule(
        recipe.student_epochs,
        recipe.student_rate,
        arguments.seed,
        recipe.soft_share,
        steps_max=arguments.steps,
    )

    if recipe.teacher_epochs:
        lessons = replace(
            schedule, epochs=recipe.teacher_epochs, learning_rate=recipe.teacher_rate, soft_share=0.0
        )
        fit(model, rounds.rows, lessons, state / "teacher.pt", "teacher")
        # The pool follows the teacher's own rounds: it must also judge what it has not seen.
        pool = [rounds.rows(recipe.teacher_epochs + i) for i in range(recipe.pool_rounds)]
        pool = [
            replace(rows, soft=_soft_labels(model, rows, state / f"soft-{i}.npy"))
            for i, rows in enumerate(pool)
        ]
        model = encoder.copied(model, recipe.student_layers)
        fit(model, lambda epoch: pool[epoch % len(pool)], schedule, state / "student.pt", "student")
    else:
        fit(model, rounds.rows, schedule, state / "student.pt", "student")

    scaling = _calibrate(model, tokenizer, prompts, policy, recipe.lean_to_fast)
    facts = {
        "tasks": list(tasks),
        "policy": policy,
        "temperature": scaling.temperature,
        "limits": {name: getattr(LIMITS, name) for name in LIMITS.__struct_fields__},
        "data": _data_facts(prompts),
        "recipe": asdict(recipe) | {"seed": arguments.seed, "slow_bias": scaling.slow_bias},
        "tools": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
    }
    _write(model, tokenizer, facts, arguments.out)
    print(f"{arguments.out} is made, in {(time.monotonic() - started) / 60:.0f} minutes")


def _prompts(arguments: argparse.Namespace) -> tuple[list[Prompt], tuple[str, ...], dict[str, str]]:
    """Return the prompts, the tasks in logit order and the route of each."""
    if arguments.data is None:
        if arguments.fast_tasks:
            raise DataError("--fast-tasks goes with --data; the ten tasks have their policy")
        return data.prompts(), TASKS, POLICY
    prompts = own_data.read(arguments.data)
    tasks = tuple(sorted({prompt.tasks[0] for prompt in prompts}))
    fast = {task.strip() for task in (arguments.fast_tasks or "").split(",")} - {""}
    if unknown := sorted(fast - set(tasks)):
        raise DataError(f"--fast-tasks names {', '.join(unknown)}; the data have {', '.join(tasks)}")
    return prompts, tasks, {task: "fast" if task in fast else "slow" for task in tasks}


def _state_name(arguments: argparse.Namespace, recipe: Recipe, prompts: Sequence[Prompt]) -> str:
    """Name the state by all that shapes it, so that a changed command never resumes another's."""
    sentences = [inspect.getsource(module) for module in (asks, compose)]
    shape = repr((recipe, arguments.seed, arguments.steps, arguments.base, LIMITS, prompts, sentences))
    return hashlib.sha256(shape.encode()).hexdigest()[:16]


def _pruned(
    model: BertForSequenceClassification, tokenizer: Tokenizer, prompts: Sequence[Prompt], recipe: Recipe
) -> Tokenizer:
    texts = [p.text for p in prompts if p.side == "train"]
    return encoder.prune_vocabulary(model, tokenizer, texts, recipe.tokens_max)


class _Rounds:
    """Round after round of training rows, each composed afresh from its number."""

    def __init__(
        self, prompts: Sequence[Prompt], tasks: Sequence[str], tokenizer: Tokenizer, seed: int
    ) -> None:
        self._prompts = prompts
        self._tasks = tasks
        self._tokenizer = tokenizer
        self._seed = seed

    def rows(self, number: int) -> Rows:
        found = compose.examples(self._prompts, self._seed * 1000 + number)
        texts = [normalise(example.text, LIMITS).text for example in found]
        return Rows(
            ids=encoder.token_ids(self._tokenizer, texts, LIMITS),
            allowed=np.array([[task in example.tasks for task in self._tasks] for example in found]),
        )


def _soft_labels(teacher: BertForSequenceClassification, rows: Rows, path: Path) -> NDArray[np.float32]:
    """Return the teacher's probabilities (row, task) float32; computed once, then read back."""
    if path.is_file():
        return np.asarray(np.load(path), dtype=np.float32)
    soft = probabilities(logits(teacher, rows.ids, "teacher's labels"), 1.0).astype(np.float32)
    np.save(path, soft)
    return soft


def _calibrate(
    model: BertForSequenceClassification,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    policy: dict[str, str],
    lean_to_fast: float,
) -> Scaling:
    """Set confidences right on the validation side, on prompts as they are given.

    The bias goes into the classifier; the temperature is the manifest's to carry.
    """
    held_out = [p for p in prompts if p.side == "validation" and p.source not in NOT_TYPICAL and p.tasks]
    slow_tasks = np.array([route == "slow" for route in policy.values()])
    if len(held_out) < CALIBRATION_ROWS_MIN or slow_tasks.all() or not slow_tasks.any():
        return Scaling(temperature=1.0, slow_bias=0.0)
    texts = [normalise(p.text, LIMITS).text for p in held_out]
    scores = logits(model, encoder.token_ids(tokenizer, texts, LIMITS), "calibrating", exact=True)
    is_slow = np.array([policy[p.tasks[0]] == "slow" for p in held_out])
    best = best_scaling(scores, is_slow, slow_tasks)
    scaling = replace(best, slow_bias=round(best.slow_bias - lean_to_fast, 4))
    with torch.no_grad():
        model.classifier.bias.add_(scaling.slow_bias * torch.from_numpy(slow_tasks))
    return scaling


def _data_facts(prompts: Sequence[Prompt]) -> dict[str, object]:
    """Say which data made the model: sides in rows, and each public set by its digest."""
    names = sorted({prompt.source for prompt in prompts})
    return {
        "rows": {side: sum(p.side == side for p in prompts) for side in ("train", "validation", "test")},
        "sources": {name: data.SOURCES[name].digest for name in names if name in data.SOURCES},
    }


def _write(
    model: BertForSequenceClassification, tokenizer: Tokenizer, facts: dict[str, object], out: Path
) -> None:
    """Save the checkpoint beside its place and move it in whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    half_written = Path(tempfile.mkdtemp(prefix=".router-", dir=out.parent))
    half_written.chmod(0o755)
    half = {name: tensor.to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(half, half_written / "model.safetensors", metadata={"format": "pt"})
    model.config.dtype = "float16"
    model.config.architectures = ["BertForSequenceClassification"]
    model.config.save_pretrained(half_written)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")},
    ).save_pretrained(half_written)
    (half_written / "router.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    if out.exists():
        shutil.rmtree(out)
    os.replace(half_written, out)


if __name__ == "__main__":
    main()
