"""Frame mAP as the benchmarks' official tools compute it, and video mAP of linked tubes.

`frame_map` takes the annotated boxes and the scored ones, and returns the average precision of each
class and their mean at IoU 0.5 (the paper's Tables 2 to 6). Two protocols:

    ava   ActivityNet's evaluator: a detection asks for the box of highest IoU, taken or not; the
          precision is made non-increasing before the area is summed
    act   ACT's and MOC's, for UCF101-24 and JHMDB-21: a detection asks for the best of the boxes
          still free; the IoU counts border pixels; the area is that of trapezoids

Only the order of the scores matters, so any real number will do. Equal scores keep the order of
their rows; the official tools sort unstably there, so that their result depends on the machine.
"""

import heapq
from dataclasses import replace

import numpy as np

from table import (Annotations, Detections, box_iou, distinct, in_official_units, keyframe_key,
                   official_ids, people_of)


# ---------------------------------------------------------------- frame mAP

def frame_map(truth: Annotations, detections: Detections, protocol: str = "ava", iou: float = 0.5,
              excluded: tuple[np.ndarray, np.ndarray] | None = None, max_per_keyframe: int = 0,
              keyframes_without_gt: str = "false") -> dict:
    """Average precision of each class and their mean: the results JSON, base and novel undivided.

    truth: a row without a text matches nothing, but names its keyframe.
    excluded: (videos, keyframes), as in Detections; their boxes and detections do not count.
    max_per_keyframe: only so many detections of a keyframe count, the best of all classes together
    (the official AVA script: 50); 0: all.
    keyframes_without_gt: a detection on a keyframe that the truth does not name is "false" (AVA
    2019, ACT) or "ignore"d (AVA 2020).
    A class without ground truth has ap None and does not count in the mean.
    """
    check_protocol(truth, protocol)
    check_detections(truth, detections)
    true_key = keyframe_key(truth.video, truth.keyframe)                  # (n,) int64
    found_key = keyframe_key(detections.video, detections.keyframe)       # (m,) int64
    keys, true_frame, found_frame = number_keyframes(true_key, found_key)

    # what does not count, in the order in which the official tools leave it out
    true_keep, frames = truth.text >= 0, len(keys)
    masks = []
    if max_per_keyframe:
        best = best_of_keyframe(found_key, detections, official_ids(truth), max_per_keyframe)
        masks.append(("over the limit of a keyframe", ~best))
    if excluded is not None:
        banned = keyframe_key(*map(np.asarray, excluded))
        masks.append(("on excluded keyframes", np.isin(found_key, banned)))
        true_keep &= ~np.isin(true_key, banned)
        frames -= int(np.isin(keys, banned).sum())
    if keyframes_without_gt == "ignore":
        masks.append(("on keyframes without ground truth", found_frame == len(keys)))
    if protocol == "ava":
        x1, y1, x2, y2 = detections.box.T
        masks.append(("degenerate", ~((x1 < x2) & (y1 < y2))))
    keep, left_out = np.ones(len(found_key), bool), {}
    for reason, mask in masks:
        left_out[reason] = int((keep & mask).sum())
        keep &= ~mask

    # the truth's rows by keyframe. The official AVA script reads the person id as a score and takes
    # the highest first, which decides between two boxes of equal IoU
    last = np.zeros(len(truth))
    if protocol == "ava" and truth.person is not None:
        last = -truth.person
    true_rows = np.lexsort((last, true_frame))
    true_rows = rows_by_class(truth.text, true_rows[true_keep[true_rows]], len(truth.texts))
    found_rows = rows_by_class(detections.label, np.flatnonzero(keep), len(truth.texts))

    entries, hits, ids = [], 0, official_ids(truth)
    for name, official_id, true, found in zip(truth.texts, ids, true_rows, found_rows):
        found = found[np.argsort(-detections.score[found], kind="stable")]     # descending score
        true_box = in_official_units(truth, truth.video[true], truth.box[true])
        found_box = in_official_units(truth, detections.video[found], detections.box[found])
        pairs = overlapping_pairs(true_box, true_frame[true], found_box, found_frame[found], iou,
                                  pixel=int(protocol == "act"))
        hit = match(pairs, len(true), len(found), remove=protocol == "act")
        hits += int(hit.sum())
        ap = average_precision(hit, len(true), protocol) if len(true) else None
        recall = int(hit.sum()) / len(true) if len(true) else None
        entries.append({"id": official_id, "name": name, "split": None, "ap": ap, "gt": len(true),
                        "predictions": len(found), "recall": recall})
    counted = np.concatenate([*true_rows, np.zeros(0, int)])
    peopled = np.isin(np.arange(len(keys) + 1), true_frame[counted])
    return {"protocol": protocol, "iou": iou, "max_per_keyframe": max_per_keyframe,
            "keyframes_without_gt": keyframes_without_gt, "keyframes": frames,
            "boxes": int(distinct(true_key[counted], truth.box[counted]).sum()),
            "predictions": int(keep.sum()), "left_out": left_out, "false": int(keep.sum()) - hits,
            "false_on_empty_keyframes": int((keep & ~peopled[found_frame]).sum()),
            "mean_ap": {"base": None, "novel": None,
                        "all": mean_of(entry["ap"] for entry in entries)},
            "classes": entries}


