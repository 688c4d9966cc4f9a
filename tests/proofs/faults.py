"""Break runs in more than a hundred ways, start each again, and compare it with a run that nothing happened to.

    python -m tests.proofs.faults OUT [--quick] [--points N] [--only PATTERN]

Full disks (calls that fail, and real small file systems where this may mount them), no permission, torn and damaged files, kills and
signals, a second writer, a folder that is taken over or removed, a judge that is gone; in converse and in online_dpo. After each: exit code
and message; then the same command again: done, with the same records and weights, nothing twice. Prints a table and writes OUT/faults.json.
Exit code 0 if all is well. `--points` asks for about so many, `--quick` runs twelve, `--only` those whose command and fault ("converse
SIGKILL") match.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from expertchat.events import AnyEvent, RoundFinished, TurnFinished
from expertchat.folder import run_folder as run_folder
from tests.proofs import faulty
from tests.proofs.damage import Damage, ahead, all_of, at, cut, emptied, folder_there, foreign, garbage, linked, missing
from tests.proofs.faulty import BROKEN, DENIED, FULL, QUOTA, READ_ONLY, Fault, Stage, at_call, at_event, judge_gone, signals, start

BATCH = {"converse": 4, "online_dpo": 2}  # what is in flight when a process is killed or the disk is full
USUAL = 150  # points


@dataclass
class Point:
    command: str
    kind: str
    where: str
    fault: Fault = lambda stage: None
    damage: Damage | None = None
    after: str = "early"  # which broken-off run is damaged
    again: int | None = 0  # answers that may be asked for twice; None: what was lost must be
    codes: tuple[int, ...] = (1,)  # how the start may end that it happens to; 0: it was not in the way
    says: str = ""
    raises: bool = False  # a failure that is no matter of ours: a traceback is right
    mend: Callable[[Path], object] = lambda folder: None
    quick: bool = False
    disk: float = 0.0  # the run lies on a file system of its own, with this share of the room that it needs


@dataclass
class Row:
    command: str
    kind: str
    where: str
    code: int
    said: str
    again: int
    twice: int
    problems: list[str] = field(default_factory=list)


def spread(count: int, most: int) -> list[int]:
    """`count` numbers from 1 to `most`, the first and the last among them."""
    return sorted({1 + round(i * (most - 1) / max(1, count - 1)) for i in range(count)})


# -- the points ---------------------------------------------------------------------------------------------------------


def calls(command: str, folder: Path) -> dict[str, int]:
    """How often an undisturbed run makes each call."""
    seen = {}
    for name in faulty.CALLS:
        log = folder.parent / f"{name}.count"

        def note(log: Path = log) -> None:
            with log.open("a") as file:
                file.write(".")

        place = folder.parent / f"counted-{name}"
        assert start(command, place, at_every(name, note)).code == 0
        seen[name] = log.stat().st_size
        shutil.rmtree(place)
    return seen


def at_every(name: str, act: Callable[[], object]) -> Fault:
    def install(stage: Stage) -> None:
        real = getattr(os, name)

        def call(first: Any, *more: Any, **kw: Any) -> Any:
            if faulty.counts(name, first, more, stage.folder):
                act()
            return real(first, *more, **kw)

        setattr(os, name, call)

    return install


def points(command: str, seen: dict[str, int], share: float) -> Iterator[Point]:
    """What happens to a command; `share` of the usual number of moments for each kind."""
    of, batch = command == "converse", BATCH[command]

    def n(converse: int, training: int) -> int:
        return max(1, round((converse if of else training) * share))

    def each(kind: str, call: str, act: Any, count: int, stays: bool = False, **more: Any) -> Iterator[Point]:
        for i, k in enumerate(spread(count, seen[call])):
            quick = of and i == count // 2 and (kind, call) not in (("SIGTERM", "open"), ("SIGKILL", "replace"), ("quota", "write"))
            yield Point(command, kind, f"{call} {k} of {seen[call]}", at_call(call, k, act, stays), again=batch, quick=quick, **more)

    room = (0, 1, 2)  # what only a view wants may fail; what is wrong with the place is 2
    yield from each("disk full", "write", FULL, n(8, 5), stays=True, codes=room, says="No space left")
    yield from each("no inodes", "open", FULL, n(4, 3), codes=room)
    yield from each("quota", "write", QUOTA, n(2, 1), stays=True, codes=room, says="quota")
    yield from each("disk error", "write", BROKEN, n(2, 1), codes=room)
    yield from each("no permission", "open", DENIED, n(3, 2), codes=room)
    yield from each("read-only", "open", READ_ONLY, n(2, 1), stays=True, codes=room)
    yield from each("rename fails", "replace", BROKEN, n(3, 3), codes=room)
    yield from each("fsync fails", "fsync", BROKEN, n(3, 3), codes=room)
    yield from each("SIGKILL", "write", signals(signal.SIGKILL), n(8, 5), codes=(-signal.SIGKILL,))
    yield from each("SIGKILL", "replace", signals(signal.SIGKILL), n(2, 3), codes=(-signal.SIGKILL,))
    yield from each("SIGTERM", "write", signals(signal.SIGTERM), n(8, 5), codes=(0, 3))
    yield from each("SIGTERM", "open", signals(signal.SIGTERM), n(2, 2), codes=(0, 3))
    if os.geteuid() == 0 and os.environ.get("FAULTS_MOUNT", "1") == "1":
        for part in [i / (n(5, 5) + 1) for i in range(1, n(5, 5) + 1)]:
            yield Point(command, "small disk", f"{part:.0%} of its room", disk=part, again=batch, codes=room, says="No space left")
    for k in spread(n(3, 2), 30 if of else 20):
        yield Point(command, "judge gone", f"answer {k}", judge_gone(k), raises=True, says="the judge does not answer", quick=of and k == 1)
    for k in spread(n(3, 2), 40 if of else 20):
        more: dict[str, Any] = {"codes": (0,), "quick": of and k == 1}
        yield Point(command, "second writer", f"event {k}", at_event(k, lambda stage: _second(command, stage)), **more)
    for k in spread(n(2, 1), 30):
        taken: dict[str, Any] = {"says": "has taken", "mend": lambda folder: (folder / "heartbeat.json").unlink(), "again": batch}
        yield Point(command, "taken over", f"event {k}", at_event(k, _taken_over), **taken)
    for k in spread(n(3, 2), 30):
        gone = at_event(k, _removed)
        yield Point(command, "folder removed", f"event {k}", gone, again=None, says="removed", codes=(1, 2), quick=of and k > 20)
    yield from damaged(command)


def _second(command: str, stage: Stage) -> None:
    found = start(command, stage.folder.parent / "link")  # another name for the same folder
    assert found.code == 2 and "being written by another process" in found.said, found


def _removed(stage: Stage) -> None:
    while stage.folder.exists():  # a heartbeat may come in between
        shutil.rmtree(stage.folder, ignore_errors=True)


def _taken_over(stage: Stage) -> None:
    beat = {"host": "elsewhere", "pid": 1, "time": time.time(), "token": "theirs", "job": None, "restarts": None}
    time.sleep(0.1)
    (stage.folder / "heartbeat.json").write_text(json.dumps(beat))
    time.sleep(0.3)


# -- files that are torn, damaged, gone, or not ours --------------------------------------------------------------------


def damaged(command: str) -> Iterator[Point]:
    """Files of a run that was broken off, each damaged in several ways."""
    logs = ["events", "topics", "transcripts", "answers", "ratings", "wim", "rewards"]
    late = ["events", "candidates", "ratings", "scores", "pairs", "metrics", "transcripts"]
    for name in logs if command == "converse" else late:
        for way in (cut, emptied, garbage, missing):
            yield Point(command, f"{way.__name__} file", f"{name}.jsonl", damage=at(f"{name}.jsonl", way), again=None, codes=(0, 2))
    for name, ways in {"config.yaml": (garbage, emptied), "provenance.json": (missing, garbage), "heartbeat.json": (garbage,),
                       "live.json": (garbage,), "summary.json": (garbage,)}.items():  # fmt: skip
        for way in ways:
            codes = (2,) if name in ("config.yaml", "summary.json") else (0,)
            yield Point(command, f"{way.__name__} file", name, damage=at(name, way), codes=codes, again=None, quick=name == "config.yaml")
    yield Point(command, "clock ahead", "heartbeat.json", damage=ahead, codes=(0,))
    yield Point(command, "foreign files", "notes.jsonl, a link", damage=foreign, codes=(0,), quick=command == "converse")
    yield Point(command, "link", "events.jsonl", damage=linked("events.jsonl"), codes=(2,), says="holds links", quick=True)
    yield Point(command, "a folder", "ratings.jsonl", damage=folder_there, codes=(2,), says="Is a directory")
    if command == "converse":
        return
    yield Point(command, "link", "rounds", damage=linked("rounds"), codes=(2,), says="holds links")
    two = "rounds/000002"
    for name, ways in {"adapter/adapter_model.safetensors": (cut, garbage, missing), "adapter/adapter_config.json": (cut, garbage),
                       "optimizer.pt": (cut, emptied, garbage, missing), "state.json": (cut, garbage, missing),
                       "DONE": (emptied, garbage)}.items():  # fmt: skip
        for way in ways:
            yield Point(command, f"{way.__name__} checkpoint", name, damage=at(f"{two}/{name}", way), after="late", codes=(0,))
    for name in ("rounds/000002/bundles-0.jsonl", "rounds/000002/answers-0.jsonl", "evaluations/base-a.jsonl"):
        for way in (cut, garbage):
            yield Point(command, f"{way.__name__} file", name, damage=at(name, way), codes=(0, 2), again=None)
    both = [at(f"rounds/{number}/optimizer.pt", cut) for number in ("000001", "000002")]
    none = {"after": "late", "codes": (2,), "says": "no checkpoint is whole"}
    yield Point(command, "cut checkpoint", "both optimizer.pt", damage=all_of(both), again=None, **none)  # type: ignore[arg-type]


# -- one point ----------------------------------------------------------------------------------------------------------


class Proof:
    """What all points are compared with: unbroken runs, and runs that were broken off."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.number = scratch, 0
        self.whole: dict[str, dict[str, set[str]]] = {}
        self.weights: dict[str, bytes] = {}
        self.bytes: dict[str, int] = {}
        self.asked: dict[tuple[str, str], Counter[str]] = {}
        self.seen: dict[str, dict[str, int]] = {}

    def prepare(self, command: str) -> None:
        whole = self.scratch / command / "whole"
        whole.parent.mkdir(parents=True)
        found = start(command, whole)
        assert found.code == 0 and max(found.asked.values()) == 1, found
        self.whole[command], self.weights[command] = faulty.records(whole), faulty.weights(whole)
        self.bytes[command] = sum(max(4096, path.stat().st_size + 4095 & ~4095) for path in whole.rglob("*") if path.is_file())
        self.seen[command] = calls(command, self.scratch / command / "counted")
        wanted: dict[str, Callable[[AnyEvent], bool]] = {
            "early": lambda e: isinstance(e, TurnFinished) and e.conversation in ("c0002", "r0002/c0001") and e.index == 1,
            "late": lambda e: isinstance(e, RoundFinished) and e.round == 2,
        }
        for name, when in wanted.items():
            if command == "online_dpo" or name == "early":
                found = start(command, self.scratch / command / name, lambda stage, when=when: stage.on_event.append(_stop(when)))  # type: ignore[misc]
                assert found.code == 3, found
                self.asked[command, name] = found.asked

    def run(self, point: Point) -> Row:
        self.number += 1
        place = self.scratch / f"{self.number:03d}"
        folder = place / "run"
        place.mkdir()
        (place / "link").symlink_to(folder)
        asked, mend = Counter[str](), None
        if point.damage is not None:
            shutil.copytree(self.scratch / point.command / point.after, folder, symlinks=True)
            asked, mend = Counter(self.asked[point.command, point.after]), point.damage(folder)
        if point.disk:
            folder.mkdir()
            _mount(folder, point.disk * self.bytes[point.command])
        try:
            first = start(point.command, folder, point.fault)
            row = Row(point.command, point.kind, point.where, first.code, _last(first.said), -1, 0)
            self._first(point, first, row)
            if mend is not None and (first.code or point.kind == "foreign files"):
                mend()
            point.mend(folder) if first.code else None
            if point.disk:
                subprocess.run(["mount", "-o", "remount,size=256m", str(folder)], check=True)
            second = start(point.command, folder)
            row.again = second.code
            if second.code:
                row.problems.append(f"again: {_last(second.said)}")
            asked += first.asked + second.asked
            row.twice = sum(count - 1 for count in asked.values() if count > 1)
            if point.again is not None and row.twice > point.again:
                row.problems.append(f"{row.twice} answers were asked for twice: {[k for k, c in asked.items() if c > 1][:3]}")
            if not row.problems:
                self._same(point.command, folder)
        except AssertionError as error:
            row.problems.append(str(error))
        finally:
            if point.disk:
                subprocess.run(["umount", str(folder)], check=True)
        if not row.problems:
            shutil.rmtree(place)
        return row

    def _first(self, point: Point, found: faulty.Outcome, row: Row) -> None:
        if found.code not in point.codes:
            row.problems.append(f"exit code {found.code}, not {' or '.join(map(str, point.codes))}")
        if "Traceback" in found.said and not point.raises:
            row.problems.append("a traceback")
        if found.code > 0 and (not found.said.strip() or (point.says not in found.said)):
            row.problems.append(f"it does not say {point.says!r}")

    def _same(self, command: str, folder: Path) -> None:
        mine = faulty.records(folder)
        for name in self.whole[command].keys() | mine.keys():
            apart = self.whole[command].get(name, set()) ^ mine.get(name, set())
            if name == "answers.jsonl":  # those that were lost need not be there again, where what was made of them is
                apart = mine[name] - self.whole[command][name]
            assert not apart, f"{name} differs: {sorted(apart)[:2]}"
        assert faulty.weights(folder) == self.weights[command], "other weights"
        left = [path.name for path in folder.rglob("*") if path.name.startswith(("answers-", "bundles-"))]
        assert not left, f"left behind: {left}"


