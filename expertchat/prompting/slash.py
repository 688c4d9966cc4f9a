"""What begins with / at the prompt: the orders that there are, and how their words are read."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pydantic import ValidationError

from expertchat.backends.base import Decoding
from expertchat.config import ConfigError, DecodingConfig, near


class Order(NamedTuple):
    """`usage`: how it is typed; `about`: what it does."""

    name: str
    usage: str
    about: str


ORDERS = (
    Order("help", "/help", "these lines"),
    Order("greedy", "/greedy", "always the likeliest token"),
    Order("sample", "/sample T=0.7 top_p=0.9 top_k=0 min_p=0", "drawn at a temperature; what is not named stays"),
    Order("beam", "/beam 5", "beam search over so many beams: the likeliest text"),
    Order("contrastive", "/contrastive alpha=0.6 k=4", "contrastive search: fluent without loops"),
    Order("max", "/max 200", "tokens of an answer at most"),
    Order("no_repeat", "/no_repeat 3", "no run of so many tokens comes twice in prompt and answer; 0: any may"),
    Order("stop", '/stop "###" "User:"', "an answer ends before the first of these; /stop alone: before none"),
    Order("system", "/system TEXT", "the text that stands before everything; /system alone takes it away"),
    Order("trained", "/trained on | off | both", "as a run has trained the model, or as it was before; both: the last prompt by each"),
    Order("again", "/again", "another answer to the last prompt"),
    Order("undo", "/undo", "take the last prompt and its answer back"),
    Order("reset", "/reset", "begin a new conversation"),
    Order("tokens", "/tokens [N]", "how likely each token of the last answer was, with a table of the N least likely"),
    Order("show", "/show", "the model, how it draws, and what it is shown"),
    Order("save", "/save FILE.jsonl | FILE.md", "the conversation as a file"),
    Order("quit", "/quit", "leave; so does Ctrl-D. Ctrl-C stops an answer"),
)
SAID = {"T": "temperature", "t": "temperature", "temp": "temperature", "alpha": "penalty_alpha", "k": "top_k", "n": "beams"}
OF = {"sample": ("temperature", "top_p", "top_k", "min_p"), "beam": ("beams",), "contrastive": ("penalty_alpha", "top_k"), "greedy": ()}
METHODS = {"sample": "sampling", "beam": "beam", "contrastive": "contrastive", "greedy": "greedy"}
ALONE = {"sample": "temperature", "beam": "beams"}  # what a number without a name means


def read(line: str) -> tuple[str, str]:
    """The order that a line names, and the rest of the line. Raises ConfigError for one that there is not.

    >>> read("/beam 5"), read("/sys Be short."), read("/exit")
    (('beam', '5'), ('system', 'Be short.'), ('quit', ''))
    """
    word, _, rest = line[1:].strip().partition(" ")
    word, names = word.lower().replace("-", "_"), [order.name for order in ORDERS]
    found = {"exit": "quit", "q": "quit", "?": "help", "sampling": "sample", "norepeat": "no_repeat"}.get(word, word)
    begun = [name for name in names if name.startswith(found)] if found else []
    if found not in names and len(begun) != 1:
        which = f"; is it {' or '.join(f'/{name}' for name in begun)}?" if begun else near(found, names) or "; /help shows what there is"
        raise ConfigError(f"/{word}: there is no such order{which}")
    return found if found in names else begun[0], rest.strip()


def decoded(name: str, rest: str, before: Decoding) -> Decoding:
    """How answers are drawn after /sample, /beam, /contrastive, /greedy, /max, /no_repeat or /stop. Raises ConfigError."""
    if name == "max":
        return replace(before, max_new_tokens=whole(name, rest, least=1))
    if name == "no_repeat":
        return replace(before, no_repeat_ngram=whole(name, rest, least=0))
    if name == "stop":
        return replace(before, stop=tuple(one.replace("\\n", "\n").replace("\\t", "\t") for one in parts(name, rest) if one))
    given: dict[str, Any] = {}
    for word in parts(name, rest):
        key, equals, value = word.rpartition("=")
        key = SAID.get(key, key) if equals else ALONE.get(name, "")
        if key not in OF[name]:
            known = ", ".join(OF[name]) or "no word"
            raise ConfigError(f"/{name} {word}: takes {known}, as {next(order.usage for order in ORDERS if order.name == name)}")
        given[key] = number(f"/{name} {word}", value, whole=key in ("top_k", "beams"))
    if name == "contrastive" and before.method != "contrastive":
        given = {"top_k": 4, "penalty_alpha": 0.6} | given
    if name == "sample" and before.method == "contrastive":
        given = {"top_k": 0} | given
    kept = {"max_new_tokens": before.max_new_tokens, "no_repeat_ngram": before.no_repeat_ngram}
    values = {key: getattr(before, key) for keys in OF.values() for key in keys} | given | kept | {"method": METHODS[name]}
    try:
        checked = DecodingConfig.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        raise ConfigError(f"/{name} {rest}: {'.'.join(map(str, found['loc']))}: {found['msg'].removeprefix('Value error, ')}") from None
    return Decoding(**checked.model_dump(exclude={"stop"}), stop=before.stop)


def parts(name: str, rest: str) -> list[str]:
    """The words of an order, those in quotes as one. Raises ConfigError."""
    try:
        return shlex.split(rest)
    except ValueError as error:
        raise ConfigError(f"/{name} {rest}: {str(error).lower()}; close the quotes") from None


def number(said: str, value: str, whole: bool) -> float | int:
    """A number as it is typed, .05 or 5. Raises ConfigError."""
    try:
        return int(value) if whole else float(value)
    except ValueError:
        raise ConfigError(f"{said}: '{value}' is no {'whole ' if whole else ''}number") from None


def whole(name: str, rest: str, least: int, missing: int | None = None) -> int:
    """The one whole number of an order. Raises ConfigError."""
    if not rest and missing is not None:
        return missing
    if not rest:
        raise ConfigError(f"/{name}: name a number, as {next(order.usage for order in ORDERS if order.name == name)}")
    found = int(number(f"/{name} {rest}", rest, whole=True))
    if found < least:
        raise ConfigError(f"/{name} {rest}: must be {least} or more")
    return found


def one_of(name: str, rest: str, known: Sequence[str]) -> str:
    """The one word of an order. Raises ConfigError."""
    if rest not in known:
        raise ConfigError(f"/{name} {rest}".rstrip() + f": takes {', '.join(known[:-1])} or {known[-1]}")
    return rest
