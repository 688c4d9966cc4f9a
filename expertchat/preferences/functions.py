"""Reward functions (reward.functions): what a candidate is worth by several of them, weighed and added up. No torch here.

A name is what judges or programs have said anyway, each from -1 to 1: judge (the whole reward), rating, wim, a category that is rated,
reward_model, a program of expertchat.text.measures. FILE.py:NAME is a function of the user's own, called as TRL calls its reward functions:
f(prompts=[...], completions=[...], **columns) -> a number or None for each. It is run as it stands: the user's own code, on their command.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from expertchat.config import ConfigError, JudgingConfig
from expertchat.judging.wim import scale_rating
from expertchat.records import Candidate
from expertchat.text.likeness import blank
from expertchat.text.measures import PROGRAMS
from expertchat.text.sentences import first_line

if TYPE_CHECKING:
    from expertchat.config import Scale
    from expertchat.preferences.candidates import Sampled
    from expertchat.preferences.config import Rules

JUDGED = ("judge", "rating", "wim", "reward_model")
NO_WORTH = "a reward function has no number for it"


@dataclass(frozen=True)
class Worth:
    """What a candidate is worth: the weighed sum, None where a function that has one for another reply of its history has none for it; and
    what each function says."""

    value: float | None
    parts: Mapping[str, float | None]


@dataclass(frozen=True)
class About:
    """A history to be valued: its candidates, and the columns that a user's function is given besides."""

    sampled: Sampled
    columns: Mapping[str, Any]


# -- names ---------------------------------------------------------------------------------------------------------------


def own(name: str) -> tuple[Path, str] | None:
    """The file and the function of a name FILE.py:NAME; None for any other name."""
    file, colon, function = name.rpartition(":")
    return (Path(file).expanduser(), function) if colon and file.endswith(".py") else None


def asks_judges(functions: Iterable[str], judging: JudgingConfig) -> bool:
    """Whether one of them is what a judge says."""
    return any(name in JUDGED or name in judging.asked for name in functions if name not in PROGRAMS)


def problems(functions: Sequence[str], weights: Sequence[float] | None, judging: JudgingConfig) -> list[str]:
    """What is wrong with names and weights, known before anything is loaded or run."""
    known = [*JUDGED, *judging.asked, *PROGRAMS]
    found = [
        f"reward.functions: {name} is none; there are {', '.join(dict.fromkeys(known))}, and FILE.py:NAME for a function of your own"
        for name in functions
        if own(name) is None and name not in known
    ]
    if twice := sorted({name for name in functions if list(functions).count(name) > 1}):
        found.append(f"reward.functions has {', '.join(twice)} twice: give it a weight instead")
    if weights is not None and len(weights) != len(functions):
        found.append(f"reward.weights={list(weights)}: {len(weights)} numbers for {len(functions)} functions")
    if "wim" in functions and not judging.wim.enabled:
        found.append("reward.functions: wim needs judging.wim.enabled=true")
    if "reward_model" in functions and "reward_model" not in judging.judges:
        found.append("reward.functions: reward_model needs judging.judge=reward_model, or a list with it")
    rated = [name for name in functions if name in ("rating", "wim", *judging.asked)]
    if rated and judging.judges == ("reward_model",):
        found.append(f"reward.functions: a reward model gives no {', '.join(rated)}; set judging.judge=[reward_model,partner]")
    return found


def file_problems(functions: Iterable[str]) -> list[str]:
    """Files of the user's own that are not there, cannot be read as Python, or lack the function. Nothing of them is run."""
    found = []
    for name, (file, function) in ((name, place) for name in functions if (place := own(name)) is not None):
        where = f"reward.functions: {name}"
        try:
            tree = ast.parse(file.read_text("utf-8"))
        except OSError as error:
            found.append(f"{where}: {file} cannot be read ({error.strerror or error}); name a Python file")
            continue
        except (SyntaxError, ValueError) as error:
            found.append(f"{where}: {file} is no Python ({first_line(error)})")
            continue
        defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        named = {n.id for node in tree.body if isinstance(node, ast.Assign) for n in node.targets if isinstance(n, ast.Name)}
        imported = {a.asname or a.name for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom) for a in node.names}
        if function not in {*defined, *named, *imported}:
            there = f"it has {', '.join(defined)}" if defined else "it has none"
            found.append(f"{where}: {file} has no function {function}; {there}")
    return found


# -- values --------------------------------------------------------------------------------------------------------------


def worths(histories: Sequence[About], rules: Rules) -> dict[str, Worth]:
    """The worth of every candidate of some histories, by its id.

    A function that has no number for any reply of a history does not apply there, and is left out; a reply that lacks a number which others
    to the same history have is not scored: less would be taken for worse; nor is one that says nothing, whatever a function gives it.
    Raises ConfigError for a function of the user's own that fails.
    """
    names = rules.reward.functions
    weights = rules.reward.weights or [1.0] * len(names)
    every = [(about, one) for about in histories for one in about.sampled.candidates]
    said = {name: _own_values(name, every) if own(name) is not None else _values(name, histories, rules) for name in names}
    found: dict[str, Worth] = {}
    for about in histories:
        ids = [one.id for one in about.sampled.candidates]
        applying = [(name, weight) for name, weight in zip(names, weights, strict=True) if any(said[name][i] is not None for i in ids)]
        for one in about.sampled.candidates:
            parts = {name: said[name][one.id] for name in names}
            counted = [(weight, parts[name]) for name, weight in applying]
            scored = counted and not blank(one.text) and all(v is not None for _, v in counted)
            found[one.id] = Worth(math.fsum(w * v for w, v in counted if v is not None) if scored else None, parts)
    return found


