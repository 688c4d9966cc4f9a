"""`expertchat serve`: started, waited for, found by others, stopped; with a stand-in for vLLM (tests/stand_in) that loads nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from expertchat import events
from expertchat.backends.served.address import Address, addresses, remove_address, urls_of, wait_for_urls, write_address
from expertchat.backends.served.client import Client, wait_for
from expertchat.backends.served.config import ServerConfig
from expertchat.backends.served.terms import Terms
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.serving import run as serving
from expertchat.serving import started
from expertchat.serving.run import run_serve
from expertchat.serving.started import Failed, Started
from expertchat.serving.vllm import command, require_vllm, shared_out, variables, visible_gpus
from tests.cluster import until
from tests.served import Stub

ROOT = Path(__file__).parents[1]
STAND_IN = f"PYTHONPATH={ROOT / 'tests' / 'stand_in'}:{ROOT}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(started, "LOOK", 0.02)
    monkeypatch.setattr(serving, "LOOK", 0.02)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


class Heard(list[events.AnyEvent]):
    """A sink that keeps what it is sent."""

    def send(self, event: events.AnyEvent) -> None:
        self.append(event)

    def close(self) -> None: ...

    @property
    def end(self) -> events.RunFinished:
        last = self[-1]
        assert isinstance(last, events.RunFinished)
        return last


@cache
def base() -> Any:
    return load("serve", ["model=embedded_llama", "server.name=m"])


def wanted(folder: Path, *variables: str, **server: Any) -> Any:
    """The config of a server in `folder`, by the stand-in."""
    given = [STAND_IN, f"STAND_IN_TOLD={folder}.told", *variables]
    run = base().run.model_copy(update={"dir": str(folder)})
    return base().model_copy(update={"run": run, "server": base().server.model_copy(update={"environment": given, **server})})


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


# -- beside a command -------------------------------------------------------------------------------------------------------

ASKS = """
import json, pathlib, sys, urllib.request
url = json.loads(pathlib.Path(sys.argv[1], "address.json").read_text())["url"]
answer = json.load(urllib.request.urlopen(f"{url}/models"))
sys.exit(int(answer["data"][0]["id"] == "m") * 5)
"""

STOPS = """
import json, pathlib, signal, sys, time, urllib.request
def stop(*_):
    url = json.loads(pathlib.Path(sys.argv[1], "address.json").read_text())["url"]
    urllib.request.urlopen(f"{url}/models")
    sys.exit(3)
