"""Files that are wrong: each is one line that names the file, the row or entry, and what was expected."""

import copy
import json
import pickle

import numpy as np
import pytest
from test_readers import BOX, act_pickle, ava_folder, hcstvg_entries, make, vidor, vidstg_entry, write

import data
from data import read_ava, read_csv
from formats.files import load_json, load_pickle, read_label_map, read_list
from formats.predictions import read_novel
from formats.proposals import read_proposals
from formats.vidstg import vidor_rows
from table import Annotations


# ---------------------------------------------------------------- rows of CSVs

def own(folder, row):
    write(folder / "a.mp4")
    read_csv(write(folder / "bad.csv", f"a.mp4,0,0,0,1,1,walk\n\n{row}\n"))


def ava(folder, row):
    read_ava(ava_folder(folder, "train", "2.2", f"m,0902,0.1,0.1,0.5,0.5,12,0\n\n{row}\n"))


def excluded(folder, row):
    read_ava(ava_folder(folder, "train", "2.2", "m,0902,0.1,0.1,0.5,0.5,12,0\n",
                        f"m,0902\n\n{row}\n"))


def proposals(folder, row):
    path = write(folder / "p.csv", f"v0,902,0.1,0.1,0.5,0.5,,0.9\n\n{row}\n")
    read_proposals(path, make([(0, 902, BOX, 0)], videos=1))


@pytest.mark.parametrize("read, row, says", [
    (own, "a.mp4,1,0.1,0.1,0.2,0.2",
     "6 columns; expected video,keyframe,x1,y1,x2,y2,text[,person] or video,"),
    (own, "a.mp4,1,0.1,0.1,0.2,x,walk", "'x' is not a number; expected video,keyframe"),
    (own, "a.mp4,1,0.5,0.1,0.2,0.2,walk", "box 0.5, 0.1, 0.2, 0.2 is not x1 < x2, y1 < y2"),
    (own, "a.mp4,1,0.1,0.1,0.1,0.2,walk", "is not x1 < x2"),
    (own, "a.mp4,1,0.1,0.1,0.1000000001,0.2,walk", "is not x1 < x2"),
    (own, "a.mp4,1,0.1,0.1,0.2,1.2,walk", "box 0.1, 0.1, 0.2, 1.2 is outside [0, 1]"),
    (own, "a.mp4,1,10,10,200,120,walk", "divide pixels by the picture's width and height"),
    (own, "a.mp4,1,nan,0.1,0.2,0.2,walk", "x1 is absent or not a finite number"),
    (own, "a.mp4,1,,,,,walk", "x1 is absent"),
    (own, "a.mp4,-1,0.1,0.1,0.2,0.2,walk", "keyframe -1 is not a time in seconds, 0 or more"),
    (own, "a.mp4,inf,0.1,0.1,0.2,0.2,walk", "keyframe is absent or not a finite number"),
    (own, "a.mp4,1e300,0.1,0.1,0.2,0.2,walk", "keyframe 1e+300 is not a time"),
    (own, ",1,0.1,0.1,0.2,0.2,walk", "video is absent"),
    (own, "a.mp4,1,0.1,0.1,0.2,0.2,", "the box has no text"),
    (own, "a.mp4,1,0.1,0.1,0.2,0.2,walk,1.5", "person 1.5 is not a whole number"),
    (own, "a.mp4,1,0.1,0.1,0.2,0.2,walk,4294967297",
     "person 4294967297 is not a whole number of at most"),
    (own, "b.mp4,1,0.1,0.1,0.2,0.2,walk", "video 'b.mp4' is not in"),
    (own, "a.mp4,0,0,0,1,1,walk", "the row is there twice: a.mp4, 0, 'walk'"),
    (own, 'a.mp4,1,0,0,1,1,"walk\na.mp4,2,0,0,1,1,sit\na.mp4,3,0,0,1,1,run',
     "is a quote not closed?"),
    (own, 'a.mp4,1,0,0,1,1,"walk\nhome"\na.mp4,2,0,0,1,1,sit', "a line break inside a cell"),
    (own, 'a.mp4,1,0,0,1,1,"walk" home', "not a row of a CSV"),
    (ava, "m,0902,0.1,0.1,0.5",
     "5 columns; expected video,second,x1,y1,x2,y2,action_id[,person_id]"),
    (ava, "m,x,0.1,0.1,0.5,0.5,12", "'x' is not a number"),
    (ava, "m,", "second is absent"),
    (ava, "m,1e300,0.1,0.1,0.5,0.5,12", "keyframe 1e+300 is not a time"),
    (ava, "m,902,0.1,0.1,0.5,0.5,,0", "action_id is absent"),
    (ava, "m,902,0.1,0.1,0.5,0.5,12,1e10", "person 10000000000 is not a whole number"),
    (ava, "m,0902,10,10,200,200,12,0", "box [10.0, 10.0, 200.0, 200.0] looks like pixels"),
    (excluded, "m,0902,1", "3 columns; expected video,second"),
    (excluded, "m,soon", "'soon' is not a number"),
    (proposals, "v0,902,10,20,100,200,,0.9", "box [10.0, 20.0, 100.0, 200.0] looks like pixels"),
    (proposals, "v0,902,0.1,0.1,0.5,0.5,12,965",
     "score 965 is not in [0, 1]; in a ground-truth file"),
    (proposals, "v0,902,0.1,0.1,0.5,0.5,,", "score is absent"),
    (proposals, "v0,902,0.1,0.1,0.5,0.5,0.9",
     "7 columns; expected video,keyframe,x1,y1,x2,y2,,score"),
    (proposals, "v0,902,0.6,0.6,0.2,0.2,,0.9",
     "is not x1 < x2, y1 < y2; are its corners swapped, or is it x, y,"),
])
def test_a_wrong_row_is_named_by_file_line_and_value(tmp_path, read, row, says):
    with pytest.raises(ValueError) as error:
        read(tmp_path, row)
    assert ".csv:3: " in str(error.value) and says in str(error.value)


