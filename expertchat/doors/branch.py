"""`expertchat branch RUN c0001/3`: a dialogue goes on from any of its turns, otherwise; `expertchat branch RUN` shows the family."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from expertchat.config import ModelConfig
    from expertchat.talk.config import ConverseConfig

ABOUT = (
    "A dialogue of a run goes on from one of its turns, with other models (experts.b=MODEL), personas or seeds (KEY=VALUE of the run's "
    "config) or after an edited turn. Without DIALOGUE/TURN: the run's family."
)


def run(arguments: Sequence[str]) -> int:
    """The branch, or the tree of them."""
    options = _parser().parse_intermixed_args(arguments)
    from expertchat.views.branch import print_branch, print_family

    if options.place is None:
        from expertchat.talk.branching import family_of

        print_family(family_of(options.run))
        return 0
    from expertchat.folder.reader import RunReader
    from expertchat.talk.branching import dialogue_of, kept_turns
    from expertchat.talk.converse import run_converse
    from expertchat.views.open import open_table, open_view

    config = composed(options.run, options.place, options.edit, options.overrides)
    words = ["expertchat", "branch", *arguments]  # by which it goes on
    table = open_table(config.show_thinking) if config.seated else None
    code = run_converse(config, words, table or open_view(config.view, show_thinking=config.show_thinking), desk=table)
    if code == 0 and config.view != "none" and config.branch is not None and config.run.dir is not None:
        parent = dialogue_of(RunReader(Path(config.branch.run)), config.branch.dialogue)
        here = next(iter(RunReader(Path(config.run.dir)).transcripts()))
        print_branch(parent, here, len(kept_turns(parent, config.branch)))
    return code


def composed(run_folder: Path, place: str, edited: str | None, overrides: Sequence[str]) -> ConverseConfig:
    """The branch's config: that of its run, with what is changed. Raises ConfigError with everything that is wrong."""
    from expertchat.command.checks import Problems
    from expertchat.command.frozen import load_frozen
    from expertchat.config import ConfigError
    from expertchat.doors.converse import check
    from expertchat.folder.reader import RunReader
    from expertchat.folder.run import run_folder as named_folder
    from expertchat.talk.branching import TALKS, branch_config, dialogue_of, place_of
    from expertchat.talk.config import BranchConfig

    name, index = place_of(place)
    transcript = dialogue_of(RunReader(run_folder, "name another run"), name)
    if index >= len(transcript.turns):
        raise ConfigError(f"{place}: {name} has {len(transcript.turns)} turns, 0 to {len(transcript.turns) - 1}")
    models = {word.partition("=")[0].removeprefix("experts."): word.partition("=")[2] for word in overrides if _names_model(word)}
    rest = [word for word in overrides if not _names_model(word)]
    chosen, wrong = {}, list[str]()
    for seat, model in models.items():
        try:
            chosen[seat] = _expert(seat, model)
        except ConfigError as error:
            wrong += error.problems
    try:
        parent = load_frozen(TALKS, run_folder / "config.yaml", ["view=live", *rest])
    except ConfigError as error:
        raise ConfigError([*wrong, *error.problems]) from None
    wrong += [f"experts.{seat}={models[seat]}: is no expert of {run_folder}; there are {', '.join(parent.experts.seats)}"
              for seat in models if seat not in parent.experts.seats]  # fmt: skip
    if wrong:
        raise ConfigError(wrong)
    parent = parent.model_copy(update={"experts": parent.experts.having(**chosen)})
    folder = parent.run.dir if any(word.startswith("run.dir=") for word in rest) else None
    branch = BranchConfig(run=str(run_folder.expanduser().resolve()), dialogue=name, turns=index + 1, edited=edited)
    config: ConverseConfig = branch_config(parent, transcript, branch, folder or str(named_folder(None, "branch")))
    problems: Problems = check(config, True)
    if found := list(problems):
        raise ConfigError(found)
    return type(config).model_validate(config.model_dump())


def _expert(seat: str, model: str) -> ModelConfig:
    """The model that a word means, as an expert of a new run; what is wrong with it is said of the seat that it is for."""
    from expertchat.command.compose import load
    from expertchat.command.named_models import with_models
    from expertchat.config import ConfigError
    from expertchat.talk.branching import TALKS

    try:
        found: ModelConfig = load(TALKS, with_models([f"model@experts.a={model}"])).experts["a"]
        return found
    except ConfigError as error:
        place = f"experts.{seat}"
        raise ConfigError([one.replace("model@experts.a", place).replace("experts.a", place) for one in error.problems]) from None


def _names_model(word: str) -> bool:
    """Whether a word is experts.NAME=MODEL."""
    key, equals, _ = word.partition("=")
    return bool(equals) and key.startswith("experts.") and key.count(".") == 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("expertchat branch", description=ABOUT)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run of converse, or of a branch")
    parser.add_argument("place", nargs="?", metavar="DIALOGUE/TURN", help="the last turn that is kept, e.g. c0001/3; the first turn is 0")
    changes = "what is otherwise: experts.b=MODEL, run.seed=1, experts.a.persona.brief=TEXT"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=changes)
    parser.add_argument("--edit", metavar="TEXT", help="what that turn says instead")
    return parser
