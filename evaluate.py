"""Evaluation: scored boxes against annotated ones, as the official tools of the benchmarks do it.

Enter detections, one row a (box, class) pair, and the ground truth as the one table of data.py.
Leave frame mAP at IoU 0.5 for base, novel and all classes (the paper's Tables 2 to 6), under one of
two protocols: `ava`, the ActivityNet evaluator's (greedy argmax matching, precision envelope), or
`act`, that of ACT and MOC for UCF101-24 and JHMDB-21 (a matched person is removed, pixel-inclusive
IoU, trapezoid area). Beyond the paper: video mAP over linked tubes, and how well the boxes alone
find the people. A saved predictions file of any system is scored without a model:

    python evaluate.py --predictions P.csv --ground-truth ava_val_v2.2.csv --label-map M.pbtxt
    python evaluate.py --predictions P.csv --ground-truth UCF101v2-GT.pkl --protocol ava act

Ranking is by score alone and any real number will do. Equal scores keep the order of their rows
(the official tools sort unstably there, so that their result depends on the machine).
"""

from dataclasses import dataclass

import numpy as np

from data import Annotations


@dataclass
class Detections:
    """What a model says about the keyframes of a ground truth: one row a (box, class) pair, m rows."""

    video: np.ndarray             # (m,) int32, place in the ground truth's `videos`
    keyframe: np.ndarray          # (m,) the ground truth's unit: 0-based frame_idx, or seconds
    box: np.ndarray               # (m, 4) float32 or float64, xyxy in [0, 1]
    label: np.ndarray             # (m,) int32, place in the ground truth's `texts`
    score: np.ndarray             # (m,) float, any real number; a logit keeps more order than a sigmoid


# ---------------------------------------------------------------- frame mAP

def frame_map(truth: Annotations, detections: Detections, protocol: str = "ava", iou: float = 0.5,
              excluded: tuple[np.ndarray, np.ndarray] | None = None, max_per_keyframe: int = 0,
              keyframes_without_gt: str = "false") -> dict:
    """Average precision of each class, and their mean: the results JSON, base and novel not yet divided.

    excluded: (videos, keyframes) as in Detections; these keyframes leave everything, counts too.
    max_per_keyframe: keep a keyframe's best rows over all classes (the official AVA script: 50); 0: all.
    keyframes_without_gt: detections on a keyframe that the ground truth does not name are "false"
    (AVA 2019, ACT), or "ignore"d (AVA 2020). Rows of the ground truth without a text match nothing
    but name their keyframe. A class without ground truth has ap None and does not count in the mean.
    """
    _check(truth, detections, protocol, keyframes_without_gt)
    true_key = _keyframe_key(truth, truth.video, truth.keyframe)                  # (n,) int64
    found_key = _keyframe_key(truth, detections.video, detections.keyframe)       # (m,) int64
    keys, true_place = np.unique(true_key, return_inverse=True)
    found_place = np.minimum(np.searchsorted(keys, found_key), max(len(keys) - 1, 0))
    if len(keys):                                            # place len(keys): not in the ground truth
        found_place[keys[found_place] != found_key] = len(keys)

    # what does not take part: rows over the limit, excluded keyframes, keyframes without ground truth
    keep = np.ones(len(found_key), bool)                     # (m,)
    true_keep = truth.text >= 0                              # (n,)
    left_out, counted_keyframes = {}, len(keys)
    if max_per_keyframe:
        keep = _best_of_keyframe(found_key, detections, _ids(truth), max_per_keyframe)
        left_out["over the limit of a keyframe"] = int((~keep).sum())
    if excluded is not None:
        banned = np.unique(_keyframe_key(truth, *map(np.asarray, excluded)))
        gone = np.isin(found_key, banned)
        left_out["on excluded keyframes"] = int((keep & gone).sum())
        keep &= ~gone
        true_keep &= ~np.isin(true_key, banned)
        counted_keyframes -= int(np.isin(keys, banned).sum())
    if keyframes_without_gt == "ignore":
        gone = found_place == len(keys)
        left_out["on keyframes without ground truth"] = int((keep & gone).sum())
        keep &= ~gone
    if protocol == "ava":
        x1, y1, x2, y2 = detections.box.T
        gone = ~((x1 < x2) & (y1 < y2))
        left_out["degenerate"] = int((keep & gone).sum())
        keep &= ~gone

    # class by class; within a class, rows of the ground truth by keyframe. The official AVA script reads
    # the person id as a score and takes the highest first, which decides between two boxes of equal IoU
    last = -truth.person if protocol == "ava" and truth.person is not None else np.zeros(len(true_place))
    true_rows = np.lexsort((last, true_place, truth.text))
    true_rows = true_rows[true_keep[true_rows]]
    few = np.min_scalar_type(len(truth.texts))               # a sort of one or two bytes is linear in time
    found_rows = np.argsort(detections.label.astype(few), kind="stable")
    found_rows = found_rows[keep[found_rows]]
    classes = np.arange(len(truth.texts) + 1)
    true_bounds = np.searchsorted(truth.text[true_rows], classes)
    found_bounds = np.searchsorted(detections.label[found_rows], classes)

    entries = []
    for label, (name, official_id) in enumerate(zip(truth.texts, _ids(truth))):
        rows_t = true_rows[true_bounds[label]:true_bounds[label + 1]]
        rows_d = found_rows[found_bounds[label]:found_bounds[label + 1]]
        rows_d = rows_d[np.argsort(-detections.score[rows_d], kind="stable")]     # descending score
        starts = np.zeros(len(keys) + 2, np.int64)           # of each keyframe in rows_t; the last is empty
        np.cumsum(np.bincount(true_place[rows_t], minlength=len(keys) + 1), out=starts[1:])
        pairs = _pairs(_boxes(truth, truth.video[rows_t], truth.box[rows_t], protocol), starts,
                       _boxes(truth, detections.video[rows_d], detections.box[rows_d], protocol),
                       found_place[rows_d], iou, pixel=int(protocol == "act"))
        true = _match(*pairs, found_place[rows_d], len(rows_t), remove=protocol == "act")
        entries.append({"id": official_id, "name": name, "split": None,
                        "ap": average_precision(true, len(rows_t), protocol) if len(rows_t) else None,
                        "gt": len(rows_t), "predictions": len(rows_d),
                        "recall": int(true.sum()) / len(rows_t) if len(rows_t) else None})
    person = np.column_stack([true_place[true_rows], truth.box[true_rows]])
    return {"protocol": protocol, "iou": iou, "max_per_keyframe": max_per_keyframe,
            "keyframes_without_gt": keyframes_without_gt, "keyframes": counted_keyframes,
            "boxes": len(np.unique(person, axis=0)), "predictions": len(found_rows), "left_out": left_out,
            "mean_ap": {"base": None, "novel": None, "all": _mean(entry["ap"] for entry in entries)},
            "classes": entries}


