"""
What is remembered, in words: list, search, delete, repair, carry elsewhere.

    python -m scripts.memory list --state_path S.pt
    python -m scripts.memory delete 17 20-25 --state_path S.pt
    python -m scripts.memory forget --match "the doctor" --state-dir memories --user alice

An episode is deleted exactly: both files are then, to the byte, as if it had never been ingested. The episodes after
it move up by one. The text of what is deleted is first written to a dated file beside the state (not by --no-export).
"""
import argparse
import datetime
import functools
import glob
import io
import json
import os
import sys
import tarfile
from itertools import chain, groupby
from pathlib import Path

from nanochat.common import Help, UserError, atomic_write, flag, open_file, run_main, shipped_dir
from nanochat.text import UNKNOWN, iso, json_line, lived, printable, shortened
from nanochat.users import add_user, moment, state_path

SHOWN = 10   # episodes named before a deletion


def build_parser():
    parser = argparse.ArgumentParser(usage="python -m scripts.memory list --state_path S.pt\n       python -m "
                                           "scripts.memory COMMAND --help", description=__doc__, formatter_class=Help,
                                     allow_abbrev=False)
    commands = parser.add_subparsers(prog="python -m scripts.memory", dest="command", required=True, metavar="COMMAND")

    def command(name, run, about, changes=False, words=False, deletes=False, writes=False):
        sub = commands.add_parser(name, help=about, description=about, formatter_class=Help, allow_abbrev=False)
        flag(sub, "--state-path", help="the state file")
        add_user(sub)
        flag(sub, "--json", action="store_true", help="one JSON object a line on stdout")
        if changes:
            flag(sub, "--dry-run", action="store_true", help="say what would be done, and do nothing")
            flag(sub, "--yes", action="store_true", help="do not ask")
        if deletes:
            add_export(sub)
        if writes:
            flag(sub, "--replace", action="store_true", help="write over the file, if this command wrote it")
        if words or writes or deletes and name != "import":   # which reads the text with it
            flag(sub, "--model-path", metavar="PATH",
                 help="the model that the memory was made with (default: the one that ships and has its tokenizer)")
        sub.set_defaults(run=run, parser=sub)
        return sub

    command("list", list_episodes, "every episode", words=True)
    command("show", show, "one episode, whole", words=True).add_argument("id", type=int, help="its number in the list")
    sub = command("search", search, "the episodes that a text is about, best first, found as for a question",
                  words=True)
    sub.add_argument("text")
    flag(sub, "--most", type=positive, default=10, metavar="N", help="so many at most (default: 10)")
    flag(sub, "--exact", action="store_true", help="all that hold the text, in any case, in order; needs no model")
    add_device(sub)
    sub = command("view", view, "one HTML page, to look at: timeline, search, traces, and how questions were routed",
                  writes=True)
    flag(sub, "--out", metavar="FILE", default="memory.html", help="the page (default: memory.html)")
    flag(sub, "--answers", metavar="FILE",
         help="what scripts.query --json --routing printed: the page shows how it was read")
    flag(sub, "--last", type=int, metavar="N", help="so many of the newest episodes (default: 50,000)")
    command("stats", stats, "how much is remembered, and what it takes")
    command("verify", verify, "check every record")
    command("delete", delete, "forget episodes by number", changes=True,
            deletes=True).add_argument("ids", nargs="+", metavar="ID", help="a number of the list, or FIRST-LAST")
    sub = command("forget", forget, "forget the episodes for which all of this holds", changes=True, deletes=True)
    flag(sub, "--match", metavar="TEXT", type=filled, help="they hold this text, in any case")
    flag(sub, "--since", type=moment, metavar="TIME", help="lived at this time or later (ISO 8601)")
    flag(sub, "--until", type=moment, metavar="TIME", help="lived at this time or earlier")
    flag(sub, "--source", metavar="NAME", type=filled, help="they came from this file")
    command("wipe", wipe, "forget everything", changes=True, deletes=True)
    command("repair", repair, "take out the episodes with damaged records: the others are saved", changes=True,
            words=True)
    command("compact", compact, "end what a crash has left half done, now rather than at the next change")
    sub = command("export", export, "the episodes as JSONL, or the memory to the bit", writes=True)
    flag(sub, "--output-path", default="-", help="a file (default: stdout)")
    form = sub.add_mutually_exclusive_group()
    flag(form, "--binary", action="store_true", help="S.pt and S.traces as one tar file")
    flag(form, "--skip-damaged", action="store_true", help="leave out the episodes with damaged records, and name them")
    sub = command("import", import_, "add the episodes of a JSONL export; what is there already is not added again",
                  changes=True, deletes=True)
    sub.add_argument("file")
    flag(sub, "--binary", action="store_true", help="of export --binary: the memory becomes that one")
    flag(sub, "--model-path", help="model that reads the text; not needed with --binary")
    add_device(sub)
    sub = command("merge", merge, "one memory of several: the first, and of each other what is new in it", changes=True,
                  deletes=True)
    sub.add_argument("paths", nargs="+", metavar="STATE", help="state files of one model")
    sub = command("upgrade", upgrade, "read the remembered tokens again with other weights", changes=True)
    flag(sub, "--model-path", metavar="PATH", required=True, help="model file of a checkpoint, or its directory")
    add_device(sub)
    return parser


