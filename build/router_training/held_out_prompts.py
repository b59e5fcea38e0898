"""Our own sentences that no training sees, for what no data set here can show.

Never use one in `prompt_templates.py` or `frames.py`. `SHORT` are short factual or extractive asks with the
route they should take; `OUT_OF_DEPTH` has nothing to route by; `FRAMES` go
around an ask; `SAME_ASK` sets one pasted text under asks of both routes.
"""

SHORT: tuple[tuple[str, str], ...] = (
    ("What is the capital of Mongolia?", "fast"),
    ("Who painted the ceiling of the Sistine Chapel?", "fast"),
    ("How tall is Mont Blanc?", "fast"),
    ("When did the Berlin Wall fall?", "fast"),
    ("Which planet has the most moons?", "slow"),
    ("Boiling point of ethanol?", "slow"),
    ("Who wrote Middlemarch?", "slow"),
    ("What does HTTP stand for?", "fast"),
    ("Is a tomato a fruit?", "fast"),
    ("Name the longest river in Asia.", "fast"),
    ("What is 17 times 23?", "fast"),
    ("Translate 'good night' into Portuguese.", "fast"),
    ("Spell 'necessary' backwards.", "fast"),
    ("From 'Jo paid Kim 40 euros on Monday', who was paid?", "fast"),
    ("Extract the phone number: call me at 555-0182 after lunch.", "fast"),
    ("Which of these are birds: heron, trout, wren, newt?", "fast"),
    ("Is 'I love waiting in line for hours' sarcastic or sincere?", "fast"),
    ("Summarize: the pump failed twice, so the plant bought a spare.", "fast"),
    ("Label as urgent or not: 'the server room is on fire'.", "fast"),
    ("'Ines moved from Lima to Quito in 2004.' Where did Ines live before Quito?", "fast"),
    ("Give the verb in this sentence: the cat chased a moth.", "fast"),
    ("Pick the odd one out: lead, zinc, granite, nickel.", "fast"),
    ("tldr: meeting moved to 4pm, bring laptops, lunch is on us", "fast"),
    ("List the cities in: 'We flew from Oslo to Rome with a stop in Vienna.'", "fast"),
)

OUT_OF_DEPTH: tuple[str, ...] = (
    "!?!?", "....", "=====", "~~~", "(((", "/// ///", "@@@", "7 7 7 7", "0000", "1/2", "€€€", "+-+-", "🚀 🌕", "lamp",
    "orange juice", "blorptang", "wqpoeiruty", "of the", ".", "'",
)  # fmt: skip

# Frames that no training text had, around asks of both routes.
FRAMES: tuple[str, ...] = (
    "You work at the front desk of a hotel.\n\n{ask}",
    "Rules: stay polite, do not guess, do not repeat the question.\n\n{ask}",
    "Use nothing but the information provided.\n{ask}",
    'Give your result as JSON: {"result": "…", "confidence": 0.0}\n\n{ask}',
    "[task]\n{ask}\n[/task]",
    "PROMPT >>> {ask} <<<",
    "Example question: how far is the moon?\nExample answer: about 384,000 km\n\nNow yours: {ask}",
    "Human: good evening\n\nAssistant: Good evening! How can I help?\n\nHuman: {ask}\n\nAssistant:",
    "<|im_start|>system\nYou are the voice of a city's web site.<|im_end|>\n<|im_start|>user\n{ask}<|im_end|>\n<|im_start|>assistant\n",
    "<system-reminder>Two files are open in the editor.</system-reminder>\n{ask}",
    "{ask}\n\nAnswer in no more than three sentences.",
    "(forwarded from the mobile app)\n\n{ask}\n\nthanks",
)

_LETTER = (
    "Dear neighbours, the water will be turned off on Thursday from nine to noon while the main valve "
    "is replaced. Please fill a bucket beforehand. The lift keeps running. Yours, R. Falk, caretaker"
)
_SNIPPET = "def mean(values):\n    total = 0\n    for v in values:\n        total =+ v\n    return total / len(values)"

SAME_ASK: tuple[tuple[str, str], ...] = tuple(
    (layout.format(ask=ask, pasted=pasted), route)
    for pasted, asks in (
        (
            _LETTER,
            (
                ("Summarize this notice in one line.", "fast"),
                ("When will the water be off?", "fast"),
                ("Who signed the letter?", "fast"),
                ("Is this notice friendly or hostile?", "fast"),
                ("Write a poem in which the water answers the caretaker.", "slow"),
                ("Think of eight games to play while there is no water.", "slow"),
                ("What are the legal duties of a landlord in such a case?", "slow"),
                ("Estimate how much water twelve flats must store, step by step.", "slow"),
                ("Summarize it, then write a furious reply as an opera singer.", "slow"),
            ),
        ),
        (
            _SNIPPET,
            (
                ("Which language is this written in?", "fast"),
                ("List the variable names used here.", "fast"),
                ("The result is always wrong, repair it.", "slow"),
                ("Rewrite it as a one-liner and add tests.", "slow"),
                ("What happens for an empty list, and how would you guard against it?", "slow"),
            ),
        ),
    )
    for ask, route in asks
    for layout in ("{ask}\n\n{pasted}", "{pasted}\n\n{ask}")
)
