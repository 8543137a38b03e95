"""An artifact opened through openvino-genai: PagedAttention on CPU and GPU, static shapes on NPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from baichuan_intel.backends.base import OnToken, Session
from baichuan_intel.backends.openvino.cache import cached_properties
from baichuan_intel.backends.openvino.devices import require_device
from baichuan_intel.backends.openvino.properties import NpuLimits, core_properties, session_properties
from baichuan_intel.errors import BackendError
from baichuan_intel.model.config import BaichuanConfig
from baichuan_intel.model.sampling import Sampling

# Makes OpenVINO's NPU pipeline run on the named device instead: how it is tested without an NPU.
_NPU_EMULATION = "NPUW_DEVICES"


class OpenVINOSession(Session):
    """One model on one device."""

    def __init__(
        self, folder: Path, config: BaichuanConfig, device: str, properties: Mapping[str, Any], key: str
    ) -> None:
        import openvino as ov
        import openvino_genai as genai

        self._core = ov.Core()
        emulated = device == "NPU" and _NPU_EMULATION in properties
        self.device = device if emulated else require_device(self._core, device)
        self._folder = folder
        self._properties = session_properties(self.device, config, properties)
        self._npu_limits = NpuLimits.from_properties(self._properties) if self.device == "NPU" else None
        if self._npu_limits:
            self.max_prompt_tokens = self._npu_limits.max_prompt_len
        self._raw: Any = None
        try:
            with cached_properties(self._core, self.device, self._properties, key) as cached:
                self._pipeline: Any = genai.LLMPipeline(str(folder), self.device, **cached)
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO cannot open {folder} on {self.device}: {last_line(error)} "
                "(check the properties given, and the folder with baichuan-intel verify)"
            ) from error

    def generate(self, ids: Sequence[int], sampling: Sampling, on_token: OnToken) -> None:
        """See `Session.generate`."""
        import openvino as ov

        if self._npu_limits:
            self._npu_limits.check(len(ids))
        streamer = _streamer(on_token)
        try:
            self._pipeline.generate(ov.Tensor(np.array([ids], np.int64)), genai_config(sampling), streamer)
        except Exception as error:
            raise BackendError(f"OpenVINO failed on {self.device}: {last_line(error)}") from error
        if streamer.error is not None:
            raise streamer.error

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """float32 logits of every position, [len(ids), vocab], from the model without GenAI.

        Compiles the model a second time at the first call: memory for both.
        """
        if self._raw is None:
            self._raw = self._compile_raw()
        count = len(ids)
        request = self._raw.create_infer_request()
        outputs = request.infer(
            {
                "input_ids": np.array([ids], np.int64),
                "attention_mask": np.ones((1, count), np.int64),
                "position_ids": np.arange(count, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
        )
        return np.array(outputs["logits"][0], dtype=np.float32)

    def close(self) -> None:
        """Drops the pipeline, which frees the device."""
        self._pipeline = self._raw = None

    def _compile_raw(self) -> Any:
        if self.device.startswith("NPU"):
            raise BackendError(
                "logits of every position need dynamic shapes: load on CPU or GPU instead of NPU"
            )
        return self._core.compile_model(
            str(self._folder / "openvino_model.xml"), self.device, core_properties(self._properties)
        )


def genai_config(sampling: Sampling) -> Any:
    """openvino-genai's GenerationConfig of a `Sampling`."""
    import secrets

    import openvino_genai as genai

    config = genai.GenerationConfig()
    config.max_new_tokens = sampling.max_new_tokens
    config.ignore_eos = sampling.ignore_eos
    config.stop_token_ids = set(() if sampling.ignore_eos else sampling.eos_token_ids)
    config.eos_token_id = sampling.eos_token_ids[0]
    config.apply_chat_template = False
    config.repetition_penalty = sampling.repetition_penalty
    config.do_sample = sampling.do_sample
    if sampling.do_sample:
        config.temperature = sampling.temperature
        config.top_p = sampling.top_p
        if sampling.top_k:
            config.top_k = sampling.top_k
        config.rng_seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
    return config


def last_line(error: Exception) -> str:
    """OpenVINO's errors end with what went wrong, after the C++ call sites."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _streamer(on_token: OnToken) -> Any:
    """A GenAI streamer that calls ``on_token``; an error in it is kept and raised after the answer.

    An exception that leaves ``write`` ends the whole process in GenAI's streaming thread (measured).
    """
    import openvino_genai as genai

    class Streamer(genai.StreamerBase):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.error: BaseException | None = None
            self.stopped = False

        def write(self, token: int | Sequence[int]) -> Any:
            try:
                for id_ in [token] if isinstance(token, int) else token:
                    self.stopped = self.stopped or on_token(id_)
            except BaseException as error:
                self.error, self.stopped = error, True
            status = genai.StreamingStatus
            return status.STOP if self.stopped else status.RUNNING

        def end(self) -> None:
            pass

    return Streamer()
