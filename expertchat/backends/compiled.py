"""attend.c, compiled for this machine where it has a C compiler: attention of a step in bf16 on a CPU.

torch's own kernel takes some three times as long for the few queries of a step. The library is compiled at first use, within a second, and
kept in the user's cache folder by its source and the processor; it shares torch's threads. Without a compiler torch's kernel is used.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import record_function

from expertchat.backends.packaged import kept
from expertchat.config import ConfigError

SOURCE = Path(__file__).with_name("attend.c")
QUERIES, DIMS = 48, (64, 128)  # what attend.c does
# As -ffast-math, without its infinities that are none, and without its switch of the whole process to flushed denormals.
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros", "-freciprocal-math",
         "-fopenmp", "-shared", "-fPIC")  # fmt: skip
SECONDS = 60  # a compiler that takes longer is ended


def few_queries(q_B_H_Q_D: Tensor, k_B_H_L_D: Tensor, v_B_H_L_D: Tensor, mask_B_1_T_L: Tensor, scale: float) -> Tensor | None:
    """Attention outputs [B, H, Q, D]; query i stands for token i % T of the mask. None where attend.c does not do it."""
    batch, _, queries, dim = q_B_H_Q_D.shape
    tensors = (q_B_H_Q_D, k_B_H_L_D, v_B_H_L_D, mask_B_1_T_L)
    if queries > QUERIES or dim not in DIMS or any(x.dtype != torch.bfloat16 or x.device.type != "cpu" or x.requires_grad for x in tensors):
        return None
    followed = k_B_H_L_D.stride()[2:] == v_B_H_L_D.stride()[2:] == (dim, 1) and k_B_H_L_D.stride() == v_B_H_L_D.stride()
    if not followed or mask_B_1_T_L.stride(-1) != 1 or mask_B_1_T_L.shape[0] != batch or (attend := library()) is None:
        return None
    return _run(attend, q_B_H_Q_D, k_B_H_L_D, v_B_H_L_D, mask_B_1_T_L, scale)


def _run(attend: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    batch, heads, queries, dim = q.shape
    length, tokens = k.shape[2], mask.shape[2]
    q = q.contiguous()
    out, scores = torch.empty_like(q), torch.empty(batch * heads * queries * length)
    with record_function("attend") if torch.autograd._profiler_enabled() else nullcontext():  # type: ignore[attr-defined]
        attend(
            *(x.data_ptr() for x in (q, k, v, mask, out, scores)), batch, heads, queries, tokens, length, dim,
            k.stride(0), k.stride(1), mask.stride(0), mask.stride(2), scale, torch.get_num_threads(),
        )  # fmt: skip
    return out


@lru_cache(maxsize=1)
def library() -> Any:
    """The compiled function, or None: no compiler, no place to keep it, or it computes something else here than torch does."""
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None or platform.system() != "Linux":  # elsewhere a compiler's OpenMP is not the one of torch
        return None
    try:
        attend = _load(_built(compiler))
    except (OSError, subprocess.SubprocessError, ConfigError, AttributeError):
        return None
    return attend if _agrees(attend) else None


def _built(compiler: str) -> Path:
    """The library, compiled once for this source, compiler and processor. Raises OSError, SubprocessError, ConfigError."""
    source = SOURCE.read_bytes()
    about = "\0".join([compiler, *FLAGS, platform.machine(), _processor()])
    name = hashlib.sha256(source + about.encode()).hexdigest()[:16]

    def fill(folder: Path) -> None:
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(folder / "attend.so"), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS, stdin=subprocess.DEVNULL)

    return kept(f"attend-{name}", {"file": "attend.so", "flags": list(FLAGS)}, fill) / "attend.so"


def _processor() -> str:
    """What the processor can do: cache folders are shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _load(path: Path) -> Any:
    if hasattr(os, "getuid") and path.stat().st_uid not in (os.getuid(), 0):
        raise OSError(f"{path} belongs to somebody else")
    attend = ctypes.CDLL(str(path)).attend
    attend.argtypes = [ctypes.c_void_p] * 6 + [ctypes.c_long] * 10 + [ctypes.c_float, ctypes.c_int]
    attend.restype = ctypes.c_int
    return attend


@torch.inference_mode()
def _agrees(attend: Any) -> bool:
    """Whether it gives what torch gives, for rows of different lengths and tokens that see different ones."""
    noise = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, count, 64, generator=noise).bfloat16() for count in (6, 40, 40))
    mask = torch.zeros(2, 1, 2, 40, dtype=torch.bfloat16)
    mask[0, :, :, 17:] = mask[1, :, 0, 3:9] = float("-inf")
    wanted = scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask.float().repeat(1, 1, 3, 1), scale=0.125)
    return float((_run(attend, q, k, v, mask, 0.125).float() - wanted).abs().max()) < 0.02
