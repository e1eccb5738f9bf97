"""
nanochat/view.py: the page holds what the memory holds, and nothing in it can get out; in a browser, where there is one.
"""
import html
import json
import re
import shutil
import subprocess

import pytest

from nanochat.memory import Store
from nanochat.tokenizer import Tokenizer
from nanochat.view import trace_words
from scripts import memory, query
from tests.test_live_memory_api import LONG, live, loaded  # noqa: F401  fixtures
from tests.test_scripts import QUERY, TIMELINE, base, call, here, one_line  # noqa: F401  fixtures

HOSTILE = ("</script><script>document.title='owned'</script> <img src=x onerror=\"document.title='owned'\"> \x1b[2J "
           "\u2028 {{data}}")
BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
                if (path := shutil.which(name))), None)
VIEW = ("view", "--state_path", "S.pt", "--out", "memory.html")


@pytest.fixture
def kept(live, here):
    """S.pt with a timeline, a hostile line and a long one, and the answers to three questions."""
    with live() as memory_:
        memory_.ingest(TIMELINE, source="log.txt", time=1_700_000_000)
        memory_.say(HOSTILE)
        memory_.say(LONG + "\U0001f408" * 40)
    return here


@pytest.fixture
def answers(kept, call):
    (kept / "q.jsonl").write_text("\n".join(json.dumps({"question": q})
                                            for q in ("What did the user prefer at t=2?", HOSTILE, "What came?")))
    code, out, _ = call(query, *QUERY, "--questions", "q.jsonl", "--routing")
    assert code == 0
    (kept / "a.jsonl").write_text(out)
    return "a.jsonl"


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_holds_every_episode_trace_by_trace(kept, call, answers):
    code, out, err = call(memory, *VIEW, "--answers", answers)
    assert code == 0 and out == "" and "5 episodes" in err
    text = (kept / "memory.html").read_text()
    data = data_of(text)
    assert ["".join(words) for words, *_ in data["episodes"]] == [*TIMELINE, HOSTILE, LONG + "\U0001f408" * 40]
    with Store("S.pt") as store:
        assert [len(e[0]) for e in data["episodes"]] == store.content.traces.tolist()
        assert [len(e[1]) for e in data["episodes"]] == store.content.traces.tolist()
        assert [sum(e[1]) for e in data["episodes"]] == [len(ids) for ids in store.episode_ids()]
        assert data["stride"] == store.layout.stride and data["header"] == 64
    assert [e[2:] for e in data["episodes"]] == [[0, n, 1_700_000_000] for n in (1, 2, 3)] + [[-1, -1, -1]] * 2
    assert data["sources"] == ["log.txt"]
    assert [len(q["routing"]) > 0 for q in data["questions"]] == [True] * 3
    assert data["questions"][0]["routing"] == json.loads((kept / answers).read_text().splitlines()[0])["routing"]


def test_the_page_asks_nothing_of_the_network_and_runs_nothing_of_the_memory(kept, call, answers):
    assert call(memory, *VIEW, "--answers", answers)[0] == 0
    text = (kept / "memory.html").read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"(?:src|href)\s*=|url\(|https?:|@import|fetch\(|innerHTML|\beval\b",
                         text.replace("src=x onerror", ""))
    assert text.count("<script") == 2 and "<img" not in text, "what stands in the memory is data"
    data = data_of(text)
    told, asked = "".join(data["episodes"][3][0]), data["questions"][1]["question"]
    assert told == asked == HOSTILE, "{{data}}, too, is what it was"


def test_the_newest_of_many(kept, call):
    code, out, _ = call(memory, *VIEW, "--last", 2, "--json")
    assert code == 0 and json.loads(out)["episodes"] == 2
    data = data_of((kept / "memory.html").read_text())
    assert data["first"] == 4 and len(data["episodes"]) == 2 and "the newest 2" in data["about"]
    with Store("S.pt") as store:
        assert data["first_record"] == sum(store.content.traces[:3])


def test_an_empty_memory_is_a_page(kept, call):
    assert call(memory, "wipe", "--state_path", "S.pt", "--yes")[0] == 0
    assert call(memory, *VIEW)[0] == 0 and data_of((kept / "memory.html").read_text())["episodes"] == []


