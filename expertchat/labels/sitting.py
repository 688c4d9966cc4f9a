"""One annotator at work: the item on the screen, the answer to it as far as it is given, and what was answered before."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from expertchat.labels.config import FormConfig
from expertchat.labels.store import LabelFile, standing
from expertchat.labels.tasks import Task, key_of
from expertchat.records.lab import Label, Opinion


class Sitting:
    """What the app shows and where its answers go. `task` is None when everything is answered.

    An answer is a Label that is not kept yet (`draft`), changed with `model_copy`; `keep` writes it and goes on to the next task.
    """

    def __init__(
        self, form: FormConfig, tasks: Sequence[Task], file: LabelFile, opinions: Mapping[str, Sequence[Opinion]] | None = None
    ) -> None:
        self.form, self.annotator = form, file.annotator
        self.may_see = opinions is not None
        self._tasks, self._file, self._opinions = list(tasks), file, opinions or {}
        self._standing = standing(file.labels)
        self._by_key = {task.key: task for task in tasks}
        self._drafts: dict[object, Label] = {}  # of what was taken back, to begin from
        self.task: Task | None = None
        self._next()

    # -- where it is ------------------------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        """The tasks that are wanted: a second time only where the first one was answered, and unseen."""
        return sum(self._wanted(task) for task in self._tasks)

    @property
    def done(self) -> int:
        return sum(task.key in self._standing for task in self._tasks)

    @property
    def skipped(self) -> int:
        return sum(label.skipped for key, label in self._standing.items() if key in self._by_key)

    @property
    def elsewhere(self) -> int:
        """Labels of the annotator whose items are not among the tasks; they stay as they are."""
        return sum(key not in self._by_key for key in self._standing)

    def _wanted(self, task: Task) -> bool:
        first = self._standing.get(task.key._replace(again=False))
        return not (task.again and first is not None and (first.skipped or first.seen)) or task.key in self._standing

    def _next(self) -> None:
        self.task = next((task for task in self._tasks if task.key not in self._standing and self._wanted(task)), None)
        self._begun = time.monotonic()

    def draft(self) -> Label:
        """The answer to the task on the screen as it begins: empty, or what was taken back."""
        task = self.task
        assert task is not None, "everything is answered"
        if (before := self._drafts.get(task.key)) is not None:
            return before
        return Label(
            id="",
            item=task.item.id,
            source=task.item.source,
            annotator=self.annotator,
            form=self.form.name,
            at=0.0,
            place=task.place,
            shown=task.left,
            again=task.again,
        )

    # -- answering --------------------------------------------------------------------------------------------------

    def keep(self, draft: Label) -> None:
        """Write an answer and go on. Raises WriteError, and then the task stays."""
        seconds = round(time.monotonic() - self._begun, 1)
        label = self._file.add(draft.model_copy(update={"at": round(time.time(), 3), "seconds": seconds, "withdrawn": False}))
        self._take(label)
        self._next()

    def skip(self) -> None:
        """Go on without an answer; which is kept too. Raises WriteError."""
        self.keep(self.draft().model_copy(update={"skipped": True, "ratings": {}, "choice": None}))

    def undo(self) -> bool:
        """Take the last answer back and show its task again. False where there is none, or its verdicts were seen. Raises WriteError."""
        last = self._last()
        if last is None or last.seen:
            return False
        self._file.add(last.model_copy(update={"withdrawn": True, "at": round(time.time(), 3)}))
        del self._standing[key_of(last)]
        self._drafts[key_of(last)] = last.model_copy(update={"skipped": False})
        self.task, self._begun = self._by_key[key_of(last)], time.monotonic()
        return True

    def _take(self, label: Label) -> None:
        self._standing.pop(key_of(label), None)
        self._standing[key_of(label)] = label

    def _last(self) -> Label | None:
        return next((label for key, label in reversed(self._standing.items()) if key in self._by_key), None)

    # -- the judges -------------------------------------------------------------------------------------------------

    def see(self) -> tuple[Task, Label, list[Opinion]] | None:
        """What the judges say of what was answered last, which then cannot be taken back. None where there is no answer, or nobody may see.

        Raises WriteError.
        """
        last = self._last()
        if last is None or last.skipped or not self.may_see:
            return None
        if not last.seen:
            last = self._file.add(last.model_copy(update={"seen": True}))
            self._take(last)
            if self.task is not None and not self._wanted(self.task):
                self._next()
        task = self._by_key[key_of(last)]
        return task, last, [opinion for opinion in self._opinions.get(last.item, ()) if task.left or opinion.place == task.place]

    def close(self) -> None:
        self._file.close()
