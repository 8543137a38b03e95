"""The command line: one function a verb. Each parses, calls, prints; the work is done elsewhere.

Exit codes: 0 ok, 1 failed, 2 wrong usage. Results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import io
import json
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from baichuan_intel import __version__
from baichuan_intel.errors import BaichuanError
from baichuan_intel.options import (
    Debug,
    Device,
    Folder,
    Greedy,
    Hub,
    Json,
    MaxNewTokens,
    NanoKind,
    Penalty,
    Property,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
    sampling_values,
    stop_strings,
)

app = typer.Typer(
    name="baichuan-intel",
    help="Run Baichuan 2 in INT4 on Intel hardware: convert once, save, chat.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    kind: Annotated[NanoKind, typer.Option(help="rope is the 7B kind, alibi the 13B kind.")] = NanoKind.rope,
    device: Device = "CPU",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert a bundled tiny checkpoint to INT4, chat with it, print its speed."""
    from baichuan_intel.demo import run_demo

    result = run_demo(kind.value, device, quiet=as_json)
    if as_json:
        _print_json(result)


@app.command()
def devices(as_json: Json = False, debug: Debug = False) -> None:
    """List what OpenVINO can run on here, and what a missing device needs."""
    from baichuan_intel import show
    from baichuan_intel.backends.openvino import OpenVINOBackend

    backend = OpenVINOBackend()
    found, missing = list(backend.devices()), backend.missing_drivers()
    if as_json:
        _print_json({"devices": found, "findings": missing})
    else:
        show.devices(found, missing)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Checkpoint folder, or hub id org/name.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist.", show_default=False)],
    recipe: Annotated[str, typer.Option(help="How weights are stored; see docs, recipes.")] = "int4-sym-g128",
    lm_head_bits: Annotated[
        int | None, typer.Option(help="4, 8, 16 or 32; the recipe's own by default.", show_default=False)
    ] = None,
    embedding_bits: Annotated[
        int | None, typer.Option(help="4, 8, 16 or 32; the recipe's own by default.", show_default=False)
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", "-d", help="Refuse what this device cannot run.", show_default=False),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit on the hub.", show_default=False)
    ] = None,
    subfolder: Annotated[
        str | None, typer.Option(help="Folder inside the repository.", show_default=False)
    ] = None,
    hub: Annotated[Hub, typer.Option(help="Where a hub id is looked up.")] = Hub.huggingface,
    offline: Annotated[bool, typer.Option("--offline", help="Use what is already downloaded.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a converted folder.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert a Baichuan checkpoint to a low-bit folder that any OpenVINO GenAI program can load."""
    import dataclasses

    from baichuan_intel import show
    from baichuan_intel.convert import convert as run
    from baichuan_intel.lowbit.recipe import Recipe

    chosen = Recipe.named(recipe)
    if lm_head_bits is not None:
        chosen = dataclasses.replace(chosen, lm_head_bits=lm_head_bits)
    if embedding_bits is not None:
        chosen = dataclasses.replace(chosen, embedding_bits=embedding_bits)
    artifact = run(
        source,
        out,
        recipe=chosen,
        device=device,
        revision=revision,
        subfolder=subfolder,
        hub=hub.value,
        offline=offline,
        overwrite=overwrite,
    )
    if as_json:
        _print_json(show.artifact_facts(artifact))
    else:
        show.artifact(artifact)


@app.command()
def info(folder: Folder, as_json: Json = False, debug: Debug = False) -> None:
    """Show what a converted folder holds, and where it came from."""
    from baichuan_intel import show
    from baichuan_intel.artifact.store import open_artifact

    artifact = open_artifact(folder)
    if as_json:
        _print_json(show.artifact_facts(artifact))
    else:
        show.artifact(artifact)


@app.command()
def verify(folder: Folder, as_json: Json = False, debug: Debug = False) -> None:
    """Hash every file of a converted folder and compare with what was written."""
    from baichuan_intel.artifact.store import open_artifact
    from baichuan_intel.artifact.store import verify as run
    from baichuan_intel.progress import bars

    total = open_artifact(folder).manifest.total_bytes
    with bars() as shown:
        shown.start("hashing", total)
        checks = run(folder, shown.advance)
    if as_json:
        _print_json({"ok": True, "files": [check.name for check in checks], "bytes": total})
    else:
        print(f"ok: {len(checks)} files, {total / 1e9:.2f} GB, all as written")


@app.command()
def chat(
    folder: Folder,
    device: Device = "CPU",
    system: Annotated[str | None, typer.Option(help="System message.", show_default=False)] = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    repetition_penalty: Penalty = None,
    seed: Seed = None,
    greedy: Greedy = False,
    stop: Stop = None,
    property: Property = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Chat in the terminal. With input from a pipe, answer it as one message and end."""
    from baichuan_intel.terminal import Chat, ask_once, read_input

    values = sampling_values(max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed, greedy)
    stops = stop_strings(stop)
    text = None if sys.stdin and sys.stdin.isatty() and not as_json else read_input()
    with _load(folder, device, property) as model:
        if text is None:
            Chat(model, system, values, stops).run()
        else:
            _print_answer(ask_once(model, system, text, values, stops, quiet=as_json), as_json)


@app.command()
def generate(
    folder: Folder,
    prompt: Annotated[
        str, typer.Argument(help="Text to continue; - reads it from stdin.", show_default=False)
    ],
    device: Device = "CPU",
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    repetition_penalty: Penalty = None,
    seed: Seed = None,
    greedy: Greedy = False,
    stop: Stop = None,
    property: Property = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    r"""Continue a text, as base models are used. \n in PROMPT and --stop is a new line."""
    from baichuan_intel.terminal import read_input, show_stream

    values = sampling_values(max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed, greedy)
    stops = stop_strings(stop)
    text = read_input() if prompt == "-" else prompt.replace("\\n", "\n")
    with _load(folder, device, property) as model:
        _print_answer(show_stream(model.stream(text, stop=stops, **values), quiet=as_json), as_json)


def main() -> None:
    """Runs the command line; a failure is one line on stderr and exit code 1."""
    # Chinese must not fail on a console or pipe of another encoding (Windows' code pages).
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "replace"), (sys.stdin, "strict")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)
    debug = "--debug" in sys.argv
    try:
        app()
    except BaichuanError as error:
        _fail(str(error), debug)
    except OSError as error:
        _fail(str(error), debug)
    except Exception as error:
        _fail(f"unexpected {type(error).__name__}: {error} (a bug; --debug shows where)", debug)


def _fail(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print("baichuan-intel: " + " ".join(message.splitlines()), file=sys.stderr)
    sys.exit(1)


def _load(folder: Path, device: str, properties: list[str] | None) -> Any:
    from baichuan_intel.backends.openvino.properties import parse_property
    from baichuan_intel.load import load
    from baichuan_intel.show import status

    parsed = dict(parse_property(item) for item in properties or ())
    with status(f"loading {folder} on {device}"):
        return load(folder, device, properties=parsed)


def _print_answer(answer: Any, as_json: bool) -> None:
    from baichuan_intel import show

    if as_json:
        _print_json(show.generation_facts(answer))
    else:
        show.speeds(answer)


def _print_json(value: Any) -> None:
    from baichuan_intel.show import plain

    print(json.dumps(plain(value), ensure_ascii=False, indent=2))
