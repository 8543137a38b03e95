"""`AutoTokenizer`: the tokenizer of a checkpoint with the calls of transformers' tokenizers."""

from __future__ import annotations

import itertools
import operator
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from baichuan_intel.errors import ArtifactExistsError, MissingDependencyError, PromptError, TokenizerError
from baichuan_intel.model.chat import Message, TurnTokens, chat_ids
from baichuan_intel.model.config import BaichuanConfig
from baichuan_intel.model.sampling import Sampling
from baichuan_intel.model.tokenizer import TOKENIZER_MODEL, Tokenizer
from baichuan_intel.transformers.names import Source, check_ignored

# In every Baichuan checkpoint; <unk> is also the padding.
_SPECIAL = {0: "<unk>", 1: "<s>", 2: "</s>"}
_IGNORED = ("trust_remote_code", "use_fast")
_CONTEXT = 4096


class AutoTokenizer:
    """Opens tokenizers, as transformers' class of that name."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        model_hub: str = "huggingface",
        local_files_only: bool = False,
        **ignored: Any,
    ) -> BaichuanTokenizer:
        """The tokenizer of a checkpoint folder, an artifact or a hub id.

        ``trust_remote_code`` and ``use_fast`` are accepted and change nothing: no code of the checkpoint is
        run, and there is one tokenizer.

        Raises:
            TypeError: a keyword that is neither ours nor without meaning here.
            TokenizerError: tokenizer.model is missing or damaged.
            HubError: the download failed.
        """
        check_ignored("AutoTokenizer.from_pretrained", ignored, _IGNORED)
        name = str(pretrained_model_name_or_path)
        return BaichuanTokenizer(
            Source(name, revision, subfolder, model_hub, local_files_only).tokenizer_folder()
        )


class BatchEncoding(dict[str, Any]):
    """Rows of ids by name, also as attributes: ``input_ids`` and ``attention_mask``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device: Any = None, **_: Any) -> BatchEncoding:
        """Itself: ids stay on the host, and the model takes them to its device."""
        return self


