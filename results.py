"""The text files of one video, each row on disk as soon as it is final; and whose the files are.

NAME.csv and its label map NAME.pbtxt are AVA's layout with all scores, NAME_spans.csv is track,
action,start,end,mean_score, NAME.json all of it. NAME.unfinished says that a run of ours is writing
these files, or was when it ended; it becomes NAME.done where the video is complete. Both list the
files, and what the results depend on, so that nothing is overwritten that no run of ours wrote.
"""

import csv
import functools
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import torch

from formats.files import load_json, replacing, write_label_map
from video import numbered_frames


IN_PLACE = (".csv", "_spans.csv", ".json", ".mp4")           # grow; the others appear whole


class Detection(NamedTuple):
    """One person on one keyframe."""

    video: str                               # as it was given
    time: float                              # of the keyframe: seconds after the first frame
    track: int                               # from 1; the same person as long as it is followed
    box: tuple[float, float, float, float]   # xyxy in [0, 1] of the upright picture
    scores: dict[str, float]                 # of every action, in [0, 1]


class Results:
    """The rows of one video. as_json: "file" for NAME.json, "-" for lines on standard output."""

    def __init__(self, stem: Path, video: str, actions: list[str], as_json: str | None,
                 calibration: str, threshold: float, gap: float):
        self.actions, self.as_lines, self.count = actions, as_json == "-", 0
        self.threshold, self.gap = threshold, gap
        self.people: dict[int, tuple[float, float]] = {}     # first and last second of each track
        self.spans: list[tuple[int, str, float, float, float]] = []      # as in the CSV; that ended
        self.open_spans: dict[tuple[int, str], list] = {}    # start, end, sum of scores, keyframes
        self.files = ExitStack()
        self.rows = csv.writer(self.open(f"{stem}.csv"), lineterminator="\n")
        self.span_rows = csv.writer(self.open(f"{stem}_spans.csv"), lineterminator="\n")
        self.span_rows.writerow(["track", "action", "start", "end", "mean_score"])
        write_label_map(f"{stem}.pbtxt", dict(enumerate(actions, 1)))
        self.json = self.open(f"{stem}.json") if as_json == "file" else None
        if self.json:
            head = {"video": video, "actions": actions, "calibration": calibration,
                    "threshold": threshold}
            self.json.write(json.dumps(head)[:-1] + ',\n"detections": [')

    def open(self, path: str):                               # buffering 1: whole lines, at once
        return self.files.enter_context(
            open(path, "w", newline="", encoding="utf-8", buffering=1))

    def add_detection(self, seen: Detection) -> None:
        box = [f"{side:.6f}" for side in seen.box]
        for c, score in enumerate(seen.scores.values(), 1):
            self.rows.writerow([Path(seen.video).name, f"{seen.time:.3f}", *box, c, repr(score)])
        record = seen._asdict()
        if self.as_lines:
            print(json.dumps(record), flush=True)
        if self.json:
            del record["video"]
            self.json.write(("," if self.count else "") + "\n" + json.dumps(record))
        self.count += 1

    def add_part(self, track: int, start: float, end: float, scores: list[float], is_new) -> None:
        """Somebody on screen from start to end (seconds), in order of time.

        scores: of the actions on the keyframe at one end; is_new: no part before was beside it.
        """
        self.people[track] = self.people.get(track, (start,))[0], end
        for action, score in zip(self.actions, scores):
            if score >= self.threshold:
                span = self.open_spans.setdefault((track, action), [start, end, 0.0, 0])
                span[1] = end
                if is_new:
                    span[2:] = span[2] + score, span[3] + 1
            else:
                self.end_span(track, action)

    def end_spans(self, time: float) -> None:
        """End those that nobody has gone on with since `gap` seconds before `time`."""
        for (track, action), (_, end, *_) in list(self.open_spans.items()):
            if time - end > self.gap:
                self.end_span(track, action)

    def end_span(self, track: int, action: str) -> None:
        if span := self.open_spans.pop((track, action), None):
            start, end, total, keyframes = span
            score = total / keyframes
            self.spans.append((track, action, start, end, score))
            self.span_rows.writerow([track, action, f"{start:.3f}", f"{end:.3f}", f"{score:.4f}"])

    def describe_people(self) -> Iterator[str]:
        """A line for each person: from when to when, and what they do."""
        for track, (start, end) in self.people.items():
            said = ", ".join(f"{action} {score:.2f} ({begin:.1f}-{until:.1f})"
                             for who, action, begin, until, score in self.spans if who == track)
            yield f"person {track:<4} {start:6.1f} - {end:6.1f} s  {said or 'none of these'}"

    def close(self, seconds: float) -> None:
        """The video ended there."""
        for track, action in list(self.open_spans):
            self.end_span(track, action)
        if self.json:
            names = "track", "action", "start", "end", "score"
            people = [dict(zip(("track", "start", "end"), (track, *seen)))
                      for track, seen in self.people.items()]
            tail = {"seconds": seconds, "people": people,
                    "spans": [dict(zip(names, span)) for span in self.spans]}
            self.json.write("],\n" + json.dumps(tail)[1:] + "\n")
        self.files.close()


