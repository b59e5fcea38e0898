"""Labelled prompts → models/router/: a Hugging Face checkpoint of the router.

Run as a file: `python build/train.py --help`. The story is `train()`: find the
data and the base encoder, prune its vocabulary, fine-tune deep teachers, each on a
part of the prompts, and let each judge the part it has not seen; let a shallow
student learn from labels and judgements; set the confidences right. Stopped at any
point, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import asks
import compose
import data
import encoder
import numpy as np
import own_data
import torch
import transformers
from calibration import Scaling, best_scaling, least_lean, probabilities
from data import DataError, Prompt
from fit import ROWS_PER_BATCH, Rows, Schedule, fit, logits, read_weights
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
# What an ask is taken for whose passage stayed with the caller, and the asks that are counted then.
OPEN_QUESTIONS = ("open_qa", "general_qa")
BARE_TASKS = ("classification", "summarization", "creative_writing", "general_qa")
# Which neurons the student keeps is measured on so many rows.
ROWS_TO_MEASURE = 1000
CALIBRATION_ROWS_MIN = 100  # fewer would set the two numbers by chance


@dataclass(frozen=True)
class Recipe:
    """The amounts of everything; `full` is what ships."""

    tokens_max: int = 12_000
    teacher_layers: int = 6
    teacher_epochs: int = 3
    # A teacher that has seen a row repeats its label; one that has not says how doubtful it is.
    # Each part of the prompts is judged by the teacher that was trained on the others.
    teacher_folds: int = 2
    student_layers: int = 3
    # Neurons in each of the student's feed-forwards, where the encoder has 1,536.
    student_width: int = 512
    student_epochs: int = 3
    # The teacher sees a fresh round every epoch; the student goes over a pool of rounds,
    # because every row of it costs a run of the teacher.
    pool_rounds: int = 3
    teacher_rate: float = 8e-5
    student_rate: float = 2e-4
    soft_share: float = 0.7
    # How much of the training side is used; the choosing and the calibrating see all of theirs.
    prompts_share: float = 1.0
    # A hundred rows are four steps an epoch, and nothing is learnt in twelve: then it goes on.
    student_steps_min: int = 0
    # Calibrated on prompts as given, nearly every ask without its passage goes slow, as an open
    # question. The open questions' bias is lowered until the teachers send so many bare asks that
    # they have not seen the right way (docs/decisions/0003); 0 lowers nothing.
    bare_floor: float = 0.0


RECIPES = {
    "full": Recipe(bare_floor=0.87),
    # All stages on a little, in minutes: to try a change, or to see one command make one model twice.
    "short": Recipe(teacher_epochs=1, student_epochs=1, pool_rounds=1, prompts_share=0.12),
    # No teacher: a user's own data, or a first model in minutes.
    "direct": Recipe(teacher_epochs=0, soft_share=0.0, student_steps_min=150),
}

# What the teachers do not feel.
STUDENTS_ALONE = (
    "student_layers", "student_width", "student_epochs", "student_rate", "student_steps_min",
    "pool_rounds", "soft_share",
)  # fmt: skip


def main() -> None:
    arguments = _parse_arguments()
    # Asked to stop, it must take its teachers along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("train: stopped; the same command goes on"))
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
    prompts, tasks, policy = _prompts(arguments)
    recipe = RECIPES[arguments.recipe or ("direct" if arguments.data else "full")]
    if arguments.layers:
        recipe = replace(recipe, student_layers=arguments.layers)
    base = encoder.find_base(arguments.base, arguments.work)
    course = _Course(
        base, tuple(_training_side(prompts, recipe)), tuple(_held_out(prompts)), policy, recipe,
        arguments.seed, arguments.steps,
        arguments.work / f"teachers-{_state_name(arguments, _teachers_alone(recipe), prompts, base)}",
        arguments.work / f"student-{_state_name(arguments, recipe, prompts, base)}.pt",
    )  # fmt: skip
    watch = _Watch()

    with watch.stage("vocabulary"):
        model, tokenizer = course.start()
    if recipe.teacher_epochs:
        with watch.stage("teachers and their labels"):
            _judge(course)
        with watch.stage("student"):
            read_weights(model, course.teacher_file(recipe.teacher_folds - 1))
            pool = [course.pool(tokenizer, number) for number in range(recipe.pool_rounds)]
            model = encoder.copied(
                model, recipe.student_layers, recipe.student_width, pool[0].ids[:ROWS_TO_MEASURE]
            )
            fit(
                model,
                lambda epoch: pool[epoch % len(pool)],
                course.schedule(),
                course.student_file,
                "student",
            )
    else:
        with watch.stage("student"):
            rounds = partial(course.rows, tokenizer, course.prompts)
            steps_an_epoch = -(-len(rounds(0).ids) // ROWS_PER_BATCH)
            epochs = max(recipe.student_epochs, -(-recipe.student_steps_min // steps_an_epoch))
            schedule = replace(course.schedule(), epochs=epochs)
            fit(model, rounds, schedule, course.student_file, "student")

    with watch.stage("calibration"):
        scaling = _scaling(model, tokenizer, course)
        lean = _lean(course)
        bias = np.array(scaling.bias) - lean * scaling.temperature * np.isin(tasks, OPEN_QUESTIONS)
        with torch.no_grad():
            model.classifier.bias.add_(torch.from_numpy(bias).float())
    facts = {
        "tasks": list(tasks),
        "policy": policy,
        "temperature": scaling.temperature,
        "limits": {name: getattr(LIMITS, name) for name in LIMITS.__struct_fields__},
        "data": _data_facts(prompts),
        "training_mix": training_mix(prompts, tasks),
        "recipe": asdict(recipe)
        | {
            "seed": arguments.seed,
            "lean_to_fast": lean,
            "bias": {task: round(float(b), 4) for task, b in zip(tasks, bias, strict=True)},
        },
        "tools": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
    }
    _write(model, tokenizer, facts, arguments.out)
    print(f"{arguments.out} is made\n{watch.report()}")


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
    if not fast or fast == set(tasks):
        raise DataError(
            f"--fast-tasks must name some of {', '.join(tasks)}, and not all: "
            "with one route there is nothing to decide"
        )
    return prompts, tasks, {task: "fast" if task in fast else "slow" for task in tasks}


def _teachers_alone(recipe: Recipe) -> Recipe:
    """Forget what shapes the student alone: another student learns from the same teachers."""
    return replace(recipe, **{name: getattr(Recipe, name) for name in STUDENTS_ALONE})


def _state_name(arguments: argparse.Namespace, recipe: Recipe, prompts: Sequence[Prompt], base: Path) -> str:
    """Name the state by all that shapes it, so that a changed command never resumes another's."""
    sentences = [inspect.getsource(module) for module in (asks, compose)]
    # By content: training that goes on from its own output must not find itself done.
    weights = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(base.glob("*.safetensors"))]
    # Looked at after training: it may change without another training.
    recipe = replace(recipe, bare_floor=0.0)
    shape = repr((recipe, arguments.seed, arguments.steps, weights, LIMITS, prompts, sentences))
    return hashlib.sha256(shape.encode()).hexdigest()[:16]


