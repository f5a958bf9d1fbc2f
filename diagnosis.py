"""A result in words: its table, and why its mAP may be low.

`diagnose` compares detections with the truth, from names to labels, and says what does not fit
(`evaluate.py --why`, and any result under 1 %). `check_names` refuses detections that meet nothing
of the ground truth, and warns of those that mostly do not.
"""

import sys
from dataclasses import replace

import numpy as np

from metric import box_report, frame_map, mean_of, number_keyframes, overlapping_pairs
from table import Annotations, Detections, box_iou, distinct, keyframe_key, people_of

# ---------------------------------------------------------------- the table

def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def means(mean_ap: dict) -> str:
    """`base 71.63  novel 61.41  all 65.00`, without the sides that were not asked for."""
    return "  ".join(f"{side} {percent(ap)}" for side, ap in mean_ap.items()
                     if ap is not None or side == "all")


def print_table(result: dict) -> None:
    """Prints protocol, counts, what was left out, each class and the means. AP in per cent."""
    entries = result["classes"]
    missing = [entry["name"] for entry in entries if not entry["gt"]]
    print(f"frame mAP  protocol {result['protocol']}  iou {result['iou']:g}  "
          f"max-per-keyframe {result['max_per_keyframe'] or 'off'}  "
          f"keyframes-without-gt {result['keyframes_without_gt']}\n"
          f"keyframes {result['keyframes']}  boxes {result['boxes']}  ground truth "
          f"{sum(entry['gt'] for entry in entries)}  predictions {result['predictions']}")
    if "proposals" in result:
        least = result["min_score"]
        print(f"proposals {result['proposals']}"
              + ("" if least is None else f"  of score {least:g} or more"))
    for reason, count in result["left_out"].items():
        if count:
            print(f"left out: {count} predictions {reason}")
    if result["false_on_empty_keyframes"]:
        print(f"false detections {result['false']}, of which {result['false_on_empty_keyframes']} "
              "on keyframes without annotated people")
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    print(f"classes {len(entries) - len(missing)} of {len(entries)} counted"
          + (f"; without ground truth: {', '.join(missing[:5])}{more}" if missing else ""))
    width = max([len(entry["name"]) for entry in entries] + [5])
    rows = [(entry["id"], entry["name"], entry["split"] or "", percent(entry["ap"]), entry["gt"],
             entry["predictions"]) for entry in entries]
    for row in [("id", "class", "split", "AP", "gt", "predictions"), *rows]:
        print("{:>5}  {:<{width}}  {:<5}  {:>6}  {:>8}  {:>11}".format(*row, width=width))
    print("mAP  " + means(result["mean_ap"]))


def mean_and_spread(results: list[dict]) -> dict:
    """Mean and standard deviation of the three means over several splits, seeds or checkpoints."""
    mean, spread = {}, {}
    for side in ("base", "novel", "all"):
        aps = [result["mean_ap"][side] for result in results]
        whole = None not in aps
        mean[side] = mean_of(aps) if whole else None
        spread[side] = float(np.std(aps, ddof=1)) if whole else None
    return {"protocol": results[0]["protocol"], "iou": results[0]["iou"], "mean_of": len(results),
            "mean_ap": mean, "spread": spread}


# ---------------------------------------------------------------- what does not fit

FEW = 0.1             # our judgement: a larger share of detections beside the truth is a fault


