"""dev/plot_recall.py: draws what there is."""
import json

import pytest

from dev import plot_recall
from nanochat.common import UserError

pytest.importorskip("matplotlib")


def cell(task, control="memory", **facts):
    return {"task": task, "control": control, "n": 20, "exact": 80.0, "guess": 12.0, "by_depth": {"0.0": [75.0, 8], "0.9": [83.3, 12]}, **facts}


def test_every_panel_is_drawn(tmp_path, monkeypatch):
    metrics = [{"kind": "eval", "step": s, "first": 50.0 + s, "routed": 60.0, "first_empty": 10.0} for s in (1, 2)]
    timeline = [cell("timeline", control, steps=steps, seed=seed, ask="point") for steps, seeds in ((1000, (1, 2)), (10000, (1, 2)), (100000, (1,)))
                for seed in seeds for control in ("memory", "none")]
    keys = [cell("passkey", form=form, depth=depth, needles=needles, distractors=0, **length) for form in ("digits", "uuid") for depth in (0, 0.5, 1.0)
            for needles in (1, 2) for length in ({"steps": 10000}, {"tokens": 100000})]
    drawn = {}
    for name in ("training", "against_controls", "by_depth", "passkeys"):
        how = getattr(plot_recall, name)
        monkeypatch.setattr(plot_recall, name, lambda axes, rows, how=how, name=name: (how(axes, rows), drawn.update({name: axes})))

    def draw(metrics, cells):
        for name, rows in (("m.jsonl", metrics), ("c.jsonl", cells)):
            (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
        drawn.clear()
        return plot_recall.main(["--metrics", str(tmp_path / "m.jsonl"), "--cells", str(tmp_path / "c.jsonl"), "--output", str(tmp_path / "p.png")])

    assert draw(metrics, timeline + keys) == 0 and (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert list(drawn) == ["training", "against_controls", "by_depth", "passkeys"]
    assert "10,000 episodes" in drawn["against_controls"].get_title()   # not the length that one seed alone has
    curve = drawn["by_depth"].get_lines()[0]
    assert len(drawn["by_depth"].get_lines()) == 3 and list(curve.get_xdata()) == pytest.approx([0.05, 0.95]) and curve.get_ydata()[0] == pytest.approx(75.0)
    assert [label.get_text() for label in drawn["passkeys"].get_yticklabels()] == ["10,000 steps, digits", "10,000 steps, uuid", "100,000 tokens, digits", "100,000 tokens, uuid"]
    assert draw(metrics, []) == 0 and list(drawn) == ["training"]
    with pytest.raises(UserError, match="nothing to draw"):
        draw([], [])
