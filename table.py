"""The table (video, keyframe, box, text): what every dataset is read into, and its cache on disk."""

import hashlib
import json
import os
import re
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
    files: list[str] = field(default_factory=list)       # per video: a file or a folder of frames;
                                                         # "" if not on disk
    start_sec: np.ndarray | None = None                  # (videos,) float32, seconds cut off the
                                                         # file's start (AVA: 900)
    size: np.ndarray | None = None                       # (videos, 2) int32 width, height of pixel-annotated sets
    person: np.ndarray | None = None                     # (n,) int32, links the boxes of one person
                                                         # in a video, or -1
    ids: list[int] | None = None                         # official id of each text; default: its 1-based place
    in_seconds: np.ndarray | None = None                 # (videos,) bool, only where `merge` mixed the two units
    faults: list[str] = field(default_factory=list)      # what the official files got wrong, and what became of it
    cache: str = field(default="", init=False)           # the file that the arrays are mapped from;
                                                         # copies have none

    def __len__(self) -> int:
        return len(self.video)

    def __getstate__(self) -> dict:
        """A loader's worker receives the name of the mapped file, not the rows: all of them share its pages."""
        return {k: v for k, v in vars(self).items() if not (self.cache and k in ROW_ARRAYS)}

    def __setstate__(self, state: dict) -> None:
        mapped = load_table(state["cache"])[0] if state.get("cache") else None
        vars(self).update({k: getattr(mapped, k) for k in ROW_ARRAYS} if mapped else {}, **state)

    def unit_of(self, video: int) -> str:
        """What the keyframes of one video count: "frame" or "second"."""
        if self.in_seconds is None:
            return self.unit
        return "second" if self.in_seconds[video] else "frame"

    def select(self, rows: np.ndarray) -> "Annotations":
        """The same videos and texts with only some rows: a mask (n,), or row numbers in ascending order."""
        person = None if self.person is None else self.person[rows]
        return replace(self, video=self.video[rows], keyframe=self.keyframe[rows], box=self.box[rows],
                       text=self.text[rows], person=person)

    def on_disk(self) -> "Annotations":
        """The rows whose video is there; FileNotFoundError if none is."""
        there = np.array([bool(file) for file in self.files], bool)
        if not there.any():
            such = f" ({self.videos[0]}, ...)" if self.videos else ""
            raise FileNotFoundError(f"none of the {len(self.videos)} videos is there{such}")
        return self if there.all() else self.select(there[self.video])

    def keyframe_starts(self) -> np.ndarray:
        """First row of each (video, keyframe), and n at the end: (keyframes + 1,) int64."""
        n = len(self)
        new = np.ones(n + 1, bool)
        new[1:n] = (np.diff(self.video) != 0) | (np.diff(self.keyframe) != 0)
        return np.flatnonzero(new) if n else np.zeros(1, np.int64)


ROW_ARRAYS = ("video", "keyframe", "box", "text", "person")


def make_annotations(videos, texts, video, keyframe, box, text, person=None, **rest) -> Annotations:
    """The table in its types and order from rows in any order; `rest` are its other fields."""
    second = rest.get("unit", "frame") == "second"
    table = Annotations(list(videos), list(texts), np.asarray(video, np.int32),
                        np.asarray(keyframe, np.float32 if second else np.int32),
                        np.asarray(box, np.float32).reshape(-1, 4), np.asarray(text, np.int32),
                        person=None if person is None else np.asarray(person, np.int32), **rest)
    return table.select(np.lexsort((table.keyframe, table.video)))


@dataclass
class Detections:
    """Boxes found on the keyframes of a table, one a row: a detector's proposals, or a model's (box, class) pairs."""

    video: np.ndarray             # (n,) int32, index into the table's `videos`
    keyframe: np.ndarray          # (n,) in the table's unit: 0-based frame_idx, or seconds
    box: np.ndarray               # (n, 4) float32 or float64, xyxy in [0, 1]
    score: np.ndarray             # (n,) float, any real number; a logit keeps more order than a sigmoid
    label: np.ndarray | None = None          # (n,) int32, index into the table's `texts`; proposals have none

    def __len__(self) -> int:
        return len(self.video)

    def select(self, rows: np.ndarray) -> "Detections":
        """Only some rows: a mask (n,), or row numbers."""
        return Detections(*(None if column is None else column[rows] for column in vars(self).values()))


