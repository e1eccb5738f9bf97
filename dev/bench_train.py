"""
Training speed: plain GPT, THENGPT with sliding-window and with KDA write layers, same depth, same prose, in one run.

    python -m dev.bench_train [--depth 4] [--rounds 6] [--memory 2048]

A round takes one optimizer step of each in turn; the table gives medians and each one's time as a ratio to GPT's.
"""
import argparse
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # runs as a script, too

from nanochat.common import flag, run_main  # noqa: E402


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    for name, default in (("--depth", 4), ("--rounds", 6), ("--memory", 2048), ("--streams", 8), ("--slots", 512),
                          ("--segments", 2)):
        flag(parser, name, type=int, default=default)
    args = parser.parse_args(argv)
    import torch

    from nanochat.common import choose_device, choose_dtype
    from nanochat.dataloader import life_slots
    from nanochat.dataset import document_tokens
    from nanochat.gpt import GPT, THENGPT, config_from_depth
    from nanochat.optim import MuonAdamW
    from nanochat.state import detach_state
    from nanochat.tokenizer import Tokenizer
    device, dtype = choose_device()[0], choose_dtype(choose_device()[0])[0]
    tokenizer = Tokenizer.load()
    B, T, K = args.streams, args.slots, args.segments
    line = "Line {} tells of thing {} and of where it was put on day {}.".format
    text = "\n".join(line(i, 7 * i, i % 31) for i in range(T * K // 16))   # fills a row
    slots = life_slots(document_tokens(tokenizer, text), tokenizer.pad_id)
    rows = [{k: torch.from_numpy(v[:T * K]) for k, v in slots.items()}] * B
    segments = [{k: torch.stack([r[k][i * T:(i + 1) * T] for r in rows]).to(device) for k in rows[0]} for i in range(K)]

    def candidate(name, mixer=None):
        overrides = dict(vocab_size=tokenizer.vocab_size)
        if mixer:
            overrides.update(write_mixer=mixer, bos_id=tokenizer.bos_id, pad_id=tokenizer.pad_id,
                             n_ordinary=min(tokenizer.special_tokens.values()))
        model = (THENGPT if mixer
                 else GPT)(config_from_depth("THENGPT" if mixer else "GPT", args.depth, **overrides)).to(device)
        model.dtype = dtype
        model.init_weights()
        optimizer = MuonAdamW(model.parameter_groups())
        state = model.empty_state(B) if mixer else None
        with torch.no_grad():
            while mixer and len(state["traces"]) < args.memory:   # as full as in the middle of a run
                state = detach_state(model.encode(segments[0]["ids"], state), args.memory)

        def step():
            nonlocal state
            loss = 0
            for s in segments:
                if mixer:
                    part, state = model(s["ids"], s["targets"], state)
                    loss = loss + part
                else:
                    loss = loss + model(s["ids"], s["targets"])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state = detach_state(state, args.memory) if mixer else None
            return float(loss.detach())
        return name, step, []

    candidates = [candidate("GPT"), candidate("THENGPT swa", "swa"), candidate("THENGPT kda", "kda")]
    for round in range(-2, args.rounds):   # two to warm up
        for _, step, times in candidates:
            began = time.perf_counter()
            step()
            if round >= 0:
                times.append(time.perf_counter() - began)
    base = statistics.median(candidates[0][2])
    print(f"depth {args.depth}, {B} streams x {T} slots x {K} segments, memory {args.memory} traces, {device}, "
          f"{dtype}, {torch.get_num_threads()} threads")
    for name, _, times in candidates:
        t = statistics.median(times)
        print(f"{name:12s} {1000 * t:7.0f} ms a step  {B * T * K / t:8,.0f} slots/s  ratio to GPT {t / base:.2f}  (min "
              f"{1000 * min(times):.0f}, max {1000 * max(times):.0f})")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
