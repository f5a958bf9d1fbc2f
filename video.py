"""Exact frames of videos, from files and from folders of numbered pictures.

A reader knows `times`, when each frame appears, in display order and seconds after the first, and
returns `frames(indices)`. A clip around a frame is a list of indices, and a second becomes an index
by the times. Frames are RGB, upright (rotation metadata applied) and scaled while they are
converted: short_side is what the shorter side becomes (None keeps the size), multiple what both
sides are rounded to (the patch). While clips are read in order, each frame is decoded and converted
once; `decoded`, `seeks` and `converted` count that.
"""

import functools
import math
import os
import re

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps

# decoders that can leave out frames to which no other refers and give all others unchanged; AV1's
# cannot
CAN_SKIP = ("h264", "hevc", "mpeg4")


def around(frame_idx: int, frames: int, stride: int) -> np.ndarray:
    """Indices (T,) of a clip: frame_idx stands at position T // 2, the others `stride` apart."""
    return frame_idx + (np.arange(frames) - frames // 2) * stride


def scaled_size(width: int, height: int, short_side: int | None, multiple: int = 1) -> tuple:
    """(width, height) with the shorter side at short_side, both rounded to the multiple."""
    scale = short_side / min(width, height) if short_side else 1.0
    return tuple(max(round(side * scale / multiple), 1) * multiple for side in (width, height))


def same_shape(a, b) -> bool:
    """Whether two sizes (width, height) differ by no more than a scale, so that boxes fit both.

    Not in the paper: 5 %, as scaled videos are rounded. A size of zeros is not known.
    """
    return abs(a[0] * b[1] - a[1] * b[0]) <= 0.05 * a[1] * b[0]


def upright_rgb(frame: av.VideoFrame, width: int, height: int,
                reformatter: VideoReformatter) -> np.ndarray:
    """(H, W, 3) uint8: the frame scaled to width x height, then turned as its metadata says."""
    rgb = reformatter.reformat(frame, width, height, "rgb24", interpolation="BILINEAR", threads=1)
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), round(frame.rotation / 90) % 4))


# ---------------------------------------------------------------- video files

def open_container(path: str, **options):
    """PyAV's container and the video stream of a file or address, or a ValueError."""
    try:
        container = av.open(path, metadata_errors="replace", **options)
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: not a video that can be opened ({error.strerror})") from None
    stream = container.streams.best("video")                 # not a cover picture
    if stream is not None and stream.disposition & Disposition.attached_pic:
        stream = None
    if stream is None or stream.codec_context is None:
        container.close()
        lack = "FFmpeg has no decoder for its" if stream else "has no"
        raise ValueError(f"{path}: {lack} video stream")
    return container, stream


def packets(container, stream, errors: list | None = None):
    """The packets of a stream, as far as it can be read; why not further is added to `errors`."""
    while True:
        try:
            yield from container.demux(stream)
            return
        except IndexError:                                   # a damaged .ts makes up a stream
            continue
        except av.error.FFmpegError as error:
            if errors is not None:
                errors.append(error)
            return


UNTOLD = ("avi", "asf", "mpeg", "mxf")    # containers that do not tell when B-frames appear


def cached_by_file(function):
    """function(path), computed once for each state of a file or folder."""
    known = functools.lru_cache(maxsize=4096)(lambda path, *state: function(path))

    @functools.wraps(function)
    def call(path):
        state = os.stat(path)
        return known(path, state.st_size, state.st_mtime_ns)
    return call


