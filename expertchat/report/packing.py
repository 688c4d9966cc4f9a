"""Transcripts packed for a page: a list of lines, and blocks of texts that are unpacked one by one when they are read."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from expertchat.report.transcripts import Talk

BLOCK = 96 << 10  # characters that are packed together: like texts pack better together, and a block is unpacked in a millisecond


@dataclass
class Pack:
    """What one file has of them: `lines` of the list, each with its block and its place in it, and the blocks."""

    lines: list[list[Any]] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)
    size: int = 0  # characters of the blocks

    def parts(self) -> Iterator[tuple[str, str]]:
        """All that is packed, by name."""
        yield "index", pack(self.lines)
        yield from ((f"block-{n}", block) for n, block in enumerate(self.blocks))


def packs(talks: Iterable[Talk], largest: int) -> list[Pack]:
    """All of them, in as many packs as are needed so that none is much larger than `largest` characters; at least one."""
    found, waiting, length = [Pack()], list[Any](), 0
    for talk in talks:
        if found[-1].size > largest:
            found.append(Pack())
        waiting.append(talk.body)
        found[-1].lines.append([*talk.line(), len(found[-1].blocks), len(waiting) - 1])
        length += len(json.dumps(talk.body))
        if length > BLOCK:
            _close(found[-1], waiting)
            waiting, length = [], 0
    if waiting:
        _close(found[-1], waiting)
    return found


def _close(made: Pack, waiting: list[Any]) -> None:
    made.blocks.append(pack(waiting))
    made.size += len(made.blocks[-1])


def pack(values: object) -> str:
    """Values as zlib's JSON in letters of base64, which no page mistakes for markup."""
    return base64.b64encode(zlib.compress(json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"), 9)).decode()
