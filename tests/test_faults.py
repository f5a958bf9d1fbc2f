"""Files that are wrong: each is one line with the file, the row or entry, and what is expected."""

import copy
import pickle

import numpy as np
import pytest
from layouts import BOX, act_pickle, ava_folder, hcstvg_entries, make, vidor, vidstg_entry, write

import data
from data import read_ava, read_csv
from formats.files import load_json, load_pickle, read_label_map, read_list
from formats.predictions import read_excluded, read_ground_truth, read_novel, read_predictions
from formats.proposals import read_proposals
from formats.vidstg import vidor_rows


# ---------------------------------------------------------------- rows of CSVs

def own(folder, row):
    write(folder / "a.mp4")
    read_csv(write(folder / "bad.csv", f"a.mp4,0,0,0,1,1,walk\n\n{row}\n"))


def ava(folder, row):
    read_ava(ava_folder(folder, "train", "2.2", f"m,0902,0.1,0.1,0.5,0.5,12,0\n\n{row}\n"))


def ava_excluded(folder, row):
    good = "m,0902,0.1,0.1,0.5,0.5,12,0\n"
    read_ava(ava_folder(folder, "train", "2.2", good, f"m,0902\n\n{row}\n"))


def proposals(folder, row):
    path = write(folder / "p.csv", f"v0,902,0.1,0.1,0.5,0.5,,0.9\n\n{row}\n")
    read_proposals(path, make([(0, 902, BOX, 0)], videos=1))


def truth(folder, row):
    path = write(folder / "g.csv", f"v,0902,0,0,0.4,0.8,12,3\n\n{row}\n")
    read_ground_truth(path, {12: "stand", 38: "walk"})


def named_truth(folder, row):
    path = write(folder / "g.csv", f"v,0902,0,0,0.4,0.8,stand\n\n{row}\n")
    read_ground_truth(path, {12: "stand", 38: "walk"})


def predicted(folder, row, unit="second"):
    path = write(folder / "p.csv", f"v0,902,0,0,0.4,0.8,1,0.5\n\n{row}\n")
    read_predictions(path, make([(0, 902, BOX, 0)], videos=1, unit=unit))


def predicted_frames(folder, row):
    predicted(folder, row, "frame")


