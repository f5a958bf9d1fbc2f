"""The product: any video, any words -> who does what, when and where.

    python detect_actions.py VIDEO [VIDEO ...] --ckpt runs/ucf101-24/last.pt --actions "wave" "sit"

A video is read once, as a stream, and the pipeline knows no more of it than a few keyframes:

    read     the frames up to the next keyframe, and the clip of T frames around it
    score    keyframe -> people (a detector, or --proposals); clip, people -> scores: Eq. (2), (3)
    track    people -> tracks; a score is the mean over the keyframe before, this one and the next
    write    rows of a keyframe; boxes interpolated between two keyframes, drawn and encoded

Written under --out: NAME.mp4 (annotated, with sound), NAME.csv and its label map NAME.pbtxt (AVA's
layout, all scores), NAME_spans.csv (track,action,start,end,mean_score), NAME.html (a page to click
through) and, with --json, NAME.json. A camera or live stream never falls behind: keyframes for
which there is no time are left out and counted, and no MP4 is drawn unless --video asks for it.
--json - writes each person on a keyframe to standard output at once. Ctrl-C ends the video there
and leaves these files whole. NAME.done says that the video is complete, NAME.unfinished that it is
not; the next run on this video into the same folder removes all files of the earlier one. Memory
does not grow with the video.

What a score means. --calibration background: the share of the word in a softmax over the word and a
background of generic prompts ("a person", "a person standing still", ...), each word on its own: at
0.5 it fits as well as all the background together, and if no word does, the answer is "none of
these". --calibration none: the paper's sigmoid, Eq. (3), made for ranking; cosines of such models
are all positive, so that it is near 1 for everything. As a library: `detect`.
"""

import argparse
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import chain, count, islice
from math import inf
from numbers import Integral, Real
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from tqdm import tqdm

import detect_humans
import draw
import engine
from formats.cvat import export_tracks
from formats.files import read_text
from formats.proposals import proposal_rows
from results import (Detection, Results, claim_files, digest, hash_video, hash_weights, is_complete,
                     name_videos)
from stream import Film, Keyframe, Source, camera_path, in_thread, keyframes_ahead, read_keyframes
from table import distinct
from tracker import Tracker
from video import numbered_frames, upright_rgb
from words import Words, parse_actions

NOBODY = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)


def setting(group: str, default, text: str, within=None, **flag):
    """A field of `Settings` and a flag of the command at once; within: lowest and highest value."""
    kind = {"action": "store_true"} if default is False else {"type": type(default)}
    flag = {**kind, "default": default, "help": text, **flag}
    return field(default=default, metadata={"group": group, "flag": flag, "within": within})


@dataclass
class Settings:
    """How a video is watched."""

    beta: float | None = setting(
        "model", None, "fusion ratio, Eq. 2: 1 is region only, 0 global only; by default, as for "
        "the next three, the checkpoint's", (0, 1), type=float)
    frames: int | None = setting("model", None, "T", (1, 1000), type=int)
    stride: int | None = setting("model", None, "of a clip's frames", (1, 1000), type=int)
    short_side: int | None = setting("model", None, "pixels of a clip", (1, 4000), type=int)
    person_score: float = setting(
        "people", 0.6, "score from which a box is a new person; from half of it on, it may be one "
        "who was there before", (0, 1))
    every: float = setting(
        "people", 0.5, "seconds between keyframes; half of it is a slower, finer answer; the "
        "pictures of about five such intervals are held until they are drawn", (0.01, 86400))
    gap: float = setting(
        "people", 1.5, "seconds unseen after which a person is a new one; who was on the keyframe "
        "before may always go on", (0.001, 86400))
    calibration: str = setting(
        "scores", "background", "background: against 'none of these', see above; none: Eq. (3), "
        "for ranking", metavar="background|none")
    threshold: float = setting(
        "scores", 0.5, "from it on a word is drawn and makes spans; the CSV has all", (0, 1))
    top: int = setting("output", 3, "words drawn beside a person at most", (1, 1000))
    font: str | None = setting(
        "output", None, "file of a font; by default one that has the words' letters", type=str)
    max_seconds: float | None = setting(
        "run", None, "stop there; for streams and first looks", (0.001, 1e9), type=float)
    fps: float = setting("run", 30.0, "of folders of frames; other scripts count 30", (0.001, 1000))
    amp: bool = setting("run", False, "compute in bfloat16 where it is safe")

    def __post_init__(self):
        for one in fields(self):
            value, within = getattr(self, one.name), one.metadata["within"]
            kind = Integral if one.metadata["flag"].get("type") is int else Real
            if within and value is not None and not (
                    isinstance(value, kind) and within[0] <= value <= within[1]):
                raise ValueError(f"--{one.name.replace('_', '-')} {value!r}: expected a "
                                 f"{'whole ' * (kind is Integral)}number from {within[0]:g} to "
                                 f"{within[1]:g}")
        if self.calibration not in ("background", "none"):
            raise ValueError(f"--calibration {self.calibration}: expected background or none")


