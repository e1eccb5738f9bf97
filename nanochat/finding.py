"""
Finding: which episodes a question is about. So far by shared stems, each weighted by how rare it is in this memory (the
idf of BM25, Robertson and Zaragoza 2009); nothing of it is learned yet.
"""
import numpy as np

from nanochat.words import STEMS


def search(asked, said, episode, count):
    """
    The score of each of `count` episodes, (count,) float64. asked: stems of the question, int array, zeros do not
    count; said (N, …): stems of what is remembered, int array; episode (N,): whose each row is, 0 … count - 1.
    """
    asked = np.unique(asked[asked > 0])
    place = np.zeros(STEMS, np.int16)
    place[asked] = np.arange(1, len(asked) + 1)
    which = place[said]
    there = which.nonzero()
    pairs = np.unique(episode[there[0]].astype(np.int64) * len(asked) + which[there] - 1)
    episodes, stems = np.divmod(pairs, max(len(asked), 1))
    often = np.bincount(stems, minlength=len(asked))
    rarity = np.log(1 + (count - often + 0.5) / (often + 0.5))
    return np.bincount(episodes, rarity[stems], minlength=count).astype(np.float64)   # of nothing it counts in integers


def rank(score, most=None):
    """
    The best `most` episodes (None: all), best first, (n,) int: of equal ones that first which stands beside a better
    one, as a reply seldom repeats the words of what it answers, and then the older.
    """
    near = np.zeros(len(score))
    near[1:] += score[:-1]
    near[:-1] += score[1:]
    if most is None or len(score) <= most:
        return np.lexsort((-near, -score))
    some = np.flatnonzero(score >= np.partition(score, -most)[-most])
    return some[np.lexsort((-near[some], -score[some]))][:most]
