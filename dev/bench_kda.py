"""
Times a KDA layer's core, forward and backward: token by token, in chunks, and, for comparison, softmax attention over a
sliding window of the same shape (blocks of one window that see themselves and the block before: the quick way to do
it).

    python -m dev.bench_kda [--dtype bfloat16] [--threads 2]
"""

import argparse
import os
import sys
import time

import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # runs as a script, too

from nanochat.kda import kda_chunk, kda_gate, kda_naive, short_conv  # noqa: E402


def window_attention(q, k, v, window):
    """q, k, v (B, T, H, D): each token sees itself and the window - 1 tokens before it."""
    B, T, H, D = q.shape
    q, k, v = (x.unflatten(1, (T // window, window)).transpose(2, 3) for x in (q, k, v))  # (B, blocks, H, window, D)
    k, v = (torch.cat([F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1], x], 3) for x in (k, v))
    distance = torch.arange(window)[:, None] + window - torch.arange(2 * window)
    mask = ((distance >= 0) & (distance < window)).repeat(T // window, 1, 1, 1)
    mask[0, ..., :window] = False  # before the first block there is nothing
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.repeat(B, 1, 1, 1))
    return o.unflatten(0, (B, T // window)).transpose(2, 3).reshape(B, T, H, D)


def measure(function, inputs, repeats):
    """Least milliseconds of (forward, forward and backward): other work on the machine only ever adds."""
    best = [float("inf")] * 2
    for _ in range(repeats + 1):
        start = time.perf_counter()
        out = function(*inputs)
        forward = time.perf_counter() - start
        torch.autograd.grad(out, inputs, torch.ones_like(out))
        best = [min(best[0], forward), min(best[1], time.perf_counter() - start)]
    return [1000 * seconds for seconds in best]


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description="time KDA against sliding-window attention")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=512, help="a multiple of 16 and of the window")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    B, T, H, D = args.batch, args.length, args.heads, args.head_dim

    def leaf(x):
        return x.to(dtype).requires_grad_()

    q, k = (leaf(F.normalize(torch.randn(B, T, H, D), dim=-1)) for _ in range(2))
    v = leaf(torch.randn(B, T, H, D))
    g = leaf(kda_gate(torch.randn(B, T, H, D), torch.zeros(H), torch.zeros(H, D)))
    beta = leaf(torch.rand(B, T, H))
    x, weight = leaf(torch.randn(B, T, 3 * H * D)), torch.randn(3 * H * D, 4, requires_grad=True)
    contenders = {
        "chunk": (lambda *a: kda_chunk(*a)[0], (q, k, v, g, beta), args.repeats),
        "window": (lambda *a: window_attention(*a, args.window), (q, k, v), args.repeats),
        "short conv": (lambda *a: short_conv(*a)[0], (x, weight), args.repeats),
        "naive": (lambda *a: kda_naive(*a)[0], (q, k, v, g, beta), 1),
    }
    times = {name: measure(*contender) for name, contender in contenders.items()}
    print(f"B={B} T={T} H={H} D={D} {args.dtype}, {args.threads} threads, milliseconds")
    for name, (forward, both) in times.items():
        print(f"{name:11s} forward {forward:8.1f}   with backward {both:8.1f}   x window "
              f"{both / times['window'][1]:6.2f}")
    print(f"chunk is {times['naive'][1] / times['chunk'][1]:.1f} times quicker than naive")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
