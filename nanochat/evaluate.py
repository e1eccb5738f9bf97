"""Is the memory read? Answers to held-out windows, with what was found, and with the question alone."""
from dataclasses import replace

import torch

from nanochat import reading

AT_ONCE = 16   # windows


@torch.no_grad()
def reading_accuracy(model, examples, device):
    """
    Percentages of whole answers that are right, token by token, to examples of reading_data: {"right": of those that
    are copied, "refused": of the rest, "right_empty": of the former where nothing of the episodes can be seen or
    copied, "n"}.
    """
    hits = {"right": [], "refused": [], "right_empty": []}
    examples = sorted(examples, key=lambda e: len(e[0]["ids"]))
    for at in range(0, len(examples), AT_ONCE):
        part = examples[at:at + AT_ONCE]
        window = reading.batch([columns for columns, _ in part]).to(device)
        hidden = replace(window, ordinal=torch.where(window.ordinal >= 0, -2, window.ordinal))
        wanted = [[token for token, _ in tokens[:-1]] for _, tokens in part]
        for control, laid in (("", window), ("_empty", hidden)):
            for (_, tokens), want, got in zip(part, wanted, reading.answers(model, laid)):
                name = "right" if tokens[0][1] else "refused"
                if name + control in hits:
                    hits[name + control].append([token for token, _ in got] == want)
    return {**{name: 100 * sum(values) / max(len(values), 1) for name, values in hits.items()}, "n": len(examples)}