def summarise(result: dict, novel: set[str]) -> dict:
    """The result with every class marked base or novel, and the mean of each side beside that of all."""
    entries = [{**entry, "split": "novel" if entry["name"] in novel else "base"} for entry in result["classes"]]
    means = {split: _mean(entry["ap"] for entry in entries if entry["split"] == split) for split in ("base", "novel")}
    return {**result, "mean_ap": {**means, "all": result["mean_ap"]["all"]}, "classes": entries}


def average_precision(true: np.ndarray, n_true: int, protocol: str) -> float:
    """Area under precision over recall. true: (m,) bool by descending score; n_true: people to find."""
    precision = np.cumsum(true) / np.arange(1, len(true) + 1)
    if protocol == "ava":                                    # precision made non-increasing from the right
        heights = np.maximum.accumulate(precision[::-1])[::-1]
    else:                                                    # trapezoid, from precision 1 at recall 0
        heights = (precision + np.concatenate([[1.0], precision[:-1]])) / 2
    return float(heights[true].sum() / n_true)               # every true detection is one step of 1 / n_true


def _mean(values) -> float | None:
    """The mean of those that are not None; None if there are none."""
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else None


def _ids(truth: Annotations) -> list[int]:
    return truth.ids if truth.ids is not None else list(range(1, len(truth.texts) + 1))


