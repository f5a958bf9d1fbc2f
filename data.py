"""The data: every dataset as one table of (video, keyframe, box, text), and the clips around its keyframes.

A reader turns official files into `Annotations`; one `Dataset` serves them all. Boxes are xyxy in
[0, 1] of the picture from here on; classes travel as names, and ids exist only in official files.
"""

import csv
import functools
import gzip
import json
import math
import os
import pickle
import re
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from ovstad import IMAGENET_MEAN, IMAGENET_STD


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
    in_seconds: np.ndarray | None = None                 # (videos,) bool, only where `merge` mixed the two units
    faults: list[str] = field(default_factory=list)      # what the official files got wrong, and what became of it

    def __len__(self) -> int:
        return len(self.video)

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

    def keyframe_starts(self) -> np.ndarray:
        """First row of each (video, keyframe), and n at the end: (keyframes + 1,) int64."""
        n = len(self)
        new = np.ones(n + 1, bool)
        new[1:n] = (np.diff(self.video) != 0) | (np.diff(self.keyframe) != 0)
        return np.flatnonzero(new) if n else np.zeros(1, np.int64)


def make_annotations(videos, texts, video, keyframe, box, text, person=None, **rest) -> Annotations:
    """The table in its types and order from rows in any order; `rest` are its other fields."""
    second = rest.get("unit", "frame") == "second"
    table = Annotations(list(videos), list(texts), np.asarray(video, np.int32),
                        np.asarray(keyframe, np.float32 if second else np.int32),
                        np.asarray(box, np.float32).reshape(-1, 4), np.asarray(text, np.int32),
                        person=None if person is None else np.asarray(person, np.int32), **rest)
    return table.select(np.lexsort((table.keyframe, table.video)))


# ---------------------------------------------------------------- opening videos

@functools.lru_cache(maxsize=4096)
def packet_index(path: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Times (pts) of all frames in display order, and those of the key frames, from the packets alone.

    Frame i of a full decode is the i-th time. None where packets do not tell: MPEG-4 in AVI packs
    several frames into a packet, so there frames can only be counted from the start.
    """
    with av.open(path) as container:
        stream = container.streams.video[0]
        if container.format.name == "avi" and stream.codec_context.has_b_frames:
            return None
        packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.size and not p.is_discard]
    if not packets or any(pts is None for pts, _ in packets):
        return None
    pts = np.array([pts for pts, _ in packets], np.int64)
    keys = np.sort(pts[np.array([key for _, key in packets], bool)])
    pts.sort()
    return (pts, keys) if len(np.unique(pts)) == len(pts) else None


class VideoReader:
    """Clips of one video file, each frame decoded and scaled once as long as clips are asked for in order.

    short_side: scale frames while converting them, so that the shorter side has that many pixels; None
    keeps the size. multiple: round both sides to multiples of it (the patch). Frames come upright (rotation
    metadata applied), RGB, uint8. `decoded`, `seeks` and `converted` count the work done.
    """

    def __init__(self, path: str, short_side: int | None = None, multiple: int = 1):
        self.path, self.short_side, self.multiple = path, short_side, multiple
        self.decoded = self.seeks = self.converted = 0
        self._open()
        stream, rate = self.stream, self.stream.average_rate or self.stream.guessed_rate or 25
        self.second = 1 / stream.time_base                   # one second, in the stream's units
        self.frame = self.second / rate                      # one frame, on average
        self.start = stream.start_time or 0
        self.reformatter = VideoReformatter()

    def _open(self) -> None:
        try:
            self.container = av.open(self.path)
        except av.error.FFmpegError as error:
            raise ValueError(f"{self.path}: not a video that can be opened ({error.strerror})") from None
        if not self.container.streams.video:
            raise ValueError(f"{self.path}: has no video stream")
        self.stream = self.container.streams.video[0]
        self.stream.codec_context.thread_count = 1           # loader workers are the parallelism
        self.frames = self.container.decode(self.stream)
        self.buffer: list[tuple] = []                        # (position, frame), decoded and perhaps wanted again
        self.pixels: dict = {}                               # position -> RGB, converted and perhaps wanted again
        self.from_start, self.ended, self.count = True, False, 0

    def close(self) -> None:
        self.container.close()

    def clip(self, frame_idx: int, frames: int = 8, stride: int = 1) -> np.ndarray:
        """(T, H, W, 3) uint8: frame_idx (0-based, display order) at place T // 2, the ends repeated beyond the video."""
        wanted = frame_idx + (np.arange(frames) - frames // 2) * stride
        index = packet_index(self.path)
        if index is None:                                    # positions are counts
            wanted = np.maximum(wanted, 0)
            window = self._window(int(wanted[0]), int(wanted[-1]), ordinal=True)
        else:                                                # positions are times
            pts, keys = index
            wanted = pts[np.clip(wanted, 0, len(pts) - 1)]
            window = self._window(int(wanted[0]), int(wanted[-1]), keys)
        position = np.array([position for position, _ in window])
        return self._convert([window[max(i, 0)] for i in np.searchsorted(position, wanted, "right") - 1])

    def clip_at(self, second: float, frames: int = 8, stride: int = 1) -> np.ndarray:
        """As clip(), around the frame that is on screen `second` seconds after the video's first frame."""
        if self.stream.codec_context.has_b_frames and self.container.format.name == "avi":
            return self.clip(math.floor(second * self.second / self.frame + 1e-6), frames, stride)
        target = self.start + second * self.second
        before, after = frames // 2 * stride, (frames - 1 - frames // 2) * stride
        margin = 1.5
        while True:                                          # frames may be spaced unevenly: look further if too few
            window = self._window(target - margin * (before + 1) * self.frame,
                                  target + margin * (after + 1) * self.frame)
            centre = max(sum(position <= target for position, _ in window) - 1, 0)
            if ((centre >= before or self.from_start) and (centre + after < len(window) or self.ended)):
                wanted = np.clip(centre + np.arange(-before, after + 1, stride), 0, len(window) - 1)
                return self._convert([window[i] for i in wanted])
            margin *= 2

    def _window(self, low, high, keys: np.ndarray | None = None, ordinal: bool = False) -> list[tuple]:
        """The frames on screen from position low to high, in display order, in one pass of the decoder."""
        last = self.buffer[-1][0] if self.buffer else None
        if last is None or (self.buffer[0][0] > low and not self.from_start):
            seek = last is not None or low > self.start
        elif low <= last or self.ended or ordinal:
            seek = False
        elif keys is not None:                               # go on decoding unless a key frame lies on the way
            seek = np.searchsorted(keys, low, "right") > np.searchsorted(keys, last, "right")
        else:
            seek = low - last > self.second
        if seek:
            self._seek(low, ordinal)
        self._forget(low)
        while not self.ended and (not self.buffer or self.buffer[-1][0] < high):
            self._decode(ordinal)
            self._forget(low)
        if not self.buffer:
            raise ValueError(f"{self.path}: no frame can be decoded")
        return list(self.buffer)

    def _seek(self, low, ordinal: bool) -> None:
        """Put the decoder at the key frame before position low, or at the start."""
        back = 0
        while not ordinal and low - back > self.start:
            self.seeks += 1
            try:
                self.container.seek(int(low - back), stream=self.stream, backward=True)
            except av.error.FFmpegError:
                break                                        # not seekable: from the start
            self.buffer, self.pixels, self.from_start, self.ended = [], {}, False, False
            self.frames = self.container.decode(self.stream)
            self._decode(ordinal)
            if self.buffer and self.buffer[0][0] <= low:
                return
            back = max(2 * back, float(self.second))         # some containers land late: further back
        self.close()
        self._open()

    def _decode(self, ordinal: bool) -> None:
        try:
            frame = next(self.frames)
        except (StopIteration, av.error.FFmpegError):        # the end, or damage that ends a full decode as well
            self.ended = True
            return
        position = self.count if ordinal else frame.pts
        self.decoded, self.count = self.decoded + 1, self.count + 1
        if position is not None:
            self.buffer.append((position, frame))

    def _forget(self, low) -> None:
        """Drop frames that have left the screen at position low."""
        while len(self.buffer) > 1 and self.buffer[1][0] <= low:
            self.pixels.pop(self.buffer.pop(0)[0], None)
            self.from_start = False

    def _convert(self, chosen: list[tuple]) -> np.ndarray:
        for position, frame in chosen:
            if position not in self.pixels:
                quarter_turns = round(frame.rotation / 90) % 4
                width, height = scaled_size(frame.width, frame.height, self.short_side, self.multiple)
                rgb = self.reformatter.reformat(frame, width, height, "rgb24", interpolation="BILINEAR", threads=1)
                self.pixels[position] = np.rot90(rgb.to_ndarray(), quarter_turns)
                self.converted += 1
        return np.stack([self.pixels[position] for position, _ in chosen])


@functools.lru_cache(maxsize=4096)
def numbered_frames(folder: str) -> list[str]:
    """The JPEG and PNG files of a folder in the order of the last number in their names."""
    numbered = []
    for entry in os.scandir(folder):
        stem, suffix = os.path.splitext(entry.name)
        digits = re.findall(r"\d+", stem)
        if suffix.lower() in (".jpg", ".jpeg", ".png") and digits:
            numbered.append((int(digits[-1]), entry.path))
    if not numbered:
        raise ValueError(f"{folder}: a folder without numbered .jpg or .png frames; name them 00001.jpg and so on")
    return [path for _, path in sorted(numbered)]


class FolderReader:
    """VideoReader's twin for a folder of numbered frames; `fps` places seconds (AVA's frames: 30)."""

    def __init__(self, path: str, short_side: int | None = None, multiple: int = 1, fps: float = 30.0):
        self.path, self.short_side, self.multiple, self.fps = path, short_side, multiple, fps
        self.files = numbered_frames(path)
        self.decoded = self.seeks = self.converted = 0
        self.pixels: dict = {}

    def close(self) -> None:
        self.pixels.clear()

    def clip(self, frame_idx: int, frames: int = 8, stride: int = 1) -> np.ndarray:
        wanted = np.clip(frame_idx + (np.arange(frames) - frames // 2) * stride, 0, len(self.files) - 1).tolist()
        self.pixels = {i: self.pixels[i] if i in self.pixels else self._read(i) for i in sorted(set(wanted))}
        return np.stack([self.pixels[i] for i in wanted])

    def clip_at(self, second: float, frames: int = 8, stride: int = 1) -> np.ndarray:
        return self.clip(round(second * self.fps), frames, stride)

    def _read(self, index: int) -> np.ndarray:
        self.decoded, self.converted = self.decoded + 1, self.converted + 1
        try:
            with Image.open(self.files[index]) as image:
                size = scaled_size(*image.size, self.short_side, self.multiple)
                image.draft("RGB", size)                     # JPEG: decode at the nearest larger eighth
                return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))
        except OSError as error:
            raise ValueError(f"{self.files[index]}: not a picture that can be read ({error})") from None


def scaled_size(width: int, height: int, short_side: int | None, multiple: int = 1) -> tuple[int, int]:
    """(width, height) with the shorter side at short_side, the aspect kept, both rounded to the multiple."""
    scale = short_side / min(width, height) if short_side else 1.0
    return tuple(max(round(side * scale / multiple), 1) * multiple for side in (width, height))


def open_video(path: str, short_side: int | None = None, multiple: int = 1) -> VideoReader | FolderReader:
    """A reader for a video file or a folder of numbered frames."""
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: no such video file or folder of frames")
    return (FolderReader if os.path.isdir(path) else VideoReader)(path, short_side, multiple)


def read_clip(video: str, frame_idx: int, frames: int = 8, stride: int = 1, short_side: int | None = None) -> np.ndarray:
    """(T, H, W, 3) uint8 RGB frames of a video file or folder, `stride` apart, in display order.

    The 0-based frame_idx stands at place T // 2; beyond the ends the first or last frame repeats.
    """
    reader = open_video(video, short_side)
    try:
        return reader.clip(frame_idx, frames, stride)
    finally:
        reader.close()


# ---------------------------------------------------------------- clips and their transforms

def augment(video: np.ndarray, boxes: np.ndarray, crop: int, rng: np.random.Generator):
    """Random crop and horizontal flip of a clip, the same for all its frames, boxes following the pixels.

    video (T, H, W, 3) uint8, boxes (N_b, 4) in [0, 1] -> video (T, 3, crop, crop), boxes, kept (N_b,) bool
    and whether it was flipped. A box is kept while at least half of its area stays in the picture (not in the paper).
    """
    T, H, W, _ = video.shape
    clip = tv_tensors.Video(torch.from_numpy(video).permute(0, 3, 1, 2))
    pixel = torch.from_numpy(boxes * np.float32([W, H, W, H]))
    pixel = tv_tensors.BoundingBoxes(pixel, format="XYXY", canvas_size=(H, W))
    area = (pixel[:, 2:] - pixel[:, :2]).prod(1)
    window = [int(rng.integers(0, H - crop + 1)), int(rng.integers(0, W - crop + 1)), crop, crop]  # top, left, h, w
    clip, pixel = v2.functional.crop(clip, *window), v2.functional.crop(pixel, *window)
    flipped = bool(rng.random() < 0.5)
    if flipped:
        clip, pixel = v2.functional.horizontal_flip(clip), v2.functional.horizontal_flip(pixel)
    pixel = pixel.as_subclass(torch.Tensor).clamp(0, crop)
    kept = (pixel[:, 2:] - pixel[:, :2]).prod(1) >= 0.5 * area
    return clip.as_subclass(torch.Tensor).contiguous(), (pixel / crop).numpy(), kept.numpy(), flipped


def normalise(video: torch.Tensor, jitter: torch.Tensor | None = None) -> torch.Tensor:
    """uint8 clips (B, T, 3, H, W), on any device -> float, with ImageNet's mean and deviation taken out.

    jitter (B, 3): factors of brightness, contrast and saturation, one set a clip; v2.ColorJitter has one a call.
    """
    x = video.float() / 255
    if jitter is not None:
        grey_weight = x.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
        brightness, contrast, saturation = jitter.to(x.device).view(-1, 3, 1, 1, 1, 1).unbind(1)
        x = (x * brightness).clamp(0, 1)
        mean_grey = (x * grey_weight).sum(2, keepdim=True).mean((1, 3, 4), keepdim=True)
        x = (mean_grey + (x - mean_grey) * contrast).clamp(0, 1)
        grey = (x * grey_weight).sum(2, keepdim=True)
        x = (grey + (x - grey) * saturation).clamp(0, 1)
    return (x - x.new_tensor(IMAGENET_MEAN).view(3, 1, 1)) / x.new_tensor(IMAGENET_STD).view(3, 1, 1)


def swap_left_right(text: str) -> str:
    """The text as it is true of the mirrored picture: the whole words left and right exchanged."""
    swap = {"left": "right", "right": "left", "Left": "Right", "Right": "Left", "LEFT": "RIGHT", "RIGHT": "LEFT"}
    return re.sub(r"\b(left|right)\b", lambda word: swap.get(word[0], word[0]), text, flags=re.IGNORECASE)


class ClipDataset(torch.utils.data.Dataset):
    """One item a keyframe of the table: the clip around it, its boxes and each box's texts.

    Training (crop given): an item is asked for as (place, seed), and everything random about it
    follows from the seed. Testing: an item is asked for by its place. An item is a dict:
    video uint8 (T, 3, H, W); boxes (N_b, 4) float32; labels (P, 2) int64 pairs (box, text); keyframe,
    its place; jitter (3,) when training. A clip that cannot be read is {"bad": "video: reason"}.
    """

    def __init__(self, annotations: Annotations, frames: int, stride: int, short_side: int = 256, patch: int = 16,
                 crop: int | None = None, scale: tuple[int, int] = (256, 320), mirror_texts: bool = True):
        self.table, self.frames, self.stride = annotations, frames, stride
        self.short_side, self.patch, self.crop, self.scale = short_side, patch, crop, scale
        if crop and min(scale) < crop:
            raise ValueError(f"--scale {scale[0]} {scale[1]}: the short side must not be below the crop of {crop} pixels")
        self.first_row = annotations.keyframe_starts()
        self.texts, self.mirrored = list(annotations.texts), np.arange(len(annotations.texts), dtype=np.int32)
        place = {text: i for i, text in enumerate(self.texts)}
        for i, text in enumerate(annotations.texts):         # texts with "left" or "right" get a mirrored twin
            twin = swap_left_right(text)
            if twin != text and (mirror_texts or twin in place):
                self.mirrored[i] = place.setdefault(twin, len(place))
        self.texts = list(place)
        self.reader, self.reader_path = None, None           # of the last video, kept while testing in order

    def __len__(self) -> int:
        return len(self.first_row) - 1

    def name(self, place: int) -> str:
        row = self.first_row[place]
        video, keyframe = self.table.video[row], self.table.keyframe[row]
        time = f"frame {keyframe:g}" if self.table.unit_of(video) == "frame" else f"{keyframe:g} s"
        return f"{self.table.videos[video]} {time}"

    def boxes_of(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Distinct boxes (N_b, 4) of a keyframe, and (P, 2) pairs of a box and a text that is true of it."""
        rows = slice(self.first_row[place], self.first_row[place + 1])
        box, text = self.table.box[rows], self.table.text[rows]
        real = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
        box, which = np.unique(box[real], axis=0, return_inverse=True)
        labels = np.stack([which.reshape(-1), text[real]], 1)
        return box, labels[labels[:, 1] >= 0]

    def read(self, place: int, short_side: int, multiple: int = 1, keep_open: bool = False) -> np.ndarray:
        """The clip (T, H, W, 3) around a keyframe."""
        row = self.first_row[place]
        video, keyframe = self.table.video[row], self.table.keyframe[row]
        path = self.table.files[video]
        if not path:
            raise FileNotFoundError(f"{self.table.videos[video]}: no such video on disk")
        if path != self.reader_path:
            self.reader, self.reader_path = open_video(path, short_side, multiple), path
        if self.table.unit_of(video) == "frame":
            clip = self.reader.clip(int(keyframe), self.frames, self.stride)
        else:
            start = 0.0 if self.table.start_sec is None else float(self.table.start_sec[video])
            clip = self.reader.clip_at(float(keyframe) - start, self.frames, self.stride)
        if not keep_open:
            self.reader.close()
            self.reader, self.reader_path = None, None
        return clip

    def __getitem__(self, item: int | tuple[int, int]) -> dict:
        place, seed = (item, None) if self.crop is None else item
        boxes, labels = self.boxes_of(place)
        rng = np.random.default_rng(seed)
        try:
            if self.crop is None:
                clip = self.read(place, self.short_side, self.patch, keep_open=True)
                return {"video": torch.from_numpy(clip).permute(0, 3, 1, 2).contiguous(), "keyframe": place,
                        "boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)}
            clip = self.read(place, int(rng.integers(self.scale[0], self.scale[1] + 1)))
        except (ValueError, OSError) as error:
            self.reader, self.reader_path = None, None
            item = {"bad": f"{self.name(place)}: {error}", "keyframe": place}
            if self.crop is not None:                        # in training a black clip without boxes takes its place
                item |= {"video": torch.zeros(self.frames, 3, self.crop, self.crop, dtype=torch.uint8),
                         "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, 2, dtype=torch.long), "jitter": torch.ones(3)}
            return item
        video, boxes, kept, flipped = augment(clip, boxes, self.crop, rng)
        labels = labels[kept[labels[:, 0]]]
        labels[:, 0] = (np.cumsum(kept) - 1)[labels[:, 0]]   # places among the kept boxes
        if flipped:
            labels[:, 1] = self.mirrored[labels[:, 1]]
        jitter = rng.uniform(0.8, 1.2, 3).astype(np.float32)  # not in the paper: 20 % either way
        return {"video": video, "keyframe": place, "boxes": torch.from_numpy(boxes[kept]),
                "labels": torch.from_numpy(labels), "jitter": torch.from_numpy(jitter)}


def collate(items: list[dict]) -> list[dict]:
    """Batches of items, one for each size of clip (training has one size); the first names the bad ones.

    A batch: video (B, T, 3, H, W) uint8, boxes B tensors (N_b, 4), labels (P, 2) pairs of a place among the
    batch's N boxes and a text, jitter (B, 3) or None, keyframe (B,), bad list of str. If no clip of a
    test batch can be read, its video is None.
    """
    sizes: dict = {}
    for item in items:
        if "video" in item:
            sizes.setdefault(item["video"].shape, []).append(item)
    batches = []
    for group in sizes.values():
        offset = np.cumsum([0] + [len(item["boxes"]) for item in group])
        batches.append({
            "video": torch.stack([item["video"] for item in group]),
            "boxes": [item["boxes"] for item in group],
            "labels": torch.cat([item["labels"] + torch.tensor([first, 0]) for item, first in zip(group, offset)]),
            "jitter": torch.stack([item["jitter"] for item in group]) if "jitter" in group[0] else None,
            "keyframe": [item["keyframe"] for item in group], "bad": []})
    if not batches:
        batches = [{"video": None, "boxes": [], "labels": torch.zeros(0, 2, dtype=torch.long), "jitter": None,
                    "keyframe": [], "bad": []}]
    batches[0]["bad"] = [item["bad"] for item in items if "bad" in item]
    return batches


class GlobalBatches(torch.utils.data.Sampler):
    """This process's share of every global batch: lists of (place, seed), for the steps from `start` on.

    Which sample stands at which place of which global batch, and its seed, depend on nothing but
    the seed: not on the number of processes, of workers, or of interruptions.
    """

    def __init__(self, samples: int, batch_size: int, steps: int, seed: int = 0, start: int = 0, rank: int = 0, world: int = 1):
        if samples == 0:
            raise ValueError("there is no keyframe to train on: the annotations, after all selections, are empty")
        if batch_size % world:
            raise ValueError(f"--batch-size {batch_size} is global and must divide among {world} processes")
        self.samples, self.batch_size, self.steps = samples, batch_size, steps
        self.seed, self.start, self.rank, self.share = seed, start, rank, batch_size // world

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self):
        epoch, order = -1, None
        for step in range(self.start, self.steps):
            first = step * self.batch_size + self.rank * self.share
            batch = []
            for place in range(first, first + self.share):
                if place // self.samples != epoch:
                    epoch = place // self.samples
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.samples)
                batch.append((int(order[place % self.samples]), hash_seed(self.seed, place)))
            yield batch


def hash_seed(seed: int, place: int) -> int:
    """A well mixed 64-bit seed for one place of the whole run."""
    return int(np.random.SeedSequence([seed, place]).generate_state(1, np.uint64)[0])


# ---------------------------------------------------------------- class names, in words and in official order

UCF101_24 = [
    "basketball", "basketball dunk", "biking", "cliff diving", "cricket bowling", "diving", "fencing",
    "floor gymnastics", "golf swing", "horse riding", "ice dancing", "long jump", "pole vault", "rope climbing",
    "salsa spin", "skate boarding", "skiing", "skijet", "soccer juggling", "surfing", "tennis swing",
    "trampoline jumping", "volleyball spiking", "walking with dog"]

JHMDB_21 = [
    "brush hair", "catch", "clap", "climb stairs", "golf", "jump", "kick ball", "pick", "pour", "pull up", "push",
    "run", "shoot ball", "shoot bow", "shoot gun", "sit", "stand", "swing baseball", "throw", "walk", "wave"]

# AVA's id of a name is its 1-based place: 1-14 pose, 15-63 person-object, 64-80 person-person
AVA_80 = [
    "bend/bow (at the waist)", "crawl", "crouch/kneel", "dance", "fall down", "get up", "jump/leap", "lie/sleep",
    "martial art", "run/jog", "sit", "stand", "swim", "walk", "answer phone", "brush teeth",
    "carry/hold (an object)", "catch (an object)", "chop", "climb (e.g., a mountain)", "clink glass",
    "close (e.g., a door, a box)", "cook", "cut", "dig", "dress/put on clothing", "drink",
    "drive (e.g., a car, a truck)", "eat", "enter", "exit", "extract", "fishing", "hit (an object)",
    "kick (an object)", "lift/pick up", "listen (e.g., to music)", "open (e.g., a window, a car door)", "paint",
    "play board game", "play musical instrument", "play with pets", "point to (an object)", "press",
    "pull (an object)", "push (an object)", "put down", "read", "ride (e.g., a bike, a car, a horse)", "row boat",
    "sail boat", "shoot", "shovel", "smoke", "stir", "take a photo", "text on/look at a cellphone", "throw",
    "touch (an object)", "turn (e.g., a screwdriver)", "watch (e.g., TV)", "work on a computer", "write",
    "fight/hit (a person)", "give/serve (an object) to (a person)", "grab (a person)", "hand clap", "hand shake",
    "hand wave", "hug (a person)", "kick (a person)", "kiss (a person)", "lift (a person)",
    "listen to (a person)", "play with kids", "push (another person)",
    "sing to (e.g., self, a person, a group)", "take (an object) from (a person)",
    "talk to (e.g., self, a person, a group)", "watch (a person)"]
AVA_NOT_EVALUATED = {2, 16, 18, 19, 21, 23, 25, 31, 32, 33, 35, 39, 40, 42, 44, 50, 53, 55, 71, 75}   # too rare
AVA_IDS = [i for i in range(1, 81) if i not in AVA_NOT_EVALUATED]      # official ids of the 60 evaluated classes
AVA_60 = [AVA_80[i - 1] for i in AVA_IDS]
AVA_TYPES = {"pose": range(1, 15), "object": range(15, 64), "person": range(64, 81)}
AVA_TRAIN_COUNTS = [   # (box, action) pairs of each of the 80 in AVA v2.2's training set, 862,663 in all
    8349, 157, 2321, 3267, 291, 1124, 245, 5356, 2117, 3337, 100323, 166357, 111, 40771, 3279, 20, 80451, 80, 36,
    268, 53, 786, 65, 184, 41, 342, 2335, 1188, 3025, 225, 53, 7, 79, 177, 35, 519, 668, 1251, 67, 118, 1297, 138,
    97, 94, 344, 387, 533, 2146, 4808, 62, 719, 222, 67, 2991, 60, 181, 415, 249, 17133, 137, 1993, 176, 777, 2695,
    1073, 2003, 1187, 619, 351, 1103, 50, 714, 400, 106816, 127, 355, 1643, 608, 110267, 168148]

# not in the paper: its list of novel classes is a picture (Figure 4), so this one is rebuilt by `ov_ava_novel`
OV_AVA_NOVEL = [
    "dance", "fall down", "walk", "climb (e.g., a mountain)", "cut", "drink", "open (e.g., a window, a car door)",
    "ride (e.g., a bike, a car, a horse)", "sail boat", "text on/look at a cellphone",
    "turn (e.g., a screwdriver)", "kiss (a person)", "push (another person)",
    "sing to (e.g., self, a person, a group)", "talk to (e.g., self, a person, a group)"]


def ov_ava_novel(counts: list[int] = AVA_TRAIN_COUNTS) -> list[str]:
    """AVA's 15 novel classes by the paper's principles: 3:1 overall and in each type, both equally long-tailed.

    counts: training pairs of the 80 classes. The k novel classes of a type's n, sorted from the most
    frequent, stand at ranks floor((i + 0.5) * n / k); names come back in official order.
    """
    novel = []
    for name, k in (("pose", 3), ("object", 8), ("person", 4)):
        ranked = sorted((i for i in AVA_TYPES[name] if i in AVA_IDS), key=lambda i: -counts[i - 1])
        novel += [ranked[(2 * i + 1) * len(ranked) // (2 * k)] for i in range(k)]
    return [AVA_80[i - 1] for i in sorted(novel)]


# ---------------------------------------------------------------- reading files that may be wrong

def clip_boxes(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) cut to [0, 1], and a mask (n,) of those of which something is left."""
    boxes = np.clip(np.asarray(boxes, np.float64), 0, 1)       # NaN stays, and fails the comparison
    return boxes, (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])


def check_boxes(boxes: np.ndarray, path, lines) -> None:
    """ValueError at the first of (n, 4) boxes that is not x1 < x2, y1 < y2 in [0, 1]; lines: (n,) of the file."""
    x1, y1, x2, y2 = np.asarray(boxes).T
    good = (0 <= x1) & (x1 < x2) & (x2 <= 1) & (0 <= y1) & (y1 < y2) & (y2 <= 1)
    pixels = "; these look like pixels: divide x by the picture's width, y by its height" if (boxes > 2).any() else ""
    complain(path, lines, ~good, lambda i: f"box {', '.join(f'{v:g}' for v in boxes[i])} is not x1 < x2, y1 < y2 "
                                           f"in [0, 1]{pixels}")


def complain(path, lines, bad: np.ndarray, message) -> None:
    """ValueError "path:line: message(i)" if any row i is bad (n,), with the number of the others."""
    if bad.any():
        i, more = int(bad.argmax()), int(bad.sum()) - 1
        raise ValueError(f"{path}:{lines[i]}: {message(i)}" + (f" (and {more} rows more)" if more else ""))


def csv_columns(path, widths: tuple[int, ...], texts: tuple[int, ...], numbers: tuple[int, ...], layout: str):
    """Columns of a CSV: line numbers (n,), one list of str a text column, numbers (n, k) float64.

    widths: how many columns a row may have; an absent or empty cell is "" or NaN. layout says in an
    error what a row should hold. Blank lines and a header (first cell "video") are skipped; .gz is read too.
    """
    lines, columns, parts = [], [[] for _ in texts], []
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rt", newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            numbered = ((reader.line_num, row) for row in reader if any(row))
            while chunk := list(islice(numbered, 65536)):          # chunks: a million rows of str would be heavy
                if not lines and chunk[0][1][0].strip().lower() in ("video", "video_id"):
                    chunk = chunk[1:]
                for line, row in chunk:
                    if len(row) not in widths:
                        raise ValueError(f"{path}:{line}: {len(row)} columns, expected {layout}")
                cells = [[row[c] if c < len(row) and row[c].strip() else "nan" for c in numbers] for _, row in chunk]
                try:
                    parts.append(np.array(cells, np.float64).reshape(-1, len(numbers)))
                except ValueError:
                    raise ValueError(first_non_number(path, chunk, cells, layout)) from None
                lines += [line for line, _ in chunk]
                for column, c in zip(columns, texts):
                    column += [row[c].strip() if c < len(row) else "" for _, row in chunk]
    except (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: not a text file in UTF-8 with commas ({error})") from None
    return np.array(lines, np.int64), columns, np.concatenate(parts or [np.zeros((0, len(numbers)))])


def first_non_number(path, chunk, cells, layout) -> str:
    for (line, _), row in zip(chunk, cells):
        for cell in row:
            try:
                float(cell)
            except ValueError:
                return f"{path}:{line}: {cell!r} is not a number; expected {layout}"


def places(names: list[str], known: list[str] | None = None) -> tuple[list[str], np.ndarray]:
    """Distinct names in order of appearance, and each name's place among them (n,); known: fixed list, else -1."""
    if known is not None:
        place = {name: i for i, name in enumerate(known)}
        return known, np.array([place.get(name, -1) for name in names], np.int32)
    place = {}
    at = np.array([place.setdefault(name, len(place)) for name in names], np.int32)
    return list(place), at


def duplicates(*columns: np.ndarray) -> np.ndarray:
    """Mask (n,) of rows that repeat an earlier one in all columns, each (n,)."""
    order = np.lexsort(columns)                               # stable: the first of equal rows stays first
    same = np.zeros(len(order), bool)
    same[1:] = np.all([column[order][1:] == column[order][:-1] for column in columns], axis=0)
    repeated = np.zeros(len(order), bool)
    repeated[order] = same
    return repeated


class SafeUnpickler(pickle.Unpickler):
    """Builds dicts, lists, tuples, sets of plain values and numpy arrays; refuses everything else by name."""

    # numpy's own rebuilding functions, taken from arrays so that no private module is imported
    rebuild = {function.__name__: function for function in (
        np.zeros(1).__reduce__()[0], np.float32(0).__reduce__()[0], np.zeros(1).__reduce_ex__(5)[0])}

    def find_class(self, module: str, name: str):
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric",
                      "numpy._core.numeric"):
            allowed = {"ndarray": np.ndarray, "dtype": np.dtype, **self.rebuild}
            if name in allowed:
                return allowed[name]
        if (module, name) == ("_codecs", "encode"):            # how Python 2 wrote the bytes of an array
            return lambda text, encoding: text.encode("latin1")
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise ValueError(f"holds {module}.{name}, which is neither data nor a numpy array; not loaded, because a "
                         "pickle can run code. If you trust where it came from, save it again as plain arrays")


def load_pickle(path):
    """The value in a pickle (also of Python 2) of plain values and arrays; ValueError on anything else in it."""
    try:
        with open(path, "rb") as file:
            return SafeUnpickler(file, encoding="latin1").load()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged or not a pickle ({error}); download it again") from None


def load_json(path):
    """The value in a JSON file; ValueError with the line where it is not one."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg}); download it again") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error})") from None


# ---------------------------------------------------------------- a user's own: the annotations CSV

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
    complain(path, lines, ~np.isnan(person) & (person != np.rint(person)), lambda i: f"person {person[i]:g} is not a whole number")

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


# ---------------------------------------------------------------- proposals: boxes that a detector found

@dataclass
class Proposals:
    """Detected human boxes in the places of an annotation table, sorted by (video, keyframe), best first."""

    video: np.ndarray             # (n,) int32, place in the table's `videos`
    keyframe: np.ndarray          # (n,) as the table's
    box: np.ndarray               # (n, 4) float32, xyxy in [0, 1]
    score: np.ndarray             # (n,) float32


def keyframe_keys(video: np.ndarray, keyframe: np.ndarray) -> np.ndarray:
    """One int64 for each (video, keyframe), in the table's order: seconds are told apart to the millisecond."""
    return (video.astype(np.int64) << 40) + np.rint(np.asarray(keyframe, np.float64) * 1000).astype(np.int64)


def read_proposals(path, annotations: Annotations, min_score: float = 0.0) -> Proposals:
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
        complain(path, lines, ~np.isfinite(numbers).all(axis=1), lambda i: f"a number is missing; expected {layout}")
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
    known = keyframe_keys(annotations.video, annotations.keyframe)
    key = keyframe_keys(video[rows], keyframe[rows] - (annotations.unit == "frame"))   # files count frames from 1
    at = np.searchsorted(known, key).clip(max=len(known) - 1)
    rows, at = rows[known[at] == key], at[known[at] == key]
    rows, at = (x[np.lexsort((-score[rows], at))] for x in (rows, at))
    once = ~duplicates(*box[rows].T, at)                       # LFB repeats a box for each of its labels
    rows, at = rows[once], at[once]
    return Proposals(annotations.video[at], annotations.keyframe[at], box[rows].astype(np.float32),
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
        raise ValueError(f"{path}: neither mmaction2's ('movie,second' -> (n, 5)), OpenMixer's (video -> boxes and "
                         f"scores) nor ACT's proposals, (n, 8) ({type(error).__name__}: {error})") from None
    rows = np.concatenate(arrays or [np.zeros((0, 5))])
    # OpenMixer marks a frame without detections by one box in pixels of score 0
    real = (rows[:, 4] > 0) | (rows[:, :4] <= 1.5).all(axis=1)
    names = [name for name, keep in zip(names, real) if keep]
    return names, np.array(keyframe)[real], rows[real, :4], rows[real, 4], np.flatnonzero(real)


def write_proposals(path, annotations: Annotations, proposals: Proposals) -> None:
    """The proposals CSV that `read_proposals` and AVA's tools read; the file appears complete or not at all."""
    first = 1 if annotations.unit == "frame" else 0
    part = Path(f"{path}.part")
    with open(part, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for v, k, box, score in zip(proposals.video, proposals.keyframe, proposals.box, proposals.score):
            writer.writerow([annotations.videos[v], f"{k + first:g}", *(f"{x:.5f}" for x in box), "", f"{score:.6f}"])
    os.replace(part, path)


def add_proposals(annotations: Annotations, proposals: Proposals, iou: float = 0.5) -> Annotations:
    """Training boxes: the ground truth and the proposals, each with the labels of the truth that it overlaps.

    A proposal takes every label (and the person) of the box of highest IoU in its keyframe if that is
    at least `iou`, else none: it becomes a row of text -1.
    """
    truth = annotations.select(annotations.text >= 0)
    keys = keyframe_keys(truth.video, truth.keyframe)
    key = keyframe_keys(proposals.video, proposals.keyframe)
    first, last = np.searchsorted(keys, key, "left"), np.searchsorted(keys, key, "right")
    count = last - first
    p = np.repeat(np.arange(len(key)), count)                  # every (proposal, row of its keyframe) pair
    row = np.arange(len(p)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    overlap = pair_iou(proposals.box[p], truth.box[row])
    order = np.lexsort((-overlap, p))
    best = order[np.unique(p[order], return_index=True)[1]]    # the pair of highest IoU of each proposal with any
    best_row = np.full(len(key), -1)
    best_row[p[best]] = np.where(overlap[best] >= iou, row[best], -1)
    taken = (best_row[p] >= 0) & (truth.box[row] == truth.box[best_row[p]]).all(axis=1)
    none = np.flatnonzero(best_row < 0)

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


def pair_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of each a[i] with b[i], both (n, 4) xyxy: (n,)."""
    side = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    area = [np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (a, b)]
    inner = side[:, 0] * side[:, 1]
    return inner / np.maximum(area[0] + area[1] - inner, 1e-12)
