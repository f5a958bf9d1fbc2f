"""The data: every dataset as one table of (video, keyframe, box, text), and the clips around its keyframes.

A reader turns official files into `Annotations`; one `Dataset` serves them all. Boxes are xyxy in
[0, 1] of the picture from here on; classes travel as names, and ids exist only in official files.
"""

import argparse
import csv
import functools
import hashlib
import json
import math
import os
import pickle
import re
import sys
import zlib
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
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
from torchvision.utils import draw_bounding_boxes, make_grid
from tqdm import tqdm

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


def open_container(path: str, **options):
    """PyAV's container and the video stream of a file or address; ValueError in one line where there is none."""
    try:
        container = av.open(path, **options)
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: not a video that can be opened ({error.strerror})") from None
    if not container.streams.video:
        container.close()
        raise ValueError(f"{path}: has no video stream")
    if container.streams.video[0].codec_context is None:
        container.close()
        raise ValueError(f"{path}: this FFmpeg has no decoder for its video")
    return container, container.streams.video[0]


def upright_rgb(frame: av.VideoFrame, width: int, height: int, reformatter: VideoReformatter) -> np.ndarray:
    """(H, W, 3) uint8 of a decoded frame: scaled to width x height, then turned as its rotation metadata says."""
    rgb = reformatter.reformat(frame, width, height, "rgb24", interpolation="BILINEAR", threads=1)
    return np.rot90(rgb.to_ndarray(), round(frame.rotation / 90) % 4)


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
        self.container, self.stream = open_container(self.path)
        self.stream.codec_context.thread_count = 1           # loader workers are the parallelism
        self.frames, self.needed = self._decoded(), -math.inf
        self.buffer: list[tuple] = []                        # (position, frame), decoded and perhaps wanted again
        self.pixels: dict = {}                               # position -> RGB, converted and perhaps wanted again
        self.from_start, self.ended, self.count = True, False, 0

    def close(self) -> None:
        self.container.close()

    def clip(self, frame_idx: int, frames: int = 8, stride: int = 1) -> np.ndarray:
        """(T, H, W, 3) uint8: frame_idx (0-based, display order) at place T // 2.

        The ends are repeated beyond the video.
        """
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
            last = self.stream.frames - 1 if self.stream.frames else math.inf
            return self.clip(min(math.floor(second * self.second / self.frame + 1e-6), last), frames, stride)
        target = self.start + second * self.second
        before, after = frames // 2 * stride, (frames - 1 - frames // 2) * stride
        margin = 1.1
        # frames may be spaced unevenly: look further if too few
        while True:
            low = target - margin * (before + 1) * self.frame
            window = self._window(low, target + margin * (after + 1) * self.frame)
            if not self.from_start:                          # before low, not every frame was decoded
                window = [entry for entry in window if entry[0] >= low]
            centre = sum(position <= target for position, _ in window) - 1
            if ((centre >= before or self.from_start) and (centre + after < len(window) or self.ended)):
                wanted = np.clip(max(centre, 0) + np.arange(-before, after + 1, stride), 0, len(window) - 1)
                return self._convert([window[i] for i in wanted])
            margin *= 2

    def _window(self, low, high, keys: np.ndarray | None = None, ordinal: bool = False) -> list[tuple]:
        """The frames on screen from position low to high, in display order, in one pass of the decoder."""
        last = self.buffer[-1][0] if self.buffer else None
        if last is None or (max(self.buffer[0][0], self.needed) > low and not self.from_start):
            seek = last is not None or low > self.start
        elif low <= last or self.ended or ordinal:
            seek = False
        elif keys is not None:                               # go on decoding unless a key frame lies on the way
            seek = np.searchsorted(keys, low, "right") > np.searchsorted(keys, last, "right")
        else:
            seek = low - last > self.second
        self.needed = -math.inf if ordinal else low
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
            self.frames = self._decoded()
            self._decode(ordinal)
            if self.buffer and self.buffer[0][0] <= low:
                return
            back = max(2 * back, float(self.second))         # some containers land late: further back
        self.close()
        self._open()

    def _decoded(self):
        """Frames in display order.

        Before the position that is `needed`, those that no other frame refers to are skipped.
        """
        for packet in self.container.demux(self.stream):
            skip = packet.pts is not None and packet.pts < self.needed
            self.stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"
            self.from_start &= not skip
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:                # a damaged packet costs its own frames
                continue
            yield from frames

    def _decode(self, ordinal: bool) -> None:
        try:
            frame = next(self.frames)
        except (StopIteration, av.error.FFmpegError):        # the end, or a file that cannot be read further
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
                size = scaled_size(frame.width, frame.height, self.short_side, self.multiple)
                self.pixels[position] = upright_rgb(frame, *size, self.reformatter)
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
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:          # SyntaxError: a damaged PNG
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


def read_clip(video: str, frame_idx: int, frames: int = 8, stride: int = 1,
              short_side: int | None = None) -> np.ndarray:
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
    and whether it was flipped. A box is kept while at least half of its area stays in the picture
    (not in the paper).
    """
    T, H, W, _ = video.shape
    clip = tv_tensors.Video(torch.from_numpy(video).permute(0, 3, 1, 2))
    pixel = torch.from_numpy(boxes * np.float32([W, H, W, H]))
    pixel = tv_tensors.BoundingBoxes(pixel, format="XYXY", canvas_size=(H, W))
    area = (pixel[:, 2:] - pixel[:, :2]).prod(1)
    # top, left, h, w
    window = [int(rng.integers(0, H - crop + 1)), int(rng.integers(0, W - crop + 1)), crop, crop]
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
    def beside(values):                                      # without making the host wait for the GPU
        return torch.as_tensor(values).to(video.device, non_blocking=True)

    x = video.float() / 255
    if jitter is not None:
        grey_weight = beside([0.299, 0.587, 0.114]).view(3, 1, 1)
        brightness, contrast, saturation = beside(jitter).view(-1, 3, 1, 1, 1, 1).unbind(1)
        x = (x * brightness).clamp(0, 1)
        mean_grey = (x * grey_weight).sum(2, keepdim=True).mean((1, 3, 4), keepdim=True)
        x = (mean_grey + (x - mean_grey) * contrast).clamp(0, 1)
        grey = (x * grey_weight).sum(2, keepdim=True)
        x = (grey + (x - grey) * saturation).clamp(0, 1)
    return (x - beside(IMAGENET_MEAN).view(3, 1, 1)) / beside(IMAGENET_STD).view(3, 1, 1)


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
        if crop and not crop <= scale[0] <= scale[1]:
            raise ValueError(f"--scale {scale[0]} {scale[1]}: expected MIN <= MAX, "
                             f"and MIN not below the crop of {crop} pixels")
        self.first_row = annotations.keyframe_starts()
        self.mirrored = np.arange(len(annotations.texts), dtype=np.int32)
        place = {text: i for i, text in enumerate(annotations.texts)}
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
        except (ValueError, OSError, av.error.FFmpegError) as error:
            self.reader, self.reader_path = None, None
            item = {"bad": f"{self.name(place)}: {error}", "keyframe": place}
            # in training a black clip without boxes takes its place
            if self.crop is not None:
                item |= {"video": torch.zeros(self.frames, 3, self.crop, self.crop, dtype=torch.uint8),
                         "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, 2, dtype=torch.long),
                         "jitter": torch.ones(3)}
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

    def __init__(self, samples: int, batch_size: int, steps: int, seed: int = 0, start: int = 0,
                 rank: int = 0, world: int = 1):
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
    pixels = ("; these look like pixels: divide x by the picture's width, y by its height"
              if (boxes > 2).any() else "")
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
    error what a row should hold. Blank lines and a header (first cell "video") are skipped.
    """
    width, lines, columns, parts = max(widths), [], [[] for _ in texts], []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            numbered = ((reader.line_num, row) for row in reader if row)
            while chunk := list(islice(numbered, 512)):        # short chunks: six times faster than long lists
                if not lines and chunk[0][1][0].strip().lower() in ("video", "video_id"):
                    chunk = chunk[1:]
                for line, row in chunk:
                    if len(row) not in widths:
                        raise ValueError(f"{path}:{line}: {len(row)} columns, expected {layout}")
                    lines.append(line)
                cells = list(zip(*(row + [""] * (width - len(row)) for _, row in chunk))) or [()] * width
                for column, c in zip(columns, texts):
                    column += map(str.strip, cells[c])
                try:
                    parts.append(np.array([[cell or "nan" for cell in cells[c]] for c in numbers], np.float64).T)
                except ValueError:
                    raise first_non_number(path, chunk, numbers, layout) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a text file in UTF-8 with commas ({error})") from None
    return np.array(lines, np.int64), columns, np.concatenate(parts or [np.zeros((0, len(numbers)))])


