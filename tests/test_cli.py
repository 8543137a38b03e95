"""Every verb of the command line: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import baichuan_intel
from baichuan_intel.artifact.store import verify
from baichuan_intel.model.nano import nano_path
from baichuan_intel.model.sampling import Sampling
from fake_backend import EOS, FakeBackend, install, interrupt, tokenizer

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "解释一下“温故而知新”"


@pytest.fixture
def fake(monkeypatch):
    """``fake(script, ...)`` is a backend that plays them instead of OpenVINO."""

    def make(*scripts) -> FakeBackend:
        backend = FakeBackend(*(scripts or [["李商隐", EOS]]))
        install(monkeypatch, backend)
        return backend

    return make


def program(*arguments: object, **options) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, its input and output pipes."""
    command = [sys.executable, "-m", "baichuan_intel", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, cwd=ROOT, timeout=120, **options)


def test_version(cli):
    assert cli("--version") == (0, f"{baichuan_intel.__version__}\n", "")


def test_no_arguments_and_help_show_the_verbs(cli):
    for arguments in ((), ("--help",), ("-h",)):
        done = cli(*arguments)
        for verb in ("demo", "devices", "convert", "info", "verify", "chat", "generate"):
            assert verb in done.out
    assert cli("--help").code == 0


@pytest.mark.parametrize("verb", ["demo", "devices", "convert", "info", "verify", "chat", "generate"])
def test_every_verb_has_json_debug_and_help(cli, verb):
    done = cli(verb, "--help")
    assert done.code == 0
    assert "--json" in done.out
    assert "--debug" in done.out


def test_convert_info_and_verify(cli, tmp_path):
    out = tmp_path / "with [brackets] and :smile:"
    done = cli("convert", nano_path("alibi"), out)
    assert (done.code, done.err) == (0, "")
    assert cli("info", out) == done
    lines = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert lines["folder"] == str(out)
    assert lines["recipe"] == "int4-sym-g128"
    assert "ALiBi" in lines["model"]
    checked = cli("verify", out)
    assert checked.code == 0
    assert checked.out.startswith(f"ok: {len(verify(out))} files")


def test_convert_as_json(cli, tmp_path):
    options = ("--recipe", "int4-sym-g32", "--lm-head-bits", "4", "--embedding-bits", "16", "--json")
    done = cli("convert", nano_path("rope"), tmp_path / "out", *options)
    facts = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert facts["folder"] == str(tmp_path / "out")
    assert facts["bytes"] == sum(record["bytes"] for record in facts["files"].values())
    assert facts["source"]["folder"] == "rope"
    assert facts["config"]["position_embedding"] == "rope"
    asked = {"lm_head_bits": 4, "embedding_bits": 16, "group_size": 32}
    manifest = json.loads((tmp_path / "out" / "baichuan_intel.json").read_text("utf-8"))
    assert asked.items() <= manifest["recipe"].items()
    assert json.loads(cli("info", tmp_path / "out", "--json").out) == facts
    assert json.loads(cli("verify", tmp_path / "out", "--json").out) == {
        "ok": True,
        "files": list(facts["files"]),
        "bytes": facts["bytes"],
    }


def test_convert_refuses_an_output_that_exists_unless_told(cli, tmp_path):
    out = tmp_path / "out"
    assert cli("convert", nano_path("rope"), out).code == 0
    done = cli("convert", nano_path("rope"), out)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"baichuan-intel: {out} exists: choose another output or pass --overwrite\n"
    assert cli("convert", nano_path("alibi"), out, "--overwrite").code == 0
    assert json.loads(cli("info", out, "--json").out)["config"]["position_embedding"] == "alibi"


def test_devices(cli):
    done = cli("devices")
    assert done.code == 0
    assert "CPU" in done.out
    found = json.loads(cli("devices", "--json").out)
    (cpu,) = [device for device in found["devices"] if device["name"] == "CPU"]
    assert cpu["full_name"]
    assert cpu["memory_bytes"] > 1 << 28
    assert "FP32" in cpu["capabilities"]
    assert all({"device", "problem", "mend"} == set(finding) for finding in found["findings"])