# ---------------------------------------------------------------- whose files these are

def name_videos(patterns: list[str]) -> dict[str, str]:
    """{video: name of its files}: the stem, or the whole path where two meet; expands globs.

    A video that is named twice, as a.mp4 and ./a.mp4, is one.
    """
    videos = {}
    for pattern in patterns:
        found = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        for video in found or [pattern]:
            videos.setdefault(os.path.abspath(video) if os.path.exists(video) else video, video)
    stems = {video: Path(os.path.abspath(video)).stem for video in videos.values()}
    taken = [(stem + end).casefold() for stem in stems.values() for end in ("", "_spans")]
    for video, stem in stems.items():
        if taken.count(stem.casefold()) > 1:
            path = re.sub(r"[/\\:]+", "_", os.path.normpath(video))
            stems[video] = next(name for name in chain([path], (f"{path}-{i}" for i in count(2)))
                                if {name.casefold(), f"{name}_spans".casefold()}.isdisjoint(taken))
            taken += [stems[video].casefold(), f"{stems[video]}_spans".casefold()]
    return stems


def digest(*facts) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()


@functools.cache
def hash_weights(model: torch.nn.Module) -> str:
    content = hashlib.sha256()
    for tensor in model.state_dict().values():
        content.update(tensor.detach().float().cpu().numpy())
    return content.hexdigest()


def hash_video(video: str) -> str:
    """Of sizes and times of its files and the first megabyte; of the address of a stream."""
    files = numbered_frames(video) if os.path.isdir(video) else [video] * os.path.isfile(video)
    facts = [(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, files)] or [video]
    for file in files[:1]:
        with open(file, "rb") as content:
            facts.append(content.read(1 << 20))
    return digest(facts)


def read_mark(path: str) -> dict:
    """What a run of ours wrote into NAME.done or NAME.unfinished; {} where none did."""
    with suppress(OSError, ValueError):
        mark = load_json(path)
        if isinstance(mark, dict) and mark.keys() == {"video", "content", "settings", "files"}:
            return mark
    return {}


def is_complete(stem: Path, request: dict[str, str]) -> bool:
    """Whether the results are there, of the same content and settings; the video may have moved."""
    mark = read_mark(f"{stem}.done")
    return (bool(mark) and all(mark[name] == request[name] for name in ("content", "settings"))
            and all(os.path.exists(f"{stem}{suffix}") for suffix in mark["files"]))


def claim_files(stem: Path, request: dict[str, str], suffixes: list[str]) -> None:
    """Removes an earlier run's files to make room for a video's results; writes NAME.unfinished.

    request: its path as "video", and hashes "content" and "settings". ValueError where a file of
    such a name is not ours, or the results are another video's.
    """
    done, unfinished = read_mark(f"{stem}.done"), read_mark(f"{stem}.unfinished")
    mark = unfinished or done
    if mark and mark["content"] != request["content"] and mark["video"] != request["video"]:
        raise ValueError(f"{stem}.*: there are the results of {mark['video']}; "
                         "choose another --out")
    ours = {*mark.get("files", []), *[".done"] * bool(done), *[".unfinished"] * bool(unfinished)}
    if unfinished:                                           # killed while it wrote one of these
        ours |= {f"{suffix}.part" for suffix in ours}
    names = [*suffixes, ".done", ".unfinished"]
    names += [f"{suffix}.part" for suffix in names if suffix not in IN_PLACE]
    for name in names:
        if name not in ours and os.path.lexists(f"{stem}{name}"):
            raise ValueError(f"{stem}{name}: is there, and no run of ours wrote it; move it, or "
                             "choose another --out")
    if done:
        os.replace(f"{stem}.done", f"{stem}.unfinished")
    for suffix in ours - {".unfinished"}:
        Path(f"{stem}{suffix}").unlink(missing_ok=True)
    with replacing(f"{stem}.unfinished") as file:
        json.dump({**request, "files": suffixes}, file)
