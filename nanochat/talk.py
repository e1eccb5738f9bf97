"""
What a model says in sentences that began with an open model which converses: its own turns, as it was trained on them
(ChatML: <|im_start|>user … <|im_end|>), without adapters, and without the memory. What is known comes from reading.
"""
import torch

from nanochat.common import UserError
from nanochat.engine import asked
from nanochat.scoring import holds, refused
from nanochat.tokenizer import StreamDecoder

BEGIN, END = "<|im_start|>", "<|im_end|>"
MOST = 40   # tokens of a sentence or a reply
# turns that show what is asked for: (what is said, what is answered)
SENTENCES = (("Where does Tom live?\nAnswer: Leeds", "Tom lives in Leeds."),
             ("How many eggs are left?\nAnswer: six", "There are six eggs left."),
             ("What did she call the boat?\nAnswer: Blue Heron", "She called the boat Blue Heron."))
REPLIES = (("Hi there!", "Hello! What would you like to talk about?"),
           ("How is the weather?", "I can't see it from here. I hope that it is fine."),
           ("Thank you.", "You are welcome!"))
KINDS = (("How are you today?", "chat"), ("Where did I park the car?", "fact"), ("What's up?", "chat"),
         ("Who fixed the roof last spring?", "fact"), ("Can you help me?", "chat"), ("What is the code?", "fact"),
         ("Nice to meet you, how is it going?", "chat"), ("When is her birthday?", "fact"))


class Voice:
    """Of a THENGPT and its nanochat.base.MemoryTokenizer. UserError where it does not converse in turns of ChatML."""
    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.turn = {name: getattr(tokenizer, "theirs", {}).get(name) for name in (BEGIN, END)}
        if None in self.turn.values():
            raise UserError("--style sentence needs a model that began with one that converses, in turns of ChatML: "
                            "this one does not", code=2)
        self.shown = {}   # {examples: the state after them}, which are read once

    def prompt(self, turns):
        """The ids of turns of a conversation, (who, what is said); of None, where one begins."""
        ids = []
        for who, said in turns:
            ids += [self.turn[BEGIN], *self.tokenizer.encode(f"{who}\n{said or ''}")]
            ids += [] if said is None else [self.turn[END], *self.tokenizer.encode("\n")]
        return ids

    def asked(self, examples, text):
        """(ids, state): what stands before the answer to a text, and the state after the examples (a tuple)."""
        if examples not in self.shown:
            turns = [turn for pair in examples for turn in zip(("user", "assistant"), pair)]
            self.shown[examples] = self.following(self.prompt(turns))[1]
        return self.prompt([("user", text), ("assistant", None)]), self.shown[examples]

    @torch.no_grad()
    def following(self, ids, state=None):
        """(logits (V,) of what follows ids, of ordinary tokens and of theirs; the state after them)."""
        line = torch.tensor([ids], device=self.model.wte.weight.device)
        logits, state = self.model(line, state=state, read=False, last=True)
        return logits[0, -1, :self.model.config.n_ordinary], state

    def goes_on(self, ids, state, most):
        """Yields the text that follows ids, the likeliest token at each step, up to the end of the turn or `most`."""
        decoder = StreamDecoder(self.tokenizer, skip_special=True)
        for _ in range(most):
            logits, state = self.following(ids, state)
            ids = [int(logits.argmax())]
            if ids[0] == self.turn[END]:
                break
            yield decoder.feed(ids[0])
        yield decoder.flush()

    def sentence(self, question, answer):
        """The answer as a sentence; as it is, where the sentence does not hold it, or nothing is known."""
        if refused(answer):
            return answer
        said = "".join(self.goes_on(*self.asked(SENTENCES, f"{question}\nAnswer: {answer}"), MOST)).strip()
        return said if holds(said, answer) and "\n" not in said else answer

    def is_small_talk(self, line):
        """
        Whether a question is one that no memory is needed for, as the open model sees it. UserError for what is no
        question, see engine.asked.
        """
        asked(self.model, self.tokenizer, line)
        logits, _ = self.following(*self.asked(KINDS, line))
        chat, fact = (self.tokenizer.encode(kind)[0] for kind in ("chat", "fact"))
        return bool(logits[chat] > logits[fact])

    def reply(self, line):
        """Yields the text of a reply."""
        yield from self.goes_on(*self.asked(REPLIES, line), MOST)
