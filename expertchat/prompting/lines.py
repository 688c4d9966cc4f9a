"""Prompts from a pipe: one a line, one answer a line, in their order; those that stand alone are answered together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from expertchat.config import ConfigError
from expertchat.prompting.config import TalkConfig
from expertchat.prompting.kept import row
from expertchat.prompting.talk import Exchange, Talk
from expertchat.text.sentences import clean, one_line

TOGETHER = 64  # lines that are read before they are answered, where each stands alone and nobody says how many run at once


def run_lines(config: TalkConfig, lines: Iterable[str], write: Callable[[str], None], say: Callable[[str], None]) -> int:
    """Answer every line; `write` is given one line for each. Returns 0; 1 where a line has no answer (see
    `config.silence`), or there was no line.

    `say` hears everything else. Raises ConfigError where the model cannot be loaded.
    """
    talk = Talk(config, say)
    talk.spoken.start()
    asked = said = unanswered = 0
    batches = _batches(lines, config.engine.max_batch or TOGETHER) if not talk.remembers else ([line] for line in lines)
    for batch in batches:
        prompts = [clean(line).strip() for line in batch]
        for at, found in enumerate(_answered(talk, prompts, say, asked)):
            write(_line(found, talk) if config.json_lines else "" if found is None else one_line(found.text))
            unanswered += bool(prompts[at]) and (found is None or not found.text)
        asked += len(prompts)
        said += sum(map(bool, prompts))
    if not asked:
        say("no prompt came on standard input; write one a line, or call it in a terminal")
        return 1
    if unanswered:
        say(f"{unanswered} of {asked} lines have no answer")
    return 1 if unanswered and (unanswered == said or config.silence == "fails") else 0


def _batches(lines: Iterable[str], count: int) -> Iterator[list[str]]:
    waiting = iter(lines)
    while batch := list(islice(waiting, count)):
        yield batch


def _answered(talk: Talk, prompts: list[str], say: Callable[[str], None], before: int) -> list[Exchange | None]:
    """An exchange for each prompt; None for an empty one, and for one that the model cannot take."""
    found: list[Exchange | None] = []
    full = [prompt for prompt in prompts if prompt]
    try:
        if not talk.remembers and full:
            made = iter(talk.answers(full, before))
            return [next(made) if prompt else None for prompt in prompts]
    except ConfigError:
        talk.spoken.voice()  # which raises where it was the loading
    for at, prompt in enumerate(prompts):  # one by one, so that the one that is too long is found
        try:
            if prompt:
                for _ in talk.ask(prompt):
                    pass
            found.append(talk.last if prompt else None)
        except ConfigError as error:
            talk.spoken.voice()
            say(f"line {before + at + 1}: {'; '.join(error.problems)}")
            found.append(None)
    return found


def _line(found: Exchange | None, talk: Talk) -> str:
    return json.dumps(None if found is None else row(found, talk.spoken.name), ensure_ascii=False)