def first_non_number(path, chunk, numbers, layout) -> ValueError:
    for line, row in chunk:
        for cell in (row[c] for c in numbers if c < len(row) and row[c]):
            try:
                float(cell)
            except ValueError:
                return ValueError(f"{path}:{line}: {cell!r} is not a number; expected {layout}")


def places(names: list[str], known: list[str] | None = None) -> tuple[list[str], np.ndarray]:
    """Distinct names in order of appearance, and each name's place among them (n,); known: fixed list, else -1."""
    if known is not None:
        place = {name: i for i, name in enumerate(known)}
        return known, np.array([place.get(name, -1) for name in names], np.int32)
    place = {}
    at = np.array([place.setdefault(name, len(place)) for name in names], np.int32)
    return list(place), at


def listed(path, lines, bad: np.ndarray, reason: str) -> list[str]:
    """Faults "file:line: reason" of the bad rows (n,) of an official file: the first 100, and how many more."""
    rows = np.flatnonzero(bad)
    more = [f"{Path(path).name}: {len(rows) - 100} rows more: {reason}"] if len(rows) > 100 else []
    return [f"{Path(path).name}:{lines[i]}: {reason}" for i in rows[:100]] + more


def duplicates(*columns: np.ndarray) -> np.ndarray:
    """Mask (n,) of rows that repeat an earlier one in all columns, each (n,)."""
    order = np.lexsort(columns)                               # stable: the first of equal rows stays first
    same = np.zeros(len(order), bool)
    same[1:] = np.all([column[order][1:] == column[order][:-1] for column in columns], axis=0)
    repeated = np.zeros(len(order), bool)
    repeated[order] = same
    return repeated


class SafeUnpickler(pickle.Unpickler):
    """Builds dicts, lists, tuples, strings, numbers and numpy arrays; refuses everything else by name."""

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
    milliseconds = np.rint(np.asarray(keyframe, np.float32).astype(np.float64) * 1000)
    return (video.astype(np.int64) << 40) + milliseconds.astype(np.int64)


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
        raise ValueError(f"{path}: neither mmaction2's ('movie,second' -> (n, 5)), "
                         "OpenMixer's (video -> boxes and scores) nor ACT's proposals, (n, 8) "
                         f"({type(error).__name__}: {error})") from None
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
            writer.writerow([annotations.videos[v], np.format_float_positional(k + first, trim="-"),
                             *(f"{x:.5f}" for x in box), "", f"{score:.6f}"])
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


# ---------------------------------------------------------------- finding official files

VIDEO_SUFFIXES = {".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg"}
FRAME_FOLDERS = {"rgb-images", "Frames", "frames", "rawframes"}              # one folder of pictures a video below
SKIPPED_FOLDERS = {"brox-images", "FlowBrox04", "labels", ".ovstad_cache"}


def walk(root) -> tuple[list[Path], list[Path]]:
    """Every file below root, and every folder that holds frame folders.

    These are not entered: millions of files.
    """
    files, frames = [], []
    for folder, below, names in os.walk(root, followlinks=True):
        deep = len(Path(folder).relative_to(root).parts) >= 5
        frames += [Path(folder, name) for name in sorted(below) if name in FRAME_FOLDERS]
        below[:] = [] if deep else sorted(set(below) - FRAME_FOLDERS - SKIPPED_FOLDERS)
        files += [Path(folder, name) for name in sorted(names)]
    return files, frames


def find_file(files: list[Path], patterns: list[str], root, source: str) -> Path:
    """The first file that matches the earliest pattern (of `Path.match`); else what is missing and its source."""
    for pattern in patterns:
        for path in files:
            if path.match(pattern):
                return path
    raise FileNotFoundError(f"{' or '.join(patterns)} is not under {root}; get it from {source}")


def find_videos(keys: list[str], files: list[Path], frames: list[Path]) -> list[str]:
    """For each video key its frame folder, or the video file of that name in whichever folder; "" if neither."""
    stems = {path.stem: str(path) for path in reversed(files) if path.suffix.lower() in VIDEO_SUFFIXES}
    found = []
    for key in keys:
        name = key.rsplit("/", 1)[-1]
        name = name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in VIDEO_SUFFIXES else name
        folders = (folder / key for folder in frames)
        found.append(next((str(folder) for folder in folders if folder.is_dir()), stems.get(name, "")))
    return found


# ---------------------------------------------------------------- the cache of parsed tables

CACHE_MAGIC = b"OVSTAD1\n"


