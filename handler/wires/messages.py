"""Bodies of single queries: a text, or a conversation in the forms that chat clients send.

OpenAI's chat form and Anthropic's (`messages`, with `system` beside it), OpenAI's
responses form (`input`, with `instructions`) and `prompt`. Shared by the native path, by
`/v1/route` and by the wires whose state is a conversation. The last user turn is the ask.
"""

from collections.abc import Sequence
from typing import Any

from handler.conversation import NothingToAsk, Role, Turn, written
from handler.errors import ValidationError
from handler.wires.base import Query

# Of a longer conversation only this many messages at its end are read; the rest never decides.
MESSAGES_MAX = 2000
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "function": "tool",
}
TEXT_PARTS = ("text", "input_text", "output_text", "summary_text")
# Parts that neither ask nor stand in the way of asking.
SILENT_PARTS = (
    "tool_use",
    "server_tool_use",
    "thinking",
    "redacted_thinking",
    "reasoning",
    "refusal",
    "tool_call",
)
RESULT_PARTS = ("tool_result", "function_call_output", "custom_tool_call_output", "web_search_tool_result")


class Message(Turn, frozen=True):
    """A turn, and what of it is no text.

    opaque   it holds images, audio, files or other parts that are no text
    results  it holds tool results, and nothing of a person's own
    """

    opaque: bool = False
    results: bool = False


def ask(text: str) -> Query:
    """The query of a plain text; blanks ask nothing."""
    return Query(text) if text.strip() else Query(reason="no_text")


def conversation(found: Sequence[Any], system: Any = None) -> Query:
    """The query that a conversation asks. Raises `ValidationError` where it is none.

    found   messages or items, as they were decoded from JSON
    system  what stands beside them: a string or text parts
    """
    messages = [message for one in found[-MESSAGES_MAX:] for message in _message(one)]
    asking = [message for message in messages if message.role == "user" and not message.results]
    if not asking:
        return Query(reason="no_text")
    if asking[-1].opaque:
        return Query(reason="not_text")
    turns: list[Turn] = []
    if system is not None:
        turns.append(Turn("system", _content(system, "system").text))
    turns += [Turn("tool" if message.results else message.role, message.text) for message in messages]
    if not asking[-1].text.strip():
        return Query(reason="no_text")
    try:
        return Query(text=written(turns))
    except NothingToAsk:
        return Query(reason="no_text")


def items(found: Any, instructions: Any = None) -> Query:
    """The query of OpenAI's responses form: `input` is a string or a list of items."""
    if isinstance(found, str):
        found = [{"role": "user", "content": found}]
    if not isinstance(found, list):
        raise ValidationError("input must be a string or a list of items")
    return conversation(found, instructions)


def _message(one: Any) -> list[Message]:
    """Read one message or item. What is of a kind that never asks becomes nothing."""
    if isinstance(one, str):
        return [Message("user", one)]
    if not isinstance(one, dict):
        raise ValidationError("every message must be an object with role and content")
    kind = one.get("type")
    if kind in RESULT_PARTS:
        return [Message("tool", _text(one.get("output", one.get("content"))))]
    if "role" not in one:
        if kind in TEXT_PARTS:  # parts without a message around them
            return [Message("user", _text(one.get("text")))]
        if isinstance(kind, str) and kind.startswith("input_"):
            return [Message("user", "", opaque=True)]
        if isinstance(kind, str):
            return []  # calls, reasoning, references to items: none of them asks
        raise ValidationError("every message must be an object with role and content")
    name = one["role"]
    if not isinstance(name, str):
        raise ValidationError("the role of a message must be a string")
    role = ROLES.get(name.strip().lower())
    if role is None:
        return []
    return [_content(one.get("content"), role)]


def _content(content: Any, role: Role) -> Message:
    """Read a message's content: a string, parts, or nothing."""
    if isinstance(content, str):
        return Message(role, content)
    if content is None:
        return Message(role, "")
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise ValidationError("the content of a message must be a string or a list of parts")
    texts: list[str] = []
    opaque = results = False
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, dict):
            raise ValidationError("every part of a message's content must be an object with a type")
        kind = part.get("type")
        if kind in TEXT_PARTS or (kind is None and isinstance(part.get("text"), str)):
            texts.append(_text(part.get("text")))
        elif kind in RESULT_PARTS:
            results = True
        elif kind == "input_json":
            texts.append(_json(part.get("data")))
        elif kind not in SILENT_PARTS:
            opaque = True
    text = "\n".join(text for text in texts if text)
    # A turn of results alone is the machine's; with a person's words beside them, those are the ask.
    return Message(role, text, opaque=opaque, results=results and not text.strip() and not opaque)


def _text(found: Any) -> str:
    return found if isinstance(found, str) else ""


def _json(found: Any) -> str:
    import msgspec

    return msgspec.json.encode(found).decode()
