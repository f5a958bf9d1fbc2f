"""Both training stages on a tiny rendered world: equalities between ways to run them, and what stops them."""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import engine  # noqa: E402
import training  # noqa: E402
import ovstad  # noqa: E402
import train_align  # noqa: E402
import train_finetune  # noqa: E402
import worlds  # noqa: E402
from conftest import BASE, NOVEL  # noqa: E402
from data import GlobalBatches  # noqa: E402

SMALL = ["--scale", "48", "54", "--short-side", "48", "--stride", "2", "--workers", "0", "--log-every", "1", "--warmup", "0"]


def flags(world, script, out, *more):
    source = ["--csv", world / "align.csv"] if script is train_align else ["--dataset", "csv", "--data", world]
    return [str(flag) for flag in ["--weights", world / "start.pth", *source, *SMALL, "--out", out, *more]]


def run(world, script, out, *more):
    """Train in this process; -> the checkpoint."""
    return load(script.train(script.parse_args(flags(world, script, out, *more))))


def command(world, script, out, *more, processes=1):
    launch = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [sys.executable, *launch, str(ROOT / f"{script.__name__}.py"), *flags(world, script, out, *more)]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1"}


def load(path):
    return torch.load(path, map_location="cpu", weights_only=True)


def largest_difference(a, b):
    return max((a["model"][name] - b["model"][name]).abs().max().item() for name in a["model"])


