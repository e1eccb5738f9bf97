"""
Several processes, one a GPU, by torch's own means: `torchrun --standalone --nproc_per_node=8 -m scripts.base_train ...`

    DDP          every rank holds the model, lives its own streams with its own state, and gradients are averaged
    FSDP2        --fsdp: weights, gradients and optimizer are sharded, a layer is whole only while it runs
    checkpoints  of FSDP are sharded as well, and can be read by another number of ranks: a directory of
                 rank_00003.pt   this rank's rows of every sharded tensor
                 whole.pt        what is not sharded
                 index.json      of each sharded tensor, its rows by rank

What a rank has lived through (state, data position, random generators) belongs to that rank: with another number of
ranks it is dropped and the streams are dealt anew. Without torchrun there is one rank, and everything here does
nothing. CPUs talk through gloo, GPUs through nccl. Not yet run on a GPU.
"""
import gc
import json
import os
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist

from nanochat.common import UserError, atomic_write, open_file, read_small
from nanochat.optim import local
from nanochat.plain_file import load_plain

INDEX_BYTES = 2 ** 22   # of index.json at most


@dataclass(frozen=True)
class Ranks:
    """This process among all of them."""
    rank: int = 0
    world: int = 1

    @property
    def first(self):
        """The one that prints and writes what there is once."""
        return self.rank == 0

    def mean(self, values):
        """{name: number} -> the mean over ranks of each, the same on all of them to the bit."""
        if self.world == 1:
            return values
        total = torch.tensor(list(values.values()), dtype=torch.float64, device=_device())
        dist.all_reduce(total)
        return dict(zip(values, (total / self.world).tolist()))

    def gather(self, value):
        """The values of all ranks as a list on the first one, None on the others. Anything that can be pickled."""
        if self.world == 1:
            return [value]
        got = [None] * self.world if self.first else None
        dist.gather_object(value, got)
        return got

    def share(self, value=None):
        """The value of the first rank, on all of them."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def wait(self):
        if self.world > 1:
            dist.barrier()

    def part(self, n):
        """The slice of n things that is this rank's: contiguous, in rank order, as even as can be."""
        return slice(n * self.rank // self.world, n * (self.rank + 1) // self.world)


def start(device):
    """The Ranks of this process; joins the others where torchrun has started it."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Ranks()
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size())


def stop():
    """
    Leaves the others. Gloo's threads end when nothing holds their group any more, and models that are sharded hold it
    in cycles: what is left of them at exit may abort the process.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()


def _device():
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


# -----------------------------------------------------------------------------
# The model over ranks


def replicate(step, ranks):
    """
    The module `step`, whose forward is everything up to the loss, under DDP. No buffers are broadcast: what is lived
    through belongs to the rank.
    """
    if ranks.world == 1:
        return step
    device = next(step.parameters()).device
    return torch.nn.parallel.DistributedDataParallel(step, device_ids=[device.index] if device.type == "cuda" else None,
                                                     forward_sync_buffers=False,
                                                     gradient_as_bucket_view=True)


def shard(model, device):
    """
    FSDP2: mixers and MLPs are units that are gathered when they run, everything else is one, gathered for the whole
    step. Weights are gathered in fp32, as they are kept, so that the numbers are those of one process. Single numbers
    can't be sharded: they are replicated, their gradients averaged.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    numbers = {p for p in model.parameters() if p.ndim == 0}
    for p in numbers:
        p.data = p.data.to(device)
        p.register_post_accumulate_grad_hook(average)
    for block in model.blocks:
        fully_shard(block.attn, mesh=mesh)
        fully_shard(block.mlp, mesh=mesh)
        register_fsdp_forward_method(block.attn, "over")
    fully_shard(model, mesh=mesh, ignored_params=numbers)
    if hasattr(model, "reading_losses"):
        register_fsdp_forward_method(model, "reading_losses")


def average(p):
    """The gradient of a parameter becomes its mean over ranks. What it has held before must be such a mean already."""
    dist.all_reduce(p.grad)
    p.grad /= dist.get_world_size()


def accumulate(step, last):
    """A context: gradients travel between ranks after the last of a step's windows only."""
    return nullcontext() if last or not isinstance(step, torch.nn.parallel.DistributedDataParallel) else step.no_sync()


class whole:
    """
    A context in which the parts of an FSDP model outside of its layers are whole, for calls other than forward. Nothing
    else changes anything.
    """
    def __init__(self, model):
        self.model = model if hasattr(model, "unshard") else None

    def __enter__(self):
        if self.model is not None:
            self.model.unshard()

    def __exit__(self, *_):
        if self.model is not None:
            self.model.reshard()


def full_weights(model):
    """
    The state_dict with whole tensors, without weights that are another model's; of an FSDP model, on the first rank
    only and on the CPU (an empty one on the others). All ranks must call.
    """
    if hasattr(model, "unshard"):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
        weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    else:
        weights = model.state_dict()
    return {name: tensor for name, tensor in weights.items() if name not in model.borrowed}


def total_norm(tensors):
    """
    The norm of all tensors together, a float; nan or inf where one of them has one. Sharded ones count whole, and all
    ranks must call.
    """
    norm = torch.nn.utils.get_total_norm(tensors)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


# -----------------------------------------------------------------------------
# Sharded checkpoints


def save_shards(model, optimizer, directory):
    """Weights and optimizer of an FSDP model into a directory, by every rank its own part."""
    sharded, whole, rows = _tensors(model, optimizer)
    rank = dist.get_rank()
    own = {name: local(t).detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in sharded.items()}
    atomic_write(_rank_file(directory, rank), lambda file: torch.save(own, file))
    if rank == 0:
        shared = {name: t.detach().cpu().clone() for name, t in whole.items()}
        atomic_write(directory / "whole.pt", lambda file: torch.save(shared, file))
        atomic_write(directory / "index.json", lambda file: file.write(json.dumps(rows).encode()))


def load_shards(model, optimizer, directory):
    """What save_shards wrote, whatever the number of ranks then was. UserError where it is not of this model."""
    sharded, whole, rows = _tensors(model, optimizer)
    if not (directory / "index.json").exists():
        raise UserError(f"{directory}: no index.json, so these shards are of another version of this code: "
                        "begin a new run with their weights (--init-from)")
    other = f"{directory}: cannot be read as the shards of this model"
    try:
        there = json.loads(read_small(directory / "index.json", INDEX_BYTES))
        numbers = [n for counts in there.values() for n in counts]
        if there.keys() != rows.keys() or not all(type(n) is int and n >= 0 for n in numbers):
            raise UserError(f"{other}: they hold other tensors")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{other}: index.json is damaged") from error
    if any(sum(there[name]) != len(t) for name, t in sharded.items()):
        raise UserError(f"{other}: their tensors have other numbers of rows")

    def fill(target, part):
        if not isinstance(part, torch.Tensor) or part.shape != target.shape or part.dtype != target.dtype:
            raise UserError(f"{other}: a tensor is missing, or of another shape or type")
        target.copy_(part)

    with torch.no_grad():
        found = _read(directory / "whole.pt")
        for name, t in whole.items():
            fill(t, found.get(name))
        rank = dist.get_rank()
        for saved in range(max(map(len, there.values()), default=0)):
            found = None
            for name, t in sharded.items():
                # the rows from `begin` on are in the file of `saved`, those from `mine` on are this rank's
                begin, count, mine = sum(there[name][:saved]), sum(there[name][saved:saved + 1]), sum(rows[name][:rank])
                first, last = max(begin, mine), min(begin + count, mine + rows[name][rank])
                if first < last:
                    found = _read(_rank_file(directory, saved)) if found is None else found
                    part = found.get(name)
                    if not isinstance(part, torch.Tensor) or part.ndim == 0 or len(part) != count:
                        raise UserError(f"{other}: a tensor is missing, or of another shape or type")
                    fill(local(t)[first - mine:last - mine], part[first - begin:last - begin])
    for name, p in model.named_parameters():
        if "step" in optimizer.state[p]:
            optimizer.state[p]["step"] = int(whole[f"optimizer.{name}.step"])


def _rank_file(directory, rank):
    return directory / f"rank_{rank:05d}.pt"


def _read(path):
    with open(open_file(path), "rb") as file:
        found = load_plain(file, path, "shard of a Live Memory checkpoint")
    return found if isinstance(found, dict) else {}


def _tensors(model, optimizer):
    """
    {name: tensor} of what is sharded by rows, and of what every rank has whole; {name: rows by rank} of the first. All
    ranks must call.
    """
    optimizer.allocate()
    every = {f"model.{name}": t for name, t in model.state_dict().items()}
    for name, p in model.named_parameters():
        every |= {f"optimizer.{name}.{key}": torch.as_tensor(value) for key, value in optimizer.state[p].items()}
    sharded = {name: t for name, t in every.items() if local(t) is not t}
    whole = {name: t for name, t in every.items() if name not in sharded}
    counts = torch.tensor([len(local(t)) for t in sharded.values()], device=_device())
    by_rank = [torch.empty_like(counts) for _ in range(dist.get_world_size())]
    dist.all_gather(by_rank, counts)
    return sharded, whole, dict(zip(sharded, torch.stack(by_rank, dim=1).tolist()))
