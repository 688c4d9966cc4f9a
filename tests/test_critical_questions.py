"""Questions of a wanted type: the texts, a classifier of types, what counts and rewards by it, and the answers to a table of prompts."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from expertchat.backends.base import Valued, Valuer, ValueRequest
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.lab.summary import _typed
from expertchat.metrics.columns import columns_of
from expertchat.metrics.measuring import Tools, measure
from expertchat.prompting.table import run_table
from expertchat.records import Item, Opinion, Text
from expertchat.reward_models.known import Known
from expertchat.reward_models.typed import TypedMeasure
from expertchat.sources.config import SourceConfig
from expertchat.sources.read import read_items
from expertchat.studies.tables import cell_of, tables_of
from expertchat.studies.written import Step, StudyFile, examples_dir, steps_of
from expertchat.training.online import run_online
from expertchat.training.single import read_prompts
from tests.scripted import Collect
from tests.test_online_dpo import records
from tests.test_reward_functions import GRPO

torch.set_num_threads(1)
TYPES = ("clarification", "assumption", "evidence", "cause", "consequence", "perspective", "exception", "relevance")
PARTS = {"learn": 13, "judge": 6, "held_out": 6}


def rows_of(part: str) -> list[dict[str, str]]:
    found = []
    for language in ("en", "de"):
        with open(examples_dir() / "critical_questions" / f"{part}.{language}.csv", encoding="utf-8", newline="") as file:
            found += list(csv.DictReader(file))
            assert {row["Language"] for row in found[-1:]} == {language}
    return found


# -- the texts ------------------------------------------------------------------------------------------------------------


def test_no_text_is_in_two_parts_and_each_has_a_question_of_every_type_in_both_languages() -> None:
    rows = {part: rows_of(part) for part in PARTS}
    topics = {part: {row["Topic"] for row in ones} for part, ones in rows.items()}
    assert {part: len(ones) for part, ones in topics.items()} == PARTS and len(set().union(*topics.values())) == 25
    every = [row for ones in rows.values() for row in ones]
    assert len(every) == 25 * 8 * 2 and len({row["Question"] for row in every}) == len({row["Prompt"] for row in every}) == len(every)
    assert len({(row["Topic"], row["Language"]) for row in every}) == len({row["Context"] for row in every}) == 25 * 2
    assert {tuple(row["Type"] for row in ones[i : i + 8]) for ones in rows.values() for i in range(0, len(ones), 8)} == {TYPES}
    for row in every:
        assert row["Prompt"].endswith(f"\n\n{row['Context']}") and row["Question"].endswith("?")
        assert row["Context"].count(". ") >= 1 or ": " in row["Context"]


# -- a classifier of types ------------------------------------------------------------------------------------------------


def typed(path: Path) -> Path:
    """Texts of two types that their words tell apart, whatever stands before them."""
    said = {"why": ("Why does it rise?", "Why does it fall?", "Why is it warm?"), "who": ("Who says so?", "Who saw it?", "Who is it?")}
    lines = [
        {"topic": f"t{i}", "prompt": f"Ask a {other} question.", "text": text, "type": kind}
        for i in range(3) for kind, other in (("why", "who"), ("who", "why")) for text in (said[kind][i],)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


@pytest.mark.slow
def test_types_are_learnt_from_the_texts_alone(tmp_path: Path) -> None:
    from expertchat.backends.reward_model import RewardModel
    from expertchat.config import RewardModelConfig
    from expertchat.records import Message
    from expertchat.reward_models.run import run_reward_model

    source, run = typed(tmp_path / "typed.jsonl"), tmp_path / "run"
    words = [f"source.path=[{source}]", f"run.dir={run}", "view=none", "kind=types", "epochs=12", "resamples=200", "train.batch=4"]
    words += ["train.learning_rate=3e-3"]
    assert run_reward_model(load("reward_model", [*words, "train.micro_batch=4"]), ["expertchat", "reward_model"], Collect()) == 0
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    assert (summary["target"], summary["types"], summary["figures"]["accuracy"], summary["figures"]["coin"]) == ("type", 2, 1.0, 0.5)
    assert "types named rightly" in (run / "model" / "README.md").read_text("utf-8")
    model = RewardModel.load(RewardModelConfig(path=str(run), label="type", device="cpu", dtype="fp32"))
    asked = [(Message("user", said),) for said in ("Ask a who question.", "Let us talk about bees.")]
    found = model.value([ValueRequest(f"{i}", before, "Why does it rise?", label="why") for i, before in enumerate(asked)])
    assert found[0].score == found[1].score > 0.5 and found[0].likeliest == "why"  # what stands before is not read
    (other,) = model.value([ValueRequest("o", asked[0], "Why does it rise?", label="who")])
    assert other.score == pytest.approx(1 - (found[0].score or 0)) and other.likeliest == "why"


def test_what_teaches_no_types_is_refused(tmp_path: Path) -> None:
    from expertchat.reward_models.material import read_material

    def refused(lines: Sequence[dict[str, str]], *more: str) -> str:
        path = tmp_path / "t.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        with pytest.raises(ConfigError) as caught:
            read_material(load("reward_model", [f"source.path=[{path}]", "kind=types", *more]), lambda text: None)
        return str(caught.value)

    assert "none of the 2 items" in refused([{"topic": "a", "text": "x"}, {"topic": "b", "text": "y"}])
    same = [{"topic": name, "text": f"Why {name}?", "type": "why"} for name in "abcd"]
    assert "all 3 rows of training are of the type why" in refused(same)
    strange = [*same, {"topic": "e", "text": "Who?", "type": "who"}]
    other = tmp_path / "o.jsonl"
    other.write_text(json.dumps({"topic": "f", "text": "When?", "type": "when"}) + "\n")
    assert "types that no row of training has (when)" in refused(strange, f"held_out.path=[{other}]")


def test_the_share_of_right_types_by_hand() -> None:
    """Of two groups a (right, right) and b (right, wrong): 3 of 4; the commonest type has 3 of 4 texts. The mean of -log .5 is log 2."""
    items = [Item(id=f"i{i}", source="s", texts=[Text(text="x")], group="ab"[i // 2], type=kind) for i, kind in enumerate("xxyx")]
    said = [Opinion(id=f"o{i}", item=f"i{i}", judge="m", category="overall", score=0.5, raw=raw) for i, raw in enumerate("xxyy")]
    config = load("reward_model", ["kind=types", "source.path=[x]", "resamples=200"])
    found = TypedMeasure(config, [Known(item, (None,)) for item in items]).figures(said)
    assert (found["accuracy"], found["coin"], found["n"], found["groups"]) == (0.75, 0.75, 4, 2)
    assert found["loss"] == pytest.approx(math.log(2)) and (found["accuracy_x"], found["accuracy_y"]) == (2 / 3, 1.0)
    assert isinstance(low := found["accuracy_low"], float) and isinstance(high := found["accuracy_high"], float) and low < 0.75 < high


# -- what counts by it ----------------------------------------------------------------------------------------------------


class Words(Valuer):
    """A text is of the type whose name stands in it; it is sure by .9."""

    name, max_batch = "words", 4
    notes: list[str] = []  # noqa: RUF012

    def value(self, requests: Sequence[ValueRequest]) -> list[Valued]:
        found = [next((kind for kind in TYPES if kind in r.reply), TYPES[0]) for r in requests]
        likely = [0.9 if kind == r.label else 0.1 for kind, r in zip(found, requests, strict=True)]
        return [Valued(p, 2 * p - 1, likeliest=kind) for p, kind in zip(likely, found, strict=True)]


def test_metrics_counts_texts_of_the_right_type() -> None:
    items = [
        Item(id=f"i{i}", source="s", texts=[Text(text=text)], group="g", type=kind)
        for i, (text, kind) in enumerate((("a cause", "cause"), ("a cause", "evidence"), ("a cause", None), (" ", "cause")))
    ]
    two = {"type": Words(), "again": Words()}
    rows = measure(items, columns_of(["type"], two), Tools(classifiers=two))
    assert [row.values["of_type_again"] for row in rows] == [row.values["of_type"] for row in rows]
    assert [row.values["of_type"] for row in rows] == [1.0, 0.0, None, None]
    assert [row.values["type_probability"] for row in rows] == [0.9, 0.1, None, None]
    assert [row.problems.get("of_type") for row in rows] == [None, None, "it has no type", "the text is empty"]


def test_a_table_says_the_type_and_sources_without_one_keep_their_digest(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("Topic,Text,Type\nbees,Why?,cause\ntides,Who?,\n")
    one, two = read_items(SourceConfig(path=[str(table)]))
    assert (one.type, one.kind, one.group) == ("cause", "cause", "bees") and (two.type, two.kind) == (None, "tides")
    assert '"type":"cause"' in one.to_json() and '"type"' not in two.to_json()


def test_which_principle_a_judge_finds_most_kept_to_by_hand() -> None:
    """cause is rated highest in the first text, which is to be one; of the second, to be evidence, both are: a half; a null leaves the
    third out. Right: (1 + .5) / 2. The wanted ones are rated 8 and 5, the others 4 and 5."""
    items = {f"i{i}": Item(id=f"i{i}", source="s", texts=[Text(text="x")], group=f"g{i}", type=kind)
             for i, kind in enumerate(("cause", "evidence", "cause"))}  # fmt: skip
    given = ((8, 4), (5, 5), (None, 9))
    said = [Opinion(id=f"{i}{name}", item=f"i{i}", judge="m", category=name, expected=number, problem=None if number else "cut")
            for i, both in enumerate(given) for name, number in zip(("cause", "evidence"), both, strict=True)]  # fmt: skip
    (found,) = _typed(said, items)
    assert [found[key] for key in ("name", "n", "right", "own", "others")] == ["all", 2, 0.75, 6.5, 4.5]
    assert _typed(said, {name: item.model_copy(update={"type": None}) for name, item in items.items()}) == []


# -- what rewards by it ---------------------------------------------------------------------------------------------------


def test_each_prompt_is_rewarded_for_its_own_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "p.jsonl"
    kinds = ("cause", "evidence", "cause", "evidence")
    table.write_text("".join(json.dumps({"prompt": f"Ask {n}?", "Kind": kind}) + "\n" for n, kind in enumerate(kinds)), "utf-8")
    words = [
        f"run.dir={tmp_path / 'run'}", f"prompts.file={table}", "prompts.type=Kind", "+reward_model=default", "reward_model.path=x",
        "reward_model.label=type", "judging.judge=reward_model", "reward.functions=[reward_model]", "evaluation=reward",
        "evaluation.measure=length", "evaluation.topics=1", "rounds=1", "conversation.count=3", "view=none",
    ]  # fmt: skip
    valuer = Asked()
    monkeypatch.setattr("expertchat.talk.cast.find_folder", lambda *given: tmp_path)
    monkeypatch.setattr("expertchat.talk.cast.load_reward_model", lambda config, hub, terms: valuer)
    assert run_online(load("grpo", [*GRPO, *words]), [], Collect()) == 0
    topics = {one["id"]: one["topic"] for one in records(tmp_path / "run", "transcripts")}
    assert set(valuer.labels) == {"cause", "evidence"}
    wanted = {f"Ask {n}?": kind for n, kind in enumerate(kinds)}
    assert {key.partition("/t")[0]: label for key, label in valuer.by_key.items()} == {name: wanted[text] for name, text in topics.items()}


class Asked(Words):
    """Remembers for which type each reply was valued."""

    def __init__(self) -> None:
        self.by_key: dict[str, str | None] = {}

    @property
    def labels(self) -> list[str | None]:
        return list(self.by_key.values())

    def value(self, requests: Sequence[ValueRequest]) -> list[Valued]:
        self.by_key |= {request.key: request.label for request in requests}
        return [Valued(p := len(request.reply) % 7 / 7, 2 * p - 1, likeliest="cause") for request in requests]


def test_prompts_without_a_type_are_told_before_anything_is_loaded(tmp_path: Path) -> None:
    from expertchat.training.single import given

    table = tmp_path / "p.csv"
    table.write_text("prompt,TYPE\nWhy?,cause\nWho?,\n")
    assert read_prompts(str(table)).columns["Why?"] == {"TYPE": "cause", "type": "cause"}
    with pytest.raises(ConfigError, match=r"prompts\.type=kind: .* has no such column; it has prompt, TYPE"):
        read_prompts(str(table), None, "kind")
    words = [f"prompts.file={table}", "+reward_model=default", "reward_model.path=x", "reward_model.label=type"]
    with pytest.raises(ConfigError, match=r"reward_model\.label=type: 1 of 2 prompts .* have no type"):
        given(load("grpo", [*words, "judging.judge=reward_model", "evaluation=reward", "evaluation.measure=length"]))


# -- a table of prompts is answered ---------------------------------------------------------------------------------------


def test_a_table_is_answered_and_gone_on_with(tmp_path: Path) -> None:
    table, out, heard = tmp_path / "p.csv", tmp_path / "a" / "answers.jsonl", list[str]()
    table.write_text('Prompt,Type,Id\n"Tell me\nabout bees.",cause,7\nTell me about tides.,evidence,8\n')
    words = ["model=embedded_llama", f"prompts.file={table}", "prompts.column=Prompt", f"prompts.out={out}", "prompts.samples=2"]
    config = load("talk", [*words, "decoding@model.decoding=sampling", "model.decoding.reply.max_new_tokens=8", "engine.max_batch=3"])
    assert run_table(config, heard.append) == 0
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [(row["id"], row["Type"]) for row in rows] == [
        ("00000", "cause"), ("00000/1", "cause"), ("00001", "evidence"), ("00001/1", "evidence"),
    ]  # fmt: skip
    assert [row["prompt"] for row in rows[1:3]] == ["Tell me\nabout bees.", "Tell me about tides."]
    assert all(row["answer"] and row["system"] == "embedded:llama" and row["Id"] in ("7", "8") for row in rows)
    assert rows[0]["answer"] != rows[1]["answer"]
    whole = out.read_bytes()
    out.write_bytes(whole[: whole.rindex(b'"id": "00001"') + 20])  # a start that was killed in its third line
    assert run_table(config, heard.append) == 0 and out.read_bytes() == whole
    assert any("2 of 4 answers are there already" in one for one in heard)
    with pytest.raises(ConfigError, match="holds answers of embedded:llama by sampling"):
        run_table(load("talk", [*words[:-1], "decoding@model.decoding=greedy"]), heard.append)


# -- the study ------------------------------------------------------------------------------------------------------------


def test_a_value_may_be_a_step_and_a_figure_another_steps(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "title": "x",
        "words": {"base": "embedded:llama"},
        "steps": {
            "sft": {"run": "sft rows.csv model=$base"},
            "asked": {"run": "talk $arm", "each": {"arm": ["$base", "$sft"]}},
            "said": {"run": "metrics $asked/a.jsonl model=$arm", "each": {"arm": {"smoke": ["$base", "$sft"], "small": [], "full": []}}},
        },
        "tables": {"t": {"title": "t", "rows": {"model": "said"}, "figures": {"w": "f.json:means.words.mean", "n": "$asked/f.json:n"}}},
    }
    study = StudyFile.model_validate(given)
    made = {step.name: step for step in steps_of(study, "smoke", tmp_path, {}, {})}
    assert made["asked-base"].words == ("embedded:llama",) and made["asked-sft"].words == (f"{tmp_path}/sft",)
    assert made["asked-base"].after == () and made["said-sft"].after == ("sft", "asked-sft")
    for name, n in (("said-sft", 3.5), ("asked-sft", 7), ("asked-base", 8)):
        made[name].folder.mkdir()
        (made[name].folder / "f.json").write_text(json.dumps({"n": n, "means": [{"name": "x", "mean": 0}, {"name": "words", "mean": n}]}))
    shown = tables_of(study, list(made.values()))["t"]
    assert {row: [cell.value for cell in cells] for row, cells in shown.rows.items()} == {"model, base": [None, 8], "model, sft": [3.5, 7]}
    assert cell_of(made["said-sft"].folder, "f.json:means.gone.mean").value is None
    for change in ({"each": {"arm": ["$later"]}}, {"run": "talk $arm", "each": {"arm": ["$bas"]}}):
        with pytest.raises(ValueError, match="is known to nobody"):
            StudyFile.model_validate({**given, "steps": {**given["steps"], "asked": {"run": "talk $arm", **change}}})
    with pytest.raises(ValueError, match=r"tables\.t\.rows: there is no step 'askd'"):
        StudyFile.model_validate({**given, "tables": {"t": {**given["tables"]["t"], "figures": {"n": "$askd/f.json:n"}}}})
    assert isinstance(made["sft"], Step)
