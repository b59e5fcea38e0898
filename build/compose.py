"""Make what the data lack: the same pasted text under fast asks and under slow ones.

`examples()` is the public way in: one round of training texts, drawn afresh
from prompts by a seed; `own_texts()` draws from our own sentences alone. Both know
prompts and sentences, and nothing of models.

Dolly alone teaches "a passage means fast", for it has passages in its fast
tasks only. So the passages are set under slow asks too, cut to any length, put
before or after the ask, and left out; and slow prompts are made long.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import asks
from data import Prompt
from tasks import FAST, SLOW, TASKS

# P3's prompts are machine-made from few passages: more rows a template teach the template.
P3_ROWS_PER_TEMPLATE_MAX = 20

# Pasted texts come in two lengths: a sentence in quotes, and a page.
PASSAGE_WORDS = (20, 110)
SENTENCE_WORDS = (5, 25)
SENTENCE_SHARE = 0.25

# The only real hard prompts that we have: each is shown this often.
ARENA_COPIES = 3

# Rows composed in one round, by family. Dolly has about 10,000 on the train side.
COMPOSED = {
    "slow_on_passage": 1400,
    "fast_on_passage": 900,
    "slow_on_code": 700,
    "fast_on_code": 250,
    "alone": 1200,
    "several_asks": 500,
    "long_slow": 900,
    "out_of_depth": 300,
}


@dataclass(frozen=True)
class Example:
    """One text to learn from, and the tasks that are right for it (several: any of them)."""

    text: str
    tasks: tuple[str, ...]


def examples(
    prompts: Sequence[Prompt], seed: int, share: float = 1.0, *, unlabelled: bool = False
) -> list[Example]:
    """Draw one round of examples from prompts of one side; the same seed draws the same round.

    share       how much of the side these prompts are: so much of every family is composed
    unlabelled  also show asks that only a teacher can judge, with every task allowed
    """
    rng = random.Random(seed)
    found = _given(prompts, rng, round(P3_ROWS_PER_TEMPLATE_MAX * share)) + _bare(prompts, rng, unlabelled)
    # A user's own texts have other tasks, and no passages: nothing is composed for them.
    if any(prompt.passage for prompt in prompts):
        maker = _Composer(rng, prompts)
        for family, count in COMPOSED.items():
            make = getattr(maker, family)
            found.extend(make() for _ in range(round(count * share)))
    rng.shuffle(found)
    return found


def own_texts(count: int, seed: int) -> list[str]:
    """Draw texts of every family without any data set: what calibration needs is variety."""
    rng = random.Random(seed)
    maker = _Composer(rng, ())
    return [getattr(maker, rng.choice(list(COMPOSED)))().text for _ in range(count)]


def _given(prompts: Sequence[Prompt], rng: random.Random, p3_rows_max: int) -> list[Example]:
    """Return the labelled prompts with all they came with, lightly disturbed."""
    per_template: Counter[str] = Counter()
    found = []
    shown = [p for p in prompts for _ in range(ARENA_COPIES if p.source == "arena-hard-v0.1" else 1)]
    for prompt in rng.sample(shown, len(shown)):
        if not prompt.tasks:
            continue
        if prompt.template:
            per_template[prompt.template] += 1
            if per_template[prompt.template] > p3_rows_max:
                continue
        if not prompt.passage:
            found.append(Example(disturbed(prompt.ask, rng), prompt.tasks))
            continue
        # Half as published, half in some other layout: the layout is no signal.
        frame = asks.FRAMES[0] if rng.random() < 0.5 else rng.choice(asks.FRAMES)
        passage = excerpt(prompt.passage, rng)
        ask = disturbed(prompt.ask, rng)
        found.append(Example(frame.format(ask=ask, passage=passage), prompt.tasks))
    return found


# A question whose passage is gone is an open question. What still asks for a text says so.
NAMES_ITS_TEXT = re.compile(
    r"\b(text|passage|paragraph|article|extract|excerpt|above|below|following|given|provided|mentioned)\b",
    re.IGNORECASE,
)


def _bare(prompts: Sequence[Prompt], rng: random.Random, unlabelled: bool) -> list[Example]:
    """Show asks without the passage they came with, where the task can still be told.

    Every summary and label is: that is how people forget to paste. (Half of those summaries
    are worded as open questions are: what A and B of the model card pull apart about.)
    """
    found = []
    for prompt in prompts:
        if not prompt.passage or not prompt.tasks:
            continue
        if prompt.tasks[0] in ("summarization", "classification") or NAMES_ITS_TEXT.search(prompt.ask):
            found.append(Example(disturbed(prompt.ask, rng), prompt.tasks))
        elif unlabelled:
            found.append(Example(disturbed(prompt.ask, rng), TASKS))
    return found


def excerpt(passage: str, rng: random.Random) -> str:
    """Cut a passage to a random number of words, from a random place: its length is no signal."""
    words = passage.split(" ")
    short = rng.random() < SENTENCE_SHARE
    count = rng.randint(*(SENTENCE_WORDS if short else PASSAGE_WORDS))
    start = rng.randint(0, max(0, len(words) - count)) if rng.random() < 0.3 else 0
    return " ".join(words[start : start + count])


def disturbed(ask: str, rng: random.Random) -> str:
    """Write an ask as people do: wrapped in politeness, unpunctuated, mistyped; or leave it."""
    chance = rng.random()
    if chance < 0.16 and len(ask) < 300:
        return rng.choice(asks.WRAPS).format(ask=ask[:1].lower() + ask[1:])
    if chance < 0.24:
        return ask.rstrip(" .?!")
    if chance < 0.32:
        return mistyped(ask, rng)
    return ask


def mistyped(ask: str, rng: random.Random) -> str:
    """Put one slip of the finger into one word: a letter lost, doubled, swapped or another."""
    words = list(re.finditer(r"[A-Za-z]{4,}", ask))
    if not words:
        return ask
    word = rng.choice(words)
    at = rng.randrange(word.start(), word.end() - 1)
    slip = rng.choice(("lost", "doubled", "swapped", "other"))
    if slip == "lost":
        return ask[:at] + ask[at + 1 :]
    if slip == "doubled":
        return ask[:at] + ask[at] + ask[at:]
    if slip == "swapped":
        return ask[:at] + ask[at + 1] + ask[at] + ask[at + 2 :]
    return ask[:at] + rng.choice("abcdefghijklmnopqrstuvwxyz") + ask[at + 1 :]


class _Composer:
    """Makes one example of a family at a time; every method is a family of `COMPOSED`."""

    def __init__(self, rng: random.Random, prompts: Sequence[Prompt]) -> None:
        self._rng = rng
        self._passages = [prompt.passage for prompt in prompts if prompt.passage]
        self._code = [prompt.ask for prompt in prompts if prompt.source == "humaneval"]
        self._alone = {
            task: [p.ask for p in prompts if p.tasks == (task,) and not p.passage] for task in TASKS
        }

    def slow_on_passage(self) -> Example:
        task = self._rng.choice(SLOW)
        return self._framed(self._ask(asks.ON_PASSAGE, task), self._passage(), task)

    def fast_on_passage(self) -> Example:
        task = self._rng.choice(FAST)
        return self._framed(self._ask(asks.ON_PASSAGE, task), self._passage(), task)

    def slow_on_code(self) -> Example:
        task = "reasoning" if self._rng.random() < 0.15 else "coding"
        return self._framed(self._ask(asks.ON_CODE, task), self._snippet(), task, asks.CODE_FRAMES)

    def fast_on_code(self) -> Example:
        task = self._rng.choice([task for task in FAST if task in asks.ON_CODE])
        return self._framed(self._ask(asks.ON_CODE, task), self._snippet(), task, asks.CODE_FRAMES)

    def alone(self) -> Example:
        task = self._rng.choice(list(asks.ALONE))
        return Example(disturbed(self._ask(asks.ALONE, task), self._rng), (task,))

    def several_asks(self) -> Example:
        """One fast ask and one slow one about the same passage: the slow one decides."""
        slow = self._rng.choice(SLOW)
        both = [self._ask(asks.ON_PASSAGE, self._rng.choice(FAST)), self._ask(asks.ON_PASSAGE, slow)]
        self._rng.shuffle(both)
        ask = self._rng.choice(asks.CHAINS).format(first=both[0], second=both[1])
        return self._framed(ask, self._passage(), slow)

    def long_slow(self) -> Example:
        """A slow ask made long by conditions, or by a passage before or after it."""
        task = self._rng.choice(SLOW)
        own = self._alone[task]
        ask = self._rng.choice(own) if own and self._rng.random() < 0.6 else self._ask(asks.ALONE, task)
        if self._rng.random() < 0.5:
            count = self._rng.randint(2, 8)
            conditions = [self._filled(c) for c in self._rng.sample(asks.CONDITIONS, count)]
            return Example(" ".join([disturbed(ask, self._rng), *conditions]), (task,))
        if task == "open_qa":
            # A question beside a passage may be answered by it; that would be closed_qa.
            return Example(disturbed(ask, self._rng), (task,))
        background = f"Background, for interest only: {self._passage()}"
        parts = [disturbed(ask, self._rng), background]
        self._rng.shuffle(parts)
        return Example("\n\n".join(parts), (task,))

    def out_of_depth(self) -> Example:
        """Anything may be meant: with labels at random, the model learns to be unsure."""
        return Example(self._rng.choice(asks.OUT_OF_DEPTH), (self._rng.choice(TASKS),))

    def _ask(self, table: dict[str, tuple[str, ...]], task: str) -> str:
        return self._filled(self._rng.choice(table[task]))

    def _filled(self, sentence: str) -> str:
        def one(slot: re.Match[str]) -> str:
            return self._rng.choice(asks.SLOTS[slot[1]])

        return re.sub(r"\{(\w+)\}", one, sentence)

    def _passage(self) -> str:
        if not self._passages or self._rng.random() < 0.25:
            return self._filled(self._rng.choice(asks.PASSAGES))
        return excerpt(self._rng.choice(self._passages), self._rng)

    def _snippet(self) -> str:
        own = not self._code or self._rng.random() < 0.5
        return self._rng.choice(asks.CODE if own else self._code)

    def _framed(self, ask: str, passage: str, task: str, frames: Sequence[str] = asks.FRAMES) -> Example:
        frame = self._rng.choice(frames)
        return Example(frame.format(ask=disturbed(ask, self._rng), passage=passage), (task,))