@pytest.mark.parametrize("header, says", [
    ("video,keyframe,x1,y1,x2,y2,text", None), (" Video_ID, timestamp,x1,y1,x2,y2,action_id,person_id", None),
    ("video,keyframe", None), ("video,1,0.1,0.1,0.2,0.2,walk", None),
    ("video,keyframe,x1,x2,y1,y2,text", "'keyframe' is not a number; expected video,keyframe,x1,y1"),
    ("video,keyframe,text,x1,y1,x2,y2", "'keyframe' is not a number"), ("name,time", "'time' is not a number"),
])
def test_a_header_has_the_expected_columns_in_order_or_is_an_error(tmp_path, header, says):
    write(tmp_path / "video")
    path = write(tmp_path / "a.csv", f"{header}\nvideo,2,0.1,0.1,0.2,0.2,sit\n")
    if says:
        with pytest.raises(ValueError, match=f"a.csv:1: {says}"):
            read_csv(path)
    else:
        assert len(read_csv(path)) == 1 + ("walk" in header)


def test_an_empty_list_of_annotated_seconds_is_named(tmp_path):
    root = ava_folder(tmp_path, "train", "2.2", "m,0902,0.1,0.1,0.5,0.5,12,0\n", included="\n")
    with pytest.raises(ValueError, match="ava_included_timestamps_v2.2.txt: is empty"):
        read_ava(root)


def test_a_few_swapped_boxes_among_proposals_are_counted_and_left_out(tmp_path, capsys):
    rows = [f"v0,902,0.1,0.1,0.5,0.{i},,0.9\n" for i in range(20, 40)]
    path = write(tmp_path / "p.csv", "".join([*rows, "v0,902,0.6,0.6,0.2,0.2,,0.9\n"]))
    assert len(read_proposals(path, make([(0, 902, BOX, 0)], videos=1))) == 20
    assert capsys.readouterr().err == (
        f"{path}: 1 of 21 boxes are not x1 < x2, y1 < y2, the first in line 21; left out\n")


# ---------------------------------------------------------------- whole files

def texts_of(path):
    read_novel(path, Annotations(["v"], ["walk"], *np.zeros((2, 0)), np.zeros((0, 4)), np.zeros(0)))