def cached(data, name: str, sources: list, options: list, build) -> Annotations:
    """build() once: later calls, and other processes, map its arrays from a file and share their memory.

    The file is in `data`/.ovstad_cache (in the user's cache folder where that cannot be written). It
    counts only while the sources' sizes and times, the options and this code are what they were; one
    that is stale or damaged is built anew.
    """
    stats = [(str(path), os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in [*sources, __file__]]
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


# ---------------------------------------------------------------- UCF101-24 and JHMDB-21

MOC = "https://github.com/MCG-NJU/MOC-Detector (its dataset section)"
GURKIRT = "https://github.com/gurkirt/corrected-UCF101-Annots"


def read_ucf101_24(data, split: str = "train") -> Annotations:
    """UCF101-24 from `UCF101v2-GT.pkl` (MOC's package), or from gurkirt's `pyannot.pkl` and `testlist01.txt`.

    The test split lists every frame of its videos: detections where nobody is annotated count as false.
    """
    check_split(split, ("train", "test"))
    files, frames = walk(data)
    path = find_file(files, ["UCF101v2-GT.pkl", "pyannot.pkl"], data, f"{MOC} or {GURKIRT}")
    if path.name == "pyannot.pkl":
        listing = find_file(files, ["testlist01.txt"], data, GURKIRT)
        table = cached(data, "ucf101-24", [path, listing], [split], lambda: gurkirt_table(path, listing, split))
    else:
        table = cached(data, "ucf101-24", [path], [split], lambda: act_table(path, UCF101_24, split, 1))
    table.files = find_videos(table.videos, files, frames)
    return table


def read_jhmdb_21(data, split: str = "train", part: int = 1) -> Annotations:
    """JHMDB-21 from `JHMDB-GT.pkl` (MOC's package); part: which of its three official divisions, from 1."""
    check_split(split, ("train", "test"))
    files, frames = walk(data)
    path = find_file(files, ["JHMDB-GT.pkl"], data, MOC)
    table = cached(data, "jhmdb-21", [path], [split, part], lambda: act_table(path, JHMDB_21, split, part))
    table.files = find_videos(table.videos, files, frames)
    return table


def check_split(split: str, known: tuple[str, ...]) -> None:
    if split not in known:
        raise ValueError(f"split {split!r} is not one of {', '.join(known)}")


def act_table(path, classes: list[str], split: str, part: int) -> Annotations:
    """ACT's ground truth: frames count from 1, boxes are x1 y1 x2 y2 in pixels, sizes are (height, width)."""
    found = load_pickle(path)
    keys = ("labels", "train_videos", "test_videos", "nframes", "resolution", "gttubes")
    missing = [key for key in keys if not isinstance(found, dict) or key not in found]
    if missing:
        raise ValueError(f"{path}: not ACT's ground truth: {', '.join(missing)} missing")
    parts = found[f"{split}_videos"]
    if not 1 <= part <= len(parts):
        raise ValueError(f"{path}: part {part} of {len(parts)}")
    # BasketballDunk, brush_hair -> place
    place = {re.sub(r"\W", "", name): i for i, name in enumerate(classes)}
    labels = [place.get(re.sub(r"[\W_]", "", str(label)).lower()) for label in found["labels"]]
    if None in labels:
        raise ValueError(f"{path}: unknown class {found['labels'][labels.index(None)]!r}; expected {classes}")
    videos, tubes, faults = list(parts[part - 1]), [], []
    for video in videos:
        by_label = found["gttubes"].get(video, {})
        tubes.append([(labels[int(label)], rows[:, 0].astype(int) - 1, rows[:, 1:5].astype(np.float64))
                      for label in sorted(by_label) for rows in map(np.asarray, by_label[label])])
        if not by_label:
            faults.append(f"{path.name}: {video}: listed, but has no boxes")
    size = [found["resolution"][video][::-1] for video in videos]
    return tube_table(path, videos, classes, tubes, [int(found["nframes"][video]) for video in videos], size,
                      split == "test", faults)


def gurkirt_table(path, listing, split: str) -> Annotations:
    """gurkirt's annotation: frames count from 0, boxes are x y w h in unsigned 8 or 16 bits."""
    found = load_pickle(path)
    with open(listing) as file:
        test = [re.sub(r"\.avi.*", "", line.strip()) for line in file if line.strip()]
    absent = [f"{listing.name}: {video} is not in {path.name}" for video in test if video not in found]
    test = [video for video in test if video in found]
    videos = test if split == "test" else sorted(map(str, set(found) - set(test)))
    tubes = []
    for video in videos:
        tubes.append([])
        for tube in found[video]["annotations"]:
            # cast first: uint8 x + w wraps
            xy, wh = np.split(np.asarray(tube["boxes"]).astype(np.float64), 2, axis=1)
            tubes[-1].append((int(tube["label"]), int(tube["sf"]) + np.arange(len(xy)), np.hstack([xy, xy + wh])))
    return tube_table(path, videos, UCF101_24, tubes, [int(found[video]["numf"]) for video in videos],
                      [(320, 240)] * len(videos), split == "test", absent if split == "test" else [])


def tube_table(path, videos, classes, tubes, n_frames, size, every_frame: bool, faults: list[str]) -> Annotations:
    """Rows from tubes[video] = [(class, frame_idx (n,), pixel boxes (n, 4)), ...].

    A tube's number is its person.
    """
    parts = [(np.zeros((0, 4)), *[np.zeros(0, np.int64)] * 4)]
    for v, video in enumerate(videos):
        empty = np.ones(n_frames[v], bool)
        for person, (label, frame, box) in enumerate(tubes[v]):
            box, good = clip_boxes(box / np.tile(np.asarray(size[v], np.float64), 2))
            inside = (frame >= 0) & (frame < n_frames[v])
            for bad, reason in ((~good, "outside the picture or empty"),
                                (~inside, f"outside frames 1 to {n_frames[v]}")):
                if bad.any():
                    faults.append(f"{path.name}: {video}: {bad.sum()} boxes of tube {person} {reason}, dropped")
            keep = good & inside
            parts.append((box[keep], frame[keep], *np.full((3, keep.sum()), [[v], [label], [person]])))
            empty[frame[keep]] = False
        if every_frame:
            n = empty.sum()
            parts.append((np.zeros((n, 4)), np.flatnonzero(empty), *np.full((3, n), [[v], [-1], [-1]])))
    box, frame, video, text, person = (np.concatenate(column) for column in zip(*parts))
    return make_annotations(videos, classes, video, frame, box, text, person, faults=faults,
                            size=np.array(size, np.int32).reshape(-1, 2))


# ---------------------------------------------------------------- AVA

AVA_SOURCE = "https://research.google.com/ava/download.html"


def read_label_map(path) -> dict[int, str]:
    """{action id: class name} of a pbtxt in any of its layouts, also without newlines, or of lines `id: name`."""
    text = Path(path).read_text(encoding="utf-8-sig")
    names, pairs, labels = [], [], {}

    def number(match) -> str:                                  # a name may hold anything, even "item {"
        names.append(re.sub(r"\\(.)", r"\1", match[1][1:-1]))
        return f'"{len(names) - 1}"'

    plain = re.sub(r"""(?<=:)\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""", number, text)
    for block in re.split(r"\b(?:item|label)\s*\{", plain)[1:]:
        name, i = re.search(r'\bname\s*:\s*"(\d+)"', block), re.search(r"\b(?:label_)?id\s*:\s*(\d+)", block)
        if not name or not i:
            raise ValueError(f"{path}: item {len(pairs) + 1} lacks a name or an id; expected items like "
                             'item { name: "stand" id: 12 }')
        pairs.append((int(i[1]), names[int(name[1])]))
    pairs = pairs or [(int(i), name) for i, name in
                      re.findall(r"^[ \t]*(\d+)[ \t]*:[ \t]*(.*\S)", text, re.MULTILINE)]
    for i, name in pairs:
        if i in labels or i < 1:
            raise ValueError(f"{path}: action id {i} {'is there twice' if i in labels else 'is not 1 or more'}")
        labels[i] = f"{name} ({i})" if name in labels.values() else name       # two ids of one name stay two
    if not labels:
        raise ValueError(f'{path}: holds no classes; expected items like item {{ name: "stand" id: 12 }}')
    return labels


def read_ava(data, split: str = "train", version: str | None = None, all_classes: bool = False,
             label_map=None) -> Annotations:
    """AVA v2.1 or v2.2 (by default the newest there) from `ava_{split}_v{version}.csv`.

    texts: the 60 evaluated classes, or all 80; `label_map` names those of another set in AVA's format.
    The val split has every annotated second that is not excluded, with or without people: these lists
    say where to evaluate, not where boxes happen to be. Keyframes are seconds of the whole movie;
    15-minute cuts and frame folders start at second 900.
    """
    check_split(split, ("train", "val"))                       # the test labels were never published
    files, frames = walk(data)
    versions = [version] if version else ["2.2", "2.1"]
    path = find_file(files, [f"ava_{split}_v{v}.csv" for v in versions], data, AVA_SOURCE)
    version = path.stem.rsplit("_v", 1)[1]
    excluded = find_file(files, [f"ava_{split}_excluded_timestamps_v{version}.csv"], data, AVA_SOURCE)
    included = next((file for file in files if file.name == f"ava_included_timestamps_v{version}.txt"), None)
    names = {i: AVA_80[i - 1] for i in (range(1, 81) if all_classes else AVA_IDS)}
    names = read_label_map(label_map) if label_map else names
    table = cached(data, "ava", [p for p in (path, excluded, included) if p], [split, sorted(names.items())],
                   lambda: ava_table(path, excluded, included, names, not label_map, split == "val"))
    table.files = find_videos(table.videos, files, frames)
    cut = [bool(file) and ("15min" in os.path.relpath(file, data) or Path(file).parent.name in FRAME_FOLDERS)
           for file in table.files]
    table.start_sec = np.where(cut, 900, 0).astype(np.float32)
    return table


def ava_table(path, excluded, included, names: dict[int, str], is_ava: bool, every_keyframe: bool) -> Annotations:
    layout = "video,second,x1,y1,x2,y2,action_id[,person_id] or video,second"
    lines, (movies,), numbers = csv_columns(path, (2, 7, 8), (0,), (1, 2, 3, 4, 5, 6, 7), layout)
    out_lines, (out_movies,), out_seconds = csv_columns(excluded, (2,), (0,), (1,), "video,second")
    for file, at, second in ((path, lines, numbers[:, 0]), (excluded, out_lines, out_seconds[:, 0])):
        complain(file, at, ~np.isfinite(second), lambda i: f"no second; expected {layout}")
    seconds = np.arange(902, 1799)
    if included:
        listed_seconds = csv_columns(included, (1,), (), (0,), "one second a line")[2]
        seconds = np.unique(listed_seconds.astype(int))

    videos, video = places(movies)
    second, box, action, person = numbers[:, 0].astype(int), numbers[:, 1:5], numbers[:, 5], numbers[:, 6]
    people = ~np.isnan(numbers[:, 1:6]).all(axis=1)            # else a row of two columns: nobody in this keyframe
    keys = keyframe_keys(video, second)
    out = keyframe_keys(places(out_movies, videos)[1], out_seconds[:, 0].astype(int))
    box, good = clip_boxes(box)
    known = np.array(sorted(names))
    # a class that AVA has but does not evaluate is no fault
    official = np.isin(action, np.arange(1, 81) if is_ava else known)
    faults = []
    for bad, reason in ((~good, "the box is outside the picture or empty, dropped"),
                        (~official, "the action id is not in the label map, dropped"),
                        (~np.isin(second, seconds),
                         f"not an annotated second ({seconds[0]}-{seconds[-1]}), dropped"),
                        (duplicates(action, person, *box.T, keys), "the row is there twice, dropped")):
        faults += listed(path, lines, people & bad, reason)
        people &= ~bad
    rows = np.flatnonzero(people & np.isin(action, known) & ~np.isin(keys, out))
    video, second, box, person = video[rows], second[rows], box[rows], np.nan_to_num(person[rows], nan=-1)
    text = np.searchsorted(known, action[rows])
    if every_keyframe:
        all_video, all_second = np.repeat(np.arange(len(videos)), len(seconds)), np.tile(seconds, len(videos))
        all_keys = keyframe_keys(all_video, all_second)
        empty = ~np.isin(all_keys, np.concatenate([out, keys[rows]]))
        n = int(empty.sum())
        video, second = np.append(video, all_video[empty]), np.append(second, all_second[empty])
        box, nobody = np.append(box, np.zeros((n, 4)), axis=0), np.full(n, -1)
        text, person = np.append(text, nobody), np.append(person, nobody)
    return make_annotations(videos, [names[i] for i in known], video, second, box, text,
                            person if (person >= 0).any() else None,
                            unit="second", ids=known.tolist(), faults=faults)


# ---------------------------------------------------------------- HC-STVG: sentences of one action each

# what people do in the descriptions of film scenes, in base form
ACTIONS = set(
    "answer appear approach ask attack begin bend bite blow bow breathe bring brush call carry catch "
    "chase check chew clap clean climb close come continue cook crawl crouch cross cry cut dance dial "
    "disappear drag draw drink drive drop eat embrace enter escape examine exit fall fasten feed fight "
    "fill find finish fold follow get give glance go grab greet hang has hide hit hold hug hurry "
    "inspect jump keep kick kiss kneel knock laugh lean leave lick lie lift listen lock look lower make "
    "meet move nod open pace pass pat pay pick play point pour press pull punch push put raise reach "
    "read receive release remove rest return ride rise roll rub run rush salute say scratch scream "
    "search shake shoot shout show shut sigh sing sit slap sleep slide smell smile smoke snap spin "
    "spread squat stagger stand stare start step stop stretch stroke stroll stumble swallow swing take "
    "talk tell think throw tie toss touch try turn type undress unlock use wait wake walk wash watch "
    "wave whisper wipe write yell".split())
BE = {"is", "are"}
PLACED = set("a an the his her its their of in on at with to by from for into onto and or "
             "this that these those two three some many both no".split())
OBJECTS = set("a an the his her him it its them their himself herself something someone another".split())
NOUNS = {"clothes", "glasses", "gloves", "jeans", "pants", "shoes", "shorts", "sunglasses", "this",
         "trousers", "us"}
THEN = {"then", "finally", "next", "afterwards", "later"}
MALE = {"man", "boy", "guy", "gentleman", "father", "husband", "son", "grandfather", "he"}
FEMALE = {"woman", "girl", "lady", "mother", "wife", "daughter", "grandmother", "she"}
PEOPLE = MALE | FEMALE | {"person", "child", "kid", "baby", "adult", "soldier", "policeman", "doctor", "nurse"}
JOINT = re.compile(r"\s*[,;]\s*(?:(?:and|but)\s+)?|\s+(?:and|but|then)\s+", re.IGNORECASE)


def split_sentences(description: str) -> list[str]:
    """Short sentences of one action each, in order, each with its subject.

    "The man in black walks to the door, opens it and then leaves." gives "The man in black walks to
    the door", "The man in black opens it" and "The man in black leaves". A comma, "and" or "then"
    ends a sentence only if what follows is another action of the same person: a verb, the pronoun, or
    the person named again. What somebody else does stays with the action beside it. Not in the paper,
    which does not say how it splits; a list of verbs decides, so that the result is the same everywhere.
    """
    sentences, subject = [], ""
    for part in re.split(r"(?<!\bMr)(?<!\bMrs)(?<!\bDr)[.!?]+(?:\s+|$)", " ".join(description.split())):
        words = drop_then(part.strip(" ,;.").split())
        if not words:
            continue
        if subject and words[0].lower() in ("he", "she") and agrees(words[0], subject):
            words[:1] = subject.split()
        verb = main_verb(words)
        if verb is None:                                       # no action that we know: as it is
            sentences.append(" ".join(words))
            continue
        subject = " ".join(words[:verb])
        sentences += actions(" ".join(words), subject, words[verb].lower())
    return sentences


def actions(sentence: str, subject: str, verb: str) -> list[str]:
    """One sentence, whose subject and main verb are known, cut where the subject does something else."""
    pieces, start, head = [], 0, ""
    for joint in JOINT.finditer(sentence, len(subject)):
        rest = drop_then(sentence[joint.end():].split())
        opening = next_action(rest, subject, verb, comma="," in joint[0] or ";" in joint[0])
        if opening is None or main_verb((head + sentence[start:joint.start()]).split()) is None:
            continue
        pieces.append(head + sentence[start:joint.start()])
        head, skipped = opening
        start = len(sentence) - len(" ".join(rest[skipped:]))
    return [piece.strip(" ,;") for piece in [*pieces, head + sentence[start:]]]


def next_action(words: list[str], subject: str, verb: str, comma: bool) -> tuple[str, int] | None:
    """If words begin another action of the subject: what to write before them, and how many to leave out."""
    first = next((i for i, word in enumerate(words) if not word.endswith("ly")), None)      # "slowly walks"
    if first is None:
        return None
    word = words[first].lower().strip(",;")
    if word in ("he", "she"):
        return (f"{subject} ", first + 1) if agrees(word, subject) and len(words) > first + 1 else None
    if is_verb(words, first, third=verb.endswith("s") or verb in BE) and not (verb == "are" and word in ACTIONS):
        return f"{subject} ", 0
    # "is sitting and talking"
    if verb in BE and not comma and base_of_ing(word) in ACTIONS:
        return f"{subject} {verb} ", 0
    own = main_verb(words[:12])
    named = [w.lower() for w in words[:own]] if own else []
    noun = next((w for w in re.findall(r"\w+", subject.lower()) if w in PEOPLE), None)
    return ("", 0) if named and (named == subject.lower().split() or named == ["the", noun]) else None


def main_verb(words: list[str]) -> int | None:
    """Place of the first verb that is not in a relative clause: in the third person, else in its base form."""
    for third in (True, False):
        relative = False
        for i, word in enumerate(words):
            relative |= word.lower() in ("who", "which", "that")
            if i and is_verb(words, i, third) and words[i - 1].lower() not in PLACED:
                if not relative:
                    return i
                relative = False                               # "the man who sits" has its own verb still to come
    return None


def is_verb(words: list[str], i: int, third: bool) -> bool:
    word = words[i].lower().strip(",;")
    if not third:
        return word in ACTIONS
    if word in BE or word in ("has", "does", "goes"):
        return True
    if not word.endswith("s") or word.endswith(("ss", "'s")) or word in NOUNS:
        return False
    stems = {word[:-1], word[:-2] if word.endswith("es") else "", word[:-3] + "y" if word.endswith("ies") else ""}
    return bool(stems & ACTIONS) or (i + 1 < len(words) and words[i + 1].lower().strip(",;") in OBJECTS)


def base_of_ing(word: str) -> str:
    """talking -> talk, sitting -> sit, moving -> move, lying -> lie; "" if it is no such form."""
    if not word.endswith("ing"):
        return ""
    stem = word[:-3]
    once = stem[:-1] if stem[-1:] == stem[-2:-1] else ""
    lie = stem[:-1] + "ie" if stem.endswith("y") else ""
    return next((form for form in (stem, once, stem + "e", lie) if form in ACTIONS), "")


def agrees(pronoun: str, subject: str) -> bool:
    """Whether he or she can be the subject, by the first word for a person in it."""
    other = FEMALE if pronoun.lower() == "he" else MALE
    return next((word for word in re.findall(r"\w+", subject.lower()) if word in PEOPLE), "") not in other


def drop_then(words: list[str]) -> list[str]:
    while words and words[0].lower().strip(",") in THEN:
        words = words[1:]
    return words


def read_hcstvg(data, split: str = "train", version: int | None = None) -> Annotations:
    """HC-STVG v1 or v2 (by default v2 if it is there), original or cleaned: each sentence on its part of the tube.

    A description of k sentences cuts its tube into k parts of equal length, in order; the paper says no
    more than that they are matched in order. Frame indices count from 0, the official `st_frame` from 1.
    split "all" is train and val of v2, whose 10,131 + 3,482 descriptions are the 13,613 of the paper's Table 1.
    """
    check_split(split, ("train", "val", "test", "all"))
    if split == "all":
        return merge([read_hcstvg(data, part, version) for part in ("train", "val")])
    files, _ = walk(data)
    files = [file for file in files if not file.name.endswith(("_proc.json", "_annotations.json"))]
    patterns = {2: [f"*v2*/{split}*.json", f"{split}*v2*.json"], 1: [f"*v1*/{split}*.json", f"{split}.json"]}
    path = find_file(files, patterns[version] if version else patterns[2] + patterns[1], data,
                     SOURCES["hcstvg"])
    table = cached(data, "hcstvg", [path], [split], lambda: hcstvg_table(path))
    table.files = find_videos(table.videos, files, [])
    return table


def hcstvg_table(path) -> Annotations:
    entries, sentences, faults = load_json(path), {}, []
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: a {type(entries).__name__}; HC-STVG's file is one object, clip name -> entry")
    parts = [(np.zeros((0, 4)), *[np.zeros(0, np.int64)] * 3)]
    for v, (clip, entry) in enumerate(entries.items()):
        try:
            size = (entry["width"], entry["height"]) if "width" in entry else entry["img_size"][::-1]
            text = entry["caption"] if "caption" in entry else entry["English"]
            xywh, first = np.array(entry["bbox"], np.float64).reshape(-1, 4), int(entry["st_frame"]) - 1
            scale = np.tile(np.array(size, np.float64), 2)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{path}: clip {clip}: expected bbox, st_frame, width and height "
                             "(or img_size), caption (or English); "
                             f"{type(error).__name__}: {error}") from None
        box, good = clip_boxes(np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]) / scale)
        good &= first + np.arange(len(box)) >= 0
        short = split_sentences(text)[:len(box)]               # never more sentences than frames
        if not good.all() or not short:
            faults.append(f"{path.name}: {clip}: {(~good).sum()} of {len(box)} boxes "
                          f"outside the picture or empty, dropped; {len(short)} sentences")
        if not short:
            continue
        ids = np.array([sentences.setdefault(sentence, len(sentences)) for sentence in short])
        text = ids[np.arange(len(box)) * len(short) // len(box)]              # equal shares
        rows = np.flatnonzero(good)
        parts.append((box[rows], first + rows, np.full(len(rows), v), text[rows]))
    box, frame, video, text = (np.concatenate(column) for column in zip(*parts))
    return make_annotations(entries, sentences, video, frame, box, text, faults=faults)


# ---------------------------------------------------------------- VidSTG, whose boxes are VidOR's

VIDOR_PEOPLE = {"adult", "child", "baby"}
VIDOR_SPATIAL = {"above", "towards", "behind", "away", "beneath", "next_to", "in_front_of", "inside"}


def read_vidstg(data, vidor, split: str = "train") -> Annotations:
    """VidSTG's declarative captions of what people do, on the boxes of the person in VidOR's annotation.

    data: the folder with `{split}_annotations.json`; vidor: the folder with VidOR's JSON files and videos.
    split "all" is the three together: the paper chooses its 23,165 captions from all 99,943 pairs.
    """
    check_split(split, ("train", "val", "test", "all"))
    if split == "all":
        return merge([read_vidstg(data, vidor, part) for part in ("train", "val", "test")])
    path = find_file(walk(data)[0], [f"{split}_annotations.json"], data, SOURCES["vidstg"])
    files, _ = walk(vidor)
    jsons = {file.stem: file for file in files if file.suffix == ".json" and file.stem.isdigit()}
    if not jsons:
        raise FileNotFoundError(f"no VidOR annotation (<group>/<video>.json) is under {vidor}; get it from "
                                "https://xdshang.github.io/docs/vidor.html")
    table = cached(data, "vidstg", [path, *jsons.values()], [split], lambda: vidstg_table(path, jsons))
    table.files = find_videos(table.videos, files, [])
    return table


def vidstg_samples(entries: list, path="") -> list[tuple[str, str, int, int, int]]:
    """(sentence, video, tid, begin, end) of the paper's choice: the target is a person, the relation an action."""
    samples = []
    for i, entry in enumerate(entries):
        try:
            kind = {thing["tid"]: thing["category"] for thing in entry["subject/objects"]}
            span = entry["temporal_gt"]["begin_fid"], entry["temporal_gt"]["end_fid"]
            if entry["used_relation"]["predicate"] not in VIDOR_SPATIAL:
                samples += [(" ".join(caption["description"].split()), entry["vid"], caption["target_id"], *span)
                            for caption in entry["captions"] if kind[caption["target_id"]] in VIDOR_PEOPLE]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: entry {i}: {type(error).__name__}: {error}; expected VidSTG's "
                             "subject/objects, temporal_gt, used_relation, captions") from None
    return samples


def vidstg_table(path, jsons: dict[str, Path]) -> Annotations:
    entries, sentences, by_video = load_json(path), {}, defaultdict(list)
    for sentence, video, *span in vidstg_samples(entries, path):
        by_video[video].append((sentences.setdefault(sentence, len(sentences)), *span))
    videos, faults = list(by_video), []
    there = [video for video in videos if video in jsons]
    faults += [f"{path.name}: video {video}: no VidOR annotation" for video in videos if video not in jsons]
    jobs = [(jsons[video], by_video[video]) for video in there]
    place = {video: v for v, video in enumerate(videos)}
    parts = [(np.zeros((0, 4)), *[np.zeros(0, np.int64)] * 3)]
    for video, (box, frame, text, wrong) in zip(there, parallel(vidor_rows, jobs, "VidOR")):
        parts.append((box, frame, np.full(len(box), place[video]), text))
        faults += wrong
    box, frame, video, text = (np.concatenate(column) for column in zip(*parts))
    return make_annotations(videos, sentences, video, frame, box, text, faults=faults)


def vidor_rows(job) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Boxes (n, 4), frame indices (n,), texts (n,) and faults of a VidOR file.

    job: its path, (text, tid, begin, end)s.
    """
    path, samples = job
    boxes, frames, texts, faults = [], [], [], []
    try:
        found = load_json(path)
        size = np.array([found["width"], found["height"]] * 2, np.float64)
        tracks = defaultdict(dict)                             # tid -> frame_idx -> pixel box
        for frame, items in enumerate(found["trajectories"]):
            for item in items:
                tracks[item["tid"]][frame] = [item["bbox"][k] for k in ("xmin", "ymin", "xmax", "ymax")]
    except (KeyError, TypeError, ValueError) as error:
        none = np.zeros(0, np.int64)
        return np.zeros((0, 4)), none, none, [f"{path.name}: left out: {type(error).__name__} {error}"]
    for text, tid, begin, end in samples:
        track = tracks[tid]
        at = [frame for frame in range(begin, end) if frame in track]
        box, good = clip_boxes(np.array([track[frame] for frame in at], np.float64).reshape(-1, 4) / size)
        if good.sum() < end - begin:
            faults.append(f"{path.name}: object {tid}, frames {begin} to {end - 1}: "
                          f"{end - begin - len(at)} without a box, "
                          f"{(~good).sum()} boxes outside the picture or empty, left out")
        boxes.append(box[good])
        frames.append(np.array(at, np.int64)[good])
        texts.append(np.full(good.sum(), text))
    return np.concatenate(boxes), np.concatenate(frames), np.concatenate(texts), faults


def parallel(function, jobs: list, label: str, workers: int = 8) -> list:
    """function(job) of every job, in order, in a few processes, with a progress bar."""
    workers = min(workers, os.cpu_count() or 1, len(jobs) // 8)
    if workers < 2:
        return [function(job) for job in tqdm(jobs, label, disable=len(jobs) < 8)]
    with ProcessPoolExecutor(workers) as pool:
        return list(tqdm(pool.map(function, jobs, chunksize=4), label, total=len(jobs)))


# ---------------------------------------------------------------- any mix of them

def read_list(path) -> set[str]:
    """The first column of a file of one video a line, such as AVA's ground truth or its lists."""
    with open(path, encoding="utf-8-sig") as file:
        return {line.split(",")[0].strip() for line in file} - {""}


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


