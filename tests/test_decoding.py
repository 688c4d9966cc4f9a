"""Keyed sampling by hand-worked numbers; contrastive search against a plain reference written from the paper."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat.backends.base import Decoding
from expertchat.backends.decoding import (
    KeyedSampling,
    contrastive_scores,
    draw,
    kept_probabilities,
    left_pad,
    positions,
    uniforms,
)
from expertchat.backends.plain import contrastive_search
from expertchat.backends.scoring import common_prefix, exclude_extensions, paths
from tests import tiny

torch.set_num_threads(1)
PROMPTS = [[9, 40, 41], [9, 40, 41, 300, 17, 80, 81, 5], [9, 120]]


@pytest.fixture(scope="module", params=["llama3", "mixtral", "qwen2_5"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    folder = tiny.build(tmp_path_factory.mktemp(request.param), request.param)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def never(ids: torch.Tensor, _scores: object) -> torch.Tensor:
    return torch.zeros(ids.shape[0], dtype=torch.bool)


# -- noise ------------------------------------------------------------------------------------------------------------


def test_noise_is_fixed_for_ever() -> None:
    # A stable hash, not Python's: these very numbers must come out on every machine and in every version.
    assert uniforms(1, "c0/t1", 2) == pytest.approx([0.6660080822762878, 0.15147086982595892], abs=1e-15)


@given(st.integers(), st.text(max_size=20), st.integers(0, 40), st.integers(0, 40))
def test_noise_depends_on_its_position_alone(seed: int, key: str, short: int, more: int) -> None:
    numbers = uniforms(seed, key, short + more)
    assert numbers[:short] == uniforms(seed, key, short)
    assert len(numbers) == short + more and all(0 <= x < 1 for x in numbers)


def test_noise_is_uniform_and_differs_by_key_and_seed() -> None:
    numbers = uniforms(0, "k", 4000)
    # The mean of 4000 uniforms has standard deviation sqrt(1/12/4000) = 0.0046; 0.02 is over four of them.
    assert abs(sum(numbers) / 4000 - 0.5) < 0.02
    assert abs(sum(x * y for x, y in itertools.pairwise(numbers)) / 3999 - 0.25) < 0.02  # neighbours are independent: E[xy] = 1/4
    assert numbers[:4] != uniforms(0, "l", 4) != uniforms(1, "l", 4)


# -- sampling ---------------------------------------------------------------------------------------------------------

LOGITS = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3]]))


@pytest.mark.parametrize(
    ("decoding", "expected"),
    [
        (Decoding(), [0.1, 0.4, 0.2, 0.3]),
        # T=0.5 squares: .01 .16 .04 .09, sum .30
        (Decoding(temperature=0.5), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        # top 2: .4 and .3 of .7
        (Decoding(top_k=2), [0, 4 / 7, 0, 3 / 7]),
        # .4 alone is under .6, .4 + .3 is over it: two stay
        (Decoding(top_p=0.6), [0, 4 / 7, 0, 3 / 7]),
        (Decoding(top_p=0.3), [0, 1, 0, 0]),
        # at least .6 * .4 = .24
        (Decoding(min_p=0.6), [0, 4 / 7, 0, 3 / 7]),
        # top 3 first (.4 .2 .3 of .9 = .444 .222 .333), then top-p .7: .444 + .333 = .777 is over it
        (Decoding(top_k=3, top_p=0.7), [0, 4 / 7, 0, 3 / 7]),
    ],
)
def test_kept_probabilities(decoding: Decoding, expected: list[float]) -> None:
    kept = kept_probabilities(LOGITS, decoding)
    assert (kept / kept.sum()).tolist()[0] == pytest.approx(expected, abs=1e-6)


def test_equal_words_stay_together() -> None:
    kept = kept_probabilities(torch.zeros(1, 4), Decoding(top_k=2))
    assert kept.tolist()[0] == pytest.approx([0.25] * 4)


@pytest.mark.parametrize(
    ("noise", "word"), [(0.0, 0), (0.099, 0), (0.101, 1), (0.499, 1), (0.501, 2), (0.699, 2), (0.701, 3), (1 - 2**-53, 3)]
)
def test_inverse_cdf(noise: float, word: int) -> None:
    # cumulative: .1 .5 .7 1.
    drawn = KeyedSampling([[noise]], 3, Decoding())(torch.zeros(1, 3, dtype=torch.long), LOGITS)
    assert drawn.argmax(-1).item() == word and torch.isinf(drawn).sum() == 3


@given(st.floats(0, 1, exclude_max=True), st.sampled_from([Decoding(top_k=1), Decoding(top_p=0.01), Decoding(min_p=0.99)]))
@settings(deadline=None)
def test_a_dropped_word_is_never_drawn(noise: float, decoding: Decoding) -> None:
    drawn = KeyedSampling([[noise]], 3, decoding)(torch.zeros(1, 3, dtype=torch.long), LOGITS)
    assert drawn.argmax(-1).item() == 1


@given(st.integers(1, 200), st.integers(0, 2**32), st.floats(0, 1, exclude_max=True))
@settings(deadline=None)
def test_a_draw_in_blocks_equals_one_long_cumulative_sum(words: int, seed: int, noise: float) -> None:
    probs = torch.rand(1, words, generator=torch.Generator().manual_seed(seed))
    probs = probs.masked_fill(probs < 0.5, 0.0)
    probs[0, seed % words] = 0.7
    cdf = probs.double().cumsum(-1)[0].tolist()
    expected = next(i for i, c in enumerate(cdf) if c > noise * cdf[-1])
    drawn = int(draw(probs, torch.tensor([noise], dtype=torch.float64)))
    # Within a rounding error of a border either side is right, but never a word that was dropped.
    assert probs[0, drawn] > 0
    assert drawn == expected or abs(cdf[min(drawn, expected)] - noise * cdf[-1]) < 1e-12


def test_a_flat_distribution_needs_more_than_the_first_few_words() -> None:
    flat = torch.zeros(2, 500)  # 100 words of .002 are under .2, the 101st too: .2 / .002 = 100 words stay, all are equal, so all stay
    assert (kept_probabilities(flat, Decoding(top_p=0.2)) > 0).sum(-1).tolist() == [500, 500]
    steep = torch.arange(500.0).repeat(2, 1) / 1000  # words differ by .1 %: about .9 of them hold .9
    kept = kept_probabilities(steep, Decoding(top_p=0.9))[0]
    probs = torch.softmax(steep[0].double(), -1)
    count = int((kept > 0).sum())
    assert 64 < count < 500 and probs[-count:].sum() >= 0.9 > probs[-count + 1 :].sum()


def test_noise_of_a_position_and_row() -> None:
    noise = [[0.05, 0.3], [0.6, 0.9]]
    sampling = KeyedSampling(noise, 3, Decoding())
    both = LOGITS.repeat(2, 1)
    assert sampling(torch.zeros(2, 3, dtype=torch.long), both).argmax(-1).tolist() == [0, 2]
    assert sampling(torch.zeros(2, 4, dtype=torch.long), both).argmax(-1).tolist() == [1, 3]


# -- contrastive search -----------------------------------------------------------------------------------------------


def test_score_by_hand() -> None:
    # Two candidates with p = .6 and .3; hidden states (1, 0) and (0, 1). The context holds a masked (1, 0), then (0.6, 0.8) and (-1, 0):
    # largest cosines of the real ones .6 and .8. alpha = .5: .5 * .6 - .5 * .6 = 0 and .5 * .3 - .5 * .8 = -.25.
    context = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]])
    scores = contrastive_scores(
        torch.tensor([[0.6, 0.3]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), context, torch.tensor([[0, 1, 1]]), 0.5
    )
    assert scores[0].tolist() == pytest.approx([0.0, -0.25], abs=1e-6)


@torch.no_grad()
def reference(model: torch.nn.Module, ids: list[int], alpha: float, k: int, steps: int) -> list[int]:
    """Section 4 of the paper, word for word: no cache, no batch, every candidate is run with its whole context."""
    ids = list(ids)
    for _ in range(steps):
        out = model(torch.tensor([ids]), output_hidden_states=True)
        context = out.hidden_states[-1][0]
        probabilities, words = torch.softmax(out.logits[0, -1], -1).topk(k)
        best, best_score = 0, -math.inf
        for probability, word in zip(probabilities.tolist(), words.tolist(), strict=True):
            h = model(torch.tensor([[*ids, word]]), output_hidden_states=True).hidden_states[-1][0, -1]
            penalty = max(torch.cosine_similarity(h, h_j, dim=0).item() for h_j in context)
            score = (1 - alpha) * probability - alpha * penalty
            if score > best_score:
                best, best_score = word, score
        ids.append(best)
    return ids


@pytest.mark.parametrize(("alpha", "k"), [(0.6, 4), (0.9, 3)])
def test_contrastive_equals_the_paper_and_ragged_rows_equal_single_rows(model: torch.nn.Module, alpha: float, k: int) -> None:
    decoding = Decoding(method="contrastive", penalty_alpha=alpha, top_k=k)
    ids, mask = left_pad(PROMPTS, 0)
    together = contrastive_search(model, ids, mask, decoding, 12, never)[:, ids.shape[1] :].tolist()
    for prompt, new in zip(PROMPTS, together, strict=True):
        alone = contrastive_search(model, torch.tensor([prompt]), torch.ones(1, len(prompt), dtype=torch.long), decoding, 12, never)
        assert alone[0].tolist() == reference(model, prompt, alpha, k, 12)
        assert new == alone[0, len(prompt) :].tolist()


def test_contrastive_without_penalty_or_choice_is_greedy(model: torch.nn.Module) -> None:
    ids, mask = left_pad(PROMPTS[:1], 0)
    greedy = reference(model, PROMPTS[0], 0.0, 1, 8)
    for decoding in (
        Decoding(method="contrastive", penalty_alpha=0.0, top_k=4),
        Decoding(method="contrastive", penalty_alpha=0.6, top_k=1),
    ):
        assert contrastive_search(model, ids, mask, decoding, 8, never)[0].tolist() == greedy
    penalised = Decoding(method="contrastive", penalty_alpha=0.9, top_k=4)
    assert contrastive_search(model, ids, mask, penalised, 8, never)[0].tolist() != greedy


def test_contrastive_takes_more_candidates_than_words_and_stops(model: torch.nn.Module) -> None:
    ids, mask = left_pad(PROMPTS[:2], 0)
    steps: list[int] = []

    def after_three(ids: torch.Tensor, _scores: object) -> torch.Tensor:
        steps.append(ids.shape[1])
        return torch.tensor([True, len(steps) >= 3])

    out = contrastive_search(model, ids, mask, Decoding(method="contrastive", top_k=9999), 50, after_three)
    assert steps == [9, 10, 11] and out.shape == (2, 11)


def test_left_pad_and_positions() -> None:
    ids, mask = left_pad([[5, 6, 7], [8]], 0)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]] and mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert positions(mask).tolist() == [[0, 1, 2], [0, 0, 0]]


# -- option arithmetic ------------------------------------------------------------------------------------------------


def test_one_path_serves_all_options() -> None:
    assert paths([(i,) for i in range(10)]) == [()]  # ten single tokens: the context alone
    assert paths([(7, 1), (7, 2), (7, 1, 0)]) == [(7, 1)]  # "▁" "1" "0"
    assert paths([(1, 5), (2, 5)]) == [(2,), (1,)]


def test_probability_excludes_extensions() -> None:
    # P("1") = .5 counts everything that begins with 1; of it .2 goes on to "10", of that .05 to "100".
    options = [(1,), (1, 0), (1, 0, 0), (2,)]
    logs = [math.log(p) for p in (0.5, 0.2, 0.05, 0.3)]
    assert [math.exp(p) for p in exclude_extensions(options, logs)] == pytest.approx([0.3, 0.15, 0.05, 0.3])


def test_nothing_left_is_minus_infinity() -> None:
    assert exclude_extensions([(1,), (1, 0)], [math.log(0.2), math.log(0.2)])[0] == -math.inf
    assert exclude_extensions([(1,), (1, 0)], [-math.inf, -math.inf]) == [-math.inf, -math.inf]


@given(st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=1, max_size=4))
def test_common_prefix(rows: list[list[int]]) -> None:
    n = common_prefix(rows)
    assert all(row[:n] == rows[0][:n] and len(row) >= n for row in rows)
    assert any(len(row) == n for row in rows) or len({row[n] for row in rows}) > 1
