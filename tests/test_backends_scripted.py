"""The scripted backend: rules, sequences, scores, streaming, bad scripts."""

import math
from pathlib import Path

import pytest

from expertchat.backends.base import Decoding, GenerateRequest, ScoreRequest
from expertchat.backends.scripted import ScriptedBackend, read_script
from expertchat.config import ConfigError
from expertchat.records import Message

SCRIPT = """{"match": "/depth$", "text": " 7"}
{"match": "Judge expert (A|B)", "text": ["Good.", "Weak."]}

{"match": "/clarity$", "scores": [0, 0, 0, 0, 0, 0, 0, 0.25, 0.75, 0]}
{"text": "Welcome. What do you know of herons?"}
{"text": "They nest in trees, and they fish in water that is shallow."}
"""
OPTIONS = tuple(f" {n}" for n in range(1, 11))


def ask(key: str, *texts: str, limit: int = 100, stop: tuple[str, ...] = ()) -> GenerateRequest:
    messages = tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))
    return GenerateRequest(key, messages, Decoding(max_new_tokens=limit), stop=stop)


@pytest.fixture
def backend(tmp_path: Path) -> ScriptedBackend:
    (tmp_path / "script.jsonl").write_text(SCRIPT, "utf-8")
    return ScriptedBackend.from_file(tmp_path / "script.jsonl")


def test_first_fitting_rule_answers_by_the_number_of_earlier_replies(backend: ScriptedBackend) -> None:
    asked = [
        (ask("c0/t0", "Open."), "Welcome. What do you know of herons?"),
        (ask("c0/t2", "Open.", "Welcome.", "Nothing."), "They nest in trees, and they fish in water that is shallow."),
        (ask("c0/t4", "Open.", "1", "2", "3", "4"), "Welcome. What do you know of herons?"),  # third reply: again from the start
        (ask("c0/depth", "Judge expert A."), " 7"),  # the key's rule stands first
        (ask("c0/analysis", "Judge expert A."), "Good."),
        (ask("c0/wim", "Judge expert A.", "x", "Judge expert B again."), "Weak."),
        (ask("c0/wim", "Judge expert A.", "x", "What is missing?"), "They nest in trees, and they fish in water that is shallow."),
    ]
    for order in (asked, asked[::-1]):
        assert [c.text for c in backend.generate([request for request, _ in order])] == [text for _, text in order]


def test_limits_and_stops(backend: ScriptedBackend) -> None:
    cut, stopped = backend.generate([ask("k", "Open.", limit=3), ask("k", "Open.", stop=("?", " do"))])
    assert (cut.text, cut.tokens, cut.finish) == ("Welcome. What do", 3, "length")
    assert (stopped.text, stopped.tokens, stopped.finish) == ("Welcome. What", 2, "stop")


def test_scores(backend: ScriptedBackend) -> None:
    depth, clarity, other = backend.score([ScoreRequest(f"k/{c}", (Message("user", "?"),), OPTIONS) for c in ("depth", "clarity", "x")])
    assert [round(math.exp(p), 4) for p in depth.logprobs] == [0.01] * 6 + [0.91] + [0.01] * 3
    assert clarity.logprobs[7:9] == (math.log(0.25), math.log(0.75)) and clarity.logprobs[0] == -math.inf
    assert set(other.logprobs) == {-math.inf}  # the reply is no option: no probability, never a default


def test_streaming(backend: ScriptedBackend) -> None:
    seen: list[tuple[int, str]] = []
    results = backend.generate([ask("k", "Open."), ask("k", "Open.", "x", "y")], lambda i, text: seen.append((i, text)))
    for i, result in enumerate(results):
        texts = [text for index, text in seen if index == i]
        assert len(texts) > 1 and texts[-1] == result.text and all(result.text.startswith(text) for text in texts)


def test_from_a_function() -> None:
    backend = ScriptedBackend(lambda request: request.key.upper())
    assert backend.generate([ask("abc", "x")])[0].text == "ABC"
    assert set(backend.score([ScoreRequest("7", (), OPTIONS)])[0].logprobs) > {math.log(0.91)}
    assert backend.count_tokens([Message("user", "two words"), Message("assistant", "one")]) == 3 + 2 * 4
    with pytest.raises(ConfigError, match="2 scores for the 10 options of k"):
        ScriptedBackend(lambda _: "", lambda _: [0.5, 0.5]).score([ScoreRequest("k", (), OPTIONS)])


def test_no_rule_fits(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text('{"match": "a^", "text": "x"}')
    with pytest.raises(ConfigError, match="no rule of the script fits k"):
        ScriptedBackend.from_file(tmp_path / "s.jsonl").generate([ask("k", "Hello")])


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    lines = [
        '{"text": "fine"}',
        "{",
        "[1]",
        '{"match": "(", "text": "x"}',
        '{"text": 3}',
        '{"txt": "x"}',
        '{"match": 1, "text": "x"}',
        "{}",
    ]
    file.write_text("\n".join([*lines, '{"scores": [-1]}', '{"text": []}']))
    with pytest.raises(ConfigError) as caught:
        read_script(file)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [f"script {file}, line {n}" for n in range(2, 11)]


@pytest.mark.parametrize(("content", "part"), [(None, "no such file"), (b"", "holds no replies"), (b"\xe9t\xe9", "UTF-8")])
def test_unusable_scripts(tmp_path: Path, content: bytes | None, part: str) -> None:
    file = tmp_path / "s.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=part):
        ScriptedBackend.from_file(file)