def _values(name: str, histories: Sequence[About], rules: Rules) -> dict[str, float | None]:
    """What a judge or a program says of each candidate."""
    found: dict[str, float | None] = {}
    for one in (about.sampled for about in histories):
        whole = one.values(rules.judging.combine) if name == "judge" else [None] * len(one.candidates)
        for candidate, together in zip(one.candidates, whole, strict=True):
            found[candidate.id] = together if name == "judge" else _value(name, one, candidate, rules.judging.rating_scale)
    return found


def _value(name: str, one: Sampled, candidate: Candidate, scale: Scale) -> float | None:
    rewards = one.judged(candidate)
    if name == "wim":
        return _mean(r.wim for r in rewards)
    if name == "rating":
        return _scaled(_mean(r.rating for r in rewards), scale)
    if name == "reward_model":
        return _mean(r.value for r in rewards if r.judge == "reward_model")
    rated = [r for r in one.ratings if r.candidate == candidate.id and r.category == name]
    if rated or name not in PROGRAMS:
        return _scaled(_mean(r.number for r in rated), scale)
    number = PROGRAMS[name].measure(candidate.text)
    return None if number is None else PROGRAMS[name].reward(number)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _scaled(rating: float | None, scale: Scale) -> float | None:
    return None if rating is None else scale_rating(rating, scale)


# -- the user's own ------------------------------------------------------------------------------------------------------


def _own_values(name: str, every: Sequence[tuple[About, Candidate]]) -> dict[str, float | None]:
    """What a function of the user's own says of each candidate; one call for all of them."""
    if not every:
        return {}
    where = f"reward.functions: {name}, round {every[0][1].round}"
    after = "mend it, and the same command goes on with this round"
    prompts = [[{"role": m.role, "content": m.content} for m in about.sampled.prompt] for about, _ in every]
    given: dict[str, Any] = {
        "prompts": prompts,
        "completions": [[{"role": "assistant", "content": one.text}] for _, one in every],
        "completion_ids": [list(one.ids or ()) for _, one in every],
        **_columns(every),
    }
    function = loaded(name)
    try:
        answer = function(**_taken(function, given))
    except Exception as error:  # whatever the user's code raises
        raise ConfigError(f"{where}: it raised {type(error).__name__}: {first_line(error)}{_line(error, name)}; {after}") from None
    values = list(answer) if isinstance(answer, Iterable) and not isinstance(answer, str | bytes | Mapping) else None
    if values is None:
        raise ConfigError(f"{where}: it gave {type(answer).__name__}, not a list of {len(every)} numbers; {after}")
    if len(values) != len(every):
        raise ConfigError(f"{where}: it gave {len(values)} values for {len(every)} completions; {after}")
    for n, value in enumerate(values):
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value)):
            shown = repr(value)[:60]
            raise ConfigError(f"{where}: its value {n + 1} of {len(values)} is no number: {shown}; give None where there is none; {after}")
    return {one.id: None if value is None else float(value) for (_, one), value in zip(every, values, strict=True)}


def _columns(every: Sequence[tuple[About, Candidate]]) -> dict[str, list[Any]]:
    """What TRL would take from a data set: a value of every candidate for each name."""
    names = dict.fromkeys(name for about, _ in every for name in about.columns)
    columns = {name: [about.columns.get(name) for about, _ in every] for name in names}
    for name in ("transcript", "turn", "speaker", "tokens", "cut"):
        columns[name] = [getattr(one, name) for _, one in every]
    return columns


def _taken(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of all that there is, what a function names; one with **columns takes everything."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return dict(given)
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return dict(given)
    return {name: value for name, value in given.items() if name in parameters}


@lru_cache(maxsize=64)
def loaded(name: str) -> Callable[..., Any]:
    """The function that FILE.py:NAME names. Raises ConfigError."""
    place = own(name)
    assert place is not None
    file, function = place
    if found := file_problems([name]):
        raise ConfigError(found)
    spec = importlib.util.spec_from_file_location(f"expertchat_reward_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        shown = f"{type(error).__name__}: {first_line(error)}{_line(error, name)}"
        raise ConfigError(f"reward.functions: {name}: {file} cannot be run: {shown}") from None
    what: Callable[..., Any] = getattr(module, function)
    if not callable(what):
        raise ConfigError(f"reward.functions: {name}: {function} in {file} is no function")
    return what


def _line(error: BaseException, name: str) -> str:
    """Where in the user's file it went wrong."""
    place, trace, line = own(name), error.__traceback__, None
    file = str(place[0]) if place else ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" ({file}, line {line})" if line is not None else ""
