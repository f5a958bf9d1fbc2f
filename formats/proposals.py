"""Proposals: boxes that a detector found, in our CSV and in the files of other detectors."""

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from formats.files import complain, csv_columns, load_pickle, places
from table import Annotations, Detections, clip_boxes, duplicates, keyframe_key, box_iou


def read_proposals(path, annotations: Annotations, min_score: float = 0.0) -> Detections:
    """Proposals of score >= min_score on the keyframes of `annotations`; those on other keyframes are left out.

    Reads our CSV (`video,keyframe,x1,y1,x2,y2,,score`, which is LFB's), mmaction2's dense pickle
    ("movie,second" -> (n, 5)), OpenMixer's pickle (video -> boxes and scores by frame) and ACT's
    detections (rows of video, frame, label, score, box in pixels). ValueError where boxes are in pixels
    but the format has them in [0, 1], or where the videos are not those of `annotations`.
    """
    if Path(path).suffix in (".pkl", ".pickle"):
        names, keyframe, box, score, lines = pickled_proposals(path, annotations)
    else:
        layout = "video,keyframe,x1,y1,x2,y2,,score"
        lines, (names,), numbers = csv_columns(path, (8,), (0,), (1, 2, 3, 4, 5, 7), layout)
        keyframe, box, score = numbers[:, 0], numbers[:, 1:5], numbers[:, 5]
        complain(path, lines, ~np.isfinite(numbers).all(axis=1),
                 lambda i: f"a number is missing; expected {layout}")
    complain(path, lines, (score < 0) | (score > 1), lambda i: f"score {score[i]:g} is not in [0, 1]; in a "
             "ground-truth file the last column is a person, in proposals it is the detector's score")
    # detectors overshoot the border by a little; more than that means another unit
    complain(path, lines, ((box < -0.5) | (box > 1.5)).any(axis=1), lambda i: f"box {box[i].tolist()} looks like "
             "pixels; expected xyxy in [0, 1]: divide x by the picture's width, y by its height")
    videos, place = places(names)
    video = places(videos, annotations.videos)[1]
    covered, total = int((video >= 0).sum()), len(set(annotations.video.tolist()))
    if 2 * covered < min(len(videos), total) or not covered:
        raise ValueError(f"{path}: only {covered} of its {len(videos)} videos are among the {total} of the "
                         f"annotations; it has {videos[:1]}, they have {annotations.videos[:1]}. "
                         "Proposals of another dataset or split?")
    video = video[place]

    box, good = clip_boxes(box)
    rows = np.flatnonzero(good & (video >= 0) & (score >= min_score))
    known = keyframe_key(annotations.video, annotations.keyframe)
    key = keyframe_key(video[rows], keyframe[rows] - (annotations.unit == "frame"))   # files count frames from 1
    at = np.searchsorted(known, key).clip(max=len(known) - 1)
    rows, at = rows[known[at] == key], at[known[at] == key]
    rows, at = (x[np.lexsort((-score[rows], at))] for x in (rows, at))
    once = ~duplicates(*box[rows].T, at)                       # LFB repeats a box for each of its labels
    rows, at = rows[once], at[once]
    return Detections(annotations.video[at], annotations.keyframe[at], box[rows].astype(np.float32),
                     score[rows].astype(np.float32))


