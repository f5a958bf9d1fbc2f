"""Predictions, ground truth, label maps and exclusions in the layout of AVA's tools."""

import csv
import gzip

import numpy as np
import pytest
from test_metric import LEFT, ONE, SAMPLES, needs_samples, slow_frame_map, tables

from formats.ava import AVA_60, AVA_IDS
from formats.files import read_label_map, write_label_map
from formats.predictions import (read_excluded, read_ground_truth, read_predictions,
                                 write_predictions)
from metric import frame_map
from table import Annotations, Detections

# ---------------------------------------------------------------- label maps

AVA_MAP = """item {
  name: "stand"
  id: 12
}
item {
  name: "open (e.g., a window, a car door)"
  id: 38
}
"""
AVA_NAMES = {12: "stand", 38: "open (e.g., a window, a car door)"}


@pytest.mark.parametrize("text", [
    AVA_MAP, AVA_MAP.replace("\n", " "), AVA_MAP.replace('"', "'"), "\ufeff" + AVA_MAP,
    AVA_MAP.replace("item", "label").replace("  id:", '  label_id:'),
    "12: stand\n38: open (e.g., a window, a car door)\n",
    "item { id: 12 name: 'stand' } item{id:38 name:\"open (e.g., a window, a car door)\"}"])
def test_a_label_map_is_read_in_every_layout(tmp_path, text):
    (tmp_path / "map.pbtxt").write_text(text, encoding="utf-8")
    assert read_label_map(tmp_path / "map.pbtxt") == AVA_NAMES


def test_two_ids_of_one_name_stay_two_classes(tmp_path):
    (tmp_path / "map.txt").write_text("79: walk\n80: walk\n")
    assert read_label_map(tmp_path / "map.txt") == {79: "walk", 80: "walk (80)"}


@needs_samples
@pytest.mark.parametrize("name", ["ava/ava_action_list_v2.1_for_activitynet_2018.pbtxt.txt",
                                  "ava_mmaction2/label_map.txt",
                                  "ava/ava_action_list_v2.2_for_activitynet_2019.singleline.pbtxt.txt"])
def test_every_official_label_map_gives_the_60_classes(name):
    assert read_label_map(SAMPLES / name) == dict(zip(AVA_IDS, AVA_60))


@needs_samples
def test_label_maps_of_other_sets_are_read_in_both_styles():
    blocks = read_label_map(SAMPLES / "ava" / "custom_label_block_style.pbtxt")
    assert list(blocks) == list(range(1, 9)) and blocks[6] == "OffNest"
    assert read_label_map(SAMPLES / "ava_mmaction2" / "action_list.txt") == {
        12: "action1", 17: "action2", 79: "action3", 80: "action3 (80)"}


def test_any_class_name_survives_the_label_map(tmp_path):
    labels = {1: 'say "hi", id: 7 \\ wave', 5: "item { name }", 6: "tänzeln"}
    write_label_map(tmp_path / "map.pbtxt", labels)
    assert read_label_map(tmp_path / "map.pbtxt") == labels


def test_escapes_and_comments_of_a_label_map_are_understood(tmp_path):
    (tmp_path / "map.pbtxt").write_text('# item { name: "x" id: 9 }\nitem {  # the first\n name: "caf\\303\\251 \\"#1\\"" id: 1 }')
    assert read_label_map(tmp_path / "map.pbtxt") == {1: 'café "#1"'}


@pytest.mark.parametrize("line, wrong", [
    (1, "item {}"), (1, 'item { name: "a" }'), (1, "item { id: 3 }"), (1, 'item { name: "a" id: 0 }'),
    (2, 'item { name: "a" id: 1 }\nitem { name: "b" id: 1 }'), (2, "1: stand\n2 walk\n3: sit"), (2, "1: stand\n-2: walk"),
    (1, "1,stand\n2,walk"), (2, "1: stand\n2:"), (2, 'item { name: "a" id: 1 }\nItem { name: "b" id: 2 }'),
    (3, 'item { name: "a" id: 1 }\n\nitems { name: "b" id: 2 }'), (1, 'item { name: "a" id: 1.5 }'),
    (1, 'item { name: "a" id: 1 name: "b" id: 2 }'), (2, 'item { name: "a" id: 1 }\n2: b'),
    (2, 'item { name: "a" id: 1 }\nitem { name: "b"'), (1, "item { name: a id: 1 }"), (1, 'item { name: "a id: 1 }'),
    (1, 'item { name: "\\377" id: 1 }'), (1, "²: walk"), (1, "+: walk")])
