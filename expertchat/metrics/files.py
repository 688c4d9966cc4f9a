"""What measuring writes: whole files, renamed into place."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError
from expertchat.folder.writing import replace
from expertchat.text.sentences import writable


def write_file(key: str, path: str, text: str) -> None:
    """Write a file whole. Raises ConfigError, which names the key."""
    place = Path(path).expanduser()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        replace(place, writable(text))
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot be written ({error.strerror or error}); name another file") from None


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table with a head; what there is not is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
