"""`expertchat bench`: measures the ways to run a model on this machine, all in one run, and writes every timing into one JSON file."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expertchat.bench.bare import set_limit
from expertchat.bench.beside import measure_beside
from expertchat.bench.config import BenchConfig, BenchSettings
from expertchat.bench.decoded import measure_candidates, measure_contrastive
from expertchat.bench.embedded import measure_embedding
from expertchat.bench.gpu import measure_gpu
from expertchat.bench.judged import measure_job, measure_ratings
from expertchat.bench.kit import Kit, Watcher
from expertchat.bench.machine import load, machine
from expertchat.bench.memory import measure_memory
from expertchat.bench.pairs import measure_judgements
from expertchat.bench.peer import measure_online_dpo
from expertchat.bench.peer_grpo import measure_grpo
from expertchat.bench.phases import measure_phases
from expertchat.bench.results import Part
from expertchat.bench.step import measure_step
from expertchat.bench.subject import Subject, load_subject
from expertchat.bench.taught import measure_sft
from expertchat.bench.ways import measure_precision, measure_prefill, measure_ways
from expertchat.config import ConfigError
from expertchat.folder.provenance import provenance
from expertchat.folder.writing import replace, saving

DONE, STOPPED = 0, 3
PARTS: dict[str, Callable[[Kit], None]] = {
    "ways": measure_ways,
    "precision": measure_precision,
    "prefill": measure_prefill,
    "candidates": measure_candidates,
    "ratings": measure_ratings,
    "contrastive": measure_contrastive,
    "job": measure_job,
    "phases": measure_phases,
    "memory": measure_memory,
    "gpu": measure_gpu,
    "online_dpo": measure_online_dpo,
    "grpo": measure_grpo,
    "beside": measure_beside,
    "embedding": measure_embedding,
    "step": measure_step,
    "judgements": measure_judgements,
    "sft": measure_sft,
}
BUSY = 0.5  # running programs for each core above which the figures are doubtful


def run_bench(config: BenchConfig, command_line: Sequence[str], watcher: Watcher) -> int:
    """Measure, show, write. Returns 0, or 3 where it was interrupted: what was measured is shown and written all the same.

    Raises ConfigError for a model that cannot be had and a file that cannot be written.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    settings = quick_form(config.bench) if config.bench.quick else config.bench
    report = Report(settings, command_line)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    threads = settings.threads or (1 if settings.model.startswith("embedded:") else None)
    if threads:
        torch.set_num_threads(threads)
    with signals():
        try:
            watcher.doing(f"loading {settings.model}")
            subject = load_subject(settings)
            report.about(subject, machine())
            watcher.started(report.values)
            _measure(Kit(config, settings, subject, watcher.doing), settings.parts, report, watcher)
        except KeyboardInterrupt:
            report.end("stopped")
            for part in report.left():
                watcher.measured(part)
            watcher.ended(str(report.path), report.seconds, stopped=True)
            return STOPPED
        report.end("done")
    watcher.ended(str(report.path), report.seconds, stopped=False)
    return DONE


def _measure(kit: Kit, parts: Sequence[str], report: Report, watcher: Watcher) -> None:
    import torch

    report.parts = kit.parts
    warm_up(kit)
    for name in dict.fromkeys(parts):
        try:
            PARTS[name](kit)
        except torch.cuda.OutOfMemoryError:
            kit.parts[-1].notes.append("broken off: out of GPU memory; ask for fewer rows or a smaller model")
        report.shown += 1
        report.write()
        watcher.measured(kit.parts[-1])


def warm_up(kit: Kit) -> None:
    """A few steps of every kind, so that the first timing does not pay for the first use of anything."""
    kit.tell("warming up")
    small = Kit(kit.config, kit.settings.model_copy(update={"turns": 2, "tokens": min(4, kit.settings.tokens)}), kit.subject)
    for backend in (kit.subject.plain(2), kit.subject.engine(2)):
        small.talk(backend, 2, "w")
    set_limit(kit.subject, 2, 4)


def quick_form(settings: BenchSettings) -> BenchSettings:
    """The same in a minute or two: fewer repeats, rows, tokens and dialogues."""
    return settings.model_copy(update={
        "repeats": min(2, settings.repeats),
        "rows": [rows for rows in settings.rows if rows <= 16] or [min(settings.rows)],
        "tokens": min(16, settings.tokens),
        "singles": 1,
        "job_rows": min(8, settings.job_rows),
        "job_dialogues": 1,
        "conversations": min(24, settings.conversations),
        "judgements": min(16, settings.judgements),
    })  # fmt: skip


class Report:
    """The JSON file. It is there from the start, written whole after each part; raises ConfigError where it cannot be."""

    def __init__(self, settings: BenchSettings, command_line: Sequence[str]) -> None:
        stem = f"{time.strftime('%Y-%m-%d-%H%M%S')}-bench"
        self.path = Path(settings.out).expanduser() if settings.out else Path("runs") / f"{stem}.json"
        self.parts: list[Part] = []
        self.shown = 0  # parts that the watcher has seen
        self._began = time.monotonic()
        self.values: dict[str, Any] = {**provenance(list(command_line)), "status": "running", "config": settings.model_dump(mode="json")}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write()
        except OSError as error:
            raise ConfigError(f"bench.out={self.path}: cannot be written ({error.strerror}); name another file") from None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def about(self, subject: Subject, facts: dict[str, Any]) -> None:
        self.values["machine"] = facts
        self.values["model"] = {
            "name": subject.name, "parameters": subject.parameters, "dtype": subject.dtype, "device": subject.device_type(),
            "notes": list(subject.notes),
        }  # fmt: skip
        cores = facts["usable_cores"] or 1
        self.values["warnings"] = []
        if facts["load_before"] is not None and facts["load_before"] > BUSY * cores:
            busy = f"load {facts['load_before']:g} on {cores} cores"
            self.values["warnings"].append(f"other programs were running before ({busy}): the figures are doubtful")

    def left(self) -> list[Part]:
        """The parts that were begun and not shown yet."""
        return [part for part in self.parts[self.shown :] if part.timings or part.facts]

    def end(self, status: str) -> None:
        self.values |= {"status": status, "seconds": round(self.seconds, 1), "load_after": load()}
        self.write()

    def write(self) -> None:
        """Write what there is. Raises WriteError."""
        with saving(self.path):
            self._write()

    def _write(self) -> None:
        text = json.dumps(self.values | {"parts": [part.plain() for part in self.parts]}, indent=1)
        replace(self.path, text + "\n", mode=0o600)


@contextmanager
def signals() -> Iterator[None]:
    """SIGTERM ends a bench as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
