"""Rows that a model is taught, token by token: what is trained in one colour, what is only read in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.text import Text

from expertchat.text.in_words import line
from expertchat.text.sentences import clean
from expertchat.views.console import console_on
from expertchat.views.words import counted

READ, TRAINED = "dim", "bold green"
BREAK = "⏎"


def print_rows(values: Mapping[str, Any], stream: TextIO | None = None) -> None:
    """The rows of `expertchat sft --show`. Without colours the trained part stands in ⟦ ⟧, and tokens are parted by ·."""
    console = console_on(stream)
    counts = values["counts"]
    choosing = f"{counted(counts['choosing'], 'row')} to choose the round by, " if counts["choosing"] else ""
    console.print(Text(f"{line(values['model'])}, template {line(values['template'])}: {counted(counts['train'], 'row')} to train on, "
                       f"{choosing}{counted(counts['evaluation'], 'row')} held out", style="bold"), soft_wrap=True)  # fmt: skip
    console.print(Text(f"{values['trained']:,} of {values['tokens']:,} tokens are trained", style="dim"), soft_wrap=True)
    console.print(Text.assemble(("read", READ), " ", ("trained", TRAINED), "   a token ends at ·"))
    for row in values["rows"]:
        console.print()
        part = "held out: never trained" if row["part"] == "evaluation" else "to train on"
        cut = f", cut: {counted(row['cut'], 'token')} left away" if row["cut"] else ""
        ends = "" if row["ended"] else ", without a token that ends it"
        console.print(Text(f"{line(row['id'])} ({line(row['source'])}), {part}{cut}{ends}", style="cyan"), soft_wrap=True)
        console.print(tokens(row["tokens"], coloured=console.color_system is not None), soft_wrap=True)
    for warning in values["warnings"]:
        console.print(Text(f"\nwarning: {clean(warning)}", style="bold red"), soft_wrap=True)


def tokens(found: Sequence[tuple[str, bool]], coloured: bool) -> Text:
    """Tokens in a row; line ends are shown and made."""
    text, before = Text(), False
    for said, is_trained in found:
        if not coloured and is_trained != before:
            text.append("⟦" if is_trained else "⟧")
        before = is_trained
        shown = clean(said).replace("\n", f"{BREAK}\n")
        text.append(shown, TRAINED if is_trained else READ).append("·" if said else "", "dim")
    return text.append("⟧") if before and not coloured else text