@cached_by_file
def packet_index(path: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Times of all frames in display order, and of the key frames, in the stream's unit.

    Frame i of a full decode appears at the i-th time. Where packets do not tell (bare streams,
    joined ones, .mpg, B-frames of AVI and ASF), frames can only be counted from the start: the
    times are 0, 1, 2, ..., the key frames None.
    """
    container, stream = open_container(path)
    with container:
        container_format, has_b_frames = container.format.name, stream.codec_context.has_b_frames
        read = [(packet.pts, packet.dts, packet.is_keyframe, packet.is_discard)
                for packet in packets(container, stream) if packet.size]
    found = [(pts, is_key) for pts, _, is_key, is_discard in read if not is_discard]
    sent = [dts for _, dts, *_ in read if dts is not None]
    untold = any(b < a for a, b in zip(sent, sent[1:]))      # two recordings, one after the other
    untold |= container_format.endswith(("mjpeg", "_pipe"))   # bare pictures: seeks land inside one
    # B-frames are sent before they appear; where all packets say otherwise, none tells when
    untold |= bool(has_b_frames) and (container_format in UNTOLD
                                      or all(pts == dts for pts, dts, *_ in read))
    if not found:
        raise ValueError(f"{path}: no frame can be decoded")
    times = {time for time, _ in found}
    if untold or None in times or len(times) < len(found):
        return np.arange(len(found)), None
    # no frame before a key frame is decoded; an edit list may hide the first one
    first = min((pts for pts, _, is_key, _ in read if is_key), default=min(times))
    keys = np.array(sorted(time for time, is_key in found if is_key) or [first])
    return np.array(sorted(time for time in times if time >= first)), keys


def refuse_outside(path: str, seconds: float) -> None:
    """ValueError where a clip lies more than a second before the start (< 0) or after the end."""
    if abs(seconds) > 1:
        side = "beyond its end" if seconds > 0 else "before its start"
        raise ValueError(f"{path}: a clip is asked for {abs(seconds):.1f} s {side}; "
                         "is it the right file, and whole?")


class VideoReader:
    """Frames of one video file. A position is a time in the stream's unit, or a count of frames."""

    def __init__(self, path: str, short_side: int | None = None, multiple: int = 1):
        self.path, self.short_side, self.multiple = path, short_side, multiple
        self.decoded = self.seeks = self.converted = 0
        self.reformatter, self.first = VideoReformatter(), None
        self._open()
        self.rate = float(self.stream.average_rate or self.stream.guessed_rate or 25)
        self.start, self.second = self.stream.start_time or 0, float(1 / self.stream.time_base)
        self.keys: np.ndarray | None = None                  # positions of key frames, if known
        self.counted, self.can_seek = False, True            # positions are counts; keys are whole
        self.low = -math.inf                                 # the buffer holds frames from here on
        self.needed = -math.inf                              # frames before may be left undecoded

    def _open(self) -> None:
        self.container, self.stream = open_container(self.path)
        self.stream.codec_context.thread_count = 1           # loader workers are the parallelism
        self._restart()

    def _restart(self) -> None:
        self.decoder, self.count, self.ended = self._decode(), 0, False
        self.buffer: list[tuple] = []                        # (position, frame), in display order
        self.pixels: dict = {}                               # position -> RGB of frames returned

    def close(self) -> None:
        self.container.close()

    @property
    def times(self) -> np.ndarray:
        """When each frame appears, (frames,) float64 seconds after the first."""
        at, keys = packet_index(self.path)
        return (at - at[0]) / (self.rate if keys is None else self.second)

    @property
    def duration(self) -> float:
        """Seconds; nothing is read for it where the container tells."""
        told = self.container.duration
        return told / av.time_base if told else self.times[-1] + 1 / self.rate

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8: the frames at 0-based indices (T,), kept within the video."""
        at, self.keys = packet_index(self.path)
        self.counted = self.keys is None
        positions = at[np.clip(indices, 0, len(at) - 1)]
        return self._on_screen(positions, -math.inf if self.counted else positions.min())

    def clip(self, frame_idx: int, frames: int = 8, stride: int = 1) -> np.ndarray:
        """The frames (T, H, W, 3) `stride` apart, of which frame_idx stands at position T // 2."""
        inside = np.clip(frame_idx, 0, len(self.times) - 1)
        refuse_outside(self.path, (frame_idx - inside) / self.rate)
        return self.frames(around(frame_idx, frames, stride))

    def clip_at(self, second: float, frames: int = 8, stride: int = 1,
                rate: float | None = None) -> np.ndarray:
        """As clip(), around the frame that is on screen `second` seconds after the first one.

        rate: take the frames on screen stride / rate seconds apart, whatever the video's own rate.
        """
        # in other containers times may be missing or begin anew
        timed = self.container.format.name.startswith(("mov", "matro"))
        by_time = rate and timed and not self.counted
        last = math.inf if by_time else self.times[-1]
        refuse_outside(self.path, second - min(max(second, 0), last))
        if not rate:
            on_screen = np.searchsorted(self.times, second + 1e-6, "right") - 1
            return self.clip(max(on_screen, 0), frames, stride)
        # Matroska rounds times to milliseconds
        seconds = second + around(0, frames, stride) / rate + 0.0005
        if not by_time:
            return self.frames(np.searchsorted(self.times, seconds, "right") - 1)
        # an index of all frames would read the whole of a long film; of one at 2 frames a second or
        # more no frame lasts a second
        positions = self.start + np.maximum(seconds, 0) * self.second
        needed = positions.min() - self.second if self.rate >= 2 else -math.inf
        return self._on_screen(positions, needed)

    def _on_screen(self, positions: np.ndarray, needed: float) -> np.ndarray:
        """(T, H, W, 3): the frames on screen at positions (T,), in one pass of the decoder."""
        low, high = positions.min(), positions.max()
        seek = self._must_seek(low)
        self.low, self.needed = low, needed
        if seek:
            self._seek(low)
        while not self.ended and (not self.buffer or self.buffer[-1][0] < high):
            self._decode_one()
        if not self.buffer:
            raise ValueError(f"{self.path}: no frame can be decoded")
        if self.ended:                                       # a damaged file may end early
            beyond = max(positions[len(positions) // 2] - self.buffer[-1][0], 0)
            refuse_outside(self.path, beyond / (self.rate if self.counted else self.second))
        index = np.searchsorted([position for position, _ in self.buffer], positions, "right") - 1
        return np.stack([self._rgb(*self.buffer[max(i, 0)]) for i in index])

    def _must_seek(self, low: float) -> bool:
        """Whether `low` lies behind the decoder, or so far ahead that a seek is shorter."""
        last = self.buffer[-1][0] if self.buffer else self.start
        if low < self.low:
            return True
        if low <= last or self.ended or self.counted or not self.can_seek:
            return False
        if self.keys is None:
            return low - last > self.second
        return np.searchsorted(self.keys, low, "right") > np.searchsorted(self.keys, last, "right")

    def _seek(self, low: float) -> None:
        """Put the decoder at the key frame before position `low`, or at the start."""
        back = 0.0
        while not self.counted and low - back > self.start:
            self.seeks += 1
            try:
                self.container.seek(int(low - back), stream=self.stream, backward=True)
            except av.error.FFmpegError:
                break                                        # not seekable: from the start
            self._restart()
            self._decode_one()
            first, frame = self.buffer[0] if self.buffer else (math.inf, None)
            # low-latency H.264 refreshes bit by bit: what it calls key frames are no whole pictures
            if frame and not frame.key_frame and self.stream.codec_context.name == "h264":
                self.can_seek = False
            elif first <= low:
                return
            back = max(2 * back, self.second)                # some containers land late
        self.close()
        self._open()

    def _decode(self):
        """Frames in display order, without those before `needed` to which no other frame refers."""
        codec = self.stream.codec_context
        can_skip = codec.name in CAN_SKIP
        for packet in packets(self.container, self.stream):
            if can_skip:
                skip = packet.pts is not None and packet.pts < self.needed
                codec.skip_frame = "NONREF" if skip else "DEFAULT"
            try:
                frames = packet.decode()
            except av.error.FFmpegError:                     # a damaged packet costs its own frames
                continue
            yield from frames

    def _decode_one(self) -> None:
        """Append the next frame to the buffer and drop those that have left the screen at `low`."""
        frame = next(self.decoder, None)
        if frame is None:
            self.ended = True
            return
        position = self.count if self.counted else frame.pts
        self.decoded, self.count = self.decoded + 1, self.count + 1
        if position is not None:
            self.buffer.append((position, frame))
        while len(self.buffer) > 1 and self.buffer[1][0] <= self.low:
            self.pixels.pop(self.buffer.pop(0)[0], None)

    def _rgb(self, position: float, frame: av.VideoFrame) -> np.ndarray:
        if position not in self.pixels:
            # of the first frame: some streams change theirs on the way
            self.first = self.first or (frame.width, frame.height)
            if not same_shape(self.first, (frame.width, frame.height)):
                raise ValueError(f"{self.path}: its pictures change from {self.first[0]}x"
                                 f"{self.first[1]} to {frame.width}x{frame.height}")
            self.size = scaled_size(*self.first, self.short_side, self.multiple)
            self.pixels[position] = upright_rgb(frame, *self.size, self.reformatter)
            self.converted += 1
        return self.pixels[position]


# ---------------------------------------------------------------- folders of frames

@cached_by_file
def numbered_frames(folder: str) -> list[str]:
    """The JPEG and PNG files of a folder in the order of the last number in their names."""
    numbered = []
    for entry in os.scandir(folder):
        stem, suffix = os.path.splitext(entry.name)
        digits = re.findall(r"\d+", stem)
        is_picture = suffix.lower() in (".jpg", ".jpeg", ".png") and not stem.startswith(".")
        if is_picture and digits:
            numbered.append((int(digits[-1]), entry.path))
    if not numbered:
        raise ValueError(f"{folder}: a folder without numbered .jpg or .png frames; "
                         "name them 00001.jpg and so on")
    numbered.sort()
    steps = np.diff([number for number, _ in numbered])
    usual = max(min(steps, default=1), 1)                    # some are cut at every sixth frame
    if (wrong := (steps == 0) | (steps > usual) & (steps % usual == 0)).any():
        row = int(wrong.argmax())                            # all later ones would be other frames
        raise ValueError(f"{numbered[row + 1][1]}: comes after frame {numbered[row][0]}; find the "
                         "missing frames, or number all from 1 on, each once")
    return [path for _, path in numbered]


def read_picture(path: str, short_side: int | None = None, multiple: int = 1) -> np.ndarray:
    """(H, W, 3) uint8: a JPEG or PNG file scaled, and turned as its EXIF says."""
    try:
        with Image.open(path) as image:
            size = scaled_size(*image.size, short_side, multiple)
            image.draft("RGB", size)                 # JPEG: decode at the nearest larger eighth
            picture = image
            if image.mode.startswith("I"):           # 16 bits of grey, which convert() cuts off
                picture = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            picture = picture.convert("RGB").resize(size, Image.Resampling.BILINEAR)
            return np.asarray(ImageOps.exif_transpose(picture))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:   # SyntaxError: a PNG's
        raise ValueError(f"{path}: not a picture that can be read ({error})") from None


class FolderReader:
    """VideoReader's twin for a folder of numbered frames, 30 of them a second, as AVA's are cut."""

    rate = 30.0

    def __init__(self, path: str, short_side: int | None = None, multiple: int = 1):
        self.path, self.short_side, self.multiple = path, short_side, multiple
        self.files = numbered_frames(path)
        self.decoded = self.seeks = self.converted = 0
        self.times = np.arange(len(self.files)) / self.rate
        self.duration = len(self.files) / self.rate
        self.pixels: dict = {}

    def close(self) -> None:
        self.pixels.clear()

    def frames(self, indices: np.ndarray) -> np.ndarray:
        wanted = np.clip(indices, 0, len(self.files) - 1).tolist()
        self.pixels = {i: self.pixels[i] if i in self.pixels else self._read(i)
                       for i in sorted(set(wanted))}
        if len({pixels.shape for pixels in self.pixels.values()}) > 1:
            raise ValueError(f"{self.path}: its pictures differ in size")
        return np.stack([self.pixels[i] for i in wanted])

    def clip(self, frame_idx: int, frames: int = 8, stride: int = 1) -> np.ndarray:
        inside = np.clip(frame_idx, 0, len(self.files) - 1)
        refuse_outside(self.path, (frame_idx - inside) / self.rate)
        return self.frames(around(frame_idx, frames, stride))

    def clip_at(self, second: float, frames: int = 8, stride: int = 1,
                rate: float | None = None) -> np.ndarray:
        return self.clip(round(second * self.rate), frames, stride)     # AVA's rate is its own

    def _read(self, index: int) -> np.ndarray:
        self.decoded, self.converted = self.decoded + 1, self.converted + 1
        return read_picture(self.files[index], self.short_side, self.multiple)


# ---------------------------------------------------------------- either

def open_video(path: str, short_side: int | None = None,
               multiple: int = 1) -> VideoReader | FolderReader:
    """A reader for a video file or a folder of numbered frames."""
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: no such video file or folder of frames")
    return (FolderReader if os.path.isdir(path) else VideoReader)(path, short_side, multiple)


def read_clip(video: str, frame_idx: int, frames: int = 8, stride: int = 1,
              short_side: int | None = None) -> np.ndarray:
    """(T, H, W, 3) uint8 RGB frames of a video file or folder, `stride` apart, in display order.

    The 0-based frame_idx stands at position T // 2; beyond the ends the first or last repeats.
    """
    reader = open_video(video, short_side)
    try:
        return reader.clip(frame_idx, frames, stride)
    finally:
        reader.close()
