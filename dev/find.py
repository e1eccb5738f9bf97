"""What finding learns on frozen blocks, against BM25, which it begins as.

    python -m dev.find --model-path base_checkpoints/then-d6 --train train.jsonl --output-path data/then-d6

Only the finding head learns, and gists that no read layer knows, by AdamW, from questions whose evidence is known
(nanochat/finding_data.py).
--measure prints the table of scripts.memory_eval --task finding, before and after. --output-path is where the model is
shipped with what was learned; without, nothing is saved.
"""
import argparse
import json
import random
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from nanochat import finding_data, peers, reading_data
from nanochat.checkpoint_manager import export_model
from nanochat.common import Help, UserError, flag, run_main, run_record, shares
from nanochat.engine import lexicon, load_model
from nanochat.optim import lr_multiplier
from nanochat.people import table
from nanochat.text import json_line
from scripts.export_model import check_output


def pair(text):
    """A line {"sentence", "question"} as a memory, whose question is there to be found, not to be read."""
    item = json_line(text)
    return {"src": "pairs", "sents": [item["sentence"]], "qas": [{"q": item["question"], "a": "", "evidence": [0]}]}


def train(model, asked, tokenizer, minutes, rate, seed):
    """
    The finding head learns, returned as {name: tensor}; the rest of the model is frozen. The gists, too, where a read
    layer knows them as they are (with gists trained for finding, a memory no longer helps the stream: dev/LOG.md).
    """
    gates = [block.attn.memory_gate for block in model.blocks if block.attn.kind == "dsa"]
    parts = ("finder.",) if any(gate is None or gate.any() for gate in gates) else ("finder.", "gist_")
    learned = {name: p for name, p in model.named_parameters() if name.startswith(parts)}
    for p in learned.values():   # small updates would be lost in the dtype of a frozen model
        p.data = p.data.float()
        p.requires_grad_(True)
    groups = [{"params": [p for p in learned.values() if keep(p.ndim)]}
              for keep in (lambda ndim: ndim > 1, lambda ndim: ndim < 2)]
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
    return {name: p.requires_grad_(False) for name, p in learned.items()}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help, allow_abbrev=False)
    flag(parser, "--model-path", required=True)
    flag(parser, "--train", nargs="+", required=True, metavar="FILE", help="of questions, see nanochat/reading_data.py")
    flag(parser, "--pairs", nargs="+", default=[], metavar="FILE", help='JSON lines {"sentence", "question"}, too')
    flag(parser, "--share", action="append", default=[], metavar="SOURCE=SHARE", help="as for scripts.base_train")
    flag(parser, "--measure", nargs="+", default=[], metavar="FILE", help="of the same form")
    flag(parser, "--output-path", metavar="DIR", help="where the model is shipped")
    flag(parser, "--replace", action="store_true", help="write over a model that was shipped there")
    flag(parser, "--minutes", type=float, default=9, help="of training")
    flag(parser, "--number", type=int, default=200, help="of questions that are asked, a source")
    flag(parser, "--rate", type=float, default=2e-3, help="of matrices; five times as much for the three numbers")
    flag(parser, "--seed", type=int, default=0, help="")
    args = parser.parse_args(argv)
    if not 0 < args.minutes < 1e4 or args.number < 1 or args.rate < 0:
        raise UserError("--minutes and --number must be above 0, --rate at least 0", code=2)
    torch.manual_seed(args.seed)
    model, tokenizer, _ = load_model(args.model_path, "cpu")   # as what it learns from
    words = lexicon(model, tokenizer)
    if args.output_path:
        check_output(Path(args.output_path), args.replace)
    memories = peers.sought(args.measure, args.number)[0] if args.measure else []
    measured = lambda when: peers.report(peers.measure({when: peers.memory(model, tokenizer)}, memories), memories)
    sources = reading_data.load(args.train, words)
    if args.pairs:
        sources.update(reading_data.load(args.pairs, words, item_of=pair))
    asked = reading_data.Asked(sources, tokenizer, shares=shares(args.share))
    before = measured("before")
    learned = train(model, asked, tokenizer, args.minutes, args.rate, args.seed)
    if args.output_path:
        how = {**vars(args), **{name: [Path(file).name for file in getattr(args, name)] for name in ("train", "pairs")}}
        made = {name: value for name, value in how.items() if name not in ("model_path", "measure", "output_path")}
        export_model(args.model_path, args.output_path, dtype=torch.bfloat16, learned=learned,
                     made={"finding": {"args": made, "run": json.loads(json.dumps(run_record()))}})
    rows = sorted([*before, *measured("after")], key=lambda row: row["group"])
    if rows:
        print("\n".join(table(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
