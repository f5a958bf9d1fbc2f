"""Frames of videos: exactly those that are asked for, from files and from folders of pictures."""

import functools
import math
import os
import re

import av
import numpy as np
from PIL import Image
from av.video.reformatter import VideoReformatter


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