@pytest.mark.parametrize("read, row, says", [
    (own, "a.mp4,1,0.1,0.1,0.2,0.2", "6 columns; expected video,keyframe,x1,y1,x2,y2,text[,person"),
    (own, "a.mp4,1,0.1,0.1,0.2,x,walk", "'x' is not a number; expected video,keyframe"),
    (own, "a.mp4,1_0,0.1,0.1,0.2,0.2,walk", "'1_0' is not a number; expected video,keyframe"),
    (own, "a.mp4,1,0.5,0.1,0.2,0.2,walk", "box 0.5, 0.1, 0.2, 0.2 is not x1 < x2, y1 < y2"),
    (own, "a.mp4,1,0.1,0.1,0.1000000001,0.2,walk", "is not x1 < x2"),
    (own, "a.mp4,1,0.1,0.1,0.2,1.2,walk", "box 0.1, 0.1, 0.2, 1.2 is outside [0, 1]"),
    (own, "a.mp4,1,nan,0.1,0.2,0.2,walk", "box nan, 0.1, 0.2, 0.2 is not four finite numbers"),
    (own, "a.mp4,1,,,,,walk", "box nan, nan, nan, nan is not four finite numbers"),
    (own, "a.mp4,-1,0.1,0.1,0.2,0.2,walk", "keyframe -1 is not a time in seconds, 0 or more"),
    (own, "a.mp4,1e300,0.1,0.1,0.2,0.2,walk", "keyframe 1e+300 is not a time"),
    (own, ",1,0.1,0.1,0.2,0.2,walk", "video is absent"),
    (own, "a.mp4,1,0.1,0.1,0.2,0.2,", "the box has no text"),
    (own, "a.mp4,1,0.1,0.1,0.2,0.2,walk,1.5", "person 1.5 is not a whole number"),
    (own, "a.mp4,1,0.1,0.1,0.2,0.2,walk,4294967297", "person 4294967297 is not a whole number"),
    (own, "b.mp4,1,0.1,0.1,0.2,0.2,walk", "video 'b.mp4' is not in"),
    (own, "a.mp4,0,0,0,1,1,walk", "the row is there twice: a.mp4, 0, 'walk'"),
    (own, "./a.mp4,0,0,0,1,1,sit", "video './a.mp4' is 'a.mp4' by another name"),
    (own, 'a.mp4,1,0,0,1,1,"walk\na.mp4,2,0,0,1,1,sit\na.mp4,3,0,0,1,1,run', "is a quote not clos"),
    (own, 'a.mp4,1,0,0,1,1,"walk\nhome"\na.mp4,2,0,0,1,1,sit', "a line break inside a cell"),
    (own, 'a.mp4,1,0,0,1,1,"walk" home', "not a row of a CSV"),
    (ava, "m,0902,0.1,0.1,0.5", "5 columns; expected video,second,x1,y1,x2,y2,action_id[,person_i"),
    (ava, "m,", "keyframe nan is not a time"),
    (ava, "m,902,0.1,0.1,0.5,0.5,,0", "action id '' is not a whole number, 1 or more"),
    (ava, "m,0902,10,10,200,200,12,0", "box 10, 10, 200, 200 looks like pixels"),
    (ava, "m,0902,0.6,0.6,0.2,0.2,12,0", "are its corners swapped, or is it x, y, width, height"),
    (ava_excluded, "m,0902,1", "3 columns; expected video,second"),
    (ava_excluded, "m,soon", "'soon' is not a number"),
    (proposals, "v0,902,10,20,100,200,,0.9", "box 10, 20, 100, 200 looks like pixels"),
    (proposals, "v0,902,0.1,0.1,0.5,0.5,12,965", "score 965 is not in [0, 1]; in a ground-truth f"),
    (proposals, "v0,902,0.1,0.1,0.5,0.5,,", "score is absent"),
    (proposals, "v0,902,,,,,,0.5", "is not four finite numbers"),
    (proposals, "v0,902,0.1,0.1,0.5,0.5,0.9", "7 columns; expected video,keyframe,x1,y1,x2,y2,,sc"),
    (proposals, "v0,902,0.6,0.6,0.2,0.2,,0.9", "are its corners swapped, or is it x, y, width, he"),
    (truth, "v,0902,0.4,0.0,0.3,0.8,12,3", "is not x1 <= x2, y1 <= y2"),
    (truth, "v,0902,0,0,300,200,12,3", "divide pixels"),
    (truth, "v,0902,0,0,1,1,12,Ann", "'Ann' is not a number"),
    (truth, "v", "1 columns"),
    *((truth, f"v,0902,0,0,1,1,{i},3", f"action id '{i}' is not a whole")
      for i in (0, -12, 12.0, "sit", "")),
    (named_truth, "v,903,0,0,1,1,stnad", "class 'stnad' is not one of the 2 of the map"),
    (named_truth, "v,903,0,0,1,1,38", "'stand' is not a whole number"),
    (predicted, "v0,902,0,0,0.4,0.8,1", "7 columns; expected video,keyframe,x1,y1,x2,y2,action_id"),
    (predicted, "v0,902,0,0,0.4,0.8,1,0.5,7", "9 columns"),
    (predicted, "v0,noon,0,0,0.4,0.8,1,0.5", "'noon' is not a number"),
    (predicted, "v0,902,0,,0.4,0.8,1,0.5", "box 0, nan, 0.4, 0.8 is not four finite numbers"),
    (predicted, "v0,902,0,0,0.4,0.8,1,nan", "score is absent or not a finite number"),
    (predicted, "v0,902,0,0,0.4,1.01,1,0.5", "box 0, 0, 0.4, 1.01 is outside [0, 1]; divide pixel"),
    *((predicted, f"v0,902,0,0,0.4,0.8,{i},0.5", f"action id '{i}' is not a whole number, 1 or mor")
      for i in ("0", "stand", "1.5", "²", "+", "9" * 5000)),
    (predicted, "v0,902,0,0,0.4,0.8,,0.5", "is this a file of proposals"),
    (predicted_frames, "v0,0,0,0,0.4,0.8,1,1", "keyframe 0 is not a frame number, 1 or more"),
    (predicted_frames, "v0,1.5,0,0,0.4,0.8,1,1", "keyframe 1.5 is not a frame number"),
    (predicted_frames, "v0,1,0,0,0.4,0.8,3,1", "id 3 is not one of the 2 classes; expected 1 to 2"),
])
def test_a_wrong_row_is_named_by_file_line_and_value(tmp_path, read, row, says):
    with pytest.raises(ValueError) as error:
        read(tmp_path, row)
    line = 1 if read is named_truth and "stand" in says else 3
    assert f".csv:{line}: " in str(error.value) and says in str(error.value)


