"""
What torch.save wrote, read as plain data: the one way in which this program reads a .pt file, whoever made it.

Such a file is a zip archive: a pickle, and the bytes of each storage of tensors. Of the pickle only the instructions
that make dicts, lists, tuples, strings, numbers and dense tensors are known here. So no file can run code, or call
anything but what is written below.

A file takes no more memory than its size warrants: its entries are not compressed and overlap nowhere, a storage has
the bytes that it says, a tensor is no larger than its storage, and what stands in the file once and is meant several
times counts each time.
"""
import math
import pickletools
import zipfile

import torch

from nanochat.common import UserError

INSTRUCTIONS = 2 ** 20   # of a pickle: one byte of it may make an object of 64 bytes
ENTRIES = 2 ** 16        # of an archive: 46 bytes of it make an object of 600 bytes
BLOCK = 2 ** 20          # bytes read at once
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
LEAVES = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
STORAGES = {"Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
            "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
            "Bool": torch.bool}
NAMED = {f"torch {name}Storage": dtype for name, dtype in STORAGES.items()}
NAMED |= {str(dtype).replace(".", " "): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
NAMED |= {"collections OrderedDict": dict, "torch device": torch.device, "torch._utils _rebuild_tensor_v2": "tensor"}


def load_plain(file, path, what, map_location="cpu"):
    """
    The content of `file` (open, seekable, of bytes): dicts, lists, tuples, strings, numbers, dtypes, devices, and
    tensors on `map_location`. UserError in one line, that `path` is not a `what` ("Live Memory state"), for anything
    else.
    """
    if file.read(4) != b"PK\x03\x04":
        raise UserError(f"{path}: not a {what} (not a file of torch.save)")
    try:
        return _Archive(file, map_location).content()
    except Exception as error:   # damaged bytes may raise anything
        raise UserError(f"{path}: truncated or damaged, or not a {what} ({first_line(error)})") from error


def first_line(error):
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]


class _Archive:
    def __init__(self, file, map_location):
        file.seek(0)
        size, entries = 0, 0
        while block := file.read(BLOCK):
            size, entries = size + len(block), entries + block.count(b"PK\x01\x02")
        if entries > ENTRIES:
            raise ValueError("too many entries")
        self.archive, self.map_location, self.storages = zipfile.ZipFile(file), map_location, {}
        entries = self.archive.infolist()
        if any(e.compress_type != zipfile.ZIP_STORED or e.compress_size != e.file_size for e in entries):
            raise ValueError("its entries are compressed, which torch.save never does")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("its entries are larger than the file")
        roots = [entry.filename.removesuffix("data.pkl") for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("no data.pkl, or several, in it")
        self.root, self.left = roots[0], 2 * size + 2 ** 16

    def spend(self, size):
        self.left -= size
        if self.left < 0:
            raise ValueError("it stands for more than the file can hold")

    def content(self):
        stack, marks, memo = [], [], {}

        def since_mark():
            begin = marks.pop()
            items = stack[begin:]
            del stack[begin:]
            return items

        def into(kind):
            if type(stack[-1]) is not kind:
                raise ValueError(f"a {type(stack[-1]).__name__} where a {kind.__name__} is filled")
            return stack[-1]

        for count, (op, arg, _) in enumerate(pickletools.genops(self.archive.read(self.root + "data.pkl"))):
            name = op.name
            if count > INSTRUCTIONS:
                raise ValueError("too many objects")
            if name in LEAVES:
                self.spend(len(arg) if name == "BINUNICODE" else 0)
                stack.append(arg)
            elif name in CONSTANTS:
                stack.append(CONSTANTS[name])
            elif name in EMPTY:
                stack.append(EMPTY[name]())
            elif name == "MARK":
                marks.append(len(stack))
            elif name in ("TUPLE", *TUPLES):
                if name in TUPLES:
                    marks.append(len(stack) - TUPLES[name])
                stack.append(tuple(since_mark()))
            elif name in ("APPEND", "APPENDS"):
                items = since_mark() if name == "APPENDS" else [stack.pop()]
                into(list).extend(items)
            elif name in ("SETITEM", "SETITEMS"):
                marks += [len(stack) - 2] if name == "SETITEM" else []
                items = since_mark()
                into(dict).update(zip(items[::2], items[1::2], strict=True))
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[arg] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                value = memo[arg]
                # of containers in containers a few bytes make a billion
                if isinstance(value, (dict, list, tuple, torch.Tensor)):
                    raise ValueError("a container or tensor is in it twice")
                self.spend(len(value) if isinstance(value, str) else 0)
                stack.append(value)
            elif name == "GLOBAL" and arg in NAMED:
                stack.append(NAMED[arg])
            elif name == "BINPERSID":
                stack.append(self.storage(*stack.pop()))
            elif name == "REDUCE":
                args, made = stack.pop(), stack.pop()
                stack.append(self.tensor(*args) if made == "tensor" else self.made(made, args))
            elif name == "STOP":
                return stack.pop()
            elif name != "PROTO":
                raise ValueError("it holds more than plain data")

    def made(self, kind, args):
        if kind is dict and args == ():   # torch.save's place for hooks
            return {}
        if kind is torch.device:
            return torch.device(*args)
        raise ValueError("it holds more than plain data")

    def storage(self, kind, dtype, key, location, count):
        """The whole storage `key` as a vector, read once."""
        if key not in self.storages:
            entry = self.archive.getinfo(f"{self.root}data/{key}")
            if kind != "storage" or type(key) is not str or entry.file_size != count * dtype.itemsize:
                raise ValueError("a storage is not of the size it says")
            flat, at = torch.empty(count, dtype=dtype), 0
            view = memoryview(flat.view(torch.uint8).numpy())
            with self.archive.open(entry) as source:
                while at < len(view):
                    at += source.readinto(view[at:at + BLOCK]) or len(view)
            if at > len(view):
                raise ValueError("a storage is cut short")
            self.storages[key] = flat.to(self.map_location)
        if self.storages[key].dtype != dtype:
            raise ValueError("a storage of two types")
        return self.storages[key]

    def tensor(self, flat, offset, shape, stride, *_):
        numbers = math.prod(shape)
        if any(type(n) is not int or n < 0 for n in (offset, *shape, *stride)) or numbers > len(flat):
            raise ValueError("a tensor is larger than its storage")
        self.spend(numbers * flat.element_size())
        return flat.as_strided(shape, stride, offset)
