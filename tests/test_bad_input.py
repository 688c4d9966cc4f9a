"""Each wrong input: exit code 2, one message that names what is wrong and what to do, no traceback, nothing written over."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from expertchat import cli
from expertchat.doors.guard import guarded
from expertchat.folder.writing import write_out

Err = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def scripted(tmp_path: Path) -> list[str]:
    """Two scripted experts without WIM (so without an embedder): everything of a run but the models."""
    script = tmp_path / "script.jsonl"
    replies = ["Tides follow the Moon.", "Why twice a day?", "There are two bulges.", "And spring tides?"]
    rules = [{"match": "Judge expert", "text": "8"}, {"text": replies}]
    script.write_text("".join(json.dumps(rule) + "\n" for rule in rules))
    seats = [f"experts.{seat}.{key}" for seat in "ab" for key in ("backend=scripted", f"script={script}")]
    small = ["topics=list", "topics.list=[tides]", "conversation.count=1", "conversation.turns=2"]
    return ["converse", "view=none", "judging=numeric", *small, *seats]


def own_model(path: str | Path) -> list[str]:
    return ["converse", "view=none", "model@experts.a=auto", f"experts.a.path={path}", "judging=numeric"]


def refused(arguments: list[str], capsys: Err, *words: str) -> None:
    code = cli.main(arguments)
    out = capsys.readouterr()
    assert code == 2, (code, out.out, out.err)
    assert out.err.startswith("expertchat: "), out.err
    assert "Traceback" not in out.err + out.out
    for word in words:
        assert word in out.err, out.err


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("arguments", "words"), [
    ("converse conversation.trns=3", ["conversation.trns", "did you mean conversation.turns?"]),
    ("converse modl@experts.b=auto", ["modl@experts.b", "did you mean model@experts.b?"]),
    ("converse model@experts.b=mixtrall", ["'mixtrall'", "did you mean mixtral_8x7b?"]),
    ("converse conversation.turns=many", ["conversation.turns", "'many'"]),
    ("converse conversation.count=0 judging.z=2 engine.max_batch=-1", ["3 problems", ".count", "judging.z", "engine.max_batch", "is -1"]),
    ("converse topics=list topics.list=[]", ["topics", "empty"]),
    ("converse --cfg jub", []),
    ("world", ["build or check"]),
    ("world buld", ["did you mean build?"]),
    ("world check dialogues=0 threads=0", ["2 problems", "dialogues", "threads"]),
    ("watch", []),
    ("watch nowhere", ["nowhere"]),
    ("watch . --speed 0", []),
    ("nonsense", ["no command 'nonsense'"]),
    ("", ["name a command"]),
])  # fmt: skip
def test_command_lines(arguments: str, words: list[str], capsys: Err, tmp_path: Path) -> None:
    code = cli.main(arguments.split())
    err = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in err and err
    assert all(word in err for word in words), err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["runs", "report", "merge_runs", "arms", "wim", "converse --config", "runs . --out"])
def test_a_home_that_is_nobodys(words: str, capsys: Err) -> None:
    refused([*words.split(), "~nobody-here/x.csv"], capsys, "~nobody-here/x.csv: this machine knows no home folder ~nobody-here")


@pytest.mark.parametrize("words", ["runs ", "report ", "merge_runs ", "converse run.dir=", "judge judge=expected source.path="])
def test_a_name_that_no_disk_takes(words: str, capsys: Err) -> None:
    refused(f"{words}{'x' * 300}".split(), capsys, "File name too long", "shorten it")


def test_a_place_that_is_closed_is_wrong_input_where_it_was_named(capsys: Err) -> None:
    def closed() -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "theirs/run")

    assert guarded(closed, ["report", "theirs/run"]) == 2
    assert capsys.readouterr().err.startswith("expertchat: theirs/run: cannot be used (Permission denied); ")
    assert guarded(closed) == 1  # in the midst of a run it is not known who has named it
    assert "Traceback" in capsys.readouterr().err


def test_a_link_and_a_pipe_are_written_to(tmp_path: Path) -> None:
    """Both were replaced by a file, as root /dev/stdout too."""
    (tmp_path / "link.json").symlink_to("real.json")
    write_out("out", tmp_path / "link.json", "one")
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "real.json").read_text() == "one"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)
    write_out("out", tmp_path / "pipe", "two")
    assert (tmp_path / "pipe").is_fifo() and os.read(reader, 9) == b"two"
    os.close(reader)


def test_unknown_family(scripted: list[str], capsys: Err) -> None:
    refused([*scripted, "experts.a.family=lama"], capsys, "lama", "llama3", "mixtral", "auto")


@pytest.mark.parametrize(("content", "words"), [
    (b"tides\nice \xff cores\n", ["not UTF-8", "line 2"]),
    (b"\n  \n", ["no topic"]),
    (None, ["topics.txt", "no such file"]),
])  # fmt: skip
def test_topic_files(content: bytes | None, words: list[str], scripted: list[str], capsys: Err, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "topics.txt").write_bytes(content)
    without_list = [word for word in scripted if not word.startswith("topics")]
    refused([*without_list, "topics=file", "topics.file=topics.txt"], capsys, "topics.file", *words)


def test_topic_file_not_named(scripted: list[str], capsys: Err) -> None:
    without_list = [word for word in scripted if not word.startswith("topics")]
    refused([*without_list, "topics=file"], capsys, "topics", "file is not set")


@pytest.mark.parametrize(("path", "words"), [
    ("./nowhere", ["nowhere"]),
    ("embedded:gemma", ["embedded:gemma"]),
    ("someone/a-model-that-is-not-in-the-cache", ["someone/a-model-that-is-not-in-the-cache"]),
])  # fmt: skip
def test_missing_model(path: str, words: list[str], capsys: Err) -> None:
    refused(own_model(path), capsys, *words)


@pytest.mark.parametrize("content", ["", "{}", "{not json"])
def test_corrupt_model_folder(content: str, capsys: Err, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    if content:
        (folder / "config.json").write_text(content)
        (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    refused(own_model(folder), capsys, "broken")


def test_persona_that_is_not_in_its_file(scripted: list[str], capsys: Err, tmp_path: Path) -> None:
    (tmp_path / "personas.yaml").write_text("historian: You are a historian of {topic}.\n")
    persona = ["persona@experts.a.persona=file", "experts.a.persona.file=personas.yaml", "experts.a.persona.name=pirate"]
    refused([*scripted, *persona], capsys, "pirate", "historian")


def test_context_too_small_for_the_prompt(scripted: list[str], capsys: Err) -> None:
    # The reply alone may take 120 tokens: a context of 64 cannot hold prompt and reply.
    refused([*scripted, "experts.a.context_length=64"], capsys, "context", "64")


def test_run_folder_of_another_config(scripted: list[str], capsys: Err, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert cli.main([*scripted, f"run.dir={folder}"]) == 0, capsys.readouterr().err
    before = files(folder)
    refused([*scripted, f"run.dir={folder}", "conversation.turns=4"], capsys, "run", "conversation.turns")
    assert files(folder) == before
    assert cli.main([*scripted, f"run.dir={folder}"]) == 0  # the same command is still welcome


def test_run_folder_that_is_none(scripted: list[str], capsys: Err, tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.txt").write_text("Years of work.")
    refused([*scripted, f"run.dir={folder}"], capsys, "thesis")
    assert files(folder) == {"chapter1.txt": b"Years of work."}
    refused(["watch", str(folder)], capsys, "thesis")
    file = tmp_path / "file"
    file.write_text("not a folder")
    refused([*scripted, f"run.dir={file}"], capsys, "file")
    assert file.read_text() == "not a folder"


def test_model_without_a_chat_template(capsys: Err, tmp_path: Path) -> None:
    from tests.tiny import build

    folder = build(tmp_path / "bare", "llama3")
    (folder / "chat_template.jinja").unlink()
    capsys.readouterr()  # saving the model drew a progress bar
    refused(own_model(folder), capsys, "bare", "chat template")
    assert not (tmp_path / "runs").exists()  # though this shows only when the model is loaded
