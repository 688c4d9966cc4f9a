"""What the words of `expertchat study` ask for; those of `expertchat submit study` are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from expertchat.config import ConfigError
from expertchat.studies.going import chosen
from expertchat.studies.written import SIZES, Size, Step, StudyFile, read_study, steps_of, studies

ONLY = "--only"
FLAGS = ("--list", ONLY)
VIEWS = ("live", "plain", "none")


@dataclass(frozen=True)
class Asked:
    """A study at a size, its steps in its folder. `words`: those that were given, besides its name and size, the folder and flags; `again`:
    all that make it once more, as `expertchat study` takes them.
    """

    name: str
    size: Size
    file: Path
    study: StudyFile
    steps: tuple[Step, ...]
    folder: Path
    words: tuple[str, ...]
    again: tuple[str, ...]
    only: tuple[str, ...]
    lists: bool
    view: str


def asked(arguments: Sequence[str]) -> Asked:
    """Raises ConfigError with all that is wrong with the words."""
    rest, only = _only(arguments)
    plain = [word for word in rest if "=" not in word and not word.startswith("--")]
    sizes = [word for word in plain[1:] if word in SIZES]
    problems = _odd(rest, plain, sizes)
    if not plain:
        raise ConfigError(problems)
    name, size = plain[0], next(iter(sizes), "small")
    words = [word for word in rest if "=" in word]
    values = dict(word.split("=", 1) for word in words)
    view, place = values.pop("view", "live"), values.pop("run.dir", None)
    more: dict[str, list[str]] = {}
    for key in [key for key in values if "." in key]:
        step, _, inner = key.partition(".")
        more.setdefault(step, []).append(f"{inner}={values.pop(key)}")
    if view not in VIEWS:
        problems.append(f"view={view}: is none; take {', '.join(VIEWS)}")
    try:
        study, known = read_study(name), studies()
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    short = name if name in known else Path(name).stem
    folder = Path(place or f"runs/study-{short}-{size}").expanduser()
    if not _can_stand_in_words(str(folder)):
        why = "stands in the command line of each step, which takes no commas, brackets, quotes or equals signs in it"
        problems.append(f"run.dir={place}: a study's folder {why}; name another folder")
    whole = next(one for one in get_args(Size) if one == size)
    try:
        steps = tuple(steps_of(study, whole, folder, values, more))
        chosen(steps, only)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    kept = tuple(word for word in words if not word.startswith(("view=", "run.dir=")))
    again = (name, whole, *kept, *([f"run.dir={place}"] if place else []))
    return Asked(short, whole, known.get(name) or Path(name), study, steps, folder, kept, again, only, "--list" in rest, view)


def _can_stand_in_words(folder: str) -> bool:
    """Whether the overrides of a step can name the folder as it is."""
    from expertchat.command.overrides import mended, parsed

    one = parsed(mended(f"run.dir={folder}/step"))
    return one is not None and not one.is_sweep_override() and str(one.value()) == f"{folder}/step"


def _only(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The words without --only STEP[,STEP], and those steps."""
    rest, only, words = list[str](), list[str](), iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag != ONLY:
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if not value or value.startswith("--"):
            raise ConfigError(f"{ONLY}: name the steps: {ONLY} STEP[,STEP]")
        only += [name for name in value.split(",") if name]
    return rest, tuple(only)


def _odd(arguments: Sequence[str], plain: Sequence[str], sizes: Sequence[str]) -> list[str]:
    """What is no word of this command."""
    flags = [word for word in arguments if word.startswith("--") and word not in FLAGS]
    found = [f"{word}: there is no such flag; {', '.join(FLAGS)} and --help are all" for word in flags]
    found += [f"{word}: is no size; take smoke, small or full" for word in plain[1:] if word not in sizes]
    if not plain:
        found.append("name a study: expertchat study --help shows them")
    if len(sizes) > 1:
        found.append(f"{' '.join(sizes)}: name one size")
    return found
