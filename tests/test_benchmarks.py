"""The scripts on files in the official layouts, from training to the paper's benchmarks."""

import numpy as np
import pytest
import torch
from layouts import H, W, act_pickle, ava_folder, render, square, write, write_alignment_sets

import data
import engine
import evaluate
import ovstad
import train_align
import train_finetune
from formats.proposals import write_proposals
from table import Detections

SMALL = ("--scale 48 54 --short-side 48 --stride 1 --workers 0 --warmup 0 --iterations 1 "
         "--batch-size 4").split()


def ava_box(second):
    return np.array(square(second - 900)) / [W, H, W, H]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Small folders of all official sets, each with a rendered person in its videos."""
    root = tmp_path_factory.mktemp("sets")
    write_alignment_sets(root)
    tube = np.array([(i + 1, *square(i)) for i in range(2, 10)], np.float32)
    jhmdb = [name.replace("pull up", "pullup").replace(" ", "_") for name in data.JHMDB_21]
    for path, labels, videos, parts in (
            ("ucf/UCF101v2-GT.pkl", ["Biking", "Diving"],
             ["Biking/v_Biking_g08_c01", "Biking/v_Biking_g01_c01"], 1),
            ("jhmdb/JHMDB-GT.pkl", jhmdb, ["wave/a!b", "wave/c_wave_1", "clap/d"], 3)):
        tubes = {video: {labels.index(video.split("/")[0]): [tube]} for video in videos}
        write(root / path, act_pickle(labels, videos, tubes, parts)
              | {"nframes": dict.fromkeys(videos, 12), "resolution": dict.fromkeys(videos, (H, W))})
        for video in videos:
            folder = "UCF-101" if parts == 1 else "videos"
            render((root / path).parent / folder / f"{video}.avi", 12)

    for split, movie in (("train", "-aaaaaaaaaa"), ("val", "_bbbbbbbbbb")):
        render(root / "ava" / "videos_15min" / f"{movie}.mp4", 901, fps=1)
        rows = [f"{movie},{second:04d},{','.join(f'{x:.3f}' for x in ava_box(second))},{action},0\n"
                for second in (902, 903, 904) for action in (12, 14, 80)]
        ava_folder(root / "ava", split, "2.2", "".join(rows))
    return root


def train(script, out, *flags):
    argv = [*map(str, flags), *SMALL, "--out", str(out)]
    path = script.train(script.parse_args(argv))
    return path, torch.load(path, weights_only=True)


def score(checkpoint, out, *flags):
    args = evaluate.parse_args(["--ckpt", str(checkpoint), "--out", str(out), "--workers", "0",
                                *map(str, flags)])
    return evaluate.score_checkpoint(str(checkpoint), args, engine.start_process("cpu"))


@pytest.fixture(scope="module")
def alignment_flags(sets):
    return ["--split", "train", "--hcstvg", sets / "hcstvg", "--vidstg", sets / "vidstg",
            "--vidor", sets / "vidor"]


@pytest.fixture(scope="module")
def aligned(alignment_flags, tmp_path_factory):
    """A step of stage 1 on both alignment sets."""
    path, record = train(train_align, tmp_path_factory.mktemp("align"), "--weights", "random",
                         "--arch", "toy", *alignment_flags)
    assert record["stage"] == "align" and record["step"] == 1
    return path


def test_alignment_tells_the_sentences_of_both_sets(alignment_flags):
    args = train_align.parse_args(list(map(str, alignment_flags)))
    table = train_align.read_alignment(args)
    assert table.texts == ["The man walks to the door", "The man opens it", "a child rides a bike."]
    assert np.bincount(table.text).tolist() == [8, 7, 6]     # halves of 15 frames, and VidSTG's 6


def test_ucf_jhmdb_from_alignment_to_table_5(sets, aligned, tmp_path, monkeypatch):
    encoded, plain = [], ovstad.ViCLIP.encode_video
    monkeypatch.setattr(ovstad.ViCLIP, "encode_video",
                        lambda self, video: encoded.append(len(video)) or plain(self, video))
    boxes = data.read_ucf101_24(sets / "ucf", "train")
    moved = np.clip(boxes.box + np.float32(0.01), 0, 1)
    write_proposals(tmp_path / "train.csv", boxes, Detections(
        boxes.video, boxes.keyframe, moved, np.full(len(boxes), 0.9, np.float32)))
    path, record = train(train_finetune, tmp_path / "run", "--weights", aligned, "--dataset",
                         "ucf101-24", "--data", sets / "ucf", "--proposals", tmp_path / "train.csv")
    assert record["classes"] == record["base"] == data.UCF101_24
    assert record["novel"] == data.JHMDB_21
    encoded.clear()
    results = score(path, tmp_path / "eval", "--jhmdb", sets / "jhmdb", "--proposals",
                    "ground-truth", "--joint", "--protocol", "act", "ava")
    assert sum(encoded) == 3 * 8                             # a video's frames once for all splits
    act, joint, ava, _ = results
    assert [result["protocol"] for result in results] == ["act", "act", "ava", "ava"]
    assert [(one["test_set"], one["test_split"]) for one in act["sets"]] == [
        ("UCF101-24", None), ("JHMDB-21", 1), ("JHMDB-21", 2), ("JHMDB-21", 3)]
    ucf, *jhmdb = (one["mean_ap"] for one in act["sets"])
    assert act["mean_ap"]["base"] == ucf["base"]
    assert act["mean_ap"]["novel"] == pytest.approx(np.mean([one["novel"] for one in jhmdb]))
    counted = [entry for entry in act["classes"] if entry["gt"] and entry["split"] == "base"]
    # the one class that is there, on annotated boxes: every detection is right
    assert [(entry["name"], entry["ap"]) for entry in counted] == [("biking", pytest.approx(1.0))]
    assert {entry["split"] for entry in joint["classes"]} == {"base", "novel"}
    assert joint["joint"] and joint["mean_ap"]["base"] < 1


def test_proposals_are_found_beside_each_test_set_or_asked_for(sets, aligned, tmp_path):
    flags = ["--benchmark", "ucf-jhmdb", "--data", sets / "ucf", "--jhmdb", sets / "jhmdb"]
    with pytest.raises(ValueError, match="--proposals is missing.*detect_humans.py"):
        score(aligned, tmp_path, *flags)
    paths = [sets / name / "proposals.csv" for name in ("ucf", "jhmdb")]
    for path, read in zip(paths, (data.read_ucf101_24, data.read_jhmdb_21)):
        truth = read(path.parent, "test")
        rows = truth.box.any(axis=1)
        write_proposals(path, truth, Detections(truth.video[rows], truth.keyframe[rows],
                                                truth.box[rows], np.full(rows.sum(), 0.9)))
    try:
        result = score(aligned, tmp_path, *flags)[0]
    finally:
        for path in paths:
            path.unlink()
    boxes_from = [one["boxes_from"] for one in result["sets"]]
    assert list(dict.fromkeys(boxes_from)) == list(map(str, paths))
    assert result["sets"][0]["min_score"] == 0.3             # Section 4.1


@pytest.mark.parametrize("flags, message", [
    (["--protocol", "act"], "no frame sizes"),
    (["--video-map"], "video mAP needs ground truth by frames")])
def test_what_cannot_be_scored_is_said_before_any_clip_is_encoded(
        sets, aligned, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        score(aligned, tmp_path / "eval", "--benchmark", "ov-ava", "--data", sets / "ava",
              "--proposals", "ground-truth", *flags)
    assert not (tmp_path / "eval").exists()


def test_ov_ava_trains_on_45_base_classes_and_tests_on_all_60(sets, aligned, tmp_path):
    path, record = train(train_finetune, tmp_path / "run", "--weights", aligned, "--dataset", "ava",
                         "--data", sets / "ava")
    assert len(record["base"]) == 45 and "walk" not in record["base"]
    assert record["novel"] == data.OV_AVA_NOVEL
    (tmp_path / "lfb.csv").write_text("".join(
        f"_bbbbbbbbbb,{second:04d},{','.join(f'{x:.3f}' for x in ava_box(second))},,{score}\n"
        for second, score in ((902, 0.99), (903, 0.85), (904, 0.5))))
    result = score(path, tmp_path / "eval", "--proposals", tmp_path / "lfb.csv")[0]
    assert result["test_set"] == "AVA"                       # the checkpoint remembers it
    assert result["proposals"] == 2 and result["min_score"] == 0.8          # Section 4.1
    counted = {entry["name"]: entry for entry in result["classes"] if entry["ap"] is not None}
    assert set(counted) == {"stand", "walk", "watch (a person)"} and len(result["classes"]) == 60
    assert counted["walk"]["split"] == "novel" and counted["stand"]["id"] == 12
    assert counted["stand"]["ap"] == pytest.approx(2 / 3)
    rows = (tmp_path / "eval" / "predictions.csv").read_text().splitlines()
    assert len(rows) == 2 * 60 and rows[0].startswith("_bbbbbbbbbb,0902,")


def test_a_list_of_novel_classes_replaces_ours_in_training_and_evaluation(sets, aligned, tmp_path):
    novel = tmp_path / "novel.txt"
    novel.write_text("stand\nsit\n")
    flags = ["--weights", aligned, "--dataset", "ava", "--data", sets / "ava", "--novel", novel]
    path, record = train(train_finetune, tmp_path / "run", *flags)
    assert len(record["base"]) == 58 and record["novel"] == ["stand", "sit"]

    def novel_in_evaluation(*flags):
        result, = score(path, tmp_path / "eval", "--proposals", "ground-truth", *flags)
        return {entry["name"] for entry in result["classes"] if entry["split"] == "novel"}

    assert novel_in_evaluation() == {"stand", "sit"}
    novel.write_text("walk\n")
    assert novel_in_evaluation("--novel", novel) == {"walk"}
    novel.write_text("stand\nflying\n")
    with pytest.raises(ValueError, match="novel.txt:2: 'flying' is not a class of ava"):
        train(train_finetune, tmp_path / "other", *flags)
