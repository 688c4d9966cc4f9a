"""How the list of models looks: what is here, where and whether it is whole, and the commands that fetch the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from expertchat.text.sentences import clean
from expertchat.views.console import open_console
from expertchat.views.looks import indented
from expertchat.views.plan import size

STATES = {"complete": ("complete", "green"), "broken": ("broken", "bold red"), "missing": ("not here", "dim"),
          "served": ("asked elsewhere", "dim")}  # fmt: skip


def print_models(values: Mapping[str, Any], stream: TextIO | None = None) -> None:
    """The table, then what is broken, then how to get what is not here (expertchat.plan.models.run_models)."""
    console = open_console(stream)
    models = values["models"]
    out = Table(box=SIMPLE_HEAD, pad_edge=False)
    out.add_column("model", no_wrap=True)
    out.add_column("state", no_wrap=True)
    out.add_column("size", justify="right", no_wrap=True)
    out.add_column("where, or what it is", overflow="fold")
    for model in models:
        word, style = STATES[model["state"]]
        where = Text(clean(model["folder"])) if model["folder"] else Text(clean(model["about"] or model["path"]), "dim")
        out.add_row(clean(model["name"]), Text(word, style), size(model["size"]) if model["size"] else "", where)
    console.print()
    console.print(indented(out))
    for model in models:
        if model["problem"]:
            console.print(indented(Text.assemble((clean(model["name"]), "bold red"), f": {clean(model['problem'])}")))
    for model in models:
        if model.get("thinks"):
            console.print(indented(Text.assemble((clean(model["name"]), "bold"), f" {clean(model['thinks'])}")))
    if values["others"]:
        console.print(Text("  also in the folder of models (model@experts.a=auto experts.a.path=FOLDER):", "dim"))
        for folder in values["others"]:
            console.print(Text(f"    {clean(folder)}"), soft_wrap=True)
    wanted = [model for model in models if model["get"]]
    if wanted:
        if not values["models_dir"]:
            first = "Name a folder for models once: export EXPERTCHAT_MODELS=FOLDER (or models_dir=FOLDER)."
            console.print(indented(Text(first), above=1))
        console.print(indented(Text("To get what is not here, one of the lines (gated models need `hf auth login` first):")))
        for model in wanted:
            console.print(Text(f"\n  {clean(model['name'])}", "bold"))
            for command in model["get"]:
                console.print(Text(f"    {clean(command)}"), soft_wrap=True)
    console.print()
