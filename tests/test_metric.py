"""Frame and video mAP against hand-worked cases and a slow, plain statement of the same rules."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

import metric
from metric import (average_precision, box_report, frame_map, link_tubes, people_of, summarise,
                    suppress, tube_iou, video_map)
from table import Annotations, Detections


# ---------------------------------------------------------------- the rules once more, slowly

def slow_iou(a, b, pixel):
    w = max(0.0, min(a[2], b[2]) + pixel - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) + pixel - max(a[1], b[1]))
    area_a = (a[2] - a[0] + pixel) * (a[3] - a[1] + pixel)
    area_b = (b[2] - b[0] + pixel) * (b[3] - b[1] + pixel)
    union = area_a + area_b - w * h
    return w * h / union if union else 0.0


def slow_limit(rows, limit):
    """The official reader's choice; rows are (keyframe, box, id, score, index in the file)."""
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
    """{label: AP or None}.

    truth: rows (keyframe, box, label or -1, person); found: rows (keyframe, box, label, score).
    """
    rows = [(*row, i) for i, row in enumerate(found)]
    if limit:
        rows = slow_limit(rows, limit)
    named = {row[0] for row in truth}
    rows = [row for row in rows
            if row[0] not in excluded and (without_gt == "false" or row[0] in named)]
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
        precision = [sum(hits[:i + 1]) / (i + 1) for i in range(len(hits))]
        recall = [sum(hits[:i]) / total for i in range(len(hits) + 1)]
        result[label] = 0.0
        for i in range(len(hits)):
            trapezoid = (precision[i] + (precision[i - 1] if i else 1.0)) / 2
            height = max(precision[i:]) if protocol == "ava" else trapezoid
            result[label] += (recall[i + 1] - recall[i]) * height
    return result


def columns(rows):
    """Columns of rows (keyframe, box, label, person or score); a keyframe is (video, second)."""
    keyframe, box, label, last = zip(*rows) if rows else [()] * 4
    video, second = np.array(keyframe, float).reshape(-1, 2).T
    return (video.astype(np.int32), second.astype(np.float32), np.array(box, float).reshape(-1, 4),
            np.array(label, np.int32), last)


def tables(truth, found, classes, size=None):
    """The same rows as Annotations and Detections."""
    *named, person = columns(truth)
    video, second, box, label, score = columns(found)
    size = None if size is None else np.tile(np.int32(size), (9, 1))
    return Annotations(
        [f"v{i}" for i in range(9)], [f"class {i}" for i in range(classes)], *named, unit="second",
        person=np.array(person, np.int32), size=size), Detections(
        video, second, box, np.array(score, float), label)


def random_case(rng):
    """Boxes on a coarse grid: ties, duplicates, exact halves and degenerate boxes abound."""
    def box():
        x, y = rng.integers(0, 5, 2)
        return (x / 8, y / 8, (x + rng.integers(1, 5)) / 8, (y + rng.integers(1, 5)) / 8)

    classes = rng.integers(1, 4)
    keyframes = [(v, s) for v in range(2) for s in range(rng.integers(1, 4))]
    truth, found = [], []
    for _ in range(rng.integers(0, 9)):
        truth.append((keyframes[rng.integers(len(keyframes))], box(),
                      int(rng.integers(-1, classes)), int(rng.integers(3))))
    for _ in range(rng.integers(0, 25)):
        shape = truth[rng.integers(len(truth))][1] if truth and rng.random() < 0.5 else box()
        if rng.random() < 0.1:
            shape = (shape[0], shape[1], shape[0] - rng.integers(0, 2) / 8, shape[3])
        where = keyframes[rng.integers(len(keyframes))] if rng.random() < 0.9 else (2, 7)
        found.append((where, shape, int(rng.integers(classes)), float(rng.integers(0, 6)) - 3))
    return truth, found, int(classes), keyframes