def pickled_proposals(path, annotations: Annotations):
    """Names, keyframes (n,) as the file counts them, boxes (n, 4), scores (n,), places in the file (n,)."""
    found = load_pickle(path)
    table = found[0] if isinstance(found, (tuple, list)) and found else found
    if isinstance(table, np.ndarray) and table.ndim == 2 and table.shape[1] == 8 and annotations.size is not None:
        index = table[:, 0].astype(int)
        if len(index) and not 0 <= index.min() <= index.max() < len(annotations.videos):
            raise ValueError(f"{path}: video number {index.max()} of {len(annotations.videos)}; another split?")
        box = table[:, 4:8] / np.tile(annotations.size[index], 2)
        return [annotations.videos[i] for i in index], table[:, 1], box, table[:, 3], np.arange(len(table))
    names, keyframe, arrays = [], [], []
    try:
        for key, value in found.items():
            if isinstance(value, dict):                        # OpenMixer: one entry a video
                frames = [(key, frame, np.column_stack([boxes, value["scores"][frame]]))
                          for frame, boxes in value["boxes"].items() if len(boxes)]
            else:                                              # mmaction2: one entry a keyframe
                frames = [(*key.rsplit(",", 1), np.asarray(value))]
            for name, frame, rows in frames:
                names += [name] * len(rows)
                keyframe += [float(frame)] * len(rows)
                arrays.append(rows.astype(np.float64).reshape(-1, 5))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: neither mmaction2's ('movie,second' -> (n, 5)), "
                         "OpenMixer's (video -> boxes and scores) nor ACT's proposals, (n, 8) "
                         f"({type(error).__name__}: {error})") from None
    rows = np.concatenate(arrays or [np.zeros((0, 5))])
    # OpenMixer marks a frame without detections by one box in pixels of score 0
    real = (rows[:, 4] > 0) | (rows[:, :4] <= 1.5).all(axis=1)
    names = [name for name, keep in zip(names, real) if keep]
    return names, np.array(keyframe)[real], rows[real, :4], rows[real, 4], np.flatnonzero(real)


def write_proposals(path, annotations: Annotations, proposals: Detections) -> None:
    """The proposals CSV that `read_proposals` and AVA's tools read; the file appears complete or not at all."""
    first = 1 if annotations.unit == "frame" else 0
    part = Path(f"{path}.part")
    with open(part, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for v, k, box, score in zip(proposals.video, proposals.keyframe, proposals.box, proposals.score):
            writer.writerow([annotations.videos[v], np.format_float_positional(k + first, trim="-"),
                             *(f"{x:.5f}" for x in box), "", f"{score:.6f}"])
    os.replace(part, path)


def add_proposals(annotations: Annotations, proposals: Detections, iou: float = 0.5,
                  keep_unmatched: bool = True) -> Annotations:
    """Training boxes: the ground truth and the proposals, each with the labels of the truth that it overlaps.

    A proposal takes every label (and the person) of the box of highest IoU in its keyframe if that is
    at least `iou`, else none: it becomes a row of text -1, or is left out.
    """
    truth = annotations.select(annotations.text >= 0)
    keys = keyframe_key(truth.video, truth.keyframe)
    key = keyframe_key(proposals.video, proposals.keyframe)
    first, last = np.searchsorted(keys, key, "left"), np.searchsorted(keys, key, "right")
    count = last - first
    p = np.repeat(np.arange(len(key)), count)                  # every (proposal, row of its keyframe) pair
    row = np.arange(len(p)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    overlap = box_iou(proposals.box[p], truth.box[row])
    order = np.lexsort((-overlap, p))
    best = order[np.unique(p[order], return_index=True)[1]]    # the pair of highest IoU of each proposal with any
    best_row = np.full(len(key), -1)
    best_row[p[best]] = np.where(overlap[best] >= iou, row[best], -1)
    taken = (best_row[p] >= 0) & (truth.box[row] == truth.box[best_row[p]]).all(axis=1)
    none = np.flatnonzero((best_row < 0) & keep_unmatched)

    p, row = np.concatenate([p[taken], none]), np.concatenate([row[taken], np.full(len(none), -1)])

    def extended(old, new):
        return None if old is None else np.concatenate([old, new])

    def label(column):                                         # of row -1: -1
        return None if column is None else np.append(column, np.int32(-1))[row]

    table = replace(annotations, video=extended(annotations.video, proposals.video[p]),
                    keyframe=extended(annotations.keyframe, proposals.keyframe[p]),
                    box=extended(annotations.box, proposals.box[p]),
                    text=extended(annotations.text, label(truth.text)),
                    person=extended(annotations.person, label(truth.person)))
    return table.select(np.lexsort((table.keyframe, table.video)))
