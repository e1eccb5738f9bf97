import sys
import types

import pytest
import torch
from hypothesis import given, settings, strategies as st

from nanochat import flash_attention
from nanochat.common import UserError, run_main
from nanochat.flash_attention import Backend, flash_attn_func, flash_attn_with_kvcache, resolve

NAIVE, SDPA = Backend("naive"), Backend("sdpa")
FALLBACKS = pytest.mark.parametrize("backend", [NAIVE, SDPA], ids=lambda b: b.name)
PACKAGES = ["flash_attn_3", "flash_attn_3.flash_attn_interface", "flash_attn_interface", "kernels", "flash_attn"]


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch):
    """No kernel packages, no override and nothing cached, whatever the machine has."""
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delenv("NANOCHAT_ATTN", raising=False)
    flash_attention._resolve.cache_clear()
    yield
    flash_attention._resolve.cache_clear()


def make(B, Tq, Tk, H=2, Hkv=2, D=4, dtype=torch.float64):
    return [torch.randn(B, T, heads, D, dtype=dtype) for T, heads in ((Tq, H), (Tk, Hkv), (Tk, Hkv))]


# -----------------------------------------------------------------------------
# What attention means, and that torch's gives that


def visible(backend, Tq, Tk, causal=False, window_size=(-1, -1)):
    """Who sees whom: with equal scores and one-hot values the output is the mask, each row divided by its sum."""
    q, k, _ = make(1, Tq, Tk, 1, 1)
    v = torch.eye(Tk, dtype=q.dtype)[None, :, None]
    rows = flash_attn_func(q * 0, k, v, causal, window_size, backend=backend)[0, :, 0]
    return ["".join("01"[int(x > 0)] for x in row) for row in rows]


@FALLBACKS
def test_masks_are_those_flash_attention_documents(backend):
    assert visible(backend, 2, 5, causal=True) == ["11110", "11111"]
    assert visible(backend, 5, 2, causal=True) == ["00", "00", "00", "10", "11"]
    assert visible(backend, 3, 5, causal=True, window_size=(1, 0)) == ["01100", "00110", "00011"]
    assert visible(backend, 4, 4, window_size=(0, 1)) == ["1100", "0110", "0011", "0001"]
    assert visible(backend, 3, 3, window_size=(-1, 0)) == visible(backend, 3, 3, causal=True, window_size=(-1, 2))
    assert visible(backend, 2, 4, window_size=(1, -1)) == ["0111", "0011"]
    assert visible(backend, 1, 0) == [""]


@st.composite
def problems(draw):
    size = st.integers(1, 7)
    case = {name: draw(size) for name in ("Tq", "Tk")} | {"heads": draw(st.sampled_from([(4, 4), (4, 2), (3, 1)]))}
    case["window"] = draw(st.tuples(st.integers(-1, 6), st.integers(-1, 6)) | st.just((-1, -1)))
    case["lengths"] = draw(st.none() | st.lists(st.integers(0, case["Tk"]), min_size=2, max_size=2))
    return case | {"causal": draw(st.booleans()), "scale": draw(st.sampled_from([None, 0.3])), "seed": draw(size)}


@given(problems())
@settings(max_examples=200)
def test_sdpa_is_naive_forward_and_backward(case):
    torch.manual_seed(case["seed"])
    inputs = [x.requires_grad_() for x in make(2, case["Tq"], case["Tk"], *case["heads"])]
    lengths = None if case["lengths"] is None else torch.tensor(case["lengths"], dtype=torch.int32)
    if lengths is not None:
        # what lies behind a row's end must not be touched, not even multiplied by zero
        behind = (torch.arange(case["Tk"]) >= lengths[:, None])[..., None, None]
        inputs[1:] = [x.detach().masked_fill(behind, torch.nan).requires_grad_() for x in inputs[1:]]
    results = []
    for backend in (NAIVE, SDPA):
        out = flash_attention._attend(backend, *inputs, case["causal"], case["window"], case["scale"], lengths)
        # each output weighs differently; the sum of q gives a graph even where no query sees a key
        loss = (out * torch.arange(out.numel(), dtype=out.dtype).view_as(out).cos()).sum() + inputs[0].sum()
        results.append([out, *torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)])
    for naive, sdpa in zip(*results, strict=True):
        assert not naive.isnan().any()
        torch.testing.assert_close(sdpa, naive, rtol=1e-9, atol=1e-9)