def add_export(parser):
    flag(parser, "--no-export", action="store_true", help="keep no dated file of what is deleted: it is gone at once")


def add_device(parser):
    flag(parser, "--device", default="auto")
    flag(parser, "--dtype", default="auto", help="auto, fp32, bf16 or fp16")


def positive(text):
    """For argparse: a whole number above 0; ValueError for another."""
    if (value := int(text)) < 1:
        raise ValueError
    return value


def filled(text):
    """For argparse: refuses what an unset variable of the shell gives, and every episode holds."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is blank (an unset variable?); `wipe` forgets everything")
    return text


# what there is --------------------------------------------------------------------------------------------------------


def model_of(model_path, path, there):
    """The path of the model that the memory at `path` was made with: model_path, or what ships with that tokenizer."""
    from nanochat.checkpoint_manager import load_model_file
    shipped = sorted((shipped_dir() / "data").glob("then-*"))
    fits = (model for model in shipped if load_model_file(model)["meta"]["tokenizer"] == there)
    model = model_path or next(fits, None)
    if model is None:
        raise UserError(f"{path} was made with none of the models that ship: --model-path says with which (its "
                        f"tokenizer is {there[:12]}…)", code=2)
    return model


def load_tokenizer(args, store):
    """The tokenizer that a memory was made with. UserError where it is not that of --model-path."""
    return tokenizer_of(args.model_path, store.path, store.content.identity["tokenizer"])


@functools.cache   # a deletion shows episodes, and exports them
def tokenizer_of(model_path, path, there):
    from nanochat import engine
    from nanochat.tokenizer import Tokenizer
    try:
        tokenizer = None if model_path else Tokenizer.load()
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    if tokenizer is None or tokenizer.fingerprint != there:
        tokenizer = engine.load_tokenizer(model := model_of(model_path, path, there))
        if tokenizer.fingerprint != there:
            raise UserError(f"{path} was made with another tokenizer ({there[:12]}…) than {model} "
                            f"({tokenizer.fingerprint[:12]}…): its words can't be read")
    return tokenizer


def episodes(store, tokenizer, ordinals=None):
    """
    Yields {"episode", "text", "source", "line", "time", "tokens", "traces"} of all episodes, or of these, in order.
    """
    content = store.content
    ordinals = range(1, len(store) + 1) if ordinals is None else ordinals
    # neighbours are read together
    runs = [[i for _, i in run] for _, run in groupby(enumerate(ordinals), lambda at: at[1] - at[0])]
    for ordinal, tokens in zip(ordinals, chain.from_iterable(store.episode_ids(run[0], run[-1]) for run in runs)):
        name, line, when = content.row(ordinal)
        yield {"episode": ordinal, "text": tokenizer.decode(tokens, skip_special=True), "source": name, "line": line
               if line >= 0 else None, "time": iso(when),
               "tokens": len(tokens), "traces": int(content.traces[ordinal - 1])}


def show_line(episode, as_json):
    if as_json:
        print(json.dumps(episode))
        return
    score = f"{episode['score']:6.2f}  " if "score" in episode else ""
    line = "" if episode["line"] is None else f":{episode['line']}"
    source = f"  [{shortened(episode['source'], 200)}{line}]" if episode["source"] else ""
    when = lived(datetime.datetime.fromisoformat(episode["time"]).timestamp(), None) if episode["time"] else None
    when = f"{when.isoformat(' ', 'minutes')}  " if when else ""
    print(printable(f"{score}{episode['episode']:6d}  {when}{' '.join(episode['text'].split())}{source}",
                    sys.stdout))


def list_episodes(args, path):
    with open_store(path) as store:
        for episode in episodes(store, load_tokenizer(args, store)):
            show_line(episode, args.json)


def show(args, path):
    with open_store(path) as store:
        episode = next(episodes(store, load_tokenizer(args, store), checked(store, [args.id])))
    if args.json:
        print(json.dumps(episode))
        return
    for name in ("episode", "source", "line", "time", "tokens", "traces"):
        print(printable(f"{name}: {shortened(str('not known' if episode[name] is None else episode[name]), 200)}",
                        sys.stdout))
    print(printable(f"\n{episode['text']}", sys.stdout))


def search(args, path):
    """Prints what is found, and returns 1 where that is nothing."""
    found = 0
    with open_store(path) as store:
        for found, episode in enumerate(holding(args, store) if args.exact else about(args, store), 1):
            show_line(episode, args.json)
    return 0 if found else 1


def holding(args, store):
    text = args.text.casefold()
    return (episode for episode in episodes(store, load_tokenizer(args, store)) if text in episode["text"].casefold())


def about(args, store):
    """The episodes, each with its "score", that engine.found finds. One has the score 0 if nothing speaks for it."""
    from nanochat import engine
    from nanochat.memory import read_state
    path = model_of(args.model_path, store.path, store.content.identity["tokenizer"])
    model, tokenizer, facts = engine.load_model(path, args.device, args.dtype)
    store.expect(model, facts)
    state = read_state(store, model)
    what = engine.found(model, tokenizer, state, args.text)
    best = [ordinal for ordinal in what.best if what.score[ordinal - 1] != 0][:args.most]
    for episode in episodes(store, tokenizer, best):
        yield {**episode, "score": float(what.score[episode["episode"] - 1])}


def view(args, path):
    from nanochat.view import MOST, page, read_answers
    answers = read_answers(args.answers) if args.answers else []
    if args.last is not None and args.last < 1:
        args.parser.error("--last must be at least 1")
    with open_store(path) as store:
        text = page(store, load_tokenizer(args, store), answers, args.last or MOST)
    write_beside(args, path, args.out, lambda file: file.write(text.encode()), text.partition("<style>")[0].encode())
    summary = {"output": args.out, "episodes": min(len(store), args.last or MOST), "bytes": len(text.encode())}
    print(json.dumps(summary) if args.json else "{output}: {episodes:,} episodes, {bytes:,} bytes".format(**summary),
          file=sys.stdout if args.json else sys.stderr)


def stats(args, path):
    with open_store(path) as store:
        content, stride = store.content, store.layout.stride
        tokens = sum(len(ids) for ids in store.episode_ids())
        times = content.time[content.time != UNKNOWN]
        out = {"episodes": len(store), "traces": len(content.checks), "tokens": tokens, "sources": len(content.names),
               "bytes": {"S.pt": os.stat(path).st_size, "S.traces": store.end},
               "bytes_a_token": round(store.bytes / tokens, 2) if tokens else None,
               "bytes_a_trace": {**{name: size for name, (_, size) in store.layout.fields.items()}, "all": stride},
               "oldest": iso(int(times.min())) if len(times) else None, "newest": iso(int(times.max())) if len(times)
               else None,
               "weights": content.identity["weights"], "tokenizer": content.identity["tokenizer"]}
    if args.json:
        print(json.dumps(out))
    else:
        for name, value in out.items():
            if isinstance(value, dict):
                value = ", ".join(f"{k} {v:,}" for k, v in value.items())
            value = f"{value:,}" if isinstance(value, int) else value
            print(printable(f"{name.replace('_', ' ')}: {'not known' if value is None else value}", sys.stdout))


def verify(args, path):
    with open_store(path) as store:
        for _ in store.blocks():
            pass
        extra = os.fstat(store.fd).st_size - store.end
        out = {"episodes": len(store), "traces": len(store.content.checks), "bytes": store.bytes,
               "uncommitted_bytes": extra, "pending": store.content.pending}
    if args.json:
        print(json.dumps(out))
    else:
        print("good: {episodes:,} episodes in {traces:,} traces, {bytes:,} bytes".format(**out))
        if extra or out["pending"]:
            print("a crash has left something half done: compact, or any change, ends it", file=sys.stderr)


# what is forgotten ----------------------------------------------------------------------------------------------------


def open_store(path, damaged=False):
    from nanochat.memory import Store
    return Store(path, damaged)


def checked(store, ordinals):
    for ordinal in ordinals:
        if not 1 <= ordinal <= len(store):
            raise UserError(f"{store.path}: no episode {ordinal}, there are {len(store):,}")
    return ordinals


def confirmed(args, what):
    """Whether to go on: --yes, or a yes on the terminal. UserError where nobody can be asked."""
    if args.dry_run:
        print(f"would {what}", file=sys.stderr)
        return False
    if args.yes:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"--yes is needed to {what}", code=2)
    print(f"{what}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("nothing was changed")
    return True


def keep_export(args, memory, ordinals):
    """
    Before these episodes are deleted: writes them to a dated file beside the memory, but for --no-export. UserError
    where they can't be read.
    """
    clear_exports(memory.path)
    if args.no_export or not ordinals:
        return
    now = datetime.datetime.now(datetime.timezone.utc)
    path = memory.path.with_name(f"{memory.path.stem}.forgotten-{now:%Y%m%dT%H%M%S.%fZ}.jsonl")
    try:
        atomic_write(path, lambda file: file.writelines(jsonl(memory, load_tokenizer(args, memory), ordinals)),
                     mode_of(memory.path))
    except UserError as error:
        raise UserError(f"{error} (--no-export: delete what can't be kept)") from error
    print(f"the text of what goes is kept in {path}: `import` brings it back, and it is gone for good when you remove "
          "that file", file=sys.stderr)


def clear_exports(path):
    """Removes what a kill has left of an export that was being written: text that is forgotten would stay in it."""
    for left in path.parent.glob(f".{glob.escape(path.stem)}.forgotten-*.jsonl.*.tmp"):
        left.unlink()


def forget_these(args, path, choose):
    """
    choose(Store) gives the ordinals to delete; the lock is held from the choice on, so that they mean the same when
    they are deleted.
    """
    from nanochat.memory import Writer
    with (open_store if args.dry_run else Writer)(path) as memory:
        ordinals = choose(memory)
        if not ordinals:
            raise UserError(f"{path}: nothing to forget")
        for episode in episodes(memory, load_tokenizer(args, memory), ordinals if args.json else ordinals[:SHOWN]):
            show_line(episode, args.json)
        if len(ordinals) > SHOWN and not args.json:
            print(f"… and {len(ordinals) - SHOWN:,} more", file=sys.stderr)
        if confirmed(args, f"forget {len(ordinals):,} of {len(memory):,} episodes of {path}"):
            keep_export(args, memory, ordinals)
            memory.delete(ordinals)
            print(f"{len(ordinals):,} forgotten, {len(memory):,} left", file=sys.stderr)


def delete(args, path):
    ranges = []
    for text in args.ids:
        begin, _, end = text.partition("-")
        if not (begin.isdecimal() and (end or begin).isdecimal() and len(text) < 40
                and int(begin) <= int(end or begin)):
            args.parser.error(f"not a number, or FIRST-LAST: {text}")
        ranges.append(range(int(begin), int(end or begin) + 1))

    def choose(memory):
        checked(memory, [i for r in ranges for i in (r[0], r[-1])])   # before a range of billions is counted out
        return sorted({i for r in ranges for i in r})

    forget_these(args, path, choose)


def forget(args, path):
    if all(value is None for value in (args.match, args.since, args.until, args.source)):
        args.parser.error("one of --match, --since, --until, --source is needed")

    def choose(memory):
        content = memory.content
        timed = args.since is not None or args.until is not None
        if timed and len(memory) and (content.time == UNKNOWN).all():
            raise UserError(f"{path}: no episode has a time (ingest --time records it)")
        rows = ((i, *content.row(i)) for i in range(1, len(memory) + 1))
        found = [i for i, name, _, when in rows if (args.source is None or name == args.source)
                 and (not timed or when != UNKNOWN)
                 and (args.since is None or when >= args.since) and (args.until is None or when <= args.until)]
        if args.match is None:
            return found
        told = episodes(memory, load_tokenizer(args, memory), found)
        return [e["episode"] for e in told if args.match.casefold() in e["text"].casefold()]

    forget_these(args, path, choose)


def wipe(args, path):
    forget_these(args, path, lambda memory: list(range(1, len(memory) + 1)))


def compact(args, path):
    from nanochat.memory import Writer
    with Writer(path):   # which ends it
        clear_exports(path)


def repair(args, path):
    """
    Takes out the episodes with damaged records. On stdout stands, of each, what can still be read of it, with an
    ellipsis for each damaged record.
    """
    from nanochat.memory import Writer
    with open_store(path, damaged=True) if args.dry_run else Writer(path, anew=True) as memory:
        sound, lost = memory.sound(), memory.damaged()
        if lost and not sound.any():
            raise UserError(f"{path}: none of its records is sound: its S.traces is lost, or belongs to another state")
        try:
            words = load_tokenizer(args, memory).decode
        except UserError:   # of another tokenizer: it can be repaired all the same
            words = lambda ids, skip_special: "…"
        for ordinal in lost:
            begin, end = memory.content.first[ordinal - 1:ordinal + 1]
            ids = lambda i: memory.layout.ids(memory.there(i, i + 1))[0].tolist()
            rest = "".join(words(ids(i), skip_special=True) if sound[i] else "…" for i in range(begin, end))
            name, line, when = memory.content.row(ordinal)
            line = line if line >= 0 else None
            show_line({"episode": ordinal, "text": rest, "source": name, "line": line, "time": iso(when)}, args.json)
        if not lost and (args.dry_run or memory.whole):
            print(f"{path}: no record is damaged", file=sys.stderr)
        elif confirmed(args, f"take {len(lost):,} damaged of {len(memory):,} episodes out of {path}"):
            memory.delete(lost)
            print(f"{len(lost):,} taken out, {len(memory):,} saved", file=sys.stderr)


# carried elsewhere ----------------------------------------------------------------------------------------------------


def mode_of(path):
    """The permissions of a memory: for what is written of it, too."""
    return path.stat().st_mode & 0o777


def write_beside(args, path, target, write, begins):
    """
    Writes a file of what is in the memory at path: whole or not at all, and for the same people to read. UserError for
    the memory's own files, for a directory that is not there, and for a file that is there: but, with --replace, for
    one that begins with the bytes `begins`, as what is written does.
    """
    from nanochat.memory_file import traces_path
    target = Path(target)
    if not target.parent.is_dir():
        raise UserError(f"{target.parent}: no such directory to write to")
    if target.exists():
        if any(there.exists() and there.samefile(target) for there in (path, traces_path(path))):
            raise UserError(f"{target}: is the memory itself", code=2)
        if not target.is_file() or target.stat().st_size and target.open("rb").read(len(begins)) != begins:
            raise UserError(f"{target}: is there already, and is not what is written here: use another name", code=2)
        if not args.replace:
            raise UserError(f"{target}: is there already (--replace writes over it)", code=2)
    atomic_write(target, write, mode_of(path))


def jsonl(store, tokenizer, ordinals=None):
    """The lines of an export, as bytes."""
    names = ("text", "source", "line", "time")
    told = episodes(store, tokenizer, ordinals)
    return ((json.dumps({name: e[name] for name in names}) + "\n").encode() for e in told)


def export(args, path):
    with open_store(path, args.skip_damaged) as store:
        ordinals = None
        if args.skip_damaged and (lost := store.damaged()):
            ordinals = sorted(set(range(1, len(store) + 1)).difference(lost))
            print(f"{len(lost):,} of {len(store):,} episodes are damaged and left out: {', '.join(map(str, lost))}",
                  file=sys.stderr)
        write = lambda file: (write_tar(store, file) if args.binary else
                              file.writelines(jsonl(store, load_tokenizer(args, store), ordinals)))
        if args.output_path == "-":
            write(sys.stdout.buffer)
        else:
            write_beside(args, path, args.output_path, write, b"S.pt\0" if args.binary else b'{"text": ')


def write_tar(store, file):
    """S.pt and S.traces, every record checked, as a tar file that does not depend on the time or the place."""
    from dataclasses import replace
    for _ in store.blocks():
        pass
    small = io.BytesIO()
    replace(store.content, pending=False).write(small)
    with tarfile.open(fileobj=file, mode="w|",
                      format=tarfile.USTAR_FORMAT) as tar, os.fdopen(os.dup(store.fd), "rb") as records:
        records.seek(0)
        for name, source, size in (("S.pt", small, small.tell()), ("S.traces", records, store.end)):
            source.seek(0)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = size, 0o600
            tar.addfile(entry, source)


def import_(args, path):
    if args.binary:
        return import_tar(args, path)
    if not args.model_path:
        args.parser.error("--model-path is needed")
    from nanochat import engine
    from nanochat.memory import Writer
    from nanochat.memory_file import identity
    from scripts.ingest import new_episodes, texts_of
    items = read_jsonl(args.file)
    model, tokenizer, facts = engine.load_model(args.model_path, args.device, args.dtype)
    encoded = engine.episode_ids(tokenizer, [text for text, _ in items])
    rows = [row for _, row in items]
    with Writer(path, identity(model, facts)) as memory:
        new = new_episodes(texts_of(memory), encoded, rows)
        if args.dry_run:
            print(f"would add {len(new):,} of {len(items):,} episodes", file=sys.stderr)
            return
        engine.remember(model, tokenizer, memory, [encoded[i] for i in new], [rows[i] for i in new])
        memory.commit()
        print(f"{len(new):,} of {len(items):,} episodes added, {len(memory):,} in {path}", file=sys.stderr)


def read_jsonl(path):
    """[(text, (source, line, time))] of an export. UserError (code 2) names the line that is wrong."""
    with open(path, "rb") as file:
        lines = file.read().split(b"\n")
    items = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = json_line(line)
            text, name, at, when = item["text"], item.get("source"), item.get("line"), item.get("time")
            if not isinstance(text, str) or not text.strip() or not isinstance(name, (str, type(None))):
                raise ValueError("'text' and 'source' must be text")
            if at is not None and (type(at) is not int or not 0 <= at < 2 ** 31):
                raise ValueError("'line' must be a whole number, 0 to 2147483647")
            items.append((text, (name, -1 if at is None else at, UNKNOWN if when is None else moment(when))))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise UserError(f"{path}, line {number}: not an episode in JSON ({error})", code=2) from error
    return items


def replacing(args, memory, by):
    """
    Before all of an open Writer is replaced: asks, naming the count, and keeps an export. Returns whether to go on.
    """
    what = f"replace the {len(memory):,} episodes of {memory.path} by {by}"
    if len(memory) and not confirmed(args, what) or args.dry_run:
        return False
    keep_export(args, memory, range(1, len(memory) + 1))
    return True


def import_tar(args, path):
    import numpy as np

    from nanochat.memory import BLOCK, Writer
    from nanochat.memory_file import HEADER, Content, crc, header
    from nanochat.record import Layout

    def expected(entry, name):
        if entry is None or entry.name != name or not entry.isreg() or entry.issparse():
            raise tarfile.TarError(f"{name} is not where it must be, or is no plain file")
        return entry

    def blocks(file, content, layout):
        if file.read(HEADER.size) != header(content.identity, layout):
            raise UserError(f"{args.file}: damaged, its S.traces does not belong to its S.pt")
        for begin in range(0, len(content.checks), BLOCK):
            checks = content.checks[begin:begin + BLOCK]
            data = file.read(len(checks) * layout.stride)
            if len(data) != len(checks) * layout.stride:
                raise UserError(f"{args.file}: truncated")
            rows = np.frombuffer(data, np.uint8).reshape(-1, layout.stride)
            if (crc(rows) != checks).any():
                raise UserError(f"{args.file}: damaged (checksum of a record)")
            yield rows

    try:
        # "r:": a packed one may unpack to any size, and export writes none
        with open(open_file(args.file), "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            small, records = (tar.extractfile(expected(tar.next(), name)) for name in ("S.pt", "S.traces"))
            content = Content.read(small, args.file)
            with Writer(path, content.identity, anew=True) as memory:
                if replacing(args, memory, f"the {len(content):,} of {args.file}"):
                    memory.rewrite(content, blocks(records, content, Layout(content.identity["geometry"])))
    except (tarfile.TarError, KeyError, AttributeError, EOFError, ValueError, RecursionError) as error:
        raise UserError(f"{args.file}: not a memory of export --binary, or packed, or damaged ({error})") from error


def merge(args, path):
    import contextlib

    import numpy as np

    from nanochat.memory import Store, Writer, stamp
    from nanochat.memory_file import expect
    from scripts.ingest import new_episodes, texts_of
    with contextlib.ExitStack() as stack:
        first, *others = [stack.enter_context(Store(p)) for p in map(Path, args.paths)]
        content, blocks, there = first.content, [first.blocks()], texts_of(first)
        for store in others:
            expect(store.path, store.content.identity, content.identity)
            rows = [store.content.row(i) for i in range(1, len(store) + 1)]
            new = new_episodes(there, store.episode_ids(), rows)
            keep = np.isin(np.arange(len(store)), new)
            content = content.extended(store.content.traces[keep], [rows[i] for i in new], [])
            blocks.append(store.blocks(keep))
        memory = stack.enter_context(Writer(path, content.identity, anew=True))
        if any(stamp(store.path) == memory.stamp != store.stamp for store in (first, *others)):
            raise UserError(f"{path}: was changed by another process meanwhile; merge again")
        grows = stamp(first.path) == memory.stamp   # the first one: nothing of it goes, nobody is asked
        if not args.dry_run if grows else replacing(args, memory, f"the {len(content):,} of {', '.join(args.paths)}"):
            memory.rewrite(content, chain.from_iterable(blocks))
            print(f"{len(memory):,} episodes in {path}", file=sys.stderr)


def upgrade(args, path):
    from dataclasses import replace
    from itertools import islice

    from nanochat import engine
    from nanochat.memory import Writer
    from nanochat.memory_file import identity
    from nanochat.record import Layout
    model, tokenizer, facts = engine.load_model(args.model_path, args.device, args.dtype)
    mine = identity(model, facts)
    with Writer(path) as memory:
        there = memory.content.identity
        if there == mine:
            print(f"{path} is of this model already", file=sys.stderr)
            return
        if there["tokenizer"] != mine["tokenizer"]:
            raise UserError(f"{path} was made with another tokenizer: export its text with that one, and import it "
                            "with this model")
        if not confirmed(args, f"read the {len(memory):,} episodes of {path} again with {args.model_path}"):
            return

        def blocks():
            stored, layout = memory.episode_ids(), Layout(mine["geometry"])
            while part := list(islice(stored, engine.COMMIT)):
                yield layout.pack(engine.ingest_ids(model, tokenizer, [ids.astype("int64") for ids in part]))

        memory.rewrite(replace(memory.content, identity=mine), blocks())
        print(f"{len(memory):,} episodes upgraded", file=sys.stderr)


def main(argv=None):
    args = build_parser().parse_args(argv)
    path = state_path(args.parser, args, "state_path", make=args.command in ("import", "merge"))
    return args.run(args, path) or 0


if __name__ == "__main__":
    sys.exit(run_main(main))
