"""One round of training texts: the prompts as given, and what the data lack.

`examples()` is the public way in: one round of training texts, drawn afresh
from prompts by a seed. It knows prompts and sentences, and nothing of models.

What is put around an ask must say nothing of its route. So frames, system prompts and
earlier turns go around asks of both routes (`frames.py`), passages are set under slow
asks too, cut to any length, put before or after the ask, and left out; and slow prompts
are made long.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from router_training import frames
from router_training import prompt_templates as templates
from router_training.sources import OPEN_QUESTIONS, OWN, WIDE, Prompt, prompt_digest
from router_training.tasks import FAST, SLOW, TASKS

# P3's prompts are machine-made from few passages: more rows a template teach the template.
P3_ROWS_PER_TEMPLATE_MAX = 12

# Pasted texts come in two lengths: a sentence in quotes, and a page.
PASSAGE_WORDS = (20, 110)
SENTENCE_WORDS = (5, 25)
SENTENCE_SHARE = 0.25

# The only real hard prompts that we have: each is shown this often.
ARENA_COPIES = 2
# Of each wide file, rows a round: the big ones are of one kind, and the kinds should weigh alike.
WIDE_ROWS_MAX = 600
# Of Dolly's prompts, the share shown in a round: they are many and of one style.
DOLLY_SHARE = 0.6
# Our own prompts are realistic and in pairs. Each is shown as it is, and this share of them
# once more inside a frame or behind other turns.
OWN_AGAIN = 1.0
# The share of all other prompts that is shown inside a frame or behind other turns.
FRAMED_SHARE = 0.25
# The share of our own prompts that lose their final punctuation, or get a slip of the finger, in the second showing.
OWN_UNPUNCTUATED = 0.12
OWN_MISTYPED = 0.10
# Asks whose passage is left out, a round.
BARE_ROWS_MAX = 900

# Rows composed of sentences in one round, by family: few, since a model learns the sentences.
COMPOSED = {
    "slow_on_passage": 700,
    "fast_on_passage": 450,
    "slow_on_code": 300,
    "fast_on_code": 200,
    "alone": 300,
    "several_asks": 350,
    "long_slow": 500,
    "out_of_depth": 80,
}


@dataclass(frozen=True)
class Example:
    """One text to learn from.

    tasks   those that are right for it (several: any of them)
    origin  the digest of the prompt that asks in it; empty where our own sentences do
    whole   whether it asks what that prompt asks, so that what is judged of the one holds for the other
    """

    text: str
    tasks: tuple[str, ...]
    origin: str = ""
    whole: bool = False


def examples(prompts: Sequence[Prompt], seed: int, share: float = 1.0) -> list[Example]:
    """Draw one round of examples from prompts of one side; the same seed draws the same round.

    share  how much of the side these prompts are: so much of every family is composed
    """
    rng = random.Random(seed)
    given = _given(prompts, rng, share)
    found = [*given, *_bare(prompts, rng, round(BARE_ROWS_MAX * share))]
    # A user's own texts have other tasks, and no passages: nothing is composed for them.
    if any(prompt.passage for prompt in prompts):
        framer = frames.Framer(rng, [p.ask for p in prompts if len(p.ask) < 160 and not p.pair])
        own = [p for p in prompts if p.source.startswith(OWN)]
        again = rng.sample(own, round(len(own) * OWN_AGAIN))
        found.extend(_asked_whole(prompt, framer.around(spoilt(prompt.text, rng))) for prompt in again)
        maker = _Composer(rng, prompts)
        for family, count in COMPOSED.items():
            make = getattr(maker, family)
            found.extend(make() for _ in range(round(count * share)))
        found = [
            replace(example, text=framer.around(example.text))
            if i < len(given) and rng.random() < FRAMED_SHARE
            else example
            for i, example in enumerate(found)
        ]
    rng.shuffle(found)
    return [_perhaps_a_fact(example) for example in found]


def _given(prompts: Sequence[Prompt], rng: random.Random, share: float) -> list[Example]:
    """Return the labelled prompts with all they came with, lightly disturbed."""
    per_template: Counter[str] = Counter()
    per_file: Counter[str] = Counter()
    found = []
    passages = [prompt.passage for prompt in prompts if prompt.passage]
    shown = [p for p in prompts for _ in range(ARENA_COPIES if p.source == "arena-hard-v0.1" else 1)]
    for prompt in rng.sample(shown, len(shown)):
        if not prompt.tasks:
            continue
        if prompt.source == "p3-sample":
            per_template[prompt.template] += 1
            if per_template[prompt.template] > P3_ROWS_PER_TEMPLATE_MAX * share:
                continue
        if prompt.source in WIDE:
            per_file[prompt.source] += 1
            if per_file[prompt.source] > WIDE_ROWS_MAX * share:
                continue
        if prompt.source == "databricks-dolly-15k" and rng.random() > DOLLY_SHARE:
            continue
        if prompt.source == "system-prompts" and passages:
            text = f"{prompt.ask}\n\n{excerpt(rng.choice(passages), rng)}"
            found.append(Example(text, prompt.tasks, prompt_digest(prompt.text)))
            continue
        if not prompt.passage:
            # Ours are as people write; spoilt once more, a pair may lose what tells it apart.
            ask = prompt.ask if prompt.pair else disturbed(prompt.ask, rng)
            found.append(_asked_whole(prompt, ask))
            continue
        # Half as published, half in some other layout: the layout is no signal.
        frame = templates.FRAMES[0] if rng.random() < 0.5 else rng.choice(templates.FRAMES)
        passage = excerpt(prompt.passage, rng)
        ask = disturbed(prompt.ask, rng)
        found.append(_asked_whole(prompt, frame.format(ask=ask, passage=passage)))
    return found


def _asked_whole(prompt: Prompt, text: str) -> Example:
    return Example(text, prompt.tasks, prompt_digest(prompt.text), whole=True)


def _perhaps_a_fact(example: Example) -> Example:
    """Let an open question of a public set be an everyday fact: nobody has told them apart there."""
    return (
        replace(example, tasks=(*OPEN_QUESTIONS, "simple_fact"))
        if example.tasks == OPEN_QUESTIONS
        else example
    )


# What asks about a text that is not there is an open question; classes may be told from the ask alone.
BARE = {
    "summarization": ("general_qa", "open_qa"),
    "information_extraction": ("general_qa", "open_qa", "simple_fact"),
    "closed_qa": ("general_qa", "open_qa", "simple_fact"),
}


def _bare(prompts: Sequence[Prompt], rng: random.Random, rows_max: int) -> list[Example]:
    """Show asks without the passage they came with, which makes them open questions."""
    bare = [prompt for prompt in prompts if prompt.passage and prompt.tasks and prompt.tasks[0] in BARE]
    return [
        Example(disturbed(prompt.ask, rng), BARE[prompt.tasks[0]], prompt_digest(prompt.text))
        for prompt in rng.sample(bare, min(rows_max, len(bare)))
    ]


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
        return rng.choice(templates.WRAPS).format(ask=ask[:1].lower() + ask[1:])
    if chance < 0.28:
        return ask.rstrip(" .?!")
    if chance < 0.40:
        return mistyped(ask, rng)
    return ask


def spoilt(text: str, rng: random.Random) -> str:
    """Take the final punctuation from a short text, or mistype a word of it; or leave it, mostly."""
    chance = rng.random()
    if len(text) > 300 or text[:1] in "[{<":  # a slip in a conversation's JSON would make it another thing
        return text
    if chance < OWN_UNPUNCTUATED:
        return text.rstrip(" .?!")
    if chance < OWN_UNPUNCTUATED + OWN_MISTYPED:
        return mistyped(text, rng)
    return text


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


FAST_ON_PASSAGE = tuple(task for task in FAST if task in templates.ON_PASSAGE)
SLOW_ON_PASSAGE = tuple(task for task in SLOW if task in templates.ON_PASSAGE)


class _Composer:
    """Makes one example of a family at a time; every method is a family of `COMPOSED`."""

    def __init__(self, rng: random.Random, prompts: Sequence[Prompt]) -> None:
        self._rng = rng
        self._passages = [prompt.passage for prompt in prompts if prompt.passage]
        self._code = [prompt.ask for prompt in prompts if prompt.source == "humaneval"]
        self._alone = {
            task: [
                (p.ask, prompt_digest(p.text))
                for p in prompts
                if task in p.tasks and set(p.tasks) <= set(SLOW) and not p.passage and not p.pair
            ]
            for task in SLOW
        }

    def slow_on_passage(self) -> Example:
        task = self._rng.choice(SLOW_ON_PASSAGE)
        return self._framed(self._ask(templates.ON_PASSAGE, task), self._passage(), task)

    def fast_on_passage(self) -> Example:
        task = self._rng.choice(FAST_ON_PASSAGE)
        return self._framed(self._ask(templates.ON_PASSAGE, task), self._passage(), task)

    def slow_on_code(self) -> Example:
        task = "reasoning" if self._rng.random() < 0.15 else "coding"
        return self._framed(self._ask(templates.ON_CODE, task), self._snippet(), task, templates.CODE_FRAMES)

    def fast_on_code(self) -> Example:
        task = self._rng.choice([task for task in FAST_ON_PASSAGE if task in templates.ON_CODE])
        return self._framed(self._ask(templates.ON_CODE, task), self._snippet(), task, templates.CODE_FRAMES)

    def alone(self) -> Example:
        task = self._rng.choice(list(templates.ALONE))
        return Example(disturbed(self._ask(templates.ALONE, task), self._rng), (task,))

    def several_asks(self) -> Example:
        """One fast ask and one slow one about the same passage: the slow one decides."""
        slow = self._rng.choice(SLOW_ON_PASSAGE)
        both = [
            self._ask(templates.ON_PASSAGE, self._rng.choice(FAST_ON_PASSAGE)),
            self._ask(templates.ON_PASSAGE, slow),
        ]
        self._rng.shuffle(both)
        ask = self._rng.choice(templates.CHAINS).format(first=both[0], second=both[1])
        return self._framed(ask, self._passage(), slow)

    def long_slow(self) -> Example:
        """A slow ask made long by conditions, or by a passage before or after it."""
        task = self._rng.choice([task for task in SLOW if self._alone[task] or task in templates.ALONE])
        own = self._alone[task]
        sentences = task in templates.ALONE and self._rng.random() < 0.3
        ask, origin = (
            (self._ask(templates.ALONE, task), "") if sentences or not own else self._rng.choice(own)
        )
        if self._rng.random() < 0.5:
            count = self._rng.randint(2, 8)
            conditions = [self._filled(c) for c in self._rng.sample(templates.CONDITIONS, count)]
            return Example(" ".join([disturbed(ask, self._rng), *conditions]), (task,), origin)
        if task == "open_qa":
            # A question beside a passage may be answered by it; that would be closed_qa.
            return Example(disturbed(ask, self._rng), (task,), origin)
        background = f"Background, for interest only: {self._passage()}"
        parts = [disturbed(ask, self._rng), background]
        self._rng.shuffle(parts)
        return Example("\n\n".join(parts), (task,), origin)

    def out_of_depth(self) -> Example:
        """Anything may be meant: with labels at random, the model learns to be unsure."""
        return Example(self._rng.choice(templates.OUT_OF_DEPTH), (self._rng.choice(TASKS),))

    def _ask(self, table: dict[str, tuple[str, ...]], task: str) -> str:
        return self._filled(self._rng.choice(table[task]))

    def _filled(self, sentence: str) -> str:
        def one(slot: re.Match[str]) -> str:
            return self._rng.choice(templates.SLOTS[slot[1]])

        return re.sub(r"\{(\w+)\}", one, sentence)

    def _passage(self) -> str:
        if not self._passages or self._rng.random() < 0.25:
            return self._filled(self._rng.choice(templates.PASSAGES))
        return excerpt(self._rng.choice(self._passages), self._rng)

    def _snippet(self) -> str:
        own = not self._code or self._rng.random() < 0.5
        return self._rng.choice(templates.CODE if own else self._code)

    def _framed(self, ask: str, passage: str, task: str, frames: Sequence[str] = templates.FRAMES) -> Example:
        frame = self._rng.choice(frames)
        return Example(frame.format(ask=disturbed(ask, self._rng), passage=passage), (task,))
