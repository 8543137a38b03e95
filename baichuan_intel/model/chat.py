"""Messages to token ids, by the rules of Baichuan 2's own chat function.

The rules (generation_utils.py beside every Baichuan 2 chat model):

- the system text's ids come first, with no turn token before them;
- a user turn is the user token and the ids of its text, an assistant turn the assistant token and the
  ids of its text; nothing stands between turns, neither bos nor eos;
- every text is encoded on its own, so no token spans two turns;
- a round starts at each user message. The newest round is always kept; older ones are added, newest
  first, while they fit into the context less ``max_new_tokens`` less the system text;
- the assistant token ends the prompt, unless the last message is the assistant's own: it is continued;
- what is still too long is cut from the left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baichuan_intel.errors import ConfigError, ContextLengthError, PromptError
from baichuan_intel.model.checks import is_whole, shown
from baichuan_intel.model.sampling import GENERATION_CONFIG, read_generation_config

Message = Mapping[str, Any]
Encode = Callable[[str], list[int]]

ROLES = ("system", "user", "assistant")
_MAX_TOKEN_ID = 1 << 20

# For servers that take text (tokenizer_config.json's "chat_template"); Jinja and OpenVINO GenAI's minja
# both render it. It differs from `chat_ids`: history is never dropped to fit the context, messages are not
# checked, and the text is encoded as a whole. The last makes no difference where the turn tokens are
# user-defined symbols, at which SentencePiece splits, and no dummy prefix is added to each text.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<reserved_106>' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<reserved_107>' }}"
    "{% endif %}"
    "{{ message['content'] }}"
    "{% if loop.last and add_generation_prompt and message['role'] != 'assistant' %}"
    "{{ '<reserved_107>' }}"
    "{% endif %}"
    "{% endfor %}"
)


@dataclass(frozen=True)
class TurnTokens:
    """Ids of the tokens before a user's and an assistant's turn (`<reserved_106>`, `<reserved_107>`).

    Raises:
        ConfigError: not a token id.
    """

    user: int = 195
    assistant: int = 196

    def __post_init__(self) -> None:
        for name, value in (("user_token_id", self.user), ("assistant_token_id", self.assistant)):
            if not is_whole(value, 0, _MAX_TOKEN_ID):
                raise ConfigError(f"{GENERATION_CONFIG}: {name} is {shown(value)}, expected a token id")

    @classmethod
    def from_folder(cls, folder: str | Path) -> TurnTokens:
        """The ids in ``folder``'s generation_config.json; 195 and 196 where it names none.

        Raises:
            ConfigError: the file cannot be read, or a value is not a token id.
        """
        raw = read_generation_config(folder) or {}
        default = cls()
        return cls(raw.get("user_token_id", default.user), raw.get("assistant_token_id", default.assistant))


def check_messages(messages: object) -> None:
    """Checks a conversation: a list of ``{"role": ..., "content": text}``, a system message only first.

    Raises:
        PromptError: names the first wrong message, counted from 0.
    """
    if not isinstance(messages, (list, tuple)):
        raise PromptError(f"messages is a {type(messages).__name__}, expected a list of role and content")
    if not messages:
        raise PromptError("messages is empty: give at least one user message")
    for n, message in enumerate(messages):
        _check_message(n, message)
    if len(messages) == 1 and messages[0]["role"] == "system":
        raise PromptError("messages[0] is a system message with nothing after it: add a user message")


def chat_ids(
    messages: Sequence[Message],
    encode: Encode,
    *,
    max_new_tokens: int,
    model_max_length: int,
    user_token_id: int = 195,
    assistant_token_id: int = 196,
) -> list[int]:
    """The prompt of a conversation, at most ``model_max_length - max_new_tokens`` ids.

    ``encode`` turns one text into ids, adding no special token.

    Raises:
        PromptError: a message is wrong (`check_messages`), or max_new_tokens is not positive.
        ContextLengthError: max_new_tokens leaves no room for a prompt.
    """
    check_messages(messages)
    if max_new_tokens < 1:
        raise PromptError(f"max_new_tokens is {max_new_tokens}, expected at least 1")
    if max_new_tokens >= model_max_length:
        raise ContextLengthError(
            f"max_new_tokens {max_new_tokens} leaves no room for a prompt in a context of "
            f"{model_max_length} tokens: ask for fewer"
        )
    limit = model_max_length - max_new_tokens
    turn = {"user": user_token_id, "assistant": assistant_token_id}
    system = encode(messages[0]["content"]) if messages[0]["role"] == "system" else []
    history: list[int] = []
    for round_ in reversed(_rounds(messages)):
        ids = [id_ for m in round_ for id_ in (turn[m["role"]], *encode(m["content"]))]
        if history and len(system) + len(history) + len(ids) > limit:
            break
        history = ids + history
    prompt = system + history
    if messages[-1]["role"] != "assistant":
        prompt.append(assistant_token_id)
    return prompt[-limit:]


def _rounds(messages: Sequence[Message]) -> list[list[Message]]:
    """Splits at each user message; what comes before the first user message is a round of its own."""
    rounds: list[list[Message]] = []
    for message in messages:
        if message["role"] == "system":
            continue
        if message["role"] == "user" or not rounds:
            rounds.append([])
        rounds[-1].append(message)
    return rounds


def _check_message(n: int, message: object) -> None:
    where = f"messages[{n}]"
    if not isinstance(message, Mapping):
        raise PromptError(f"{where} is a {type(message).__name__}, expected an object with role and content")
    for key in ("role", "content"):
        if key not in message:
            raise PromptError(f"{where} has no {key}")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise PromptError(f"{where} has role {shown(role)}, expected one of {', '.join(ROLES)}")
    if role == "system" and n > 0:
        raise PromptError(f"{where} is a system message: only the first message may be one")
    if not isinstance(content, str):
        raise PromptError(f"{where} has a {type(content).__name__} as content, expected text")
