"""The product: any video, any words -> who does what, when and where.

    python detect_actions.py VIDEO [VIDEO ...] --ckpt runs/ucf101-24/last.pt --actions "wave" "ride a bike"

A video is read once, as a stream, by three threads that overlap; some seconds are held, never the film:

    read    frames, and for a keyframe every half second the clip of T frames around it
    models  keyframe -> people (a detector, or --proposals); clip, people -> scores of the words: Eq. (2), (3)
            people of successive keyframes -> tubes, by greedy IoU; scores averaged along a tube
    write   boxes interpolated between keyframes, drawn and encoded; rows on disk as soon as they are final

Out come, under --out: NAME.mp4 (annotated, with sound), NAME.csv and its label map NAME.pbtxt (AVA layout, all
scores), NAME_spans.csv (track,action,start,end,mean_score), NAME_timeline.png and, with --json, NAME.json.
Ctrl-C leaves them whole; NAME.done stands beside them once the video is done. Memory does not grow with the video:
10 minutes of 180x180 took 0.9 GB throughout, 1080p 2.3 GB (toy model, one thread, torch and all).

What a score means. `calibrated`: the share of the word in a softmax over the word and a background of generic
prompts ("a person", "a person standing still", ...), each word on its own: at 0.5 it fits as well as all the
background together, and if no word does, the answer is "none of these". `sigmoid`: the paper's Eq. (3), made for
ranking; cosines of such models are all positive, so that it is near 1 for everything.

As a library:

    from detect_actions import detect
    for seen in detect("street.mp4", ["wave", "ride a bike"], "runs/ucf101-24/last.pt"):
        print(seen.time, seen.track, seen.box, seen.scores)
"""

import argparse
import colorsys
import csv
import glob
import json
import os
import re
import signal
import sys
import textwrap
import threading
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, fields
from fractions import Fraction
from itertools import chain, count, islice
from math import inf
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageDraw, ImageFont
from torchvision.ops import box_iou
from tqdm import tqdm

import detect_humans
import engine
import ovstad
from data import normalise
from formats.files import csv_columns, places, replacing, write_label_map
from formats.proposals import read_proposals
from table import make_annotations
from video import numbered_frames, open_container, scaled_size, upright_rgb

BACKGROUND = ("a person", "a person standing still", "a person in a room", "a person outdoors",
              "a photo of a person", "a person doing nothing", "people")
# a new scene: mean change of grey (of 255) from frame to frame, and times the usual
CUT = 15, 3
TOGETHER = 64                    # frames that go through the models together
LARGEST = 1080                   # short side of the annotated video at most, pixels
TICKS = 60_000                   # a second in the MP4: whole ticks for 24, 25, 30, 60 and 30000/1001 frames
SOON = 1e-6                      # seconds; float noise of time stamps


def setting(group: str, default, text: str, **flag):
    """A field of `Settings` and a flag of the command at once."""
    kind = {"action": "store_true"} if default is False else {"type": type(default)}
    flag = {**kind, "default": default, "help": text, **flag}
    return field(default=default, metadata={"group": group, "flag": flag})


@dataclass
class Settings:
    """How a video is watched."""

    beta: float | None = setting("model", None, "fusion ratio, Eq. 2: 1 is region only, 0 global only; "
                                 "by default, as for the next three, the checkpoint's", type=float)
    frames: int | None = setting("model", None, "T", type=int)
    stride: int | None = setting("model", None, "frames from one of a clip to the next", type=int)
    short_side: int | None = setting("model", None, "of the clip's frames, pixels", type=int)
    person_score: float = setting("people", 0.6, "what the detector must be sure of to count a person")
    every: float = setting("people", 0.5, "seconds between keyframes; half of it is a slower, finer answer; the "
                           "pictures of about two and a half are held until they are drawn")
    gap: float = setting("people", 1.5, "seconds unseen after which a person is a new one; never less than "
                         "the usual step between keyframes")
    link_iou: float = setting("people", 0.2, "overlap with the keyframe before that makes a box "
                              "the same person; lower for fast people")
    score: str = setting("scores", "calibrated", "calibrated: against 'none of these', see above; sigmoid: "
                         "Eq. (3), for ranking", choices=["calibrated", "sigmoid"])
    threshold: float = setting("scores", 0.5, "a word from this score on is drawn and makes spans; "
                               "the CSV has all")
    background: tuple[str, ...] = setting("scores", BACKGROUND, "whole prompts that stand for none of the words",
                                          type=str, nargs="+", metavar="TEXT")
    smooth: int = setting("scores", 3, "keyframes of a tube that a score is the mean of, odd; 1 is off")
    top: int = setting("output", 3, "words drawn beside a person at most")
    max_seconds: float | None = setting("run", None, "stop there; for streams and first looks", type=float)
    fps: float = setting("run", 25.0, "of folders of frames")
    amp: bool = setting("run", False, "compute in bfloat16 where it is safe")
    batch_size: int = setting("run", 8, "keyframes at once at most; less needs less memory")

    def __post_init__(self):
        def need(good, expected: str, *names: str) -> None:
            for name in names:
                value = getattr(self, name)
                if value is not None and not good(value):
                    raise ValueError(f"--{name.replace('_', '-')} {value}: expected {expected}")

        need(lambda x: 0.01 <= x < inf, "0.01 seconds or more", "every")
        need(lambda x: 0 < x < inf, "a number above 0", "gap", "max_seconds")
        need(lambda x: 0.001 <= x <= 1000, "0.001 to 1000 frames a second", "fps")
        need(lambda x: 0 <= x <= 1, "a number in [0, 1]", "person_score", "link_iou", "threshold", "beta")
        need(lambda x: x >= 1, "1 or more", "frames", "stride", "short_side", "batch_size", "top")
        need(lambda x: x >= 1 and x % 2, "an odd number of keyframes", "smooth")
        need(lambda x: x in ("calibrated", "sigmoid"), "calibrated or sigmoid", "score")
        need(any, "at least one text", "background")


