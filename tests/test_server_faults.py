"""Every fault of a server in the middle of a run: its exit code, what goes on, what is asked again, and where the key is."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from expertchat.doors.guard import guarded
from tests.alike import records
from tests.scripted import Collect
from tests.served import Handler, Stub, is_probe
from tests.served_runs import KEY, QUICK, asked, composed, connected, cut, drips, talk

QUIET = ("server.patience=60", "server.wait=0.2", "server.timeout=60", "judging.wim.enabled=false", "judging.z=0.0")
KEYS = ("experts.a.key_from=HERE_API_KEY", "experts.b.key_from=HERE_API_KEY")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setattr("expertchat.backends.served.client.PAUSE", 0.01)
    with Stub() as one:
        yield one


# -- a stream that ends in its middle -----------------------------------------------------------------------------------------


def begun(handler: Handler, *pieces: str) -> None:
    """A stream of chunks that has come so far, and is not ended."""
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    for piece in pieces:
        text = f"data: {json.dumps({'choices': [{'delta': {'content': piece}, 'finish_reason': None}]})}\n\n".encode()
        handler.wfile.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")
    handler.wfile.flush()


def torn_off(handler: Handler) -> None:
    begun(handler, "Half", " a")
    handler.close_connection = True


def ended(handler: Handler) -> None:
    """As if it were whole: what breaks off is the answer, not the connection."""
    begun(handler, "Half", " a")
    handler.wfile.write(b"0\r\n\r\n")


def told_an_error(handler: Handler) -> None:
    begun(handler, "Half")
    text = b'data: {"error": {"message": "the engine is dead"}}\n\n'
    handler.wfile.write(f"{len(text):x}\r\n".encode() + text + b"\r\n0\r\n\r\n")


def no_json(handler: Handler) -> None:
    begun(handler, "Half")
    text = b'data: {"choices": [{"del\n\n'
    handler.wfile.write(f"{len(text):x}\r\n".encode() + text + b"\r\n0\r\n\r\n")


def test_a_stream_that_is_cut_in_its_middle_is_asked_for_again(stub: Stub) -> None:
    """In four ways, each twice; the third try comes whole."""
    backend, left = connected(stub, settings=QUICK.model_copy(update={"patience": 60.0, "timeout": 60.0})), [0]

    for broken in (torn_off, ended, told_an_error, no_json):

        def fault(handler: Handler, broken: Callable[[Handler], None] = broken) -> bool:
            streams = bool((handler.body or {}).get("stream")) and left[0] > 0
            if streams:
                left[0] -= 1
                broken(handler)
            return streams

        stub.fault, left[0] = fault, 2
        lane, seen, done = backend.lane_apart(), list[str](), list[tuple[int, Any]]()
        lane.add(asked(broken.__name__), seen.append)
        while lane.load:
            done += lane.advance()
        (_, answer), record = done[0], backend.client.terms.ledger.find(backend._digest(asked(broken.__name__)))
        assert record is not None and record.tries == 3 and record.text == answer.text  # half a text is kept nowhere
        assert answer.text in stub.texts.values() and not answer.problem
        assert seen[0] == "Half" and seen[-1] == answer.text  # who looks on sees it begin again


def test_null_is_a_word_where_it_is_typed() -> None:
    assert composed("server.failing=null").server.failing == "null"


# -- every fault in the middle of a run -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """`answer`: the fault in the server's place. `null`: the exit code with server.failing=null. `says`: of the reason for which a run
    stops with server.failing=stop, and of the problem that the nulls have."""

    answer: Callable[[Handler], object]
    null: int
    says: str


def elsewhere(handler: Handler) -> None:
    handler.say(307, {}, location="http://127.0.0.1:9/v1/chat/completions")


CASES = {
    "429 storm": Case(lambda h: h.say(429, {"error": {"message": "slow down"}}, retry_after="3600"), 0, "too many requests"),
    "5xx": Case(lambda h: h.say(502, "<html>Bad gateway</html>"), 0, "502: a page for people"),
    "cut answer": Case(cut, 0, "it cut its answer off"),
    "cut stream": Case(torn_off, 0, "it cut its answer off"),
    "slow loris": Case(drips, 0, "no whole answer in time"),
    "shape": Case(lambda h: h.say(200, {"result": ["herons"]}), 0, "in another shape"),
    "page": Case(lambda h: h.say(200, "<html>Sign in to the network</html>"), 0, "a page for people"),
    "refused": Case(lambda h: h.say(400, {"error": {"message": "content filter"}}), 0, "400: content filter"),
    "wrong key": Case(lambda h: h.say(401, {"error": {"message": f"{h.headers.get('authorization')} is wrong"}}), 3, "take the key"),
    "no model": Case(lambda h: h.say(404, {"error": {"message": "no such model"}}), 3, "knows no such model"),
    "redirect": Case(elsewhere, 3, "sends elsewhere"),
    "quota": Case(lambda h: h.say(429, {"error": {"message": "x", "code": "insufficient_quota"}}), 3, "quota or credit is used up"),
}
REFUSED = ("shape", "page", "refused")  # each is one request without an answer, until there are too many in a row
HASTE = {"slow loris": ("server.timeout=2", "server.attempts=1")}


def after(answers: int, case: Case) -> Callable[[Handler], bool]:
    """A fault of all chats from so many answers on."""

    def fault(handler: Handler) -> bool:
        hits = bool(handler.body) and "messages" in handler.body and not is_probe(handler.body) and len(handler.served.answered) >= answers
        if hits:
            case.answer(handler)
        return hits

    return fault


def alike(one: Path, two: Path) -> bool:
    """Whether two runs have the same texts and ratings."""
    texts = [[[turn["text"] for turn in line["turns"]] for line in records(run, "transcripts")] for run in (one, two)]
    ratings = [{line["id"]: line["expected"] for line in records(run, "ratings")} for run in (one, two)]
    return sorted(texts[0]) == sorted(texts[1]) and ratings[0] == ratings[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run without a fault."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with Stub() as stub:
        assert talk(stub, folder, *QUIET) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_what_a_fault_in_the_middle_does(
    name: str, stub: Stub, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE_API_KEY", KEY)
    stub.key = KEY
    case, run, sink, words = CASES[name], tmp_path / "run", Collect(), (*QUIET, *KEYS, *HASTE.get(name, ()))
    stub.fault = after(7, case)
    code = guarded(lambda: talk(stub, run, *words, sink=sink))
    assert code == 3
    assert case.says in sink.events[-1].reason and not (run / "summary.json").exists()
    stub.fault = None
    assert guarded(lambda: talk(stub, run, *QUIET, *KEYS)) == 0
    assert name in REFUSED or alike(run, whole)
    assert not stub.twice()
    stub.fault = after(15, case)  # nine turns and some ratings: a run without any has failed
    stub.answered.clear()
    assert guarded(lambda: talk(stub, tmp_path / "null", *words, "server.failing=null")) == case.null
    if case.null == 0:
        said = [turn["note"] or "" for line in records(tmp_path / "null", "transcripts") for turn in line["turns"]]
        said += [line["problem"] or "" for line in records(tmp_path / "null", "ratings")]
        assert any(case.says in text for text in said)
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_storm_that_passes_costs_nothing_but_time(stub: Stub, whole: Path, tmp_path: Path) -> None:
    """Two of three requests are too many; what is answered in the end is the same."""
    left = [0]

    def fault(handler: Handler) -> bool:
        if not handler.body or "messages" not in handler.body or is_probe(handler.body):
            return False
        left[0] += 1
        return bool(left[0] % 3 and (handler.say(429, {"error": {"message": "slow down"}}, retry_after="0.01") or True))

    stub.fault = fault
    assert talk(stub, tmp_path / "run", *QUIET, "server.patience=600") == 0
    assert alike(tmp_path / "run", whole) and not stub.twice()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))["served"]
    assert summary["requests"] > 1.5 * summary["answers"]


@pytest.mark.slow
def test_a_server_that_is_begun_again_in_the_middle_is_waited_for(stub: Stub, whole: Path, tmp_path: Path) -> None:
    """It goes down under a request and is there again after a second."""
    threads: list[threading.Thread] = []

    def again() -> None:
        stub.__exit__()
        time.sleep(1.0)
        stub.__enter__()

    def fault(handler: Handler) -> bool:
        if threads or len(handler.served.answered) < 7 or is_probe(handler.body):
            return False
        threads.append(threading.Thread(target=again))
        threads[0].start()
        cut(handler)
        return True

    stub.fault = fault
    assert talk(stub, tmp_path / "run", *QUIET, "server.attempts=8") == 0  # as it goes down it cuts several off
    threads[0].join()
    assert alike(tmp_path / "run", whole) and not stub.twice()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["5xx", "shape", "page", "wrong key", "redirect", "nobody", "no TLS", "no model"])
def test_what_is_wrong_at_the_start_is_one_message(
    name: str, stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE_API_KEY", KEY)
    if name == "nobody":
        stub.__exit__()
    elif name == "no TLS":
        monkeypatch.setattr(Stub, "url", f"https://127.0.0.1:{stub.port}/v1")
    else:
        stub.fault = lambda handler: CASES[name].answer(handler) is None
    assert guarded(lambda: talk(stub, tmp_path / "run", *QUIET, *KEYS)) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and "server" in said and KEY not in said and len(said) < 1200
    assert not (tmp_path / "run" / "transcripts.jsonl").exists()


def test_a_server_that_fails_at_its_list_of_models_is_asked_without(stub: Stub) -> None:
    """As transformers serve does where it has no cache to list."""
    stub.fault = lambda handler: handler.path.endswith("/models") and (handler.say(500, {}) or True)
    backend = connected(stub, settings=QUICK.model_copy(update={"wait": 0.1}))
    assert backend.can.begins == "flag" and not backend.can.models
