"""The bundled models really answer, in float and in INT4, through the real engine."""

from __future__ import annotations

import random

import numpy as np
import openvino_genai as genai
import pytest
import sentencepiece

from baichuan_intel.errors import ContextLengthError
from baichuan_intel.load import load
from baichuan_intel.model.nano import nano_path

KINDS = ("rope", "alibi")
RECIPES = ("f16", "int4-sym-g128", "int4-sym-channel", "int4-sym-g32")
POETS = "登鹳雀楼->王之涣\n夜雨寄北->"
QUESTION = [{"role": "user", "content": "解释一下“温故而知新”"}]
# OpenVINO's NPU pipeline, compiled for the CPU.
NPU_ON_CPU = {"NPUW_DEVICES": "CPU", "NPUW_ONLINE_PIPELINE": "NONE"}


def check_answers(model) -> None:
    poet = model.generate(POETS, do_sample=False, max_new_tokens=16)
    assert poet.text.split("\n")[0] == "李商隐"
    answer = model.chat(QUESTION, do_sample=False)
    assert "论语" in answer.text
    assert "温习" in answer.text or "旧" in answer.text
    assert "新" in answer.text
    assert answer.finish_reason == "stop"
    assert 10 < answer.new_tokens < 200


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_it_answers(nano, kind, recipe):
    with load(nano(kind, recipe)) as model:
        check_answers(model)


@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_with_its_own_sampling(nano, kind):
    with load(nano(kind)) as model:
        assert model.sampling.do_sample
        answers = [model.chat(QUESTION, seed=seed) for seed in range(5)]
    assert sum("论语" in answer.text for answer in answers) >= 4
    assert all(answer.finish_reason == "stop" for answer in answers)


@pytest.mark.parametrize("kind", KINDS)
def test_the_npu_pipeline_answers_the_same(nano, kind):
    with load(nano(kind)) as model:
        expected = [model.generate(POETS, do_sample=False).ids, model.chat(QUESTION, do_sample=False).ids]
    limits = {"MAX_PROMPT_LEN": 128, "MIN_RESPONSE_LEN": 128}
    with load(nano(kind), "NPU", properties=NPU_ON_CPU | limits) as model:
        check_answers(model)
        found = [model.generate(POETS, do_sample=False).ids, model.chat(QUESTION, do_sample=False).ids]
        long = {"role": "user", "content": "日" * 200}
        assert (
            model.chat([long, {"role": "assistant", "content": "月"}, *QUESTION], do_sample=False).ids
            == found[1]
        )
        with pytest.raises(ContextLengthError, match="129 tokens and this NPU session takes 128"):
            model.generate([5] * 129)
    assert found == expected


# The tokenizer that servers use is the one that was trained.

ALPHABETS = (
    "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所去行过家十用发天如然作方成者多日都",
    "abcdefghijklmnopqrstuvwxyz ABC 0123456789 .,;:!?'\"()[]{}<>/\\|@#$%^&*_-+=~`",
    "🙂🎉👨‍👩‍👧‍👦🇨🇳👍🏽❤️€ßéñ漢字かなカナ한국어العربيةไทย𠀀𐍈",
    "\t\n\r\x00\x01\x1f\x7f\x85\xa0\u200b\u200d\u2028\u3000\ufeff\ufffd ",
    "\u2581 \u2581  ▂",
)
TEXTS = [
    *("<s>", "</s>", "<unk>", "<pad>", "<0x41>", "<0xE6>", "<reserved_106>", "<reserved_107>"),
    *("  ", "   ", "\u2581", "<", ">", "<0x", "reserved_106>"),
    *("登鹳雀楼->王之涣", "解释一下“温故而知新”", "Hello, world"),
]


def fuzzed(count: int) -> list[str]:
    pick = random.Random(20261123)
    texts = ["", " ", *TEXTS, *(f" {text} " for text in TEXTS), *(text * 2 for text in TEXTS)]
    while len(texts) < count:
        parts = []
        for _ in range(pick.randint(1, 6)):
            if pick.random() < 0.3:
                parts.append(pick.choice(TEXTS))
            elif pick.random() < 0.1:
                parts.append(chr(pick.choice([pick.randrange(1, 0xD800), pick.randrange(0xE000, 0x110000)])))
            else:
                alphabet = pick.choice(ALPHABETS)
                parts.append("".join(pick.choice(alphabet) for _ in range(pick.randint(1, 12))))
        texts.append("".join(parts))
    return texts


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizer_ir_gives_the_ids_of_sentencepiece_on_fuzzed_strings(nano, kind):
    ours = genai.Tokenizer(str(nano(kind)))
    reference = sentencepiece.SentencePieceProcessor(model_file=str(nano_path(kind) / "tokenizer.model"))
    texts = fuzzed(10_000 if kind == "rope" else 1_000)
    expected = reference.encode(texts)
    wrong = []
    for start in range(0, len(texts), 500):
        batch = texts[start : start + 500]
        encoded = ours.encode(batch, add_special_tokens=False)
        ids, mask = np.array(encoded.input_ids.data), np.array(encoded.attention_mask.data)
        for row, kept, text, wanted in zip(ids, mask, batch, expected[start : start + 500], strict=True):
            if row[kept == 1].tolist() != wanted:
                wrong.append((text, row[kept == 1].tolist(), wanted))
    assert not wrong, f"{len(wrong)} of {len(texts)}, the first: {wrong[:3]}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_detokenizer_ir_gives_the_text_of_sentencepiece(nano, kind):
    ours = genai.Tokenizer(str(nano(kind)))
    reference = sentencepiece.SentencePieceProcessor(model_file=str(nano_path(kind) / "tokenizer.model"))
    for text in fuzzed(300)[1:]:
        ids = reference.encode(text)
        assert ours.decode(ids) == reference.decode(ids), text
