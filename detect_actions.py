"""The product: any video, any words -> who does what, when and where.

    python detect_actions.py VIDEO [VIDEO ...] --ckpt runs/ucf101-24/last.pt --actions "wave" "ride a bike"

A video is read once, as a stream, and the pipeline knows no more of it than a few keyframes (one every half second):

    read     the frames up to the next keyframe, and the clip of T frames around it
    score    keyframe -> people (a detector, or --proposals); clip, people -> scores of the words: Eq. (2), (3)
    track    people -> tracks; a score is the mean over the keyframe before, this one and the next
    write    rows of a keyframe; boxes interpolated between two keyframes, drawn and encoded

Written under --out: NAME.mp4 (annotated, with sound), NAME.csv and its label map NAME.pbtxt (AVA's layout, all
scores), NAME_spans.csv (track,action,start,end,mean_score), NAME.html (a page to click through) and, with --json,
NAME.json.
A camera or live stream never falls behind: keyframes for which there is no time are left out and counted, and no
MP4 is drawn unless --video asks for it. --json - writes each person on a keyframe to standard output at once.
Ctrl-C ends the video there and leaves these files whole. NAME.done says that the video is complete, NAME.unfinished
that it is not. Memory does not grow with the video.

What a score means. --calibration background: the share of the word in a softmax over the word and a background of
generic prompts ("a person", "a person standing still", ...), each word on its own: at 0.5 it fits as well as all the
background together, and if no word does, the answer is "none of these". --calibration none: the paper's sigmoid,
Eq. (3), made for ranking; cosines of such models are all positive, so that it is near 1 for everything.

As a library:

    from detect_actions import detect
    for seen in detect("street.mp4", ["wave", "ride a bike"], "runs/ucf101-24/last.pt"):
        print(seen.time, seen.track, seen.box, seen.scores)
"""

import argparse
import csv
import functools
import glob
import hashlib
import json
import os
import queue
import re
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, fields
from fractions import Fraction
from itertools import chain, count, repeat
from math import inf
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.reformatter import VideoReformatter
from PIL import Image
from tqdm import tqdm

import detect_humans
import draw
import engine
import ovstad
from baselines import load_model
from formats.cvat import export_tracks
from formats.files import replacing, write_label_map
from formats.proposals import proposal_rows, read_proposals
from table import make_annotations
from video import numbered_frames, open_container, packets, scaled_size, upright_rgb

BACKGROUND = ("a person", "a person standing still", "a person in a room", "a person outdoors",
              "a photo of a person", "a person doing nothing", "people")
CUT = 15, 3                      # a new scene: mean change of grey (of 255) from frame to frame, and times the usual
LARGEST = 1080                   # short side of the annotated video at most, pixels
TICKS = 60_000                   # a second in the MP4: whole ticks for 24, 25, 30, 60 and 30000/1001 frames
SOON = 1e-6                      # seconds; float noise of time stamps
NOBODY = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
# after the NAME of a video's files
OUTPUTS = (".mp4", ".csv", ".pbtxt", "_spans.csv", ".html", ".json", ".cvat.xml", ".cvat.labels.json")


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
    person_score: float = setting("people", 0.6, "score of the detector from which a box is a new person; from half "
                                  "of it on, a box may be a person who was there before")
    every: float = setting("people", 0.5, "seconds between keyframes; half of it is a slower, finer answer; the "
                           "pictures of about five such intervals are held until they are drawn")
    gap: float = setting("people", 1.5, "seconds unseen after which a person is a new one; who was on the keyframe "
                         "before may always go on")
    calibration: str = setting("scores", "background", "background: against 'none of these', see above; "
                               "none: Eq. (3), for ranking", choices=["background", "none"])
    threshold: float = setting("scores", 0.5, "a word from this score on is drawn and makes spans; "
                               "the CSV has all")
    background: tuple[str, ...] = setting("scores", BACKGROUND, "whole prompts that stand for none of the words",
                                          type=str, nargs="+", metavar="TEXT")
    top: int = setting("output", 3, "words drawn beside a person at most")
    font: str | None = setting("output", None, "file of the font that words are drawn in; by default one that has "
                               "their letters", type=str)
    max_seconds: float | None = setting("run", None, "stop there; for streams and first looks", type=float)
    fps: float = setting("run", 25.0, "of folders of frames")
    amp: bool = setting("run", False, "compute in bfloat16 where it is safe")

    def __post_init__(self):
        def need(good, expected: str, *names: str) -> None:
            for name in names:
                value = getattr(self, name)
                if value is not None and not good(value):
                    raise ValueError(f"--{name.replace('_', '-')} {value}: expected {expected}")

        need(lambda x: 0.01 <= x < inf, "0.01 seconds or more", "every")
        need(lambda x: 0 < x < inf, "a number above 0", "gap", "max_seconds")
        need(lambda x: 0.001 <= x <= 1000, "0.001 to 1000 frames a second", "fps")
        need(lambda x: 0 <= x <= 1, "a number in [0, 1]", "person_score", "threshold", "beta")
        need(lambda x: x >= 1, "1 or more", "frames", "stride", "short_side", "top")
        need(lambda x: x in ("background", "none"), "background or none", "calibration")
        need(any, "at least one text", "background")


class Detection(NamedTuple):
    """One person on one keyframe."""

    video: str                               # as it was given
    time: float                              # of the keyframe: seconds after the video's first frame
    track: int                               # from 1; the same person as long as it is followed
    box: tuple[float, float, float, float]   # xyxy in [0, 1] of the upright picture
    scores: dict[str, float]                 # of every action, in [0, 1]


