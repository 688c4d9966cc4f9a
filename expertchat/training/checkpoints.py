"""The checkpoints of a training run: a round's folder counts when DONE lies in it, and DONE says what else must."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError
from expertchat.folder.writing import replace, saving, sync_file
from expertchat.training.at_work import remove, round_folder, rounds_of

DONE = "DONE"
STATE = "state.json"
CHUNK = 1 << 22
AT_WORK = ("answers-", "bundles-")  # files that are written before and removed after


def checkpoints(run: Path) -> list[int]:
    """The rounds that have a checkpoint, the newest first."""
    return [number for number, folder in reversed(list(rounds_of(run))) if (folder / DONE).is_file()]


def last_round(run: Path) -> int:
    """The last round that has a checkpoint; 0 where there is none."""
    return next(iter(checkpoints(run)), 0)


def write_checkpoint(run: Path, number: int, state: Mapping[str, Any], write: Callable[[Path], None], keep: Sequence[int]) -> None:
    """Let `write` fill the round's folder; DONE, written last, makes it count. Older rounds but those of `keep` are removed.

    DONE holds the size and the checksum (CRC-32) of every file. Raises WriteError; the rounds before are then as they were.
    """
    folder = round_folder(run, number)
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / DONE).unlink(missing_ok=True)  # of a checkpoint that was found damaged
        for left in list(folder.rglob(".*")):  # what a start was writing when it was killed
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        write(folder)
        replace(folder / STATE, json.dumps(state, indent=2) + "\n")
        files = _files(folder)
        for name in files:
            sync_file(folder / name)
        told = {"round": number, "files": {name: _sums(folder / name) for name in files}}
        replace(folder / DONE, json.dumps(told, indent=1) + "\n", sync=True)
    with saving(run / "rounds"):
        remove(folder, "answers")
        for other, place in list(rounds_of(run)):
            if other < number:
                remove(place, "answers", "bundles")
                if other not in keep and place.exists():
                    (place / DONE).unlink(missing_ok=True)  # first: a folder that is half removed never counts
                    shutil.rmtree(place, ignore_errors=True)


def damage(run: Path, number: int) -> str | None:
    """What is wrong with a round's checkpoint: which file, and how; None where it is whole, as far as one can see without loading it."""
    folder = round_folder(run, number)
    try:
        text = (folder / DONE).read_text("utf-8")
        told = json.loads(text)
        files = told["files"] if isinstance(told, dict) else {}  # of older versions: the number alone
        for name, (size, checksum) in files.items():
            if not (folder / name).is_file():
                return f"{folder / name} is missing"
            found = (folder / name).stat().st_size
            if found != size:
                return f"{folder / name} has {found} bytes, not the {size} that were written"
            if _sums(folder / name)[1] != checksum:
                return f"{folder / name} is not as it was written (its checksum differs)"
        read_state(run, number)
    except ConfigError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or folder} cannot be read ({error.strerror})"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{folder / DONE} is damaged"
    return None


def read_state(run: Path, number: int) -> dict[str, Any]:
    """What `write_checkpoint` kept of the run. Raises ConfigError."""
    path = round_folder(run, number) / STATE
    try:
        state = json.loads(path.read_bytes())
        assert isinstance(state, dict) and isinstance(state["versions"], dict) and isinstance(state["best"], dict)
        assert "ended" in state and all(isinstance(version, int) for version in state["versions"].values())
    except (OSError, ValueError, KeyError, AssertionError, RecursionError):
        raise ConfigError(f"{path} is damaged or missing") from None
    return state


def _files(folder: Path) -> list[str]:
    """What a checkpoint is made of, by its place in the folder."""
    found = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(".new")]
    return [name for name in found if name != DONE and not name.startswith(AT_WORK)]


def _sums(path: Path) -> tuple[int, int]:
    """Size and CRC-32 of a file: it is to show damage, not to prove anything."""
    size = checksum = 0
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return size, checksum
