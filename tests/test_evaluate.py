"""The metrics against hand-worked cases and against slow, plain statements of the same rules."""

import csv
import gzip
import json
import pickle
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import evaluate  # noqa: E402
from data import JHMDB_21, Annotations  # noqa: E402
from engine import cli  # noqa: E402
from draw import COLOURS, ap_bars  # noqa: E402
from formats.files import read_label_map, write_label_map  # noqa: E402
from formats.ucf_jhmdb import read_act_pickle  # noqa: E402
from formats.predictions import read_excluded, read_ground_truth, read_predictions, write_predictions  # noqa: E402
from metric import average_precision, box_report, frame_map, link_tubes, summarise, video_map  # noqa: E402
from table import Detections  # noqa: E402

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"
needs_samples = pytest.mark.skipif(not SAMPLES.exists(), reason="the real samples are not here")


# ---------------------------------------------------------------- the rules once more, slowly

def slow_iou(a, b, pixel):
    w = max(0.0, min(a[2], b[2]) + pixel - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) + pixel - max(a[1], b[1]))
    area_a = (a[2] - a[0] + pixel) * (a[3] - a[1] + pixel)
    area_b = (b[2] - b[0] + pixel) * (b[3] - b[1] + pixel)
    union = area_a + area_b - w * h
    return w * h / union if union else 0.0


def slow_limit(rows, limit):
    """The heap of the official reader: rows are (keyframe, box, id, score, place in the file)."""
    kept = defaultdict(list)
    for row in rows:
        def rank(r):
            return (r[3], r[2], r[1][1], r[1][0], r[1][3], r[1][2])
        entries = kept[row[0]]
        if len(entries) < limit:
            entries.append(row)
        elif row[3] > min(r[3] for r in entries):
            entries.remove(min(entries, key=rank))
            entries.append(row)
    return sorted((row for entries in kept.values() for row in entries), key=lambda row: row[4])


def slow_frame_map(truth, found, protocol, iou=0.5, excluded=(), limit=0, without_gt="false"):
    """{label: AP or None}. truth: rows (keyframe, box, label or -1, person); found: (keyframe, box, label, score)."""
    rows = [(*row, i) for i, row in enumerate(found)]
    if limit:
        rows = slow_limit(rows, limit)
    named = {row[0] for row in truth}
    rows = [row for row in rows if row[0] not in excluded and (without_gt == "false" or row[0] in named)]
    truth = [row for row in truth if row[0] not in excluded]
    if protocol == "ava":
        rows = [row for row in rows if row[1][0] < row[1][2] and row[1][1] < row[1][3]]
        truth = sorted(truth, key=lambda row: -row[3])
    result = {}
    for label in sorted({row[2] for row in truth} | {row[2] for row in rows} - {-1}):
        boxes = defaultdict(list)
        for row in truth:
            if row[2] == label:
                boxes[row[0]].append(row[1])
        total = sum(map(len, boxes.values()))
        if label == -1 or not total:
            result[label] = None
            continue
        taken, hits = set(), []
        for row in sorted((row for row in rows if row[2] == label), key=lambda row: -row[3]):
            best, best_iou = None, -1.0
            for j, box in enumerate(boxes[row[0]]):
                if protocol == "act" and (row[0], j) in taken:
                    continue
                value = slow_iou(row[1], box, int(protocol == "act"))
                if value > best_iou:
                    best, best_iou = j, value
            hit = best_iou >= iou and (row[0], best) not in taken
            hits.append(hit)
            if hit:
                taken.add((row[0], best))
        precision, recall, tp = [], [], 0
        for i, hit in enumerate(hits):
            tp += hit
            precision.append(tp / (i + 1))
            recall.append(tp / total)
        area = 0.0
        for i in range(len(hits)):
            step = recall[i] - (recall[i - 1] if i else 0.0)
            if protocol == "ava":
                area += step * max(precision[i:])
            else:
                area += step * (precision[i] + (precision[i - 1] if i else 1.0)) / 2
        result[label] = area
    return result


def tables(truth, found, classes, size=None):
    """The same rows as Annotations and Detections; a keyframe is (video, second), boxes in [0, 1]."""
    columns = list(zip(*truth)) if truth else [(), (), (), ()]
    keyframe = np.array(columns[0], float).reshape(-1, 2)
    annotations = Annotations(
        [f"v{i}" for i in range(9)], [f"class {i}" for i in range(classes)], keyframe[:, 0].astype(np.int32),
        keyframe[:, 1].astype(np.float32), np.array(columns[1], float).reshape(-1, 4),
        np.array(columns[2], np.int32), unit="second", person=np.array(columns[3], np.int32),
        size=None if size is None else np.tile(np.int32(size), (9, 1)))
    columns = list(zip(*found)) if found else [(), (), (), ()]
    keyframe = np.array(columns[0], float).reshape(-1, 2)
    return annotations, Detections(
        keyframe[:, 0].astype(np.int32), keyframe[:, 1].astype(np.float32), np.array(columns[1], float).reshape(-1, 4),
        np.array(columns[3], float), np.array(columns[2], np.int32))


def random_case(rng):
    """A small case on a coarse grid, so that ties, duplicates, exact halves and degenerate boxes abound."""
    def box():
        x, y = rng.integers(0, 5, 2)
        return (x / 8, y / 8, (x + rng.integers(1, 5)) / 8, (y + rng.integers(1, 5)) / 8)

    classes, keyframes = rng.integers(1, 4), [(v, s) for v in range(2) for s in range(rng.integers(1, 4))]
    truth, found = [], []
    for _ in range(rng.integers(0, 9)):
        truth.append((keyframes[rng.integers(len(keyframes))], box(), int(rng.integers(-1, classes)), int(rng.integers(3))))
    for _ in range(rng.integers(0, 25)):
        shape = truth[rng.integers(len(truth))][1] if truth and rng.random() < 0.5 else box()
        if rng.random() < 0.1:
            shape = (shape[0], shape[1], shape[0] - rng.integers(0, 2) / 8, shape[3])
        where = keyframes[rng.integers(len(keyframes))] if rng.random() < 0.9 else (2, 7)
        found.append((where, shape, int(rng.integers(classes)), float(rng.integers(0, 6)) - 3))
    return truth, found, int(classes), keyframes


