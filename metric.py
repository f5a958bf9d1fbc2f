"""Frame mAP as the official tools of the benchmarks compute it, and video mAP over linked tubes."""

from dataclasses import dataclass, replace

import numpy as np

from table import Annotations, Detections, box_iou, boxes_of, keyframe_key, official_ids


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
    check_protocol(truth, protocol, keyframes_without_gt)
    check_detections(truth, detections)
    true_key = keyframe_key(truth.video, truth.keyframe)                  # (n,) int64
    found_key = keyframe_key(detections.video, detections.keyframe)       # (m,) int64
    keys, true_place = np.unique(true_key, return_inverse=True)
    found_place = np.minimum(np.searchsorted(keys, found_key), max(len(keys) - 1, 0))
    if len(keys):                                            # place len(keys): not in the ground truth
        found_place[keys[found_place] != found_key] = len(keys)

    # what does not take part: rows over the limit, excluded keyframes, keyframes without ground truth
    keep = np.ones(len(found_key), bool)                     # (m,)
    true_keep = truth.text >= 0                              # (n,)
    left_out, counted_keyframes = {}, len(keys)
    if max_per_keyframe:
        keep = best_of_keyframe(found_key, detections, official_ids(truth), max_per_keyframe)
        left_out["over the limit of a keyframe"] = int((~keep).sum())
    if excluded is not None:
        banned = np.unique(keyframe_key(*map(np.asarray, excluded)))
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
    for label, (name, official_id) in enumerate(zip(truth.texts, official_ids(truth))):
        rows_t = true_rows[true_bounds[label]:true_bounds[label + 1]]
        rows_d = found_rows[found_bounds[label]:found_bounds[label + 1]]
        rows_d = rows_d[np.argsort(-detections.score[rows_d], kind="stable")]     # descending score
        starts = np.zeros(len(keys) + 2, np.int64)           # of each keyframe in rows_t; the last is empty
        np.cumsum(np.bincount(true_place[rows_t], minlength=len(keys) + 1), out=starts[1:])
        pairs = find_pairs(boxes_of(truth, truth.video[rows_t], truth.box[rows_t]), starts,
                       boxes_of(truth, detections.video[rows_d], detections.box[rows_d]),
                       found_place[rows_d], iou, pixel=int(protocol == "act"))
        true = match(*pairs, found_place[rows_d], len(rows_t), remove=protocol == "act")
        entries.append({"id": official_id, "name": name, "split": None,
                        "ap": average_precision(true, len(rows_t), protocol) if len(rows_t) else None,
                        "gt": len(rows_t), "predictions": len(rows_d),
                        "recall": int(true.sum()) / len(rows_t) if len(rows_t) else None})
    person = np.column_stack([true_place[true_rows], truth.box[true_rows]])
    return {"protocol": protocol, "iou": iou, "max_per_keyframe": max_per_keyframe,
            "keyframes_without_gt": keyframes_without_gt, "keyframes": counted_keyframes,
            "boxes": len(np.unique(person, axis=0)), "predictions": len(found_rows), "left_out": left_out,
            "mean_ap": {"base": None, "novel": None, "all": mean_of(entry["ap"] for entry in entries)},
            "classes": entries}


def summarise(result: dict, novel: set[str]) -> dict:
    """The result with every class marked base or novel, and the mean of each side beside that of all."""
    entries = [{**entry, "split": "novel" if entry["name"] in novel else "base"} for entry in result["classes"]]
    mean_ap = {split: mean_of(entry["ap"] for entry in entries if entry["split"] == split)
               for split in ("base", "novel")}
    return {**result, "mean_ap": {**mean_ap, "all": result["mean_ap"]["all"]}, "classes": entries}


def average_precision(true: np.ndarray, n_true: int, protocol: str) -> float:
    """Area under precision over recall. true: (m,) bool by descending score; n_true: people to find.

    In float64; the official ACT script rounds the points to float32, which moves the seventh digit.
    """
    precision = np.cumsum(true) / np.arange(1, len(true) + 1)
    if protocol == "ava":                                    # precision made non-increasing from the right
        heights = np.maximum.accumulate(precision[::-1])[::-1]
    else:                                                    # trapezoid, from precision 1 at recall 0
        heights = (precision + np.concatenate([[1.0], precision[:-1]])) / 2
    return float(heights[true].sum() / n_true)               # every true detection is one step of 1 / n_true


