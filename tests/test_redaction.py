"""Keys, tokens and passwords land in no file: refused where they are given, hidden where something is written; private files."""

from __future__ import annotations

import json
import os
import stat
import string
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat import cli
from expertchat.events import Note, RunFinished
from expertchat.folder import provenance
from expertchat.folder.run import Hub
from expertchat.folder.writing import replace
from expertchat.text.redaction import HIDDEN, given_secrets, hide, hide_in, hide_words, is_secret_name
from tests.scripted import Collect

ALNUM = string.ascii_letters + string.digits


def some(alphabet: str, least: int, most: int) -> st.SearchStrategy[str]:
    return st.text(st.sampled_from(alphabet), min_size=least, max_size=most)


FORMS = st.one_of(
    some(ALNUM, 20, 40).map("hf_{}".format),
    some(ALNUM, 20, 48).map("sk-{}".format),
    some(ALNUM, 20, 48).map("sk-proj-{}".format),
    some(ALNUM + "-_", 20, 90).map("sk-ant-api03-A0b1C2d3E4f5G6h7{}".format),
    some(ALNUM, 36, 36).map("ghp_{}".format),
    some(ALNUM + "_", 22, 80).map("github_pat_{}".format),
    some(ALNUM + "-_", 20, 20).map("glpat-{}".format),
    some(string.ascii_uppercase + string.digits, 16, 16).map("AKIA{}".format),
    some(ALNUM + "-_", 35, 35).map("AIza{}".format),
    some(ALNUM + "-", 12, 40).map("xoxb-{}".format),
    some(ALNUM + "-_", 8, 20).map("eyJhbGciOiJ9.eyJzdWIiOiIx{0}.{0}".format),
)
AROUND = st.sampled_from(["", " ", '"', "'", "=", ",", "/", "\n", ": ", "[", "topics.list=[a, ", "?x=", "é", "http://h/"])
NAMES = ["HF_TOKEN", "api_key", "OPENAI_API_KEY", "password", "db.password", "client_secret", "AWS_SECRET_ACCESS_KEY", "githubToken",
         "--wandb-api-key", "+experts.a.token", "SLURM_JWT_TOKEN", "passphrase", "private_key"]  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(FORMS, AROUND, AROUND)
def test_no_known_form_is_left_wherever_it_stands(secret: str, before: str, after: str) -> None:
    text = f"{before}{secret}{after}"
    for found in (hide(text, {}), *hide_words(["expertchat", text], {}), str(hide_in({"a": [text]}, {}))):
        assert secret not in found and secret[8:20] not in found
    assert len(given_secrets([text], {})) == 1 and secret[8:20] not in given_secrets([text], {})[0]


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(NAMES), some(ALNUM + "-_.!$%/+", 1, 40))
def test_what_is_named_a_secret_is_hidden_in_a_command_line_whatever_it_looks_like(name: str, secret: str) -> None:
    assert hide_words([f"{name}={secret}"], {}) == [f"{name}={HIDDEN}"]
    flag = f"--{name.lstrip('-+')}"
    if not secret.startswith("-"):
        assert hide_words(["x", flag, secret, "y"], {}) == ["x", flag, HIDDEN, "y"]
    [problem] = given_secrets([f"{name}={secret}"], {})
    assert "is called a secret" in problem


@settings(deadline=None, max_examples=200)
@given(some(ALNUM + "!-_.: é", 6, 30).map(str.strip).filter(lambda text: len(text) >= 6), AROUND, AROUND)
def test_the_values_of_the_environments_secrets_are_hidden_wherever_they_stand(value: str, before: str, after: str) -> None:
    if value.lower() in ("enabled", "disabled", "default"):
        return
    for name in ("MY_TOKEN", "DB_PASSWORD", "WANDB_API_KEY"):
        assert value not in hide(f"{before}{value}{after}", {name: value}).replace(HIDDEN, "")
    assert hide(f"the {value} stays", {"EXPERTCHAT_NAME": value, "HF_TOKEN_PATH": value}) == hide(f"the {value} stays", {})


