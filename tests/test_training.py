"""Both training stages on a tiny rendered world: what changes no result, and what stops a run."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import BASE, NOVEL, ROOT, free_port, in_processes, start_processes

import data
import detect_humans
import ovstad
import train_align
import train_finetune
import training
import worlds
from data import GlobalBatches

SMALL = ("--scale 48 54 --short-side 48 --stride 2 --workers 0 --log-every 1 --warmup 0 "
         "--device cpu --iterations 1 --batch-size 4").split()


def flags(world, script, out, *more):
    source = (["--csv", world / "align.csv"] if script is train_align
              else ["--dataset", "csv", "--data", world])
    more = [part for text in more for part in (text.split() if isinstance(text, str) else [text])]
    return [str(flag) for flag in ["--weights", world / "start.pth", *source, *SMALL, "--out", out,
                                   *more]]


def train(world, script, out, *more):
    return script.train(script.parse_args(flags(world, script, out, *more)))


def run(world, script, out, *more):
    """Train in this process; -> the checkpoint."""
    return load(train(world, script, out, *more))


def load(path):
    return torch.load(path, map_location="cpu", weights_only=True)


def largest_difference(a, b):
    return max((a["model"][name] - b["model"][name]).abs().max().item() for name in a["model"])


def lines(out):
    return [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]


def losses(out):
    return [line["loss"] for line in lines(out)]


# ---------------------------------------------------------------- the same result however it is run

@pytest.fixture(scope="session")
def sets(world):
    """The world, with two more sets of pairs.

    mixed.csv: every other pair is moved to a film twice as wide as it is high; one_box.csv: a pair,
    and a keyframe with nobody.
    """
    rng = np.random.default_rng(0)
    scenes = [rng.integers(0, 255, (8, 48, 96, 3), np.uint8) for _ in range(24)]
    worlds.write_film(world / "wide.mp4", scenes)
    header, *rows = (world / "align.csv").read_text().splitlines()
    moved = [",".join(["wide.mp4", *row.split(",")[1:]]) if i % 2 else row
             for i, row in enumerate(rows)]
    (world / "mixed.csv").write_text("\n".join([header, *moved]))
    (world / "one_box.csv").write_text("\n".join([header, rows[0], rows[0].split(",")[0] + ",3.5"]))
    return world


@pytest.mark.parametrize("script, source", [
    (train_align, "align.csv"), (train_align, "mixed.csv"), (train_align, "one_box.csv"),
    (train_finetune, "train.csv")])
def test_steps_on_two_processes_or_in_parts_equal_those_of_one_on_the_same_batch(
        sets, tmp_path, script, source):
    batch = 2 if source == "one_box.csv" else 8
    recipe = "--csv", sets / source, f"--iterations 2 --batch-size {batch} --lr 0.001"
    one = run(sets, script, tmp_path / "one", *recipe)
    in_processes(2, train, sets, script, tmp_path / "two", *recipe)
    two, start = load(tmp_path / "two" / "last.pt"), {"model": load(sets / "start.pth")["model"]}
    assert largest_difference(one, two) < 1e-5 < 1e-4 < largest_difference(one, start)
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), rel=1e-4)
    parts = run(sets, script, tmp_path / "parts", *recipe, "--accumulate 3")
    assert largest_difference(one, parts) < 1e-5


@pytest.mark.parametrize("script, source, optimizer", [
    (train_align, "mixed.csv", "sgd"), (train_finetune, "train.csv", "adamw")])
def test_a_run_that_is_killed_resumes_to_the_same_bits_and_log_whatever_the_workers(
        sets, tmp_path, one_thread, script, source, optimizer):
    recipe = ("--csv", sets / source,
              f"--iterations 8 --save-every 2 --optimizer {optimizer} --lr 0.001")
    one = run(sets, script, tmp_path / "whole", *recipe)
    victim, = start_processes(1, train, sets, script, tmp_path / "killed", *recipe)
    while not (tmp_path / "killed" / "last.pt").exists() and victim.is_alive():
        time.sleep(0.001)
    victim.kill()
    victim.join()
    assert load(tmp_path / "killed" / "last.pt")["step"] < 8, "the run ended before it was killed"
    with open(tmp_path / "killed" / "log.jsonl", "a") as log:
        # a line that no checkpoint has yet, and one cut short by the kill
        log.write('{"step": 9, "loss": 0.0}\n{"step": 3, "lo')
    two = run(sets, script, tmp_path / "killed", *recipe, "--resume --workers 2")
    assert two["step"] == 8 and largest_difference(one, two) == 0
    assert [line["step"] for line in lines(tmp_path / "killed")] == list(range(1, 9))
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


def test_two_nodes_of_which_a_worker_is_killed_finish_with_the_result_of_one(world, tmp_path):
    recipe = "--iterations 20 --save-every 2 --lr 0.001 --resume"
    alone = run(world, train_align, tmp_path / "alone", recipe)
    launch = [sys.executable, *"-m torch.distributed.run --nnodes 2 --nproc_per_node 1".split(),
              *"--max-restarts 3 --rdzv-backend c10d --rdzv-id two-nodes".split(),
              "--rdzv-endpoint", f"localhost:{free_port()}"]
    script = [str(ROOT / "train_align.py"), *flags(world, train_align, tmp_path / "nodes", recipe)]
    logs = [tmp_path / "node0.log", tmp_path / "node1.log"]

    def said():
        return "".join(log.read_text() for log in logs)

    # else workers of a new attempt meet in the old one's store, where the dead one still stands
    fresh_store = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}
    nodes = [subprocess.Popen([*launch, *script], env=fresh_store, stdout=log.open("w"),
                              stderr=subprocess.STDOUT, start_new_session=True) for log in logs]
    try:
        checkpoint = tmp_path / "nodes" / "last.pt"
        while not checkpoint.exists():
            assert all(node.poll() is None for node in nodes), said()
            time.sleep(0.01)
        children = Path(f"/proc/{nodes[1].pid}/task/{nodes[1].pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        assert load(checkpoint)["step"] < 20, "the run ended before it was killed"
        assert [node.wait(120) for node in nodes] == [0, 0], said()
    finally:
        for node in nodes:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)
    assert "exitcode: -9" in logs[1].read_text()
    assert load(checkpoint)["step"] == 20 and largest_difference(alone, load(checkpoint)) < 1e-5
    assert [line["step"] for line in lines(tmp_path / "nodes")] == list(range(1, 21))


# ---------------------------------------------------------------- what is trained, and by what

def test_the_papers_sgd_brings_tau_up_from_a_hundredth_and_the_loss_below_a_guess(world, tmp_path):
    run(world, train_finetune, tmp_path / "out", "--iterations 100 --lr 5e-4 --warmup 10")
    log = lines(tmp_path / "out")
    guess = len(BASE) * 0.25 * math.log(2)                   # every score one half
    assert log[0]["loss"] > 3 * guess and np.mean(losses(tmp_path / "out")[-10:]) < 0.8 * guess
    assert all(0.01 <= line["tau"] <= 0.5 for line in log) and log[9]["tau"] > 0.1
    assert all(line["grad_norm"] > 0 for line in log)


@pytest.mark.parametrize("script, flag, moves, stays", [
    (train_align, "", "temp vision_encoder.proj vision_encoder.conv1.weight", "text_encoder"),
    (train_align, "--tau-lr 0", "vision_encoder.proj", "text_encoder temp"),
    (train_finetune, "", "temp vision_encoder.proj text_encoder.text_projection", ""),
    (train_finetune, "--freeze-text", "vision_encoder.proj", "text_encoder")])
def test_finetuning_alone_trains_the_text_encoder_and_flags_freeze_it_and_tau(
        world, tmp_path, script, flag, moves, stays):
    before = load(world / "start.pth")["model"]
    after = run(world, script, tmp_path / "out", "--lr 0.01", flag)["model"]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert set(moves.split()) <= moved
    assert not any(name.startswith(tuple(stays.split())) for name in moved)


def test_tau_is_learned_at_the_base_rate_or_at_its_own(world, tmp_path):
    base, faster = (abs(run(world, train_align, tmp_path / flag, "--lr 1e-6", flag)["model"]["temp"]
                        - 0.01).item() for flag in ("--momentum 0.9", "--tau-lr 1e-5"))
    assert faster == pytest.approx(10 * base, rel=0.01)      # SGD's step, in proportion to the rate


def test_each_sentence_is_encoded_once_in_a_run(world, tmp_path, monkeypatch):
    encoded, plain = [], ovstad.ViCLIP.encode_text
    monkeypatch.setattr(ovstad.ViCLIP, "encode_text",
                        lambda self, texts: encoded.extend(texts) or plain(self, texts))
    run(world, train_align, tmp_path / "out", "--iterations 6 --batch-size 12 --lr 0.001")
    assert len(encoded) == len(set(encoded)) and set(encoded) == set(BASE)


def test_alignment_loss_takes_boxes_of_one_sentence_as_positives_of_each_other(world, tmp_path):
    """The first step's loss, worked out from the model's own features with a plain double loop."""
    run(world, train_align, tmp_path / "out", "--batch-size 6")
    model = ovstad.load_model(str(world / "start.pth"))[0]
    dataset = data.ClipDataset(data.read_csv(world / "align.csv"), 4, 2, patch=8)
    items = next(iter(GlobalBatches(len(dataset), 6, 1, scale=(48, 54))))
    batch = data.collate([dataset[item] for item in items])[0]
    sentences = sorted({dataset.texts[text] for _, text in batch["labels"].tolist()})
    true = {(box, dataset.texts[text]) for box, text in batch["labels"].tolist()}
    with torch.no_grad():
        f_global, f_map = model.encode_video(data.normalise(batch["video"], batch["jitter"]))
        f_region = model.region_features(f_map, batch["boxes"])
        f_text = model.encode_text(sentences)
        clips = [b for b, boxes in enumerate(batch["boxes"]) for _ in boxes]
        total = 0.0
        for i, b in enumerate(clips):
            fused = 0.3 * f_region[i] + 0.7 * f_global[b]
            for j, sentence in enumerate(sentences):
                z = (torch.cosine_similarity(fused, f_text[j], dim=0) / model.temp).item()
                s = 1 / (1 + math.exp(-z))
                total -= ((1 - s) ** 2 * math.log(s) if (i, sentence) in true
                          else s ** 2 * -(z + math.log1p(math.exp(-z))))
    assert len(sentences) < len(clips), "some boxes share a sentence"
    assert losses(tmp_path / "out")[0] == pytest.approx(total / len(clips), rel=1e-3)


def test_the_checkpoint_describes_itself_and_loads_without_code(world, tmp_path):
    record = run(world, train_finetune, tmp_path / "out", "--beta 0.5", "--prompt", Path("{a} {}"))
    expected = {"arch": "toy", "stage": "finetune", "step": 1, "beta": 0.5, "short_side": 48,
                "base": sorted(BASE), "classes": sorted(BASE), "novel": NOVEL, "stride": 2,
                "prompt": "{a} {}"}                          # other braces are just braces
    assert {name: record[name] for name in expected} == expected
    assert record["args"]["dataset"] == "csv"
    assert ovstad.load_model(str(tmp_path / "out" / "last.pt"))[0].arch == "toy"
    assert sorted(os.listdir(tmp_path / "out")) == ["curve.png", "last.pt", "log.jsonl"]


@pytest.mark.parametrize("schedule, iterations, steps, rates", [
    ("cosine", 110, (0, 4, 9, 10, 60, 109),
     [0.1, 0.5, 1.0, 1.0, 0.5, 0.5 * (1 + math.cos(math.pi * 0.99))]),
    ("step", 900, (0, 9, 499, 500, 699, 700, 899), [0.1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
    ("constant", 900, (4, 10, 899), [0.5, 1.0, 1.0])])
def test_learning_rate_warms_up_linearly_and_then_follows_its_schedule(
        schedule, iterations, steps, rates):
    found = [training.learning_rate(step, 1.0, 10, iterations, schedule) for step in steps]
    assert found == pytest.approx(rates)


def test_a_rehearsal_prints_its_lines_and_writes_nothing(world, tmp_path, capsys):
    assert train(world, train_finetune, tmp_path / "out", "--iterations 5 --rehearse") is None
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[-7:]] == [
        "rehearsal", "loss", "tau", "gradient", "data", "speed", "to"]
    assert "100% of those annotated" in out and "uniform guess has 1.56" in out       # 9 log(2) / 4
    assert "rehearsal of 5 steps" in out and not (tmp_path / "out").exists()
    assert train(world, train_align, tmp_path / "out", "--iterations 2 --rehearse") is None


def test_pairs_that_name_a_novel_class_are_left_out_or_refused(world, tmp_path, capsys):
    novel, films = tmp_path / "novel.txt", tmp_path / "films.csv"
    novel.write_text("waving\nrun\nclapping, loudly\n")      # a name, not the first word of one
    films.write_text("not there,902\n")
    out = run(world, train_align, tmp_path / "out", "--novel", novel, "--exclude-videos", films)
    told = capsys.readouterr().err
    waving = (world / "align.csv").read_text().count(",waving")
    left_out = int(re.search(r"left out (\d+) of (\d+) pairs", told)[1])
    assert out["step"] == 1 and left_out == waving > 0, "'running' does not name 'run'"
    assert "left out 0 of 1 videos" in told
    with pytest.raises(ValueError, match="pairs name a novel class, the first being 'waving'"):
        run(world, train_align, tmp_path / "no", "--strict", "--novel", novel)


def test_the_next_command_names_data_that_is_there(world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lone.csv").write_text("x")
    monkeypatch.setattr(train_align, "train", lambda args: "runs/align/last.pt")
    for csv, data_flags in ((world / "align.csv", f"csv --data {world}"),
                            (tmp_path / "lone.csv", "ucf101-24|ava|csv --data DIR")):
        monkeypatch.setattr(sys, "argv", ["train_align.py", "--csv", str(csv)])
        train_align.main()
        assert capsys.readouterr().out.splitlines()[-1] == (
            f"next: python train_finetune.py --weights runs/align/last.pt --dataset {data_flags}")


# ---------------------------------------------------------------- the global batches

def test_batches_of_all_processes_or_from_a_later_step_are_those_of_one_whole_run():
    def batches(**share):
        return list(GlobalBatches(10, 6, 40, seed=3, scale=(256, 320), **share))

    one, shares = batches(), [batches(rank=rank, world=3) for rank in range(3)]
    assert one == [sum((share[step] for share in shares), []) for step in range(40)]
    assert one[5:] == batches(start=5)
    sides = [{side for _, _, side in batch} for batch in one]                # one a step
    assert all(len(side) == 1 for side in sides)
    drawn = set.union(*sides)
    assert len(drawn) > 20 and min(drawn) >= 256 and max(drawn) <= 320
    with pytest.raises(ValueError, match="--batch-size 6 is global and must divide among 4 proc"):
        batches(world=4)


def test_every_sample_comes_once_an_epoch_with_a_seed_of_its_own():
    items = [item for batch in GlobalBatches(6, 4, 6) for item in batch]             # 4 epochs of 6
    for epoch in range(4):
        assert sorted(index for index, _, _ in items[6 * epoch:6 * epoch + 6]) == list(range(6))
    assert len({seed for _, seed, _ in items}) == 24


# ---------------------------------------------------------------- what stops a run, in one line

def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_clips(world, tmp_path):
    with pytest.raises(ValueError,
                       match=r"loss is (nan|inf) at step 2, on these clips: align/\d+.mp4"):
        run(world, train_align, tmp_path, "--lr 1e20 --iterations 9 --batch-size 2 --log-every 6")
    assert not (tmp_path / "last.pt").exists()


@pytest.mark.parametrize("script, cases", [
    (train_align, "--batch-size 0, --iterations 0.5, --accumulate 0, --log-every 0, --stride 0, "
     "--save-every -1, --frames x, --crop 0, --short-side -1, --gamma -1, --gamma nan, --lr nan, "
     "--tau-lr -1, --momentum 2, --lr -1, --weight-decay inf, --beta 2, --warmup -1, --workers -1, "
     "--seed -1, --seed 4294967296, --fraction nan, --fraction 1.5"),
    (train_finetune, "--score nan, --score 2"),
    (detect_humans, "--every 0, --every nan, --validate -1, --lr nan")])
def test_numbers_that_mean_nothing_are_refused_with_what_is_expected(script, cases, capsys):
    for case in cases.split(", "):
        flag, value = case.split()
        with pytest.raises(SystemExit) as stop:
            script.parse_args([f"{flag}={value}"])
        last = capsys.readouterr().err.splitlines()[-1]
        assert stop.value.code == 2, case
        assert re.search(f"argument {flag}: {value} is not a (whole )?number (from|of)", last), last


def test_a_learning_rate_of_zero_is_zero_in_the_detectors_finetuning_too(
        world, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "make_optimizer", lambda detector, args: 1 / args.lr)
    args = (f"--finetune --detector toy --detector-weights random --dataset csv --device cpu "
            f"--csv {world}/train.csv --lr 0 --out {tmp_path}")
    with pytest.raises(ZeroDivisionError):
        detect_humans.train(detect_humans.parse_args(args.split()))


def test_processes_that_would_train_on_different_things_are_stopped():
    class Set(list):
        texts = ["a person waving"]

    # the other process has a checkpoint of step 5
    process = SimpleNamespace(gather=lambda value: [value, (5, *value[1:])])
    training.check_agreement(process, 5, Set([1, 2]))
    with pytest.raises(ValueError, match=r"disagree .*\[\(3, 2, 1\), \(5, 2, 1\)\]; every machine"):
        training.check_agreement(process, 3, Set([1, 2]))


def test_an_unreadable_video_is_named_and_training_goes_on_unless_most_are(world, tmp_path, capfd):
    (world / "broken.mp4").write_bytes(b"not a video")
    broken = [f"broken.mp4,{second},0.1,0.1,0.5,0.9,waving,0" for second in range(80)]
    rows = (world / "align.csv").read_text().splitlines() + broken[:2]
    (world / "some_broken.csv").write_text("\n".join(rows))
    run(world, train_align, tmp_path / "some", "--csv", world / "some_broken.csv",
        "--iterations 7 --batch-size 8")
    assert capfd.readouterr().err.count("skipped broken.mp4") == 2
    (world / "broken.csv").write_text("\n".join(broken))
    for script in (train_align, train_finetune):
        with pytest.raises(ValueError, match="64 of 64 clips could not be read.*check_data.py"):
            train(world, script, tmp_path / "all", "--csv", world / "broken.csv",
                  "--iterations 50 --batch-size 16")


@pytest.mark.parametrize("script, wrong, message", [
    (train_align, "--fraction 0", "fraction 0.0 is not in (0, 1]"),
    (train_align, "--csv nothing.csv", "nothing.csv"),
    (train_align, "--csv WORLD/nobody.csv", "nobody to train on"),
    (train_align, "--strict", "--strict: goes with --novel"),
    (train_align, "--weights nothing.pt", "no such weights file"),
    (train_align, "--crop 48 --scale 40 54", "MIN not below the crop"),
    (train_align, "--scale 60 54", "expected MIN <= MAX"),
    (train_align, "--arch ViT-L/14", "weights tell their own size"),
    (train_align, "--crop 50", "must be a multiple of the patch"),
    (train_align, "--warmup 9 --iterations 9", "must be shorter than --iterations 9"),
    (train_finetune, "--version 9", "--version 9: HC-STVG has 1 and 2"),
    (train_finetune, "--dataset ucf101-24 --csv my.csv", "goes with --dataset csv"),
    (train_finetune, "--novel WORLD/typo.txt", "typo.txt:2: 'boxing' is not a class of csv"),
    (train_finetune, "--prompt person", "write {}"),
    (train_finetune, "--device cuda:7", "no CUDA GPU"),
    (train_finetune, "--device mps", "give cpu, cuda or cuda:N"),
    (train_finetune, "--score 0.5", "means nothing without --proposals"),
    (train_finetune, "--unmatched drop", "means nothing without --proposals"),
    (train_finetune, "--proposals WORLD/low.csv", "low.csv: no box of score 0.3 or more"),
    (train_finetune, "--proposals nothing.csv", "nothing.csv")])
def test_wrong_flags_are_explained(world, tmp_path, script, wrong, message):
    if "cuda" in wrong and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (world / "nobody.csv").write_text("align/0000.mp4,1.5\n")
    (world / "typo.txt").write_text(f"{NOVEL[0]}\nboxing\n")
    row = ",".join((world / "train.csv").read_text().splitlines()[1].split(",")[:6])
    (world / "low.csv").write_text(f"{row},,0.1\n")
    with pytest.raises((ValueError, OSError)) as error:
        train(world, script, tmp_path / "out", wrong.replace("WORLD", str(world)))
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["log.jsonl", "curve.png"])
def test_files_of_others_in_the_output_folder_stay(world, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"holds {name}, and no run of ours; choose another --out"):
        run(world, train_align, tmp_path)
    assert (tmp_path / name).read_text() == "mine"
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')      # last.pt was deleted, to begin again
    assert run(world, train_align, tmp_path)["step"] == len(lines(tmp_path))
    with pytest.raises(ValueError, match="is a run of stage align, not of this script"):
        run(world, train_finetune, tmp_path, "--resume")