class Detection(NamedTuple):
    """One person on one keyframe."""

    video: str                               # as it was given
    time: float                              # of the keyframe: seconds after the video's first frame
    track: int                               # from 1; the same person as long as it is followed
    box: tuple[float, float, float, float]   # xyxy in [0, 1] of the upright picture
    scores: dict[str, float]                 # of every action, in [0, 1]


class Span(NamedTuple):
    """One person doing one thing, from start to end (seconds)."""

    track: int
    action: str
    start: float
    end: float
    score: float                             # mean over its keyframes


# ---------------------------------------------------------------- the words

def parse_actions(texts: list[str], path="actions") -> dict[str, list[str]]:
    """{name: its phrasings} of lines `wave` or `wave: waving a hand | hand wave`; # begins a comment."""
    actions = {}
    for i, text in enumerate(texts, 1):
        if text.strip() and not text.lstrip().startswith("#"):
            name, colon, rest = (part.strip() for part in text.partition(":"))
            phrasings = [part.strip() for part in (rest if colon else name).split("|")]
            if name in actions or not name or not all(phrasings):
                fault = "is there twice" if name in actions else "names no action"
                raise ValueError(f"{path}:{i}: {text.strip()!r} {fault}; "
                                 "expected `wave` or `wave: waving a hand | hand wave`, each name once")
            actions[name] = phrasings
    if not actions:
        raise ValueError(f"{path}: no action in it; expected one or more")
    return actions


def read_actions(path) -> dict[str, list[str]]:
    """The actions of a file, one a line; none where path is None."""
    try:
        return parse_actions(Path(path).read_text(encoding="utf-8-sig").splitlines(), path) if path else {}
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file in UTF-8; expected one action a line") from None


def scores_of(logits: torch.Tensor, words: int, kind: str) -> torch.Tensor:
    """(N, words) in [0, 1] from logits (N, words + K), float64, the last K being the background's."""
    own, background = logits[:, :words], logits[:, words:]
    if kind == "calibrated":                 # softmax over one word and the background, a word at a time
        own = own - background.logsumexp(dim=1, keepdim=True)
    return own.sigmoid()                     # Eq. (3)


class Words:
    """A video-language model asked for some words; `names` are they, `note` what to know about the checkpoint."""

    def __init__(self, actions: dict[str, list[str]], ckpt, settings: Settings, device: torch.device):
        model, record = (ckpt.eval(), {}) if isinstance(ckpt, ovstad.ViCLIP) else ovstad.load_model(ckpt)
        self.model, self.names, self.settings, self.device = model.to(device), list(actions), settings, device
        arch = ovstad.ARCHS[model.arch]
        self.beta = record.get("beta", ovstad.BETA) if settings.beta is None else settings.beta
        self.frames = settings.frames or record.get("frames") or arch.frames
        self.stride = settings.stride or record.get("stride") or 1
        self.short_side = settings.short_side or record.get("short_side") or round(arch.grid * arch.patch * 8 / 7)
        stage = record.get("stage")
        self.note = None if stage == "finetune" else (
            f"{'a model of stage ' + stage if stage else 'the original ViCLIP'}, not finetuned on actions "
            "of people: its scores rank, but separate less; train_finetune.py makes a better one")

        prompt = record.get("prompt", ovstad.PROMPT)
        prompts = [[prompt.replace("{}", phrase) for phrase in phrasings] for phrasings in actions.values()]
        prompts += [[text] for text in settings.background if not any(text in own for own in prompts)]
        with torch.inference_mode():
            means = [F.normalize(model.encode_text(some).float(), dim=-1).mean(dim=0) for some in prompts]
        self.f_text = torch.stack(means)                                                   # (C + K, D)

    @torch.inference_mode()
    def score(self, clips: np.ndarray, boxes: list[torch.Tensor]) -> list[np.ndarray]:
        """clips (B, T, H, W, 3) uint8 and B boxes tensors (N_b, 4) -> B arrays (N_b, C) float64 in [0, 1]."""
        video = normalise(torch.from_numpy(clips).to(self.device).permute(0, 1, 4, 2, 3))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.amp):
            logits = self.model(video, boxes, self.f_text, self.beta)                      # (N, C + K)
        scores = scores_of(logits.double(), len(self.names), self.settings.score).cpu()
        return [part.numpy() for part in scores.split([len(b) for b in boxes])]


# ---------------------------------------------------------------- the frames