signal.signal(signal.SIGUSR1, stop)
pathlib.Path(sys.argv[2]).touch()
time.sleep(60)
"""


def test_a_command_beside_it_finds_it_and_its_exit_code_is_that_of_all(tmp_path: Path) -> None:
    heard, folder = Heard(), tmp_path / "server"
    code = run_serve(wanted(folder, adapters=9), ["serve"], heard, [*python(ASKS), str(folder)])
    assert code == 5 and heard.end.reason == "the command beside it is at its end (exit code 5)"
    assert addresses(folder) == [] and not (folder / "summary.json").exists()  # the same line serves again
    told = json.loads(Path(f"{folder}.told").read_text())
    assert told["name"] == "m" and told["model"].endswith("models/llama")
    assert told["more"][-5:] == ["--enable-lora", "--max-lora-rank", "16", "--max-loras", "3"]  # the next size that vLLM has
    assert told["environment"] == {"CUDA_VISIBLE_DEVICES": None, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "true", "HF_HUB_OFFLINE": "1"}
    (note,) = [one.text for one in heard if isinstance(one, events.Note) and "is served at" in one.text]
    assert note.endswith(f"experts.b.url={folder} experts.b.model=m")


def test_a_signal_goes_to_the_command_which_still_asks_while_it_stops(tmp_path: Path) -> None:
    heard, folder = Heard(), tmp_path / "server"
    ready = tmp_path / "ready"

    def tell() -> None:
        while not ready.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGUSR1)

    threading.Thread(target=tell, daemon=True).start()
    assert run_serve(wanted(folder), ["serve"], heard, [*python(STOPS), str(folder), str(ready)]) == 3
    assert heard.end.reason == "the command beside it is stopped"


def test_a_server_that_ends_stops_the_command_and_is_a_failure(tmp_path: Path) -> None:
    heard, folder = Heard(), tmp_path / "server"
    config = wanted(folder, "STAND_IN_ENDS=0.3")
    began = time.monotonic()
    assert run_serve(config, ["serve"], heard, python("import time; time.sleep(60)")) == 1
    assert time.monotonic() - began < 20
    assert heard.end.status == "failed" and "it has ended (exit code 7)" in str(heard.end.reason)


@pytest.mark.slow
def test_a_command_does_not_outlive_what_has_started_it(tmp_path: Path) -> None:
    """kill -9 of serve: its run would wait for a server that is gone, and hold its folder meanwhile."""
    folder, ready, ended = (tmp_path / name for name in ("server", "ready", "ended"))
    waits = python("import pathlib, signal, sys, time\n"
                   "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(sys.argv[2]).touch(), sys.exit(3)))\n"
                   "pathlib.Path(sys.argv[1]).touch()\n"
                   "time.sleep(60)")  # fmt: skip
    words = ["embedded:llama", "server.name=m", f"run.dir={folder}", f'server.environment=["{STAND_IN}","STAND_IN_TOLD={folder}.told"]']
    line = [sys.executable, "-m", "expertchat.cli", "serve", *words, "--", *waits, str(ready), str(ended)]
    with subprocess.Popen(line, cwd=ROOT) as serve:
        until(ready.exists, 30, "its command begins")
        serve.kill()
    until(ended.exists, 10, "its command is told to stop")


# -- alone --------------------------------------------------------------------------------------------------------------------


def test_what_it_says_is_told_where_it_does_not_come_up(tmp_path: Path) -> None:
    heard, folder = Heard(), tmp_path / "server"
    assert run_serve(wanted(folder, "STAND_IN_FAILS=CUDA out of memory"), ["serve"], heard) == 1
    said = "vLLM: it has ended (exit code 1): ValueError: CUDA out of memory"
    assert heard.end.reason == f"{said} (all of it: {folder / 'server.log'})"
    heard.clear()
    slow = wanted(folder, "STAND_IN_LOADS=60", wait=0.2)
    assert run_serve(slow, ["serve"], heard) == 1  # the same folder: how it is served may change
    assert "it does not answer after 0 s (server.wait)" in str(heard.end.reason)


def test_of_its_log_the_error_is_told_and_not_what_came_of_it(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(
        "(EngineCore pid=28295) ERROR 11-29 20:50:05 [core.py:1512] TimeoutError: RPC call to execute_model timed out.\n"
        "(APIServer pid=26702) ERROR 11-29 20:50:06 [serving.py:929] EngineDeadError: See stack trace (above) for the root cause.\n"
        'INFO:     127.0.0.1:60108 - "POST /v1/chat/completions HTTP/1.1" 500 Internal Server Error\n'
    )
    server = object.__new__(Started)
    server.log = log
    said = "TimeoutError: RPC call to execute_model timed out. / EngineDeadError: See stack trace (above) for the root cause. / INFO:"
    assert server.told().startswith(said)
    log.write_text("one\ntwo\nthree\nfour\n")
    assert server.told() == "two / three / four"


def test_a_port_where_something_else_speaks_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        def speak() -> None:
            with other.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        threading.Thread(target=speak, daemon=True).start()
        server = object.__new__(Started)
        server.root = f"http://127.0.0.1:{other.getsockname()[1]}"
        assert not server._answers()


@pytest.mark.slow
def test_it_stops_when_nobody_asks(tmp_path: Path) -> None:
    heard = Heard()
    assert run_serve(wanted(tmp_path / "server", idle=0.3), ["serve"], heard) == 0
    assert heard.end.reason == "nobody has asked for 0 s (server.idle)"


def test_a_signal_ends_it(tmp_path: Path) -> None:
    heard, folder = Heard(), tmp_path / "server"

    def tell() -> None:
        while not addresses(folder):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=tell, daemon=True).start()
    assert run_serve(wanted(folder), ["serve"], heard) == 3
    assert heard.end.reason == "SIGTERM" and addresses(folder) == []


@pytest.mark.parametrize(("host", "root"), [("::1", "http://[::1]:8123"), ("127.0.0.1", "http://127.0.0.1:8123")])
def test_an_address_of_ipv6_is_written_as_clients_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, root: str) -> None:
    asked = list[str]()

    class NotBegun:
        pid, log, stop = 1, tmp_path / "server.log", staticmethod(lambda: None)

        def __init__(self, line: Any, environment: Any, folder: Path, root: str) -> None:
            asked.append(root)

        def wait(self, *_: object) -> bool:
            raise Failed("that will do")

    monkeypatch.setattr("expertchat.serving.run.Started", NotBegun)
    monkeypatch.setattr("expertchat.serving.run.require_vllm", lambda config: None)
    assert run_serve(wanted(tmp_path / "server", host=host, port=8123), ["serve"], Heard()) == 1 and asked == [root]


def test_an_environment_without_vllm() -> None:
    with pytest.raises(ConfigError, match="has no vLLM; make it an environment of its own"):
        require_vllm(base().server)


# -- how it is started ------------------------------------------------------------------------------------------------------


def test_the_command_line() -> None:
    config = load("serve", [
        "model=auto", "model.path=models/Mixtral-GPTQ/", "model.dtype=fp16", "model.context_length=4096", "run.seed=7",
        "server.memory=0.85", "server.container=apptainer exec --nv vllm.sif", "server.requests=16", 'server.options=["--enforce-eager"]',
    ])  # fmt: skip
    assert config.name == "Mixtral-GPTQ"
    assert command(config, Path("/m/x"), 8000, "0.0.0.0", 2) == [
        "apptainer", "exec", "--nv", "vllm.sif", "python3", "-m", "vllm.entrypoints.openai.api_server", "--model", "/m/x",
        "--served-model-name", "Mixtral-GPTQ", "--host", "0.0.0.0", "--port", "8000", "--seed", "7", "--dtype", "float16",
        "--max-num-seqs", "16", "--max-model-len", "4096", "--gpu-memory-utilization", "0.85", "--tensor-parallel-size", "2",
        "--max-logprobs", "100", "--enforce-eager",
    ]  # fmt: skip


def test_its_variables() -> None:
    config = load("serve", ["model=embedded_llama", "server.key_from=MY_API_KEY", "server.environment=['A=b=c','GONE']"]).server
    given = {"MY_API_KEY": "k", "PYTHONPATH": "/ours", "GONE": "1", "HF_HUB_OFFLINE": "0"}
    assert variables(config, ["2", "3"], given) == {
        "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "MY_API_KEY": "k",
        "CUDA_VISIBLE_DEVICES": "2,3", "VLLM_API_KEY": "k", "A": "b=c",
    }  # fmt: skip


def test_who_gets_which_gpus() -> None:
    four = ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b"}) == ["GPU-a", "GPU-b"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert shared_out(2, four, True) == (["GPU-c", "GPU-d"], ["GPU-a", "GPU-b"])  # the last ones: the trainer keeps cuda:0
    assert shared_out([0, 3], four, True) == (["GPU-a", "GPU-d"], ["GPU-b", "GPU-c"])
    assert shared_out(0, four, True) == ([], four) and shared_out(None, [], True) == ([], [])
    for wrong, said in ((5, "there are 4 here"), ([0, 4], "GPU 4 is not"), (None, "say how many of the 4 GPUs")):
        with pytest.raises(ConfigError, match=said):
            shared_out(wrong, four, True)  # type: ignore[arg-type]


# -- how others find it -----------------------------------------------------------------------------------------------------


def test_a_folder_in_the_place_of_an_address(tmp_path: Path) -> None:
    one, two = tmp_path / "task-10", tmp_path / "task-2"
    for folder, port in ((one, 1), (two, 2)):
        folder.mkdir()
        write_address(folder, Address(f"http://node{port}:8000/v1", "m", f"node{port}", 1))
    assert urls_of([str(tmp_path), "http://node2:8000/v1/"]) == ["http://node2:8000/v1", "http://node1:8000/v1"]
    (two / "address.json").write_text('{"url": "file:///etc/passwd"}')
    (one / "address.json").write_text("{")
    assert urls_of([str(tmp_path)]) == []
    write_address(one, Address("http://127.0.0.1:1/v1", "m", socket.gethostname(), 2**22 + 1))  # more than any process has: it was killed
    assert urls_of([str(tmp_path)]) == []
    remove_address(one)
    with pytest.raises(ConfigError, match=r"no server has written its address into .*waited for 0 s: server.wait"):
        wait_for_urls([str(tmp_path)], 0.1)


def test_a_server_that_stands_elsewhere_when_it_is_lost_is_found_again(tmp_path: Path) -> None:
    said: list[str] = []
    with Stub() as first, Stub() as second:
        write_address(tmp_path, Address(first.url, "m", "here", 1))
        client = Client([str(tmp_path)], None, Terms(ServerConfig(), say=said.append))
        assert [one.url for one in client.addresses] == [first.url]
        first.__exit__()
        write_address(tmp_path, Address(second.url, "m", "there", 2))
        answered = wait_for(client.ask("/models", {}, lambda found: found["data"][0]["id"]))
        assert (answered.value, answered.server, answered.tries) == ("m", second.url, 2)
    assert said[0] == f"the servers of {tmp_path} stand at {second.url} now"
