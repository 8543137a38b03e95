import json
import random

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from baichuan_intel.errors import ConfigError, ContextLengthError, PromptError
from baichuan_intel.model.chat import CHAT_TEMPLATE, TurnTokens, chat_ids, check_messages
from baichuan_intel.model.tokenizer import Tokenizer
from factory import tokenizer_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    file.write_bytes(tokenizer_model())
    return Tokenizer(file)


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def letters(text):
    """An encoder for cases computed by hand: a is 1000, b is 1001, ..."""
    return [1000 + ord(c) - ord("a") for c in text]


U, A = 195, 196
a, b, c, d, e, s, t = letters("abcdest")


@pytest.mark.parametrize(
    ("messages", "limit", "expected"),
    [
        ([user("a")], 10, [U, a, A]),
        ([system("st"), user("a")], 10, [s, t, U, a, A]),
        ([system(""), user("")], 10, [U, A]),
        ([user("a"), assistant("b"), user("c")], 10, [U, a, A, b, U, c, A]),
        # The last message is the assistant's: it is continued, nothing is appended.
        ([user("a"), assistant("b")], 10, [U, a, A, b]),
        # Odd sequences: what comes before the first user is a round, each user starts one.
        ([assistant("a")], 10, [A, a]),
        ([assistant("a"), user("b")], 10, [A, a, U, b, A]),
        ([user("a"), user("b")], 10, [U, a, U, b, A]),
        ([user("a"), assistant("b"), assistant("c"), user("d")], 20, [U, a, A, b, A, c, U, d, A]),
        ([assistant("a"), user("b")], 3, [U, b, A]),
        # The old round (2 ids) fits beside the new one (2 ids) in 4: the assistant token then pushes
        # the first id out on the left.
        ([user("a"), user("b")], 4, [a, U, b, A]),
        ([user("a"), user("b")], 3, [U, b, A]),
        # The system text takes its room from the history...
        ([system("s"), user("a"), user("b")], 5, [U, a, U, b, A]),
        ([system("st"), user("a"), user("b")], 5, [s, t, U, b, A]),
        # ... and is itself cut when the newest round does not fit.
        ([system("st"), user("abc")], 5, [U, a, b, c, A]),
        ([system("st"), user("abc")], 2, [c, A]),
        ([user("abc")], 1, [A]),
        # A round is kept or dropped whole; an older one that would fit does not jump the queue.
        ([user("a"), assistant("b"), user("c")], 6, [a, A, b, U, c, A]),
        ([user("a"), assistant("b"), user("c")], 5, [U, c, A]),
        ([user("a"), user("bcdea"), user("c")], 6, [U, c, A]),
    ],
)
def test_by_hand(messages, limit, expected):
    assert chat_ids(messages, letters, max_new_tokens=7, model_max_length=7 + limit) == expected


def by_the_sentences(messages, encode, limit):
    """The rules of the chat prompt as sentences over one flat list of ids.

    All turns are laid out once; a prompt is the system's ids and a tail of that list that begins where
    a round begins: the longest tail within the limit, or else the newest round.
    """
    head = [i for m in messages if m["role"] == "system" for i in encode(m["content"])]
    flat, starts = [], set()
    for m in messages:
        if m["role"] == "system":
            continue
        if m["role"] == "user" or not flat:
            starts.add(len(flat))
        flat.extend([U if m["role"] == "user" else A])
        flat.extend(encode(m["content"]))
    fitting = [n for n in starts if len(head) + len(flat) - n <= limit]
    ids = head + flat[min(fitting or [max(starts)]) :]
    ids += [A] * (messages[-1]["role"] != "assistant")
    return ids[max(0, len(ids) - limit) :]


def random_conversation(rng, ordinary=False):
    def text():
        return "".join(
            rng.choice("温故而知新登鹳the fox, 😀\n") for _ in range(rng.choice([0, 1, 4, 15, 40]))
        )

    messages = [system(text())] if rng.random() < 0.5 else []
    for n in range(rng.randint(1, 9)):
        role = (user, assistant)[n % 2]
        if not ordinary and rng.random() < 0.2:
            role = rng.choice([user, assistant])
        messages.append(role(text()))
    return messages


def test_thousand_conversations_equal_the_sentences(tokenizer):
    rng = random.Random(2)
    whole = 0
    for _ in range(1000):
        messages = random_conversation(rng)
        limit, new = rng.randint(1, 250), rng.randint(1, 300)
        ids = chat_ids(messages, tokenizer.encode, max_new_tokens=new, model_max_length=limit + new)
        assert ids == by_the_sentences(messages, tokenizer.encode, limit)
        assert len(ids) <= limit
        whole += len(ids) < limit
    assert 200 < whole < 950  # both prompts that were cut and prompts that were not


def test_each_text_is_encoded_on_its_own():
    seen = []

    def encode(text):
        seen.append(text)
        return [5]

    chat_ids([system("s"), user("u"), assistant("a")], encode, max_new_tokens=1, model_max_length=99)
    assert sorted(seen) == ["a", "s", "u"]


