"""What counts and shares that others have reported can carry, given their n: each with its interval, the probability of chance, and the
least difference that so many answers could have shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from expertchat.config import ConfigError, Group, Text, near, validate
from expertchat.evaluation.counts import POWER, Tested, difference, effects, evenness, holm, share
from expertchat.evaluation.statistics import LEVEL
from expertchat.folder.textfile import read_mapping

ENOUGH = 1 - LEVEL  # a probability below which chance is no explanation
Count = Annotated[int, Field(ge=0)]
PLACES = ("first", "second", "third", "fourth", "fifth", "sixth")


class ShareFile(Group):
    """A share of `n` answers; `even`: what chance gives."""

    title: Text | None = None
    share: float = Field(ge=0, le=1)
    n: int = Field(ge=1)
    even: float = Field(default=0.5, gt=0, lt=1)


class ReportedFile(Group):
    """`chosen`: how often each text was chosen, in the order in which the texts were shown. `differences`: of two of the shares."""

    title: Text
    note: Text = ""
    chosen: list[Annotated[dict[str, Count], Field(min_length=2, max_length=len(PLACES))]] = Field(default_factory=list)
    shares: dict[str, ShareFile] = Field(default_factory=dict)
    differences: list[Annotated[list[Text], Field(min_length=2, max_length=2)]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits(self) -> ReportedFile:
        problems = [f"differences: there is no share {name!r}{near(name, list(self.shares))}"
                    for pair in self.differences for name in pair if name not in self.shares]  # fmt: skip
        problems += [f"chosen.{i}: nothing was chosen at all" for i, one in enumerate(self.chosen) if not sum(one.values())]
        if not self.chosen and not self.shares:
            problems.append("holds neither chosen nor shares: there is nothing to ask about")
        if problems:
            raise ValueError("\n".join(problems))
        return self


def read_reported(path: Path) -> ReportedFile:
    """A file of what others have reported. Raises ConfigError with all that is wrong with it."""
    values = read_mapping(path, "reported", "title, and chosen or shares")
    try:
        return validate(ReportedFile, values)
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from None


def weighed(reported: ReportedFile) -> dict[str, Any]:
    """Every question that the figures answer, as a row: `value` with its interval, `p` of chance, `counted` the same where all of them are
    asked together (Holm), `least` what would have been found, `carried` whether it is.

    A row that compares says what an even one would be (`even`: a share, a difference of 0, odds of 1).
    """
    rows = [*_of_chosen(reported.chosen), *_of_shares(reported)]
    counted = holm([row["p"] for row in rows])
    for row, p in zip(rows, counted, strict=True):
        row |= {"counted": p, "carried": "yes" if p < ENOUGH else "no"}
    yes = [row["name"] for row in rows if row["carried"] == "yes"]
    said = f"of {len(rows)} questions asked together, the figures carry {len(yes)}" + (f": {'; '.join(yes)}" if yes else "")
    return {"schema": 1, "title": reported.title, "note": reported.note, "power": POWER, "rows": rows, "says": said}


def _of_chosen(chosen: Sequence[dict[str, int]]) -> Iterator[dict[str, Any]]:
    for one in chosen:
        n, even = sum(one.values()), 1 / len(one)
        most = max(one, key=lambda name: one[name])
        tested = share(one[most], n, even)
        row = _row(f"shown {', '.join(one)}: {most} most, of all", tested, n, even)
        yield row | {"p": evenness(list(one.values()))}  # of the whole table: the highest share was not named before
    tables: dict[tuple[str, ...], dict[str, int]] = {}
    for one in chosen:  # several of one order are one table
        known = tables.setdefault(tuple(one), dict.fromkeys(one, 0))
        known.update({name: known[name] + n for name, n in one.items()})
    found = effects(tables) if len(tables) > 1 else None
    if found is None:
        return
    n = sum(sum(one.values()) for one in chosen)
    for (name, other), odds in found.systems.items():
        yield _odds(f"odds of {name} to {other}, places held equal", odds, n)
    for (first, second), odds in found.places.items():
        yield _odds(f"odds of the {PLACES[first]} place to the {PLACES[second]}, texts held equal", odds, n)


def _of_shares(reported: ReportedFile) -> Iterator[dict[str, Any]]:
    for name, one in reported.shares.items():
        yield _row(one.title or name, share(one.share * one.n, one.n, one.even), one.n, one.even)
    for first, second in reported.differences:
        one, other = reported.shares[first], reported.shares[second]
        yield _row(f"{first} less {second}", difference(one.share, one.n, other.share, other.n), min(one.n, other.n), 0.0)


def _row(name: str, tested: Tested, n: int, even: float) -> dict[str, Any]:
    return {"name": name, "n": n, "even": even, **tested._asdict()}


def _odds(name: str, odds: tuple[float, float, float, float], n: int) -> dict[str, Any]:
    value, low, high, p = odds
    return {"name": name, "n": n, "even": 1.0, "value": value, "low": low, "high": high, "p": p, "least": None}
