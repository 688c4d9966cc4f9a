"""`expertchat posts`: synthetic posts of a neighbourhood."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from expertchat.doors.entry import announce, composed

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.posts.config import PostsConfig

_LANGUAGES = re.compile(r"languages=\[?([\w, ]+)\]?")
EMBEDDED, PLAIN = "embedded", "en"


def run(arguments: Sequence[str]) -> int:
    """One run, or a sweep."""
    return composed("posts", meant(arguments), _one)


def meant(arguments: Sequence[str]) -> list[str]:
    """The short forms: languages=[en,de], model=WORD. Who names no language gets what the model can write: the embedded ones their own.

    >>> meant(["languages=[en,de]", "count=8"])
    ['+language@languages.en=en', '+language@languages.de=de', 'count=8']
    >>> meant(["model=embedded:llama"]), meant(["model=models/x"])[0]
    (['+language@languages.embedded=embedded', 'model=embedded_llama'], '+language@languages.en=en')
    """
    from expertchat.command.named_models import with_models

    named, rest = list[str](), list[str]()
    for word in arguments:
        if found := _LANGUAGES.fullmatch(word):
            named += [name.strip() for name in found[1].split(",") if name.strip()]
        else:
            rest.append(word)
    if not named and not any("language@" in word for word in rest):
        model = next((word.partition("=")[2] for word in reversed(rest) if word.startswith("model=")), EMBEDDED)
        named = [EMBEDDED if model.startswith(EMBEDDED) else PLAIN]
    return [*(f"+language@languages.{name}={name}" for name in dict.fromkeys(named)), *with_models(rest)]


def _one(job: Job) -> int:
    announce(job)
    from expertchat.posts.run import run_posts
    from expertchat.views.open import open_posts

    config: PostsConfig = job.config
    return run_posts(config, ["expertchat", "posts", *job.overrides], open_posts(config.view))


def check(config: PostsConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.command import check_runs as runs
    from expertchat.command.checks import told
    from expertchat.posts.run import apart_problems, check_briefs
    from expertchat.trackers.tracking import check_trackers

    yield from check_briefs(config)
    if here:
        yield from apart_problems(config)
    yield from told(check_trackers, config.report_to)
    yield from runs.texts(config)
    yield from runs.cast(config, "posts", here)
