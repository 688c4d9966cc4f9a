"""`expertchat report RUN|FOLDER ...`: read what was named, write the page, and with --follow again as long as a run goes on."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from os.path import relpath
from pathlib import Path
from urllib.parse import quote

from expertchat.command.check_places import new_file_problem
from expertchat.config import ConfigError
from expertchat.folder.writing import saving, write_out
from expertchat.report.drawing import needs_matplotlib, write_figures
from expertchat.report.making import report_of
from expertchat.report.markdown import written
from expertchat.report.parts import Figure, Report
from expertchat.report.subject import Subject, subject_of
from expertchat.report.transcripts import talks
from expertchat.report.writing import Written, write_page

LOOK_SECONDS = 10
NAME = "report.html"
ANSWERED = "report.json"  # of a study that is done


def run_report(arguments: Sequence[str], show: Callable[[Report], None], tell: Callable[[Written, Sequence[str]], None]) -> int:
    """Write the page and say so by `tell`, or `show` its first part. Raises ConfigError."""
    options = _parser().parse_args(list(arguments))
    out: Path | None = options.out
    problems = _out_problems(out) if out is not None else []
    if options.markdown is not None and options.markdown.suffix != ".md":
        problems.append(f"--markdown {options.markdown}: must end in .md")
    if options.follow is not None and options.follow < 1:
        problems.append(f"--follow {options.follow}: give seconds, 1 or more")
    try:
        subject = subject_of(options.place)
    except ConfigError as error:
        raise ConfigError([*error.problems, *problems]) from None
    if problems:
        raise ConfigError(problems)
    if options.terminal or options.plots or options.markdown:
        report = report_of(subject)
        if options.plots or options.markdown:
            tell(*_files(report, options.plots, options.markdown))
        if options.terminal:
            show(report)
        return 0
    out = out or _beside(options.place)
    if options.follow is None:
        tell(*write(subject, out))
    else:
        follow(options.place, out, options.follow, tell)
    return 0


def _out_problems(out: Path) -> list[str]:
    """What keeps a page from being written there, before anything is read."""
    if out.suffix not in (".html", ".htm"):
        return [f"--out {out}: must end in .html"]
    problem = new_file_problem("--out", out)
    return [problem] if problem else []


def _files(report: Report, plots: Path | None, markdown: Path | None) -> tuple[Written, list[str]]:
    """The figures as files, and what is said with the tables as Markdown; what was written, and what is to be known of it."""
    done, warnings = Written(), list(report.warnings)
    if plots is not None:
        needs_matplotlib()
        if drawn := write_figures(figures(report), plots):
            done.sizes[plots] = sum(path.stat().st_size for path in drawn)
        else:
            warnings.append("--plots: there is nothing to draw")
    if markdown is not None:
        pictures = quote(relpath(plots, markdown.parent)) if plots is not None else None
        write_out(f"--markdown {markdown}", markdown, written(report, pictures))
        done.sizes[markdown] = markdown.stat().st_size
    return done, warnings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "expertchat report",
        description="One HTML file with what came out, its figures and all transcripts; it opens anywhere, without a network.",
    )
    parser.add_argument("place", type=Path, nargs="+", metavar="RUN|FOLDER|FILE",
                        help="runs, folders of runs, a study's folder, JSON that audit, arms, metrics or tokens wrote")  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="FILE.html", help=f"where to (else {NAME} in the folder, or here where several are named)"
    )
    parser.add_argument("--follow", type=int, nargs="?", const=LOOK_SECONDS, metavar="SECONDS",
                        help=f"write it again as the run goes on, every {LOOK_SECONDS} s at most, until it is done")  # fmt: skip
    parser.add_argument("--terminal", action="store_true", help="show the first page here, and write nothing")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write its figures instead: svg, pdf, png, and a csv of each")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE.md", help="write what it says and its tables instead; with --plots the figures stand in it"
    )
    return parser


def figures(report: Report) -> list[Figure]:
    """All figures of a report."""
    first = [report.verdict.shown] if report.verdict.shown else []
    return first + [part for section in report.sections for part in section.parts if isinstance(part, Figure)]


def _beside(places: Sequence[Path]) -> Path:
    """Where the page stands when nobody says: in the one folder that was named, else here."""
    one = places[0].expanduser()
    return one / NAME if len(places) == 1 and one.is_dir() else Path(NAME)


def write(subject: Subject, out: Path, again: int = 0) -> tuple[Written, list[str]]:
    """Write the page; what was written, and what is to be known of it."""
    with saving(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    report, warnings = report_of(subject), list[str]()
    written = write_page(report, talks(subject, warnings), list(subject.names.values()), out, again, warnings)
    return written, [*report.warnings, *warnings]


def follow(places: Sequence[Path], out: Path, seconds: int, tell: Callable[[Written, Sequence[str]], None]) -> None:
    """Write the page again whenever there is more, until all runs and studies are at their end."""
    before: object = None
    while True:
        subject = subject_of(places)
        going = any(not run.done for run in subject.runs) or any(not (place / ANSWERED).is_file() for place in subject.studies)
        if (now := _stamp(subject)) != before:
            before = now
            tell(*write(subject, out, seconds if going else 0))
        if not going:
            return
        time.sleep(seconds)


def _stamp(subject: Subject) -> object:
    """What changes when there is more to tell: the sizes of the records, and whether a run is done."""
    passing = ("live.json", "heartbeat.json")
    places = [*(run.folder for run in subject.runs), *subject.studies]
    files = [path for place in places for path in sorted(place.glob("*.json*")) if path.name not in passing]
    return [(path, path.stat().st_size) for path in files]
