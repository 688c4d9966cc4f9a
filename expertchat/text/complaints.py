"""What is said of a wrong config: pydantic's errors as lines with the key, the value and the remedy, and what may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, RootModel


def near(word: str, known: Iterable[str]) -> str:
    """"; did you mean X?" for a mistyped word, or nothing."""
    close = difflib.get_close_matches(word, [one for one in known if one != word], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def near_key(key: str, known: Iterable[str]) -> str:
    """The same for a dotted key: another one of as many parts, each of them alike, or its own last part in another group."""
    parts = key.split(".")

    def likeness(other: str) -> float:
        theirs = other.split(".")
        if len(theirs) != len(parts):
            return 0.9 if theirs[-1] == parts[-1] and len(parts) == 1 else 0.0
        each = [difflib.SequenceMatcher(None, one, two).ratio() for one, two in zip(parts, theirs, strict=True)]
        return sum(each) / len(each) if min(each) >= 0.6 else 0.0

    best = max((one for one in known if one != key), key=likeness, default="")
    return f"; did you mean {best}?" if best and likeness(best) else ""


def joined(details: Iterable[Any]) -> list[Any]:
    """pydantic's errors with those of the parts of a union as one: `float | Literal["rule_text"]` is wrong once, not once a part."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for detail in details:
        *place, part = detail["loc"] or ("",)
        of_union = str(part) in ("int", "float", "str", "bool") or str(part).startswith("literal[")
        key = tuple(place) if of_union else detail["loc"]
        if of_union and key in found:
            found[key]["msg"] += ", or " + detail["msg"].removeprefix("Input ")
        else:
            found[key] = {**detail, "loc": key}
    return list(found.values())


def complaints(model: type[BaseModel], detail: Any) -> list[str]:
    """What one error of pydantic says; a check of a whole group says all that is wrong with it, a line each."""
    place = ".".join(str(part) for part in detail["loc"])
    first, *more = _problem(model, detail).split("\n") if detail["type"] == "value_error" else [_problem(model, detail)]
    lines = [first.removeprefix(f"{place}: ") if place and first.startswith(f"{place}: {place}.") else first, *more]
    return lines


def _problem(model: type[BaseModel], detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        known = _fields(model, detail["loc"][:-1])
        return f"{place}: unknown key{near(str(detail['loc'][-1]), known) or ';'} there are {', '.join(known)}"
    if detail["type"] == "missing":
        return f"{place}: is missing"
    if detail["type"] == "model_type":
        return f"{place}: is a group with the keys {', '.join(_fields(model, detail['loc']))}, not {detail['input']!r}"
    if detail["type"] == "string_pattern_mismatch":
        *some, last = detail["ctx"]["pattern"].strip("^$()").replace(r"cuda(:\d+)?", "cuda|cuda:1").split("|")
        message = f"must be {', '.join(some)} or {last}"
    if detail["type"] == "string_too_short" or (detail["type"] == "too_short" and detail["input"] == ""):
        return f"{place}: is empty; give it a value"
    if detail["type"] == "list_type":
        message = f"must be a list, {place}=[...]"
    if isinstance(detail["input"], dict | BaseModel) or not place:
        return f"{place}: {message}" if place else message
    return f"{place}: {message}, but is {detail['input']!r}"


def _fields(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """The keys that the config group at `place` may have."""
    parts = list(place)
    while parts:
        part = parts.pop(0)
        annotation = model.model_fields["root" if issubclass(model, RootModel) else str(part)].annotation
        if parts and not issubclass(model, RootModel) and any(get_origin(kind) in (dict, list) for kind in _within(annotation)):
            parts.pop(0)  # a name or a number in a mapping or list of groups
        model = next(kind for kind in _within(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel))
    return list(model.model_fields)


def _within(annotation: Any) -> list[Any]:
    """An annotation with all that it is made of: dict[str, Group] | None has Group in it."""
    return [annotation, *(inner for part in get_args(annotation) for inner in _within(part))]
