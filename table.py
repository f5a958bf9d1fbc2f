"""The table (video, keyframe, box, text), which every dataset is read into, and its cache."""

import hashlib
import json
import os
import re
import shutil
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np


# ---------------------------------------------------------------- the table

ROW_ARRAYS = ("video", "keyframe", "box", "text", "person")


@dataclass
class Annotations:
    """The table that the method learns from or is tested on: one entry a row, arrays of n rows.

    Rows are sorted by (video, keyframe). One row is one (box, text) pair: a person with three
    actions has three rows with the same box. A row with text -1 is a box that nobody labelled; if
    its box is empty as well (all zeros), it is a keyframe with nobody in it, kept because it counts
    in evaluation. A detection set lists all its classes in `texts`, in official order.
    """

    videos: list[str]             # keys, as official files write them: "Biking/v_Biking_g01_c01"
    texts: list[str]              # sentences, or class names in words; distinct
    video: np.ndarray             # (n,) int32, index into `videos`
    keyframe: np.ndarray          # (n,) float32, 0-based frame_idx or seconds, see `unit`
    box: np.ndarray               # (n, 4) float32, xyxy in [0, 1]
    text: np.ndarray              # (n,) int32, index into `texts`, or -1
    unit: np.ndarray | str = "frame"                     # (videos,) "frame" or "second"
    files: list[str] = field(default_factory=list)       # per video: a file or folder, "" if absent
    ava_clock: bool = False                              # keyframes and strides as `read_ava` says
    size: np.ndarray | None = None                       # (videos, 2) int32 width, height in pixels
    lengths: np.ndarray | None = None                    # (videos,) frames of each, 0: not said
    person: np.ndarray | None = None                     # (n,) int32, a person in its video, or -1
    ids: list[int] | None = None                         # official id of each text; else 1, 2, ...
    descriptions: int = 0                                # of an alignment set: before any split
    faults: list[str] = field(default_factory=list)      # what the official files got wrong
    cache: str = field(default="", init=False)           # folder its arrays are mapped from

    def __post_init__(self) -> None:
        self.unit = np.broadcast_to(self.unit, len(self.videos))

    def __len__(self) -> int:
        return len(self.video)

    def __getstate__(self) -> dict:
        """A loader's worker receives the cache's name, not the rows: they all share its pages."""
        return {k: v for k, v in vars(self).items() if not (self.cache and k in ROW_ARRAYS)}

    def __setstate__(self, state: dict) -> None:
        mapped = load_table(state["cache"]) if state.get("cache") else None
        vars(self).update({k: getattr(mapped, k) for k in ROW_ARRAYS} if mapped else {}, **state)

    def select(self, rows: np.ndarray) -> "Annotations":
        """The same videos and texts with some rows: a mask (n,), or ascending row numbers."""
        columns = {name: getattr(self, name) for name in ROW_ARRAYS}
        return replace(self, **{k: None if v is None else v[rows] for k, v in columns.items()})

    def on_disk(self) -> "Annotations":
        """The rows whose video is there; FileNotFoundError if none is."""
        there = np.array([bool(file) for file in self.files], bool)
        if not there.any():
            such = f" ({self.videos[0]}, ...)" if self.videos else ""
            raise FileNotFoundError(f"none of the {len(self.videos)} videos is there{such}")
        return self if there.all() else self.select(there[self.video])

    def keyframe_starts(self) -> np.ndarray:
        """First row of each (video, keyframe), and n at the end: (keyframes + 1,) int64."""
        new = (np.diff(self.video) != 0) | (np.diff(self.keyframe) != 0)
        first = [0] if len(self) else []
        return np.concatenate([first, np.flatnonzero(new) + 1, [len(self)]]).astype(np.int64)


def make_annotations(videos, texts, video, keyframe, box, text, person=None, **rest) -> Annotations:
    """The table in its types and order from rows in any order; `rest` are its other fields."""
    box = np.asarray(box, np.float32).reshape(-1, 4)
    table = Annotations(list(videos), list(texts), np.asarray(video, np.int32),
                        np.asarray(keyframe, np.float32), box, np.asarray(text, np.int32),
                        person=None if person is None else np.asarray(person, np.int32), **rest)
    return table.select(np.lexsort((table.keyframe, table.video)))


