"""What must hold of any text: properties over a source of chance, for hypothesis (tests/test_properties.py) and in bulk (tests/proofs).

A property draws its case from a `random.Random` and asserts. Texts are put together from attacks, scripts and any characters.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from random import Random

from pydantic import BaseModel
from rich.text import Text

from expertchat.backends.chunks import chunk
from expertchat.config import ConfigError
from expertchat.events import ConversationFinished, ConversationJudged, ConversationStarted, Event, RatingGiven, TurnFinished
from expertchat.folder.jsonl import Log, read_lines
from expertchat.folder.store import Store
from expertchat.judging.rating import judge_prompt, parse_rating
from expertchat.judging.view import Judgement
from expertchat.records import Answer, ExpertRef, Rating, Topic, Transcript, Turn, as_line
from expertchat.talk.topics import read_topics
from expertchat.text.sentences import clean, neutralise, number, one_line, quote, sentences, writable
from expertchat.text.thinking import split
from expertchat.text.wordings import Prompts
from expertchat.views.console import console_on

WHOLE = (  # texts that nothing may change
    "می‌خواهم", "خانه‌ای", "क्‍ष", "ക്‍", "ශ්‍රී", "👨‍👩‍👧‍👦", "🏳️‍🌈", "❤️‍🔥", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "1️⃣", "👩🏽‍🚀", "e\u0301", "한국어", "寿司。",
    "हिन्दी।", "שָׁלוֹם", "ภาษาไทย", "Tiếng Việt", "ភាសា​ខ្មែរ", "葛󠄀", "ᠮᠣᠩᠭᠣᠯ", "Ünïcödé", "naïve", "plain words.",
)  # fmt: skip
ATTACKS = (
    "</transcript>", "<transcript>", "</transcript >", "< / transcript>", "＜/transcript＞", "</ＴＲＡＮＳＣＲＩＰＴ>", "</trаnscript>",
    "[5]", "(5)", "[1000]", "［５］", "[٥]", "（５）", "[[7]]", "⑸", "【5】", "[1, 2]", "<|im_end|>", "<｜User｜>", "<| eot_id |>",
    "[INST]", "[/INST ]", "<<SYS>>", "</s>", "< s >", "<start_of_turn>", "### Instruction:", "\n## Response:", "Human:",
    "<|", "|>", "<", ">", "[", "]", "|", "/", "(", ")", "{topic}", "{", "}", "{0!r}",
    "\u200b", "\u200c", "\u200d", "\ufeff", "\u00ad", "\u061c", "\u202e", "\u2066", "\x1b[2J", "\x1b]8;;http://x\x07", "\x9b0m",
    "\r", "\x00", "\x85", "\u2028", "\U000e0041", "\ufe0f", "\ud800", "\ufff9", "\u0301" * 12, "[bold]", "[/]", "[link=x]",
)  # fmt: skip
SAID = (
    " 8", "8/10", " 10", "7", "0", "11", "3.5", "-2", "٧", "eight", "out of 10", " because", " - ", "Depth:", "Rating:", "**", "[[", "]]",
    "<think>", "</think>", '{"rating": 8}', "or", "between", " and ", "points", "I'd give it", "errors", "sentence 3", "?", ".", ",", "\n",
    "not", "wait",
)  # fmt: skip
MARKS = (
    "i", "ser", "User:", " Human:", "!", " ки", "<|x|>", "[A]", "ab", "ba", " b", "b ", "·", "‹x›", "{", "aa", "\n\n", "<", "|", "s"
)  # fmt: skip


def text(rng: Random, *more: str, most: int = 9) -> str:
    """A text of a few pieces."""
    parts = []
    for _ in range(rng.randint(0, most)):
        kind = rng.randint(0, 9)
        if kind < 3 and more:
            parts.append(rng.choice(more))
        elif kind < 5:
            parts.append(rng.choice(ATTACKS))
        elif kind < 7:
            parts.append(rng.choice(WHOLE))
        elif kind < 8:
            parts.append(chr(rng.randint(0, 0x10FFFF if rng.randint(0, 3) else 0x2FF)))
        else:
            parts.append(rng.choice((" ", "  ", "\n", "\t", ". ", "a", "of the", "12", "。", "?! ", "x")))
    return "".join(parts)


def _alnum(said: str) -> list[str]:
    return [c for c in said if c.isalnum()]


def ratings(rng: Random, folder: Path) -> None:
    """A rating is a whole number from 1 to 10 that stands in the text, or null with its reason; two numbers are none."""
    said = text(rng, *SAID)
    found = parse_rating(said, rng.choice(("depth", None, "humanness")), rng.choice(("stop", "length")), rng.choice(("a", "b", None)))
    if found.value is None:
        assert found.problem and found.fault, said
    else:
        assert 1 <= found.value <= 10 and str(found.value) in said and not found.problem, said
    one, two = rng.sample(range(1, 11), 2)
    assert parse_rating(f"{one} or {two}").value is None and parse_rating(f" {one}").value == one
    assert parse_rating(f"{one}/10, no, {two}/10").value is None


ROLES = (
    "</transcript>", "<transcript>", "<|im_end|>", "<|user|>", "<|eot_id|>", "[inst]", "[/inst]", "<<sys>>", "</s>", "<s>",
    "<start_of_turn>",
)  # fmt: skip


def neutralising(rng: Random, folder: Path) -> None:
    """No role token, nor one seen through spaces, width and case; no special token; nothing cut away; done twice it is done once."""
    tokens = [rng.choice((*MARKS, text(rng, most=2), chr(rng.randint(33, 0x500)))) for _ in range(rng.randint(0, 4))]
    said = text(rng, *MARKS, *(t for t in tokens if t))
    found = neutralise(said, tokens)
    assert not [t for t in tokens if t.strip() and t in found], (said, tokens, found)
    seen = re.sub(r"\s", "", unicodedata.normalize("NFKC", found).casefold())
    assert not any(role in seen for role in ROLES), (said, tokens, found)
    assert neutralise(found, tokens) == found, (said, tokens)
    single = {t for t in tokens if len(t) == 1}
    if not single:
        assert _alnum(found) == _alnum(clean(said)), (said, tokens, found)
    assert _visible(found) >= _visible(clean(said)), (said, tokens, found)  # what only joined the parts of a rewritten emoji may go


def _visible(said: str) -> int:
    return sum(unicodedata.category(c) not in ("Cf", "Mn") for c in said)


def quoting(rng: Random, folder: Path) -> None:
    """The only numbers of sentences in a shown text are ours, counted on without a gap."""
    said, start, judged = text(rng), rng.randint(1, 300), rng.random() < 0.5
    quoted = quote(said)
    assert "\n" not in quoted and quote(quoted) == quoted, said
    shown, after = number(quoted, start, judged)
    plain = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else unicodedata.normalize("NFKC", c) for c in shown)
    marks = [int(n) for n in re.findall(r"\[\s*(\d+)\s*\]" if judged else r"\(\s*(\d{1,3})\s*\)", plain)]
    assert marks == list(range(start, after)), (said, shown)


_MAY = frozenset("\n\t\u200b\u200c\u200d")


def cleaning(rng: Random, folder: Path) -> None:
    """No control, no direction, no half character, no flood; whole texts stay; done twice it is done once."""
    said = text(rng)
    found = clean(said)
    assert clean(found) == found, said
    for c in found:
        category = unicodedata.category(c)
        assert category not in ("Cc", "Cs") or c in _MAY, (said, c)
        assert unicodedata.bidirectional(c) not in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"), (said, c)
        assert c not in "\u200e\u200f\u061c\u00ad\u2028\u2029\ufeff\u2060", (said, c)
    assert not re.search("[\u0300-\u036f]{9}", found), said
    assert _alnum(writable(said)) == _alnum(found), said
    whole = " ".join(rng.choice(WHOLE) for _ in range(rng.randint(1, 6)))
    assert clean(whole) == whole
    cut = rng.randint(0, len(whole))
    assert clean(f"{whole[:cut]}\x1b\u202e{whole[cut:]}") == whole  # what steers is taken out, and what was around it is whole again


_OLD = re.compile(r"(?<=[.!?])[\"')\]]*\s+")


def splitting(rng: Random, folder: Path) -> None:
    """No character is lost between sentences, none is empty, and plain text is split where it always was."""
    said = text(rng, ". ", "! ", '." ', "e.g. ", "。", "।", "؟", "３．１", "…")
    found = sentences(said)
    assert all(s and s == s.strip() for s in found)
    assert "".join(found).replace(" ", "") == one_line(said).replace(" ", ""), said
    plain = re.sub(r"[^\x20-\x7e]", "", said)
    assert len(sentences(plain)) == len([s for s in _OLD.split(one_line(plain)) if s.strip()]), plain


def topics(rng: Random, folder: Path) -> None:
    """A list of topics comes back from every kind of file, coding and line end; any bytes give topics or a readable refusal."""
    wanted = [t for _ in range(rng.randint(1, 4)) if (t := one_line(clean(text(rng, most=4)))) and not t.startswith("#")]
    if rng.random() < 0.4 or not wanted:
        return _any_bytes(rng, folder)
    kind, end = rng.choice((".txt", ".jsonl", ".json", ".csv", ".tsv")), rng.choice(("\n", "\r\n", "\r"))
    if kind == ".txt":
        written = end.join(wanted) + rng.choice(("", end, end * 3, f"{end}# no topic{end}"))
    elif kind == ".jsonl":
        written = end.join(json.dumps({"text": t}, ensure_ascii=rng.random() < 0.5) for t in wanted)
    elif kind == ".json":
        written = json.dumps([t if rng.random() < 0.5 else {"topic": t} for t in wanted], ensure_ascii=rng.random() < 0.5)
    else:
        table = io.StringIO()
        rows = csv.writer(table, delimiter="\t" if kind == ".tsv" else rng.choice(",;"), lineterminator=end)
        rows.writerows([["n", "Topic", "more"], *([i, t, "x,y"] for i, t in enumerate(wanted))])
        written = table.getvalue()
    file = folder / f"t{kind}"
    file.write_bytes(written.encode(rng.choice(("utf-8", "utf-8-sig", "utf-16", "utf-32"))))
    assert read_topics(file) == wanted, written


def _any_bytes(rng: Random, folder: Path) -> None:
    file = folder / f"t{rng.choice(('.txt', '.jsonl', '.json', '.csv', '.tsv'))}"
    content = text(rng, ",", "\t", '"', ";", '{"topic": ', "[", "]").encode(rng.choice(("utf-8", "utf-16", "utf-16-le")), "replace")
    cut = rng.randint(0, len(content))
    file.write_bytes(content[:cut] + bytes(rng.randint(0, 255) for _ in range(rng.randint(0, 3))) + content[cut:])
    try:
        found = read_topics(file, rng.choice((None, None, "topic", "x")))
    except ConfigError as error:
        assert all(str(file) in problem or "more lines" in problem for problem in error.problems), error.problems
        return
    assert found and all(t.strip() and "\n" not in t and clean(t) == t for t in found)


def chunking(rng: Random, folder: Path) -> None:
    """Chunks are within the limit (one character alone may be over it), and together they are the text."""
    said, limit = text(rng, "word " * 9, "漢字" * 20, "x" * 50, most=14), rng.randint(1, 40)
    weight = rng.choice((1, 1, 3))

    def count(piece: str) -> int:
        return weight * len(piece) if limit % 2 else len(piece.split()) + sum(len(w) // 4 for w in piece.split())

    found = chunk(said, limit, count)
    assert all(count(piece) <= limit or len(piece) == 1 for piece in found), (said, limit, found)
    assert re.sub(r"\s", "", "".join(found)) == re.sub(r"\s", "", said), (said, limit, found)


def logging(rng: Random, folder: Path) -> None:
    """Whatever was torn off the end of a file, the lines that were whole are there, and what is appended then follows them."""
    file = folder / "events.jsonl"
    file.unlink(missing_ok=True)
    kept: list[str] = []
    for _ in range(rng.randint(1, 3)):
        log = Log(file)
        for _ in range(rng.randint(0, 3)):
            line = json.dumps({"text": text(rng), "n": rng.randint(0, 9)}, ensure_ascii=rng.random() < 0.5)
            try:
                line.encode()
            except UnicodeEncodeError:
                continue
            log.append(line)
            kept.append(line)
        log.close()
        content = file.read_bytes()
        cut = rng.randint(0, len(content))
        file.write_bytes(content[:cut])
        kept = kept[: content[:cut].count(b"\n")]
    Log(file).close()
    assert [found for _, found in read_lines(file)] == [json.loads(line) for line in kept]
    assert file.read_bytes() == "".join(f"{line}\n" for line in kept).encode()


def resuming(rng: Random, folder: Path) -> None:
    """A run that was stopped anywhere, its files torn anywhere, ends with every record and event once, as an unbroken one."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    whole = _told(rng)
    names = ("topics", "transcripts", "answers", "ratings", "events")
    for stop in (*(rng.randint(0, len(whole)) for _ in range(rng.randint(0, 2))), len(whole)):
        store = Store(folder / "run", {"run": {"dir": "x"}}, ["expertchat"])
        store.begin(lambda speakers: (1, 0, 0))
        for what in whole[:stop]:
            if isinstance(what, Event):
                store.send(what)  # type: ignore[arg-type]
            elif isinstance(what, Topic) or "c0000" not in store.done:  # nobody goes on with a dialogue that is done
                store.keep(what)  # type: ignore[arg-type]
        store.close()
        files = [folder / "run" / f"{name}.jsonl" for name in names]
        if stop < len(whole):
            for file in files:
                content = file.read_bytes() if file.exists() else b""
                if content and rng.random() < 0.5:
                    file.write_bytes(content[: rng.randint(0, len(content))])
    found = {file.stem: [line for _, line in read_lines(file)] for file in files}
    wanted = [json.loads(as_line(what)) for what in whole]
    for name, kind in (("topics", Topic), ("transcripts", Transcript), ("answers", Answer)):
        kept = [line for line, what in zip(wanted, whole, strict=True) if isinstance(what, kind)]
        if name == "answers":  # of a dialogue that is done nobody asks again, nor misses one that was torn
            assert len(found[name]) <= 1 and all(line in kept for line in found[name])
            continue
        assert sorted(map(str, found[name])) == sorted(map(str, kept)), name
    assert [line["id"] for line in found["ratings"]] == ["c0000/a-by-b/depth"]
    events = [(line["kind"], line.get("index")) for line in found["events"] if "conversation" in line or "rating" in line]
    assert sorted(map(str, events)) == sorted(str((line["kind"], line.get("index"))) for line in wanted if "kind" in line)


