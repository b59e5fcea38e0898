"""Conversations: turns, their one text form, and transcripts that arrive as plain text.

`written` turns a conversation into the text that travels like any other query;
`recognised` reads turns out of a text, be it that form or one of those that people
paste: chat templates, JSON lists of messages, tags, "User:" and "Assistant:" lines.
`asked` picks what decides: the last user turn. Knows nothing of HTTP, models or limits.

A text that merely talks about a conversation ("Summarise this chat: …") is no
transcript: a transcript begins with its first turn. Everything here takes time in
proportion to the text's length, whatever the text.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import msgspec

Role = Literal["system", "user", "assistant", "tool"]


# Of a longer transcript so many turns at either end are read: enough for its system prompt and its ask.
TURNS_MAX = 100


class Turn(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: Role
    text: str


class Asked(msgspec.Struct, frozen=True):
    """What decides in a conversation, and what helps to understand it.

    ask      the last user turn, without what software put into it
    system   the system prompt, or empty
    earlier  the user turn before, or empty
    """

    ask: str
    system: str = ""
    earlier: str = ""


class NothingToAsk(ValueError):
    """A conversation without a user turn that says something."""


def written(turns: Sequence[Turn]) -> str:
    """Write turns as one text, which `recognised` reads back.

    Raises `NothingToAsk` when no user turn has text of its own.
    """
    if asked(turns) is None:
        raise NothingToAsk("no user turn with text")
    return msgspec.json.encode([{"role": turn.role, "content": turn.text} for turn in turns]).decode()


def asked(turns: Sequence[Turn]) -> Asked | None:
    """Pick the ask of a conversation; None when no user turn has text of its own."""
    own = [text for turn in turns if turn.role == "user" and (text := without_injected(turn.text).strip())]
    if not own:
        return None
    system = next((turn.text.strip() for turn in turns if turn.role == "system"), "")
    return Asked(own[-1], system, own[-2] if len(own) > 1 else "")


def recognised(text: str) -> list[Turn] | None:
    """Read the turns of a transcript; None when the text is no transcript, or holds no ask."""
    start = len(text) - len(text.lstrip())
    # One look for nearly every text, which is no transcript.
    for begins, read in _FORMS if _ANY_FORM.match(text, start) else ():
        if begins.match(text, start):
            turns = read(text[start:].rstrip())
            if turns is not None and asked(turns) is not None:
                return turns
    return _after_preamble(text)


# What software puts into a user's turn

_INJECTED = (
    "system-reminder", "system_reminder", "reminder", "environment_context", "environment_details",
    "env", "tool_result", "tool_results", "function_results", "additional_data", "attached_files",
    "ide_selection", "local-command-stdout", "user_info",
)  # fmt: skip
_INJECTED_OPENS = re.compile(rf"<({'|'.join(_INJECTED)})(?:\s[^<>\n]{{0,200}})?>", re.IGNORECASE)


def without_injected(text: str) -> str:
    """Leave out the blocks that software puts into a user's turn: reminders, tool results.

    A text that is nothing else stays empty.
    """
    if "<" not in text:
        return text
    kept: list[str] = []
    done = 0
    unclosed: set[str] = set()
    lower = ""
    for opening in _INJECTED_OPENS.finditer(text):
        name = opening[1].lower()
        if opening.start() < done or name in unclosed:
            continue
        lower = lower or _lowered(text)
        end = lower.find(f"</{name}>", opening.end())
        if end < 0:  # remembered, so that a thousand openings do not make a thousand searches
            unclosed.add(name)
            continue
        kept.append(text[done : opening.start()])
        done = end + len(name) + 3
    kept.append(text[done:])
    return "\n".join(part for part in kept if part.strip()) if len(kept) > 1 else text


def _lowered(text: str) -> str:
    """Lower the ASCII letters alone, so that every character stays in its place."""
    return text.translate(_TO_LOWER)


_TO_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


# Names of roles, as templates and people write them

_USER = (
    "user", "human", "usr", "end user", "nutzer", "benutzer", "usuario", "utilisateur", "utente", "usuário",
    "gebruiker", "användare", "bruger", "bruker", "käyttäjä", "użytkownik", "uživatel", "kullanıcı",
    "пользователь", "користувач", "用户", "用戶", "ユーザー", "사용자", "المستخدم", "उपयोगकर्ता",
)  # fmt: skip
_ASSISTANT = (
    "assistant", "ai", "bot", "chatbot", "ai assistant", "chatgpt", "gpt", "gpt-4", "gpt-4o", "claude", "gemini",
    "llama", "mistral", "copilot", "asst", "assistent", "asistente", "assistente", "asystent", "ассистент",
    "助手", "アシスタント", "어시스턴트", "المساعد", "सहायक",
)  # fmt: skip
_SYSTEM = ("system", "developer", "sys", "system prompt", "system message", "conversation so far")
_TOOL = (
    "tool",
    "function",
    "tool result",
    "tool output",
    "tool response",
    "observation",
    "ipython",
    "tool_result",
)
# Words that name a speaker only beside the other one: alone they may be anything.
_USER_BESIDE = (
    "customer", "client", "visitor", "guest", "caller", "me", "you", "u", "q", "question", "instruction",
    "prompt", "student", "patient", "member", "new message", "new message from the user", "latest message",
    "user message", "latest user message", "current message", "顾客", "客户", "cliente", "kunde",
)  # fmt: skip
_ASSISTANT_BESIDE = (
    "agent", "support", "model", "response", "answer", "a", "helper", "operator", "reply", "advisor",
    "support agent", "rep", "客服",
)  # fmt: skip

_ROLES: dict[str, Role] = {
    **dict.fromkeys((*_USER, *_USER_BESIDE), "user"),
    **dict.fromkeys((*_ASSISTANT, *_ASSISTANT_BESIDE), "assistant"),
    **dict.fromkeys(_SYSTEM, "system"),
    **dict.fromkeys(_TOOL, "tool"),
}
# What templates and interfaces call them besides.
_MEMBER_ROLES: dict[str, Role] = {
    **_ROLES,
    "model": "assistant", "function_call_output": "tool", "function_call": "assistant", "gpt": "assistant",
    "chatbot": "assistant",
}  # fmt: skip
_STRONG = frozenset((*_USER, *_ASSISTANT, *_SYSTEM, *_TOOL))


def _role(name: str) -> Role | None:
    return _MEMBER_ROLES.get(name.strip().lower())


def _any_of(names: Iterable[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


# JSON, whole or not, and Python's way of printing it

_LISTS = (
    "messages",
    "conversation",
    "conversations",
    "history",
    "input",
    "turns",
    "chat",
    "contents",
    "dialog",
)
_JSON_BEGINS = re.compile(r"\[\s*\{|\{\s*[\"']")
_MEMBER = re.compile(
    r"[\"'](?:role|from|speaker|author)[\"']\s*:\s*[\"'](\w{1,20})[\"']\s*,\s*"
    r"[\"'](?:content|value|text|message)[\"']\s*:\s*"
    r"(?:\"([^\"\\]*(?:\\.[^\"\\]*)*)(?:\"|\\?\Z)|'([^'\\]*(?:\\.[^'\\]*)*)(?:'|\\?\Z))",
    re.DOTALL,
)
_JSON_ENDS = re.compile(r"[\"'\s}\])]*(?:,\s*[\"']\w{1,30}[\"']\s*:?[^\n]{0,80}[\"'\s}\]]*)?\Z")


def _json(text: str) -> list[Turn] | None:
    """Read a list of messages, an object that holds one, or one message a line."""
    if not any(f'"{key}"' in text or f"'{key}'" in text for key in ("role", "from", "speaker", "author")):
        return None
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _json_by_pattern(text)
    system = ""
    if isinstance(found, dict):
        first = found.get("system")
        system = first if isinstance(first, str) else ""
        found = next((found[name] for name in _LISTS if isinstance(found.get(name), list)), [found])
    if not isinstance(found, list) or not all(isinstance(member, dict) for member in found):
        return None
    turns = [Turn("system", system)] if system else []
    for member in found:
        role = _role(str(next((member[k] for k in ("role", "from", "speaker", "author") if k in member), "")))
        if role is None:
            return None
        content = next(
            (member[k] for k in ("content", "value", "text", "parts", "message") if k in member), ""
        )
        turns.append(Turn(role, _text_of(content)))
    return turns


def _text_of(content: Any) -> str:
    """Return a message's text: itself, or its parts' that are text; tool results are none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [
        part if isinstance(part, str) else part["text"]
        for part in content
        if isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("text"), str))
    ]
    return "\n".join(texts)


