"""What is asked: sentences of our own, about 16 tokens each, no two alike, and how often they come again."""

import itertools
import random
from bisect import bisect
from collections.abc import Iterator

# Sentences of 13 to 15 words, most of them one token each: with [CLS] and [SEP], 16 tokens.
ASKS = (
    "summarize the minutes of the {} {} meeting for the {} {} team",
    "write a short poem about a {} {} and a very {} {}",
    "which of these names a {} {}: a {} {} or a chair",
    "how would you teach a {} {} to draw a {} {} well",
    "write a function that sorts a {} {} list by {} {} weight",
    "what should a {} {} know before it buys a {} {} house",
)
QUALITIES = (
    "old", "young", "small", "large", "green", "blue", "red", "white", "black", "golden", "silver", "dark",
    "bright", "quiet", "loud", "slow", "quick", "warm", "cold", "soft", "hard", "heavy", "light", "long",
    "short", "wide", "narrow", "deep", "high", "low", "early", "late", "happy", "sad", "brave", "gentle",
    "proud", "simple", "strange", "famous", "hidden", "broken", "empty", "full", "fresh", "dry", "wet",
    "sharp", "smooth", "round", "flat", "square", "thick", "thin", "rich", "poor", "wild", "calm", "clean",
    "rough", "sweet", "bitter", "royal", "rural",
)  # fmt: skip
THINGS = (
    "garden", "violin", "bridge", "harbour", "comet", "kitchen", "glacier", "orchard", "train", "river",
    "mountain", "window", "market", "teacher", "doctor", "farmer", "soldier", "painter", "writer",
    "singer", "dancer", "driver", "pilot", "captain", "king", "queen", "prince", "child", "mother",
    "father", "brother", "sister", "friend", "horse", "dog", "cat", "bird", "fish", "lion", "bear", "wolf",
    "tree", "flower", "forest", "island", "ocean", "desert", "valley", "village", "city", "castle",
    "church", "school", "library", "hospital", "factory", "office", "station", "airport", "engine",
    "camera", "clock", "mirror", "bottle",
)  # fmt: skip
SIZE = 64**4  # two words of each list: 16.8 million


class Texts:
    """One seed's sequence of texts: the same number is always the same text, another number another one."""

    def __init__(self, seed: int) -> None:
        self._start = random.Random(seed).randrange(SIZE)

    def text(self, number: int) -> str:
        """The text with this number, from 0. After the last sentence they begin anew."""
        # An odd step walks a power of two in full, and neighbours differ in every word.
        place = (self._start + number * 10_368_889) % SIZE
        return ASKS[(place * 7 >> 9) % len(ASKS)].format(
            QUALITIES[place & 63], THINGS[place >> 6 & 63], QUALITIES[place >> 12 & 63], THINGS[place >> 18]
        )


def texts(seed: int) -> Iterator[str]:
    """One seed's texts in order, without end."""
    return map(Texts(seed).text, itertools.count())


class Zipf:
    """Ranks from 0 to `size` - 1, rank r drawn with a probability proportional to 1 / (r + 1) ** exponent."""

    def __init__(self, size: int, exponent: float = 1.0) -> None:
        self._cumulative = list(itertools.accumulate((rank + 1) ** -exponent for rank in range(size)))

    def rank(self, dice: random.Random) -> int:
        return bisect(self._cumulative, dice.random() * self._cumulative[-1])