def summarise(result: dict, novel: set[str]) -> dict:
    """The result with every class marked base or novel, and the mean of each side."""
    entries = [entry | {"split": "novel" if entry["name"] in novel else "base"}
               for entry in result["classes"]]
    mean_ap = {side: mean_of(entry["ap"] for entry in entries if entry["split"] == side)
               for side in ("base", "novel")}
    return result | {"mean_ap": mean_ap | {"all": result["mean_ap"]["all"]}, "classes": entries}


def average_precision(hit: np.ndarray, people: int, protocol: str) -> float:
    """Area under precision over recall. hit: (m,) bool by descending score; people: to be found.

    In float64; the official ACT script rounds the points to float32, which moves the seventh digit.
    """
    precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    if protocol == "ava":                                    # made non-increasing from the right
        heights = np.maximum.accumulate(precision[::-1])[::-1]
    else:                                                    # trapezoids, from 1 at recall 0
        heights = (precision + np.concatenate([[1.0], precision[:-1]])) / 2
    return float(heights[hit].sum() / people)                # every hit is a step of 1 / people


def mean_of(values) -> float | None:
    """The mean of those that are not None; None if there are none."""
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else None


def check_protocol(truth: Annotations, protocol: str) -> None:
    if protocol == "act" and truth.size is None:
        raise ValueError("protocol act measures in pixels, but the ground truth has no frame "
                         "sizes; use protocol ava")


def check_detections(truth: Annotations, detections: Detections) -> None:
    """ValueError where a score is no number, or a label is no class."""
    score, label = detections.score, detections.label
    for row in np.flatnonzero(~np.isfinite(score))[:1]:
        raise ValueError(f"score {score[row]} of detection {row} is not a finite number")
    for row in np.flatnonzero((label < 0) | (label >= len(truth.texts)))[:1]:
        raise ValueError(f"label {label[row]} of detection {row} is not one of the "
                         f"{len(truth.texts)} classes")


def number_keyframes(true_key: np.ndarray, found_key: np.ndarray):
    """The truth's distinct keys, and for each of its rows and each detection the index of its key.

    For a detection whose key is not among them the index is their number.
    """
    keys, true_frame = np.unique(true_key, return_inverse=True)
    found_frame = np.searchsorted(keys, found_key)
    found_frame[np.append(keys, -1)[found_frame] != found_key] = len(keys)
    return keys, true_frame, found_frame


def best_of_keyframe(key: np.ndarray, detections: Detections, ids: list[int],
                     limit: int) -> np.ndarray:
    """(m,) bool: the official AVA script's choice of `limit` rows of a keyframe over all classes.

    A later row gets in if it scores strictly higher than the lowest one kept, and pushes out, of
    equal lowest scores, the one with the smallest (id, y1, x1, y2, x2).
    """
    kept: dict[int, list] = {}
    x1, y1, x2, y2 = detections.box.T
    ids = np.asarray(ids)[detections.label]
    columns = (detections.score, ids, y1, x1, y2, x2, np.arange(len(key)))
    for k, row in zip(key.tolist(), zip(*(column.tolist() for column in columns))):
        heap = kept.setdefault(k, [])
        if len(heap) < limit:
            heapq.heappush(heap, row)
        elif row[0] > heap[0][0]:
            heapq.heapreplace(heap, row)
    keep = np.zeros(len(key), bool)
    keep[[row[-1] for heap in kept.values() for row in heap]] = True
    return keep


def rows_by_class(label: np.ndarray, rows: np.ndarray, classes: int) -> list[np.ndarray]:
    """The given rows of each class, in the order in which they are given."""
    label = label[rows].astype(np.min_scalar_type(classes))  # small types are sorted in linear time
    rows = rows[np.argsort(label, kind="stable")]
    return np.split(rows, np.cumsum(np.bincount(label, minlength=classes))[:-1])


PAIRS = 2_000_000                 # pairs of boxes that are compared at a time: bounds the memory


