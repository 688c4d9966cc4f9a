"""Over a million cases of the properties of texts: `python -m tests.proofs.properties OUT [--cases N] [--seed S] [--only NAME ...]`.

Each case has a generator of its own seed, which is named where the property does not hold; a two-hundredth of the cases comes from
hypothesis, which also makes a case small. OUT gets the table (properties.md) and what was found (found.txt). Exit code 1: something was.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, Verbosity, given, settings
from hypothesis import strategies as st

from tests.properties import PROPERTIES, Property

SHOWN = 5  # cases of one property that are written down
BY_HYPOTHESIS = 200


def prove(out: Path, cases: int, seed: int, wanted: Mapping[Property, float] = PROPERTIES) -> int:
    """Run them all and print the table; 1 where one does not hold."""
    out.mkdir(parents=True, exist_ok=True)
    rows = ["| property | what holds | cases | seconds | found |", "|---|---|---|---|---|"]
    found_any, total, began = False, 0, time.monotonic()
    (out / "found.txt").write_text("", "utf-8")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as scratch:
        for holds, share in wanted.items():
            count, start = max(1, round(cases * share)), time.monotonic()
            wrong = _bulk(holds, count - count // BY_HYPOTHESIS, seed, Path(scratch), out / "found.txt")
            wrong += _by_hypothesis(holds, count // BY_HYPOTHESIS, Path(scratch))
            total, found_any = total + count, found_any or bool(wrong)
            said = f"{len(wrong)}: {' '.join(wrong[0].split())[:160]}" if wrong else "nothing"
            what = " ".join((holds.__doc__ or "").split())
            rows.append(f"| {holds.__name__} | {what} | {count:,} | {time.monotonic() - start:.0f} | {said.replace('|', '/')} |")
            print(rows[-1], flush=True)
    rows.append(f"\n{total:,} cases in {time.monotonic() - began:.0f} s, seed {seed}")
    print(rows[-1].strip(), flush=True)
    (out / "properties.md").write_text("\n".join(rows) + "\n", "utf-8")
    return int(found_any)


def _bulk(holds: Property, count: int, seed: int, scratch: Path, log: Path) -> list[str]:
    wrong: list[str] = []
    for i in range(count):
        name = f"{holds.__name__}/{seed}/{i}"
        try:
            holds(Random(name), scratch)
        except Exception as error:  # whatever it is, it was not to be
            wrong.append(f"{name}: {type(error).__name__}: {str(error)!a}")
            if len(wrong) <= SHOWN:
                with log.open("a", encoding="utf-8") as file:
                    file.write(f"{name}\n{traceback.format_exc()!a}\n")
    return wrong


def _by_hypothesis(holds: Property, count: int, scratch: Path) -> list[str]:
    if not count:
        return []

    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck), verbosity=Verbosity.quiet)
    @given(st.randoms(use_true_random=False))
    def check(rng: Random) -> None:
        holds(rng, scratch)

    try:
        check()
    except Exception as error:
        return [f"hypothesis: {type(error).__name__}: {str(error)!a}"]
    return []


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path, help="the folder of the table")
    parser.add_argument("--cases", type=int, default=1_100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=[one.__name__ for one in PROPERTIES], help="these alone share the cases")
    options = parser.parse_args()
    chosen = {one: share for one, share in PROPERTIES.items() if not options.only or one.__name__ in options.only}
    sys.exit(prove(options.out, options.cases, options.seed, {one: share / sum(chosen.values()) for one, share in chosen.items()}))
