"""`expertchat serve MODEL [-- COMMAND ...]`: vLLM is started and waited for, and others find it by the run folder until it is stopped.

With a command beside it the server is that command's: it has GPUs of its own, and ends when the command has ended. A signal is passed on to
the command, which still asks the server while it stops in order.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from expertchat.backends.folders import find_folder
from expertchat.backends.loading import gib_of, weight_files
from expertchat.backends.served.address import Address, free_port, remove_address, write_address
from expertchat.config import ConfigError
from expertchat.events import AnyEvent, Loading, RunFinished, Sink
from expertchat.folder.children import ends_with_its_parent
from expertchat.folder.here import place as job_here
from expertchat.folder.run import DONE, FAILED, STOPPED, Hub, Interrupts, in_folder, run_folder, started, stopped
from expertchat.folder.run_folder import RunFolder
from expertchat.folder.writing import saving
from expertchat.serving.config import NAME, ServeConfig
from expertchat.serving.started import LOG, Failed, Started
from expertchat.serving.vllm import EVERYWHERE, HERE, command, require_vllm, shared_out, variables, visible_gpus

LOOK = 0.2  # seconds between two looks at the command beside it
SELDOM = 5.0  # and between two looks at a server that has none


class ServeFolder(RunFolder):
    """A server's folder: its events, its log, and while it answers its address."""

    def send(self, event: AnyEvent) -> None:
        """Write an event."""
        if not self.passes(event):
            self.append("events", event)


def run_serve(config: ServeConfig, command_line: list[str], sink: Sink, beside: Sequence[str] = ()) -> int:
    """Serve until a signal comes, or until the command `beside` has ended. Returns that command's exit code, without one 3 (the same line
    serves again), and 1 where the server failed. Raises ConfigError for what is wrong before it is started."""
    with Hub(sink) as hub, Interrupts() as interrupts:
        place = run_folder(config.run.dir, NAME)
        return in_folder(
            hub,
            interrupts,
            lambda say: ServeFolder(place, config.model_dump(mode="json"), command_line, say),
            lambda folder: _Serving(config, folder, hub, interrupts, beside).run(),
        )


class _Serving:
    """One start of a server."""

    def __init__(self, config: ServeConfig, folder: RunFolder, hub: Hub, interrupts: Interrupts, beside: Sequence[str]) -> None:
        self.config, self.folder, self.hub, self.interrupts = config, folder, hub, interrupts
        self.beside = list(beside)

    def run(self) -> int:
        require_vllm(self.config.server)
        model = find_folder(self.config.model.path, self.config.model.revision, models_dir=self.config.model.models_dir)
        gpus, rest = shared_out(self.config.server.gpus, visible_gpus(os.environ), bool(self.beside))
        self.folder.open()
        self.hub.send(started(NAME, self.folder, conversations=0, turns=0))
        self.hub.notes(self.folder.notes)
        try:
            server, address = self._start(model, gpus)
        except OSError as error:
            raise ConfigError(f"server.python={self.config.server.python}: does not start ({error.strerror})") from None
        try:
            if not self._wait(server, model):
                return stopped(self.hub, self.interrupts, self.folder)
            with saving(self.folder.folder):
                write_address(self.folder.folder, address)
            self.hub.say(f"{address.model} is served at {address.url}: experts.b.url={self.folder.folder} experts.b.model={address.model}")
            return self._with_command(server, rest) if self.beside else self._alone(server)
        except Failed as error:
            self.hub.send(RunFinished(status="failed", reason=f"vLLM: {error} (all of it: {server.log})"))
            return FAILED
        finally:
            remove_address(self.folder.folder)
            server.stop()

    def _start(self, model: Path, gpus: Sequence[str]) -> tuple[Started, Address]:
        """Begin it: listening here alone, or in a job where other nodes may ask."""
        server, job = self.config.server, job_here()
        apart = job is not None and not self.beside
        host, port = server.host or (EVERYWHERE if apart else HERE), server.port or free_port()
        seen = socket.gethostname() if host in (EVERYWHERE, "::") else f"[{host}]" if ":" in host else host  # as addresses write IPv6
        if host not in (HERE, "localhost", "::1") and server.key_from is None:
            self.hub.say(f"whoever reaches {seen} may ask it: a key keeps others out (server.key_from)")
        line = command(self.config, model, port, host, len(gpus))
        environment = variables(server, gpus if gpus or server.gpus is not None else None, os.environ)
        where = f"on GPU {', '.join(gpus)}" if gpus else "without a GPU"
        self.hub.say(f"starts vLLM {where}; what it says: {self.folder.folder / LOG}")
        with saving(self.folder.folder):
            begun = Started(line, environment, self.folder.folder, f"http://{seen}:{port}")
        return begun, Address(f"http://{seen}:{port}/v1", self.config.name, socket.gethostname(), begun.pid, job.job if job else "")

    def _wait(self, server: Started, model: Path) -> bool:
        """Whether it answers; False where a signal came first."""
        what, gib, began = self.config.name, gib_of(weight_files(model)), time.monotonic()
        self.hub.send(Loading(what=what, gib=gib))
        there = server.wait(self.config.server.wait, self.interrupts.stop)
        if there:
            self.hub.send(Loading(what=what, done=True, seconds=time.monotonic() - began, gib=gib))
        return there

    def _alone(self, server: Started) -> int:
        """Until a signal comes, or nobody has asked for long."""
        most, looked = self.config.server.idle, time.monotonic()
        while not self.interrupts.stop():
            time.sleep(LOOK)
            server.require()
            if most is not None and time.monotonic() - looked >= min(SELDOM, most / 4):
                looked = time.monotonic()
                if server.idle() >= most:
                    self.hub.send(RunFinished(status="stopped", reason=f"nobody has asked for {most:.0f} s (server.idle)"))
                    return DONE
        return stopped(self.hub, self.interrupts, self.folder)

    def _with_command(self, server: Started, gpus: Sequence[str]) -> int:
        """Until the command has ended; its exit code."""
        environment = dict(os.environ) | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if self.config.server.gpus is not None else {})
        try:
            child = subprocess.Popen(self.beside, env=environment, preexec_fn=ends_with_its_parent)
        except OSError as error:
            what = f"{self.beside[0]}: cannot be started ({error.strerror})"
            raise ConfigError(f"{what}; write a command of expertchat, or a program") from None
        told = failed = False
        while (code := child.poll()) is None:
            time.sleep(LOOK)
            if self.interrupts.reason and not told:
                told = True
                if self.interrupts.reason != "SIGINT":  # which a terminal gives to both
                    child.send_signal(signal.Signals[self.interrupts.reason])
            if not failed and not told:
                failed = self._gone(server, child)
        if failed:
            server.require()
        code = code if code >= 0 else 128 - code
        ends = {DONE: "done", STOPPED: "stopped"}
        self.hub.send(RunFinished(status="stopped", reason=f"the command beside it is {ends.get(code, f'at its end (exit code {code})')}"))
        return code

    def _gone(self, server: Started, child: subprocess.Popen[bytes]) -> bool:
        """Whether the server has ended; then the command is told to stop in order, for nobody will answer it."""
        try:
            server.require()
        except Failed:
            child.terminate()
            return True
        return False