@pytest.mark.parametrize("read, content, says", [
    (read_csv, b"video,keyframe,x1,y1,x2,y2,text\n", "no rows; expected video,keyframe"),
    (read_csv, b"\xff\xfe\x00a,b", "not a text file in UTF-8"),
    (read_label_map, b"\xff\xfe", "not a text file in UTF-8"),
    (read_label_map, b"# a comment", "bad.file: holds no classes"),
    (read_label_map, b"9" * 5000 + b": walk", "bad.file:1: "),
    (read_label_map, b'item { name: "a" id: ' + b"9" * 5000 + b" }", "bad.file:1: "),
    (read_label_map, b"12:" + b" " * 200_000, "bad.file:1: '12:' is no class"),
    (read_label_map, b"item {" + b" " * 200_000 + b"name:" + b" " * 200_000, "bad.file:1: "),
    (read_list, b"\xff\xfe", "not a text file in UTF-8"),
    (texts_of, b"\xff\xfe", "not a text file in UTF-8"),
    (texts_of, b"walk\nwalks\n", ":2: 'walks' is not one of the 1 classes"),
    (load_json, b'{"a": 1,\n"b": [1, 2', ":2: not JSON"),
    (load_json, b"[" * 50_000, "not JSON"),
    (load_json, b"[" * 50_000 + b"]" * 50_000, "not JSON that an annotation would hold"),
    (load_json, b"[" + b"9" * 5000 + b"]", "not JSON that an annotation would hold"),
    (load_json, b'{"b": 1, "a": {"b": 1, "c": 2, "b": 3}}', "'b' is there twice in one object"),
    (load_json, b'"\xff"', "not a text file in UTF-8"),
    (load_pickle, pickle.dumps({"a": list(range(100))})[:40], "damaged or not a pickle"),
    (load_pickle, b"", "damaged or not a pickle"),
    (load_pickle, b"garbage", "damaged or not a pickle"),
    (load_pickle,
     b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L99999999999999L\ntS'b'\ntR.",
     "damaged or not a pickle"),
])
def test_a_file_that_is_none_is_named(tmp_path, read, content, says):
    (tmp_path / "bad.file").write_bytes(content)
    with pytest.raises(ValueError) as error:
        read(tmp_path / "bad.file")
    assert "bad.file" in str(error.value) and says in str(error.value)


# ---------------------------------------------------------------- entries of official annotations

def changed(value, path: str, new):
    """A copy of a nested value with one entry replaced, or removed if new is None: path "a/0/b"."""
    value = copy.deepcopy(value)
    *way, last = (int(key) if key.lstrip("-").isdigit() else key for key in path.split("|"))
    inner = value
    for key in way:
        inner = inner[key]
    if new is None:
        del inner[last]
    else:
        inner[last] = new
    return value


CLIP = "55_vfjywN5CN0Y.mp4"


@pytest.mark.parametrize("path, new, says", [
    (f"{CLIP}|bbox", None, "has no bbox"),
    (f"{CLIP}|bbox", "all", "bbox is a str; expected list"),
    (f"{CLIP}|bbox|2", 7, "bbox: a box is a int; expected [x, y, w, h]"),
    (f"{CLIP}|bbox|2", [1, 2, 3], "a box has 3 numbers; expected [x, y, w, h]"),
    (f"{CLIP}|bbox|2|0", "1", "a side is a str"),
    (f"{CLIP}|bbox|2|0", float("nan"), "a side is no number"),
    (f"{CLIP}|st_frame", None, "has no st_frame"),
    (f"{CLIP}|st_frame", 2 ** 40, "st_frame is no number of at most nine digits"),
    (f"{CLIP}|st_frame", "6", "st_frame is a str; expected int or float"),
    (f"{CLIP}|st_frame", True, "st_frame is a bool"),
    (f"{CLIP}|st_frame", 1.7, "st_frame 1.7 and 5 boxes are no tube in a picture"),
    (f"{CLIP}|width", 0, "are no tube in a picture"),
    (f"{CLIP}|caption", 7, "caption is a int; expected str"),
    (f"{CLIP}|caption", None, "has no English"),
    (f"{CLIP}|ed_time", "late", "ed_time is a str"),
    (CLIP, [1], "is a list; expected an object with bbox"),
])
def test_a_wrong_entry_of_hcstvg_is_named_by_clip_and_field(tmp_path, path, new, says):
    root = write(tmp_path / "train.json", changed(hcstvg_entries(), path, new)).parent
    with pytest.raises(ValueError) as error:
        data.read_hcstvg(root)
    assert f"train.json: clip {CLIP}" in str(error.value) and says in str(error.value)


