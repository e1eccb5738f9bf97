"""
Pretraining by truncated backpropagation through time, the state carried from batch to batch. Flags are listed with their defaults.
SIGTERM saves and ends the run with exit code 0, a loss that is not finite with 1. With --resume latest and the flags it was started with, it goes on.
Checkpoints and metrics.jsonl go to base_checkpoints/d<depth> under the repository root, or $NANOCHAT_BASE_DIR.
"""
import argparse
import contextlib
import importlib
import json
import math
import signal
import sys
import time
from typing import NamedTuple

from nanochat import scaling
from nanochat.common import Help, UserError, choose_device, choose_dtype, flag, run_main, run_record, seed_everything, settings


def auto(kind):
    """For argparse: 'auto', or a number."""
    return lambda text: text if text == "auto" else kind(text)


def resumed(text):
    """For argparse: 'latest', or a step."""
    return text if text == "latest" else int(text)


def build_parser():
    parser = argparse.ArgumentParser(usage="python -m scripts.base_train --depth 4 --data-dir data/base --time-budget 3000 [options]\n"
                                           "       torchrun --standalone --nproc_per_node=8 -m scripts.base_train ...     (one process a GPU)",
                                     description=__doc__, formatter_class=Help, allow_abbrev=False)
    add = lambda *names, **kw: flag(parser, *names, **kw)
    add("--model-class", choices=["GPT", "THENGPT"], default="THENGPT", help="THENGPT has a memory; GPT is a plain one, without")
    add("--depth", type=int, default=4, help="layers; the width is 64 times as much")
    add("--data-dir", default="data/base", help="parquet shards; the last one is held out for evaluation")
    add("--total-batch-size", type=auto(int), default=-1, metavar="N", help="tokens a step; auto: by the size of the model (default: no accumulation)")
    add("--device-batch-size", type=int, default=8, help="")
    add("--max-seq-len", type=int, default=512, help="")
    add("--tbptt-segments", type=int, default=2, help="streams a device, slots of a segment, segments the gradient flows through")
    add("--train-memory", type=int, default=2048, help="traces a stream remembers beyond the gradient")
    add("--num-iterations", type=int, default=-1, metavar="N", help="optimizer steps (default: by one of the two below)")
    add("--tokens-per-parameter", type=float, default=20, help="length of the run by the size of the model, 1,000 steps at least")
    add("--time-budget", type=float, default=-1, metavar="SECONDS", help="bounds the run and its learning-rate schedule (default: none)")
    add("--write-mixer", choices=["swa", "kda"], default="swa", help="sliding-window attention, or Kimi Delta Attention (a recurrence)")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="any field of the model configuration, for ablations")
    add("--lr-scale", type=auto(float), default="auto", help="on the rates below; auto: grows with the square root of batches above 524,288")
    add("--matrix-lr", type=float, default=0.02, help="")
    add("--embedding-lr", type=float, default=0.3, help="")
    add("--head-lr", type=float, default=0.004, help="")
    add("--recall-lr", type=float, default=0.001, help="")
    add("--scalar-lr", type=float, default=0.01, help="learning rates; recall: of recall head and indexers, scalar: of gains and other vectors")
    add("--weight-decay", type=auto(float), default=0.0, help="of the matrices; auto: nanochat's 0.28, scaled to this run")
    add("--warmdown", type=float, default=0.5, help="fraction of the run over which the learning rate falls")
    add("--text-loss-weight", type=float, default=0.3, help="")
    add("--answer-loss-weight", type=float, default=1.0, help="")
    add("--read-loss-weight", type=float, default=2.0, help="")
    add("--route-loss-weight", type=float, default=1.0, help="losses: of the next token, of answers, of reading the evidence, of finding it")
    add("--carry-state", choices=["yes", "no"], default="yes", help="no: the state is emptied at every step, for ablations")
    add("--eval-every", type=int, default=250, help="")
    add("--eval-segments", type=int, default=12, help="steps between measurements of recall (0: at the end only), and segments each takes")
    add("--save-every", type=int, default=-1, metavar="N", help="")
    add("--keep", type=int, default=-1, metavar="K", help="save every N steps (default: at the end only), and keep the last K (default: all)")
    add("--resume", "--resume-from-step", dest="resume", type=resumed, metavar="STEP", help="go on from this step; latest: from the last one, if there is any")
    add("--init-from", metavar="MODEL", help="begin a new run with these weights: data/then-d4, or a checkpoint")
    add("--dry-run", action="store_true", help="")
    add("--peak-tflops", type=float, default=989, help="")
    add("--mfu", type=float, default=0.2, help="only say what the run would take; hours: with this peak in bf16 (989: H100), of which "
                                               "this share is reached")
    add("--tag", default="", help="name of the run's directory (default: d<depth>)")
    add("--seed", type=int, default=0)
    add("--device", default="auto")
    add("--dtype", default="auto", help="of the computation: auto, fp32, bf16 or fp16")
    add("--attn", choices=["auto", "fa3", "fa2", "sdpa", "naive"], default="auto", help="attention of GPT; THENGPT masks by episode and memory, written out")
    add("--no-compile", action="store_true", help="never torch.compile (with CUDA and without --fsdp it is on)")
    add("--fsdp", action="store_true", help="under torchrun: weights and optimizer sharded over the ranks, not replicated")
    add("--fp8", action="store_true", help="")
    add("--fp8-recipe", choices=["tensorwise", "rowwise"], default="tensorwise", help="blocks multiply in fp8, one scale a tensor (SM 8.9) or a row (SM 9.0)")
    add("--wandb-project", default="", metavar="NAME", help="")
    add("--run-name", default="", metavar="NAME", help="log to wandb, too")
    return parser