def decoded(container, stream) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """The frames of a stream in display order; damaged packets are left out, and a lost connection is the end."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):
            return
        with suppress(av.error.FFmpegError):
            yield from packet.decode()


class Source:
    """A video file, a folder of numbered frames, or the address of a stream or camera, read once."""

    def __init__(self, video, settings: Settings):
        self.name, self.limit = os.fspath(video), settings.max_seconds or inf
        self.rate, self.duration = Fraction(settings.fps).limit_denominator(100_000), None
        self.start = self.end = self.held = 0.0              # of the container's clock; of what is read so far
        self.promised = 0.0                                  # seconds of pictures, 0 where nothing says so
        is_address = "://" in self.name
        if not is_address and not os.path.exists(self.name):
            raise FileNotFoundError(f"{self.name}: no such video file or folder of frames")
        if os.path.isdir(self.name):
            self.pictures, self.duration = self.read_folder(), float(len(numbered_frames(self.name)) / self.rate)
        else:
            camera = "v4l2" if self.name.startswith("/dev/video") else None
            container, stream = open_container(self.name, format=camera, timeout=20 if is_address else None)
            stream.thread_type = "AUTO"
            rate = stream.average_rate or stream.guessed_rate
            self.rate = rate if rate and rate <= 240 else self.rate          # some containers only have a clock
            lasts = stream.duration and float(stream.duration * stream.time_base)
            self.duration = lasts or container.duration and container.duration / av.time_base
            # what the pictures must come to: where only the file says how long it is, that may be its sound
            self.promised = lasts or (self.duration if len(container.streams) == 1 else None) or 0.0
            self.pictures = ((frame.time, frame) for frame in decoded(container, stream))
        self.duration = self.duration and min(self.duration, self.limit)     # None: not known

    def read_folder(self) -> Iterator[tuple[float, av.VideoFrame]]:
        for i, path in enumerate(numbered_frames(self.name)):
            try:
                with Image.open(path) as image:
                    yield float(i / self.rate), av.VideoFrame.from_image(image.convert("RGB"))
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:     # SyntaxError: a damaged PNG
                raise ValueError(f"{path}: not a picture that can be read ({error})") from None

    def __iter__(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """(seconds after the first frame, frame) in display order; time always grows."""
        one, time = float(1 / self.rate), None
        for stamp, frame in self.pictures:
            if time is None:
                self.start, time = stamp or 0.0, 0.0
            elif stamp is not None and stamp - self.start > time:
                time = stamp - self.start
            else:                                            # without a time stamp, or one that does not grow
                time += one
            if time >= self.limit:
                break
            self.end = time + one
            self.held = time + float((frame.duration or 0) * (frame.time_base or 0))     # the last may stand long
            yield time, frame
        if time is None:
            raise ValueError(f"{self.name}: no frame of it can be decoded")


class Frame(NamedTuple):
    """A frame, on screen from `time` to `until` (seconds)."""

    time: float
    until: float
    picture: av.VideoFrame
    is_cut: bool                     # a new scene begins here
    keyframes: list[float]           # the keyframes that fall on it (seconds)
    clip: np.ndarray | None          # (T, h, w, 3) uint8 with this frame in place T // 2, if it has keyframes


@contextmanager
def timed(busy: Counter, stage: str):
    """Adds the seconds that a stage is busy."""
    before = perf_counter()
    yield
    busy[stage] += perf_counter() - before


def scaled(source: Source, short_side: int, patch: int) -> Iterator[tuple[float, av.VideoFrame, np.ndarray, bool]]:
    """(time, frame of `LARGEST` at most, the frame for the encoder (h, w, 3) uint8,
    whether a scene begins there).
    """
    reformatter, size, grey, usual = VideoReformatter(), None, None, None
    for time, frame in source:
        size = size or scaled_size(frame.width, frame.height, short_side, patch)
        small, before, is_cut = upright_rgb(frame, *size, reformatter), grey, False
        grey = small[::8, ::8].mean(axis=2)
        if before is not None:
            change = float(np.abs(grey - before).mean())
            usual = change if usual is None else usual       # of the last few frames; a shaking camera's is high
            is_cut = change > max(CUT[0], CUT[1] * usual)
            usual += 0.2 * (change - usual)
        if min(frame.width, frame.height) > LARGEST:
            frame = reformatter.reformat(frame, *scaled_size(frame.width, frame.height, LARGEST, 2))
        yield time, frame, small, is_cut


def read(source: Source, times: Iterator[float], words: Words, busy: Counter) -> Iterator[Frame]:
    """All frames, each decoded once, with the clips of the keyframes that fall on them.

    times: of the keyframes, ascending. Clips repeat the first and last frame beyond the ends, as data.py's do.
    """
    T, stride = words.frames, words.stride
    before, after = T // 2 * stride, max((T - 1 - T // 2) * stride, 1)
    # of `scaled`; the frame in place `before` is given out
    window = deque(maxlen=before + 1 + after)
    keyframe = next(times, inf)
    shots, past = scaled(source, words.short_side, words.model.patch), 0
    while past < after:
        with timed(busy, "decoding"):
            item = next(shots, None)
        if item is None:                                     # past the end: the last frame again
            item, past = (source.end, *window[-1][1:]), past + 1
        window.extend([item] * (1 if window else before + 1))
        if len(window) == window.maxlen:
            time, picture, _, is_cut = window[before]
            until, keyframes = window[before + 1][0], []
            while keyframe < until - SOON:
                keyframes.append(keyframe)
                keyframe = next(times, inf)
            clip = np.stack([small for _, _, small, _ in window][::stride][:T]) if keyframes else None
            yield Frame(time, until, picture, is_cut, keyframes, clip)


def in_thread(items: Iterator, ahead: int) -> Iterator:
    """The items of a generator that runs `ahead` of us in a thread of its own; it raises its errors here."""
    with ThreadPoolExecutor(1) as thread:
        coming = deque(thread.submit(next, items, None) for _ in range(ahead))
        try:
            while (item := coming.popleft().result()) is not None:
                coming.append(thread.submit(next, items, None))
                yield item
        finally:                                                 # left early, or broken
            for future in coming:
                future.cancel()
            thread.submit(items.close).result()


# ---------------------------------------------------------------- the people

def read_people(path, videos: list[str], min_score: float) -> list[dict[float, np.ndarray]]:
    """For each video, the boxes (N_b, 4) float32 of its keyframes (seconds) in a proposals CSV; {} for none.

    The CSV (video,keyframe,x1,y1,x2,y2,,score) names a video by its path or by its file name, with or
    without the suffix.
    """
    lines, (names,), numbers = csv_columns(path, (8,), (0,), (1,), "video,keyframe,x1,y1,x2,y2,,score")
    for i in np.flatnonzero(numbers[:, 0] < 0)[:1]:
        raise ValueError(f"{path}:{lines[i]}: keyframe {numbers[i, 0]:g}; expected seconds after the first "
                         "frame, 0 or more")
    known, place = places(names)
    nobody = np.zeros((len(place), 4)), np.full(len(place), -1)
    table = make_annotations(known, [], place, numbers[:, 0], *nobody, unit="second")
    found = read_proposals(path, table, min_score)
    result = []
    for video in videos:
        name = next((name for name in (video, Path(video).name, Path(video).stem) if name in known), None)
        mine = found.video == (known.index(name) if name else -1)
        result.append({t: found.box[mine & (found.keyframe == t)]
                       for t in np.unique(found.keyframe[mine]).tolist()})
    if not any(result):
        raise ValueError(f"{path}: has no box of {', '.join(videos[:3])} of --person-score {min_score:g}; "
                         f"it names {', '.join(known[:3])}. Write the video's path or file name "
                         "in the first column")
    return result


@dataclass
class Tube:
    """The linked boxes of one person, on screen from `since` to `until` (seconds)."""

    track: int
    since: float
    until: float = 0.0
    is_over: bool = False                                    # at a cut, or the video's end
    times: list[float] = field(default_factory=list)         # of its keyframes; long past ones are dropped
    boxes: list[np.ndarray] = field(default_factory=list)    # (4,)
    scores: list[np.ndarray] = field(default_factory=list)   # (C,)
    released: int = 0                                        # how many of these are given out
    spans: dict[int, tuple] = field(default_factory=dict)    # of actions going on: start, end, sum, keyframes


Seen = tuple[int, np.ndarray, np.ndarray]        # on a frame: track, box (4,), scores (C,) of the nearest keyframe


class Tracker:
    """People over time: boxes linked into tubes, scores averaged along them.

    A keyframe's box continues the tube that it overlaps most (IoU, the best pairs first, each once), or begins
    a new one; a tube that is not continued for `gap` seconds, or has come to a cut, is over. What lies `delay`
    seconds back is final: tubes there are continued or over, and the neighbours of their scores are known.
    """

    def __init__(self, video: str, names: list[str], settings: Settings, hold: float, spacing: float = 0.0):
        self.gap = max(settings.gap, spacing) + SOON
        self.video, self.names, self.settings = video, names, settings
        self.hold = hold                     # seconds a box is shown before its first and after its last keyframe
        self.reach = settings.smooth // 2    # keyframes to both sides that a score is averaged over
        self.delay = hold + self.gap * (1 + self.reach)
        self.tubes: list[Tube] = []
        self.count, self.scene = 0, 0.0      # tubes so far; when the scene began

    def update(self, time: float, boxes: np.ndarray, scores: np.ndarray) -> None:
        """A keyframe's boxes (N_b, 4) and their scores (N_b, C)."""
        tubes = [tube for tube in self.tubes if not tube.is_over and time - tube.times[-1] <= self.gap]
        last = np.array([tube.boxes[-1] for tube in tubes], np.float32).reshape(-1, 4)
        overlap = box_iou(torch.from_numpy(last), torch.from_numpy(boxes)).numpy()           # (tubes, N_b)
        continued = {}
        while overlap.size and overlap.max() >= self.settings.link_iou:
            t, b = np.unravel_index(overlap.argmax(), overlap.shape)
            continued[b] = tubes[t]
            overlap[t, :] = overlap[:, b] = -1
        for b in range(len(boxes)):
            tube = continued.get(b)
            if tube is None:
                self.count += 1
                tube = Tube(self.count, since=max(time - self.hold, self.scene))
                self.tubes.append(tube)
            tube.until = time + self.hold
            tube.times.append(time)
            tube.boxes.append(boxes[b])
            tube.scores.append(scores[b])

    def cut(self, time: float) -> None:
        """A new scene begins, or the video ends.

        Nobody before goes on, and who was just there stays until then.
        """
        self.scene = time
        for tube in self.tubes:
            if not tube.is_over and time - tube.times[-1] <= 2 * self.hold:
                tube.until = time
            tube.is_over = True

    def smoothed(self, tube: Tube, i: int) -> np.ndarray:
        return np.mean(tube.scores[max(i - self.reach, 0):i + self.reach + 1], axis=0)     # (C,)

    def people_at(self, time: float) -> list[Seen]:
        """Who is on screen at a final time that is not released yet."""
        seen = []
        for tube in self.tubes:
            if tube.since <= time < tube.until:
                box = np.array([np.interp(time, tube.times, side) for side in np.transpose(tube.boxes)])
                nearest = int(np.abs(np.array(tube.times) - time).argmin())
                seen.append((tube.track, box, self.smoothed(tube, nearest)))
        return seen

    def release(self, final: float) -> tuple[list[Detection], list[Span], list[tuple[int, float, float]]]:
        """Detections before the time `final`, in order; spans that ended; (track, since, until) of tubes that did.

        What is released is forgotten here.
        """
        detections, spans, tracks = [], [], []
        for tube in self.tubes:
            while tube.released < len(tube.times) and tube.times[tube.released] < final:
                time, scores = tube.times[tube.released], self.smoothed(tube, tube.released)
                detections.append(Detection(self.video, time, tube.track,
                                            tuple(tube.boxes[tube.released].tolist()),
                                            dict(zip(self.names, scores.tolist()))))
                for c, score in enumerate(scores.tolist()):
                    if score >= self.settings.threshold:
                        start, _, total, number = tube.spans.get(c, (max(time - self.hold, tube.since), 0, 0, 0))
                        tube.spans[c] = start, time + self.hold, total + score, number + 1
                    elif c in tube.spans:
                        spans.append(self.end_span(tube, c))
                tube.released += 1
            if tube.until <= final:
                spans += [self.end_span(tube, c)._replace(end=tube.until) for c in list(tube.spans)]
                tracks.append((tube.track, tube.since, tube.until))
            # what neither smoothing nor drawing asks for again
            past = max(tube.released - 1 - self.reach, 0)
            for kept in (tube.times, tube.boxes, tube.scores):
                del kept[:past]
            tube.released -= past
        self.tubes = [tube for tube in self.tubes if tube.until > final]
        return sorted(detections, key=lambda seen: (seen.time, seen.track)), spans, tracks

    def end_span(self, tube: Tube, c: int) -> Span:
        start, end, total, number = tube.spans.pop(c)
        return Span(tube.track, self.names[c], start, end, total / number)


