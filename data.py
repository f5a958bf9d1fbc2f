"""The data: every dataset as one table of (video, keyframe, box, text), and the clips around its keyframes.

A reader turns official files into `Annotations`; one `Dataset` serves them all. Boxes are xyxy in
[0, 1] of the picture from here on; classes travel as names, and ids exist only in official files.
"""

import functools
import math
import os
import re
from dataclasses import dataclass, field

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
        new = np.ones(len(annotations.video), bool)          # the rows of a keyframe stand together
        new[1:] = (np.diff(annotations.video) != 0) | (np.diff(annotations.keyframe) != 0)
        self.first_row = np.append(np.flatnonzero(new), len(new)).astype(np.int32)
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
        keyframe, unit = self.table.keyframe[row], self.table.unit
        return f"{self.table.videos[self.table.video[row]]} " + (f"frame {keyframe}" if unit == "frame" else f"{keyframe:g} s")

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
        if self.table.unit == "frame":
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
