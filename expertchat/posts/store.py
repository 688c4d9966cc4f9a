"""The folder of `expertchat posts`: what the model answered and every post that came of it, each appended once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from expertchat.events import AnyEvent
from expertchat.folder.jsonl import read_records
from expertchat.folder.run_folder import RunFolder
from expertchat.records import Answer, Post

REMEDY = "restore it or name another run.dir"
WRITTEN = "written"


class PostsFolder(RunFolder):
    """A folder of posts that this process writes. Raises ConfigError as RunFolder does."""

    logs = ("events", "answers", WRITTEN)

    def __init__(
        self, folder: Path, config: Mapping[str, Any], command_line: list[str], say: Callable[[str], None] = lambda text: None
    ) -> None:
        super().__init__(folder, config, command_line, say)
        self.answers: dict[str, Answer] = {}
        self.posts: dict[str, Post] = {}

    def find(self) -> None:
        """Read what an earlier start has left."""
        self.answers = {one.id: one for one in read_records(self.folder / "answers.jsonl", Answer, REMEDY)}
        self.posts = {one.id: one for one in read_records(self.folder / f"{WRITTEN}.jsonl", Post, REMEDY)}

    def keep_answer(self, answer: Answer) -> None:
        """Append what the model answered, once."""
        self.append_new("answers", self.answers, answer)

    def keep(self, post: Post) -> None:
        """Append what became of a post, once."""
        if self.append_new(WRITTEN, self.posts, post):
            self.sync_now_and_then()

    def send(self, event: AnyEvent) -> None:
        """Write an event."""
        if not self.passes(event):
            self.append("events", event)
