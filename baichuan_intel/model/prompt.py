"""Prompts of every kind to token ids, within a model's context."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baichuan_intel.errors import ContextLengthError, PromptError
from baichuan_intel.model.chat import Message, TurnTokens, chat_ids
from baichuan_intel.model.checks import shown
from baichuan_intel.model.config import BaichuanConfig
from baichuan_intel.model.sampling import Sampling
from baichuan_intel.model.tokenizer import Tokenizer

# A text, its token ids, or a conversation.
Prompt = str | Iterable[int] | Sequence[Message]


@dataclass(frozen=True)
class PromptEncoder:
    """Turns prompts into ids that fit ``config``'s context.

    The history of a conversation is cut to ``max_prompt_tokens`` too; a text that is longer is left to
    the session, which knows how to raise its limit.
    """

    tokenizer: Tokenizer
    config: BaichuanConfig
    turns: TurnTokens
    max_prompt_tokens: int | None = None

    def fit(self, prompt: Prompt, sampling: Sampling, *, explicit: bool) -> tuple[list[int], Sampling]:
        """The ids of ``prompt``, and ``sampling`` with an answer length that fits beside them.

        With ``explicit`` that length was asked for and stays; a default one shrinks to the room that
        is left, and takes half the context from a conversation's history at most.

        Raises:
            PromptError: not a prompt, or an empty one.
            ContextLengthError: prompt and answer do not fit; by how much.
        """
        context, answer = self.config.model_max_length, sampling.max_new_tokens
        if _is_conversation(prompt):
            kept = answer if explicit else min(answer, context // 2)
            ids = chat_ids(
                prompt,  # type: ignore[arg-type]
                self.tokenizer.encode,
                max_new_tokens=kept,
                model_max_length=min(context, (self.max_prompt_tokens or context) + kept),
                user_token_id=self.turns.user,
                assistant_token_id=self.turns.assistant,
            )
            self._check_ids(ids)  # the turn tokens come from a file
        else:
            ids = self.ids(prompt, answer if explicit else 1)
        return ids, sampling.replace(max_new_tokens=min(answer, context - len(ids)))

    def ids(self, prompt: Any, new_tokens: int = 0) -> list[int]:
        """The ids of a text, or the ids given, if ``new_tokens`` fit behind them.

        Raises:
            PromptError: neither, or empty.
            ContextLengthError: too long; by how much.
        """
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else self._check_ids(prompt)
        if not ids:
            raise PromptError("the prompt is empty: give at least one token of text")
        over = len(ids) + new_tokens - self.config.model_max_length
        if over > 0:
            asked = f" and {new_tokens} new ones" if new_tokens else ""
            raise ContextLengthError(
                f"{len(ids)} prompt tokens{asked} are {over} more than the context of "
                f"{self.config.model_max_length}: shorten the prompt or ask for fewer new tokens"
            )
        return ids

    def _check_ids(self, prompt: Any) -> list[int]:
        if isinstance(prompt, (bytes, Mapping)) or not isinstance(prompt, Iterable):
            raise PromptError(f"the prompt is {shown(prompt)}, expected text, token ids or messages")
        ids = []
        for value in prompt:
            try:
                id_ = operator.index(value)
            except TypeError:
                raise PromptError(f"the prompt holds {shown(value)}, expected token ids") from None
            if not 0 <= id_ < self.config.vocab_size:
                raise PromptError(f"token id {id_} is outside the vocabulary of {self.config.vocab_size}")
            ids.append(id_)
        return ids


def _is_conversation(prompt: object) -> bool:
    """A list that holds a message, or a text that was meant as one."""
    return isinstance(prompt, (list, tuple)) and any(isinstance(item, (Mapping, str)) for item in prompt)
