"""
Attention over reading windows: as it is (CausalSelfAttention.over) and written out, forward and backward, in one run.

    python -m dev.bench_read [--tokens 6144] [--lengths 128 256 512] [--rounds 5]

The table gives medians, and the time written out as a ratio to the time as it is.
"""
import argparse
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # runs as a script, too

from nanochat.common import choose_device, choose_dtype, flag, run_main  # noqa: E402


def written_out(attn, x, cos, sin, mask):
    """The same attention by two products and a softmax, whose scores are all in memory."""
    import torch
    q, k, v, _ = attn.qkv(x, cos, sin)
    score = torch.matmul(q.transpose(1, 2), k.permute(0, 2, 3, 1)) * attn.head_dim ** -0.5 + mask
    y = torch.matmul(torch.softmax(score, dim=-1), v.transpose(1, 2))
    return attn.proj(y.transpose(1, 2).flatten(2))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    flag(parser, "--tokens", type=int, default=6144, help="of a batch of windows")
    flag(parser, "--lengths", type=int, nargs="+", default=[128, 256, 512], help="tokens of a window")
    flag(parser, "--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    import torch

    from nanochat.gpt import THENConfig
    from nanochat.layers import CausalSelfAttention, rotary
    device = choose_device()[0]
    dtype = choose_dtype(device)[0]
    attn = CausalSelfAttention(THENConfig(n_embd=256, n_head=4, n_kv_head=4), 0).to(device)
    sides = {"as it is": lambda *a: attn.over(*a)[0], "written out": lambda *a: written_out(attn, *a)}
    print(f"width 256, 4 heads, {device}, {dtype}, {torch.get_num_threads()} threads")
    for length in args.lengths:
        x = torch.randn(max(args.tokens // length, 1), length, 256, device=device, dtype=dtype, requires_grad=True)
        cos, sin = rotary(torch.arange(length, device=device)[None], 64, dtype)
        mask, times = torch.zeros(len(x), 1, 1, length, device=device, dtype=dtype), {name: [] for name in sides}
        for round in range(-1, args.rounds):   # one to warm up
            for name, side in sides.items():
                began = time.perf_counter()
                side(x, cos, sin, mask).sum().backward()
                if round >= 0:
                    times[name].append(1000 * (time.perf_counter() - began))
        fast, slow = (statistics.median(times[name]) for name in sides)
        print(f"{len(x):4d} windows of {length}: {fast:6.0f} ms as it is, {slow:6.0f} ms written out, ratio "
              f"{slow / fast:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