# ---------------------------------------------------------------- by name, for every script

DATASETS = ("ucf101-24", "jhmdb-21", "ava", "hcstvg", "vidstg", "csv")
SOURCES = {"ucf101-24": GURKIRT, "jhmdb-21": MOC, "ava": AVA_SOURCE,
           "hcstvg": "https://github.com/tzhhhh123/HC-STVG",
           "vidstg": "https://github.com/Guaranteer/VidSTG-Dataset"}
PAPER_COUNTS = {"hcstvg": (13_613, 1_884_046), "vidstg": (23_165, 5_182_090)}  # Table 1: sentences and pairs


def add_dataset_flags(parser: argparse.ArgumentParser, datasets: tuple[str, ...] = DATASETS) -> None:
    """--dataset and where its files are; `read_dataset(**vars(args))` takes them."""
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", choices=datasets, default=datasets[0], help="what to read")
    group.add_argument("--data",
                       help="its folder (default: data/ and its name); with csv: the folder that holds "
                            "train.csv and test.csv (video,keyframe,x1,y1,x2,y2,text[,person]) and that "
                            "video paths start from; folders of frames in it are taken as 30 a second")
    group.add_argument("--csv", help="with --dataset csv: one file in place of the two")
    if "vidstg" in datasets:
        group.add_argument("--vidor", default="data/vidor", help="VidOR's annotation and videos, for vidstg")
    if "jhmdb-21" in datasets:
        group.add_argument("--part", type=int, default=1, help="which of JHMDB-21's three divisions")
    group.add_argument("--version", help="AVA's 2.1 or 2.2, HC-STVG's 1 or 2 (default: the newest there)")


def read_dataset(dataset: str, data=None, split: str = "train", csv=None, vidor="data/vidor", part: int = 1,
                 version: str | None = None, **_) -> Annotations:
    """A dataset by its name; split "train" or "test", which for AVA is val, as its test labels are not public."""
    folder = data or f"data/{dataset}"
    if csv and dataset != "csv":
        raise ValueError(f"--csv {csv}: goes with --dataset csv, not {dataset}")
    if dataset == "hcstvg" and version not in (None, "1", "2"):
        raise ValueError(f"--version {version}: HC-STVG has 1 and 2")
    if dataset == "csv":
        path = Path(csv) if csv else Path(folder) / ("train.csv" if split == "train" else "test.csv")
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not there; --data names the folder with train.csv "
                                    "and test.csv, --csv one file")
        return read_csv(path, data)
    if not Path(folder).is_dir():
        flag = f"--data, or in train_align.py --{dataset}" if dataset in ("hcstvg", "vidstg") else "--data"
        raise FileNotFoundError(f"there is no folder {folder}; get {dataset}'s files from {SOURCES[dataset]}, "
                                f"and name their folder by {flag}")
    if dataset == "ucf101-24":
        return read_ucf101_24(folder, split)
    if dataset == "jhmdb-21":
        return read_jhmdb_21(folder, split, part)
    if dataset == "ava":
        return read_ava(folder, "val" if split == "test" else split, version)
    if dataset == "hcstvg":
        return read_hcstvg(folder, split, int(version) if version else None)
    if dataset == "vidstg":
        return read_vidstg(folder, vidor, split)
    raise ValueError(f"dataset {dataset!r} is not one of {', '.join(DATASETS)}")


