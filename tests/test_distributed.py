"""
Several ranks, on CPUs through gloo: the same training and ingest as in one process, and what is saved can be gone on
from. No GPU has run this.
"""
import json
import pickle
import random

import pytest
import torch

from nanochat import distributed
from nanochat.checkpoint_manager import find_last_step, load_checkpoint
from nanochat.common import UserError, fast_dtype, seed_everything
from nanochat.dataloader import StreamLoader, dealt_anew, furthest
from nanochat.dataset import list_shards, write_shards
from nanochat.distributed import Ranks
from nanochat.optim import MuonAdamW, lr_multiplier
from nanochat.tbptt import Window
from nanochat.tokenizer import Tokenizer
from scripts import ingest
from scripts.base_train import build_model, build_parser, main, question_data
from tests.ranks import launch
from tests.test_base_train import TINY, flat, life


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """
    One start of two processes: three steps of DDP and of FSDP2, saved after two, and each gone on from there; and
    ingest, twice.
    """
    work = tmp_path_factory.mktemp("ranks")
    told = [life(random.Random(n)) for n in range(16)]
    write_shards(["".join(f"<|bos|>{line}<|end|>" for line, _, _ in lines) for lines in told], work / "data", 12)
    questions = lambda lines: [{"q": q, "a": a, "evidence": [i]} for i, (_, q, a) in enumerate(lines)]
    memories = [{"src": "rooms", "sents": [line for line, _, _ in lines], "qas": questions(lines)} for lines in told]
    (work / "data/rooms.jsonl").write_text("".join(json.dumps(memory) + "\n" for memory in memories))
    train = ["scripts.base_train", *flags(work), "--num-iterations", "3", "--save-every", "2"]
    runs, checkpoints = [], work / "base_checkpoints"
    for name, more in (("ddp", []), ("fsdp", ["--fsdp"])):
        runs += [[*train, "--tag", name, *more], ["copy", str(checkpoints / name), str(checkpoints / f"{name}_again")],
                 [*train, "--tag", f"{name}_again", "--resume", "2", *more]]
    (work / "diary.txt").write_text("".join(f"t={i}: The user was in Oslo" + ", and it rained" * (i % 7) + ".\n"
                                            for i in range(41)))
    runs += [["scripts.ingest", *diary(work, "two"), *more] for more in ([], ["--append"])]
    done = launch(2, runs, env={"NANOCHAT_BASE_DIR": str(work)})
    assert done.returncode == 0, done.stderr[-9000:]
    assert done.stdout.count("step 00003 ") == 4   # one rank prints
    (work / "summaries").write_text("".join(line for line in done.stdout.splitlines(True) if line.startswith("{")))
    return work


def diary(work, name):
    return ["--model-path", str(work / "base_checkpoints/ddp_again"), "--data-path", str(work / "diary.txt"),
            "--output-path", str(work / f"{name}.pt"), "--dtype", "fp32", "--json"]


def flags(work):
    return [*TINY, "--data-dir", str(work / "data"), "--total-batch-size", "1024", "--eval-every", "100"]


def metrics(work, tag, kind="step"):
    rows = [json.loads(line) for line in (work / "base_checkpoints" / tag / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


@pytest.fixture(scope="module")
def alone(work):
    """The same three steps in one process: the windows of both ranks, accumulated."""
    args = build_parser().parse_args(flags(work))
    tokenizer = Tokenizer.load()
    seed_everything(args.seed)
    model = build_model(args, tokenizer, torch.device("cpu"), torch.float32)
    before = {name: w.clone() for name, w in model.state_dict().items()}
    window, shards = Window(model, {"text": args.text_loss_weight}, args.train_memory), list_shards(work / "data")[:1]
    rates = args.matrix_lr, args.embedding_lr, args.head_lr, args.table_lr, args.scalar_lr
    optimizer = MuonAdamW(model.parameter_groups(*rates))
    lanes = []
    for rank in range(2):
        seed_everything(1_000_003 + rank)
        asked = question_data(args, model, tokenizer, Ranks(rank, 2))[0]((0, 0))
        lived = StreamLoader(shards, tokenizer, 2, 64, rank, 2)
        lanes.append([lived, model.empty_state(2), torch.get_rng_state(), asked])
    rows = []
    for step in range(3):
        total = 0
        for lane in lanes:
            torch.set_rng_state(lane[2])
            for _ in range(2):
                loss, _, lane[1] = window([next(lane[0]), next(lane[0])], lane[1], next(lane[3]))
                (loss / 4).backward()
                total += loss.item() / 4
            lane[2] = torch.get_rng_state()
        rows.append({"total": total,
                     "norm": float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()
                                                                  if p.grad is not None]))})
        optimizer.scale_lr(lr_multiplier((step + 0.5) / 3, 1.0, 0.01, 0.5, final=0.02, start=0.1))
        optimizer.step()
        optimizer.zero_grad()
    return before, model.state_dict(), rows


