"""
Pretraining by truncated backpropagation through time, the state carried from batch to batch:

    python -m scripts.base_train --model-class THENGPT --depth 4 --data-dir data/base --time-budget 3000
    python -m scripts.base_train --model-class THENGPT --depth 8 --total-batch-size 524288 --wandb-project "livemem-then" --run-name "phase1-pretrain" --save-every 1000

Checkpoints and metrics.jsonl go to base_checkpoints/d<depth> under the repository root, or $NANOCHAT_BASE_DIR.
"""
import argparse
import importlib
import json
import math
import sys
import time

from nanochat.common import UserError, choose_device, choose_dtype, flag, run_main, run_record, seed_everything


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = lambda *names, **kw: flag(parser, *names, **kw)
    add("--model-class", choices=["GPT", "THENGPT"], default="THENGPT")
    add("--depth", type=int, default=4, help="layers; the width is 64 times as much")
    add("--data-dir", default="data/base", help="parquet shards; the last one is held out for evaluation")
    add("--total-batch-size", type=int, default=-1, help="tokens an optimizer step (default: one accumulation step)")
    add("--device-batch-size", type=int, default=8, help="streams a device")
    add("--max-seq-len", type=int, default=512, help="slots of a segment")
    add("--tbptt-segments", type=int, default=2, help="segments the gradient flows through before the state is detached")
    add("--train-memory", type=int, default=2048, help="traces a stream remembers beyond the gradient")
    add("--num-iterations", type=int, default=-1)
    add("--time-budget", type=float, default=-1, help="seconds of training; bounds the run and the learning-rate schedule")
    add("--write-mixer", choices=["swa", "kda"], default="swa")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="any field of the model configuration, for ablations")
    add("--matrix-lr", type=float, default=0.02)
    add("--embedding-lr", type=float, default=0.3)
    add("--head-lr", type=float, default=0.004)
    add("--recall-lr", type=float, default=0.001, help="recall head and indexers")
    add("--scalar-lr", type=float, default=0.01, help="gains and other vectors")
    add("--warmdown", type=float, default=0.5, help="fraction of the run over which the learning rate falls")
    add("--text-loss-weight", type=float, default=0.3)
    add("--answer-loss-weight", type=float, default=1.0)
    add("--route-loss-weight", type=float, default=1.0)
    add("--carry-state", choices=["yes", "no"], default="yes", help="no: the state is emptied at every step, for ablations")
    add("--eval-every", type=int, default=250)
    add("--eval-segments", type=int, default=12)
    add("--save-every", type=int, default=-1, help="steps (default: at the end only)")
    add("--resume-from-step", type=int, default=-1)
    add("--tag", default="", help="name of the run's directory (default: d<depth>)")
    add("--seed", type=int, default=0)
    add("--device", default="auto")
    add("--dtype", default="auto", help="auto, fp32, bf16 or fp16")
    add("--attn", choices=["auto", "fa3", "fa2", "sdpa", "naive"], default="auto", help="attention of GPT; THENGPT masks by episode and memory, written out")
    add("--no-compile", action="store_true", help="never torch.compile")
    add("--fp8", action="store_true")
    add("--wandb-project", default="", help="log to wandb, too")
    add("--run-name", default="")
    return parser


def note(text):
    print(text, file=sys.stderr, flush=True)


def model_overrides(pairs):
    """FIELD=VALUE strings -> dict, values as JSON where they are."""
    out = {}
    for pair in pairs:
        name, eq, value = pair.partition("=")
        if not eq:
            raise UserError(f"--set takes FIELD=VALUE, not '{pair}'", code=2)
        try:
            out[name] = json.loads(value)
        except json.JSONDecodeError:
            out[name] = value
    return out


def build_model(args, tokenizer, device, dtype):
    import torch

    from nanochat.gpt import GPT, THENGPT, config_from_depth
    overrides = {"vocab_size": tokenizer.vocab_size, **model_overrides(args.set)}
    if args.model_class == "THENGPT":
        overrides = {"write_mixer": args.write_mixer, "bos_id": tokenizer.bos_id, "user_id": tokenizer.user_id, "assistant_id": tokenizer.assistant_id, "pad_id": tokenizer.pad_id,
                     "n_ordinary": min(tokenizer.special_tokens.values()), **overrides}
    try:
        config = config_from_depth(args.model_class, args.depth, **overrides)
    except TypeError as error:
        raise UserError(f"--set: {error}", code=2) from error
    with torch.device("meta"):   # nothing is allocated, or drawn, twice
        model = {"GPT": GPT, "THENGPT": THENGPT}[args.model_class](config)
    model.to_empty(device=device)
    model.dtype = dtype
    model.init_weights(tokenizer.word_tables())
    return model


