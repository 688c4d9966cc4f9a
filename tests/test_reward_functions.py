"""Reward functions: what judges and programs say, weighed; functions of the user's own and what becomes of their faults; single prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.judging import wim
from expertchat.preferences.candidates import Sampled, shown_as
from expertchat.preferences.config import Rules
from expertchat.preferences.functions import Worth, file_problems, worths
from expertchat.preferences.score import _by_functions
from expertchat.records import Candidate, Message, Rating, Reward, Score
from expertchat.training.online import run_online
from expertchat.training.single import read_prompts
from tests.scripted import Collect
from tests.test_online_dpo import SMALL, adapters, content, difference, records

GRPO = [
    *(word for word in SMALL if not word.startswith("pairs.")), "evaluation.every=0", "evaluation.histories=1", "evaluation.final=1",
    "conversation.count=1",
]  # fmt: skip


def rules(*overrides: str) -> Rules:
    found: Rules = load("grpo", list(overrides)).rules
    return found


def test_the_scale_of_a_rating_is_ours_or_that_of_the_papers_code() -> None:
    assert [wim.reward(rating, None, 0.0) for rating in (1, 5.5, 10)] == [-1, 0, 1]  # (r - 5.5) / 4.5
    assert [wim.reward(rating, None, 0.0, "fifths") for rating in (1, 5, 5.5, 10)] == [-0.8, 0, 0.1, 1]  # (r - 5) / 5
    assert wim.reward(10, 0.5, 0.5, "fifths") == 0.75  # half of 1 and half of .5
    assert values(sampled(["x", "y"], [0.5, 0.5], [10, 5]), "reward.functions=[depth]", "judging.rating_scale=fifths") == [1, 0]


def sampled(texts: list[str], wims: list[float | None], depths: list[int | None]) -> Sampled:
    """Replies to one history with the WIM scores and ratings in depth that the partner gave."""
    place = {"transcript": "r0003/c0000", "turn": 1}
    candidates = [
        Candidate.model_validate({**place, "id": f"k{i}", "round": 3, "index": i, "speaker": "a", "text": text, "tokens": 4,
                                  "policy_version": 2}) for i, text in enumerate(texts)
    ]  # fmt: skip
    rewards = [
        Reward.model_validate({**place, "id": f"k{i}/r", "candidate": f"k{i}", "judge": "b", "subject": "a", "wim": wim, "value": wim})
        for i, wim in enumerate(wims)
    ]
    ratings = [
        Rating.model_validate({**place, "id": f"k{i}/d", "candidate": f"k{i}", "judge": "b", "subject": "a", "category": "depth",
                               "value": depth, "problem": None if depth else "cut"}) for i, depth in enumerate(depths)
    ]  # fmt: skip
    return Sampled(prompt=[Message("user", "Why?")], candidates=candidates, rewards=rewards, ratings=ratings)


def values(one: Sampled, *overrides: str) -> list[float | None]:
    told = rules(*overrides)
    found = worths([shown_as(one, "tides", told)], told)
    return [found[c.id].value for c in one.candidates]


def test_what_judges_and_programs_say_is_weighed_by_hand() -> None:
    one = sampled(["a b", "a a"], [0.5, -0.5], [10, 1])
    # wim .5 and -.5; depth (10 - 5.5) / 4.5 = 1 and (1 - 5.5) / 4.5 = -1; variety 2 * 1 - 1 = 1 and 2 * .5 - 1 = 0
    weighed = values(one, "reward.functions=[wim,depth,variety]", "reward.weights=[2,0.5,1]")
    assert weighed == pytest.approx([2 * 0.5 + 0.5 * 1 + 1, 2 * -0.5 + 0.5 * -1 + 0])
    assert values(one, "reward.functions=[judge]") == [0.5, -0.5]


def test_what_has_no_number_is_not_scored() -> None:
    """A function that says nothing of a whole history does not apply there; one that says nothing of a reply leaves that unscored."""
    assert values(sampled(["a b", "a a"], [0.5, None], [10, 10]), "reward.functions=[wim,depth]") == [1.5, None]
    assert values(sampled(["a b", "a a"], [None, None], [10, 1]), "reward.functions=[wim,depth]") == [1.0, -1.0]
    assert values(sampled(["a b", "a a"], [None, None], [None, None]), "reward.functions=[wim,depth]") == [None, None]


def test_a_function_of_the_users_own_is_called_as_trl_calls_its(tmp_path: Path) -> None:
    file = tmp_path / "my.py"
    file.write_text(
        "seen = {}\n"
        "def short(prompts, completions, topic, **columns):\n"
        "    assert prompts[0] == [{'role': 'user', 'content': 'Why?'}] and topic == ['tides'] * 2 and columns['turn'] == [1, 1]\n"
        "    return [-len(c[0]['content'].split()) for c in completions]\n"
        "def plain(completions):\n"
        "    return (None if c[0]['content'] == 'a a' else 2 for c in completions)\n"
    )
    one = sampled(["a b c", "a a"], [0.5, 0.5], [1, 1])
    assert values(one, f"reward.functions=[{file}:short]") == [-3.0, -2.0]
    assert values(one, f"reward.functions=[{file}:plain]") == [2.0, None]
    silent = sampled(["a b c", " ... "], [0.5, None], [1, None])  # is no worse and no better than one that speaks, but none to train on
    assert values(silent, f"reward.functions=[{file}:short]") == [-3.0, None]
    score = Score(id="k1", transcript="t", turn=1, speaker="a", source="functions", sign=1)
    assert _by_functions(score, Worth(None, {"short": -1.0})).problem == "the reply is blank"
    assert not file_problems([f"{file}:short", "wim"])
    assert file_problems([f"{file}:gone", f"{tmp_path}/no.py:f"]) == [
        f"reward.functions: {file}:gone: {file} has no function gone; it has short, plain",
        f"reward.functions: {tmp_path}/no.py:f: {tmp_path}/no.py cannot be read (No such file or directory); name a Python file",
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [1 / 0 for c in completions]", r"it raised ZeroDivisionError: division by zero \(.*bad.py, line 2\)"),
        ("return [1.0]", "it gave 1 values for 2 completions"),
        ("return [1.0, 'high']", "its value 2 of 2 is no number: 'high'"),
        ("return [1.0, float('nan')]", "its value 2 of 2 is no number: nan"),
        ("return 3", "it gave int, not a list of 2 numbers"),
    ],
)
def test_its_faults_are_named_with_function_and_round(tmp_path: Path, body: str, said: str) -> None:
    file = tmp_path / "bad.py"
    file.write_text(f"def f(completions, **columns):\n    {body}\n")
    with pytest.raises(ConfigError, match=rf"^reward\.functions: {file}:f, round 3: {said}.*mend it, and the same command goes on"):
        values(sampled(["a", "b"], [0.0, 0.0], [1, 1]), f"reward.functions=[{file}:f]")


# -- runs ----------------------------------------------------------------------------------------------------------------


def train(folder: Path, command: str, *overrides: str) -> tuple[int, Any]:
    config: Any = load(command, [*GRPO, f"run.dir={folder}", *overrides])
    sink = Collect()
    return run_online(config, ["expertchat", command], sink), sink


@pytest.mark.slow
def test_a_run_stops_at_the_last_whole_round_and_goes_on_when_the_function_is_mended(tmp_path: Path) -> None:
    from expertchat.preferences.functions import loaded

    file, words = tmp_path / "my.py", "return [len(c[0]['content']) / 100 for c in completions]"
    overrides = (f"reward.functions=[{file}:long]", "evaluation=reward", "evaluation.measure=length", "rounds=2")
    file.write_text(f"def long(completions, **columns):\n    {words}\n")
    assert train(tmp_path / "whole", "grpo", *overrides)[0] == 0
    early = "assert not transcript[0].startswith('r0002')"
    file.write_text(f"def long(completions, transcript, **columns):\n    {early}\n    {words}\n")
    loaded.cache_clear()
    with pytest.raises(ConfigError, match=r"my\.py:long, round 2: it raised AssertionError"):
        train(tmp_path / "run", "grpo", *overrides)
    assert [m["round"] for m in records(tmp_path / "run", "metrics") if m["kind"] == "round"] == [1]
    file.write_text(f"def long(completions, **columns):\n    {words}\n")
    loaded.cache_clear()
    code, _ = train(tmp_path / "run", "grpo", *overrides)
    assert code == 0 and difference(content(tmp_path / "whole"), content(tmp_path / "run")) < 5e-5
    one, two = adapters(tmp_path / "whole"), adapters(tmp_path / "run")
    assert one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)
    rounds = [m["figures"] for m in records(tmp_path / "run", "metrics") if m["kind"] == "round"]
    assert all(figures["groups"] and figures[f"function_{file}:long_spread"] > 0 and "pairs" not in figures for figures in rounds)
    assert not records(tmp_path / "run", "pairs") and json.loads((tmp_path / "run/summary.json").read_text())["groups"] > 0
    assert "trained by GRPO" in (tmp_path / "run/adapter/README.md").read_text("utf-8")


def test_single_prompts_are_shown_as_they_are(tmp_path: Path) -> None:
    table = tmp_path / "p.jsonl"
    prompts = ["Why do tides\nrise?", "What do herons eat?", "How do bees make honey?", "What is bread?"]
    table.write_text("".join(json.dumps({"prompt": text, "level": n}) + "\n" for n, text in enumerate(prompts)), "utf-8")
    file = tmp_path / "my.py"
    file.write_text(
        "def f(prompts, completions, level, **columns):\n"
        "    assert all(len(p) == 1 for p in prompts) and set(level) <= {0, 1, 2}\n"
        "    return [float(len(c[0]['content'])) for c in completions]\n"
    )
    told = (f"prompts.file={table}", f"reward.functions=[{file}:f]", "evaluation=reward", "evaluation.measure=length")
    code, _ = train(tmp_path / "run", "rloo", *told, "evaluation.topics=1", "rounds=1", "conversation.count=3")
    assert code == 0
    shown = {t["topic"] for t in records(tmp_path / "run", "transcripts")}
    assert shown == set(prompts[:3]) and all(len(t["turns"]) == 1 for t in records(tmp_path / "run", "transcripts"))
    base = [json.loads(line) for line in (tmp_path / "run/evaluations/base-a.jsonl").read_text("utf-8").splitlines()]
    assert {(one["topic"], len(one["turns"])) for one in base} == {(prompts[3], 0)}


def test_prompts_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("# a comment\nWhy?\n\nHow?\nWhy?\n")
    assert read_prompts(str(tmp_path / "p.txt")).texts == ["Why?", "How?"]
    (tmp_path / "p.csv").write_text('frage,stufe\n"Warum?\nSag es.",1\n,2\n', "utf-8")
    with pytest.raises(ConfigError, match=r"p\.csv has no column called prompt, .* prompts\.column=NAME: frage, stufe"):
        read_prompts(str(tmp_path / "p.csv"))
    with pytest.raises(ConfigError, match=r"row 3 hold no prompt under frage"):
        read_prompts(str(tmp_path / "p.csv"), "frage")
    chats = [[{"role": "user", "content": "Hi"}], [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": chat}) + "\n" for chat in chats))
    with pytest.raises(ConfigError, match=r"line 2 hold no prompt under prompt: .* one user message; mend or remove it"):
        read_prompts(str(tmp_path / "p.jsonl"))
    with pytest.raises(ConfigError, match="holds no prompt"):
        (tmp_path / "empty.txt").write_text("# nothing\n")
        read_prompts(str(tmp_path / "empty.txt"))
