"""`expertchat interview RUN --turn c0001/4 [--ask FILE]`: an expert is asked about a dialogue, which leaves no trace in it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from expertchat.doors.guard import say

ABOUT = "Asks an expert about a dialogue, as it stood at a turn. Each question by itself; the run's folder is only read."


def run(arguments: Sequence[str]) -> int:
    """Ask what --ask holds, or what is typed."""
    options = _parser().parse_args(arguments)
    from expertchat.command.check_places import new_file_problem
    from expertchat.config import ConfigError
    from expertchat.folder.writing import write_out
    from expertchat.prompting.interview import open_interview, questions_of
    from expertchat.views.interview import print_answers, print_heading

    if options.out and (problem := new_file_problem("--out", options.out)):
        raise ConfigError(problem)
    questions = None if options.ask is None else questions_of(options.ask)
    models = os.environ.get("EXPERTCHAT_MODELS")
    interview = open_interview(options.run, options.turn, options.of, models, options.device, options.seed)
    print_heading(interview.transcript, interview.index, interview.seat)
    rows, done = list[dict[str, Any]](), False
    try:
        for asked in [questions] if questions is not None else ([one] for one in _typed()):
            rows += (answers := interview.ask(asked))
            print_answers(answers, interview.seat, questions is not None)
        done = True
    finally:  # Ctrl-C, or a question that has no room: what was answered before is kept
        if options.out and (rows or done):
            write_out("--out", options.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return 0


def _typed() -> Iterator[str]:
    """The questions on standard input, a line each, until its end."""
    terminal = sys.stdin.isatty()
    if terminal:
        say("one question a line; Ctrl-D ends")
    while True:
        if terminal:
            print("? ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("expertchat interview", description=ABOUT)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    parser.add_argument("--turn", required=True, metavar="DIALOGUE/TURN", help="the last turn that the expert knows, e.g. c0001/4")
    parser.add_argument("--of", metavar="EXPERT", help="who is asked (default: who spoke that turn)")
    parser.add_argument("--ask", metavar="FILE|TEXT", help="questions, one a line, or one question (default: they are typed)")
    parser.add_argument("--out", metavar="FILE", help="write questions and answers as JSON Lines too")
    parser.add_argument("--seed", type=int, metavar="N", help="draws other answers (default: the run's)")
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1 (default: the run's)")
    return parser
