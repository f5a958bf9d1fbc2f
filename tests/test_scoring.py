"""evaluate.py --ckpt: a checkpoint's scores of a benchmark, by one process or several, whole or interrupted."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import data  # noqa: E402
import engine  # noqa: E402
import evaluate  # noqa: E402
import ovstad  # noqa: E402
import toy  # noqa: E402
from formats.proposals import write_proposals  # noqa: E402
from table import Detections  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(world, tmp_path_factory):
    """The start model as if it had been finetuned on the world's base actions."""
    path = tmp_path_factory.mktemp("run") / "last.pt"
    model = torch.load(world / "start.pth", weights_only=True)["model"]
    torch.save({"model": model, "arch": "toy", "beta": 0.3, "prompt": "a person {}", "classes": sorted(toy.BASE), "base": sorted(toy.BASE),
                "novel": toy.NOVEL, "frames": 4, "stride": 2, "short_side": 48, "stage": "finetune", "step": 1,
                "args": {"dataset": "csv", "data": str(world)}}, path)
    return path


def score(checkpoint, out, *flags):
    args = evaluate.parse_args(["--ckpt", str(checkpoint), "--out", str(out), "--workers", "0", *map(str, flags)])
    return evaluate.score_checkpoint(str(checkpoint), args, engine.start_process("cpu"))


def command(checkpoint, out, *flags, processes=1):
    launch = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [sys.executable, *launch, str(ROOT / "evaluate.py"), "--ckpt", str(checkpoint), "--out", str(out), "--workers", "0", *map(str, flags)]


