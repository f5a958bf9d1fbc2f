"""The scripts on files in the official layouts, from training to the paper's benchmarks."""

import numpy as np
import pytest
import torch
from test_readers import H, W, act_pickle, ava_folder, render, square, vidor, vidstg_entry, write

import data
import engine
import evaluate
import ovstad
import train_align
import train_finetune
from formats.proposals import write_proposals  # noqa: E402
from table import Detections  # noqa: E402
from train_align import read_alignment  # noqa: E402

SMALL = ["--scale", "48", "54", "--short-side", "48", "--stride", "1", "--workers", "0", "--warmup", "0", "--iterations", "1", "--batch-size", "4"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Small HC-STVG, VidSTG + VidOR, UCF101-24, JHMDB-21 and AVA folders, each with a rendered person in its videos."""
    root = tmp_path_factory.mktemp("sets")
    render(root / "hcstvg" / "video" / "1" / "1_abcdefghijk.mp4", 30)
    tube = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in map(square, range(5, 20))]
    write(root / "hcstvg" / "trainv2.json", {"1_abcdefghijk.mp4": {"bbox": tube, "st_frame": 6, "img_size": [H, W], "img_num": 30,
                                                                   "English": "The man walks to the door and opens it."}})
    write(root / "vidstg" / "train_annotations.json", [vidstg_entry("123", "ride", 0, 4, 10)])
    vidor(root / "vidor", "123", {0: {i: square(i) for i in range(12)}}, 12, (W, H))
    render(root / "vidor" / "video" / "0001" / "123.mp4", 12)

    tube = np.array([(i + 1, *square(i)) for i in range(2, 10)], np.float32)
    videos = ["Biking/v_Biking_g08_c01", "Biking/v_Biking_g01_c01"]
    write(root / "ucf" / "UCF101v2-GT.pkl", act_pickle(["Biking", "Diving"], videos, {v: {0: [tube]} for v in videos})
          | {"nframes": {v: 12 for v in videos}, "resolution": {v: (H, W) for v in videos}})
    videos = ["wave/a!b", "wave/c_wave_1", "clap/d"]
    labels = [name.replace("pull up", "pullup").replace(" ", "_") for name in data.JHMDB_21]
    write(root / "jhmdb" / "JHMDB-GT.pkl", act_pickle(labels, videos, {v: {labels.index(v.split("/")[0]): [tube]} for v in videos}, parts=3)
          | {"nframes": {v: 12 for v in videos}, "resolution": {v: (H, W) for v in videos}})
    for video in ("v_Biking_g08_c01", "v_Biking_g01_c01"):
        render(root / "ucf" / "UCF-101" / "Biking" / f"{video}.avi", 12)
    for video in videos:
        render(root / "jhmdb" / "videos" / f"{video}.avi", 12)

    for split, movie in (("train", "-aaaaaaaaaa"), ("val", "_bbbbbbbbbb")):
        render(root / "ava" / "videos_15min" / f"{movie}.mp4", 901, fps=1)
        boxes = {second: np.array(square(second - 900)) / [W, H, W, H] for second in (902, 903, 904)}
        ava_folder(root / "ava", split, "2.2", "".join(f"{movie},{second:04d},{','.join(f'{x:.3f}' for x in box)},{action},0\n"
                                                       for second, box in boxes.items() for action in (12, 14, 80)))
    return root


def train(script, sets, out, *flags):
    source = ["--weights", "random", "--arch", "toy"] if script is train_align else []
    path = script.train(script.parse_args([*map(str, [*source, *flags]), *SMALL, "--out", str(out)]))
    return path, torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def aligned(sets, tmp_path_factory):
    """A step of stage 1 on both alignment sets."""
    path, record = train(train_align, sets, tmp_path_factory.mktemp("align"), "--split", "train", "--hcstvg", sets / "hcstvg", "--vidstg", sets / "vidstg",
                         "--vidor", sets / "vidor")
    assert record["stage"] == "align" and record["step"] == 1
    return path


def score(checkpoint, out, *flags):
    args = evaluate.parse_args(["--ckpt", str(checkpoint), "--out", str(out), "--workers", "0", *map(str, flags)])
    return evaluate.score_checkpoint(str(checkpoint), args, engine.start_process("cpu"))


def test_alignment_tells_the_sentences_of_both_sets(sets):
    table = read_alignment(train_align.parse_args(["--split", "train", "--hcstvg", str(sets / "hcstvg"), "--vidstg", str(sets / "vidstg"),
                                                        "--vidor", str(sets / "vidor")]))
    assert table.texts == ["The man walks to the door", "The man opens it", "a child rides a bike."]
    assert np.bincount(table.text).tolist() == [8, 7, 6]     # halves of a tube of 15 frames, and VidSTG's 6


def test_ucf_jhmdb_from_alignment_to_table_5(sets, aligned, tmp_path, capsys, monkeypatch):
    encoded, plain = [], ovstad.ViCLIP.encode_video
    monkeypatch.setattr(ovstad.ViCLIP, "encode_video", lambda self, video: encoded.append(len(video)) or plain(self, video))
    boxes = data.read_ucf101_24(sets / "ucf", "train")
    write_proposals(tmp_path / "train.csv", boxes, Detections(boxes.video, boxes.keyframe, np.clip(boxes.box + np.float32(0.01), 0, 1),
                                                                       np.full(len(boxes), 0.9, np.float32)))
    path, record = train(train_finetune, sets, tmp_path / "run", "--weights", aligned, "--dataset", "ucf101-24", "--data", sets / "ucf",
                         "--proposals", tmp_path / "train.csv")
    assert record["classes"] == record["base"] == data.UCF101_24 and record["novel"] == data.JHMDB_21
    encoded.clear()
    results = score(path, tmp_path / "eval", "--jhmdb", sets / "jhmdb", "--proposals", "ground-truth", "--joint",
                    "--protocol", "act", "ava")
    assert sum(encoded) == 3 * 8                             # a UCF and two JHMDB videos, each once for all three splits
    both = [result for result in results if not result.get("joint")]
    assert [result["protocol"] for result in both] == ["act", "ava"]
    assert [one["test_set"] for one in both[0]["sets"]] == ["UCF101-24", "JHMDB-21 split 1", "JHMDB-21 split 2", "JHMDB-21 split 3"]
    assert both[0]["mean_ap"]["base"] == both[0]["sets"][0]["mean_ap"]["base"]
    assert both[0]["mean_ap"]["novel"] == pytest.approx(np.mean([one["mean_ap"]["novel"] for one in both[0]["sets"][1:]]))
    biking = next(entry for entry in both[0]["classes"] if entry["gt"] and entry["split"] == "base")
    assert biking["ap"] == pytest.approx(1.0)                # the one class that is there, on annotated boxes: every one is right
    joint = next(result for result in results if result.get("joint") and result["protocol"] == "act")
    assert {entry["split"] for entry in joint["classes"]} == {"base", "novel"} and joint["mean_ap"]["base"] < 1


def test_ucf_jhmdb_asks_for_proposals(sets, aligned, tmp_path):
    with pytest.raises(ValueError, match="--proposals is missing.*detect_humans.py"):
        score(aligned, tmp_path, "--benchmark", "ucf-jhmdb", "--data", sets / "ucf", "--jhmdb", sets / "jhmdb")


def test_proposals_beside_each_test_set_are_found_without_a_flag(sets, aligned, tmp_path):
    folders = {"ucf": data.read_ucf101_24(sets / "ucf", "test"), "jhmdb": data.read_jhmdb_21(sets / "jhmdb", "test")}
    paths = [sets / name / "proposals.csv" for name in folders]
    for path, truth in zip(paths, folders.values()):
        rows = truth.box.any(axis=1)
        write_proposals(path, truth, Detections(truth.video[rows], truth.keyframe[rows], truth.box[rows], np.full(rows.sum(), 0.9)))
    try:
        result = score(aligned, tmp_path, "--benchmark", "ucf-jhmdb", "--data", sets / "ucf", "--jhmdb", sets / "jhmdb")[0]
    finally:
        for path in paths:
            path.unlink()
    assert list(dict.fromkeys(one["boxes_from"] for one in result["sets"])) == list(map(str, paths))
    assert result["sets"][0]["min_score"] == 0.3


def test_what_cannot_be_scored_is_said_before_any_clip_is_encoded(sets, aligned, tmp_path):
    for flags, message in ((["--protocol", "act"], "no frame sizes"), (["--video-map"], "video mAP needs ground truth by frames")):
        with pytest.raises(ValueError, match=message):
            score(aligned, tmp_path / "eval", "--benchmark", "ov-ava", "--data", sets / "ava", "--proposals", "ground-truth", *flags)
    assert not (tmp_path / "eval").exists()


def test_ov_ava_trains_on_45_base_classes_and_tests_on_all_60(sets, aligned, tmp_path):
    path, record = train(train_finetune, sets, tmp_path / "run", "--weights", aligned, "--dataset", "ava", "--data", sets / "ava")
    assert len(record["base"]) == 45 and record["novel"] == data.OV_AVA_NOVEL and "walk" not in record["base"]
    (tmp_path / "lfb.csv").write_text("".join(f"_bbbbbbbbbb,{second:04d},{x1:.3f},{y1:.3f},{x2:.3f},{y2:.3f},,{score}\n"
                                              for second, score in ((902, 0.99), (903, 0.85), (904, 0.5))
                                              for x1, y1, x2, y2 in [np.array(square(second - 900)) / [W, H, W, H]]))
    result = score(path, tmp_path / "eval", "--proposals", tmp_path / "lfb.csv")[0]
    counted = {entry["name"]: entry for entry in result["classes"] if entry["ap"] is not None}
    assert set(counted) == {"stand", "walk", "watch (a person)"} and counted["walk"]["split"] == "novel"
    assert result["proposals"] == 2 and result["min_score"] == 0.8          # Section 4.1
    assert counted["stand"]["ap"] == pytest.approx(2 / 3) and counted["stand"]["id"] == 12 and len(result["classes"]) == 60
    rows = (tmp_path / "eval" / "predictions.csv").read_text().splitlines()
    assert len(rows) == 2 * 60 and rows[0].startswith("_bbbbbbbbbb,0902,")


def test_a_checkpoint_remembers_benchmark_and_folders(sets, aligned, tmp_path, monkeypatch):
    path, _ = train(train_finetune, sets, tmp_path / "run", "--weights", aligned, "--dataset", "ava", "--data", sets / "ava")
    result = score(path, tmp_path / "eval", "--proposals", "ground-truth")[0]
    assert result["test_set"] == "AVA" and result["mean_ap"]["all"] == pytest.approx(1.0)


def test_a_list_of_novel_classes_takes_the_place_of_ours(sets, aligned, tmp_path):
    (tmp_path / "novel.txt").write_text("stand\nsit\n")
    path, record = train(train_finetune, sets, tmp_path / "run", "--weights", aligned, "--dataset", "ava", "--data", sets / "ava",
                         "--novel", tmp_path / "novel.txt")
    assert len(record["base"]) == 58 and record["novel"] == ["stand", "sit"]
    (tmp_path / "novel.txt").write_text("stand\nflying\n")
    with pytest.raises(ValueError, match="novel.txt:2: 'flying' is not a class of ava"):
        train(train_finetune, sets, tmp_path / "other", "--weights", aligned, "--dataset", "ava", "--data", sets / "ava",
              "--novel", tmp_path / "novel.txt")
