"""Predictions, ground truth, label maps and exclusions in the layout of AVA's tools."""

import csv
import gzip

import numpy as np
import pytest
from layouts import SAMPLES, needs_samples
from test_metric import LEFT, ONE, slow_frame_map, tables

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


@pytest.mark.parametrize("text, labels", [
    *((text, AVA_NAMES) for text in (
        AVA_MAP, AVA_MAP.replace("\n", " "), AVA_MAP.replace('"', "'"), "\ufeff" + AVA_MAP,
        AVA_MAP.replace("item", "label").replace("  id:", "  label_id:"),
        "12: stand\n38: open (e.g., a window, a car door)\n",
        "item { id: 12 name: 'stand' } item{id:38 name:\"open (e.g., a window, a car door)\"}")),
    ("79: walk\n80: walk\n", {79: "walk", 80: "walk (80)"}),  # two ids of one name stay two classes
    ('# item { name: "x" id: 9 }\nitem {  # one\n name: "caf\\303\\251 \\"#1\\"" id: 1 }',
     {1: 'café "#1"'})])
def test_a_label_map_is_read_in_every_layout(tmp_path, text, labels):
    (tmp_path / "map.pbtxt").write_text(text, encoding="utf-8")
    assert read_label_map(tmp_path / "map.pbtxt") == labels


@needs_samples
def test_official_label_maps_and_those_of_other_sets_are_read_in_all_styles():
    for name in ("ava_mmaction2/label_map.txt",
                 "ava/ava_action_list_v2.1_for_activitynet_2018.pbtxt.txt",
                 "ava/ava_action_list_v2.2_for_activitynet_2019.singleline.pbtxt.txt"):
        assert read_label_map(SAMPLES / name) == dict(zip(AVA_IDS, AVA_60))
    blocks = read_label_map(SAMPLES / "ava" / "custom_label_block_style.pbtxt")
    assert list(blocks) == list(range(1, 9)) and blocks[6] == "OffNest"


def test_any_class_name_survives_the_label_map(tmp_path):
    labels = {1: 'say "hi", id: 7 \\ wave', 5: "item { name }", 6: "tänzeln"}
    write_label_map(tmp_path / "map.pbtxt", labels)
    assert read_label_map(tmp_path / "map.pbtxt") == labels


A = 'item { name: "a" id: 1 }\n'


@pytest.mark.parametrize("line, wrong", [
    (1, "item {}"), (1, 'item { name: "a" }'), (1, "item { id: 3 }"), (1, A.replace("1", "0")),
    (1, A.replace("1", "1.5")), (1, A.replace('"', "")), (1, A.replace('a"', "a")),
    (1, A.replace("a", "\\377")), (1, A.replace("1", '1 name: "b" id: 2')), (2, A + A),
    (2, A + A.replace("i", "I").replace("1", "2")), (3, A + "\n" + A.replace("item", "items")),
    (2, A + "2: b"), (2, A + 'item { name: "b"'), (2, "1: stand\n2 walk\n3: sit"),
    (2, "1: stand\n-2: walk"), (1, "1,stand\n2,walk"), (2, "1: stand\n2:"), (1, "²: walk"),
    (1, "+: walk")])
def test_a_label_map_with_anything_not_understood_is_refused_with_its_line(tmp_path, line, wrong):
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
    found = Detections(truth.video, keyframes, box, np.float32([-12.5, 1 / 3]), np.int32([1, 1]))
    write_predictions(tmp_path / "p.csv", truth, found)
    with open(tmp_path / "p.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[1] for row in rows] == written
    assert rows[0] == ["a,b/v_1", written[0], "0.077", "0.0", "0.3", "0.8", "3", "-12.5"]
    assert read_label_map(tmp_path / "p.pbtxt") == {14: "walk", 3: 'say "hi"'}

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
FOUND = "v_1,902,0,0,0.4,0.8,12,1\nv_1,903,0.6,0,1,0.8,38,1\n"
HEADER = "video,keyframe,x1,y1,x2,y2,"
NEW = "v_1,904,0,0,0.4,0.8,12,9\nv_1,902,0,0,0.4,0.8,12,1\n"


@pytest.mark.parametrize("truth, found, labels, ap, options", [
    # any spelling of numbers, lines and header; 7 or 8 columns, ids or names
    (TRUTH, "v_1,902,0,0,0.4,0.8,12,5e-1\nv_1,903.000,0.6,0,1,0.8,38,7\n", AVA_NAMES, [1, 1], {}),
    (TRUTH, HEADER + "action_id,score\n\nv_1, 0902, 0.0, 0.0, 0.4, 0.8, 12, 0.5\nv_1,0904\n\n"
     "v_1,0903,0.6,0.0,1.0,0.8,38,0.5", AVA_NAMES, [1, 1], {}),
    (TRUTH, FOUND, None, [1, 1], {}),
    ("v_1,902,0,0,0.4,0.8,12\nv_1,903,0.6,0,1,0.8,38\n", FOUND, AVA_NAMES, [1, 1], {}),
    (HEADER + "text,person\nv_1,902,0,0,0.4,0.8,stand,\n"
     'v_1,903,0.6,0,1,0.8,"open (e.g., a window, a car door)",\n', FOUND, AVA_NAMES, [1, 1], {}),
    # rows of classes outside the label map are dropped, before the limit
    (TRUTH + "v_1,902,0,0,0.4,0.8,2,3\n", "v_1,902,0,0,0.4,0.8,2,9\n" + FOUND, AVA_NAMES, [1, 1],
     {"max_per_keyframe": 1}),
    # a keyframe named by two columns or by another class is one of the ground truth
    (TRUTH, NEW, AVA_NAMES, [1, 0], {"keyframes_without_gt": "ignore"}),
    (TRUTH + "v_1,904\n", NEW, AVA_NAMES, [0.5, 0], {"keyframes_without_gt": "ignore"}),
    (TRUTH + "v_1,0904,0,0,1,1,2,4\n", NEW, AVA_NAMES, [0.5, 0],
     {"keyframes_without_gt": "ignore"}),
    (TRUTH, NEW.replace("v_1,904", "new,904"), AVA_NAMES, [0.5, 0], {})])
def test_files_are_scored_by_what_their_rows_mean(tmp_path, truth, found, labels, ap, options):
    (tmp_path / "g.csv").write_text(truth)
    (tmp_path / "p.csv").write_text(found)
    truth = read_ground_truth(tmp_path / "g.csv", labels)
    found, _ = read_predictions(tmp_path / "p.csv", truth, labels)
    result = frame_map(truth, found, **options)
    assert [entry["ap"] for entry in result["classes"]] == ap


def test_a_video_without_ground_truth_may_be_excluded(tmp_path):
    (tmp_path / "g.csv").write_text(TRUTH)
    (tmp_path / "p.csv").write_text(NEW.replace("v_1,904", "new,904"))
    (tmp_path / "e.csv").write_text("new,0904\nother,1\n")
    truth = read_ground_truth(tmp_path / "g.csv", AVA_NAMES)
    excluded = read_excluded(tmp_path / "e.csv", truth)
    found, _ = read_predictions(tmp_path / "p.csv", truth, AVA_NAMES)
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