class Person(NamedTuple):
    """Somebody on a keyframe."""

    box: np.ndarray                          # (4,) xyxy in [0, 1]
    scores: np.ndarray                       # (C,)


# ---------------------------------------------------------------- the people

# on a keyframe: boxes (n, 4) float32 xyxy in [0, 1], and the detector's scores (n,)
Found = tuple[np.ndarray, np.ndarray]
# where they come from: a detector of detect_humans.py, or a keyframe's seconds -> who is there
People = torch.nn.Module | dict[float, Found]


def read_people(path, videos: list[str], person_score: float) -> list[dict[float, Found] | None]:
    """For each video, the people on its keyframes (seconds) by a proposals CSV; None if not in it.

    The CSV (video,keyframe,x1,y1,x2,y2,,score) names a video by its path, from its own folder or
    the current one, in any spelling. What is no path names a video by its file name, with or
    without the suffix; ValueError where two have it. Of a keyframe's people the best come first.
    """
    known, video, keyframe, box, score = proposal_rows(path)
    keyframe, result = keyframe.astype(np.float32), []
    files, owner = list(map(os.path.realpath, videos)), np.full(len(known), -1)
    spellings = [(video, Path(video).name, Path(video).stem) for video in videos]
    for i, name in enumerate(known):
        there = [os.path.realpath(p) for p in (Path(path).parent / name, name) if os.path.exists(p)]
        owners = [v for v in range(len(videos))
                  if (files[v] == there[0] if there else name in spellings[v])]
        if len(owners) > 1:
            raise ValueError(f"{path}: {name!r} may be {videos[owners[0]]} or {videos[owners[1]]}; "
                             "write the video's path in the first column")
        owner[i] = owners[0] if owners else -1
    for v in range(len(videos)):
        mine = (owner[video] == v) & (score >= person_score / 2)
        people = {}
        for time in np.unique(keyframe[mine]):
            rows = np.flatnonzero(mine & (keyframe == time))
            rows = rows[np.argsort(-score[rows], kind="stable")]
            rows = rows[distinct(box[rows])]
            people[time.item()] = box[rows].astype(np.float32), score[rows].astype(np.float32)
        result.append(people if v in owner else None)
    scores = [score for people in result for _, score in (people or {}).values()]
    if not any((score >= person_score).any() for score in scores):
        for folder in filter(os.path.isdir, videos):
            numbered_frames(folder)                          # a folder of videos is none
        if (owner >= 0).any():
            raise ValueError(f"{path}: no box of {', '.join(videos[:3])} has a score of "
                             f"--person-score {person_score:g} or more; give a lower one")
        raise ValueError(f"{path}: has no box of {', '.join(videos[:3])} of --person-score "
                         f"{person_score:g}; it names {', '.join(known[:3])}. Write the video's "
                         "path or file name in the first column")
    return result


def keyframe_times(people: People, settings: Settings) -> Iterator[float]:
    """Seconds of the keyframes, ascending, without end.

    Regular ones for a detector, those of the boxes otherwise. Where these lie far apart, keyframes
    without anybody stand between them, so that no more than two gaps of pictures are held.
    """
    if not isinstance(people, dict):
        yield from (i * settings.every for i in count())
    usual = np.median(np.diff(sorted(people))).item() if len(people) > 1 else 0
    time, gap = 0.0, max(settings.gap, usual)
    for known in chain(sorted(people), [inf]):
        while known - time > 2 * gap:
            time += gap
            yield time
        time = known
        yield time


