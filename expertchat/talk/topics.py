"""What is talked about: topics from a list, from a file, or proposed by the models themselves."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expertchat.backends.asking import Ask, Flow
from expertchat.backends.base import Completion, Embedding, EmbedRequest
from expertchat.config import ConfigError, TopicsConfig
from expertchat.events import Announce, Note
from expertchat.experts.base import CountTokens, ExpertChat
from expertchat.experts.naming import PROBLEMS
from expertchat.folder.textfile import column as table_column
from expertchat.folder.textfile import json_lines, read_text, text_lines
from expertchat.judging.wim import is_direction
from expertchat.records import Speaker, Topic
from expertchat.text.likeness import alike
from expertchat.text.sentences import clean

AVOIDED = 12  # earlier topics named in a request for a new one
LIKE = 0.8  # topics that look so alike (expertchat.text.likeness.alike) are one, whatever their embeddings say
WAVE = 8  # topics proposed side by side; fixed, so that topics do not depend on the batch size
NAMES = ("topic", "text")  # what a column of topics is called, where nothing else is said
_SHOWN_PROBLEMS = 10
_PLAIN_SPACES = re.compile(r"[ \t\n]+")


def conversation_id(index: int) -> str:
    """The id of the conversation at `index`, from 0: c0000."""
    return f"c{index:04d}"


def conversation_index(name: str) -> int:
    """The index of a conversation of that id, also of one whose run was merged (s1/c0003)."""
    return int(name.rpartition("c")[2])


def read_topics(path: Path | str, column: str | None = None) -> list[str]:
    """The topics of a file, in UTF-8, or in UTF-16 with a byte order mark:

    - .txt and others: one a line, with # comments;
    - .jsonl: an object a line with the text under `column`, else under "topic" or "text"; .json: also a list of such objects or of texts;
    - .csv, .tsv: the column that `column` names, else the one called topic or text.

    Raises ConfigError for a file that is missing, unreadable, empty, in another encoding (with line and byte), broken, or a table without
    such a column.
    """
    path = Path(path).expanduser()
    text, kind = read_text(path, "topics.file:"), path.suffix.lower()
    if kind in (".csv", ".tsv", ".tab"):
        found = table_column(path, text, "topics", column, NAMES)
    elif kind in (".jsonl", ".json", ".ndjson"):
        found = _from_json(path, text, (column,) if column else NAMES)
    else:
        found = _from_lines(path, text, column)
    topics = [topic for topic in map(_tidy, found) if topic]
    if not topics:
        raise ConfigError(f"topics.file: {path} holds no topic; write one a line")
    return topics


def _from_lines(path: Path, text: str, column: str | None) -> list[str]:
    lines = [line for _, line in text_lines(text) if not line.lstrip().startswith("#")]
    tabs = {line.strip(" ").count("\t") for line in lines}
    if column is not None or (len(lines) > 1 and len(tabs) == 1 and tabs != {0}):
        why = "every line has the same number of tabs" if column is None else f"topics.column={column} is set"
        raise ConfigError(
            f"topics.file: {path} is read as a list with one topic a line, but {why}: if it is a table, call it .tsv or .csv and name the "
            "column with topics.column=NAME; if it is a list, leave out the tabs or topics.column"
        )
    return lines


def _from_json(path: Path, text: str, names: Sequence[str]) -> list[str]:
    """One object a line, or of a .json file the entries of its list."""
    entries: list[tuple[str, Any]] = []
    problems: list[str] = []
    if path.suffix.lower() == ".json" and isinstance(whole := _parsed(text), list):
        entries = [(f"entry {n}", entry) for n, entry in enumerate(whole, 1)]
    else:
        for n, line in json_lines(text):
            if (entry := _parsed(line)) is None:
                problems.append(f'topics.file: {path}, line {n} is not JSON: {line[:60]!r}; write {{"topic": "..."}}, one object a line')
            else:
                entries.append((f"line {n}", entry))
    topics = []
    for where, entry in entries:
        topic = next((entry[name] for name in names if entry.get(name)), None) if isinstance(entry, dict) else None
        topic = entry if isinstance(entry, str) and where.startswith("entry") else topic
        if isinstance(topic, str) and topic.strip():
            topics.append(topic)
        else:
            under = " or ".join(f'"{name}"' for name in names)
            problems.append(f"topics.file: {path}, {where} has no text under {under}: {str(entry)[:60]!r}")
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        raise ConfigError(problems[:_SHOWN_PROBLEMS] + ([f"topics.file: and {more} more lines like these"] if more > 0 else []))
    return topics


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _tidy(topic: str) -> str:
    """One line of clean text; spaces that its script sets (no-break, ideographic) stay what they are."""
    return _PLAIN_SPACES.sub(" ", clean(topic)).strip()


def given_topics(config: TopicsConfig, count: int, seed: int) -> list[Topic]:
    """The topics of a list or file, in order or shuffled by `seed`, at most `count`; conversations use them in turn, again and again."""
    texts = read_topics(config.file, config.column) if config.source == "file" and config.file else [_tidy(topic) for topic in config.list]
    if config.shuffle:
        random.Random(seed).shuffle(texts)
    return [Topic(id=conversation_id(i), text=text, source=config.source) for i, text in enumerate(texts[:count])]


class Proposals:
    """Topics proposed by the experts in turn, as a flow that `keep`s them in order.

    What names no topic is proposed again; so is one closer than `max_similarity` to an earlier topic, which is then named as one to avoid.
    After `attempts` proposals the least similar one is taken, or else an earlier topic again, with a Note that counts why. `known` are
    topics of an earlier start of the same run.
    """

    def __init__(
        self,
        experts: Mapping[Speaker, ExpertChat],
        config: TopicsConfig,
        count: int,
        keep: Callable[[Topic], None],
        announce: Announce,
        tokens: Mapping[Speaker, CountTokens] | None = None,
    ) -> None:
        self.experts, self.config, self.count = experts, config, count
        self.keep, self.announce, self.tokens = keep, announce, tokens or {}
        self.topics: list[Topic] = []
        self.problems: Counter[str] = Counter()  # of this wave, by naming.PROBLEMS
        self._vectors: Any = None  # one unit-length row for each topic so far
        self._rows = 0
        # Without noise the same request gives the same topic, so only requests to different experts go side by side.
        self.wave = WAVE if all(e.settings.topic.method == "sampling" for e in experts.values()) else len(experts)

    def flow(self, known: Sequence[Topic] = ()) -> Flow[None]:
        """Propose what `known` (a beginning of this run's topics) lacks."""
        whole = min(len(known), self.count) // self.wave * self.wave  # a wave that was cut off is proposed again, with the same result
        if whole:
            embeddings = yield [self._embed(topic.id, topic.text) for topic in known[:whole]]
            for topic, embedding in zip(known[:whole], embeddings, strict=True):
                assert isinstance(embedding, Embedding)
                self.topics.append(topic)
                self._remember(embedding)
        for start in range(whole, self.count, self.wave):
            yield from self._one_wave(range(start, min(start + self.wave, self.count)))

    def _one_wave(self, indices: range) -> Flow[None]:
        best: dict[int, tuple[float, str, Embedding]] = {}  # the least similar proposal so far
        rejected: dict[int, list[str]] = {i: [] for i in indices}
        accepted: dict[int, Topic] = {}
        self.problems.clear()
        for attempt in range(self.config.attempts):
            waiting = [i for i in indices if i not in accepted]
            if not waiting:
                break
            asks = [self._propose(i, attempt, rejected[i], [t.text for t in accepted.values()]) for i in waiting]
            answers = yield asks
            texts: dict[int, str] = {}
            for i, answer in zip(waiting, answers, strict=True):
                assert isinstance(answer, Completion)
                expert, cut = self.experts[self._proposer(i)], answer.finish == "length"
                if text := expert.read_topic(answer.text, cut):
                    texts[i] = text
                else:
                    self.problems[expert.why_no_topic(answer.text, cut) or "nothing"] += 1
            if not texts:
                continue
            embeddings = yield [self._embed(f"{conversation_id(i)}/topic/{attempt}", text) for i, text in texts.items()]
            for (i, text), embedding in zip(texts.items(), embeddings, strict=True):
                assert isinstance(embedding, Embedding)
                similarity, like = self._similarity(embedding), self._likeness(text, accepted.values())
                if similarity > self.config.max_similarity or like >= LIKE:
                    self.problems["near"] += 1
                    rejected[i].append(text)
                    if i not in best or similarity < best[i][0]:
                        best[i] = (similarity, text, embedding)
                    continue
                accepted[i] = Topic(id=conversation_id(i), text=text, source=self._proposer(i))
                self._remember(embedding)
        self._fill(indices, accepted, best)
        for i in indices:
            self.topics.append(accepted[i])
            self.keep(accepted[i])

    def _fill(self, indices: range, accepted: dict[int, Topic], best: Mapping[int, tuple[float, str, Embedding]]) -> None:
        """Topics for those that never got a new one, and a Note that says so."""
        repeated = [i for i in indices if i not in accepted]
        for i in repeated:
            if i in best:
                accepted[i] = Topic(id=conversation_id(i), text=best[i][1], source=self._proposer(i))
                self._remember(best[i][2])
                continue
            earlier = [*self.topics, *accepted.values()]
            if not earlier:
                raise ConfigError(
                    f"topics: expert {self._proposer(i)} proposed no readable topic in {self.config.attempts} attempts; "
                    f"raise topics.attempts, or give topics with topics=list or topics=file ({self._counted()})"
                )
            accepted[i] = Topic(id=conversation_id(i), text=earlier[i % len(earlier)].text, source=self._proposer(i))
        if repeated:
            names = ", ".join(f"{conversation_id(i)} ({accepted[i].text!r})" for i in repeated)
            taken = "the proposal least like the earlier topics is taken, or an earlier topic again"
            text = f"no new topic after {self.config.attempts} attempts for {names}: {taken} ({self._counted()})"
            self.announce(Note(text=text, level="warning"))

    def _counted(self) -> str:
        """What was wrong with the proposals of this wave, the commonest first."""
        return "of the proposals " + ", ".join(f"{n} {PROBLEMS[kind]}" for kind, n in self.problems.most_common())

    def _proposer(self, index: int) -> Speaker:
        return tuple(self.experts)[index % len(self.experts)]

    def _propose(self, index: int, attempt: int, rejected: Sequence[str], fresh: Sequence[str]) -> Ask:
        who = self._proposer(index)
        expert, count = self.experts[who], self.tokens.get(who)
        earlier = [text for text in (*(t.text for t in self.topics[-AVOIDED:]), *fresh) if text not in rejected]
        avoid = list(dict.fromkeys([*earlier, *rejected]))[-AVOIDED:]
        key = f"{conversation_id(index)}/topic/{attempt}"
        request = expert.topic_request(key, avoid)
        room = expert.context_length - request.decoding.max_new_tokens
        while count is not None and avoid and count(request.messages) > room:
            avoid = avoid[(len(avoid) + 1) // 2 :]
            request = expert.topic_request(key, avoid)
        return Ask(who, request, label="topics")

    def _embed(self, key: str, text: str) -> Ask:
        return Ask("embedder", EmbedRequest(key, text), label="embedder")

    def _remember(self, embedding: Embedding) -> None:
        """Keep the vector of a topic; one that points nowhere is left out, and the topic is known by its looks alone."""
        import numpy

        if not is_direction(embedding.vector):
            return
        if self._vectors is None:
            self._vectors = numpy.zeros((self.count, len(embedding.vector)), dtype=numpy.float32)
        self._vectors[self._rows] = embedding.vector
        self._rows += 1

    def _likeness(self, text: str, fresh: Iterable[Topic]) -> float:
        """How alike a topic looks to the closest earlier one, 0..1."""
        return max((alike(text, topic.text) for topic in (*self.topics, *fresh)), default=0.0)

    def _similarity(self, embedding: Embedding) -> float:
        """Cosine with the closest earlier topic; -1 where there is none, or where the vector points nowhere."""
        if not self._rows or not is_direction(embedding.vector):
            return -1.0
        import numpy

        return float((self._vectors[: self._rows] @ numpy.asarray(embedding.vector, dtype=numpy.float32)).max())
