"""Proposals: boxes that a detector found, in our CSV and in the files of other detectors.

    our CSV, and LFB's     1j20qq1JyX4,0902,0.036,0.098,0.550,0.979,,0.995518   frames count from 1
    mmaction2's pickle     {"1j20qq1JyX4,0902": array (n, 5) of x1, y1, x2, y2, score}
    OpenMixer's pickle     {video: {"boxes": {frame: (n, 4)}, "scores": {frame: (n,)}}}, from 1
    ACT's detections       array (n, 8) of video number, frame from 1, label, score, x1, y1, x2, y2
                           in pixels
"""

import csv
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from formats.files import array_of, check_kind, check_pixels, field, load_pickle, replacing
from formats.rows import Rows, find, read_rows
from table import (Annotations, Detections, box_iou, clip_boxes, distinct, keyframe_key,
                   people_of)


def read_proposals(path, annotations: Annotations, min_score: float = 0.0) -> Detections:
    """Proposals of score >= min_score on the keyframes of `annotations`, the best of each first.

    Those on other keyframes are left out. ValueError where boxes are in pixels but the format has
    them in [0, 1], where more than one in ten is empty or has its corners swapped, or where videos
    or keyframes are not those of `annotations`.
    """
    videos, video, keyframe, box, score = proposal_rows(path, annotations)
    index = find(videos, annotations.videos)
    covered, total = int((index >= 0).sum()), len(np.unique(annotations.video))
    if 2 * covered < min(len(videos), total) or not covered:
        raise ValueError(f"{path}: only {covered} of its {len(videos)} videos are among the "
                         f"{total} of the annotations; it has {videos[:1]}, they have "
                         f"{annotations.videos[:1]}. Proposals of another dataset or split?")
    video = index[video]
    frames = (annotations.unit == "frame")[video]
    wrong = (video >= 0) & frames & ((keyframe < 1) | (keyframe != np.rint(keyframe)))
    if wrong.any():
        raise ValueError(f"{path}: keyframe {keyframe[wrong.argmax()]:g} is not a frame number; "
                         "these count from 1")
    keyframe = keyframe - frames                               # files count frames from 1
    rows = np.flatnonzero((video >= 0) & (score >= min_score))
    known = keyframe_key(annotations.video, annotations.keyframe)
    key = keyframe_key(video[rows], keyframe[rows])
    at = np.searchsorted(known, key).clip(max=len(known) - 1)  # a row of the table for each
    there = known[at] == key
    if len(rows) and not there.any():
        raise ValueError(f"{path}: none of its keyframes is one of the annotations; it has "
                         f"{keyframe[rows[0]]:g} of {annotations.videos[video[rows[0]]]}, "
                         f"they have {annotations.keyframe[:3].tolist()}")
    rows, at = rows[there], at[there]
    best = np.lexsort((-score[rows], at))
    rows, at = rows[best], at[best]
    once = distinct(at, box[rows])                             # LFB repeats a box for each label
    rows, at = rows[once], at[once]
    return Detections(annotations.video[at], annotations.keyframe[at], box[rows].astype(np.float32),
                      score[rows].astype(np.float32))


def checked_proposals(path: str, truth: Annotations, min_score: float, name: str) -> Detections:
    """The proposals of that score in a file, of scripts that need people on all keyframes.

    ValueError if many videos of the truth have no row there; notes where some have none.
    """
    everything, speaks = read_proposals(path, truth), os.environ.get("RANK", "0") == "0"
    proposals = everything.select(everything.score >= min_score)
    if not len(proposals):
        raise ValueError(f"{path}: no box of score {min_score:g} or more on a keyframe of {name}; "
                         "give a lower --score")
    videos, without = np.unique(truth.video), np.setdiff1d(truth.video, everything.video)
    if len(without):
        lack = (f"{name}: {len(without)} of {len(videos)} videos have no row in {path}, such as "
                f"{truth.videos[without[0]]}")
        if len(without) > len(videos) / 4:                   # our judgement: it is of other videos
            raise ValueError(f"{lack}; find the people in all of them")
        if speaks:
            print(f"{lack}; whoever is in them is missed", file=sys.stderr)
    rows = people_of(truth)
    keys = np.unique(keyframe_key(truth.video[rows], truth.keyframe[rows]))
    bare = ~np.isin(keys, keyframe_key(everything.video, everything.keyframe))
    if 10 * bare.sum() > len(keys) and speaks:              # our judgement: not the detector alone
        print(f"{name}: {bare.sum()} of {len(keys)} keyframes with people have no row in {path}; "
              "whoever is on them is missed", file=sys.stderr)
    return proposals


