"""`expertchat audit SOURCE ...`: read, lay out, show, and write what was asked for."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from expertchat.audit.config import AuditConfig
from expertchat.folder.writing import write_out
from expertchat.text.cells import csv_cell

Values = Mapping[str, Any]
Show = Callable[[Values], None]
Text = Callable[[Values], str]


def run_audit(config: AuditConfig, show: Show, markdown: Text, plot: Text) -> int:
    """Show the card; write it to `out` (as Markdown by `markdown`) and the ranking to `plot`, an SVG. Raises ConfigError."""
    from expertchat.audit.estimates import needs_lab

    needs_lab()
    from expertchat.audit.card import card_of
    from expertchat.audit.reading import read

    evidence = read(config)
    values = card_of(evidence, against=config.against, resamples=config.resamples, seed=config.seed, category=config.category).values()
    if config.out is not None:
        forms: dict[str, Text] = {".md": markdown, ".csv": as_csv, ".json": as_json}
        write_out(f"out={config.out}", config.out, forms[Path(config.out).suffix](values))
    if config.plot is not None:
        write_out(f"plot={config.plot}", config.plot, plot(values))
    show(values)
    return 0


def as_json(values: Values) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(values: Values) -> str:
    """A line for each judge and table (all, or disagreeing orders left out); of every figure its value, interval, n and flag."""
    out = io.StringIO()
    names = list(values["judges"][0]["figures"])
    parts = ("value", "low", "high", "n", "groups", "smallest", "flag")
    head = ["judge", "form", "wording", "model", "disagreeing", "asked", "n"]
    columns = [name if part == "value" else f"{name}_{part}" for name in names for part in parts]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*head, *columns])
    for table, said in (("judges", "ties"), ("left_out", "left out")):
        for one in values[table]:
            known = [*(csv_cell(one[key]) for key in ("judge", "form", "wording", "model")), said, one["asked"], one["n"]]
            writer.writerow([*known, *(one["figures"][name][part] for name in names for part in parts)])
    return out.getvalue()