def build_model(args, tokenizer, device, dtype):
    import torch

    from nanochat.gpt import GPT, THENGPT, config_from_depth
    overrides = {"vocab_size": tokenizer.vocab_size, **settings(args.set)}
    if args.model_class == "THENGPT":
        overrides = {"write_mixer": args.write_mixer, "bos_id": tokenizer.bos_id, "end_id": tokenizer.end_id, "user_id": tokenizer.user_id, "assistant_id": tokenizer.assistant_id,
                     "pad_id": tokenizer.pad_id, "n_ordinary": min(tokenizer.special_tokens.values()), **overrides}
    try:
        config = config_from_depth(args.model_class, args.depth, **overrides)
    except TypeError as error:
        raise UserError(f"--set: {error}", code=2) from error
    with torch.device("meta"):   # nothing is allocated, or drawn, twice
        model = {"GPT": GPT, "THENGPT": THENGPT}[args.model_class](config)
    model.dtype = dtype
    if device.type != "meta":
        model.to_empty(device=device)
        model.init_weights(tokenizer.word_tables())
    return model


def loss_weights(args):
    """The weights of the losses, see THENGPT.forward; those left out weigh 1."""
    return {**dict.fromkeys(("text", "copy", "guess"), args.text_loss_weight), "answer": args.answer_loss_weight, "read": args.read_loss_weight, "route": args.route_loss_weight}


def dry_run(args, model, plan, window):
    """What the run would take, on stdout. UserError for KDA: what its own backward pass keeps is not seen from outside."""
    if getattr(model.config, "write_mixer", None) == "kda":
        raise UserError("--dry-run can't count the memory of KDA: leave --write-mixer kda out", code=2)
    B, T, K = args.device_batch_size, args.max_seq_len, args.tbptt_segments
    cost, steps = scaling.cost(window, B, T, K), max(plan.steps, 1)
    flops = cost.flops / (B * T * K)
    print(f"{args.model_class} depth {args.depth}, {B} streams x {T} slots x {K} segments a device, {str(model.dtype).removeprefix('torch.')}")
    for name, n in model.parameter_table():
        print(f"  {name:24s} {n:16,d}")
    print(f"tokens a step {plan.batch:,}, steps {plan.steps if plan.steps > 0 else 'by time'}, tokens {plan.batch * steps:,}, rates x {plan.lr_scale:.3g}")
    print(f"FLOPs a token {flops:.3g}, a step {flops * plan.batch:.3g}" + (f", the run {flops * plan.batch * steps:.3g}" if plan.steps > 0 else ""))
    print("memory of a device, counted on the meta device, in GB")
    for name in ("weights", "gradients", "optimizer", "activations", "state"):
        print(f"  {name:24s} {getattr(cost, name) / 1e9:16.2f}")
    print(f"  {'with room for temporaries':24s} {cost.bytes / 1e9:15.2f}    (activations and state x {scaling.OVERHEAD}, an assumption)")
    if plan.steps > 0:
        hours = flops * plan.batch * steps / (args.peak_tflops * 1e12 * args.mfu) / 3600
        print(f"hours on one device {hours:.3g}, at {args.mfu:.0%} of {args.peak_tflops:g} TFLOP/s, an assumption (--mfu, --peak-tflops)")
    return 0