def _training_side(prompts: Sequence[Prompt], recipe: Recipe) -> list[Prompt]:
    """Pick the prompts to learn from: those of the training side, or a share of them."""
    return [
        prompt
        for prompt in prompts
        if prompt.side == "train" and _draw(f"share:{prompt.ask}") < recipe.prompts_share
    ]


def _draw(text: str) -> float:
    """Give a text a number from 0 to 1 that is always the same."""
    return int(hashlib.sha256(data.normalised_key(text).encode()).hexdigest()[:8], 16) / 2**32


class _Watch:
    """Notes how long each stage took, and how much of all processors."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._started = time.monotonic()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started, worked = time.monotonic(), _cpu_s()
        yield
        self._note(name, time.monotonic() - started, _cpu_s() - worked)

    def report(self) -> str:
        self._note("all", time.monotonic() - self._started, _cpu_s())
        return "\n".join(self._lines)

    def _note(self, name: str, wall_s: float, cpu_s: float) -> None:
        self._lines.append(f"{name}: {wall_s / 60:.1f} minutes, {cpu_s / 60:.1f} of processor time")


def _cpu_s() -> float:
    """Return the processor time of this process and of those it has waited for."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


@dataclass(frozen=True)
class _Course:
    """What to learn and how; the same in every process that teaches.

    prompts       of the training side
    held_out      what confidences are set right on
    policy        the route of each task, in logit order
    state         the folder that the teachers resume from
    student_file  what the student resumes from
    """

    base: Path
    prompts: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    policy: dict[str, str]
    recipe: Recipe
    seed: int
    steps_max: int | None
    state: Path
    student_file: Path

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.policy)

    @property
    def slow_tasks(self) -> NDArray[np.bool_]:
        return np.array([route == "slow" for route in self.policy.values()])

    def start(self) -> tuple[BertForSequenceClassification, Tokenizer]:
        """Return the model before its first lesson, and its tokenizer."""
        torch.manual_seed(self.seed)
        recipe = self.recipe
        layers = recipe.teacher_layers if recipe.teacher_epochs else recipe.student_layers
        model = encoder.load(self.base, self.tasks, layers)
        texts = [prompt.text for prompt in self.prompts]
        tokenizer = encoder.read_tokenizer(self.base)
        return model, encoder.prune_vocabulary(model, tokenizer, texts, recipe.tokens_max)

    def schedule(self) -> Schedule:
        recipe = self.recipe
        return Schedule(
            recipe.student_epochs, recipe.student_rate, self.seed, recipe.soft_share, steps_max=self.steps_max
        )

    def teacher_file(self, fold: int) -> Path:
        return self.state / f"teacher-{fold}.pt"

    def label_file(self, fold: int, number: int) -> Path:
        return self.state / f"soft-{fold}-{number}.npy"

    def bare_file(self, fold: int) -> Path:
        return self.state / f"bare-{fold}.npy"

    def seen(self, fold: int) -> list[Prompt]:
        """Return the prompts that a fold's teacher learns from: all but those that it will judge."""
        if self.recipe.teacher_folds == 1:
            return list(self.prompts)
        return [prompt for prompt in self.prompts if self._fold(prompt) != fold]

    def judged(self, fold: int) -> list[Prompt]:
        """Return the prompts that a fold's teacher judges."""
        return [prompt for prompt in self.prompts if self._fold(prompt) == fold]

    def bare(self, fold: int) -> list[Prompt]:
        """Return the prompts whose asks a fold's teacher judges without their passages."""
        typical = (p for p in self.judged(fold) if p.source not in NOT_TYPICAL)
        return [p for p in typical if p.tasks and p.tasks[0] in BARE_TASKS]

    def _fold(self, prompt: Prompt) -> int:
        return int(_draw(f"fold:{prompt.ask}") * self.recipe.teacher_folds)

    def rows(
        self, tokenizer: Tokenizer, prompts: Sequence[Prompt], number: int, *, unlabelled: bool = False
    ) -> Rows:
        """Compose a round of rows from some of the prompts; one number is one round."""
        share = len(prompts) / max(1, len(self.prompts)) * self.recipe.prompts_share
        found = compose.examples(prompts, self.seed * 1000 + number, share, unlabelled=unlabelled)
        texts = [normalise(example.text, LIMITS).text for example in found]
        return Rows(
            ids=encoder.token_ids(tokenizer, texts, LIMITS),
            allowed=np.array([[task in example.tasks for task in self.tasks] for example in found]),
        )

    def rows_to_judge(self, tokenizer: Tokenizer, fold: int, number: int) -> Rows:
        # The rounds after the teachers' own: what is composed is new to them too.
        return self.rows(tokenizer, self.judged(fold), self.recipe.teacher_epochs + number, unlabelled=True)

    def pool(self, tokenizer: Tokenizer, number: int) -> Rows:
        """Put the folds of a judged round together, each with its own teacher's labels."""
        folds = range(self.recipe.teacher_folds)
        parts = [self.rows_to_judge(tokenizer, fold, number) for fold in folds]
        return Rows(
            ids=[row for part in parts for row in part.ids],
            allowed=np.concatenate([part.allowed for part in parts]),
            soft=np.concatenate([np.load(self.label_file(fold, number)) for fold in folds]),
        )