@pytest.mark.parametrize("pairs_at_a_time", [2, 2_000_000])
@pytest.mark.parametrize("protocol", ["ava", "act"])
def test_random_cases_agree_with_the_slow_statement_in_bounded_memory(
        protocol, pairs_at_a_time, monkeypatch):
    compared, plain = [], metric.box_iou
    monkeypatch.setattr(metric, "PAIRS", pairs_at_a_time)
    monkeypatch.setattr(metric, "box_iou",
                        lambda a, *rest: compared.append(len(a)) or plain(a, *rest))
    rng = np.random.default_rng(pairs_at_a_time)
    for _ in range(1000):
        truth, found, classes, keyframes = random_case(rng)
        limit, without_gt = int(rng.choice([0, 3])), str(rng.choice(["false", "ignore"]))
        excluded = [keyframe for keyframe in keyframes + [(2, 7)] if rng.random() < 0.15]
        scale = 8 if protocol == "act" else 1                # a frame of 8 x 8 pixels
        annotations, detections = tables(truth, found, classes, (8, 8) if scale == 8 else None)
        result = frame_map(annotations, detections, protocol,
                           excluded=tuple(np.array(excluded, np.int32).reshape(-1, 2).T),
                           max_per_keyframe=limit, keyframes_without_gt=without_gt)
        truth, found = ([(k, tuple(scale * x for x in box), *rest) for k, box, *rest in rows]
                        for rows in (truth, found))
        slow = slow_frame_map(truth, found, protocol, excluded=excluded, limit=limit,
                              without_gt=without_gt)
        for label, entry in enumerate(result["classes"]):
            ap = slow.get(label)
            assert entry["ap"] == (None if ap is None else pytest.approx(ap, abs=1e-12))
        counted = [ap for ap in slow.values() if ap is not None]
        mean = pytest.approx(np.mean(counted), abs=1e-12) if counted else None
        assert result["mean_ap"]["all"] == mean
    assert max(compared) <= 8 or pairs_at_a_time > 2         # at least the people of one keyframe


# ---------------------------------------------------------------- each rule, worked out by hand

LEFT, RIGHT = (0.0, 0.0, 0.4, 0.8), (0.6, 0.0, 1.0, 0.8)
ONE, TWO = (0, 902), (0, 903)                                # keyframes
NOBODY = (0, 0, 0, 0), -1, -1                                # a keyframe is named, and empty