def test_the_line_of_a_wrong_row_far_down_is_told(tmp_path):
    lines = [f"v0,{i},0,0,0.4,0.8,1,0.5\n" for i in range(2600)]
    lines[2500] = "v0,2500,0,0,0.4,0.8,1\n"
    with pytest.raises(ValueError, match="p.csv:2501: 7 columns"):
        read_predictions(write(tmp_path / "p.csv", "".join(lines)), make([(0, 902, BOX, 0)]))


@pytest.mark.parametrize("header, says", [
    ("video,keyframe,x1,y1,x2,y2,text", None), ("video,keyframe", None),
    (" Video_ID, timestamp,x1,y1,x2,y2,action_id,person_id", None),
    ("video,1,0.1,0.1,0.2,0.2,walk", None),                    # a video of that name
    ("video,keyframe,x1,x2,y1,y2,text", "'keyframe' is not a number; expected video,keyframe,x1,y"),
    ("video,keyframe,text,x1,y1,x2,y2", "'keyframe' is not a number"),
    ("name,time", "'time' is not a number"),
])
def test_a_header_has_the_expected_columns_in_order_or_is_an_error(tmp_path, header, says):
    write(tmp_path / "video")
    path = write(tmp_path / "a.csv", f"{header}\nvideo,2,0.1,0.1,0.2,0.2,sit\n")
    if says:
        with pytest.raises(ValueError, match=f"a.csv:1: {says}"):
            read_csv(path)
    else:
        assert len(read_csv(path)) == 1 + ("walk" in header)


def test_a_ground_truth_of_two_people_is_not_taken_for_proposals(tmp_path):
    path = write(tmp_path / "p.csv", "v0,902,0.1,0.1,0.5,0.5,12,0\nv0,902,0.6,0.1,0.9,0.5,12,1\n")
    with pytest.raises(ValueError, match="p.csv: every box has an action, .*is this a ground truth"):
        read_proposals(path, make([(0, 902, BOX, 0)], videos=1))


def test_a_few_swapped_boxes_among_proposals_are_counted_and_left_out(tmp_path, capsys):
    rows = [f"v0,902,0.1,0.1,0.5,0.{i},,0.9\n" for i in range(20, 40)]
    path = write(tmp_path / "p.csv", "".join([*rows, "v0,902,0.6,0.6,0.2,0.2,,0.9\n"]))
    assert len(read_proposals(path, make([(0, 902, BOX, 0)], videos=1))) == 20
    assert capsys.readouterr().err == (
        f"{path}: 1 of 21 boxes are not x1 < x2, y1 < y2, the first in line 21; left out\n")


# ---------------------------------------------------------------- whole files

def novel(path):
    read_novel(path, make([(0, 0, BOX, 0)]))


def predictions(path):
    read_predictions(path, make([(0, 0, BOX, 0)]))


def excluded(path):
    read_excluded(path, make([(0, 0, BOX, 0)]))


def included(path):
    good = "m,0902,0.1,0.1,0.5,0.5,12,0\n"
    root = ava_folder(path.parent / "ava", "train", "2.2", good)
    path.rename(root / "ava_included_timestamps_v2.2.txt")
    read_ava(root)


@pytest.mark.parametrize("read, content, says", [
    (read_csv, b"video,keyframe,x1,y1,x2,y2,text\n", "no rows; expected video,keyframe"),
    *((read, content, says) for read in (read_csv, read_ground_truth, predictions, excluded)
      for content, says in ((b"\n\n", "no rows"), (b"\xff\xfe\x00a,b", "not a text file"))),
    (included, b"\n", "included_timestamps_v2.2.txt: expected the annotated seconds, one a line"),
    (included, b"902\n1e300\n", "expected the annotated seconds, one a line"),
    (read_label_map, b"\xff\xfe", "not a text file in UTF-8"),
    (read_label_map, b"# a comment", "bad.file: holds no classes"),
    (read_label_map, b"9" * 5000 + b": walk", "bad.file:1: "),
    (read_label_map, b"12:" + b" " * 200_000, "bad.file:1: '12:' is no class"),
    (read_label_map, b"item {" + b" " * 200_000 + b"name:" + b" " * 200_000, "bad.file:1: "),
    (read_list, b"\xff\xfe", "not a text file in UTF-8"),
    (novel, b"\xff\xfe", "not a text file in UTF-8"),
    (novel, b"walk\nwalks\n", ":2: 'walks' is not one of the 2 classes"),
    (load_json, b'{"a": 1,\n"b": [1, 2', ":2: not JSON"),
    (load_json, b"[" * 50_000, "not JSON"),
    (load_json, b"[" * 50_000 + b"]" * 50_000, "not JSON that an annotation would hold"),
    (load_json, b"[" + b"9" * 5000 + b"]", "not JSON that an annotation would hold"),
    (load_json, b'{"b": 1, "a": {"b": 1, "c": 2, "b": 3}}', "'b' is there twice in one object"),
    (load_json, b'"\xff"', "not a text file in UTF-8"),
    (load_pickle, pickle.dumps({"a": list(range(100))})[:40], "damaged or not a pickle"),
    (load_pickle, b"", "damaged or not a pickle"),
    (load_pickle, b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L99999999999999L\n"
                  b"tS'b'\ntR.", "damaged or not a pickle"),
])
def test_a_file_that_is_none_is_named(tmp_path, read, content, says):
    (tmp_path / "bad.file").write_bytes(content)
    with pytest.raises(ValueError) as error:
        read(tmp_path / "bad.file")
    assert read is included or "bad.file" in str(error.value)
    assert says in str(error.value)