@pytest.mark.parametrize("tag", ["ddp", "fsdp"])
def test_two_ranks_are_one_process_that_accumulates(work, alone, tag):
    before, weights, rows = alone
    for step, (ours, theirs) in enumerate(zip(rows, metrics(work, tag), strict=True)):
        for name in ("total", "norm"):   # rounding of bf16 in Muon comes in with the first update
            assert theirs[name] == pytest.approx(ours[name], rel=1e-5 if step == 0 else 1e-2), (step, name)
    saved = load_checkpoint(work / "base_checkpoints" / tag, 3, parts=("model",))
    got = saved.model
    assert saved.meta["config"]["model_class"] == "THENGPT"   # ingest and query take it, however it was trained
    assert got.keys() == weights.keys()
    # as a whole: where a gradient is nothing but rounding, AdamW takes its sign for a direction, and Muon, which a CPU
    # with bf16 computes in it, makes as much of the least singular values as of the others (0.19 with AMX)
    bf16 = fast_dtype(torch.device("cpu"))[0] == torch.bfloat16
    for name, w in weights.items():
        moved, apart = (w.double() - before[name].double()).norm(), (got[name].double() - w.double()).norm()
        assert apart <= (0.25 if bf16 else 0.1) * moved, (name, moved, apart)


def test_a_resumed_run_is_the_same_run_on_every_rank(work):
    for rank in range(2):
        for name in ("ddp", "fsdp"):
            one, two = (dict(flat(load_checkpoint(work / "base_checkpoints" / tag, 3, parts=("model", "optim", "state"),
                                                  rank=rank)._asdict()))
                        for tag in (name, f"{name}_again"))
            skip = ("seconds", "/resume", "/tag")
            assert one.keys() == two.keys() and len(one) > 100
            differ = [k for k in one if not k.endswith(skip)
                      and not (torch.equal(one[k], two[k]) if isinstance(one[k], torch.Tensor) else one[k] == two[k])]
            assert not differ, differ[:3]
    assert metrics(work, "fsdp")[-1]["norm"] == metrics(work, "fsdp_again")[-1]["norm"]


def test_each_rank_has_its_own_life(work):
    one, two = (load_checkpoint(work / "base_checkpoints" / "ddp", 3, parts=("state",), rank=rank).train_state
                for rank in range(2))
    assert not torch.equal(one["state"]["traces"]["ids"], two["state"]["traces"]["ids"])
    documents = [{tuple(row["document"]) for row in lived["position"]["rows"]} for lived in (one, two)]
    assert documents[0].isdisjoint(documents[1]) and not torch.equal(one["rng"]["torch"], two["rng"]["torch"])


