"""How a router is trained: the story of `train`, from prompts to a checkpoint.

Find the prompts and the base encoder, prune its vocabulary and its neurons, fine-tune it
on rounds of texts that are drawn afresh, set its confidences right on the validation
side, and write the checkpoint. The test side is not looked at.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from router_training import (
    encoder,
    fitting,
    frames,
    judgements,
    labelled_file,
    prompt_templates,
    sources,
    synthesis,
    tasks,
)
from router_training.calibration import Scaling, best_scaling
from router_training.fitting import Rows, Schedule, fit, logits
from router_training.sources import OPEN_QUESTIONS, OWN, WIDE, DataError, Prompt
from router_training.synthesis import Example
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

from handler import conversation, query
from handler.query import Limits, normalise

# What the model is shown of a query (docs/decisions/0003 has what was tried).
LIMITS = Limits(
    head_tokens_max=88, tail_tokens_max=48, head_chars_max=280, tail_chars_max=200, ask_chars_max=180,
    context_chars_max=160,
)  # fmt: skip

# Sets that are all of one kind, machine-made, or of unknown task: calibration is for what people send.
NOT_TYPICAL = (
    "arena-hard-v0.1", "humaneval", "p3-sample", "self-instruct-seed-tasks", "short-questions", "ifeval",
    "awesome-chatgpt-prompts", "mbpp", "gsm8k-train", "system-prompts",
)  # fmt: skip
CALIBRATION_ROWS_MIN = 100  # fewer would set the numbers by chance
# Of what is learnt of a row that teachers have judged, their share; the rest is the label's.
JUDGED_SHARE = 0.5
# Which neurons are kept is measured on so many rows.
ROWS_TO_MEASURE = 1000


@dataclass(frozen=True)
class Recipe:
    """The amounts of everything; `full` is what ships.

    width           neurons kept in each feed-forward, where the encoder has 1,536
    rows_per_batch  rows of one step
    prompts_share   of the training side that is used
    steps_min       epochs are repeated until there are so many: a hundred rows are four steps an epoch
    """

    tokens_max: int = 18_000
    layers: int = 4
    width: int = 1_408
    epochs: int = 10
    rows_per_batch: int = 128
    rate: float = 4e-4
    prompts_share: float = 1.0
    steps_min: int = 0


RECIPES = {
    "full": Recipe(),
    # All stages on a little, in minutes: to try a change, or to see one command make one model twice.
    "short": Recipe(epochs=1, rows_per_batch=32, rate=2e-4, prompts_share=0.12),
    # A user's own data.
    "own": Recipe(epochs=3, rows_per_batch=32, rate=2e-4, steps_min=150),
}


@dataclass(frozen=True)
class Order:
    """What a user asked for.

    base   a folder, a wheel or a hub name
    data   the user's own labelled texts, or None for the sets that the shipped router learns from
    """

    base: str
    out: Path
    work: Path
    data: Path | None = None
    fast_tasks: tuple[str, ...] = ()
    recipe: str | None = None
    layers: int | None = None
    steps_max: int | None = None
    seed: int = 7

    def chosen_recipe(self) -> Recipe:
        recipe = RECIPES[self.recipe or ("own" if self.data else "full")]
        return replace(recipe, layers=self.layers) if self.layers else recipe


def train(order: Order) -> None:
    """Make the checkpoint that is ordered. Raises DataError or BaseError."""
    prompts, policy = _prompts(order)
    recipe = order.chosen_recipe()
    base = encoder.find_base(order.base, order.work)
    course = _Course(base, tuple(_training_side(prompts, recipe)), policy, recipe, order.seed)
    state = _state_name(order, recipe, prompts, base)
    watch = _Watch()

    with watch.stage("vocabulary and neurons"):
        model, tokenizer = course.start()
    with watch.stage("training"):
        fit(
            model,
            lambda epoch: course.rows(tokenizer, epoch),
            course.schedule(tokenizer, order.steps_max),
            order.work / f"router-{state}.pt",
            "training",
        )
    with watch.stage("calibration"):
        scaling = _scaling(model, tokenizer, _held_out(prompts), policy)
        with torch.no_grad():
            model.classifier.bias.add_(torch.tensor(scaling.bias, dtype=torch.float32))
    facts = {
        "tasks": list(policy),
        "policy": policy,
        "temperature": scaling.temperature,
        "limits": {name: getattr(LIMITS, name) for name in LIMITS.__struct_fields__},
        "data": _data_facts(prompts),
        "training_mix": training_mix(prompts, tuple(policy)),
        "recipe": asdict(recipe)
        | {
            "seed": order.seed,
            "bias": {task: round(b, 4) for task, b in zip(policy, scaling.bias, strict=True)},
        },
        "tools": {
            "torch": torch.__version__.split("+")[0],
            "transformers": version("transformers"),
            "tokenizers": version("tokenizers"),
            "on": fitting.device(),
        },
    }
    _write(model, tokenizer, facts, order.out)
    print(f"{order.out} is made\n{watch.report()}")


def _prompts(order: Order) -> tuple[list[Prompt], dict[str, str]]:
    """Return the prompts, and the route of each task in logit order."""
    if order.data is None:
        if order.fast_tasks:
            raise DataError("--fast-tasks goes with --data; the twenty tasks have their policy")
        return sources.prompts(), tasks.POLICY
    prompts = labelled_file.read(order.data)
    known = tuple(sorted({prompt.tasks[0] for prompt in prompts}))
    fast = set(order.fast_tasks)
    if unknown := sorted(fast - set(known)):
        raise DataError(f"--fast-tasks names {', '.join(unknown)}; the data have {', '.join(known)}")
    if not fast or fast == set(known):
        raise DataError(
            f"--fast-tasks must name some of {', '.join(known)}, and not all: "
            "with one route there is nothing to decide"
        )
    return prompts, {task: "fast" if task in fast else "slow" for task in known}


def _state_name(order: Order, recipe: Recipe, prompts: Sequence[Prompt], base: Path) -> str:
    """Name the state by all that shapes it, so that a changed command never resumes another's.

    That is what was asked for, the prompts, the base's files, our code from prompt to loss, and the
    libraries that tokenize and compute.
    """
    code = [
        inspect.getsource(module)
        for module in (prompt_templates, synthesis, frames, judgements, fitting, encoder, query, conversation)
    ]
    # By content: training that goes on from its own output must not find itself done.
    files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(base.glob("*.safetensors"))]
    files.append(hashlib.sha256((base / "tokenizer.json").read_bytes()).hexdigest())
    files.append(hashlib.sha256(judgements.FILE.read_bytes()).hexdigest())
    libraries = [f"{name}=={version(name)}" for name in ("torch", "transformers", "tokenizers", "numpy")]
    shape = repr((recipe, order.seed, order.steps_max, files, LIMITS, prompts, code, libraries))
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
    return int(hashlib.sha256(sources.normalised_key(text).encode()).hexdigest()[:8], 16) / 2**32


class _Watch:
    """Notes how long each stage took, and how much of all processors."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._started = time.monotonic()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started, worked = time.monotonic(), time.process_time()
        yield
        self._note(name, time.monotonic() - started, time.process_time() - worked)

    def report(self) -> str:
        self._note("all", time.monotonic() - self._started, time.process_time())
        return "\n".join(self._lines)

    def _note(self, name: str, wall_s: float, cpu_s: float) -> None:
        self._lines.append(f"{name}: {wall_s / 60:.1f} minutes, {cpu_s / 60:.1f} of processor time")


