"""Where labels are kept: FOLDER/ANNOTATOR/labels.jsonl, each annotator's own file, a whole line for each answer.

Several annotators write into one folder at once, and none can lose a line of another: no file has two writers. A second window of the same
annotator is refused by a file lock, which ends with its process. Nothing is ever changed: who answers again, or takes an answer back, adds
a line. A killed app loses what is on the screen; a line that was torn in the middle is cut off at the next start.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from expertchat.config import ConfigError
from expertchat.folder.jsonl import Log, read_records
from expertchat.folder.writing import NO_LINK
from expertchat.labels.config import annotator_name
from expertchat.labels.tasks import Key, key_of
from expertchat.records.lab import Item, Label

try:
    import fcntl
except ImportError:  # no POSIX locks on this system
    fcntl = None  # type: ignore[assignment]

FILE = "labels.jsonl"
REMEDY = "restore it, or name another folder with labels=FOLDER"


class LabelFile:
    """The labels of one annotator, open to be added to. Raises ConfigError where it cannot be written, is another source's, or is open in
    another window."""

    def __init__(self, folder: Path, annotator: str, sources: Collection[str]) -> None:
        self.path, self.annotator = folder / annotator / FILE, annotator
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o644)
        except OSError as error:
            raise ConfigError(f"labels: cannot write {self.path}: {error.strerror}; name another folder with labels=FOLDER") from None
        try:
            self._take()
            self._log = Log(self.path)
            self.labels = list(read_records(self.path, Label, REMEDY))
            if foreign := _foreign(self.path, self.labels, sources):
                raise ConfigError(foreign)
        except BaseException:
            os.close(self._lock)
            raise

    def _take(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"annotator={self.annotator}: is labelling in another window; go on there, close it, or take another name"
            ) from None
        except OSError:  # a file system without locks
            return

    def add(self, label: Label) -> Label:
        """Keep a label, whole and for good, with an id of its own. Raises WriteError, and then nothing was kept."""
        label = label.model_copy(update={"id": f"{self.annotator}/{len(self.labels)}"})
        self._log.append(label.to_json())
        self._log.sync()
        self.labels.append(label)
        return label

    def close(self) -> None:
        """May be called twice."""
        self._log.close()
        with contextlib.suppress(OSError):
            os.close(self._lock)


def standing(labels: Iterable[Label]) -> dict[Key, Label]:
    """The labels of one annotator that count: of each item, form and pass the last, and none where that is withdrawn, in their order."""
    found: dict[Key, Label] = {}
    for label in labels:
        found.pop(key_of(label), None)
        if not label.withdrawn:
            found[key_of(label)] = label
    return found


def standing_by_annotator(labels: Iterable[Label]) -> dict[str, dict[Key, Label]]:
    """`standing` of each annotator, by name."""
    found: dict[str, list[Label]] = {}
    for label in labels:
        found.setdefault(label.annotator, []).append(label)
    return {annotator: standing(found[annotator]) for annotator in sorted(found)}


def read_labels(folder: Path, items: Sequence[Item]) -> list[Label]:
    """All labels of a folder (or of one file of them), each annotator's in the order they came. None where it is not there.

    Raises ConfigError for those of another source, naming every such file.
    """
    sources = {item.source for item in items}
    labels, problems = [], []
    for path in label_files(folder):
        found = list(read_records(path, Label, REMEDY))
        problems += _foreign(path, found, sources)
        labels += found
    if problems:
        raise ConfigError(problems)
    return labels


def label_files(folder: Path) -> Iterator[Path]:
    """The files of a folder's annotators, by their names."""
    if folder.is_file():
        yield folder
        return
    for path in sorted(folder.glob(f"*/{FILE}")):
        with contextlib.suppress(ValueError):
            annotator_name(path.parent.name)
            yield path


def _foreign(path: Path, labels: Sequence[Label], sources: Collection[str]) -> list[str]:
    other = [n for n, label in enumerate(labels, 1) if label.source not in sources]
    if not other:
        return []
    shown = ", ".join(map(str, other[:3])) + (", ..." if len(other) > 3 else "")
    some = f"{len(other)} of its {len(labels)} labels are of another source (lines {shown})"
    return [f"{path}: {some}; name another folder with labels=FOLDER"]
