"""Files of users from any system, in any script: read as they are meant, or refused with what to do."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from expertchat.backends.scripted import read_script
from expertchat.command.compose import load
from expertchat.config import ConfigError, PersonaConfig
from expertchat.experts.registry import persona_brief
from expertchat.talk.topics import read_topics

SCRIPTS = [
    "寿司の歴史", "کتاب‌خانه‌ها", "क्‍ष और ज्ञ", "🏳️‍🌈 و 👨‍👩‍👧", "Ünïcödé e\u0301", "vol de nuit\u00a0?", "漢字\u3000語", "ภาษา", 'say "hi", all'
]  # fmt: skip
CODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]
ENDS = {"unix": "\n", "windows": "\r\n", "old mac": "\r", "mainframe": "\x85", "line separator": "\u2028", "paragraph separator": "\u2029"}


def written(folder: Path, name: str, text: str, coding: str = "utf-8") -> Path:
    file = folder / name
    file.write_bytes(text.encode(coding))
    return file


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_list_in_every_coding_with_every_line_end(tmp_path: Path, end: str, coding: str) -> None:
    text = end.join(["# all of them", *SCRIPTS, "", "  trailing \t spaces  "]) + end
    assert read_topics(written(tmp_path, "t.txt", text, coding)) == [*SCRIPTS, "trailing spaces"]


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_objects_and_tables_in_every_coding(tmp_path: Path, end: str, coding: str) -> None:
    inside = ["a\u2028b", *SCRIPTS]  # a line separator may stand in a JSON string; a topic is one line
    found = ["a b", *SCRIPTS]
    lines = end.join(json.dumps({"topic": t}, ensure_ascii=False) for t in inside)
    assert read_topics(written(tmp_path, "t.jsonl", lines, coding)) == found
    assert read_topics(written(tmp_path, "t.json", json.dumps(inside, ensure_ascii=False, indent=1), coding)) == found
    quoted = ['"' + t.replace('"', '""') + '"' for t in SCRIPTS]
    for name, mark in (("t.csv", ","), ("t.csv", ";"), ("t.tsv", "\t")):
        table = end.join(mark.join(row) for row in [["n", " Topic ", "why"], *(["1", t, '"x, y"'] for t in quoted)]) + end
        assert read_topics(written(tmp_path, name, table, coding)) == SCRIPTS


def test_a_column_is_named_or_refused_with_the_columns(tmp_path: Path) -> None:
    table = 'id,Question,Answer\n1,"Why, bees?",yes\n2,"two\nlines",no\n3,,\n'
    file = written(tmp_path, "t.csv", table)
    assert read_topics(file, "question") == ["Why, bees?", "two lines"]
    with pytest.raises(ConfigError, match=r"name one with topics\.column=NAME: its first line has 'id', 'Question', 'Answer'"):
        read_topics(file)
    with pytest.raises(ConfigError, match=r"no column 'why'; name one .*: its first line has 'id', 'Question', 'Answer'"):
        read_topics(file, "why")
    assert read_topics(written(tmp_path, "t.jsonl", '{"question": "bees", "topic": "no"}\n'), "question") == ["bees"]
    assert read_topics(written(tmp_path, "e.csv", 'sep=;\r\n"topic";"why, else"\r\n"bees";"x";\r\n')) == ["bees"]
    assert read_topics(written(tmp_path, "f.csv", '"topic";"why, else, or, more"\r\n"a, b";"x"\r\n')) == ["a, b"]
    assert read_topics(written(tmp_path, "one.csv", "topic\r\nbees\r\ntides\r\n")) == ["bees", "tides"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"bees\ntides\n", r"no column called topic or text; .* its first line has 'bees'"),
        ("t.csv", b'topic\n"bees\n', "line 2 is not written as a table"),
        ("t.csv", b"topic,x\n", "holds no topic"),
        ("t.csv", b"topic\nWhy, bees?\ntides\n", r"1 of 2 rows have more cells than the first line \('topic'\), such as \['Why'"),
        ("t.csv", b"", "holds no topic"),
        ("t.txt", b"bees\t1\ntides\t2\n", r"every line has the same number of tabs: if it is a table, call it \.tsv or \.csv"),
        ("t.txt", b"\x00b\x00e\x00e\x00s", "looks like UTF-16 without a byte order mark"),
        ("t.txt", b"\xff\xfeb\x00e", r"is not UTF-16: byte 5 of the file"),
        ("t.csv", b"PK\x03\x04rest", "is no text but an office document or a zip archive; save it as UTF-8 text"),
        ("t.txt", b"\x1f\x8b\x08rest", "is no text but compressed"),
        ("t.json", b'[{"topic": "bees"}, {"x": 1}, 3]', r"entry 2 has no text under"),
        ("t.json", b"[]", "holds no topic"),
        ("t.jsonl", b'"bees"\n', r'line 1 has no text under "topic" or "text"'),
    ],
)
def test_what_is_no_list_is_refused_with_the_remedy(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_topics(tmp_path / name)


def test_a_column_of_a_plain_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"topics.*column=x is the column of a file"):
        load("converse", ["topics=list", "topics.list=[bees]", "topics.column=x"])
    with pytest.raises(ConfigError, match=r"topics\.column=x is set"):
        read_topics(written(tmp_path, "t.txt", "bees\n"), "x")


@pytest.mark.parametrize("reads", [read_topics, read_script], ids=["topics", "script"])
def test_what_cannot_be_opened(tmp_path: Path, reads: object) -> None:
    assert callable(reads)
    for path, why in ((tmp_path / "none", "no such file"), (tmp_path, "Is a directory"), (Path("a\0b"), "null")):
        with pytest.raises(ConfigError, match=why):
            reads(path)
    if os.geteuid():
        closed = written(tmp_path, "closed", "x")
        closed.chmod(0)
        with pytest.raises(ConfigError, match="Permission denied"):
            reads(closed)


def test_a_hundred_thousand_lines_and_a_huge_one(tmp_path: Path) -> None:
    began = time.monotonic()
    assert len(read_topics(written(tmp_path, "t.txt", "\n".join(f"{SCRIPTS[n % 9]} {n}" for n in range(100_000))))) == 100_000
    assert len(read_topics(written(tmp_path, "l.txt", "x" * 5_000_000))[0]) == 5_000_000
    assert len(read_topics(written(tmp_path, "t.csv", "topic\n" + "x" * 1_000_000))[0]) == 1_000_000
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("coding", CODINGS)
def test_replies_of_a_script_in_every_coding(tmp_path: Path, coding: str) -> None:
    texts = ["a\u2028b\x85c\x1cd", *SCRIPTS]
    lines = "\r\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in texts)
    (rule,) = read_script(written(tmp_path, "s.jsonl", lines, coding))
    assert list(rule.texts) == texts  # `splitlines` broke a reply at characters that JSON lets stand


def test_half_a_character_in_a_script_can_be_written(tmp_path: Path) -> None:
    (rule,) = read_script(written(tmp_path, "s.jsonl", '{"text": "a\\ud800b \\ud83d\\ude00"}'))
    assert rule.texts == ("a\ufffdb 😀",) and rule.texts[0].encode()


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_personas_in_every_coding(tmp_path: Path, end: str, coding: str) -> None:
    text = end.join(["poet: |", "  شاعر می‌خواهم {topic}", "  zweite Zeile 👩‍🚀", "Ärztin: kurz", ""])
    file = written(tmp_path, "p.yaml", text, coding)
    assert persona_brief(PersonaConfig(name="poet", file=str(file))) == "شاعر می‌خواهم {topic}\nzweite Zeile 👩‍🚀"
    assert persona_brief(PersonaConfig(name="Ärztin", file=str(file))) == "kurz"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"poet: caf\xe9", r"is not UTF-8: line 1, byte 10 of the line is 0xe9; save the file"),
        (b"PK\x03\x04", "is no text"),
        (b"[" * 5000, "YAML"),
    ],
)
def test_bad_persona_files_say_what_to_do(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "p.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        persona_brief(PersonaConfig(name="poet", file=str(tmp_path / "p.yaml")))
    assert re.search("p.yaml", str(error.value))
