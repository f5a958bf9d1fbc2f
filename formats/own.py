"""A user's own data: the annotations CSV.

    video,keyframe,x1,y1,x2,y2,text,person            an optional header
    clips/a.mp4,2.5,0.1,0.2,0.3,0.4,"wave, then sit",7
    clips/a.mp4,4                                     nobody is there
"""

import os
from pathlib import Path

import numpy as np

from formats.files import check_boxes, check_times, complain, find, read_columns, whole_numbers
from table import Annotations, distinct, make_annotations


def read_csv(path, root=None) -> Annotations:
    """A CSV of `video,keyframe,x1,y1,x2,y2,text[,person]`: seconds, boxes in [0, 1]; a header line is optional.

    Videos are paths relative to `root`, by default the CSV's folder. `video,keyframe` alone is a
    keyframe with nobody in it. Texts are listed in alphabetical order, so that the training and the
    test file of one set agree. Any fault is a ValueError with its line.
    """
    path = Path(path)
    root = path.parent if root is None else Path(root)
    layout = "video,keyframe,x1,y1,x2,y2,text[,person] or video,keyframe"
    lines, texts, numbers = read_columns(path, layout, ("video", "text"))
    if not len(lines):
        raise ValueError(f"{path}: no rows; expected {layout}")
    (videos, video), (words, word) = texts["video"], texts["text"]
    keyframe, box = numbers["keyframe"], numbers["box"]
    nobody = np.isnan(box[:, 0])
    known = sorted(set(words) - {""})
    text = find(words, known)[word]
    check_times(path, lines, keyframe)
    check_boxes(path, lines[~nobody], box[~nobody].astype(np.float32))     # as the table keeps them
    complain(path, lines, ~nobody & (text < 0), lambda row: "the box has no text")
    person = whole_numbers(path, lines, numbers["person"], "person")

    files = [str(root / name) for name in videos]
    absent = np.array([not os.path.exists(file) for file in files])
    complain(path, lines, absent[video], lambda row: f"video {videos[video[row]]!r} is not in {root}; write paths "
             f"relative to it, or name another folder ({absent.sum()} of {len(videos)} videos are absent)")
    box = np.where(nobody[:, None], 0, box)
    complain(path, lines, ~distinct(video, keyframe, box, text), lambda row: "the row is there twice: "
             f"{videos[video[row]]}, {keyframe[row]:g}, {words[word[row]]!r}")
    return make_annotations(videos, known, video, keyframe, box, text, person if (person >= 0).any() else None,
                            unit="second", files=files)