def test_what_is_no_answer_is_refused_and_leaves_the_page_as_it_was(kept, call, answers):
    (kept / "memory.html").write_text("before")
    good = (kept / answers).read_text()
    for content, message in ((good + "{}\n", "line 4: not an answer"), (good + "[1]\n", "line 4"), ("text\n", "line 1"),
                             (good.replace('"episode": ', '"episode": 9'), "ask it again"),
                             ('{"question": "?", "answer": "", "confidence": NaN, "episodes": []}', "line 1"),
                             ('{"question": "?", "answer": "", "confidence": 1, "episodes": [{"episode": 1e999, '
                              '"score": 1}]}', "line 1")):
        (kept / "bad.jsonl").write_text(content)
        code, out, err = call(memory, *VIEW, "--answers", "bad.jsonl")
        assert code in (1, 2) and out == "" and one_line(err, message)
        assert (kept / "memory.html").read_text() == "before"
    before = [(kept / name).read_bytes() for name in ("S.pt", "S.traces")]
    assert all(call(memory, *VIEW, "--out", name)[0] == 2 for name in ("S.pt", "S.traces"))
    assert before == [(kept / name).read_bytes() for name in ("S.pt", "S.traces")]
    assert call(memory, *VIEW, "--last", "0")[0] == 2 and call(memory, *VIEW, "--answers", "none.jsonl")[0] == 1


def test_a_character_that_a_trace_cuts_is_whole(loaded):
    import numpy as np
    tokenizer = Tokenizer.load()
    text = "".join("\U0001f408\u00e9" for _ in range(30))
    words, tokens = trace_words(tokenizer, np.array([tokenizer.bos_id, *tokenizer.encode(text), tokenizer.end_id]), 16)
    assert "".join(words) == text and "\ufffd" not in "".join(words) and len(words) == len(tokens) > 1


def browse(directory, address, *flags):
    done = subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                           f"--user-data-dir={directory / 'profile'}",
                           "--virtual-time-budget=2000", *flags, address], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-1000:]
    return done.stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium to show it in")
def test_in_a_browser_it_shows_the_memory_and_the_routing(kept, call, answers):
    assert call(memory, *VIEW, "--answers", answers)[0] == 0
    # the page, then what a person would do: another question, a search, a look into an episode
    script = """<script>
    const probe = [];
    const count = (what) => document.querySelectorAll(what).length;
    at("question").value = 1; at("question").onchange();
    probe.push(at("answer").textContent.length, count("summary .share"));
    at("search").value = "OSLO"; search(); probe.push(found.length, count("mark"), count("details"));
    open(episodes[4]); document.getElementById("e5").ontoggle(); probe.push(count("#e5 li"), found.length);
    at("by-heat").checked = true; at("question").value = 0; at("question").onchange(); probe.push(found[0].id);
    canvas.onclick({offsetX: 0}); probe.push(document.documentElement.scrollWidth <= innerWidth, document.title);
    document.body.dataset.probe = JSON.stringify(probe);
    </script></body>"""
    path = kept / "memory.html"
    path.write_text(path.read_text().replace("</body>", script))
    shown = browse(kept, path.as_uri(), "--dump-dom", "--window-size=390,844")
    got = json.loads(html.unescape(re.search(r'data-probe="(.*?)"', shown)[1]))
    data = data_of(path.read_text())
    best = max(data["questions"][0]["routing"], key=lambda r: (r[1], -r[0]))[0]
    assert got[0] > 0 and got[1] == len(data["questions"][1]["routing"]) and got[2:5] == [1, 1, 1]
    assert got[5:7] == [len(data["episodes"][4][0]), 5] and got[7] == best and got[8:] == [True, "S.pt \u2013 memory"]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium to show it in")
@pytest.mark.parametrize("size", ["1280,900", "390,844"])
@pytest.mark.parametrize("scheme", ["0", "1"])
def test_a_screenshot_is_not_empty(kept, call, answers, size, scheme):
    assert call(memory, *VIEW, "--answers", answers)[0] == 0
    browse(kept, (kept / "memory.html").as_uri(), f"--screenshot={kept / 'page.png'}", f"--window-size={size}",
           f"--blink-settings=preferredColorScheme={scheme}")
    data = (kept / "page.png").read_bytes()
    assert data[:4] == b"\x89PNG"
    assert [int.from_bytes(data[at:at + 4], "big") for at in (16, 20)] == [int(n) for n in size.split(",")]
    assert len(data) > 10_000
