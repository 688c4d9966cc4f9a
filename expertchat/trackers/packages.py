"""The trackers themselves, each in its own words: wandb, trackio, TensorBoard. All of them write into the run folder."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from expertchat.config import Group
from expertchat.trackers.texts import Row, Talk, Texts

PROJECT = "expertchat"
TRACED = 50  # dialogues of a start that wandb has as traces too: a trace stands in the row of a step, which is no place for all


class Tracker(Protocol):
    """One tracker's run. May raise whatever its package raises."""

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def ended(self, step: int, values: dict[str, float]) -> None:
        """The numbers of the summary."""
        ...

    def talks(self, step: int, told: Sequence[Talk]) -> None:
        """Dialogues, as traces where the tracker has such."""
        ...

    def table(self, step: int, texts: Texts) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables for a while, where the user has not set them."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


class Wandb:
    """Offline unless WANDB_MODE says otherwise; `wandb sync` sends it later, the starts of a run under one id."""

    def __init__(self, folder: Path, title: str, number: str, config: Group) -> None:
        wandb = import_module("wandb")
        own = str(folder / "wandb")
        quiet = {"WANDB_ERROR_REPORTING": "false", "WANDB_DISABLE_WEAVE": "true"}  # which speaks of itself where openai is imported
        with _environment(WANDB_MODE="offline", WANDB_CACHE_DIR=own, WANDB_DATA_DIR=own, **quiet):
            settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
            self._run = wandb.init(
                project=PROJECT,
                name=title,
                id=number,
                resume="allow",
                dir=str(folder),
                config=config.model_dump(mode="json"),
                settings=settings,
            )

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def ended(self, step: int, values: dict[str, float]) -> None:
        self._run.summary.update(values)

    def talks(self, step: int, told: Sequence[Talk]) -> None:
        rows: list[Row] = [[one.id, one.step, one.topic, speaker, text] for one in told for speaker, text in one.turns]
        self.table(step, Texts("transcripts", ("dialogue", "round", "topic", "speaker", "text"), rows))
        with contextlib.suppress(ImportError):  # a part of wandb that a version may lack; the table has everything
            self._run.log({"traces": self._traces(told[:TRACED])}, step=step)

    def _traces(self, told: Sequence[Talk]) -> Any:
        """A tree: dialogues below each other, with the topic, and the turns of each below it."""
        tree = import_module("wandb.sdk.data_types.trace_tree")
        found = tree.Span(name="dialogues", span_kind=tree.SpanKind.CHAIN)
        for one in told:
            result = tree.Result(inputs={"topic": one.topic}, outputs={"turns": len(one.turns)})
            talk = tree.Span(name=one.id, span_kind=tree.SpanKind.CHAIN, attributes={"round": one.step, **one.about}, results=[result])
            before = one.topic
            for speaker, text in one.turns:
                result, model = tree.Result(inputs={"before": before}, outputs={speaker: text}), one.about.get(speaker)
                talk.add_child_span(tree.Span(name=speaker, span_kind=tree.SpanKind.LLM, attributes={"model": model}, results=[result]))
                before = text
            found.add_child_span(talk)
        return tree.WBTraceTree(found)

    def table(self, step: int, texts: Texts) -> None:
        table = import_module("wandb").Table(columns=list(texts.columns), data=[list(row) for row in texts.rows], allow_mixed_types=True)
        self._run.log({texts.name: table}, step=step)  # a step before the last one would be dropped

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """Local, in trackers/trackio: `TRACKIO_DIR=... trackio show` draws it. A run is known by its name there."""

    def __init__(self, folder: Path, title: str, number: str, config: Group) -> None:
        for module in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
            del sys.modules[module]  # it reads TRACKIO_DIR once, and another run of this process (a sweep) has its own
        with _environment(TRACKIO_DIR=str(folder / "trackio")):
            self._trackio = import_module("trackio")
        settings: dict[str, Any] = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
        with contextlib.redirect_stdout(io.StringIO()):  # the screen belongs to the view
            self._run = self._trackio.init(PROJECT, f"{title}-{number}", resume="allow", config=config.model_dump(mode="json"), **settings)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def ended(self, step: int, values: dict[str, float]) -> None:
        self.log(step, values)

    def talks(self, step: int, told: Sequence[Talk]) -> None:
        for one in told:
            about = {"id": one.id, "topic": one.topic, **one.about}
            self._run.log({"transcripts": self._trackio.Trace(one.messages, metadata=about)}, step=one.step)

    def table(self, step: int, texts: Texts) -> None:
        self._run.log({texts.name: self._trackio.Table(columns=list(texts.columns), data=[list(row) for row in texts.rows])}, step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._trackio.finish()


class TensorBoard:
    """Event files in trackers/tensorboard, by torch where tensorboard is installed, else by tensorboardX."""

    def __init__(self, folder: Path, title: str, number: str, config: Group) -> None:
        module = "torch.utils.tensorboard" if importlib.util.find_spec("tensorboard") else "tensorboardX"
        suffix = f".{secrets.token_hex(4)}"  # tensorboardX would write over the file of a start in the same second
        self._writer = import_module(module).SummaryWriter(str(folder / "tensorboard"), filename_suffix=suffix)
        self._writer.add_text("config", f"```\n{config.model_dump_json(indent=1)}\n```", 0)

    def log(self, step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()  # a run may be killed at any moment

    def ended(self, step: int, values: dict[str, float]) -> None:
        self.log(step, values)

    def talks(self, step: int, told: Sequence[Talk]) -> None:
        for one in told:
            self._writer.add_text(f"transcripts/{one.id}", "\n\n".join(f"**{speaker}** {text}" for speaker, text in one.turns), one.step)
        self._writer.flush()

    def table(self, step: int, texts: Texts) -> None:
        self._writer.add_text(texts.name, texts.markdown(), step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
