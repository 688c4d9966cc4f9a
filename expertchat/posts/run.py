"""`expertchat posts`: personas and topics -> posts, none like another, in several languages; into one folder that goes on.

A post has a place. What a model writes for it may be no post (cut, in another language, a refusal) or like one that is there already: then
another persona writes about another topic, `attempts` times at most. All places that lack a post are written for at once.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from expertchat.backends.asking import Ask, Flow
from expertchat.backends.base import Backend, Completion, Embedder, Embedding, EmbedRequest, GenerateRequest
from expertchat.config import ConfigError
from expertchat.events import Sink
from expertchat.experts.base import ExpertChat, History
from expertchat.folder.summary import seconds_of
from expertchat.folder.writing import replace
from expertchat.judging.wim import is_direction
from expertchat.lab.frame import RunFrame
from expertchat.posts.config import MODEL, NOBODY, PostsConfig
from expertchat.posts.store import PostsFolder
from expertchat.preferences.candidates import altered
from expertchat.records import Message, Post, Turn
from expertchat.records.posts import Fault
from expertchat.sources.config import SourceConfig
from expertchat.sources.read import read_items
from expertchat.talk.cast import load_cast
from expertchat.talk.journal import Journal
from expertchat.talk.topics import given_topics
from expertchat.text.cells import csv_cell
from expertchat.text.language import language_of
from expertchat.text.likeness import blank
from expertchat.text.refusals import refuses
from expertchat.text.sentences import one_line, sentences
from expertchat.text.wordings import fill

EMBEDDER = "embedder"
POSTS, TABLE, PART = "posts.jsonl", "posts.csv", "part-{}.jsonl"
FAULTS: dict[Fault, str] = {
    "blank": "says nothing", "refusal": "refuses", "cut": "was cut by the token limit",
    "altered": "holds markup, thoughts or another's words", "language": "is in another language", "near": "is like an earlier one",
}  # fmt: skip


class Brief(NamedTuple):
    """What one post is to be: by whom, about what. `persona`: its name, and who that is."""

    language: str
    persona: tuple[str, str]
    topic: str


def run_posts(
    config: PostsConfig,
    command_line: list[str],
    sink: Sink,
    *,
    backends: Mapping[str, Backend] | None = None,
    embedder: Embedder | None = None,
) -> int:
    """Write the posts, or go on with it. Returns 0 when they are there, 3 when it was stopped and can go on, 1 when there is none.

    `sink` is closed at the end. `backends` ("model") and `embedder` replace those of the config. Raises ConfigError for what is wrong with
    the config or the files.
    """
    return _Writing(config, command_line, backends, embedder).run(sink)


def briefs_of(config: PostsConfig) -> dict[str, list[Brief]]:
    """For each language all that could be written about, shuffled by the seed. Raises ConfigError for topics that cannot be read."""
    found: dict[str, list[Brief]] = {}
    for name, language in config.languages.root.items():
        topics = [topic.text for topic in given_topics(language.topics, config.count * config.attempts, config.run.seed)]
        personas = list(language.personas.items()) or [("", NOBODY)]
        every = [Brief(name, persona, topic) for topic, persona in product(topics, personas)]
        random.Random(f"{config.run.seed} {name}").shuffle(every)
        found[name] = every
    return found


def texts_apart(config: PostsConfig) -> list[str]:
    """The posts that these must not be like. Raises ConfigError for files that hold none."""
    paths = [str(Path(path).expanduser() / POSTS) if Path(path).expanduser().is_dir() else path for path in config.apart]
    return [text.text for item in read_items(SourceConfig(path=paths)) for text in item.texts] if paths else []


class Unlike:
    """The embeddings of the posts that are taken, by which a further one is told apart."""

    def __init__(self, room: int) -> None:
        self._room, self._names = room, list[str]()
        self._vectors: Any = None  # one unit-length row for each

    def nearest(self, vector: Sequence[float]) -> tuple[str | None, float | None]:
        """The nearest one that is taken, and the cosine; None where there is none, or where the vector points nowhere."""
        import numpy

        if self._vectors is None or not is_direction(vector):
            return None, None
        cosines_N = self._vectors[: len(self._names)] @ numpy.asarray(vector, dtype=numpy.float32)
        at = int(cosines_N.argmax())
        return self._names[at], min(1.0, float(cosines_N[at]))

    def take(self, name: str, vector: Sequence[float]) -> None:
        """Remember one; a vector that points nowhere is left out."""
        import numpy

        if not is_direction(vector):
            return
        if self._vectors is None:
            self._vectors = numpy.zeros((self._room, len(vector)), dtype=numpy.float32)
        self._vectors[len(self._names)] = vector
        self._names.append(name)


class _Writing(RunFrame[PostsConfig, PostsFolder]):
    command, folder = "posts", PostsFolder

    def __init__(
        self, config: PostsConfig, command_line: list[str], backends: Mapping[str, Backend] | None, embedder: Embedder | None
    ) -> None:
        super().__init__(config, command_line, backends)
        self.embedder = embedder

    def read(self) -> None:
        self.briefs, self.others = briefs_of(self.config), texts_apart(self.config)

    def work(self) -> int:
        store, config = self.store, self.config
        self.loaded(lambda: load_cast(config, self.hub, self.backends, self.embedder))
        store.open()
        before = sum(one.fault is None for one in store.posts.values())
        self.begins(conversations=config.count, turns=1, resumed=before)
        self.unlike, self.taken = Unlike(config.count + len(self.others)), dict[int, Post]()
        for name, vector in self._vectors({f"apart-{i}": text for i, text in enumerate(self.others)}).items():
            self.unlike.take(name, vector)
        for attempt in range(config.attempts):
            if (lacking := [place for place in range(config.count) if place not in self.taken]) and not self._pass(attempt, lacking):
                return self.stopped()
        return self.finished(self._end())

    # -- a pass over the places that lack a post ----------------------------------------------------------------------------

    def _pass(self, attempt: int, places: Sequence[int]) -> bool:
        """Write for each place, and take what is a post and unlike those before it; False: stopped by a signal."""
        answers: dict[int, Completion] = {}
        journal = Journal(self.store.answers, self.store.keep_answer)

        def flow(place: int) -> Flow[None]:
            (answer,) = yield [Ask(MODEL, self._request(place, attempt), MODEL)]
            assert isinstance(answer, Completion)
            answers[place] = answer

        if not self.asked((journal.over(flow(place)) for place in places), self.config.count, len(self.taken)):
            return False
        posts = {place: self._read(place, attempt, answers[place]) for place in places}
        vectors = self._vectors({post.id: post.text for post in posts.values() if post.fault is None})
        for place, post in posts.items():
            self._weigh(place, post, vectors.get(post.id))
        return True

    def _weigh(self, place: int, post: Post, vector: Sequence[float] | None) -> None:
        """Take a post that is unlike the others; what an earlier start has said of it stands."""
        if vector is not None:
            near, cosine = self.unlike.nearest(vector)
            like = cosine is not None and cosine > self.config.max_similarity
            post = post.model_copy(update={"near": near, "similarity": cosine, "fault": "near" if like else None})
        post = self.store.posts.get(post.id, post)
        self.store.keep(post)
        if post.fault is None and vector is not None:
            self.taken[place] = post
            self.unlike.take(post.id, vector)

    def _vectors(self, texts: Mapping[str, str]) -> dict[str, tuple[float, ...]]:
        if not texts:
            return {}
        found = self.cast.backends[EMBEDDER].embed([EmbedRequest(name, text) for name, text in texts.items()])
        assert all(isinstance(one, Embedding) for one in found)
        return {name: one.vector for name, one in zip(texts, found, strict=True)}

    # -- a post -------------------------------------------------------------------------------------------------------------

    def _brief(self, place: int, attempt: int) -> Brief:
        """Languages by turns; a place that is written for again gets what nobody has written about yet, as long as there is some."""
        names = list(self.briefs)
        every = self.briefs[names[place % len(names)]]
        return every[(place // len(names) + attempt * -(-self.config.count // len(names))) % len(every)]

    def _request(self, place: int, attempt: int) -> GenerateRequest:
        brief, expert = self._brief(place, attempt), self.expert
        key = f"s{place:04d}/a{attempt}"
        wording = self.config.languages.root[brief.language].wording
        if wording is None:
            return expert.reply_request(key, History(brief.topic, ()), self.cast.tokens[MODEL])[0]
        asked = fill(wording, expert.special_tokens, persona=brief.persona[1], topic=brief.topic)
        return GenerateRequest(key, expert.chat("", [Message("user", asked)]), expert.settings.reply)

    @property
    def expert(self) -> ExpertChat:
        return self.cast.experts[MODEL]

    def _read(self, place: int, attempt: int, answer: Completion) -> Post:
        """What the model wrote as a post, on one line, and what is wrong with it by itself."""
        brief, read = self._brief(place, attempt), self.expert.read_reply(answer.text)
        thinking = read.thinking if read.thought else None
        turn = Turn(speaker=self.expert.letter, text=read.text, thinking=thinking, beyond=read.beyond or None)
        text, cut = plain(read.text), answer.finish == "length"
        if cut and self.config.cut == "shorten" and (whole := shortened(text)) is not None:
            text, cut = whole, False
        return Post(
            id=f"s{place:04d}/a{attempt}", place=place, language=brief.language, persona=brief.persona[0], topic=brief.topic, text=text,
            tokens=answer.tokens, fault=self._fault(text, brief, cut, altered(turn, answer) is not None),
        )  # fmt: skip

    def _fault(self, text: str, brief: Brief, cut: bool, changed: bool) -> Fault | None:
        marks = {name: language.marks for name, language in self.config.languages.root.items() if language.marks}
        if blank(text):
            return "blank"
        if changed:
            return "altered"
        if refuses(text):
            return "refusal"
        if cut:
            return "cut"
        found = language_of(text, marks)
        return "language" if len(marks) > 1 and brief.language in marks and found not in (brief.language, None) else None

    # -- the end ------------------------------------------------------------------------------------------------------------

    def _end(self) -> dict[str, Any]:
        """Write the posts as tables, and return the summary."""
        posts, config, folder = [self.taken[place] for place in sorted(self.taken)], self.config, self.store.folder
        with self.store.writing():
            replace(folder / TABLE, _csv(posts), sync=True)
            replace(folder / POSTS, _rows(posts), sync=True)
            for n in range(config.parts if config.parts > 1 else 0):
                replace(folder / PART.format(n + 1), _rows(posts[n :: config.parts]), sync=True)
        written = list(self.store.posts.values())
        similar = [post.similarity for post in posts if post.similarity is not None]
        summary: dict[str, Any] = {
            "schema": 1, "wanted": config.count, "posts": len(posts), "written": len(written), "tokens": sum(one.tokens for one in written),
            "languages": {name: _of_language(name, posts, written) for name in config.languages.root},
            "faults": {FAULTS[fault]: n for fault, n in Counter(one.fault for one in written if one.fault).most_common()},
            "topics": len({post.topic for post in posts}), "nearest": max(similar, default=None),
            "seconds": round(seconds_of(folder), 2), "examples": {name: next((one.text for one in posts if one.language == name), None)
                                                                  for name in config.languages.root},
        }  # fmt: skip
        if posts:
            return summary
        why = next(iter(summary["faults"]), "nothing was written")
        return summary | {"status": "failed", "reason": f"there is no post: of {len(written)} texts the commonest fault is that one {why}"}


def plain(text: str) -> str:
    """A post on one line, without the quotation marks that a model may put around it.

    >>> plain(' "Tom is missing.\\nHe is grey." ')
    'Tom is missing. He is grey.'
    """
    line = one_line(text).strip()
    quoted = len(line) > 1 and (line[0], line[-1]) in {('"', '"'), ("“", "”"), ("„", "“"), ("'", "'")} and line.count(line[0]) <= 2
    return line[1:-1].strip() if quoted else line


def shortened(text: str) -> str | None:
    """The whole sentences of a text that was cut; None where there is none.

    >>> shortened("Tom is missing. He is grey. He was last se"), shortened("Tom is mis")
    ('Tom is missing. He is grey.', None)
    """
    whole = sentences(text)[:-1]
    return " ".join(whole) if whole else None


def _of_language(name: str, posts: Sequence[Post], written: Sequence[Post]) -> dict[str, int]:
    own = [one for one in written if one.language == name]
    return {"posts": sum(one.language == name for one in posts), "written": len(own)}


def _rows(posts: Sequence[Post]) -> str:
    """One JSON object a line, as tables are read: `group` is the topic."""
    keys = ("id", "language", "persona", "topic", "text")
    rows = ({key: getattr(post, key) for key in keys} | {"group": post.topic} for post in posts)
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def _csv(posts: Sequence[Post]) -> str:
    """One column, Posts; those that a table program would take for formulas have an apostrophe."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([["Posts"], *([csv_cell(post.text)] for post in posts)])
    return out.getvalue()


def apart_problems(config: PostsConfig) -> Iterator[str]:
    """What is wrong with the places of posts that these must not be like."""
    for path in config.apart:
        place = Path(path).expanduser()
        if not place.exists() or (place.is_dir() and not (place / POSTS).is_file()):
            yield f"apart: {path} is no file of posts, and no folder of `expertchat posts`; correct it"


def check_briefs(config: PostsConfig) -> Iterator[str]:
    """What is wrong with languages and topics, as far as it can be known before anything is loaded."""
    if not config.languages.root:
        yield "languages: names none; name one or several, as languages=[en,de]"
    world = config.model.family == "world"
    for name, language in config.languages.root.items():
        if world and language.wording is not None:
            # Under the model's own key: where another model was named and is wrong, nothing is said of the one in its place.
            yield f"model.family=world: the embedded models cannot write posts in '{name}'; take languages=[embedded], or another model"
    try:
        briefs_of(config)
    except ConfigError as error:
        yield from (f"languages: {problem}" for problem in error.problems)
