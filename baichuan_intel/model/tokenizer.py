"""Token ids to text and back: SentencePiece, and a detokeniser for streaming."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from baichuan_intel.errors import PromptError, TokenizerError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

TOKENIZER_MODEL = "tokenizer.model"
# Baichuan 2's is 2 MB.
_LIMIT_BYTES = 64 << 20
_SPACE = "\u2581"
_REPLACEMENT = "\ufffd"


class Tokenizer:
    """A checkpoint's SentencePiece model (byte-pair encoding with byte fallback).

    ``path`` is the tokenizer.model or the folder that holds it; ``model_vocab_size``, where given, is
    config.json's vocab_size, which the ids must stay below.

    Raises:
        TokenizerError: the file is missing, too large, not a SentencePiece model, or has more tokens
            than the model.
    """

    def __init__(self, path: str | Path, model_vocab_size: int | None = None) -> None:
        file = Path(path)
        if file.is_dir():
            file = file / TOKENIZER_MODEL
        self._sp = _load(file)
        self.vocab_size: int = self._sp.vocab_size()
        if model_vocab_size is not None and self.vocab_size > model_vocab_size:
            raise TokenizerError(
                f"{file} has {self.vocab_size} tokens but the model only {model_vocab_size}: "
                "take the tokenizer.model of the same checkpoint"
            )

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``; no bos or eos is added.

        The text of a user-defined symbol, such as ``<reserved_106>``, becomes its id, as upstream's does;
        that of a control token, such as ``</s>``, stays text (upstream's Python makes the token of it).
        U+2581 is SentencePiece's own sign for a space and comes back as one.

        Raises:
            PromptError: not text, or text with lone surrogates, which no tokenizer can encode.
        """
        if not isinstance(text, str):
            raise PromptError(f"the text is a {type(text).__name__}, expected a string")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"the text has a lone surrogate at character {error.start}: it is not valid Unicode"
            ) from None
        ids: list[int] = self._sp.encode(text)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``, as SentencePiece has it; see `IncrementalDetokenizer` for what it shows.

        Raises:
            TokenizerError: an id is negative.
        """
        ids = list(ids)
        if all(0 <= id_ < self.vocab_size for id_ in ids):
            text: str = self._sp.decode(ids)
            return text
        detokenizer = self.detokenizer()
        return "".join(map(detokenizer.push, ids)) + detokenizer.flush()

    def detokenizer(self) -> IncrementalDetokenizer:
        """A detokeniser for one answer."""
        return IncrementalDetokenizer(self._sp)


class IncrementalDetokenizer:
    """Turns the tokens of one answer into text as they come, never showing part of a character.

    All that `push` and `flush` return, joined, is what SentencePiece decodes from all ids: byte tokens in
    a row are UTF-8, each byte that cannot be part of a character becomes U+FFFD, control tokens (bos,
    eos) are nothing, an unknown token is " \u2047 ". Two differences. The answer continues a prompt, so
    its first space is kept, which SentencePiece drops for models with a dummy prefix (Baichuan 2's has
    none). And an id above the tokenizer's vocabulary, where the model's is larger, becomes U+FFFD.
    """

    def __init__(self, sp: SentencePieceProcessor) -> None:
        self._sp = sp
        self._bytes = b""

    def push(self, id_: int) -> str:
        """The text that is certain now that this id has come; may be empty.

        Raises:
            TokenizerError: the id is negative.
        """
        if id_ < 0:
            raise TokenizerError(f"token id {id_} is negative: no tokenizer has it")
        if id_ < self._sp.vocab_size() and self._sp.is_byte(id_):
            text, self._bytes = _decode_bytes(self._bytes + _byte(self._sp.id_to_piece(id_)), final=False)
            return text
        # A byte run ends at any other token, so its unfinished character will never be one.
        return self.flush() + self._text(id_)

    def flush(self) -> str:
        """The text still held back, when no more ids will come."""
        text, self._bytes = _decode_bytes(self._bytes, final=True)
        return text

    def _text(self, id_: int) -> str:
        if id_ >= self._sp.vocab_size():
            return _REPLACEMENT
        if self._sp.is_control(id_):
            return ""
        if self._sp.is_unknown(id_):
            text: str = self._sp.decode([id_])
            return text
        piece: str = self._sp.id_to_piece(id_)
        return piece.replace(_SPACE, " ")


def _decode_bytes(data: bytes, final: bool) -> tuple[str, bytes]:
    """Text of ``data`` and the unfinished character at its end; one U+FFFD for each invalid byte."""
    text = ""
    while True:
        try:
            more, used = codecs.utf_8_decode(data, "strict", final)
            return text + more, data[used:]
        except UnicodeDecodeError as error:
            text += data[: error.start].decode() + _REPLACEMENT
            data = data[error.start + 1 :]


def _byte(piece: str) -> bytes:
    """A byte token is spelt ``<0xE6>``."""
    return bytes([int(piece[3:5], 16)])


def _load(file: Path) -> SentencePieceProcessor:
    from sentencepiece import SentencePieceProcessor

    try:
        size = file.stat().st_size
        if size > _LIMIT_BYTES:
            raise TokenizerError(f"{file} is over 64 MiB: not a SentencePiece model")
        # From memory: the library's own loader cannot open every path on Windows.
        data = file.read_bytes()
    except FileNotFoundError:
        raise TokenizerError(f"{file} does not exist: download it from the checkpoint's hub page") from None
    except OSError as error:
        raise TokenizerError(f"{file} cannot be read: {error.strerror}") from None
    broken = TokenizerError(f"{file} is not a SentencePiece model ({size} bytes): download it again")
    if not data:
        raise broken
    try:
        sp = SentencePieceProcessor(model_proto=data)
        # Reads every token: one whose text is not UTF-8 would fail in the middle of an answer.
        sp.id_to_piece(list(range(sp.vocab_size())))
        sp.decode([sp.unk_id()])
    except (RuntimeError, ValueError, IndexError):
        raise broken from None
    return sp
