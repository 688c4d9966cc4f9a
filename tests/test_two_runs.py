"""Two runs of one command as the sources of another: records are called alike in both, and what is said of one is said of it alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expertchat.building.config import BuildConfig
from expertchat.building.reading import cut_texts, items_of, source_of
from expertchat.building.scoring import scored
from expertchat.choosing.prompts import read_prompts
from expertchat.command.compose import load
from expertchat.folder.reader import RunReader
from expertchat.lab.recorded import said_in
from expertchat.labels.run import opinions_about
from expertchat.records import Candidate, Item, Rating, Score, Transcript
from expertchat.reward_models.examples import apart, parted
from expertchat.reward_models.known import by_scores, by_truth
from expertchat.sources.config import SourceConfig
from expertchat.sources.read import cluster_of, from_source, own_id, read_items

REAL = {"family": "auto", "model": "real"}
NAME = "r0001/c0000"


def run_of(folder: Path, word: str, sign: int, cut: bool, topic: str = "tides") -> Path:
    """A run of one dialogue with two candidates, scored 1 and 2 (times `sign`) and rated 3 and 4, or 7 and 8; `word` ends its texts."""
    turns = [{"speaker": "b", "text": "The Moon pulls the sea."}, {"speaker": "a", "text": f"Low {word}.", "cut": cut}]
    experts = {"a": REAL, "b": REAL}
    talk = Transcript(id=NAME, topic=topic, experts=experts, turns=turns, seed=0, stop_reason="turns")  # type: ignore[arg-type]
    made, scores, ratings = list[Any](), list[Any](), list[Any]()
    for k, text in enumerate((f"High {word}.", f"Low {word}.")):
        name = f"{NAME}/t01/k{k}"
        made.append(Candidate(id=name, transcript=NAME, round=1, turn=1, index=k, speaker="a", text=text, policy_version=0, cut=cut))
        scores.append(Score(id=name, transcript=NAME, turn=1, speaker="a", source="judge", value=sign * (k + 1.0)))
        about: dict[str, Any] = dict(transcript=NAME, turn=1, candidate=name, judge="b", subject="a", category="depth")
        ratings.append(Rating(id=f"{name}/depth", value=k + (3 if sign > 0 else 7), **about))
    folder.mkdir()
    for file, records in (("transcripts", [talk]), ("candidates", made), ("scores", scores), ("ratings", ratings)):
        (folder / f"{file}.jsonl").write_text("".join(f"{one.to_json()}\n" for one in records))
    (folder / "config.yaml").write_text("rounds: 1\nlearner: a\n")
    return folder


@pytest.fixture
def both(tmp_path: Path) -> tuple[SourceConfig, Path, Path]:
    one, two = run_of(tmp_path / "one", "tide", 1, False), run_of(tmp_path / "two", "water", -1, True)
    return SourceConfig(path=[str(one), str(two)], unit="candidates"), one, two


def test_whose_an_item_is(both: tuple[SourceConfig, Path, Path]) -> None:
    source, one, two = both
    items = read_items(source)
    assert {own_id(item) for item in items} == {f"{NAME}/t01/k0", f"{NAME}/t01/k1"} and len(items) == 4
    assert ["tide" in item.texts[0].text for item in from_source(str(one), source, items)] == [True, True]
    assert ["water" in item.texts[0].text for item in from_source(str(two), source, items)] == [True, True]
    assert from_source(str(two / "nothing"), source, items) == []
    alone = source.model_copy(update={"path": [str(one)]})
    assert len(from_source("judged elsewhere", alone, read_items(alone))) == 2  # of one source all


def test_scores_are_those_of_the_own_run(both: tuple[SourceConfig, Path, Path]) -> None:
    """1 and 2 in the first run, -1 and -2 in the second."""
    source = both[0]
    found = {one.item.texts[0].text: one.values[0] for one in by_scores(read_items(source), source, 0.0)}
    assert found == {"High tide.": 1, "Low tide.": 2, "High water.": -1, "Low water.": -2}


def test_ratings_are_those_of_the_own_run(both: tuple[SourceConfig, Path, Path]) -> None:
    source, one, _ = both
    items = read_items(source)
    said = said_in(RunReader(one), from_source(str(one), source, items))
    texts = {item.id: item.texts[0].text for item in items}
    assert {texts[item]: [opinion.value for _, opinion in given] for item, given in said.items()} == {"High tide.": [3], "Low tide.": [4]}
    shown = opinions_about(source, items)
    assert sorted((texts[item], opinion.value) for item, given in shown.items() for opinion in given) == [
        ("High tide.", 3), ("High water.", 7), ("Low tide.", 4), ("Low water.", 8),
    ]  # fmt: skip


@pytest.mark.parametrize("unit", ["auto", "turns"])
def test_texts_are_cut_in_the_own_run(both: tuple[SourceConfig, Path, Path], unit: str) -> None:
    source = both[0]
    words = [f"source.path=[{','.join(source.path)}]", f"source.unit={unit}", "+judge@judges.x=random", "counterpart.origin=source"]
    config: BuildConfig = load("build_pairs", words)
    items = items_of(config, lambda text: None)
    found = scored(config, items, {}, cut_texts(source_of(config), items))
    assert {one.text.text: one.cut for one in found if "Moon" not in one.text.text} == {
        text: "water" in text for text in ([] if unit == "turns" else ["High tide.", "High water."]) + ["Low tide.", "Low water."]
    }


def test_a_topic_of_two_runs_is_held_out_as_one(tmp_path: Path) -> None:
    """Four runs over two topics: two groups, none on both sides."""
    places = [run_of(tmp_path / f"{topic}{i}", f"{topic} {i}", 1, False, topic) for topic in ("tides", "waves") for i in (0, 1)]
    items = read_items(SourceConfig(path=[str(place) for place in places], unit="candidates", group="topic"))
    assert {cluster_of(item) for item in items} == {"topic tides", "topic waves"}
    parts = parted(by_truth(items, 0.0), 0.5, 0)
    sides = [{one.item.topic for one in side} for side in (parts.train, parts.held_out)]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    by_dialogue = [item.model_copy(update={"group": own_id(item)}) for item in items]  # one history of two dialogues is one all the same
    parts = parted(by_truth(by_dialogue, 0.0), 0.5, 0)
    assert not {one.item.topic for one in parts.train} & {one.item.topic for one in parts.held_out}
    half = [one for one in by_truth(items, 0.0) if one.item.texts[0].text.endswith("0.")]
    rest = [one for one in by_truth(items, 0.0) if one not in half]
    assert apart(half, rest).notes == ["held_out.path: 4 of 4 items answer histories that are trained on too, by other texts"]


def test_rows_of_two_tables_are_prompts_of_their_own(tmp_path: Path) -> None:
    """Five rows each, called alike: ten prompts of ten groups, of which six are six; rows of one topic are one group."""
    for name in ("x", "y"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"id": i, "prompt": f"{name} {i}?"}) + "\n" for i in range(5)))
    path = f"source.path=[{tmp_path}/x.jsonl,{tmp_path}/y.jsonl]"
    words = [path, "judge@judges.chooser=random", "judge@judges.other=length"]
    ten = read_prompts(load("best_of_n", [*words, "count=10"]), lambda text: None)
    assert [len(ten), len({one.prompt.group for one in ten}), len({one.prompt.origin for one in ten})] == [10, 10, 10]
    assert len(read_prompts(load("best_of_n", [*words, "count=6"]), lambda text: None)) == 6
    about = read_prompts(load("best_of_n", [*words, "source.topic=tides"]), lambda text: None)
    assert {one.prompt.group for one in about} == {"tides"}


def test_single_texts_of_two_runs(both: tuple[SourceConfig, Path, Path]) -> None:
    items: list[Item] = read_items(both[0].model_copy(update={"unit": "turns"}))
    assert len({item.id for item in items}) == 4 and len({item.source for item in items}) == 2