@FALLBACKS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_and_head_dim_of_v_are_kept(backend, dtype):
    q, k, v = make(2, 3, 5, H=4, Hkv=2, dtype=dtype)
    out = flash_attn_func(q, k, torch.cat([v, v], -1), causal=True, window_size=(2, 0), backend=backend)
    assert out.shape == (2, 3, 4, 8) and out.dtype == dtype
    wide = [x.double() for x in (q, k, v)]
    want = flash_attn_func(*wide, causal=True, window_size=(2, 0), backend=NAIVE)
    torch.testing.assert_close(out[..., :4].double(), want, rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_sdpa_takes_no_mask_where_none_is_needed(monkeypatch):
    masks = []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention",
                        lambda q, k, v, mask, **kw: masks.append(mask) or real(q, k, v, mask, **kw))
    flash_attn_func(*make(1, 6, 6), causal=True, window_size=(5, 0), backend=SDPA)
    flash_attn_func(*make(1, 1, 6), causal=True, backend=SDPA)
    flash_attn_func(*make(1, 3, 6), window_size=(8, 2), backend=SDPA)
    assert masks == [None] * 3
    flash_attn_func(*make(1, 2, 6), causal=True, backend=SDPA)
    assert masks[3] is not None


def test_one_graph_under_compile_with_a_resolved_backend():
    q, k, v = make(1, 4, 6)
    call = lambda q, k, v: flash_attn_func(q, k, v, causal=True, window_size=(2, 0), backend=SDPA)
    torch.testing.assert_close(torch.compile(call, backend="eager", fullgraph=True)(q, k, v), call(q, k, v))


@pytest.mark.parametrize("change", [
    {"k": torch.zeros(2, 5, 3, 4)},                                 # 3 heads do not divide 4
    {"k": torch.zeros(2, 5, 2, 8)}, {"v": torch.zeros(2, 4, 2, 4)}, {"q": torch.zeros(3, 4, 4)},
    {"q": torch.zeros(3, 3, 4, 4)}, {"q": torch.zeros(2, 3, 4, 4).double()},
    {"window_size": (-2, 0)}, {"window_size": (1,)},
])
def test_what_does_not_fit_is_refused(change):
    arguments = dict(q=torch.zeros(2, 3, 4, 4), k=torch.zeros(2, 5, 2, 4), v=torch.zeros(2, 5, 2, 4))
    flash_attn_func(**arguments)
    with pytest.raises(ValueError):
        flash_attn_func(**arguments | change)


# -----------------------------------------------------------------------------
# The cache


@FALLBACKS
@pytest.mark.parametrize("window_size", [(-1, -1), (2, 0)])
def test_ragged_cache_is_each_row_alone(backend, window_size):
    start, new = [3, 7, 0], 2
    q, k, v = make(3, new, new, H=4, Hkv=2)
    _, *full = make(3, 1, 9, Hkv=2)
    valid = (torch.arange(9) < torch.tensor(start)[:, None])[..., None, None]
    caches = [x.masked_fill(~valid, torch.nan) for x in full]  # torch.empty promises no better
    before = [x.clone() for x in caches]
    seqlens = torch.tensor(start)
    out = flash_attn_with_kvcache(q, *caches, k, v, seqlens, True, window_size, backend=backend)
    for b, n in enumerate(start):
        rows = [torch.cat([x[b : b + 1, :n], y[b : b + 1]], 1) for x, y in zip(full, (k, v))]
        want = flash_attn_func(q[b : b + 1], *rows, True, window_size, backend=NAIVE)
        torch.testing.assert_close(out[b : b + 1], want)
        for cache, old, fresh in zip(caches, before, (k, v)):
            assert torch.equal(cache[b, n : n + new], fresh[b])
            torch.testing.assert_close(cache[b, :n], old[b, :n], rtol=0, atol=0)
            assert cache[b, n + new :].isnan().all()
    assert seqlens.tolist() == start