def add_alignment_flags(parser: argparse.ArgumentParser) -> None:
    """Stage 1's sources; `read_alignment(args)` reads them."""
    group = parser.add_argument_group(
        "data", "with none of --hcstvg, --vidstg and --csv: both official sets, under data/")
    group.add_argument("--hcstvg",
                       help="HC-STVG's folder (v1 or v2): annotation JSON and videos "
                            "(default: data/hcstvg)")
    group.add_argument("--vidstg", help="VidSTG's folder of annotation JSONs (default: data/vidstg)")
    group.add_argument("--vidor", default="data/vidor", help="VidOR's folder: VidSTG's boxes and videos")
    group.add_argument("--csv", help="your own pairs: video,keyframe,x1,y1,x2,y2,text[,person]")
    group.add_argument("--data", help="the folder that --csv's video paths start from (default: the CSV's own)")
    group.add_argument("--split", choices=["train", "all"], default="train",
                       help="of the official sets: their training part, or all parts (HC-STVG v2's train and "
                            "val, VidSTG's three), which the 7 million pairs of Table 1 seem to be")
    group.add_argument("--fraction", type=float, default=1.0,
                       help="share of the samples to train on (Table 4), chosen by --seed")
    group.add_argument("--exclude-videos", metavar="FILE",
                       help="leave out the videos whose name holds an id of FILE's first column: "
                            "with AVA's validation CSV, the HC-STVG clips that were cut from movies "
                            "that OV-AVA tests on")


def read_alignment(args: argparse.Namespace) -> Annotations:
    """Stage 1's table: the sets that the flags name, as one, its rows shared like any set's."""
    if not 0 < args.fraction <= 1:
        raise ValueError(f"--fraction {args.fraction:g}: a share of the samples is above 0 and at most 1")
    hcstvg, vidstg = args.hcstvg, args.vidstg
    if not (hcstvg or vidstg or args.csv):
        hcstvg, vidstg = "data/hcstvg", "data/vidstg"
    parts = ("train", "val", "test") if args.split == "all" else ("train",)
    # v2's test has no boxes
    sets = [read_dataset("hcstvg", hcstvg, part) for part in parts if part != "test"] if hcstvg else []
    sets += [read_dataset("vidstg", vidstg, part, vidor=args.vidor) for part in parts] if vidstg else []
    sets += [read_dataset("csv", args.data, csv=args.csv)] if args.csv else []

    def build():
        table = merge(sets) if len(sets) > 1 else sets[0]
        table = exclude_videos(table, read_list(args.exclude_videos)) if args.exclude_videos else table
        return sample_fraction(table, args.fraction, args.seed) if args.fraction < 1 else table

    sources = [one.cache for one in sets if one.cache] + [path for path in (args.csv, args.exclude_videos) if path]
    table = cached(hcstvg or vidstg or Path(args.csv).parent, "alignment", sources,
                   [args.fraction, args.seed if args.fraction < 1 else 0], build)
    table.files = [file for one in sets for file in one.files]
    return present(table)


def present(table: Annotations) -> Annotations:
    """The rows whose video is on disk, with a word about the others."""
    missing = [video for video, file in zip(table.videos, table.files) if not file]
    if missing and os.environ.get("RANK", "0") == "0":       # once, of all processes
        print(f"{len(missing):,} of {len(table.videos):,} videos are not on disk and left out, "
              f"such as {missing[0]}; python data.py check lists them", file=sys.stderr)
    return table.on_disk()


def add_finetuning_flags(parser: argparse.ArgumentParser) -> None:
    """Stage 2's sources; `read_finetuning(args)` reads them."""
    add_dataset_flags(parser, ("ucf101-24", "ava", "csv"))
    group = parser.add_argument_group("boxes and classes")
    group.add_argument("--proposals",
                       help="detected boxes to train on beside the annotated ones: a proposals CSV, "
                            "or another detector's file (Section 4.1, on UCF101-24)")
    group.add_argument("--score", type=float, default=0.3, help="the lowest score of --proposals to use")
    group.add_argument("--novel", metavar="FILE",
                       help="classes to keep out of training, one a line (default: OV-AVA's 15 with ava, "
                            "novel.txt in its folder, if there is one, with csv)")


def read_finetuning(args: argparse.Namespace) -> tuple[Annotations, list[str]]:
    """Stage 2's table, whose texts are the base classes alone, and the names of the novel ones."""
    table = read_dataset(**vars(args))
    novel = novel_classes(args.dataset, table.texts, args.novel, args.data or (args.csv and Path(args.csv).parent))
    base = [i for i, name in enumerate(table.texts) if name not in novel]
    if not base:
        raise ValueError(f"{args.novel or 'novel.txt'}: makes every class of {args.dataset} novel; "
                         "some must be left to train on")
    place = np.full(len(table.texts) + 1, -1, np.int32)        # text -1, nobody's label, stays -1
    place[base] = np.arange(len(base))
    table = table.select((table.text == -1) | (place[table.text] >= 0))
    table = replace(table, texts=[table.texts[i] for i in base], text=place[table.text],
                    ids=None if table.ids is None else [table.ids[i] for i in base])
    if args.proposals:
        table = add_proposals(table, read_proposals(args.proposals, table, args.score))
    return present(table), novel