@dataclass
class Detections:
    """Boxes found on a table's keyframes, one a row: proposals, or a model's (box, class) pairs."""

    video: np.ndarray                   # (n,) int32, index into the table's `videos`
    keyframe: np.ndarray                # (n,) in its video's unit: 0-based frame_idx, or seconds
    box: np.ndarray                     # (n, 4) float32 or float64, xyxy in [0, 1]
    score: np.ndarray                   # (n,) float; a logit keeps more order than a sigmoid
    label: np.ndarray | None = None     # (n,) int32, index into the table's `texts`; or proposals

    def __len__(self) -> int:
        return len(self.video)

    def select(self, rows: np.ndarray) -> "Detections":
        """Only some rows: a mask (n,), or row numbers."""
        return Detections(*(None if column is None else column[rows]
                            for column in vars(self).values()))


def keyframe_key(video: np.ndarray, keyframe: np.ndarray) -> np.ndarray:
    """One int64 for each (video, keyframe), in the table's order; seconds to the millisecond."""
    if keyframe.dtype.kind == "f":
        keyframe = keyframe.astype(np.float32)                 # as the table keeps them
    milliseconds = np.rint(keyframe.astype(np.float64) * 1000).astype(np.int64)
    return (video.astype(np.int64) << 40) + milliseconds


def official_ids(truth: Annotations) -> list[int]:
    return truth.ids if truth.ids is not None else list(range(1, len(truth.texts) + 1))


def six_decimals(box: np.ndarray) -> np.ndarray:
    """float64; float32 boxes get back the six decimals they had, for an exact IoU of 0.5."""
    box64 = box.astype(np.float64, copy=False)
    return np.round(box64, 6) if box.dtype == np.float32 else box64


def in_official_units(truth: Annotations, video: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) as the set annotates them: pixels, to a thousandth, if sizes are known."""
    if truth.size is None:
        return six_decimals(box)
    return np.round(six_decimals(box) * np.tile(truth.size, 2)[video], 3)


def box_iou(a: np.ndarray, b: np.ndarray, pixel: int = 0) -> np.ndarray:
    """IoU of the rows of a and b, (n, 4) float64. pixel 1: x2 and y2 belong to the box.

    The order of the additions is the official tools': another one moves exact halves.
    """
    sides = np.minimum(a[:, 2:], b[:, 2:]) + pixel - np.maximum(a[:, :2], b[:, :2])
    overlap = np.maximum(sides, 0).prod(axis=1)
    area_a, area_b = ((box[:, 2:] - box[:, :2] + pixel).prod(axis=1) for box in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):       # of two empty boxes: nan, no match
        return overlap / (area_a + area_b - overlap)


def clip_boxes(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) cut to [0, 1], and a mask (n,) of those of which something is left."""
    boxes = np.clip(np.asarray(boxes, np.float64), 0, 1)       # NaN stays, and fails the comparison
    return boxes, (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])


def distinct(*columns: np.ndarray) -> np.ndarray:
    """Mask (n,) of the rows that do not repeat an earlier one in all columns, (n,) or (n, k)."""
    columns = [row for column in columns for row in np.atleast_2d(np.asarray(column).T)]
    order = np.lexsort(columns)                                # stable: the first stays first
    first = np.ones(len(order), bool)
    first[1:] = np.any([column[order][1:] != column[order][:-1] for column in columns], axis=0)
    mask = np.empty(len(order), bool)
    mask[order] = first
    return mask


def people_of(truth: Annotations) -> np.ndarray:
    """Rows of the annotated people, each once: the distinct boxes of each keyframe."""
    rows = np.flatnonzero(truth.box.any(axis=1))             # one without a box names its keyframe
    return rows[distinct(keyframe_key(truth.video[rows], truth.keyframe[rows]), truth.box[rows])]


# ---------------------------------------------------------------- any mix of tables

def exclude_videos(annotations: Annotations, ids: set[str]) -> Annotations:
    """Without the videos of `ids`.

    ids: keys, names without suffix, or sources ("55_vfjywN5CN0Y.mp4": its latter part).
    """
    def names(key: str) -> set[str]:
        stem = re.sub(r"\.(\w{3,4})$", "", key.rsplit("/", 1)[-1])
        return {key, stem, stem.split("_", 1)[-1]}

    out = np.array([bool(names(key) & ids) for key in annotations.videos], bool)
    return annotations.select(~out[annotations.video])


def sample_fraction(annotations: Annotations, fraction: float, seed: int = 0) -> Annotations:
    """A random share of the samples, each all boxes of one sentence in one video (Table 4)."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction {fraction} is not in (0, 1]")
    sample = annotations.video.astype(np.int64) * (len(annotations.texts) + 1) + annotations.text
    samples, of_row = np.unique(sample, return_inverse=True)
    chosen = np.zeros(len(samples), bool)
    order = np.random.default_rng(seed).permutation(len(samples))
    chosen[order[:round(fraction * len(samples))]] = True
    return annotations.select(chosen[of_row])


def merge(sets: list[Annotations]) -> Annotations:
    """Alignment sets as one table: equal texts become one, videos are listed set by set."""
    texts, parts, videos = {}, [], 0
    for one in sets:
        label = [texts.setdefault(text, len(texts)) for text in one.texts]
        label = np.array([*label, -1], np.int32)
        parts.append((one.video + np.int32(videos), one.keyframe, one.box, label[one.text]))
        videos += len(one.videos)
    return Annotations([video for one in sets for video in one.videos], list(texts),
                       *(np.concatenate(column) for column in zip(*parts)),
                       unit=np.concatenate([one.unit for one in sets]),
                       size=(None if any(one.size is None for one in sets)
                             else np.concatenate([one.size for one in sets])),
                       lengths=(None if any(one.lengths is None for one in sets)
                                else np.concatenate([one.lengths for one in sets])),
                       files=[file for one in sets for file in one.files],
                       descriptions=sum(one.descriptions for one in sets),
                       faults=[fault for one in sets for fault in one.faults])


# ---------------------------------------------------------------- the cache of parsed tables

def cached(data, name: str, sources: list, options: list, build) -> Annotations:
    """build() once: later calls, and other processes, map its arrays and share their memory.

    The cache is a folder in `data`/.ovstad_cache (in the user's cache folder where that cannot be
    written). Its name holds a hash of the options, of the sources' sizes and times, and of this
    code's; one of other sources is removed, one that is damaged is built anew.
    """
    parent = cache_folder(data)
    if parent is None:
        return build()
    code = [__file__, *sorted(Path(__file__).parent.glob("formats/*.py"))]
    stats = [(str(path), os.stat(path).st_size, os.stat(path).st_mtime_ns)
             for path in [*sources, *code]]
    paths = [str(path) for path in sources]
    request = f"{name}-{hash_of(options, paths, str(Path(data).resolve()))}"
    folder = parent / f"{request}-{hash_of(stats)}"
    with lock(parent / f"{request}.lock"):                     # one process of a node parses
        try:
            return load_table(folder)
        except (OSError, ValueError, TypeError, KeyError, EOFError):
            pass                                               # missing, damaged, of other fields
        for stale in parent.glob(f"{request}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        table = build()
        try:
            save_table(table, folder)
        except OSError as error:                               # a full disk, for one
            if not folder.is_dir():                            # and no other process was faster
                print(f"{folder}: not kept for the next time ({error.strerror or error})",
                      file=sys.stderr)
                return table
        return load_table(folder)


def hash_of(*values) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]


def cache_folder(data) -> Path | None:
    """The first folder that can be written: beside the data, or the user's own."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ovstad"
    for folder in (Path(data) / ".ovstad_cache", user):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return None


def lock(path):
    """A file that holds its lock until it is closed, where the system and the disk allow one."""
    try:
        import fcntl                                           # not on Windows
        file = open(path, "w")
        fcntl.flock(file, fcntl.LOCK_EX)
        return file
    except (ImportError, OSError):
        return nullcontext()


def save_table(table: Annotations, folder: Path) -> None:
    """A folder of one .npy file an array and rest.json; it appears complete or not at all."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        rest = {k: v for k, v in vars(table).items() if k not in ("files", "cache")}
        arrays = [name for name, value in rest.items() if isinstance(value, np.ndarray)]
        for name in arrays:
            np.save(part / f"{name}.npy", rest.pop(name))
        rest["arrays"] = arrays
        (part / "rest.json").write_text(json.dumps(rest), encoding="utf-8")
        os.rename(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load_table(folder) -> Annotations:
    """A saved table, its arrays mapped read-only; OSError or ValueError if it is damaged."""
    rest = json.loads((Path(folder) / "rest.json").read_text(encoding="utf-8"))
    arrays = {name: np.load(Path(folder) / f"{name}.npy", mmap_mode="r")
              for name in rest.pop("arrays")}
    if len({len(arrays[name]) for name in ROW_ARRAYS if name in arrays}) > 1:
        raise ValueError(f"{folder}: its arrays differ in length")
    table = Annotations(**rest, **arrays)
    table.cache = str(folder)
    return table