def proposal_rows(path, annotations: Annotations | None = None):
    """A file's videos, and of its rows the video (an index), keyframe, box (n, 4) and score (n,).

    Keyframes are as the file counts them, boxes are cut to [0, 1]. ACT's detections number the
    videos of the `annotations`.
    """
    if Path(path).suffix.lower() in (".pkl", ".pickle"):
        rows = pickled_proposals(path, annotations)
    else:
        rows = read_rows(path, "video,keyframe,x1,y1,x2,y2,,score")
    box, score = rows.box, rows.score
    rows.complain((score < 0) | (score > 1), lambda row: f"score {score[row]:g} is not in [0, 1]; "
                  "in a ground-truth file the last column is a person, in proposals a score")
    if rows.texts and "" not in rows.texts and np.isin(score, (0, 1)).all():
        raise ValueError(f"{path}: every box has an action, and every score is 0 or 1; "
                         "is this a ground truth, whose last column is a person?")
    rows.check_unit()
    wrong = (box[:, 0] > box[:, 2]) | (box[:, 1] > box[:, 3])
    if wrong.any() and os.environ.get("RANK", "0") == "0":     # once, of all processes
        print(f"{path}: {wrong.sum():,} of {len(box):,} boxes are not x1 < x2, y1 < y2, the first "
              f"in line {rows.lines[wrong.argmax()]}; left out", file=sys.stderr)
    box, good = clip_boxes(box)
    return rows.videos, rows.video[good], rows.keyframe[good], box[good], score[good]


def pickled_proposals(path, annotations: Annotations | None) -> Rows:
    """The rows of a pickle, whose lines are their numbers; boxes are as they stand in the file."""
    found = load_pickle(path)
    found = found[0] if isinstance(found, (tuple, list)) and found else found
    if isinstance(found, np.ndarray) and annotations is not None and annotations.size is not None:
        found = array_of(found, 8, f"{path}: ACT's detections")
        check_pixels(path, [found[:, 4:]])
        video = found[:, 0].astype(int)
        bad = (video != found[:, 0]) | (video < 0) | (video >= len(annotations.videos))
        box = found[:, 4:] / np.tile(annotations.size[np.where(bad, 0, video)], 2)
        rows = Rows(path, np.arange(len(found)), annotations.videos, video, found[:, 1], box,
                    found[:, 3])
        rows.complain(bad, lambda row: f"video number {found[row, 0]:g} of {len(rows.videos)}, "
                      "counted from 0; another split?")
    elif isinstance(found, dict):
        keyframes = [one for key, value in found.items() for one in keyframes_of(path, key, value)]
        index, counts = {}, [len(box) for *_, box in keyframes]
        video = np.repeat([index.setdefault(name, len(index)) for name, *_ in keyframes], counts)
        time = np.repeat([time for _, time, _ in keyframes], counts)
        box = np.concatenate([np.zeros((0, 5)), *(box for *_, box in keyframes)])
        # OpenMixer marks a frame without detections by one box in pixels of score 0
        real = (box[:, 4] > 0) | (box[:, :4] <= 1.5).all(axis=1)
        rows = Rows(path, np.flatnonzero(real), list(index), video.astype(int)[real],
                    time.astype(np.float64)[real], box[real, :4], box[real, 4])
    else:
        raise ValueError(f"{path}: a {type(found).__name__}, neither mmaction2's ('movie,second' "
                         "-> (n, 5)), OpenMixer's (video -> boxes and scores) nor ACT's, (n, 8)")
    rows.check_times()
    return rows


