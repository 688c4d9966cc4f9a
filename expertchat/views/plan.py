"""How a plan looks: every GPU as a bar, a table of the same in numbers, and planned against measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.table import Table
from rich.text import Text

from expertchat.text.sentences import clean
from expertchat.views.console import WIDTH, open_console
from expertchat.views.looks import indented

GIB = 2**30
Look = tuple[str, str, str]
# Letter, style and short name of each segment; the letters tell them apart where there are no colours. Experts of other names than a and
# b have what looks_of gives them.
MORE = ("bright_green", "bright_cyan", "bright_magenta", "red")
LOOKS: dict[str, Look] = {
    "weights a": ("a", "black on cyan", "weights a"),
    "weights b": ("b", "black on magenta", "weights b"),
    "weights third": ("t", "black on green", "weights third"),
    "embedder": ("e", "black on blue", "embedder"),
    "LoRA + optimizer": ("l", "black on yellow", "LoRA, Adam"),
    "KV cache": ("k", "black on bright_blue", "KV cache"),
    "activations": ("x", "black on bright_yellow", "activ. + logits"),
    "reserve": ("r", "black on bright_black", "reserve"),
    "free": ("·", "dim", "free"),
}


def looks_of(gpus: Sequence[Mapping[str, Any]]) -> dict[str, Look]:
    """LOOKS, and between them those of the weights of further experts: a letter of the name that nobody else has."""
    looks = list(LOOKS.items())
    letters = {letter for letter, _, _ in LOOKS.values()}
    further: dict[str, Look] = {}
    for name in dict.fromkeys(name for gpu in gpus for name in gpu["segments"] if name not in LOOKS):
        letter = next((c for c in f"{name.removeprefix('weights ')}123456789" if c not in letters), "?")
        letters.add(letter)
        further[name] = letter, f"black on {MORE[len(further) % len(MORE)]}", name
    return {**dict(looks[:2]), **further, **dict(looks[2:])}


def print_plan(plan: Mapping[str, Any], stream: TextIO | None = None) -> None:
    """The picture, the table and the verdict of a plan (expertchat.plan.values.as_dict)."""
    console = open_console(stream)
    console.print()
    for line in about(plan):
        console.print(line)
    console.print()
    console.print(indented(picture(plan["gpus"], console.width - 2)))
    console.print(indented(legend(plan["gpus"]), above=1))
    console.print(indented(table(plan["gpus"], console.width), above=1))
    console.print(verdict(plan))
    if "server" in plan:
        console.print(Text(f"  {clean(plan['server']['told'])} (an estimate: vLLM measures when it starts)"))


def gib(size: float) -> str:
    """ "5.31"; small figures keep two digits that say something."""
    value = size / GIB
    return f"{value:.2f}" if abs(value) >= 0.1 or size == 0 else f"{value:.2g}"


def size(count: float) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"


def about(plan: Mapping[str, Any]) -> list[Text]:
    """What is planned, a line for each model and one for the work."""
    lines, looks = [], looks_of(plan["gpus"])
    for owner, model in plan["models"].items():
        bits = "" if model["quantization"] == "none" else f"{model['quantization']}, "
        facts = f"{model['parameters'] / 1e9:.2f} B, {bits}{model['dtype']}, {size(plan['bytes'][owner]['weights'])}"
        if model.get("unpacking"):
            facts += f"; to unpack its GGUF file, once: {size(model['unpacking'])} of main memory"
        lines.append(Text.assemble((f"  {owner:<9}", looks.get(f"weights {owner}", ("", "", ""))[1].replace("black on ", "")),
                                   f"{clean(model['name'])}  ", (facts, "dim")))  # fmt: skip
    if "embedder" in plan["bytes"]:
        lines.append(Text.assemble(("  embedder ", "blue"), (f"fp32, {size(plan['bytes']['embedder']['weights'])}", "dim")))
    work = f"  {plan['conversations']} conversation{'s' if plan['conversations'] != 1 else ''} of up to {plan['tokens']} tokens at once"
    training = plan["training"]
    if training:
        lora, pairs = training["lora"], training["pairs"]
        work += (
            f"; DPO of {training['owner']} with LoRA r{lora['rank']} ({lora['targets']}), "
            f"{pairs} pair{'s' if pairs != 1 else ''} of {training['tokens']} tokens"
        )
    return [*lines, Text(work)]


def picture(gpus: Sequence[Mapping[str, Any]], width: int) -> Table:
    """One bar a GPU, its length in proportion to its size."""
    grid = Table.grid(padding=(0, 1))
    largest, looks = max(gpu["size"] for gpu in gpus), looks_of(gpus)
    cells = max(10, min(width, 120) - 29)
    for i, gpu in enumerate(gpus):
        free = gpu["segments"]["free"]
        room = Text(f"{gib(free)} free", "dim") if gpu["need"] <= gpu["capacity"] else Text(f"{gib(-free)} too much", "bold red")
        grid.add_row(Text(f"GPU {i}"), Text(f"{gib(gpu['size'])}"), bar(gpu, max(5, round(cells * gpu["size"] / largest)), looks), room)
    return grid


def legend(gpus: Sequence[Mapping[str, Any]]) -> Columns:
    """The letters and colours of the segments that there are."""
    used = [look for name, look in looks_of(gpus).items() if any(gpu["segments"].get(name) for gpu in gpus)]
    return Columns([Text.assemble((f" {letter} ", style), f" {name}") for letter, style, name in used], padding=(0, 2))


def bar(gpu: Mapping[str, Any], cells: int, looks: Mapping[str, Look] = LOOKS) -> Text:
    """`cells` characters; what is not zero has at least one, and what does not fit pushes the free part out."""
    segments = {name: amount for name, amount in gpu["segments"].items() if name != "free" and amount > 0}
    whole = max(gpu["size"], sum(segments.values()))
    letters: list[str] = []
    for name, amount in segments.items():
        letters += [name] * max(1, round(cells * amount / whole))
    letters = (letters + ["free"] * cells)[:cells]
    return Text.assemble(*((looks[name][0] * len(list(run)), looks[name][1]) for name, run in groupby(letters)))


def table(gpus: Sequence[Mapping[str, Any]], width: int = WIDTH) -> Table:
    """GiB of each part on each GPU in its larger phase; on a narrow screen under the letters of the legend."""
    looks = looks_of(gpus)
    used = [name for name in looks if name == "free" or any(gpu["segments"].get(name) for gpu in gpus)]
    out = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    out.add_column("GPU")
    out.add_column("layers")
    for name in used:
        letter, _, title = looks[name]
        head = title.replace(" ", "\n", 1) if width >= 96 or name == "free" else letter
        out.add_column(head, justify="right", vertical="bottom")
    out.add_column("peak\nwhile", vertical="bottom")
    for i, gpu in enumerate(gpus):
        holds = "\n".join(owner if owner == "embedder" else f"{owner} {layers}" for owner, layers in gpu["holds"].items())
        row = [gib(gpu["segments"].get(name, 0)) if gpu["segments"].get(name) else "" for name in used]
        out.add_row(str(i), holds, *row, gpu["phase"])
    if len(gpus) > 1:
        sums = [sum(gpu["segments"].get(name, 0) for gpu in gpus) for name in used]
        out.add_section()
        out.add_row("sum", "", *(gib(total) for total in sums), "")
    return out


def verdict(plan: Mapping[str, Any]) -> Text:
    """Whether it fits, and the largest batch that does; the remedies where it does not."""
    if plan["fits"]:
        return Text.assemble(("  fits", "bold green"), f": up to {plan['largest_conversations']} conversations at once")
    most = plan["largest_conversations"]
    more = f"up to {most} conversations would" if most else "not even one conversation would"
    return Text.assemble(("  does not fit", "bold red"), f": {more}")


def print_measured(rows: Sequence[Mapping[str, Any]], notes: Sequence[str], stream: TextIO | None = None) -> None:
    """Planned against measured, a line for each part."""
    console = open_console(stream)
    out = Table(box=SIMPLE_HEAD, pad_edge=False, title="planned against measured", title_justify="left")
    for name, side in (("model", "left"), ("part", "left"), ("planned", "right"), ("measured", "right"), ("", "right")):
        out.add_column(name, justify=side)  # type: ignore[arg-type]
    before = ""
    for row in rows:
        if row["model"] != before and before:
            out.add_section()
        off = (row["planned"] - row["measured"]) / row["measured"] if row["measured"] else 0.0
        style = "green" if abs(off) <= 0.05 else "yellow"
        shown = row["model"] if row["model"] != before else ""
        out.add_row(clean(shown), row["part"], size(row["planned"]), size(row["measured"]), Text(f"{off:+.1%}", style))
        before = row["model"]
    console.print()
    console.print(indented(out))
    for note in notes:
        console.print(Text(f"  {clean(note)}", "dim"))
