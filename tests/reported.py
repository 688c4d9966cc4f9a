"""Run folders for reports, written without a model: dialogues, ratings, nulls, candidates, a run that learns; and texts that mean harm."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from expertchat.records import Candidate, ExpertRef, Metrics, Rating, Record, Reward, Score, Transcript, Turn, Wim
from expertchat.report.parts import Figure, Section, Shown
from expertchat.report.subject import Subject, subject_of

CATEGORIES = ("depth", "accuracy", "clarity")
TOPICS = ("tides", "honey bees", "jazz", "coffee", "glaciers")
WORDS = [
    "the",
    "sea",
    "moves",
    "twice",
    "a",
    "day",
    "because",
    "the",
    "moon",
    "pulls",
    "water",
    "and",
    "the",
    "earth",
    "turns",
    "under",
    "it",
    "while",
    "bees",
    "dance",
    "to",
    "tell",
    "where",
    "flowers",
    "are",
]
EARLIER = Path(__file__).parent / "earlier"
CONFIG = EARLIER / "converse.yaml"


def sentence(rng: random.Random, words: int = 30) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words)).capitalize() + "."


def written(path: Path, records: Iterable[Record]) -> None:
    """Append records to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(record.to_json() + "\n" for record in records)


def dialogues(
    folder: Path, count: int, turns: int = 4, seed: int = 0, said: Callable[[int, int], str] | None = None, candidates: int = 0
) -> Path:
    """A run of converse. `said`: what is said in a turn of a dialogue, else words at random; every seventh rating is null."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(CONFIG, folder / "config.yaml")
    (folder / "provenance.json").write_text('{"command_line": ["expertchat", "converse"]}')
    rng = random.Random(seed)
    for n in range(count):
        name, who = f"c{n:05d}", ("a", "b")
        texts = [said(n, i) if said else sentence(rng) for i in range(turns)]
        spoken = [Turn(speaker=who[i % 2], text=text, tokens=len(text.split()), cut=n % 9 == 4 and i == 0) for i, text in enumerate(texts)]
        experts = {x: ExpertRef(family="world", model=f"embedded:{x}") for x in who}
        end = "loop" if n % 11 == 5 else "turns"
        told = Transcript(id=name, topic=TOPICS[n % len(TOPICS)], experts=experts, turns=spoken, seed=seed, stop_reason=end)  # type: ignore[arg-type]
        written(folder / "transcripts.jsonl", [told])
        for subject, judge in (("a", "b"), ("b", "a")):
            whose = {"transcript": name, "judge": judge, "subject": subject}
            text, analysis = sentence(rng, 12), sentence(rng, 20)
            written(folder / "ratings.jsonl", _ratings(name, n, subject, judge, rng))
            written(folder / "wim.jsonl", [Wim(id=f"{name}/{subject}/wim", **whose, text=text, analysis=analysis, cosine=rng.random())])
            reward = Reward(id=f"{name}/{subject}/reward", **whose, rating=5.0, wim=0.5, value=rng.random())
            written(folder / "rewards.jsonl", [reward])
        for k in range(candidates):
            at = {"id": f"{name}/t02/k{k}", "transcript": name, "turn": 2, "speaker": "a"}
            one = Candidate(**at, round=1, index=k, text=sentence(rng), policy_version=0, continued=k == 0)
            written(folder / "candidates.jsonl", [one])
            written(folder / "scores.jsonl", [Score(**at, source="judge", value=rng.random())])
    return folder


def _ratings(name: str, n: int, subject: str, judge: str, rng: random.Random) -> list[Rating]:
    found = []
    for i, category in enumerate(CATEGORIES):
        null = (n + i) % 7 == 3
        value = None if null else min(10, max(1, round(rng.gauss(6 if subject == "a" else 5, 2))))
        whose = {"transcript": name, "judge": judge, "subject": subject, "category": category}
        odd = {"raw": "it is good", "problem": "no number in it", "fault": "no_number"} if null else {"raw": f" {value}"}
        found.append(Rating(id=f"{name}/{subject}/{category}", **whose, value=value, **odd))
    return found


# Texts that would run, break out of where they stand, hide, or choke a page, were they taken for more than text. Whatever of them runs sets
# `window.harmed`, or asks for https://harm.example/.
_RUNS = "window.harmed=1;fetch('https://harm.example/')"
HOSTILE = (
    f"<script>{_RUNS}</script>",
    f"</script><script>{_RUNS}</script>",
    f"<ScRiPt>{_RUNS}</sCrIpT>",
    f'<img src=x onerror="{_RUNS}">',
    f'<svg onload="{_RUNS}">',
    f"<svg><script>{_RUNS}</script></svg>",
    f'<svg><a xlink:href="javascript:{_RUNS}"><text>x</text></a></svg>',
    f'<body onload="{_RUNS}">',
    f'<iframe src="javascript:{_RUNS}"></iframe>',
    '<iframe srcdoc="<script>parent.harmed=1</script>"></iframe>',
    f'<details open ontoggle="{_RUNS}">',
    f'<input autofocus onfocus="{_RUNS}">',
    f'<a href="javascript:{_RUNS}">click</a>',
    f'<marquee onstart="{_RUNS}">',
    f'<video><source onerror="{_RUNS}"></video>',
    f"<math><mtext><script>{_RUNS}</script></mtext></math>",
    f"<template><script>{_RUNS}</script></template>",
    f'<noscript><p title="</noscript><script>{_RUNS}</script>">',
    "<style>*{display:none}</style>",
    "<link rel=stylesheet href=https://harm.example/x.css>",
    '<meta http-equiv=refresh content="0;url=https://harm.example/">',
    "<base href=https://harm.example/>",
    "<form action=https://harm.example/><button>go</button></form>",
    "<object data=https://harm.example/></object>",
    "<embed src=https://harm.example/>",
    f'"><script>{_RUNS}</script>',
    f"'><script>{_RUNS}</script>",
    f'" onmouseover="{_RUNS}',
    f"`${{{_RUNS}}}`",
    "{{ cycler.__init__.__globals__.os.system('touch /tmp/harmed') }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{{ 7 * 7 }}",
    "{# a comment",
    "${7*7}",
    "<%= 7*7 %>",
    "</div></article></section></main></body></html>",
    "<!-- a comment that never ends",
    "-->",
    "]]>",
    "<![CDATA[",
    "</textarea></title></style></script>",
    "</script",
    "<!--<script>",
    "&lt;script&gt;&#60;script&#62;",
    "\u202egnirts desrever\u202c",
    "\u2066\u2067isolates that are never closed",
    "\u061c\u200f\u200e marks of direction",
    "nul \x00 in the middle",
    "\x1b[2J\x1b[31mescape\x07",
    "\x9b31m control\x85of the eighth bit",
    "half a pair \ud800",
    "\ufeff\ufffe\uffff",
    "a\u0300\u0301" + "\u0302" * 200 + " many marks",
    "x" * 1_000_000,
    "word " * 60_000,
    "\n" * 5_000 + "far below",
    "🏴‍☠️👩‍👩‍👧‍👦🇩🇪" * 50,
    "مرحبا بالعالم " * 20,
    "<" * 10_000,
    "&" * 10_000,
    f"javascript:{_RUNS}",
    "data:text/html,<script>alert(1)</script>",
    f"<b/onclick={_RUNS}>",
    "__proto__",
    "constructor",
    "#read/0/c00000",
    "%00%ff%E0%A4%A",
)


# -- what sections show --------------------------------------------------------------------------------------------------------------

HOSTILE_NAME = "</text><script>alert(1)</script> $x^2$ \x00\x1b[31m {{7*7}} ‮" + "y" * 500


def subject(*places: Path) -> Subject:
    return subject_of(list(places))


def figures(section: Section | None) -> dict[str, Figure]:
    assert section is not None
    return {part.name: part for part in section.parts if isinstance(part, Figure)}


def tables(section: Section | None) -> dict[str, Shown]:
    assert section is not None
    return {part.title: part for part in section.parts if isinstance(part, Shown)}


def lines(folder: Path, name: str, *found: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in found))


FINAL = {
    "n": 40, "win_rate": 0.75, "win_rate_low": 0.6, "win_rate_high": 0.9, "wins": 30, "ties": 0, "losses": 10, "judge": "truth",
    "tokens_base": 15.0, "tokens_policy": 9.0,
}  # fmt: skip


def learned(place: Path, arm: str, seed: int) -> Path:
    """A run in which expert a has learnt for two rounds, as an arm with a seed of its own."""
    place.mkdir(parents=True)
    shutil.copy(EARLIER / "learned" / "provenance.json", place)
    config = yaml.safe_load((EARLIER / "learned" / "config.yaml").read_text("utf-8"))
    config |= {"arm": arm, "learner": "a", "run": {**config["run"], "seed": seed}}
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    (place / "summary.json").write_text("{}")

    def said(name: str, kind: Any, round: int, **figures: Any) -> None:
        lines(place, "metrics", Metrics(id=name, kind=kind, round=round, learner="a", policy_version=round, figures=figures).to_json())

    said("evaluation-a-0000", "evaluation", 0, win_rate=0.5, n=10)
    for i, loss in enumerate([0.75, 0.5], 1):
        said(f"round-{i:04d}", "round", i, loss=loss, reward_mean=0.5, kl=None, candidates=4)
    said("evaluation-a-0002-final", "evaluation", 2, **FINAL)
    return place


def run_of(folder: Path, command: str, summary: dict[str, Any]) -> Path:
    lines(folder, "events", {"kind": "run_started", "command": command, "folder": "x", "conversations": 0, "turns": 0, "time": 1.0})
    (folder / "config.yaml").write_text("run: {seed: 0}\n")
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder
