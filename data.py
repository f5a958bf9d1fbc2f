"""The data: every dataset as one table of (video, keyframe, box, text), and the clips around its keyframes.

A reader turns official files into `Annotations`; one `Dataset` serves them all. Boxes are xyxy in
[0, 1] of the picture from here on; classes travel as names, and ids exist only in official files.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


# ---------------------------------------------------------------- the table

@dataclass
class Annotations:
    """The table that the method learns from or is tested on: one entry a row, arrays of n rows.

    Rows are sorted by (video, keyframe). One row is one (box, text) pair: a person with three
    actions has three rows with the same box. A row with text -1 is a box that nobody labelled; if
    its box is empty as well (all zeros), it is a keyframe with nobody in it, kept because it counts
    in evaluation. A detection set lists all its classes in `texts`, in official order.
    """

    videos: list[str]             # keys, as official files and CSVs write them: "Basketball/v_Basketball_g01_c01"
    texts: list[str]              # sentences, or class names in words; distinct
    video: np.ndarray             # (n,) int32, place in `videos`
    keyframe: np.ndarray          # (n,) int32 frame_idx (0-based) or float32 seconds of the original, see `unit`
    box: np.ndarray               # (n, 4) float32, xyxy in [0, 1]
    text: np.ndarray              # (n,) int32, place in `texts`, or -1
    unit: str = "frame"           # "frame" or "second": what `keyframe` counts
    files: list[str] = field(default_factory=list)       # per video: a file or a folder of frames; "" if not on disk
    start_sec: np.ndarray | None = None                  # (videos,) float32, seconds cut off before the file begins (AVA's 15-minute cuts: 900)
    size: np.ndarray | None = None                       # (videos, 2) int32 width, height of pixel-annotated sets
    person: np.ndarray | None = None                     # (n,) int32, links the boxes of one person in a video, or -1
    ids: list[int] | None = None                         # official id of each text; default: its 1-based place
