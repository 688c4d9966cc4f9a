"""Topics: files good and bad, lists used again, and proposals by the models without near-duplicates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.backends.base import GenerateRequest
from expertchat.config import ConfigError, TopicsConfig
from expertchat.events import AnyEvent, Note
from expertchat.records import Topic
from expertchat.talk.scheduler import Scheduler
from expertchat.talk.topics import Proposals, given_topics, read_topics
from tests.scripted import WORDS, BagOfWords, Double, hashed
from tests.test_conversation import experts


def topics_config(**values: object) -> TopicsConfig:
    return TopicsConfig.model_validate({"source": "models", "list": [], **values})


def test_text_file(tmp_path: Path) -> None:
    file = tmp_path / "topics.txt"
    file.write_bytes("\ufeff# animals\nbees\n\n  otters \t of the sea \r\n#tides\nÄpfel".encode())
    assert read_topics(file) == ["bees", "otters of the sea", "Äpfel"]


def test_jsonl_file(tmp_path: Path) -> None:
    file = tmp_path / "topics.jsonl"
    file.write_text('{"topic": "bees"}\n\n{"text": "ti\\u0000des", "more": 1}\n{"topic": "a\\ud800b"}\n')
    assert read_topics(file) == ["bees", "tides", "a\ufffdb"]  # a control character is left out, a lone surrogate cannot be written


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", b"bees\notters\nca\xf1on\n", r"line 3, byte 3 of the line is 0xf1; save the file as UTF-8"),
        ("t.txt", "bees".encode("utf-16-le"), "looks like UTF-16 without a byte order mark; save the file as UTF-8"),
        ("t.txt", "bees".encode("utf-16")[:-1], r"is not UTF-16: byte 9 of the file \(truncated data\)"),
        ("t.txt", b"", "holds no topic"),
        ("t.txt", b"# only\n#comments\n", "holds no topic"),
        ("t.jsonl", b'{"topic": "bees"}\nbees\n', "line 2 is not JSON"),
        ("t.jsonl", b'{"topic": 3}\n["x"]\n', 'line 1 has no text under "topic"'),
        ("t.jsonl", b"[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_topics(tmp_path / name)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"topics.file: .*none.txt: no such file"):
        read_topics(tmp_path / "none.txt")
    with pytest.raises(ConfigError, match=r"cannot be read .*directory"):
        read_topics(tmp_path)


def test_many_bad_lines_are_counted(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("x\n" * 15)
    with pytest.raises(ConfigError) as error:
        read_topics(tmp_path / "t.jsonl")
    assert len(error.value.problems) == 11 and error.value.problems[-1].endswith("and 5 more lines like these")


@given(st.binary(max_size=200))
def test_any_bytes_give_topics_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    for name in ("any.txt", "any.jsonl"):
        (folder / name).write_bytes(content)
        try:
            topics = read_topics(folder / name)
        except ConfigError:
            continue
        assert topics and all(topic.strip() and "\n" not in topic for topic in topics)


def test_thoughts_and_refusals_are_no_topic() -> None:
    expert = experts()["a"]
    assert expert.read_topic("<think>bees?</think>\nThe tides") == "The tides"
    assert expert.read_topic("<think>The tides") is None and expert.read_topic("I'm sorry, but I can't help with that.") is None


def test_list_in_order_and_shuffled_by_seed() -> None:
    names = list("abcdefgh")
    plain = topics_config(source="list", list=names)
    assert [t.text for t in given_topics(plain, 3, 0)] == ["a", "b", "c"]
    assert [(t.id, t.text) for t in given_topics(plain, 20, 0)] == [(f"c000{i}", n) for i, n in enumerate(names)]
    mixed = topics_config(source="list", list=names, shuffle=True)
    one, two = ([t.text for t in given_topics(mixed, 8, seed)] for seed in (1, 2))
    assert one != two and sorted(one) == sorted(two) == names
    assert one == [t.text for t in given_topics(mixed, 8, 1)]


def propose(
    reply: Callable[[GenerateRequest], str],
    count: int,
    max_batch: int = 4,
    known: tuple[Topic, ...] = (),
    sampling: bool = True,
    **values: object,
) -> tuple[list[Topic], list[AnyEvent], Double]:
    events: list[AnyEvent] = []
    double = Double(reply)
    two = experts()
    if not sampling:
        for expert in two.values():
            object.__setattr__(expert.settings, "topic", expert.settings.judge)  # greedy
    proposals = Proposals(two, topics_config(**values), count, lambda topic: None, events.append, {"a": double.count_tokens})
    Scheduler({"a": double, "b": double, "embedder": BagOfWords()}, max_batch).run([proposals.flow(known)])
    return proposals.topics, events, double


def some_words(request: GenerateRequest) -> str:
    number = hashed(request.key + request.messages[-1].content)
    return f"{WORDS[number % 20]} {WORDS[number // 20 % 20]}"


def test_experts_propose_in_turn() -> None:
    topics, events, _ = propose(lambda r: f"Topic: {WORDS[int(r.key[1:5])]}.", 4)
    assert [(t.id, t.text, t.source) for t in topics] == [
        ("c0000", "amber", "a"),
        ("c0001", "birch", "b"),
        ("c0002", "cedar", "a"),
        ("c0003", "delta", "b"),
    ]
    assert not events


def test_a_near_duplicate_is_proposed_again_and_named_as_one_to_avoid() -> None:
    def reply(request: GenerateRequest) -> str:
        index, attempt = int(request.key[1:5]), int(request.key.rsplit("/", 1)[1])
        return "the bees" if attempt == 0 else f"{WORDS[index]}"

    # "the bees" twice has cosine 1 > 0.9: c0000 keeps it, c0001 proposes again.
    topics, events, double = propose(reply, 2)
    assert [t.text for t in topics] == ["the bees", "birch"] and not events
    assert double.asked() == ["c0000/topic/0", "c0001/topic/0", "c0001/topic/1"]
    assert double.requests[-1].messages[-1].content.endswith("Already discussed: the bees.")


def test_similar_enough_is_a_duplicate_only_above_the_limit() -> None:
    # "red bees" and "red otters" share one of two words: cosine 1 / (sqrt 2 * sqrt 2) = 0.5.
    def reply(request: GenerateRequest) -> str:
        return "red bees" if request.key.startswith("c0000") else "red otters"

    assert [t.text for t in propose(reply, 2, max_similarity=0.51)[0]] == ["red bees", "red otters"]
    _, events, _ = propose(reply, 2, max_similarity=0.49)
    assert len(events) == 1


def test_after_the_attempts_the_least_similar_is_taken_with_a_note() -> None:
    def reply(request: GenerateRequest) -> str:
        if request.key.startswith("c0000"):
            return "amber birch cedar"
        return ["amber birch cedar", "amber birch delta", "amber birch cedar"][int(request.key[-1])]  # cosines 1, 2/3, 1

    topics, events, double = propose(reply, 2, attempts=3, max_similarity=0.5)
    assert [t.text for t in topics] == ["amber birch cedar", "amber birch delta"]
    assert len(double.asked()) == 4  # 1 + 3 attempts
    (note,) = events
    assert isinstance(note, Note) and "after 3 attempts for c0001 ('amber birch delta')" in note.text and note.level == "warning"


def test_no_readable_topic() -> None:
    topics, events, _ = propose(lambda r: "bees" if r.key.startswith("c0000") else "...", 2)
    assert [t.text for t in topics] == ["bees", "bees"] and len(events) == 1
    with pytest.raises(ConfigError, match=r"proposed no readable topic in 4 attempts; raise topics\.attempts"):
        propose(lambda r: "...", 2)


def test_topics_do_not_depend_on_the_batch_size_or_a_break() -> None:
    whole, _, _ = propose(some_words, 20, max_similarity=0.6)
    assert len({t.text for t in whole}) > 15
    for max_batch in (1, 3, 64):
        assert propose(some_words, 20, max_batch, max_similarity=0.6)[0] == whole
    for n in range(21):
        assert propose(some_words, 20, known=tuple(whole[:n]), max_similarity=0.6)[0] == whole


def test_experts_without_noise_propose_two_at_a_time() -> None:
    """A greedy expert answers the same request the same way: eight of them side by side would all be duplicates."""

    def reply(request: GenerateRequest) -> str:
        words = request.messages[-1].content
        return next(w for w in (WORDS if request.key[4] in "02468" else WORDS[::-1]) if w not in words)

    topics, events, double = propose(reply, 8, sampling=False)
    assert len({t.text for t in topics}) == 8 and not events
    assert max(len(batch) for batch in double.batches) == 2


def test_avoided_topics_are_few_and_fit_the_context() -> None:
    _, _, double = propose(lambda r: "t" + r.key[1:5], 30)
    last = double.requests[-1].messages[-1].content
    assert last.count(",") == 11  # twelve of the earlier topics