def _check(truth: Annotations, detections: Detections, protocol: str, keyframes_without_gt: str) -> None:
    """Refuse what would give a number without meaning."""
    if protocol not in ("ava", "act"):
        raise ValueError(f"protocol {protocol!r} is not known; use 'ava' or 'act'")
    if keyframes_without_gt not in ("false", "ignore"):
        raise ValueError(f"keyframes_without_gt {keyframes_without_gt!r} is not known; use 'false' or 'ignore'")
    if protocol == "act" and truth.size is None:
        raise ValueError("protocol act measures in pixels, but the ground truth has no frame sizes; use protocol ava")
    m = len(detections.video)
    for name in ("keyframe", "box", "label", "score"):
        if getattr(detections, name).shape != ((m, 4) if name == "box" else (m,)):
            raise ValueError(f"detections.{name} has shape {getattr(detections, name).shape}; there are {m} videos")
    if m and not np.isfinite(detections.score).all():
        row = int(np.flatnonzero(~np.isfinite(detections.score))[0])
        raise ValueError(f"score {detections.score[row]} of detection {row} is not a finite number")
    if m and not 0 <= detections.label.min() <= detections.label.max() < len(truth.texts):
        raise ValueError(f"labels {detections.label.min()}..{detections.label.max()} are not places in the "
                         f"{len(truth.texts)} classes")


def _keyframe_key(truth: Annotations, video: np.ndarray, keyframe: np.ndarray) -> np.ndarray:
    """(n,) int64, equal where video and keyframe are equal. Seconds are compared in float32."""
    exact = keyframe.astype(np.int32 if truth.unit == "frame" else np.float32) + 0       # -0.0 becomes 0.0
    return video.astype(np.int64) << 32 | exact.view(np.uint32)


def _exact(box: np.ndarray) -> np.ndarray:
    """float64; a float32 box is brought back to the six decimals it was read from, so that IoU 0.5 stays 0.5."""
    return np.round(box.astype(np.float64), 6) if box.dtype == np.float32 else box.astype(np.float64, copy=False)


def _boxes(truth: Annotations, video: np.ndarray, box: np.ndarray, protocol: str) -> np.ndarray:
    """(n, 4) float64 in the unit the set was annotated in: pixels, to a thousandth, where the sizes are known."""
    if truth.size is None:
        return _exact(box)
    return np.round(_exact(box) * np.tile(truth.size, 2)[video], 3)


