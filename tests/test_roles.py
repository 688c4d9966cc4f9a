"""Who judges whom, for two experts and for more."""

from __future__ import annotations

from typing import get_args

import pytest

from expertchat.config import JudgeName
from expertchat.judging.roles import Role, judges_of

TWO, THREE = ("a", "b"), ("ann", "bob", "cy")


@pytest.mark.parametrize(
    ("how", "of_a", "of_b"),
    [
        ("partner", Role("b", "b", "b"), Role("a", "a", "a")),
        ("partner_reference", Role("base_b", "base_b", "b"), Role("base_a", "base_a", "a")),
        ("self", Role("a", "a", "a"), Role("b", "b", "b")),
        ("moving", Role("a", "a", "a"), Role("b", "b", "b")),
        ("reference", Role("base_a", "base_a", "a"), Role("base_b", "base_b", "b")),
        ("third", Role("third", "third", "third"), Role("third", "third", "third")),
    ],
)
def test_of_two_each_has_one_judge(how: JudgeName, of_a: Role, of_b: Role) -> None:
    for partners in ("each", "ring"):
        assert judges_of(how, "a", TWO, partners) == (of_a,)  # type: ignore[arg-type]
        assert judges_of(how, "b", TWO, partners) == (of_b,)  # type: ignore[arg-type]


def test_of_three_each_judges_each_or_the_next_in_a_ring() -> None:
    def names(how: JudgeName, subject: str, partners: str) -> list[str]:
        return [role.judge for role in judges_of(how, subject, THREE, partners)]  # type: ignore[arg-type]

    assert [names("partner", s, "each") for s in THREE] == [["bob", "cy"], ["ann", "cy"], ["ann", "bob"]]
    assert [names("partner", s, "ring") for s in THREE] == [["bob"], ["cy"], ["ann"]]
    assert [names("partner_reference", s, "ring") for s in THREE] == [["base_bob"], ["base_cy"], ["base_ann"]]
    assert [names("reference", s, "each") for s in THREE] == [["base_ann"], ["base_bob"], ["base_cy"]]


def test_every_judge_name_has_its_roles() -> None:
    for how in get_args(JudgeName):
        for subject in THREE:
            roles = judges_of(how, subject, THREE)
            assert roles and all(role.seat in (*THREE, "third", "reward_model") for role in roles)
            assert all(role.backend in (role.seat, f"base_{role.seat}") for role in roles)
