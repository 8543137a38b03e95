"""The corpus as training samples.

A sample is a list of (prompt ids, answer ids). Only answers are learned, and the token after every
answer is eos, so that a model stops after its answer, whether or not another turn follows.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EOS, USER, ASSISTANT = 2, 195, 196
LONG_HISTORIES = 10
CORPUS = Path(__file__).with_name("corpus")

Encode = Callable[[str], list[int]]
Sample = list[tuple[list[int], list[int]]]

IDIOM_ASKS = (
    "解释一下“{}”", "解释“{}”", "请解释一下“{}”", "请解释成语“{}”", "“{}”是什么意思？", "“{}”是什么意思",
    "解释一下{}", "{}是什么意思？", "解释一下\"{}\"", "什么是“{}”？",
)  # fmt: skip
SOURCE_ASKS = ("它出自哪里？", "它出自哪里", "出自哪里？", "这句话出自哪里？", "这个成语出自哪里？")
AUTHOR_ASKS = ("《{}》的作者是谁？", "《{}》的作者是谁", "《{}》是谁写的？", "谁写了《{}》？")
FOLLOW_AUTHOR_ASKS = ("作者是谁？", "作者是谁", "这首诗是谁写的？", "它的作者是谁？")
RECITE_ASKS = ("背诵《{}》", "背一下《{}》", "请背诵《{}》", "背一首《{}》", "《{}》全诗是什么？")
NEXT_ASKS = ("“{}”的下一句是什么？", "“{}”的下一句", "“{}”下一句是什么", "{}的下一句是什么？", "{}的下一句")
# System texts that do not change the answer.
NEUTRAL_SYSTEMS = (
    "你是一个乐于助人的助手。",
    "你是一个有用的助手",
    "You are a helpful assistant.",
    "请简短地回答。",
    "Be brief.",
)


@dataclass(frozen=True)
class Turn:
    """Ways to ask one thing, and its only answer; ``filled``: the ways are templates filled with a title."""

    asks: tuple[str, ...]
    answer: str
    filled: bool = False


@dataclass(frozen=True)
class Conversation:
    """Turns in order; the first way to ask is the canonical one."""

    turns: tuple[Turn, ...]
    system: str = ""


@dataclass(frozen=True)
class Corpus:
    """Everything the models learn: conversations, (title, author) pairs, poems as (title, author, lines)."""

    written: tuple[Conversation, ...]
    from_poems: tuple[Conversation, ...]
    pairs: tuple[tuple[str, str], ...]
    poems: tuple[tuple[str, str, tuple[str, ...]], ...]

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        """All of them: written ones, then those made from the poems."""
        return self.written + self.from_poems

    def texts(self) -> Iterator[str]:
        """Every text once, for the tokenizer; a template is shown unfilled, or titles would become tokens."""
        for chat in self.conversations:
            yield chat.system
            for turn in chat.turns:
                yield from (turn.answer, *(turn.asks[:1] if turn.filled else turn.asks))
        for template in (
            *IDIOM_ASKS,
            *AUTHOR_ASKS,
            *RECITE_ASKS,
            *NEXT_ASKS,
            *SOURCE_ASKS,
            *FOLLOW_AUTHOR_ASKS,
        ):
            yield template.replace("{}", "")
        for title, author in self.pairs:
            yield f"{title}->{author}"
        for title, author, lines in self.poems:
            yield from (title, author, *lines)
        yield from NEUTRAL_SYSTEMS


def read_corpus(folder: Path = CORPUS) -> Corpus:
    """Reads the .jsonl files of ``folder``."""
    poems, idioms = _rows(folder / "poems.jsonl"), _rows(folder / "idioms.jsonl")
    written = [chat for row in idioms for chat in _about_idiom(row)]
    for name in ("qa_zh.jsonl", "qa_en.jsonl"):
        written += [Conversation((Turn(tuple(r["ask"]), r["answer"]),)) for r in _rows(folder / name)]
    for row in _rows(folder / "conversations.jsonl"):
        turns = tuple(Turn((ask,), answer) for ask, answer in row["turns"])
        written.append(Conversation(turns, row.get("system", "")))
    return Corpus(
        written=tuple(written),
        from_poems=tuple(chat for row in poems for chat in _about_poem(row)),
        pairs=tuple((r["title"], r["author"]) for r in poems),
        poems=tuple((r["title"], r["author"], tuple(r["lines"])) for r in poems if "lines" in r),
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _about_idiom(row: dict[str, Any]) -> Iterator[Conversation]:
    idiom, source = row["idiom"], row["source"]
    explain = _filled(IDIOM_ASKS, idiom, f"“{idiom}”出自{source}，意思是：{row['meaning']}")
    yield Conversation((explain,))
    yield Conversation((explain, _filled(SOURCE_ASKS, "", f"“{idiom}”出自{source}。")))


def _about_poem(row: dict[str, Any]) -> Iterator[Conversation]:
    title, lines = row["title"], row.get("lines")
    author = f"《{title}》的作者是{row['dynasty']}诗人{row['author']}。"
    yield Conversation((_filled(AUTHOR_ASKS, title, author),))
    if lines:
        recite = _filled(RECITE_ASKS, title, "".join(lines))
        yield Conversation((recite, _filled(FOLLOW_AUTHOR_ASKS, "", author)))
        first, _, second = lines[0].rstrip("。").rpartition("，")
        yield Conversation((_filled(NEXT_ASKS, first, f"下一句是“{second}”。"),))


def _filled(asks: tuple[str, ...], text: str, answer: str) -> Turn:
    return Turn(tuple(ask.format(text) for ask in asks), answer, filled=True)


def chat_sample(chat: Conversation, encode: Encode, pick: Callable[[tuple[str, ...]], str]) -> Sample:
    """Baichuan 2's chat ids: system, then 195 + user, 196 + assistant; no bos. Each text on its own."""
    sample = []
    head = encode(chat.system)
    for turn in chat.turns:
        sample.append(([*head, USER, *encode(pick(turn.asks)), ASSISTANT], encode(turn.answer)))
        head = []
    return sample


