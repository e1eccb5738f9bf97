"""
What the words of a memory say about an answer, beside its address and its keys: where a phrase begins and ends, what is new, what is told twice, and whether what was asked for is something else.

All of it is counted among the traces that are looked at for a question; nothing here is learned. Words are hashes of their stems, 0 = none (see WordCodes), so that what no tokenizer
or training set has seen is counted like the rest.

Ancestors: Harris (1955), From phoneme to morpheme: where what may follow varies a unit ends; minimal pairs (Trubetzkoy 1939, Grundzüge der Phonologie).
"""
import torch
import torch.nn.functional as F

from nanochat.address import find, mix64
from nanochat.state import CHUNK, CONTEXT

BEFORE, AFTER = 9, 9   # tokens before and after a trace's own of which the words are known, as far as the traces beside it know them
HERE = slice(BEFORE - CONTEXT, BEFORE + CHUNK)   # of the words around a trace those of its own record
REACH = 3              # tokens at most between a word and what frames it


def grams(line):
    """
    line (…, 3 + n) int64 token ids -> (…, n, 3) int64: the last token, two tokens and three tokens at each of the n, hashes, of which none is 0.
    """
    one, two, three = line[..., CONTEXT:] + 2, line[..., CONTEXT - 1:-1] + 2, line[..., CONTEXT - 2:-2] + 2   # -1 is none
    return torch.stack([one, mix64(two * 2 ** 20 + one), mix64(mix64(three * 2 ** 20 + two) + one)], dim=-1)


def word_end(words):
    """Where the word that a token is of is complete, (…, n) int64, n where it is not; words (…, n) as of RecallHead.said."""
    complete = torch.where(words != 0, torch.arange(words.shape[-1], device=words.device), words.shape[-1])
    return F.pad(complete.flip(-1).cummin(-1).values.flip(-1)[..., 1:], (0, 1), value=words.shape[-1])


def word_of(words):
    """The word that each token is of, (…, n), 0 where it is not known to be complete; words (…, n) as of RecallHead.said."""
    return F.pad(words, (0, 1)).gather(-1, word_end(words))


def count(hashes, what):
    """How often each of `what` (…, m) stands in hashes (…, n), int64, (…, m)."""
    hashes, what = hashes.sort(dim=-1).values, what.contiguous()
    return torch.searchsorted(hashes, what, right=True) - torch.searchsorted(hashes, what)


def following(words, kind):
    """
    The word right behind the one that is complete at a token, 0 = none, which begins with that token: no punctuation stands between; of all tokens of a trace and the nine before, (B, M, K, 25). words (B, M, K, 34) and
    kind (B, M, K, 32), what each token is of, as of RecallHead.said and WordCodes.
    """
    return word_of(words)[..., :-AFTER] * ((words[..., :-AFTER] != 0) & (kind[..., -BEFORE - CHUNK:] > 0))


def within_phrase(words, behind, all_words, all_behind):
    """
    How surely an entry goes on with the word before it, (B, M, K, 16), 0 to 1: how many of the other places where that stands go on with the same ("tea" after "mint"). words (B, M, K, 34) as of
    RecallHead.said, behind (B, M, K, 25) as of following; all_words, all_behind the same of all candidates, 0 where there is none.
    """
    pair = lambda words, behind: mix64(mix64(words[..., :-AFTER]) + behind) * (behind != 0)
    mine = pair(words, behind)[..., BEFORE:]
    together = count(pair(all_words, all_behind)[..., HERE].flatten(2), mine.flatten(2)).view(mine.shape)
    alone = count(all_words[..., HERE].flatten(2), words[..., BEFORE:-AFTER].flatten(2)).view(mine.shape)
    return F.relu(together - 1) / alone.clamp(min=1) * (mine != 0)


