"""One file of lines: what is torn is cut, what is damaged is refused, and a write that fails leaves whole lines."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat.config import ConfigError
from expertchat.folder.jsonl import Log, cut_torn_end, read_lines
from expertchat.folder.writing import WriteError

RECORDS = st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), max_size=6)


@settings(deadline=None)
@given(RECORDS, st.integers(0, 300), st.binary(max_size=8))
def test_a_torn_end_is_cut_to_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, str]], at: int, junk: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "torn.jsonl"
    whole = [(json.dumps(record) + "\n").encode() for record in records]
    content = b"".join(whole)[:at] + junk.replace(b"\n", b"?").replace(b"}", b"?")
    path.write_bytes(content)
    # What survives are the whole lines before the cut; junk without a newline or a closing brace makes no line whole.
    kept, size = [], 0
    for record, line in zip(records, whole, strict=True):
        size += len(line)
        if size <= at:
            kept.append(record)
    assert [line for _, line in read_lines(path)] == kept
    cut = cut_torn_end(path)
    assert path.read_bytes() == b"".join(whole[: len(kept)]) and cut == len(content) - path.stat().st_size
    log = Log(path)
    log.append('{"more": 1}')
    log.close()
    assert [line for _, line in read_lines(path)] == [*kept, {"more": 1}]


def test_a_long_torn_line_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b'{"b": "' + b"x" * 200_000)  # longer than the blocks in which the end is looked for
    assert cut_torn_end(path) == 200_007 and path.read_bytes() == b'{"a": 1}\n'


def test_zeros_at_the_end_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"\0" * 100 + b"\n")  # what a power cut can leave
    assert cut_torn_end(path) == 101


def test_damage_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": \n{"c": 3}\n')
    with pytest.raises(ConfigError, match=r"line 2 is not a JSON object: the file is damaged"):
        list(read_lines(path))


def test_a_failing_write_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(tmp_path / "x.jsonl")
    log.append('{"a": 1}')
    real = os.write

    def full(fd: int, content: bytes) -> int:
        if len(content) > 5:
            return real(fd, content[:5])  # the disk takes five bytes ...
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(WriteError, match="No space left on device; what was written before stays readable"):
        log.append('{"b": 22}')  # ... and 10 bytes need two writes
    monkeypatch.undo()
    assert (tmp_path / "x.jsonl").read_text() == '{"a": 1}\n'
    log.close()
    with pytest.raises(WriteError, match="is closed"):
        log.append("{}")
