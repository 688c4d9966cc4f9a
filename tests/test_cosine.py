"""What a WIM score goes with: shares of pairs of replies to one history, rank correlations, and who is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expertchat import cli
from expertchat.audit.cosine import TITLES, Reply, figures_of
from expertchat.world.facts import load


def reply(history: int, cosine: float | None, rating: float | None, tokens: int = 10, **more: Any) -> Reply:
    place = {"history": (f"c{history}", 1), "topic": f"t{history % 3}", "feedback": 4, "empty": False}
    return Reply(**(place | {"cosine": cosine, "rating": rating, "tokens": tokens} | more))


def value(replies: list[Reply], name: str) -> float | None:
    found = figures_of(replies)[name]
    return found if isinstance(found, int) else found.value


def test_pairs_of_one_history_are_held_against_each_other() -> None:
    replies = [
        reply(0, 0.5, 6, tokens=10), reply(0, 0.6, 7, tokens=30),  # the cosine puts first what the rating does, and the longer
        reply(1, 0.5, 8, tokens=10), reply(1, 0.6, 7, tokens=30),  # not what the rating does; the longer
        reply(2, 0.5, 5, tokens=10), reply(2, 0.6, 5, tokens=30),  # the rating says nothing; the longer
        reply(3, 0.5, 5, tokens=10), reply(3, 0.5, 7, tokens=30),  # the cosine says nothing
        reply(4, None, 5), reply(4, 0.9, 7),  # one has no score: no pair
        reply(5, 0.1, 9), reply(6, 0.9, 1),  # of two histories: no pair
    ]  # fmt: skip
    assert value(replies, "replies") == 11
    assert value(replies, "nulls") == pytest.approx(1 / 12)
    assert value(replies, "ties") == pytest.approx(1 / 4) and value(replies, "rating_ties") == pytest.approx(1 / 4)
    assert value(replies, "with_rating") == pytest.approx(1 / 2)  # histories 0 and 1
    alike = [reply(0, 0.5, 6), reply(0, 0.6, 6), reply(0, 0.7, None)]
    assert value(alike, "rating_ties") == 1.0  # a null is equal to nothing and unequal to nothing
    assert value(replies, "with_length") == 1.0  # 0, 1, 2
    assert value(replies, "rating_with_length") == pytest.approx(2 / 3)  # 0 and 3, not 1
    assert value(replies, "with_truth") is None  # nothing is known of it


def test_the_truth_where_it_is_known() -> None:
    """The cosine follows the facts, and the more are still missing the lower it is; the rating goes the other way."""
    replies = [
        reply(h, 0.1 * k, 9 - k, facts=k, wrong=3 - k, score=2 * k - 3, missing=9 - k, empty=k == 0) for h in range(6) for k in range(4)
    ]
    assert (value(replies, "with_truth"), value(replies, "rating_with_truth"), value(replies, "with_wrong")) == (1.0, 0.0, 0.0)
    assert value(replies, "rho_facts") == pytest.approx(1.0) and value(replies, "rho_missing") == pytest.approx(-1.0)
    assert value(replies, "empty") == 0.25 and value(replies, "rho_tokens") is None  # all are as long
    found = figures_of(replies)
    assert set(found) == set(TITLES)


def test_a_run_is_read_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "one"
    run.mkdir()
    (run / "config.yaml").write_text("arm: wim\n")
    expert = {"family": "world", "model": "m", "revision": None, "policy_version": 0}
    said, new = (f"{fact.clauses[0].capitalize()}." for fact in load().topics["volcanoes"][:2])
    turns = [{"speaker": who, "text": text, "tokens": 5, "seconds": 0.1} for who, text in (("b", said), ("a", new))]
    dialogue = {"id": "c0", "topic": "volcanoes", "experts": {"a": expert, "b": expert}, "turns": turns, "seed": 0, "stop_reason": "turns"}
    files: dict[str, list[dict[str, Any]]] = {
        "transcripts": [dialogue],
        "candidates": [{"id": f"k{k}", "transcript": "c0", "round": 1, "turn": 1, "index": k, "speaker": "a", "text": (said, new)[k],
                        "tokens": 3 + k, "policy_version": 0} for k in range(2)],
        "wim": [{"id": f"w{k}", "transcript": "c0", "turn": 1, "candidate": f"k{k}", "judge": "b", "subject": "a", "text": "More.",
                 "cosine": 0.5 + k / 10} for k in range(2)],
        "rewards": [{"id": f"r{k}", "transcript": "c0", "turn": 1, "candidate": f"k{k}", "judge": "b", "subject": "a", "rating": 5 + k,
                     "wim": 0.5, "value": 0.5} for k in range(2)],
    }  # fmt: skip
    for name, lines in files.items():
        (run / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert cli.main(["wim", str(tmp_path), "--out", str(tmp_path / "w.json")]) == 0
    assert "the cosine puts first the longer reply" in " ".join(capsys.readouterr().out.split())
    (row,) = json.loads((tmp_path / "w.json").read_text())["runs"]
    assert (row["run"], row["arm"], row["replies"], row["with_rating"]["value"], row["with_length"]["value"]) == ("one", "wim", 2, 1.0, 1.0)
    assert row["with_truth"]["value"] == 1.0  # the partner has just said what the first one repeats, and the cosine puts the second first
    (run / "wim.jsonl").write_text("")
    assert cli.main(["wim", str(run)]) == 2
    assert "/one: no reply has a WIM score" in capsys.readouterr().err
