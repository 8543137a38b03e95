"""`load` opens an artifact; `Model` turns prompts into text and keeps the time."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from baichuan_intel.artifact.store import open_artifact
from baichuan_intel.backends.base import FinishReason, Generation, Memory, Session, Timing, get_backend
from baichuan_intel.errors import BackendError
from baichuan_intel.model.chat import Message, TurnTokens, check_messages
from baichuan_intel.model.config import BaichuanConfig
from baichuan_intel.model.prompt import Prompt, PromptEncoder
from baichuan_intel.model.sampling import Sampling
from baichuan_intel.model.stops import StopStrings
from baichuan_intel.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np

# How long Ctrl-C, or another answer's end, may go unnoticed.
_POLL_S = 0.1


@dataclass(frozen=True)
class Piece:
    """A piece of streamed text; the last one has no text and carries the whole `Generation`."""

    text: str
    generation: Generation | None = None


# What `Model.stream` returns: close() it to cancel the answer.
Pieces = Generator[Piece, None, None]


def load(folder: str | Path, device: str = "CPU", *, properties: Mapping[str, Any] | None = None) -> Model:
    """Opens the artifact ``folder`` on ``device`` (OpenVINO's names: CPU, GPU, GPU.1, NPU, AUTO).

    ``properties`` are the runtime's own, e.g. ``{"INFERENCE_NUM_THREADS": 8}``; they win over the
    package's choices.

    Raises:
        ArtifactError: the folder is not an artifact, or is damaged.
        ConfigError, TokenizerError: a file beside the model was damaged.
        DeviceError: the device is not here.
        BackendError: the runtime refused the model or a property.
    """
    started = time.perf_counter()
    artifact = open_artifact(folder)
    tokenizer = Tokenizer(artifact.folder, artifact.config.vocab_size)
    sampling = Sampling.from_folder(artifact.folder)
    turns = TurnTokens.from_folder(artifact.folder)
    backend = get_backend(artifact.manifest.backend)
    session = backend.open(
        artifact.folder, artifact.config, device, properties or {}, artifact.manifest.artifact_hash
    )
    return Model(session, tokenizer, artifact.config, sampling, turns, load_s=time.perf_counter() - started)


class Model:
    """An opened model. Close it, or use it as a context manager; the end of the program closes it too.

    Answers that several threads ask for are given one after another.
    """

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
        self._prompts = PromptEncoder(tokenizer, config, turns, session.max_prompt_tokens)
        self._lock, self._closing = threading.Lock(), threading.Event()
        # Runs at exit as well, while threads still work: no answer goes on under a dying interpreter.
        self._finalizer = weakref.finalize(self, _shut, session, self._lock, self._closing)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        sampling: Sampling | None = None,
        stop: str | Iterable[str] = (),
        **overrides: Any,
    ) -> Generation:
        """The answer to a conversation, by Baichuan 2's own prompt rules (`model.chat`).

        ``overrides`` are fields of `Sampling`, on top of ``sampling`` or the artifact's own. An answer
        length that is not asked for gives way where the context is short. Ctrl-C ends the answer:
        what there is is returned, with finish reason "interrupted".

        Raises:
            PromptError: the messages or a sampling value are wrong.
            TypeError: `Sampling` has no such field.
            BackendError: the runtime failed, or the model is closed.
        """
        check_messages(messages)
        return collect(self.stream(messages, sampling=sampling, stop=stop, **overrides))

    def generate(
        self,
        prompt: str | Iterable[int],
        *,
        sampling: Sampling | None = None,
        stop: str | Iterable[str] = (),
        **overrides: Any,
    ) -> Generation:
        """The continuation of a text or of token ids, as base models are used. See `chat`.

        Raises:
            ContextLengthError: prompt and answer do not fit the context.
        """
        return collect(self.stream(prompt, sampling=sampling, stop=stop, **overrides))

    def stream(
        self,
        prompt: Prompt,
        *,
        sampling: Sampling | None = None,
        stop: str | Iterable[str] = (),
        **overrides: Any,
    ) -> Pieces:
        """Yields the answer piece by piece; the last piece carries the `Generation`.

        Ctrl-C ends the answer early with finish reason "interrupted"; leaving the loop cancels it.
        A list of messages is answered as by `chat`, a text or token ids as by `generate`.
        """
        self._check_open()
        explicit = sampling is not None or "max_new_tokens" in overrides
        values = (sampling or self.sampling).replace(**overrides)
        ids, values = self._prompts.fit(prompt, values, explicit=explicit)
        return _Answer(self, len(ids), values, StopStrings(stop)).run(ids)

    def logits(self, prompt: str | Iterable[int]) -> np.ndarray:
        """float32 logits of every position of ``prompt``, [tokens, vocab]; for verification.

        Raises:
            PromptError: ``prompt`` is neither text nor token ids.
            ContextLengthError: the prompt does not fit the context.
            BackendError: the device cannot give them, or the model is closed.
        """
        ids = self._prompts.ids(prompt)
        with self._lock:
            self._check_open()
            return self.session.logits(ids)

    def close(self) -> None:
        """Ends an answer that another thread is getting, and frees the device. Idempotent."""
        _shut(self.session, self._lock, self._closing)
        self._finalizer.detach()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise BackendError("the model is closed: load it again")


def collect(pieces: Pieces, show: Callable[[str], object] = len) -> Generation:
    """The whole answer of a stream; ``show`` gets each text. Ctrl-C in ``show``, too, only ends the answer.

    Raises:
        KeyboardInterrupt: a second Ctrl-C, before the runtime could stop.
    """
    piece = next(pieces)
    while piece.generation is None:
        try:
            show(piece.text)
            piece = next(pieces)
        except KeyboardInterrupt as interrupt:
            piece = pieces.throw(interrupt)  # raises it again if the stream was already interrupted
    return piece.generation


def _shut(session: Session, lock: threading.Lock, closing: threading.Event) -> None:
    closing.set()
    with lock:
        session.close()


class _Answer:
    """One answer under way: the session decodes in a thread, so that Ctrl-C reaches us at once."""

    def __init__(self, model: Model, prompt_tokens: int, sampling: Sampling, stops: StopStrings) -> None:
        self._model, self._prompt_tokens, self._sampling, self._stops = model, prompt_tokens, sampling, stops
        self._detokenizer = model.tokenizer.detokenizer()
        self._cancel = threading.Event()
        # The worker alone writes these. A wake-up may be lost to Ctrl-C, a text may not.
        self._text: list[str] = []
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._done = False
        self._error: BaseException | None = None
        self._ids: list[int] = []
        self._times: list[float] = []
        self._reason: FinishReason = "length"

    def run(self, ids: list[int]) -> Pieces:
        self._started = time.perf_counter()
        worker = threading.Thread(target=self._work, args=(ids,), name="baichuan-intel", daemon=True)
        try:
            worker.start()
            yield from self._pieces()
        finally:
            self._cancel.set()
            if worker.is_alive():  # unless Ctrl-C came while it started
                worker.join()
        if self._error is not None:
            raise self._error
        yield Piece("", self._generation())

    def _pieces(self) -> Pieces:
        seen = 0
        while True:
            try:
                # A wait without a limit cannot be interrupted on Windows.
                with contextlib.suppress(queue.Empty):
                    self._wake.get(timeout=_POLL_S)
                done = self._done  # read before the texts: none follows once it is set
                while seen < len(self._text):
                    seen += 1
                    yield Piece(self._text[seen - 1])
                if done:
                    return
            except KeyboardInterrupt:
                if self._cancel.is_set():
                    raise
                self._cancel.set()

    def _work(self, ids: list[int]) -> None:
        try:
            with self._model._lock:
                if self._cancelled():
                    self._reason = "interrupted"
                else:
                    self._model.session.generate(ids, self._sampling, self._on_token)
            self._emit(self._detokenizer.flush())
            self._show(self._stops.flush())
        except BaseException as error:  # raised again in the caller's thread
            self._error = error
        finally:
            self._done = True
            self._wake.put(None)

    def _cancelled(self) -> bool:
        return self._cancel.is_set() or self._model._closing.is_set()

    def _on_token(self, id_: int) -> bool:
        if self._cancelled():
            self._reason = "interrupted"
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
            self._wake.put(None)

    def _generation(self) -> Generation:
        times = self._times or [time.perf_counter()]
        gaps = tuple(later - earlier for earlier, later in itertools.pairwise(times))
        timing = Timing(first_token_s=times[0] - self._started, token_s=gaps, load_s=self._model.load_s)
        return Generation(
            text="".join(self._text),
            ids=tuple(self._ids),
            prompt_tokens=self._prompt_tokens,
            finish_reason=self._reason,
            timing=timing,
            memory=Memory.now(),
        )