class Person(NamedTuple):
    """Somebody on a keyframe."""

    box: np.ndarray                          # (4,) xyxy in [0, 1]
    scores: np.ndarray | None = None         # (C,)


@dataclass
class Keyframe:
    """A keyframe, and what happened since the keyframe before it."""

    time: float                                      # seconds after the first frame
    frames: list[tuple[float, av.VideoFrame]]        # (seconds, picture) since the one before; empty if not drawn
    cuts: list[float]                                # seconds at which a new scene began since the one before
    picture: av.VideoFrame | None = None             # None: the end of the video
    clip: np.ndarray | None = None                   # (T, h, w, 3) uint8, the keyframe's own frame at index T // 2
    arrived: float = 0.0                             # when it was read: perf_counter(), seconds
    people: dict[int, Person] = field(default_factory=dict)                         # by track


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


def scores_of(logits: torch.Tensor, words: int, calibration: str) -> torch.Tensor:
    """(N, words) in [0, 1] from logits (N, words + K), float64, the last K being the background's."""
    own, background = logits[:, :words], logits[:, words:]
    if calibration == "background":                 # softmax over one word and the background, a word at a time
        own = own - background.logsumexp(dim=1, keepdim=True)
    return own.sigmoid()                     # Eq. (3)


def is_foreign(text: str) -> bool:
    """Whether CLIP's tokenizer, made for English, cuts a text into single letters or nearly so."""
    letters, tokens = len(text.replace(" ", "")), int((ovstad.tokenize([text]) != 0).sum()) - 2
    return not text.isascii() or letters > 4 and 2 * tokens > letters


class Words:
    """A video-language model asked for some words; `names` are they, `note` what to know about the checkpoint."""

    def __init__(self, actions: dict[str, list[str]], ckpt, settings: Settings, device: torch.device):
        model, record = (ckpt.eval(), {}) if isinstance(ckpt, torch.nn.Module) else load_model(ckpt)
        self.model, self.names, self.settings, self.device = model.to(device), list(actions), settings, device
        self.beta = record.get("beta", ovstad.BETA) if settings.beta is None else settings.beta
        self.frames = settings.frames or record.get("frames") or model.frames
        self.stride = settings.stride or record.get("stride") or 1
        self.short_side = settings.short_side or record.get("short_side") or model.short_side
        self.font, self.missing = draw.choose_font(" ".join(self.names), settings.font)
        self.foreign = [name for name, phrasings in actions.items() if any(is_foreign(text) for text in phrasings)]
        self.novel = [name for name in self.names if name not in record["base"]] if "base" in record else []
        stage = record.get("stage")
        self.note = None if stage == "finetune" else (
            f"{'a model of stage ' + stage if stage else 'the original ' + type(model).__name__}, not finetuned on actions "
            "of people: its scores rank, but separate less; train_finetune.py makes a better one")

        self.prompt = prompt = record.get("prompt", ovstad.PROMPT)
        prompts = [[prompt.replace("{}", phrase) for phrase in phrasings] for phrasings in actions.values()]
        prompts += [[text] for text in settings.background if not any(text in own for own in prompts)]
        with torch.inference_mode():
            embeddings = [model.encode_text(some).float() for some in prompts]
            # of several phrasings the mean direction; and the mean length, which counts in a dot product
            self.f_text = torch.stack([F.normalize(e, dim=-1).mean(dim=0) * e.norm(dim=-1).mean()
                                       for e in embeddings])                               # (C + K, D)

    @torch.inference_mode()
    def score(self, clips: np.ndarray, boxes: list[torch.Tensor]) -> list[np.ndarray]:
        """clips (B, T, H, W, 3) uint8 and B boxes tensors (N_b, 4) -> B arrays (N_b, C) float64 in [0, 1]."""
        video = self.model.normalise(torch.from_numpy(clips).to(self.device).permute(0, 1, 4, 2, 3))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.amp):
            f_global, f_map = self.model.encode_video(video)
        f_region = self.model.region_features(f_map, boxes).float()                        # (N, D)
        f_global = f_global.float()[ovstad.clip_of_box(boxes).to(self.device)]
        logits = self.model.logits(ovstad.fuse(f_region, f_global, self.beta), self.f_text)     # (N, C + K)
        scores = scores_of(logits.double(), len(self.names), self.settings.calibration).cpu()
        return [part.numpy() for part in scores.split([len(b) for b in boxes])]


# ---------------------------------------------------------------- the frames

def camera_path(video: str) -> str:
    """/dev/video0 for camera 0; other videos are as they are named."""
    return f"/dev/video{video}" if video.isdecimal() and not os.path.exists(video) else video


def decode(container, stream) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """The frames of a stream in display order; damaged packets are left out, and a lost connection is the end."""
    for packet in packets(container, stream):
        with suppress(av.error.FFmpegError):
            yield from packet.decode()


