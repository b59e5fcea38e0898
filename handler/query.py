"""What a query is to the gateway: the text that the model will see, and its key.

`normalise` decides that text; `key` names it. Training calls `normalise` too, so
that the model never meets text prepared in another way. Knows nothing of HTTP,
caches or tokenizers.
"""

import hashlib

import msgspec

KEY_BYTES = 16
# English runs at four to five bytes a WordPiece token; four errs on the dear side.
BYTES_PER_TOKEN = 4
SPECIAL_TOKENS = 2  # [CLS] and [SEP]
CUT = " … "


class Limits(msgspec.Struct, frozen=True):
    """How much of a query the model sees: its head and its tail, nothing between.

    Tokens are content tokens; the two special ones come on top. Characters are
    cut before tokenizing, so that a megabyte costs no more than a page.
    """

    head_tokens_max: int
    tail_tokens_max: int
    head_chars_max: int
    tail_chars_max: int

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
    """Fold what cannot change a route: case and the amount of white space.

    The model is uncased and blind to line breaks, so folding here costs it
    nothing and lets more queries share an answer. A text over the character
    limit keeps its head and its tail. Splitting stops at as many words as the
    limit could hold, so a long text costs no more than its scan.
    """
    words_max = limits.chars_max // 2 + 1  # n words joined by blanks are over 2n - 2 characters
    words = text.split(None, words_max)
    if len(words) <= words_max:
        folded = " ".join(words)
        if len(folded) <= limits.chars_max:
            return Normalised(folded.lower())
        head, tail = folded, folded
    else:
        head = " ".join(words[:words_max])
        tail = " ".join(text.rsplit(None, words_max)[-words_max:])
    kept = head[: limits.head_chars_max] + CUT + tail[len(tail) - limits.tail_chars_max :]
    return Normalised(kept.lower(), clipped=True)


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