def lines(out):
    return [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- the same result, however it is run

@pytest.mark.parametrize("script", [train_align, train_finetune])
def test_steps_on_two_processes_equal_those_of_one_on_the_same_global_batch(world, tmp_path, script):
    recipe = ["--iterations", "2", "--batch-size", "6", "--lr", "0.001"]
    one = run(world, script, tmp_path / "one", *recipe)
    subprocess.run(command(world, script, tmp_path / "two", *recipe, processes=2), check=True, env=environment(), capture_output=True)
    two = load(tmp_path / "two" / "last.pt")
    start = {"model": load(world / "start.pth")["model"]}
    assert largest_difference(one, two) < 1e-5 < 1e-4 < largest_difference(one, start)
    assert [line["loss"] for line in lines(tmp_path / "one")] == pytest.approx([line["loss"] for line in lines(tmp_path / "two")], rel=1e-4)


@pytest.mark.parametrize("script", [train_align, train_finetune])
def test_gradient_accumulation_changes_nothing(world, tmp_path, script):
    recipe = ["--iterations", "2", "--batch-size", "7", "--lr", "0.001"]
    whole = run(world, script, tmp_path / "whole", *recipe)
    parts = run(world, script, tmp_path / "parts", *recipe, "--accumulate", "3")
    assert largest_difference(whole, parts) < 1e-5


@pytest.fixture(scope="session")
def mixed(world):
    """The world's alignment pairs, every other one moved to a film twice as wide as it is high."""
    rng = np.random.default_rng(0)
    scenes = [rng.integers(0, 255, (8, 48, 96, 3), np.uint8) for _ in range(24)]
    worlds.write_film(world / "wide.mp4", scenes)
    header, *rows = (world / "align.csv").read_text().splitlines()
    moved = [",".join(["wide.mp4", *row.split(",")[1:]]) if i % 2 else row for i, row in enumerate(rows)]
    (world / "mixed.csv").write_text("\n".join([header, *moved]) + "\n")
    return world / "mixed.csv"


def test_clips_of_two_shapes_in_a_step_are_one_batch_on_one_process_and_on_two(world, mixed, tmp_path):
    recipe = ["--csv", mixed, "--iterations", "2", "--batch-size", "6", "--lr", "0.001"]
    one = run(world, train_align, tmp_path / "one", *recipe)
    subprocess.run(command(world, train_align, tmp_path / "two", *recipe, processes=2), check=True,
                   env=environment(), capture_output=True)
    assert largest_difference(one, load(tmp_path / "two" / "last.pt")) < 1e-5
    pieces = run(world, train_align, tmp_path / "pieces", *recipe, "--accumulate", "6")     # clip by clip
    assert largest_difference(one, pieces) < 1e-5
    assert lines(tmp_path / "one")[0]["loss"] == pytest.approx(lines(tmp_path / "two")[0]["loss"], rel=1e-5)


def test_a_run_with_two_shapes_that_is_stopped_resumes_to_the_same_bits(world, mixed, tmp_path, monkeypatch):
    recipe = ["--csv", mixed, "--iterations", "6", "--batch-size", "4", "--save-every", "2", "--lr", "0.001"]
    whole = run(world, train_align, tmp_path / "whole", *recipe)
    plain, calls = training.set_learning_rate, []

    def stop_at_step_4(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        plain(*args)

    monkeypatch.setattr(training, "set_learning_rate", stop_at_step_4)
    with pytest.raises(KeyboardInterrupt):
        run(world, train_align, tmp_path / "stopped", *recipe)
    monkeypatch.setattr(training, "set_learning_rate", plain)
    resumed = run(world, train_align, tmp_path / "stopped", *recipe, "--resume")
    assert largest_difference(whole, resumed) == 0
    assert [line["loss"] for line in lines(tmp_path / "whole")] == [line["loss"] for line in lines(tmp_path / "stopped")]


def test_loader_workers_change_no_bit(world, tmp_path):
    recipe = ["--iterations", "3", "--batch-size", "4", "--lr", "0.001"]
    alone = run(world, train_finetune, tmp_path / "alone", *recipe)
    workers = run(world, train_finetune, tmp_path / "workers", *recipe, "--workers", "2")
    assert largest_difference(alone, workers) == 0


@pytest.mark.parametrize("script", [train_align, train_finetune])
def test_a_run_that_is_killed_resumes_to_the_same_bits_and_the_same_log(world, tmp_path, script):
    recipe = ["--iterations", "8", "--batch-size", "4", "--save-every", "2", "--optimizer", "adamw", "--lr", "0.001"]
    whole = subprocess.run(command(world, script, tmp_path / "whole", *recipe), env=environment(), capture_output=True)
    assert whole.returncode == 0, whole.stderr
    victim = subprocess.Popen(command(world, script, tmp_path / "killed", *recipe), env=environment(),
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "killed" / "last.pt").exists() and victim.poll() is None:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert load(tmp_path / "killed" / "last.pt")["step"] < 8, "the run ended before it could be killed"
    (tmp_path / "killed" / "log.jsonl").open("a").write('{"step": 3, "lo')            # a line cut short by the kill
    resumed = subprocess.run(command(world, script, tmp_path / "killed", *recipe, "--resume"), env=environment(), capture_output=True)
    assert resumed.returncode == 0, resumed.stderr
    one, two = load(tmp_path / "whole" / "last.pt"), load(tmp_path / "killed" / "last.pt")
    assert two["step"] == 8 and largest_difference(one, two) == 0
    assert [(line["step"], line["loss"]) for line in lines(tmp_path / "whole")] == \
           [(line["step"], line["loss"]) for line in lines(tmp_path / "killed")]


def test_two_nodes_of_which_a_worker_is_killed_finish_with_the_result_of_one(world, tmp_path):
    recipe = ["--iterations", "30", "--batch-size", "4", "--save-every", "2", "--lr", "0.001", "--resume"]
    alone = run(world, train_align, tmp_path / "alone", *recipe)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--max-restarts", "3",
              "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "two-nodes"]
    script = [str(ROOT / "train_align.py"), *flags(world, train_align, tmp_path / "nodes", *recipe)]
    logs = [tmp_path / "node0.log", tmp_path / "node1.log"]
    # workers of a new attempt must not meet in the store of the old one, where the dead one's address still stands
    fresh_store = environment() | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    nodes = [subprocess.Popen([*launch, *script], env=fresh_store, stdout=log.open("w"), stderr=subprocess.STDOUT,
                              start_new_session=True) for log in logs]
    try:
        checkpoint = tmp_path / "nodes" / "last.pt"
        while not checkpoint.exists():
            assert all(node.poll() is None for node in nodes), logs[0].read_text() + logs[1].read_text()
            time.sleep(0.01)
        worker = Path(f"/proc/{nodes[1].pid}/task/{nodes[1].pid}/children").read_text().split()[0]
        os.kill(int(worker), signal.SIGKILL)
        assert load(checkpoint)["step"] < 30, "the run ended before it could be killed"
        assert [node.wait(120) for node in nodes] == [0, 0], logs[0].read_text() + logs[1].read_text()
    finally:
        for node in nodes:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)
    assert "exitcode: -9" in logs[1].read_text()
    assert load(checkpoint)["step"] == 30 and largest_difference(alone, load(checkpoint)) < 1e-5
    assert [line["step"] for line in lines(tmp_path / "nodes")] == list(range(1, 31))


def test_a_process_without_any_box_stays_in_step(world, tmp_path):
    rows = (world / "align.csv").read_text().splitlines()
    first = rows[1].split(",")
    (world / "one_box.csv").write_text("\n".join([rows[0], rows[1], f"{first[0]},3.5"]))      # and a keyframe with nobody
    recipe = ["--csv", world / "one_box.csv", "--iterations", "2", "--batch-size", "2", "--lr", "0.001"]
    one = run(world, train_align, tmp_path / "one", *recipe)
    subprocess.run(command(world, train_align, tmp_path / "two", *recipe, processes=2), check=True, env=environment(), capture_output=True)
    assert largest_difference(one, load(tmp_path / "two" / "last.pt")) < 1e-5


# ---------------------------------------------------------------- what is trained, and by what

def test_the_loss_falls_in_finetuning(world, tmp_path):
    run(world, train_finetune, tmp_path / "out", "--iterations", "40", "--batch-size", "8", "--optimizer", "adamw", "--lr", "0.001")
    losses = [line["loss"] for line in lines(tmp_path / "out")]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_the_papers_sgd_from_tau_a_hundredth_brings_tau_up_and_the_loss_below_a_guess(world, tmp_path):
    run(world, train_finetune, tmp_path / "out", "--iterations", "100", "--batch-size", "4", "--lr", "5e-4",
        "--warmup", "10")
    log = lines(tmp_path / "out")
    guess = len(BASE) * 0.25 * math.log(2)               # every score one half
    assert log[0]["loss"] > 3 * guess and np.mean([line["loss"] for line in log[-10:]]) < 0.8 * guess
    assert all(0.01 <= line["tau"] <= 0.5 for line in log) and log[9]["tau"] > 0.1


def test_alignment_trains_the_video_encoder_and_tau_but_no_text_weight(world, tmp_path):
    before, after = load(world / "start.pth")["model"], run(world, train_align, tmp_path / "out", "--iterations", "1", "--lr", "0.01",
                                                            "--batch-size", "4")["model"]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith("text_encoder") for name in moved)
    assert "temp" in moved and "vision_encoder.proj" in moved and "vision_encoder.conv1.weight" in moved


