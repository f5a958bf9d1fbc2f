"""Videos as streams: read once from the start, and written with people and sound.

    Source                file, folder of numbered frames, camera or address -> its frames
      -> read_keyframes   a few keyframes with the clips around them, and the frames between
      -> in_thread        one ahead of who takes them; of a live source only the newest
    Film                  frames with people drawn on them -> an MP4 with the source's sound
"""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, repeat
from math import inf
from time import perf_counter
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

import draw
from video import (UNTOLD, numbered_frames, open_container, packets, read_picture, same_shape,
                   scaled_size, upright_rgb)

# a new scene: mean change of grey (of 255) from frame to frame, and how often the usual one
CUT = 15, 3
LARGEST = 1080                   # short side of the frames that are drawn at most, pixels
TICKS = 60_000                   # a second in the MP4, whole for 24, 25, 30 and 30000/1001 frames
LEAP = 3600                      # seconds that no picture stays; a clock that was set anew
SOON = 1e-6                      # seconds; float noise of time stamps


# ---------------------------------------------------------------- frames

def camera_path(video: str) -> str:
    """/dev/video0 for camera 0; other videos are as they are named."""
    return f"/dev/video{video}" if video.isdecimal() and not os.path.exists(video) else video


def decode(container, stream, errors=None) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """A stream's frames in display order; damaged packets are left out, a lost line is the end."""
    for packet in packets(container, stream, errors):
        with suppress(av.error.FFmpegError):
            yield from packet.decode()


