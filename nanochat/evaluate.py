"""Is the memory used? Accuracy on held-out lives, with the state and with the state emptied."""
import torch

from nanochat.dataloader import StreamLoader
from nanochat.state import UNKNOWN, detach_state, forget_rows


@torch.no_grad()
def recall_accuracy(model, paths, tokenizer, batch_size, segment, segments, max_traces, device):
    """
    Teacher-forced accuracy on the answers of `segments` segments of the lives in `paths`, read as in training but answered by the
    inference path. Returns percentages: "first" and "rest" (first answer token; the others) with memory, "first_empty" and
    "rest_empty" without, "routed" (the evidence is the best-scored episode), "refused" (first token of the answer to what was never told),
    and the number of answers "n" that are known.
    """
    loader = StreamLoader(paths, tokenizer, batch_size, segment)
    state = model.empty_state(batch_size)
    hits = {name: [0, 0] for name in ("first", "rest", "first_empty", "rest_empty", "routed", "refused")}
    for _ in range(segments):
        batch = {name: t.to(device) for name, t in next(loader).items()}
        state = forget_rows(state, batch["new_life"])
        due = batch["answers"]
        first = due & ~torch.cat([torch.zeros_like(due[:, :1]), due[:, :-1]], dim=1)
        positions = due.float().topk(max(int(due.sum(1).max()), 1), dim=1).indices
        rows = torch.arange(batch_size, device=device)[:, None]
        target, first, due, proof = (t[rows, positions] for t in (batch["targets"], first, due, batch["evidence"]))
        told = proof != UNKNOWN
        for name, read in (("", True), ("_empty", False)):
            x, context, after = model.segment(batch["ids"], state, read=read)
            logits, copy = model.answer(x, positions, context)
            right = model.log_probs(logits, copy).argmax(-1) == target
            count(hits["first" + name], right, first & told)
            count(hits["rest" + name], right, due & ~first & told)
            if read:
                count(hits["refused"], right, first & ~told)
                if copy is not None:
                    best = copy["candidates"].gather(2, copy["score"].argmax(-1, keepdim=True))[..., 0]
                    best = context["traces"].episode.gather(1, best)
                    count(hits["routed"], best == proof, first & told)
                kept = after
        state = detach_state(kept, max_traces)
    return {**{name: 100 * right / max(n, 1) for name, (right, n) in hits.items()}, "n": hits["first"][1]}


def count(tally, right, mask):
    tally[0] += int((right & mask).sum())
    tally[1] += int(mask.sum())
