"""
Training by truncated backpropagation through time: the window that gradient flows through, and a run with everything it
goes on from.
"""
import math
import types
from dataclasses import asdict

import torch
import torch.nn as nn

from nanochat import distributed
from nanochat.checkpoint_manager import (keep_last, load_checkpoint, load_weights, rng_state, save_checkpoint,
                                         set_rng_state, shards_path)
from nanochat.common import UserError, seed_everything
from nanochat.dataloader import dealt_anew, furthest
from nanochat.gpt import THENGPT, Block
from nanochat.kda import kda_chunk, short_conv
from nanochat.optim import MuonAdamW
from nanochat.state import Traces, detach_state, forget_rows, map_state, state_from_plain, state_to_plain


class Window(nn.Module):
    """
    forward(segments, state, asked=None) -> (loss, parts, state): the mean loss over `segments`, a list of batches of
    dataloader.StreamLoader (it may be empty), and that of answering `asked`, (reading.Window, reading.Answer); its
    parts {name: 0-d tensor}, detached, "total" among them; and the state after the window, cut from the graph, with its
    newest `max_traces` traces. One forward, so that DDP and FSDP2 see the window as a whole.

    weights: of the losses "text", "index" and "read". carry=False empties the memory before every segment. A GPT has no
    state: None goes in and out.

    fixed=True: the state has room for `max_traces` from the beginning (see `begin`), and how much of it is filled is in
    its tensors. No shape ever changes then, and a step that is compiled stays one graph while the memory grows.
    """
    def __init__(self, model, weights, max_traces, carry=True, fixed=False):
        super().__init__()
        self.model, self.weights, self.max_traces, self.carry, self.fixed = model, weights, max_traces, carry, fixed

    def begin(self, state):
        """
        A state as forward takes it and leaves it: with `fixed`, filled up with traces that are empty, its tensors with
        memory of their own.
        """
        if not self.fixed:
            return state
        traces = state["traces"][max(len(state["traces"]) - self.max_traces, 0):]
        empty = traces.map(lambda t: t.new_zeros(t.shape[0], self.max_traces - t.shape[1], *t.shape[2:]))
        return own_memory({**state, "traces": Traces.cat([empty, traces])})

    def forward(self, segments, state, asked=None):
        loss, parts, state = self.live(segments, state) if segments else (0.0, {}, state)
        if asked is not None:
            losses, shares = self.model.reading_losses(*asked)
            loss += sum(self.weights.get(name, 1.0) * part for name, part in losses.items())
            parts = {**parts, **{name: part.detach() for name, part in losses.items()}, **shares}
        return loss, {**parts, "total": loss.detach()}, state

    def live(self, segments, state):
        """The part of forward that torch.compile sees: its shapes never change, those of reading windows do."""
        every = []
        for batch in segments:
            if isinstance(self.model, THENGPT):
                state = forget_rows(state, batch["new_life"] if self.carry else torch.ones_like(batch["new_life"]))
                losses, state = self.model(batch["ids"], batch["targets"], state, weights=self.weights, parts=True)
            else:
                text = self.model(batch["ids"], batch["targets"])
                losses = {"text": text, "total": text}
            every.append(losses)
        parts = {name: sum(losses[name] for losses in every) / len(every) for name in every[0]}
        if state is not None:
            state = detach_state(state, self.max_traces)
            state = own_memory(state) if self.fixed else state
        return parts["total"], {name: part.detach() for name, part in parts.items()}, state


def compile_window(window, **options):
    """
    The window, what it lives through by torch.compile. Of a THENGPT it is one graph, or an error; a GPT may call
    kernels that torch.compile does not know. KDA, whose backward pass is written out, goes into the graph as it is, to
    be traced by autograd rather than read.
    """
    for function in (kda_chunk, short_conv):
        torch.compiler.allow_in_graph(function)
    window.live = torch.compile(window.live, fullgraph=isinstance(window.model, THENGPT), dynamic=False, **options)
    return window