def test_turn_tokens_of_the_model():
    ids = chat_ids(
        [user("a"), assistant("b"), user("c")],
        letters,
        max_new_tokens=1,
        model_max_length=99,
        user_token_id=7,
        assistant_token_id=8,
    )
    assert ids == [7, a, 8, b, 7, c, 8]


def test_messages_are_left_alone():
    messages = [system("s"), user("a")]
    chat_ids(messages, letters, max_new_tokens=1, model_max_length=99)
    assert messages == [system("s"), user("a")]


@pytest.mark.parametrize("length", [1, 9, 10])
def test_no_room_for_a_prompt(length):
    with pytest.raises(ContextLengthError, match=f"max_new_tokens 10 .* context of {length} "):
        chat_ids([user("a")], letters, max_new_tokens=10, model_max_length=length)
    assert chat_ids([user("a")], letters, max_new_tokens=10, model_max_length=11) == [A]


@pytest.mark.parametrize("new", [0, -1])
def test_max_new_tokens_is_positive(new):
    with pytest.raises(PromptError, match=f"max_new_tokens is {new}"):
        chat_ids([user("a")], letters, max_new_tokens=new, model_max_length=99)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "messages is empty"),
        ((), "messages is empty"),
        (None, "messages is a NoneType"),
        ("hello", "messages is a str"),
        (user("a"), "messages is a dict"),
        (["hello"], r"messages\[0\] is a str"),
        ([user("a"), None], r"messages\[1\] is a NoneType"),
        ([{"content": "a"}], r"messages\[0\] has no role"),
        ([user("a"), {"role": "assistant"}], r"messages\[1\] has no content"),
        ([user("a"), {"role": "tool", "content": "b"}], r"messages\[1\] has role 'tool'"),
        ([{"role": "user\n" * 99, "content": "b"}], r"messages\[0\] has role"),
        ([{"role": ["user"], "content": "b"}], r"messages\[0\] has role"),
        ([user(None)], r"messages\[0\] has a NoneType as content"),
        ([user("a"), assistant(["b"])], r"messages\[1\] has a list as content"),
        ([user("a"), system("s")], r"messages\[1\] is a system message: only the first"),
        ([system("s"), system("s"), user("a")], r"messages\[1\] is a system message"),
        ([system("s")], r"messages\[0\] is a system message with nothing after it"),
    ],
)
def test_wrong_messages(messages, says):
    with pytest.raises(PromptError, match=says) as caught:
        check_messages(messages)
    assert str(caught.value).isprintable()
    with pytest.raises(PromptError, match=says):
        chat_ids(messages, letters, max_new_tokens=1, model_max_length=99)


def test_good_messages():
    check_messages([system("s"), user("a"), assistant(""), user("b")])
    check_messages(({"role": "assistant", "content": "a", "name": "ignored"},))


def render(messages, add_generation_prompt=True):
    # As transformers renders chat templates.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(CHAT_TEMPLATE)
    return template.render(messages=messages, add_generation_prompt=add_generation_prompt)


def test_template_by_hand():
    messages = [system(" s\n"), user("a"), assistant("b"), user("{{ 1 }}{% x %}<b>&")]
    text = " s\n<reserved_106>a<reserved_107>b<reserved_106>{{ 1 }}{% x %}<b>&"
    assert render(messages) == text + "<reserved_107>"
    assert render(messages, add_generation_prompt=False) == text
    assert render([user("a"), assistant("b")]) == "<reserved_106>a<reserved_107>b"


def test_template_is_the_text_of_the_ids(tokenizer):
    rng = random.Random(3)
    for _ in range(200):
        messages = random_conversation(rng, ordinary=True)
        ids = chat_ids(messages, tokenizer.encode, max_new_tokens=1, model_max_length=9999)
        assert render(messages) == tokenizer.decode(ids)
        assert tokenizer.encode(render(messages)) == ids


def folder(tmp_path, content):
    (tmp_path / "generation_config.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def test_turn_tokens_from_folder(tmp_path):
    assert TurnTokens.from_folder(tmp_path) == TurnTokens(195, 196)
    assert TurnTokens.from_folder(folder(tmp_path, {})) == TurnTokens(195, 196)
    content = {"user_token_id": 5, "assistant_token_id": 6, "eos_token_id": 2}
    assert TurnTokens.from_folder(folder(tmp_path, content)) == TurnTokens(user=5, assistant=6)


@pytest.mark.parametrize("value", [-1, True, "195", 1.0, None, [195], 1 << 40])
@pytest.mark.parametrize("key", ["user_token_id", "assistant_token_id"])
def test_turn_tokens_refused(tmp_path, key, value):
    with pytest.raises(ConfigError, match=f"generation_config.json: {key}"):
        TurnTokens.from_folder(folder(tmp_path, {key: value}))
