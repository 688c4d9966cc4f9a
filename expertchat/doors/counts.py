"""`expertchat counts FILE.yaml [--out FILE.json|.md]`: what counts and shares that others have reported can carry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from expertchat.config import ConfigError

USAGE = """usage: expertchat counts FILE.yaml [--out FILE.json|FILE.md]

  FILE.yaml   what was reported: chosen (how often each text was chosen, in the order shown), shares (a share of n), differences
  --out FILE  the table as a file, too

Each figure gets its 95 % interval, the probability that chance alone gives one so far from even, and the least difference that so many
answers would have shown in four of five such studies. Several questions asked of one study count together (Holm)."""
OUT = "--out"
ENDINGS = (".json", ".md")


def run(arguments: Sequence[str]) -> int:
    """The table of one file."""
    import json

    from expertchat.audit.reported import read_reported, weighed
    from expertchat.folder.writing import write_out
    from expertchat.views.counts import markdown, print_counts

    if {"--help", "-h"} & set(arguments):
        print(USAGE)
        return 0
    out = _out(arguments)
    files = [word for i, word in enumerate(arguments) if word != OUT and (not i or arguments[i - 1] != OUT)]
    odd = [f"{word}: there is no such flag; --out and --help are all" for word in files if word.startswith("-")]
    if len(files) != 1 and not odd:
        odd = ["name one file of what was reported: expertchat counts FILE.yaml"]
    if out is not None and out.suffix not in ENDINGS:
        odd.append(f"--out {out}: is written as {' or '.join(ENDINGS)}; name such a file")
    if odd:
        raise ConfigError(odd)
    values = weighed(read_reported(Path(files[0]).expanduser()))
    if out is not None:
        write_out(OUT, out, json.dumps(values, indent=1) + "\n" if out.suffix == ".json" else markdown(values))
    print_counts(values)
    return 0


def _out(arguments: Sequence[str]) -> Path | None:
    """The file that --out names. Raises ConfigError where it names none."""
    if OUT not in arguments:
        return None
    at = list(arguments).index(OUT) + 1
    if at >= len(arguments):
        raise ConfigError("--out: names no file; write --out FILE.json")
    return Path(arguments[at]).expanduser()
