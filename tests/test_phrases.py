"""What the words of a memory say about an answer (nanochat/phrases.py), each against a plain definition and in the gate or the scores of a model."""
import re

import torch

from nanochat import recall
from nanochat.address import mix64
from nanochat.engine import ingest, question_ids
from nanochat.phrases import AFTER, BEFORE, collocated, contrasted, following, said_before, within_phrase
from nanochat.state import CHUNK
from nanochat.tokenizer import DIGITS
from nanochat.trials import as_state
from tests.test_recall import entries_by, that_reads


def copied(tokenizer, model, state, feed):
    """What is copied after the tokens `feed`, as THENGPT.answer returns it."""
    x, context, _ = model.segment(torch.tensor([feed + [tokenizer.pad_id] * (-len(feed) % CHUNK)]), state)
    return model.answer(x, torch.tensor([[len(feed) - 1]]), context)[1]


def test_what_an_older_episode_says_too_is_said_again():
    line = torch.full((1, 1, 4, 19), -1)
    for k, ids in enumerate(([5, 6], [7, 5], [6, 8, 9], [9])):
        line[0, 0, k, 3:] = 100 + k   # padding that no other trace has
        line[0, 0, k, 3:3 + len(ids)] = torch.tensor(ids)
    line[0, 0, 1, 0] = 8   # before its first entry, and said all the same
    episode, names = torch.tensor([[[4, 2, 6, 6]]]), torch.tensor([[[1.0, 0.5, 0.25, 1.0]]])
    got = said_before(line, torch.zeros_like(line), episode, names)[0, 0]   # no word is known to end: token by token
    assert got[0, :3].tolist() == [0.5, 0.0, 0.0]        # 5 is said by episode 2
    assert got[1].abs().sum() == 0                       # the oldest
    assert got[2, :4].tolist() == [1.0, 0.5, 0.0, 0.0]   # 6 by episode 4, 8 by 2; 9 by its own episode alone
    assert got[3].abs().sum() == 0


def test_a_word_is_said_again_however_it_was_cut_into_tokens():
    line, words = torch.arange(3 * 19).view(1, 1, 3, 19) + 100, torch.zeros(1, 1, 3, 19, dtype=torch.int64)
    line[0, 0, 0, 3:6], words[0, 0, 0, 6] = torch.tensor([1, 2, 3]), 777                       # " c" "ow" "face", complete where "." comes
    line[0, 0, 0, 16:] = torch.tensor([4, 5, 6])                                              # a word that the next chunk goes on with
    line[0, 0, 1, 1:3], words[0, 0, 1, 3] = torch.tensor([7, 8]), 777                          # "cow" "face": before the first entry of the chunk
    line[0, 0, 2, 3:5], words[0, 0, 2, 5], line[0, 0, 2, 10] = torch.tensor([2, 3]), 778, 5    # "owface"; and the end of another word
    got = said_before(line, words, torch.tensor([[[9, 3, 5]]]), torch.tensor([[[1.0, 0.5, 1.0]]]))[0, 0]
    assert got[0].tolist() == [0.5] * 3 + [0.0] * 11 + [1.0, 0.0] and got[1].sum() == 0 and got[2].sum() == 0


