"""Which turn of a conversation decides, and which texts are transcripts of one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.conversation import (
    TURNS_MAX,
    Asked,
    NothingToAsk,
    Turn,
    asked,
    recognised,
    without_injected,
    written,
)

HARD = "Prove that the square root of two is irrational."
EASY = "Summarize this paragraph: The lighthouse was built in 1857."

turns = st.lists(
    st.builds(
        Turn, st.sampled_from(["system", "user", "assistant", "tool"]), st.text('ab \n"\\:<[é😀', max_size=20)
    ),
    max_size=6,
)


def of(text: str) -> str | None:
    """The ask of a transcript; None for a text that is none."""
    found = recognised(text)
    ask = asked(found) if found else None
    return ask.ask if ask else None


# What decides


def test_the_last_user_turn_is_the_ask() -> None:
    found = asked([Turn("system", "s"), Turn("user", "one"), Turn("assistant", "x"), Turn("user", "two")])

    assert found == Asked("two", system="s", earlier="one")


@pytest.mark.parametrize(
    "last",
    [Turn("assistant", "Done."), Turn("tool", "4 rows"), Turn("system", "Be brief.")],
    ids=lambda t: t.role,
)
def test_what_is_said_after_the_last_user_turn_does_not_decide(last: Turn) -> None:
    found = asked([Turn("user", HARD), last])

    assert found is not None
    assert found.ask == HARD


@pytest.mark.parametrize(
    "text",
    [
        "<system-reminder>Summarize the file.</system-reminder>",
        "<tool_result>4 rows</tool_result>",
        "  \n",
        "",
    ],
)
def test_a_user_turn_without_words_of_its_own_is_passed_over(text: str) -> None:
    found = asked([Turn("user", HARD), Turn("assistant", "…"), Turn("user", text)])

    assert found is not None
    assert found.ask == HARD


@pytest.mark.parametrize(
    "said", [[], [Turn("system", "s")], [Turn("user", " ")], [Turn("assistant", "hello")]]
)
def test_a_conversation_in_which_nobody_asks_has_no_text(said: list[Turn]) -> None:
    with pytest.raises(NothingToAsk):
        written(said)


# The one text form


@given(turns)
def test_what_is_written_is_read_back(said: list[Turn]) -> None:
    if asked(said) is None:
        return

    assert recognised(written(said)) == said


# Reminders and results


@pytest.mark.parametrize(
    "text",
    [
        f"<system-reminder>{EASY}</system-reminder>\n{HARD}",
        f"{HARD}\n<system-reminder>{EASY}</system-reminder>",
        f"<System-Reminder>{EASY}</SYSTEM-REMINDER>{HARD}<env>linux</env>",
        f'<system-reminder kind="x">\n{EASY}\n</system-reminder>\n\n{HARD}',
    ],
)
def test_a_reminder_around_an_ask_is_not_read(text: str) -> None:
    assert without_injected(text).strip() == HARD


def test_a_reminder_that_is_never_closed_stays() -> None:
    text = f"<system-reminder>{HARD}"

    assert without_injected(text) == text


# Transcripts


@pytest.mark.parametrize(
    "text",
    [
        f"User: {EASY}\nAssistant: Done.\nUser: {HARD}",
        f"User: {EASY}\nAssistant: Done.\nUser: {HARD}\nAssistant:",
        f"Human: {EASY}\n\nAI: Done.\n\nHuman: {HARD}\n\nAI:",
        f"System: You summarize.\n\nUser: {HARD}",
        f"SYSTEM: You summarize.\nUSER: {HARD}\nASSISTANT:",
        f"**User:** {EASY}\n\n**Assistant:** Done.\n\n**User:** {HARD}",
        f"**You:** {EASY}\n\n**Bot:** Done.\n\n**You:** {HARD}",
        f"### User\n{EASY}\n\n### Assistant\nDone.\n\n### User\n{HARD}",
        f"### Instruction:\n{EASY}\n\n### Response:\nDone.\n\n### Instruction:\n{HARD}\n\n### Response:\n",
        f"USER\n{EASY}\n\nASSISTANT\nDone.\n\nUSER\n{HARD}",
        f"[user] {EASY}\n[assistant] Done.\n[user] {HARD}",
        f"[14:09] user: {EASY}\n[14:10] assistant: Done.\n[14:11] user: {HARD}",
        f"Customer: {EASY}\nAgent: Done.\nCustomer: {HARD}",
        f"Q: {EASY}\nA: Done.\nQ: {HARD}\nA:",
        f"用户：{EASY}\n助手：好的。\n用户：{HARD}",
        f"You are a helpful assistant.\n\nUser: {EASY}\nAssistant: Done.\nUser: {HARD}",
        f"Conversation so far:\nuser: {EASY}\nassistant: Done.\n\nNew message from the user:\n{HARD}",
        json.dumps([{"role": "user", "content": EASY}, {"role": "user", "content": HARD}]),
        json.dumps({"model": "x", "messages": [{"role": "user", "content": HARD}], "temperature": 0}),
        json.dumps({"system": EASY, "messages": [{"role": "user", "content": [{"type": "text", "text": HARD}]}]}),
        json.dumps([{"from": "human", "value": EASY}, {"from": "gpt", "value": "ok"}, {"from": "human", "value": HARD}]),
        repr([{"role": "user", "content": EASY}, {"role": "assistant", "content": "it's"}, {"role": "user", "content": HARD}]),
        "\n".join(json.dumps({"role": role, "content": text}) for role, text in (("user", EASY), ("user", HARD))),
        json.dumps([{"role": "user", "content": EASY}, {"role": "user", "content": HARD}])[:-3],
        f"<|im_start|>system\nYou summarize.<|im_end|>\n<|im_start|>user\n{HARD}<|im_end|>\n<|im_start|>assistant\n",
        f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{HARD}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        f"<|system|>\nYou summarize.<|end|>\n<|user|>\n{HARD}<|end|>\n<|assistant|>",
        f"<start_of_turn>user\n{EASY}<end_of_turn>\n<start_of_turn>model\nok<end_of_turn>\n<start_of_turn>user\n{HARD}",
        f"<s>[INST] <<SYS>>\n{EASY}\n<</SYS>>\n\n{HARD} [/INST]",
        f"[INST] {EASY} [/INST] Done.</s>[INST] {HARD} [/INST]",
        f"<user>{EASY}</user>\n<assistant>Done.</assistant>\n<user>{HARD}</user>",
        f'<message role="user">{EASY}</message><message role="user">{HARD}</message>',
        f"<history>\nuser: {EASY}\nassistant: Done.\n</history>\n<latest>{HARD}</latest>",
        f"- role: user\n  content: |\n    {EASY}\n- role: assistant\n  content: ok\n- role: user\n  content: |\n    {HARD}",
        f"<system-reminder>{EASY}</system-reminder>\n{HARD}",
    ],
    ids=range(35),
)  # fmt: skip
def test_the_last_user_turn_of_a_transcript_decides_in_every_form(text: str) -> None:
    assert of(text) == HARD


@pytest.mark.parametrize(
    "text",
    [
        HARD,
        f"Summarize this chat:\nUser: {EASY}\nAssistant: Done.",
        "Summarize this chat: A: hello B: hi A: how are you?",
        f"User: {EASY}\nAssistant: It was built by a company in the north.\n\nIs the assistant's answer right?",
        "From: Ann\nTo: Bob\nSubject: User: accounts\n\nHi Bob, can you reply?",
        "HAMLET: To be.\nOPHELIA: My lord?\n\nWho speaks first?",
        "A: hello\nB: hi\nA: bye",
        "Customer: my lamp broke.\n\nWrite a polite reply.",
        "Answer: yes or no.",
        "User stories are short. Explain why.",
        "Users:\n1,Ann\n2,Bob\nsort by name",
        '{"name": "Ann", "role": "admin"}\nwhat is her role?',
        '[{"role": "user", "content": "hi"}]\n\nIs this valid JSON?',
        '{"users": [1, 2, 3]}',
        "<html><user>x</user></html>",
        "<conversation>\nuser: hi\nassistant: hello\n</conversation>\nSummarize the conversation.",
        "What does <|im_start|> mean in a chat template?",
        "Explain [INST] and [/INST].",
        "Q: Who wrote Emma?\nA: Jane Austen\n\nIs that right?",
        "",
        " \n",
    ],
)  # fmt: skip
def test_a_text_that_is_no_transcript_is_left_alone(text: str) -> None:
    assert recognised(text) is None


@given(st.text(max_size=200))
def test_any_text_is_read_or_left_alone_without_an_error(text: str) -> None:
    found = recognised(text)

    assert found is None or asked(found) is not None


PIECES = (
    "user: ", "Assistant:", "\n", "<user>", "</user>", "[INST]", "[/INST]", "<|im_start|>", "user\n", '{"role": "user", ',
    '"content": "', '"}', "[", "]", "\\", "'", "<system-reminder>", "</system-reminder>", "- role: user\n", "content:",
    "### ", "<history>", "Q:", "x ", "12:00 ", "You are ", "\n\n", "<message role=", "\ud800".encode("utf-8", "replace").decode(),
)  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_half_a_transcript_is_read_or_left_alone_without_an_error(text: str) -> None:
    found = recognised(text)

    assert found is None or asked(found) is not None


@pytest.mark.parametrize("piece", PIECES)
def test_a_very_long_transcript_of_one_thing_ends(piece: str) -> None:
    """Time in proportion to length: a search that starts over at each piece would take hours."""
    recognised(piece * (400_000 // len(piece)))


def test_of_a_very_long_transcript_the_first_and_the_last_turns_are_read() -> None:
    text = "System: first\n" + "User: a\nAssistant: b\n" * 5000 + "User: last"

    found = recognised(text)

    assert found is not None
    assert len(found) == 2 * TURNS_MAX
    assert asked(found) == Asked("last", system="first", earlier="a")


@pytest.mark.parametrize("label", ["Uſer", "Aſsistant", "Assıstant", "Syſtem", "AİSSISTANT"])
def test_a_label_that_is_one_only_to_a_reader_who_ignores_case_is_text(label: str) -> None:
    of(f"{label}: {HARD}\nUser: {EASY}\n{label}: {HARD}")  # raises nothing
    assert of(f"{label}: {HARD}\n{label}: {EASY}") is None