def compile_blocks(model, **options):
    """
    The blocks of a THENGPT as reading goes through them, by torch.compile: one graph for windows of every length. The
    stream is left as it is.
    """
    over = torch.compile(Block.over, dynamic=True, **options)
    for block in model.blocks:
        block.over = types.MethodType(over, block)


def own_memory(state):
    """
    The same state in tensors that are no views: the strides of a view tell where it came from, and torch.compile looks
    at them.
    """
    return map_state(state, lambda t: t.clone(memory_format=torch.contiguous_format))


class Run:
    """
    Model, optimizer, streams and state of this rank, after `steps` optimizer steps that took `seconds`. What `save`
    writes, `resume` gets back.

    window: a Window; groups: function of the model -> parameter groups; streams: function of a data position ->
    StreamLoader; questions: of a THENGPT, function of a data position -> reading_data.Batches; windows: how many a step
    accumulates, of how many segments each; sharded: FSDP2 instead of DDP; fp16: losses are scaled; compiled: by
    torch.compile, the stream of a THENGPT where the window is `fixed`.
    """
    def __init__(self, window, groups, streams, questions, ranks, directory, device, segments=2, windows=1,
                 sharded=False, fp16=False, compiled=False, seed=0):
        self.model, self.ranks, self.directory, self.sharded, self.seed = window.model, ranks, directory, sharded, seed
        self.streams, self.questions, self.segments, self.windows = streams, questions, segments, windows
        self.begin = window.begin
        self.config = self.model.describe()   # sharded, its class has another name
        self.then, self.device = isinstance(self.model, THENGPT), device
        if sharded:
            distributed.shard(self.model, self.device)
        self.optimizer = MuonAdamW(groups(self.model))   # of the sharded weights
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)
        if compiled and (window.fixed or not self.then):
            window = compile_window(window)
        if compiled and self.then:
            compile_blocks(self.model)
        self.window = window if sharded else distributed.replicate(window, ranks)
        self.steps, self.seconds = 0, 0.0
        self.start_streams(None)
        if ranks.world > 1:   # from here on every rank draws its own numbers
            seed_everything(self.own_seed())

    def start_streams(self, position):
        self.loader = self.streams(position)
        self.asked = self.questions((0, 0)) if self.then else None
        self.state = self.begin(self.model.empty_state(len(self.loader.rows))) if self.then else None

    def own_seed(self):
        return self.seed + 1_000_003 * (self.steps + 1) + self.ranks.rank

    # -- one step -----------------------------------------------------------------------------------------------------

    def losses(self):
        """
        The gradients of one step. Returns {name: mean over the step and the ranks} of the losses, and "norm", of the
        gradients together.
        """
        sums = {}
        for i in range(self.windows):
            segments = [{name: t.to(self.device) for name, t in next(self.loader).items()}
                        for _ in range(self.segments)]
            with distributed.accumulate(self.window, last=i == self.windows - 1):
                asked = [part.to(self.device) for part in next(self.asked)] if self.then else None
                loss, parts, self.state = self.window(segments, self.state, asked)
                self.scaler.scale(loss / self.windows).backward()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0) + value / self.windows
        norm = distributed.total_norm([p.grad for p in self.model.parameters()
                                       if p.grad is not None]) / self.scaler.get_scale()
        return {**self.ranks.mean({name: float(value) for name, value in sums.items()}), "norm": norm}

    def is_finite(self, sums):
        """
        Whether losses() can be learnt from. With scaled losses an infinite norm is part of the search for the scale:
        the scaler skips the step.
        """
        return math.isfinite(sums["total"]) and (self.scaler.is_enabled() or math.isfinite(sums["norm"]))

    def update(self, multiplier):
        """The optimizer step; multiplier: of the learning rates."""
        self.optimizer.scale_lr(multiplier)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1

    # -- saved and resumed --------------------------------------------------------------------------------------------

    def shape(self):
        """What the streams of all ranks are; where it changes, they are dealt anew."""
        return {"ranks": self.ranks.world, "streams": len(self.loader.rows), "slots": self.loader.segment}

    def lived(self):
        """What this rank has lived through: a value, not touched by the steps that follow."""
        return {"position": self.loader.position(), "asked": self.asked.position if self.then else None,
                "seconds": self.seconds, "rng": rng_state(), "state": state_to_plain(self.state) if self.then else None}

    def save(self, meta, lived=None, keep=-1):
        """
        Saves this step, with `lived` in the place of lived(); then removes all but the last `keep` steps. All ranks
        must call.
        """
        lived = lived or self.lived()
        reached = self.ranks.gather(lived["position"])
        meta = {**meta, "config": self.config, "seconds": self.seconds, "shape": self.shape(), "sharded": self.sharded,
                "reached": furthest(reached) if reached else None,
                "scaler": self.scaler.state_dict()}
        save_checkpoint(self.directory, self.steps, distributed.full_weights(self.model), None if self.sharded
                        else self.optimizer.state_dict(), meta, lived,
                        self.ranks, (lambda folder: distributed.save_shards(self.model, self.optimizer, folder))
                        if self.sharded else None)
        if keep > 0 and self.ranks.first:
            keep_last(self.directory, keep)

    def resume(self, step, tokenizer):
        """
        Goes on from a saved step, with the learning rates of this run. Returns a sentence where streams had to be dealt
        anew, because the number of ranks, streams or slots is another one: their state is then empty, and data goes on
        where the furthest rank was. UserError where the step is not there, damaged, or of another model or tokenizer,
        or the one is sharded and the other is not.
        """
        saved = load_checkpoint(self.directory, step, parts=() if self.sharded else ("model", "optim"))
        where, meta = f"step {step} in {self.directory}", saved.meta
        # a field that is newer than the checkpoint had its default
        fields = {**asdict(type(self.model.config)()), **meta["config"]["config"]}
        if {**meta["config"], "config": fields} != self.config:
            raise UserError(f"{where} is of another model configuration: give the flags it was trained with")
        if meta["tokenizer"] != tokenizer.fingerprint:
            raise UserError(f"{where} was trained with another tokenizer")
        if "shape" not in meta:
            raise UserError(f"{where} holds a model, but not the run it is from: train anew, or give another step")
        if meta["sharded"] != self.sharded:
            raise UserError(f"{where} was saved {'with' if meta['sharded'] else 'without'} --fsdp, and goes on so")
        if self.sharded:
            if self.ranks.first:
                load_checkpoint(self.directory, step, parts=("shards",))   # checked once
            self.ranks.wait()
            distributed.load_shards(self.model, self.optimizer, shards_path(self.directory, step))
        else:
            load_weights(self.model, saved.model, where)
            rates = [{name: value for name, value in group.items() if name != "params"}
                     for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(saved.optimizer)
            for group, rate in zip(self.optimizer.param_groups, rates):
                group.update(rate)
        self.scaler.load_state_dict(meta["scaler"])
        self.steps, self.seconds = step, meta["seconds"]
        if meta["shape"] == self.shape():
            lived = load_checkpoint(self.directory, step, self.device, parts=("state",),
                                    rank=self.ranks.rank).train_state
            if self.then and lived["state"].keys() != self.model.empty_state(1).keys():
                raise UserError(f"{where} holds the state of another version of this code: resume it with that, or "
                                "train anew from its weights (--init-from)")
            self.loader, self.seconds = self.streams(lived["position"]), lived["seconds"]
            self.asked = self.questions(lived["asked"]) if self.then else None
            self.state = self.begin(state_from_plain(lived["state"])) if self.then else None
            set_rng_state(lived["rng"])   # last: building things above has drawn numbers
            return None
        self.start_streams(dealt_anew(meta["reached"], *(self.shape()[name] for name in ("streams", "slots"))))
        seed_everything(self.own_seed())
        was, now = (", ".join(f"{n} {name}" for name, n in shape.items()) for shape in (meta["shape"], self.shape()))
        return (f"step {step} was trained with {was}, and goes on with {now}: what the streams remember is dropped, "
                "they are dealt anew from where the data was")
