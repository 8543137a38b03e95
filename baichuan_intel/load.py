"""`load` opens an artifact; `Model` turns prompts into text and keeps the time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from baichuan_intel.artifact.store import open_artifact
from baichuan_intel.backends.base import FinishReason, Generation, Memory, Session, Timing, get_backend
from baichuan_intel.errors import ContextLengthError, PromptError
from baichuan_intel.model.chat import Message, TurnTokens, chat_ids
from baichuan_intel.model.config import BaichuanConfig
from baichuan_intel.model.sampling import Sampling
from baichuan_intel.model.stops import StopStrings
from baichuan_intel.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np

# A text, its token ids, or a conversation.
Prompt = str | Sequence[int] | Sequence[Message]


@dataclass(frozen=True)
class Piece:
    """A piece of streamed text; the last one has no text and carries the whole `Generation`."""

    text: str
    generation: Generation | None = None


def load(folder: str | Path, device: str = "CPU", *, properties: Mapping[str, Any] | None = None) -> Model:
    """Opens the artifact ``folder`` on ``device`` (OpenVINO's names: CPU, GPU, GPU.1, NPU, AUTO).

    ``properties`` are the runtime's own, e.g. ``{"INFERENCE_NUM_THREADS": 8}``; they win over the
    package's choices.

    Raises:
        ArtifactError: the folder is not an artifact, or is damaged.
        DeviceError: the device is not here.
        BackendError: the runtime refused the model or a property.
    """
    started = time.perf_counter()
    artifact = open_artifact(Path(folder))
    tokenizer = Tokenizer(artifact.folder)
    sampling = Sampling.from_folder(artifact.folder)
    turns = TurnTokens.from_folder(artifact.folder)
    backend = get_backend(artifact.manifest.backend)
    session = backend.open(
        artifact.folder, artifact.config, device, properties or {}, artifact.manifest.artifact_hash
    )
    return Model(
        session, tokenizer, artifact.config, sampling, turns, load_s=time.perf_counter() - started
    )


class Model:
    """An opened model. Close it, or use it as a context manager. One answer at a time."""

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        config: BaichuanConfig,
        sampling: Sampling,
        turns: TurnTokens,
        *,
        load_s: float = 0.0,
    ) -> None:
        self.session, self.tokenizer, self.config = session, tokenizer, config
        self.sampling, self.turns, self.load_s = sampling, turns, load_s

    def chat(
        self,
        messages: Sequence[Message],
        *,
        sampling: Sampling | None = None,
        stop: str | Iterable[str] = (),
        **overrides: Any,
    ) -> Generation:
        """The answer to a conversation, by Baichuan 2's own prompt rules (`model.chat`).

        ``overrides`` are fields of `Sampling`, on top of ``sampling`` or the artifact's own.

        Raises:
            PromptError: the messages or a sampling value are wrong.
            BackendError: the runtime failed.
        """
        return _last(self.stream(messages, sampling=sampling, stop=stop, **overrides))

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        sampling: Sampling | None = None,
        stop: str | Iterable[str] = (),
        **overrides: Any,
    ) -> Generation:
        """The continuation of a text or of token ids, as base models are used. See `chat`.

        Raises:
            ContextLengthError: prompt and answer do not fit the context.
        """
        return _last(self.stream(prompt, sampling=sampling, stop=stop, **overrides))

    def stream(
        self,
        prompt: Prompt,
        *,
        sampling: Sampling | None = None,
        stop: str | Iterable[str] = (),
        **overrides: Any,
    ) -> Iterator[Piece]:
        """Yields the answer piece by piece; the last piece carries the `Generation`.

        Ctrl-C ends the answer early with finish reason "interrupted"; leaving the loop cancels it.
        See `chat` and `generate` for the arguments and errors.
        """
        values = (sampling or self.sampling).replace(**overrides)
        ids = self._prompt_ids(prompt, values)
        values = self._fit(len(ids), values, explicit=sampling is not None or "max_new_tokens" in overrides)
        answer = _Answer(self, len(ids), values, StopStrings(stop))
        return answer.run(ids)

    def logits(self, prompt: str | Sequence[int]) -> np.ndarray:
        """float32 logits of every position of ``prompt``, [tokens, vocab]; for verification.

        Raises:
            ContextLengthError: the prompt does not fit the context.
            BackendError: the device cannot give them.
        """
        ids = self._prompt_ids(prompt, self.sampling)
        self._check_length(len(ids), 0)
        return self.session.logits(ids)

    def close(self) -> None:
        """Frees the device. Idempotent."""
        self.session.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prompt_ids(self, prompt: Prompt, sampling: Sampling) -> list[int]:
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt)
        elif isinstance(prompt, Mapping) or any(isinstance(item, (Mapping, str)) for item in prompt):
            return chat_ids(
                prompt,  # type: ignore[arg-type]  (chat_ids checks each message)
                self.tokenizer.encode,
                max_new_tokens=sampling.max_new_tokens,
                model_max_length=self.config.model_max_length,
                user_token_id=self.turns.user,
                assistant_token_id=self.turns.assistant,
            )
        else:
            ids = self._checked_ids(prompt)  # type: ignore[arg-type]
        if not ids:
            raise PromptError("the prompt is empty: give at least one token of text")
        return ids

    def _checked_ids(self, prompt: Sequence[int]) -> list[int]:
        ids = []
        for value in prompt:
            try:
                id_ = value.__index__()
            except AttributeError:
                raise PromptError(f"the prompt holds {value!r:.80}, expected token ids") from None
            if not 0 <= id_ < self.config.vocab_size:
                raise PromptError(f"token id {id_} is outside the vocabulary of {self.config.vocab_size}")
            ids.append(id_)
        return ids

    def _fit(self, prompt_tokens: int, sampling: Sampling, *, explicit: bool) -> Sampling:
        """The default answer length shrinks to what is left; one that was asked for is checked."""
        if explicit:
            self._check_length(prompt_tokens, sampling.max_new_tokens)
            return sampling
        self._check_length(prompt_tokens, 1)
        room = self.config.model_max_length - prompt_tokens
        return sampling.replace(max_new_tokens=min(sampling.max_new_tokens, room))

    def _check_length(self, prompt_tokens: int, new_tokens: int) -> None:
        over = prompt_tokens + new_tokens - self.config.model_max_length
        if over > 0:
            asked = f" and {new_tokens} new ones" if new_tokens else ""
            raise ContextLengthError(
                f"{prompt_tokens} prompt tokens{asked} are {over} more than the context of "
                f"{self.config.model_max_length}: shorten the prompt or ask for fewer new tokens"
            )


def _last(pieces: Iterator[Piece]) -> Generation:
    generation = None
    for piece in pieces:
        generation = piece.generation
    if generation is None:  # the stream always ends with one, or raises
        raise PromptError("the answer was closed before it ended")
    return generation


class _Answer:
    """One answer under way: the session decodes in a thread, so that Ctrl-C reaches us at once."""

    def __init__(self, model: Model, prompt_tokens: int, sampling: Sampling, stops: StopStrings) -> None:
        self._model, self._prompt_tokens, self._sampling, self._stops = model, prompt_tokens, sampling, stops
        self._detokenizer = model.tokenizer.detokenizer()
        self._events: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        self._cancel = threading.Event()
        self._ids: list[int] = []
        self._text: list[str] = []
        self._times: list[float] = []
        self._reason: FinishReason = "length"
        self._started = 0.0

    def run(self, ids: list[int]) -> Iterator[Piece]:
        worker = threading.Thread(target=self._decode, args=(ids,), daemon=True)
        worker.start()
        try:
            yield from self._pieces()
            worker.join()
        finally:
            self._cancel.set()
            worker.join()
        yield Piece("", self._generation())

    def _pieces(self) -> Iterator[Piece]:
        while True:
            try:
                event = self._next_event()
            except KeyboardInterrupt:
                if self._cancel.is_set():
                    raise
                self._cancel.set()
                self._reason = "interrupted"
                continue
            if event is None:
                return
            if isinstance(event, BaseException):
                raise event
            yield Piece(event)

    def _next_event(self) -> str | BaseException | None:
        while True:
            try:
                # A wait without a limit cannot be interrupted on Windows.
                return self._events.get(timeout=0.2)
            except queue.Empty:
                continue

    def _decode(self, ids: list[int]) -> None:
        """Runs in the worker: every event but the last is text, the last is None or an error."""
        self._started = time.perf_counter()
        try:
            self._model.session.generate(ids, self._sampling, self._on_token)
            self._emit(self._detokenizer.flush())
            if tail := self._stops.flush():
                self._show(tail)
        except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
            self._events.put(error)
        else:
            self._events.put(None)

    def _on_token(self, id_: int) -> bool:
        if self._cancel.is_set():
            return True
        now = time.perf_counter()
        if not self._sampling.ignore_eos and id_ in self._sampling.eos_token_ids:
            self._reason = "stop"
            self._times = self._times or [now]
            return True
        self._times.append(now)
        self._ids.append(id_)
        return self._emit(self._detokenizer.push(id_))

    def _emit(self, text: str) -> bool:
        shown, hit = self._stops.push(text)
        self._show(shown)
        if hit:
            self._reason = "stop"
        return hit

    def _show(self, text: str) -> None:
        if text:
            self._text.append(text)
            self._events.put(text)

    def _generation(self) -> Generation:
        times = self._times or [time.perf_counter()]
        gaps = tuple(later - earlier for earlier, later in zip(times, times[1:], strict=False))
        timing = Timing(first_token_s=times[0] - self._started, token_s=gaps, load_s=self._model.load_s)
        return Generation(
            text="".join(self._text),
            ids=tuple(self._ids),
            prompt_tokens=self._prompt_tokens,
            finish_reason=self._reason,
            timing=timing,
            memory=_memory(),
        )


def _memory() -> Memory:
    import psutil

    info = psutil.Process().memory_info()
    # Windows reports the peak beside the current size; elsewhere resource does.
    peak = getattr(info, "peak_wset", 0)
    if not peak:
        import resource
        import sys

        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return Memory(rss=info.rss, peak_rss=max(peak, info.rss))