@pytest.mark.parametrize("kind", ["rope", "alibi"])
def test_demo(cli, kind):
    done = cli("demo", "--kind", kind)
    assert (done.code, done.err) == (0, "")
    assert "李商隐" in done.out
    assert "《论语" in done.out
    assert done.out.count("first token") == 2
    assert "int4-sym-g128" in done.out


def test_demo_as_json(cli):
    facts = json.loads(cli("demo", "--json").out)
    assert facts["completion"]["text"] == "李商隐"
    assert facts["chat"]["finish_reason"] == "stop"
    assert facts["convert_s"] > 0


def test_chat_answers_what_a_pipe_brings_and_ends(cli, nano):
    done = cli("chat", nano(), "--greedy", stdin=f"{QUESTION}\n")
    assert done.code == 0
    assert "论语" in done.out
    assert done.out.count("\n") == 1
    assert done.err.startswith(f"[{len(tokenizer().encode(QUESTION)) + 2} prompt + ")
    assert done.err.endswith(", stop]\n")


def test_chat_as_json(cli, nano):
    done = cli("chat", nano(), "--greedy", "--json", "--system", "你是助手", stdin=QUESTION)
    facts = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert facts["new_tokens"] == len(facts["ids"]) == len(facts["timing"]["token_s"]) + 1
    assert facts["decode_tokens_per_s"] > 0
    assert facts["memory"]["rss"] > 0


def test_chat_builds_its_prompt_from_system_and_input(cli, nano, fake):
    backend = fake(["好", EOS])
    assert cli("chat", nano(), "--system", "诗人", stdin="\ufeff第一行\n第二行\n\n").out == "好\n"
    encode = tokenizer().encode
    assert backend.sessions[0].prompts == [[*encode("诗人"), 195, *encode("第一行\n第二行"), 196]]


def test_generate_continues_a_text(cli, nano):
    prompt, options = r"登鹳雀楼->王之涣\n夜雨寄北->", ("--greedy", "-n", "8")
    done = cli("generate", nano(), prompt, *options, "--stop", r"\n")
    assert (done.code, done.out) == (0, "李商隐\n")
    text = prompt.replace(r"\n", "\n")
    facts = json.loads(cli("generate", nano(), "-", *options, "--json", stdin=text + "\n").out)
    assert facts["text"].startswith("李商隐")
    assert facts["prompt_tokens"] == len(tokenizer().encode(text))


def test_sampling_options_reach_the_runtime(cli, nano, fake):
    backend = fake()
    options = ["--temperature", "0.5", "--top-k", "7", "--top-p", "0.9", "--seed", "3"]
    cli("generate", nano(), "x", *options, "--repetition-penalty", "1.2", "--max-new-tokens", "9")
    sampling = backend.sessions[0].samplings[0]
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed) == (0.5, 7, 0.9, 3)
    assert (sampling.repetition_penalty, sampling.max_new_tokens, sampling.do_sample) == (1.2, 9, True)
    cli("generate", nano(), "x", "--greedy")
    greedy = backend.sessions[1].samplings[0]
    assert (greedy.do_sample, greedy.repetition_penalty) == (False, 1.0)


def test_a_sampling_value_or_a_seed_asks_for_sampling(cli, nano, fake, monkeypatch):
    """Base models decode greedily by themselves."""
    backend = fake()
    monkeypatch.setattr(Sampling, "from_folder", lambda folder: Sampling(do_sample=False))
    for option in ("--temperature=0.5", "--top-k=7", "--top-p=0.9", "--seed=3", "--max-new-tokens=9"):
        cli("generate", nano(), "x", option)
    assert [session.samplings[0].do_sample for session in backend.sessions] == [True] * 4 + [False]