# ---------------------------------------------------------------- the pipeline

class Chunk(NamedTuple):
    """What became final."""

    until: float                                             # how far the video was analysed, seconds
    frames: list[tuple[float, av.VideoFrame, list[Seen]]]
    detections: list[Detection]
    spans: list[Span]                                        # that ended
    tracks: list[tuple[int, float, float]]                   # people who left: track, first and last second


def look(batch: list[Frame], words: Words, people, busy: Counter) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """The boxes (N_b, 4) and scores (N_b, C) of keyframes with people, by time; people: as for `analyse`."""
    keyframes = [(time, frame) for frame in batch for time in frame.keyframes]
    size, found, reformatter = words.settings.batch_size, {}, VideoReformatter()
    for some in (keyframes[i:i + size] for i in range(0, len(keyframes), size)):
        with timed(busy, "people"):
            if isinstance(people, dict):
                boxes = [people[time] for time, _ in some]
            else:
                rgb = [upright_rgb(p, p.width, p.height, reformatter)
                       for p in (frame.picture for _, frame in some)]
                seen = detect_humans.detect_frames(people, rgb)
                boxes = [boxes[scores >= words.settings.person_score] for boxes, scores in seen]
        occupied = [(time, frame.clip, own) for (time, frame), own in zip(some, boxes) if len(own)]
        if occupied:                                                 # a clip without people is not encoded
            times, clips, boxes = zip(*occupied)
            with timed(busy, "actions"):
                scores = words.score(np.stack(clips), [torch.from_numpy(own) for own in boxes])
            found |= dict(zip(times, zip(boxes, scores)))
    return found


