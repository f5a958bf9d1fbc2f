"""The metrics against hand-worked cases and against slow, plain statements of the same rules."""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data import Annotations  # noqa: E402
from evaluate import Detections, frame_map, summarise  # noqa: E402

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"


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
        np.array(columns[2], np.int32), np.array(columns[3], float))


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