def test_a_stop_string_may_be_a_new_line(cli, nano, fake):
    fake(["一\n二", EOS])
    assert cli("generate", nano(), "x", "--stop", r"\n").out == "一\n"
    assert cli("chat", nano(), "--stop", r"\n", stdin="x").out == "一\n"


def test_a_terminal_sees_what_is_loaded(cli, nano, fake, tmp_path, monkeypatch):
    fake()
    monkeypatch.setenv("FORCE_COLOR", "1")
    folder = shutil.copytree(nano(), tmp_path / "with [brackets]")
    done = cli("generate", folder, "x")
    assert f"loading {folder} on CPU" in done.err.replace("\n", "")
    assert done.out == "李商隐\n"


def test_device_and_properties_reach_the_runtime(cli, nano, fake):
    backend = fake()
    properties = ["--property", "INFERENCE_NUM_THREADS=2", "--property", "NAME=a=b"]
    assert cli("generate", nano(), "x", "-d", "GPU.1", *properties).code == 0
    assert backend.opened[0][:3] == (nano(), "GPU.1", {"INFERENCE_NUM_THREADS": 2, "NAME": "a=b"})


def test_properties_reach_openvino(cli, nano):
    done = cli("generate", nano(), "夜雨寄北->", "-n", "2", "--property", "INFERENCE_NUM_THREADS=1")
    assert done.code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["sing"],
        ["convert"],
        ["generate", "folder"],
        ["info", "folder", "--jsno"],
        ["generate", "folder", "x", "--top-k", "many"],
        ["demo", "--kind", "7b"],
        ["convert", "a/b", "out", "--hub", "elsewhere"],
        ["generate", "folder", "x", "--greedy", "--seed", "1"],
    ],
)
def test_wrong_usage_is_exit_code_2(cli, arguments):
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert "Usage" in done.err


def test_a_failure_is_one_line_and_debug_shows_where(cli, tmp_path):
    done = cli("info", tmp_path / "missing")
    assert (done.code, done.out) == (1, "")
    assert done.err.count("\n") == 1
    assert done.err.startswith("baichuan-intel: ")
    debug = cli("info", tmp_path / "missing", "--debug")
    assert debug.code == 1
    assert "Traceback" in debug.err
    assert debug.err.endswith(done.err)


def test_a_bug_is_one_line_too(cli, nano, fake):
    fake([ZeroDivisionError("of zero")])
    done = cli("generate", nano(), "x")
    assert done.code == 1
    assert done.err == "baichuan-intel: unexpected ZeroDivisionError: of zero (a bug; --debug shows where)\n"


def test_an_error_of_the_system_is_one_line(cli, nano, fake):
    fake([PermissionError(13, "Permission denied", "file")])
    assert cli("generate", nano(), "x").err == "baichuan-intel: [Errno 13] Permission denied: 'file'\n"


def test_ctrl_c_during_an_answer_prints_what_there_is(cli, nano, fake):
    fake(["白日", interrupt, *["依", 0.01] * 500])
    done = cli("generate", nano(), "x")
    assert done.code == 0
    assert done.out.startswith("白日")
    assert done.err.endswith("interrupted]\n")


def test_ctrl_c_elsewhere_ends_the_command_without_a_traceback(cli, nano, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("baichuan_intel.artifact.store.open_artifact", interrupted)
    done = cli("info", nano())
    assert done.code != 0
    assert "Traceback" not in done.err


# In a process of its own: pipes, encodings and the end of the interpreter.


def test_a_pipe_in_and_a_pipe_out(nano):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = program("chat", nano(), "--greedy", input=QUESTION.encode(), env=environment)
    assert done.returncode == 0, done.stderr
    assert "论语" in done.stdout.decode("utf-8")
    assert b"tokens/s" in done.stderr
    assert b"\x1b" not in done.stdout + done.stderr


@pytest.mark.skipif(os.name != "posix", reason="head")
def test_a_reader_that_leaves_is_no_traceback(nano):
    command = f"{sys.executable} -m baichuan_intel generate {nano()} x -n 2000 --seed 1 | head -c 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, cwd=ROOT, timeout=120)
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
