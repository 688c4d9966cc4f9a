"""`expertchat dpo`: a model is trained on pairs (or judged replies) that were there before, and held against its base as in online_dpo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from expertchat.config import ConfigError
from expertchat.evaluation.figures import ANSWERED
from expertchat.records import Figure
from expertchat.records.learning import Preference, Standing
from expertchat.sources.preferences import read_preferences, shared
from expertchat.text.sentences import shown_path
from expertchat.training.against_base import AgainstBase, held_out_topics, trained_topics
from expertchat.training.dpo_config import DpoConfig
from expertchat.training.encoded import Encoder
from expertchat.training.guards import alarms, to_lower
from expertchat.training.method import Rows
from expertchat.training.offline import Offline
from expertchat.training.offline_card import offline_card
from expertchat.training.offline_config import SEAT
from expertchat.training.preferred import as_judged, as_pair, checked, figures_of, group_of, stands
from expertchat.training.rows import Row

NAME = "preferences"


class DpoRun(Offline[DpoConfig]):
    """One run of `expertchat dpo`."""

    command = "dpo"
    figure, higher = "win_rate", True

    def read(self) -> None:
        config = self.config
        self.given = self.as_kept(NAME, Preference, lambda: read_preferences(config.data, config.run.seed, self.hub.say))
        check_kinds(self.given, config.train.update)

    def prepare(self) -> None:
        backend, train, against = self.learner.backend, self.config.train, self.config.against_base
        most = min(train.max_tokens or backend.info.context_length, backend.info.context_length)
        found = checked(self.given, Encoder(backend.renderer, backend.tokenizer, most))
        self.found, self.held = found, found.part("evaluation")
        rows = found.part("train")
        self.epoch: list[Row] = [row for one in rows for row in as_judged(one)] if train.update == "kto" else [as_pair(one) for one in rows]
        for warning in self._warnings():
            self.warn(warning)
        self.against: AgainstBase | None = None
        if against is None:
            self.figure, self.higher = "heldout_loss", False
            return
        topics, remark = held_out_topics(against, trained_topics(self.given))
        if remark:
            self.warn(remark)
        self.against = AgainstBase(against, topics, self.learner, self.store, self.hub, self.ranks, self.interrupts.stop, self.plan)

    def _warnings(self) -> list[str]:
        said = list(self.found.warnings)
        if count := shared(self.given):
            said.append(f"{count} held-out rows have a prompt or a reply that is trained too: they measure what was learnt by heart")
        if not self.held:
            said.append("no row is held out, so there is no accuracy: see data.share and data.evaluation")
        if self.config.against_base is None:
            remedy = "name a judge with evaluation.judge=pairwise +model@third=NAME"
            said.append(f"the policy is not held against its base in dialogues: {remedy}")
        return said

    def keep(self) -> None:
        self.keep_rows(NAME, self.given)

    def rows(self, number: int) -> Rows:
        return Rows(shown=self.part(self.epoch, number))

    def measured(self, number: int, final: bool) -> dict[str, Figure] | None:
        """Held-out rows, then the policy's replies to held-out dialogues beside its base's."""
        with self.together():
            mine = stands(self.learner, self.ranks.mine(self.held))
        found = self.ranks.gather(mine)
        figures = figures_of(found, self.config.train.beta, list(map(group_of, self.held)))
        if self.stop():
            return None
        self.keep_evaluation("rows", number, final, [
            Standing(id=one.row.id, policy_version=self.learner.version, **stand._asdict())
            for one, stand in zip(self.held, found, strict=True)
        ])  # fmt: skip
        if self.against is not None:
            wanted = self.config.evaluation
            weights = self.kept if final else None
            compared = self.against.measured(number, final, wanted.final if final else wanted.histories, weights)
            if compared is None:
                return None
            figures |= compared
        self.learner.refresh()
        return figures

    def enough(self, number: int, figures: Mapping[str, Figure]) -> bool:
        """A win rate of few answers is none to choose by, as in online_dpo."""
        n, wanted = int(figures.get("n") or 0), self.config.evaluation.histories
        if self.figure != "win_rate" or n >= ANSWERED * wanted:
            return True
        self.warn(f"{n} of {wanted} comparisons after round {number} had an outcome, too few to choose that round by")
        return False

    def after(self, number: int, figures: Mapping[str, Figure]) -> None:
        """The guards of online_dpo, held against the round's evaluation, where it has one."""
        guards, told = self.config.guards, self.store.metrics.get(f"evaluation-{SEAT}-{number:04d}")
        if told is None:
            return
        base = told.figures.get("tokens_base")
        found = alarms({**figures, **told.figures}, float(base) if isinstance(base, int | float) else None, guards)
        lowering, self.lowered = to_lower(found, self.lowered, guards.worse)
        said, then = "; ".join(map(str, found)), ""
        if guards.action == "lower" and lowering:
            share = self.updater.lower(guards.lowest)
            then = f"; the learning rate is lowered to {share:.3g} of what was set" if share else "; the rate is at its least already"
        elif guards.action == "stop" and found:
            self.ended, then = said, "; the run ends with this round"
        if found:
            self.warn(f"round {number}: {said}{then}")

    def nothing(self) -> str:
        if any(m.figures.get("skipped") for m in self.store.metrics.values()):
            return "each step's loss or gradient was not finite, and none was made; lower train.learning_rate, or set model.dtype=fp32"
        return f"no round had {self.ranks.world} rows or more, one for each process"

    def card(self) -> str:
        train, data, counts = self.config.train, self.config.data, self._counts()
        what = f"{train.update} (loss {train.unpaired if train.update == 'kto' else ' + '.join(train.loss)}, beta {train.beta:g})"
        about = f"trained by {what} on preferences that were there before, with [TRL](https://github.com/huggingface/trl) in ExpertChat."
        rows = f"{counts['train']} to train on, {counts['evaluation']} held out, from {', '.join(map(shown_path, data.path))}"
        more = {"rows": rows, "weights of": self._chosen_by(), "loss": what, "reference": train.reference}
        return offline_card(self.config, self.store.folder, about, more)

    def more(self) -> dict[str, object]:
        return {"rows": self._counts(), "pairs": len(self.epoch), "chosen_by": self.figure}

    def _chosen_by(self) -> str:
        """Which weights are the result."""
        if not self.config.evaluation.keep_best or not (self.against or self.held):
            return "the last round"
        if self.against is None:
            return "the best round, by its loss on the rows held out, which flatters it a little"
        on = "topics to choose by" if self.against.chooses else "the topics held out, which flatters it a little"
        return f"the best round, by its win rate on {on}"

    def _counts(self) -> dict[str, int]:
        return {part: len(self.found.part(part)) for part in ("train", "evaluation")}


def check_kinds(rows: Sequence[Preference], update: str) -> None:
    """Raise ConfigError where rows are not of the kind that a method trains on."""
    single = [row.id for row in rows if not row.pair]
    if update != "kto" and single:
        shown = ", ".join(single[:3])
        count = f"{len(single)} of {len(rows)} rows are single replies with a label ({shown})"
        raise ConfigError(f"train.update={update}: takes pairs, but {count}; take train=kto")
    trained = [row for row in rows if row.part == "train"]
    if update == "kto" and not any(row.pair for row in trained) and len({row.chosen is not None for row in trained}) < 2:
        kind = "good" if trained[0].chosen is not None else "bad"
        raise ConfigError(f"data: all labels to train on say that the reply is {kind}: there is nothing to tell apart; give rows of both")
