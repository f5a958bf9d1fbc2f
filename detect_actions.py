"""The product: any video, any words -> who does what, when and where.

    python detect_actions.py VIDEO [VIDEO ...] --ckpt runs/ucf/last.pt --actions "wave" "ride a bike"

A video is read once, as a stream, by three threads that overlap; some seconds are held, never the film:

    read    frames -> a keyframe every half second, and the clip of T frames around it
    models  keyframe -> people (a detector, or --proposals); clip, people -> scores of the words: Eq. (2), (3)
            people of successive keyframes -> tubes, by greedy IoU; scores averaged along a tube
    write   boxes interpolated between keyframes, drawn and encoded; rows on disk as soon as they are final

Out come, under --out: NAME.mp4 (annotated, with sound), NAME.csv and its label map NAME.pbtxt (AVA layout, all
scores), NAME_spans.csv (track,action,start,end,mean_score), NAME_timeline.png and, with --json, NAME.json.
Ctrl-C leaves them whole; NAME.unfinished stands beside them as long as the video is not done.

What a score means. `calibrated`: the share of the word in a softmax over the word and a background of generic
prompts ("a person", "a person standing still", ...), each word on its own: at 0.5 it fits as well as all the
background together, and if no word does, the answer is "none of these". `sigmoid`: the paper's Eq. (3), made for
ranking; cosines of such models are all positive, so that it is near 1 for everything.

As a library:

    from detect_actions import detect
    for seen in detect("street.mp4", ["wave", "ride a bike"], "runs/ucf/last.pt"):
        print(seen.time, seen.track, seen.box, seen.scores)
"""

import argparse
import colorsys
import csv
import functools
import glob
import itertools
import json
import os
import re
import signal
import sys
import threading
import time as clock_time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, fields
from datetime import timedelta
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageDraw, ImageFont
from torchvision.ops import box_iou
from tqdm import tqdm

import engine
import ovstad
from data import (clip_boxes, complain, csv_columns, normalise, numbered_frames, open_container, places,
                  scaled_size, upright_rgb)
from evaluate import replacing, write_label_map

BACKGROUND = ("a person", "a person standing still", "a person in a room", "a person outdoors", "a photo of a person",
              "a person doing nothing", "people")
DETECTOR = "fasterrcnn_resnet50_fpn_v2"
CUT = 15, 3                      # a new scene: mean change of grey (of 255) from frame to frame, and times the usual
DRAWN = 240, 1080                # smallest and largest short side of the annotated video, pixels
TICKS = 60_000                   # a second in the MP4: whole ticks for 24, 25, 30, 60 and 30000/1001 frames
BREAK = 60.0                     # seconds; time stamps that jump further, or back, are a broken clock
SOON = 1e-6                      # seconds; float noise of time stamps


@dataclass
class Settings:
    """How a video is watched: the command's flags of the same names."""

    every: float = 0.5                       # seconds between keyframes
    person_score: float = 0.6
    gap: float = 1.5                         # seconds
    link_iou: float = 0.2
    smooth: int = 3                          # keyframes
    beta: float | None = None                # None, here and below: what the checkpoint was trained with
    frames: int | None = None
    stride: int | None = None
    short_side: int | None = None
    score: str = "calibrated"
    threshold: float = 0.5
    background: tuple[str, ...] = BACKGROUND
    top: int = 3
    batch_size: int = 4
    amp: bool = False
    max_seconds: float | None = None
    fps: float = 25.0

    def __post_init__(self):
        def need(good: bool, name: str, expected: str) -> None:
            if not good:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected {expected}")

        for name in ("every", "gap", "fps", "max_seconds"):
            need(getattr(self, name) is None or 0 < getattr(self, name) < inf, name, "seconds, above 0")
        for name in ("person_score", "link_iou", "threshold", "beta"):
            need(getattr(self, name) is None or 0 <= getattr(self, name) <= 1, name, "a number in [0, 1]")
        for name in ("frames", "stride", "short_side", "batch_size", "smooth"):
            need(getattr(self, name) is None or getattr(self, name) >= 1, name, "1 or more")
        need(self.smooth % 2 == 1, "smooth", "an odd number of keyframes")
        need(self.score in ("calibrated", "sigmoid"), "score", "calibrated or sigmoid")
        need(any(text.strip() for text in self.background), "background", "at least one text")


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

def parse_action(text: str, where: str) -> tuple[str, list[str]]:
    """("wave", its phrasings) of `wave` or `wave: waving a hand | hand wave`."""
    name, colon, rest = text.partition(":")
    phrasings = [part.strip() for part in (rest.split("|") if colon else [name])]
    if not name.strip() or not all(phrasings):
        raise ValueError(f"{where}: {text.strip()!r} names no action; expected `wave` or "
                         "`wave: waving a hand | hand wave`")
    return name.strip(), phrasings


def read_actions(path) -> list[str]:
    """The lines of an actions file, without empty ones and those that begin with #, each checked."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file in UTF-8; expected one action a line") from None
    kept = [(i, line) for i, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    if not kept:
        raise ValueError(f"{path}: no action in it; expected one a line")
    named: dict[str, int] = {}
    for i, line in kept:
        name, _ = parse_action(line, f"{path}:{i}")
        if name in named:
            raise ValueError(f"{path}:{i}: {name!r} is there already, in line {named[name]}; "
                             "write phrasings in one line, name: one | two")
        named[name] = i
    return [line for _, line in kept]


def scores_of(logits: torch.Tensor, words: int, kind: str) -> torch.Tensor:
    """(N, words) in [0, 1] from logits (N, words + K), float64, the last K being the background's."""
    own, background = logits[:, :words], logits[:, words:]
    if kind == "calibrated":                 # softmax over one word and the background, a word at a time
        own = own - background.logsumexp(dim=1, keepdim=True)
    return own.sigmoid()                     # Eq. (3)


