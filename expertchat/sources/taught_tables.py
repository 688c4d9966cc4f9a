"""Rows to teach out of a table: prompt and completion, messages, an instruction with its output, or a context's question of a type."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, cast

from pydantic import ValidationError

from expertchat.config import ConfigError
from expertchat.records import Demonstration
from expertchat.sources.encoding import Say, named
from expertchat.sources.rows import Row, Table, is_chat, number_cell, texts_of
from expertchat.sources.teaching import DataConfig, TaughtColumns
from expertchat.sources.wording import Wording
from expertchat.text.likeness import blank
from expertchat.text.sentences import first_line

USUAL: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "query", "question", "frage", "user"),
    "completion": ("completion", "response", "answer", "reply", "antwort", "assistant"),
    "messages": ("messages", "conversation", "conversations"),
    "instruction": ("instruction", "anweisung"),
    "input": ("input", "eingabe"),
    "output": ("output", "response", "completion", "answer", "antwort"),
    "context": ("context", "kontext", "passage"),
    "question": ("question", "frage"),
    "type": ("type", "typ", "question_type", "fragetyp", "category", "kategorie"),
    "part": ("part", "split"),
    "group": ("group", "topic"),
    "score": ("score",),
}
FORMS: dict[str, tuple[str, ...]] = {  # what a row of each form must have, the most telling form first
    "messages": ("messages",),
    "typed": ("context", "question", "type"),
    "instruction": ("instruction", "output"),
    "pair": ("prompt", "completion"),
}
PARTS = {"train": "train", "training": "train", "choosing": "choosing", "evaluation": "evaluation", "eval": "evaluation",
         "test": "evaluation", "validation": "evaluation", "dev": "evaluation"}  # fmt: skip
Part = Literal["train", "choosing", "evaluation"]


def taught_rows(table: Table, config: DataConfig, wording: Wording, say: Say) -> list[Demonstration]:
    """The rows of a table in their order. Raises ConfigError for columns that are not there and for rows that hold nothing."""
    form, columns = _form(table, config.columns)
    shown = ", ".join(f"{key} {column}" for key, column in columns.items())
    say(f"{table.name}: {len(table.rows)} row{'' if len(table.rows) == 1 else 's'}, {shown}; others: data.columns.KEY=NAME")
    return _Maker(table, form, columns, wording).rows()


def _form(table: Table, wanted: TaughtColumns) -> tuple[str, dict[str, str]]:
    """Which form the rows have, and its columns. Raises ConfigError."""
    there = {name.casefold().strip().replace(" ", "_"): name for name in reversed(table.columns)}
    found, problems = dict[str, str](), []
    for key, usual in USUAL.items():
        own = getattr(wanted, key)
        if own is not None and own not in table.columns:
            problems.append(f"data.columns.{key}={own}: {table.name} has no such column")
        column = own or next((there[name] for name in usual if name in there), None)
        if column is not None:
            found[key] = column
    named_keys = {key for key in USUAL if getattr(wanted, key) is not None}
    form = max(
        (form for form, needs in FORMS.items() if found.keys() >= set(needs)),
        key=lambda form: len(named_keys.intersection(FORMS[form])), default=None,
    )  # fmt: skip
    if form is None:
        problems.append(
            f"{table.name}: there are no columns of a prompt and its completion; name them, data.columns.prompt=NAME "
            "data.columns.completion=NAME, or messages; or instruction and output; or context, question and type"
        )
    if problems:
        columns = ", ".join(repr(name[:40]) for name in table.columns[:30])
        raise ConfigError([f"data.path: {problem} (the columns are {columns})" for problem in problems])
    assert form is not None
    keys = [*FORMS[form], *(["input"] if form == "instruction" else []), "part", "group", "score"]
    chosen = {key: found[key] for key in keys if key in found}
    return form, {key: column for key, column in chosen.items() if key in FORMS[form] or column not in _taken(chosen, form)}


def _taken(chosen: Mapping[str, str], form: str) -> set[str]:
    return {chosen[key] for key in FORMS[form]}


class _Exchange(NamedTuple):
    """A row taken apart: what stands before the reply, and the reply."""

    prompt: list[dict[str, str]] | str
    reply: str


class _Maker:
    """Makes the rows of one table, and gathers what is wrong with them."""

    def __init__(self, table: Table, form: str, columns: Mapping[str, str], wording: Wording) -> None:
        self.table, self.form, self.columns, self.wording = table, form, columns, wording
        self.faults: dict[str, list[int]] = defaultdict(list)

    def rows(self) -> list[Demonstration]:
        """All rows. Raises ConfigError that names the wrong ones."""
        found = [made for row in self.table.rows for made in self._of(row)]
        if self.faults:
            word = self.table.word
            raise ConfigError([f"data.path: {self.table.name}: {named(rows, word)} {fault}" for fault, rows in self.faults.items()])
        return found

    def _of(self, row: Row) -> Iterator[Demonstration]:
        if {"schema", "completion", "prompt"} <= row.cells.keys():
            yield from self._kept(row)
        elif self.form == "messages":
            yield from self._chat(row)
        else:
            yield from self._single(row)

    def _kept(self, row: Row) -> Iterator[Demonstration]:
        """A demonstration as another command has written it; its prompt stands as it was worded there."""
        try:
            yield Demonstration.model_validate({key: value for key, value in row.cells.items() if value is not None})
        except ValidationError as error:
            self.faults[f"is no demonstration of this version ({first_line(error)})"].append(row.number)

    def _single(self, row: Row) -> Iterator[Demonstration]:
        name, source = f"{self.table.word[0]}{row.number:05d}", f"{self.table.name}:{row.number}"
        if self.form == "typed":
            context, answer, kind = (self._text(row, key) for key in ("context", "question", "type"))
            if context and answer and kind:
                alike = hashlib.sha256(context.encode("utf-8", "replace")).hexdigest()[:12]
                made = self.wording.row(name, self.wording.task(kind), context, answer, source=source, **self._more(row, alike))
                yield made.model_copy(update={"provenance": {"type": kind}})
            return
        if self.form == "instruction":
            instruction, answer = self._text(row, "instruction"), self._text(row, "output")
            given = row.cells.get(self.columns["input"]) if "input" in self.columns else None
            if instruction and answer:
                yield self.wording.row(name, instruction, str(given or "").strip(), answer, source=source, **self._more(row))
            return
        exchange = self._exchange(row)
        if exchange is None:
            return
        if isinstance(exchange.prompt, str):
            yield self.wording.row(name, exchange.prompt, "", exchange.reply, source=source, **self._more(row))
        else:
            yield self._of_messages(name, exchange.prompt, exchange.reply, source, self._more(row))

    def _exchange(self, row: Row) -> _Exchange | None:
        prompt, completion = row.cells.get(self.columns["prompt"]), row.cells.get(self.columns["completion"])
        if is_chat(completion):
            said = [text for role, text in texts_of(completion) if role == "assistant"]
            completion = said[0] if len(said) == 1 and len(list(texts_of(completion))) == 1 else None
            if completion is None:
                self.faults["have a completion that is not one message of the assistant"].append(row.number)
                return None
        elif (completion := self._text(row, "completion")) is None:
            return None
        if is_chat(prompt):
            return _Exchange([{"role": role, "content": text} for role, text in texts_of(prompt)], str(completion))
        text = self._text(row, "prompt", strip=False)
        return None if text is None else _Exchange(text, str(completion))

    def _chat(self, row: Row) -> Iterator[Demonstration]:
        """A row for every reply of the assistant, with all that was said before it."""
        value = row.cells.get(self.columns["messages"])
        if not is_chat(value):
            self.faults["hold no messages ([{role: ..., content: ...}, ...])"].append(row.number)
            return
        messages = [{"role": role, "content": text} for role, text in texts_of(value)]
        replies = [at for at, one in enumerate(messages) if one["role"] == "assistant" and at]
        if not replies:
            self.faults["hold no reply of an assistant to anything"].append(row.number)
            return
        name = f"{self.table.word[0]}{row.number:05d}"
        for at in replies:
            if blank(messages[at]["content"]):
                self.faults["have a reply that says nothing"].append(row.number)
                return
            more = self._more(row, name)
            own = name if len(replies) == 1 else f"{name}/{at}"
            yield self._of_messages(own, messages[:at], messages[at]["content"], f"{self.table.name}:{row.number}", more)

    def _of_messages(self, name: str, prompt: list[dict[str, str]], reply: str, source: str, more: Mapping[str, Any]) -> Demonstration:
        system = self.wording.config.system
        if system and prompt[0]["role"] != "system":
            prompt = [{"role": "system", "content": system}, *prompt]
        return Demonstration(
            id=name, prompt=prompt, completion=[{"role": "assistant", "content": reply}], source=source, group=more["group"],
            part=more["part"] or "train", score=more["score"],
        )  # fmt: skip

    def _text(self, row: Row, key: str, strip: bool = True) -> str | None:
        """A cell's text; None, with the fault noted, where it says nothing."""
        value = row.cells.get(self.columns[key])
        if value is None or isinstance(value, list | dict) or not str(value).strip():
            self.faults[f"have nothing in {self.columns[key]!r}"].append(row.number)
            return None
        return str(value).strip() if strip else str(value)

    def _more(self, row: Row, group: str = "") -> dict[str, Any]:
        """Part, group and score, where there are such columns."""
        part: Part | None = None
        if "part" in self.columns and (said := row.cells.get(self.columns["part"])) is not None:
            part = cast(Part | None, PARTS.get(str(said).casefold().strip()))
            if part is None:
                self.faults[f"have a {self.columns['part']!r} that is none of {', '.join(PARTS)}"].append(row.number)
        own = row.cells.get(self.columns["group"]) if "group" in self.columns else None
        score = row.cells.get(self.columns["score"]) if "score" in self.columns else None
        return {"part": part, "group": str(own) if own is not None else group, "score": number_cell(score)}
