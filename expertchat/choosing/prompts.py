"""What is answered: topics, the histories of a run, or the rows of a table; and what the model is shown of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from expertchat.backends.base import GenerateRequest
from expertchat.choosing.config import ASKED, COLUMN, BestOfNConfig
from expertchat.choosing.ruled import LONGEST, rule_text
from expertchat.config import ConfigError
from expertchat.experts.base import ContextTooSmallError, CountTokens, ExpertChat, History
from expertchat.folder.reader import RunReader
from expertchat.records import SEATS, Item, Message, Prompt, Speaker, Turn
from expertchat.sources.config import SourceConfig
from expertchat.sources.encoding import Say
from expertchat.sources.prompted import prompt_rows
from expertchat.sources.read import drawn
from expertchat.sources.rows import HUB, is_table, read_table
from expertchat.sources.runs import run_items
from expertchat.talk.topics import given_topics
from expertchat.text.sentences import neutralise

NO_TOPIC = "..."  # what a chat opens with where nothing was said and there is no topic


@dataclass(frozen=True)
class Asked:
    """A prompt and its history. `chat`: it is shown as a chat, not as a dialogue of experts."""

    prompt: Prompt
    topic: str
    turns: tuple[Turn, ...]
    chat: bool = False

    @property
    def id(self) -> str:
        return self.prompt.id

    @property
    def seats(self) -> tuple[Speaker, ...]:
        """Who talks; there are always two."""
        found = tuple(sorted({turn.speaker for turn in self.turns} | {self.prompt.subject}))
        return found if len(found) > 1 or self.prompt.subject not in SEATS else SEATS


def read_prompts(config: BestOfNConfig, say: Say) -> list[Asked]:
    """The prompts of a config, at most `config.count`. Raises ConfigError with everything that cannot be read."""
    problems, found = list[str](), list[Asked]()
    try:
        if not config.source.path:
            found = list(_topics(config))
        several = len(config.source.path) > 1
        for place, path in enumerate(config.source.path, 1):
            own = drawn(_read(path, config, say), config.source)
            found += [_of_source(one, f"s{place}/") for one in own] if several else own
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    limit = config.source.model_copy(update={"limit": config.count})
    kept = drawn(found, limit) if config.source.path else found
    digest = hashlib.sha256("\n".join(f"{one.topic} {one.turns} {one.prompt}" for one in kept).encode("utf-8", "replace")).hexdigest()[:16]
    numbered = [_named(one, f"p{i:04d}", digest) for i, one in enumerate(kept)]
    if config.rule_text is not None and not any(_may_say(config.rule_text, one) for one in numbered):
        raise ConfigError(f"rule_text={config.rule_text}: {_nothing_to_say(config)}")
    return numbered


def _of_source(one: Asked, before: str) -> Asked:
    """A prompt of one of several sources: rows and dialogues of all are called alike, and so are groups that are called after them."""
    prompt = one.prompt
    group = prompt.group if prompt.group == one.topic else f"{before}{prompt.group}"
    named = {"id": f"{before}{prompt.id}", "origin": f"{before}{prompt.origin}", "group": group}
    return replace(one, prompt=prompt.model_copy(update=named))


def _named(one: Asked, name: str, source: str) -> Asked:
    return replace(one, prompt=one.prompt.model_copy(update={"id": name, "source": source}))


def _may_say(rule: str, one: Asked) -> bool:
    """Whether a rule has a text to go by."""
    return rule == LONGEST or one.prompt.rule_text is not None or (not rule.startswith(COLUMN) and bool(one.turns or one.prompt.lead))


def _nothing_to_say(config: BestOfNConfig) -> str:
    if (config.rule_text or "").startswith(COLUMN):
        return "no row holds a text there; name another column"
    return "nothing was said before any of the replies; take rule_text=longest, or turns=1 or more where topics are talked about"


def ruled(rule: str | None, asked: Asked) -> str | None:
    """The rule's text, made of what is answered; None where there is none, or nothing to make it of."""
    if rule is None or rule.startswith(COLUMN) or asked.prompt.rule_text is not None:
        return asked.prompt.rule_text
    said = next((turn.text for turn in reversed(asked.turns) if turn.speaker != asked.prompt.subject), None)
    return rule_text(rule, said)