@pytest.mark.parametrize("protocol", ["ava", "act"])
def test_thousands_of_random_cases_agree_with_the_slow_statement(protocol):
    rng = np.random.default_rng(0)
    for _ in range(1500):
        truth, found, classes, keyframes = random_case(rng)
        limit, without_gt = int(rng.choice([0, 3])), str(rng.choice(["false", "ignore"]))
        excluded = [keyframe for keyframe in keyframes + [(2, 7)] if rng.random() < 0.15]
        scale = 8 if protocol == "act" else 1                # a frame of 8 x 8 pixels
        annotations, detections = tables(truth, found, classes, (8, 8) if protocol == "act" else None)
        places = np.array(excluded, np.int32).reshape(-1, 2).T
        result = frame_map(annotations, detections, protocol, excluded=tuple(places), max_per_keyframe=limit,
                           keyframes_without_gt=without_gt)
        slow = slow_frame_map([(k, tuple(scale * x for x in b), t, p) for k, b, t, p in truth],
                              [(k, tuple(scale * x for x in b), t, s) for k, b, t, s in found],
                              protocol, excluded=excluded, limit=limit, without_gt=without_gt)
        for label, entry in enumerate(result["classes"]):
            assert entry["ap"] == (None if slow.get(label) is None else pytest.approx(slow[label], abs=1e-12))
        counted = [ap for ap in slow.values() if ap is not None]
        assert result["mean_ap"]["all"] == (pytest.approx(np.mean(counted), abs=1e-12) if counted else None)


# ---------------------------------------------------------------- each rule, worked out by hand

LEFT, RIGHT, FULL = (0.0, 0.0, 0.4, 0.8), (0.6, 0.0, 1.0, 0.8), (0.0, 0.0, 1.0, 1.0)
ONE, TWO = (0, 902), (0, 903)                                # keyframes


def scores(truth, found, protocol="ava", classes=2, **options):
    """AP of each class; truth: rows (keyframe, box, label, person), found: rows (keyframe, box, label, score)."""
    annotations, detections = tables(truth, found, classes, (10, 10) if protocol == "act" else None)
    return [entry["ap"] for entry in frame_map(annotations, detections, protocol, **options)["classes"]]


@pytest.mark.parametrize("protocol, area", [("ava", 1 / 3 + 2 / 9), ("act", 1 / 3 + 7 / 36)])
def test_area_of_true_false_true_with_three_people(protocol, area):
    # precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3; the trapezoid of the last step is (1/2 + 2/3) / 2 / 3
    assert average_precision(np.array([True, False, True]), 3, protocol) == pytest.approx(area, abs=1e-15)


