"""
Matrix multiplications in fp8 for training, forward and backward, through torch._scaled_mm: weights stay fp32,
activations bf16.

    tensorwise   one scale a tensor. Activations and weights in e4m3, gradients in e5m2, which has more range and less
    precision. SM 8.9 and newer
    rowwise      one scale for each row of the left and column of the right operand, a power of two; all in e4m3. SM
    9.0. More exact, slower

A scale maps the largest magnitude to the largest number of the format; it is taken anew each time. Of y = x w^T the
three products are

    y (M, N) = x (M, K) . w^T (K, N)        dx (M, K) = dy (M, N) . w (N, K)        dw (N, K) = dy^T (N, M) . x (M, K)

and _scaled_mm wants the left operand by rows and the right one by columns in memory. All of M, N and K must be
multiples of 16.

Which layers: query, key, value and output projections and the matrices of the MLPs. Gates, indexer, the maps from and
to memory, the reading head and lm_head stay in bf16: they are small, or decide what is found. (KDA layers read q, k and
v as one matrix, not through these modules: there the output projection and the MLP multiply in fp8.) With gradients
off, in evaluation, in ingest and in answers, the same modules multiply in bf16.

Why not torchao: it is the same three calls, and a dependency of its own that only Hopper boxes would use; here modules
keep their class, so that counting parameters and FLOPs, and the names in a checkpoint, cannot change. Needs
torch.compile to be fast (the scaling is elementwise work). Not yet run on a GPU; CPUs compute _scaled_mm as well, which
is how it is tested.
"""
import torch

from nanochat.common import UserError
from nanochat.layers import Linear

CONVERTED = ("q", "k", "v", "proj", "fc", "up")   # of mixers and MLPs


def check(device, dtype, recipe):
    """
    UserError unless the device multiplies in fp8, and the rest of the model is computed in bf16: rowwise knows no other
    result.
    """
    least = {"tensorwise": (8, 9), "rowwise": (9, 0)}[recipe]
    if device.type != "cuda":
        raise UserError(f"--fp8 is not to be had: it needs a GPU of SM {least[0]}.{least[1]} or newer, and the device "
                        f"is {device}; leave it out")
    if torch.cuda.get_device_capability(device) < least:
        have = ".".join(map(str, torch.cuda.get_device_capability(device)))
        raise UserError(f"--fp8 --fp8-recipe {recipe} is not to be had: it needs SM {least[0]}.{least[1]} or newer, "
                        f"this GPU is SM {have}; leave it out")
    if dtype != torch.bfloat16:
        raise UserError("--fp8 goes with --dtype bf16", code=2)


def quantize(x, dtype, dim=None):
    """
    (x / scale in an fp8 dtype, scale): the scale is fp32, of one number (dim None), or with one number for each slice
    along `dim`, a power of two then. Whatever x holds, nothing overflows, and zeros stay zeros.
    """
    most = x.abs().amax() if dim is None else x.abs().amax(dim, keepdim=True)
    scale = most.float().clamp(min=1e-12) / torch.finfo(dtype).max
    if dim is not None:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    limit = torch.finfo(dtype).max
    return (x.float() / scale).clamp(-limit, limit).to(dtype), scale


def product(a, b, a_dtype, b_dtype, rowwise, out_dtype):
    """a (M, K) . b (K, N) -> (M, N) through fp8."""
    a, a_scale = quantize(a, a_dtype, 1 if rowwise else None)
    b, b_scale = quantize(b, b_dtype, 0 if rowwise else None)
    return torch._scaled_mm(a.contiguous(), b.t().contiguous().t(), a_scale, b_scale, out_dtype=out_dtype)


class ScaledLinear(torch.autograd.Function):
    """x (M, K), w (N, K) -> x w^T (M, N) in x's dtype; the gradient of w is in w's."""
    @staticmethod
    def forward(ctx, x, w, rowwise):
        ctx.save_for_backward(x, w)
        ctx.rowwise = rowwise
        return product(x, w.t(), torch.float8_e4m3fn, torch.float8_e4m3fn, rowwise, x.dtype)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        kind = torch.float8_e4m3fn if ctx.rowwise else torch.float8_e5m2
        dx = product(dy, w, kind, torch.float8_e4m3fn, ctx.rowwise, x.dtype)
        dw = product(dy.t(), x, kind, torch.float8_e4m3fn, ctx.rowwise, x.dtype)
        return dx, dw.to(w.dtype), None


class Float8Linear(Linear):
    """
    A Linear that multiplies in fp8 while gradients are recorded. Raises ValueError where a dimension is not a multiple
    of 16.
    """
    rowwise = False

    def product(self, x):
        if not torch.is_grad_enabled():
            return super().product(x)
        flat = x.flatten(0, -2)
        if flat.shape[0] % 16:
            raise ValueError(f"fp8 needs multiples of 16, and there are {flat.shape[0]} tokens")
        y = ScaledLinear.apply(flat, self.weight, self.rowwise).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def convert(model, recipe="tensorwise"):
    """
    Turns the linear maps named above into Float8Linear, in place, with the weights they have. UserError where their
    size does not allow it.
    """
    for block in model.blocks:
        for part in (block.attn, block.mlp):
            for name, module in part.named_children():
                if name not in CONVERTED:
                    continue
                if module.in_features % 16 or module.out_features % 16:
                    raise UserError(f"--fp8 needs dimensions that are multiples of 16, {name} is {module.in_features} "
                                    f"x {module.out_features}")
                module.__class__ = Float8Linear   # same object: whoever refers to it, or counts it, sees it as before
                module.rowwise = recipe == "rowwise"
