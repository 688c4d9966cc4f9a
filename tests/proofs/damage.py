"""What can have happened to the folder of a run that was broken off: torn, damaged and missing files, links, files of others."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], Callable[[], object]]
"""Does something to a broken-off run's folder; what it returns does what a user would after reading the message."""


def cut(path: Path) -> None:
    os.truncate(path, random.Random(path.name).randrange(path.stat().st_size))


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def garbage(path: Path) -> None:
    middle = path.stat().st_size // 2
    with path.open("r+b") as file:
        file.seek(middle)
        file.write(b"\x00\xffgarbage\n")


def missing(path: Path) -> None:
    path.unlink()


def at(name: str, way: Callable[[Path], None]) -> Damage:
    """Damage one file; afterwards what a user does who has a copy of it."""

    def damage(folder: Path) -> Callable[[], object]:
        path, copy = folder / name, folder.parent / "copy"
        if not path.exists() and name in ("heartbeat.json", "summary.json"):
            path.write_text('{"schema": 1}')
            way(path)
            return lambda: path.unlink(missing_ok=True)
        if not path.exists() or not path.stat().st_size:  # a file that this run has not
            return lambda: None
        shutil.copy(path, copy)
        way(path)
        return lambda: shutil.copy(copy, path)

    return damage


def all_of(damages: list[Damage]) -> Damage:
    def damage(folder: Path) -> Callable[[], object]:
        for one in damages:
            one(folder)
        return lambda: shutil.rmtree(folder / "rounds")  # as the message says

    return damage


def ahead(folder: Path) -> Callable[[], object]:
    beat = {"host": "elsewhere", "pid": 1, "time": time.time() + 86_400, "token": "theirs", "job": None, "restarts": None}
    (folder / "heartbeat.json").write_text(json.dumps(beat))
    return lambda: None


def foreign(folder: Path) -> Callable[[], object]:
    mine, far = folder / "notes.jsonl", folder.parent / "far.txt"
    mine.write_text("my notes\n")
    far.write_text("far away\n")
    (folder / "extra.jsonl").symlink_to(far)

    def check() -> None:
        assert mine.read_text() == "my notes\n" and far.read_text() == "far away\n", "a foreign file was written"
        mine.unlink()
        (folder / "extra.jsonl").unlink()

    return check


def linked(name: str) -> Damage:
    def damage(folder: Path) -> Callable[[], object]:
        path, far = folder / name, folder.parent / "far"
        shutil.move(path, far)
        path.symlink_to(far)
        before = contents(far)

        def mend() -> None:
            assert contents(far) == before, "what the link leads to was written"
            path.unlink()
            shutil.move(far, path)

        return mend

    return damage


def contents(path: Path) -> dict[str, bytes]:
    return {str(one): one.read_bytes() for one in ([path] if path.is_file() else sorted(path.rglob("*"))) if one.is_file()}


def folder_there(folder: Path) -> Callable[[], object]:
    path, aside = folder / "ratings.jsonl", folder.parent / "aside"
    shutil.move(path, aside)
    path.mkdir()

    def mend() -> None:
        path.rmdir()
        shutil.move(aside, path)

    return mend