class Source:
    """A video file, a folder of numbered frames, or a camera or stream, read once.

    `is_live` of a camera or a stream without end: what is not looked at in time is lost.
    """

    def __init__(self, video, settings: Settings, stop: threading.Event | None = None):
        self.name, self.limit, self.stop = os.fspath(video), settings.max_seconds or inf, stop
        self.rate, self.duration = Fraction(settings.fps).limit_denominator(100_000), None
        self.start = self.end = self.held = 0.0              # of the container's clock; of what is read so far
        self.promised = 0.0                                  # seconds of pictures, 0 where nothing says so
        self.is_live, self.late = False, 0                   # late: keyframes for which there was no time
        path = camera_path(self.name)
        if "://" not in path and not os.path.exists(path):
            raise FileNotFoundError(f"{self.name}: no such video file, folder of frames or camera")
        if os.path.isdir(path):
            self.pictures, self.duration = self.read_folder(), float(len(numbered_frames(path)) / self.rate)
        else:
            container, stream = open_container(path, format="v4l2" if path.startswith("/dev/video") else None,
                                               timeout=20 if "://" in path else None)
            rate = stream.average_rate or stream.guessed_rate
            self.rate = rate if rate and rate <= 240 else self.rate          # some containers only have a clock
            lasts = stream.duration and float(stream.duration * stream.time_base)
            self.duration = lasts or container.duration and container.duration / av.time_base
            # what the pictures must come to: where only the file says how long it is, that may be its sound
            self.promised = lasts or (self.duration if len(container.streams) == 1 else None) or 0.0
            self.is_live = not self.duration and not os.path.isfile(path)
            # threads that decode a frame each would keep as many frames back
            stream.thread_type = "SLICE" if self.is_live else "AUTO"
            self.pictures = ((frame.time, frame) for frame in decode(container, stream))
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
            if time >= self.limit or self.stop and self.stop.is_set():
                break
            self.end = time + one
            self.held = time + float((frame.duration or 0) * (frame.time_base or 0))     # the last may stand long
            yield time, frame
        if time is None:
            raise ValueError(f"{self.name}: no frame of it can be decoded")


class Shot(NamedTuple):
    """A frame, from `time` (seconds) on the screen."""

    time: float
    picture: av.VideoFrame                   # of `LARGEST` at most
    small: np.ndarray                        # (h, w, 3) uint8, upright, for the encoder
    is_cut: bool                             # a new scene begins here
    arrived: float                           # when it was read: perf_counter(), seconds


def scale_frames(source: Source, short_side: int, patch: int) -> Iterator[Shot]:
    """The frames in the two sizes that are needed, and whether a scene begins there."""
    reformatter, size, grey, usual = VideoReformatter(), None, None, None
    for time, frame in source:
        arrived = perf_counter()
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
        yield Shot(time, frame, small, is_cut, arrived)


def read_keyframes(source: Source, times: Iterator[float], words: Words, pictures: bool) -> Iterator[Keyframe]:
    """The keyframes at `times` (seconds, ascending) with their clips, and last the video's end; each frame is decoded once.

    Clips repeat the first and last frame beyond the ends, as data.py's do. pictures: frames are kept to be drawn.
    """
    T, stride = words.frames, words.stride
    before, after = T // 2 * stride, max((T - 1 - T // 2) * stride, 1)
    window = deque(maxlen=before + 1 + after)                # the frame at index `before` is the present one
    frames, cuts, time = [], [], next(times)
    for shot in chain(scale_frames(source, words.short_side, words.model.patch), repeat(None, after)):
        if shot is None:                                     # past the end: the last frame again
            shot = window[-1]._replace(time=source.end)
        window.extend([shot] * (1 if window else before + 1))
        if len(window) == window.maxlen:
            present, until = window[before], window[before + 1].time
            frames += [(present.time, present.picture)] * pictures
            cuts += [present.time] * present.is_cut
            while time < until - SOON:
                clip = np.stack([shot.small for shot in window][::stride][:T])
                yield Keyframe(time, frames, cuts, present.picture, clip, present.arrived)
                frames, cuts, time = [], [], next(times)
    yield Keyframe(source.end, frames, [*cuts, source.end])


def in_thread(items: Iterator) -> Iterator:
    """The items of a generator that runs one ahead of us in a thread of its own; it raises its errors here."""
    with ThreadPoolExecutor(1) as thread:
        try:
            coming = thread.submit(next, items, None)
            while (item := coming.result()) is not None:
                coming = thread.submit(next, items, None)
                yield item
        finally:                                             # left early, or broken
            thread.submit(items.close).result()


def newest(keyframes: Iterator[Keyframe], source: Source) -> Iterator[Keyframe]:
    """The keyframes of a live source, read in a thread of its own that never waits for us.

    Where a keyframe is not taken before the next one is there, it is late: it is left out, with its pictures,
    and counted in source.late.
    """
    waiting, left = queue.Queue(1), threading.Event()

    def read() -> None:
        with closing(keyframes):
            for keyframe in keyframes:
                with suppress(queue.Empty):
                    keyframe.cuts[:0] = waiting.get_nowait().cuts
                    source.late += 1
                waiting.put(keyframe)
                if left.is_set():
                    return

    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(read)
        try:
            while not reading.done() or not waiting.empty():
                with suppress(queue.Empty):
                    yield waiting.get(timeout=0.05)
            reading.result()
        finally:
            left.set()


# ---------------------------------------------------------------- the people

Found = tuple[np.ndarray, np.ndarray]        # people on a keyframe: boxes (n, 4) float32, the detector's scores (n,)