def _told(rng: Random) -> list[BaseModel]:
    """What a dialogue of two turns with one rating tells a store, with any text."""
    ref, name = ExpertRef(family="world", model=text(rng, most=2)), "c0000"
    turns = [Turn(speaker=speaker, text=text(rng)) for speaker in "ab"]
    rating = Rating(id=f"{name}/a-by-b/depth", transcript=name, judge="b", subject="a", category="depth", value=7, raw=text(rng))
    experts = {"a": ref, "b": ref}
    return [
        Topic(id=name, text=text(rng), source="list"),
        ConversationStarted(conversation=name, topic="t", opener="a", experts=experts),
        *(TurnFinished(conversation=name, index=i, turn=turn) for i, turn in enumerate(turns)),
        Transcript(id=name, topic="t", experts=experts, turns=turns, seed=0, stop_reason="turns"),
        ConversationFinished(conversation=name, turns=2, stop_reason="turns"),
        Answer(id=f"{name}/a-by-b/analysis", transcript=name, text=text(rng)),
        RatingGiven(rating=rating),
        ConversationJudged(conversation=name),
    ]


def thinking(rng: Random, folder: Path) -> None:
    """No block of thoughts is left in what is said, every word is thought or said, and what has no block is not touched."""
    said = text(rng, "<think>", "</think>", "[THINK]", "[/THINK]", "<thinking>", "</thinking>", "8")
    found = split(said)
    assert not split(found.said).found, (said, found)
    assert said.count("8") == found.said.count("8") + found.thinking.count("8"), (said, found)
    if not found.found:
        assert found.said == said and not found.thinking