def keyframes_of(path, key: str, value) -> list[tuple[str, float, np.ndarray]]:
    """(video, keyframe, boxes and scores (n, 5)) of an entry of mmaction2's or OpenMixer's dict."""
    check_kind(key, str, f"{path}: a key", "'movie,second' or a video")
    where, found = f"{path}: {key}", []
    if isinstance(value, dict):                                # OpenMixer: one entry a video
        boxes, scores = (field(value, name, dict, where) for name in ("boxes", "scores"))
        for frame in boxes:
            box = field(boxes, frame, np.ndarray, f"{where}: boxes")
            score = field(scores, frame, np.ndarray, f"{where}: scores")
            if box.size and (box.ndim, score.shape) != (2, box.shape[:1]):
                raise ValueError(f"{where}: frame {frame} has boxes {box.shape} "
                                 f"and scores {score.shape}")
            found.append((key, frame, np.column_stack([box, score]) if box.size else box))
    else:                                                      # mmaction2: one entry a keyframe
        video, _, second = key.rpartition(",")
        found.append((video, second if video else "none", value))
    result = []
    for video, time, box in found:
        try:
            time = float(time)
        except (TypeError, ValueError):
            raise ValueError(f"{where} names no keyframe; expected 'movie,second'") from None
        none = isinstance(box, np.ndarray) and not box.size
        result.append((video, time, np.zeros((0, 5)) if none else array_of(box, 5, where)))
    return result


def write_proposals(path, annotations: Annotations, proposals: Detections) -> None:
    """The proposals CSV that `read_proposals` and AVA's tools read."""
    first = (annotations.unit == "frame").astype(np.float32)   # files count frames from 1
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        for v, time, box, score in zip(proposals.video, proposals.keyframe, proposals.box,
                                       proposals.score):
            keyframe = np.format_float_positional(time + first[v], trim="-")
            writer.writerow([annotations.videos[v], keyframe, *(f"{x:.5f}" for x in box), "",
                             f"{score:.6f}"])


def add_proposals(annotations: Annotations, proposals: Detections, iou: float = 0.5,
                  keep_unmatched: bool = True) -> Annotations:
    """Training boxes: the ground truth, and the proposals with the labels of what they overlap.

    A proposal takes every label (and the person) of the box of highest IoU in its keyframe if that
    is at least `iou`, else none: it becomes a row of text -1, or is left out.
    """
    truth = annotations.select(annotations.text >= 0)
    keys = keyframe_key(truth.video, truth.keyframe)
    key = keyframe_key(proposals.video, proposals.keyframe)
    first, last = np.searchsorted(keys, key, "left"), np.searchsorted(keys, key, "right")
    count = last - first
    p = np.repeat(np.arange(len(key)), count)                  # all (proposal, row of its keyframe)
    row = np.arange(len(p)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    overlap = box_iou(proposals.box[p], truth.box[row])
    order = np.lexsort((-overlap, p))
    best = order[np.unique(p[order], return_index=True)[1]]    # of highest IoU of each proposal
    best_row = np.full(len(key), -1)
    best_row[p[best]] = np.where(overlap[best] >= iou, row[best], -1)
    taken = (best_row[p] >= 0) & (truth.box[row] == truth.box[best_row[p]]).all(axis=1)
    none = np.flatnonzero((best_row < 0) & keep_unmatched)

    p = np.concatenate([p[taken], none])
    row = np.concatenate([row[taken], np.full(len(none), -1)])
    columns = {name: getattr(proposals, name)[p] for name in ("video", "keyframe", "box")}
    columns |= {name: np.append(getattr(truth, name), np.int32(-1))[row]      # of row -1: -1
                for name in ("text", "person") if getattr(truth, name) is not None}
    table = replace(annotations, **{name: np.concatenate([getattr(annotations, name), column])
                                    for name, column in columns.items()})
    return table.select(np.lexsort((table.keyframe, table.video)))