def test_finetuning_trains_the_text_encoder_unless_it_is_frozen(world, tmp_path):
    before = load(world / "start.pth")["model"]
    recipe = ["--iterations", "1", "--batch-size", "4", "--lr", "0.01"]
    for frozen in (False, True):
        after = run(world, train_finetune, tmp_path / str(frozen), *recipe, *["--freeze-text"] * frozen)["model"]
        same = torch.equal(before["text_encoder.text_projection"], after["text_encoder.text_projection"])
        assert same == frozen


def test_each_sentence_is_encoded_once_in_a_run(world, tmp_path, monkeypatch):
    encoded = []
    plain = ovstad.ViCLIP.encode_text
    monkeypatch.setattr(ovstad.ViCLIP, "encode_text", lambda self, texts: encoded.extend(texts) or plain(self, texts))
    run(world, train_align, tmp_path / "out", "--iterations", "6", "--batch-size", "12", "--lr", "0.001")
    assert len(encoded) == len(set(encoded)) and set(encoded) == set(BASE)


def test_alignment_loss_takes_boxes_of_one_sentence_as_positives_of_each_other(world, tmp_path):
    """The first step's loss, worked out from the model's own features with a plain double loop."""
    args = train_align.parse_args(flags(world, train_align, tmp_path / "out", "--iterations", "1", "--batch-size", "6"))
    train_align.train(args)
    import data
    torch.manual_seed(0)
    model = ovstad.load_model(str(world / "start.pth"))[0]
    dataset = data.ClipDataset(data.read_csv(world / "align.csv"), 4, 2, patch=8)
    items = next(iter(GlobalBatches(len(dataset), 6, 1, scale=(48, 54))))
    batch = data.collate([dataset[item] for item in items])[0]
    sentences = sorted({dataset.texts[text] for _, text in batch["labels"].tolist()})
    true = {(box, dataset.texts[text]) for box, text in batch["labels"].tolist()}
    with torch.no_grad():
        f_global, f_map = model.encode_video(data.normalise(batch["video"], batch["jitter"]))
        f_region, f_text = model.region_features(f_map, batch["boxes"]), model.encode_text(sentences)
        clips = [b for b, boxes in enumerate(batch["boxes"]) for _ in boxes]
        total = 0.0
        for i, b in enumerate(clips):
            fused = 0.3 * f_region[i] + 0.7 * f_global[b]
            for j, sentence in enumerate(sentences):
                z = (torch.cosine_similarity(fused, f_text[j], dim=0) / model.temp).item()
                s = 1 / (1 + math.exp(-z))
                total -= (1 - s) ** 2 * math.log(s) if (i, sentence) in true else s ** 2 * -(z + math.log1p(math.exp(-z)))
    assert len(sentences) < len(clips), "some boxes share a sentence"
    assert lines(tmp_path / "out")[0]["loss"] == pytest.approx(total / len(clips), rel=1e-3)