@FALLBACKS
@pytest.mark.parametrize("as_tensor", [False, True])
def test_decoding_through_the_cache_is_attention_over_the_whole(backend, as_tensor):
    q, k, v = make(2, 6, 6, H=4, Hkv=2)
    want = flash_attn_func(q, k, v, causal=True, window_size=(3, 0), softmax_scale=0.2, backend=NAIVE)
    caches = [torch.full((2, 6, 2, 4), torch.nan, dtype=q.dtype) for _ in range(2)]
    got, at = [], 0
    for size in (3, 1, 1, 1):
        new = [x[:, at : at + size] for x in (q, k, v)]
        seqlens = torch.full((2,), at, dtype=torch.int32) if as_tensor else at
        got.append(flash_attn_with_kvcache(new[0], *caches, *new[1:], seqlens, causal=True, window_size=(3, 0),
                                           softmax_scale=0.2, backend=backend))
        at += size
    torch.testing.assert_close(torch.cat(got, 1), want)
    # nothing new: the whole cache, or its filled part
    last = flash_attn_with_kvcache(q[:, -1:], *caches, softmax_scale=0.2, window_size=(3, 0), backend=backend)
    torch.testing.assert_close(last, want[:, -1:])
    some = flash_attn_with_kvcache(q[:, 3:4], *caches, cache_seqlens=4, softmax_scale=0.2, backend=backend)
    torch.testing.assert_close(some, want[:, 3:4])
    assert not flash_attn_with_kvcache(q, *caches, cache_seqlens=0, backend=backend).any()


@pytest.mark.parametrize("backend", [NAIVE, SDPA, Backend("fa3", module=types.ModuleType("never_called"))],
                         ids=lambda b: b.name)
@pytest.mark.parametrize("seqlens", [7, -1, torch.tensor([0, 7]), torch.tensor([-1, 0]), torch.tensor([0]),
                                     torch.tensor([0.0, 1.0]), None])
def test_overflow_and_bad_lengths_are_refused_and_nothing_is_written(backend, seqlens):
    q, k, v = make(2, 2, 2)
    caches = [torch.zeros(2, 8, 2, 4, dtype=q.dtype) for _ in range(2)]
    with pytest.raises(ValueError):
        flash_attn_with_kvcache(q, *caches, k, v, seqlens, causal=True, backend=backend)
    with pytest.raises(ValueError):
        flash_attn_with_kvcache(q, *caches, k, None, 0, backend=backend)
    with pytest.raises(ValueError):
        flash_attn_with_kvcache(q, *caches, k[:, :, :1], v[:, :, :1], 0, backend=backend)
    assert not any(cache.any() for cache in caches)


def test_a_gradient_is_not_lost_through_the_cache():
    q, k, v = make(1, 1, 4)
    q.requires_grad_()
    with pytest.raises(ValueError, match="no backward"):
        flash_attn_with_kvcache(q, k, v, backend=SDPA)
    with torch.no_grad():
        flash_attn_with_kvcache(q, k, v, backend=SDPA)


# -----------------------------------------------------------------------------
# Which implementation


class FakeFA3(types.ModuleType):
    """The two functions with FA3's documented signatures (and its demands), computed by naive; records its calls."""

    def __init__(self, with_lse=False):
        super().__init__("fake_fa3")
        self.calls, self.with_lse = [], with_lse

    def flash_attn_func(self, q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None,
                        v_descale=None, window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1,
                        pack_gqa=None, deterministic=False, sm_margin=0, return_attn_probs=False):
        self.calls.append("flash_attn_func")
        assert isinstance(window_size, tuple) and qv is None and not return_attn_probs
        out = flash_attn_func(q, k, v, causal, window_size, softmax_scale, backend=NAIVE)
        return (out, None) if self.with_lse else out

    def flash_attn_with_kvcache(
        self, q, k_cache, v_cache, k=None, v=None, qv=None, rotary_cos=None, rotary_sin=None, cache_seqlens=None,
        cache_batch_idx=None, cache_leftpad=None, page_table=None, cu_seqlens_q=None, cu_seqlens_k_new=None,
        max_seqlen_q=None, rotary_seqlens=None, q_descale=None, k_descale=None, v_descale=None, softmax_scale=None,
        causal=False, window_size=(-1, -1), attention_chunk=0, softcap=0.0, rotary_interleaved=True,
        scheduler_metadata=None, num_splits=0, pack_gqa=None, sm_margin=0, return_softmax_lse=False,
    ):
        self.calls.append("flash_attn_with_kvcache")
        assert isinstance(window_size, tuple) and qv is rotary_cos is page_table is None and not return_softmax_lse
        assert cache_seqlens is None or (cache_seqlens.dtype == torch.int32 and cache_seqlens.shape == q.shape[:1])
        out = flash_attn_with_kvcache(q, k_cache, v_cache, k, v, cache_seqlens, causal, window_size, softmax_scale,
                                      backend=NAIVE)
        return (out, None) if self.with_lse else out