@pytest.mark.parametrize("path, new, says", [
    ("1|captions", None, "has no captions"),
    ("1|captions", {}, "captions is a dict; expected list"),
    ("1|captions|0", "a child", "a caption: a str, expected an object with target_id"),
    ("1|captions|0|target_id", 9, "target_id 9 is not among its subject/objects"),
    ("1|captions|0|target_id", [0], "target_id is a list; expected int"),
    ("1|captions|0|description", 5, "description is a int; expected str"),
    ("1|vid", 123, "vid is a int; expected str"),
    ("1|subject/objects|0|tid", "0", "tid is a str"),
    ("1|temporal_gt", [0, 5], "temporal_gt is a list; expected dict"),
    ("1|temporal_gt|end_fid", 10 ** 11, "end_fid is no number of at most nine digits"),
    ("1|temporal_gt|end_fid", 2 ** 30, "temporal_gt is frames 0 to 1073741824"),
    ("1|temporal_gt|end_fid", 0, "expected 0 <= begin_fid < end_fid"),
    ("1|temporal_gt|begin_fid", -1, "expected 0 <= begin_fid < end_fid"),
    ("1|used_relation", None, "has no used_relation"),
    ("1", 5, "a int, expected an object with vid"),
])
def test_a_wrong_entry_of_vidstg_is_named_by_number_and_field(tmp_path, path, new, says):
    write(tmp_path / "vidor" / "0" / "1.json", {})
    entries = [vidstg_entry("1", "ride", 0, 0, 3), vidstg_entry("1", "ride", 0, 0, 3)]
    write(tmp_path / "train_annotations.json", changed(entries, path, new))
    with pytest.raises(ValueError) as error:
        data.read_vidstg(tmp_path, tmp_path / "vidor")
    assert "train_annotations.json: entry 1" in str(error.value) and says in str(error.value)


@pytest.mark.parametrize("path, new, says", [
    (f"{CLIP}|bbox", [[0.1, 0.1, 0.5, 0.5]] * 5, "its boxes are in [0, 1]; expected pixels"),
    (f"{CLIP}|bbox", [[200, 150, 300, 200]] * 5, "5 of 5 boxes reach far beyond the picture; are they x1, y1"),
])
def test_boxes_of_hcstvg_in_another_form_are_refused(tmp_path, path, new, says):
    entries = {CLIP: hcstvg_entries()[CLIP]}
    root = write(tmp_path / "train.json", changed(entries, path, new)).parent
    with pytest.raises(ValueError) as error:
        data.read_hcstvg(root)
    assert "train.json: " in str(error.value) and says in str(error.value)


@pytest.mark.parametrize("content, says", [
    ([1], "VidSTG's list"), ({}, "is a dict; expected VidSTG's list of entries"), (5, "is a int")])