class Words:
    """A video-language model asked for some words; `names` are they, `note` what to know about the checkpoint."""

    def __init__(self, actions: list[str], ckpt, settings: Settings, device: torch.device):
        parsed = [parse_action(text, "actions") for text in actions]
        self.names = [name for name, _ in parsed]
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"actions {self.names}: give one or more, each once")
        self.model, record = load_checkpoint(ckpt)
        self.model, self.device, self.settings = self.model.to(device), device, settings
        arch = ovstad.ARCHS[self.model.arch]

        def choose(name: str, default):
            own = getattr(settings, name)
            return record.get(name) or default if own is None else own

        self.beta = record.get("beta", ovstad.BETA) if settings.beta is None else settings.beta
        self.frames, self.stride = choose("frames", arch.frames), choose("stride", 1)
        self.short_side = choose("short_side", round(arch.grid * arch.patch * 8 / 7))      # 256
        stage = record.get("stage")
        self.note = None if stage == "finetune" else (
            f"{'a model of stage ' + stage if stage else 'the original ViCLIP'}, not finetuned on actions of people: "
            "its scores rank, but separate less; train_finetune.py makes a better one")

        prompt = record.get("prompt", ovstad.PROMPT)
        sentences = [prompt.format(phrase) for _, phrasings in parsed for phrase in phrasings]
        background = [text for text in settings.background if text not in sentences]
        owner = torch.tensor([i for i, (_, phrasings) in enumerate(parsed) for _ in phrasings], device=device)
        with torch.inference_mode():
            f_text = F.normalize(self.model.encode_text(sentences + background).float(), dim=-1)
            mean = torch.zeros(len(self.names), f_text.shape[1], device=device)
            mean.index_add_(0, owner, f_text[:len(sentences)])   # logits() normalises, so that sums are means
            self.f_text = torch.cat([mean, f_text[len(sentences):]])                       # (C + K, D)

    @torch.inference_mode()
    def score(self, clips: np.ndarray, boxes: list[torch.Tensor]) -> list[np.ndarray]:
        """clips (B, T, H, W, 3) uint8 and B boxes tensors (N_b, 4) -> B arrays (N_b, C) float64 in [0, 1]."""
        video = normalise(torch.from_numpy(clips).to(self.device).permute(0, 1, 4, 2, 3))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.amp):
            logits = self.model(video, boxes, self.f_text, self.beta)                      # (N, C + K)
        scores = scores_of(logits.double(), len(self.names), self.settings.score).cpu()
        return [part.numpy() for part in scores.split([len(b) for b in boxes])]


def load_checkpoint(ckpt) -> tuple[ovstad.ViCLIP, dict]:
    """The model and its record; a model that was built already is taken as it is."""
    if isinstance(ckpt, ovstad.ViCLIP):
        return ckpt.eval(), {}
    try:
        return ovstad.load_model(ckpt)
    except ValueError:
        if any(name.startswith(("backbone.", "rpn.")) for name in ovstad.read_weights(ckpt)[0]):
            raise ValueError(f"{ckpt}: a detector of people, not a model of actions; give it as --detector-weights, "
                             "and a checkpoint of train_finetune.py as --ckpt") from None
        raise


# ---------------------------------------------------------------- the frames