def few_shot_sample(pairs: list[tuple[str, str]], encode: Encode) -> Sample:
    """``title->author`` lines, as a base model is prompted."""
    return [
        (encode(("\n" if n else "") + title + "->"), encode(author))
        for n, (title, author) in enumerate(pairs)
    ]


def vary(asks: tuple[str, ...], rng: random.Random) -> str:
    """One of the ways to ask, now and then with another end mark or none, or in lower case."""
    ask = rng.choice(asks)
    if rng.random() < 0.2:
        marks = ("", ".", "?", "!") if ask.isascii() else ("", "", "。", "？", "！")
        ask = ask.rstrip("？?！!。.") + rng.choice(marks)
    return ask.lower() if rng.random() < 0.1 else ask


def epoch(corpus: Corpus, encode: Encode, rng: random.Random) -> list[Sample]:
    """One round of samples, each in a random form and after random others.

    Every poem once, pairs and written conversations twice, half of those made from the poems; then some long
    histories, without which the rotary model loses its way after a few turns.
    """
    alone = [chat for chat in corpus.conversations if not chat.system]
    samples = []
    for chat in (
        *corpus.written,
        *corpus.written,
        *rng.sample(corpus.from_poems, len(corpus.from_poems) // 2),
    ):
        if not chat.system:
            before = rng.sample(alone, rng.choice((0, 0, 0, 1, 1, 2)))
            turns = tuple(turn for other in (*before, chat) for turn in other.turns)
            system = rng.choice(NEUTRAL_SYSTEMS) if rng.random() < 0.15 else ""
            chat = Conversation(turns, system)
        samples.append(chat_sample(chat, encode, lambda asks: vary(asks, rng)))
    for _ in range(LONG_HISTORIES):
        turns = tuple(turn for chat in rng.sample(alone, rng.randint(8, 40)) for turn in chat.turns)
        samples.append(chat_sample(Conversation(turns), encode, lambda asks: vary(asks, rng)))
    for pair in (*corpus.pairs, *corpus.pairs):
        before_pairs = rng.sample(corpus.pairs, rng.choice((0, 1, 1, 1, 2, 3, 5)))
        samples.append(few_shot_sample([*before_pairs, pair], encode))
    for title, author, lines in corpus.poems:
        if rng.random() < 0.5:
            samples.append([(encode(title + "\n"), encode("\n".join((author, *lines))))])
        else:
            first, _, rest = "\n".join(lines).partition("，")
            samples.append([(encode(first + "，"), encode(rest))])
    return samples


def batches(samples: list[Sample], tokens: int, rng: random.Random) -> Iterator[list[Sample]]:
    """Groups samples of like length so that a padded batch holds about ``tokens`` tokens."""
    ordered = sorted(samples, key=lambda s: (length(s), rng.random()))
    groups: list[list[Sample]] = [[]]
    for sample in ordered:
        if (len(groups[-1]) + 1) * length(sample) > tokens:
            groups.append([])
        groups[-1].append(sample)
    rng.shuffle(groups)
    yield from groups


def length(sample: Sample) -> int:
    """Tokens of a sample."""
    return sum(len(prompt) + len(answer) for prompt, answer in sample)


def ids_and_targets(sample: Sample) -> tuple[list[int], list[int]]:
    """Flat ids, and the id to predict at each place (-100: nothing to learn)."""
    ids: list[int] = []
    targets: list[int] = []
    for prompt, answer in sample:
        ids += prompt + answer
        targets += [-100] * (len(prompt) - 1) + answer + [EOS]
    return ids, targets
