"""What reading rests on: the same training with one thing taken away, and the memory withheld or swapped.

    python -m dev.ablate --data-dir DATA --minutes 45 --measure everyday=FILE qa=FILE [--arms whole no-copy]
                         [--questions N] [--set FIELD=VALUE …] [--share SOURCE=SHARE …] [--json FILE]

Each arm trains from random weights for so many minutes on the questions in DATA, with the same seed, without the
next-token loss. The whole model is asked twice more: with nothing in memory, and with somebody else's memory.
The table goes to stdout: the share of right answers (qa: F1) in per cent, of so many questions.
"""
import argparse
import json
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean
from types import SimpleNamespace

import torch
from tqdm import tqdm

from nanochat import people, reading
from nanochat.common import Help, UserError, atomic_write, choose_dtype, flag, run_main, seed_everything
from nanochat.optim import MuonAdamW, lr_multiplier
from nanochat.reading_data import find
from nanochat.tokenizer import Tokenizer
from nanochat.words import Lexicon
from scripts import base_train

CPU = torch.device("cpu")


def plain(window):
    """A window without what is known of its words and episodes."""
    return replace(window, **{name: torch.zeros_like(getattr(window, name))
                              for name in ("vector", "match", "rank", "age")})


def generated(answer):
    """An answer of which nothing is to be copied."""
    return replace(answer, source=torch.full_like(answer.source, -1))


def same(x):
    return x


# of each arm: settings of the model, what is done to windows and to answers
ARMS = {"whole": ([], same, same), "no-features": ([], plain, same), "one-direction": (["both_ways=false"], same, same),
        "no-copy": ([], same, generated)}
CONTROLS = ("withheld", "swapped")   # of the whole model: nothing of a life is told, or another one's


class Told:
    """
    Lines that are asked about, as people.ask wants it: everything is laid out in one window, without files. change: of
    each window.
    """
    def __init__(self, model, tokenizer, change):
        self.model, self.tokenizer, self.change = model, tokenizer, change
        self.lexicon, self.lines = Lexicon(tokenizer, model.reader.words()), []

    def ingest(self, lines, time=None):
        self.lines += [self.lexicon.line(reading.dated(text, -1 if time is None else time)) for text in lines]

    def ask(self, text):
        question = self.lexicon.line(text)
        columns, _ = reading.lay_out(question, self.lines, find(question, self.lines) if self.lines else [],
                                     self.tokenizer)
        answer, = reading.answers(self.model, self.change(reading.batch([columns])))
        return SimpleNamespace(text=reading.text_of(self.tokenizer, answer), episodes=[], seconds=0.0)


def train(args, arm):
    """The model of an arm, and its tokenizer."""
    options, change, wanted = ARMS[arm]
    run = base_train.build_parser().parse_args(["--data-dir", args.data_dir, "--seed", str(args.seed), "--word-vectors",
                                                str(args.word_vectors)]
                                               + [part for text in args.set + options for part in ("--set", text)]
                                               + [part for text in args.share for part in ("--share", text)])
    run.depth = args.depth
    seed_everything(args.seed)
    tokenizer = Tokenizer.load()
    model = base_train.build_model(run, tokenizer, CPU, choose_dtype(CPU)[0])
    batches = base_train.question_data(run, model, tokenizer, SimpleNamespace(rank=0))[0]((0, 0))
    rates = (run.matrix_lr, run.embedding_lr, run.head_lr, run.table_lr, run.scalar_lr)
    optimizer, begin, budget = MuonAdamW(model.parameter_groups(*rates)), time.perf_counter(), 60 * args.minutes
    with tqdm(total=round(budget), desc=arm, unit="s") as bar:
        while (spent := time.perf_counter() - begin) < budget:
            optimizer.scale_lr(lr_multiplier(spent, budget, 0.02 * budget, 0.6 * budget, final=0.02, start=0.1))
            window, answer = next(batches)
            losses, _ = model.reading_losses(change(window), wanted(answer))
            losses["read"].backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bar.update(round(spent) - bar.n)
    return model, tokenizer


class Deaf(Told):
    def ingest(self, lines, time=None):
        pass


def swapped(lives):
    """Each life's questions, put to the next one's lines."""
    return [replace(told, asked=[replace(q, evidence=()) for q in asked.asked])
            for asked, told in zip(lives, lives[1:] + lives[:1])]


def measure(model, tokenizer, arm, sets, control=None):
    """{name of a set: share of right answers, or F1 for passages}."""
    memory = Deaf if control == "withheld" else Told

    @contextmanager
    def opened():
        yield memory(model, tokenizer, ARMS[arm][1])

    out = {}
    for name, lives in sets.items():
        lives = swapped(lives) if control == "swapped" else lives
        outcomes = list(tqdm(people.ask(name, lives, opened), desc=f"{control or arm} {name}",
                             total=sum(len(life.asked) for life in lives)))
        out[name] = 100 * fmean(float(o["f1" if name == "qa" else "right"]) for o in outcomes)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help, allow_abbrev=False)
    flag(parser, "--data-dir", required=True, help="shards of prose and question files, as for scripts.base_train")
    flag(parser, "--measure", nargs="+", required=True, metavar="TASK=FILE", help=f"of {', '.join(people.PEOPLE)}")
    flag(parser, "--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="")
    flag(parser, "--minutes", type=float, default=45, help="")
    flag(parser, "--questions", type=int, default=None, help="of each source of a set (default: all)")
    flag(parser, "--depth", type=int, default=4, help="")
    flag(parser, "--word-vectors", type=int, default=0, help="")
    flag(parser, "--set", action="append", default=[], metavar="FIELD=VALUE", help="")
    flag(parser, "--share", action="append", default=[], metavar="SOURCE=SHARE", help="as for scripts.base_train")
    flag(parser, "--seed", type=int, default=0, help="")
    flag(parser, "--json", default=None, metavar="FILE", help="write the numbers there, too, after each arm")
    args = parser.parse_args()
    pairs = [text.partition("=") for text in args.measure]
    if wrong := [name for name, _, _ in pairs if name not in people.PEOPLE]:
        raise UserError(f"--measure takes TASK=FILE with a task of {', '.join(people.PEOPLE)}, not '{wrong[0]}'",
                        code=2)
    sets = {name: people.PEOPLE[name](data=[path], questions=args.questions) for name, _, path in pairs}
    rows = {}
    for arm in args.arms:
        model, tokenizer = train(args, arm)
        model.eval()
        rows[arm] = measure(model, tokenizer, arm, sets)
        if arm == "whole":
            rows |= {control: measure(model, tokenizer, arm, sets, control) for control in CONTROLS}
        if args.json:
            atomic_write(args.json, lambda file: file.write(json.dumps(rows).encode()))
    print("".ljust(16) + "".join(f"{name:>12}" for name in sets))
    for arm, row in rows.items():
        print(arm.ljust(16) + "".join(f"{row[name]:12.1f}" for name in sets))
    print("questions".ljust(16) + "".join(f"{sum(len(life.asked) for life in lives):12d}" for lives in sets.values()))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