def read_people(path, videos: list[str], person_score: float) -> list[dict[float, Found] | None]:
    """For each video, the people on its keyframes (seconds) by a proposals CSV; None where it is not in the CSV.

    The CSV (video,keyframe,x1,y1,x2,y2,,score) names a video by its path or by its file name, with or
    without the suffix.
    """
    known, row, keyframe, _, _ = proposal_rows(path)
    nobody = np.zeros((len(row), 4)), np.full(len(row), -1)
    table = make_annotations(known, [], row, keyframe, *nobody, unit="second")
    found = read_proposals(path, table, person_score / 2)
    result = []
    for video in videos:
        name = next((name for name in (video, Path(video).name, Path(video).stem) if name in known), None)
        mine = found.video == (known.index(name) if name else -1)
        times = {time: mine & (found.keyframe == time) for time in np.unique(found.keyframe[mine]).tolist()}
        result.append({time: (found.box[here], found.score[here]) for time, here in times.items()} if name else None)
    if not any((score >= person_score).any() for people in filter(None, result) for _, score in people.values()):
        raise ValueError(f"{path}: has no box of {', '.join(videos[:3])} of --person-score {person_score:g}; "
                         f"it names {', '.join(known[:3])}. Write the video's path or file name "
                         "in the first column")
    return result


def sources_of_people(proposals, videos: list[str], settings: Settings, detector, weights, device) -> list:
    """For each video what `find_people` takes; a detector that was built already is taken as it is."""
    if proposals:
        return read_people(proposals, videos, settings.person_score)
    if isinstance(detector, str):
        detector = detect_humans.build_detector(detector, weights, device)
    return [detector] * len(videos)


def keyframe_times(people, settings: Settings) -> Iterator[float]:
    """Seconds of the keyframes, ascending, without end; people: as for `find_people`.

    Regular ones for a detector, those of the boxes otherwise. Where these lie far apart, keyframes without
    anybody stand between them, so that no more than two gaps of pictures are held.
    """
    if not isinstance(people, dict):
        yield from (i * settings.every for i in count())
    time, gap = 0.0, max(settings.gap, np.median(np.diff(sorted(people))).item() if len(people) > 1 else 0)
    for known in chain(sorted(people), [inf]):
        while known - time > 2 * gap:
            time += gap
            yield time
        time = known
        yield time


def find_people(keyframe: Keyframe, people) -> Found:
    """The people on a keyframe; people: a detector of detect_humans.py, or a dict of them by a keyframe's time."""
    if isinstance(people, dict) or keyframe.picture is None:
        return people.get(keyframe.time, NOBODY) if keyframe.picture else NOBODY
    picture = keyframe.picture
    rgb = upright_rgb(picture, picture.width, picture.height, VideoReformatter())
    return detect_humans.detect_frames(people, [rgb])[0]