def keyframe_key(video: np.ndarray, keyframe: np.ndarray) -> np.ndarray:
    """One int64 for each (video, keyframe), in the table's order; seconds are compared to the millisecond."""
    if keyframe.dtype.kind == "f":
        keyframe = keyframe.astype(np.float32)                 # as the table keeps them
    milliseconds = np.rint(keyframe.astype(np.float64) * 1000).astype(np.int64)
    return (video.astype(np.int64) << 40) + milliseconds


def official_ids(truth: Annotations) -> list[int]:
    return truth.ids if truth.ids is not None else list(range(1, len(truth.texts) + 1))


def exact(box: np.ndarray) -> np.ndarray:
    """float64; a float32 box is brought back to the six decimals it was read from, for an exact IoU of 0.5."""
    box64 = box.astype(np.float64, copy=False)
    return np.round(box64, 6) if box.dtype == np.float32 else box64


def boxes_of(truth: Annotations, video: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(n, 4) float64 in the unit of the set's own annotation: pixels, to a thousandth, if sizes are known."""
    if truth.size is None:
        return exact(box)
    return np.round(exact(box) * np.tile(truth.size, 2)[video], 3)


def box_iou(a: np.ndarray, b: np.ndarray, pixel: int = 0) -> np.ndarray:
    """IoU of each row of a with the same row of b, (n, 4) float64. pixel 1: x2 and y2 belong to the box.

    The order of the additions is the official tools': another one moves exact halves.
    """
    sides = np.minimum(a[:, 2:], b[:, 2:]) + pixel - np.maximum(a[:, :2], b[:, :2])
    overlap = np.maximum(sides, 0).prod(axis=1)
    area_a, area_b = ((box[:, 2:] - box[:, :2] + pixel).prod(axis=1) for box in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):     # two empty boxes: nan, which matches nothing
        return overlap / (area_a + area_b - overlap)


def clip_boxes(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) cut to [0, 1], and a mask (n,) of those of which something is left."""
    boxes = np.clip(np.asarray(boxes, np.float64), 0, 1)       # NaN stays, and fails the comparison
    return boxes, (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])


def duplicates(*columns: np.ndarray) -> np.ndarray:
    """Mask (n,) of rows that repeat an earlier one in all columns, each (n,)."""
    order = np.lexsort(columns)                               # stable: the first of equal rows stays first
    same = np.zeros(len(order), bool)
    same[1:] = np.all([column[order][1:] == column[order][:-1] for column in columns], axis=0)
    repeated = np.zeros(len(order), bool)
    repeated[order] = same
    return repeated


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
    """A random share of the samples, a sample being all boxes of one sentence in one video (Table 4)."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction {fraction} is not in (0, 1]")
    sample = annotations.video.astype(np.int64) * (len(annotations.texts) + 1) + annotations.text
    samples, of_row = np.unique(sample, return_inverse=True)
    chosen = np.zeros(len(samples), bool)
    order = np.random.default_rng(seed).permutation(len(samples))
    chosen[order[:round(fraction * len(samples))]] = True
    return annotations.select(chosen[of_row])


def merge(sets: list[Annotations]) -> Annotations:
    """Alignment sets as one table: texts that are equal become one, videos are listed set by set."""
    texts, parts = {}, []
    first = np.cumsum([0] + [len(one.videos) for one in sets], dtype=np.int32)
    for one, offset in zip(sets, first):
        ids = np.array([texts.setdefault(text, len(texts)) for text in one.texts] + [-1], np.int32)
        parts.append((one.video + offset, one.keyframe, one.box, ids[one.text]))
    video, keyframe, box, text = (np.concatenate(column) for column in zip(*parts))
    units = {one.unit for one in sets}
    seconds = np.concatenate([np.full(len(one.videos), one.unit == "second") for one in sets])
    start = [np.zeros(len(s.videos), np.float32) if s.start_sec is None else s.start_sec for s in sets]
    if len(units) > 1:
        keyframe = keyframe.astype(np.float32)                 # whole frame numbers up to 16 million stay exact
    return Annotations([v for s in sets for v in s.videos], list(texts), video, keyframe, box, text,
                       unit=sets[0].unit if len(units) == 1 else "second",
                       in_seconds=seconds if len(units) > 1 else None,
                       files=[file for s in sets for file in s.files], start_sec=np.concatenate(start),
                       faults=[fault for s in sets for fault in s.faults])


# ---------------------------------------------------------------- the cache of parsed tables

CACHE_MAGIC = b"OVSTAD1\n"


def cached(data, name: str, sources: list, options: list, build) -> Annotations:
    """build() once: later calls, and other processes, map its arrays from a file and share their memory.

    The file is in `data`/.ovstad_cache (in the user's cache folder where that cannot be written). It
    counts only while the sources' sizes and times, the options and this code are what they were; one
    that is stale or damaged is built anew.
    """
    stats = [(str(path), os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in [*sources, __file__, *Path(__file__).parent.glob("formats/*.py")]]
    key = hashlib.sha256(json.dumps([options, stats]).encode()).hexdigest()
    request = [options, [str(path) for path in sources], str(Path(data).resolve())]
    label = hashlib.sha256(json.dumps(request).encode()).hexdigest()[:12]
    folder = cache_folder(data)
    if folder is None:
        return build()
    path = folder / f"{name}-{label}.table"
    with locked(path.with_suffix(".lock")):                    # one process of a node parses, the others wait
        try:
            table, found = load_table(path)
        except (OSError, ValueError, TypeError, KeyError):
            found = None                                       # absent, damaged, or of other fields
        if found != key:
            save_table(build(), path, key)
            table, _ = load_table(path)
        return table


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


@contextmanager
def locked(path):
    """Hold a file's lock, where the system and the file system have locks."""
    with open(path, "w") as file:
        try:
            import fcntl                                       # not on Windows
            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass
        yield


def save_table(table: Annotations, path: Path, key: str) -> None:
    """One flat file: magic, checksum of the rest, length of a JSON header, header, arrays.

    The arrays are at multiples of 64 bytes.
    """
    arrays = {k: np.ascontiguousarray(v) for k, v in vars(table).items() if isinstance(v, np.ndarray)}
    header = {k: v for k, v in vars(table).items() if k not in arrays and k not in ("files", "cache")}
    specs, offset = [], 0
    for k, array in arrays.items():
        specs.append([k, array.dtype.str, array.shape, offset])
        offset += -(-array.nbytes // 64) * 64
    header = json.dumps({"key": key, "fields": header, "arrays": specs}).encode()
    header += b" " * (-(len(CACHE_MAGIC) + 12 + len(header)) % 64)
    body = [len(header).to_bytes(8, "little"), header]
    for array in arrays.values():
        body += [array.reshape(-1).view(np.uint8).data, bytes(-array.nbytes % 64)]
    checksum = 0
    for part in body:
        checksum = zlib.crc32(part, checksum)
    part_path = path.with_suffix(f".{os.getpid()}.part")
    with open(part_path, "wb") as file:
        file.write(CACHE_MAGIC + checksum.to_bytes(4, "little"))
        file.writelines(body)
    os.replace(part_path, path)


def load_table(path) -> tuple[Annotations, str]:
    """A saved table, its arrays mapped read-only from the file, and its key; ValueError if the file is damaged."""
    raw = np.memmap(path, np.uint8, "r")                       # ValueError if empty
    start = len(CACHE_MAGIC) + 4
    if bytes(raw[:start]) != CACHE_MAGIC + zlib.crc32(raw[start:]).to_bytes(4, "little"):
        raise ValueError(f"{path}: damaged")
    end = start + 8 + int.from_bytes(bytes(raw[start:start + 8]), "little")
    header = json.loads(bytes(raw[start + 8:end]))
    arrays = {}
    for k, dtype, shape, offset in header["arrays"]:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        arrays[k] = raw[end + offset:end + offset + count].view(dtype).reshape(shape)
    table = Annotations(**header["fields"], **arrays)
    table.cache = str(path)
    return table, header["key"]