def overlapping_pairs(true_box, true_frame, found_box, found_frame, iou, pixel):
    """Yields indices (detection, true box) of all pairs in one keyframe whose IoU is enough.

    true_frame: ascending. The pairs come in pieces, two arrays each, ordered by detection; those of
    a detection begin with the highest IoU, of equals the first.
    """
    starts = np.searchsorted(true_frame, np.arange(found_frame.max(initial=0) + 2))
    first, count = starts[found_frame], starts[found_frame + 1] - starts[found_frame]
    ends = np.cumsum(count)
    done = 0
    while done < len(count):
        stop = max(int(np.searchsorted(ends, ends[done] - count[done] + PAIRS, "right")), done + 1)
        n = count[done:stop]
        f = np.repeat(np.arange(done, stop), n)
        t = np.arange(len(f)) - np.repeat(np.cumsum(n) - n - first[done:stop], n)
        overlap = box_iou(found_box[f], true_box[t], pixel)
        enough = np.flatnonzero(overlap >= iou)
        enough = enough[np.lexsort((-overlap[enough], f[enough]))]
        yield f[enough], t[enough]
        done = stop


def match(pairs, people: int, detections: int, remove: bool) -> np.ndarray:
    """(detections,) bool: which detections find somebody, from the pieces of `overlapping_pairs`.

    The detection of highest score asks first. AVA: it asks for the person of highest IoU, and is
    false if that one has been found. ACT (remove): it asks for the best of those who have not.
    """
    hit, free = np.zeros(detections, bool), [True] * people
    answered = -1                                            # the detection that asks no more
    for found, true in pairs:
        for f, t in zip(found.tolist(), true.tolist()):
            if f != answered and (free[t] or not remove):
                hit[f], free[t], answered = free[t], False, f
    return hit


# ---------------------------------------------------------------- boxes alone

def box_report(truth: Annotations, proposals: Detections, protocol: str = "ava",
               iou: float = 0.5) -> dict:
    """How well boxes find people, whatever these do: recall, and AP by the boxes' own scores.

    Every annotated person counts once, whether labelled or not.
    """
    people = truth.select(people_of(truth))
    people = replace(people, texts=["person"], ids=None, person=None,
                     text=np.zeros(len(people), np.int32))
    found = replace(proposals, label=np.zeros(len(proposals), np.int32))
    entry = frame_map(people, found, protocol, iou)["classes"][0]
    return {"protocol": protocol, "iou": iou, "boxes": entry["gt"],
            "proposals": entry["predictions"], "recall": entry["recall"], "ap": entry["ap"]}


# ---------------------------------------------------------------- video mAP

def video_map(truth: Annotations, detections: Detections,
              ious: dict[str, list[float]] | None = None, min_length: int = 15) -> dict:
    """Video mAP: detections are linked into tubes; one is true if it covers an annotated tube.

    ious: the thresholds averaged under each name; default 0.2, 0.5 and 0.5:0.95. Linking, matching
    and area are ACT's and MOC's (`link_tubes`); of tubes of one class that overlap by more than 0.3
    in a video the best stays; the mean runs over the classes that have annotated tubes. A tube is a
    dict {frame: box}, an annotated one the boxes of one person and class in a video.
    """
    check_tubes(truth)
    ious = ious or {"0.2": [0.2], "0.5": [0.5], "0.5:0.95": [0.5 + 0.05 * i for i in range(10)]}
    pixel = int(truth.size is not None)
    tubes_of: list[dict] = [{} for _ in truth.texts]         # of a class: (video, person) -> tube
    labelled = truth.select(truth.text >= 0)
    columns = (labelled.video, labelled.text, labelled.person, labelled.keyframe.astype(int),
               in_official_units(truth, labelled.video, labelled.box))
    for video, label, person, frame, box in zip(*(column.tolist() for column in columns)):
        tubes_of[label].setdefault((video, person), {})[frame] = box

    entries = []
    by_class = rows_by_class(detections.label, np.argsort(detections.video, kind="stable"),
                             len(truth.texts))
    for name, official_id, true, rows in zip(truth.texts, official_ids(truth), tubes_of, by_class):
        found = []                                           # (score, [(IoU, index of true tube)])
        videos, first = np.unique(detections.video[rows], return_index=True)
        for video, part in zip(videos.tolist(), np.split(rows, first[1:])):
            boxes = in_official_units(truth, detections.video[part], detections.box[part])
            tubes = link_tubes(detections.keyframe[part], boxes, detections.score[part], pixel,
                               min_length)
            for score, tube in suppress(tubes, lambda a, b: tube_iou(a, b, pixel), 0.3):
                overlaps = [(tube_iou(tube, other, pixel), i)
                            for i, ((v, _), other) in enumerate(true.items()) if v == video]
                found.append((score, sorted(overlaps, key=lambda pair: -pair[0])))
        found.sort(key=lambda row: -row[0])
        ap = {}
        for key, thresholds in ious.items():
            aps = []
            for threshold in thresholds:
                pairs = [(f, t) for f, (_, overlaps) in enumerate(found)
                         for overlap, t in overlaps if overlap >= threshold]
                hit = match([np.array(pairs, int).reshape(-1, 2).T], len(true), len(found),
                            remove=True)
                aps.append(average_precision(hit, len(true), "act") if true else None)
            ap[key] = mean_of(aps)
        entries.append({"id": official_id, "name": name, "ap": ap, "gt": len(true),
                        "tubes": len(found)})
    return {"min_length": min_length, "tubes": sum(entry["tubes"] for entry in entries),
            "gt": sum(entry["gt"] for entry in entries), "classes": entries,
            "map": {key: mean_of(entry["ap"][key] for entry in entries) for key in ious}}