class Plan(NamedTuple):
    """What follows from the flags and the size of the model."""
    batch: int        # slots a step, over all ranks
    windows: int      # that a step accumulates
    steps: int        # -1: the run is bounded by time alone
    lr_scale: float
    weight_decay: float

    @staticmethod
    def of(args, parameters, ranks):
        """parameters: how many multiply. UserError where the flags contradict each other."""
        B, T, K = args.device_batch_size, args.max_seq_len, args.tbptt_segments
        if min(B, T, K) < 1:
            raise UserError("--device-batch-size, --max-seq-len and --tbptt-segments must be at least 1", code=2)
        if 0 in (args.num_iterations, args.time_budget):
            raise UserError("--num-iterations and --time-budget must be above 0", code=2)
        if T % 16:
            raise UserError(f"--max-seq-len {T} must be a multiple of 16, the chunk", code=2)
        window, batch = B * T * K * ranks, args.total_batch_size
        tokens = scaling.training_tokens(parameters, args.tokens_per_parameter)
        if batch == "auto":
            batch = max(1, round(scaling.batch_tokens(tokens) / window)) * window
        batch = window if batch < 0 else batch
        if batch < 1 or batch % window:
            raise UserError(f"--total-batch-size {batch} must be a multiple of device-batch-size x max-seq-len x tbptt-segments x ranks = {window}", code=2)
        steps = scaling.steps_of(tokens, batch) if args.num_iterations < 0 and args.time_budget < 0 else args.num_iterations
        if args.weight_decay == "auto" and steps < 0:
            raise UserError("--weight-decay auto needs the number of steps: give --num-iterations, or leave --time-budget out", code=2)
        return Plan(batch, batch // window, steps, scaling.lr_scale(batch) if args.lr_scale == "auto" else args.lr_scale,
                    scaling.weight_decay(0.28, batch, steps) if args.weight_decay == "auto" else args.weight_decay)


def start_wandb(args, config):
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise UserError("--wandb-project needs wandb: pip install wandb, or leave the flag out (metrics.jsonl is always written)") from error
    try:
        return wandb.init(project=args.wandb_project, name=args.run_name or None, config=config)
    except wandb.errors.Error as error:
        raise UserError(f"wandb: {error} (wandb login, or WANDB_MODE=offline, or leave --wandb-project out)") from error


class Log:
    """metrics.jsonl of a run, always, and wandb beside it where it is asked for. Ranks other than the first write nothing."""
    def __init__(self, args, config, step, directory, first):
        self.wandb = start_wandb(args, config) if first and args.wandb_project else None
        self.file = open(directory / "metrics.jsonl", "a", encoding="utf-8") if first else None
        self("config", step, **config)

    def __call__(self, kind, step, **values):
        if self.file:
            self.file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self.file.flush()
        if self.wandb and kind != "config":
            self.wandb.log({"step": step, **values})

    def close(self, code):
        if self.wandb:
            self.wandb.finish(exit_code=code)
        if self.file:
            self.file.close()


@contextlib.contextmanager
def sigterm():
    """A list that is not empty once SIGTERM has come: a spot instance is warned by it before it is taken away."""
    asked = []
    before = signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv=None):
    args = build_parser().parse_args(argv)
    from nanochat import distributed

    device, why = choose_device(args.device)
    ranks = distributed.start(device)
    try:
        return train(args, device, why, ranks)
    finally:
        distributed.stop()


