"""`AutoModelForCausalLM`: a Baichuan model with the calls of its own and transformers' classes."""

from __future__ import annotations

import dataclasses
import operator
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from baichuan_intel.artifact.folders import check_output
from baichuan_intel.artifact.store import Artifact, open_artifact, seal, writing
from baichuan_intel.errors import ArtifactCorruptError, PromptError, RecipeError
from baichuan_intel.load import Piece, load
from baichuan_intel.model.chat import Message, check_messages
from baichuan_intel.model.checks import shown
from baichuan_intel.model.sampling import Sampling, read_generation_config
from baichuan_intel.transformers.names import Source, asked_precision, check_ignored, device_name

_IGNORED = (
    "trust_remote_code",
    "torch_dtype",
    "dtype",
    "low_cpu_mem_usage",
    "optimize_model",
    "cpu_embedding",
    "use_cache",
    "use_safetensors",
)
_WARPERS = ("temperature", "top_k", "top_p")
_SAMPLING = ("max_new_tokens", "do_sample", *_WARPERS, "repetition_penalty", "eos_token_id", "seed")
# Ways to choose tokens that we do not have, and the values that switch them off. 20 is the max_length
# of every transformers 4 GenerationConfig that sets none.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "max_length": (None, 20),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "no_repeat_ngram_size": (None, 0),
    "typical_p": (None, 1.0),
    "min_p": (None, 0.0),
    "penalty_alpha": (None, 0.0),
    "guidance_scale": (None, 1.0),
    "bad_words_ids": (None,),
    "suppress_tokens": (None,),
    "stop_strings": (None,),
    "streamer": (None,),
    "return_dict_in_generate": (None, False),
}
_KEYWORDS = (*_SAMPLING, *_UNSUPPORTED, "use_cache", "pad_token_id", "bos_token_id")