def _judge(course: _Course) -> None:
    """Train the teachers and let them label the student's pool, each in a process of its own.

    No faster than one after the other on all cores (1.5 steps a second either way, on two), but
    a busy neighbour on one core holds up one teacher, and not each step of both.
    """
    folds = range(course.recipe.teacher_folds)
    spawn = multiprocessing.get_context("spawn")  # a forked torch hangs in its threads
    with ProcessPoolExecutor(len(folds), mp_context=spawn) as processes:
        for done in [processes.submit(_teach, course, fold) for fold in folds]:
            done.result()


def _teach(course: _Course, fold: int) -> None:
    """Train one fold's teacher and leave its labels in files; what is there is not made again."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # one traceback is enough
    recipe = course.recipe
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // recipe.teacher_folds))
    model, tokenizer = course.start()
    lessons = replace(
        course.schedule(), epochs=recipe.teacher_epochs, learning_rate=recipe.teacher_rate, soft_share=0.0
    )
    seen = course.seen(fold)
    fit(
        model,
        lambda epoch: course.rows(tokenizer, seen, epoch),
        lessons,
        course.teacher_file(fold),
        f"teacher {fold}",
        bar_line=fold,
    )
    for number in range(recipe.pool_rounds):
        path = course.label_file(fold, number)
        if not path.is_file():
            rows = course.rows_to_judge(tokenizer, fold, number)
            soft = probabilities(logits(model, rows.ids, f"labels {fold}", bar_line=fold), 1.0)
            _save_whole(soft.astype(np.float32), path)
    bare = course.bare(fold)
    if bare and not course.bare_file(fold).is_file():
        texts = [normalise(prompt.ask, LIMITS).text for prompt in bare]
        scores = logits(
            model, encoder.token_ids(tokenizer, texts, LIMITS), f"bare asks {fold}", bar_line=fold
        )
        scaling = _scaling(model, tokenizer, course)
        _save_whole(
            ((scores + scaling.bias) / scaling.temperature).astype(np.float32), course.bare_file(fold)
        )


def _save_whole(array: NDArray[np.float32], path: Path) -> None:
    """Write an array so that a stop leaves it whole or not at all."""
    half_written = path.with_suffix(".tmp.npy")
    np.save(half_written, array)
    os.replace(half_written, path)


def _held_out(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Pick what people might send from the validation side."""
    return [p for p in prompts if p.side == "validation" and p.source not in NOT_TYPICAL and p.tasks]


