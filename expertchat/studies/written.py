"""A study as it is written: steps, each a command of this program with its words, and the tables that come of them.

A study is a YAML file of conf/study/, or one of a user's own. In a step's words $NAME stands for a word of the study, for the folder of
another step (of all of its runs, where it runs several times), for $here (its own folder) or $examples (the data that comes with the
package); a step that names another one runs after it.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from expertchat.command.table import COMMANDS
from expertchat.config import ConfigError, Group, Text, conf_dir
from expertchat.folder.textfile import read_mapping

Size = Literal["smoke", "small", "full"]
SIZES: tuple[Size, ...] = get_args(Size)
Value = str | int | float | bool
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
PLACE = re.compile(r"\$([a-z][a-z0-9_]*)")
FIGURE = re.compile(r"\{([^|{}]+)\|([^|{}]+)\|([^|{}]+)(\|%)?\}")  # of a table: {TABLE|ROW|COLUMN}, a share in percent with |%
OWN = ("here", "examples")  # names that every step knows


class StepFile(Group):
    """One command. `smoke`, `small` and `full` are further words at that size; `each` runs it once for every combination of its values.

    A list of values may be one for each size, or the $NAME of a word that is a list; a value may be the $NAME of a word or of an earlier
    step. `input`: lines for its standard input; what it then says on standard output is kept as answers.txt in its folder.
    """

    run: Text
    about: Text | None = None
    smoke: Text = ""
    small: Text = ""
    full: Text = ""
    each: dict[str, list[Value] | dict[Size, list[Value]] | Text] = Field(default_factory=dict)
    input: list[Text] | None = None
    sizes: list[Size] = Field(default_factory=lambda: list(SIZES))


class TableFile(Group):
    """A table of `figures`, each by its place ("FILE:PATH.TO.IT", of summary.json where no file is named; "$STEP/FILE:PATH.TO.IT" of
    another step that was run for the same values): a row a step, or with `list` a row for each entry of a list in a file of theirs (of a
    .jsonl each line; of many each `every`-th), called as its key `named` says. Or of `lines`: a row an input line and a column a step that
    has answered it. `beside`: rows of figures that others have published."""

    title: Text
    rows: dict[str, Text]
    figures: dict[str, Text] = Field(default_factory=dict)
    list: Text | None = None
    named: Text = "name"
    every: Annotated[int, Field(ge=1)] = 1
    lines: Text | None = None
    beside: dict[str, dict[str, Value]] = Field(default_factory=dict)
    note: Text | None = None

    @model_validator(mode="after")
    def _holds_something(self) -> TableFile:
        if bool(self.figures) == (self.lines is not None):
            raise ValueError("needs either figures or lines")
        return self


class StudyFile(Group):
    """A whole study. `words`: what its user may set, a value for all sizes or one for each; a list is as many words of a step. `says`: the
    report's first sentence, {TABLE|ROW|COLUMN} in it the figure that stands there, {TABLE|ROW|COLUMN|%} in percent; `cannot`: what that
    cannot say."""

    title: Text
    about: Text = ""
    says: Text | None = None
    cannot: Text | None = None
    words: dict[str, Value | list[Text] | dict[Size, Value | list[Text]]] = Field(default_factory=dict)
    steps: Annotated[dict[str, StepFile], Field(min_length=1)]
    tables: dict[str, TableFile] = Field(default_factory=dict)

    @field_validator("words", "steps", "tables")
    @classmethod
    def _names(cls, named: dict[str, object]) -> dict[str, object]:
        bad = [name for name in named if not NAME.fullmatch(name) or name in OWN]
        if bad:
            raise ValueError(f"{', '.join(map(repr, bad))}: cannot be a name; take small letters, digits and _, a letter first")
        return named

    @model_validator(mode="after")
    def _fits(self) -> StudyFile:
        if problems := [*self._problems()]:
            raise ValueError("\n".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        before: set[str] = set()
        yield from (f"{name}: is a word and a step; rename one of them" for name in sorted(self.words.keys() & self.steps.keys()))
        for name, step in self.steps.items():
            command, *_ = [*shlex.split(step.run), ""]
            if command not in COMMANDS:
                yield f"steps.{name}.run: there is no command '{command}'{_close(command, COMMANDS)}"
            known = {*self.words, *OWN, *step.each, *before}
            words = {f"${word}": word for word in self.words}
            for key, value in step.each.items():
                if isinstance(value, str) and value not in words:
                    yield f"steps.{name}.each.{key}: {value} is no word of the study{_close(value, words)}; or list values"
            lists = [ones for each in step.each.values() for ones in (each.values() if isinstance(each, dict) else [each])]
            values = [str(one) for ones in lists if isinstance(ones, list) for one in ones]
            for text in (step.run, step.smoke, step.small, step.full, *values):
                for one in PLACE.findall(text):
                    if one not in known:
                        why = "is that of a later step" if one in self.steps else f"is known to nobody{_close(one, known)}"
                        yield f"steps.{name}: ${one} {why}; a step may name words, what it runs for each of, and earlier steps"
            before.add(name)
        for name, table in self.tables.items():
            others = [one for path in table.figures.values() for one in PLACE.findall(path)]
            lost = [row for row in (*table.rows.values(), *others) if row not in self.steps]
            yield from (f"tables.{name}.rows: there is no step '{row}'{_close(row, self.steps)}" for row in lost)
        for name, _, column, _ in FIGURE.findall(self.says or ""):
            if (shown := self.tables.get(name)) is None:
                yield f"says: there is no table '{name}'{_close(name, self.tables)}"
            elif shown.figures and column not in shown.figures:
                yield f"says: the table '{name}' has no column '{column}'{_close(column, shown.figures)}"


def _close(name: str, known: Mapping[str, object] | set[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


class Step(NamedTuple):
    """One command as it is run. `of`: the step of the file that it is a run of; `after`: names of the steps that it reads."""

    name: str
    of: str
    command: str
    words: tuple[str, ...]
    folder: Path
    after: tuple[str, ...]
    input: tuple[str, ...] | None
    about: str


# -- reading ----------------------------------------------------------------------------------------------------------------


def examples_dir() -> Path:
    """The data that comes with the package: inside of it in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "examples"
    return inside if inside.is_dir() else package.parent / "examples"


