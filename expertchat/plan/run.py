"""`expertchat plan`: the plan, its JSON file, and the rehearsal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from expertchat.config import ConfigError
from expertchat.folder.writing import write_out
from expertchat.plan.config import PlanConfig
from expertchat.plan.planner import Plan, plan_of, planned_gpus
from expertchat.plan.values import as_dict

Show = Callable[[dict[str, Any]], None]
ShowMeasured = Callable[[list[dict[str, Any]], list[str]], None]


def run_plan(config: PlanConfig, show: Show, show_measured: ShowMeasured) -> int:
    """Plan, show, and with measure=true try it out. Returns 0; raises ConfigError where it does not fit or the file cannot be written."""
    if config.measure and config.gpus == "auto":
        return _measured(config, None, show_measured)
    plan = plan_of(config, planned_gpus(config))
    values = as_dict(plan)
    show(values)
    _write(config.out, values)
    if not plan.fits:
        raise ConfigError(plan.problems())
    return _measured(config, plan, show_measured) if config.measure else 0


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