def test_a_phrase_goes_on_where_other_episodes_say_so():
    tea, wins, juice, other, mango, hibiscus = range(1, 7)   # tokens, and words alike: of one token, complete where the next stands
    def told(*lines):
        """What collocated is given of lines ([words], answer so far), each word followed by the next."""
        ids, words, fits = torch.full((1, 1, len(lines), CHUNK), 9), torch.zeros(1, 1, len(lines), 34, dtype=torch.int64), torch.zeros(1, 1, len(lines), CHUNK, dtype=torch.bool)
        for k, (said, answer) in enumerate(lines):
            ids[0, 0, k, :len(said)], words[0, 0, k, BEFORE + 1:BEFORE + 1 + len(said)] = torch.tensor(said), torch.tensor(said)
            for j in range(1, len(said)):
                fits[0, 0, k, j] = said[j - 1] == answer
        return ids, words, following(words, torch.ones_like(words[..., :2 * CHUNK])), fits
    number = lambda *n: torch.tensor([[list(n)]])
    # "hibiscus" is being said by episode 7; of three others that say it all go on with "tea", of two that do not one says "tea"
    lines = [([hibiscus, tea], hibiscus), ([other, hibiscus, tea], hibiscus), ([hibiscus, tea], hibiscus), ([hibiscus, tea, juice], hibiscus), ([other, tea], hibiscus), ([mango, juice], hibiscus)]
    pro, con, novel = collocated(*told(*lines), number(7, 1, 2, 3, 4, 5), torch.tensor([[7]]), torch.tensor([[tea]]), torch.tensor([[tea]]))
    assert pro.item() == (1 - 1 / 2) * 3 / 4 and con.item() == 0
    # what every other episode says anyhow, and what follows in no other, speaks for nothing
    lines[5] = ([mango, tea], hibiscus)
    assert collocated(*told(*lines), number(7, 1, 2, 3, 4, 5), torch.tensor([[7]]), torch.tensor([[tea]]), torch.tensor([[tea]]))[0].item() == 0
    pro, con, novel = collocated(*told(*lines), number(7, 1, 2, 3, 4, 5), torch.tensor([[7]]), torch.tensor([[wins]]), torch.tensor([[wins]]))
    assert pro.item() == 0 and con.item() == 3 / 4
    # the answer so far is said by nobody else, its next word by three others, which go on with the same, or do not, or not at all; one more that says it is none
    for behind, expected in (((mango,) * 3, 3 / 4), ((mango, mango, other), 2 / 4), ((mango, None, None), 1 / 4), ((None,) * 3, 0)):
        lines = [([hibiscus, wins, tea], hibiscus)] + [([juice, wins] + [word] * (word is not None), hibiscus) for word in (*behind, tea)] + [([other, other], hibiscus)]
        pro, con, novel = collocated(*told(*lines), number(7, 1, 2, 3, -1, 4), torch.tensor([[7]]), torch.tensor([[wins]]), torch.tensor([[wins]]))
        assert pro.item() == 0 and abs(con.item() - expected) < 1e-6
    pro, con, novel = collocated(*told(*lines), number(7, 7, 7, 7, 7, 7), torch.tensor([[7]]), torch.tensor([[wins]]), torch.tensor([[wins]]))
    assert pro.item() == con.item() == 0   # what the episode itself says more than once is no evidence
    # neither is said by any other episode; of a word that is not known to be complete nothing can be said
    lines = [([mango, wins], mango)] + [([other, juice, tea], mango)] * 4
    for word, expected in ((wins, 4 / 20), (juice, 0), (0, 0)):
        pro, con, novel = collocated(*told(*lines), number(7, 1, 2, 3, 4), torch.tensor([[7]]), torch.tensor([[wins]]), torch.tensor([[word]]))
        assert pro.item() == 0 and abs(novel.item() - expected) < 1e-6 and (con.item() > 0) == (word == juice)
    # ... nor is it new where the answer is said elsewhere and goes on otherwise
    lines[1] = ([mango, juice], mango)
    assert collocated(*told(*lines), number(7, 1, 2, 3, 4), torch.tensor([[7]]), torch.tensor([[wins]]), torch.tensor([[wins]]))[2].item() == 0


def test_new_words_go_on_with_an_answer_where_they_are_rare(monkeypatch):
    tokenizer, model = that_reads()
    logit = {}
    with torch.no_grad():
        for key, counts in (("pretzel toboggan", True), ("pretzel over", False), ("pretzel. Toboggan", False)):   # frequent words are of one token; what ends a sentence is no word
            state = as_state(model, ingest(model, tokenizer, [*(f"Nobody has {n} of it" for n in range(1, 31)), f"The key is {key} now"]))
            feed = [*question_ids(tokenizer, "What is the key?"), *tokenizer.encode(" pretzel")]
            for novel in (0.0, 2.5):
                monkeypatch.setattr(recall, "NOVEL", novel)
                copy = copied(tokenizer, model, state, feed)
                logit[novel] = copy["g"].logit().item()
            assert copy["entries"][0].amax() > 0.99
            assert abs(logit[2.5] - logit[0.0] - counts * 2.5 * 30 / (30 + CHUNK)) < 0.05, key




def looked_at(tokenizer, model, texts):
    """The traces of the texts, what `said` returns of them, and what kind each token is of."""
    traces = ingest(model, tokenizer, texts)
    line, words = model.recall.said(traces, torch.arange(len(traces))[None, None])
    return traces, line, words, model.recall.kind(line)


def hashed(tokenizer, model, *texts):
    """The hashes of words, as `said` returns them."""
    ids = [tokenizer.encode(f" {text}.") for text in texts]
    codes = lambda line: mix64(model.recall.address.codes(line, torch.zeros_like(line, dtype=torch.bool), torch.zeros(1, 6, dtype=torch.int64), numbers=False))
    return [codes(torch.tensor([line]))[0, -1].item() for line in ids]


def test_a_word_is_followed_by_the_one_right_behind_it_wherever_chunks_end():
    text = "Nasr City, as the Wolfenbüttler xylophonist said; was hotter (than 271828 other zanzibarite quartermasters). Mint tea or hibiscus tea, then?"
    tokenizer, model = that_reads()
    for shift in range(CHUNK):
        _, _, words, kind = looked_at(tokenizer, model, ["of " * shift + text])
        got = following(words, kind)[0, 0][:, BEFORE:]
        own = words[0, 0][:, BEFORE:-AFTER]
        found = {(a, b) for a, b in zip(own.flatten().tolist(), got.flatten().tolist()) if b}
        pairs = re.findall(r"(?=\b(\w+) (\w+))", "of " * shift + text)
        pairs = [(a, b) for a, b in pairs if tokenizer.encode(" " + b)[0] != tokenizer.encode(" ")[0]]   # where the space is a token by itself it stands between
        expected = {tuple(hashed(tokenizer, model, *pair)) for pair in pairs}
        long = {tuple(hashed(tokenizer, model, *pair)) for pair in pairs if "zanzibarite" in pair or "Wolfenbüttler" in pair}
        assert found <= expected and expected - found <= long, shift   # a word of many tokens may end beyond what is known of the next chunk
        assert len(found) >= 9