def test_several_checkpoints_keep_their_predictions_apart_and_give_mean_and_spread(checkpoint, tmp_path):
    other = tmp_path / "last.pt"
    record = torch.load(checkpoint, weights_only=True)
    torch.manual_seed(1)
    torch.save(record | {"model": ovstad.build_model("toy").state_dict()}, other)
    done = subprocess.run([*command(checkpoint, tmp_path / "out", "--json", tmp_path / "r.json"), "--ckpt", str(checkpoint), str(other)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, two, mean = json.loads((tmp_path / "r.json").read_text())
    assert mean["mean_ap"]["all"] == pytest.approx((one["mean_ap"]["all"] + two["mean_ap"]["all"]) / 2)
    files = [(tmp_path / "out" / place / "predictions.csv").read_text() for place in "01"]
    assert files[0] != files[1] and files[0].count("\n") == files[1].count("\n") > 0


def test_a_model_finetuned_on_a_file_alone_is_tested_on_the_file_beside_it(world, checkpoint, tmp_path):
    record = torch.load(checkpoint, weights_only=True)
    path = tmp_path / "last.pt"
    torch.save(record | {"args": {"dataset": "csv", "data": None, "csv": str(world / "train.csv")}}, path)
    beside, told = score(path, tmp_path / "a")[0], score(checkpoint, tmp_path / "b")[0]
    assert beside["mean_ap"] == told["mean_ap"] and beside["classes"] == told["classes"]


def test_scores_are_those_of_the_model_asked_box_by_box(world, checkpoint, tmp_path):
    score(checkpoint, tmp_path, "--beta", 0.3)
    model, _ = ovstad.load_model(str(checkpoint))
    truth = data.read_csv(world / "test.csv")
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == len(truth) * 12                      # every person has one action, and every box all words
    rng = np.random.default_rng(0)
    with torch.inference_mode():
        for row in (rows[i] for i in rng.integers(0, len(rows), 10)):
            clip = data.open_video(str(world / row[0]), short_side=48, multiple=8).clip_at(float(row[1]), 4, 2)
            f_global, f_map = model.encode_video(data.normalise(torch.from_numpy(clip).permute(0, 3, 1, 2)[None]))
            f_region = model.region_features(f_map, [torch.tensor([[float(v) for v in row[2:6]]])])
            f_text = model.encode_text([f"a person {truth.texts[int(row[6]) - 1]}"])
            expected = torch.cosine_similarity(0.3 * f_region + 0.7 * f_global, f_text) / model.temp
            assert float(row[7]) == pytest.approx(expected.item(), abs=1e-3)


def test_a_checkpoint_alone_tells_benchmark_data_and_beta(world, checkpoint):
    run = subprocess.run([sys.executable, str(ROOT / "evaluate.py"), "--ckpt", str(checkpoint)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "csv, beta 0.3: boxes of ground truth" in run.stdout and "mAP  base" in run.stdout
    assert (checkpoint.parent / "eval" / "predictions.csv").exists()


def test_several_betas_take_one_pass_of_the_encoder_and_equal_single_runs(checkpoint, tmp_path, monkeypatch):
    seen = []
    plain = ovstad.ViCLIP.encode_video
    monkeypatch.setattr(ovstad.ViCLIP, "encode_video", lambda self, video: seen.append(len(video)) or plain(self, video))
    together = score(checkpoint, tmp_path / "all", "--beta", 0, 0.3, 1)
    assert sum(seen) == 24 and [result["beta"] for result in together] == [0, 0.3, 1]    # each clip once
    for result in together:
        alone = score(checkpoint, tmp_path / "one", "--beta", result["beta"])[0]
        assert alone["mean_ap"] == result["mean_ap"]
    assert len({result["mean_ap"]["all"] for result in together}) > 1


def test_base_and_novel_are_divided_as_the_checkpoint_says(checkpoint, tmp_path):
    result = score(checkpoint, tmp_path)[0]
    split = {entry["name"]: entry["split"] for entry in result["classes"]}
    assert split == {name: "base" for name in toy.BASE} | {name: "novel" for name in toy.NOVEL}
    aps = {entry["name"]: entry["ap"] for entry in result["classes"] if entry["ap"] is not None}
    assert result["mean_ap"]["novel"] == pytest.approx(np.mean([ap for name, ap in aps.items() if name in toy.NOVEL]))
    assert result["mean_ap"]["all"] == pytest.approx(np.mean(list(aps.values())))


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_write_the_predictions_of_one_row_for_row(checkpoint, tmp_path, processes):
    score(checkpoint, tmp_path / "one")
    run = subprocess.run(command(checkpoint, tmp_path / "many", processes=processes), capture_output=True, text=True,
                         env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())})
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "many" / "predictions.csv").read_bytes() == (tmp_path / "one" / "predictions.csv").read_bytes()
    assert run.stdout.count("mAP  base") == 1                # the first process speaks


def test_more_processes_than_chunks_leave_some_with_nothing_and_change_nothing(checkpoint, world, tmp_path):
    few = "\n".join((world / "test.csv").read_text().splitlines()[:4])
    (world / "few.csv").write_text(few)
    score(checkpoint, tmp_path / "one", "--csv", world / "few.csv")
    subprocess.run(command(checkpoint, tmp_path / "three", "--csv", world / "few.csv", processes=3), capture_output=True, check=True)
    assert (tmp_path / "three" / "predictions.csv").read_bytes() == (tmp_path / "one" / "predictions.csv").read_bytes()


def test_an_interrupted_run_keeps_its_finished_part_and_resumes_to_the_same(checkpoint, tmp_path, monkeypatch):
    whole = score(checkpoint, tmp_path / "whole", "--batch-size", 4)
    seen, plain = [], ovstad.ViCLIP.encode_video

    def stop_after(limit):
        def encode(self, video):
            if len(seen) == limit:
                raise KeyboardInterrupt
            seen.append(len(video))
            return plain(self, video)
        return encode

    monkeypatch.setattr(ovstad.ViCLIP, "encode_video", stop_after(5))                    # chunks hold 16 keyframes, 4 batches
    with pytest.raises(KeyboardInterrupt):
        score(checkpoint, tmp_path / "part", "--batch-size", 4)
    assert not (tmp_path / "part" / "predictions.csv").exists()
    seen.clear()
    monkeypatch.setattr(ovstad.ViCLIP, "encode_video", stop_after(99))
    resumed = score(checkpoint, tmp_path / "part", "--batch-size", 4, "--resume")
    assert sum(seen) == 8                                    # the second chunk only: 24 keyframes less 16
    assert resumed[0]["mean_ap"] == whole[0]["mean_ap"]
    assert (tmp_path / "part" / "predictions.csv").read_bytes() == (tmp_path / "whole" / "predictions.csv").read_bytes()


def test_an_interrupted_run_goes_on_only_with_the_same_settings(checkpoint, tmp_path):
    score(checkpoint, tmp_path, "--beta", 1)
    with pytest.raises(ValueError, match=r"started with --beta \[1.0\], not \[0.0\]"):
        score(checkpoint, tmp_path, "--beta", 0, "--resume")


def test_people_whom_the_detector_missed_lower_the_mean(world, checkpoint, tmp_path):
    truth = data.read_csv(world / "test.csv")
    half = truth.select(np.arange(len(truth)) % 2 == 0)      # a detector that misses every second person
    score_of_box = np.linspace(0.5, 0.9, len(half), dtype=np.float32)
    write_proposals(tmp_path / "half.csv", truth, Detections(half.video, half.keyframe, half.box, score_of_box))
    result = score(checkpoint, tmp_path / "out", "--proposals", tmp_path / "half.csv")[0]
    assert result["proposals"] == len(half)
    assert result["mean_ap"]["all"] < score(checkpoint, tmp_path / "gt")[0]["mean_ap"]["all"]


def test_predictions_scored_again_from_the_file_give_the_same_result(world, checkpoint, tmp_path, monkeypatch, capsys):
    result = score(checkpoint, tmp_path)[0]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--predictions", str(tmp_path / "predictions.csv"), "--ground-truth", str(world / "test.csv"),
                                      "--novel", str(world / "novel.txt"), "--json", str(tmp_path / "r.json")])
    evaluate.main()
    assert json.loads((tmp_path / "r.json").read_text())["mean_ap"] == pytest.approx(result["mean_ap"])