def train(args, device, why_device, ranks):
    import torch

    from nanochat import fp8
    from nanochat.checkpoint_manager import checkpoint_dir, load_model_file, load_weights
    from nanochat.dataloader import StreamLoader
    from nanochat.dataset import ShardError, list_shards
    from nanochat.distributed import total_norm, whole
    from nanochat.evaluate import recall_accuracy
    from nanochat.flash_attention import resolve as resolve_attention
    from nanochat.optim import lr_multiplier
    from nanochat.tbptt import Run, Window
    from nanochat.tokenizer import Tokenizer

    def note(text):
        if ranks.first:
            print(text, file=sys.stderr, flush=True)

    dtype, why_dtype = choose_dtype(device, "bf16" if args.dry_run and args.dtype == "auto" else args.dtype)
    if args.fp8 and not args.dry_run:
        fp8.check(device, dtype, args.fp8_recipe)
    if args.fsdp and ranks.world == 1:
        raise UserError("--fsdp shards over ranks: start with torchrun --nproc_per_node=N, N at least 2", code=2)
    if args.fsdp and dtype == torch.float16:
        raise UserError("--fsdp with fp16 is not to be had, its loss scaling does not know shards: use bf16 or fp32")
    seed_everything(args.seed)
    try:
        tokenizer = Tokenizer.load()
        shards = [] if args.dry_run else list_shards(args.data_dir)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    train_shards, val_shards = (shards[:-1], shards[-1:]) if len(shards) > 1 else (shards, shards)
    model = build_model(args, tokenizer, torch.device("meta") if args.dry_run else torch.device("cpu") if args.fsdp else device, dtype)
    if args.init_from and not args.dry_run:
        begun = load_model_file(args.init_from)
        load_weights(model, begun["model"], f"--init-from {args.init_from}")
        if begun["meta"]["tokenizer"] != tokenizer.fingerprint:
            raise UserError(f"--init-from {args.init_from} was trained with another tokenizer")
    table, then = model.parameter_table(), args.model_class == "THENGPT"
    plan = Plan.of(args, dict(table)["total"] - dict(table)["embedding"], ranks.world)
    weights = loss_weights(args)
    if args.dry_run:
        return dry_run(args, model, plan, Window(model, weights, args.train_memory, fixed=True))
    if args.fp8:
        fp8.convert(model, args.fp8_recipe)
    B, T, directory = args.device_batch_size, args.max_seq_len, checkpoint_dir(args.tag or f"d{args.depth}")
    compiled = device.type == "cuda" and not args.no_compile and not args.fsdp

    def groups(model):
        rates = (rate * plan.lr_scale for rate in (args.matrix_lr, args.embedding_lr, args.head_lr, args.recall_lr, args.scalar_lr))
        return [{**group, "weight_decay": plan.weight_decay if group["kind"] == "muon" else 0.0} for group in model.parameter_groups(*rates)]

    def streams(position):
        return StreamLoader(train_shards, tokenizer, B, T, rank=ranks.rank, world_size=ranks.world, position=position)

    model.backend = resolve_attention(args.attn, device, dtype)
    run = Run(Window(model, weights, args.train_memory, args.carry_state == "yes", fixed=compiled and then), groups, streams, ranks, directory, device, segments=args.tbptt_segments,
              windows=plan.windows, sharded=args.fsdp, fp16=dtype == torch.float16, compiled=compiled, seed=args.seed)
    begin = run.last_step() if args.resume == "latest" else args.resume
    said = run.resume(begin, tokenizer) if begin is not None else "nothing is saved yet, the run begins" if args.resume else None

    config = {**vars(args), **run.config, "plan": plan._asdict(), "run": {**run_record(), "ranks": ranks.world}}
    if ranks.first:
        directory.mkdir(parents=True, exist_ok=True)
    note(f"Live Memory pretraining: {args.model_class} depth {args.depth} -> {directory}" + (f", from step {run.steps} on" if run.steps else ""))
    if said:
        note(f"--resume {args.resume}: {said}")
    note(f"device: {device} ({why_device}) | dtype: {str(dtype).removeprefix('torch.')} ({why_dtype})"
         + (f" | {ranks.world} ranks, {'FSDP2' if args.fsdp else 'DDP'}" if ranks.world > 1 else "") + (f" | fp8, {args.fp8_recipe}" if args.fp8 else ""))
    note(f"attention: {model.backend}")
    if then:
        note("  THENGPT's layers do not use it: episodes, window, memory and sink share one masked softmax, which Flash Attention does not offer")
    note("torch.compile: " + ("on, a window is one graph" if compiled else "off (" + ("--no-compile" if args.no_compile else "FSDP2 gathers weights between layers" if args.fsdp else
                                                                                                     "takes minutes without a GPU") + ")"))
    for name, n in table:
        note(f"  {name:12s} {n:12,d}")
    note(f"tokens a step: {plan.batch:,} = {ranks.world} ranks x {B} streams x {T} slots x {args.tbptt_segments} segments x {plan.windows} | "
         f"steps: {plan.steps if plan.steps > 0 else 'by time'} | rates x {plan.lr_scale:.3g} | weight decay {plan.weight_decay:.3g}")
    note(f"data: {len(train_shards)} shards, {len(val_shards)} for evaluation" + (" (the same: only one is there)" if len(shards) == 1 else ""))
    log = Log(args, config, run.steps, directory, ranks.first)

    def save(lived=None):
        run.save({"tokenizer": tokenizer.fingerprint, "args": vars(args)}, lived, args.keep)
        note(f"saved {directory}/model_{run.steps:06d}.pt")

    def progress():
        return max(run.steps / plan.steps if plan.steps > 0 else 0.0, run.seconds / args.time_budget if args.time_budget > 0 else 0.0)

    if progress() >= 1:
        note("that was the last step: nothing is left to do")
    code = 1
    try:
        with sigterm() as asked:
            while (done := progress()) < 1:
                t0, lived = time.perf_counter(), run.lived()
                multiplier = lr_multiplier(done + 1e-4, 1.0, 0.01, args.warmdown, final=0.02)
                try:
                    sums = run.losses()
                except ShardError as error:   # of several ranks the others are ended by their launcher: nobody is left to save with
                    if ranks.world > 1:
                        raise UserError(f"{error}: stopped at step {run.steps}") from error
                    save(lived)
                    raise UserError(f"{error}: stopped at step {run.steps}, and saved: mend it, then --resume") from error
                if not run.is_finite(sums):
                    log("error", run.steps, **{name: f"{value:g}" for name, value in sums.items()})   # JSON has no nan
                    sound = math.isfinite(total_norm(list(model.parameters())))
                    if sound:
                        save(lived)
                    raise UserError(f"loss or gradients are not finite at step {run.steps} ({', '.join(f'{k} {v:.3g}' for k, v in sums.items())}): stopped before "
                                    + ("the weights were touched, and saved: --resume replays this very step" if sound else "they were saved, since the weights are not "
                                       f"finite either: lower the learning rates, or --resume from the last checkpoint in {directory}"))
                run.update(multiplier)
                dt, ended = ranks.mean({"seconds": time.perf_counter() - t0, "ended": float(bool(asked))}).values()   # agreed upon by all
                run.seconds += dt
                done = progress()
                parts = " ".join(f"{name} {sums[name]:.3f}" for name in ("text", "answer", "read", "route", "rank", "gate", "index") if name in sums)
                if ranks.first:
                    print(f"step {run.steps:05d} ({100 * min(done, 1):5.1f}%) | loss {parts} | norm {sums['norm']:.2f} | lr {multiplier:.2f} | {dt * 1000:.0f} ms | "
                          f"{plan.batch / dt:,.0f} tok/s | traces {len(run.state['traces']) if then else 0} | {run.seconds / 60:.1f} min, "
                          f"{run.seconds * (1 / done - 1) / 60:.1f} left", flush=True)
                log("step", run.steps, lr=multiplier, seconds=dt, elapsed=run.seconds, **sums)
                if then and ((args.eval_every > 0 and run.steps % args.eval_every == 0) or done >= 1):
                    with whole(model):
                        got = recall_accuracy(model, val_shards, tokenizer, B, T, args.eval_segments, args.train_memory, device)
                    if ranks.first:
                        print(f"recall at step {run.steps} (n={got['n']}): first answer token {got['first']:.1f}% (memory emptied {got['first_empty']:.1f}%), "
                              f"rest {got['rest']:.1f}% ({got['rest_empty']:.1f}%), evidence ranked first {got['routed']:.1f}%, "
                              f"refused {got['refused']:.1f}%", flush=True)
                    log("eval", run.steps, **got)
                if (args.save_every > 0 and run.steps % args.save_every == 0) or done >= 1 or ended:
                    save()
                if ended:
                    note(f"SIGTERM: saved at step {run.steps}; the same command with --resume latest goes on")
                    break
        ranks.wait()   # nobody leaves while the first rank still writes: gloo's threads abort a process that ends with something under way
        code = 0
    finally:
        log.close(code)
    return code


if __name__ == "__main__":
    sys.exit(run_main(main))
