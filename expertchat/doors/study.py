"""`expertchat study NAME [smoke|small|full] [WORD=VALUE ...] [STEP.KEY=VALUE ...]`: a whole study, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from expertchat.config import ConfigError

USAGE = """usage: expertchat study NAME|FILE.yaml [smoke|small|full] [WORD=VALUE ...] [STEP.KEY=VALUE ...] [flags]

  WORD=VALUE       a word of the study, such as model=smollm2_135m
  STEP.KEY=VALUE   any key of a step's own command, such as taught.train.epochs=8
  run.dir=FOLDER   where it stands (else runs/study-NAME-SIZE)
  view=plain       lines (plain), nothing but the tables (none); else its steps are drawn (live)
  --list           the command of every step, as it would be run

The same command goes on where it was broken off. What has changed is run again, and what reads it; the old results are kept beside it."""


def run(arguments: Sequence[str]) -> int:
    """A study from its first step to its tables."""
    from expertchat.folder.writing import write_out
    from expertchat.studies.going import run_study, seconds_of
    from expertchat.studies.tables import as_json, report, tables_of
    from expertchat.studies.written import SIZES, Size, read_study, steps_of, studies
    from expertchat.views.study import StudyView

    if not arguments or {"--help", "-h"} & set(arguments):
        from expertchat.studies.written import titles

        print("\n".join([USAGE, "", "studies:", *(f"  {name:<22}{title}" for name, title in titles().items())]))
        return 0
    plain = [word for word in arguments if "=" not in word and not word.startswith("--")]
    sizes = [word for word in plain[1:] if word in SIZES]
    if problems := _odd(arguments, plain, sizes):
        raise ConfigError(problems)
    name, size = plain[0], next(iter(sizes), "small")
    size = next(one for one in get_args(Size) if one == size)
    values = dict(word.split("=", 1) for word in arguments if "=" in word)
    view, place = values.pop("view", "live"), values.pop("run.dir", None)
    more: dict[str, list[str]] = {}
    for key in [key for key in values if "." in key]:
        step, _, inner = key.partition(".")
        more.setdefault(step, []).append(f"{inner}={values.pop(key)}")
    study = read_study(name)
    short = name if name in studies() else Path(name).stem
    folder = Path(place or f"runs/study-{short}-{size}").expanduser()
    steps = steps_of(study, size, folder, values, more)
    if "--list" in arguments:
        print("\n".join([study.title, *(f"  {step.name}: expertchat {' '.join([step.command, *step.words])}" for step in steps)]))
        return 0
    watcher = StudyView(study.title, draws=view == "live")
    try:
        code = run_study(short, size, folder, steps, watcher)
    finally:
        watcher.close()
    if code == 0:
        write_out("run.dir", folder / "report.md", report(study, short, size, steps, seconds_of(folder)))
        write_out("run.dir", folder / "report.json", as_json(study, steps))
        watcher.show(tables_of(study, steps), str(folder / "report.md"))
    return code


def _odd(arguments: Sequence[str], plain: Sequence[str], sizes: Sequence[str]) -> list[str]:
    """What is no word of this command."""
    flags = [word for word in arguments if word.startswith("--") and word != "--list"]
    found = [f"{word}: there is no such flag; --list and --help are all" for word in flags]
    found += [f"{word}: is no size; take smoke, small or full" for word in plain[1:] if word not in sizes]
    if not plain:
        found.append("name a study: expertchat study --help shows them")
    if len(sizes) > 1:
        found.append(f"{' '.join(sizes)}: name one size")
    return found