def test_precision_is_made_non_increasing_for_ava_only():
    # precision 0, 1/2, 2/3: AVA takes 2/3 for both steps, ACT the trapezoids under the points
    hits = np.array([False, True, True])
    assert average_precision(hits, 2, "ava") == pytest.approx(2 / 3)
    assert average_precision(hits, 2, "act") == pytest.approx(((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2)


@pytest.mark.parametrize("protocol, ap", [("ava", 0.5), ("act", 1.0)])
def test_a_second_box_on_a_person_is_false_for_ava_and_takes_the_next_person_for_act(protocol, ap):
    people = [(ONE, (0, 0, 0.6, 0.8), 0, 0), (ONE, (0.1, 0, 0.7, 0.8), 0, 1)]
    boxes = [(ONE, (0, 0, 0.6, 0.8), 0, 2.0), (ONE, (0, 0, 0.6, 0.8), 0, 1.0)]
    assert scores(people, boxes, protocol)[0] == ap


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("person, box, ap", [
    ((0.0, 0.0, 0.4, 0.4), (0.0, 0.0, 0.2, 0.4), 1.0),       # the same half of a box ...
    ((0.1, 0.1, 0.5, 0.5), (0.1, 0.1, 0.3, 0.5), 0.0)])      # ... but 0.3 - 0.1 < 0.2 in float64, as official tools see it
def test_exact_halves_fall_as_in_float64_whatever_the_boxes_are_kept_in(person, box, ap, dtype):
    truth, found = tables([(ONE, person, 0, 0)], [(ONE, box, 0, 1.0)], 1)
    truth.box, found.box = truth.box.astype(dtype), found.box.astype(dtype)
    assert (slow_iou(person, box, 0) >= 0.5) == ap
    assert frame_map(truth, found)["mean_ap"]["all"] == ap


def test_act_counts_both_border_pixels():
    # 0..9 x 0..9 pixels and 0..4 x 0..9: 36 / 81 without the border pixels, 50 / 100 with them
    people, boxes = [(ONE, (0, 0, 0.9, 0.9), 0, 0)], [(ONE, (0, 0, 0.4, 0.9), 0, 1.0)]
    assert scores(people, boxes, "ava")[0] == 0.0
    assert scores(people, boxes, "act")[0] == 1.0


def test_pixels_survive_float32_fractions():
    # 3 of 7 pixels and the like have no exact float32; the same halves must come out true
    truth, found = tables([(ONE, (0, 0, 5 / 7, 6 / 7), 0, 0)], [(ONE, (0, 0, 2 / 7, 6 / 7), 0, 1.0)], 1, (7, 7))
    truth.box, found.box = truth.box.astype(np.float32), found.box.astype(np.float32)
    assert frame_map(truth, found, "act")["mean_ap"]["all"] == 1.0      # (2 + 1) / (5 + 1)


def test_of_two_people_with_equal_iou_ava_takes_the_higher_person_id():
    # the first box overlaps both by the same; only if it takes person 7 is person 3 free for the second
    left, right, middle = (0, 0, 0.5, 0.5), (0.25, 0, 0.75, 0.5), (0.125, 0, 0.625, 0.5)
    boxes = [(ONE, middle, 0, 2.0), (ONE, left, 0, 1.0)]
    assert scores([(ONE, left, 0, 3), (ONE, right, 0, 7)], boxes)[0] == 1.0
    assert scores([(ONE, left, 0, 7), (ONE, right, 0, 3)], boxes)[0] == 0.5


def test_degenerate_detections_vanish_for_ava_and_are_false_for_act():
    people = [(ONE, LEFT, 0, 0)]
    boxes = [(ONE, (0.2, 0.2, 0.2, 0.4), 0, 9.0), (ONE, (0.9, 0.2, 0.6, 0.4), 0, 8.0), (ONE, LEFT, 0, 1.0)]
    assert scores(people, boxes, "ava")[0] == 1.0
    assert scores(people, boxes, "act")[0] == pytest.approx((0 + 1 / 3) / 2)


def test_a_person_without_area_is_missed():
    assert scores([(ONE, (0.2, 0.2, 0.2, 0.4), 0, 0), (ONE, LEFT, 0, 1)], [(ONE, LEFT, 0, 1.0)])[0] == 0.5


def test_keyframes_without_ground_truth_are_false_or_ignored():
    people, boxes = [(ONE, LEFT, 0, 0)], [(TWO, LEFT, 0, 2.0), (ONE, LEFT, 0, 1.0)]
    assert scores(people, boxes)[0] == 0.5
    assert scores(people, boxes, keyframes_without_gt="ignore")[0] == 1.0
    nobody = people + [(TWO, (0, 0, 0, 0), -1, -1)]          # named, with nobody in it
    assert scores(nobody, boxes, keyframes_without_gt="ignore")[0] == 0.5


def test_excluded_keyframes_leave_people_detections_and_counts():
    people = [(ONE, LEFT, 0, 0), (TWO, LEFT, 0, 0)]
    truth, found = tables(people, [(TWO, RIGHT, 0, 2.0), (ONE, LEFT, 0, 1.0)], 1)
    result = frame_map(truth, found, excluded=(np.array([0]), np.array([903])))
    assert result["mean_ap"]["all"] == 1.0
    assert (result["keyframes"], result["boxes"], result["predictions"]) == (1, 1, 1)
    assert (result["classes"][0]["gt"], result["left_out"]["on excluded keyframes"]) == (1, 1)


def test_the_limit_keeps_the_best_of_all_classes_and_drops_the_smallest_of_equal_rows():
    # two rows a keyframe: the 3.0 comes late and pushes out, of the two with 1.0, the one of the smaller id
    people = [(ONE, LEFT, 0, 0), (ONE, LEFT, 1, 0), (ONE, RIGHT, 1, 1)]
    boxes = [(ONE, LEFT, 1, 1.0), (ONE, LEFT, 0, 1.0), (ONE, RIGHT, 1, 3.0), (ONE, RIGHT, 0, 1.0)]
    assert scores(people, boxes, max_per_keyframe=2) == [0.0, 1.0]
    assert scores(people, boxes) == [1.0, 1.0]


def test_equal_scores_keep_the_order_of_their_rows():
    right, wrong = (ONE, LEFT, 0, 1.0), (ONE, RIGHT, 0, 1.0)
    assert scores([(ONE, LEFT, 0, 0)], [right, wrong])[0] == 1.0
    assert scores([(ONE, LEFT, 0, 0)], [wrong, right])[0] == 0.5


def test_a_class_without_predictions_counts_zero_and_one_without_people_does_not_count():
    for protocol in ("ava", "act"):
        truth, found = tables([(ONE, LEFT, 0, 0), (ONE, LEFT, 1, 0)], [(ONE, LEFT, 0, 1.0), (ONE, LEFT, 2, 9.0)], 3, (10, 10))
        result = frame_map(truth, found, protocol)
        assert [entry["ap"] for entry in result["classes"]] == [1.0, 0.0, None]
        assert result["mean_ap"]["all"] == 0.5
        assert [entry["predictions"] for entry in result["classes"]] == [1, 0, 1]


def test_base_and_novel_means_are_over_their_own_counted_classes():
    truth, found = tables([(ONE, LEFT, 0, 0), (ONE, LEFT, 1, 0)], [(ONE, LEFT, 0, 1.0)], 3)
    result = summarise(frame_map(truth, found), {"class 0", "class 2"})
    assert result["mean_ap"] == {"base": 0.0, "novel": 1.0, "all": 0.5}
    assert [entry["split"] for entry in result["classes"]] == ["novel", "base", "novel"]


def test_nothing_predicted_or_nobody_annotated_is_not_an_error():
    for protocol in ("ava", "act"):
        assert scores([(ONE, LEFT, 0, 0)], [], protocol) == [0.0, None]
        assert scores([], [(ONE, LEFT, 0, 1.0)], protocol) == [None, None]


def test_the_ground_truth_as_predictions_scores_exactly_one():
    rng = np.random.default_rng(0)
    people = [((v, s), tuple(np.round([x, y, x + 0.2, y + 0.2], 3)), int(rng.integers(3)), 0)
              for v in range(3) for s in range(20) for x, y in [(0.1 + 0.3 * rng.integers(3), 0.1 * rng.integers(8))]]
    for protocol in ("ava", "act"):
        truth, _ = tables(people, [], 3, (320, 240))
        found = Detections(truth.video, truth.keyframe, truth.box, np.ones(len(people)), truth.text)
        result = frame_map(truth, found, protocol)
        assert result["mean_ap"]["all"] == 1.0 and all(entry["ap"] == 1.0 for entry in result["classes"])


@pytest.mark.parametrize("change, message", [
    (dict(score=np.array([np.nan])), "score nan of detection 0"), (dict(label=np.array([5])), "labels 5..5"),
    (dict(box=np.zeros((2, 4))), "shape")])
def test_detections_without_meaning_are_refused(change, message):
    truth, found = tables([(ONE, LEFT, 0, 0)], [(ONE, LEFT, 0, 1.0)], 1)
    for name, value in change.items():
        setattr(found, name, value)
    with pytest.raises(ValueError, match=message):
        frame_map(truth, found)


def test_act_without_frame_sizes_is_refused():
    truth, found = tables([(ONE, LEFT, 0, 0)], [(ONE, LEFT, 0, 1.0)], 1)
    with pytest.raises(ValueError, match="no frame sizes; use protocol ava"):
        frame_map(truth, found, "act")


# ---------------------------------------------------------------- real ground truth

@needs_samples
def test_real_ucf101_24_agrees_with_the_slow_statement_under_both_protocols():
    sample = np.load(SAMPLES / "eval" / "act_ucf24_gt.npz")
    tube = np.repeat(np.arange(len(sample["tube_video"])), np.diff(sample["tube_offset"]))
    video, label, rows = sample["tube_video"][tube], sample["tube_label"][tube], sample["rows"]
    size = np.tile(np.int32([320, 240]), (len(sample["videos"]), 1))
    box = (rows[:, 1:] / np.array([320, 240, 320, 240])).astype(np.float32)
    order = np.lexsort((rows[:, 0], video))
    truth = Annotations(sample["videos"].tolist(), sample["labels"].tolist(), video[order].astype(np.int32),
                        rows[order, 0].astype(np.int32) - 1, box[order], label[order].astype(np.int32), size=size)
    rng = np.random.default_rng(0)
    moved = np.clip(rows[order, 1:] + rng.integers(-25, 26, (len(rows), 4)), 0, [320, 240, 320, 240])
    guess = np.where(rng.random(len(rows)) < 0.7, truth.text, rng.integers(0, 24, len(rows))).astype(np.int32)
    score = rng.integers(0, 200, len(rows)).astype(np.float32)                    # many ties
    found = Detections(truth.video, truth.keyframe, (moved / np.array([320, 240, 320, 240])).astype(np.float32), score, guess)
    perfect = Detections(truth.video, truth.keyframe, truth.box, np.ones(len(rows)), truth.text)
    assert frame_map(truth, perfect, "act")["mean_ap"]["all"] == 1.0
    whole = {protocol: frame_map(truth, found, protocol) for protocol in ("ava", "act")}
    assert 0.2 < whole["ava"]["mean_ap"]["all"] < whole["act"]["mean_ap"]["all"] < 0.8

    part = [6, 14]                                           # fencing and salsa spin: many people a frame
    slow_truth = [((v, f), tuple(b), t, 0) for v, f, b, t in zip(truth.video.tolist(), truth.keyframe.tolist(),
                  rows[order, 1:].astype(float).tolist(), truth.text.tolist()) if t in part]
    slow_found = [((v, f), tuple(b), t, s) for v, f, b, t, s in zip(truth.video.tolist(), truth.keyframe.tolist(),
                  moved.astype(float).tolist(), guess.tolist(), score.tolist()) if t in part]
    for protocol, result in whole.items():
        for label, ap in slow_frame_map(slow_truth, slow_found, protocol).items():
            assert result["classes"][label]["ap"] == pytest.approx(ap, abs=1e-12)


@needs_samples
@pytest.mark.parametrize("name, without_gt", [("gt_small.csv", "false"), ("gt_small_2col.csv", "ignore")])
@pytest.mark.parametrize("limit", [0, 5])
def test_ava_files_agree_with_the_slow_statement(tmp_path, name, without_gt, limit):
    path, labels = SAMPLES / "eval" / name, {i: f"class {i}" for i in (1, 11, 12, 17, 59, 74, 79, 80, 5)}
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    slow_truth = [((row[0], float(row[1])), tuple(map(float, row[2:6])) if row[2:] else (0, 0, 0, 0),
                   int(row[6]) if row[6:] and int(row[6]) in labels else -1, int(row[7]) if row[7:] else -1) for row in rows]
    rng = np.random.default_rng(1)
    written, slow_found = [], []
    for (video, second), box, _, _ in slow_truth * 3 + [(("1j20qq1JyX4", 1000.0), LEFT, 0, 0), (("nobody", 1.0), LEFT, 0, 0)] * 4:
        moved = np.round(np.clip(np.array(box) + rng.integers(-60, 61, 4) / 1000, 0, 1), 3).tolist()
        label, score = int(rng.choice([1, 2, 11, 12, 74, 80])), round(rng.random(), 1)
        written.append([video, f"{int(second):04d}" if rng.random() < 0.5 else int(second), *moved, label, score])
        if label in labels:
            slow_found.append(((video, second), tuple(moved), label, score))
    with open(tmp_path / "p.csv", "w", newline="") as file:
        csv.writer(file).writerows(written)
    truth = read_ground_truth(path, labels)
    found, left_out = read_predictions(tmp_path / "p.csv", truth, labels)
    excluded = read_excluded(SAMPLES / "eval" / "excluded_small.csv", truth)
    with open(SAMPLES / "eval" / "excluded_small.csv", newline="") as file:
        slow_excluded = {(video, float(second)) for video, second in csv.reader(file)}
    result = frame_map(truth, found, excluded=excluded, max_per_keyframe=limit, keyframes_without_gt=without_gt)
    slow = slow_frame_map(slow_truth, slow_found, "ava", excluded=slow_excluded, limit=limit, without_gt=without_gt)
    assert left_out["of classes that are not evaluated"] == len(written) - len(slow_found)
    assert sum(ap is not None and ap > 0 for ap in slow.values()) >= 4
    for entry in result["classes"]:
        assert entry["ap"] == (None if slow.get(entry["id"]) is None else pytest.approx(slow[entry["id"]], abs=1e-12))


# ---------------------------------------------------------------- files

AVA_MAP = """item {\n  name: "stand"\n  id: 12\n}\nitem {\n  name: "open (e.g., a window, a car door)"\n  id: 38\n}\n"""
AVA_NAMES = {12: "stand", 38: "open (e.g., a window, a car door)"}


@pytest.mark.parametrize("text", [
    AVA_MAP, AVA_MAP.replace("\n", " "), AVA_MAP.replace("item", "label").replace("  id:", '  label_id:'),
    AVA_MAP.replace('"', "'"), "\ufeff" + AVA_MAP, "12: stand\n38: open (e.g., a window, a car door)\n",
    "item { id: 12 name: 'stand' } item{id:38 name:\"open (e.g., a window, a car door)\"}"])
def test_a_label_map_is_read_in_every_layout(tmp_path, text):
    (tmp_path / "map.pbtxt").write_text(text, encoding="utf-8")
    assert read_label_map(tmp_path / "map.pbtxt") == AVA_NAMES


def test_two_ids_of_one_name_stay_two_classes(tmp_path):
    (tmp_path / "map.txt").write_text("79: walk\n80: walk\n")
    assert read_label_map(tmp_path / "map.txt") == {79: "walk", 80: "walk (80)"}


@needs_samples
def test_the_real_label_maps_have_their_sixty_classes():
    many = read_label_map(SAMPLES / "ava" / "ava_action_list_v2.1_for_activitynet_2018.pbtxt.txt")
    one_line = read_label_map(SAMPLES / "ava" / "ava_action_list_v2.2_for_activitynet_2019.singleline.pbtxt.txt")
    lines = read_label_map(SAMPLES / "ava_mmaction2" / "label_map.txt")
    assert many == one_line == lines and len(many) == 60 and many[80] == "watch (a person)"


def test_any_class_name_survives_the_label_map(tmp_path):
    labels = {1: 'say "hi", id: 7 \\ wave', 5: "item { name }", 6: "tänzeln"}
    write_label_map(tmp_path / "map.pbtxt", labels)
    assert read_label_map(tmp_path / "map.pbtxt") == labels


@pytest.mark.parametrize("text", ["", "item {}", 'item { name: "a" }', "item { id: 3 }", 'item { name: "a" id: 0 }',
                                  'item { name: "a" id: 1 } item { name: "b" id: 1 }'])
def test_a_label_map_without_classes_is_refused_with_its_name(tmp_path, text):
    (tmp_path / "map.pbtxt").write_text(text)
    with pytest.raises(ValueError, match="map.pbtxt: "):
        read_label_map(tmp_path / "map.pbtxt")


@pytest.mark.parametrize("unit, keyframes, written", [
    ("frame", np.array([0, 41], np.int32), ["1", "42"]), ("second", np.array([902, 1.1], np.float32), ["0902", "1.1"])])
def test_a_written_file_has_outside_keyframes_and_ids_and_scores_as_the_arrays(tmp_path, unit, keyframes, written):
    box = np.array([[0.077, 0, 0.3, 0.8], [1 / 3, 0.2, 1, 1]], np.float32)
    truth = Annotations(["a,b/v_1", "c"], ["walk", 'say "hi"'], np.int32([0, 1]), keyframes, box, np.int32([0, 1]),
                        unit=unit, size=np.int32([[320, 240]] * 2), ids=[14, 3])
    found = Detections(truth.video, keyframes, box, np.array([-12.5, 1 / 3], np.float32), np.int32([1, 1]))
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


TRUTH = "v_1,0902,0.0,0.0,0.4,0.8,12,3\nv_1,0903,0.6,0.0,1.0,0.8,38,3\n"


def score_text(folder, truth, predictions, labels=AVA_NAMES, **options):
    """AP by id of two files given as text."""
    (folder / "g.csv").write_text(truth)
    (folder / "p.csv").write_text(predictions)
    annotations = read_ground_truth(folder / "g.csv", labels)
    detections, _ = read_predictions(folder / "p.csv", annotations, labels)
    return {entry["id"]: entry["ap"] for entry in frame_map(annotations, detections, **options)["classes"]}


@pytest.mark.parametrize("predictions", [
    "v_1,0902,0.0,0.0,0.4,0.8,12,0.5\nv_1,0903,0.6,0.0,1.0,0.8,38,0.5\n",
    "v_1,902,0,0,0.4,0.8,12,5e-1\nv_1,903.000000,0.6,0,1,0.8,38,7\n",
    "video,keyframe,x1,y1,x2,y2,action_id,score\n\nv_1, 0902, 0.0, 0.0, 0.4, 0.8, 12, 0.5\nv_1,0904\n\nv_1,0903,0.6,0.0,1.0,0.8,38,0.5"])
def test_predictions_are_read_with_any_spelling_of_the_keyframe(tmp_path, predictions):
    assert score_text(tmp_path, TRUTH, predictions) == {12: 1.0, 38: 1.0}


@pytest.mark.parametrize("truth, labels", [
    (TRUTH, AVA_NAMES), (TRUTH, None), ("v_1,902,0,0,0.4,0.8,12\nv_1,903,0.6,0,1,0.8,38\n", AVA_NAMES),
    ('video,keyframe,x1,y1,x2,y2,text,person\nv_1,902,0,0,0.4,0.8,stand,\nv_1,903,0.6,0,1,0.8,"open (e.g., a window, a car door)",\n',
     AVA_NAMES)])
def test_ground_truth_is_read_with_seven_or_eight_columns_ids_or_names(tmp_path, truth, labels):
    predictions = "v_1,902,0,0,0.4,0.8,12,1\nv_1,903,0.6,0,1,0.8,38,1\n"
    assert score_text(tmp_path, truth, predictions, labels) == {12: 1.0, 38: 1.0}


def test_class_names_without_a_label_map_are_numbered_in_alphabetical_order(tmp_path):
    truth = "v,1,0,0,0.4,0.8,walk\nv,1,0,0,0.4,0.8,sit\n"
    assert score_text(tmp_path, truth, "v,1,0,0,0.4,0.8,1,1\n", None) == {1: 1.0, 2: 0.0}
    assert read_ground_truth(tmp_path / "g.csv").texts == ["sit", "walk"]


def test_rows_of_classes_outside_the_label_map_are_dropped_before_the_limit(tmp_path):
    predictions = "v_1,902,0,0,0.4,0.8,2,9\nv_1,902,0,0,0.4,0.8,12,1\nv_1,903,0.6,0,1,0.8,38,1\n"
    truth = TRUTH + "v_1,902,0,0,0.4,0.8,2,3\n"
    assert score_text(tmp_path, truth, predictions, max_per_keyframe=1) == {12: 1.0, 38: 1.0}


def test_a_keyframe_named_by_two_columns_or_by_another_class_is_not_ignored(tmp_path):
    predictions = "v_1,904,0,0,0.4,0.8,12,9\nv_1,902,0,0,0.4,0.8,12,1\n"
    assert score_text(tmp_path, TRUTH, predictions, keyframes_without_gt="ignore")[12] == 1.0
    for more in ("v_1,904\n", "v_1,0904,0,0,1,1,2,4\n"):
        assert score_text(tmp_path, TRUTH + more, predictions, keyframes_without_gt="ignore")[12] == 0.5


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


def test_compressed_files_are_read_and_long_ones_in_the_order_of_their_rows(tmp_path):
    with gzip.open(tmp_path / "p.csv.gz", "wt") as file:
        file.writelines(f"v{i % 7},{i % 11},0.{i % 9},0,1,1,{1 + i % 3},{i}\n" for i in range(9000))
    truth, _ = tables([(ONE, LEFT, 0, 0)], [], 3)
    found, _ = read_predictions(tmp_path / "p.csv.gz", truth)
    i = np.arange(9000)
    assert (found.score == i).all() and (found.keyframe == i % 11).all() and (found.label == i % 3).all()
    assert [truth.videos[v] for v in found.video] == [f"v{k % 7}" for k in i] and (found.box[:, 0] == i % 9 / 10).all()


GOOD = "v_1,0902,0.0,0.0,0.4,0.8,12,0.5\n"


@pytest.mark.parametrize("bad, message", [
    ("v_1,0902,0.0,0.0,0.4,0.8,12", "7 columns; expected video,keyframe,"),
    ("v_1,0902,0.0,0.0,0.4,0.8,12,0.5,7", "9 columns; expected video,keyframe,x1,y1,x2,y2,action_id,score"),
    ("v_1,noon,0.0,0.0,0.4,0.8,12,0.5", "'noon' is not a number"),
    ("v_1,-3,0.0,0.0,0.4,0.8,12,0.5", "keyframe -3 is not a time in seconds, 0 or more"),
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
    ("v_1,0902,0.0,0.0,0.4,0.8,,0.5", "is this a file of proposals")])
def test_a_bad_prediction_is_named_by_file_line_and_value(tmp_path, bad, message):
    (tmp_path / "p.csv").write_text(GOOD * 2500 + bad + "\n" + GOOD)
    truth, _ = tables([(ONE, LEFT, 0, 0)], [], 13)
    with pytest.raises(ValueError, match=f"p.csv:2501: .*{message}"):
        read_predictions(tmp_path / "p.csv", truth)


@pytest.mark.parametrize("bad, message", [
    ("v_1,0902,0.4,0.0,0.3,0.8,12,3", "is not x1 <= x2, y1 <= y2"), ("v_1,0902,0,0,300,200,12,3", "divide pixels"),
    ("v_1,0902,0,0,1,1,12,Ann", "'Ann' is not a number"), ("v_1,0902,0.4", "3 columns"),
    ("v_1", "1 columns")])
def test_a_bad_ground_truth_row_is_named_by_file_line_and_value(tmp_path, bad, message):
    (tmp_path / "g.csv").write_text(TRUTH + bad + "\n")
    with pytest.raises(ValueError, match=f"g.csv:3: .*{message}"):
        read_ground_truth(tmp_path / "g.csv", AVA_NAMES)


def test_frames_count_from_one_and_unknown_ids_and_videos_are_told(tmp_path):
    truth = Annotations(["c/v"], ["walk", "sit"], np.int32([0]), np.int32([0]), np.array([LEFT]), np.int32([0]))
    (tmp_path / "p.csv").write_text("c/v,1,0,0,0.4,0.8,1,1\nc/train,1,0,0,0.4,0.8,1,1\n")
    found, left_out = read_predictions(tmp_path / "p.csv", truth)
    assert found.keyframe.tolist() == [0] and left_out["on videos that the ground truth lacks"] == 1
    for bad, message in (("c/v,0,0,0,0.4,0.8,1,1", "a frame number, 1 or more"), ("c/v,1.5,0,0,0.4,0.8,1,1", "a frame number"),
                         ("c/v,1,0,0,0.4,0.8,3,1", "action id 3 is not one of the 2 classes; expected 1 to 2")):
        (tmp_path / "p.csv").write_text(bad + "\n")
        with pytest.raises(ValueError, match=f"p.csv:1: .*{message}"):
            read_predictions(tmp_path / "p.csv", truth)
    (tmp_path / "p.csv").write_text("c/train,1,0,0,0.4,0.8,1,1\n")
    with pytest.raises(ValueError, match="no row is of a class and a video of the ground truth"):
        read_predictions(tmp_path / "p.csv", truth)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00bad", b"a,b\x00,c"])
def test_empty_and_binary_files_are_refused(tmp_path, content):
    (tmp_path / "p.csv").write_bytes(content)
    truth, _ = tables([(ONE, LEFT, 0, 0)], [], 1)
    for read in (lambda: read_predictions(tmp_path / "p.csv", truth), lambda: read_ground_truth(tmp_path / "p.csv"),
                 lambda: read_excluded(tmp_path / "p.csv", truth)):
        with pytest.raises(ValueError, match="p.csv"):
            read()


# ---------------------------------------------------------------- boxes alone, and tubes

def test_the_box_report_counts_a_person_once_whatever_the_labels():
    people = [(ONE, LEFT, 0, 0), (ONE, LEFT, 1, 0), (ONE, RIGHT, -1, 1), (TWO, (0, 0, 0, 0), -1, -1)]
    boxes = [(ONE, LEFT, 0, 0.9), (TWO, LEFT, 0, 0.8), (ONE, LEFT, 0, 0.7)]
    report = box_report(*tables(people, boxes, 2))
    assert (report["boxes"], report["proposals"]) == (2, 3)
    assert (report["recall"], report["ap"]) == (0.5, 0.5)


def frame_tables(truth, found):
    annotations, detections = tables(truth, found, 3, (100, 100))
    annotations = replace(annotations, unit="frame")
    detections.keyframe = detections.keyframe.astype(np.int32)
    return annotations, detections


def test_a_tube_of_half_the_frames_covers_half():
    truth = [((0, f), LEFT, 0, 0) for f in range(40)]
    found = [((0, f), LEFT, 0, 1.0) for f in range(0, 20, 2)] + [((0, 19), LEFT, 0, 1.0)]    # gaps are filled
    ious = {"half": [0.5], "more": [0.51]}
    result = video_map(*frame_tables(truth, found), ious)
    assert result["map"] == {"half": 1.0, "more": 0.0} and result["tubes"] == 1
    assert video_map(*frame_tables(truth, found), ious, min_length=21)["tubes"] == 0


def test_a_tube_ends_after_five_frames_without_a_box():
    def lengths(frames):
        box = np.tile([0.0, 0, 10, 10], (len(frames), 1))
        tubes = link_tubes(np.array(frames), box, np.ones(len(frames)), pixel=1, min_length=1)
        return [len(tube) for _, tube in tubes]

    assert lengths([0, 1, 6]) == [7]
    assert lengths([0, 1, 7]) == [2, 1]


def test_the_ground_truth_as_predictions_has_video_map_one():
    truth = [((v, f), LEFT if v == 0 else RIGHT, v % 2, 0) for v in range(4) for f in range(20)]
    found = [(keyframe, box, label, 1.0) for keyframe, box, label, _ in truth]
    assert video_map(*frame_tables(truth, found))["map"] == {"0.2": 1.0, "0.5": 1.0, "0.5:0.95": 1.0}
    assert video_map(*frame_tables(truth, []))["map"] == {"0.2": 0.0, "0.5": 0.0, "0.5:0.95": 0.0}


def test_video_map_without_tubes_is_refused():
    with pytest.raises(ValueError, match="needs ground truth by frames"):
        video_map(*tables([(ONE, LEFT, 0, 0)], [], 1))


# ---------------------------------------------------------------- the command line

def run(monkeypatch, capsys, *args):
    """Exit status, stdout and stderr of evaluate.py with these arguments."""
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        cli(evaluate.main)
    return stop.value.code or 0, *capsys.readouterr()


@pytest.fixture
def files(tmp_path):
    (tmp_path / "g.csv").write_text(TRUTH + "v_1,0904,0.6,0.0,1.0,0.8,38,3\n")
    (tmp_path / "p.csv").write_text(GOOD + "v_1,0903,0.6,0.0,1.0,0.8,38,0.5\nv_1,0903,0.6,0.0,1.0,0.8,2,0.5\n")
    (tmp_path / "q.csv").write_text(GOOD)
    (tmp_path / "m.pbtxt").write_text(AVA_MAP + 'item { name: "fall down" id: 5 }')
    (tmp_path / "n.txt").write_text("stand\n\n")
    return tmp_path


def test_the_command_line_prints_and_writes_everything(monkeypatch, capsys, files):
    status, out, _ = run(monkeypatch, capsys, "--predictions", files / "p.csv", "--ground-truth", files / "g.csv", "--label-map",
                         files / "m.pbtxt", "--novel", files / "n.txt", "--json", files / "r.json", "--plot", files / "r.png")
    assert status == 0
    for line in ("frame mAP  protocol ava  iou 0.5  max-per-keyframe off  keyframes-without-gt false",
                 "keyframes 3  boxes 3  ground truth 3  predictions 2", "left out: 1 predictions of classes that are not evaluated",
                 "classes 2 of 3 counted; without ground truth: fall down", "mAP  base 50.00  novel 100.00  all 75.00"):
        assert line in out
    result = json.loads((files / "r.json").read_text())
    assert result["mean_ap"] == {"base": 0.5, "novel": 1.0, "all": 0.75}
    assert {"python", "numpy"} <= set(result["versions"])
    assert [(c["id"], c["name"], c["split"], c["ap"], c["gt"], c["predictions"]) for c in result["classes"]] == [
        (12, "stand", "novel", 1.0, 1, 1), (38, AVA_NAMES[38], "base", 0.5, 2, 1), (5, "fall down", "base", None, 0, 0)]
    colours = {colour for _, colour in Image.open(files / "r.png").getcolors(10 ** 6)}
    assert COLOURS["base"] in colours and COLOURS["novel"] in colours


def test_several_files_give_each_and_the_mean_with_its_spread(monkeypatch, capsys, files):
    status, out, _ = run(monkeypatch, capsys, "--predictions", files / "p.csv", files / "q.csv", "--ground-truth", files / "g.csv",
                         "--label-map", files / "m.pbtxt", "--json", files / "r.json")
    assert status == 0 and "mean of 2, ava: all 62.50  standard deviation all 17.68" in out
    *each, mean = json.loads((files / "r.json").read_text())
    assert [result["mean_ap"]["all"] for result in each] == [0.75, 0.5] and mean["mean_ap"]["all"] == 0.625


def test_both_protocols_are_printed_side_by_side(monkeypatch, capsys, tmp_path):
    truth = Annotations(["c/v"], ["walk"], np.int32([0]), np.int32([0]), np.array([LEFT]), np.int32([0]), size=np.int32([[10, 10]]))
    monkeypatch.setattr(evaluate, "read_act_pickle", lambda path, split: truth)
    write_predictions(tmp_path / "p.csv", truth, Detections(truth.video, truth.keyframe, truth.box, np.ones(1), truth.text))
    status, out, _ = run(monkeypatch, capsys, "--predictions", tmp_path / "p.csv", "--ground-truth", "GT.pkl", "--protocol", "ava", "act")
    assert status == 0 and out.index("protocol ava") < out.index("protocol act")


def test_the_three_splits_of_jhmdb_give_each_and_the_mean(monkeypatch, capsys, tmp_path):
    videos = [f"wave/v!_{i}" for i in range(4)]
    tube = np.column_stack([np.arange(1, 21), np.tile([10.0, 20, 110, 220], (20, 1))]).astype(np.float32)
    content = {"labels": [name.replace(" ", "_") for name in JHMDB_21], "train_videos": [[videos[3]]] * 3,
               "test_videos": [[videos[0]], [videos[1]], [videos[2]]], "nframes": dict.fromkeys(videos, 20),
               "resolution": dict.fromkeys(videos, (240, 320)), "gttubes": dict.fromkeys(videos, {20: [tube]})}
    (tmp_path / "JHMDB-GT.pkl").write_bytes(pickle.dumps(content, 2))
    # split 1: right; split 2: right on half the frames; split 3: too small a box; a training video: left out
    box = {0: "0.03125,0.083333,0.34375,0.916667", 1: "0.03125,0.083333,0.34375,0.916667", 2: "0.03125,0.083333,0.1,0.5",
           3: "0,0,1,1"}
    rows = [f"{videos[i]},{f},{box[i]},21,{20 - f}\n" for i in range(4) for f in range(1, 11 if i == 1 else 21)]
    (tmp_path / "p.csv").write_text("".join(rows))
    status, out, _ = run(monkeypatch, capsys, "--predictions", tmp_path / "p.csv", "--ground-truth", tmp_path / "JHMDB-GT.pkl",
                         "--split", 1, 2, 3, "--video-map", "--json", tmp_path / "r.json")
    assert status == 0 and "mean of 3, act: all 50.00  standard deviation all 50.00" in out
    *each, mean = json.loads((tmp_path / "r.json").read_text())
    assert [result["mean_ap"]["all"] for result in each] == [1.0, 0.5, 0.0] and mean["mean_ap"]["all"] == 0.5
    assert [result["test_split"] for result in each] == [1, 2, 3] and each[0]["keyframes"] == 20
    assert each[0]["left_out"]["on videos that the ground truth lacks"] == 20           # a training video's
    assert each[0]["left_out"]["on videos of other splits"] == len(rows) - 40
    assert each[0]["video_map"]["map"] == {"0.2": 1.0, "0.5": 1.0, "0.5:0.95": 1.0}

    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"labels": ["a"]}, 2))
    status, _, err = run(monkeypatch, capsys, "--predictions", tmp_path / "p.csv", "--ground-truth", tmp_path / "other.pkl")
    assert status == 2 and "other.pkl: has 1 labels; expected UCF101v2-GT.pkl with 24" in err


