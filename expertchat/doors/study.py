"""`expertchat study NAME [smoke|small|full] [WORD=VALUE ...] [STEP.KEY=VALUE ...]`: a whole study, step by step."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

USAGE = """usage: expertchat study NAME|FILE.yaml [smoke|small|full] [WORD=VALUE ...] [STEP.KEY=VALUE ...] [flags]

  WORD=VALUE       a word of the study, such as model=smollm2_135m
  STEP.KEY=VALUE   any key of a step's own command, such as taught.train.epochs=8
  run.dir=FOLDER   where it stands (else runs/study-NAME-SIZE)
  view=plain       lines (plain), nothing but the tables (none); else its steps are drawn (live)
  --list           the command of every step, as it would be run, and which are done
  --only STEP,...  these steps alone

The same command goes on where it was broken off. What has changed is run again, and what reads it; the old results are kept beside it.
As a chain of Slurm jobs: expertchat submit study NAME SIZE [the same words] [cluster=NAME] [--dry-run]"""


def run(arguments: Sequence[str]) -> int:
    """A study from its first step to its tables."""
    from expertchat.folder.writing import write_out
    from expertchat.report.command import NAME, write
    from expertchat.report.subject import subject_of
    from expertchat.studies.asked import asked
    from expertchat.studies.going import run_study, seconds_of, standing
    from expertchat.studies.tables import as_json, finding, report, tables_of
    from expertchat.views.study import StudyView

    if not arguments or {"--help", "-h"} & set(arguments):
        from expertchat.studies.written import titles

        print("\n".join([USAGE, "", "studies:", *(f"  {name:<22}{title}" for name, title in titles().items())]))
        return 0
    wanted = asked(arguments)
    study, steps, folder = wanted.study, wanted.steps, wanted.folder
    if wanted.lists:
        done = standing(folder, steps)
        marks = {step.name: "✓" if step.name in done else " " for step in steps}
        lines = (f"{marks[step.name]} {step.name}: expertchat {shlex.join([step.command, *step.words])}" for step in steps)
        print("\n".join([study.title, *lines]))
        return 0
    watcher = StudyView(study.title, draws=wanted.view == "live")
    try:
        code = run_study(wanted.name, wanted.size, folder, steps, watcher, only=wanted.only)
    finally:
        watcher.close()
    if code == 0 and not wanted.only:
        write_out("run.dir", folder / "report.md", report(study, wanted.again, steps, seconds_of(folder, steps)))
        write_out("run.dir", folder / "report.json", as_json(study, steps))
        page = folder / NAME
        write(subject_of([folder]), page)
        tables = tables_of(study, steps)
        watcher.show(tables, finding(study, tables) or "", f"{page}, {folder / 'report.md'}")
    return code
