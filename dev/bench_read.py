"""
The blocks over reading windows, forward and backward, in one run: attention always by scaled_dot_product_attention, as
it is (written out where that is faster, see layers.SHORT), and by torch.compile (--compile yes of base_train).

    python -m dev.bench_read [--tokens 6144] [--lengths 128 256 512] [--rounds 5]

The table gives medians, and each time as a ratio to the one as it is.
"""
import argparse
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # runs as a script, too

from nanochat.common import choose_device, choose_dtype, flag, run_main  # noqa: E402


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    flag(parser, "--tokens", type=int, default=6144, help="of a batch of windows")
    flag(parser, "--lengths", type=int, nargs="+", default=[128, 256, 512], help="tokens of a window")
    flag(parser, "--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    import torch

    from nanochat import layers, reading
    from nanochat.gpt import THENGPT, config_from_depth
    from nanochat.tbptt import compile_blocks
    device = choose_device()[0]
    dtype, short = choose_dtype(device)[0], layers.SHORT
    plain, compiled = (THENGPT(config_from_depth("THENGPT", 6, n_embd=256, n_head=4, n_kv_head=4, nearby=5)).to(device)
                       for _ in range(2))
    for model in (plain, compiled):
        model.init_weights()
    compile_blocks(compiled)
    sides = {"kernel": (plain, 0), "as it is": (plain, short), "compiled": (compiled, short)}
    print(f"depth 6, width 256, 4 heads, {device}, {dtype}, {torch.get_num_threads()} threads")
    for length in args.lengths:
        x = torch.randn(max(args.tokens // length, 1), length, 256, device=device, dtype=dtype, requires_grad=True)
        cos, sin = layers.rotary(torch.arange(length, device=device)[None], 64, dtype)
        mask, there = torch.zeros_like(x[:, None, None, :, 0]), torch.ones_like(x[..., :1], dtype=torch.bool)
        times = {name: [] for name in sides}
        for round in range(-1, args.rounds):   # one to warm up
            for name, (model, layers.SHORT) in sides.items():
                began = time.perf_counter()
                reading.through(model, x, cos, sin, mask, [None] * 6, there)[0].sum().backward()
                if round >= 0:
                    times[name].append(1000 * (time.perf_counter() - began))
        medians = {name: statistics.median(times[name]) for name in sides}
        print(f"{len(x):4d} windows of {length}: " + ", ".join(
            f"{name} {ms:.0f} ms (x {ms / medians['as it is']:.2f})" for name, ms in medians.items()))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