def test_a_label_map_in_which_anything_is_not_understood_is_refused_with_its_line(tmp_path, line, wrong):
    (tmp_path / "map.pbtxt").write_text(wrong)
    with pytest.raises(ValueError, match=f"map.pbtxt:{line}: .* expected items like item"):
        read_label_map(tmp_path / "map.pbtxt")


# ---------------------------------------------------------------- written and read again

@pytest.mark.parametrize("unit, keyframes, written", [
    ("frame", np.array([0, 41], np.int32), ["1", "42"]),
    ("second", np.array([902, 1.1], np.float32), ["0902", "1.1"])])
def test_a_written_file_scores_as_the_arrays(tmp_path, unit, keyframes, written):
    box = np.array([[0.077, 0, 0.3, 0.8], [1 / 3, 0.2, 1, 1]], np.float32)
    truth = Annotations(["a,b/v_1", "c"], ["walk", 'say "hi"'], np.int32([0, 1]), keyframes, box,
                        np.int32([0, 1]), unit=unit, size=np.int32([[320, 240]] * 2), ids=[14, 3])
    found = Detections(truth.video, keyframes, box, np.array([-12.5, 1 / 3], np.float32),
                       np.int32([1, 1]))
    write_predictions(tmp_path / "p.csv", truth, found)
    with open(tmp_path / "p.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[1] for row in rows] == written
    assert rows[0] == ["a,b/v_1", written[0], "0.077", "0.0", "0.3", "0.8", "3", "-12.5"]
    assert read_label_map(tmp_path / "p.pbtxt") == {14: "walk", 3: 'say "hi"'}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv", "p.pbtxt"]

    again, left_out = read_predictions(tmp_path / "p.csv", truth)
    assert again.video.tolist() == [0, 1] and again.label.tolist() == [1, 1]
    assert again.keyframe.astype(keyframes.dtype).tolist() == keyframes.tolist()
    assert again.score.astype(np.float32).tolist() == found.score.tolist()
    assert set(left_out.values()) == {0}
    for protocol in ("ava", "act"):
        assert frame_map(truth, again, protocol) == frame_map(truth, found, protocol)


def test_a_failure_leaves_the_old_file_and_no_half_of_a_new_one(tmp_path):
    truth, found = tables([(ONE, LEFT, 0, 0)], [(ONE, LEFT, 0, 1.0)] * 5000, 1)
    (tmp_path / "p.csv").write_text("old")
    found.label[4000] = 7                                    # no such class
    with pytest.raises(IndexError):
        write_predictions(tmp_path / "p.csv", truth, found)
    assert (tmp_path / "p.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv", "p.pbtxt"]


def test_compressed_files_are_read_in_the_order_of_their_rows(tmp_path):
    with gzip.open(tmp_path / "p.csv.gz", "wt") as file:
        file.writelines(f"v{i % 7},{i % 11},0.{i % 9},0,1,1,{1 + i % 3},{i}\n" for i in range(9000))
    truth, _ = tables([(ONE, LEFT, 0, 0)], [], 3)
    found, _ = read_predictions(tmp_path / "p.csv.gz", truth)
    i = np.arange(9000)
    assert [truth.videos[v] for v in found.video] == [f"v{k % 7}" for k in i]
    for column, expected in ((found.score, i), (found.keyframe, i % 11), (found.label, i % 3),
                             (found.box[:, 0], i % 9 / 10)):
        assert (column == expected).all()


# ---------------------------------------------------------------- what a row means

TRUTH = "v_1,0902,0.0,0.0,0.4,0.8,12,3\nv_1,0903,0.6,0.0,1.0,0.8,38,3\n"
HEADER = "video,keyframe,x1,y1,x2,y2,"


def score_text(folder, truth, predictions, labels=AVA_NAMES, **options):
    """AP by id of two files given as text."""
    (folder / "g.csv").write_text(truth)
    (folder / "p.csv").write_text(predictions)
    annotations = read_ground_truth(folder / "g.csv", labels)
    detections, _ = read_predictions(folder / "p.csv", annotations, labels)
    result = frame_map(annotations, detections, **options)
    return {entry["id"]: entry["ap"] for entry in result["classes"]}


@pytest.mark.parametrize("predictions", [
    "v_1,0902,0.0,0.0,0.4,0.8,12,0.5\nv_1,0903,0.6,0.0,1.0,0.8,38,0.5\n",
    "v_1,902,0,0,0.4,0.8,12,5e-1\nv_1,903.000000,0.6,0,1,0.8,38,7\n",
    HEADER + "action_id,score\n\nv_1, 0902, 0.0, 0.0, 0.4, 0.8, 12, 0.5\nv_1,0904\n\n"
    "v_1,0903,0.6,0.0,1.0,0.8,38,0.5"])
def test_predictions_are_read_with_any_spelling_of_the_keyframe(tmp_path, predictions):
    assert score_text(tmp_path, TRUTH, predictions) == {12: 1.0, 38: 1.0}


@pytest.mark.parametrize("truth, labels", [
    (TRUTH, AVA_NAMES), (TRUTH, None),
    ("v_1,902,0,0,0.4,0.8,12\nv_1,903,0.6,0,1,0.8,38\n", AVA_NAMES),
    (HEADER + 'text,person\nv_1,902,0,0,0.4,0.8,stand,\n'
     'v_1,903,0.6,0,1,0.8,"open (e.g., a window, a car door)",\n', AVA_NAMES)])
def test_ground_truth_is_read_with_seven_or_eight_columns_ids_or_names(tmp_path, truth, labels):
    predictions = "v_1,902,0,0,0.4,0.8,12,1\nv_1,903,0.6,0,1,0.8,38,1\n"
    assert score_text(tmp_path, truth, predictions, labels) == {12: 1.0, 38: 1.0}


def test_class_names_without_a_label_map_are_numbered_in_alphabetical_order(tmp_path):
    truth = "v,1,0,0,0.4,0.8,walk\nv,1,0,0,0.4,0.8,sit\n"
    assert score_text(tmp_path, truth, "v,1,0,0,0.4,0.8,1,1\n", None) == {1: 1.0, 2: 0.0}
    assert read_ground_truth(tmp_path / "g.csv").texts == ["sit", "walk"]


def test_rows_of_classes_outside_the_label_map_are_dropped_before_the_limit(tmp_path):
    predictions = ("v_1,902,0,0,0.4,0.8,2,9\nv_1,902,0,0,0.4,0.8,12,1\n"
                   "v_1,903,0.6,0,1,0.8,38,1\n")
    truth = TRUTH + "v_1,902,0,0,0.4,0.8,2,3\n"
    assert score_text(tmp_path, truth, predictions, max_per_keyframe=1) == {12: 1.0, 38: 1.0}


def test_a_keyframe_named_by_two_columns_or_by_another_class_is_not_ignored(tmp_path):
    predictions = "v_1,904,0,0,0.4,0.8,12,9\nv_1,902,0,0,0.4,0.8,12,1\n"
    for more, ap in (("", 1.0), ("v_1,904\n", 0.5), ("v_1,0904,0,0,1,1,2,4\n", 0.5)):
        result = score_text(tmp_path, TRUTH + more, predictions, keyframes_without_gt="ignore")
        assert result[12] == ap


def test_a_video_without_ground_truth_is_false_and_may_be_excluded(tmp_path):
    predictions = "new,904,0,0,0.4,0.8,12,9\nv_1,902,0,0,0.4,0.8,12,1\n"
    assert score_text(tmp_path, TRUTH, predictions)[12] == 0.5
    (tmp_path / "e.csv").write_text("new,0904\nother,1\n")
    for excluded_first in (True, False):
        truth = read_ground_truth(tmp_path / "g.csv", AVA_NAMES)
        excluded = read_excluded(tmp_path / "e.csv", truth) if excluded_first else None
        found, _ = read_predictions(tmp_path / "p.csv", truth, AVA_NAMES)
        excluded = excluded or read_excluded(tmp_path / "e.csv", truth)
        assert frame_map(truth, found, excluded=excluded)["classes"][0]["ap"] == 1.0


@needs_samples
@pytest.mark.parametrize("name, without_gt", [("gt_small.csv", "false"),
                                              ("gt_small_2col.csv", "ignore")])
@pytest.mark.parametrize("limit", [0, 5])
def test_real_ava_files_agree_with_the_slow_statement(tmp_path, name, without_gt, limit):
    path = SAMPLES / "eval" / name
    labels = {i: f"class {i}" for i in (1, 11, 12, 17, 59, 74, 79, 80, 5)}
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    slow_truth = [((video, float(second)), tuple(map(float, rest[:4])) if rest else (0, 0, 0, 0),
                   int(rest[4]) if rest and int(rest[4]) in labels else -1,
                   int(rest[5]) if rest[5:] else -1) for video, second, *rest in rows]
    rng = np.random.default_rng(1)
    written, slow_found = [], []
    strangers = [(("1j20qq1JyX4", 1000.0), LEFT)] + [(("nobody", 1.0), LEFT)] * 4
    for (video, second), box in [row[:2] for row in slow_truth] * 3 + strangers:
        moved = np.clip(np.array(box) + rng.integers(-60, 61, 4) / 1000, 0, 1).round(3).tolist()
        label, score = int(rng.choice([1, 2, 11, 12, 74, 80])), round(rng.random(), 1)
        stamp = f"{int(second):04d}" if rng.random() < 0.5 else int(second)
        written.append([video, stamp, *moved, label, score])
        if label in labels:
            slow_found.append(((video, second), tuple(moved), label, score))
    with open(tmp_path / "p.csv", "w", newline="") as file:
        csv.writer(file).writerows(written)
    truth = read_ground_truth(path, labels)
    found, left_out = read_predictions(tmp_path / "p.csv", truth, labels)
    excluded = read_excluded(SAMPLES / "eval" / "excluded_small.csv", truth)
    with open(SAMPLES / "eval" / "excluded_small.csv", newline="") as file:
        slow_excluded = {(video, float(second)) for video, second in csv.reader(file)}
    result = frame_map(truth, found, excluded=excluded, max_per_keyframe=limit,
                       keyframes_without_gt=without_gt)
    slow = slow_frame_map(slow_truth, slow_found, "ava", excluded=slow_excluded, limit=limit,
                          without_gt=without_gt)
    assert left_out["of classes that are not evaluated"] == len(written) - len(slow_found)
    assert sum(ap is not None and ap > 0 for ap in slow.values()) >= 4
    for entry in result["classes"]:
        ap = slow.get(entry["id"])
        assert entry["ap"] == (None if ap is None else pytest.approx(ap, abs=1e-12))


# ---------------------------------------------------------------- mistakes

@pytest.mark.parametrize("bad, message", [
    ("v_1,0902,0.0,0.0,0.4,0.8,12", "7 columns; expected video,keyframe,"),
    ("v_1,0902,0.0,0.0,0.4,0.8,12,0.5,7", "9 columns; expected video,keyframe,x1"),
    ("v_1,noon,0.0,0.0,0.4,0.8,12,0.5", "'noon' is not a number"),
    ("v_1,-3,0.0,0.0,0.4,0.8,12,0.5", "keyframe -3 is not a time in seconds, 0 or more"),
    ("v_1,1e300,0.0,0.0,0.4,0.8,12,0.5", "keyframe"),
    (",0902,0.0,0.0,0.4,0.8,12,0.5", "video is absent"),
    ("v_1,0902,0.0,zero,0.4,0.8,12,0.5", "'zero' is not a number"),
    ("v_1,0902,0.0,,0.4,0.8,12,0.5", "y1 is absent"),
    ("v_1,0902,0.0,nan,0.4,0.8,12,0.5", "y1 is absent or not a finite number"),
    ("v_1,0902,0.0,0.0,0.4,0.8,12,nan", "score is absent or not a finite number"),
    ("v_1,0902,0.0,0.0,0.4,0.8,12,inf", "score is absent or not a finite number"),
    ("v_1,0902,0.0,0.0,0.4,1.01,12,0.5", r"box 0, 0, 0.4, 1.01 is outside \[0, 1\]; divide pixels"),
    ("v_1,0902,-0.2,0.0,0.4,0.8,12,0.5", r"box -0.2, 0, 0.4, 0.8 is outside \[0, 1\]"),
    ("v_1,0902,0.0,0.0,0.4,0.8,0,0.5", "action id '0' is not a whole number, 1 or more"),
    ("v_1,0902,0.0,0.0,0.4,0.8,stand,0.5", "action id 'stand' is not a whole number"),
    ("v_1,0902,0.0,0.0,0.4,0.8,1.5,0.5", "action id '1.5' is not a whole number"),
    ("v_1,0902,0.0,0.0,0.4,0.8,²,0.5", "action id '²' is not a whole number"),
    ("v_1,0902,0.0,0.0,0.4,0.8,+,0.5", r"action id '\+' is not a whole number"),
    ("v_1,0902,0.0,0.0,0.4,0.8," + "9" * 5000 + ",0.5", "is not a whole number"),
    ("v_1,0902,0.0,0.0,0.4,0.8,,0.5", "is this a file of proposals")])
def test_a_bad_prediction_is_named_by_file_line_and_value(tmp_path, bad, message):
    good = "v_1,0902,0.0,0.0,0.4,0.8,12,0.5\n"
    (tmp_path / "p.csv").write_text(good * 2500 + bad + "\n" + good, encoding="utf-8")
    truth, _ = tables([(ONE, LEFT, 0, 0)], [], 13)
    with pytest.raises(ValueError, match=f"p.csv:2501: .*{message}"):
        read_predictions(tmp_path / "p.csv", truth)


@pytest.mark.parametrize("bad, message", [
    ("v_1,0902,0.4,0.0,0.3,0.8,12,3", "is not x1 <= x2, y1 <= y2"),
    ("v_1,0902,0,0,300,200,12,3", "divide pixels"), ("v_1,0902,0,0,1,1,0,3", "action id '0' is not"),
    ("v_1,0902,0,0,1,1,-12,3", "action id '-12' is not"), ("v_1,0902,0,0,1,1,12.0,3", "action id '12.0' is not"),
    ("v_1,0902,0,0,1,1,stand,3", "action id 'stand' is not"), ("v_1,0902,0,0,1,1,,3", "action id '' is not a whole"),
    ("v_1,0902,0,0,1,1,12,Ann", "'Ann' is not a number"), ("v_1,0902,0.4", "3 columns"),
    ("v_1", "1 columns")])
def test_a_bad_ground_truth_row_is_named_by_file_line_and_value(tmp_path, bad, message):
    (tmp_path / "g.csv").write_text(TRUTH + bad + "\n")
    with pytest.raises(ValueError, match=f"g.csv:3: .*{message}"):
        read_ground_truth(tmp_path / "g.csv", AVA_NAMES)


def test_a_class_name_of_the_ground_truth_that_the_label_map_lacks_is_named(tmp_path):
    (tmp_path / "g.csv").write_text("v_1,902,0,0,0.4,0.8,stand\nv_1,903,0.6,0,1,0.8,stnad\n")
    with pytest.raises(ValueError, match="g.csv:2: class 'stnad' is not one of the 2 of the label map"):
        read_ground_truth(tmp_path / "g.csv", AVA_NAMES)


@pytest.fixture
def frames():
    return Annotations(["c/v"], ["walk", "sit"], np.int32([0]), np.int32([0]), np.array([LEFT]),
                       np.int32([0]), size=np.int32([[320, 240]]))


@pytest.mark.parametrize("bad, message", [
    ("c/v,0,0,0,0.4,0.8,1,1", "a frame number, 1 or more"),
    ("c/v,1.5,0,0,0.4,0.8,1,1", "a frame number"),
    ("c/v,1,0,0,0.4,0.8,3,1", "action id 3 is not one of the 2 classes; expected 1 to 2")])
def test_a_bad_row_of_a_set_that_counts_frames_is_named(tmp_path, frames, bad, message):
    (tmp_path / "p.csv").write_text(bad + "\n")
    with pytest.raises(ValueError, match=f"p.csv:1: .*{message}"):
        read_predictions(tmp_path / "p.csv", frames)


def test_frames_count_from_one_and_unknown_videos_are_appended(tmp_path, frames):
    (tmp_path / "p.csv").write_text("c/v,1,0,0,0.4,0.8,1,1\nc/train,7,0,0,0.4,0.8,1,1\n")
    found, _ = read_predictions(tmp_path / "p.csv", frames)
    assert found.keyframe.tolist() == [0, 6] and found.video.tolist() == [0, 1]
    assert frames.videos == ["c/v", "c/train"] and frames.unit.tolist() == ["frame", "frame"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00bad", b"a,b\x00,c"])
@pytest.mark.parametrize("read", [read_predictions, read_excluded,
                                  lambda path, truth: read_ground_truth(path)])
def test_empty_and_binary_files_are_refused(tmp_path, content, read):
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(ValueError, match="p.csv"):
        read(tmp_path / "p.csv", tables([(ONE, LEFT, 0, 0)], [], 1)[0])
