"""How the list of models looks: what is here, where and whether it is whole, and the commands that fetch the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from expertchat.text.sentences import clean
from expertchat.views.plan import open_console, size

STATES = {"complete": ("complete", "green"), "broken": ("broken", "bold red"), "missing": ("not here", "dim")}


def print_models(values: Mapping[str, Any], stream: TextIO | None = None) -> None:
    """The table, then what is broken, then how to get what is not here (expertchat.plan.models.run_models)."""
    console = open_console(stream)
    models = values["models"]
    out = Table(box=SIMPLE_HEAD, pad_edge=False)
    out.add_column("model", no_wrap=True)
    out.add_column("state", no_wrap=True)
    out.add_column("size", justify="right", no_wrap=True)
    out.add_column("where, or what it is", overflow="fold")
    for one in models:
        word, style = STATES[one["state"]]
        where = Text(clean(one["folder"])) if one["folder"] else Text(clean(one["about"] or one["path"]), "dim")
        out.add_row(clean(one["name"]), Text(word, style), size(one["size"]) if one["size"] else "", where)
    console.print()
    console.print(Padding(out, (0, 0, 0, 2)))
    for one in models:
        if one["problem"]:
            said = Text.assemble((clean(one["name"]), "bold red"), f": {clean(one['problem'])}")
            console.print(Padding(said, (0, 0, 0, 2)))
    for one in models:
        if one.get("thinks"):
            console.print(Padding(Text.assemble((clean(one["name"]), "bold"), f" {clean(one['thinks'])}"), (0, 0, 0, 2)))
    if values["others"]:
        console.print(Text("  also in the folder of models (model@experts.a=auto experts.a.path=FOLDER):", "dim"))
        for folder in values["others"]:
            console.print(Text(f"    {clean(folder)}"), soft_wrap=True)
    wanted = [one for one in models if one["get"]]
    if wanted:
        if not values["models_dir"]:
            first = "Name a folder for models once: export EXPERTCHAT_MODELS=FOLDER (or models_dir=FOLDER)."
            console.print(Padding(Text(first), (1, 0, 0, 2)))
        console.print(Padding(Text("To get what is not here, one of the lines (gated models need `hf auth login` first):"), (0, 0, 0, 2)))
        for one in wanted:
            console.print(Text(f"\n  {clean(one['name'])}", "bold"))
            for command in one["get"]:
                console.print(Text(f"    {clean(command)}"), soft_wrap=True)
    console.print()
