"""Every error this package raises on purpose.

::

    BaichuanError                  caught by the CLI: printed as one line, exit 1
    ├── ConfigError                config.json or generation_config.json is not a Baichuan model's
    ├── CheckpointError            float weights cannot be used
    │   ├── UnsafeFileError        a file wants to run code or to leave its folder
    │   └── TensorError            a tensor is missing, extra, mis-shaped, NaN or Inf
    ├── TokenizerError             tokenizer.model cannot be used
    ├── HubError                   a download failed or was refused
    ├── RecipeError                a recipe is unknown, or cannot serve this model or device
    ├── ArtifactError              a converted folder cannot be used
    │   ├── ArtifactExistsError    the output is already there
    │   ├── ArtifactLockedError    another process is writing it
    │   ├── ArtifactCorruptError   a file is missing, has another size or another hash
    │   └── ArtifactVersionError   written by a newer schema
    ├── PromptError                messages, prompt or sampling values are wrong
    │   └── ContextLengthError     the prompt does not fit the context
    ├── BackendError               the runtime failed
    │   └── DeviceError            unknown device, or its driver is missing
    └── MissingDependencyError     an extra is not installed; the message is the exact pip line

A message is one line: the cause, then the mend.
"""

from __future__ import annotations


class BaichuanError(Exception):
    """Base of the tree. ``str(error)`` is one line for the user."""


class ConfigError(BaichuanError):
    """config.json or generation_config.json is not one of a Baichuan model."""


class CheckpointError(BaichuanError):
    """The float weights cannot be used."""


class UnsafeFileError(CheckpointError):
    """A file would run code, or points outside its folder."""


class TensorError(CheckpointError):
    """A tensor is missing, extra, mis-shaped, or holds NaN or Inf."""


class TokenizerError(BaichuanError):
    """tokenizer.model cannot be used."""


class HubError(BaichuanError):
    """A download failed or was refused."""


class RecipeError(BaichuanError):
    """A recipe is unknown, or cannot serve this model or device."""


class ArtifactError(BaichuanError):
    """A converted folder cannot be used."""


class ArtifactExistsError(ArtifactError):
    """The output folder is already there."""


class ArtifactLockedError(ArtifactError):
    """Another process is writing the same output."""


class ArtifactCorruptError(ArtifactError):
    """A file of the artifact is missing, or its size or hash is not the recorded one."""


class ArtifactVersionError(ArtifactError):
    """The artifact was written by a newer schema than this version reads."""


class PromptError(BaichuanError):
    """Messages, a prompt or sampling values are wrong."""


class ContextLengthError(PromptError):
    """The prompt does not fit the model's context."""


class BackendError(BaichuanError):
    """The runtime failed."""


class DeviceError(BackendError):
    """The device is unknown, or its driver is missing."""


class MissingDependencyError(BaichuanError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(f'{purpose} needs {package}: pip install "baichuan-intel[{extra}]"')