class _Course:
    """What to learn and how.

    prompts  of the training side
    policy   the route of each task, in logit order
    """

    def __init__(
        self, base: Path, prompts: tuple[Prompt, ...], policy: dict[str, str], recipe: Recipe, seed: int
    ) -> None:
        self._base = base
        self._prompts = prompts
        self._tasks = tuple(policy)
        self._recipe = recipe
        self._seed = seed
        # Teachers know the twenty tasks and no user's own.
        self._judged = judgements.read() if self._tasks == tasks.TASKS else {}
        # A round is asked for more than once; the last one is kept.
        self._round = lru_cache(maxsize=1)(self._draw_round)

    def start(self) -> tuple[BertForSequenceClassification, Tokenizer]:
        """Return the model before its first lesson, and its tokenizer."""
        recipe = self._recipe
        torch.manual_seed(self._seed)
        torch.set_flush_denormal(True)
        model = encoder.load(self._base, self._tasks, recipe.layers)
        texts = [normalise(example.text, LIMITS).text for example in self._round(0)]
        tokenizer = encoder.read_tokenizer(self._base)
        tokenizer = encoder.prune_vocabulary(model, tokenizer, texts, recipe.tokens_max)
        if recipe.width < model.config.intermediate_size:
            rows = encoder.token_ids(tokenizer, texts[:ROWS_TO_MEASURE], LIMITS)
            model = encoder.copied(model, recipe.layers, recipe.width, rows)
        return model, tokenizer

    def rows(self, tokenizer: Tokenizer, number: int) -> Rows:
        """Return a round of rows; one number is one round."""
        return self._as_rows(tokenizer, self._round(number))

    def schedule(self, tokenizer: Tokenizer, steps_max: int | None) -> Schedule:
        recipe = self._recipe
        steps_an_epoch = -(-len(self.rows(tokenizer, 0).ids) // recipe.rows_per_batch)
        epochs = max(recipe.epochs, -(-recipe.steps_min // steps_an_epoch))
        return Schedule(epochs, recipe.rate, self._seed, recipe.rows_per_batch, steps_max)

    def _draw_round(self, number: int) -> list[Example]:
        return synthesis.examples(self._prompts, self._seed * 1000 + number, self._recipe.prompts_share)

    def _as_rows(self, tokenizer: Tokenizer, drawn: Sequence[Example]) -> Rows:
        """Make rows of examples: their texts as served, and what is to be learnt of them."""
        texts = [normalise(example.text, LIMITS).text for example in drawn]
        allowed = np.array([[task in example.tasks for task in self._tasks] for example in drawn])
        unjudged = np.zeros(len(self._tasks), dtype=np.float32)
        judged = np.array(
            [self._judged.get(e.origin, unjudged) if e.whole else unjudged for e in drawn], dtype=np.float32
        )
        return Rows(
            encoder.token_ids(tokenizer, texts, LIMITS),
            allowed,
            judgements.targets(allowed, judged, JUDGED_SHARE),
        )


def _held_out(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Pick what people might send from the validation side."""
    return [p for p in prompts if p.side == "validation" and p.source not in NOT_TYPICAL and p.tasks]


def kind_of(prompt: Prompt) -> str:
    """Name the kind of set that a prompt is from: kinds weigh alike where people are to be matched."""
    return "own" if prompt.source.startswith(OWN) else "wide" if prompt.source in WIDE else "other"


def _scaling(
    model: BertForSequenceClassification,
    tokenizer: Tokenizer,
    held_out: Sequence[Prompt],
    policy: dict[str, str],
) -> Scaling:
    """Find what sets confidences right on the validation side, on prompts as they are given."""
    is_slow_task = np.array([route == "slow" for route in policy.values()])
    if len(held_out) < CALIBRATION_ROWS_MIN:
        return Scaling(temperature=1.0, bias=(0.0,) * len(policy))
    texts = [normalise(p.text, LIMITS).text for p in held_out]
    scores = logits(model, encoder.token_ids(tokenizer, texts, LIMITS), "calibrating")
    allowed = np.array([[task in _perhaps_a_fact(p) for task in policy] for p in held_out])
    kinds = [kind_of(p) for p in held_out]
    weights = np.array([1 / kinds.count(kind) for kind in kinds])
    return best_scaling(scores, allowed, is_slow_task, weights / weights.sum())


def _perhaps_a_fact(prompt: Prompt) -> tuple[str, ...]:
    """Leave open what public sets call open and general questions: many are everyday facts.

    For calibration alone. In training (`synthesis`) only open questions are left so; of the general ones the
    teachers say half.
    """
    return (*prompt.tasks, "simple_fact") if set(prompt.tasks) == set(OPEN_QUESTIONS) else prompt.tasks


def training_mix(prompts: Sequence[Prompt], known_tasks: Sequence[str]) -> dict[str, float]:
    """Return each task's share of the training side's prompts as given, before composing.

    A prompt that may be several tasks counts for each by equal parts; one of unknown task does not.
    """
    known = [prompt.tasks for prompt in prompts if prompt.side == "train" and prompt.tasks]
    return {
        task: round(sum(1 / len(own) for own in known if task in own) / len(known), 6) for task in known_tasks
    }


def _data_facts(prompts: Sequence[Prompt]) -> dict[str, object]:
    """Say which data made the model: sides in rows, each public set by its digest, our own by theirs."""
    names = sorted({prompt.source for prompt in prompts})
    own = [(p.source, p.ask, p.tasks) for p in prompts if p.source.startswith(OWN)]
    return {
        "rows": {side: sum(p.side == side for p in prompts) for side in ("train", "validation", "test")},
        "sources": {name: sources.SOURCES[name].digest for name in names if name in sources.SOURCES},
        "own_rows": len(own),
        "own_digest": hashlib.sha256(repr(own).encode()).hexdigest(),
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
