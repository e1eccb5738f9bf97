"""
What the reader is worth with another finder: memory_eval, with BM25 or MiniLM in the place of the model's own finding.

    python -m dev.other_finder bm25 --model-path data/then-d6 --task locomo --data locomo10.json --questions 250

The finder ranks the lines of the whole memory (see nanochat/peers.py); everything else, the window and the answer, is
as always. For people's questions: the tasks everyday, cases, qa and locomo.
"""
import sys

import numpy as np

from nanochat import engine
from nanochat.common import UserError, run_main
from nanochat.finding import rank
from nanochat.peers import PEERS
from scripts import memory_eval


def found_by(finder):
    """engine.found, by a finder of peers.py, which is given the lines of a memory once."""
    traces = scores = None

    def found(model, tokenizer, state, question):
        nonlocal traces, scores
        if traces is not state["traces"]:
            traces = state["traces"]
            scores = finder([engine.episode_text(traces, tokenizer, i + 1) for i in range(int(state["episode"]))])
        score = np.asarray(scores(question))
        return engine.Found(engine.asked(model, tokenizer, question), (rank(score, engine.FOUND) + 1).tolist(), score)
    return found


def main(argv=None):
    name, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if name not in PEERS:
        raise UserError(f"name a finder first, one of {', '.join(PEERS)}, then what memory_eval takes", code=2)
    task = memory_eval.build_parser().parse_args(rest).task
    if task not in memory_eval.PEOPLE:
        raise UserError(f"--task {task}: another finder is for {', '.join(memory_eval.PEOPLE)}", code=2)
    engine.found = found_by(PEERS[name]())
    return memory_eval.main(rest)


if __name__ == "__main__":
    sys.exit(run_main(main))
