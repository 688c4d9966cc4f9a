"""The run folder of any command: found or made, locked, compared with its config, appended to, finished last of all by summary.json."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from expertchat.config import ConfigError
from expertchat.events import TRANSIENT, AnyEvent, ConversationFinished, PhaseStarted, Progress, StepFinished, TextStreamed, TurnFinished
from expertchat.folder.embedded import noted, others
from expertchat.folder.jsonl import Log, read_json
from expertchat.folder.lock import BEAT_SECONDS, CLAIM, HEARTBEAT, LOCK, STALE_SECONDS, FolderLock, read_heartbeat
from expertchat.folder.provenance import moved_on, provenance
from expertchat.folder.reader import RunReader, read_config
from expertchat.folder.writing import WriteError, cannot_write, reason, replace, saving
from expertchat.records import Record, as_line, finite
from expertchat.text.sentences import as_yaml

LIVE_SECONDS = 0.25  # live.json is replaced at most this often
SYNC_SECONDS = 5.0
FEW = 12  # differences of a config that are told one by one where the run is of another command, too
# A folder that holds no more than these has not begun. live.json is left where a run's folder was removed under it.
BOOKKEEPING = {LOCK, HEARTBEAT, CLAIM, "provenance.json", "submission", "live.json"}
OF_JOBS = re.compile(r"slurm-.*\.out|task-\d+")  # nor has one with a job's log, or with the runs of an array
G = TypeVar("G", bound=BaseModel)
R = TypeVar("R", bound=Record)
# Config keys that do not change what a run writes.
NOT_COMPARED = ("view", "show_thinking", "engine", "run.dir", "models_dir", "report_to", "keep_rounds", "server")
OF_ADDRESS = ("url", "key_from", "prices")  # nor do these of any model: its server may stand elsewhere tomorrow

# Keys that came later, with what they mean where a config has none; UNUSED are wordings of which such a run needed none.
# A whole key counts before a name.
ADDED = {
    "thinking": False, "topic_prefix": "", "order": "round_robin", "partners": "each", "update": "dpo", "embedder.dtype": "fp32",
    "numbered": "judged",
    "reward_model": None, "judging.principles": None, "judging.references": None, "judging.examples": None, "judging.examples_shown": 2,
    "judging.combine": "mean", "trained": None, "no_repeat_ngram": 0, "stop": [], "label": None, "reward.functions": [],
    "reward.weights": None, "prompts.file": None, "prompts.column": None, "prompts.type": None, "instruction": None,
    "source.columns.type": None, "data.choose": 0.0, "held_out.choose": 0.0, "embedder.backend": "local", "reward_model.backend": "local",
    "url": None, "model": None, "key_from": None, "more": {}, "prices": None, "report_to": [], "rating_scale": "symmetric",
    "table": {}, "table.guess": "auto", "table.rate": "auto", "table.seconds": None, "branch": None, "choosing": 0, "rewarded": 0,
}  # fmt: skip
# What an older run goes on with as it was begun: what is left open now, and defaults that are others since. By key: its value now, that of
# then, and the key that came with the change.
AS_BEGUN = {
    "embedder.dtype": ("auto", "fp32", "embedder.dtype"), "evaluation.topics": (20, 6, "evaluation.choosing"),
    "reward.repeat_penalty": (0.0, 0.4, "evaluation.choosing"), "reward.repeat_cosine": (0.85, 0.7, "evaluation.choosing"),
}  # fmt: skip
UNUSED = (
    "company", "moderate", "next_speaker", "judge_several", "principle", "principle_line", "principle_prefix", "principle_answers",
    "compare_principle", "reference", "examples", "example", "guess", "guess_prefix", "guess_answers",
    "guess_because",
)  # fmt: skip
OWN = (
    "config.yaml", "provenance.json", "summary.json", "live.json", "served.jsonl", LOCK, HEARTBEAT, CLAIM, "submission", "trackers",
)  # fmt: skip
OF_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT}


def came_later(key: str) -> bool:
    """Whether a config of an earlier version may lack a key: its default is what such a run did."""
    return key.partition(".")[0] in ("moderator", "server") or _known_as(key) in ADDED or _known_as(key) in UNUSED


def _known_as(key: str) -> str:
    """How ADDED and UNUSED call a key: by all of it, else by its name."""
    return key if key in ADDED else key.rpartition(".")[2]


class RunFolder:
    """A run folder that this process writes. Opening checks and locks it but leaves no run in it before `begin`.

    Of what lies in the folder only a run's own names are read or written, and none of them may be a link: it could lead out of the folder.

    `say` is told if an earlier start of the same job must be waited for. Raises ConfigError for a folder that is another run's, is no run,
    cannot be written, or is being written by another process.
    """

    logs: tuple[str, ...] = ("events",)  # the files NAME.jsonl that are appended to
    folders: tuple[str, ...] = ()  # with all that lies in them

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        command_line: list[str],
        say: Callable[[str], None] = lambda text: None,
        writes: bool = True,
    ) -> None:
        self.folder, self.config, self.command_line = folder, config, command_line
        self.writes = writes  # False: another process of the same run does
        self.notes: list[str] = []
        self.summary: dict[str, Any] | None = None  # of a run that is done
        self._logs: dict[str, Log] = {}
        self._early: list[AnyEvent] = []
        self._begun = self.resumed = False
        self._live = _Live(folder / "live.json", lambda: self.lost)
        self._synced = time.monotonic()
        self._lock: FolderLock | None = None
        self._writer: object = None  # where another process writes: the token of its lock
        if not writes:
            return
        try:
            self._made = [place for place in (folder, *folder.absolute().parents) if not place.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            self._refuse_links()
            self._lock = FolderLock(folder, STALE_SECONDS, BEAT_SECONDS, say=say)
        except OSError as error:
            raise ConfigError(f"run.dir: cannot write {folder}: {error.strerror}; name another folder") from None
        except BaseException:
            self._unmake()
            raise
        try:
            self._check()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise _unusable(folder, error) from None
            raise
        if self._lock.note:
            self.notes.append(self._lock.note)

    def _refuse_links(self) -> None:
        """Raise ConfigError where a link stands in the place of a file or folder of the run."""
        own = [self.folder / name for name in (*OWN, *self.folders, *(f"{name}.jsonl" for name in self.logs))]
        for name in self.folders:
            for place, inside, files in os.walk(self.folder / name):  # which does not follow links
                own += [Path(place) / one for one in (*inside, *files)]
        if links := [path for path in own if path.is_symlink()]:
            shown = ", ".join(f"{path.relative_to(self.folder)} -> {os.readlink(path)}" for path in links[:5])
            more = ", ..." if len(links) > 5 else ""
            raise ConfigError(
                f"run.dir: {self.folder} holds links where the run's own files belong ({shown}{more}), and a run writes nothing outside of "
                "its folder; put the files themselves there, or name another folder"
            )

    def _check(self) -> None:
        names = {path.name for path in self.folder.iterdir() if not path.name.endswith(".new")}
        self.resumed = "config.yaml" in names
        if not self.resumed:
            if strange := sorted(name for name in names - BOOKKEEPING if not OF_JOBS.fullmatch(name)):
                shown = ", ".join(strange[:5]) + (", ..." if len(strange) > 5 else "")
                raise ConfigError(f"run.dir: {self.folder} is not a run folder (it holds {shown}); name a new or empty folder")
            return
        before, done = read_config(self.folder / "config.yaml", "name another run.dir"), (self.folder / "summary.json").exists()
        if not done:
            self._refuse_other_models()  # first of all: with them defaults of the config changed
        if differing := differences_from_begun(before, self.config):
            kinds = RunReader(self.folder).kind, next(iter(self.command_line[1:]), "")
            if len(differing) > FEW and all(kinds) and kinds[0] != kinds[1]:
                raise ConfigError(f"run.dir: {self.folder} is a run of {kinds[0]}, not of {kinds[1]}; name another folder")
            remedy = "give its values again or name another folder; these differ:"
            raise ConfigError([f"run.dir: {self.folder} is a run of another config; {remedy}", *differing])
        for key, value in _as_then(before, self.config).items():
            self.notes.append(f"the run goes on with {key}={value}, as an earlier version began it; a new one has {AS_BEGUN[key][0]}")
        self.notes += moved_on(self.folder / "provenance.json", "the run began")
        if done:
            self.summary = read_json(path := self.folder / "summary.json")
            if self.summary is None:
                raise ConfigError(f"run.dir: cannot read {path}; remove it and the run goes on")

    def _refuse_other_models(self) -> None:
        if problem := others(self.folder):
            raise ConfigError(f"run.dir: {self.folder} {problem}")

    def open(self) -> None:
        """Make the folder a run's, or find what there is of it. From here on everything that is sent is written.

        Raises ConfigError, and WriteError where another process has taken the folder over.
        """
        if not self.writes:
            self._writer = (read_heartbeat(self.folder) or {}).get("token")
            return self.find()
        try:
            with self._mine():
                if self.resumed:
                    self.find()
                else:
                    for submitted in (self.folder, self.folder.parent):  # an array's tasks were submitted together
                        self.notes += moved_on(submitted / "submission" / "provenance.json", "the job was submitted")
                    told = provenance(self.command_line) | noted(self.config)
                    replace(self.folder / "provenance.json", json.dumps(told, indent=2) + "\n", mode=0o600)
                    replace(self.folder / "config.yaml", as_yaml(self.config), sync=True)
                for name in self.logs:
                    self._logs[name] = Log(self.folder / f"{name}.jsonl")
        except OSError as error:
            raise _unusable(self.folder, error) from None
        self._begun = True
        early, self._early = self._early, []
        for event in early:
            self.send(event)

    def find(self) -> None:
        """Read what an earlier start has left."""

    def as_begun(self, config: G) -> G:
        """`config`; of a run that an earlier version has begun what was otherwise then is as it was (AS_BEGUN), and its figures compare."""
        file = self.folder / "config.yaml"
        before = read_config(file, "name another run.dir") if file.is_file() else self.config
        for key, value in _as_then(before, config.model_dump(mode="json")).items():
            group, _, name = key.rpartition(".")
            config = config.model_copy(update={group: getattr(config, group).model_copy(update={name: value})})
        return config

    def passes(self, event: AnyEvent) -> bool:
        """Whether there is nothing to write of an event: it came before `begin`, which sends it again, or is shown while it lasts alone."""
        if not self._begun:
            self._early.append(event)
        elif event.kind in TRANSIENT:
            self._live.send(event)
        return not self._begun or event.kind in TRANSIENT

    def send(self, event: AnyEvent) -> None:
        """Write an event."""
        raise NotImplementedError

    def append(self, name: str, what: BaseModel) -> None:
        """Append one record to NAME.jsonl. Raises WriteError, also where another process has taken the folder over."""
        if not self.writes:
            return
        with self.writing():
            if name not in self._logs:  # a file that few runs have
                self._logs[name] = Log(self.folder / f"{name}.jsonl")
            self._logs[name].append(as_line(what))

    def append_new(self, name: str, there: dict[str, R], record: R) -> bool:
        """Append a record to NAME.jsonl unless `there`, what the file holds by id, has it; whether it was new."""
        if record.id in there:
            return False
        self.append(name, record)
        there[record.id] = record
        return True

    @property
    def lost(self) -> bool:
        """Whether another process has taken the folder over."""
        return self._lock is not None and self._lock.lost is not None

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Whatever is written into the folder is written in here. Raises WriteError where that cannot be done, or where another process has
        taken the folder over."""
        with self._mine(), saving(self.folder):
            yield

    @contextlib.contextmanager
    def _mine(self) -> Iterator[None]:
        if self._lock is not None:
            with self._lock.held():
                yield
            return
        if self._writer is not None and (read_heartbeat(self.folder) or {}).get("token") != self._writer:
            raise WriteError(f"another start has taken {self.folder} over; this process stops")
        yield

    def sync(self) -> None:
        """Make everything so far survive a power cut."""
        for log in self._logs.values():
            log.sync()
        self._synced = time.monotonic()

    def sync_now_and_then(self) -> None:
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, last of all. The run is done."""
        if not self.writes:
            return
        self.sync()
        with self.writing():
            text = json.dumps(finite(summary), indent=2, ensure_ascii=False, allow_nan=False)
            replace(self.folder / "summary.json", text + "\n", sync=True)

    def close(self) -> None:
        """Close the files and give the folder back. A folder in which nothing has begun is left as it was. May be called twice."""
        for log in self._logs.values():
            log.close()
        self._live.close()
        if self._lock is None:
            return
        nothing = not self._begun and not self.resumed
        self._lock.release(remove=nothing)
        if nothing:
            self._unmake()

    def _unmake(self) -> None:
        """Remove the folders that were made for it, where nothing lies in them."""
        with contextlib.suppress(OSError):
            for place in self._made:
                place.rmdir()


class _Live:
    """live.json: the texts of the turns that are being written, and the progress."""

    def __init__(self, path: Path, lost: Callable[[], bool]) -> None:
        self.path, self.lost = path, lost
        self._turns: dict[str, TextStreamed] = {}
        self._progress: Progress | None = None
        self._step: StepFinished | None = None
        self._written = 0.0

    def send(self, event: AnyEvent) -> None:
        match event:
            case TextStreamed():
                self._turns[event.conversation] = event
            case Progress():
                self._progress = event
            case StepFinished():
                self._step = event
            case PhaseStarted():
                self._step = None
            case TurnFinished() | ConversationFinished():
                self._turns.pop(event.conversation, None)
            case _:
                return
        if time.monotonic() - self._written >= LIVE_SECONDS:
            self._write()

    def _write(self) -> None:
        if self.lost():
            return
        self._written = time.monotonic()
        turns = [event.model_dump(include={"conversation", "turn", "speaker", "text", "thinking"}) for event in self._turns.values()]
        progress = self._progress.model_dump(exclude={"kind", "time"}) if self._progress else None
        step = self._step.model_dump(include={"round", "step", "steps", "loss"}) if self._step else None
        try:
            replace(self.path, json.dumps(finite({"time": time.time(), "turns": turns, "progress": progress, "step": step})))
        except OSError:
            return  # only a view; a full disk is reported by the records

    def close(self) -> None:
        self._turns.clear()
        if self._written:
            self._write()


def _unusable(folder: Path, error: OSError) -> Exception:
    """Why a folder cannot be written: wrong is its place (exit code 2), or the disk (1), which another day may have room."""
    if error.errno in OF_PLACE:
        place = error.filename or folder
        return ConfigError(f"run.dir: cannot write {place}: {reason(error)}; name another folder")
    return cannot_write(folder, error)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each key in which two configs differ, those aside that do not change what a run writes.

    A key that the older config does not know is as it was before there was one (ADDED), or does not count (UNUSED). Where it is left open
    now (auto) it is as it was, too: see RunFolder.as_begun.
    """
    one, two = dict(_flat(before)), dict(_flat(now))
    for mine, other in ((one, two), (two, one)):  # runs of two versions are compared both ways
        for key in [key for key in other if key not in mine]:
            name = _known_as(key)
            if name in ADDED or name in UNUSED:
                mine[key] = other[key] if name in UNUSED or (key in ADDED and other[key] == "auto") else ADDED[name]
    keys = [key for key in {**one, **two} if not _is_of_place(key)]
    pairs = [(key, *(None if value == {} else value for value in (one.get(key), two.get(key)))) for key in keys]  # an empty group is none
    return [f"{key}: was {was!r}, is {now!r}" for key, was, now in pairs if was != now]


def differences_from_begun(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The same of a run that goes on: what it goes on with as it was begun is no difference."""
    for key, value in _as_then(before, now).items():
        group, _, name = key.rpartition(".")
        now = {**now, group: {**now[group], name: value}}
    return differences(before, now)


def _as_then(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The values of AS_BEGUN that are not those of now, by key."""
    was, is_now = dict(_flat(before)), dict(_flat(now))
    return {
        key: then for key, (new, then, since) in AS_BEGUN.items()
        if since not in was and is_now.get(key) == new and was.get(key, then) == then
    }  # fmt: skip


def _is_of_place(key: str) -> bool:
    """Whether a key says how and where a run is made, not what."""
    return key.rpartition(".")[2] in OF_ADDRESS or any(key == skip or key.startswith(f"{skip}.") for skip in NOT_COMPARED)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