# ---------------------------------------------------------------- entries of official annotations

VIDEOS = ["Biking/a", "Biking/b"]
TUBE = {"label": 2, "sf": 0, "ef": 1, "boxes": np.uint8([[1, 1, 9, 9]])}
CLIP = "55_vfjywN5CN0Y.mp4"
SHARED: list = []
for _ in range(40):
    SHARED = [SHARED, SHARED]                        # 2^40 lists, if anybody looked at each


def changed(value, path: str, new):
    """A copy of a nested value with one entry replaced, or removed if new is None: path "a|0|b"."""
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


def hcstvg(folder, path, new):
    write(folder / "train.json", changed({CLIP: hcstvg_entries()[CLIP]}, path, new))
    data.read_hcstvg(folder)


def vidstg(folder, path, new):
    vidor(folder / "vidor", "1", {}, 1)
    entries = [vidstg_entry("1", "ride", 0, 0, 3), vidstg_entry("1", "ride", 0, 0, 3)]
    write(folder / "train_annotations.json", changed({"top": entries}, path, new)["top"])
    data.read_vidstg(folder, folder / "vidor")


def vidor_file(folder, path, new):
    """One wrong file of thousands is left out, and named among the faults."""
    file = vidor(folder, "123", {0: {i: (0, 0, 320, 180) for i in range(3)}}, 3)
    write(file, changed(load_json(file), path, new))
    box, *_, faults = vidor_rows((file, [(0, 0, 0, 3)]))
    assert len(box) == 0 and len(faults) == 1 and faults[0].startswith("123.json: left out: ")
    raise ValueError(faults[0])


def act(folder, path, new):
    tubes = {video: {0: [np.float32([[1, 0, 0, 160, 120]])]} for video in VIDEOS}
    write(folder / "UCF101v2-GT.pkl", changed(act_pickle(["Biking"], VIDEOS, tubes), path, new))
    data.read_ucf101_24(folder, "test")


def gurkirt(folder, path, new):
    found = {"label": 2, "numf": np.uint8(4), "annotations": [TUBE]}
    found = changed({"Biking/a": found, "list": "Biking/a"}, path, new)
    write(folder / "testlist01.txt", found.pop("list"))
    write(folder / "pyannot.pkl", found)
    data.read_ucf101_24(folder, "test")


def pickled(folder, path, new):
    table = make([(0, 0, BOX, 0)], videos=1, unit="frame", size=np.int32([[320, 240]]))
    read_proposals(write(folder / "p.pkl", new), table)