def mean_of(values) -> float | None:
    """The mean of those that are not None; None if there are none."""
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else None


def check_protocol(truth: Annotations, protocol: str, keyframes_without_gt: str) -> None:
    """ValueError if this truth cannot be scored so."""
    if protocol not in ("ava", "act"):
        raise ValueError(f"protocol {protocol!r} is not known; use 'ava' or 'act'")
    if keyframes_without_gt not in ("false", "ignore"):
        raise ValueError(f"keyframes_without_gt {keyframes_without_gt!r}: use 'false' or 'ignore'")
    if protocol == "act" and truth.size is None:
        raise ValueError("protocol act measures in pixels, but the ground truth has no frame sizes; "
                         "use protocol ava")


def check_detections(truth: Annotations, detections: Detections) -> None:
    """Refuse what would give a number without meaning."""
    m = len(detections.video)
    for name in ("keyframe", "box", "label", "score"):
        if getattr(detections, name).shape != ((m, 4) if name == "box" else (m,)):
            raise ValueError(f"detections.{name} has shape {getattr(detections, name).shape}, "
                             f"detections.video ({m},)")
    if m and not np.isfinite(detections.score).all():
        row = int(np.flatnonzero(~np.isfinite(detections.score))[0])
        raise ValueError(f"score {detections.score[row]} of detection {row} is not a finite number")
    if m and not 0 <= detections.label.min() <= detections.label.max() < len(truth.texts):
        raise ValueError(f"labels {detections.label.min()}..{detections.label.max()} are not places in the "
                         f"{len(truth.texts)} classes")


def best_of_keyframe(key: np.ndarray, detections: Detections, ids: list[int], limit: int) -> np.ndarray:
    """(m,) bool, the official script's choice of at most `limit` rows of a keyframe over all classes.

    It reads the file into a heap: a later row gets in if it scores strictly higher than the lowest one
    kept, and pushes out, of equal lowest scores, the one with the smallest (id, y1, x1, y2, x2). So with s
    the limit-th best score, the first `limit` rows that score s or more get in, in the order of the file,
    and each later one above s pushes out one that scores s.
    """
    keep = np.ones(len(key), bool)
    rows = np.lexsort((-detections.score, key))              # by keyframe, then descending score
    start, length = runs(key[rows])
    start, length = start[length > limit], length[length > limit]
    lowest = np.repeat(detections.score[rows[start + limit - 1]], length)    # s of each row's keyframe
    rows = rows[np.repeat(start, length) + count_up(length)]
    keep[rows[detections.score[rows] < lowest]] = False
    candidates = detections.score[rows] >= lowest
    rows, lowest = rows[candidates], lowest[candidates]

    order = np.lexsort((rows, key[rows]))                    # by keyframe, then the order of the file
    rows, lowest = rows[order], lowest[order]
    start, length = runs(key[rows])
    tied, late = detections.score[rows] == lowest, count_up(length) >= limit
    keep[rows[tied & late]] = False
    pushes = np.add.reduceat(~tied & late, start) if len(start) else start               # of each keyframe
    group = np.repeat(np.arange(len(start)), length)[tied & ~late]
    rows = rows[tied & ~late]
    x1, y1, x2, y2 = detections.box[rows].T
    order = np.lexsort((x2, y2, x1, y1, np.asarray(ids)[detections.label[rows]], group))
    _, length = runs(group)
    keep[rows[order[count_up(length) < pushes[group]]]] = False
    return keep


def runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and length of each run of equal values."""
    new = np.ones(len(values), bool)
    new[1:] = values[1:] != values[:-1]
    start = np.flatnonzero(new)
    return start, np.diff(np.append(start, len(values)))


def count_up(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... lengths[0]-1, 0, 1, ... lengths[1]-1, ..."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def find_pairs(true_box, starts, found_box, place, iou, pixel) -> tuple[np.ndarray, np.ndarray]:
    """(detection, ground truth) places of all pairs in one keyframe with IoU at or above the threshold.

    starts: of each keyframe in true_box. Pairs come by detection, the highest IoU first, of equals the first.
    """
    n = starts[place + 1] - starts[place]                    # ground truth of each detection's keyframe
    found = np.repeat(np.arange(len(place)), n)
    true = np.repeat(starts[place], n) + count_up(n)
    overlap = box_iou(found_box[found], true_box[true], pixel)
    enough = overlap >= iou
    found, true, overlap = found[enough], true[enough], overlap[enough]
    order = np.lexsort((-overlap, found))
    return found[order], true[order]


def match(found, true, place, n_true, remove) -> np.ndarray:
    """(m,) bool: which detections are true. found, true: of each pair; place: (m,) keyframe of a detection.

    AVA: a detection asks for the box with the highest IoU, whether it is free or not; the first to
    ask gets it. ACT (remove): it asks for the highest among those still free.
    """
    hit = np.zeros(len(place), bool)
    if not remove:
        first = runs(found)[0]
        _, winner = np.unique(true[first], return_index=True)
        hit[found[first][winner]] = True
        return hit
    # keyframes do not disturb each other: the k-th detection of every keyframe is matched at once
    asking = found[runs(found)[0]]
    order = np.argsort(place[asking], kind="stable")
    turn = np.zeros(len(place), np.int64)
    turn[asking[order]] = count_up(runs(place[asking][order])[1])
    order = np.argsort(turn[found], kind="stable")
    found, true = found[order], true[order]
    free = np.ones(n_true, bool)
    for start, length in zip(*runs(turn[found])):
        part = slice(start, start + length)
        still = free[true[part]]
        f, t = found[part][still], true[part][still]
        first = runs(f)[0]
        hit[f[first]], free[t[first]] = True, False
    return hit


# ---------------------------------------------------------------- boxes alone

def box_report(truth: Annotations, proposals, protocol: str = "ava", iou: float = 0.5) -> dict:
    """How well boxes find people, whatever these do: recall at the IoU, and AP by the boxes' own scores.

    proposals: anything with video, keyframe, box and score, as Detections. Every annotated
    person counts once: one with three labels is one box, one without a label is a box like the others.
    """
    real = np.flatnonzero(truth.box.any(axis=1))             # rows without a box only name their keyframe
    rows = np.column_stack([truth.video, truth.keyframe, truth.box])[real]
    people = truth.select(np.sort(real[np.unique(rows, axis=0, return_index=True)[1]]))
    people = replace(people, texts=["person"], ids=None, person=None, text=np.zeros(len(people), np.int32))
    found = Detections(proposals.video, proposals.keyframe, proposals.box,
                       proposals.score, np.zeros(len(proposals.video), np.int32))
    entry = frame_map(people, found, protocol, iou)["classes"][0]
    return {"protocol": protocol, "iou": iou, "boxes": entry["gt"], "proposals": entry["predictions"],
            "recall": entry["recall"], "ap": entry["ap"]}


def distinct_boxes(truth: Annotations, detections: Detections) -> Detections:
    """Each box of a keyframe once, with the best score of its classes: all that predictions tell of proposals."""
    key = keyframe_key(detections.video, detections.keyframe)
    order = np.lexsort((-detections.score, *detections.box.T, key))
    new = np.ones(len(order), bool)
    new[1:] = key[order][1:] != key[order][:-1]
    new[1:] |= (detections.box[order][1:] != detections.box[order][:-1]).any(axis=1)
    rows = np.sort(order[new])
    return detections.select(rows)


# ---------------------------------------------------------------- video mAP

def video_map(truth: Annotations, detections: Detections, ious: dict[str, list[float]] | None = None,
              min_length: int = 15) -> dict:
    """Video mAP: boxes linked into tubes, a tube true if it covers an annotated one in space and time.

    ious: the thresholds averaged under each name; default 0.2, 0.5 and 0.5:0.95. Linking, matching and
    area are those of ACT and MOC: see `link_tubes`; of tubes of a class in a video that overlap by
    more than 0.3 the best stays; the mean runs over classes that have annotated tubes. IoU of two tubes:
    sum of the IoUs of their boxes over the number of frames in which either is (pixel-inclusive where
    the truth has frame sizes). Ground-truth tubes are the boxes of one person and class in a video.
    """
    check_tubes(truth)
    ious = ious or {"0.2": [0.2], "0.5": [0.5], "0.5:0.95": [0.5 + 0.05 * i for i in range(10)]}
    pixel, classes = int(truth.size is not None), len(truth.texts)

    labelled = np.flatnonzero(truth.text >= 0)
    person = np.column_stack([truth.video, truth.text, truth.person])[labelled]
    _, tube = np.unique(person, axis=0, return_inverse=True)
    group = truth.video[labelled].astype(np.int64) * classes + truth.text[labelled]      # class in a video
    true = Tubes.build(tube.ravel(), truth.keyframe[labelled], group,
                       boxes_of(truth, truth.video[labelled], truth.box[labelled]))
    group = detections.video.astype(np.int64) * classes + detections.label
    box = boxes_of(truth, detections.video, detections.box)
    found, score = link_tubes(group, detections.keyframe, box, detections.score, pixel, min_length)
    keep = suppress(found.group, score, lambda a, b: tube_iou(found, a, found, b, pixel), 0.3)
    order = keep[np.argsort(-score[keep], kind="stable")]

    # pairs of a found and a true tube of one class in one video, as in a frame
    true_order = np.argsort(true.group, kind="stable")
    low, high = (np.searchsorted(true.group[true_order], found.group[order], side)
                 for side in ("left", "right"))
    f = np.repeat(np.arange(len(order)), high - low)
    t = true_order[np.repeat(low, high - low) + count_up(high - low)]
    overlap = tube_iou(found, order[f], true, t, pixel)
    entries = []
    for label, (name, number) in enumerate(zip(truth.texts, official_ids(truth))):
        mine, n_true = found.group[order] % classes == label, int((true.group % classes == label).sum())
        of_class, place_of = mine[f], np.cumsum(mine) - 1
        ap = {}
        for key, thresholds in ious.items():
            aps = []
            for threshold in thresholds:
                rows = np.flatnonzero(of_class & (overlap >= threshold))
                rows = rows[np.lexsort((-overlap[rows], f[rows]))]
                hit = match(place_of[f[rows]], t[rows], found.group[order][mine], len(true.group), remove=True)
                aps.append(average_precision(hit, n_true, "act") if n_true else None)
            ap[key] = mean_of(aps)
        entries.append({"id": number, "name": name, "ap": ap, "gt": n_true, "tubes": int(mine.sum())})
    return {"min_length": min_length, "tubes": len(order), "gt": len(true.group), "classes": entries,
            "map": {key: mean_of(entry["ap"][key] for entry in entries) for key in ious}}


def check_tubes(truth: Annotations) -> None:
    if truth.unit != "frame" or truth.person is None:
        raise ValueError("video mAP needs ground truth by frames, with the boxes of a person linked: "
                         "UCF101-24 or JHMDB-21")


@dataclass
class Tubes:
    """Tubes with a box for every frame from the first to the last, all in one array."""

    group: np.ndarray             # (tubes,) int64: video * classes + label
    first: np.ndarray             # (tubes,) first frame_idx
    start: np.ndarray             # (tubes + 1,) place of the first frame in box
    box: np.ndarray               # (frames of all tubes, 4) float64, nan where a tube has no box

    @staticmethod
    def build(tube, frame, group, box, interpolate: bool = False) -> "Tubes":
        """tube: (n,) number of the tube that each box belongs to, 0 ..; the other arguments: of each box."""
        order = np.lexsort((frame, tube))
        tube, frame, group, box = tube[order], frame[order], group[order], box[order]
        at, length = runs(tube)
        first, frames = frame[at], frame[at + length - 1] - frame[at] + 1
        start = np.concatenate([[0], np.cumsum(frames)])
        place = start[:-1].repeat(length) + frame - first.repeat(length)
        dense = np.full((start[-1], 4), np.nan)
        dense[place] = box
        if interpolate and len(place):                       # every tube has its first and last box
            dense = np.column_stack([np.interp(np.arange(start[-1]), place, side) for side in box.T])
        return Tubes(group[at], first, start, dense)


def tube_iou(a: Tubes, i: np.ndarray, b: Tubes, j: np.ndarray, pixel: int) -> np.ndarray:
    """IoU in space and time of tube i[k] of a with tube j[k] of b: (k,)."""
    n_a, n_b = np.diff(a.start)[i], np.diff(b.start)[j]
    low = np.maximum(a.first[i], b.first[j])
    shared = np.maximum(np.minimum(a.first[i] + n_a, b.first[j] + n_b) - low, 0)
    step, pair = count_up(shared), np.repeat(np.arange(len(i)), shared)
    box_a = a.box[(a.start[i] + low - a.first[i])[pair] + step]
    box_b = b.box[(b.start[j] + low - b.first[j])[pair] + step]
    overlap = np.nan_to_num(box_iou(box_a, box_b, pixel))
    either = counts(a)[i] + counts(b)[j] - np.bincount(pair, ~np.isnan(box_a[:, 0] + box_b[:, 0]), len(i))
    return np.bincount(pair, overlap, len(i)) / either


def counts(tubes: Tubes) -> np.ndarray:
    """Frames with a box of each tube: (tubes,)."""
    boxes = np.concatenate([[0], np.cumsum(~np.isnan(tubes.box[:, 0]))])
    return boxes[tubes.start[1:]] - boxes[tubes.start[:-1]]


def suppress(group, score, overlap, threshold: float, top: int | None = None) -> np.ndarray:
    """Rows that non-maximum suppression keeps within each group, best first, at most `top` a group.

    overlap(i, j): IoU of rows i[k] and j[k]. The k-th best of all groups suppress at once.
    """
    rows = np.lexsort((-score, group))
    start, length = runs(group[rows])
    rank, end = count_up(length), np.repeat(start + length, length)
    alive = np.ones(len(rows), bool)
    for k in range(length.max(initial=1) - 1):
        pivot = start[length > k + 1] + k
        pivot = pivot[alive[pivot]]
        n = end[pivot] - pivot - 1
        pivot, other = np.repeat(pivot, n), np.repeat(pivot + 1, n) + count_up(n)
        pivot, other = pivot[alive[other]], other[alive[other]]
        alive[other[overlap(rows[pivot], rows[other]) > threshold]] = False
    rows, kept = rows[alive], runs(group[rows[alive]])[1]
    return rows if top is None else rows[count_up(kept) < top]


def link_tubes(group, frame, box, score, pixel: int, min_length: int) -> tuple[Tubes, np.ndarray]:
    """Frame detections linked as ACT does: tubes of a class in a video, and their scores (tubes,).

    Of a frame the ten best boxes after suppression at IoU 0.3 take part. Frame by frame each live tube, the
    one with the highest mean score first, takes the best-scored free box with IoU >= 0.2 to its last one;
    boxes left over begin tubes; a tube without a box for more than five frames has ended. Its score is the
    mean of its boxes' (ACT also drops low scores, which a logit has no scale for); gaps are interpolated;
    tubes shorter than min_length frames are dropped. All arguments: of each detection, (m,).
    """
    rows = suppress(group * 2 ** 24 + frame, score, lambda i, j: box_iou(box[i], box[j], pixel), 0.3, top=10)
    rows = rows[np.lexsort((-score[rows], group[rows], frame[rows]))]
    group, frame, box, score = group[rows], frame[rows], box[rows], score[rows]
    tube = np.full(len(rows), -1)                            # of each box
    total, count, last = np.zeros(len(rows)), np.zeros(len(rows), int), np.zeros(len(rows), int)     # of each tube
    live, tubes = np.zeros(0, int), 0                        # tubes that may go on; how many there are
    for start, length in zip(*runs(frame)):                  # all videos and classes go through a frame together
        here = np.arange(start, start + length)
        live = live[frame[start] - frame[last[live]] <= 5]
        live = live[np.lexsort((-total[live] / count[live], group[last[live]]))]
        turn = count_up(runs(group[last[live]])[1])
        low, high = (np.searchsorted(group[here], group[last[live]], side) for side in ("left", "right"))
        for k in range(turn.max(initial=-1) + 1):            # the k-th best tube of every video and class
            mine = np.flatnonzero((turn == k) & (high > low))
            n = high[mine] - low[mine]
            t, d = np.repeat(mine, n), here[np.repeat(low[mine], n) + count_up(n)]
            good = (tube[d] < 0) & (box_iou(box[d], box[last[live[t]]], pixel) >= 0.2)
            t, d = t[good], d[good]
            first = runs(t)[0]                               # boxes come by descending score
            tube[d[first]], last[live[t[first]]] = live[t[first]], d[first]
        matched = here[tube[here] >= 0]
        total[tube[matched]] += score[matched]
        count[tube[matched]] += 1
        new = here[tube[here] < 0]
        born = np.arange(tubes, tubes + len(new))
        tube[new], last[born], total[born], count[born] = born, new, score[new], 1
        live, tubes = np.concatenate([live, born]), tubes + len(new)
    first = frame[np.unique(tube, return_index=True)[1]]     # rows are in the order of frames
    long = frame[last[:tubes]] - first + 1 >= min_length     # (tubes,)
    keep = long[tube]
    return (Tubes.build(tube[keep], frame[keep], group[keep], box[keep], interpolate=True),
            (total[:tubes] / count[:tubes])[long])
