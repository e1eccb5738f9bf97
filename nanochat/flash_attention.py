"""
Flash Attention's own interface over several implementations. Which one runs here, and why not a faster one:

    python -m nanochat.flash_attention [--attn auto|fa3|fa2|sdpa|naive] [--device cuda] [--dtype bf16]

    fa3     Flash Attention 3: Hopper (SM 9.x), bf16 or fp16. Three places are tried, see KERNELS
    fa2     Flash Attention 2 (the PyPI package flash-attn): SM 8.0 and newer, bf16 or fp16
    sdpa    torch's scaled_dot_product_attention: everywhere; a window, or ragged lengths, cost it a Tq x Tk mask
    naive   one query at a time: the definition, which the tests hold the others to

'auto' takes the first of fa3, fa2 and sdpa that can be had. $NANOCHAT_ATTN takes the place of 'auto', an explicit
choice goes before both. The same call means the same in all of them:

    q (B, Tq, H, D)    k (B, Tk, Hkv, D)    v (B, Tk, Hkv, Dv), Hkv a divisor of H    result (B, Tq, H, Dv) in q's dtype

Query i stands at key p = i + Tk - Tq (the last query at the last key) and sees the keys p - left .. p + right, both
included; -1 means no bound, and causal=True makes right 0. A query that sees no key returns zero.

Not yet run on a GPU: fa3 and fa2 are written to their documented interfaces and tested against a stand-in with the same
signatures. On a GPU, tests/test_flash_attention.py also compares what is installed there with naive.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import sys
from dataclasses import dataclass, field
from types import ModuleType

import torch
import torch.nn.functional as F

from nanochat.common import Help, UserError, choose_device, choose_dtype, flag, run_main

NAMES = {"fa3": "Flash Attention 3", "fa2": "Flash Attention 2", "sdpa": "PyTorch SDPA", "naive": "naive attention"}

# where to look, in this order: a module, or with a slash a repository of the kernel hub
KERNELS = {
    "fa3": ("flash_attn_3.flash_attn_interface", "flash_attn_interface", "kernels-community/flash-attn3"),
    "fa2": ("flash_attn",),
}

# -----------------------------------------------------------------------------
# Which implementation


@dataclass(frozen=True)
class Backend:
    """What `resolve` chose. `str()` is the verdict, several lines when candidates were passed over."""

    name: str
    reasons: tuple[str, ...] = ()  # one for each candidate that was passed over
    source: str = ""  # where the kernels came from
    module: ModuleType | None = field(default=None, repr=False, compare=False)

    def __str__(self):
        source = f" ({self.source})" if self.source else ""
        return "\n".join([f"Using {NAMES[self.name]}{source}", *(f"  not {reason}" for reason in self.reasons)])


def resolve(name: str = "auto", device=None, dtype: torch.dtype | None = None, capability=None) -> Backend:
    """
    The implementation for tensors of this device (None: what `choose_device` takes) and dtype (None: `choose_dtype`).
    `capability`, the GPU's (major, minor), is asked of the device unless given. The answer is cached.

    Importing a kernel happens here, and the kernel hub may download on first use: call it once at start, outside code
    that torch.compile sees, and hand the result on as `backend`. Raises UserError if `name` is unknown, or a choice
    other than 'auto' that can't be had.
    """
    asked = ""
    if name == "auto" and os.environ.get("NANOCHAT_ATTN"):
        name, asked = os.environ["NANOCHAT_ATTN"], " (NANOCHAT_ATTN)"
    if name not in ("auto", *NAMES):
        raise UserError(f"unknown attention '{name}'{asked}: use auto, {', '.join(NAMES)}", code=2)
    device = choose_device()[0] if device is None else torch.device(device)
    return _resolve(name, asked, device, dtype or choose_dtype(device)[0], capability)


@functools.cache
def _resolve(name, asked, device, dtype, capability):
    if name in ("sdpa", "naive"):
        return Backend(name)
    # ROCm calls itself cuda too, and its MI300 would pass for SM 9.4
    if capability is None and device.type == "cuda" and torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
    reasons = []
    for candidate in KERNELS if name == "auto" else [name]:
        if unfit := _unfit(candidate, device, dtype, capability):
            reasons.append(f"{candidate}: {unfit}")
            continue
        for source in KERNELS[candidate]:
            try:
                return Backend(candidate, tuple(reasons), source, _load(source))
            except Exception as e:  # compiled code by others: whatever its import raises is why it is not used
                text = " ".join(str(e).split())[:200]
                reasons.append(f"{candidate} ({source}): {text or type(e).__name__}")
    if name != "auto":
        raise UserError(f"attention '{name}'{asked} can't be had: {'; '.join(reasons)}")
    return Backend("sdpa", tuple(reasons))


def _unfit(candidate, device, dtype, capability):
    """Why this hardware or dtype rules the candidate out, or None."""
    needs = "needs an NVIDIA GPU of SM " + ("9.x" if candidate == "fa3" else "8.0 or newer")
    if capability is None:
        return f"{needs}, the device is {device.type}{' (ROCm)' if device.type == 'cuda' else ''}"
    major, minor = capability
    if not (major == 9 if candidate == "fa3" else major >= 8):
        return f"{needs}, this one is SM {major}.{minor}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"needs bf16 or fp16, not {str(dtype).removeprefix('torch.')}"
    return None


def _load(source):
    if "/" in source:
        # current releases of `kernels` refuse a call without a version
        module = importlib.import_module("kernels").get_kernel(source, version=1)
        module = getattr(module, "flash_attn_interface", module)
    else:
        module = importlib.import_module(source)
    for function in ("flash_attn_func", "flash_attn_with_kvcache"):
        if not hasattr(module, function):
            raise ImportError(f"it has no {function}")
    return module


# -----------------------------------------------------------------------------
# The interface


def flash_attn_func(q, k, v, causal=False, window_size=(-1, -1), softmax_scale=None, *, backend=None):
    """
    Attention with gradients; shapes and masking as at the top. softmax_scale None is D ** -0.5; backend None is
    `resolve()` for q's device and dtype. Raises ValueError where shapes, dtypes or window do not fit together.
    """
    _check(q, k, v, window_size)
    backend = backend or resolve(device=q.device, dtype=q.dtype)
    if backend.module is not None:
        options = {"softmax_scale": softmax_scale, "causal": causal, "window_size": tuple(window_size)}
        return _only_out(backend.module.flash_attn_func(q, k, v, **options))
    return _attend(backend, q, k, v, causal, window_size, softmax_scale)


def flash_attn_with_kvcache(q, k_cache, v_cache, k=None, v=None, cache_seqlens=None, causal=False, window_size=(-1, -1),
                            softmax_scale=None, *, backend=None):
    """
    Attention over the filled part of a cache, for decoding. k, v (B, Tnew, Hkv, D), if given, are first written **in
    place** into k_cache, v_cache (B, capacity, Hkv, D) behind the first cache_seqlens tokens of each row, and that
    row's Tk is then cache_seqlens + Tnew. The caller advances cache_seqlens.

    cache_seqlens: an int, or integers (B,), which may differ by row; None: the whole cache, k and v must then be None.
    A tensor on the GPU is waited for at each call, to refuse an overflow; an int is not.

    Raises ValueError if the cache would overflow (nothing is written then), where shapes, dtypes or window do not fit
    together, and where a gradient would be lost: no kernel has a backward for this, use torch.no_grad.
    """
    _check(q, k_cache, v_cache, window_size)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (q, k, v, k_cache, v_cache)):
        raise ValueError("flash_attn_with_kvcache has no backward: call it under torch.no_grad()")
    B, capacity = k_cache.shape[:2]
    if (k is None) != (v is None) or (k is not None and cache_seqlens is None):
        raise ValueError("k, v and cache_seqlens: new keys need new values, and a place to be written to")
    if k is not None:
        _check(q, k, v, window_size)
        if k.shape[2] != k_cache.shape[2] or v.shape[3] != v_cache.shape[3]:
            raise ValueError(f"k {tuple(k.shape)}, v {tuple(v.shape)} do not fit a cache of {tuple(v_cache.shape)}")
    lengths, ends = _lengths(cache_seqlens, B, capacity, 0 if k is None else k.shape[1], q.device)

    backend = backend or resolve(device=q.device, dtype=q.dtype)
    if backend.module is not None:
        options = {"softmax_scale": softmax_scale, "causal": causal, "window_size": tuple(window_size)}
        options |= {"k": k, "v": v, "cache_seqlens": lengths}
        return _only_out(backend.module.flash_attn_with_kvcache(q, k_cache, v_cache, **options))
    if k is not None:
        row = torch.arange(B, device=q.device)[:, None]
        column = lengths[:, None].long() + torch.arange(k.shape[1], device=q.device)
        k_cache[row, column], v_cache[row, column] = k, v
        lengths = lengths + k.shape[1]
    k, v = k_cache[:, : max(ends)], v_cache[:, : max(ends)]
    return _attend(backend, q, k, v, causal, window_size, softmax_scale, lengths if min(ends) < max(ends) else None)


def _check(q, k, v, window_size):
    fits = q.dim() == k.dim() == v.dim() == 4 and k.shape[:3] == v.shape[:3] and 0 not in (*q.shape, k.shape[2])
    if not fits or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3] or q.shape[2] % k.shape[2]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (q, k, v))
        raise ValueError(f"attention over {shapes}: need (B, Tq, H, D), (B, Tk, Hkv, D), (B, Tk, Hkv, Dv), Hkv | H")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"attention over different dtypes: {q.dtype}, {k.dtype}, {v.dtype}")
    if len(window_size) != 2 or min(window_size) < -1:
        raise ValueError(f"window_size {window_size}: need (left, right), -1 for no bound")


def _lengths(cache_seqlens, B, capacity, new, device):
    """cache_seqlens as the kernels take it, int32 (B,) or None, and how many keys each row has after the write."""
    if cache_seqlens is None:
        return None, [capacity] * B
    if isinstance(cache_seqlens, int):
        starts = [cache_seqlens] * B
        lengths = torch.full((B,), cache_seqlens, dtype=torch.int32, device=device)
    else:
        if cache_seqlens.shape != (B,) or cache_seqlens.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"cache_seqlens {tuple(cache_seqlens.shape)} {cache_seqlens.dtype}: need integers ({B},)")
        starts = cache_seqlens.tolist()
        lengths = cache_seqlens.to(device, torch.int32)
    if min(starts) < 0 or max(starts) + new > capacity:
        raise ValueError(f"cache of {capacity} tokens can't hold {new} more behind cache_seqlens {starts}")
    return lengths, [n + new for n in starts]


def _only_out(out):
    return out[0] if isinstance(out, tuple) else out  # FA3 before August 2025 always returns (out, log-sum-exp)


# -----------------------------------------------------------------------------
# Without a kernel: every argument is honoured. `lengths` (B,): row b has its first lengths[b] keys only; None: all Tk


def _attend(backend, q, k, v, causal, window_size, scale, lengths=None):
    left, right = window_size
    scale = q.shape[3] ** -0.5 if scale is None else scale
    form = _naive if backend.name == "naive" else _sdpa
    return form(q, k, v, left, 0 if causal else right, scale, lengths)


def _naive(q, k, v, left, right, scale, lengths=None):
    (B, Tq, H, _), Tk = q.shape, k.shape[1]
    wide = torch.promote_types(q.dtype, torch.float32)
    rows = []
    for b, n in enumerate([Tk] * B if lengths is None else lengths.tolist()):
        for i in range(Tq):
            p = i + n - Tq
            first = 0 if left < 0 else max(0, p - left)
            end = n if right < 0 else min(n, p + right + 1)
            if first >= end:
                rows.append(v.new_zeros(H, v.shape[3]))
                continue
            keys, values = (t[b, first:end].to(wide).repeat_interleave(H // t.shape[2], 1) for t in (k, v))
            weights = torch.einsum("hd,nhd->hn", q[b, i].to(wide), keys).mul(scale).softmax(-1)
            rows.append(torch.einsum("hn,nhd->hd", weights, values).to(q.dtype))
    return torch.stack(rows).view(B, Tq, H, -1)


def _sdpa(q, k, v, left, right, scale, lengths=None):
    Tq, Tk = q.shape[1], k.shape[1]
    if Tk == 0:
        return q.new_zeros(*q.shape[:3], v.shape[3])
    mask = seen = None
    if lengths is None:
        # a bound that excludes nothing is none: torch's fast kernels take no mask
        left, right = -1 if left >= Tk - 1 else left, -1 if right >= Tq - 1 else right
    # torch aligns is_causal top-left, which is the same thing for a square only
    is_causal = lengths is None and left < 0 and right == 0 and Tq == Tk
    if not is_causal and (lengths is not None or left >= 0 or right >= 0):
        key = torch.arange(Tk, device=q.device)
        end = torch.tensor([Tk], device=q.device) if lengths is None else lengths
        position = torch.arange(Tq, device=q.device)[:, None] + end[:, None, None] - Tq  # (B or 1, Tq, 1)
        mask = (key < end[:, None, None]).expand(-1, Tq, -1)
        if left >= 0:
            mask = mask & (key >= position - left)
        if right >= 0:
            mask = mask & (key <= position + right)
        # kernels differ on a row without keys: let it see them all, then drop it, which also zeroes its gradients
        seen = mask.any(-1, keepdim=True)
        mask = (mask | ~seen)[:, None]
        if lengths is not None:
            # what lies behind a row's end may be uninitialised, and 0 * nan is nan
            behind = (key >= lengths[:, None])[..., None, None]
            k, v = k.masked_fill(behind, 0), v.masked_fill(behind, 0)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, scale=scale,
                                       enable_gqa=q.shape[1] != k.shape[1]).transpose(1, 2)
    return y if seen is None else y.masked_fill(~seen[..., None], 0)


def main() -> int:
    about = "Which attention runs here, and why not a faster one."
    parser = argparse.ArgumentParser(prog="python -m nanochat.flash_attention", description=about, formatter_class=Help,
                                     allow_abbrev=False)
    flag(parser, "--attn", default="auto", choices=["auto", *NAMES], help="auto: the first that can be had")
    flag(parser, "--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    flag(parser, "--dtype", default="auto", help="auto, fp32, bf16 or fp16")
    args = parser.parse_args()
    device, _ = choose_device(args.device)
    print(resolve(args.attn, device, choose_dtype(device, args.dtype)[0]))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
