"""RLOO and GRPO: advantages by hand, losses and gradients as TRL's trainers have them on the same rows, and what is kept out of both."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.preferences.pairs import Choice
from expertchat.records import Candidate, Message
from expertchat.training.advantages import Grouping, grouped
from expertchat.training.config import PolicyGradientTrain
from expertchat.training.method import METHODS, Rows, method_of
from expertchat.training.policy_gradient import Batch, Collator, PolicyGradient
from expertchat.training.rows import Row
from expertchat.training.update import Updater
from tests.test_update import lora, shake, weights

torch.set_num_threads(1)
PROMPTS = ["Why do tides come and go?", "Say more.", "How do bees make honey, and for whom?"]
TEXTS = ["The Moon pulls.", "The Moon pulls the sea, and the Sun helps it.", "Herons nest in trees.", "Bees gather nectar."]


def settings(method: str, **more: Any) -> PolicyGradientTrain:
    config = load(method, ["train.rank=2", "train.batch=4", "train.micro_batch=4", "train.warmup_rounds=0"])
    return PolicyGradientTrain.model_validate(config.train.model_dump() | more)


def candidate(h: int, i: int, text: str, **more: Any) -> Candidate:
    place = {"id": f"r0001/c{h:04d}/t01/k{i}", "transcript": f"r0001/c{h:04d}", "round": 1, "turn": 1, "index": i, "speaker": "a"}
    return Candidate.model_validate(place | {"text": text, "tokens": 4, "cut": False, "policy_version": 0} | more)


def choice(h: int, scores: list[float | None], **more: Any) -> Choice:
    replies = [candidate(h, i, TEXTS[(h + i) % len(TEXTS)], **more) for i in range(len(scores))]
    return Choice((Message("user", PROMPTS[h % len(PROMPTS)]),), tuple(replies), tuple(scores), "partner")


def of(*choices: Choice, **more: Any) -> Grouping:
    return grouped(choices, **({"leave_one_out": True, "baseline": "group", "scale": None} | more))


# -- advantages ----------------------------------------------------------------------------------------------------------


def test_advantages_by_hand() -> None:
    four = choice(0, [1.0, 2.0, 3.0, 6.0])
    # leave one out: 1 - 11/3, 2 - 10/3, 3 - 9/3, 6 - 6/3
    assert of(four).groups[0].advantages == pytest.approx([-8 / 3, -4 / 3, 0, 4])
    # of the group: mean 3, squares 4 + 1 + 0 + 9 = 14, standard deviation sqrt(14/3) = 2.1602
    scaled = of(four, leave_one_out=False, scale="group").groups[0].advantages
    assert scaled == pytest.approx([a / (math.sqrt(14 / 3) + 1e-4) for a in (-2, -1, 0, 3)])
    assert of(four, leave_one_out=False).groups[0].advantages == pytest.approx([-2, -1, 0, 3])


def test_what_has_no_score_is_in_no_baseline() -> None:
    # of 1, null and 3 the others' means are 3 and 1; an altered reply and one that thought are out too
    made = of(choice(0, [1.0, None, 3.0]))
    assert made.groups[0].advantages == [-2.0, 2.0] and [c.index for c in made.groups[0].candidates] == [0, 2]
    assert made.counts()["nulls"] == 1 and made.counts()["null_rate"] == pytest.approx(1 / 3)
    four = choice(0, [1.0, 9.0, 9.0, 3.0])
    odd = [c.model_copy(update={"altered": how}) for c, how in zip(four.candidates, (None, "markup", "thinking", None), strict=True)]
    made = of(Choice(four.prompt, tuple(odd), four.scores, "partner"))
    assert made.groups[0].advantages == [-2.0, 2.0] and (made.altered, made.thinking) == (1, 1)
    assert of(choice(0, [math.nan, 1.0, 2.0])).nulls == 1


def test_histories_without_a_spread_are_counted_and_give_nothing() -> None:
    made = of(choice(0, [2.0, 2.0, 2.0]), choice(1, [None, 1.0]), choice(2, [0.0, 1.0]))
    assert (len(made.groups), made.flat, made.lone, made.nulls) == (1, 1, 1, 1)
    assert made.counts()["spread"] == pytest.approx(math.sqrt(0.5))


def test_a_role_is_held_against_itself() -> None:
    """One policy plays both: a has the easier part. Of all replies of a (4, 6, 5, 5: mean 5) and of b (1, 3: mean 2)."""
    a, more, b = choice(0, [4.0, 6.0]), choice(1, [5.0, 5.0]), choice(2, [1.0, 3.0], speaker="b")
    made = of(a, more, b, leave_one_out=False, baseline="role")
    assert [list(group.advantages) for group in made.groups] == [[-1.0, 1.0], [-1.0, 1.0]] and made.flat == 1
    made = of(a, more, b, baseline="role")  # leave one out: 4 - 16/3, 6 - 14/3
    assert made.groups[0].advantages == pytest.approx([-4 / 3, 4 / 3]) and made.groups[1].advantages == [-2.0, 2.0]
    # over the standard deviation of a's rewards: squares 1 + 1 + 0 + 0, over 3
    made = of(a, more, leave_one_out=False, scale="role")
    assert made.groups[0].advantages == pytest.approx([-1 / (math.sqrt(2 / 3) + 1e-4), 1 / (math.sqrt(2 / 3) + 1e-4)])


def test_what_sets_a_history_off_its_role_is_not_divided_by_the_history_s_own_spread() -> None:
    """.9 and .9 lie .2 above the mean of the role: over the spread of these two, which is 0, that would be 2,000 times as much as .5."""
    near, apart = choice(0, [0.9, 0.9]), choice(1, [0.0, 1.0])
    one, other = of(near, apart, leave_one_out=False, baseline="role", scale="role").groups
    assert one.advantages[0] == pytest.approx(0.2 / (math.sqrt(0.66 / 3) + 1e-4)) and other.advantages[1] > one.advantages[0]
    with pytest.raises(ValueError, match=r"train\.baseline=role with train\.scale=group .*; set train\.scale=role or null"):
        settings("grpo", baseline="role")
    assert settings("grpo", baseline="role", scale="role").baseline == settings("rloo", baseline="role").baseline == "role"


def test_the_distance_is_taken_off_the_reward() -> None:
    ratios = {"r0001/c0000/t01/k0": 2.0, "r0001/c0000/t01/k1": 0.0}  # 1 - .5 * 2 = 0 and 1: of the third nothing is known
    made = of(choice(0, [1.0, 1.0, 5.0]), beta=0.5, log_ratios=ratios)
    assert made.groups[0].advantages == [-1.0, 1.0] and made.nulls == 1


# -- losses --------------------------------------------------------------------------------------------------------------


def numbers(method: str, **more: Any) -> tuple[Any, dict[str, Tensor]]:
    """The loss of two replies of 1 and 2 tokens whose ratios of probabilities are 1.5, and 1.1 and .5; advantages 1 and -2."""
    config = settings(method, **more)
    made = method_of(method).__new__(method_of(method))
    made.config = config
    row: Row = {"prompt_ids": [1], "replies": [[5], [6, 7]], "advantages": [1.0, -2.0], "row": 0}
    row |= {"weights": [made.weight(2, 1), made.weight(2, 2)], "shares": [0.5, 0.5]}
    inputs = Collator(2, made.scaled([row]))([row])
    now = torch.tensor([[math.log(1.5), 0.0], [math.log(1.1), math.log(0.5)]])
    known = {"old": torch.zeros(2, 2), "base": torch.tensor([[0.0, 0.0], [0.0, math.log(0.5)]])}
    return made.loss(Batch(inputs, now, known if config.beta else {"old": torch.zeros(2, 2)}))


def test_rloo_by_hand() -> None:
    # reply 1: ratio 1.5, clipped to 1.2: -min(1.5, 1.2) * 1 = -1.2; reply 2: ratio 1.1 * .5 = .55, clipped to .8, advantage -2:
    # -min(-1.1, -1.6) = 1.6. Mean .2; both were clipped
    loss, figures = numbers("rloo")
    assert float(loss) == pytest.approx(0.2) and float(figures["clipped"]) == pytest.approx(1.0)


def test_grpo_by_hand() -> None:
    # tokens: -1.2 | 2.2, and .5 clipped to .8: 1.6
    assert float(numbers("grpo")[0]) == pytest.approx((-1.2 + (2.2 + 1.6) / 2) / 2)
    assert float(numbers("grpo", normalise="tokens")[0]) == pytest.approx((-1.2 + 2.2 + 1.6) / 3)
    assert float(numbers("grpo", normalise="constant", reply_tokens=10)[0]) == pytest.approx((-1.2 + 2.2 + 1.6) / 20)
    # ratio * (base/policy - 1 - log(base/policy)): of 1/1.5, 1/1.1, .5/.5
    k3 = [r * (1 / r - 1 + math.log(r)) for r in (1.5, 1.1)] + [0.0]
    loss, figures = numbers("grpo", beta=0.1)
    away = (k3[0] + (k3[1] + k3[2]) / 2) / 2
    assert float(loss) == pytest.approx(0.35 + 0.1 * away) and float(figures["kl_loss"]) == pytest.approx(away)
    assert float(numbers("grpo", epsilon=0.6, epsilon_high=0.6)[1]["clipped"]) == 0


@contextlib.contextmanager
def trl_trainer(kind: str, model: Any, tokenizer: Any, out: Path, **more: Any) -> Any:
    """TRL's own trainer of a model; afterwards the model's forward is its own again."""
    import trl

    args = getattr(trl, f"{kind}Config")(
        output_dir=str(out), report_to="none", use_cpu=True, num_generations=2, per_device_train_batch_size=2, bf16=False,
        max_completion_length=16, **more,
    )  # fmt: skip
    made = getattr(trl, f"{kind}Trainer")(
        model=model, reward_funcs=lambda completions, **columns: [0.0] * len(completions), args=args,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 4), processing_class=tokenizer,
    )  # fmt: skip
    made.current_gradient_accumulation_steps = 1
    model.eval()
    try:
        yield made
    finally:
        vars(model).pop("forward", None)


def apart(rows: list[Row]) -> dict[str, Tensor]:
    """Rows as TRL has them: every reply after its own prompt, which is padded on the left."""
    flat = [(row["prompt_ids"], ids, value) for row in rows for ids, value in zip(row["replies"], row["advantages"], strict=True)]
    prompts, replies = [torch.tensor(p) for p, _, _ in flat], [torch.tensor(r) for _, r, _ in flat]
    ones = [[torch.ones_like(ids) for ids in part] for part in (prompts, replies)]
    return {
        "prompt_ids": pad_sequence(prompts, True, padding_side="left"),
        "prompt_mask": pad_sequence(ones[0], True, padding_side="left"),
        "completion_ids": pad_sequence(replies, True),
        "completion_mask": pad_sequence(ones[1], True),
        "advantages": torch.tensor([value for _, _, value in flat]),
    }


def ours(made: Any, rows: list[Row], old: Tensor | None, base: bool) -> Tensor:
    """The loss of rows as an update has it, all in one batch; `old` [N, T] as TRL lays it out: by row, then reply."""
    learner = made.learner
    table = Dataset.from_list(rows)
    steps: dict[str, Any] = {"ranks": made.ranks, "steady": made.steady, "optimizers": (made.optimizer, made.scheduler)}
    from expertchat.training.sharding import split

    share = split(len(rows), 8, 8, made.ranks)
    arguments = made._arguments(share, 1) | {"gradient_accumulation_steps": 1}
    with made.trainer(learner.model(), arguments, train_dataset=table, share=share, **steps) as trainer:
        inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        known = dict(trainer._known[0]) if trainer._known else {}
        if old is not None:
            known["old"] = laid_out(old, inputs, rows)
        return made.loss(Batch(inputs, trainer.logps(trainer.model, inputs), known))[0]


def laid_out(old_N_T: Tensor, inputs: dict[str, Any], rows: list[Row]) -> Tensor:
    """TRL's log probabilities of replies, where ours stand: after the prompt, first replies first."""
    found = torch.zeros(inputs["labels"].shape[0], inputs["labels"].shape[1] - 1)
    nth = 0
    for r, row in enumerate(rows):
        for k, ids in enumerate(row["replies"]):
            begin = len(row["prompt_ids"]) - 1
            found[k * len(rows) + r, begin : begin + len(ids)] = old_N_T[nth, : len(ids)]
            nth += 1
    return found


