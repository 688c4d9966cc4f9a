"""Attention compiled for this machine: what torch's gives, where it is asked for, and torch's own where it cannot be had."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from expertchat.backends import compiled
from expertchat.backends.compiled import few_queries, library


@pytest.fixture
def there() -> None:
    """Where there is a compiler, the library must be there too."""
    if platform.system() != "Linux" or not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler here")
    assert library() is not None



@pytest.fixture
def anew() -> Iterator[None]:
    """The library is looked for anew, within the test and after it."""
    library.cache_clear()
    yield
    library.cache_clear()


def case(heads: int, groups: int, tokens: int, length: int, dim: int, dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    """Queries, keys, values (rows of a longer cache) and a mask whose rows see different tokens; the last row sees its first alone."""
    noise = torch.Generator().manual_seed(heads * length + dim)
    cache = torch.randn(2, 5, heads, length + 9, dim, generator=noise).to(dtype)
    queries = torch.randn(3, heads, groups * tokens, dim, generator=noise).to(dtype)
    hidden = torch.rand(3, 1, tokens, length + 9, generator=noise) < 0.3
    hidden[..., 0], hidden[2, ..., 1:] = False, True
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))
    return [queries, cache[0, 1:4, :, :length], cache[1, 1:4, :, :length], mask[..., :length]]


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(("heads", "groups", "tokens", "length", "dim"), [
    (3, 3, 1, 200, 64), (1, 1, 1, 1, 64), (2, 4, 6, 333, 128), (8, 1, 16, 70, 64), (2, 3, 16, 31, 64)])  # fmt: skip
def test_it_gives_what_torch_gives(heads: int, groups: int, tokens: int, length: int, dim: int) -> None:
    q, k, v, mask = case(heads, groups, tokens, length, dim)
    with torch.inference_mode():
        found = few_queries(q, k, v, mask, 0.2)
        wanted = scaled_dot_product_attention(*(x.float() for x in (q, k, v)), attn_mask=mask.float().repeat(1, 1, groups, 1), scale=0.2)
    assert found is not None and found.dtype == torch.bfloat16
    # One rounding to bf16, whose steps are at most 2^-8 of the number.
    assert float(((found.float() - wanted).abs() - wanted.abs() / 256).max()) < 1e-5


@pytest.mark.usefixtures("there")
def test_a_row_that_sees_nothing_gives_zeros() -> None:
    q, k, v, mask = case(2, 3, 2, 40, 64)
    mask[1] = float("-inf")
    found = few_queries(q, k, v, mask, 0.125)
    assert found is not None and bool((found[1] == 0).all()) and bool(found.isfinite().all()) and bool((found[0] != 0).any())


def test_what_it_does_not_do() -> None:
    q, k, v, mask = case(2, 3, 1, 40, 64, torch.float32)
    assert few_queries(q, k, v, mask, 0.125) is None  # texts in fp32 stay as they are
    q, k, v, mask = case(2, 3, 17, 40, 64)
    assert few_queries(q, k, v, mask, 0.125) is None  # 51 queries
    q, k, v, mask = case(2, 3, 1, 40, 32)
    assert few_queries(q, k, v, mask, 0.125) is None
    q, k, v, mask = case(2, 3, 1, 40, 64)
    assert few_queries(q.requires_grad_(), k, v, mask, 0.125) is None
    assert few_queries(q.detach(), k.transpose(2, 3).contiguous().transpose(2, 3), v, mask, 0.125) is None


def test_without_a_compiler_it_is_torchs(anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    assert library() is None and few_queries(*case(2, 3, 1, 40, 64), 0.125) is None


def test_a_compiler_that_fails_is_none(anew: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o700)
    monkeypatch.setenv("EXPERTCHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled.shutil, "which", lambda name: str(broken))
    assert library() is None and not list((tmp_path / "cache").glob("attend-*"))


@pytest.mark.usefixtures("there")
def test_it_is_compiled_once(anew: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EXPERTCHAT_CACHE", str(tmp_path))
    assert library() is not None
    (made,) = tmp_path.glob("attend-*/attend.so")
    before = made.stat().st_mtime_ns
    library.cache_clear()
    assert library() is not None and made.stat().st_mtime_ns == before


@pytest.mark.usefixtures("there")
def test_one_that_computes_something_else_is_not_used(anew: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = tmp_path / "attend.c"
    wrong.write_text(compiled.SOURCE.read_text("utf-8").replace("sum += weight;", "sum += 2 * weight;"))
    monkeypatch.setenv("EXPERTCHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled, "SOURCE", wrong)
    assert library() is None
