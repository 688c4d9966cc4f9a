"""A conversation as a file: JSON lines, which sft takes as rows, or Markdown to be read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError
from expertchat.folder.writing import write_out
from expertchat.prompting.talk import Exchange, drawn
from expertchat.records import Message

FORMS = (".jsonl", ".md")


def saved(name: str, exchanges: Sequence[Exchange], system: str, model: str) -> str:
    """Write a conversation; returns what is said of it. Raises ConfigError for another form, a file that is there, or nothing to write."""
    path = Path(name).expanduser()
    if path.suffix not in FORMS:
        raise ConfigError(f"/save {name}: must end in {' or '.join(FORMS)}")
    if path.exists():
        raise ConfigError(f"/save {name}: is there already; name another file")
    if not exchanges:
        raise ConfigError(f"/save {name}: nothing was said yet")
    if path.suffix == ".md":
        text = markdown(exchanges, system, model)
    else:
        text = "".join(json.dumps(row(one, model), ensure_ascii=False) + "\n" for one in exchanges)
    write_out(f"/save {name}", path, text)
    return f"{len(exchanges)} exchange{'' if len(exchanges) == 1 else 's'} in {name}"


def row(one: Exchange, model: str) -> dict[str, Any]:
    """An exchange as a row of prompt and completion, with how the answer came about."""
    told = one.completion
    messages = [Message("user", one.prompt)] if one.worded else one.messages
    return {
        "prompt": [{"role": message.role, "content": message.content} for message in messages],
        "completion": [{"role": "assistant", "content": one.text}],
        "rendered": one.messages[-1].content if one.worded and one.messages else None,
        "thinking": one.thinking or None, "model": model, "trained": one.trained, "drawn": drawn(one.decoding),
        "draw": one.draw, "tokens": told.tokens if told else None, "finish": told.finish if told else "stopped",
    }  # fmt: skip


def markdown(exchanges: Sequence[Exchange], system: str, model: str) -> str:
    """The conversation to be read: what was said stands in quotes, so that no line of it is a heading or a link of the file's own."""
    parts = [f"# A talk with {_plain(model)}", *([f"System text:\n\n{_quoted(system)}"] if system else [])]
    for one in exchanges:
        parts += [f"**Prompt**\n\n{_quoted(one.prompt)}", f"**Answer** ({drawn(one.decoding)}; {one.remark})\n\n{_quoted(one.text)}"]
    return "\n\n".join(parts) + "\n"


def _quoted(text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in _ticks(text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _ticks(text: str) -> list[str]:
    return ["`" * len(run) for run in "".join(c if c == "`" else " " for c in text).split()]


def _plain(text: str) -> str:
    return "".join(c if c.isalnum() or c in " :+-_./()" else " " for c in text)
