"""A user's own data: the annotations CSV."""

import os
from pathlib import Path

import numpy as np

from formats.files import check_boxes, complain, csv_columns, places
from table import Annotations, duplicates, make_annotations


def read_csv(path, root=None) -> Annotations:
    """A CSV of `video,keyframe,x1,y1,x2,y2,text[,person]`: seconds, boxes in [0, 1]; a header line is optional.

    Videos are paths relative to `root`, by default the CSV's folder. `video,keyframe` alone is a
    keyframe with nobody in it. Texts are listed in alphabetical order, so that the training and the
    test file of one set agree. Any fault is a ValueError with its line.
    """
    path = Path(path)
    root = path.parent if root is None else Path(root)
    layout = "video,keyframe,x1,y1,x2,y2,text[,person] or video,keyframe"
    lines, (names, texts), numbers = csv_columns(path, (2, 7, 8), (0, 6), (1, 2, 3, 4, 5, 7), layout)
    keyframe, box, person = numbers[:, 0], numbers[:, 1:5], numbers[:, 5]
    if not len(lines):
        raise ValueError(f"{path}: no rows; expected {layout}")
    nobody = np.isnan(box).all(axis=1) & np.array([not text for text in texts])
    complain(path, lines, ~(np.isfinite(keyframe) & (keyframe >= 0)),
             lambda i: f"keyframe {keyframe[i]:g} is not a time in the video; expected seconds, 0 or more")
    check_boxes(box[~nobody], path, lines[~nobody])
    complain(path, lines, ~nobody & np.array([not text for text in texts]), lambda i: "the box has no text")
    complain(path, lines, ~np.isnan(person) & (person != np.rint(person)),
             lambda i: f"person {person[i]:g} is not a whole number")

    videos, video = places(names)
    files = [str(root / name) for name in videos]
    absent = np.array([not os.path.exists(file) for file in files])
    complain(path, lines, absent[video], lambda i: f"video {names[i]!r} is not in {root}; write paths relative "
             f"to it, or name another folder ({absent.sum()} of {len(videos)} videos are absent)")
    known = sorted({text for text in texts if text})
    text = places(texts, known)[1]
    box = np.where(nobody[:, None], 0, box)
    complain(path, lines, duplicates(text, *box.T, keyframe, video),
             lambda i: f"the row is there twice: {names[i]}, {keyframe[i]:g}, {texts[i]!r}")
    return make_annotations(videos, known, video, keyframe, box, text, unit="second", files=files,
                            person=np.nan_to_num(person, nan=-1) if np.isfinite(person).any() else None)