def studies() -> dict[str, Path]:
    """The studies that come with the package, by name."""
    return {path.stem: path for path in sorted((conf_dir() / "study").glob("*.yaml"))}


def read_study(name: str) -> StudyFile:
    """A study by its name, or a file of a user's own. Raises ConfigError with all that is wrong with it."""
    known = studies()
    path = known.get(name) or Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"there is no study '{name}'{_close(name, known)}; there are {', '.join(known)}, or name a YAML file of your own")
    values = read_mapping(path, "study", "title and steps")
    try:
        return StudyFile.model_validate(values)
    except ValidationError as error:
        raise ConfigError([f"{path}: {line}" for one in error.errors() for line in _told(one)]) from None


def _told(error: Mapping[str, object]) -> list[str]:
    """The lines of one of pydantic's errors, with the place."""
    place = ".".join(map(str, error["loc"])) if isinstance(error["loc"], tuple) else ""
    said = str(error["msg"]).removeprefix("Value error, ")
    return [f"{place}: {line}" if place else line for line in said.split("\n")]


# -- as it is run -----------------------------------------------------------------------------------------------------------


def steps_of(study: StudyFile, size: Size, place: Path, given: Mapping[str, str], more: Mapping[str, Sequence[str]]) -> list[Step]:
    """All steps at a size, in order. `given`: words that the user has set; `more`: further words by step.

    Raises ConfigError for words and steps that the study does not have.
    """
    problems = [f"{name}={value}: the study has no word '{name}'{_close(name, study.words)}; its words are "
                f"{', '.join(study.words) or '(none)'}, and STEP.KEY=VALUE is a key of a step" for name, value in given.items()
                if name not in study.words]  # fmt: skip
    problems += [f"{name}.{words[0]}: the study has no step '{name}'{_close(name, study.steps)}; its steps are {', '.join(study.steps)}"
                 for name, words in more.items() if name not in study.steps]  # fmt: skip
    if problems:
        raise ConfigError(problems)
    words = {name: given.get(name, value.get(size, "") if isinstance(value, dict) else value) for name, value in study.words.items()}
    several = {name for name, value in study.words.items() if _listed(value)}
    split = {name: _split(value) if name in several else [str(value)] for name, value in words.items()}
    made: list[Step] = []
    for name, step in study.steps.items():
        if size in step.sizes:
            made += _runs(name, step, size, place, split, made, more.get(name, ()))
    return made


def _listed(value: object) -> bool:
    return isinstance(value, list) or (isinstance(value, dict) and any(isinstance(one, list) for one in value.values()))


def _split(value: object) -> list[str]:
    """A word that is several."""
    return list(map(str, value)) if isinstance(value, list) else shlex.split(str(value))


def _runs(
    name: str, step: StepFile, size: Size, place: Path, words: Mapping[str, Sequence[str]], before: Sequence[Step], more: Sequence[str]
) -> Iterator[Step]:
    """The runs of one step: one, or one for each combination of values."""
    text = f"{step.run} {getattr(step, size)}"
    every = (one[size] if isinstance(one, dict) else words[one[1:]] if isinstance(one, str) else one for one in step.each.values())
    for values in product(*every):
        tag = "-".join(re.sub(r"[^\w.]+", "_", str(value).removeprefix("$")) for value in values)
        run = f"{name}-{tag}" if tag else name
        here, after = place / run, list[str]()
        own: dict[str, Sequence[str]] = {**words, "here": [str(here)], "examples": [str(examples_dir())]}
        own |= {key: _filled(str(value), own, "", before, after) for key, value in zip(step.each, values, strict=True)}
        command, *rest = [filled for word in shlex.split(text) for filled in _filled(word, own, tag, before, after)]
        if COMMANDS[command].resumes:
            rest.append(f"run.dir={here}")
        yield Step(run, name, command, (*rest, *more), here, tuple(dict.fromkeys(after)),
                   None if step.input is None else tuple(step.input), step.about or "")  # fmt: skip


def _filled(word: str, own: Mapping[str, Sequence[str]], tag: str, before: Sequence[Step], after: list[str]) -> list[str]:
    """A word with what its places stand for; a place of several (a list, a step of several runs) gives as many words."""

    def runs(name: str) -> list[Step]:
        every = [step for step in before if step.of == name]
        return [step for step in every if step.name == f"{name}-{tag}"] or every

    names = list(dict.fromkeys(PLACE.findall(word)))
    after += [step.name for name in names if name not in own for step in runs(name)]
    stands = [own.get(name) or [str(step.folder) for step in runs(name)] for name in names]
    found = [dict(zip(names, values, strict=True)) for values in product(*stands)]
    return [PLACE.sub(lambda m, values=values: values[m[1]], word) for values in found]  # type: ignore[misc]


def titles() -> dict[str, str]:
    """The studies that come with the package, with their titles."""
    return {name: read_study(name).title for name in studies()}