_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def _unescaped(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        code = match[1]
        return chr(int(code[1:], 16)) if len(code) == 5 else _ESCAPED.get(code, code)

    found = _ESCAPE.sub(one, text) if "\\" in text else text
    # Half of a pair would fit no UTF-8.
    return found.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _json_by_pattern(text: str) -> list[Turn] | None:
    turns = []
    end = 0
    for match in _MEMBER.finditer(text):
        role = _role(match[1])
        if role is None:
            return None
        turns.append(Turn(role, _unescaped(match[2] if match[2] is not None else match[3])))
        end = match.end()
    return turns if turns and _JSON_ENDS.match(text, end) else None


# Chat templates: tokens that no person types

_TEMPLATE = re.compile(
    r"<\|im_start\|>[ \t]*(?P<a>\w{1,20})[^\n<]{0,60}\n?"
    r"|<\|start_header_id\|>\s{0,9}(?P<b>\w{1,20})\s{0,9}<\|end_header_id\|>"
    r"|<\|(?P<c>system|user|assistant|tool|human|bot|observation|developer|function)\|>"
    r"|<start_of_turn>[ \t]*(?P<d>\w{1,20})"
    r"|<[｜|](?P<e>User|Assistant|System)[｜|]>"
    r"|<\|START_OF_TURN_TOKEN\|><\|(?P<f>USER|CHATBOT|SYSTEM)_TOKEN\|>"
    r"|<\|start\|>(?P<g>\w{1,20})(?:<\|channel\|>\w{1,20})?<\|message\|>",
    re.IGNORECASE,
)
_TEMPLATE_ENDS = re.compile(
    r"<\|im_end\|>|<\|eot_id\|>|<\|eom_id\|>|<\|end\|>|<end_of_turn>|</s>|<\|endoftext\|>|<\|end_of_text\|>"
    r"|<eos>|<[｜|]end▁of▁sentence[｜|]>|<\|END_OF_TURN_TOKEN\|>|<\|return\|>|<\|call\|>"
)
_TEMPLATE_STARTS = r"(?:<s>|<bos>|<\|begin_of_text\|>|<[｜|]begin▁of▁sentence[｜|]>|\s){0,6}"


def _template(text: str) -> list[Turn] | None:
    marks = [
        (mark.start(), mark.end(), role)
        for mark in _TEMPLATE.finditer(text)
        if (role := _role(next(name for name in mark.groups() if name)))
    ]
    return [Turn(role, _TEMPLATE_ENDS.sub("\n", part).strip()) for role, part in _cut(text, marks)]


_INST = re.compile(r"\[(/?)(INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS)\]")
_SYS = re.compile(r"<<SYS>>(.*?)(?:<</SYS>>|\Z)", re.DOTALL)


def _inst(text: str) -> list[Turn] | None:
    """Read Llama 2's and Mistral's form: [INST] ask [/INST] answer </s>."""
    inside: dict[str, Role] = {"INST": "user", "SYSTEM_PROMPT": "system", "TOOL_RESULTS": "tool"}
    turns: list[Turn] = []
    role: Role = "assistant"
    marks = [*_INST.finditer(text)]
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        role = "assistant" if mark[1] else inside.get(mark[2], "tool")
        part = text[mark.end() : following.start() if following else len(text)]
        part = part.replace("</s>", "").replace("<s>", "").strip()
        if role == "user" and (system := _SYS.match(part)):
            turns.append(Turn("system", system[1].strip()))
            part = part[system.end() :].strip()
        if part:
            turns.append(Turn(role, part))
    return turns


def _cut(text: str, marks: Sequence[tuple[int, int, Role]]) -> list[tuple[Role, str]]:
    """Cut a text at its marks (start, end, role): each part goes to the next mark."""
    ends = [start for start, _, _ in marks[1:]] + [len(text)]
    parts = [*zip(marks, ends, strict=False)]
    if len(parts) > 2 * TURNS_MAX:
        parts = parts[:TURNS_MAX] + parts[-TURNS_MAX:]
    return [(role, text[end:after].strip()) for (_, end, role), after in parts]


# Tags

_TAG_NAMES = _any_of(
    {"user", "human", "assistant", "ai", "bot", "system", "tool", "developer", "function", "model"}
)
_TAG = re.compile(
    rf"<(?P<close>/?)(?:(?P<name>{_TAG_NAMES})|(?:message|turn|msg|m)\b"
    rf"(?=[^<>]{{0,100}}?\b(?:role|speaker|from|name)=[\"']?(?P<role>\w{{1,20}}))?)(?:\s[^<>]{{0,150}})?>",
    re.IGNORECASE,
)
_WRAPPER = re.compile(
    r"<(conversation|history|messages|chat|transcript|dialog|dialogue|chat_history|conversation_history)"
    r"(?:\s[^<>]{0,100})?>\s*",
    re.IGNORECASE,
)
_LATEST = re.compile(
    r"<(latest|current|now|new|query|question|user_query|last|input|user_input|ask|request|message)>",
    re.IGNORECASE,
)


def _tags(text: str) -> list[Turn] | None:
    """Read <user>…</user> and <message role="user">…</message>; what follows the last is the user's."""
    turns: list[Turn] = []
    role: Role | None = None
    begin = 0
    end = 0
    for tag in _TAG.finditer(text):
        if tag["close"]:
            if role is not None:
                turns.append(Turn(role, text[begin : tag.start()].strip()))
                role = None
            end = tag.end()
            continue
        named = _role(tag["name"] or tag["role"] or "")
        if named is None:
            continue
        if role is not None:
            turns.append(Turn(role, text[begin : tag.start()].strip()))
        elif (between := text[end : tag.start()].strip()) and (turns or between[:1] != "<"):
            return None  # words between tags are nobody's: this is a document
        role, begin = named, tag.end()
    if role is not None:
        turns.append(Turn(role, text[begin:].strip()))
    elif (rest := text[end:].strip()) and not re.fullmatch(r"(?:</\w{1,30}>\s*)+", rest):
        turns.append(Turn("user", rest))
    return turns


def _wrapped(text: str) -> list[Turn] | None:
    """Read <conversation>…</conversation> where nothing follows, or <history>…</history><latest>…."""
    opening = _WRAPPER.match(text)
    if opening is None:
        return None
    close = text.lower().rfind(f"</{opening[1].lower()}>") if len(text) == len(text.lower()) else -1
    inner = text[opening.end() : close if close >= 0 else len(text)]
    rest = text[close + len(opening[1]) + 3 :].strip() if close >= 0 else ""
    latest = _LATEST.match(rest)
    if rest and latest is None:
        return None
    turns = _innermost(inner) or []
    if latest is not None:
        turns = [*turns, Turn("user", rest[latest.end() :].split(f"</{latest[1]}>")[0].strip())]
    return turns or None


def _innermost(text: str) -> list[Turn] | None:
    """Read a wrapper's inside: turns in any form but another wrapper's."""
    inner = text.strip()
    for begins, read in _FORMS:
        if read is not _wrapped and begins.match(inner):
            return read(inner)
    return None


def _reminded(text: str) -> list[Turn] | None:
    """Read a text that software has put a reminder before: the rest is the user's."""
    rest = without_injected(text).strip()
    return [Turn("user", rest)] if rest and rest != text else None


# YAML

_YAML = re.compile(
    r"^[ \t]*(?:-[ \t]+)?role:[ \t]*[\"']?(\w{1,20})[\"']?[ \t]*\n[ \t]*content:[ \t]*(?:[|>][-+]?[ \t]*(?:\n|\Z))?",
    re.MULTILINE | re.IGNORECASE,
)


def _yaml(text: str) -> list[Turn] | None:
    marks = [(m.start(), m.end(), role) for m in _YAML.finditer(text) if (role := _role(m[1]))]
    turns = []
    for role, part in _cut(text, marks):
        lines = [line.strip() for line in part.split("\n")]
        turns.append(Turn(role, "\n".join(lines).strip("\"' ")))
    return turns


# Names before a colon, in brackets, or as headings

_TIME = r"(?:[\[(]?\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:[ ]?[ap]m)?[\])]?[ \t]{0,3}(?:[-–|][ \t]?)?)?"
_LABEL = re.compile(
    rf"^[ \t]{{0,8}}(?P<hashes>#{{1,6}}[ \t]{{0,3}})?{_TIME}(?P<mark>[^\w\s<\[({{\"'#]{{1,4}}[ \t]{{0,2}})?"
    rf"(?P<bracket>\[)?(?P<name>{_any_of(_ROLES)})\b(?(bracket)\])(?:[*_]{{2}})?"
    rf"(?:[ \t]?\([^)\n]{{0,40}}\))?[ \t]{{0,3}}(?P<colon>[:：>](?:[*_]{{2}})?)?(?P<alone>[ \t]*(?:\n|\Z))?",
    re.MULTILINE | re.IGNORECASE,
)
_INPUT = re.compile(r"^[ \t]*(?:#{1,6}[ \t]*)?\**input\**[ \t]*:", re.MULTILINE | re.IGNORECASE)


def _label_marks(text: str) -> list[tuple[int, int, Role, str]]:
    found = []
    for mark in _LABEL.finditer(text):
        name = mark["name"]
        # Ignoring case, Python takes ſ for s and ı for i: such a word is no role's name.
        role = _ROLES.get(name.lower())
        # "### User", "**User**" and "USER" may stand alone on their line; "User" there may be a heading.
        headed = mark["alone"] is not None and (
            mark["hashes"] or (mark["mark"] or "").startswith("**") or name.isupper()
        )
        if role and (mark["colon"] or mark["bracket"] or (headed and len(name) > 1)):
            found.append((mark.start(), mark.end(), role, name.lower()))
    return found


def _labels(text: str) -> list[Turn] | None:
    """Read "User: … Assistant: …", "[user] …", "### User": from the first line on, or not at all."""
    marks = _label_marks(text)
    if not marks or text[: marks[0][0]].strip():
        return None
    return _labelled(text, marks)


def _labelled(text: str, marks: Sequence[tuple[int, int, Role, str]]) -> list[Turn] | None:
    names = {name for _, _, _, name in marks}
    roles = {role for _, _, role, _ in marks}
    if "you" in names and "me" in names:
        return None  # who is who?
    if "user" not in roles:
        if roles != {"system"} or len(marks) > 1:
            return None
        # A system prompt of one paragraph, and what follows it is the user's.
        prompt, _, rest = text[marks[0][1] :].strip().partition("\n\n")
        return [Turn("system", prompt), Turn("user", rest.strip())] if rest.strip() else None
    own = {name for _, _, role, name in marks if role == "user"}
    if not own & _STRONG:
        if "assistant" not in roles:
            return None
        if (
            own <= {"q", "question"}
            and sum(role == "user" for _, _, role, _ in marks) == 1
            and _closes(text, marks) > 0
        ):
            return None  # one question with its answer is an example
    turns = [Turn(role, part) for role, part in _cut(text, [(s, e, r) for s, e, r, _ in marks])]
    last = turns[-1]
    if last.role == "assistant" and "\n\n" in last.text and len(last.text.rpartition("\n\n")[2]) < 400:
        return None  # an ask may stand below what was pasted
    return turns


def _closes(text: str, marks: Sequence[tuple[int, int, Role, str]]) -> int:
    """Count the characters behind the last mark: none where an answer is awaited."""
    return len(text[marks[-1][1] :].strip())


_PREAMBLE = re.compile(
    r"\s*(?:you are|you're|you act|you help|act as|the following is a|below is a|this is a (?:chat|conversation)"
    r"|a (?:chat|conversation) between|system|note|instructions?|context|persona|role|conversation|chat history"
    r"|history|previous (?:messages|conversation)|<)",
    re.IGNORECASE,
)
# Asked of the first lines alone: a page that quotes a chat further down is no transcript.
_PREAMBLE_CHARS_MAX = 6000
_AWAITS = re.compile(
    rf"\n[ \t]*(?:#{{1,6}}[ \t]*|\*\*)?\[?(?:{_any_of(_ASSISTANT)})\]?(?:\*\*)?[:：]?(?:\*\*)?\s*\Z",
    re.IGNORECASE,
)
_STRONG_USER = re.compile(
    rf"\n[ \t]*(?:#{{1,6}}[ \t]*|\*\*)?\[?(?:{_any_of(_USER)})\]?(?:\*\*)?[:：]", re.IGNORECASE
)


def _after_preamble(text: str) -> list[Turn] | None:
    """Read a transcript that a system prompt without a name stands before."""
    first = _STRONG_USER.search(text, 0, _PREAMBLE_CHARS_MAX)
    if first is None:
        return None
    awaits = _AWAITS.search(text, max(0, len(text) - 60)) is not None
    if not awaits and _PREAMBLE.match(text) is None:
        return None
    preamble = text[: first.start()].strip()
    rest = text[first.start() :].strip()
    marks = _label_marks(rest)
    if not marks or rest[: marks[0][0]].strip():
        return None
    turns = _labelled(rest, marks)
    if turns is None or asked(turns) is None or not preamble:
        return turns if turns is not None and asked(turns) is not None else None
    if turns[-1].role != "user" and not awaits:
        return None
    # A question below the pasted chat is asked of it: that is no turn.
    if not awaits and "\n\n" in turns[-1].text:
        return None
    return [Turn("system", preamble), *turns]


_FORMS: tuple[tuple[re.Pattern[str], Callable[[str], list[Turn] | None]], ...] = (
    (_JSON_BEGINS, _json),
    (re.compile(f"{_TEMPLATE_STARTS}(?:{_TEMPLATE.pattern})", re.IGNORECASE), _template),
    (re.compile(r"(?:<s>\s*)?\[(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS)\]"), _inst),
    (_WRAPPER, _wrapped),
    (re.compile(rf"<(?:{_TAG_NAMES})(?:\s[^<>]{{0,150}})?>|<(?:message|turn|msg|m)\s", re.IGNORECASE), _tags),
    (re.compile(_INJECTED_OPENS.pattern, re.IGNORECASE), _reminded),
    (re.compile(r"(?:-[ \t]+)?role:", re.IGNORECASE), _yaml),
    (_LABEL, _labels),
)  # fmt: skip
# Wherever one of them begins, and perhaps elsewhere: their flags differ.
_ANY_FORM = re.compile(
    "|".join(f"(?:{begins.pattern})" for begins, _ in _FORMS), re.IGNORECASE | re.MULTILINE
)
