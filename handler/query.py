"""What a query is to the gateway: the text that the model will see, and its key.

`normalise` decides that text; `key` names it; `seen` says which characters of a query
it was made of. Training calls `normalise` too, so that the model never meets text
prepared in another way. Knows nothing of HTTP, caches or tokenizers.

The model is shown the ask first. In a conversation that is the last user turn; in a
text over the character limit it is the sentence that looks most like an ask, then the
text's head and its tail.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence

import msgspec

from handler.conversation import Asked, asked, recognised

KEY_BYTES = 16
# English runs at four to five bytes a WordPiece token; four errs on the dear side.
BYTES_PER_TOKEN = 4
SPECIAL_TOKENS = 2  # [CLS] and [SEP]
CUT = " … "
# Stands between an ask and what was said before it.
BEFORE = " ‖ "
# A transcript may be the ask of another; each level costs a scan of the text.
NESTED_MAX = 3
CONTEXT_CHARS_MIN = 24  # less says nothing


class Limits(msgspec.Struct, frozen=True):
    """How much of a query the model sees: its head and its tail, and the ask between them.

    Tokens are content tokens; the two special ones come on top. Characters are
    cut before tokenizing, so that a megabyte costs no more than a page.

    ask_chars_max      of the sentence that asks, where a text is cut and it is in neither
                       end; 0 looks for none
    context_chars_max  of what was said before a short ask in a conversation; 0 shows none
    """

    head_tokens_max: int
    tail_tokens_max: int
    head_chars_max: int
    tail_chars_max: int
    ask_chars_max: int = 0
    context_chars_max: int = 0

    @property
    def tokens_max(self) -> int:
        return self.head_tokens_max + self.tail_tokens_max

    @property
    def chars_max(self) -> int:
        return self.head_chars_max + self.tail_chars_max


class Normalised(msgspec.Struct, frozen=True):
    """Exactly the text that the model sees, and whether characters were left out."""

    text: str
    clipped: bool = False


def normalise(text: str, limits: Limits) -> Normalised:
    """Pick what decides, and fold what cannot change a route: case and the amount of white space.

    The model is uncased and blind to line breaks, so folding here costs it
    nothing and lets more queries share an answer. A text over the character
    limit keeps its ask, its head and its tail. Splitting stops at as many words as
    the limit could hold, so a long text costs no more than its scan.
    """
    of_conversation = _asked(text)
    ask = of_conversation.ask if of_conversation else text
    kept, clipped = _clipped(ask, limits)
    if of_conversation is not None and limits.context_chars_max:
        kept += _context(of_conversation, limits.context_chars_max - len(kept) // 2)
    return Normalised(kept.lower(), clipped)


def _asked(text: str) -> Asked | None:
    """Find what decides in a transcript; None for any other text."""
    found: Asked | None = None
    for _ in range(NESTED_MAX):
        turns = recognised(found.ask if found else text)
        inner = asked(turns) if turns else None
        if inner is None:
            break
        found = inner
    return found


def _context(of_conversation: Asked, chars_max: int) -> str:
    """Write what was said before an ask; the longer the ask, the less it needs.

    The system prompt and the user's turn before share the room: a third and the rest.
    """
    if chars_max < CONTEXT_CHARS_MIN:
        return ""
    system = _beginning(of_conversation.system, chars_max // 3)
    earlier = _beginning(of_conversation.earlier, chars_max - len(system))
    return "".join(f"{BEFORE}{part}" for part in (earlier, system) if part)


def _beginning(text: str, chars_max: int) -> str:
    return " ".join(text[: 4 * chars_max].split())[:chars_max].rstrip()


def _clipped(text: str, limits: Limits) -> tuple[str, bool]:
    """Fold white space and cut to the limits; returns the text and whether it was cut."""
    words_max = limits.chars_max // 2 + 1  # n words joined by blanks are over 2n - 2 characters
    words = text.split(None, words_max)
    if len(words) <= words_max:
        folded = " ".join(words)
        if len(folded) <= limits.chars_max:
            return folded, False
        head, tail = folded, folded
    else:
        head = " ".join(words[:words_max])
        tail = " ".join(text.rsplit(None, words_max)[-words_max:])
    head, tail = head[: limits.head_chars_max], tail[len(tail) - limits.tail_chars_max :]
    if limits.ask_chars_max and (place := ask_place(text)):
        ask = " ".join(text[slice(*place)].split())[: limits.ask_chars_max]
        # What the head shows whole stands first already.
        if ask and ask not in head:
            return ask + CUT + head + CUT + tail, True
    return head + CUT + tail, True


# The sentence that asks

# Beyond so much of either end of a text nobody looks: a query is a page or two.
LOOK_CHARS_MAX = 4_000
# A line up to this long is one unit, a longer one is cut into its sentences.
LINE_CHARS_MAX = 260
WORDS_MAX = 40
# Of so many lines at either end; a text of empty talk, a word a line, is no query.
LINES_MAX = 150
_LINE = re.compile(r"[^\n]+")
_DIGIT = re.compile(r"\d")
_SENTENCE = re.compile(r"[^.!?。！？]+(?:[.!?。！？]+[\"'”’)]*|\Z)")


def _words(text: str) -> list[str]:
    return text.split()


_QUESTIONS = frozenset(
    _words(
        """what what's whats who whom whose which when where why how is are was were do does did can could would should will
    has have am since under by to at from for on wer was wie warum wann wo welche qui que quoi quel quelle pourquoi
    comment quand qué quién cuál cómo cuándo por chi che quale perché come quando"""
    )
)
_VERBS = frozenset(
    _words(
        """summarize summarise summary sum tldr tl;dr translate rewrite rephrase reword paraphrase shorten simplify correct
    fix proofread edit polish convert turn format reformat sort list extract pull find get give tell name count classify
    label tag rate rank score categorize categorise identify pick choose decide write draft compose make create generate
    invent suggest brainstorm propose recommend come think plan design build implement code refactor debug optimize
    optimise explain describe discuss compare contrast evaluate assess analyze analyse review critique judge argue prove
    show derive calculate compute work estimate solve check verify verdict answer reply respond put add remove delete
    replace change redact anonymize anonymise bullet bullets title titles headline names ideas help advise prepare
    outline reconstruct imagine highlight quote copy return output fill complete continue finish based according only
    just feedback take go schreibe schreib fasse nenne erkläre übersetze écris résume explique traduis escribe resume
    explica traduce scrivi riassumi spiega traduci"""
    )
)
_POLITE = frozenset(
    _words(
        """please pls plz now then ok okay so also and but hi hey hello thanks i need want you'd like you we let's u kindly
    quick quickly question task ask instruction request prompt todo user q side bot assistant bitte"""
    )
)
_MAY_FOLLOW = frozenset(("can", "could", "would", "will", "i'd"))
_TO_A_READER = frozenset(
    _words(
        """please pls plz you your me above below this these word words sentence sentences bullet bullets line lines english
    german french spanish table json csv markdown only max short brief briefly reason reasons why text mail email
    document here everything whole nothing per"""
    )
)
_AROUND_WORDS = " \t\r,.:;!?\"'()[]*#>-–—"


def ask_place(text: str) -> tuple[int, int] | None:
    """Find the sentence of a long text that looks most like an ask; None in a text of blanks.

    returns  its place in the text, (start, end) in code points; the rest of its line follows it

    A cheap look by form alone. The weights were fitted to 560 texts of the training side
    whose ask is known, because another text holds the same material under another ask
    (docs/decisions/0003); but the first and the last line, which are shown anyway, weigh less.
    """
    best, place = float("-inf"), None
    for start, end, line_end, standing in _sentences(text):
        unit = text[start:end].strip()
        words = [word.strip(_AROUND_WORDS) for word in unit.lower().split(None, WORDS_MAX)]
        begins = _begins_as_ask(words)
        score = standing + 0.8 * min(2, sum(word in _TO_A_READER for word in words))
        if begins:
            score += 1.1
        if unit.endswith(("?", "？", '?"', "?)")):
            score += 1.1 if begins else 0.6
        elif unit.endswith((".", "!")):
            score -= 1.0
        if unit[:1].islower():
            score += 2.7 if start == 0 or text[start - 1] == "\n" else 1.6
        elif unit[:1] in "\"'“”«>|`*-•#=":
            score += 0.4
        if len(unit) < 25:
            score -= 1.0
        if ":" in unit[:24]:
            score -= 0.5
        if len(_DIGIT.findall(unit)) > 0.12 * len(unit):
            score -= 0.6
        if score > best:
            best, place = score, (start, line_end)
    return place


def _begins_as_ask(words: Sequence[str]) -> bool:
    """Tell a question or an order by its first word, once the politeness before it is gone."""
    for place, word in enumerate(words[:7]):
        if word in _VERBS:
            return True
        if word in _MAY_FOLLOW and place + 1 < len(words) and words[place + 1] in ("you", "u"):
            return True
        if word in _QUESTIONS:
            return True
        if word and word not in _POLITE and word[0] != "@":
            return False
    return False


def _sentences(text: str) -> Iterator[tuple[int, int, int, float]]:
    """Yield a text's short lines and the sentences of its long ones: start, end, end of line, how it stands.

    How it stands: first, last, on a line of its own, as a paragraph of its own.
    """
    ends = [(0, len(text))]
    if len(text) > 2 * LOOK_CHARS_MAX:
        ends = [(0, LOOK_CHARS_MAX), (len(text) - LOOK_CHARS_MAX, len(text))]
    lines = [
        (line.start(), line.end())
        for start, end in ends
        for line in _LINE.finditer(text, start, end)
        if not line[0].isspace()
    ]
    if len(lines) > 2 * LINES_MAX:
        lines = lines[:LINES_MAX] + lines[-LINES_MAX:]
    last = len(lines) - 1
    for i, (start, end) in enumerate(lines):
        if end - start <= LINE_CHARS_MAX:
            before = i == 0 or text.count("\n", lines[i - 1][1], start) > 1
            after = i == last or text.count("\n", end, lines[i + 1][0]) > 1
            yield start, end, end, 0.6 + 0.9 * (before and after) + 0.8 * (i == 0) + 1.2 * (i == last)
            continue
        units = [unit.span() for unit in _SENTENCE.finditer(text, start, end) if not unit[0].isspace()]
        for n, (first, until) in enumerate(units):
            standing = 1.1 * (i in (0, last)) + 0.5 * (i == n == 0)
            yield first, until, end, standing + 1.7 * (i == last and n == len(units) - 1)


# What was read, for those who ask


def seen(text: str, limits: Limits, kept: Sequence[tuple[int, int]] | None = None) -> list[tuple[int, int]]:
    """Say which characters of a text the model is shown: (start, end) in code points, in order.

    kept  the places in the normalised text that are left after the cut by tokens; None for all

    Slower than `normalise`: only for who wants to know.
    """
    of_conversation = _asked(text)
    ask = of_conversation.ask if of_conversation else text
    shown = _shown(ask, limits)
    if of_conversation is None:
        origins = shown
    else:
        in_text = _origin(text, ask)
        origins = [in_text[i] if i >= 0 else -1 for i in shown]
        if limits.context_chars_max:
            kept_text, _ = _clipped(ask, limits)
            room = limits.context_chars_max - len(kept_text) // 2
            origins += _shown_context(text, of_conversation, room)
    if kept is not None:
        origins = [origins[i] for start, end in kept for i in range(start, min(end, len(origins)))]
    return _spans(sorted({i for i in origins if i >= 0}))


def _shown(ask: str, limits: Limits) -> list[int]:
    """Return, for each character of the normalised ask, its place in the ask; -1 for our own marks."""
    kept, clipped = _clipped(ask, limits)
    if not clipped:
        return _folded_places(ask, 0, len(ask))
    mark = [-1] * len(CUT)
    # Enough of either end: as many words as the limits could hold.
    words_max = limits.chars_max // 2 + 1
    after_head = ask.split(None, words_max)
    head_end = len(ask) - len(after_head[-1]) if len(after_head) > words_max else len(ask)
    before_tail = ask.rsplit(None, words_max)
    tail_start = len(before_tail[0]) if len(before_tail) > words_max else 0
    head = _folded_places(ask, 0, head_end, limits.head_chars_max)
    tail = _folded_places(ask, tail_start, len(ask), limits.tail_chars_max, from_end=True)
    found = head + mark + tail
    if limits.ask_chars_max and len(kept.lower()) > len(found):
        place = ask_place(ask)
        assert place is not None
        found = _folded_places(ask, *place, limits.ask_chars_max) + mark + found
    return found


def _folded_places(
    text: str, start: int, end: int, chars_max: int | None = None, *, from_end: bool = False
) -> list[int]:
    """Return the place of each character of text[start:end] once folded, cut and lowered."""
    places: list[int] = []
    for word in re.finditer(r"\S+", text[start:end]):
        if places:
            places.append(start + word.start() - 1)
        places.extend(range(start + word.start(), start + word.end()))
    if chars_max is not None:
        places = (
            places[len(places) - chars_max :] if from_end and len(places) > chars_max else places[:chars_max]
        )
    # A character may become two in lower case.
    return [place for place in places for _ in text[place].lower()]


def _shown_context(text: str, of_conversation: Asked, room: int) -> list[int]:
    if room < CONTEXT_CHARS_MIN:
        return []
    found: list[int] = []
    system = _beginning(of_conversation.system, room // 3)
    for part, whole, chars_max in (
        (
            _beginning(of_conversation.earlier, room - len(system)),
            of_conversation.earlier,
            room - len(system),
        ),
        (system, of_conversation.system, room // 3),
    ):
        if part:
            in_text = _origin(text, whole)
            places = _folded_places(whole[: 4 * chars_max], 0, 4 * chars_max, len(part))
            found += [-1] * len(BEFORE) + [in_text[i] for i in places]
    return found


def _origin(text: str, part: str) -> Sequence[int]:
    """Return where each character of a turn stands in the transcript; -1 where that cannot be said."""
    at = text.rfind(part)
    if at >= 0:
        return range(at, at + len(part))
    for escaped in (msgspec.json.encode(part).decode()[1:-1], json.dumps(part)[1:-1]):
        at = text.rfind(escaped)
        if at >= 0:
            return _escaped_places(escaped, at)
    places: list[int] = []
    done = 0
    for line in part.splitlines(keepends=True):
        at = text.find(line.strip(), done)
        places += range(at, at + len(line)) if at >= 0 else [-1] * len(line)
        done = max(done, at)
    return [min(place, len(text) - 1) for place in places]


def _escaped_places(escaped: str, at: int) -> list[int]:
    """Return where each character stands whose JSON string begins at a place of a text."""
    return [at + sign.start() for sign in _JSON_SIGN.finditer(escaped)]


_JSON_SIGN = re.compile(r"\\u[dD][89abAB]\w\w\\u\w{4}|\\u\w{4}|\\.|.", re.DOTALL)


def _spans(places: Sequence[int]) -> list[tuple[int, int]]:
    """Join places that touch."""
    spans: list[tuple[int, int]] = []
    for place in places:
        if spans and spans[-1][1] == place:
            spans[-1] = (spans[-1][0], place + 1)
        else:
            spans.append((place, place + 1))
    return spans


def key(query: Normalised, model_digest: bytes) -> bytes:
    """Name a query for the caches: 16 bytes of keyed BLAKE2b.

    Keyed by the model's digest, so that a new model never reads an old answer.
    A clipped text differs from one that merely holds the cut mark, since the
    answers differ in `truncated`.
    """
    return hashlib.blake2b(
        query.text.encode(),
        digest_size=KEY_BYTES,
        key=model_digest,
        person=b"clipped" if query.clipped else b"",
    ).digest()


def estimate_tokens(query: Normalised, limits: Limits) -> int:
    """Guess a query's tokens from its bytes, without paying for tokenizing."""
    guess = len(query.text.encode()) // BYTES_PER_TOKEN + 1
    return min(guess, limits.tokens_max) + SPECIAL_TOKENS
