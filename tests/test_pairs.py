"""From rewarded candidates to pairs: which two, when a tie, what a null costs, and how old a policy may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.preferences.config import PairsConfig
from expertchat.preferences.pairs import Choice, Pairing, make_pairs
from expertchat.records import Candidate, Message

PROMPT = (Message("system", "You are a human expert on bees."), Message("user", "What do you know about wax?"))


def config(**values: Any) -> PairsConfig:
    plain = {"mode": "best_worst", "min_margin": 0.1, "length_ratio": 1.25, "max_lag": 0, "cut": "no_end"}
    return PairsConfig.model_validate({**plain, **values})


def choice(*rewards: float | None, tokens: tuple[int, ...] = (), version: int = 3, name: str = "r0001/c0000/t02") -> Choice:
    candidates = tuple(
        Candidate(
            id=f"{name}/k{i}", transcript=name[:11], round=1, turn=2, index=i, speaker="a", text=f"reply {i}",
            tokens=tokens[i] if tokens else 10, policy_version=version,
        )
        for i in range(len(rewards))
    )  # fmt: skip
    return Choice(PROMPT, candidates, tuple(rewards), "b")


def names(made: Pairing) -> list[str]:
    return [pair.id.rpartition("/")[2] for pair in made.pairs]


def test_best_against_worst() -> None:
    made = make_pairs([choice(0.2, 0.9, -0.5, 0.4)], config(), 3)
    (pair,) = made.pairs
    assert pair.id == "r0001/c0000/t02/k1-k2"
    assert (pair.score_chosen, pair.score_rejected) == (0.9, -0.5)
    assert pair.margin == pytest.approx(1.4)  # 0.9 - -0.5
    assert pair.prompt == [{"role": m.role, "content": m.content} for m in PROMPT]
    assert pair.chosen == [{"role": "assistant", "content": "reply 1"}]
    assert pair.rejected == [{"role": "assistant", "content": "reply 2"}]
    assert pair.provenance["chosen"] == "r0001/c0000/t02/k1"


def test_a_margin_below_the_least_is_a_tie() -> None:
    # 0.50 - 0.41 = 0.09 < 0.1; 0.50 - 0.39 = 0.11
    made = make_pairs([choice(0.50, 0.41), choice(0.50, 0.39)], config(), 3)
    assert (made.ties, len(made.pairs), made.tie_rate) == (1, 1, 0.5)


def test_equal_rewards_are_a_tie_even_without_a_least_margin() -> None:
    made = make_pairs([choice(0.5, 0.5)], config(min_margin=0.0), 3)
    assert (made.ties, made.pairs) == (1, [])


def alike(texts: str, *rewards: float) -> Choice:
    """A history whose candidates say one letter each."""
    one = choice(*rewards)
    said = tuple(c.model_copy(update={"text": text}) for c, text in zip(one.candidates, texts, strict=True))
    return replace(one, candidates=said)


def test_equal_texts_are_counted_apart_from_ties() -> None:
    # the judge gives one text two scores in the second history; in the third two texts tie
    made = make_pairs([alike("xxx", 0.5, 0.5, 0.5), alike("xx", 0.9, 0.1), alike("xy", 0.5, 0.5)], config(), 3)
    assert (made.pairs, made.equal, made.ties, made.tie_rate) == ([], 2, 1, 1.0)


def test_best_and_worst_of_one_text_leave_room_for_another() -> None:
    # 0.9 - 0.1 is one text; of the others 0.9 - 0.4 is more than 0.4 - 0.1
    made = make_pairs([alike("xyx", 0.9, 0.4, 0.1)], config(), 3)
    assert (names(made), made.equal) == (["k0-k1"], 0)


def test_of_all_pairs_each_of_one_text_is_counted() -> None:
    made = make_pairs([alike("xyx", 0.9, 0.4, 0.1)], config(mode="all"), 3)
    assert (sorted(names(made)), made.equal, made.ties) == (["k0-k1", "k1-k2"], 1, 0)
    made = make_pairs([alike("xx", 0.9, 0.1)], config(mode="length_matched"), 3)
    assert (made.equal, made.unmatched) == (1, 0)


def test_a_null_is_never_chosen_nor_rejected() -> None:
    made = make_pairs([choice(None, 0.9, 0.1), choice(None, 0.7), choice(None, None)], config(), 3)
    assert names(made) == ["k1-k2"]
    assert made.nulls == 4  # one, one and two
    assert made.ties == 0  # a history with fewer than two numbers is no tie


def test_all_pairs_above_the_margin() -> None:
    # 0.9 > 0.5 > 0.45: margins 0.4, 0.45 and 0.05, and the last is a tie
    made = make_pairs([choice(0.5, 0.9, 0.45)], config(mode="all"), 3)
    assert sorted(names(made)) == ["k1-k0", "k1-k2"]
    assert made.ties == 1


def test_of_like_length_the_largest_margin() -> None:
    # 40 tokens against 10 is too long; 12 / 10 = 1.2 and 40 / 35 = 1.14 are alike, with margins 0.3 and 0.6
    made = make_pairs([choice(1.0, 0.1, 0.4, 0.4, tokens=(40, 10, 12, 35))], config(mode="length_matched"), 3)
    assert names(made) == ["k0-k3"]
    none = make_pairs([choice(1.0, 0.1, tokens=(40, 10))], config(mode="length_matched"), 3)
    assert (none.pairs, none.unmatched, none.ties) == ([], 1, 0)


def test_pairs_of_an_old_policy_are_refused() -> None:
    choices = [choice(0.9, 0.1, version=3), choice(0.9, 0.1, version=2)]
    assert (len(make_pairs(choices, config(), 3).pairs), make_pairs(choices, config(), 3).stale) == (1, 1)
    assert make_pairs(choices, config(max_lag=1), 3).stale == 0


@given(
    st.lists(st.lists(st.one_of(st.none(), st.floats(-1, 1)), min_size=2, max_size=6), max_size=6),
    st.sampled_from(["best_worst", "all", "length_matched"]),
    st.floats(0, 1),
)
def test_every_pair_has_its_margin_and_nothing_is_lost(rewards: list[list[float | None]], mode: str, least: float) -> None:
    choices = [choice(*of_one, name=f"r0001/c{i:04d}/t02") for i, of_one in enumerate(rewards)]
    made = make_pairs(choices, config(mode=mode, min_margin=least), 3)
    for pair in made.pairs:
        assert pair.margin == pair.score_chosen - pair.score_rejected >= least
        assert pair.margin > 0
    assert made.nulls == sum(r is None for of_one in rewards for r in of_one)
    assert len({pair.id for pair in made.pairs}) == len(made.pairs)
    if mode == "best_worst":
        assert len(made.pairs) + made.ties == sum(sum(r is not None for r in of_one) >= 2 for of_one in rewards)