def check_names(path, truth: Annotations, found: Detections) -> None:
    """ValueError if no detection is on a keyframe of the truth; notes of what is odd on stderr."""
    beside = ~on_keyframes(truth, found)
    reason = "; ".join(names_and_times(truth, found))
    if beside.all():
        raise ValueError(f"{path}: none of its {len(found)} detections is on a keyframe of the "
                         f"ground truth: {reason}")
    if beside.mean() > FEW:
        print(f"{path}: {beside.sum()} of {len(found)} detections are on keyframes that the ground "
              f"truth does not name: {reason}", file=sys.stderr)
    labelled = truth.select(truth.text >= 0)
    without = np.setdiff1d(labelled.video, found.video)
    if len(without):
        print(f"{path}: {len(without)} of {len(np.unique(labelled.video))} videos with people have "
              f"no detection, such as {truth.videos[without[0]]}", file=sys.stderr)
    key, found_key = (keyframe_key(rows.video, rows.keyframe) for rows in (labelled, found))
    keys = np.unique(key)
    if (lack := ~np.isin(keys, found_key)).mean() > FEW:
        print(f"{path}: {lack.sum()} of {len(keys)} keyframes with people have no detection",
              file=sys.stderr)
    for what, columns in (
            ("boxes of the ground truth", (key, labelled.text, *labelled.box.T)),
            ("detections", (found_key, found.label, found.score, *found.box.T))):
        if again := repeats(columns):                        # the official tools count them, too
            print(f"{path}: {again} {what} are there twice, with the same class, and count each "
                  "time", file=sys.stderr)
    score, count = np.unique(found.score, return_counts=True)
    if 1 < len(found) < 2 * count.max():
        print(f"{path}: {count.max()} of {len(found)} scores are {score[count.argmax()]:g}: "
              "between these the order of the rows decides", file=sys.stderr)


def repeats(columns: tuple) -> int:
    """How many of n rows repeat another one in all columns (n,); fast for millions of rows."""
    row = np.zeros(len(columns[0]), np.int64)                # a hash of each, which may overflow
    for column in columns:
        row = row * 6364136223846793005 + column.astype(np.float64).view(np.int64)
    row.sort()
    return int((row[1:] == row[:-1]).sum())


def on_keyframes(truth: Annotations, found: Detections) -> np.ndarray:
    """(m,) bool: whether a detection's keyframe is one that the truth names."""
    return np.isin(*(keyframe_key(rows.video, rows.keyframe) for rows in (found, truth)))


def names_and_times(truth: Annotations, found: Detections) -> list[str]:
    """What is unlike in the names of videos and the times of keyframes, if anything is."""
    lines = []
    strangers = np.setdiff1d(found.video, truth.video)
    if len(strangers):
        share = np.isin(found.video, strangers).mean()
        yours, theirs = (", ".join(truth.videos[v] for v in videos[:3])
                         for videos in (strangers, np.unique(truth.video)))
        lines.append(f"{share:.0%} are on {len(strangers)} videos that the truth does not know "
                     f"(yours: {yours}; the truth's: {theirs})")
    apart = ~on_keyframes(truth, found) & ~np.isin(found.video, strangers)
    if apart.any():
        key, named = (keyframe_key(rows.video, rows.keyframe)
                      for rows in (found.select(apart), truth))
        after = np.searchsorted(named, key).clip(max=len(named) - 1)
        before, after = named[np.maximum(after - 1, 0)], named[after]
        nearest = np.where(abs(after - key) < abs(before - key), after, before)
        off = (key - nearest) / 1000                         # keys count thousandths
        unit = "frames" if truth.unit[found.video[apart][0]] == "frame" else "s"
        if found.keyframe[apart].min() > 4 * max(truth.keyframe.max(), 1):
            how = "they are far greater than the truth's: frame numbers, where it counts seconds?"
        elif np.ptp(off) < 0.002:
            how = f"each is off by {off[0]:g} {unit} from an annotated one"
        else:
            how = f"the nearest annotated one is {np.median(abs(off)):g} {unit} away in the median"
        yours, theirs = (", ".join(f"{k:g}" for k in np.unique(keyframes)[:3])
                         for keyframes in (found.keyframe[apart], truth.keyframe))
        lines.append(f"{apart.mean():.0%} are on keyframes that the truth does not name; {how} "
                     f"(yours: {yours}; the truth's: {theirs})")
    return lines


