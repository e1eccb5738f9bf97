"""
Several processes, one a GPU, by torch's own means: `torchrun --standalone --nproc_per_node=8 -m scripts.base_train ...`

    DDP          every rank holds the model, lives its own streams with its own state, and gradients are averaged
    FSDP2        --fsdp: weights, gradients and optimizer are sharded, a layer is whole only while it runs
    checkpoints  of FSDP are sharded as well (torch.distributed.checkpoint), and can be read by another number of ranks

What a rank has lived through (state, data position, random generators) belongs to that rank: with another number of ranks it is
dropped and the streams are dealt anew. Without torchrun there is one rank, and everything here does nothing. CPUs talk through gloo, GPUs
through nccl. Not yet run on a GPU.
"""
import gc
import os
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist

from nanochat.common import UserError


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
    """Leaves the others. Gloo's threads end when nothing holds their group any more, and models that are sharded hold it in cycles: what is left of them at exit may abort the process."""
    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()


def _device():
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


# -----------------------------------------------------------------------------
# The model over ranks


def replicate(step, ranks):
    """
    The module `step`, whose forward is everything up to the loss, under DDP. No buffers are broadcast: what is lived through belongs to the
    rank.
    """
    if ranks.world == 1:
        return step
    device = next(step.parameters()).device
    return torch.nn.parallel.DistributedDataParallel(step, device_ids=[device.index] if device.type == "cuda" else None, forward_sync_buffers=False,
                                                     gradient_as_bucket_view=True)


def shard(model, device):
    """
    FSDP2: mixers and MLPs are units that are gathered when they run, everything else is one, gathered for the whole step. Weights are gathered
    in fp32, as they are kept, so that the numbers are those of one process. Single numbers can't be sharded: they are replicated, their gradients averaged.
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
    """A context in which the parts of an FSDP model outside of its layers are whole, for calls other than forward. Nothing else changes anything."""
    def __init__(self, model):
        self.model = model if hasattr(model, "unshard") else None

    def __enter__(self):
        if self.model is not None:
            self.model.unshard()

    def __exit__(self, *_):
        if self.model is not None:
            self.model.reshard()


def full_weights(model):
    """The state_dict with whole tensors; of an FSDP model, on the first rank only and on the CPU (an empty one on the others). All ranks must call."""
    if not hasattr(model, "unshard"):
        return model.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def total_norm(tensors):
    """The norm of all tensors together, a float; nan or inf where one of them has one. Sharded ones count whole, and all ranks must call."""
    norm = torch.nn.utils.get_total_norm(tensors)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


# -----------------------------------------------------------------------------
# Sharded checkpoints


def save_shards(model, optimizer, directory):
    """Weights and optimizer of an FSDP model into a directory, by every rank its own part."""
    import torch.distributed.checkpoint as dcp
    dcp.save(_tensors(model, optimizer), checkpoint_id=directory)


def load_shards(model, optimizer, directory):
    """What save_shards wrote, whatever the number of ranks then was. UserError where it is not of this model."""
    import torch.distributed.checkpoint as dcp
    content = _tensors(model, optimizer)
    try:
        dcp.load(content, checkpoint_id=directory)   # in place: the tensors are those of model and optimizer
    except (dcp.api.CheckpointException, RuntimeError) as error:
        raise UserError(f"{directory}: cannot be read as the shards of this model ({str(error).strip().splitlines()[0]})") from error
    for name, p in model.named_parameters():
        if "step" in optimizer.state[p]:
            optimizer.state[p]["step"] = int(content["optimizer"][name]["step"])


def _tensors(model, optimizer):
    optimizer.allocate()
    return {"model": dict(model.state_dict()),
            "optimizer": {name: {key: value if isinstance(value, torch.Tensor) else torch.tensor(value) for key, value in optimizer.state[p].items()}
                          for name, p in model.named_parameters()}}