def novel_classes(dataset: str, texts: list[str], file=None, data=None) -> list[str]:
    """Names of the classes that training must not see."""
    if file is None and dataset == "csv" and (Path(data or "data/csv") / "novel.txt").is_file():
        file = Path(data or "data/csv") / "novel.txt"
    if file is None:
        return {"ava": list(OV_AVA_NOVEL), "ucf101-24": list(JHMDB_21)}.get(dataset, [])
    novel = [line.strip() for line in Path(file).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    for number, name in enumerate(novel, 1):
        # with csv it need not be in the training file at all
        if dataset != "csv" and name not in texts:
            raise ValueError(f"{file}:{number}: {name!r} is not a class of {dataset}; "
                             f"its classes are {', '.join(texts[:5])}, ...")
    return novel


# ---------------------------------------------------------------- python data.py check

def samples_of(table: Annotations) -> int:
    """How many (video, text) pairs a table has: a sentence of an alignment set and its part of a tube."""
    rows = table.text >= 0
    return len(np.unique(table.video[rows].astype(np.int64) * len(table.texts) + table.text[rows]))


def print_report(table: Annotations, dataset: str) -> None:
    labelled = table.text >= 0
    counts = np.bincount(table.text[labelled], minlength=len(table.texts))
    there = sum(bool(file) for file in table.files)
    empty = int((~table.box.any(axis=1)).sum())
    print(f"videos     {len(table.videos):>10,}   on disk {there:,}, missing {len(table.videos) - there:,}")
    print(f"keyframes  {len(table.keyframe_starts()) - 1:>10,}   with nobody {empty:,}")
    print(f"pairs      {labelled.sum():>10,}   of a box and a text")
    print(f"texts      {len(table.texts):>10,}   without a pair {(counts == 0).sum():,}")
    print(f"samples    {samples_of(table):>10,}   of a text in a video")
    if dataset in PAPER_COUNTS:
        print("the paper's Table 1 has {:,} sentences and {:,} pairs, it seems of all splits: --split all".format(
            *PAPER_COUNTS[dataset]))
    if len(table.texts) <= 100:
        for i, (text, count) in enumerate(zip(table.texts, counts)):
            print(f"{table.ids[i] if table.ids else i + 1:>4}  {count:>9,}  {text}")


def truth_scores_one(table: Annotations) -> float:
    """Frame mAP of the ground truth given as predictions of score 1: exactly 1.0, or the table is wrong."""
    from evaluate import Detections, frame_map                 # evaluate.py imports this file

    rows = table.text >= 0
    found = Detections(*(column[rows] for column in (table.video, table.keyframe, table.box, table.text)),
                       np.ones(rows.sum()))
    protocol = "ava" if table.size is None else "act"          # two people in one and the same box: act allows it
    return frame_map(table, found, protocol)["mean_ap"]["all"]


def video_fault(job: tuple[str, float, str]) -> str:
    """Why a video cannot be read as far as its last keyframe, or "".

    job: its file, that keyframe, and its unit.
    """
    file, last, unit = job
    try:
        reader = open_video(file)
        reader.clip(0, frames=1)
        if unit == "frame":
            index = (reader.files,) if os.path.isdir(file) else packet_index(file)
            length, unit = (len(index[0]) if index else math.inf), "frames"
        elif os.path.isdir(file):
            length = len(reader.files) / reader.fps
        else:
            length = (reader.container.duration or math.inf) / av.time_base
        reader.close()
        return f"{file}: {length:g} {unit.rstrip('s')}s long, but annotated at {last:g}" if last >= length else ""
    except Exception as error:
        # a broken file may raise anything; it becomes a line
        return f"{file}: {type(error).__name__}: {error}".splitlines()[0]


def contact_sheet(table: Annotations, path, count: int = 24, seed: int = 0) -> None:
    """A PNG of random keyframes of a table with their boxes and texts drawn on them."""
    clips = ClipDataset(table, frames=1, stride=1, short_side=240, patch=1)
    tiles = []
    for place in np.random.default_rng(seed).permutation(len(clips)):
        item = clips[int(place)] if len(clips.boxes_of(place)[1]) else {"bad": "nobody in it"}
        if "bad" in item:
            continue
        picture, labels = item["video"][0], item["labels"].tolist()             # (3, H, W)
        scale = min(240 / picture.shape[1], 320 / picture.shape[2])
        h, w = (round(side * scale) for side in picture.shape[1:])
        boxes = item["boxes"] * torch.tensor([w, h, w, h])
        texts = ["; ".join(table.texts[text] for box, text in labels if box == i)[:52] for i in range(len(boxes))]
        drawn = draw_bounding_boxes(v2.functional.resize(picture, [h, w]), boxes, texts, colors="yellow", width=2)
        tiles.append(v2.functional.pad(drawn, [0, 0, 320 - w, 240 - h]))
        if len(tiles) == count:
            break
    if tiles:
        sheet = make_grid(torch.stack(tiles), nrow=4, padding=4, pad_value=128).permute(1, 2, 0)
        Image.fromarray(sheet.numpy()).save(path)


def main() -> int:
    from engine import HelpFormatter                           # engine.py imports this file

    parser = argparse.ArgumentParser(
        formatter_class=HelpFormatter,
        description="Read a dataset and say what is in it, what is missing and what is broken.")
    parser.add_argument("command", choices=["check"])
    add_dataset_flags(parser)
    parser.add_argument("--split", default="train", help="train, val, test, or all")
    parser.add_argument("--out", default="runs/check", help="folder for faults.txt and contact_sheet.png")
    args = parser.parse_args()

    table = read_dataset(**vars(args))
    print_report(table, args.dataset)
    if len(table.texts) <= 100 and (table.text >= 0).any():
        score = truth_scores_one(table)
        doubt = "" if score == 1 else ", not 1: two people of one class share a box, or the table is wrong"
        print(f"the ground truth as predictions scores {score:.6f}{doubt}")
    missing = [f"{video}: no video" for video, file in zip(table.videos, table.files) if not file]
    first = table.keyframe_starts()[:-1]
    last = np.zeros(len(table.videos))
    np.maximum.at(last, table.video[first], table.keyframe[first])
    last -= 0 if table.start_sec is None else table.start_sec
    jobs = [(file, last[v], table.unit_of(v)) for v, file in enumerate(table.files) if file]
    broken = [fault for fault in parallel(video_fault, jobs, "videos") if fault]
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    faults = "".join(f"{fault}\n" for fault in [*table.faults, *missing, *broken])
    (out / "faults.txt").write_text(faults, encoding="utf-8")
    print(f"faults     {len(table.faults):,} in the annotation, {len(missing):,} videos missing, "
          f"{len(broken):,} broken or too short: {out / 'faults.txt'}")
    if len(missing) < len(table.videos):
        contact_sheet(table, out / "contact_sheet.png")
        print(f"look at {out / 'contact_sheet.png'}: do the boxes hold the people, do the texts say what they do?")
    return 0


if __name__ == "__main__":
    from engine import cli                                     # engine.py imports this file

    cli(main)