def diagnose(truth: Annotations, found: Detections, protocol: str, iou: float = 0.5) -> list[str]:
    """What may be wrong: lines of one finding and its likely cause each, from names to labels."""
    lines = names_and_times(truth, found) or [
        "all detections are on videos and keyframes that the truth names"]
    people = people_of(truth)
    if not len(found) or not len(people):
        return lines + [f"{len(found)} detections and {len(people)} annotated people: nothing can "
                        "match"]

    # each box of a keyframe once, with the best score of its classes
    order = np.argsort(-found.score, kind="stable")
    boxes = found.select(order)
    boxes = boxes.select(distinct(keyframe_key(boxes.video, boxes.keyframe), boxes.box))
    theirs, yours = (np.median((box[:, 2:] - box[:, :2]).prod(axis=1))
                     for box in (truth.box[people], boxes.box))
    lines.append(f"boxes have a median area of {yours:.3g} of the picture, annotated people "
                 f"{theirs:.3g}" + ("" if 1 / 6 < yours / max(theirs, 1e-9) < 6 else
                                    ": divided by the frame's size twice, or by another size?"))

    best = best_ious(truth, people, boxes, boxes.box)
    x1, y1, x2, y2 = boxes.box.T
    others = {"x and y swapped": [y1, x1, y2, x2],
              "x, y, width, height in place of corners": [x1, y1, x1 + x2, y1 + y2],
              "left and right mirrored": [1 - x2, y1, 1 - x1, y2],
              "up and down mirrored": [x1, 1 - y2, x2, 1 - y1]}
    found_now = (best >= iou).mean()
    for name, columns in others.items():
        share = (best_ious(truth, people, boxes, np.column_stack(columns)) >= iou).mean()
        if share > min(2 * found_now + 0.05, found_now + 0.3):
            lines.append(f"boxes would find {share:.0%} of the people, not {found_now:.0%}, if "
                         f"they had {name}")
    edges = [0, 0.1, 0.25, 0.5, 0.75, 1]
    counts = np.histogram(best, edges)[0] / len(best)
    lines.append("best IoU of any box with each person: " + "  ".join(
        f"{low:g}-{high:g} {share:.0%}" for low, high, share in zip(edges, edges[1:], counts)))
    if counts[0] > 0.25:
        lines.append(f"{counts[0]:.0%} of the people have no box near them: the detector, or boxes "
                     "of other keyframes")

    alone = box_report(truth, boxes, protocol, iou)
    now = frame_map(truth, found, protocol, iou)["mean_ap"]["all"] or 0
    lines.append(f"if labels were ignored: AP {100 * alone['ap']:.1f}, "
                 f"recall {100 * alone['recall']:.1f}"
                 + "; the boxes are good, look at the classes" * (alone["ap"] > max(2 * now, 0.5)))
    never = [truth.texts[label] for label in np.setdiff1d(truth.text[truth.text >= 0], found.label)]
    if never:
        lines.append(f"{len(never)} of {len(truth.texts)} classes are never predicted, such as "
                     f"{', '.join(never[:3])}: is the label map that of the file?")
    for step, name in ((1, "one lower"), (-1, "one higher")):
        moved = replace(found, label=((found.label + step) % len(truth.texts)).astype(np.int32))
        shifted = frame_map(truth, moved, protocol, iou)["mean_ap"]["all"] or 0
        if len(truth.texts) > 2 and shifted > 2 * now + 0.02:
            lines.append(f"mAP would be {100 * shifted:.1f}, not {100 * now:.1f}, if ids were not "
                         f"{name}: do they count from 0 or from 1?")
    return lines


def best_ious(truth: Annotations, people: np.ndarray, found: Detections,
              box: np.ndarray) -> np.ndarray:
    """Highest IoU of each person, a row of the truth, with a box (n, 4) of its keyframe."""
    _, frame, found_frame = number_keyframes(
        keyframe_key(truth.video[people], truth.keyframe[people]),
        keyframe_key(found.video, found.keyframe))
    boxes = truth.box[people].astype(np.float64), box.astype(np.float64)
    best = np.zeros(len(people))
    for f, t in overlapping_pairs(boxes[0], frame, boxes[1], found_frame, 1e-6, pixel=0):
        np.maximum.at(best, t, box_iou(boxes[1][f], boxes[0][t]))
    return best