@pytest.mark.parametrize(
    ("kind", "more", "theirs"),
    [
        ("rloo", {}, {}),
        ("grpo", {}, {"loss_type": "grpo"}),
        ("grpo", {"beta": 0.3}, {"loss_type": "grpo", "beta": 0.3}),
        ("grpo", {"normalise": "tokens", "epsilon_high": 0.28}, {"loss_type": "dapo", "epsilon_high": 0.28}),
        ("grpo", {"normalise": "constant", "reply_tokens": 16}, {"loss_type": "dr_grpo"}),
    ],
)
def test_the_loss_is_trls(tmp_path: Path, kind: str, more: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Loss and gradient on three histories with two replies each, by the policy that gave them (of an earlier step) and by now."""
    config = settings(kind, targets=["q_proj", "v_proj"], **more)
    learner = lora(config)
    made: Any = method_of(kind)(learner, config, rounds=4, seed=3, folder=tmp_path)
    rows = made.rows(Rows([], [choice(h, [0.0, 1.0 + h]) for h in range(3)]), 1)
    model = learner.backend.model
    # What the replies' log probabilities were: those of the base, as the adapter is moved afterwards.
    with trl_trainer(kind.upper(), model, learner.tokenizer, tmp_path, **theirs) as trl:
        inputs = apart(rows)
        everything = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        with torch.no_grad():
            old = trl._get_per_token_logps_and_entropies(model, everything, mask, inputs["completion_ids"].shape[1])[0]
        shake(learner, 0.01)
        inputs |= {"old_per_token_logps": old, "ref_per_token_logps": old}
        inputs |= {"old_logps": (old * inputs["completion_mask"]).sum(1), "num_items_in_batch": inputs["completion_mask"].sum()}
        learner.model()
        model.train()
        trl.args.steps_per_generation = 1
        loss = trl._compute_loss(model, inputs)
        loss.backward()
    wanted = {name: p.grad.clone() for name, p in learner.parameters().items()}
    for p in learner.parameters().values():
        p.grad = None
    own = ours(made, rows, old, bool(config.beta))
    own.backward()
    assert float(own.detach()) == pytest.approx(float(loss.detach()), rel=1e-4, abs=1e-5)
    for name, p in learner.parameters().items():
        assert torch.allclose(p.grad, wanted[name], atol=2e-4 * float(wanted[name].abs().max()) + 1e-7), name
    assert float(max(g.abs().max() for g in wanted.values())) > 1e-4


# -- updates -------------------------------------------------------------------------------------------------------------


def logp(learner: Any, one: Choice) -> float:
    """Log probability of a history's best reply under the policy, less that of its worst."""
    from expertchat.backends.likelihood import likelihoods
    from expertchat.training.rows import prompt_of, reply_of

    renderer = learner.backend.renderer
    replies = [tuple(reply_of(one, c, renderer)) for c in one.candidates]
    found = likelihoods(learner.policy, [(tuple(prompt_of(one, renderer)), replies)])[0]
    return float(found[-1].logp - found[0].logp)


@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_what_is_better_becomes_likelier_and_a_restart_goes_on(tmp_path: Path, method: str) -> None:
    """Two updates in one go, and the second after a restart: the same loss and weights. With two steps a round ratios are not 1."""
    scores = (0.0, 0.5, 1.0)
    texts = choice(0, list(scores)).candidates
    given = Rows([], [Choice((Message("user", PROMPTS[h % 3] + "?" * h),), texts, scores, "b") for h in range(4)])

    def fresh() -> tuple[Any, Any]:
        learner = lora(settings(method, batch=2, micro_batch=2, targets=["q_proj", "v_proj"], learning_rate=2e-3, schedule="constant"))
        return learner, method_of(method)(learner, learner.config, rounds=4, seed=3, folder=tmp_path)

    learner, one = fresh()
    before = logp(learner, given.choices[0])
    first = one.update(given, 1)
    assert (first.steps, first.counts["groups"], first.counts["flat"], learner.version) == (2, 4, 0, 1)
    assert logp(learner, given.choices[0]) > before + 0.05
    one.save(tmp_path / "state.pt")
    learner.save(tmp_path / "adapter")
    second = one.update(given, 2)
    again, two = fresh()
    again.load(tmp_path / "adapter")
    again.version = 1
    two.load(tmp_path / "state.pt")
    assert two.update(given, 2).figures == second.figures
    assert all(torch.equal(p, again.parameters()[name]) for name, p in learner.parameters().items())


def test_nothing_to_tell_apart_changes_nothing(tmp_path: Path) -> None:
    learner = lora(settings("grpo", targets=["q_proj"]))
    before = weights(learner)
    done = method_of("grpo")(learner, learner.config, rounds=1, seed=0, folder=tmp_path).update(Rows([], [choice(0, [1.0, 1.0])]), 1)
    assert (done.steps, learner.version, done.counts["flat"]) == (0, 0, 1)
    assert all(torch.equal(p, before[name]) for name, p in learner.parameters().items())


def test_a_reply_that_was_cut_is_in_the_baseline_and_trains_as_it_is_told(tmp_path: Path) -> None:
    one = choice(0, [0.0, 1.0])
    cut = Choice(one.prompt, (one.candidates[0].model_copy(update={"cut": True}), one.candidates[1]), one.scores, "partner")
    rows = {}
    for how in ("no_end", "mask"):
        learner = lora(settings("grpo", cut=how, targets=["q_proj"]))
        (rows[how],) = method_of("grpo")(learner, learner.config, rounds=1, seed=0, folder=tmp_path).rows(Rows([], [cut]), 1)
    assert rows["mask"]["shares"] == [0.0, 0.5] and rows["no_end"]["shares"] == [0.5, 0.5]
    assert rows["mask"]["advantages"] == rows["no_end"]["advantages"]  # it was in the baseline
    whole = lora(settings("grpo", targets=["q_proj"]))
    (row,) = method_of("grpo")(whole, whole.config, rounds=1, seed=0, folder=tmp_path).rows(Rows([], [one]), 1)
    assert row["replies"][0][: len(rows["no_end"]["replies"][0])] == rows["no_end"]["replies"][0]
    assert len(row["replies"][0]) > len(rows["no_end"]["replies"][0])  # the end that a cut reply has not
    batch = Collator(2, [1.0])([rows["mask"] | {"row": 0}])
    assert (batch["labels"][0] == -100).all() and not (batch["labels"][1] == -100).all()


# -- config --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "overrides", "said"),
    [
        ("online_dpo", ["train=grpo"], r"update=grpo is of another command, expertchat grpo; here take dpo"),
        ("rloo", ["train=lora"], r"update=dpo is of another command, expertchat online_dpo; here take rloo or grpo"),
        ("rloo", ["train.normalise=reply"], r"train\.normalise=reply has no effect with train\.update=rloo"),
        ("grpo", ["train.normalise=null"], r"train\.update=grpo needs one of reply, tokens, constant"),
        ("grpo", ["train.epsilon=1.5"], r"train\.epsilon=1\.5 clips nothing"),
        ("grpo", ["decoding@experts.a.decoding=greedy"], r"4 equal candidates, of which none is better than another; set decoding@"),
    ],
)
def test_what_does_not_go_together(command: str, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(command, overrides)


def test_one_command_is_the_other_with_other_defaults() -> None:
    assert load("rloo", ["train=grpo"]).train == load("grpo").train and load("rloo", ["train=grpo"]).command == "grpo"
    assert METHODS["grpo"].takes == "groups" and issubclass(PolicyGradient, Updater)