@needs_samples
def test_a_real_pickle_scores_its_own_boxes_exactly_one(monkeypatch, capsys, tmp_path):
    truth = read_act_pickle(SAMPLES / "ucf24" / "pyannot.pkl")
    rows = np.flatnonzero(truth.text >= 0)
    write_predictions(tmp_path / "p.csv", truth, Detections(truth.video[rows], truth.keyframe[rows], truth.box[rows],
                                                            np.ones(len(rows), np.float32), truth.text[rows]))
    status, out, _ = run(monkeypatch, capsys, "--predictions", tmp_path / "p.csv", "--ground-truth", SAMPLES / "ucf24" / "pyannot.pkl")
    assert status == 0 and "protocol act" in out and "mAP  all 100.00" in out
    assert "keyframes 159289  boxes 170522  ground truth 170580  predictions 170580" in out


@pytest.mark.parametrize("name, content, message", [
    ("p.csv", "v_1,0902,0.0,0.0,0.4,0.8,12,nan\n", "p.csv:1: score is absent or not a finite number"),
    ("p.csv", "", "p.csv: no predictions"), ("g.csv", "", "g.csv: is empty"), ("m.pbtxt", "", "m.pbtxt: holds no classes"),
    ("n.txt", "stnd\n", "n.txt:1: 'stnd' is not one of the 3 classes"), ("n.txt", "\n", "n.txt: is empty"),
    ("g.csv", None, "g.csv"), ("m.pbtxt", 'item { name: "a" id: 99 }', "none of its classes (12, 38) is in the label map")])
