"""Kill -9 a training run at random moments, resume it each time, and compare it with an unbroken run.

    python -m tests.proofs.kill_training [KILLS] [--three] [--grpo|--rloo] [OVERRIDE ...]

--three: three experts learn, by turns. --grpo, --rloo: by that command, of fewer dialogues. The moments are spread over the phases: what
each kill hit is printed. Exit code 0 if records and adapters are the same.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.test_online_dpo import NOISE, adapters, content, difference

COMMANDS = {"--grpo": "grpo", "--rloo": "rloo"}
GROUPS = ["conversation.count=4", "rounds=4", "evaluation.histories=4", "evaluation.final=4"]
RUN = [
    "rounds=5", "conversation.count=8", "evaluation.every=2", "evaluation.histories=16", "evaluation.final=16",
    "view=none", "run.seed=7",
]  # fmt: skip
THREE = [
    "+model@experts.c=embedded_llama", "learner=all", "rounds=3", "conversation.count=3", "conversation.turns=4", "train.batch=4",
    "evaluation.histories=4", "evaluation.final=4",
]  # fmt: skip
PHASES = ("talking", "updating", "evaluating", "saving", "pairing")


def start(folder: Path, overrides: Sequence[str]) -> subprocess.Popen[bytes]:
    """`overrides`: the command, then what is set otherwise than in RUN."""
    command, *rest = overrides
    experiment = "+experiment=embedded" + ("" if command == "online_dpo" else f"_{command}")
    return subprocess.Popen([sys.executable, "-m", "expertchat.cli", command, experiment, *RUN, *rest, f"run.dir={folder}"])


def rounds_of(overrides: Sequence[str]) -> int:
    """How many rounds a run has."""
    return int([value for value in (*RUN, *overrides) if value.startswith("rounds=")][-1].removeprefix("rounds="))


def phase(folder: Path) -> str:
    """What the run was at when it last said so."""
    events = folder / "events.jsonl"
    lines = events.read_bytes().splitlines() if events.exists() else []
    for line in reversed(lines):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event["kind"] == "phase_started":
            return f"{event['phase']} of round {event['round']}"
        if event["kind"] in ("run_started", "round_finished"):
            return event["kind"].replace("_", " ")
    return "loading"


def wait_for(run: subprocess.Popen[bytes], folder: Path, wanted: str, number: int) -> None:
    """Until the run reaches a phase of a round, or ends."""
    events, seen = folder / "events.jsonl", 0
    while run.poll() is None:
        if events.exists() and (size := events.stat().st_size) > seen:
            with open(events, "rb") as file:
                file.seek(max(0, seen - 4096))
                text = file.read().decode(errors="replace")
            if f'"kind":"phase_started","round":{number},"phase":"{wanted}"' in text:
                return
            seen = size
        time.sleep(0.002)


def memory(folder: Path) -> float:
    """GiB that the process held in its last round."""
    records = map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines())
    return float([record["figures"]["memory_gib"] for record in records if record["kind"] == "round"][-1])


def main(kills: int, overrides: Sequence[str]) -> int:
    rng, hit, rounds = random.Random(1), Counter[str](), rounds_of(overrides)
    with tempfile.TemporaryDirectory() as scratch:
        whole, broken = Path(scratch) / "whole", Path(scratch) / "broken"
        began = time.monotonic()
        assert start(whole, overrides).wait() == 0
        print(f"unbroken run: {time.monotonic() - began:.1f} s, {len(content(whole))} records", flush=True)
        for kill in range(kills):
            run, wanted, number = start(broken, overrides), PHASES[kill % len(PHASES)], 1 + kill * rounds // kills
            wait_for(run, broken, wanted, max(2, number - number % 2) if wanted == "evaluating" else number)
            time.sleep(rng.uniform(0, {"talking": 3.0, "updating": 1.0, "evaluating": 0.2}.get(wanted, 0.02)))
            if run.poll() is not None:
                print(f"it ended by itself with {run.returncode} before kill {kill + 1}", flush=True)
                break
            run.send_signal(signal.SIGKILL)
            run.wait()
            where = phase(broken)
            hit[where.split()[0]] += 1
            print(f"kill {kill + 1} at {where}", flush=True)
        assert start(broken, overrides).wait() == 0
        one, two = adapters(whole), adapters(broken)
        worst = max(float((one[name] - two[name]).abs().max()) for name in one) if one.keys() == two.keys() else float("inf")
        unbroken, resumed = content(whole), content(broken)
        apart = difference(unbroken, resumed)
        for key in [key for key in unbroken.keys() | resumed.keys() if difference(unbroken.get(key), resumed.get(key)) > NOISE][:10]:
            print(f"differs: {key}: {unbroken.get(key)} / {resumed.get(key)}"[:600])
        print(f"after {sum(hit.values())} kills ({dict(hit)}): {len(resumed)} records, {'the same' if apart <= NOISE else 'DIFFERENT'}")
        print(f"scores: largest difference {apart:.1g}")
        print(f"final adapter: largest difference {worst:g}")
        print(f"memory in the last round: {memory(whole)} GiB unbroken, {memory(broken)} GiB after the last resume")
        return 0 if apart <= NOISE and worst == 0 else 1


if __name__ == "__main__":
    words = sys.argv[1:]
    count = int(words.pop(0)) if words and words[0].isdecimal() else 10
    three = THREE if "--three" in words else []
    command = next((COMMANDS[word] for word in words if word in COMMANDS), "online_dpo")
    groups = [] if command == "online_dpo" else GROUPS
    own = [word for word in words if word != "--three" and word not in COMMANDS]
    sys.exit(main(count, [command, *three, *groups, *own]))
