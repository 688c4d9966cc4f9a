"""Where a server that `expertchat serve` has started can be asked: a file in its run folder, which others name in the place of an address.

It is written when the server answers and taken away when it stops. A server that begins again elsewhere, as a job does that was requeued,
writes it anew. The folder of an array holds one for each of its tasks. No key is in it.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expertchat.config import ConfigError
from expertchat.folder.jsonl import read_json
from expertchat.folder.lock import is_running
from expertchat.folder.writing import replace

FILE = "address.json"
ADDRESS = re.compile(r"https?://[^\s/]+(/\S*)?")
LOOK = 0.2  # seconds between two looks for a server that is not there yet


class Address(NamedTuple):
    """A server: what is put before /chat/completions, what it calls its model, and who runs it where."""

    url: str
    model: str
    host: str
    pid: int
    job: str = ""


def write_address(folder: Path, address: Address) -> None:
    """Let others find it. Raises OSError."""
    values: dict[str, Any] = {"schema": 1, **address._asdict(), "time": round(time.time(), 3)}
    replace(folder / FILE, json.dumps(values, indent=1) + "\n", sync=True)


def remove_address(folder: Path) -> None:
    """Nobody is to look for it any more."""
    (folder / FILE).unlink(missing_ok=True)


def is_folder(word: str) -> bool:
    """Whether a word names a server's folder, and not its address: it has a slash, or is there.

    >>> is_folder("http://host:8000/v1"), is_folder("runs/mixtral"), is_folder("here")
    (False, True, False)
    """
    return "://" not in word and ("/" in word or Path(word).expanduser().is_dir())


def addresses(folder: Path) -> list[Address]:
    """The servers of a folder: its own, and those of an array's tasks. A file that is damaged, or of a process that was killed on this
    machine, counts as none."""
    files = [folder / FILE, *sorted(folder.glob(f"task-*/{FILE}"), key=lambda path: (len(path.parent.name), path.parent.name))]
    found = (_address(read_json(path)) for path in files)
    return [one for one in found if one is not None and (one.host != socket.gethostname() or is_running(one.pid))]


def _address(values: dict[str, Any] | None) -> Address | None:
    """What a file says, where that may be an address."""
    url = (values or {}).get("url")
    if values is None or not isinstance(url, str) or not ADDRESS.fullmatch(url):
        return None
    pid, said = values.get("pid"), {name: str(values.get(name, "")) for name in ("model", "host", "job")}
    return Address(url, said["model"], said["host"], pid if isinstance(pid, int) else 0, said["job"])


def places_of(url: Sequence[str] | str | None) -> list[str]:
    """What stands in a config as url: nothing, one address or folder, or several that serve the same."""
    return [url] if isinstance(url, str) else list(url or [])


def urls_of(words: Sequence[str]) -> list[str]:
    """The addresses that `words` name now, those of folders among them; each once."""
    found: list[str] = []
    for word in words:
        found += [one.url for one in addresses(Path(word).expanduser())] if is_folder(word) else [word]
    return list(dict.fromkeys(url.rstrip("/") for url in found))


def wait_for_urls(words: Sequence[str], seconds: float) -> list[str]:
    """The same, at least one. Raises ConfigError where there is none after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := urls_of(words)):
        if time.monotonic() >= end:
            folders = [word for word in words if is_folder(word)]
            raise ConfigError(
                f"no server has written its address into {' or '.join(folders)} (as {FILE}; waited for {seconds:.0f} s: server.wait); "
                f"start one there: expertchat serve MODEL run.dir={folders[0]}"
            )
        time.sleep(LOOK)
    return found


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])
