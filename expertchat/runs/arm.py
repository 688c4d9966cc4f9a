"""One arm of a table: what its runs come to over their seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from expertchat.evaluation.by_topic import mean_of
from expertchat.evaluation.statistics import quantile, wilson
from expertchat.records import Figure, Metrics
from expertchat.runs.learnt import Run
from expertchat.runs.pooled import SEED, Pool

Row = dict[str, Any]
MEANS = (
    "tokens_policy", "tokens_base", "distinct_policy", "distinct_base", "repeats_policy", "repeats_base", "wrong_policy", "wrong_base",
    "accuracy_policy", "accuracy_base", "rating_policy", "rating_base", "measure_policy", "measure_base", "truth_policy", "truth_base",
    "reward_policy", "reward_base", "questions_policy", "questions_base", "agreements_policy", "agreements_base", "again_policy",
    "again_base", "repeat_rate_policy", "repeat_rate_base",
)  # fmt: skip
# Policy less base, with intervals.
APART = ("repeats", "repeat_rate", "accuracy", "wrong", "truth", "reward", "measure", "questions", "agreements", "again")
KEPT = (
    "n", "topics", "win_rate", "win_rate_low", "win_rate_high", "win_rate_least", "wins", "ties", "losses", "win_rate_length_matched",
    "win_rate_length_matched_low", "win_rate_length_matched_high", "n_length_matched", "ties_length_matched", *MEANS, "n_reward",
    *(f"{name}{bound}" for name in ("distinct_ratio", "tokens_ratio", *(f"{name}_difference" for name in APART))
      for bound in ("", "_low", "_high")),
)  # fmt: skip


def row(name: str, runs: Sequence[Run], pool: Pool | None = None) -> Row:
    """One arm over its seeds. Intervals are by topics where each reply is kept (`drawn`), else the win rate's takes every reply for itself.

    `win_rate_min` and `_max` show how far the seeds lie apart, `win_rate_seeds_low` and `_high` what they say of another one.
    """
    judged = [run for run in runs if run.evaluation is not None]
    rates = [rate for run in judged if (rate := run.number("win_rate")) is not None]
    seeds = mean_of(rates, [str(i) for i in range(len(rates))], seed=SEED)
    done, seen = [len(run.rounds) for run in runs], [run.judged for run in runs]
    judge = next((run.figure("judge") for run in judged), None)
    found = _of_figures(judged) | ({} if pool is None else pool.figures(str(judge)))
    return {
        "arm": name,
        "learner": runs[0].learner,
        "seeds": [run.seed for run in runs],
        "finished": all(run.finished for run in runs),
        "rounds": min(done),
        "rounds_max": max(done),
        "rounds_wanted": runs[0].rounds_wanted,
        "rounds_kept": sorted({at for run in judged if (at := run.kept) is not None}),  # where they are not the last round's
        "method": runs[0].reader.config["train"].get("update", "dpo"),
        "judged": min(seen),
        "judged_max": max(seen),
        "judge": judge,
        "drawn": "replies" if pool is None else "topics",
        **{key: found.get(key) for key in KEPT},
        "win_rate_min": min(rates, default=None),
        "win_rate_max": max(rates, default=None),
        "win_rate_seeds_low": seeds.low,
        "win_rate_seeds_high": seeds.high,
        "reward_gain": _over([gain for run in runs if (gain := _gain(run.rounds)) is not None]),
        "tie_rate": _share(runs, "ties", ("ties", "pairs")),
        "null_rate": _share(runs, "nulls", ("candidates",)),
        "margin_scaled": _over([value for run in runs for one in run.rounds if (value := one.figures.get("margin_scaled")) is not None]),
        "kl": _over([value for run in runs if run.rounds and (value := run.rounds[-1].figures.get("kl")) is not None]),
    }


def _of_figures(judged: Sequence[Run]) -> Row:
    """Sums and means of what the runs' own figures say, for runs whose replies are not kept: every reply counts alike."""
    wins, ties, losses, n = (int(sum(run.number(key) or 0 for run in judged)) for key in ("wins", "ties", "losses", "n"))
    # Of several judges a win counts by their share, so it is the rate that tells; rounded, as it is a sum of shares again.
    won = sum(round((run.number("win_rate") or 0) * (run.number("n") or 0), 6) for run in judged)
    low, high = wilson(won, n) if n else (None, None)
    return {
        "n": n, "win_rate": won / n if n else None, "win_rate_low": low, "win_rate_high": high,
        "wins": wins, "ties": ties, "losses": losses,
        **_alike_in_length(judged),
        **{key: _mean(judged, key) for key in MEANS},
        **_ratio(judged),
    }  # fmt: skip


def _alike_in_length(judged: Sequence[Run]) -> Row:
    rate, n = _mean(judged, "win_rate_length_matched", "n_length_matched"), int(sum(run.number("n_length_matched") or 0 for run in judged))
    low, high = wilson(round(rate * n, 6), n) if n and rate is not None else (None, None)
    name = "win_rate_length_matched"
    return {name: rate, f"{name}_low": low, f"{name}_high": high, "n_length_matched": n}


def _mean(runs: Sequence[Run], name: str, weight: str = "n") -> float | None:
    """The mean over the seeds, each weighted by its replies."""
    found = [(run.number(name), run.number(weight) or 0) for run in runs]
    total = sum(w for value, w in found if value is not None)
    return sum(value * w for value, w in found if value is not None) / total if total else None


def _ratio(runs: Sequence[Run]) -> Row:
    """The ratio of the pooled means. Each seed's ratio has its share of the base's facts as weight and its bootstrap interval as error;
    seeds draw their replies independently, so the squares of the errors add up."""
    policy, base = _mean(runs, "distinct_policy"), _mean(runs, "distinct_base")
    if not policy or not base:
        return {"distinct_ratio": None, "distinct_ratio_low": None, "distinct_ratio_high": None}
    z, ratio, square = quantile(0.95), policy / base, 0.0
    total = sum((run.number("n") or 0) * (run.number("distinct_base") or 0) for run in runs)
    for run in runs:
        low, high = run.number("distinct_ratio_low"), run.number("distinct_ratio_high")
        if low is None or high is None:
            return {"distinct_ratio": ratio, "distinct_ratio_low": None, "distinct_ratio_high": None}
        square += ((run.number("n") or 0) * (run.number("distinct_base") or 0) / total * (high - low) / (2 * z)) ** 2
    reach = z * square**0.5
    return {"distinct_ratio": ratio, "distinct_ratio_low": ratio - reach, "distinct_ratio_high": ratio + reach}


def _gain(rounds: Sequence[Metrics]) -> float | None:
    """The reward of the candidates in the last fourth of the rounds, less that in the first."""
    rewards = [value for one in rounds if isinstance(value := one.figures.get("reward_mean"), int | float)]
    few = max(1, len(rewards) // 4)
    return fmean(rewards[-few:]) - fmean(rewards[:few]) if len(rewards) > 1 else None


def _share(runs: Sequence[Run], part: str, whole: Sequence[str]) -> float | None:
    """A part of a whole over all rounds of all seeds."""

    def add(names: Iterable[str]) -> float:
        return sum(v for run in runs for one in run.rounds for name in names if isinstance(v := one.figures.get(name), int | float))

    total = add(whole)
    return add([part]) / total if total else None


def _over(values: Sequence[Figure]) -> float | None:
    numbers = [value for value in values if isinstance(value, int | float)]
    return fmean(numbers) if numbers else None
