"""`expertchat label SOURCE`: people rate and compare what a source holds."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from expertchat.doors.entry import composed
from expertchat.doors.guard import complain, say
from expertchat.sources.words import as_overrides

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.labels.config import LabelConfig
    from expertchat.records.lab import Item

WEB = "TEXTUAL_DRIVER"  # set where a browser shows the app


def run(arguments: Sequence[str]) -> int:
    """The app, its server, or an export."""
    return composed("label", as_overrides(arguments), _one)


def _one(job: Job) -> int:
    from expertchat.labels.run import run_export
    from expertchat.sources.read import read_items

    config: LabelConfig = job.config
    if config.serve:
        return _serve(job)
    items = read_items(config.source, say if config.export else lambda text: None)
    return run_export(config, items, say) if config.export else _sit(config, items)


def _sit(config: LabelConfig, items: Sequence[Item]) -> int:
    from expertchat.labels.run import labels_folder, sits_down, told
    from expertchat.labels.sitting import Sitting
    from expertchat.views.label.app import LabelApp

    begin, opened = sits_down(config, items), list[Sitting]()

    def sit(annotator: str) -> Sitting:
        opened.append(begin(annotator))
        return opened[-1]

    app = LabelApp(sit, config.annotator)
    app.run()
    for sitting in opened:
        sitting.close()
        say(told(sitting, labels_folder(config.labels, config.source.path)))
    if app.failed is not None:
        complain([str(app.failed)])
    return 1 if app.failed is not None else app.return_code or 0


def _serve(job: Job) -> int:
    from expertchat.labels.run import labels_folder, sits_down
    from expertchat.sources.read import read_items
    from expertchat.views.label.pages import LOCAL, Pages

    config: LabelConfig = job.config
    sits_down(config, read_items(config.source, say))  # what is wrong is told here, and not to whoever opens the page
    words = [sys.executable, "-m", "expertchat.cli", "label", *job.overrides, "serve=false"]
    if config.web.host not in LOCAL:
        say(f"whoever reaches {config.web.host}:{config.web.port} can label, under any name: there is no password")
    say(f"labels go to {labels_folder(config.labels, config.source.path).absolute()}")
    Pages(shlex.join(words), config.web.host, config.web.port, "ExpertChat: label", lambda text: say(f"open {text}")).serve()
    return 0


def _port_problem(host: str, port: int) -> str | None:
    """Why nothing can be served there."""
    import socket

    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        return f"web.host={host} web.port={port}: cannot be served ({error.strerror or error}); name another port, or another address"
    return None


def named(config: LabelConfig) -> list[tuple[str, str | None]]:
    """The embedder, where one is named: only an export may fetch it."""
    wanted = config.embedder
    named = config.export == "csv" and wanted.backend == "local" and wanted.path != "auto"
    return [(wanted.path, wanted.models_dir)] if named else []


def check(config: LabelConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.command.check_models import server_problems
    from expertchat.command.check_places import new_file_problem, new_folder_problem
    from expertchat.labels.run import labels_folder, to_read
    from expertchat.sources.read import source_problems

    yield from source_problems(config.source)
    if config.out and (problem := new_file_problem("out", config.out)):
        yield problem
    if config.export:
        if config.labels and not to_read(config.labels, config.source.path).exists():
            yield f"labels={config.labels}: no such folder; correct it, or leave it away for that of the source"
        if config.export == "csv":
            yield from server_problems("embedder", config.embedder)
        return
    folder = labels_folder(config.labels, config.source.path)
    if problem := new_folder_problem("labels", folder):
        yield problem
    if lacking := [name for name in ("textual", *(["textual_serve"] if config.serve else [])) if importlib.util.find_spec(name) is None]:
        yield f"label: needs the packages {' and '.join(lacking).replace('_', '-')}; pip install 'expertchat[label]'"
    elif config.serve and (problem := _port_problem(config.web.host, config.web.port)):
        yield problem
    elif not config.serve and WEB not in os.environ and not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield "label: needs a terminal to show the items in; in a browser: serve=true, and without people: export=trl or export=csv"