def install(monkeypatch, place, module):
    if place == "kernels":
        hub = types.ModuleType("kernels")

        def get_kernel(repo_id, *, version):  # a call without a version is an error since kernels 0.15
            assert (repo_id, version) == ("kernels-community/flash-attn3", 1)
            return module

        hub.get_kernel = get_kernel
        monkeypatch.setitem(sys.modules, place, hub)
        return
    if "." in place:
        package = place.split(".")[0]
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    monkeypatch.setitem(sys.modules, place, module)


PLACES = ["flash_attn_3.flash_attn_interface", "flash_attn_interface", "kernels"]


@pytest.mark.parametrize("found", range(3), ids=PLACES)
def test_fa3_is_taken_from_the_first_place_that_has_it(monkeypatch, found):
    fakes = [FakeFA3() for _ in PLACES]
    for place, fake in list(zip(PLACES, fakes))[found:]:
        install(monkeypatch, place, fake)
    backend = resolve("auto", "cuda", torch.bfloat16, capability=(9, 0))
    assert backend.name == "fa3" and backend.module is fakes[found]
    assert len(backend.reasons) == found and str(backend).startswith("Using Flash Attention 3 (")
    assert resolve("fa3", "cuda", torch.float16, capability=(9, 0)).module is fakes[found]
    assert resolve("auto", "cuda", torch.bfloat16, capability=(9, 0)) is backend  # cached


def test_hub_module_that_keeps_its_functions_inside(monkeypatch):
    outer = types.ModuleType("hub_module")
    outer.flash_attn_interface = FakeFA3()
    install(monkeypatch, "kernels", outer)
    assert resolve("fa3", "cuda", torch.bfloat16, capability=(9, 0)).module is outer.flash_attn_interface


@pytest.mark.parametrize("with_lse", [False, True])
def test_fa3_is_called_as_documented(monkeypatch, with_lse):
    fake = FakeFA3(with_lse)
    install(monkeypatch, "flash_attn_interface", fake)
    backend = resolve("fa3", "cuda", torch.bfloat16, capability=(9, 0))
    q, k, v = make(2, 3, 5, H=4, Hkv=2)
    options = dict(causal=True, window_size=[2, 0], softmax_scale=0.3)
    q.requires_grad_()
    out = flash_attn_func(q, k, v, **options, backend=backend)
    torch.testing.assert_close(out, flash_attn_func(q, k, v, **options, backend=SDPA))
    assert torch.autograd.grad(out.sum(), q)[0].any()
    q = q.detach()
    for seqlens in (2, torch.tensor([1, 3]), torch.tensor([1, 3], dtype=torch.int32)):
        ours, theirs = ([torch.randn(2, 8, 2, 4, dtype=q.dtype).fill_(0.5) for _ in range(2)] for _ in range(2))
        got = flash_attn_with_kvcache(q, *theirs, k, v, seqlens, **options, backend=backend)
        want = flash_attn_with_kvcache(q, *ours, k, v, seqlens, **options, backend=SDPA)
        torch.testing.assert_close([got, *theirs], [want, *ours])
        assert (theirs[0] != 0.5).any(-1).any(-1).sum() == 2 * 5  # written in place
    flash_attn_with_kvcache(q, *theirs, backend=backend)
    assert fake.calls == ["flash_attn_func"] + 4 * ["flash_attn_with_kvcache"]


@pytest.mark.parametrize("device, dtype, capability, fa3, fa2", [
    ("cpu", torch.bfloat16, None, "device is cpu", "device is cpu"),
    ("mps", torch.bfloat16, None, "device is mps", "device is mps"),
    ("cuda", torch.bfloat16, (8, 0), "SM 8.0", "import of flash_attn"),
    ("cuda", torch.bfloat16, (12, 0), "SM 12.0", "import of flash_attn"),
    ("cuda", torch.float16, (7, 5), "SM 7.5", "SM 7.5"),
    ("cuda", torch.float32, (9, 0), "not float32", "not float32"),
    ("cuda", torch.float32, (8, 9), "SM 8.9", "not float32"),
])
def test_one_reason_for_each_candidate_passed_over(monkeypatch, device, dtype, capability, fa3, fa2):
    install(monkeypatch, "flash_attn_interface", FakeFA3())  # there, but not for this hardware
    backend = resolve("auto", device, dtype, capability=capability)
    assert (backend.name, backend.module) == ("sdpa", None)
    assert [reason[:3] for reason in backend.reasons] == ["fa3", "fa2"]
    assert fa3 in backend.reasons[0] and fa2 in backend.reasons[1]
    for name, why in (("fa3", fa3), ("fa2", fa2)):
        with pytest.raises(UserError, match=f"'{name}'.*{why}"):
            resolve(name, device, dtype, capability=capability)


