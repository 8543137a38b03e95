"""Options that several verbs share, and the values made of them."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer


class Hub(str, Enum):
    """Where a checkpoint is downloaded from."""

    huggingface = "huggingface"
    modelscope = "modelscope"


class NanoKind(str, Enum):
    """The bundled checkpoints."""

    rope = "rope"
    alibi = "alibi"


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
# Read by `main` before parsing, since errors may come from anywhere.
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Folder = Annotated[Path, typer.Argument(help="Folder of a converted model.", show_default=False)]
Device = Annotated[str, typer.Option("--device", "-d", help="CPU, GPU, GPU.1, NPU or AUTO.")]
Property = Annotated[
    list[str] | None,
    typer.Option(
        "--property", metavar="KEY=VALUE", help="OpenVINO property; repeatable.", show_default=False
    ),
]
MaxNewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", "-n", help="Longest answer, in tokens.", show_default=False)
]
Temperature = Annotated[float | None, typer.Option(help="Divides the logits.", show_default=False)]
TopK = Annotated[int | None, typer.Option(help="Keep the k likeliest tokens.", show_default=False)]
TopP = Annotated[float | None, typer.Option(help="Keep tokens up to this probability.", show_default=False)]
Penalty = Annotated[
    float | None, typer.Option("--repetition-penalty", help="1.0 is none.", show_default=False)
]
Seed = Annotated[int | None, typer.Option(help="Makes sampling reproducible.", show_default=False)]
Greedy = Annotated[bool, typer.Option("--greedy", help="Always take the likeliest token.")]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", help="End the answer before this text; repeatable.", show_default=False),
]


def sampling_values(
    max_new_tokens: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    repetition_penalty: float | None,
    seed: int | None,
    greedy: bool,
) -> dict[str, Any]:
    """The options that were given, as `Sampling` fields; checked here, before a model is loaded.

    Raises:
        PromptError: a value is out of range.
        typer.BadParameter: two options contradict each other.
    """
    from baichuan_intel.model.sampling import Sampling

    choices = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    sampled = any(value is not None for value in choices.values())
    if greedy and sampled:
        raise typer.BadParameter("--greedy takes no --temperature, --top-k, --top-p or --seed")
    given = {"max_new_tokens": max_new_tokens, "repetition_penalty": repetition_penalty, **choices}
    values: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if greedy:
        values = {"repetition_penalty": 1.0, **values, "do_sample": False}
    elif sampled:
        values["do_sample"] = True
    Sampling(**values)
    return values


def stop_strings(given: list[str] | None) -> tuple[str, ...]:
    r"""The texts of ``--stop``, where \n is a new line; checked here, before a model is loaded.

    Raises:
        PromptError: one is empty, or there are too many.
    """
    from baichuan_intel.model.stops import StopStrings

    stops = tuple(stop.replace("\\n", "\n") for stop in given or ())
    StopStrings(stops)
    return stops