CASES = {
    hcstvg: [
        (f"{CLIP}|bbox", None, f"train.json: clip {CLIP}: has no bbox"),
        (f"{CLIP}|bbox", "all", "bbox is a str; expected list"),
        (f"{CLIP}|bbox|2", 7, "bbox: a box is a int; expected [x, y, w, h]"),
        (f"{CLIP}|bbox|2", [1, 2, 3], "a box has 3 numbers; expected [x, y, w, h]"),
        (f"{CLIP}|bbox|2|0", "1", "a side is a str"),
        (f"{CLIP}|bbox", [[0.1, 0.1, 0.5, 0.5]] * 5, "its boxes are in [0, 1]; expected pixels"),
        (f"{CLIP}|bbox", [[200, 150, 300, 200]] * 5, "5 of 5 boxes are empty or reach far beyon"),
        (f"{CLIP}|st_frame", 2 ** 40, "st_frame is no number of at most nine digits"),
        (f"{CLIP}|st_frame", "6", "st_frame is a str; expected int or float"),
        (f"{CLIP}|st_frame", True, "st_frame is a bool"),
        (f"{CLIP}|st_frame", 1.7, "st_frame 1.7 and 5 boxes are no tube in a picture"),
        (f"{CLIP}|width", 0, "are no tube in a picture"),
        (f"{CLIP}|caption", 7, "caption is a int; expected str"),
        (f"{CLIP}|caption", None, "has no English"),
        (f"{CLIP}|ed_time", "late", "ed_time is a str"),
        (CLIP, [1], "is a list; expected an object with bbox"),
    ],
    vidstg: [
        ("top|1|captions", None, "train_annotations.json: entry 1: has no captions"),
        ("top|1|captions", {}, "captions is a dict; expected list"),
        ("top|1|captions|0", "a child", "a caption: a str, expected an object with target_id"),
        ("top|1|captions|0|target_id", 9, "target_id 9; expected a sentence of one o"),
        ("top|1|captions|0|description", " ", "caption ' ' of target_id 0; expected a sentence of"),
        ("top|1|captions|0|target_id", [0], "target_id is a list; expected int"),
        ("top|1|vid", 123, "vid is a int; expected str"),
        ("top|1|subject/objects|0|tid", "0", "tid is a str"),
        ("top|1|temporal_gt|end_fid", 10 ** 11, "end_fid is no number of at most nine digits"),
        ("top|1|temporal_gt|end_fid", 2 ** 30, "end_fid is 1073741824; expected 1 to"),
        ("top|1|temporal_gt|end_fid", 0, "temporal_gt: end_fid is 0; expected 1 to"),
        ("top|1|temporal_gt|begin_fid", -1, "begin_fid is -1; expected 0 to"),
        ("top|1", 5, "a int, expected an object with vid"),
        ("top", {}, "train_annotations.json is a dict; expected VidSTG's list of entries"),
    ],
    vidor_file: [
        ("trajectories", None, "has no trajectories"),
        ("trajectories|2", {"tid": 0}, "trajectories, frame 2 is a dict; expected list"),
        ("trajectories|2|0", 5, "trajectories, frame 2: a int, expected an object with bbox"),
        ("trajectories|2|0|tid", [0], "tid is a list; expected int"),
        ("trajectories|2|0|bbox", [1, 2, 3, 4], "bbox is a list; expected dict"),
        ("trajectories|2|0|bbox|xmin", "1", "xmin is a str"),
        ("trajectories", [[{"tid": 0, "bbox": dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), 0.5)}]],
         "its boxes are in [0, 1]; expected pixels"),
        ("trajectories", [[{"tid": 0, "bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), box))}
                           for box in ((0, 0, 320, 180), (9, 9, 320, 180))]],
         "trajectories, frame 0: two boxes of tid 0"),
        ("width", 0, "width is 0; expected 1 to"),
    ],
    act: [
        ("gttubes", None, "UCF101v2-GT.pkl: has no gttubes"),
        ("gttubes|Biking/b", [1], "gttubes: Biking/b is a list; expected dict"),
        ("gttubes|Biking/b|3", [np.zeros((1, 5))], "Biking/b: gttubes: label is 3; expected 0 to"),
        ("gttubes|Biking/b|a", [], "gttubes: label is a str"),
        ("gttubes|Biking/b|0", SHARED, "a tube of label 0 is a list; expected ndarray"),
        ("gttubes|Biking/b|0|0", np.zeros((2, 4)), "is float64 (2, 4); expected finite numbers (n"),
        ("gttubes|Biking/b|0|0", np.full((1, 5), np.nan), "expected finite numbers (n, 5)"),
        ("gttubes|Biking/b|0|0", np.array([["a"] * 5]), "expected finite numbers (n, 5)"),
        ("gttubes|Biking/b|0|0", np.float32([[1, 0, 0, 0.5, 0.5]]), "are in [0, 1]; expected pixe"),
        ("gttubes|Biking/b|0|0", np.float32([[1, 90, 80, 50, 60]]), "are they x, y, width, height"),
        ("gttubes|Biking/b|0|0", np.float32([[1.5, 0, 0, 9, 9]]), "frame 1.5; expected whole numb"),
        ("labels", ["Knitting"], "unknown class 'Knitting'; expected"),
        ("labels", [SHARED], "a name is a list; expected str"),
        ("labels", ["Biking", "biking"], "labels: one is there twice"),
        ("test_videos", 5, "test_videos is a int; expected list"),
        ("test_videos|0", ["Biking/b", "Biking/b"], "test_videos: Biking/b is listed twice"),
        ("test_videos|0", [7], "a video's name is a int"),
        ("test_videos|0", 7, "a split is a int; expected list or tuple"),
        ("train_videos|0", ["Biking/b"], "Biking/b is among both train_videos and test_videos"),
        ("nframes|Biking/b", None, "nframes: has no Biking/b"),
        ("nframes|Biking/b", 2 ** 30, "its videos have 1,073,741,824 frames"),
        ("nframes|Biking/b", 0, "Biking/b is 0; expected 1 to"),
        ("resolution|Biking/b", (240,), "resolution (height, width): has no 1"),
        ("resolution|Biking/b", (0, 320), "(height, width): 0 is 0; expected 1 to"),
    ],
    gurkirt: [
        ("Biking/a", 5, "pyannot.pkl: Biking/a: a int, expected an object with numf"),
        ("Biking/a|numf", 10 ** 12, "numf is no number of at most nine digits"),
        ("Biking/a|annotations|0", [1], "a list, expected an object with label"),
        ("Biking/a|annotations|0|label", 24, "label is 24; expected 0 to 23"),
        ("Biking/a|annotations|0|sf", "0", "sf is a str"),
        ("Biking/a|annotations|0|ef", 3, "1 boxes from sf 0: ef is 3; expected 1 to 1"),
        ("Biking/a|annotations|0|boxes", np.uint16([[180, 90, 250, 200]]), "or corners instead of"),
        ("Biking/a|annotations|0|boxes", SHARED, "boxes is a list; expected ndarray"),
        ("Biking/a|annotations|0|boxes", np.zeros(4), "is float64 (4,); expected finite numbers ("),
        ("list", "a.avi\n", "testlist01.txt: none of its 1 videos is in pyannot.pkl"),
    ],
    pickled: [("", new, says) for new, says in (
        ([1, 2], "p.pkl: a int, neither mmaction2's"),
        ({5: np.zeros((1, 5))}, "a key is a int; expected 'movie,second' or a video"),
        ({"v0,902": np.zeros((1, 4))}, "p.pkl: v0,902 is float64 (1, 4); expected finite numbers"),
        ({"v0,902": SHARED}, "v0,902 is a list; expected ndarray"),
        ({"v0": np.zeros((1, 5))}, "v0 names no keyframe"),
        ({"v0,1": np.array([[0, 0, 30, 40, 0.5]])}, "p.pkl:0: box 0, 0, 30, 40 looks like pixels"),
        ({"v0,2": np.array([[0, 0, 1, 1, 0.5]])}, "none of its keyframes is one of the annotation"),
        ({"v0": {"boxes": {1: np.zeros((1, 4))}}}, "v0: has no scores"),
        ({"v0": {"boxes": {1: np.zeros((1, 4))}, "scores": {}}}, "v0: scores: has no 1"),
        ({"v0": {"boxes": {1: np.zeros((2, 4))}, "scores": {1: np.zeros(1)}}}, "(2, 4) and scores"),
        ({"v0": {"boxes": {"x": np.zeros((1, 4))}, "scores": {"x": np.ones(1)}}}, "names no"),
        *((np.array([row]), says) for row, says in (            # ACT's detections
            ([0.7, 1, 0, 0.9, 10, 10, 99, 99], "p.pkl:0: video number 0.7 of 1"),
            ([-1, 1, 0, 0.9, 10, 10, 99, 99], "video number -1 of 1"),
            ([0, 1.5, 0, 0.9, 10, 10, 99, 99], "keyframe 1.5 is not a frame number"),
            ([0, 0, 0, 0.9, 10, 10, 99, 99], "keyframe 0 is not a frame number; these count from"),
            ([0, 1, 0, 0.9, 0.1, 0.1, 0.5, 0.5], "its boxes are in [0, 1]; expected pixels"))))],
}


@pytest.mark.parametrize("read, path, new, says", [(read, *case) for read, cases in CASES.items()
                                                   for case in cases])
def test_a_wrong_entry_is_named_by_file_entry_and_field(tmp_path, read, path, new, says):
    with pytest.raises(ValueError) as error:
        read(tmp_path, path, new)
    assert str(tmp_path) in str(error.value) and says in str(error.value)
