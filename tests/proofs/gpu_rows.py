"""What the parts of the GPU's proof share: where their figures go."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


class TimeUp(Exception):
    """The part took too long."""


class LeftOut(Exception):
    """The part says why it cannot be run here."""


@dataclass
class Row:
    """A figure. `ok` None: it is measured and nothing is demanded of it."""

    what: str
    value: str
    wanted: str = ""
    ok: bool | None = None
    number: float | None = None


@dataclass
class Part:
    name: str
    status: str = "running"
    seconds: float = 0.0
    error: str = ""
    rows: list[Row] = field(default_factory=list)


@dataclass
class Proof:
    """What a part is given: the device, whether shapes are tiny, a folder for its files, and where its figures go."""

    device: str
    tiny: bool
    out: Path
    parts: list[Part] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    def row(self, what: str, value: Any, wanted: str = "", ok: bool | None = None) -> None:
        number = float(value) if isinstance(value, int | float) else None
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        self.parts[-1].rows.append(Row(what, text, wanted, ok, number))
        mark = {True: "ok", False: "SHORT", None: ""}[ok]
        print(f"  {what:<74} {text:>16} {wanted:>16} {mark}", flush=True)

    def at_most(self, what: str, value: float, limit: float) -> None:
        """A figure that must not exceed `limit`; not a number exceeds everything."""
        self.row(what, float(value), f"<= {limit:g}", bool(value <= limit))

    def equal(self, what: str, got: Sequence[Any], wanted: Sequence[Any]) -> None:
        """How many of some results are the same."""
        same = sum(one == other for one, other in zip(got, wanted, strict=True))
        self.row(what, f"{same} of {len(wanted)}", "all", same == len(wanted) > 0)

    def write(self) -> None:
        values = {"schema": 1, "tiny": self.tiny, "device": self.device, **self.about, "parts": [asdict(part) for part in self.parts]}
        (self.out / "gpu.json").write_text(json.dumps(values, indent=1) + "\n", "utf-8")


def clean() -> None:
    """Give back the memory of a part."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