def analyse(source: Source, words: Words, people, busy: Counter, stop: threading.Event,
            pictures: bool = True) -> Iterator[Chunk]:
    """The whole pipeline but the drawing; what it holds does not grow with the video.

    people: a detector of detect_humans.py, or the boxes (N_b, 4) of each keyframe by its time. Where stop is
    set from outside, the video ends.
    """
    every = words.settings.every
    times = sorted(people) if isinstance(people, dict) else None
    between = np.diff(times) if times and len(times) > 1 else np.array([every])              # keyframes, seconds
    hold, spacing = min(every, between.min()) / 2, float(np.median(between))
    tracker = Tracker(source.name, words.names, words.settings, hold, spacing)
    frames = read(source, iter(times) if times is not None else (i * every for i in count()), words, busy)
    waiting, end = deque(), 0.0                                  # frames whose boxes are not final

    def chunk(final: float) -> Chunk:
        ready = []
        while waiting and waiting[0][0] < final:
            time, picture = waiting.popleft()
            ready.append((time, picture, tracker.people_at(time)))
        return Chunk(end, ready, *tracker.release(final))

    with closing(in_thread(frames, ahead=32)) as frames:
        while (batch := list(islice(frames, TOGETHER))) and not stop.is_set():
            found = look(batch, words, people, busy)
            for frame in batch:
                if frame.is_cut:
                    tracker.cut(frame.time)
                for time in frame.keyframes:
                    if time in found:
                        tracker.update(time, *found[time])
                if pictures:
                    waiting.append((frame.time, frame.picture))
            end = batch[-1].until
            yield chunk(end - tracker.delay)
    tracker.cut(end)
    yield chunk(inf)


def detect(video, actions: list[str], ckpt="ViT-B/16", proposals=None, detector=detect_humans.DEFAULT,
           detector_weights=None, device: str | None = None, **settings) -> Iterator[Detection]:
    """Who does what, when and where: a Detection for every person on every keyframe, in order of time.

    video: a file, a folder of numbered frames, an address. actions: words, or "wave: waving | hand wave".
    ckpt: a checkpoint, official weights, a Hub id, or a ViCLIP model. detector: a name, or one that was built.
    proposals: a CSV of boxes in its place. settings: fields of `Settings`. A Detection has video (str), time
    (seconds after the first frame), track (int from 1), box (x1, y1, x2, y2 in [0, 1]) and scores {action: in
    [0, 1]}. Records come a few seconds of video behind the reading; nobody in the picture gives none. ValueError
    or FileNotFoundError in one line: the video, words, checkpoint or CSV that cannot be used; all of it comes with
    the first record that is asked for, before which nothing is opened. Closing the iterator stops its thread.
    """
    settings = Settings(**settings)
    device = engine.start_process(device).device
    source = Source(video, settings)
    words = Words(parse_actions(actions), ckpt, settings, device)
    people = people_of(proposals, [source.name], settings, detector, detector_weights, device)[0]
    with closing(analyse(source, words, people, Counter(), threading.Event(), pictures=False)) as chunks:
        for chunk in chunks:
            yield from chunk.detections


def people_of(proposals, videos: list[str], settings: Settings, detector, weights, device) -> list:
    """For each video what `analyse` takes as people; a detector that was built already is taken as it is."""
    if proposals:
        return read_people(proposals, videos, settings.person_score)
    if isinstance(detector, str):
        detector = detect_humans.build_detector(detector, weights, device)
    return [detector] * len(videos)


# ---------------------------------------------------------------- pictures

def colour_of(number: int, saturation: float = 0.7) -> tuple[int, int, int]:
    """RGB; successive numbers lie far apart on the colour circle."""
    return tuple(round(255 * x) for x in colorsys.hsv_to_rgb(number * 0.618 % 1, saturation, 1.0))