def colours_in(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What somebody looks like: shares (24,) of 8 levels of red, green and blue in the upper middle of their box.

    picture: (h, w, 3) uint8. A pixel counts for the two levels that it lies between, so that light matters little.
    """
    h, w = picture.shape[:2]
    x1, y1, x2, y2 = box
    left, right = int(w * (0.75 * x1 + 0.25 * x2)), int(w * (0.25 * x1 + 0.75 * x2))
    top, bottom = int(h * (0.8 * y1 + 0.2 * y2)), int(h * (0.4 * y1 + 0.6 * y2))
    pixels = picture[top:max(bottom, top + 1), left:max(right, left + 1)].reshape(-1, 3)
    levels = pixels / 255 * 7
    return np.maximum(1 - np.abs(levels[..., None] - np.arange(8)), 0).mean(axis=0).ravel() / 3


@dataclass
class Track:
    """Where somebody was last; lengths are in heights of the picture, so that all directions count alike."""

    time: float
    centre: np.ndarray                       # (2,)
    size: float                              # root of the box's area
    speed: np.ndarray                        # (2,) a second
    colours: np.ndarray                      # (24,)


class Tracker:
    """Gives each person a track number that holds from keyframe to keyframe.

    Somebody is expected where their speed takes them. A box costs its distance from there, relative to the size
    and to the time since; how unlike the colours are; how much the size has changed; and a little if the detector
    is not sure. The cheapest pairs are linked first. A sure box that is left begins a track; a track ends after
    `gap` seconds without a box, or at a cut.
    """

    def __init__(self, settings: Settings):
        self.settings, self.count, self.before = settings, 0, 0.0
        self.tracks: dict[int, Track] = {}

    def link(self, keyframe: Keyframe, boxes: np.ndarray, sure: np.ndarray) -> dict[int, int]:
        """{track: index of its box} on a keyframe; boxes (n, 4), sure (n,): what the detector says they are."""
        picture = keyframe.clip[len(keyframe.clip) // 2]
        aspect, oldest = picture.shape[1] / picture.shape[0], min(keyframe.time - self.settings.gap, self.before) - SOON
        self.tracks = {number: track for number, track in self.tracks.items()
                       if track.time >= oldest and not keyframe.cuts}
        self.before, least = keyframe.time, self.settings.person_score
        found = []
        for box in boxes:
            (x1, y1, x2, y2), colours = box.astype(float), colours_in(picture, box)
            centre = np.array([aspect * (x1 + x2) / 2, (y1 + y2) / 2])
            found.append(Track(keyframe.time, centre, (aspect * (x2 - x1) * (y2 - y1)) ** 0.5, np.zeros(2), colours))

        linked = {}
        pairs = [(self.cost(track, found[n]) + 0.1 * (sure[n] < least), number, n)
                 for number, track in self.tracks.items() for n in np.flatnonzero(sure >= least / 2).tolist()]
        for cost, number, n in sorted(pairs):
            if cost < 1 and number not in linked and n not in linked.values():
                linked[number] = n
        for number, n in linked.items():
            old, new = self.tracks[number], found[n]
            new.speed = (old.speed + (new.centre - old.centre) / (new.time - old.time)) / 2
            new.colours = 0.7 * old.colours + 0.3 * new.colours
        for n in np.flatnonzero(sure >= least).tolist():
            if n not in linked.values():
                self.count += 1
                linked[self.count] = n
        self.tracks |= {number: found[n] for number, n in linked.items()}
        return linked

    @staticmethod
    def cost(track: Track, new: Track) -> float:
        """0 for the same person as expected, from 1 on for somebody else."""
        since = new.time - track.time
        distance = np.hypot(*(track.centre + since * track.speed - new.centre)) / ((track.size + new.size) / 2)
        unlike = 1 - np.sqrt(track.colours * new.colours).sum()                         # Bhattacharyya
        return distance / (1.5 + 3 * since) + 0.8 * unlike + abs(np.log(new.size / track.size)) / 2


def track_people(source: Source, words: Words, people, pictures: bool = False) -> Iterator[tuple[Keyframe, Keyframe]]:
    """The intervals of a video: pairs of successive keyframes whose tracks and scores are final.

    The first begins with nobody at second 0, the last ends with nobody at the video's end. An interval comes when
    the keyframe after it has been read: until then, the scores of its second keyframe are not known.
    people: as for `find_people`. What is held does not grow with the video.
    """
    tracker, before, present, first = Tracker(words.settings), {}, None, Keyframe(0.0, [], [])
    keyframes = read_keyframes(source, keyframe_times(people, words.settings), words, pictures)
    with closing(newest(keyframes, source) if source.is_live else in_thread(keyframes)) as keyframes:
        for following in keyframes:
            boxes, sure = find_people(following, people)
            linked = tracker.link(following, boxes, sure) if len(boxes) else {}
            if linked:                                       # a clip without people is not encoded
                boxes = boxes[list(linked.values())]
                scores, = words.score(following.clip[None], [torch.from_numpy(boxes)])
                following.people = dict(zip(linked, map(Person, boxes, scores)))
            following.clip = None
            if present:
                around = before, present.people, following.people
                before = present.people
                present.people = {track: person._replace(scores=np.mean(
                    [people[track].scores for people in around if track in people], axis=0))
                    for track, person in present.people.items()}
                yield first, present
                first = present
            present = following
    yield first, present


# ---------------------------------------------------------------- between two keyframes

class Part(NamedTuple):
    """Somebody on screen during a part of an interval, with the words of the keyframe that is near."""

    track: int
    start: float                             # seconds
    end: float
    keyframe: Keyframe


def split_interval(a: Keyframe, b: Keyframe, every: float) -> list[Part]:
    """Who is on screen between two keyframes, and when.

    Who is on both: all the time. Who is on one only: half a step from there, or to a cut within a step.
    """
    middle, reach = (a.time + b.time) / 2, min(every, b.time - a.time) / 2
    left = b.cuts[0] if b.cuts and b.cuts[0] <= a.time + every else a.time + reach
    entered = b.cuts[-1] if b.cuts and b.cuts[-1] >= b.time - every else b.time - reach
    return ([Part(track, a.time, middle if track in b.people else left, a) for track in a.people]
            + [Part(track, middle if track in a.people else entered, b.time, b) for track in b.people])


def people_at(time: float, a: Keyframe, b: Keyframe, parts: list[Part]) -> dict[int, Person]:
    """Who is on screen at a moment of an interval, by track; boxes are interpolated between its ends."""
    people = {}
    for track, start, end, keyframe in parts:
        if start <= time < end or keyframe is b and start <= time:
            box, scores = keyframe.people[track]
            if track in a.people and track in b.people:
                share = (time - a.time) / (b.time - a.time)
                box = (1 - share) * a.people[track].box + share * b.people[track].box
            people[track] = Person(box, scores)
    return people


def list_detections(keyframe: Keyframe, video: str, names: list[str]) -> list[Detection]:
    return [Detection(video, keyframe.time, track, tuple(box.tolist()), dict(zip(names, scores.tolist())))
            for track, (box, scores) in sorted(keyframe.people.items())]


def detect(video, actions: list[str], ckpt="ViT-B/16", proposals=None, detector=detect_humans.DEFAULT,
           detector_weights=None, device: str | None = None, **settings) -> Iterator[Detection]:
    """Who does what, when and where: a Detection for every person on every keyframe, in order of time.

    video: a file, a folder of numbered frames, an address. actions: words, or "wave: waving | hand wave".
    ckpt: a checkpoint, official weights, a Hub id, or a model. detector: a name, or one that was built.
    proposals: a CSV of boxes in its place. A Detection has video (str), time (seconds after the first frame),
    track (int from 1), box (x1, y1, x2, y2 in [0, 1]) and scores {action: in [0, 1]}. Records come two keyframes
    behind the reading; nobody in the picture gives none. ValueError or FileNotFoundError in one line: the video,
    words, checkpoint or CSV that cannot be used; all of it comes with the first record that is asked for, before
    which nothing is opened. Closing the iterator stops its thread. settings, and what they are by default:
    """
    settings = Settings(**settings)
    if isinstance(actions, str):
        raise ValueError(f"actions {actions!r}: expected a list of words, such as [{actions!r}]")
    device = engine.start_process(device).device
    source = Source(video, settings)
    words = Words(parse_actions(actions), ckpt, settings, device)
    people, = sources_of_people(proposals, [source.name], settings, detector, detector_weights, device)
    with closing(track_people(source, words, people)) as intervals:
        for _, keyframe in intervals:
            yield from list_detections(keyframe, source.name, words.names)


detect.__doc__ += "".join(f"\n    {one.name} ({one.default}): {one.metadata['flag']['help']}" for one in fields(Settings))


# ---------------------------------------------------------------- what is written

class Film:
    """The annotated MP4. Even if this process is killed, what was written until 2 seconds before can be played."""

    def __init__(self, path: Path, source: Source, words: Words, first: av.VideoFrame):
        self.source, self.words, self.reformatter = source, words, VideoReformatter()
        self.legend = f"from {words.settings.threshold:g} on: {' · '.join(words.names)}"
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

    def add(self, time: float, picture: av.VideoFrame, people: dict[int, Person]) -> None:
        labelled = []
        for track, (box, scores) in people.items():
            best = np.argsort(-scores, kind="stable")[:self.words.settings.top]
            labelled.append((track, box, [f"{self.words.names[c]} {scores[c]:.2f}" for c in best
                                          if scores[c] >= self.words.settings.threshold]))
        rgb = upright_rgb(picture, *self.size, self.reformatter)
        drawn = av.VideoFrame.from_ndarray(draw.draw_people(rgb, labelled, self.legend, self.words.font), format="rgb24")
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
            for frame in chain(decode(container, container.streams.audio[0]), [None]):
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

    def __init__(self, stem: Path, source: Source, words: Words, as_json: str | None, keep: bool):
        self.source, self.words, self.detections, self.as_lines = source, words, 0, as_json == "-"
        self.kept: list[Detection] | None = [] if keep else None
        self.people: dict[int, tuple[float, float]] = {}             # first and last second, by track
        self.spans: list[Span] = []                                  # that ended
        self.going_on: dict[tuple[int, str], list] = {}              # spans: start, end, sum of scores, keyframes
        self.files = ExitStack()
        self.rows = csv.writer(self.open(f"{stem}.csv"), lineterminator="\n")
        self.span_rows = csv.writer(self.open(f"{stem}_spans.csv"), lineterminator="\n")
        self.span_rows.writerow(["track", "action", "start", "end", "mean_score"])
        write_label_map(f"{stem}.pbtxt", dict(enumerate(words.names, 1)))
        self.json = self.open(f"{stem}.json") if as_json == "file" else None
        if self.json:
            head = {"video": source.name, "actions": words.names, "calibration": words.settings.calibration,
                    "threshold": words.settings.threshold}
            self.json.write(json.dumps(head)[:-1] + ',\n"detections": [')

    def open(self, path: str):                                   # buffering 1: whole lines, at once
        return self.files.enter_context(open(path, "w", newline="", encoding="utf-8", buffering=1))

    def add(self, keyframe: Keyframe, parts: list[Part]) -> None:
        """The rows of a keyframe, and the parts of the interval that it ends."""
        for seen in list_detections(keyframe, self.source.name, self.words.names):
            box = [f"{side:.6f}" for side in seen.box]
            for c, score in enumerate(seen.scores.values(), 1):
                self.rows.writerow([Path(seen.video).name, f"{seen.time:.3f}", *box, c, repr(score)])
            record = {"time": seen.time, "track": seen.track, "box": seen.box, "scores": seen.scores}
            if self.as_lines:
                print(json.dumps({"video": seen.video, **record}), flush=True)
            if self.json:
                self.json.write(("," if self.detections else "") + "\n" + json.dumps(record))
            self.detections += 1
            if self.kept is not None:
                self.kept.append(seen)
        for track, start, end, near in parts:
            self.people[track] = self.people.get(track, (start,))[0], end
            for action, score in zip(self.words.names, near.people[track].scores.tolist()):
                if score >= self.words.settings.threshold:
                    span = self.going_on.setdefault((track, action), [start, end, 0.0, 0])
                    span[1] = end
                    if near is keyframe:
                        span[2:] = span[2] + score, span[3] + 1
                else:
                    self.end_span(track, action)
        for (track, action), (_, end, *_) in list(self.going_on.items()):
            if keyframe.time - end > self.words.settings.gap:
                self.end_span(track, action)

    def end_span(self, track: int, action: str) -> None:
        if span := self.going_on.pop((track, action), None):
            start, end, total, keyframes = span
            self.spans.append(Span(track, action, start, end, total / keyframes))
            self.span_rows.writerow([track, action, f"{start:.3f}", f"{end:.3f}", f"{total / keyframes:.4f}"])

    def close(self, seconds: float) -> None:
        for track, action in list(self.going_on):
            self.end_span(track, action)
        if self.json:
            people = [{"track": track, "start": start, "end": end} for track, (start, end) in self.people.items()]
            tail = {"seconds": seconds, "people": people, "spans": [span._asdict() for span in self.spans]}
            self.json.write("],\n" + json.dumps(tail)[1:] + "\n")
        self.files.close()


# ---------------------------------------------------------------- one video

@functools.cache
def hash_weights(model: torch.nn.Module) -> str:
    content = hashlib.sha256()
    for tensor in model.state_dict().values():
        content.update(tensor.detach().float().cpu().numpy())
    return content.hexdigest()


def describe_request(video: str, args: argparse.Namespace, words: Words, people) -> dict[str, str]:
    """What a video's results depend on: its size and first megabyte; weights, boxes and flags; as two hashes."""
    files = numbered_frames(video) if os.path.isdir(video) else [video] if os.path.isfile(video) else []
    content, times = [os.path.getsize(file) for file in files], [os.stat(file).st_mtime_ns for file in files]
    for file in files[:1]:
        with open(file, "rb") as opened:
            content.append(opened.read(1 << 20))
    boxes = ([(time, box.tolist(), score.tolist()) for time, (box, score) in people.items()]
             if isinstance(people, dict) else hash_weights(people))
    free = ("videos", "out", "skip_existing", "device", "actions", "actions_file", "ckpt", "proposals", "detector_weights")
    flags = sorted((name, str(value)) for name, value in vars(args).items() if name not in free)
    return {name: hashlib.sha256(repr(facts).encode()).hexdigest()
            for name, facts in (("content", content), ("settings", [flags, hash_weights(words.model), boxes, times, words.beta, words.frames,
                                                        words.stride, words.short_side, words.prompt]))}


def read_mark(path: str) -> dict[str, str]:
    """What a run of ours wrote into NAME.done or NAME.unfinished; {} where none did."""
    with suppress(OSError, ValueError, TypeError):
        mark = json.loads(Path(path).read_text(encoding="utf-8"))
        if {"video", "files", "content", "settings"} == set(mark):
            return mark
    return {}


def claim_files(stem: Path, video: str, request: dict[str, str], suffixes: list[str]) -> None:
    """Makes room for a video's results and writes NAME.unfinished.

    Files of an earlier run of ours go; where another program wrote a file of that name, or the results are
    another video's, ValueError.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    ours = []
    for mark in filter(None, (read_mark(f"{stem}.done"), read_mark(f"{stem}.unfinished"))):
        if mark["content"] != request["content"] and mark["video"] != os.path.abspath(video):
            raise ValueError(f"{stem}.*: there are the results of {mark['video']}; choose another --out")
        ours += [suffix for suffix in OUTPUTS if suffix in str(mark["files"]).split()]
    for suffix in set(suffixes) - set(ours):
        if os.path.lexists(f"{stem}{suffix}"):
            raise ValueError(f"{stem}{suffix}: is there, and no run of ours wrote it; move it, or choose another --out")
    mark = {"video": os.path.abspath(video), "files": " ".join({*ours, *suffixes}), **request}
    with replacing(f"{stem}.unfinished") as file:
        json.dump(mark, file)
    for suffix in [*ours, ".done"]:
        Path(f"{stem}{suffix}").unlink(missing_ok=True)


def annotate_video(video: str, stem: Path, args: argparse.Namespace, words: Words, people, stop: threading.Event) -> None:
    """Everything about one video, in files that begin with `stem`; prints a summary.

    people: as for `find_people`. Where stop is set from outside, the video ends.
    """
    settings, film, end, delays = words.settings, None, 0.0, deque(maxlen=10_000)
    began = said = perf_counter()
    source = Source(video, settings, stop)
    if people is None:
        raise ValueError(f"{args.proposals}: {video} is not in it; write its path or file name in the first column")
    request = describe_request(video, args, words, people)
    mark = read_mark(f"{stem}.done")
    if (args.skip_existing and request.items() <= mark.items()
            and all(os.path.exists(f"{stem}{suffix}") for suffix in (".csv", ".pbtxt", "_spans.csv", ".html"))):
        print(f"{video}: complete, skipped", file=sys.stderr if args.json == "-" else sys.stdout)
        return
    with_film = not source.is_live if args.video is None else args.video
    if args.export and not (os.path.isfile(video) or os.path.isdir(video)):
        raise ValueError(f"--export {args.export}: {video} is neither a file nor a folder of frames")
    claim_files(stem, video, request, [".csv", ".pbtxt", "_spans.csv", ".html"] + [".mp4"] * with_film
                + [".json"] * (args.json == "file") + [".cvat.xml", ".cvat.labels.json"] * bool(args.export))
    results = Results(stem, source, words, args.json, keep=bool(args.export))
    shape = "{l_bar}{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}, {rate_noinv_fmt}]"
    bar = tqdm(total=source.duration, unit=" video s", desc=stem.name, dynamic_ncols=True,
               disable=None if engine.is_main() else True, bar_format=shape if source.duration else None)
    try:
        with closing(in_thread(track_people(source, words, people, with_film))) as intervals:
            for a, b in intervals:
                parts = split_interval(a, b, settings.every)
                for time, picture in b.frames:
                    film = film or Film(Path(f"{stem}.mp4"), source, words, picture)
                    film.add(time, picture, people_at(time, a, b, parts))
                b.frames.clear()                             # they are large
                results.add(b, parts)
                end = b.time
                bar.update(end - bar.n)
                if source.is_live and b.picture:
                    delays.append(perf_counter() - b.arrived)
                    bar.set_postfix_str(f"{delays[-1]:.1f} s behind, {source.late} keyframes late")
                elif bar.disable and engine.is_main() and perf_counter() - said > 60:      # where a bar would fill a log
                    said = perf_counter()
                    print(f"{video}: {end:.0f} of {source.duration or inf:.0f} s", file=sys.stderr)
    finally:
        bar.close()
        results.close(end)
        if film:
            film.close(end)
    people_seen = [(track, *seconds) for track, seconds in results.people.items()]
    draw.write_page(f"{stem}.html", Path(video).name, Path(f"{stem}.mp4").name if film else None, results.spans,
                    people_seen, words.names, end, words.novel)
    if args.export:
        export_tracks(f"{stem}.cvat.xml", video, [seen[1:] for seen in results.kept], words.names,
                      settings.threshold, settings.fps)
    promised = min(source.promised, source.limit)
    is_short = not stop.is_set() and source.start + max(end, source.held) < 0.95 * promised - 1
    if not stop.is_set() and not is_short:
        os.replace(f"{stem}.unfinished", f"{stem}.done")

    say = functools.partial(print, file=sys.stderr if args.json == "-" else sys.stdout)
    say(f"\n{video}: {end:.1f} s, {len(people_seen)} people, {results.detections} boxes; "
        f"{end / (perf_counter() - began):.1f} video seconds a second")
    if delays:
        say(f"  from keyframe to row {np.median(delays):.1f} s, at most {max(delays):.1f} s; "
            f"{source.late} late keyframes were left out")
    for track, start, until in people_seen[:20]:
        said = ", ".join(f"{span.action} {span.score:.2f} ({span.start:.1f}-{span.end:.1f})"
                         for span in results.spans if span.track == track)
        say(f"  person {track:<4} {start:6.1f} - {until:6.1f} s  {said or 'none of these'}")
    if not people_seen:
        say("  nobody was found: no person above --person-score on any keyframe"
            + (f"; those of the proposals begin at {min(people):g} s"
               if isinstance(people, dict) and people else ""))
    say(f"  written: {stem}.*, {stem}_spans.csv; look at {stem}.html")
    if stop.is_set():
        say(f"  stopped by you at {end:.1f} s: what was seen until then is kept. The same command begins this video "
            "again; with --skip-existing it leaves out those that are complete")
    if is_short:
        raise ValueError(f"{video}: says it lasts {promised:.1f} s, but its frames end at {end:.1f} s; "
                         "it may be cut short. What could be read is written")


# ---------------------------------------------------------------- the command

def name_videos(patterns: list[str]) -> dict[str, str]:
    """{video: name of its files}: the stem, or the whole path where two would meet; globs are expanded."""
    videos = []
    for pattern in patterns:
        videos += [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True)) or [pattern]
    stems = {video: Path(os.path.abspath(video)).stem for video in videos}
    taken = [(stem + end).casefold() for stem in stems.values() for end in ("", "_spans")]
    for video, stem in stems.items():
        if taken.count(stem.casefold()) > 1:
            path = re.sub(r"[/\\:]+", "_", os.path.normpath(video))
            own = ({name, name + "_spans"} for name in (path + f"-{i}" * (i > 1) for i in count(1)))
            stems[video] = min(names := next(names for names in own if names.isdisjoint(taken)))
            taken += [name.casefold() for name in names]
    return stems


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter)
    parser.add_argument("videos", nargs="+", metavar="VIDEO",
                        help="files, folders of numbered frames, globs, streams (rtsp://...) or cameras (0, /dev/video0)")
    groups = {name: parser.add_argument_group(name)
              for name in ("words", "model", "people", "scores", "output", "run")}
    add = groups["words"].add_argument
    add("--actions", nargs="+", metavar="WORD",
        help="what to look for, in any words; 'wave: waving a hand | hand wave' averages phrasings")
    add("--actions-file", metavar="FILE", help="the same, one a line; # begins a comment line")
    groups["model"].add_argument("--ckpt", default="ViT-B/16",
                                 help="a checkpoint of train_finetune.py (best) or train_align.py, or "
                                      "ViCLIP's official weights: a file, a Hub id, an architecture's name; or "
                                      "open-vclip:FOLDER, videoclip:FOLDER")
    add = groups["people"].add_argument
    add("--detector", default=detect_humans.DEFAULT, choices=list(detect_humans.RECIPES), metavar="NAME",
        help=f"of people: {', '.join(detect_humans.RECIPES)}")
    add("--detector-weights", metavar="FILE", help="by default its COCO weights, downloaded once")
    add("--proposals", metavar="CSV", help="boxes from elsewhere (video,keyframe,x1,y1,x2,y2,,score; seconds) in "
        "place of the detector; its keyframes are then the keyframes")
    add = groups["output"].add_argument
    add("--out", default="runs/actions", help="folder")
    add("--json", nargs="?", const="file", choices=["file", "-"], metavar="-",
        help="all of it in NAME.json, too; with -, each person on a keyframe as a line of JSON on standard output")
    add("--export", choices=["cvat"], help="NAME.cvat.xml, too: the tracks, to be corrected in CVAT, and "
        "NAME.cvat.labels.json, the labels that its task needs; for files and folders, whose rows are held until the end")
    add("--video", action=argparse.BooleanOptionalAction,
        help="the annotated MP4; --no-video is faster. By default not for cameras and live streams")
    add("--skip-existing", action="store_true",
        help="leave out videos that are complete under --out, by the same flags and weights")
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
    """An event that Ctrl-C or SIGTERM sets, so that what is being written is finished."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    settings = Settings(**{setting.name: getattr(args, setting.name) for setting in fields(Settings)})
    names = name_videos(args.videos)
    if not any("://" in video or os.path.exists(camera_path(video)) for video in names):
        raise FileNotFoundError(f"{next(iter(names))}: no such video file, folder of frames or camera")
    process = engine.start_process(args.device)
    words = Words(args.words, args.ckpt, settings, process.device)
    if words.note and process.is_main:
        print(f"note: {args.ckpt} is {words.note}", file=sys.stderr)
    if words.foreign and process.is_main:
        print(f"note: the model was trained on English; {', '.join(words.foreign[:3])} may mean little to it. Give an "
              "English phrase behind the name, as in 'winken: waving'", file=sys.stderr)
    if words.missing and process.is_main:
        print(f"note: no font here has {words.missing[:20]}; name one by --font", file=sys.stderr)
    people = sources_of_people(args.proposals, list(names), settings, args.detector, args.detector_weights, process.device)

    broken = []
    with stop_on_signal() as stop:
        for (video, name), own in list(zip(names.items(), people))[process.rank::process.world]:
            if not stop.is_set():
                try:
                    annotate_video(video, Path(args.out, name), args, words, own, stop)
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