def test_a_top_that_is_no_list_is_named(tmp_path, content, says):
    write(tmp_path / "vidor" / "0" / "1.json", {})
    (tmp_path / "train_annotations.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="train_annotations.json"):
        data.read_vidstg(tmp_path, tmp_path / "vidor")
    with pytest.raises(ValueError, match="train.json.*; expected"):
        data.read_hcstvg(write(tmp_path / "train.json", [1]).parent)


@pytest.mark.parametrize("path, new, says", [
    ("trajectories", None, "has no trajectories"),
    ("trajectories", "none", "trajectories is a str; expected list"),
    ("trajectories|2", {"tid": 0}, "trajectories, frame 2 is a dict; expected list"),
    ("trajectories|2|0", 5, "trajectories, frame 2: a int, expected an object with bbox"),
    ("trajectories|2|0|tid", [0], "tid is a list; expected int"),
    ("trajectories|2|0|bbox", [1, 2, 3, 4], "bbox is a list; expected dict"),
    ("trajectories|2|0|bbox|xmin", "1", "xmin is a str"),
    ("width", 0, "width and height are [0, 360]"),
    ("height", "tall", "height is a str"),
])
def test_a_wrong_file_of_vidor_is_left_out_and_named_by_frame_and_field(tmp_path, path, new, says):
    file = vidor(tmp_path, "123", {0: {i: (0, 0, 320, 180) for i in range(3)}}, 3)
    assert len(vidor_rows((file, [(0, 0, 0, 3)]))[0]) == 3
    write(file, changed(json.loads(file.read_text()), path, new))
    box, *_, faults = vidor_rows((file, [(0, 0, 0, 3)]))
    assert len(box) == 0 and len(faults) == 1
    assert faults[0].startswith("123.json: left out: ") and says in faults[0]


VIDEOS = ["Biking/a", "Biking/b"]
ACT = act_pickle(["Biking"], VIDEOS, {v: {0: [np.float32([[1, 0, 0, 160, 120]])]} for v in VIDEOS})
SHARED: list = []
for _ in range(40):
    # 2^40 lists, if anybody looked at each
    SHARED = [SHARED, SHARED]


@pytest.mark.parametrize("path, new, says", [
    ("gttubes", None, "not ACT's ground truth: gttubes missing"),
    ("gttubes", [1], "Biking/b: gttubes is a list; expected dict"),
    ("gttubes|Biking/b|3", [np.zeros((1, 5))], "label 3 is not one of the 1 classes, 0 to 0"),
    ("gttubes|Biking/b|0", SHARED, "a tube of label 0 is a list; expected ndarray"),
    ("gttubes|Biking/b|0|0", np.zeros((2, 4)), "is float64 (2, 4); expected finite numbers (n, 5)"),
    ("gttubes|Biking/b|0|0", np.full((1, 5), np.nan), "expected finite numbers (n, 5)"),
    ("gttubes|Biking/b|0|0", np.array([["a"] * 5]), "expected finite numbers (n, 5)"),
    ("gttubes|Biking/b|0|0", np.float32([[1, 0, 0, 0.5, 0.5]]),
     "its boxes are in [0, 1]; expected pixels"),
    ("labels", ["Knitting"], "unknown class 'Knitting'; expected"),
    ("labels", [SHARED], "a name is a list; expected str"),
    ("test_videos", 5, "test_videos is a int; expected list"),
    ("test_videos|0", ["Biking/b", "Biking/b"], "test_videos: Biking/b is listed twice"),
    ("test_videos|0", [7], "a video's name is a int"),
    ("test_videos|0", 7, "a split is a int; expected list or tuple"),
    ("nframes|Biking/b", None, "nframes: has no Biking/b"),
    ("nframes|Biking/b", 2 ** 30, "its videos have 1,073,741,824 frames"),
    ("nframes|Biking/b", 0, "Biking/b is 0; expected a number of frames"),
    ("gttubes|Biking/b|a", [], "gttubes: a label is a str"),
    ("gttubes|Biking/b|0|0", np.float32([[1.5, 0, 0, 9, 9]]), "frame 1.5; expected whole numbers"),
    ("labels", ["Biking", "biking"], "labels: one is there twice"),
    ("train_videos|0", ["Biking/b"], "Biking/b is among both train_videos and test_videos"),
    ("nframes|Biking/b", "4", "Biking/b is a str"),
    ("resolution|Biking/b", (240,), "expected (height, width)"),
    ("resolution|Biking/b", (0, 320), "expected (height, width)"),
    ("resolution|Biking/b", 240, "Biking/b is a int; expected (height, width)"),
])
def test_a_wrong_entry_of_an_act_pickle_is_named_by_video_and_field(tmp_path, path, new, says):
    write(tmp_path / "UCF101v2-GT.pkl", changed(ACT, path, new))
    with pytest.raises(ValueError) as error:
        data.read_ucf101_24(tmp_path, "test")
    assert "UCF101v2-GT.pkl: " in str(error.value) and says in str(error.value)


TUBE = {"label": 2, "sf": 0, "ef": 1, "boxes": np.uint8([[1, 1, 9, 9]])}
PYANNOT = {"Biking/a": {"label": 2, "numf": np.uint8(4), "annotations": [TUBE]}}


@pytest.mark.parametrize("path, new, says", [
    ("Biking/a", 5, "a int, expected an object with numf"),
    ("Biking/a|numf", None, "has no numf"),
    ("Biking/a|numf", 10 ** 12, "numf is no number of at most nine digits"),
    ("Biking/a|annotations", {}, "annotations is a dict; expected list"),
    ("Biking/a|annotations|0", [1], "a list, expected an object with label"),
    ("Biking/a|annotations|0|label", 24, "label 24 is not one of the 24 classes"),
    ("Biking/a|annotations|0|sf", "0", "sf is a str"),
    ("Biking/a|annotations|0|sf", 2 ** 40, "sf is no number of at most nine digits"),
    ("Biking/a|annotations|0|boxes", SHARED, "boxes is a list; expected ndarray"),
    ("Biking/a|annotations|0|boxes", np.zeros(4),
     "is float64 (4,); expected finite numbers (n, 4)"),
])
def test_a_wrong_entry_of_gurkirts_pickle_is_named_by_video_and_field(tmp_path, path, new, says):
    write(tmp_path / "testlist01.txt", "Biking/a\n")
    write(tmp_path / "pyannot.pkl", changed(PYANNOT, path, new))
    with pytest.raises(ValueError) as error:
        data.read_ucf101_24(tmp_path, "test")
    assert "pyannot.pkl: Biking/a" in str(error.value) and says in str(error.value)


def test_a_test_list_of_other_videos_is_refused(tmp_path):
    write(tmp_path / "testlist01.txt", "a.avi\n")             # without its class
    write(tmp_path / "pyannot.pkl", PYANNOT)
    for split in ("train", "test"):
        with pytest.raises(ValueError, match="testlist01.txt: none of its 1 videos is in pyannot.pkl"):
            data.read_ucf101_24(tmp_path, split)


@pytest.mark.parametrize("content, says", [
    ([1, 2], "a int, neither mmaction2's"),
    ({5: np.zeros((1, 5))}, "a key is a int; expected 'movie,second' or a video"),
    ({"v0,902": np.zeros((1, 4))}, "v0,902 is float64 (1, 4); expected finite numbers (n, 5)"),
    ({"v0,902": SHARED}, "v0,902 is a list; expected ndarray"),
    ({"v0": np.zeros((1, 5))}, "v0 names no keyframe"),
    ({"v0": {"boxes": {1: np.zeros((1, 4))}}}, "v0: has no scores"),
    ({"v0": {"boxes": {1: np.zeros((1, 4))}, "scores": {}}}, "v0: scores: has no 1"),
    ({"v0": {"boxes": {1: np.zeros((2, 4))}, "scores": {1: np.zeros(1)}}},
     "boxes (2, 4) and scores (1,)"),
    ({"v0": {"boxes": {"x": np.zeros((1, 4))}, "scores": {"x": np.zeros(1)}}},
     "v0 names no keyframe"),
])
def test_a_wrong_pickle_of_proposals_is_named_by_entry(tmp_path, content, says):
    with pytest.raises(ValueError) as error:
        read_proposals(write(tmp_path / "p.pkl", content), make([(0, 902, BOX, 0)], videos=1))
    assert "p.pkl: " in str(error.value) and says in str(error.value)


@pytest.mark.parametrize("row, says", [
    ([0.7, 1, 0, 0.9, 10, 10, 99, 99], "video number 0.7 of 1"), ([-1, 1, 0, 0.9, 10, 10, 99, 99], "video number -1"),
    ([0, 1.5, 0, 0.9, 10, 10, 99, 99], "keyframe 1.5 is not a frame number"),
    ([0, 1, 0, 0.9, 0.1, 0.1, 0.5, 0.5], r"boxes are in \[0, 1\]; expected pixels")])
def test_wrong_detections_of_act_are_named(tmp_path, row, says):
    table = make([(0, 0, BOX, 0)], videos=1, unit="frame", size=np.int32([[320, 240]]))
    with pytest.raises(ValueError, match=f"p.pkl.*{says}"):
        read_proposals(write(tmp_path / "p.pkl", np.array([row])), table)


def test_proposals_on_no_keyframe_of_the_annotations_are_refused(tmp_path):
    path = write(tmp_path / "p.csv", "v0,902.25,0.1,0.1,0.5,0.5,,0.9\n")
    with pytest.raises(ValueError, match="p.csv: none of its keyframes is one of the annotations; it has 902.25 of v0"):
        read_proposals(path, make([(0, 902, BOX, 0)], videos=1))