def said_before(line, words, episode, names):
    """
    Whether the words of traces are said by an older episode, too, and how much of what is named it says, (B, M, K, 16), 0 to 1; of a word that the next chunk goes on with, each
    token by itself. line, words (B, M, K, 19), tokens and the words complete there as of RecallHead.said; episode (B, M, K), names (B, M, K), how much each says of it.
    """
    word = word_of(words)
    word = torch.where(word != 0, word, line).int()   # 32 bits of a hash do, and there are many pairs
    same = (word[..., CONTEXT:, None, None] == word[:, :, None, None]).any(-1)                             # (B, M, K, 16, K)
    older = (episode[..., None] > episode[..., None, :]) * names[..., None, :]
    return (same * older[:, :, :, None]).amax(-1)


def collocated(ids, words, behind, fits, episode, owner, token, word):
    """
    What other episodes say for going on with a word, and against it, (B, M) each, 0 to 1. For: the word follows all of the answer so far wherever that is said ("tea" after "hibiscus"), as far
    as those that do not say the answer do not say it, too. Against: the answer is said and something else follows ("in" after "relaxed") or, where nobody says it, the word is said elsewhere
    and always followed by the same word ("wins" after "salsa": "wins me"), as a word that ends a phrase is not ("City" after "Garden"). And, third, whether nobody says either ("nebula" after
    "pretzel"), the more the more traces there are. ids (B, M, C, 16); words (B, M, C, 34) as of RecallHead.said; behind (B, M, C, 25) as of following; fits (B, M, C, 16) bool, the entries that
    go on with all of the answer; episode (B, M, C), -1 = none; owner, token, word (B, M), the episode that is copied from, what comes next and the word that it begins, 0 = none.
    """
    same, others = episode[..., None] == episode[..., None, :], (episode >= 0) & (episode != owner[..., None])
    any_of = lambda traces: (same & traces[..., None, :]).any(-1)                     # ... of its episode
    has, on = fits.any(-1) & others, (fits & (ids == token[..., None, None])).any(-1) & others
    said = (words == word[..., None, None]) & (words != 0)
    rest = others & ~any_of(has)
    n, m, r = has.sum(-1), (any_of(said.any(-1)) & rest).sum(-1), rest.sum(-1)
    rate = on.sum(-1) / n.clamp(min=1)
    said = (said & others[..., None])[..., :-AFTER]
    next_word = (behind * said).flatten(2)
    constant = (count(next_word, next_word) * (next_word != 0)).amax(-1) / (said.flatten(2).sum(-1) + 1)
    novel = (n == 0) & (m == 0) & (word != 0)
    return F.relu(rate - m / r.clamp(min=1)) * n / (n + 1), torch.where(n > 0, (1 - rate) * n / (n + 1), constant), novel * r / (r + CHUNK)


def contrasted(line, number, words, episode, owner, named):
    """
    Which of the words `named` (B, M, W) another episode says where the one that is copied from says something else, (B, M, W) bool: "Ada told me that the spice of choice is mint" beside "Bob told me
    that the tree of choice is oak", of which the latter was found when asked for a spice. That is, within REACH tokens before the word, and behind it, three tokens stand together that the episode
    copied from says, too. Of numbers that says nothing, as they have an order. line (B, M, C, 32), words (B, M, C, 34) as of RecallHead.said; number (B, M, C, 32) bool, which tokens are digits;
    episode (B, M, C); owner (B, M), the episode that is copied from. What is no candidate has no words.
    """
    mine, three = episode == owner[..., None], F.pad(grams(line)[..., 2], (CONTEXT, 0))                              # the three tokens that end at each
    shared = find((three * mine[..., None]).flatten(2).sort(dim=-1).values, three.flatten(2))[1].view(three.shape)
    near = F.pad(shared, (REACH - 1, REACH + 2)).unfold(-1, REACH, 1).any(-1)                                       # ... at it or at one of the REACH - 1 before it
    end, n = line.shape[-1], BEFORE + CHUNK
    before, after = near[..., end - n - 2:end - 2], near[..., end - n + 1 + REACH:end + 1 + REACH]                  # of the words that are complete at the last n tokens
    framed = before & after & ~number[..., end - n - 1:end - 1] & ~mine[..., None]
    return find((words[..., :-AFTER] * framed).flatten(2).sort(dim=-1).values, named)[1]
