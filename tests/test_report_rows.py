"""What a report shows of runs by rows: what a model learns from and what came out, picks in every order, posts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from expertchat.records import Demonstration, Metrics, Pick, PickRow, Post, Sample
from expertchat.records.learning import Preference, Standing
from expertchat.report.facts import facts_of
from expertchat.report.parts import Figure
from expertchat.report.sections.picks import picks, posts
from expertchat.report.subject import subject_of
from expertchat.report.transcripts import talks
from expertchat.report.verdict import verdict_of
from tests.reported import run_of, subject, written

EARLIER = Path(__file__).parent / "earlier"


def test_rows_show_what_went_in_and_what_came_out(tmp_path: Path) -> None:
    run, asked = tmp_path / "run", [{"role": "user", "content": "Accio ice, sun"}]
    shutil.copytree(EARLIER / "talked", run)
    (run / "transcripts.jsonl").unlink()
    taught: dict[str, Any] = {"prompt": asked, "completion": [{"role": "assistant", "content": "['ice', 'sun']"}], "source": "spells.txt:1"}
    rows = [Demonstration(id="l0", **taught), Demonstration(id="l1", part="evaluation", **taught)]
    written(run / "demonstrations.jsonl", rows)
    (run / "evaluations").mkdir()
    for name, text in (("0000", "I say"), ("0004-final", " ['ice', 'sun'] "), ("0002", "['ice']")):
        at: dict[str, Any] = {"prompt": asked, "way": "greedy", "text": text, "tokens": 3, "ended": True, "policy_version": 0}
        alone = Sample(id="prompt0/greedy", wanted=None, **at)
        written(run / "evaluations" / f"samples-{name}.jsonl", [Sample(id="l1/greedy", wanted="['ice', 'sun']", **at), alone])
    pair = Preference(id="r1", prompt=asked, chosen="good", rejected="bad", score_chosen=0.9, part="evaluation", cut=["rejected"])
    written(run / "preferences.jsonl", [pair, Preference(id="r2", prompt=asked, rejected="alone")])
    for n, value in ((0, 0.0), (3, 1.5)):
        standing = Standing(id="r1", chosen=value, rejected=-value, likelier=True, policy_version=n)
        written(run / "evaluations" / f"rows-{n:04d}.jsonl", [standing])
    written(run / "rows.jsonl", [PickRow(id="p0", source="x", group="g", topic="cats", texts={"base": "one", "best": "two"})])
    written(run / "picks.jsonl", [Pick(id="p0/0", row="p0", order=["base", "best"], choice="best", mass=0.9),
                                  Pick(id="p0/1", row="p0", order=["best", "base"], problem="low mass")])  # fmt: skip
    first = Post(id="s0000/a0", place=0, language="en", persona="Ann", topic="cats", text="Help", fault="cut")
    again = Post(id="s0000/a1", place=0, language="en", persona="Bo", topic="dogs", text="A dog.", near="s0001/a0", similarity=0.25)
    written(run / "written.jsonl", [first, again])
    warnings: list[str] = []
    told = {one.id: one for one in talks(subject_of([run]), warnings)}
    assert warnings == [] and list(told) == ["l0", "l1", "prompt0", "r1", "r2", "p0", "s0000"]
    assert [(one.kind, one.end) for one in told.values()] == [
        ("trained on", ""), ("held out", "as wanted"), ("asked for", ""), ("held out", ""), ("trained on", ""), ("pick", "best or none"),
        ("post", "taken")]  # fmt: skip
    assert [one["of"] for one in told["l1"].body["replies"]] == [
        "what it is to say", "before training", "after round 2", "with the weights that were kept"]  # fmt: skip
    assert told["l1"].body["replies"][-1]["right"] and told["l1"].body["source"] == "spells.txt:1"
    assert told["r1"].body["replies"][0]["note"] == "log policy/base +0 before training, +1.5 after round 3"
    assert told["p0"].flags == ["null"] and [one["note"] for one in told["p0"].body["replies"]] == [
        "picked in 0 of 2 orders", "picked in 1 of 2 orders"]  # fmt: skip
    assert [one["note"] for one in told["s0000"].body["replies"]] == ["cut", "taken, 0.25 like s0001/a0"]


def test_rows_that_were_taught_are_told_by_what_is_held_out_else_by_the_loss(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", "sft", {"rows": {"train": 8, "evaluation": 4}, "evaluation": {
        "perplexity": 13138757.2, "perplexity_base": 218281983.9, "held_out": 4}})  # fmt: skip
    held = verdict_of(subject(one))
    assert held.says == "sft on 8 rows: the perplexity of 4 held-out rows went from 218,281,984 to 13,138,757."
    assert held.cannot.startswith("It says how likely those rows are now, not whether what the model writes is better. They were held out")
    alone = run_of(tmp_path / "alone", "sft", {"rows": {"train": 1, "evaluation": 0}, "evaluation": {"perplexity": None}})
    told = Metrics(id="round-0001", kind="round", round=1, learner="model", policy_version=1, figures={"loss": 0.419})
    written(alone / "metrics.jsonl", [told])
    assert verdict_of(subject(alone)).says == "sft on 1 row: the loss was 0.419 in 1 round."
    written(alone / "metrics.jsonl", [told.model_copy(update={"id": "round-0002", "round": 2, "figures": {"loss": 0.25}})])
    assert verdict_of(subject(alone)).says == "sft on 1 row: the loss went from 0.419 to 0.25 in 2 rounds."


def test_one_is_one_and_judges_are_those_that_were_asked(tmp_path: Path) -> None:
    """`judging` is in the config of every command that judges; of what is there already its `judge` (partner) judges nothing."""
    run = run_of(tmp_path / "built", "build_pairs", {"rows": {"train": 1}, "card": {"pairs": 1, "texts": 8}})
    (run / "config.yaml").write_text("{run: {seed: 0}, judges: {truth: {kind: rule}}, judging: {judge: partner, form: expected}}")
    about = subject(run)
    assert verdict_of(about).says == "1 pair of 8 texts."
    known = facts_of(about.runs[0])
    assert (known["judge"], known["size"]) == ("truth", "1 row of train")


def test_picks_by_text_and_by_place(tmp_path: Path) -> None:
    def share(value: float, low: float, high: float) -> dict[str, Any]:
        return {"value": value, "low": low, "high": high, "n": 8}

    orders = [{"order": "base, best", "picked": {"base": 1, "best": 3}, "none": 0}, {"order": "best, base", "picked": {}, "none": 4}]
    systems = {"base": share(0.125, 0.0, 0.3), "best": share(0.875, 0.7, 1.0)}
    summary = {"texts": ["base", "best"], "systems": systems, "places": {"1": share(0.625, 0.4, 0.8)}, "orders": orders, "even": 0.5,
               "consistent": share(0.75, 0.3, 1.0), "first": share(0.625, 0.4, 0.8), "judge": "m"}  # fmt: skip
    about = subject(run_of(tmp_path / "run", "pick", summary))
    said = "m picks best most often, in 88 % of 8 picks (95 % interval 70 to 100), and what stood first in 62 % (40 to 80)."
    assert verdict_of(about).says == said
    section = picks(about)
    assert section is not None and isinstance(figure := section.parts[0], Figure)
    assert [row[0] for row in figure.rows] == ["base", "best", "what stood in place 1"]
    even = {**summary, "systems": {"base": share(0.5, 0.4, 0.6), "best": share(0.5, 0.4, 0.6)}}
    said = verdict_of(subject(run_of(tmp_path / "even", "pick", even))).says
    assert said.startswith("m picks none of 2 texts more often than by chance (base in 50 % of 8 picks")


def test_posts_and_what_was_none(tmp_path: Path) -> None:
    summary = {"wanted": 3, "posts": 2, "written": 4, "topics": 2, "nearest": 0.5, "tokens": 80, "faults": {"refuses": 2}}
    about = subject(run_of(tmp_path / "run", "posts", summary))
    assert verdict_of(about).says == "2 of 3 posts, on 2 topics, of 4 texts; the two nearest are 0.50 alike."
    section = posts(about)
    assert section is not None and [part.title for part in section.parts] == ["Posts", "What was no post"]
