"""Our own sentences that no training sees, for what no data set here can show.

Never use one in `asks.py`. `SHORT` are short factual or extractive asks with the
route they should take; `OUT_OF_DEPTH` has nothing to route by; `SAME_ASK` sets
one pasted text under asks of both routes.
"""

SHORT: tuple[tuple[str, str], ...] = (
    ("What is the capital of Mongolia?", "slow"),
    ("Who painted the ceiling of the Sistine Chapel?", "slow"),
    ("How tall is Mont Blanc?", "slow"),
    ("When did the Berlin Wall fall?", "slow"),
    ("Which planet has the most moons?", "slow"),
    ("Boiling point of ethanol?", "slow"),
    ("Who wrote Middlemarch?", "slow"),
    ("What does HTTP stand for?", "slow"),
    ("Is a tomato a fruit?", "slow"),
    ("Name the longest river in Asia.", "slow"),
    ("What is 17 times 23?", "slow"),
    ("Translate 'good night' into Portuguese.", "slow"),
    ("Spell 'necessary' backwards.", "slow"),
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
    "Wo liegt der Bahnhof?", "Traduis cette phrase en anglais.", "¿Quién escribió esta novela?",
    "Opowiedz mi bajkę.", "Какая сегодня погода?", "明日の予定を教えて", "这本书讲了什么？", "날씨 어때?",
    "ما هو الوقت الآن؟", "Kuinka vanha olet?", "Come si chiama il tuo cane?", "Vad kostar det?",
    "!?!?", "....", "=====", "~~~", "(((", "/// ///", "@@@", "7 7 7 7", "0000", "1/2", "€€€", "+-+-",
    "for i in range(3): pass", "SELECT 1;", "int x = 5;", "return None", "<br>", "[1, 2, 3]",
    "🎉", "😭😭", "🚀 🌕", "🤷", "👀👀👀", "lamp", "seven", "perhaps", "orange juice", "Tuesday", "hm", "yo",
    "k", "zzz", "blorptang", "wqpoeiruty", "of the", "\u200b", ".", "'",
)  # fmt: skip

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