@pytest.mark.parametrize("text", [
    "conversation.max_tokens=300", "experts.a.decoding.reply.max_new_tokens=120", "pad_token='</s>'", "tokens=3072",
    "password: why do people reuse one?", "topics.list=[the secret of bees, sk-learn-and-other-toolkits-2024, a basic question]",
    "topics.list=[basic COVID-19 facts, basic arithmetic in base-10]", "basic income2024", "the basic Internet2-network",
    "topics.list=[why is auth=none bad]", "Authorization: Token economies of 2024",
    "ssh://git@host/x", "https://huggingface.co/a/b", "mail a@b.c",
    "a bearer of news", "the token economy of 2024", "embedder.path=package:x/y.zip#sha256=0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e75",
])  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert hide(text, {}) == text
    assert given_secrets([text], {}) == []


@pytest.mark.parametrize("text", [
    "def key(token: str, api_key: str | None = None) -> str:", "token = tokenizer.eos_token", "secret = settings.secret",
    "api_key=os.environ['OPENAI_API_KEY']", "export HF_TOKEN=$OTHER", "+        return Client(token=token, auth=True)",
])  # fmt: skip
def test_code_that_handles_secrets_stays(text: str) -> None:
    assert hide(text, {}) == text


@pytest.mark.parametrize(("text", "secret"), [
    ("https://user:pa55word@host/x", "pa55word"),
    ("git clone https://t0ken@github.com/a/b", "t0ken"),
    ("postgres://u:p@h/db", ":p@"),
    ("Authorization: Bearer abc.def-123456", "abc.def-123456"),
    ("Authorization: Token 9944b09199c62bcf9418ad846dd0e4bbdfc6ee4b", "9944b0"),
    ("{'Authorization': 'Basic QWxhZGRpbjpvcGVu'}", "QWxhZGRpbjpvcGVu"),
    ("-H 'authorization: basic abcdef123456'", "abcdef123456"),
    ("proxy: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "QWxhZGRpbjpvcGVu"),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI"),
    ("--export=ALL,HF_TOKEN=zzz,FOO=1", "zzz"),
    ('+    password = "hunter2"', "hunter2"),
    ('{"api_key": "abc def"}', "abc def"),
    ("password: hunter2\nname: x", "hunter2"),
    ("-----BEGIN RSA PRIVATE KEY-----\n+MIIE\n+-----END RSA PRIVATE KEY-----\nrest", "MIIE"),
    ("-----BEGIN OPENSSH PRIVATE KEY-----\n+b3Blbn", "b3Blbn"),
])  # fmt: skip
def test_secrets_in_text_are_hidden(text: str, secret: str) -> None:
    assert secret not in hide(text, {})


def test_a_secret_in_the_middle_of_a_word_of_a_command_line_is_refused_where_it_looks_like_one() -> None:
    for text in ("--export=ALL,MY_SECRET=zzz", "x=[access_token=abc123def]", "url=h?api_key=AbcDefGhi", "password=hunter", "a.token=none"):
        assert len(given_secrets([text], {})) == 1
    for text in ("topics.list=[the secret=happiness]", "topics.list=[a password=Happiness]", "topics.list=[pat=a1]"):
        assert given_secrets([text], {}) == []


def test_names_of_secrets() -> None:
    assert all(is_secret_name(name) for name in NAMES)
    others = ["max_tokens", "conversation.max_tokens", "pad_token", "eos_token", "HF_TOKEN_PATH", "SSH_AUTH_SOCK", "head_chunk", "key"]
    assert not any(is_secret_name(name) for name in [*others, "tokens", "TOKENIZERS_PARALLELISM", "token_count", "experts.a.path", ""])


# -- what is written ------------------------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_file_is_never_open_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda one, two: (seen.append(mode(Path(one))), real(one, two)))
    for umask in (0o000, 0o022, 0o777):
        before = os.umask(umask)
        try:
            replace(tmp_path / "a.json", "x", mode=0o600)
            replace(tmp_path / "job.sh", "x", mode=0o700)
        finally:
            os.umask(before)
        assert (mode(tmp_path / "a.json"), mode(tmp_path / "job.sh")) == (0o600, 0o700)
    left = tmp_path / f"b.json.{os.getpid()}.new"  # of a killed process with this one's number, open to all
    left.write_text("")
    left.chmod(0o666)
    replace(tmp_path / "b.json", "x", mode=0o600)
    assert mode(tmp_path / "b.json") == 0o600 and seen == [0o600, 0o700] * 3 + [0o600]