def test_hopper_without_fa3_says_why_for_every_place(monkeypatch):
    install(monkeypatch, "flash_attn_interface", types.ModuleType("flash_attn_interface"))
    backend = resolve("auto", "cuda", torch.bfloat16, capability=(9, 0))
    assert backend.name == "sdpa" and len(backend.reasons) == 4
    assert "it has no flash_attn_func" in backend.reasons[1] and "kernels-community" in backend.reasons[2]


def test_rocm_is_not_taken_for_hopper(monkeypatch):
    install(monkeypatch, "flash_attn_interface", FakeFA3())
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 4))
    assert "ROCm" in resolve("auto", "cuda", torch.bfloat16).reasons[0]


def test_ampere_takes_fa2_and_asks_the_device(monkeypatch):
    install(monkeypatch, "flash_attn", FakeFA3())
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    assert resolve("auto", "cuda", torch.bfloat16).name == "fa2"


def test_environment_takes_the_place_of_auto_only(monkeypatch):
    q, k, v = make(1, 2, 2)
    monkeypatch.setattr(flash_attention, "_sdpa", None)  # would fail if called
    monkeypatch.setenv("NANOCHAT_ATTN", "naive")
    assert flash_attn_func(q, k, v, causal=True).shape == q.shape
    assert resolve("sdpa", "cpu", torch.float32).name == "sdpa"
    monkeypatch.setenv("NANOCHAT_ATTN", "fa3")
    with pytest.raises(UserError, match="NANOCHAT_ATTN"):
        flash_attn_func(q, k, v)
    monkeypatch.setenv("NANOCHAT_ATTN", "fast")
    with pytest.raises(UserError, match="unknown attention 'fast'"):
        resolve("auto", "cpu", torch.float32)


def test_command_line(monkeypatch, capsys):
    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["flash_attention", *argv])
        return run_main(flash_attention.main), *capsys.readouterr()

    code, out, err = run("--device", "cpu")
    assert code == 0 and not err
    assert [line.split(":")[0] for line in out.splitlines()] == ["Using PyTorch SDPA", "  not fa3", "  not fa2"]
    code, out, err = run("--attn", "fa3", "--device", "cpu")
    assert code == 1 and not out and err.count("\n") == 1 and "the device is cpu" in err
    monkeypatch.setattr(flash_attention, "_unfit", lambda *_: None)
    install(monkeypatch, PLACES[0], FakeFA3())
    flash_attention._resolve.cache_clear()
    assert run("--device", "cpu") == (0, "Using Flash Attention 3 (flash_attn_3.flash_attn_interface)\n", "")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["fa3", "fa2", "sdpa"])
def test_on_a_gpu_what_is_installed_is_naive(monkeypatch, name):
    for package in PACKAGES:
        monkeypatch.delitem(sys.modules, package)
    try:
        backend = resolve(name, "cuda", torch.bfloat16)
    except UserError as e:
        pytest.skip(str(e))
    for Tq, Tk, window_size in ((64, 64, (-1, -1)), (64, 64, (16, 0)), (16, 80, (-1, -1)), (80, 16, (-1, -1))):
        inputs = [x.cuda().requires_grad_() for x in make(2, Tq, Tk, 4, 2, D=64, dtype=torch.bfloat16)]
        results = []
        for choice in (backend, NAIVE):
            out = flash_attn_func(*inputs, causal=True, window_size=window_size, backend=choice)
            results.append([out, *torch.autograd.grad(out.float().square().sum(), inputs)])
        torch.testing.assert_close(*results, rtol=3e-2, atol=3e-2)
    q, k, v = (x.cuda() for x in make(2, 3, 3, 4, 2, D=64, dtype=torch.bfloat16))
    ours, theirs = ([torch.zeros(2, 32, 2, 64, dtype=q.dtype, device="cuda") for _ in range(2)] for _ in range(2))
    seqlens = torch.tensor([3, 7], dtype=torch.int32, device="cuda")
    got = flash_attn_with_kvcache(q, *theirs, k, v, seqlens, causal=True, backend=backend)
    want = flash_attn_with_kvcache(q, *ours, k, v, seqlens, causal=True, backend=NAIVE)
    torch.testing.assert_close([got, *theirs], [want, *ours], rtol=3e-2, atol=3e-2)