def check_tubes(truth: Annotations) -> None:
    if (truth.unit != "frame").any() or truth.person is None:
        raise ValueError("video mAP needs ground truth by frames, with the boxes of a person "
                         "linked: UCF101-24 or JHMDB-21")


def link_tubes(frame: np.ndarray, box: np.ndarray, score: np.ndarray, pixel: int,
               min_length: int) -> list[tuple[float, dict]]:
    """The detections (n,) of one class in one video, linked as ACT does: each tube's (score, tube).

    Of a frame the ten best boxes after suppression at IoU 0.3 take part. Frame by frame each live
    tube, the one of highest mean score first, takes the best-scored free box with IoU >= 0.2 to its
    last one; boxes left over begin tubes; a tube without a box for more than five frames has ended.
    A tube's score is the mean of its boxes' (ACT also drops low scores, for which a logit has no
    scale); its gaps are interpolated; it is dropped if it is shorter than min_length frames.
    """
    by_frame: dict[int, list] = {}
    for f, b, s in zip(frame.astype(int).tolist(), box.tolist(), score.tolist()):
        by_frame.setdefault(f, []).append((s, b))
    tubes, live = [], []                                     # a tube: boxes by frame, and scores
    for f in sorted(by_frame):
        free = suppress(by_frame[f], lambda a, b: iou_of(a, b, pixel), 0.3)[:10]
        live = [tube for tube in live if f - next(reversed(tube[0])) <= 5]
        live.sort(key=lambda tube: -sum(tube[1]) / len(tube[1]))
        for boxes, scores in live:
            last = boxes[next(reversed(boxes))]
            near = next((row for row in free if iou_of(row[1], last, pixel) >= 0.2), None)
            if near is not None:
                free.remove(near)
                boxes[f] = near[1]
                scores.append(near[0])
        new = [({f: b}, [s]) for s, b in free]
        tubes, live = tubes + new, live + new
    return [(sum(scores) / len(scores), fill_gaps(boxes)) for boxes, scores in tubes
            if max(boxes) - min(boxes) + 1 >= min_length]


def fill_gaps(tube: dict) -> dict:
    """The tube with a box for each frame from its first to its last, interpolated where absent."""
    known = sorted(tube)
    frames = range(known[0], known[-1] + 1)
    sides = [np.interp(frames, known, side).tolist() for side in zip(*(tube[f] for f in known))]
    return dict(zip(frames, zip(*sides)))


def suppress(rows: list[tuple], overlap, threshold: float) -> list[tuple]:
    """Non-maximum suppression of rows (score, box or tube): the best of overlapping ones stay."""
    kept = []
    for row in sorted(rows, key=lambda row: -row[0]):
        if all(overlap(row[1], other[1]) <= threshold for other in kept):
            kept.append(row)
    return kept


def tube_iou(a: dict, b: dict, pixel: int) -> float:
    """Sum of the IoUs of two tubes' boxes, over the number of frames in which either has one."""
    shared = [f for f in a if f in b]
    return sum(iou_of(a[f], b[f], pixel) for f in shared) / (len(a) + len(b) - len(shared))


def iou_of(a, b, pixel: int) -> float:
    """`box_iou` of two boxes: an array of one row takes many times as long."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a, b
    w = min(ax2, bx2) + pixel - max(ax1, bx1)
    h = min(ay2, by2) + pixel - max(ay1, by1)
    if w <= 0 or h <= 0:
        return 0.0
    areas = (ax2 - ax1 + pixel) * (ay2 - ay1 + pixel) + (bx2 - bx1 + pixel) * (by2 - by1 + pixel)
    return w * h / (areas - w * h)