def find_people(keyframe: Keyframe, people: People) -> Found:
    """The people on a keyframe."""
    if isinstance(people, dict):
        return people.get(keyframe.time, NOBODY)
    picture = keyframe.picture
    rgb = upright_rgb(picture, picture.width, picture.height, VideoReformatter())
    return detect_humans.detect_frames(people, [rgb])[0]


def track_people(source: Source, words: Words, people: People,
                 with_frames: bool = False) -> Iterator[tuple[Keyframe, Keyframe]]:
    """The intervals of a video: pairs of successive keyframes whose tracks and scores are final.

    The first begins with nobody at second 0, the last ends with nobody at the video's end. An
    interval comes when the keyframe after it has been read: until then, the scores of its second
    keyframe are not known. What is held does not grow with the video. with_frames: to be drawn.
    """
    settings = words.settings
    tracker, before = Tracker(settings.person_score, settings.gap), {}
    first, present = Keyframe(0.0, [], []), None
    keyframes = read_keyframes(source, keyframe_times(people, settings), words.frames, words.stride,
                               words.short_side, words.model.patch, with_frames)
    with closing(keyframes_ahead(keyframes, source)) as keyframes:
        for following in keyframes:
            if following.picture:
                boxes, sure = find_people(following, people)
                small = following.clip[len(following.clip) // 2]
                linked = tracker.link(following.time, small, boxes, sure, bool(following.cuts))
                if linked:                                   # a clip without people is not encoded
                    boxes = boxes[list(linked.values())]
                    scores, = words.score(following.clip[None], [torch.from_numpy(boxes)])
                    following.people = dict(zip(linked, map(Person, boxes, scores)))
            following.clip = None
            if present:
                around = before, present.people, following.people
                before = present.people
                present.people = {
                    track: Person(person.box, np.mean([near[track].scores for near in around
                                                       if track in near], axis=0))
                    for track, person in present.people.items()}
                yield first, present
                first = present
            present = following
    yield first, present


# ---------------------------------------------------------------- between two keyframes

# somebody on screen: track, from, until (seconds), the keyframe at one end whose words are shown
Part = tuple[int, float, float, Keyframe]


def split_interval(a: Keyframe, b: Keyframe, every: float) -> list[Part]:
    """Who is on screen between two keyframes, and when.

    Who is on both: all the time. Who is on one: half a step from there, or to a cut within a step.
    """
    middle, reach = (a.time + b.time) / 2, min(every, b.time - a.time) / 2
    left = b.cuts[0] if b.cuts and b.cuts[0] <= a.time + every else a.time + reach
    entered = b.cuts[-1] if b.cuts and b.cuts[-1] >= b.time - every else b.time - reach
    return ([(track, a.time, middle if track in b.people else left, a) for track in a.people]
            + [(track, middle if track in a.people else entered, b.time, b) for track in b.people])


def people_at(time: float, a: Keyframe, b: Keyframe, parts: list[Part]) -> dict[int, Person]:
    """Who is on screen at a moment of an interval, by track, in boxes between those of its ends."""
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
    return [Detection(video, keyframe.time, track, tuple(person.box.tolist()),
                      dict(zip(names, person.scores.tolist())))
            for track, person in sorted(keyframe.people.items())]


def detect(video, actions: list[str], ckpt="ViT-B/16", proposals=None,
           detector=detect_humans.DEFAULT, detector_weights=None, device: str | None = None,
           **settings) -> Iterator[Detection]:
    """Who does what, when and where: a Detection for every person on every keyframe, by time.

    video: a file, a folder of numbered frames, an address. actions: words, or "wave: waving | hand
    wave". ckpt: a checkpoint, official weights, a Hub id, or a model. detector: a name, or one that
    was built. proposals: a CSV of boxes in its place. A Detection has video (str), time (seconds
    after the first frame), track (int from 1), box (x1, y1, x2, y2 in [0, 1]) and scores {action:
    in [0, 1]}. Records come two keyframes behind the reading; nobody in the picture gives none.
    ValueError or FileNotFoundError in one line: the video, words, checkpoint or CSV that cannot be
    used; all of it comes with the first record that is asked for, before which nothing is opened.
    Closing the iterator stops its thread. settings, and what they are by default:
    """
    settings = Settings(**settings)
    if isinstance(actions, str):
        raise ValueError(f"actions {actions!r}: expected a list of words, such as [{actions!r}]")
    device = engine.start_process(device).device
    source = Source(video, settings.fps, settings.max_seconds)
    words = Words(parse_actions([("actions", text) for text in actions]), ckpt, settings, device)
    if proposals:
        detector, = read_people(proposals, [source.name], settings.person_score)
    elif isinstance(detector, str):
        detector = detect_humans.build_detector(detector, detector_weights, device)
    with closing(track_people(source, words, detector)) as intervals:
        for _, keyframe in intervals:
            yield from list_detections(keyframe, source.name, words.names)


detect.__doc__ += "".join(f"\n    {one.name} ({one.default}): {one.metadata['flag']['help']}"
                          for one in fields(Settings))


# ---------------------------------------------------------------- what is written

def labels_of(people: dict[int, Person], words: Words) -> list[tuple[int, np.ndarray, list[str]]]:
    """Track, box and lines of the best words of everybody, as `draw.draw_people` takes them."""
    labels = []
    for track, (box, scores) in people.items():
        best = np.argsort(-scores, kind="stable")[:words.settings.top]
        labels.append((track, box, [f"{words.names[c]} {scores[c]:.2f}" for c in best
                                    if scores[c] >= words.settings.threshold]))
    return labels


def describe_request(video: str, args: argparse.Namespace, words: Words, people) -> dict[str, str]:
    """What a video's results depend on: its content; weights, boxes, words and flags."""
    boxes = ([(time, *map(np.ndarray.tolist, found)) for time, found in people.items()]
             if isinstance(people, dict) else hash_weights(people))
    facts = (hash_weights(words.model), words.beta, words.frames, words.stride, words.short_side,
             words.prompt, boxes, args.words, words.settings, args.json, args.export, args.video)
    return {"video": os.path.abspath(video), "content": hash_video(video),
            "settings": digest(facts)}


# ---------------------------------------------------------------- one video

def write_video(stem: Path, source: Source, words: Words, people: People, as_json: str | None,
                with_film: bool, exported: list | None) -> tuple[Results, float, deque]:
    """Writes rows, spans and the film of a video as it is read; appends detections to `exported`.

    Returns the results, the second it ended at, and a live source's seconds from keyframe to row.
    """
    settings = words.settings
    results = Results(stem, source.name, words.names, as_json, settings.calibration,
                      settings.threshold, settings.gap)
    film, end, note, delays, said = None, 0.0, "", deque(maxlen=10_000), perf_counter()
    bar = tqdm(total=source.duration, unit=" video s", unit_scale=True, desc=stem.name,
               dynamic_ncols=True, disable=None if engine.is_main() else True)
    try:
        with closing(in_thread(track_people(source, words, people, with_film))) as intervals:
            for a, b in intervals:
                parts = split_interval(a, b, settings.every)
                for time, frame in b.frames:
                    film = film or Film(f"{stem}.mp4", source, frame, words.legend, words.font)
                    film.add(time, frame, labels_of(people_at(time, a, b, parts), words))
                b.frames.clear()                             # they are large
                for seen in list_detections(b, source.name, words.names):
                    results.add_detection(seen)
                    if exported is not None:
                        exported.append(seen[1:])
                for track, start, until, near in parts:
                    scores = near.people[track].scores.tolist()
                    results.add_part(track, start, until, scores, is_new=near is b)
                results.end_spans(b.time)
                bar.update(b.time - end)
                end = b.time
                if source.is_live and b.picture:
                    delays.append(perf_counter() - b.arrived)
                    note = f"  {delays[-1]:.1f} s behind, {source.late} keyframes late"
                    bar.set_postfix_str(note)
                if bar.disable and engine.is_main() and perf_counter() - said > 60:     # in a log
                    said = perf_counter()
                    length = f" of {source.duration:.0f}" if source.duration else ""
                    print(f"{source.name}: {end:.0f}{length} s{note}", file=sys.stderr, flush=True)
    finally:
        bar.close()
        results.close(end)
        if film:
            film.close(end)
    return results, end, delays


def annotate_video(video: str, stem: Path, args: argparse.Namespace, words: Words,
                   people: People | None, stop: threading.Event) -> None:
    """Everything about one video, in files that begin with `stem`; prints a summary.

    Where stop is set from outside, the video ends. people None: it is not in --proposals.
    """
    say = partial(print, file=sys.stderr if args.json == "-" else sys.stdout)
    settings, began = words.settings, perf_counter()
    source = Source(video, settings.fps, settings.max_seconds, stop)
    if people is None:
        raise ValueError(f"{args.proposals}: {video} is not in it; write its path or file name in "
                         "the first column")
    if args.export and not (os.path.isfile(video) or os.path.isdir(video)):
        raise ValueError(f"--export {args.export}: {video} is no file and no folder of frames")
    with_film = not source.is_live if args.video is None else args.video
    suffixes = [".csv", ".pbtxt", "_spans.csv", ".html", *[".mp4"] * with_film,
                *[".json"] * (args.json == "file"),
                *[".cvat.xml", ".cvat.labels.json"] * bool(args.export)]
    request = describe_request(video, args, words, people)
    if args.skip_existing and is_complete(stem, request):
        say(f"{video}: complete, skipped")
        return
    claim_files(stem, request, suffixes)

    exported = [] if args.export else None
    results, end, delays = write_video(stem, source, words, people, args.json, with_film, exported)
    tracks = [(track, *seconds) for track, seconds in results.people.items()]
    draw.write_page(f"{stem}.html", Path(video).name, f"{stem.name}.mp4" if with_film else None,
                    results.spans, tracks, words.names, end, words.novel)
    if args.export:
        export_tracks(f"{stem}.cvat.xml", video, exported, words.names, settings.threshold,
                      settings.fps)

    known = people if isinstance(people, dict) and not settings.max_seconds else []
    beyond, fault = sum(time >= end for time in known), ""
    if source.lost and not source.promised:
        fault = f"was lost at {end:.1f} s ({source.lost[0].strerror})"
    elif not source.is_whole():
        fault = (f"says it lasts {source.promised:.1f} s, but its frames end at {end:.1f} s; it "
                 "may be cut short")
    elif 10 * beyond > len(known):
        fault = (f"ends at {end:.1f} s, and {beyond} of {len(known)} keyframes of {args.proposals} "
                 f"are beyond, up to {max(known):g}; are they seconds, and of this video?")
    if not stop.is_set() and not fault:
        os.replace(f"{stem}.unfinished", f"{stem}.done")

    say(f"\n{video}: {end:.1f} s, {len(tracks)} people, {results.count} boxes; "
        f"{end / (perf_counter() - began):.1f} video seconds a second")
    if delays:
        say(f"  from keyframe to row {np.median(delays):.1f} s, at most {max(delays):.1f} s; "
            f"{source.late} late keyframes were left out")
    for line in islice(results.describe_people(), 20):
        say(f"  {line}")
    if source.changed is not None:
        say(f"  from {source.changed:.1f} s on its pictures have another shape; they were "
            "stretched to that of the first")
    if not tracks:
        say("  nobody was found: no person above --person-score on any keyframe")
    say(f"  written: {stem}.*, {stem}_spans.csv; look at {stem}.html")
    if stop.is_set():
        say(f"  stopped by you at {end:.1f} s: what was seen until then is kept. The same command "
            "begins this video again; with --skip-existing it leaves out those that are complete")
    elif fault:
        raise ValueError(f"{video}: {fault}. What could be read is written")


# ---------------------------------------------------------------- the command

def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter)
    parser.add_argument("videos", nargs="+", metavar="VIDEO",
                        help="files, folders of numbered frames, globs, streams (rtsp://...) or "
                             "cameras (0, /dev/video0)")
    groups = {name: parser.add_argument_group(name)
              for name in ("words", "model", "people", "scores", "output", "run")}
    add = groups["words"].add_argument
    add("--actions", nargs="+", metavar="WORD",
        help="what to look for, in any words; 'wave: waving a hand | hand wave' averages phrasings")
    add("--actions-file", metavar="FILE", help="the same, one a line; # begins a comment line")
    groups["model"].add_argument(
        "--ckpt", default="ViT-B/16",
        help="a checkpoint of train_finetune.py (best) or train_align.py, or ViCLIP's official "
             "weights: a file, a Hub id, an architecture's name; or open-vclip:FOLDER, "
             "videoclip:FOLDER")
    add = groups["people"].add_argument
    add("--detector", default=detect_humans.DEFAULT, choices=list(detect_humans.RECIPES),
        metavar="NAME", help=f"of people: {', '.join(detect_humans.RECIPES)}")
    add("--detector-weights", metavar="FILE", help="by default its COCO weights, downloaded once")
    add("--proposals", metavar="CSV",
        help="boxes from elsewhere (video,keyframe,x1,y1,x2,y2,,score; seconds) in place of the "
             "detector; its keyframes are then the keyframes")
    add = groups["output"].add_argument
    add("--out", default="runs/actions", help="folder")
    add("--json", nargs="?", const="file", choices=["file", "-"], metavar="-",
        help="all of it in NAME.json, too; with -, each person on a keyframe as a line of JSON on "
             "standard output")
    add("--export", choices=["cvat"],
        help="NAME.cvat.xml, too: the tracks, to be corrected in CVAT, and NAME.cvat.labels.json, "
             "the labels that its task needs; for files and folders, whose rows are held until the "
             "end")
    add("--video", action=argparse.BooleanOptionalAction,
        help="the annotated MP4; --no-video is faster. By default not for cameras and live streams")
    add("--skip-existing", action="store_true",
        help="leave out videos that are complete under --out, by the same flags and weights")
    groups["run"].add_argument("--device",
                               help="cpu, cuda or cuda:1; by default a GPU where there is one")
    for one in fields(Settings):
        name, group = one.name.replace("_", "-"), groups[one.metadata["group"]]
        group.add_argument(f"--{name}", **one.metadata["flag"])
    args = parser.parse_args(argv)
    file = args.actions_file
    lines = read_text(file).splitlines() if file else []
    args.words = parse_actions([("--actions", text) for text in args.actions or []]
                               + [(f"{file}:{i}", line) for i, line in enumerate(lines, 1)])
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    settings = Settings(**{one.name: getattr(args, one.name) for one in fields(Settings)})
    names = name_videos(args.videos)
    if not any("://" in video or os.path.exists(camera_path(video)) for video in names):
        raise FileNotFoundError(f"{next(iter(names))}: no such video file, folder of frames or "
                                "camera")
    engine.check_folder(args.out)
    process = engine.start_process(args.device)
    words = Words(args.words, args.ckpt, settings, process.device)
    for note in words.notes if process.is_main else []:
        print(f"note: {note}", file=sys.stderr)
    if args.proposals:
        people = read_people(args.proposals, list(names), settings.person_score)
    else:
        people = [detect_humans.build_detector(args.detector, args.detector_weights,
                                               process.device)] * len(names)
    jobs = [(video, Path(args.out, name), own) for (video, name), own in zip(names.items(), people)]
    broken, stop = [], threading.Event()
    with ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):       # what is being written is finished
            before = signal.signal(number, lambda *_: stop.set())
            stack.callback(signal.signal, number, before)
        for video, stem, own in jobs[process.rank::process.world]:
            if not stop.is_set():
                try:
                    with engine.alone(f"{stem}.lock"):
                        annotate_video(video, stem, args, words, own, stop)
                except (ValueError, FileNotFoundError) as error:
                    if len(names) == 1:
                        raise
                    broken.append(video)
                    print(f"error: {' '.join(str(error).split())}; going on with the next video",
                          file=sys.stderr)
    broken = sum(process.gather(broken), [])                 # or torchrun would end all with one
    if broken and process.is_main:
        print(f"{len(broken)} of {len(names)} videos could not be read: {', '.join(broken)}",
              file=sys.stderr)
    return 130 if stop.is_set() else int(bool(broken))


if __name__ == "__main__":
    engine.cli(main)