def draw_people(rgb: np.ndarray, people: list[Seen], names: list[str], settings: Settings) -> np.ndarray:
    """The picture (H, W, 3) uint8 with each person's box, track id and best words, and the legend below."""
    image = Image.fromarray(rgb)
    canvas, (W, H) = ImageDraw.Draw(image), image.size
    size, thick = max(11, round(min(W, H) / 30)), max(2, round(min(W, H) / 240))
    font, line = ImageFont.load_default(size), round(size * 1.25)

    legend = f"{settings.score} >= {settings.threshold:g}: {' · '.join(names)}"
    fitting = max(int(len(legend) * W / font.getlength(legend)) - 2, 8)
    legend = textwrap.shorten(legend, fitting, placeholder=" ...")
    canvas.rectangle((0, H - line, font.getlength(legend) + size / 2, H), fill="black")
    canvas.text((size / 4, H - line), legend, "white", font)
    for track, box, _ in people:
        canvas.rectangle((box * [W, H, W, H]).round().tolist(), outline=colour_of(track), width=thick)
    taken = []
    for track, box, scores in people:
        best = np.argsort(-scores, kind="stable")[:settings.top]
        said = [f"{names[c]} {scores[c]:.2f}" for c in best if scores[c] >= settings.threshold]
        text = f"#{track}  " + "\n".join(said)
        w, h = max(map(font.getlength, text.split("\n"))) + size / 2, line * max(len(said), 1)
        x, y = max(min(box[0] * W, W - w), 0), max(box[1] * H - h, 0)        # above the box where there is room
        for left, top, right, bottom in sorted(taken, key=lambda label: label[1]):
            if x < right and left < x + w and y < bottom and top < y + h:
                y = bottom                                                   # below other labels
        taken.append((x, y, x + w, y + h))
        canvas.rectangle(taken[-1], fill=colour_of(track))
        canvas.multiline_text((x + size / 4, y), text, "black", font, spacing=line - size)
    return np.asarray(image)


def draw_timeline(path, title: str, spans: list[Span], tracks: list[tuple[int, float, float]], names: list[str],
                  seconds: float) -> None:
    """A PNG: for each person (track, first and last second) a row for each of their actions, coloured where it is.

    Beyond 60 people, those who are longest in the picture.
    """
    shown = sorted(sorted(tracks, key=lambda track: track[1] - track[2])[:60])
    done = {(span.track, span.action) for span in spans}
    rows = [(*track, name) for track in shown for name in [n for n in names if (track[0], n) in done] or [""]]
    left, right, top, row = 300, 1170, 48, 24
    bottom = top + row * max(len(rows), 1)
    image = Image.new("RGB", (1200, bottom + 30), "white")
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    title += f": {len(tracks)} people" + (f", the {len(shown)} longest" if tracks[60:] else "")
    canvas.text((10, 8), title, "black", font)

    def x_of(second: float) -> float:
        return left + (right - left) * second / max(seconds, SOON)

    for at in np.linspace(0, seconds, 9).tolist():
        canvas.line((x_of(at), top - 4, x_of(at), bottom), (215, 215, 215))
        label = f"{at:.1f} s" if seconds < 120 else f"{int(at // 60)}:{int(at % 60):02d}"
        canvas.text((x_of(at), bottom + 6), label, "black", font, anchor="ma")
    for y, (track, first, last, action) in zip(range(top, bottom, row), rows):
        canvas.rectangle((10, y + 2, 22, y + row - 3), fill=colour_of(track))
        canvas.text((28, y + 2), f"{track}  {action or 'none of these'}", "black", font)
        canvas.rectangle((x_of(first), y + 2, x_of(last), y + row - 2), fill=(230, 230, 230))
        for span in (span for span in spans if (span.track, span.action) == (track, action)):
            box = x_of(span.start), y + 2, max(x_of(span.end), x_of(span.start) + 2), y + row - 2
            canvas.rectangle(box, fill=colour_of(names.index(action), 0.45))
            if box[2] - box[0] > 40:
                canvas.text((box[0] + 4, y + 2), f"{span.score:.2f}", "black", font)
    with replacing(path, binary=True) as file:
        image.save(file, "PNG")


# ---------------------------------------------------------------- what is written

class Film:
    """The annotated MP4. Even if this process is killed, what was written until 2 seconds before can be played."""

    def __init__(self, path: Path, source: Source, words: Words, first: av.VideoFrame):
        self.source, self.words, self.reformatter = source, words, VideoReformatter()
        self.size = scaled_size(first.width, first.height, None, 2)                  # even, for H.264
        # fragments while it is written, an ordinary file once it is closed
        self.container = av.open(str(path), "w", format="mp4",
                                 options={"movflags": "hybrid_fragmented", "flush_packets": "1"})
        self.video = self.container.add_stream("libx264", rate=source.rate,
                                               options={"preset": "veryfast", "crf": "20", "bf": "0"})
        self.video.height, self.video.width = upright_rgb(first, *self.size, self.reformatter).shape[:2]
        self.video.codec_context.time_base = Fraction(1, TICKS)
        self.video.codec_context.gop_size = max(round(2 * source.rate), 1)           # a fragment: 2 s
        self.sound = self.encoded_sound() if os.path.isfile(source.name) else iter(())
        self.packet = next(self.sound, None)

    def add(self, time: float, picture: av.VideoFrame, people: list[Seen]) -> None:
        rgb = upright_rgb(picture, *self.size, self.reformatter)
        drawn = draw_people(rgb, people, self.words.names, self.words.settings)
        drawn = av.VideoFrame.from_ndarray(drawn, format="rgb24")
        drawn.pts, drawn.time_base = round(time * TICKS), Fraction(1, TICKS)
        self.add_sound(time)
        self.container.mux(self.video.encode(drawn))

    def encoded_sound(self) -> Iterator[av.Packet]:
        """The file's sound from the first frame on, as AAC; nothing where it has none."""
        with av.open(self.source.name) as container:
            if not container.streams.audio or not container.streams.audio[0].codec_context.sample_rate:
                return
            encoder = self.container.add_stream("aac", rate=48_000, layout="stereo")
            # None: the last packets
            for frame in chain(decoded(container, container.streams.audio[0]), [None]):
                if frame is not None:                            # the first frame of the picture is at 0
                    frame.pts = (frame.pts or 0) - round(self.source.start / frame.time_base)
                for packet in encoder.encode(frame) if frame is None or frame.pts >= 0 else []:
                    if packet.pts >= 0:                          # AAC's first packet only primes the decoder
                        yield packet

    def add_sound(self, until: float) -> None:
        while self.packet is not None and (self.packet.pts or 0) * self.packet.time_base <= until:
            self.container.mux(self.packet)
            self.packet = next(self.sound, None)

    def close(self, end: float) -> None:
        self.add_sound(end)
        self.container.mux(self.video.encode(None))
        self.container.close()


