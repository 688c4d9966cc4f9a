"""Text files of lines `instruction#answer`, and the templates that an instruction is worded by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from expertchat.config import ConfigError, conf_dir
from expertchat.folder.textfile import read_text, text_lines
from expertchat.sources.encoding import named
from expertchat.text.sentences import first_line

EVALUATION = "_EVAL_"  # a comment that holds it begins the rows that are held out
_MARK = re.compile(r"(?<!\\)#")
_SLOT = re.compile(r"\{(instruction|input|response|type)\}")


@dataclass(frozen=True)
class Line:
    """A line of such a file."""

    number: int
    instruction: str
    answer: str
    held_out: bool


def read_lines_of(path: Path, what: str = "data.path") -> list[Line]:
    """The lines of a file. One that begins with # is a comment; `\\#` is a # that is text. Raises ConfigError that names the wrong ones."""
    return parsed(read_text(path, what), f"{what}={path}")


def parsed(text: str, name: str) -> list[Line]:
    """The lines of a text.

    >>> [(one.instruction, one.answer, one.held_out) for one in parsed("# spells\\nname \\\\#1#Lumos\\n# _EVAL_\\nname 2#Nox", "x")]
    [('name #1', 'Lumos', False), ('name 2', 'Nox', True)]
    """
    found, bare, several, empty, held_out = list[Line](), list[int](), list[int](), list[int](), False
    for number, line in text_lines(text):
        if line.lstrip().startswith("#"):
            held_out = held_out or EVALUATION in line
            continue
        parts = [part.replace("\\#", "#").strip() for part in _MARK.split(line)]
        if len(parts) != 2:
            (bare if len(parts) < 2 else several).append(number)
        elif not all(parts):
            empty.append(number)
        else:
            found.append(Line(number, parts[0], parts[1], held_out))
    problems = []
    if bare:
        problems.append(f"{name}: {named(bare, 'line')} hold no #; write instruction#answer, a comment begins with #")
    if several:
        problems.append(f"{name}: {named(several, 'line')} hold more than one #; write \\# for one that is text")
    if empty:
        problems.append(f"{name}: {named(empty, 'line')} have nothing before or after the #")
    if not found and not problems:
        problems.append(f"{name}: holds no row; write lines instruction#answer")
    if problems:
        raise ConfigError(problems)
    return found


@dataclass(frozen=True)
class Template:
    """How an instruction is worded: the prompt's text ends where the answer begins."""

    name: str
    with_input: str
    without_input: str
    task: str | None = None

    def prompt(self, instruction: str, given: str) -> str:
        """The text before the answer. What is filled in is text, whatever braces it has. Raises ConfigError where an input has no place."""
        if given and "{input}" not in self.with_input:
            raise ConfigError(f"data.template={self.name}: has no {{input}}, so the inputs (contexts) of the rows would be dropped")
        values = {"instruction": instruction, "input": given, "response": ""}
        return _SLOT.sub(lambda found: values.get(found[1], found[0]), self.with_input if given else self.without_input)


def templates() -> list[str]:
    """The names of those that come with the package."""
    return sorted(path.stem for path in (conf_dir() / "instructions").glob("*.yaml"))


def find_template(name: str) -> Template | None:
    """The template of a name or a file; None: the model's own chat template, or none at all. Raises ConfigError."""
    if name in ("chat", "none"):
        return None
    own = conf_dir() / "instructions" / f"{name}.yaml"
    path = own if name in templates() else Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"data.template={name}: is no file; take chat, none, {', '.join(templates())}, or name a file of that form")
    text = read_text(path, "data.template")
    found: object = text.rstrip("\n")
    if path.suffix in (".yaml", ".yml"):
        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"data.template={name}: is no YAML ({first_line(error)})") from None
    values: Mapping[str, Any] = found if isinstance(found, Mapping) else {"with_input": found, "without_input": found}
    problems = [f"data.template={name}: {problem}" for problem in _problems(values)]
    if problems:
        raise ConfigError(problems)
    return Template(name, values["with_input"], values["without_input"], values.get("task"))


def _problems(values: Mapping[str, Any]) -> list[str]:
    found = []
    for key in ("with_input", "without_input"):
        text = values.get(key)
        if not isinstance(text, str):
            found.append(f"has no text `{key}`")
            continue
        lacking = [slot for slot in ("{instruction}", "{response}") if slot not in text]
        if lacking:
            dropped = "the answer" if "{response}" in lacking else "the instruction"
            found.append(f"`{key}` has no {' and no '.join(lacking)}, so {dropped} would be dropped")
        elif text.count("{response}") > 1 or text.rstrip()[-len("{response}") :] != "{response}":
            found.append(f"`{key}` goes on after {{response}}, where the answer ends; let it end with {{response}}")
    if isinstance(task := values.get("task"), str) and "{type}" not in task:
        found.append("`task` has no {type}, so the types of the rows would be dropped")
    return found


def task_of(template: Template | None, wanted: str | None) -> str:
    """The instruction of rows that have a type. Raises ConfigError where it does not say the type."""
    task = wanted or (template.task if template is not None else None) or str(_packaged("alpaca_en").task)
    if "{type}" not in task:
        raise ConfigError(f"data.task={task}: has no {{type}}, so the types of the rows would be dropped")
    return task


def _packaged(name: str) -> Template:
    found = find_template(name)
    assert found is not None
    return found


def with_type(task: str, kind: str) -> str:
    """The instruction for a row of a type."""
    return _SLOT.sub(lambda found: kind if found[1] == "type" else found[0], task)