@pytest.mark.parametrize("hits, people, ava, act", [
    # precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3; the last trapezoid is (1/2 + 2/3) / 2 / 3
    ([True, False, True], 3, 1 / 3 + 2 / 9, 1 / 3 + 7 / 36),
    # precision 0, 1/2, 2/3: AVA takes 2/3 for both steps, ACT the trapezoids under the points
    ([False, True, True], 2, 2 / 3, ((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2)])
def test_precision_is_made_non_increasing_for_ava_and_trapezoids_for_act(hits, people, ava, act):
    areas = [average_precision(np.array(hits), people, protocol) for protocol in ("ava", "act")]
    assert areas == pytest.approx([ava, act], abs=1e-15)


LEAN, MIDDLE, TURN = (0, 0, 0.5, 0.5), (0.125, 0, 0.625, 0.5), (0.25, 0, 0.75, 0.5)
FLAT, INSIDE_OUT = (0.2, 0.2, 0.2, 0.4), (0.9, 0.2, 0.6, 0.4)
IGNORE = {"keyframes_without_gt": "ignore"}
# two a keyframe: the 3.0 comes late and pushes out, of the two with 1.0, that of the smaller id
CROWDED = ([(ONE, LEFT, 0, 0), (ONE, LEFT, 1, 0), (ONE, RIGHT, 1, 1)],
           [(ONE, LEFT, 1, 1), (ONE, LEFT, 0, 1), (ONE, RIGHT, 1, 3), (ONE, RIGHT, 0, 1)])


@pytest.mark.parametrize("people, boxes, options, ava, act", [
    # a second box on a person is false for AVA and takes the next one for ACT
    ([(ONE, LEAN, 0, 0), (ONE, MIDDLE, 0, 1)], [(ONE, LEAN, 0, 2), (ONE, LEAN, 0, 1)], {}, [0.5],
     [1]),
    # 0..9 x 0..9 pixels and 0..4 x 0..9: 36 / 81 without the border pixels, 50 / 100 with them
    ([(ONE, (0, 0, 0.9, 0.9), 0, 0)], [(ONE, (0, 0, 0.4, 0.9), 0, 1)], {}, [0], [1]),
    # MIDDLE overlaps both by the same: AVA takes the higher person id; is LEAN free afterwards?
    ([(ONE, LEAN, 0, 3), (ONE, TURN, 0, 7)], [(ONE, MIDDLE, 0, 2), (ONE, LEAN, 0, 1)], {}, [1],
     [0.5]),
    ([(ONE, LEAN, 0, 7), (ONE, TURN, 0, 3)], [(ONE, MIDDLE, 0, 2), (ONE, LEAN, 0, 1)], {}, [0.5],
     [0.5]),
    # degenerate detections vanish for AVA and are false for ACT; a person without area is missed
    ([(ONE, LEFT, 0, 0)], [(ONE, FLAT, 0, 9), (ONE, INSIDE_OUT, 0, 8), (ONE, LEFT, 0, 1)], {}, [1],
     [(0 + 1 / 3) / 2]),
    ([(ONE, FLAT, 0, 0), (ONE, LEFT, 0, 1)], [(ONE, LEFT, 0, 1)], {}, [0.5], [0.5]),
    # keyframes without ground truth are false or ignored, but not those that are named and empty
    ([(ONE, LEFT, 0, 0)], [(TWO, LEFT, 0, 2), (ONE, LEFT, 0, 1)], {}, [0.5], [0.25]),
    ([(ONE, LEFT, 0, 0)], [(TWO, LEFT, 0, 2), (ONE, LEFT, 0, 1)], IGNORE, [1], [1]),
    ([(ONE, LEFT, 0, 0), (TWO, *NOBODY)], [(TWO, LEFT, 0, 2), (ONE, LEFT, 0, 1)], IGNORE, [0.5],
     [0.25]),
    # the limit keeps the best of all classes and drops the smallest of equal rows
    (*CROWDED, {}, [1, 1], [1, 1]), (*CROWDED, {"max_per_keyframe": 2}, [0, 1], [0, 1]),
    # equal scores keep the order of their rows
    ([(ONE, LEFT, 0, 0)], [(ONE, LEFT, 0, 1), (ONE, RIGHT, 0, 1)], {}, [1], [1]),
    ([(ONE, LEFT, 0, 0)], [(ONE, RIGHT, 0, 1), (ONE, LEFT, 0, 1)], {}, [0.5], [0.25]),
    # a class without predictions counts zero, and one without people does not count
    ([(ONE, LEFT, 0, 0), (ONE, LEFT, 1, 0)], [(ONE, LEFT, 0, 1), (ONE, LEFT, 2, 9)], {},
     [1, 0, None], [1, 0, None]),
    ([], [(ONE, LEFT, 0, 1)], {}, [None], [None])])
def test_each_rule_by_hand(people, boxes, options, ava, act):
    for protocol, aps in (("ava", ava), ("act", act)):
        size = (10, 10) if protocol == "act" else None       # whole pixels
        truth, found = tables(people, boxes, len(aps), size)
        result = frame_map(truth, found, protocol, **options)
        assert [entry["ap"] for entry in result["classes"]] == aps, protocol
        assert result["mean_ap"]["all"] == metric.mean_of(aps)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("protocol, person, box, ap", [
    ("ava", (0.0, 0.0, 0.4, 0.4), (0.0, 0.0, 0.2, 0.4), 1),  # half of a box ...
    ("ava", (0.1, 0.1, 0.5, 0.5), (0.1, 0.1, 0.3, 0.5), 0),  # ... but 0.3 - 0.1 < 0.2 in float64
    # 3 of 7 pixels and the like have no exact float32: (2 + 1) / (5 + 1)
    ("act", (0, 0, 5 / 7, 6 / 7), (0, 0, 2 / 7, 6 / 7), 1)])
def test_exact_halves_fall_as_in_float64_whatever_boxes_are_kept_in(
        protocol, person, box, ap, dtype):
    size = (7, 7) if protocol == "act" else None
    truth, found = tables([(ONE, person, 0, 0)], [(ONE, box, 0, 1.0)], 1, size)
    truth.box, found.box = truth.box.astype(dtype), found.box.astype(dtype)
    assert (slow_iou(person, box, 0) >= 0.5) == ap or protocol == "act"
    assert frame_map(truth, found, protocol)["mean_ap"]["all"] == ap


def test_what_was_counted_what_was_false_and_what_was_left_out_is_told():
    people = [(ONE, LEFT, 0, 0), (ONE, LEFT, 1, 0), (TWO, *NOBODY), ((1, 5), LEFT, 0, 0)]
    boxes = [(ONE, LEFT, 0, 3), (ONE, RIGHT, 0, 2), (TWO, LEFT, 2, 1), ((1, 7), LEFT, 0, 1),
             ((1, 5), RIGHT, 0, 9)]
    result = frame_map(*tables(people, boxes, 3), excluded=(np.array([1]), np.array([5])))
    # of the two people one does two things, and the other's keyframe is excluded
    assert (result["keyframes"], result["boxes"], result["predictions"]) == (2, 1, 4)
    assert (result["false"], result["false_on_empty_keyframes"]) == (3, 2)
    assert result["left_out"] == {"on excluded keyframes": 1, "degenerate": 0}
    entries = summarise(result, {"class 0", "class 2"})["classes"]
    keys = "ap", "gt", "predictions", "recall", "split"
    assert [tuple(entry[key] for key in keys) for entry in entries] == [
        (1, 1, 3, 1, "novel"), (0, 1, 0, 0, "base"), (None, 0, 1, None, "novel")]
    assert summarise(result, {"class 0", "class 2"})["mean_ap"] == {
        "base": 0.0, "novel": 1.0, "all": 0.5}


def test_what_cannot_be_scored_is_refused():
    truth, found = tables([(ONE, LEFT, 0, 0)], [(ONE, LEFT, 0, 1.0)], 1)
    for score, label, message in ((np.nan, 0, "score nan of detection 0"),
                                  (1.0, 5, "label 5 of detection 0")):
        with pytest.raises(ValueError, match=message):
            frame_map(truth, replace(found, score=np.array([score]), label=np.array([label])))
    with pytest.raises(ValueError, match="no frame sizes; use protocol ava"):
        frame_map(truth, found, "act")
    with pytest.raises(ValueError, match="needs ground truth by frames"):
        video_map(truth, found)


# ---------------------------------------------------------------- boxes alone, and tubes

def test_the_box_report_counts_a_person_once_whatever_the_labels():
    people = [(ONE, LEFT, 0, 0), (ONE, LEFT, 1, 0), (ONE, RIGHT, -1, 1),
              (TWO, (0, 0, 0, 0), -1, -1)]
    boxes = [(ONE, LEFT, 0, 0.9), (TWO, LEFT, 0, 0.8), (ONE, LEFT, 0, 0.7)]
    truth, found = tables(people, boxes, 2)
    assert people_of(truth).tolist() == [0, 2]
    report = box_report(truth, found)
    assert (report["boxes"], report["proposals"]) == (2, 3)
    assert (report["recall"], report["ap"]) == (0.5, 0.5)


def frame_tables(truth, found):
    annotations, detections = tables(truth, found, 3, (100, 100))
    return (replace(annotations, unit="frame", keyframe=annotations.keyframe.astype(np.int32)),
            replace(detections, keyframe=detections.keyframe.astype(np.int32)))


def test_a_tube_of_half_the_frames_covers_half():
    truth = [((0, f), LEFT, 0, 0) for f in range(40)]
    found = [((0, f), LEFT, 0, 1.0) for f in [*range(0, 20, 2), 19]]     # gaps are filled
    ious = {"half": [0.5], "more": [0.51]}
    result = video_map(*frame_tables(truth, found), ious)
    assert result["map"] == {"half": 1.0, "more": 0.0} and result["tubes"] == 1
    assert video_map(*frame_tables(truth, found), ious, min_length=21)["tubes"] == 0


def link(rows, min_length=1):
    """(score, first frame, boxes) of each tube; rows: (frame, box, score)."""
    frame, box, score = (np.array(column) for column in zip(*rows))
    tubes = link_tubes(frame, box, score, pixel=1, min_length=min_length)
    return [(score, min(tube), [tube[f] for f in sorted(tube)]) for score, tube in tubes]


A, B = (0.0, 0.0, 9.0, 9.0), (50.0, 0.0, 59.0, 9.0)          # two people, in pixels


def test_a_tube_ends_after_five_frames_without_a_box():
    assert [len(boxes) for *_, boxes in link([(f, A, 1.0) for f in (0, 1, 6)])] == [7]
    assert [len(boxes) for *_, boxes in link([(f, A, 1.0) for f in (0, 1, 7)])] == [2, 1]


def test_two_people_are_two_tubes_each_with_the_mean_score_of_its_boxes_and_its_gaps_interpolated():
    later = (4.0, 0.0, 13.0, 9.0)                            # person A, two frames on
    tubes = link([(0, A, 1.0), (0, B, 5.0), (2, later, 2.0), (2, B, 7.0)])
    assert tubes == [(6.0, 0, [B, B, B]), (1.5, 0, [A, (2.0, 0.0, 11.0, 9.0), later])]


def test_of_a_frame_the_best_ten_boxes_take_part_after_suppression():
    overlapping = (1.0, 0.0, 10.0, 9.0)                      # 90 of 110 pixels of A
    assert [score for score, *_ in link([(0, A, 1.0), (0, overlapping, 2.0)])] == [2.0]
    crowd = [(0, (20.0 * i, 0.0, 20.0 * i + 9, 9.0), float(i)) for i in range(12)]
    assert [score for score, *_ in link(crowd)] == [float(i) for i in range(11, 1, -1)]


def test_the_tube_of_higher_mean_score_chooses_first_and_takes_the_best_scored_box_near_it():
    near_a, near_both = (-5.0, 0.0, 4.0, 9.0), (4.0, 0.0, 13.0, 9.0)
    other = (8.0, 0.0, 17.0, 9.0)                            # overlaps A by 20 of 180 pixels
    tubes = link([(0, A, 1.0), (0, other, 2.0), (1, near_both, 3.0), (1, near_a, 2.5)])
    # near_both reaches A (60 of 140) and other (60 of 140): the higher tube takes it
    assert tubes == [(2.5, 0, [other, near_both]), (1.75, 0, [A, near_a])]


def test_of_tubes_that_overlap_by_more_than_the_threshold_the_best_stays():
    early, middle, late = {0: A, 1: A}, {1: A, 2: A}, {2: A, 3: A}
    assert tube_iou(early, middle, 1) == 1 / 3 and tube_iou(early, late, 1) == 0
    tubes = [(1.0, early), (2.0, middle), (3.0, late)]
    assert suppress(tubes, lambda a, b: tube_iou(a, b, 1), 0.3) == [(3.0, late), (1.0, early)]
    assert len(suppress(tubes, lambda a, b: tube_iou(a, b, 1), 0.4)) == 3


def test_the_ground_truth_as_predictions_has_video_map_one():
    truth = [((v, f), LEFT if v == 0 else RIGHT, v % 2, 0) for v in range(4) for f in range(20)]
    found = [(keyframe, box, label, 1.0) for keyframe, box, label, _ in truth]
    assert set(video_map(*frame_tables(truth, found))["map"].values()) == {1.0}
    assert set(video_map(*frame_tables(truth, []))["map"].values()) == {0.0}


def test_a_false_tube_of_higher_score_halves_the_area():
    truth = [((0, f), LEFT, 0, 0) for f in range(20)]
    found = [((0, f), *row) for f in range(20) for row in ((LEFT, 0, 1.0), (RIGHT, 0, 2.0))]
    # precision 0 at recall 0, 1/2 at recall 1: the trapezoid is 1/4
    assert video_map(*frame_tables(truth, found), {"any": [0.5]})["map"]["any"] == 0.25
