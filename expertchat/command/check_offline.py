"""What a command that trains one model looks at before it starts: its folder, its model, layers that the model has not."""

from __future__ import annotations

from expertchat.command import check_models as models
from expertchat.command import check_places as places
from expertchat.command.check_learners import target_problems
from expertchat.command.checks import Problems, told
from expertchat.experts.registry import family_class
from expertchat.folder.run import run_folder
from expertchat.trackers.tracking import check_trackers
from expertchat.training.offline_config import SEAT, OfflineConfig


def offline(config: OfflineConfig, command: str, here: bool) -> Problems:
    """The problems of a run of `command`; `here` False: it runs on another machine."""
    if problem := places.new_folder_problem("run.dir", run_folder(config.run.dir, command)):
        yield problem
    model, problems = config.model, list[str]()
    yield from (f"model.{problem}" for problem in told(family_class, model.family))
    yield from told(check_trackers, config.report_to)
    found = models.find_seats({SEAT: model}, problems)
    yield from models.trained_problems(SEAT, model, found.get(SEAT))
    yield from models.learning_on_problems(SEAT, model)
    if here:
        yield from problems
        yield from models.device_problems({"model.device": model.device})
        if not problems:
            yield from models.loading_problems(SEAT, model, found.get(SEAT))
    if config.train.method == "lora" and SEAT in found:
        yield from target_problems("model", config.train.targets, model, found[SEAT])
