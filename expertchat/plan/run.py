"""`expertchat plan`: the plan, its JSON file, and the rehearsal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from expertchat.config import ConfigError
from expertchat.folder.writing import write_out
from expertchat.plan.config import PlanConfig
from expertchat.plan.job import find_shape
from expertchat.plan.planner import Plan, plan_of, planned_gpus
from expertchat.plan.values import as_dict
from expertchat.plan.vllm import Serving, split_gpus, with_serving
from expertchat.text.sentences import shown_path

Show = Callable[[dict[str, Any]], None]
ShowMeasured = Callable[[list[dict[str, Any]], list[str]], None]


def run_plan(config: PlanConfig, show: Show, show_measured: ShowMeasured) -> int:
    """Plan, show, and with measure=true try it out. Returns 0; raises ConfigError where it does not fit or the file cannot be written."""
    if config.measure and config.gpus == "auto":
        return _measured(config, None, show_measured)
    gpus, served = planned_gpus(config), serving_of(config)
    if served is not None:
        gpus, its = split_gpus(gpus, config.server.gpus)
        served = replace(served, gpus=tuple(its))
    plan = plan_of(config, gpus)
    values = as_dict(plan) if served is None else with_serving(as_dict(plan), config.server.seat, served)
    show(values)
    _write(config.out, values)
    if not values["fits"]:
        raise ConfigError(values["problems"])
    return _measured(config, plan, show_measured) if config.measure else 0


def serving_of(config: PlanConfig) -> Serving | None:
    """The server of a plan, on no GPU yet; None where nobody's model is served. Raises ConfigError for a model of unknown shape."""
    wanted = config.server
    if wanted.seat == "none":
        return None
    model = config.experts[wanted.seat]
    shape = find_shape(model, f"experts.{wanted.seat}")
    return Serving(
        shown_path(model.path), shape, (), wanted.bits, "fp16" if model.dtype == "auto" else model.dtype, wanted.memory, config.tokens,
        wanted.requests, wanted.rank,
    )  # fmt: skip


def _measured(config: PlanConfig, plan: Plan | None, show: ShowMeasured) -> int:
    from expertchat.plan.measure import measure

    rows, notes = measure(config)
    show(rows, notes)
    if config.out and plan is None:
        _write(config.out, {"schema": 1, "measured": rows, "notes": notes})
    return 0


def _write(path: str | None, values: dict[str, Any]) -> None:
    if path is not None:
        write_out(f"out={path}", path, json.dumps(values, indent=1) + "\n")