def _best_of_keyframe(key: np.ndarray, detections: Detections, ids: list[int], limit: int) -> np.ndarray:
    """(m,) bool, the official script's choice of at most `limit` rows of a keyframe over all classes.

    It reads the file into a heap: a later row gets in if it scores strictly higher than the lowest one
    kept, and pushes out, of equal lowest scores, the one with the smallest (id, y1, x1, y2, x2). So with s
    the limit-th best score, the first `limit` rows that score s or more get in, in the order of the file,
    and each later one above s pushes out one that scores s.
    """
    keep = np.ones(len(key), bool)
    rows = np.lexsort((-detections.score, key))              # by keyframe, then descending score
    start, length = _runs(key[rows])
    start, length = start[length > limit], length[length > limit]
    lowest = np.repeat(detections.score[rows[start + limit - 1]], length)               # s of each row's keyframe
    rows = rows[np.repeat(start, length) + _count_up(length)]
    keep[rows[detections.score[rows] < lowest]] = False
    candidates = detections.score[rows] >= lowest
    rows, lowest = rows[candidates], lowest[candidates]

    order = np.lexsort((rows, key[rows]))                    # by keyframe, then the order of the file
    rows, lowest = rows[order], lowest[order]
    start, length = _runs(key[rows])
    tied, late = detections.score[rows] == lowest, _count_up(length) >= limit
    keep[rows[tied & late]] = False
    pushes = np.add.reduceat(~tied & late, start) if len(start) else start               # of each keyframe
    group = np.repeat(np.arange(len(start)), length)[tied & ~late]
    rows = rows[tied & ~late]
    x1, y1, x2, y2 = detections.box[rows].T
    order = np.lexsort((x2, y2, x1, y1, np.asarray(ids)[detections.label[rows]], group))
    _, length = _runs(group)
    keep[rows[order[_count_up(length) < pushes[group]]]] = False
    return keep


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and length of each run of equal values."""
    start = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])) if len(values) else np.zeros(0, int)
    return start, np.diff(np.append(start, len(values)))


def _count_up(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... lengths[0]-1, 0, 1, ... lengths[1]-1, ..."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def box_iou(a: np.ndarray, b: np.ndarray, pixel: int = 0) -> np.ndarray:
    """IoU of each row of a with the same row of b, (n, 4) float64. pixel 1: x2 and y2 belong to the box.

    The order of the additions is the official tools': another one moves exact halves.
    """
    sides = np.minimum(a[:, 2:], b[:, 2:]) + pixel - np.maximum(a[:, :2], b[:, :2])
    overlap = np.maximum(sides, 0).prod(axis=1)
    area_a, area_b = ((box[:, 2:] - box[:, :2] + pixel).prod(axis=1) for box in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):     # two empty boxes: nan, which matches nothing
        return overlap / (area_a + area_b - overlap)


def _pairs(true_box, starts, found_box, place, iou, pixel) -> tuple[np.ndarray, np.ndarray]:
    """(detection, ground truth) places of all pairs in one keyframe with IoU at or above the threshold.

    starts: of each keyframe in true_box. Pairs come by detection, the highest IoU first, the first of equals first.
    """
    n = starts[place + 1] - starts[place]                    # ground truth of each detection's keyframe
    found = np.repeat(np.arange(len(place)), n)
    true = np.repeat(starts[place], n) + _count_up(n)
    overlap = box_iou(found_box[found], true_box[true], pixel)
    enough = overlap >= iou
    found, true, overlap = found[enough], true[enough], overlap[enough]
    order = np.lexsort((-overlap, found))
    return found[order], true[order]


def _match(found, true, place, n_true, remove) -> np.ndarray:
    """(m,) bool: which detections are true. found, true: the pairs; place: (m,) keyframe of each detection.

    AVA: a detection asks for the box with the highest IoU, whether it is free or not; the first to
    ask gets it. ACT (remove): it asks for the highest among those still free.
    """
    hit = np.zeros(len(place), bool)
    if not remove:
        first = _runs(found)[0]
        _, winner = np.unique(true[first], return_index=True)
        hit[found[first][winner]] = True
        return hit
    # keyframes do not disturb each other: the k-th detection of every keyframe is matched at once
    asking = found[_runs(found)[0]]
    order = np.argsort(place[asking], kind="stable")
    turn = np.zeros(len(place), np.int64)
    turn[asking[order]] = _count_up(_runs(place[asking][order])[1])
    order = np.argsort(turn[found], kind="stable")
    found, true = found[order], true[order]
    free = np.ones(n_true, bool)
    for start, length in zip(*_runs(turn[found])):
        part = slice(start, start + length)
        still = free[true[part]]
        f, t = found[part][still], true[part][still]
        first = _runs(f)[0]
        hit[f[first]], free[t[first]] = True, False
    return hit


# ---------------------------------------------------------------- what it says

def print_table(result: dict) -> None:
    """Protocol, counts and what was left out; each class; the three means. AP in per cent."""
    entries = result["classes"]
    missing = [entry["name"] for entry in entries if not entry["gt"]]
    print(f"frame mAP  protocol {result['protocol']}  iou {result['iou']:g}  "
          f"max-per-keyframe {result['max_per_keyframe'] or 'off'}  "
          f"keyframes-without-gt {result['keyframes_without_gt']}")
    print(f"keyframes {result['keyframes']}  boxes {result['boxes']}  "
          f"ground truth {sum(entry['gt'] for entry in entries)}  predictions {result['predictions']}")
    if result.get("proposals") is not None:
        print(f"proposals {result['proposals']}  score threshold {result.get('threshold')}")
    for reason, count in result["left_out"].items():
        if count:
            print(f"left out: {count} predictions {reason}")
    print(f"classes {len(entries) - len(missing)} of {len(entries)} counted"
          + (f"; without ground truth: {', '.join(missing)}" if missing else ""))
    width = max([len(entry["name"]) for entry in entries] + [5])
    print(f"{'id':>5}  {'class':<{width}}  {'split':<5}  {'AP':>6}  {'gt':>8}  {'predictions':>11}")
    for entry in entries:
        print(f"{entry['id']:>5}  {entry['name']:<{width}}  {entry['split'] or '':<5}  {_percent(entry['ap']):>6}  "
              f"{entry['gt']:>8}  {entry['predictions']:>11}")
    print(_means(result))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _means(result: dict) -> str:
    """`mAP  base 71.63  novel 61.41  all 65.00`, without the sides that were not asked for."""
    shown = [split for split in ("base", "novel") if result["mean_ap"][split] is not None] + ["all"]
    return "mAP  " + "  ".join(f"{split} {_percent(result['mean_ap'][split])}" for split in shown)