def _topics(config: BestOfNConfig) -> Iterator[Asked]:
    if (config.rule_text or "").startswith(COLUMN):
        raise ConfigError(f"rule_text={config.rule_text}: topics have no columns; name a table: expertchat best_of_n FILE")
    topics = given_topics(config.topics, config.count, config.run.seed)
    for i in range(config.count if config.turns else len(topics)):  # every topic in all lengths by turns; without turns once
        topic = topics[i % len(topics)]
        lead = 1 + i // len(topics) % config.turns if config.turns else 0
        prompt = Prompt(id=f"t{i:04d}", origin=topic.id, subject=SEATS[0], group=topic.text, source="", lead=lead)
        yield Asked(prompt, topic.text, (), config.context == "chat")


def _read(path: str, config: BestOfNConfig, say: Say) -> list[Asked]:
    place = Path(path).expanduser()
    if path.startswith(HUB) or is_table(place):
        return list(_rows(path, config, say))
    if not place.exists():
        raise ConfigError(f"source.path={path}: no such file or folder; correct the path")
    if not place.is_dir():
        raise ConfigError(f"source.path={path}: is neither a run nor a table; name a run folder, or a .csv, .jsonl, .parquet file")
    if (config.rule_text or "").startswith(COLUMN):
        raise ConfigError(f"rule_text={config.rule_text}: a run has no columns; take first_sentence, key_phrases or longest")
    return list(_histories(RunReader(place, "answer another source"), config, say))


def _histories(run: RunReader, config: BestOfNConfig, say: Say) -> Iterator[Asked]:
    """What was said before each turn of a run, or before its candidates (source.unit=candidates), each history once."""
    unit = "turns" if config.source.unit == "auto" else config.source.unit
    if unit not in ("turns", "candidates"):
        raise ConfigError(f"source.unit={unit}: what is answered are histories; take turns (what was said before each) or candidates")
    seen: set[tuple[str, tuple[tuple[str, str], ...], str]] = set()
    source: SourceConfig = config.source.model_copy(update={"unit": unit, "path": [str(run.folder)]})
    for item in run_items(run, source, say):
        key = item.topic, tuple((turn.speaker, turn.text) for turn in item.turns), item.subject
        if key not in seen:
            seen.add(key)
            yield _of_item(item, config)


def _of_item(item: Item, config: BestOfNConfig) -> Asked:
    prompt = Prompt(id=item.id, origin=item.id, subject=item.subject, group=item.group, source="", reference=item.reference)
    return Asked(prompt, item.topic, tuple(item.turns), config.context == "chat")


def _rows(path: str, config: BestOfNConfig, say: Say) -> Iterator[Asked]:
    column = config.rule_text.removeprefix(COLUMN) if config.rule_text and config.rule_text.startswith(COLUMN) else None
    chat = config.context == "chat" or (config.context == "auto" and config.model.family != "world")
    for row in prompt_rows(read_table(path, config.source, say), config.source, say, column):
        turns, said = _instructed(row.turns, config.instruction)
        by_rule = row.more if said is None or column is not None else rule_text(config.rule_text or "", said)
        prompt = Prompt(
            id=row.id, origin=row.id, subject=SEATS[0], group=row.group, source="", reference=row.reference, rule_text=by_rule
        )  # fmt: skip
        yield Asked(prompt, row.topic, turns, chat)


def _instructed(turns: Sequence[Turn], instruction: str | None) -> tuple[tuple[Turn, ...], str | None]:
    """The turns of a row with its last one put into the instruction, and what that one said; None where there is nothing to put into it."""
    if instruction is None or not turns:
        return tuple(turns), None
    *before, last = turns
    return (*before, last.model_copy(update={"text": instruction.replace(ASKED, last.text)})), last.text


# -- what the model is shown ------------------------------------------------------------------------------------------------


def request_of(asked: Asked, expert: ExpertChat, count: CountTokens | None) -> GenerateRequest | str:
    """What the model is asked, whose key is the prompt's; or why it cannot be."""
    if not asked.chat:
        try:
            return expert.reply_request(asked.id, History(asked.topic, asked.turns), count)[0]
        except ContextTooSmallError as error:
            return str(error)
    special, subject = expert.special_tokens, asked.prompt.subject
    said = [Message("assistant" if t.speaker == subject else "user", neutralise(t.text, special)) for t in asked.turns]
    if not said or said[0].role == "assistant":
        said.insert(0, Message("user", neutralise(asked.topic or NO_TOPIC, special)))
    messages, decoding = expert.chat("", said), expert.settings.reply
    needed = count(messages) if count is not None else 0
    if needed + decoding.max_new_tokens > expert.context_length:
        room = f"the reply up to {decoding.max_new_tokens}, but the context holds {expert.context_length}"
        return f"the prompt takes {needed} tokens and {room}"
    return GenerateRequest(asked.id, messages, decoding)