def test_a_mistake_is_one_line_and_status_two_and_nothing_is_written(monkeypatch, capsys, files, name, content, message):
    (files / name).unlink() if content is None else (files / name).write_text(content)
    status, out, err = run(monkeypatch, capsys, "--predictions", files / "p.csv", "--ground-truth", files / "g.csv", "--label-map",
                           files / "m.pbtxt", "--novel", files / "n.txt", "--json", files / "r.json", "--plot", files / "r.png")
    assert status == 2 and err.count("\n") == 1 and err.startswith("error: ") and message in err
    assert not list(files.glob("r.*"))


@pytest.mark.parametrize("flags, message", [(["--ckpt", "c.pt", "--exclude", "e.csv"], "--exclude means nothing with --ckpt"),
                                            (["--predictions", "p.csv", "--ground-truth", "g.csv", "--joint"], "--joint means nothing without"),
                                            (["--ckpt", "c.pt", "--predictions", "p.csv"], "--predictions means nothing with --ckpt")])
def test_flags_of_the_other_way_to_score_are_refused(monkeypatch, capsys, flags, message):
    status, _, err = run(monkeypatch, capsys, *flags)
    assert status == 2 and err.count("\n") == 1 and message in err


def test_a_plot_without_any_counted_class_is_still_a_picture():
    truth, found = tables([], [], 2)
    assert ap_bars("nothing", frame_map(truth, found)["classes"]).size[0] > 100
