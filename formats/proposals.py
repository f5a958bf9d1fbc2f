"""Proposals: boxes that a detector found, in our CSV and in the files of other detectors.

    our CSV, and LFB's              1j20qq1JyX4,0902,0.036,0.098,0.550,0.979,,0.995518      frames count from 1
    mmaction2's dense pickle        {"1j20qq1JyX4,0902": array (n, 5) of x1, y1, x2, y2, score}
    OpenMixer's pickle              {video: {"boxes": {frame: (n, 4)}, "scores": {frame: (n,)}}}, frames from 1
    ACT's detections                array (n, 8) of video number, frame from 1, label, score, x1, y1, x2, y2 (pixels)
"""

import csv
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from formats.files import (array_of, check_kind, check_pixels, check_times, check_unit, complain, field, find,
                           load_pickle, read_columns, replacing)
from table import Annotations, Detections, box_iou, clip_boxes, distinct, keyframe_key


def read_proposals(path, annotations: Annotations, min_score: float = 0.0) -> Detections:
    """Proposals of score >= min_score on the keyframes of `annotations`, the best of a keyframe first.

    Those on other keyframes are left out. ValueError where boxes are in pixels but the format has
    them in [0, 1], where more than one in ten is empty or has its corners swapped, or where the
    videos are not those of `annotations`.
    """
    videos, video, keyframe, box, score = proposal_rows(path, annotations)
    index = find(videos, annotations.videos)
    covered, total = int((index >= 0).sum()), len(np.unique(annotations.video))
    if 2 * covered < min(len(videos), total) or not covered:
        raise ValueError(f"{path}: only {covered} of its {len(videos)} videos are among the {total} of the "
                         f"annotations; it has {videos[:1]}, they have {annotations.videos[:1]}. "
                         "Proposals of another dataset or split?")
    video = index[video]
    by_frames = (video >= 0) & (annotations.unit == "frame")[video]
    if (wrong := by_frames & ((keyframe < 1) | (keyframe != np.rint(keyframe)))).any():
        raise ValueError(f"{path}: keyframe {keyframe[wrong.argmax()]:g} is not a frame number; these count from 1")
    keyframe = keyframe - (annotations.unit == "frame")[video]                 # files count frames from 1
    rows = np.flatnonzero((video >= 0) & (score >= min_score))
    known = keyframe_key(annotations.video, annotations.keyframe)
    key = keyframe_key(video[rows], keyframe[rows])
    at = np.searchsorted(known, key).clip(max=len(known) - 1)                  # a row of the table for each
    if len(rows) and not (known[at] == key).any():
        raise ValueError(f"{path}: none of its keyframes is one of the annotations; it has {keyframe[rows[0]]:g} of "
                         f"{annotations.videos[video[rows[0]]]}, they have {annotations.keyframe[:3].tolist()}")
    rows, at = rows[known[at] == key], at[known[at] == key]
    rows, at = (x[np.lexsort((-score[rows], at))] for x in (rows, at))
    once = distinct(at, box[rows])                             # LFB repeats a box for each of its labels
    rows, at = rows[once], at[once]
    return Detections(annotations.video[at], annotations.keyframe[at], box[rows].astype(np.float32),
                      score[rows].astype(np.float32))


def proposal_rows(path, annotations: Annotations | None = None):
    """Videos of a file of proposals, and of its rows the video (an index), keyframe, box and score, each (n,) or (n, 4).

    Keyframes are as the file counts them, boxes are cut to [0, 1]. ACT's detections number the videos
    of the `annotations`.
    """
    if Path(path).suffix in (".pkl", ".pickle"):
        videos, video, keyframe, box, score, lines = pickled_proposals(path, annotations)
    else:
        lines, texts, numbers = read_columns(path, "video,keyframe,x1,y1,x2,y2,,score")
        (videos, video), keyframe = texts["video"], numbers["keyframe"]
        box, score = numbers["box"], numbers["score"]
    check_times(path, lines, keyframe)
    complain(path, lines, (score < 0) | (score > 1), lambda row: f"score {score[row]:g} is not in [0, 1]; in a "
             "ground-truth file the last column is a person, in proposals it is the detector's score")
    check_unit(path, lines, box)
    wrong = (box[:, 0] > box[:, 2]) | (box[:, 1] > box[:, 3])
    if 10 * wrong.sum() > len(box):
        complain(path, lines, wrong, lambda row: f"box {box[row].tolist()} is not x1 < x2, y1 < y2; "
                 "are its corners swapped, or is it x, y, width, height?")
    if wrong.any() and os.environ.get("RANK", "0") == "0":     # once, of all processes
        print(f"{path}: {wrong.sum():,} of {len(box):,} boxes are not x1 < x2, y1 < y2, the first in line "
              f"{lines[wrong.argmax()]}; left out", file=sys.stderr)
    box, good = clip_boxes(box)
    return videos, video[good], keyframe[good], box[good], score[good]