def _scaling(model: BertForSequenceClassification, tokenizer: Tokenizer, course: _Course) -> Scaling:
    """Find what sets confidences right on the validation side, on prompts as they are given."""
    held_out, slow_tasks = course.held_out, course.slow_tasks
    if len(held_out) < CALIBRATION_ROWS_MIN or slow_tasks.all() or not slow_tasks.any():
        return Scaling(temperature=1.0, bias=(0.0,) * len(slow_tasks))
    texts = [normalise(p.text, LIMITS).text for p in held_out]
    scores = logits(model, encoder.token_ids(tokenizer, texts, LIMITS), "calibrating", exact=True)
    is_slow = np.array([course.policy[p.tasks[0]] == "slow" for p in held_out])
    return best_scaling(scores, is_slow, slow_tasks)


def _lean(course: _Course) -> float:
    """Find how far the open questions' bias must come down for bare asks to go the right way.

    On the training side, each ask judged by the teacher that has not seen it: four times as
    many as the validation side has, and the test side stays blind.
    """
    folds = range(course.recipe.teacher_folds)
    if not course.recipe.bare_floor or not all(course.bare_file(fold).is_file() for fold in folds):
        return 0.0
    return least_lean(
        np.concatenate([np.load(course.bare_file(fold)) for fold in folds]),
        np.array([course.policy[p.tasks[0]] == "slow" for fold in folds for p in course.bare(fold)]),
        course.slow_tasks,
        np.isin(course.tasks, OPEN_QUESTIONS),
        course.recipe.bare_floor,
    )


def training_mix(prompts: Sequence[Prompt], tasks: Sequence[str]) -> dict[str, float]:
    """Return each task's share of the training side's prompts as given, before composing.

    A prompt that may be several tasks counts for each by equal parts; one of unknown task does not.
    """
    known = [prompt.tasks for prompt in prompts if prompt.side == "train" and prompt.tasks]
    return {task: round(sum(1 / len(own) for own in known if task in own) / len(known), 6) for task in tasks}


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