class Results:
    """The text files of one video; every row is on disk as soon as it is final."""

    def __init__(self, stem: Path, source: Source, words: Words, as_json: bool):
        self.spans, self.tracks, self.detections = [], [], 0
        self.files = ExitStack()
        self.rows = csv.writer(self.open(f"{stem}.csv"), lineterminator="\n")
        self.span_rows = csv.writer(self.open(f"{stem}_spans.csv"), lineterminator="\n")
        self.span_rows.writerow(["track", "action", "start", "end", "mean_score"])
        write_label_map(f"{stem}.pbtxt", dict(enumerate(words.names, 1)))
        self.json = self.open(f"{stem}.json") if as_json else None
        if self.json:
            head = {"video": source.name, "actions": words.names, "score": words.settings.score,
                    "threshold": words.settings.threshold}
            self.json.write(json.dumps(head)[:-1] + ',\n"detections": [')

    def open(self, path: str):                                   # buffering 1: whole lines, at once
        return self.files.enter_context(open(path, "w", newline="", encoding="utf-8", buffering=1))

    def add(self, chunk: Chunk) -> None:
        for seen in chunk.detections:
            box = [f"{side:.6f}" for side in seen.box]
            for c, score in enumerate(seen.scores.values(), 1):
                self.rows.writerow([seen.video, f"{seen.time:.3f}", *box, c, repr(score)])
            if self.json:
                record = {"time": seen.time, "track": seen.track, "box": seen.box, "scores": seen.scores}
                self.json.write(("," if self.detections else "") + "\n" + json.dumps(record))
            self.detections += 1
        for track, action, start, end, score in chunk.spans:
            self.span_rows.writerow([track, action, f"{start:.3f}", f"{end:.3f}", f"{score:.4f}"])
        self.spans += chunk.spans
        self.tracks += chunk.tracks

    def close(self, seconds: float) -> None:
        if self.json:
            people = [{"track": track, "start": start, "end": end} for track, start, end in sorted(self.tracks)]
            tail = {"seconds": seconds, "people": people, "spans": [span._asdict() for span in self.spans]}
            self.json.write("],\n" + json.dumps(tail)[1:] + "\n")
        self.files.close()


def watch(video: str, stem: Path, args: argparse.Namespace, words: Words, people, stop: threading.Event) -> None:
    """Everything about one video, in files that begin with `stem`; prints a summary.

    people, stop: as for `analyse`.
    """
    source, busy, began = Source(video, words.settings), Counter(), perf_counter()
    path, done, film, end = Path(f"{stem}.mp4"), Path(f"{stem}.done"), None, 0.0
    if path.resolve() == Path(video).resolve():
        raise ValueError(f"--out {args.out}: {path.name} there is the video itself; choose another folder")
    stem.parent.mkdir(parents=True, exist_ok=True)
    if done.exists():                                        # what a run of ours wrote here, perhaps by other flags
        before = json.loads(done.read_text())
        for suffix in ["_timeline.png"] + [".mp4"] * (not before["no_video"]) + [".json"] * before["json"]:
            Path(f"{stem}{suffix}").unlink(missing_ok=True)
        done.unlink()
    results = Results(stem, source, words, args.json)
    shape = "{l_bar}{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
    bar = tqdm(total=source.duration, unit=" video s", desc=stem.name, dynamic_ncols=True,
               disable=None if engine.is_main() else True, bar_format=shape if source.duration else None)
    try:
        with closing(in_thread(analyse(source, words, people, busy, stop, not args.no_video), ahead=1)) as chunks:
            for chunk in chunks:
                with timed(busy, "drawing"):
                    for time, picture, seen in chunk.frames:
                        film = film or Film(path, source, words, picture)
                        film.add(time, picture, seen)
                    results.add(chunk)
                end = chunk.until
                bar.n = min(end, source.duration or inf)
                bar.set_postfix_str(f"slowest: {busy.most_common(1)[0][0]}")
    finally:
        bar.close()
        results.close(end)
        if film:
            film.close(end)
    draw_timeline(f"{stem}_timeline.png", Path(video).name, results.spans, results.tracks, words.names, end)
    promised = min(source.promised, source.limit)
    is_short = not stop.is_set() and source.start + max(end, source.held) < 0.95 * promised - 1
    if not stop.is_set() and not is_short:
        done.write_text(asked_for(args))

    print(f"\n{video}: {end:.1f} s, {len(results.tracks)} people, {results.detections} boxes; "
          f"{end / (perf_counter() - began):.1f} video seconds a second")
    for track, start, until in sorted(results.tracks)[:20]:
        said = ", ".join(f"{span.action} {span.score:.2f} ({span.start:.1f}-{span.end:.1f})"
                         for span in results.spans if span.track == track)
        print(f"  person {track:<4} {start:6.1f} - {until:6.1f} s  {said or 'none of these'}")
    if not results.tracks:
        print("  nobody was found: no person above --person-score on any keyframe"
              + (f"; those of the proposals begin at {min(people):g} s"
                 if isinstance(people, dict) and people else ""))
    print(f"  written: {stem}.*, {stem}_spans.csv, {stem}_timeline.png")
    if is_short:
        raise ValueError(f"{video}: says it lasts {promised:.1f} s, but its frames end at {end:.1f} s; "
                         "it may be cut short. What could be read is written")