def test_the_checkpoint_describes_itself_and_loads_without_code(world, tmp_path):
    record = run(world, train_finetune, tmp_path / "out", "--iterations", "1", "--batch-size", "4", "--beta", "0.5")
    assert record["arch"] == "toy" and record["stage"] == "finetune" and record["step"] == 1 and record["beta"] == 0.5
    assert record["base"] == record["classes"] == sorted(BASE) and record["novel"] == NOVEL
    assert record["prompt"] == "a person {}" and record["args"]["dataset"] == "csv" and record["short_side"] == 48
    model, _ = ovstad.load_model(str(tmp_path / "out" / "last.pt"))
    assert model.arch == "toy"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["curve.png", "last.pt", "log.jsonl"]


def test_learning_rate_warms_up_linearly_and_falls_to_zero_as_a_cosine():
    rates = [training.learning_rate(step, 1.0, 10, 110) for step in (0, 4, 9, 10, 60, 109)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.5 * (1 + math.cos(math.pi * 0.99))])


def test_learning_rate_in_steps_is_a_tenth_from_five_and_seven_ninths_on_and_constant_stays():
    rates = [training.learning_rate(step, 1.0, 10, 900, "step") for step in (0, 9, 499, 500, 699, 700, 899)]
    assert rates == pytest.approx([0.1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert training.learning_rate(899, 0.5, 10, 900, "constant") == 0.5


@pytest.mark.parametrize("flag, moves", [([], True), (["--tau-lr", "0"], False), (["--tau-lr", "0.5"], True)])
def test_tau_is_learned_at_the_base_rate_at_its_own_or_kept(world, tmp_path, flag, moves):
    after = run(world, train_align, tmp_path / "out", "--iterations", "1", "--lr", "1e-6", "--batch-size", "4", *flag)
    change = abs(after["model"]["temp"].item() - 0.01)
    assert (change > 1e-8) == moves
    if flag == ["--tau-lr", "0.5"]:                          # one step of SGD: in proportion to the rate
        base = run(world, train_align, tmp_path / "base", "--iterations", "1", "--lr", "1e-6", "--batch-size", "4")
        assert change > 1000 * abs(base["model"]["temp"].item() - 0.01) or after["model"]["temp"].item() == 0.5


def test_the_log_shows_tau_and_the_gradient_norm_of_the_video_encoder(world, tmp_path):
    run(world, train_finetune, tmp_path / "out", "--iterations", "2", "--batch-size", "4")
    assert all(line["tau"] > 0 and line["grad_norm"] > 0 for line in lines(tmp_path / "out"))


def test_a_rehearsal_prints_its_lines_and_writes_nothing(world, tmp_path, capsys):
    args = flags(world, train_finetune, tmp_path / "out", "--iterations", "5", "--batch-size", "4", "--rehearse")
    assert train_finetune.train(train_finetune.parse_args(args)) is None
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[-7:]] == ["rehearsal", "loss", "tau", "gradients", "data", "speed", "to"]
    assert "100% of those annotated" in out and "a uniform guess has 1.56" in out           # 9 log(2) / 4
    assert not (tmp_path / "out").exists()


def test_pairs_that_name_a_novel_class_are_left_out_or_refused(world, tmp_path, capsys):
    (tmp_path / "novel.txt").write_text("waving\nrun\n")
    out = run(world, train_align, tmp_path / "out", "--iterations", "1", "--batch-size", "4", "--novel", tmp_path / "novel.txt")
    told = re.search(r"left out (\d+) of (\d+) pairs", capsys.readouterr().err)
    waving = (world / "align.csv").read_text().count(",waving")
    assert out["step"] == 1 and int(told[1]) == waving > 0, "'running' does not name 'run'"
    with pytest.raises(ValueError, match="pairs name a novel class, the first being 'waving'"):
        run(world, train_align, tmp_path / "no", "--iterations", "1", "--novel", tmp_path / "novel.txt", "--strict")


def test_a_novel_class_that_no_file_of_the_set_has_is_a_typo(world, tmp_path):
    (tmp_path / "novel.txt").write_text(NOVEL[0] + "\n" + NOVEL[1] + "x\n")
    with pytest.raises(ValueError, match=rf"novel.txt:2: '{NOVEL[1]}x' is not a class of csv"):
        run(world, train_finetune, tmp_path / "out", "--iterations", "1", "--novel", tmp_path / "novel.txt")


# ---------------------------------------------------------------- the global batches

def test_batches_of_all_processes_together_are_those_of_one():
    one = list(GlobalBatches(10, 6, 5, seed=3))
    shares = [list(GlobalBatches(10, 6, 5, seed=3, rank=rank, world=3)) for rank in range(3)]
    assert one == [sum((share[step] for share in shares), []) for step in range(5)]


def test_one_short_side_for_all_clips_of_a_step_whatever_the_processes():
    one = list(GlobalBatches(10, 6, 40, seed=3, scale=(256, 320)))
    two = list(GlobalBatches(10, 6, 40, seed=3, rank=1, world=2, scale=(256, 320)))
    sides = [{side for *_, side in batch} for batch in one]
    assert all(len(side) == 1 for side in sides) and sides == [{side for *_, side in batch} for batch in two]
    assert len(set.union(*sides)) > 20 and min(map(min, sides)) >= 256 and max(map(max, sides)) <= 320


def test_batches_from_a_later_step_are_those_of_the_whole_run():
    assert list(GlobalBatches(7, 4, 9, seed=1))[5:] == list(GlobalBatches(7, 4, 9, seed=1, start=5))


def test_every_sample_comes_once_an_epoch_with_a_seed_of_its_own():
    items = [item for batch in GlobalBatches(6, 4, 6) for item in batch]                # 24 places: 4 epochs of 6
    for epoch in range(4):
        assert sorted(index for index, _, _ in items[6 * epoch:6 * epoch + 6]) == list(range(6))
    assert len({seed for _, seed, _ in items}) == 24


# ---------------------------------------------------------------- what stops a run, in one line

def fails(world, script, out, *more):
    result = subprocess.run(command(world, script, out, *more), env=environment(), capture_output=True, text=True)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert result.returncode == 2 and len(errors) == 1 and "Traceback" not in result.stderr, result.stderr
    return errors[0]


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_clips(world, tmp_path):
    error = fails(world, train_align, tmp_path / "out", "--lr", "1e20", "--iterations", "9",
                  "--batch-size", "2", "--log-every", "6")
    assert re.search(r"loss is (nan|inf) at step 2, on these clips: align/\d+.mp4", error)
    assert not (tmp_path / "out" / "last.pt").exists()


def test_a_folder_that_holds_a_run_is_not_overwritten(world, tmp_path):
    recipe = ["--iterations", "1", "--batch-size", "2"]
    run(world, train_align, tmp_path / "out", *recipe)
    with pytest.raises(ValueError, match="--resume"):
        run(world, train_align, tmp_path / "out", *recipe)
    with pytest.raises(ValueError, match="--beta 0.3, not 1.0"):
        run(world, train_align, tmp_path / "out", *recipe, "--resume", "--beta", "1")


def test_a_file_that_is_no_run_is_not_resumed(world, tmp_path):
    (tmp_path / "last.pt").write_bytes((world / "start.pth").read_bytes())
    with pytest.raises(ValueError, match="holds weights, but no run to go on with"):
        run(world, train_align, tmp_path, "--iterations", "1", "--batch-size", "2", "--resume")


@pytest.mark.parametrize("flag", ["--batch-size", "--iterations", "--accumulate", "--log-every", "--stride"])
def test_numbers_below_one_are_refused(flag, capsys):
    with pytest.raises(SystemExit) as stop:
        train_align.parse_args([flag, "0"])
    assert stop.value.code == 2 and f"argument {flag}: 0 is not 1 or more" in capsys.readouterr().err


def test_a_full_disk_is_an_error_in_one_line_and_leaves_the_old_checkpoint(tmp_path):
    engine.save_checkpoint(tmp_path / "last.pt", {"step": 1})
    os.symlink("/dev/full", tmp_path / "last.pt.part")
    with pytest.raises(OSError, match="No space left"):
        engine.save_checkpoint(tmp_path / "last.pt", {"step": 2})
    assert load(tmp_path / "last.pt")["step"] == 1


def test_weights_that_are_not_finite_do_not_replace_a_checkpoint(tmp_path):
    engine.save_checkpoint(tmp_path / "last.pt", {"model": {"w": torch.ones(2)}, "step": 1})
    with pytest.raises(ValueError, match="not finite after step 2"):
        engine.save_checkpoint(tmp_path / "last.pt", {"model": {"w": torch.tensor([1.0, math.inf])}, "step": 2})
    assert load(tmp_path / "last.pt")["step"] == 1


def test_processes_that_would_train_on_different_things_are_stopped():
    class Two(engine.Process):
        def gather(self, value):
            return [value, (5, *value[1:])]                  # the other machine has a checkpoint of step 5

    class Set(list):
        texts = ["a person waving"]

    training.check_agreement(engine.Process(0, 1, torch.device("cpu")), 3, Set([1, 2]))
    training.check_agreement(Two(0, 2, torch.device("cpu")), 5, Set([1, 2]))
    with pytest.raises(ValueError, match=r"disagree .*\[\(3, 2, 1\), \(5, 2, 1\)\]; every machine needs the same --out"):
        training.check_agreement(Two(0, 2, torch.device("cpu")), 3, Set([1, 2]))


def test_braces_in_a_prompt_are_just_braces(world, tmp_path):
    assert run(world, train_finetune, tmp_path / "out", "--iterations", "1", "--batch-size", "2", "--prompt", "{a} {}")["prompt"] == "{a} {}"


def test_a_batch_that_does_not_divide_among_the_processes_is_refused():
    with pytest.raises(ValueError, match="--batch-size 5 is global and must divide among 2 processes"):
        GlobalBatches(10, 5, 1, world=2)


def test_an_unreadable_video_is_named_once_and_training_goes_on(world, tmp_path, capfd):
    (world / "broken.mp4").write_bytes(b"not a video")
    rows = (world / "align.csv").read_text().splitlines()
    (world / "some_broken.csv").write_text("\n".join([*rows, "broken.mp4,1,0.1,0.1,0.5,0.9,waving,0", "broken.mp4,2,0.1,0.1,0.5,0.9,waving,0"]))
    run(world, train_align, tmp_path / "out", "--csv", world / "some_broken.csv", "--iterations", "7", "--batch-size", "8")
    named = [line for line in capfd.readouterr().err.splitlines() if "skipped broken.mp4" in line]
    assert len(named) == len(set(named)) == 2


def test_mostly_unreadable_videos_stop_the_run(world, tmp_path):
    (world / "broken.mp4").write_bytes(b"not a video")
    (world / "broken.csv").write_text("\n".join(f"broken.mp4,{second},0.1,0.1,0.5,0.9,waving" for second in range(80)))
    error = fails(world, train_align, tmp_path / "out", "--csv", world / "broken.csv", "--iterations", "50", "--batch-size", "16")
    assert "64 of 64 clips could not be read" in error and "check_data.py" in error


@pytest.mark.parametrize("script, wrong, message", [
    (train_align, ["--fraction", "0"], "--fraction 0"), (train_finetune, ["--beta", "2"], "--beta 2 is not in [0, 1]"), (train_align, ["--csv", "nothing.csv"], "nothing.csv"),
    (train_align, ["--weights", "nothing.pt"], "no such weights file"), (train_align, ["--crop", "48", "--scale", "40", "54"], "MIN not below the crop"),
    (train_align, ["--scale", "60", "54"], "expected MIN <= MAX"), (train_align, ["--arch", "ViT-L/14"], "weights tell their own size"),
    (train_finetune, ["--dataset", "ucf101-24", "--csv", "my.csv"], "goes with --dataset csv"),
    (train_align, ["--crop", "50"], "must be a multiple of the patch"), (train_finetune, ["--prompt", "a person"], "write {}"),
    (train_finetune, ["--device", "cuda:7"], "no CUDA GPU"), (train_finetune, ["--device", "mps"], "give cpu, cuda or cuda:N"),
    (train_finetune, ["--proposals", "nothing.csv"], "nothing.csv")])
def test_wrong_flags_are_explained(world, tmp_path, script, wrong, message):
    if "--device" in wrong and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises((ValueError, OSError)) as error:
        script.train(script.parse_args(flags(world, script, tmp_path / "out", *wrong)))
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()