class AutoModelForCausalLM:
    """Opens models, as transformers' and ipex-llm's classes of that name."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        load_in_4bit: bool = False,
        load_in_8bit: bool = False,
        load_in_low_bit: str | None = None,
        device: Any = None,
        device_map: Any = None,
        revision: str | None = None,
        subfolder: str | None = None,
        model_hub: str = "huggingface",
        local_files_only: bool = False,
        force_download: bool = False,
        properties: Mapping[str, Any] | None = None,
        **ignored: Any,
    ) -> BaichuanForCausalLM:
        """Opens an artifact, or converts a checkpoint folder or hub id once and opens what came of it.

        ``load_in_4bit``, ``load_in_8bit`` or ``load_in_low_bit`` (ipex-llm's names, or a recipe's) say how
        the weights are stored, INT4 without any. ``device`` or ``device_map`` is OpenVINO's name or torch's,
        CPU without any; ``properties`` are as in `baichuan_intel.load`. ``force_download`` fetches and
        converts again. ``trust_remote_code`` and the dtypes are accepted and change nothing: no code of the
        checkpoint is run, and the recipe decides the precision.

        Raises:
            TypeError: a keyword that is neither ours nor without meaning here.
            BaichuanError: as `baichuan_intel.convert` and `baichuan_intel.load`.
        """
        check_ignored("AutoModelForCausalLM.from_pretrained", ignored, _IGNORED)
        chosen = device_name(device or device_map or "CPU")
        precision = asked_precision(load_in_4bit, load_in_8bit, load_in_low_bit, chosen)
        source = Source(str(pretrained_model_name_or_path), revision, subfolder, model_hub, local_files_only)
        artifact = source.artifact(precision, chosen, again=force_download)
        return BaichuanForCausalLM(artifact, chosen, properties, source)

    @classmethod
    def load_low_bit(cls, path: str | Path, **keywords: Any) -> BaichuanForCausalLM:
        """Opens what ``save_low_bit`` wrote; ``keywords`` are those of `from_pretrained`.

        Raises:
            ArtifactError: the folder is not an artifact.
        """
        return cls.from_pretrained(open_artifact(Path(path).expanduser()).folder, **keywords)


class BaichuanForCausalLM:
    """An opened model. ``runtime`` is the `baichuan_intel.Model` underneath: timings, logits, close.

    ``generation_config`` may be set to a GenerationConfig of transformers or any object or mapping with
    its names. What it leaves out is as in transformers: no sampling, temperature 1, top_k 50, top_p 1.
    """

    # Where ids belong: the model takes them to its own device, which is `runtime.session.device`.
    device = "cpu"

    def __init__(
        self, artifact: Artifact, device: str, properties: Mapping[str, Any] | None, source: Source
    ) -> None:
        self._artifact, self._device, self._properties, self._source = artifact, device, properties, source
        self.config = artifact.config
        self.generation_config: Any = SimpleNamespace(**(read_generation_config(artifact.folder) or {}))
        self.runtime = load(artifact.folder, device, properties=properties)

    def chat(
        self,
        tokenizer: object,
        messages: Sequence[Message],
        stream: bool = False,
        generation_config: Any = None,
    ) -> str | Iterator[str]:
        """The answer to a conversation; with ``stream`` the answer so far, again and again as it grows.

        ``tokenizer`` is not used: an artifact has its own.

        Raises:
            PromptError: a message or a sampling value is wrong.
            BackendError: the runtime failed.
        """
        check_messages(messages)
        pieces = self.runtime.stream(messages, sampling=self._sampling(generation_config, {}))
        return _growing(pieces) if stream else "".join(piece.text for piece in pieces)

    def generate(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        *,
        inputs: Any = None,
        generation_config: Any = None,
        max_length: int | None = None,
        **keywords: Any,
    ) -> Any:
        """Prompt and continuation, [1, tokens], in the kind of ``input_ids``: list, numpy array or tensor.

        ``keywords`` are values of a GenerationConfig, and ``seed``. They win over ``generation_config``,
        which wins over the model's. The end token stands last where it ended the answer. What
        ``attention_mask`` masks is returned, but not read.

        Raises:
            TypeError: a keyword that we do not know.
            PromptError: not one row of ids, or a value that is wrong or not supported.
            ContextLengthError: prompt and answer do not fit the context.
        """
        check_ignored("generate", keywords, _KEYWORDS)
        given = inputs if input_ids is None else input_ids
        row = _row("input_ids", given)
        mask = [1] * len(row) if attention_mask is None else _row("attention_mask", attention_mask)
        if len(mask) != len(row):
            raise PromptError(f"attention_mask has {len(mask)} values for {len(row)} input_ids")
        prompt = [id_ for id_, kept in zip(row, mask, strict=True) if kept]
        if max_length is not None and keywords.get("max_new_tokens") is None:
            keywords["max_new_tokens"] = max_length - len(row)
        sampling = self._sampling(generation_config, keywords)
        if keywords.get("max_new_tokens") is None:
            # A length that nobody asked for shrinks to what is left, as in `Model`.
            room = max(1, self.config.model_max_length - len(prompt))
            sampling = sampling.replace(max_new_tokens=min(sampling.max_new_tokens, room))
        answer = self.runtime.generate(prompt, sampling=sampling)
        # With several end tokens the runtime does not tell which one it was.
        ended = answer.finish_reason == "stop" and len(sampling.eos_token_ids) == 1
        return _like(given, [*row, *answer.ids, *(sampling.eos_token_ids if ended else ())])

    def to(self, device: Any = None, dtype: Any = None) -> BaichuanForCausalLM:
        """Opens the model on that device, in torch's or OpenVINO's spelling; a dtype changes nothing.

        Raises:
            DeviceError: the device is not here; the model stays where it is.
        """
        if device is None or str(device).startswith("torch."):  # a dtype
            return self
        name = device_name(device)
        if name not in (self._device, self.runtime.session.device):
            opened = load(self._artifact.folder, name, properties=self._properties)
            self.runtime.close()
            self.runtime, self._device = opened, name
        return self

    def cuda(self, device: Any = None) -> BaichuanForCausalLM:
        """The best device here: printed examples end with this call."""
        return self.to("cuda")

    def quantize(self, bits: int) -> BaichuanForCausalLM:
        """This model in 4 or 8 bits; where it has other ones, its checkpoint is converted again.

        ``load_in_8bit=True`` saves the conversion to 4 bits before it.

        Raises:
            RecipeError: other bits, or the model was opened from an artifact of other bits.
        """
        if bits not in (4, 8):
            raise RecipeError(f"quantize({shown(bits)}) is not supported: use 4 or 8")
        if self._artifact.manifest.recipe.bits == bits:
            return self
        precision = asked_precision(bits == 4, bits == 8, None, self._device)
        artifact = self._source.artifact(precision, self._device)
        other = BaichuanForCausalLM(artifact, self._device, self._properties, self._source)
        other.generation_config = self.generation_config
        self.runtime.close()
        return other

    def eval(self) -> BaichuanForCausalLM:
        """Itself."""
        return self

    def half(self) -> BaichuanForCausalLM:
        """Itself: the recipe decided how weights are stored."""
        return self

    def save_low_bit(self, save_directory: str | Path) -> None:
        """Copies the artifact to a new folder, whole or not at all.

        Raises:
            ArtifactExistsError: the folder is there.
            ArtifactError: no room, or the artifact changed since it was made.
        """
        source, manifest = self._artifact.folder, self._artifact.manifest
        check_output(save_directory, source)
        needed = sum(record.bytes for record in manifest.files.values())
        with writing(save_directory, needed_bytes=needed) as partial:
            for name in manifest.files:
                shutil.copyfile(source / name, partial / name)
            if seal(partial, dataclasses.replace(manifest, files={})).files != manifest.files:
                raise ArtifactCorruptError(f"{source} was changed: convert the checkpoint again")

    save_pretrained = save_low_bit

    def _sampling(self, config: Any, keywords: Mapping[str, Any]) -> Sampling:
        """Keywords over the call's config over the model's over what transformers does without any."""
        values: dict[str, Any] = {}
        for layer in (self.generation_config, config, keywords):
            for name, off in _UNSUPPORTED.items():
                if (value := _get(layer, name)) not in off:
                    raise PromptError(f"{name}={shown(value)} is not supported: leave it out")
            values |= {name: v for name in _SAMPLING if (v := _get(layer, name)) is not None}
        if (eos := values.pop("eos_token_id", None)) is not None:
            values["eos_token_ids"] = tuple(eos) if isinstance(eos, (list, tuple)) else (eos,)
        if not values.get("do_sample"):
            values = {k: v for k, v in values.items() if k not in _WARPERS}  # unread in transformers too
        # Length and end are the model's where no config names them.
        base = self.runtime.sampling.replace(
            do_sample=False, temperature=1.0, top_k=50, top_p=1.0, repetition_penalty=1.0
        )
        return base.replace(**values)


def _get(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _growing(pieces: Iterator[Piece]) -> Iterator[str]:
    text = ""
    for piece in pieces:
        if piece.text:
            text += piece.text
            yield text


def _row(name: str, rows: Any) -> list[int]:
    """The only row of [1, tokens] in any of its kinds."""
    values = rows.tolist() if hasattr(rows, "tolist") else rows
    if not isinstance(values, (list, tuple)) or not all(isinstance(row, (list, tuple)) for row in values):
        raise PromptError(
            f"{name} has no rows: give [1, tokens], as from tokenizer(text, return_tensors='np')"
        )
    if len(values) != 1:
        raise PromptError(f"{name} has {len(values)} rows: give one prompt at a time")
    try:
        return [operator.index(value) for value in values[0]]
    except TypeError:
        raise PromptError(f"{name} holds something else than whole numbers") from None


def _like(given: Any, row: list[int]) -> Any:
    """``row`` as [1, tokens] in the kind of ``given``."""
    if hasattr(given, "new_tensor"):
        return given.new_tensor([row])
    return np.array([row], given.dtype) if isinstance(given, np.ndarray) else [row]