def start_wandb(args, config):
    if not args.wandb_project:
        return None
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise UserError("--wandb-project needs wandb: pip install wandb, or leave the flag out (metrics.jsonl is always written)") from error
    return wandb.init(project=args.wandb_project, name=args.run_name or None, config=config)


def main(argv=None):
    args = build_parser().parse_args(argv)
    import torch

    from nanochat.checkpoint_manager import checkpoint_dir, load_checkpoint, rng_state, save_checkpoint, set_rng_state
    from nanochat.dataloader import StreamLoader
    from nanochat.dataset import list_shards
    from nanochat.evaluate import recall_accuracy
    from nanochat.flash_attention import resolve as resolve_attention
    from nanochat.optim import MuonAdamW, lr_multiplier
    from nanochat.state import detach_state, forget_rows, state_from_plain, state_to_plain
    from nanochat.tokenizer import Tokenizer

    if args.num_iterations < 0 and args.time_budget < 0:
        args.num_iterations = 1000
    device, why_device = choose_device(args.device)
    dtype, why_dtype = choose_dtype(device, args.dtype)
    if args.fp8:
        raise UserError(f"--fp8 is not to be had: {'it needs an H100-class GPU, and the device is ' + str(device) if device.type != 'cuda' else 'not built yet'}; leave it out")
    B, T, K = args.device_batch_size, args.max_seq_len, args.tbptt_segments
    window = B * T * K
    total = window if args.total_batch_size < 0 else args.total_batch_size
    if min(B, T, K, args.depth) < 1 or total % window:
        raise UserError(f"--total-batch-size {total} must be a multiple of device-batch-size x max-seq-len x tbptt-segments = {window}", code=2)
    if T % 16:
        raise UserError(f"--max-seq-len {T} must be a multiple of 16, the chunk", code=2)
    seed_everything(args.seed)
    try:
        tokenizer = Tokenizer.load()
        shards = list_shards(args.data_dir)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    train_shards, val_shards = (shards[:-1], shards[-1:]) if len(shards) > 1 else (shards, shards)
    model = build_model(args, tokenizer, device, dtype)
    then = args.model_class == "THENGPT"
    optimizer = MuonAdamW(model.parameter_groups(args.matrix_lr, args.embedding_lr, args.head_lr, args.recall_lr, args.scalar_lr))
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    directory = checkpoint_dir(args.tag or f"d{args.depth}")
    weights = {"text": args.text_loss_weight, "copy": args.text_loss_weight, "guess": args.text_loss_weight, "answer": args.answer_loss_weight, "route": args.route_loss_weight}

    # where the run stands
    step, position, state, elapsed = 0, None, None, 0.0
    if args.resume_from_step >= 0:
        saved = load_checkpoint(directory, args.resume_from_step)
        if saved.meta["config"] != model.describe():
            raise UserError(f"step {args.resume_from_step} in {directory} is of another model configuration: give the flags it was trained with")
        if saved.meta["tokenizer"] != tokenizer.fingerprint:
            raise UserError(f"step {args.resume_from_step} in {directory} was trained with another tokenizer")
        model.load_state_dict(saved.model)
        optimizer.load_state_dict(saved.optimizer)
        train = saved.train_state
        step, position, elapsed = args.resume_from_step, train["position"], train["elapsed"]
        if then:
            state = state_from_plain(train["state"])
        scaler.load_state_dict(train["scaler"])
    loader = StreamLoader(train_shards, tokenizer, B, T, position=position)
    state = model.empty_state(B) if then and state is None else state
    if args.resume_from_step >= 0:
        set_rng_state(train["rng"])   # last: building things above has drawn numbers

    run_compiled = device.type == "cuda" and not args.no_compile and not then
    config = {**vars(args), **model.describe(), "run": run_record()}
    directory.mkdir(parents=True, exist_ok=True)
    note(f"Live Memory pretraining: {args.model_class} depth {args.depth} -> {directory}")
    note(f"device: {device} ({why_device}) | dtype: {str(dtype).removeprefix('torch.')} ({why_dtype})")
    model.backend = resolve_attention(args.attn, device, dtype)
    note(f"attention: {model.backend}")
    if then:
        note("  THENGPT's layers do not use it: episodes, window, memory and sink share one masked softmax, which Flash Attention does not offer")
    note("torch.compile: " + ("on" if run_compiled else "off (" + ("--no-compile" if args.no_compile else "a step with growing memory is not one graph yet" if then else
                                                                  "takes minutes a shape without a GPU") + ")"))
    for name, n in model.parameter_table():
        note(f"  {name:12s} {n:12,d}")
    note(f"tokens a step: {total:,} = {B} streams x {T} slots x {K} segments x {total // window} | data: {len(train_shards)} shards, {len(val_shards)} for evaluation"
         + (" (the same: only one is there)" if len(shards) == 1 else ""))
    wandb_run = start_wandb(args, config)
    forward = torch.compile(model) if run_compiled else model
    log = open(directory / "metrics.jsonl", "a", encoding="utf-8")
    record = lambda **entry: (log.write(json.dumps(entry) + "\n"), log.flush(), wandb_run and wandb_run.log({k: v for k, v in entry.items() if k != "kind"}))
    if step == 0:
        record(kind="config", **config)

    def save():
        meta = {"config": model.describe(), "tokenizer": tokenizer.fingerprint, "args": vars(args), "seconds": round(elapsed, 1)}
        train = {"position": loader.position(), "elapsed": elapsed, "rng": rng_state(), "scaler": scaler.state_dict(), "state": state_to_plain(state) if then else None}
        save_checkpoint(directory, step, model.state_dict(), optimizer.state_dict(), meta, train)
        note(f"saved {directory}/model_{step:06d}.pt")

    def progress():
        return max(step / args.num_iterations if args.num_iterations > 0 else 0.0, elapsed / args.time_budget if args.time_budget > 0 else 0.0)

    while progress() < 1:
        t0 = time.perf_counter()
        multiplier = lr_multiplier(progress() + 1e-4, 1.0, 0.01, args.warmdown, final=0.02)
        optimizer.scale_lr(multiplier)
        sums, windows = {}, total // window
        for _ in range(windows):
            loss = 0
            for _ in range(K):
                batch = {name: t.to(device) for name, t in next(loader).items()}
                if then:
                    if args.carry_state == "no":
                        batch["new_life"][:] = True
                    state = forget_rows(state, batch["new_life"])
                    losses, state = forward(batch["ids"], batch["targets"], state, batch["answers"], batch["evidence"], weights=weights, parts=True)
                else:
                    text = forward(batch["ids"], batch["targets"])
                    losses = {"text": text, "total": text}
                loss = loss + losses["total"] / (K * windows)
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0) + value.detach() / (K * windows)
            scaler.scale(loss).backward()
            if then:
                state = detach_state(state, args.train_memory)
        sums = {name: float(value) for name, value in sums.items()}
        if not math.isfinite(sums["total"]):
            record(kind="error", step=step, **sums)
            raise UserError(f"the loss is not finite at step {step} ({', '.join(f'{k} {v:.3g}' for k, v in sums.items())}): stopped before the weights were touched; "
                            f"lower the learning rates, or resume from the last checkpoint in {directory}")
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        dt = time.perf_counter() - t0
        elapsed, step = elapsed + dt, step + 1
        done = progress()
        parts = " ".join(f"{name} {sums[name]:.3f}" for name in ("text", "answer", "route", "index") if name in sums)
        print(f"step {step:05d} ({100 * min(done, 1):5.1f}%) | loss {parts} | lr {multiplier:.2f} | {dt * 1000:.0f} ms | {total / dt:,.0f} tok/s | "
              f"traces {len(state['traces']) if then else 0} | {elapsed / 60:.1f} min, {elapsed * (1 / done - 1) / 60:.1f} left", flush=True)
        record(kind="step", step=step, lr=multiplier, seconds=dt, elapsed=elapsed, **sums)
        if then and (step % args.eval_every == 0 or done >= 1):
            got = recall_accuracy(model, val_shards, tokenizer, B, T, args.eval_segments, args.train_memory, device)
            print(f"recall at step {step} (n={got['n']}): first answer token {got['first']:.1f}% (memory emptied {got['first_empty']:.1f}%), "
                  f"rest {got['rest']:.1f}% ({got['rest_empty']:.1f}%), evidence ranked first {got['routed']:.1f}%, refused {got['refused']:.1f}%", flush=True)
            record(kind="eval", step=step, **got)
        if (args.save_every > 0 and step % args.save_every == 0) or done >= 1:
            save()
    log.close()
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
