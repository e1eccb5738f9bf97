"""dev/ablate.py: each variant changes what it says and is taken back; what was measured is not measured again."""
import json

import pytest
import torch

from dev import ablate
from nanochat import record, tasks
from nanochat.checkpoint_manager import checkpoint_dir, save_checkpoint
from nanochat.common import UserError
from nanochat.engine import answer, ingest
from nanochat.trials import as_state
from tests.conftest import tiny


@pytest.fixture(scope="module")
def model(tokenizer):
    model = tiny(tokenizer, n_head=2, read_topk=4)
    for block in model.blocks:   # zero at first: what is read would not show
        torch.nn.init.normal_(block.attn.proj.weight, std=0.1)
    return model.requires_grad_(False)


LINES = [f"t={t}: The barge lay at quay {t * 7} and carried {t * 31} sacks." for t in range(1, 30)]


def test_each_variant_changes_what_it_says_and_is_taken_back(model, tokenizer, monkeypatch):
    seen, state = [], as_state(model, ingest(model, tokenizer, LINES))

    def hidden():
        """The hidden state at the end of a question, with memory."""
        grid = torch.full((1, 16), tokenizer.pad_id)
        ids = [tokenizer.bos_id, tokenizer.user_id, *tokenizer.encode("Where at t=9?")]
        grid[0, :len(ids)] = torch.tensor(ids)
        return model.segment(grid, {**model.empty_state(1), "traces": state["traces"], "episode": state["episode"]}, keep=False)[0][0, len(ids) - 1]

    config, plain = dict(vars(model.config)), hidden()
    for name, change in ablate.READ.items():
        with ablate.reading(model, change):
            traces = ingest(model, tokenizer, LINES[:4])
            seen.append((name, hidden(), len(set(traces.gist[0, 0].tolist())), vars(model.config) != config))
            assert answer(model, tokenizer, state, "Where at t=9?", max_tokens=2) is not None
        assert vars(model.config) == config and torch.equal(hidden(), plain), name
    x = {name: h for name, h, *_ in seen}
    levels = {name: n for name, _, n, _ in seen}
    assert torch.equal(x["as shipped"], plain) and torch.equal(x["top-k 64"], plain)
    reads = ("indexer: the trace's mean", "read layers without memory", "read layers: top-k 8", "read layers: top-k 256")
    assert all(not torch.equal(x[name], plain) for name in reads) and not torch.equal(x[reads[0]], x[reads[1]])
    assert levels["as shipped"] <= 15 < levels["stored in bf16"]   # 4 bits are 15 levels
    assert record.BITS["gist"] == 4 and {name for name, *_, changed in seen if changed} == {n for n in ablate.READ if n.startswith(("top-k", "candidates", "read layers: ", "without", "recall"))}


def test_the_mean_selects_by_the_attention_s_own_scores(model, tokenizer):
    """Of all traces, the layer's mean logit over the heads: what the joint softmax would see, without the indexer."""
    traces = ingest(model, tokenizer, LINES)
    attn = next(block.attn for block in model.blocks if block.attn.kind == "dsa")
    torch.manual_seed(1)
    x = torch.randn(1, 3, model.config.n_embd)
    with ablate.reading(model, {"index": "mean"}):
        model.read_context(traces, torch.zeros(1, 16, dtype=torch.long), 0, None)
        score = attn.index_scores(x, None)
    q = torch.nn.functional.rms_norm(attn.q(x).view(1, 3, 2, 16), (16,))
    k = torch.nn.functional.rms_norm(attn.memory_k(traces.gist).view(1, -1, 1, 16), (16,)).expand(-1, -1, 2, -1)
    assert torch.allclose(score, torch.einsum("bmhd,bnhd->bmn", q, k) / 2, atol=1e-5)


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablate, "ABLATIONS", str(tmp_path / "rows.jsonl"))
    every = {"a": {}, "b": {}, "c": {}}
    ablate.keep("read", "b", "one", {"exact": 50.0, "n": 3})
    ablate.keep("train", "a", "one", {"exact": 5.0})
    assert ablate.variants("read", every, "one", None) == ["a", "c"] and ablate.variants("read", every, "two", None) == ["a", "b", "c"]
    assert ablate.variants("read", every, "one", ["b"]) == ["b"]
    ablate.keep("read", "b", "one", {"exact": 60.0, "n": 3})
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(r["kind"], r["name"], r["results"]["exact"]) for r in rows] == [("train", "a", 5.0), ("read", "b", 60.0)]
    assert "exact 60.0" in capsys.readouterr().out
    with pytest.raises(UserError, match="no variant nonsense"):
        ablate.main(["train", "--only", "nonsense"])


@pytest.mark.slow
def test_reading_of_variants(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(ablate, "ABLATIONS", str(tmp_path / "rows.jsonl"))
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    save_checkpoint(checkpoint_dir("tiny"), 1, model.state_dict(), None, {"config": model.describe(), "tokenizer": tokenizer.fingerprint})
    asked = []
    monkeypatch.setattr(ablate, "to_ask", lambda n: asked.append(n) or {"timeline 10k": next(tasks.timeline((20,), (1,), n)), "overwrite 64": next(tasks.overwrite((3,), questions=n))})
    assert ablate.main(["read", "--model-path", "base_checkpoints/tiny", "--questions", "4"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [r["name"] for r in rows] == list(ablate.READ) and all(set(r["results"]) == {"timeline 10k", "overwrite 64", "n", "ms a question"} for r in rows)
    assert rows[0]["command"] == "python dev/ablate.py read --model-path base_checkpoints/tiny --questions 4" and rows[0]["results"]["n"] == 4
    assert len(asked) == 3   # told once, and once for each precision of what is stored


@pytest.mark.slow
def test_training_of_variants(tmp_path, monkeypatch):
    """Both commands as they are run, with the smallest of models."""
    tiny = "--device-batch-size 2 --max-seq-len 64 --eval-segments 40 --dtype fp32 --set n_embd=32 --set n_head=2 --set n_kv_head=2 --set gist_dim=16 --set recall_dim=16 --set index_dim=8"
    monkeypatch.setattr(ablate, "ABLATIONS", str(tmp_path / "rows.jsonl"))
    monkeypatch.setattr(ablate, "TRAIN", {"tiny": tiny, "no recall head": f"{tiny} --set recall=false"})
    assert ablate.main(["train", "--steps", "2", "--questions", "3"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [r["name"] for r in rows] == ["tiny", "no recall head"] and all(r["command"] == "python dev/ablate.py train --steps 2 --questions 3" for r in rows)
    a, b = (r["results"] for r in rows)
    assert a["of"] == 3 and a["n"] > 0 and a["text loss"] > 0 and a["seconds a step"] >= 0
    assert set(a) - set(b) == {"evidence first"}   # nothing is addressed
    monkeypatch.setattr(ablate.subprocess, "run", lambda *args, **kw: pytest.fail("measured again"))
    assert ablate.main(["train", "--steps", "2", "--questions", "3"]) == 0
