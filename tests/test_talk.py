"""What is said in sentences is what the open model says by itself; what is known is what the memory told."""
import json
from types import SimpleNamespace

import pytest
import torch

from nanochat import base as open_models
from nanochat.chat import Chat
from nanochat.common import UserError
from nanochat.live_memory import LiveMemory
from nanochat.scoring import refused
from nanochat.talk import BEGIN, END, KINDS, Voice
from scripts import query
from tests.test_base import copied, smol  # noqa: F401, fixtures
from tests.test_live_memory_api import loaded, plain  # noqa: F401  fixtures
from tests.test_scripts import MODEL, base, call, here, one_line, state  # noqa: F401  fixtures


@pytest.fixture
def made(copied):  # noqa: F811
    """A model that converses, with adapters that have learned something else, and the open model alone."""
    path = copied / "tokenizer.json"
    text = path.read_text(encoding="utf-8").replace("<|begin|>", BEGIN).replace("<|end|>", END)
    path.write_text(text, encoding="utf-8")
    model, tokenizer = open_models.open_base(str(copied)).with_memory(lora_rank=2, ratio=1)
    for adapter in model.adapters:
        torch.nn.init.normal_(adapter.up)
    return model, tokenizer, open_models.load(str(copied))[0]


def test_it_says_what_the_open_model_says_in_its_own_turns(made):
    model, tokenizer, plain = made  # noqa: F811
    voice = Voice(model, tokenizer)
    examples = (("the and?", "12"),)
    asked, state = voice.asked(examples, "an is the")   # noqa: F811
    ids = voice.prompt([("user", "the and?"), ("assistant", "12"), ("user", "an is the"), ("assistant", None)])
    assert ids[-len(asked):] == asked
    shown = tokenizer.decode([i for i in ids if i not in voice.turn.values()])
    assert shown == "user\nthe and?\nassistant\n12\nuser\nan is the\nassistant\n"
    assert ids.count(voice.turn[BEGIN]) == 4 and ids.count(voice.turn[END]) == 3
    said = list(voice.goes_on(asked, state, 12))
    assert said == list(voice.goes_on(*voice.asked(examples, "an is the"), 12)) == list(voice.goes_on(ids, None, 12))
    assert "".join(said) == tokenizer.decode(open_models.go_on(plain, ids, voice.turn[END], 12), skip_special=True)
    with torch.no_grad():
        logits, _ = voice.following(ids)
        want = plain(torch.tensor([ids]))[0, -1]
        assert (logits - want).abs().max() <= 1e-4 * want.abs().max()
        # what is taken for small talk is what it finds likelier
        chat, fact = (tokenizer.encode(kind)[0] for kind in ("chat", "fact"))
        logits, _ = voice.following(*voice.asked(KINDS, "is it?"))
        assert voice.is_small_talk("is it?") == bool(logits[chat] > logits[fact])
    with pytest.raises(UserError, match="a question of"):   # before the open model reads it
        voice.is_small_talk("is it " * 999)


def test_a_sentence_holds_the_answer_or_is_the_answer(made, monkeypatch):
    voice = Voice(*made[:2])
    for said, want in (("He has 12 apples.", "He has 12 apples."), ("He has 13 apples.", "12"), ("", "12"),
                       ("12\nuser", "12"), (" It was 12. ", "It was 12.")):
        monkeypatch.setattr(voice, "goes_on", lambda ids, state, most, said=said: iter(said.partition(" ")))
        assert voice.sentence("How many?", "12") == want
    monkeypatch.setattr(voice, "goes_on", lambda *_: iter(["I don't know, he said."]))
    assert voice.sentence("How many?", "I don't know") == "I don't know"


def test_a_model_that_does_not_converse_says_so(copied, call, state):  # noqa: F811
    with pytest.raises(UserError, match="ChatML"):
        Voice(*open_models.open_base(str(copied)).with_memory(ratio=1))
    code, out, err = call(query, "--model_path", MODEL, "--state_path", "S.pt", "--style", "sentence", "-p", "Who?")
    assert code == 2 and out == "" and one_line(err, "--style sentence", "ChatML")


def typed(*lines):
    """What Chat reads: these lines, and then the end."""
    rest = iter(lines)

    def read(_):
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None
    return read


class Said:
    """A Voice that says what it is told to."""
    def is_small_talk(self, line):
        return line.startswith("How are you")

    def reply(self, line):
        yield from ("I am ", "fine.")

    def sentence(self, question, answer):
        return answer if refused(answer) else f"It is {answer}."


def test_small_talk_does_not_touch_the_memory(loaded, capsys):  # noqa: F811
    read = typed("How are you?", "Amina works at the library.", "Where does Amina work?")
    with LiveMemory(loaded) as memory:
        asked, ask = [], memory.ask
        memory.ask = lambda question, show=None: asked.append(question) or ask(question, show)
        Chat(memory, read, voice=Said()).run()
        out, err = capsys.readouterr()
        assert asked == ["Where does Amina work?"] and len(memory) == 1
        answer = ask(asked[0])
        says = answer.text if refused(answer.text) else f"It is {answer.text}."
        assert out.splitlines() == ["I am fine.", says] and "small talk" in err and "remembered as episode 1" in err
        assert says == answer.text or "from " in err
        Chat(memory, None, as_json=True, voice=Said()).ask({"question": asked[0]})
        assert json.loads(capsys.readouterr().out)["sentence"] == says


def test_ctrl_c_ends_an_answer_and_nothing_else(loaded, capsys):  # noqa: F811
    def reply(_):
        yield "I am "
        raise KeyboardInterrupt

    voice = SimpleNamespace(is_small_talk=Said().is_small_talk, reply=reply)
    with LiveMemory(loaded) as memory:
        assert Chat(memory, typed("How are you?", "/stats"), voice=voice).run() == 0
    out = capsys.readouterr().out
    assert out.startswith("I am \n") and "episodes" in out
