"""What pairs are built from: the items of the sources, which of their texts were cut, and the prompt that each answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from expertchat.backends.base import GenerateRequest, ModelInfo
from expertchat.building.config import BuildConfig
from expertchat.config import ConfigError, ModelConfig
from expertchat.experts.base import ContextTooSmallError, CountTokens, ExpertChat, History
from expertchat.experts.registry import make_expert
from expertchat.folder.reader import RunReader
from expertchat.lab.models import seats_in
from expertchat.labels.export import prompt_of
from expertchat.records import Item, Message, Speaker
from expertchat.sources.config import SourceConfig
from expertchat.sources.read import ITEMS, from_source, read_items
from expertchat.sources.rows import HUB, is_table
from expertchat.text.wordings import fill

Say = Callable[[str], None]


def items_of(config: BuildConfig, say: Say) -> list[Item]:
    """The items of the sources. Raises ConfigError where they are none that answer a prompt."""
    source = source_of(config)
    if source.unit != config.source.unit:
        say(f"its {source.unit} are read; others: source.unit=turns, candidates, pairs, evaluations")
    items = read_items(source, say)
    if whole := [item.id for item in items if item.whole]:
        raise ConfigError(
            f"source: {len(whole)} of {len(items)} items are whole dialogues ({whole[0]}), and a pair holds replies to one prompt; "
            "take source.unit=turns, or the folder of a judge that has judged turns"
        )
    return items


def source_of(config: BuildConfig) -> SourceConfig:
    """The source with the unit that is read where none is named."""
    unit = _unit(config.source) if config.source.unit == "auto" else None
    return config.source if unit is None else config.source.model_copy(update={"unit": unit})


def _unit(source: SourceConfig) -> str | None:
    """Of runs alone: turns, of which each is a reply, unless there are candidates."""
    places = [Path(path).expanduser() for path in source.path]
    folders = [place for place in places if place.is_dir() and not is_table(place) and not (place / ITEMS).is_file()]
    if not folders or len(folders) < len(source.path):
        return None
    kinds = {"pairs" if RunReader(folder).path("candidates").is_file() else "turns" for folder in folders}
    return kinds.pop() if len(kinds) == 1 else None


def cut_texts(source: SourceConfig, items: Sequence[Item]) -> set[tuple[str, str]]:
    """The texts of `items` that the token limit cut, as far as their runs say it: (source of the item, id of the candidate, or of the turn
    as items of one source call it)."""
    found: set[tuple[str, str]] = set()
    for path in source.path:
        place = Path(path).expanduser()
        if path.startswith(HUB) or not place.is_dir() or is_table(place):
            continue
        run, own = RunReader(place), {item.source for item in from_source(path, source, items)}
        cut = {one.id for one in run.candidates() if one.cut}
        cut |= {f"{one.id}/t{i:02d}" for one in run.transcripts() for i, turn in enumerate(one.turns) if turn.cut}
        found |= {(name, text) for name in own for text in cut}
    return found


def plainly(config: BuildConfig) -> bool:
    """Whether prompts are what stands before a text, and not a model's view of a dialogue: where the config says so, and of tables."""
    if config.model is None or config.prompt != "auto":
        return config.prompt != "model"
    return any(path.startswith(HUB) or is_table(Path(path).expanduser()) for path in config.source.path)


@dataclass
class Prompts:
    """The prompt of each item: `plain`, what was said before it; else what `model` is shown of the dialogue, each subject as an expert of
    its own name. `info` and `count` are those of the loaded model.
    """

    plain: bool
    model: ModelConfig | None = None
    info: ModelInfo | None = None
    count: CountTokens | None = None
    _experts: dict[tuple[Speaker, ...], ExpertChat] = field(default_factory=dict)

    def expert(self, item: Item) -> ExpertChat:
        """Who answers in the place of the item's subject."""
        seats = (item.subject, *seats_in(item))
        if seats not in self._experts:
            assert self.model is not None and self.info is not None
            self._experts[seats] = make_expert(item.subject, self.model, self.info, seats[1:])
        return self._experts[seats]

    def request(self, item: Item, key: str) -> GenerateRequest:
        """What the model is asked for another reply. Raises ContextTooSmallError."""
        expert = self.expert(item)
        if not self.plain:
            return expert.reply_request(key, History(item.topic, tuple(item.turns)), self.count)[0]
        messages = expert.chat("", [Message(one["role"], one["content"]) for one in prompt_of(item)])  # type: ignore[arg-type]
        decoding = expert.settings.reply
        if self.count is not None and (needed := self.count(messages)) > expert.context_length - decoding.max_new_tokens:
            raise ContextTooSmallError(f"the prompt takes {needed} tokens and the reply up to {decoding.max_new_tokens}")
        return GenerateRequest(key, messages, decoding)

    def of(self, item: Item) -> list[dict[str, str]] | None:
        """The messages before the reply; None where there are none, or where they do not fit into the model's context."""
        plain = prompt_of(item)
        if self.plain or not (plain or item.topic or item.turns):
            return plain or None
        try:
            messages = self.request(item, item.id).messages
        except ContextTooSmallError:
            return None
        return [{"role": message.role, "content": message.content} for message in messages]

    def counterpart(self, item: Item, key: str, asks: str | None, kind: str, chosen: str) -> GenerateRequest:
        """The request for a counterpart; what it `asks` besides stands at the end of the last message, which is a user's."""
        request = self.request(item, key)
        if asks is None:
            return request
        said = fill(asks, self.expert(item).special_tokens, type=kind, topic=item.topic, chosen=chosen)
        last = request.messages[-1]
        return replace(request, messages=(*request.messages[:-1], last._replace(content=f"{last.content}\n\n{said}")))