def test_provenance_hides_the_command_lines_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "s3cr3t-of-mine")
    words = ["expertchat", "converse", "api_key=abc", "run.dir=s3cr3t-of-mine/x", "arm=hf_" + "a1" * 12, "conversation.turns=4"]
    shown = provenance.provenance(words)["command_line"]
    assert shown == ["expertchat", "converse", f"api_key={HIDDEN}", f"run.dir={HIDDEN}/x", f"arm={HIDDEN}", "conversation.turns=4"]
    assert "s3cr3t" not in json.dumps(provenance.provenance(words))


def test_code_diff_has_no_secrets_and_no_files_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "expertchat"
    package.mkdir()
    names = ["code.py", ".env", "deploy/prod.env", "deploy/id_rsa", "Secrets.yaml", "aws_credentials.json", "tokens.json", "tokens.py"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old = 1\n")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(tmp_path)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    for name in names:
        (tmp_path / name).write_text("old = 1\nwitness = 2\n")
    (tmp_path / "code.py").write_text(f"old = 1\nkey = 'hf_{'b2' * 12}'\npassword = 'hunter2'\nurl = 'https://u:pw@h'\nkept = 3\n")
    monkeypatch.setattr(provenance, "__file__", str(package / "folder" / "provenance.py"))
    diff = provenance.changes()
    assert diff is not None and "+kept = 3" in diff and "b2b2" not in diff and "hunter2" not in diff and "pw@" not in diff
    assert "witness" not in diff and diff.startswith("# 7 changed files that may hold secrets are left out\n")


def test_events_and_messages_hide_secrets(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    token = "hf_" + "c3" * 12
    sink = Collect()
    hub = Hub(sink)
    hub.say(f"401 for https://u:{token}@host")
    hub.send(RunFinished(status="failed", reason=f"cannot reach https://u:{token}@host"))
    [note], [end] = sink.of(Note), sink.of(RunFinished)
    assert token not in note.text and token not in str(end.reason)

    def broken(arguments: list[str]) -> int:
        raise ValueError(f"refused: {token}")

    monkeypatch.setattr("expertchat.doors.converse.run", broken)
    assert cli.main(["converse"]) == 1
    assert token not in capsys.readouterr().err


TOKEN = "hf_" + "d4" * 12


@pytest.mark.parametrize("line", [
    f"converse arm={TOKEN}", "converse +hf_token=abc", f"converse topics=list topics.list=[{TOKEN}]", f"online_dpo arm={TOKEN}",
    "converse hydra.job.env_set.HF_TOKEN=abc -m", "converse experts.a.path=https://u:pw@host/x", f"bench bench.model={TOKEN}",
    f"submit converse cluster=laptop --dry-run cluster.options=[--export=HF_TOKEN={TOKEN}]",
    "submit converse cluster=laptop --dry-run cluster.options=[\"--export=ALL,MY_TOKEN=zzz\"]", "converse run.dir=s3cr3t-of-mine",
])  # fmt: skip
def test_a_secret_on_the_command_line_is_refused_and_nothing_is_written(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_PASSWORD", "s3cr3t-of-mine")
    assert cli.main(line.split(" ")) == 2
    said = capsys.readouterr()
    assert "export it in the shell" in said.err and "Traceback" not in said.err
    assert not any(secret in said.err + said.out for secret in (TOKEN, "zzz", "s3cr3t", ":pw@", "=abc"))
    assert list(tmp_path.iterdir()) == []


def test_a_secret_in_a_config_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from expertchat.command.compose import load
    from expertchat.command.frozen import freeze

    path = tmp_path / "c.yaml"
    path.write_text(freeze(load("converse")).replace("name: expert", f"name: {TOKEN}", 1), "utf-8")
    assert TOKEN in path.read_text("utf-8") or "persona" in path.read_text("utf-8")
    path.write_text(path.read_text("utf-8").replace("judge: partner", f"judge: {TOKEN}"), "utf-8")
    assert cli.main(["converse", "--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert "judging.judge: holds a key or token" in said and TOKEN not in said


def test_a_submission_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_PASSWORD", "s3cr3t-of-mine")
    before = os.umask(0o000)
    try:
        assert cli.main(["submit", "converse", "cluster=laptop", "--dry-run", "run.dir=one"]) == 0
    finally:
        os.umask(before)
    place = tmp_path / "one" / "submission"
    assert mode(place) == 0o700
    assert {path.name: oct(mode(path)) for path in place.iterdir() if mode(path) != 0o600} == {"job.sh": "0o700"}
    assert not any("s3cr3t" in path.read_text("utf-8") for path in place.iterdir())