def pickled_proposals(path, annotations: Annotations | None):
    """As `proposal_rows`, with boxes as they stand in the file, and the number of each row (n,)."""
    found = load_pickle(path)
    found = found[0] if isinstance(found, (tuple, list)) and found else found
    if isinstance(found, np.ndarray) and annotations is not None and annotations.size is not None:
        found = array_of(found, 8, f"{path}: ACT's detections")
        rows, video = np.arange(len(found)), found[:, 0].astype(int)
        complain(path, rows, (video != found[:, 0]) | (video < 0) | (video >= len(annotations.videos)),
                 lambda row: f"video number {found[row, 0]:g} of {len(annotations.videos)}, counted from 0; another split?")
        check_pixels(path, found[:, 4:8])
        box = found[:, 4:8] / np.tile(annotations.size[video], 2)
        return annotations.videos, video, found[:, 1], box, found[:, 3], rows
    if not isinstance(found, dict):
        raise ValueError(f"{path}: a {type(found).__name__}, neither mmaction2's ('movie,second' -> (n, 5)), "
                         "OpenMixer's (video -> boxes and scores) nor ACT's proposals, (n, 8)")
    videos, video, keyframe, rows = {}, [], [], [np.zeros((0, 5))]
    for key, value in found.items():
        check_kind(key, str, f"{path}: a key", "'movie,second' or a video")
        where = f"{path}: {key}"
        if isinstance(value, dict):                            # OpenMixer: one entry a video
            boxes, scores = (field(value, name, dict, where) for name in ("boxes", "scores"))
            frames = []
            for frame in boxes:
                box = field(boxes, frame, np.ndarray, f"{where}: boxes")
                score = field(scores, frame, np.ndarray, f"{where}: scores")
                if box.size and (box.ndim, score.shape) != (2, box.shape[:1]):
                    raise ValueError(f"{where}: frame {frame} has boxes {box.shape} and scores {score.shape}")
                frames += [(key, frame, np.column_stack([box, score]))] if box.size else []
        else:                                                  # mmaction2: one entry a keyframe
            frames = [(*key.rsplit(",", 1), value)] if "," in key else [(key, "none", value)]
        for name, time, value in frames:
            try:
                time = float(time)
            except (TypeError, ValueError):
                raise ValueError(f"{where} names no keyframe; expected 'movie,second'") from None
            none = isinstance(value, np.ndarray) and not value.size
            rows.append(rows[0] if none else array_of(value, 5, where))
            video += [videos.setdefault(name, len(videos))] * len(rows[-1])
            keyframe += [time] * len(rows[-1])
    rows = np.concatenate(rows)
    # OpenMixer marks a frame without detections by one box in pixels of score 0
    real = (rows[:, 4] > 0) | (rows[:, :4] <= 1.5).all(axis=1)
    video, keyframe = np.array(video, int), np.array(keyframe, np.float64)
    return list(videos), video[real], keyframe[real], rows[real, :4], rows[real, 4], np.flatnonzero(real)


def write_proposals(path, annotations: Annotations, proposals: Detections) -> None:
    """The proposals CSV that `read_proposals` and AVA's tools read; the file appears complete or not at all."""
    first = (annotations.unit == "frame").astype(np.float32)   # files count frames from 1
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        for v, k, box, score in zip(proposals.video, proposals.keyframe, proposals.box, proposals.score):
            writer.writerow([annotations.videos[v], np.format_float_positional(k + first[v], trim="-"),
                             *(f"{x:.5f}" for x in box), "", f"{score:.6f}"])


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