def test_an_entry_is_within_a_phrase_where_other_places_say_so():
    tokenizer, model = that_reads()
    traces, _, words, kind = looked_at(tokenizer, model, ["Ada had mint tea.", "Bob had mint tea.", "Zoe had mint tea, too.", "Eve had mint juice."])
    behind = following(words, kind)
    got = within_phrase(words, behind, words, behind)[0, 0]
    at = lambda k, word: got[k, traces.ids[0, k].tolist().index(tokenizer.encode(" " + word)[0])].item()
    assert at(0, "had") == 0 and at(0, "mint") == 3 / 4    # "had" goes on with "mint" in all three other places
    assert at(0, "tea") == at(2, "tea") == 2 / 4 and at(3, "juice") == 0
    nobody = torch.zeros_like(words), torch.zeros_like(behind)
    assert (within_phrase(words, behind, *nobody) == 0).all()


def test_an_answer_does_not_begin_within_a_phrase(monkeypatch):
    tokenizer, model = that_reads()
    entries = entries_by(monkeypatch, "WITHIN")
    with torch.no_grad():
        state = as_state(model, ingest(model, tokenizer, ["Ada likes mint tea.", "Bob wants mint tea.", "Zoe has mint tea."]))
        for said, expected in (("", 3 * 2 / 3), (" mint", 0)):   # once it has begun it may go on
            for within in (0.0, 3.0):
                monkeypatch.setattr(recall, "WITHIN", within)
                model(torch.tensor([[*question_ids(tokenizer, "What do they drink?"), *tokenizer.encode(said)]]), state=state)
            change = {i: c for i, c in zip(entries[0.0][1].tolist(), (entries[3.0][0] / entries[0.0][0]).log().tolist()) if c == c}
            first = lambda word: change[tokenizer.encode(word)[0]]
            assert abs(first(" mint") - first(" tea") - expected) < 1e-3, said


def test_what_is_contrasted_stands_where_the_episode_says_something_else():
    tokenizer, model = that_reads()
    traces, line, words, kind = looked_at(tokenizer, model, [
        "Ada told me that the spice of choice is mint.", "Bob told me that the tree of choice is oak.", "Spice is nice.", "At t=77 the user was out.", "At t=78 the user was in."])
    named = ["spice", "tree", "Ada", "Bob", "choice", "nice", "78", "Eve"]
    hashes, number = torch.tensor(hashed(tokenizer, model, *named))[None, None], kind == DIGITS
    episode = traces.episode[:, None].clone()

    def of(owner):
        hit = contrasted(line, number, words, episode, torch.tensor([[owner]]), hashes)[0, 0]
        return {word for word, there in zip(named, hit.tolist()) if there}

    assert of(2) == {"spice", "Ada"} and of(1) == {"tree", "Bob"}
    assert of(3) == set() and of(4) == set()   # "t=78" stands where it says "t=77", but numbers have an order
    words[:, :, traces.episode[0] == 1] = 0    # what is no candidate says nothing
    assert of(2) == set()


def test_an_answer_is_doubted_where_what_was_asked_for_is_something_else_or_a_stranger(monkeypatch):
    tokenizer, model = that_reads()
    salience, logit = model.recall.address.salience, {}
    with torch.no_grad():
        state = as_state(model, ingest(model, tokenizer, ["Ada told me that the spice of choice is mint.", "Bob told me that the tree of choice is oak."]))
        for asked, bias, constants in (("spice that Bob told me?", 0.0, ("CONTRAST", 16 * 0.25)), ("spice that Bob told me?", 5.0, ("STRANGE", 0)),
                                       ("Who is Zoe?", 0.0, ("STRANGE", 0)), ("Who is Zoe?", 5.0, ("STRANGE", 10 * (torch.tensor(5.0).sigmoid().item() - 2 / 3))), ("Who is Zoe?", 5.0, ("CONTRAST", 0))):
            salience.bias.fill_(bias)
            name, expected = constants
            for value in (0.0, {"CONTRAST": 16.0, "STRANGE": 10.0}[name]):
                monkeypatch.setattr(recall, name, value)
                logit[value > 0] = copied(tokenizer, model, state, question_ids(tokenizer, asked))["g"].logit().item()
            assert abs(logit[False] - logit[True] - expected) < 1e-3, (asked, bias, name)