def test_shards_are_read_by_another_number_of_ranks(work):
    """
    Two ranks saved, three go on, with rates of zero: the weights must be the same, and Muon's momentum must go on from
    what was there.
    """
    again = ["scripts.base_train", *flags(work)[:-4], "--eval-every", "100", "--fsdp", "--num-iterations", "3",
             "--lr-scale", "0", "--tag", "fsdp_three", "--resume", "2"]
    done = launch(3, [["copy", str(work / "base_checkpoints/fsdp_again"), str(work / "base_checkpoints/fsdp_three")],
                      again], env={"NANOCHAT_BASE_DIR": str(work)})
    assert done.returncode == 0, done.stderr[-9000:]
    assert "goes on with 3 ranks, 2 streams, 64 slots: what the streams remember is dropped" in done.stderr
    before, after = (load_checkpoint(work / "base_checkpoints/fsdp_three", step, parts=("model",)) for step in (2, 3))
    assert all(torch.equal(before.model[name], after.model[name]) for name in before.model)
    assert after.meta["shape"]["ranks"] == 3


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_shards_run_no_code_and_stay_in_their_directory(work, tmp_path):
    """Whatever lies in the directory of a step, pickled metadata of torch's own form included. One process reads it."""
    import shutil
    import torch.distributed as dist
    from nanochat.distributed import load_shards
    folder = shutil.copytree(work / "base_checkpoints/fsdp/shards_000003", tmp_path / "shards")
    assert sorted(p.name for p in folder.iterdir()) == ["index.json", "rank_00000.pt", "rank_00001.pt", "whole.pt"]
    assert all(torch.load(p, weights_only=True) for p in folder.glob("*.pt"))   # plain for torch, too
    args, good = build_parser().parse_args(flags(work)), {p.name: p.read_bytes() for p in folder.iterdir()}
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        model = build_model(args, Tokenizer.load(), torch.device("cpu"), torch.float32)
        distributed.shard(model, torch.device("cpu"))
        optimizer = MuonAdamW(model.parameter_groups())

        names = {"index": "index.json", "first": "rank_00000.pt", "whole": "whole.pt", "old": ".metadata"}

        def read(**changed):
            for name, data in good.items():
                (folder / name).write_bytes(data)
            for name, change in changed.items():
                change(folder / names[name])
            load_shards(model, optimizer, folder)

        read()   # one process takes both ranks' rows
        saved = load_checkpoint(work / "base_checkpoints/fsdp", 3, parts=("model",)).model
        full = lambda w: w.full_tensor() if hasattr(w, "full_tensor") else w
        assert all(torch.equal(full(w), saved[name]) for name, w in model.state_dict().items())
        evil = lambda path: torch.save(Evil(tmp_path / "ran"), path)
        for name in ("first", "whole"):
            with pytest.raises(UserError, match="more than plain data"):
                read(**{name: evil})
        read(old=lambda path: path.write_bytes(pickle.dumps(Evil(tmp_path / "ran"))))
        with pytest.raises(UserError, match="no index.json"):
            read(index=lambda path: path.unlink())
        begun = lambda row: good["index.json"].replace(b"[", b"[" + row + b", ")
        for text, message in ((b"{", "damaged"), (b"{}", "other tensors"), (begun(b"1e300"), "other tensors"),
                              (begun(b"7"), "numbers of rows")):
            with pytest.raises(UserError, match=message):
                read(index=lambda path: path.write_bytes(text))
        with pytest.raises(UserError, match="missing, or of another shape"):
            read(first=lambda path: torch.save({}, path))
        assert not (tmp_path / "ran").exists()
    finally:
        distributed.stop()


def test_one_process_goes_on_from_two_ranks(work, monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(work))
    reached = load_checkpoint(work / "base_checkpoints/ddp", 3).meta["reached"]
    assert main([*flags(work), "--tag", "ddp", "--num-iterations", "4", "--resume", "latest"]) == 0
    err = capsys.readouterr().err
    assert "trained with 2 ranks, 2 streams, 64 slots, and goes on with 1 ranks" in err and "dropped" in err
    saved = load_checkpoint(work / "base_checkpoints/ddp", 4)
    assert saved.meta["shape"]["ranks"] == 1 and saved.meta["reached"] >= reached
    assert not (work / "base_checkpoints/ddp/state_000004.1.pt").exists()
    with pytest.raises(UserError, match="saved with --fsdp"):
        main([*flags(work), "--tag", "fsdp", "--num-iterations", "4", "--resume", "latest"])
    with pytest.raises(UserError, match="torchrun"):
        main([*flags(work), "--fsdp"])


def test_a_step_without_the_file_of_a_rank_is_not_there(work, tmp_path):
    import shutil
    copy = shutil.copytree(work / "base_checkpoints/fsdp", tmp_path / "copy")
    (copy / "state_000003.1.pt").unlink()
    assert find_last_step(copy) == 2
    next((copy / "shards_000002").iterdir()).unlink()
    assert find_last_step(copy) is None


def test_streams_are_dealt_anew_from_the_furthest_rank():
    positions = [{"epoch": 0, "next": [1, 5]}, {"epoch": 0, "next": [2, 1]}, {"epoch": 0, "next": [0, 9]}]
    assert furthest(positions) == [0, 2, 1] and furthest([*positions, {"epoch": 1, "next": [0, 0]}]) == [1, 0, 0]
    assert dealt_anew([1, 0, 3], 2, 64)["next"] == [0, 3] and len(dealt_anew([1, 0, 3], 2, 64)["rows"]) == 2


@pytest.mark.parametrize("n, world", [(0, 1), (7, 1), (7, 3), (2, 5), (64, 8)])
def test_parts_are_everything_once_and_in_order(n, world):
    parts = [range(n)[Ranks(rank, world).part(n)] for rank in range(world)]
    assert [i for part in parts for i in part] == list(range(n)) and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_ingest_over_ranks_writes_the_same_bytes(work):
    assert ingest.main(diary(work, "one")) == 0
    first, second = map(json.loads, (work / "summaries").read_text().splitlines())   # one rank prints
    assert (first["episodes"], first["added"], second["added"], second["skipped"]) == (41, 41, 0, 41)
    for kind in (".pt", ".traces"):
        assert (work / f"one{kind}").read_bytes() == (work / f"two{kind}").read_bytes()
