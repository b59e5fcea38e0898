"""Queries for load tests: sentences of our own, numbered, about 16 tokens each.

A seed gives one endless sequence without repeats; which of its numbers are asked, and
how often, is a mix's business (`shapes.py`).
"""

import random
from bisect import bisect
from itertools import accumulate

ASKS = (
    "Summarize the letter by {who} about the {noun} {place}",
    "Write a poem about {who} and a {noun} {place}",
    "Is {who} pleased with the {noun} {place} or annoyed",
    "Explain to {who} how the {noun} {place} is repaired",
    "Which dates does {who} name for the {noun} {place}",
    "Give {who} five ideas for the {noun} {place}",
    "Implement a function that tells {who} every {noun} {place}",
    "How often can {who} move the {noun} {place} in a month",
    "Sort this note by {who} on the {noun} {place}",
    "What should {who} know about the {noun} {place}",
)
WHO = (
    "a beekeeper", "the harbour master", "my neighbour", "a retired pilot", "the new intern", "our landlord",
    "a young nurse", "the choir", "a night guard", "the ferry crew", "a librarian", "the gardener",
    "a travelling cook", "the school board", "an apprentice", "the lift engineer", "a weather observer",
    "the baker", "our accountant", "a lock keeper", "the tram driver", "a piano tuner", "the village council",
    "a chess coach", "the orchard owner", "a museum guide", "the night shift", "a stage hand", "the vet",
    "a cartographer", "the postmistress", "a glass blower", "the mountain rescue", "a clockmaker",
    "the fire brigade", "a sculptor", "the swimming teacher", "a plumber", "the observatory", "a translator",
)  # fmt: skip
NOUNS = (
    "lighthouse", "violin", "bridge", "kettle", "glacier", "train", "telescope", "fountain", "ladder", "compass",
    "greenhouse", "anchor", "piano", "windmill", "lantern", "carpet", "bicycle", "chimney", "tunnel", "mirror",
    "harvest", "statue", "orchard", "elevator", "canoe", "balcony", "furnace", "scarf", "parcel", "barometer",
    "drum", "staircase", "aquarium", "tractor", "curtain", "pendulum", "sailboat", "vineyard", "satellite", "map",
)  # fmt: skip
PLACES = (
    "behind the station", "near the river", "on the island", "in the old town", "under the bridge",
    "beside the mill", "at the crossroads", "above the valley", "by the north gate", "in the cellar",
    "along the coast", "at the market", "on the hill", "in the attic", "outside the village",
    "next to the library", "across the bay", "at the airport", "in the back yard", "beyond the forest",
    "below the dam", "at the theatre", "on the fourth floor", "in the courtyard", "past the quarry",
    "opposite the school", "within the walls", "at the lake", "on the pier", "in the waiting room",
)  # fmt: skip
SIZE = len(ASKS) * len(WHO) * len(NOUNS) * len(PLACES)  # 480,000


class Texts:
    """One seed's sequence of texts: the same number is always the same text."""

    def __init__(self, seed: int) -> None:
        dice = random.Random(seed)
        self._start = dice.randrange(SIZE)
        # 2, 3 and 5 are SIZE's only prime factors: a step without them meets every text once.
        self._step = 30 * dice.randrange(SIZE // 90, SIZE // 30) + 1

    def text(self, number: int) -> str:
        """The text with this number, from 0. Past the 480,000 sentences they come again with their round's number."""
        round_, position = divmod(number, SIZE)
        rest = (self._start + position * self._step) % SIZE
        rest, ask = divmod(rest, len(ASKS))
        rest, who = divmod(rest, len(WHO))
        place, noun = divmod(rest, len(NOUNS))
        text = ASKS[ask].format(who=WHO[who], noun=NOUNS[noun], place=PLACES[place])
        return f"{text}, part {round_ + 1}" if round_ else text


class Zipf:
    """Ranks from 0 to `size` - 1, rank r drawn with a probability proportional to 1 / (r + 1) ** exponent."""

    def __init__(self, size: int, exponent: float) -> None:
        self._cumulative = list(accumulate((rank + 1) ** -exponent for rank in range(size)))

    def rank(self, dice: random.Random) -> int:
        return bisect(self._cumulative, dice.random() * self._cumulative[-1])
