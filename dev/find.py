"""What finding learns on frozen blocks, against BM25, which it begins as.

    python -m dev.find --model-path data/then-d6 --train train.jsonl nq_train.jsonl --measure dev.jsonl --minutes 9

Only the finding head and the gists learn, by AdamW, from questions whose evidence is known (nanochat/finding_data.py).
The table: all memories of a source in one, the best rank of the evidence of so many of its questions, within 1, 5, 10,
in per cent. Nothing is saved.
"""
import argparse
import random
import sys
import time

import torch
from tqdm import tqdm

from nanochat import finding_data, reading_data
from nanochat.common import Help, UserError, flag, run_main
from nanochat.engine import lexicon, load_model
from nanochat.finding import rank
from nanochat.optim import lr_multiplier

TOP = (1, 5, 10)


def measured(model, tokenizer, sources, number):
    """{source: (questions, lines, [share within each of TOP])}."""
    out = {}
    for name, memories in sources.items():
        lines, told = [], []
        for memory in memories:
            told += [(q.forms[0], [i + len(lines) for i in q.evidence]) for q in memory.questions if q.evidence]
            lines += memory.lines
        told = random.Random(0).sample(told, min(number, len(told)))
        best = []
        for at in range(0, len(told), 32):
            some = told[at:at + 32]
            hunt = finding_data.hunt([q for q, _ in some], lines, [evidence for _, evidence in some], tokenizer)
            with torch.no_grad():
                scores = finding_data.ranked(model, hunt).numpy()
            best += [min(rank(row).tolist().index(e) for e in evidence) for row, evidence in zip(scores, hunt.evidence)]
        out[name] = len(told), len(lines), [100 * sum(b < k for b in best) / max(len(best), 1) for k in TOP]
    return out


def train(model, asked, tokenizer, minutes, rate, seed):
    """The finding head and the gists learn; the rest of the model is frozen."""
    learned = [p for name, p in model.named_parameters() if name.startswith(("finder.", "gist_"))]
    for p in learned:
        p.requires_grad_(True)
    groups = [{"params": [p for p in learned if p.ndim > 1]}, {"params": [p for p in learned if p.ndim < 2]}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
    make, r = finding_data.Hunting(asked, tokenizer), random.Random(seed)
    begin, budget = time.perf_counter(), 60 * minutes
    with tqdm(total=round(budget), unit="s") as bar:
        while (spent := time.perf_counter() - begin) < budget:
            hunt = make(r)
            if hunt is None:
                continue
            for group, peak in zip(optimizer.param_groups, (rate, 5 * rate)):
                group["lr"] = peak * lr_multiplier(spent, budget, 0.02 * budget, 0.6 * budget, final=0.02, start=0.1)
            loss = finding_data.loss(model, hunt)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            bar.set_postfix(loss=f"{float(loss.detach()):.3f}")
            bar.update(round(spent) - bar.n)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help, allow_abbrev=False)
    flag(parser, "--model-path", required=True)
    flag(parser, "--train", nargs="+", required=True, metavar="FILE", help="of questions, see nanochat/reading_data.py")
    flag(parser, "--measure", nargs="+", required=True, metavar="FILE", help="of the same form")
    flag(parser, "--minutes", type=float, default=9, help="of training")
    flag(parser, "--number", type=int, default=200, help="of questions that are asked, a source")
    flag(parser, "--rate", type=float, default=2e-3, help="of matrices; five times as much for the three numbers")
    flag(parser, "--seed", type=int, default=0, help="")
    args = parser.parse_args(argv)
    if not 0 < args.minutes < 1e4 or args.number < 1 or args.rate < 0:
        raise UserError("--minutes and --number must be above 0, --rate at least 0", code=2)
    torch.manual_seed(args.seed)
    model, tokenizer, _ = load_model(args.model_path)
    words = lexicon(model, tokenizer)
    sources, asked = (reading_data.load(files, words) for files in (args.measure, args.train))
    before = measured(model, tokenizer, sources, args.number)
    train(model, reading_data.Asked(asked, tokenizer), tokenizer, args.minutes, args.rate, args.seed)
    after = measured(model, tokenizer, sources, args.number)
    show = lambda shares: " / ".join(f"{share:5.1f}" for share in shares)
    print(f"{'source':20s} questions   lines   {'before':>21s}   {'after':>21s}")
    for name, (n, lines, shares) in before.items():
        print(f"{name[:20]:20s} {n:9,d} {lines:7,d}   {show(shares)}   {show(after[name][2])}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
