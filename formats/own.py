"""A user's own data: the annotations CSV.

    video,keyframe,x1,y1,x2,y2,text,person            an optional header
    clips/a.mp4,2.5,0.1,0.2,0.3,0.4,"wave, then sit",7
    clips/a.mp4,4                                     nobody is there
"""

import os
from pathlib import Path

import numpy as np

from formats.rows import find, read_rows
from table import Annotations, distinct, keyframe_key, make_annotations


def read_csv(path, root=None) -> Annotations:
    """A CSV of `video,keyframe,x1,y1,x2,y2,text[,person]`: seconds, boxes in [0, 1].

    Videos are paths relative to `root`, by default the CSV's folder. `video,keyframe` alone is a
    keyframe with nobody in it. Texts are listed in alphabetical order, so that the training and the
    test file of one set agree. Any fault is a ValueError with its line.
    """
    path = Path(path)
    root = path.parent if root is None else Path(root)
    rows = read_rows(path, "video,keyframe,x1,y1,x2,y2,text[,person] or video,keyframe")
    known = sorted(set(rows.texts) - {""})
    text = find(rows.texts, known)[rows.text]
    rows.check_boxes()
    rows.complain(~rows.nobody & (text < 0), lambda row: "the box has no text")

    files = [str(root / name) for name in rows.videos]
    absent = np.array([not os.path.exists(file) for file in files])
    rows.complain(absent[rows.video], lambda row: f"video {rows.videos[rows.video[row]]!r} is not "
                  f"in {root}; write paths relative to it, or name another folder "
                  f"({absent.sum()} of {len(files)} videos are absent)")
    first: dict = {}
    other = [first.setdefault(os.path.abspath(file), name)
             for file, name in zip(files, rows.videos)]
    twice = np.array([a != b for a, b in zip(other, rows.videos)])
    rows.complain(twice[rows.video], lambda row: f"video {rows.videos[rows.video[row]]!r} is "
                  f"{other[rows.video[row]]!r} by another name; write it in one way")
    columns = rows.video, rows.keyframe, rows.box, text
    rows.complain(~distinct(*columns), lambda row: "the row is there twice: "
                  f"{rows.videos[rows.video[row]]}, {rows.keyframe[row]:g}, "
                  f"{rows.texts[rows.text[row]]!r}")
    key = keyframe_key(rows.video, rows.keyframe)
    kept = ~(rows.nobody & np.isin(key, key[~rows.nobody]))    # a list of keyframes, then the boxes
    columns = [column if column is None else column[kept] for column in (*columns, rows.person)]
    return make_annotations(rows.videos, known, *columns, unit="second", files=files)