class BaichuanTokenizer:
    """Text to ids and back, without begin and end tokens, as Baichuan 2's own.

    Raises:
        TokenizerError: the folder has no usable tokenizer.model.
        ConfigError: its config.json or generation_config.json cannot be read.
    """

    unk_token, bos_token, eos_token, pad_token = "<unk>", "<s>", "</s>", "<unk>"
    unk_token_id, bos_token_id, eos_token_id, pad_token_id = 0, 1, 2, 0

    def __init__(self, folder: Path) -> None:
        self._file = folder / TOKENIZER_MODEL
        self._tokenizer = Tokenizer(self._file)
        self._turns = TurnTokens.from_folder(folder)
        self._max_new_tokens = Sampling.from_folder(folder).max_new_tokens
        has_config = (folder / "config.json").is_file()
        self.model_max_length = BaichuanConfig.from_file(folder).model_max_length if has_config else _CONTEXT
        self.vocab_size = self._tokenizer.vocab_size

    def __call__(
        self, text: str | Sequence[str], *, return_tensors: str | None = None, add_special_tokens: bool = True
    ) -> BatchEncoding:
        """``input_ids`` and ``attention_mask`` of one text or several.

        Lists; with ``return_tensors`` "pt" or "np" int64 [texts, tokens] of torch or numpy.
        ``add_special_tokens`` changes nothing: Baichuan has none to add.

        Raises:
            PromptError: not text, or tensors of texts of different length.
            MissingDependencyError: "pt" without torch.
        """
        if isinstance(text, str) and return_tensors is None:
            ids = self._tokenizer.encode(text)
            return BatchEncoding(input_ids=ids, attention_mask=[1] * len(ids))
        return _encoding([self._tokenizer.encode(t) for t in _texts(text)], return_tensors)

    def encode(self, text: str, *, return_tensors: str | None = None, add_special_tokens: bool = True) -> Any:
        """The ids of ``text``: a list, or a tensor [1, tokens]. See `__call__`."""
        return self(text, return_tensors=return_tensors)["input_ids"]

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of one row of ids: an id, a list, a numpy array or a tensor.

        ``</s>``, ``<s>`` and ``<unk>`` are shown unless ``skip_special_tokens``.

        Raises:
            PromptError: not one row of whole numbers.
            TokenizerError: an id is negative.
        """
        ids = _row(token_ids)
        if skip_special_tokens:
            return self._tokenizer.decode(id_ for id_ in ids if id_ not in _SPECIAL)
        return "".join(
            "".join(map(_SPECIAL.__getitem__, run)) if special else self._tokenizer.decode(run)
            for special, run in itertools.groupby(ids, _SPECIAL.__contains__)
        )

    def batch_decode(self, sequences: Iterable[Any], skip_special_tokens: bool = False) -> list[str]:
        """`decode` of every row."""
        return [self.decode(row, skip_special_tokens) for row in sequences]

    def apply_chat_template(
        self,
        conversation: Sequence[Message],
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        return_tensors: str | None = None,
        return_dict: bool = False,
        max_new_tokens: int | None = None,
    ) -> Any:
        """The prompt of a conversation, by Baichuan 2's own rules and not by a template.

        With ``add_generation_prompt`` exactly the ids that `BaichuanForCausalLM.chat` takes, when it may
        answer with ``max_new_tokens`` (those of the checkpoint by default); without it the assistant's token
        at the end is left out. A list, a tensor [1, tokens], or a `BatchEncoding` with ``return_dict``; the
        text without ``tokenize``.

        Raises:
            PromptError: a message is wrong.
            MissingDependencyError: "pt" without torch.
        """
        ids = chat_ids(
            conversation,
            self._tokenizer.encode,
            max_new_tokens=max_new_tokens or self._max_new_tokens,
            model_max_length=self.model_max_length,
            user_token_id=self._turns.user,
            assistant_token_id=self._turns.assistant,
        )
        if not add_generation_prompt and conversation[-1]["role"] != "assistant":
            ids.pop()
        if not tokenize:
            return self._tokenizer.decode(ids)
        if return_tensors is None and not return_dict:
            return ids
        encoding = _encoding([ids], return_tensors)
        return encoding if return_dict else encoding["input_ids"]

    def save_pretrained(self, save_directory: str | Path) -> tuple[str, ...]:
        """Puts tokenizer.model into a folder, which may be one that ``save_low_bit`` made, and names it.

        Raises:
            ArtifactExistsError: the folder has another tokenizer.model.
            TokenizerError: it cannot be written.
        """
        target = Path(save_directory) / TOKENIZER_MODEL
        try:
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._file, target)
            elif target.read_bytes() != self._file.read_bytes():
                raise ArtifactExistsError(f"{target} is of another model: choose another folder")
        except OSError as error:
            raise TokenizerError(f"cannot write {target} ({error}): check the folder and disk") from error
        return (str(target),)


def _texts(text: str | Sequence[str]) -> Sequence[str]:
    return [text] if isinstance(text, str) else text


def _encoding(rows: list[list[int]], return_tensors: str | None) -> BatchEncoding:
    masks = [[1] * len(row) for row in rows]
    return BatchEncoding(
        input_ids=_tensor(rows, return_tensors), attention_mask=_tensor(masks, return_tensors)
    )


def _tensor(rows: list[list[int]], kind: str | None) -> Any:
    if kind is None:
        return rows
    if kind not in ("pt", "np"):
        raise PromptError(f"return_tensors={kind!r} is not supported: use 'pt' or 'np', or leave it out")
    if len({len(row) for row in rows}) > 1:
        raise PromptError("texts of different length make no tensor: give them one by one")
    array = np.array(rows, np.int64)
    if kind == "np":
        return array
    try:
        import torch
    except ImportError:
        raise MissingDependencyError("torch", "bin", "return_tensors='pt'") from None
    return torch.from_numpy(array)


def _row(ids: Any) -> list[int]:
    """Ids in any of their kinds, as a list of ints."""
    values = ids.tolist() if hasattr(ids, "tolist") else ids
    try:
        return [operator.index(v) for v in (values if isinstance(values, Iterable) else [values])]
    except TypeError:
        raise PromptError(
            "decode takes one row of token ids: use ids[0], or batch_decode for several rows"
        ) from None