def asked_for(args: argparse.Namespace) -> str:
    """What a video's results depend on: all flags but those that choose videos and machines."""
    free = ("videos", "out", "skip_existing", "device", "batch_size", "actions", "actions_file")
    flags = {name: value for name, value in sorted(vars(args).items()) if name not in free}
    return json.dumps(flags, default=str) + "\n"


# ---------------------------------------------------------------- the command

def find_videos(patterns: list[str]) -> dict[str, str]:
    """{video: name of its files}: the stem, or the whole path where two would meet; globs are expanded."""
    videos = []
    for pattern in patterns:
        videos += [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True)) or [pattern]
    videos = list(dict.fromkeys(videos))
    stems = [Path(os.path.abspath(video)).stem for video in videos]
    taken = stems + [stem + "_spans" for stem in stems]
    return {video: stem if taken.count(stem) == 1 else re.sub(r"[/\\:]+", "_", os.path.normpath(video))
            for video, stem in zip(videos, stems)}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter)
    parser.add_argument("videos", nargs="+", metavar="VIDEO",
                        help="files, folders of numbered frames, globs, or the address of a stream "
                             "or camera (rtsp://..., /dev/video0)")
    groups = {name: parser.add_argument_group(name)
              for name in ("words", "model", "people", "scores", "output", "run")}
    add = groups["words"].add_argument
    add("--actions", nargs="+", metavar="WORD",
        help="what to look for, in any words; 'wave: waving a hand | hand wave' averages phrasings")
    add("--actions-file", metavar="FILE", help="the same, one a line; # begins a comment line")
    groups["model"].add_argument("--ckpt", default="ViT-B/16",
                                 help="a checkpoint of train_finetune.py (best) or train_align.py, or "
                                      "ViCLIP's official weights: a file, a Hub id, an architecture's name")
    add = groups["people"].add_argument
    add("--detector", default=detect_humans.DEFAULT, choices=list(detect_humans.RECIPES), metavar="NAME",
        help=f"of people: {', '.join(detect_humans.RECIPES)}")
    add("--detector-weights", metavar="FILE", help="by default its COCO weights, downloaded once")
    add("--proposals", metavar="CSV", help="boxes from elsewhere (video,keyframe,x1,y1,x2,y2,,score; seconds) in "
        "place of the detector; its keyframes are then the keyframes")
    add = groups["output"].add_argument
    add("--out", default="runs/actions", help="folder")
    add("--json", action="store_true", help="all of it in one JSON file, too")
    add("--no-video", action="store_true", help="only tables and the timeline: faster")
    add("--skip-existing", action="store_true",
        help="leave out videos that are complete under --out, by the same flags")
    groups["run"].add_argument("--device", help="cpu, cuda or cuda:1; by default a GPU where there is one")
    for one in fields(Settings):
        groups[one.metadata["group"]].add_argument(f"--{one.name.replace('_', '-')}", **one.metadata["flag"])
    args = parser.parse_args(argv)
    if not args.actions and not args.actions_file:
        raise ValueError("no words to look for; give --actions \"wave\" \"ride a bike\" or --actions-file FILE")
    given, listed = parse_actions(args.actions) if args.actions else {}, read_actions(args.actions_file)
    for name in given.keys() & listed.keys():
        raise ValueError(f"{args.actions_file}: {name!r} is also among --actions; expected each name once")
    args.words = given | listed
    return args


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, so that what is being written is finished;
    the second time, at once.
    """
    stop = threading.Event()

    def handle(number, _) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    settings = Settings(**{setting.name: getattr(args, setting.name) for setting in fields(Settings)})
    names = find_videos(args.videos)
    if not any("://" in video or os.path.exists(video) for video in names):
        raise FileNotFoundError(f"{next(iter(names))}: no such video file or folder of frames")
    process = engine.start_process(args.device)
    words = Words(args.words, args.ckpt, settings, process.device)
    if words.note and process.is_main:
        print(f"note: {args.ckpt} is {words.note}", file=sys.stderr)
    people = people_of(args.proposals, list(names), settings, args.detector, args.detector_weights, process.device)

    broken = []
    with stop_on_signal() as stop:
        for (video, name), own in list(zip(names.items(), people))[process.rank::process.world]:
            stem = Path(args.out, name)
            done = Path(f"{stem}.done")
            if args.skip_existing and done.exists() and done.read_text() == asked_for(args):
                print(f"{video}: complete, skipped")
            elif not stop.is_set():
                try:
                    watch(video, stem, args, words, own, stop)
                except (ValueError, FileNotFoundError) as error:
                    if len(names) == 1:
                        raise
                    broken.append(video)
                    print(f"error: {' '.join(str(error).split())}; going on with the next video", file=sys.stderr)
    # torchrun stops everyone when one ends with an error: wait for all
    broken = sum(process.gather(broken), [])
    if broken and process.is_main:
        print(f"{len(broken)} of {len(names)} videos could not be read: {', '.join(broken)}", file=sys.stderr)
    return 130 if stop.is_set() else int(bool(broken))


if __name__ == "__main__":
    engine.cli(main)