def test_a_video_that_cannot_be_read_is_counted_and_its_people_missed(world, checkpoint, tmp_path):
    folder = tmp_path / "data"
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "0000.mp4").write_bytes((world / "test" / "0000.mp4").read_bytes())
    (folder / "test" / "broken.mp4").write_bytes(b"broken")
    (folder / "test.csv").write_text((world / "test.csv").read_text() + "test/broken.mp4,0.5,0.1,0.1,0.5,0.9,waving,0\n")
    result = score(checkpoint, tmp_path / "out", "--data", folder)[0]
    waving = next(entry for entry in result["classes"] if entry["name"] == "waving")
    assert result["unreadable"] == 1 and waving["gt"] == 1 + (world / "test.csv").read_text().count("waving")


def test_mostly_unreadable_videos_are_no_result(world, checkpoint, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"broken")
    (tmp_path / "test.csv").write_text("broken.mp4,0.5,0.1,0.1,0.5,0.9,waving\n")
    with pytest.raises(ValueError, match="1 of 1 keyframes could not be read, such as broken.mp4"):
        score(checkpoint, tmp_path / "out", "--data", tmp_path)


@pytest.mark.parametrize("flags, message", [
    (["--benchmark", "ucf-jhmdb", "--data", "nowhere"], "no folder nowhere"), (["--benchmark", "csv", "--csv", "no.csv"], "no.csv"),
    (["--proposals", "no.csv"], "no.csv")])
def test_wrong_flags_are_explained(checkpoint, tmp_path, flags, message):
    with pytest.raises((ValueError, OSError), match=message):
        score(checkpoint, tmp_path, *flags)


def test_weights_without_a_benchmark_ask_for_one(world, tmp_path):
    with pytest.raises(ValueError, match="--benchmark ucf-jhmdb.ov-ava.csv"):
        score(world / "start.pth", tmp_path)


def test_an_aligned_checkpoint_is_scored_on_the_test_file_beside_its_pairs(world, checkpoint, tmp_path):
    record = torch.load(checkpoint, weights_only=True)
    torch.save(record | {"stage": "align", "base": [], "novel": [], "args": {"csv": str(world / "align.csv")}}, tmp_path / "last.pt")
    result = score(tmp_path / "last.pt", tmp_path / "eval")[0]
    assert {entry["name"] for entry in result["classes"] if entry["split"] == "novel"} == set(toy.NOVEL)