def decoded(container, stream) -> Iterator[av.VideoFrame | None]:
    """The frames of a stream in display order; None stands for a damaged packet, after which it goes on."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):        # the end, or a connection that is lost
            return
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            yield None


class Source:
    """A video file, a folder of numbered frames, or the address of a stream or camera, read once."""

    def __init__(self, video, settings: Settings):
        self.name, self.max_seconds = os.fspath(video), settings.max_seconds or inf
        self.live = is_address(self.name)
        self.files, self.duration, self.rate = None, None, Fraction(settings.fps).limit_denominator(1001)
        self.damaged, self.start, self.end = 0, 0.0, 0.0     # start: of the container's clock; end: when all is read
        if os.path.isdir(self.name):
            self.files = numbered_frames(self.name)
            self.duration = float(len(self.files) / self.rate)
        elif self.live or os.path.exists(self.name):
            options = {"timeout": 20} if self.live else {}
            options |= {"format": "v4l2"} if self.name.startswith("/dev/video") else {}
            self.container, self.stream = open_container(self.name, **options)
            self.stream.thread_type = "AUTO"
            rate = self.stream.average_rate or self.stream.guessed_rate
            self.rate = rate if rate and rate <= 240 else self.rate          # some containers only have a clock
            if self.container.duration and not self.live:
                self.duration = self.container.duration / av.time_base
        else:
            raise FileNotFoundError(f"{self.name}: no such video file or folder of frames")
        if self.duration:
            self.duration = min(self.duration, self.max_seconds)

    def pictures(self) -> Iterator[tuple[float | None, av.VideoFrame | None]]:
        """(seconds on the container's clock, frame); the frame None where it is damaged."""
        if self.files is None:
            with self.container:
                for frame in decoded(self.container, self.stream):
                    yield frame and frame.time, frame
            return
        for i, path in enumerate(self.files):
            try:
                with Image.open(path) as image:
                    yield float(i / self.rate), av.VideoFrame.from_image(image.convert("RGB"))
            except OSError:
                yield None, None

    def __iter__(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """(seconds after the first frame, frame) in display order; time always grows."""
        one, now, zero = float(1 / self.rate), None, None
        for stamp, frame in self.pictures():
            if frame is None:
                self.damaged += 1
                continue
            if now is None:
                zero, now, self.start = stamp or 0.0, 0.0, stamp or 0.0
            else:
                then = now + one if stamp is None else stamp - zero
                if not 0 < then - now < BREAK:               # go on as if the clock had not jumped
                    then = now + one
                    zero = zero if stamp is None else stamp - then
                now = then
            if now >= self.max_seconds:
                break
            self.end = now + one
            yield now, frame
        if now is None:
            raise ValueError(f"{self.name}: no frame of it can be decoded")


def is_address(video: str) -> bool:
    return "://" in video or video.startswith("/dev/")


class Frame(NamedTuple):
    time: float
    picture: av.VideoFrame


class Step(NamedTuple):
    """What is read up to the moment that a keyframe's clip is complete."""

    frames: list[Frame]              # to be drawn, since the step before
    cuts: list[float]                # times of first frames of a new scene, since the step before
    time: float | None               # the keyframe; None: the film goes on without one
    clip: np.ndarray | None          # (T, h, w, 3) uint8, the frame on screen at `time` in place T // 2
    image: np.ndarray | None         # (H, W, 3) uint8, that frame for the detector
    next_time: float                 # of the keyframe after this one; inf: there is none
    now: float                       # of the newest frame read


class Clock:
    """How long each stage was busy, and how many frames were held at most."""

    def __init__(self):
        self.busy, self.read, self.drawn, self.held = Counter(decode=0, people=0, actions=0, drawing=0), 0, 0, 0
        self.since = clock_time.perf_counter()

    @contextmanager
    def on(self, stage: str):
        before = clock_time.perf_counter()
        yield
        self.busy[stage] += clock_time.perf_counter() - before

    def slowest(self) -> str:
        stage, seconds = self.busy.most_common(1)[0]
        return f"{stage} {seconds / (clock_time.perf_counter() - self.since):.0%}"


def steps(source: Source, times: Iterator[float], words: Words, images: bool, draw: bool, clock: Clock,
          stop: threading.Event) -> Iterator[Step]:
    """The video from keyframe to keyframe. Each frame is decoded once, for clips, detector (images) and drawing.

    times: of the keyframes, ascending. Clips repeat the first and last frame beyond the ends, as data.py's do.
    """
    T, stride, patch = words.frames, words.stride, words.model.patch
    before, after = T // 2 * stride, (T - 1 - T // 2) * stride
    window: deque = deque(maxlen=before + 1 + max(after, 1))     # the newest frames, scaled for the encoder
    due: deque = deque()                                         # keyframes whose clip is not complete
    fresh, cuts, picture, grey, usual = [], [], None, None, 0.0
    place, now, moment = -1, 0.0, next(times, inf)               # of the newest frame; of the next keyframe
    frames, reformatter = iter(source), VideoReformatter()

    def step(time=None, centre=None, image=None) -> Step:
        nonlocal fresh, cuts
        clip = None
        if time is not None:
            wanted = np.clip(centre + (np.arange(T) - T // 2) * stride, place + 1 - len(window), place)
            clip = np.stack([window[i - place - 1] for i in wanted])
        next_time = due[0][0] if due else moment
        known = [cut for cut in cuts if cut <= (next_time if time is None else time)]
        result = Step(fresh, known, time, clip, image, next_time, now)
        fresh, cuts = [], cuts[len(known):]
        return result

    while True:
        with clock.on("decode"):
            following, frame = (inf, None) if stop.is_set() else next(frames, (inf, None))
            while moment < min(following, source.end) - SOON:    # until then, the frame before is on screen
                image = upright_rgb(picture, picture.width, picture.height, reformatter) if images else None
                due.append((moment, place, image))
                moment = next(times, inf)
            if frame is not None:
                short = min(frame.width, frame.height)
                if place < 0:
                    small_size = scaled_size(frame.width, frame.height, words.short_side, patch)
                small = upright_rgb(frame, *small_size, reformatter)
                if short > DRAWN[1]:
                    frame = reformatter.reformat(frame, *scaled_size(frame.width, frame.height, DRAWN[1], 2))
                old, grey = grey, small[::8, ::8].mean(axis=2)
                change = 0.0 if old is None else float(np.abs(grey - old).mean())
                usual = change if place < 1 else usual           # of the last few frames; a shaking camera's is high
                if change > CUT[0] and change > CUT[1] * usual:
                    cuts.append(following)
                usual += 0.2 * (change - usual)
                window.append(small)
                place, now, picture = place + 1, following, frame
                if draw:
                    fresh.append(Frame(now, frame))
                    clock.read += 1
                    clock.held = max(clock.held, clock.read - clock.drawn)
        while due and (frame is None or place >= due[0][1] + after):
            yield step(*due.popleft())
        if frame is None or len(fresh) >= 64:
            yield step()
        if frame is None:
            return


def in_thread(items: Iterator, ahead: int) -> Iterator:
    """The items of a generator that runs in a thread of its own, `ahead` items in advance; it raises its errors here."""
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
    layout = "video,keyframe,x1,y1,x2,y2,,score"
    lines, (names,), numbers = csv_columns(path, (8,), (0,), (1, 2, 3, 4, 5, 7), layout)
    keyframe, box, score = numbers[:, 0], numbers[:, 1:5], numbers[:, 5]
    complain(path, lines, ~np.isfinite(numbers).all(axis=1) | (keyframe < 0),
             lambda i: f"expected {layout}, the keyframe in seconds from the start")
    complain(path, lines, ((box < -0.5) | (box > 1.5)).any(axis=1), lambda i: f"box {box[i].tolist()} looks like "
             "pixels; expected xyxy in [0, 1]: divide x by the picture's width, y by its height")
    box, good = clip_boxes(box)
    name, result = np.array(names, dtype=object), []
    for video in videos:
        file = Path(video)
        mine = np.isin(name, [video]) if (name == video).any() else np.isin(name, [file.name, file.stem])
        rows = np.flatnonzero(mine & good & (score >= min_score))
        result.append({float(t): np.unique(box[rows[keyframe[rows] == t]].astype(np.float32), axis=0)
                       for t in np.unique(keyframe[mine])})
    if not any(result):
        raise ValueError(f"{path}: has no row of {', '.join(videos[:3])}; it names {', '.join(places(names)[0][:3])}. "
                         "Write the video's path or file name in the first column")
    return result


@dataclass
class Tube:
    """The linked boxes of one person."""

    track: int
    since: float                                             # seconds of being in the picture; until: inf while open
    until: float = inf
    times: list[float] = field(default_factory=list)         # of its keyframes; long past ones are dropped
    boxes: list[np.ndarray] = field(default_factory=list)    # (4,)
    scores: list[np.ndarray] = field(default_factory=list)   # (C,)
    out: int = 0                                             # how many of these are given out
    spans: dict[int, list] = field(default_factory=dict)     # of actions going on: start, end, sum, keyframes


class Seen(NamedTuple):
    """A person on one frame."""

    track: int
    box: np.ndarray          # (4,) interpolated between keyframes
    scores: np.ndarray       # (C,) of the nearest keyframe


class Tracker:
    """People over time: boxes linked into tubes, scores averaged along them, and given out when final.

    A keyframe's box continues the open tube that it overlaps most (IoU, the best pairs first, each once),
    or opens a new one; a tube that nobody continues for `gap` seconds, or over a cut, is closed. A keyframe is
    final when smooth // 2 later ones are known in each open tube.
    """

    def __init__(self, video: str, names: list[str], settings: Settings, hold: float):
        self.video, self.names, self.settings = video, names, settings
        self.hold = hold                     # seconds a box is shown before its first and after its last keyframe
        self.reach = settings.smooth // 2
        self.tubes: list[Tube] = []
        self.count, self.scene = 0, 0.0      # tubes so far; when the scene began

    def update(self, time: float, boxes: np.ndarray, scores: np.ndarray) -> None:
        """A keyframe's boxes (N_b, 4) and their scores (N_b, C)."""
        tubes = [tube for tube in self.tubes if tube.until == inf]
        home: list[Tube | None] = [None] * len(boxes)
        if tubes and len(boxes):
            iou = box_iou(torch.from_numpy(np.stack([t.boxes[-1] for t in tubes])), torch.from_numpy(boxes)).numpy()
            for best in np.argsort(-iou, axis=None, kind="stable"):
                t, b = divmod(int(best), len(boxes))
                if iou[t, b] < self.settings.link_iou:
                    break
                if tubes[t].times[-1] < time and home[b] is None:        # neither is taken yet
                    home[b] = tubes[t]
                    self.append(tubes[t], time, boxes[b], scores[b])
        for b, tube in enumerate(home):
            if tube is None:
                self.count += 1
                self.tubes.append(Tube(self.count, max(time - self.hold, self.scene)))
                self.append(self.tubes[-1], time, boxes[b], scores[b])

    @staticmethod
    def append(tube: Tube, time: float, box: np.ndarray, scores: np.ndarray) -> None:
        tube.times.append(time)
        tube.boxes.append(box)
        tube.scores.append(scores)

    def cut(self, time: float) -> None:
        """A new scene begins: nobody of the old one goes on."""
        self.scene = time
        for tube in self.tubes:
            tube.until = min(tube.until, max(time, tube.since)) if tube.times[-1] < time else tube.until

    def advance(self, next_time: float, now: float) -> float:
        """Close what the keyframe at next_time comes too late for; the time, up to now, before which all is final."""
        for tube in self.tubes:
            if tube.until == inf and next_time - tube.times[-1] > self.settings.gap:
                tube.until = tube.times[-1] + self.hold
        final = [tube.times[-1 - self.reach] if len(tube.times) > self.reach else tube.since
                 for tube in self.tubes if tube.until == inf]
        return min([now, next_time - self.hold, *final])

    def finish(self, end: float) -> None:
        for tube in self.tubes:
            tube.until = min(tube.until, end)

    def smoothed(self, tube: Tube, i: int) -> np.ndarray:
        return np.mean(tube.scores[max(i - self.reach, 0):i + self.reach + 1], axis=0)     # (C,)

    def people_at(self, time: float) -> list[Seen]:
        """Who is on screen at a final time."""
        seen = []
        for tube in self.tubes:
            if tube.since <= time < tube.until:
                boxes = np.stack(tube.boxes)
                box = np.array([np.interp(time, tube.times, boxes[:, side]) for side in range(4)])
                nearest = int(np.abs(np.array(tube.times) - time).argmin())
                seen.append(Seen(tube.track, box, self.smoothed(tube, nearest)))
        return seen

    def release(self, until: float) -> tuple[list[Detection], list[Span], list[Tube]]:
        """All final detections, by time, and spans that ended; tubes that ended are forgotten here."""
        detections, spans, ended = [], [], []
        for tube in self.tubes:
            while tube.out < len(tube.times) and tube.times[tube.out] < until:
                time, scores = tube.times[tube.out], self.smoothed(tube, tube.out)
                detections.append(Detection(self.video, time, tube.track, tuple(tube.boxes[tube.out].tolist()),
                                            dict(zip(self.names, scores.tolist()))))
                for c in np.flatnonzero(scores >= self.settings.threshold).tolist():
                    span = tube.spans.setdefault(c, [max(time - self.hold, tube.since), 0.0, 0.0, 0])
                    span[1:] = time + self.hold, span[2] + scores[c], span[3] + 1
                over = [c for c in tube.spans if scores[c] < self.settings.threshold]
                spans += [self.close_span(tube, c) for c in over]
                tube.out += 1
            if tube.until <= until and tube.out == len(tube.times):
                spans += [self.close_span(tube, c, tube.until) for c in list(tube.spans)]
                ended.append(tube)
            past = max(tube.out - 1 - self.reach, 0)             # what neither smoothing nor drawing asks for again
            for kept in (tube.times, tube.boxes, tube.scores):
                del kept[:past]
            tube.out -= past
        self.tubes = [tube for tube in self.tubes if tube not in ended]
        return sorted(detections, key=lambda d: (d.time, d.track)), spans, ended

    def close_span(self, tube: Tube, c: int, end: float | None = None) -> Span:
        start, last, total, keyframes = tube.spans.pop(c)
        return Span(tube.track, self.names[c], start, last if end is None else end, float(total / keyframes))


class Chunk(NamedTuple):
    """A part of the video of which everything is known."""

    until: float                                             # seconds
    frames: list[tuple[Frame, list[Seen]]]
    detections: list[Detection]
    spans: list[Span]                                        # that ended
    tracks: list[Tube]                                       # that ended


def look(keyframes: list[Step], words: Words, people, clock: Clock) -> list[tuple[np.ndarray, np.ndarray]]:
    """(boxes (N_b, 4), scores (N_b, C)) of each keyframe, all of them at once through each model."""
    with clock.on("people"):
        boxes = people(keyframes) if keyframes else []
    scores = [np.zeros((0, len(words.names)))] * len(boxes)
    busy = [i for i, b in enumerate(boxes) if len(b)]            # a clip without people is not encoded
    if busy:
        with clock.on("actions"):
            clips = np.stack([keyframes[i].clip for i in busy])
            found = words.score(clips, [torch.from_numpy(boxes[i]) for i in busy])
        for i, part in zip(busy, found):
            scores[i] = part
    return list(zip(boxes, scores))


def analyse(source: Source, words: Words, settings: Settings, detector, boxes_at: dict | None, draw: bool,
            clock: Clock, stop: threading.Event) -> Iterator[Chunk]:
    """The whole pipeline but the drawing; what it holds does not grow with the video.

    detector: of detect_humans.py; or boxes_at: the boxes (N_b, 4) of each keyframe by its time.
    """
    if boxes_at is None:
        from detect_humans import detect_frames                  # late: a proposals file needs no detector
        times, hold = (i * settings.every for i in itertools.count()), settings.every / 2

        def people(keyframes):
            found = detect_frames(detector, [step.image for step in keyframes])
            return [boxes[scores >= settings.person_score] for boxes, scores in found]
    else:
        moments = sorted(boxes_at)
        times, hold = iter(moments), min([settings.every, *np.diff(moments)]) / 2

        def people(keyframes):
            return [boxes_at[step.time] for step in keyframes]

    tracker = Tracker(source.name, words.names, settings, hold)
    waiting: deque[Frame] = deque()                              # frames whose boxes are not final
    batch, reached = [], 0.0

    def chunk(until: float) -> Chunk:
        ready = []
        while waiting and waiting[0].time < until:
            ready.append((waiting[0], tracker.people_at(waiting.popleft().time)))
        return Chunk(min(until, source.end), ready, *tracker.release(until))

    with closing(in_thread(steps(source, times, words, boxes_at is None, draw, clock, stop), ahead=2)) as stream:
        for step in stream:
            if stop.is_set():
                break
            batch.append(step)
            if step.time is not None and step.next_time < inf and len(batch) < settings.batch_size:
                continue
            found = look([step for step in batch if step.time is not None], words, people, clock)
            for step, (boxes, scores) in itertools.zip_longest(batch, found, fillvalue=(None, None)):
                waiting += step.frames
                for cut in step.cuts:
                    tracker.cut(cut)
                if step.time is not None:
                    tracker.update(step.time, boxes, scores)
                yield chunk(tracker.advance(step.next_time, step.now))
                reached = step.now + float(1 / source.rate)
            batch = []
    if stop.is_set():                                            # what was read since is left out
        source.end = reached
    tracker.finish(source.end)
    yield chunk(inf)


def detect(video, actions: list[str], ckpt="ViT-B/16", proposals=None, detector=DETECTOR, detector_weights=None,
           device: str | None = None, **settings) -> Iterator[Detection]:
    """Who does what, when and where: a Detection for every person on every keyframe, in order of time.

    video: a file, a folder of numbered frames, an address. actions: words, or "wave: waving | hand wave".
    ckpt: a checkpoint, official weights, a Hub id, or a ViCLIP model. proposals: a CSV of boxes in place of the
    detector. settings: fields of `Settings`. A Detection has video (str), time (seconds after the first frame),
    track (int from 1), box (x1, y1, x2, y2 in [0, 1]) and scores {action: score in [0, 1]}. Records come a
    few seconds of video behind the reading; nobody in the picture gives none. ValueError or FileNotFoundError
    in one line: the video, words, checkpoint or CSV that cannot be used. Closing the iterator stops its threads.
    """
    settings = Settings(**settings)
    device = engine.start_process(device).device
    source = Source(video, settings)
    boxes_at = read_people(proposals, [source.name], settings.person_score)[0] if proposals else None
    words = Words(actions, ckpt, settings, device)
    if boxes_at is None:
        detector = build_detector(detector, detector_weights, device)
    stop = threading.Event()
    chunks = in_thread(analyse(source, words, settings, detector, boxes_at, False, Clock(), stop), ahead=1)
    with closing(chunks):
        try:
            for chunk in chunks:
                yield from chunk.detections
        finally:
            stop.set()


def build_detector(detector, weights, device):
    """A detector by its name; one that was built already is taken as it is."""
    import detect_humans
    return detect_humans.build_detector(detector, weights, device) if isinstance(detector, str) else detector


# ---------------------------------------------------------------- pictures

@functools.lru_cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def colour_of(number: int, saturation: float = 0.7) -> tuple[int, int, int]:
    """RGB; successive numbers lie far apart on the colour circle."""
    return tuple(round(255 * x) for x in colorsys.hsv_to_rgb(number * 0.618 % 1, saturation, 1.0))


def overlaps(a, b) -> bool:
    """Whether two rectangles (x1, y1, x2, y2) share a pixel."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def draw_people(rgb: np.ndarray, people: list[Seen], names: list[str], settings: Settings) -> np.ndarray:
    """The picture (H, W, 3) uint8 with each person's box, track id and best words, and the legend below."""
    image = Image.fromarray(rgb)
    canvas, (W, H) = ImageDraw.Draw(image), image.size
    size, thick = max(11, round(min(W, H) / 30)), max(2, round(min(W, H) / 240))
    font = font_of(size)

    def label_size(lines: list[str]) -> tuple[int, int]:
        return round(max(map(font.getlength, lines)) + size / 2), round(len(lines) * size * 1.2 + 2)

    head, shown = f"{settings.score} >= {settings.threshold:g}: ", len(names)
    legend = head + " · ".join(names)
    while font.getlength(legend) > 0.96 * W and shown > 1:
        shown -= 1
        legend = head + " · ".join(names[:shown]) + f" · {len(names) - shown} more"
    width, height = label_size([legend])
    corner = (0, H - height, width, H)
    image.paste(Image.blend(image.crop(corner), Image.new("RGB", (width, height)), 0.6), corner)
    canvas.text((size / 4, H - height + 1), legend, "white", font)

    boxes = [(person.box * [W, H, W, H]).round().astype(int).tolist() for person in people]
    for person, box in zip(people, boxes):
        canvas.rectangle(box, outline=colour_of(person.track), width=thick)
    taken = [corner]
    for person, (x1, y1, x2, y2) in zip(people, boxes):
        best = np.argsort(-person.scores, kind="stable")[:settings.top]
        said = [f"{names[c]} {person.scores[c]:.2f}" for c in best if person.scores[c] >= settings.threshold]
        lines = [f"#{person.track} {said[0]}", *said[1:]] if said else [f"#{person.track}"]
        w, h = label_size(lines)
        # above the box, below, right, left or inside: where it covers no other label and the fewest people
        corners = [(x1, y1 - h), (x1, y2), (x2, y1), (x1 - w, y1), (x1, y1), (x1, y2 - h)]
        corners = [(min(max(x, 0), max(W - w, 0)), min(max(y, 0), max(H - h, 0))) for x, y in corners]
        place = min(((x, y, x + w, y + h) for x, y in corners),
                    key=lambda p: (sum(overlaps(p, label) for label in taken), sum(overlaps(p, box) for box in boxes)))
        taken.append(place)
        ink = "black" if np.dot(colour_of(person.track), (0.299, 0.587, 0.114)) > 120 else "white"
        canvas.rectangle(place, fill=colour_of(person.track))
        canvas.multiline_text((place[0] + size / 4, place[1] + 1), "\n".join(lines), ink, font, spacing=size / 5)
    return np.asarray(image)


def draw_timeline(path, title: str, spans: list[Span], tracks: list[tuple[int, float, float]], names: list[str],
                  seconds: float) -> None:
    """A PNG: a row for each person (track, first and last second), a lane in it for each of their actions.

    Beyond 60 people, those who are longest in the picture.
    """
    shown = sorted(sorted(tracks, key=lambda track: track[1] - track[2])[:60])
    title += f": the {len(shown)} longest of {len(tracks)} people" if len(shown) < len(tracks) else ""
    lanes = {track: [name for name in names if any(s.track == track and s.action == name for s in spans)] or [""]
             for track, *_ in shown}
    lane, left, right, top = 22, 110, 1180, 48
    bottom = top + sum(lane * len(actions) + 8 for actions in lanes.values()) + (0 if lanes else lane)
    image = Image.new("RGB", (1200, bottom + 30), "white")
    canvas, font = ImageDraw.Draw(image), font_of(15)
    canvas.text((10, 8), title, "black", font_of(18))
    if not lanes:
        canvas.text((left, top), "nobody was found", "black", font)

    def x_of(second: float) -> float:
        return left + (right - left) * min(second / seconds, 1)

    tick = next((t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900) if seconds / t <= 14), 1800)
    for at in np.arange(0, seconds + SOON, tick).tolist():
        canvas.line((x_of(at), top - 4, x_of(at), bottom), (215, 215, 215))
        label = f"{at:g} s" if seconds < 120 else f"{int(at // 60)}:{int(at % 60):02d}"
        canvas.text((x_of(at), bottom + 6), label, "black", font, anchor="ma")
    y = top
    for track, first, last in shown:
        canvas.rectangle((10, y + 3, 22, y + 15), fill=colour_of(track), outline="black")
        canvas.text((28, y), f"person {track}", "black", font)
        canvas.rectangle((x_of(first), y, x_of(last), y + lane * len(lanes[track])), fill=(238, 238, 238))
        for action in lanes[track]:
            for span in (s for s in spans if s.track == track and s.action == action):
                x1, x2 = x_of(span.start), x_of(span.end)
                colour = colour_of(names.index(action), 0.45)
                canvas.rectangle((x1, y + 1, max(x2, x1 + 2), y + lane - 2), fill=colour)
                for text in (f"{action} {span.score:.2f}", action):      # the longest that fits
                    if font.getlength(text) < x2 - x1 - 6:
                        canvas.text((x1 + 4, y + 1), text, "black", font)
                        break
            y += lane
        y += 8
    with replacing(path, binary=True) as file:
        image.save(file, "PNG")


# ---------------------------------------------------------------- what is written

class Film:
    """The annotated MP4. Even if this process is killed, what was written until 2 seconds before can be played."""

    def __init__(self, path: Path, source: Source, settings: Settings):
        self.path, self.source, self.settings = path, source, settings
        self.container, self.reformatter, self.sound = None, VideoReformatter(), iter(())

    def open(self, width: int, height: int) -> None:
        # fragments while it is written, an ordinary file once it is closed
        self.container = av.open(str(self.path), "w", format="mp4",
                                 options={"movflags": "hybrid_fragmented", "flush_packets": "1"})
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self.video = self.container.add_stream(codec, rate=self.source.rate)
        self.video.width, self.video.height, self.video.pix_fmt = width, height, "yuv420p"
        self.video.codec_context.time_base = Fraction(1, TICKS)
        self.video.codec_context.gop_size = max(round(2 * self.source.rate), 1)      # a fragment: 2 s
        self.video.options = {"preset": "veryfast", "crf": "20", "bf": "0"} if codec == "libx264" else {"q:v": "4"}
        if self.source.files is None and not self.source.live:
            self.sound = self.hear()
        self.packet = next(self.sound, None)

    def hear(self) -> Iterator[av.Packet]:
        """The file's sound from the first frame on, as AAC; nothing where it has none."""
        with av.open(self.source.name) as container:
            if not container.streams.audio or not container.streams.audio[0].codec_context.sample_rate:
                return
            encoder = self.container.add_stream("aac", rate=48_000, layout="stereo")
            for frame in itertools.chain(decoded(container, container.streams.audio[0]), [None]):
                if frame is not None:                            # the first frame of the picture is at 0
                    frame.pts = (frame.pts or 0) - round(self.source.start / frame.time_base)
                for packet in encoder.encode(frame) if frame is None or frame.pts >= 0 else []:
                    if packet.pts >= 0:                          # AAC's first packet only primes the decoder
                        yield packet

    def add(self, frame: Frame, people: list[Seen], names: list[str]) -> None:
        picture = frame.picture
        turned = round(picture.rotation / 90) % 2
        if self.container is None:
            short = min(picture.width, picture.height)
            size = scaled_size(picture.width, picture.height, min(max(short, DRAWN[0]), DRAWN[1]), 2)
            self.open(*(size[::-1] if turned else size))
        size = self.video.width, self.video.height
        rgb = upright_rgb(picture, *(size[::-1] if turned else size), self.reformatter)
        drawn = av.VideoFrame.from_ndarray(draw_people(rgb, people, names, self.settings), format="rgb24")
        drawn.pts, drawn.time_base = round(frame.time * TICKS), Fraction(1, TICKS)
        self.hear_until(frame.time)
        self.container.mux(self.video.encode(drawn))

    def hear_until(self, second: float) -> None:
        while self.packet is not None and (self.packet.pts or 0) * self.packet.time_base <= second:
            self.container.mux(self.packet)
            self.packet = next(self.sound, None)

    def close(self) -> None:
        if self.container is not None:
            self.hear_until(self.source.end)
            self.container.mux(self.video.encode(None))
            self.container.close()


class Results:
    """The text files of one video; every row is on disk as soon as it is final."""

    def __init__(self, out: Path, name: str, source: Source, words: Words, settings: Settings, as_json: bool):
        self.spans, self.tracks, self.detections = [], [], 0
        self.files = ExitStack()             # opened with whole lines as the unit of writing
        self.rows = csv.writer(self.open(out / f"{name}.csv"), lineterminator="\n")
        self.span_rows = csv.writer(self.open(out / f"{name}_spans.csv"), lineterminator="\n")
        self.span_rows.writerow(["track", "action", "start", "end", "mean_score"])
        write_label_map(out / f"{name}.pbtxt", dict(enumerate(words.names, 1)))
        self.json = self.open(out / f"{name}.json") if as_json else None
        if self.json:
            head = {"video": source.name, "actions": words.names, "score": settings.score,
                    "threshold": settings.threshold}
            self.json.write(json.dumps(head)[:-1] + ',\n"detections": [')

    def open(self, path: Path):
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
        for span in chunk.spans:
            self.span_rows.writerow([span.track, span.action, *(f"{x:.3f}" for x in span[2:4]), f"{span.score:.4f}"])
        self.spans += chunk.spans
        self.tracks += [(tube.track, tube.since, tube.until) for tube in chunk.tracks]

    def close(self, seconds: float) -> None:
        if self.json:
            people = [{"track": track, "start": start, "end": end} for track, start, end in sorted(self.tracks)]
            tail = {"seconds": seconds, "people": people, "spans": [span._asdict() for span in self.spans]}
            self.json.write("],\n" + json.dumps(tail)[1:] + "\n")
        self.files.close()


@contextmanager
def writing(path: Path):
    """A disk that is full or a folder that may not be written stops everything, in one line."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error}); what is there so far is kept. "
                      "Free some space or choose another --out") from None


def watch(video: str, name: str, out: Path, words: Words, settings: Settings, detector, boxes_at: dict | None,
          stop: threading.Event, *, quiet: bool = False, film: bool = True, as_json: bool = False) -> Clock:
    """Everything about one video, on disk; prints a summary. Returns the clock of its stages.

    boxes_at: as for `analyse`. stop: set from outside, ends the video early with all its files whole.
    """
    source, clock = Source(video, settings), Clock()
    mark = out / f"{name}.unfinished"
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        mark.touch()
        results = Results(out, name, source, words, settings, as_json)
        movie = Film(out / f"{name}.mp4", source, settings)
    shape = "{l_bar}{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
    bar = tqdm(total=source.duration, unit=" video s", desc=name, disable=quiet, dynamic_ncols=True,
               bar_format=shape if source.duration else None)
    try:
        chunks = in_thread(analyse(source, words, settings, detector, boxes_at, film, clock, stop), ahead=1)
        with closing(chunks):
            for chunk in chunks:
                with clock.on("drawing"), writing(movie.path):
                    for frame, people in chunk.frames:
                        movie.add(frame, people, words.names)
                        clock.drawn += 1
                    results.add(chunk)
                bar.set_postfix_str(f"slowest: {clock.slowest()}", refresh=False)
                bar.update(max(min(chunk.until, source.duration or inf) - bar.n, 0))
    finally:
        bar.close()
        with writing(movie.path):
            results.close(source.end)
            movie.close()
    with writing(out):
        draw_timeline(out / f"{name}_timeline.png", Path(video).name, results.spans, results.tracks, words.names,
                      source.end)
    report(source, results, boxes_at, clock, out / name)
    if not stop.is_set() or source.live:                         # a camera's video ends when one ends it
        mark.unlink()
    return clock


def report(source: Source, results: Results, boxes_at: dict | None, clock: Clock, stem: Path) -> None:
    """The printed summary: who did what, and where it is written."""
    speed = source.end / (clock_time.perf_counter() - clock.since)
    print(f"\n{source.name}: {source.end:.1f} s, {len(results.tracks)} people, {results.detections} boxes; "
          f"{speed:.1f} video seconds a second, slowest: {clock.slowest()}")
    for track, start, end in sorted(results.tracks)[:20]:
        said = ", ".join(f"{s.action} {s.score:.2f} ({s.start:.1f}-{s.end:.1f})"
                         for s in sorted(results.spans, key=lambda span: span.start) if s.track == track)
        print(f"  person {track:<4} {start:6.1f} - {end:6.1f} s  {said or 'none of these'}")
    if len(results.tracks) > 20:
        print(f"  and {len(results.tracks) - 20} people more, in {stem}_spans.csv")
    if not results.tracks:
        print("  nobody was found: no person above --person-score on any keyframe"
              + (", or none in the proposals" if boxes_at is not None else ""))
    if source.damaged:
        print(f"  {source.damaged} damaged frames were left out")
    late = [t for t in boxes_at or () if t >= source.end]
    if late:
        print(f"  {len(late)} keyframes of the proposals lie after the video's end, the first at {min(late):g} s")
    also = (", .mp4" if clock.drawn else "") + (", .json" if results.json else "")
    print(f"  written: {stem}.csv, _spans.csv, _timeline.png{also}")


# ---------------------------------------------------------------- the command

def find_videos(patterns: list[str]) -> list[str]:
    """Files, folders of frames and addresses as given; a pattern that is no file is expanded."""
    videos = []
    for pattern in patterns:
        if not os.path.exists(pattern) and not is_address(pattern) and re.search(r"[*?\[]", pattern):
            matches = sorted(glob.glob(pattern, recursive=True))
            if not matches:
                raise FileNotFoundError(f"{pattern}: no file matches")
            videos += matches
        else:
            videos.append(pattern)
    return list(dict.fromkeys(videos))


def output_names(videos: list[str]) -> list[str]:
    """A name for each video's files: its stem; where stems are equal, with its folder's name, or else a number."""
    paths = [Path(re.sub(r"[^\w.-]+", "_", v) if is_address(v) else os.path.abspath(v)) for v in videos]
    stems = [path.name if path.is_dir() else path.stem for path in paths]
    names = [stem if stems.count(stem) == 1 else f"{path.parent.name}_{stem}" for path, stem in zip(paths, stems)]
    return [name if names.count(name) == 1 else f"{name}_{names[:i].count(name) + 1}" for i, name in enumerate(names)]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter)
    default = Settings()
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="files, folders of numbered frames, globs, or the "
                        "address of a stream or camera (rtsp://..., /dev/video0)")

    group = parser.add_argument_group("words and model")
    group.add_argument("--actions", nargs="+", default=[], metavar="WORD",
                       help="what to look for, in any words; 'wave: waving a hand | hand wave' averages phrasings")
    group.add_argument("--actions-file", metavar="FILE", help="the same, one a line; # begins a comment line")
    group.add_argument("--ckpt", default="ViT-B/16",
                       help="a checkpoint of train_finetune.py (best) or train_align.py, ViCLIP's official weights (a "
                            "file or Hub id), or an architecture's name for these")
    for name, kind, text in (("beta", float, "fusion ratio, Eq. 2: 1 is region only, 0 global only"),
                             ("frames", int, "T"), ("stride", int, "frames from one of a clip to the next"),
                             ("short-side", int, "of the clip's frames, pixels")):
        group.add_argument(f"--{name}", type=kind, help=f"{text}; by default the checkpoint's")

    group = parser.add_argument_group("people")
    group.add_argument("--detector", default=DETECTOR, help="one of detect_humans.py")
    group.add_argument("--detector-weights", metavar="FILE", help="by default its COCO weights, downloaded once")
    group.add_argument("--proposals", metavar="CSV",
                       help="boxes from elsewhere (video,keyframe,x1,y1,x2,y2,,score; seconds) in place of the "
                            "detector; its keyframes are then the keyframes")
    group.add_argument("--person-score", type=float, default=default.person_score,
                       help="what the detector must be sure of to count a person")
    group.add_argument("--every", type=float, default=default.every,
                       help="seconds between keyframes; half of it is a slower, finer answer")
    group.add_argument("--gap", type=float, default=default.gap,
                       help="seconds unseen after which a person is a new one")
    group.add_argument("--link-iou", type=float, default=default.link_iou,
                       help="overlap with the keyframe before that makes a box the same person; lower for fast people")

    group = parser.add_argument_group("scores")
    group.add_argument("--score", choices=["calibrated", "sigmoid"], default=default.score, help="see above")
    group.add_argument("--threshold", type=float, default=default.threshold,
                       help="a word from this score on is drawn, summed up and a span; the CSV has all scores")
    group.add_argument("--background", nargs="+", default=default.background, metavar="TEXT",
                       help="whole prompts that stand for none of the words")
    group.add_argument("--smooth", type=int, default=default.smooth,
                       help="keyframes of a tube that a score is the mean of, odd; 1 is off")

    group = parser.add_argument_group("output")
    group.add_argument("--out", default="runs/actions", help="folder")
    group.add_argument("--json", action="store_true", help="all of it in one JSON file, too")
    group.add_argument("--top", type=int, default=default.top, help="words drawn beside a person at most")
    group.add_argument("--no-video", action="store_true", help="only tables and the timeline: faster")
    group.add_argument("--skip-existing", action="store_true", help="leave out videos that are complete under --out")
    group.add_argument("--max-seconds", type=float, help="stop there; for streams and first looks")
    group.add_argument("--fps", type=float, default=default.fps, help="of folders of frames")

    group = parser.add_argument_group("run")
    group.add_argument("--device", help="cpu, cuda or cuda:1; by default a GPU where there is one")
    group.add_argument("--amp", action="store_true", help="compute in bfloat16 where it is safe")
    group.add_argument("--batch-size", type=int, default=default.batch_size,
                       help="keyframes at once; more is faster on a GPU, and holds more frames")
    args = parser.parse_args(argv)
    args.actions = args.actions + (read_actions(args.actions_file) if args.actions_file else [])
    if not args.actions:
        raise ValueError("no words to look for; give --actions \"wave\" \"ride a bike\" or --actions-file FILE")
    return args


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, so that what is being written is finished; the second time, at once."""
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
    settings = Settings(**{f.name: getattr(args, f.name) for f in fields(Settings)})
    out, videos = Path(args.out), find_videos(args.videos)
    jobs = list(zip(videos, output_names(videos)))
    for video, name in jobs:
        if os.path.exists(video) and (out / f"{name}.mp4").resolve() == Path(video).resolve():
            raise ValueError(f"--out {out}: {name}.mp4 there is the video itself; choose another folder")
    people = read_people(args.proposals, videos, settings.person_score) if args.proposals else [None] * len(videos)
    process = engine.start_process(args.device)
    jobs = [(*job, boxes_at) for job, boxes_at in zip(jobs, people)][process.rank::process.world]
    words = Words(args.actions, args.ckpt, settings, process.device)
    if words.note and process.is_main:
        print(f"note: {args.ckpt} is {words.note}", file=sys.stderr)
    detector = None if args.proposals else build_detector(args.detector, args.detector_weights, process.device)

    broken = []
    with stop_on_signal() as stop:
        for video, name, boxes_at in jobs:
            begun, unfinished = (out / f"{name}{end}" for end in (".csv", ".unfinished"))
            if args.skip_existing and begun.exists() and not unfinished.exists():
                print(f"{video}: complete, skipped")
                continue
            if stop.is_set():
                break
            try:
                watch(video, name, out, words, settings, detector, boxes_at, stop, quiet=not process.is_main,
                      film=not args.no_video, as_json=args.json)
            except (ValueError, FileNotFoundError) as error:
                if len(videos) == 1:
                    raise
                broken.append(video)
                print(f"error: {' '.join(str(error).split())}; going on with the next video", file=sys.stderr)
    if process.world > 1:        # torchrun stops everyone when one ends with an error: wait for all
        dist.monitored_barrier(process.metadata, timeout=timedelta(days=30))
    if broken:
        print(f"{len(broken)} of {len(jobs)} videos could not be read: {', '.join(broken)}", file=sys.stderr)
    return 130 if stop.is_set() else int(bool(broken))


if __name__ == "__main__":
    engine.cli(main)
