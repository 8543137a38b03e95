import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baichuan_intel.errors import ConfigError, PromptError
from baichuan_intel.model.sampling import Sampling

# generation_config.json of baichuan-inc/Baichuan2-13B-Chat, as published.
CHAT_13B = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "user_token_id": 195,
    "assistant_token_id": 196,
    "max_new_tokens": 2048,
    "temperature": 0.3,
    "top_k": 5,
    "top_p": 0.85,
    "repetition_penalty": 1.05,
    "do_sample": True,
    "transformers_version": "4.29.2",
}


def folder(tmp_path, content):
    (tmp_path / "generation_config.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def test_published_values_are_the_defaults(tmp_path):
    published = Sampling(
        max_new_tokens=2048,
        do_sample=True,
        temperature=0.3,
        top_k=5,
        top_p=0.85,
        repetition_penalty=1.05,
        seed=None,
        eos_token_ids=(2,),
        ignore_eos=False,
    )
    assert Sampling() == published
    assert Sampling.from_folder(tmp_path) == published
    assert Sampling.from_folder(str(folder(tmp_path, CHAT_13B))) == published


def test_values_of_the_file_are_taken(tmp_path):
    content = {
        "max_new_tokens": 7,
        "temperature": 0.9,
        "top_k": 11,
        "top_p": 0.5,
        "repetition_penalty": 1.3,
        "do_sample": True,
        "eos_token_id": [2, 196],
        "unknown": {"ignored": True},
    }
    assert Sampling.from_folder(folder(tmp_path, content)) == Sampling(
        max_new_tokens=7,
        temperature=0.9,
        top_k=11,
        top_p=0.5,
        repetition_penalty=1.3,
        eos_token_ids=(2, 196),
    )


def test_silent_keys_mean_what_transformers_takes(tmp_path):
    # The base models' file names the special tokens only: transformers decodes them greedily.
    generation = pytest.importorskip("transformers").GenerationConfig
    content = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "temperature": None}
    ours = Sampling.from_folder(folder(tmp_path, content))
    theirs = generation.from_pretrained(tmp_path)
    for name, off in [
        ("do_sample", False),
        ("temperature", 1.0),
        ("top_k", 50),
        ("top_p", 1.0),
        ("repetition_penalty", 1.0),
    ]:
        assert getattr(theirs, name) in (None, off)
        assert getattr(ours, name) == off
    assert ours.max_new_tokens == 2048
    assert ours.eos_token_ids == (2,)


def test_greedy():
    greedy = Sampling.greedy(max_new_tokens=3)
    assert greedy == Sampling(do_sample=False, repetition_penalty=1.0, max_new_tokens=3)
    assert Sampling.greedy(repetition_penalty=1.1).repetition_penalty == 1.1


def test_replace():
    changed = Sampling().replace(seed=4, ignore_eos=True)
    assert changed == Sampling(seed=4, ignore_eos=True)
    with pytest.raises(PromptError):
        changed.replace(top_p=2)


def test_frozen_and_strict():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sampling().top_k = 3
    for make in (Sampling, Sampling.greedy, Sampling().replace):
        with pytest.raises(TypeError):
            make(temprature=1.0)


BAD = [
    ("max_new_tokens", [0, -1, True, 1.0, "5", None, 1 << 40]),
    ("do_sample", [1, 0, "yes", None]),
    ("temperature", [0, 0.0, -1, math.nan, math.inf, 1e-9, 1e9, 10**400, True, "0.3", None]),
    ("top_k", [-1, 1.5, True, "5", None, 1 << 40]),
    ("top_p", [0, 0.0, -0.1, 1.01, math.nan, math.inf, True, "x", None]),
    ("repetition_penalty", [0, -1, math.nan, -math.inf, 1e9, True, [], None]),
    ("seed", [-1, 1 << 64, 1.0, True, "1"]),
    ("eos_token_ids", [(), 2, [2], (-1,), (True,), (2.0,), ("2",), (None,), tuple(range(99)), (1 << 40,)]),
    ("ignore_eos", [1, None, "no"]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD for value in values])
def test_bad_values(name, value):
    with pytest.raises(PromptError, match=name) as caught:
        Sampling(**{name: value})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 1),
        ("temperature", 1e-4),
        ("temperature", 1),
        ("top_k", 0),
        ("top_p", 1),
        ("repetition_penalty", 1),
        ("seed", 0),
        ("seed", 2**32 - 1),
        ("eos_token_ids", (0, 2, 125695)),
    ],
)
def test_edges(name, value):
    assert getattr(Sampling(**{name: value}), name) == value


def test_temperature_zero_names_the_mend():
    with pytest.raises(PromptError, match="do_sample"):
        Sampling(temperature=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0},
        {"temperature": math.nan},
        {"temperature": "hot"},
        {"top_p": 7},
        {"top_k": -5},
        {"repetition_penalty": math.inf},
        {"max_new_tokens": 10**18},
        {"max_new_tokens": "2048"},
        {"do_sample": "true"},
        {"eos_token_id": "2"},
        {"eos_token_id": []},
        {"eos_token_id": [2, None]},
        {"eos_token_id": list(range(1000))},
        {"eos_token_id": {"a": 1}},
    ],
)
def test_hostile_file(tmp_path, changes):
    with pytest.raises(ConfigError, match="generation_config") as caught:
        Sampling.from_folder(folder(tmp_path, CHAT_13B | changes))
    assert str(caught.value).isprintable()


def test_unreadable_file(tmp_path):
    (tmp_path / "generation_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        Sampling.from_folder(tmp_path)


def test_a_link_to_nothing_is_not_a_missing_file(tmp_path):
    try:
        (tmp_path / "generation_config.json").symlink_to(tmp_path / "nowhere")
    except OSError:
        pytest.skip("no links here")
    with pytest.raises(ConfigError, match="does not exist"):
        Sampling.from_folder(tmp_path)


values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()))


@settings(deadline=None, max_examples=60)
@given(content=st.dictionaries(st.sampled_from([*CHAT_13B, "x"]), values))
def test_only_config_error_comes_out(tmp_path_factory, content):
    try:
        sampling = Sampling.from_folder(folder(tmp_path_factory.getbasetemp(), content))
    except ConfigError:
        return
    assert sampling == Sampling(**dataclasses.asdict(sampling))
