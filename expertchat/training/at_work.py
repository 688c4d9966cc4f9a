"""What is kept of the round that is at work: every answer as it comes, and every dialogue that is whole. A restart asks for the rest alone.

rounds/000003/answers-0.jsonl   of process 0; gone when the round is whole
rounds/000003/bundles-0.jsonl   gone when the round after it is whole: one whose checkpoint is damaged is then trained again, not talked
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from expertchat.config import ConfigError
from expertchat.folder.jsonl import Log, cut_torn_end, read_lines
from expertchat.folder.run_folder import RunFolder
from expertchat.folder.writing import saving
from expertchat.preferences.candidates import Bundle
from expertchat.records import Answer, Record

R = TypeVar("R", bound=Record)
Name = Literal["answers", "bundles"]


def round_folder(run: Path, number: int) -> Path:
    """Where a round's files lie."""
    return run / "rounds" / f"{number:06d}"


class AtWork:
    """The files of one process. Whatever is written is on disk whole or not at all."""

    def __init__(self, store: RunFolder, rank: int = 0) -> None:
        self.store, self.folder, self.rank = store, store.folder, rank
        self._logs: dict[str, Log] = {}

    def bundles(self, number: int) -> dict[str, Bundle]:
        """The dialogues that earlier starts have finished of a round, by id, whichever process it was."""
        return self._found(number, "bundles", Bundle)

    def answers(self, number: int) -> dict[str, Answer]:
        """What earlier starts were answered in a round, by id."""
        return self._found(number, "answers", Answer)

    def _found(self, number: int, name: Name, kind: type[R]) -> dict[str, R]:
        found: dict[str, R] = {}
        for path in sorted(round_folder(self.folder, number).glob(f"{name}-*.jsonl")):
            with saving(path):
                cut_torn_end(path)
            try:
                for n, line in read_lines(path):  # noqa: B007 (the number is for the message)
                    one = kind.model_validate(line)
                    found.setdefault(one.id, one)
            except ValidationError as error:
                why = str(error).splitlines()[0]
                raise ConfigError(f"{path}, line {n} is no record of this version ({why}); remove the file, and it is made again") from None
            except ConfigError:
                raise ConfigError(f"{path} is damaged; remove the file, and what stood in it is made again") from None
        return found

    def keep(self, number: int, record: Bundle | Answer) -> None:
        """Write a record of a round. Raises WriteError, also where another start has taken the folder over."""
        name: Name = "bundles" if isinstance(record, Bundle) else "answers"
        path = round_folder(self.folder, number) / f"{name}-{self.rank}.jsonl"
        with self.store.writing():
            if name not in self._logs or self._logs[name].path != path:
                if name in self._logs:
                    self._logs.pop(name).close()
                path.parent.mkdir(parents=True, exist_ok=True)
                self._logs[name] = Log(path)
            self._logs[name].append(record.to_json())

    def close(self, *names: Name) -> None:
        """Close this process's files, or those named."""
        for name in [name for name in self._logs if not names or name in names]:
            self._logs.pop(name).close()

    def drop_answers(self, number: int) -> None:
        """Remove what a round's answers were kept for: its dialogues are whole. By one process, when all have closed theirs."""
        with self.store.writing():
            remove(round_folder(self.folder, number), "answers")


def remove(folder: Path, *names: Name) -> None:
    """Remove such files from a round's folder, and the folder where nothing else lies in it."""
    for name in names:
        for path in folder.glob(f"{name}-*.jsonl"):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def rounds_of(run: Path) -> Iterator[tuple[int, Path]]:
    """The numbers and folders of the rounds that there is something of, from the first on."""
    folder = run / "rounds"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.isdigit() and path.is_dir():
            yield int(path.name), path
