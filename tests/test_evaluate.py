"""The command line of evaluate.py on saved files."""

import gzip
import json
import pickle
import sys

import numpy as np
import pytest
from layouts import SAMPLES, needs_samples
from PIL import Image
from test_metric import tables
from test_predictions import AVA_MAP, AVA_NAMES, TRUTH

import evaluate
from data import JHMDB_21
from draw import COLOURS, ap_bars
from engine import cli
from formats.predictions import write_predictions
from formats.ucf_jhmdb import read_act_pickle
from metric import frame_map
from table import Detections

GOOD = "v_1,0902,0.0,0.0,0.4,0.8,12,0.5\n"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder, and the current one, of ground truth, two predictions, label map and novel list."""
    (tmp_path / "g.csv").write_text(TRUTH + "v_1,0904,0.6,0.0,1.0,0.8,38,3\n")
    (tmp_path / "p.csv").write_text(GOOD + "v_1,0903,0.6,0.0,1.0,0.8,38,0.4\n"
                                           "v_1,0903,0.6,0.0,1.0,0.8,2,0.3\n")
    (tmp_path / "q.csv").write_text(GOOD)
    (tmp_path / "m.pbtxt").write_text(AVA_MAP + 'item { name: "fall down" id: 5 }')
    (tmp_path / "n.txt").write_text("stand\n\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """Exit status, stdout and stderr of evaluate.py with these arguments."""
    def run(*args):
        words = [word for arg in args for word in str(arg).split()]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *words])
        with pytest.raises(SystemExit) as stop:
            cli(evaluate.main)
        return stop.value.code or 0, *capsys.readouterr()
    return run


FILES = "--predictions p.csv --ground-truth g.csv --label-map m.pbtxt"


def test_the_command_line_prints_and_writes_everything(run, files):
    status, out, err = run(FILES, "--novel n.txt --json r.json --plot r.png")
    assert status == 0 and err == "p.csv: 1 of 3 keyframes with people have no detection\n"
    for line in ("frame mAP  protocol ava  iou 0.5  max-per-keyframe off",
                 "keyframes 3  boxes 3  ground truth 3  predictions 2",
                 "left out: 1 predictions of classes that are not evaluated",
                 "classes 2 of 3 counted; without ground truth: fall down",
                 "mAP  base 50.00  novel 100.00  all 75.00"):
        assert line in out
    assert "why:" not in out
    result = json.loads((files / "r.json").read_text())
    assert result["mean_ap"] == {"base": 0.5, "novel": 1.0, "all": 0.75}
    assert {"python", "numpy"} <= set(result["versions"])
    keys = ("id", "name", "split", "ap", "gt", "predictions")
    assert [tuple(entry[key] for key in keys) for entry in result["classes"]] == [
        (12, "stand", "novel", 1.0, 1, 1), (38, AVA_NAMES[38], "base", 0.5, 2, 1),
        (5, "fall down", "base", None, 0, 0)]
    colours = {colour for _, colour in Image.open(files / "r.png").getcolors(10 ** 6)}
    assert COLOURS["base"] in colours and COLOURS["novel"] in colours


def test_several_files_give_each_and_the_mean_with_its_spread(run, files):
    status, out, _ = run(FILES.replace("p.csv", "p.csv q.csv"), "--json r.json")
    assert status == 0 and "mean of 2, ava: all 62.50  standard deviation all 17.68" in out
    *each, mean = json.loads((files / "r.json").read_text())
    assert [result["mean_ap"]["all"] for result in each] == [0.75, 0.5]
    assert mean["mean_ap"]["all"] == 0.625


def test_a_low_map_or_why_tells_what_may_be_wrong(run, files):
    status, out, _ = run(FILES, "--why")
    assert status == 0 and "\nwhy: all detections are on videos and keyframes that the truth" in out
    (files / "p.csv").write_text("v_1,902,0.6,0.0,1.0,0.8,12,1\n")
    assert "why: 100% of the people have no box near them" in run(FILES)[1]


def test_what_looks_like_a_mistake_is_a_note_on_stderr(run, files):
    (files / "p.csv").write_text(GOOD + "home/me/v_1.mp4,902,0,0,0.4,0.8,12,0.5\n")
    (files / "g.csv").write_text((files / "g.csv").read_text() + "v_2,0902,0.0,0.0,0.4,0.8,12,0\n")
    (files / "e.csv").write_text("v_9,0902\n")
    status, out, err = run(FILES, "--exclude e.csv")
    assert status == 0 and "p.csv: 1 of 2 detections are on keyframes that the ground truth" in err
    assert "(yours: home/me/v_1.mp4; the truth's: v_1, v_2)" in err
    assert "p.csv: 1 of 2 videos with people have no detection, such as v_2" in err
    assert "p.csv: 2 of 2 scores are 0.5: between these the order of the rows decides" in err
    (files / "e.csv").write_text("v_1,2\n")
    for err in (err, run(FILES, "--exclude e.csv")[2]):
        assert "e.csv: none of its keyframes is in the ground truth or the predictions" in err


def act_pickle(path, tests, frames=20, annotated=20, labels=JHMDB_21):
    """JHMDB-GT.pkl: tests are the test videos of each split; everybody waves in the same box."""
    videos = sorted({video for split in tests for video in split}) + ["wave/train"]
    tube = np.column_stack([np.arange(1, annotated + 1),
                            np.tile([10.0, 20, 110, 220], (annotated, 1))]).astype(np.float32)
    path.write_bytes(pickle.dumps({
        "labels": [name.replace(" ", "_") for name in labels],
        "train_videos": [["wave/train"]] * len(tests), "test_videos": tests,
        "nframes": dict.fromkeys(videos, frames),
        "resolution": dict.fromkeys(videos, (240, 320)),
        "gttubes": dict.fromkeys(videos, {20: [tube]})}, 2))


def test_the_three_splits_of_jhmdb_are_the_default_and_give_each_and_the_mean(run, files):
    one, two, three = videos = [f"wave/v!_{i}" for i in range(3)]
    act_pickle(files / "JHMDB-GT.pkl", [[one], [one, two], [three]])
    # right; right on half the frames; too small a box; and a training video's, which is left out
    right, small = "0.03125,0.083333,0.34375,0.916667", "0.03125,0.083333,0.1,0.5"
    rows = [f"{video},{f},{box},21,{20 - f}\n" for video, box, last in
            zip([*videos, "wave/train"], [right, right, small, right], [20, 10, 20, 20])
            for f in range(1, last + 1)]
    rows += [f"{one},21,{right},21,99\n"]                    # the video has 20 frames
    (files / "p.csv").write_text("".join(rows))
    pickled = "--predictions p.csv --ground-truth JHMDB-GT.pkl"
    status, out, err = run(pickled, "--video-map --json r.json")
    assert status == 0 and "mean of 3, act: all 58.33  standard deviation all 52.04" in out
    assert "p.csv: 21 of 71 detections are on keyframes" in err and "(yours: wave/train;" in err
    *each, mean = json.loads((files / "r.json").read_text())
    assert [result["mean_ap"]["all"] for result in each] == [1.0, 0.75, 0.0]
    assert [result["test_split"] for result in each] == [1, 2, 3] and each[0]["keyframes"] == 20
    assert each[0]["left_out"] == {"of classes that are not evaluated": 0,
                                   "on videos that the ground truth lacks": 20,
                                   "on frames beyond their video's end": 1,
                                   "on videos of other splits": 30}
    assert each[0]["video_map"]["map"] == {"0.2": 1.0, "0.5": 1.0, "0.5:0.95": 1.0}
    for split, ap in (("1", 1.0), ("2 3", 0.375)):
        assert run(pickled, "--split", split, "--json r.json")[0] == 0
        result = json.loads((files / "r.json").read_text())
        assert (result[-1] if split == "2 3" else result)["mean_ap"]["all"] == ap

    act_pickle(files / "JHMDB-GT.pkl", [[one]])              # a file of one split
    status, _, err = run(pickled)
    assert status == 2 and "JHMDB-GT.pkl: there is no split 2 of 1; give --split 1" in err, err
    assert run(pickled, "--split 1")[0] == 0


def test_a_map_in_official_spelling_and_large_suffixes_are_taken_and_faults_are_said(run, files):
    act_pickle(files / "GT.PKL", [["wave/a"]], frames=10)
    with gzip.open(files / "P.csv.gz", "wt") as file:
        file.write("wave/a,1,0.03125,0.083333,0.34375,0.916667,9,1\n")
    (files / "P.PBTXT").write_text("9: Wave\n4: climb_stairs\n")
    flags = "--predictions P.csv.gz --ground-truth GT.PKL --split 1"
    status, out, err = run(flags)
    assert status == 0 and "label map: P.PBTXT" in out and "mAP  all 10.00" in out
    assert "GT.PKL: wave/a: 10 boxes of tube 0 outside frames 1 to 10, dropped" in err
    (files / "P.PBTXT").write_text("9: waving\n")
    status, _, err = run(flags)
    assert status == 2 and "P.PBTXT: unknown class 'waving'; expected" in err


def test_frames_without_people_count_as_false_or_are_left_out(run, files):
    act_pickle(files / "JHMDB-GT.pkl", [["wave/a"]], annotated=10)
    rows = [f"wave/a,{f},0.03125,0.083333,0.34375,0.916667,21,{f}\n" for f in range(1, 21)]
    (files / "p.csv").write_text("".join(rows))
    flags = "--predictions p.csv --ground-truth JHMDB-GT.pkl --split 1 --protocol ava act"
    status, out, _ = run(flags)
    assert status == 0 and out.index("protocol ava") < out.index("protocol act")
    # ten false ones first: then precision 1/11 to 10/20; the envelope is 10/20 throughout
    assert "protocol ava" in out and "mAP  all 50.00" in out
    assert "false detections 10, of which 10 on keyframes without annotated people" in out
    status, out, _ = run(flags, "--annotated-frames-only")
    assert status == 0 and out.count("mAP  all 100.00") == 2 and "keyframes 10  " in out
    assert "left out: 10 predictions on excluded keyframes" in out and "false det" not in out


@needs_samples
def test_a_real_pickle_scores_its_own_boxes_exactly_one(run, files):
    path = SAMPLES / "ucf24" / "pyannot.pkl"
    truth = read_act_pickle(path)
    rows = np.flatnonzero(truth.text >= 0)
    ones = np.ones(len(rows), np.float32)
    write_predictions(files / "p.csv", truth, Detections(
        truth.video[rows], truth.keyframe[rows], truth.box[rows], ones, truth.text[rows]))
    status, out, _ = run("--predictions p.csv --ground-truth", path)
    assert status == 0 and "protocol act" in out and "mAP  all 100.00" in out
    assert "keyframes 159289  boxes 170522  ground truth 170580  predictions 170580" in out


ELSEWHERE = {"none.csv": "v_2,0902,0.0,0.0,0.4,0.8,12,0.5\n",
             "late.csv": "v_1,0902.5,0.0,0.0,0.4,0.8,12,0.5\n", "empty.csv": "",
             "names.csv": "v_1,0902,0.0,0.0,0.4,0.8,stand,3\n", "excel.csv": "sep=,\n" + GOOD,
             "nan.csv": "v_1,0902,0.0,0.0,0.4,0.8,12,nan\n", "stnd.txt": "stnd\n",
             "empty.txt": "\n", "empty.pbtxt": "", "other.pbtxt": 'item { name: "a" id: 99 }'}


@pytest.mark.parametrize("flags, message", [
    ("--predictions nan.csv", "nan.csv:1: score is absent or not a finite number"),
    ("--predictions empty.csv", "empty.csv: no rows"),
    ("--predictions nosuch.csv", "nosuch.csv"),
    ("--predictions excel.csv", "excel.csv:1: 'sep=' is a line for Excel"),
    ("--predictions g.csv", "g.csv: is the ground truth, whose last column is a person"),
    ("--predictions p.csv ./p.csv", "p.csv: one is there twice"),
    (f"{FILES} --protocol ava ava", "--protocol ava ava: one is there twice"),
    ("--ground-truth names.csv --label-map=", "which ids are they in the predictions? give"),
    ("--video-map --exclude p.csv", "--video-map knows no --exclude"),
    ("--video-map --max-per-keyframe 5", "--video-map knows no --exclude"),
    ("--json=", "--json : expected a name that ends in .json"), ("--json g.csv/r.json", "g.csv"),
    ("--json p.csv", "--json p.csv: expected a name that ends in .json"),
    ("--plot g.csv", "--plot g.csv: expected a name that ends in .png"),
    ("--predictions none.csv", "none.csv: none of its 1 detections is on a keyframe of the ground "
     "truth: 100% are on 1 videos that the truth does not know (yours: v_2; the truth's: v_1)"),
    ("--predictions late.csv", "each is off by 0.5 s from an annotated one"),
    ("--ground-truth empty.csv", "empty.csv: no rows"),
    ("--ground-truth nosuch.csv", "nosuch.csv"),
    ("--ground-truth pyannot.pkl", "testlist01.txt is not under .; get it from https://github.com"),
    ("--ground-truth other.pkl", "other.pkl: has 1 labels; expected UCF101v2-GT.pkl with 24"),
    ("--label-map empty.pbtxt", "empty.pbtxt: holds no classes"),
    ("--label-map other.pbtxt", "none of its classes (12, 38) is in the label map"),
    ("--novel stnd.txt", "stnd.txt:1: 'stnd' is not one of the 3 classes"),
    ("--novel empty.txt", "empty.txt: is empty"), ("--exclude nosuch.csv", "nosuch.csv"),
    ("--protocol act", "no frame sizes; use protocol ava"),
    ("--protocol ava act", "no frame sizes; use protocol ava"),
    ("--split 2", "--split 2: g.csv has no splits"), ("--iou 0", "--iou 0 is not in (0, 1]"),
    ("--max-per-keyframe -1", "--max-per-keyframe -1 is negative"),
    ("--joint", "--joint means nothing without --ckpt"),
    ("--ckpt c.pt", "means nothing with --ckpt"),
    ("--video-map", "video mAP needs ground truth by frames")])
def test_a_mistake_is_one_line_and_status_two_and_nothing_is_printed_or_written(
        run, files, flags, message):
    for name, text in ELSEWHERE.items():
        (files / name).write_text(text)
    (files / "other.pkl").write_bytes(pickle.dumps({"labels": ["a"]}, 2))
    status, out, err = run(FILES, "--novel n.txt --json r.json --plot r.png", flags)
    assert status == 2 and err.count("\n") == 1 and err.startswith("error: ") and message in err
    assert out == "" and not list(files.glob("r.*"))


def test_a_plot_without_any_counted_class_is_still_a_picture():
    truth, found = tables([], [], 2)
    assert ap_bars("nothing", frame_map(truth, found)["classes"]).size[0] > 100