class Source:
    """A video that is read once; `is_live` of one that has no end and does not wait: a camera."""

    def __init__(self, video, fps: float = 30.0, limit: float | None = None,
                 stop: threading.Event | None = None):
        """fps: of folders of frames. It ends after `limit` seconds, or where stop is set."""
        self.name, self.limit, self.stop = os.fspath(video), limit or inf, stop
        self.rate, self.duration = Fraction(fps).limit_denominator(100_000), None
        # seconds on the container's clock of the first frame; after it, of what was read so far;
        # of pictures there should be, 0 where nothing says so
        self.start, self.end, self.held, self.promised = 0.0, 0.0, 0.0, 0.0
        self.is_live, self.late = False, 0           # late: keyframes for which there was no time
        self.lost: list[Exception] = []              # why reading ended before the end
        self.changed: float | None = None            # second from which its pictures are stretched
        path = camera_path(self.name)
        if "://" not in path and not os.path.exists(path):
            raise FileNotFoundError(f"{self.name}: no such video file, folder of frames or camera")
        if os.path.isdir(path):
            self.pictures = self.read_folder()
            self.duration = float(len(numbered_frames(path)) / self.rate)
        else:
            kind = "v4l2" if path.startswith("/dev/video") else None
            timeout = 20 if "://" in path else None
            container, stream = open_container(path, format=kind, timeout=timeout)
            rate = stream.average_rate or stream.guessed_rate
            self.rate = rate if rate and rate <= 240 else self.rate    # some have but a clock
            lasts = stream.duration and float(stream.duration * stream.time_base)
            self.duration = lasts or container.duration and container.duration / av.time_base
            # where only the file says how long it is, that may be its sound
            self.promised = lasts or (self.duration if len(container.streams) == 1 else None) or 0.0
            self.is_live = not self.duration and not os.path.isfile(path)
            # threads that decode a frame each would keep as many frames back
            stream.thread_type = "SLICE" if self.is_live else "AUTO"
            self.pictures = self.read_file(container, stream)
        self.duration = self.duration and min(self.duration, self.limit)       # None: not known

    def read_file(self, container, stream) -> Iterator[tuple[float | None, av.VideoFrame]]:
        is_untold = container.format.name in UNTOLD and stream.codec_context.has_b_frames
        with container:                          # or its threads would live on
            for i, frame in enumerate(decode(container, stream, self.lost)):
                yield None if is_untold and i else frame.time, frame

    def read_folder(self) -> Iterator[tuple[float, av.VideoFrame]]:
        for i, path in enumerate(numbered_frames(self.name)):
            yield float(i / self.rate), av.VideoFrame.from_ndarray(read_picture(path))

    def __iter__(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """(seconds after the first frame, frame) in display order; time always grows.

        ValueError where it leaps by more than `LEAP`; a live source's clock is set back instead.
        """
        one, time = float(1 / self.rate), None
        for stamp, frame in self.pictures:
            if time is None:
                self.start, time = stamp or 0.0, 0.0
            elif stamp is not None and stamp - self.start > time + LEAP:
                if not self.is_live:
                    raise ValueError(f"{self.name}: its pictures leap from {time:.1f} to "
                                     f"{stamp - self.start:.1f} s; mend its time stamps, or cut it")
                time += one
                self.start = stamp - time
            elif stamp is not None and stamp - self.start > time:
                time = stamp - self.start
            else:                                    # no time stamp, or one that does not grow
                time += one
            if time >= self.limit or self.stop and self.stop.is_set():
                break
            self.end = time + one
            # the last may stand long
            self.held = time + float((frame.duration or 0) * (frame.time_base or 0))
            yield time, frame
        if time is None:
            raise ValueError(f"{self.name}: no frame of it can be decoded")

    def is_whole(self) -> bool:
        """Whether what was read reaches about as far as the file says it does."""
        return self.start + max(self.end, self.held) >= 0.95 * min(self.promised, self.limit) - 1


# ---------------------------------------------------------------- keyframes

@dataclass
class Keyframe:
    """A keyframe, and what happened since the keyframe before it."""

    time: float                                  # seconds after the first frame
    frames: list[tuple[float, av.VideoFrame]]    # (seconds, frame) since the one before, to draw
    cuts: list[float]                            # seconds at which a scene began since then
    picture: av.VideoFrame | None = None         # None: the end of the video
    clip: np.ndarray | None = None               # (T, h, w, 3) uint8, its own frame at T // 2
    arrived: float = 0.0                         # when it was read: perf_counter(), seconds
    people: dict = field(default_factory=dict)   # by track, for who finds them


class Shot(NamedTuple):
    """A frame, from `time` (seconds) on the screen."""

    time: float
    picture: av.VideoFrame                   # of `LARGEST` at most
    small: np.ndarray                        # (h, w, 3) uint8, upright, for the encoder
    is_cut: bool                             # a new scene begins here
    arrived: float                           # when it was read: perf_counter(), seconds


def scale_frames(source: Source, short_side: int, patch: int) -> Iterator[Shot]:
    """The frames in the two sizes that are needed, and whether a scene begins there."""
    reformatter, first, grey, usual = VideoReformatter(), None, None, None
    for time, frame in source:
        arrived = perf_counter()
        first = first or (frame.width, frame.height)
        if source.changed is None and not same_shape(first, (frame.width, frame.height)):
            source.changed = time
        size = scaled_size(*first, short_side, patch)
        small, before, is_cut = upright_rgb(frame, *size, reformatter), grey, False
        grey = small[::8, ::8].mean(axis=2)
        if before is not None:
            change = float(np.abs(grey - before).mean())
            usual = change if usual is None else usual       # high where the camera shakes
            is_cut = change > max(CUT[0], CUT[1] * usual)
            usual += 0.2 * (change - usual)
        if min(frame.width, frame.height) > LARGEST:
            frame = reformatter.reformat(frame, *scaled_size(frame.width, frame.height, LARGEST, 2))
        yield Shot(time, frame, small, is_cut, arrived)


def read_keyframes(source: Source, times: Iterator[float], T: int, stride: int, short_side: int,
                   patch: int, with_frames: bool) -> Iterator[Keyframe]:
    """The keyframes at `times` (seconds, ascending) with their clips, and last the video's end.

    Each frame is decoded once. A clip is T frames, `stride` apart, scaled to short_side and whole
    patches; beyond the ends it repeats the first and last frame, as data.py's do. with_frames: all
    frames are kept, to be drawn.
    """
    before, after = T // 2 * stride, max((T - 1 - T // 2) * stride, 1)
    window = deque(maxlen=before + 1 + after)                # the present frame is at `before`
    frames, cuts, time = [], [], next(times)
    for shot in chain(scale_frames(source, short_side, patch), repeat(None, after)):
        if shot is None:                                     # past the end: the last frame again
            shot = window[-1]._replace(time=source.end)
        window.extend([shot] * (1 if window else before + 1))
        if len(window) == window.maxlen:
            present, until = window[before], window[before + 1].time
            frames += [(present.time, present.picture)] * with_frames
            cuts += [present.time] * present.is_cut
            while time < until - SOON:
                clip = np.stack([shot.small for shot in window][::stride][:T])
                yield Keyframe(time, frames, cuts, present.picture, clip, present.arrived)
                frames, cuts, time = [], [], next(times)
    yield Keyframe(source.end, frames, [*cuts, source.end])


def in_thread(items: Iterator, leave_out: Callable | None = None) -> Iterator:
    """The items of a generator that runs one ahead of us in a thread; its errors are raised here.

    leave_out: the generator never waits; leave_out(old, new) where the old was not taken in time.
    """
    waiting, is_left = queue.Queue(1), threading.Event()

    def read() -> None:
        try:
            with closing(items):
                for item in items:
                    if leave_out:
                        with suppress(queue.Empty):
                            leave_out(waiting.get_nowait(), item)
                    waiting.put(item)
                    if not leave_out:
                        waiting.join()                       # until it is taken
                    if is_left.is_set():
                        return
        finally:
            waiting.put(None)                                # no more, or an error

    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(read)
        try:
            while (item := waiting.get()) is not None:
                waiting.task_done()
                yield item
            reading.result()
        finally:
            is_left.set()
            while not reading.done():                        # left early: it may wait for us
                with suppress(queue.Empty):
                    waiting.get(timeout=0.05)
                    waiting.task_done()


def keyframes_ahead(keyframes: Iterator[Keyframe], source: Source) -> Iterator[Keyframe]:
    """The keyframes, read in a thread; a live source's are left out and counted where late."""
    def leave_out(old: Keyframe, new: Keyframe) -> None:
        source.late += 1
        new.cuts[:0] = old.cuts

    return in_thread(keyframes, leave_out if source.is_live else None)


# ---------------------------------------------------------------- the annotated film

class Film:
    """An MP4 of frames with people on them. After a kill, all but its last 2 seconds play."""

    def __init__(self, path, source: Source, first: av.VideoFrame, legend: str, font: str | None):
        self.source, self.legend, self.font = source, legend, font
        self.reformatter, self.pts = VideoReformatter(), -1
        self.size = scaled_size(first.width, first.height, None, 2)          # even, for H.264
        # fragments while it is written, an ordinary file once it is closed
        self.container = av.open(str(path), "w", format="mp4",
                                 options={"movflags": "hybrid_fragmented", "flush_packets": "1"})
        self.video = self.container.add_stream(
            "libx264", rate=source.rate, options={"preset": "veryfast", "crf": "20", "bf": "0"})
        upright = upright_rgb(first, *self.size, self.reformatter)
        self.video.height, self.video.width = upright.shape[:2]
        self.video.codec_context.time_base = Fraction(1, TICKS)
        self.video.codec_context.gop_size = max(round(2 * source.rate), 1)   # a fragment: 2 s
        self.sound = self.encode_sound() if os.path.isfile(source.name) else iter(())
        self.packet = next(self.sound, None)

    def add(self, time: float, frame: av.VideoFrame, people: list) -> None:
        """The next frame, at `time` (seconds); people: as `draw.draw_people` takes them."""
        rgb = upright_rgb(frame, *self.size, self.reformatter)
        drawn = av.VideoFrame.from_ndarray(draw.draw_people(rgb, people, self.legend, self.font))
        self.pts = max(round(time * TICKS), self.pts + 1)    # it must grow
        drawn.pts, drawn.time_base = self.pts, Fraction(1, TICKS)
        self.add_sound(time)
        self.container.mux(self.video.encode(drawn))

    def encode_sound(self) -> Iterator[av.Packet]:
        """The file's sound from the first frame on, as AAC; nothing where it has none."""
        with av.open(self.source.name) as container:
            sound = next(iter(container.streams.audio), None)
            if not sound or not sound.codec_context.sample_rate:
                return
            encoder = self.container.add_stream("aac", rate=48_000, layout="stereo")
            for frame in chain(decode(container, sound), [None]):           # None: the last packets
                if frame is not None:                        # the first picture is at 0
                    frame.pts = (frame.pts or 0) - round(self.source.start / frame.time_base)
                for packet in encoder.encode(frame) if frame is None or frame.pts >= 0 else []:
                    if packet.pts >= 0:                      # AAC's first only primes the decoder
                        yield packet

    def add_sound(self, until: float) -> None:
        while self.packet is not None and (self.packet.pts or 0) * self.packet.time_base <= until:
            self.container.mux(self.packet)
            self.packet = next(self.sound, None)

    def close(self, end: float) -> None:
        self.add_sound(end)
        self.container.mux(self.video.encode(None))
        self.container.close()