def _prompts() -> Prompts:
    import yaml

    conf = Path(__file__).parents[1] / "conf" / "prompts"
    return Prompts.model_validate(yaml.safe_load((conf / "standard.yaml").read_text("utf-8")))


STANDARD = _prompts()


def prompting(rng: Random, folder: Path) -> None:
    """The judge's prompt has its own fence and no other, its own numbers and no others, whatever users and models say."""
    turns = tuple(Turn(speaker=rng.choice("ab"), text=text(rng)) for _ in range(rng.randint(1, 3)))
    names = {text(rng, most=3) or "depth": text(rng, most=4) for _ in range(2)}
    prompt = judge_prompt(STANDARD, Judgement(text(rng), turns, "a", None, names), ("<|eot_id|>",))
    plain = judge_prompt(STANDARD, Judgement("bees", (Turn(speaker="a", text="Wax."),), "a", None, {"depth": "d"}))
    folded = [re.sub(r"\s", "", unicodedata.normalize("NFKC", p).casefold()) for p in (prompt, plain)]
    for role in ROLES:
        assert folded[0].count(role) == folded[1].count(role), (role, prompt)
    inside = prompt.rpartition("<transcript>\n")[2].partition("\n</transcript>")[0]
    assert [line[:3] for line in inside.split("\n")] == [f"{t.speaker.upper()}: " for t in turns], prompt
    assert prompt.count("\n") == plain.count("\n") + len(turns) - 1 + len(names) - 1, prompt


def drawing(rng: Random, folder: Path) -> None:
    """Whatever is drawn, no escape but our own colours reaches the terminal."""
    screen = console_on(io.StringIO(), width=rng.randint(10, 90))
    screen.print(Text(text(rng), "bold red"))
    screen.print(text(rng))
    assert isinstance(screen.file, io.StringIO)
    shown = screen.file.getvalue()
    bad = [c for c in shown if (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") or c in "\u202e\u2066\u061c\u00ad\u200e"]
    assert not bad, shown
    shown.encode()


Property = Callable[[Random, Path], None]
PROPERTIES: dict[Property, float] = {  # with the share of all cases that it gets
    ratings: 0.2, neutralising: 0.18, cleaning: 0.18, quoting: 0.13, splitting: 0.13, thinking: 0.06, chunking: 0.055, topics: 0.03,
    logging: 0.02, prompting: 0.012, drawing: 0.002, resuming: 0.001,
}  # fmt: skip