def _stop(when: Callable[[AnyEvent], bool]) -> Callable[[AnyEvent], None]:
    return lambda event: os.kill(os.getpid(), signal.SIGTERM) if when(event) else None


def _mount(folder: Path, size: float) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(4096, int(size))}", "tmpfs", str(folder)], check=True)


def _last(said: str) -> str:
    return (said.strip().splitlines() or [""])[-1]


# -- the table ----------------------------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    """One line for each kind of fault, and one for each point that is not well."""
    lines = [f"{'command':<11} {'fault':<20} {'points':>6} {'well':>5}  exit codes            again  asked twice (at most)"]
    for command, kind in dict.fromkeys((row.command, row.kind) for row in rows):
        mine = [row for row in rows if (row.command, row.kind) == (command, kind)]
        codes = ", ".join(f"{code}: {count}" for code, count in sorted(Counter(row.code for row in mine).items()))
        again = ", ".join(map(str, sorted({row.again for row in mine})))
        well = sum(not row.problems for row in mine)
        lines.append(f"{command:<11} {kind:<20} {len(mine):>6} {well:>5}  {codes:<21} {again:<6} {max(row.twice for row in mine)}")
    lines.append(f"{len(rows)} points, {sum(not row.problems for row in rows)} well")
    lines += [f"NOT WELL {row.command}, {row.kind}, {row.where}: {'; '.join(row.problems)} [{row.said}]" for row in rows if row.problems]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.proofs.faults")
    parser.add_argument("out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--points", type=int, default=USUAL)
    parser.add_argument("--only", type=re.compile, default=re.compile(""))
    options = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    before = run_folder.BEAT_SECONDS, run_folder.STALE_SECONDS
    run_folder.BEAT_SECONDS, run_folder.STALE_SECONDS = 0.05, 2.0  # so that nobody waits for two minutes
    try:
        return _prove(options)
    finally:
        run_folder.BEAT_SECONDS, run_folder.STALE_SECONDS = before


def _prove(options: argparse.Namespace) -> int:
    scratch = options.out / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    proof, rows = Proof(scratch), list[Row]()
    for command in ("converse",) if options.quick else ("converse", "online_dpo"):
        wanted = points(command, dict.fromkeys(faulty.CALLS, 1), options.points / USUAL)
        if not any(options.only.search(f"{point.command} {point.kind}") for point in wanted):
            continue
        proof.prepare(command)
        for point in points(command, proof.seen[command], options.points / USUAL):
            if (point.quick or not options.quick) and options.only.search(f"{point.command} {point.kind}"):
                rows.append(row := proof.run(point))
                if not options.quick:
                    well = "; ".join(row.problems) or "well"
                    print(f"{row.command} {row.kind} {row.where}: {row.code}, {row.again} {well} | {row.said}"[:400], flush=True)
    (options.out / "faults.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", "utf-8")
    print(table(rows))
    bad = any(row.problems for row in rows)
    if not bad:
        shutil.rmtree(scratch)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
