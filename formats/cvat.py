"""Labelled videos in, tracks out: CVAT's XML "CVAT for video 1.1", and COCO's JSON of videos.

    annotations.xml of CVAT, or its .zip     --read_cvat-->  [Labelled]  --rows_of--> our CSV
    {"videos", "images", "annotations", ...} --read_coco-->  [Labelled]
    people found by detect_actions.py        --write_cvat--> annotations.xml, to be corrected there

What a person does is told by the attributes of the label: a checkbox that is ticked is an action of
the attribute's name, a select, radio or text attribute one of its value. A label without such
attributes is itself the action. Between the boxes of a file, boxes are interpolated as CVAT does:
linearly, with the attributes of the box before.
"""

import csv
import io
import json
import math
import os
import re
import xml.etree.ElementTree as ET
import zipfile
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as of_each
from itertools import zip_longest
from pathlib import Path

import numpy as np

from formats.files import check_kind, check_pixels, field, four_numbers, load_json, replacing, whole
from formats.own import read_csv
from video import open_video, same_shape

SIDES = ("xtl", "ytl", "xbr", "ybr")
LARGEST = 512 * 2 ** 20                                 # bytes of a file that is read
NOTHING = {"", "none", "__undefined__", "false"}        # values of attributes that name no action
NO_ACTIONS = {"occluded", "outside", "keyframe", "track_id", "instance_id", "rotation",
              "is_crowd"}                               # attributes of a box
EXPORT = 'an export "CVAT for video 1.1"'

# (0-based frame, box in pixels xyxy, actions); actions None: out of the picture from this frame on
Entry = tuple[int, tuple[float, float, float, float], tuple[str, ...] | None]


@dataclass
class Labelled:
    """What people labelled in one video."""

    video: str                    # name of the file or folder of frames, as the tool knew it
    frames: range | list[int]     # 0-based frames that were labelled, ascending
    size: tuple[int, int] | None  # width, height of the picture; None: not told
    tracks: dict[int, list[Entry]] = of_each(default_factory=dict)            # by ascending frame
    faults: list[str] = of_each(default_factory=list)                         # what was left out


# ---------------------------------------------------------------- CVAT in

def read_cvat(path) -> list[Labelled]:
    """The videos of a task, job or project that was exported as "CVAT for video 1.1"."""
    videos, kinds = {}, {}                    # by task; {label: {attribute: checkbox, select, ...}}
    try:
        for _, element in ET.iterparse(io.StringIO(xml_text(path))):
            if element.tag == "meta":
                videos = dict(read_task(task, path) for kind in ("task", "job")
                              for task in element.iter(kind))
                kinds = {label.findtext("name"): {
                    one.findtext("name"): one.findtext("input_type")
                    for one in label.iter("attribute") if one.findtext("input_type")}
                    for label in element.iter("label")}
            elif element.tag == "track":
                task = element.get("task_id", next(iter(videos), None))
                if task not in videos:
                    raise ValueError(f"{path}: track {element.get('id')} is of task {task}, "
                                     "which a <meta> before it does not list")
                add_track(videos[task], element, kinds.get(element.get("label"), {}), path)
                element.clear()               # of long videos only the numbers are kept
            elif element.tag == "image":
                raise ValueError(f"{path}: holds <image> elements; expected {EXPORT}")
    except ET.ParseError as error:
        line = error.position[0]
        raise ValueError(f"{path}:{line}: not XML ({error}); export it again") from None
    if not videos:
        raise ValueError(f"{path}: no <meta> with a <task> or <job>; expected {EXPORT}")
    return list(videos.values())


def xml_text(path) -> str:
    """The text of an XML file or of the one in a .zip; ValueError where parsing it is not safe."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist()           # not macOS's ._a.xml
                         if re.fullmatch(r"(.*/)?[^./][^/]*\.xml", name, re.IGNORECASE)]
                if len(names) > 1:
                    raise ValueError(f"{path}: holds {', '.join(names)}; unpack it, and name all "
                                     "of them")
                with archive.open((names or ["annotations.xml"])[0]) as file:
                    content = file.read(LARGEST + 1)
        else:
            with open(path, "rb") as file:
                content = file.read(LARGEST + 1)
        text = content.decode("utf-8-sig")    # no other encoding, in which a DOCTYPE could hide
    except (KeyError, RuntimeError, zipfile.BadZipFile, UnicodeDecodeError) as error:   # a password
        raise ValueError(f"{path}: neither XML in UTF-8 nor a .zip with it ({error})") from None
    if len(content) > LARGEST:
        raise ValueError(f"{path}: more than {LARGEST >> 20} MB; export fewer videos at once")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{path}: defines a DOCTYPE or entities, which can blow up without end; "
                         "CVAT writes none")
    return text


def read_task(task: ET.Element, path) -> tuple[str, Labelled]:
    """The id and the video of a <task> or <job>, still without tracks."""
    def number(tag: str, default: str = "") -> int:
        text = task.findtext(tag, default).strip()
        if not text.isdecimal() or len(text) > 7:
            raise ValueError(f"{path}: <{tag}> of task {task.findtext('id')} is {text!r}, "
                             "not a number of at most seven digits")
        return int(text)

    step = task.findtext("frame_filter", "").replace(" ", "").removeprefix("step=")
    step, start = int(step) if step.isdecimal() else 1, number("start_frame", "0")
    told = task.find("stop_frame") is not None
    stop = number("stop_frame") if told else start + (number("size") - 1) * step
    size = number("original_size/width", "0"), number("original_size/height", "0")
    if not step or stop < start:
        raise ValueError(f"{path}: task {task.findtext('id')} has no frames: {start} to {stop} in "
                         f"steps of {step}")
    name = (task.findtext("source") or task.findtext("name") or "").strip()
    frames = range(start, stop + 1, step)
    return task.findtext("id"), Labelled(name, frames, size if all(size) else None)


def add_track(video: Labelled, track: ET.Element, kinds: dict[str, str], path) -> None:
    """Add a <track> to the video's; kinds: of its label's attributes, checkbox, number, ..."""
    entries, values = {}, {}
    for shape in track:
        where = f"track {track.get('id')}, frame {shape.get('frame')}"
        if shape.tag != "box":
            video.faults.append(f"{where}: <{shape.tag}> is not a box")
            continue
        try:
            frame, turned = int(shape.get("frame", "")), float(shape.get("rotation", 0))
            box = tuple(float(shape.get(side, "")) for side in SIDES)
        except ValueError as error:
            raise ValueError(f"{path}: {where}: {error}; expected numbers in frame, "
                             f"{', '.join(SIDES)}") from None
        if frame < 0 or not all(map(math.isfinite, box)) or turned % 360:
            raise ValueError(f"{path}: {where}: {box}, turned by {turned:g} degrees; "
                             "expected an upright box in pixels")
        # an attribute that is not written stays what it was
        values |= {one.get("name"): (one.text or "").strip() for one in shape.iter("attribute")}
        outside = shape.get("outside") == "1"
        said = None if outside else actions_of(track.get("label"), values, kinds)
        if frame in entries:
            raise ValueError(f"{path}: {where}: has two boxes; a track is one person")
        entries[frame] = frame, box, said
    number = int(track.get("id", "")) if track.get("id", "").isdecimal() else -1
    if number < 0 or number in video.tracks:
        number = max(video.tracks, default=0) + 1
    video.tracks[number] = sorted(entries.values())


def actions_of(label: str, values: dict[str, str], kinds: dict[str, str]) -> tuple[str, ...]:
    """The actions that a box's attributes tell, or its label if that has none that could."""
    kinds = {name: "checkbox" if value.lower() in ("true", "false") else "select"
             for name, value in values.items()} | kinds
    found = [name if kinds[name] == "checkbox" else value for name, value in values.items()
             if kinds[name] != "number" and value.lower() not in NOTHING]
    return tuple(found) if set(kinds.values()) - {"number"} else (label,)


# ---------------------------------------------------------------- COCO in

def read_coco(path) -> list[Labelled]:
    """The videos of a JSON in COCO's layout with "videos", as CocoVID.

    Images have a video_id and a 0-based frame_id. A track is a track_id or instance_id, of an
    annotation or its attributes; boxes are x, y, width, height in pixels.
    """
    if os.path.getsize(path) > LARGEST:
        raise ValueError(f"{path}: more than {LARGEST >> 20} MB; export fewer videos at once")
    content = load_json(path)

    def by_id(kind: str) -> dict:
        records = {}
        for i, record in enumerate(field(content, kind, list, path)):
            number = field(record, "id", (int, str), f"{path}: {kind}: record {i}")
            if number in records:
                raise ValueError(f"{path}: {kind}: id {number} is there twice")
            records[number] = record
        return records

    def known(record: dict, key: str, others: dict, where: str):
        if (number := field(record, key, (int, str), where)) not in others:
            raise ValueError(f"{where}: {key} {number} is nowhere in the file")
        return others[number]

    names = {i: field(one, "name", str, f"{path}: category {i}")
             for i, one in by_id("categories").items()}
    videos, images, tracks = {}, {}, {}
    for i, video in by_id("videos").items():
        name = field(video, "name" if "name" in video else "file_name", str, f"{path}: video {i}")
        videos[i] = Labelled(name, [], size_in(video, f"{path}: video {i}"))
    for i, image in by_id("images").items():
        where = f"{path}: image {i}"
        video, frame = known(image, "video_id", videos, where), whole(image, "frame_id", where)
        images[i] = video, frame
        video.frames.append(frame)
        own = size_in(image, where)
        video.size = video.size or own
        if own and own != video.size:
            raise ValueError(f"{where}: is {own[0]}x{own[1]}, its video {video.size[0]}x"
                             f"{video.size[1]}; boxes in pixels need one size")
    for i, one in enumerate(field(content, "annotations", list, path)):
        where = f"{path}: annotation {i}"
        video, frame = known(one, "image_id", images, where)
        x, y, width, height = four_numbers(field(one, "bbox", list, where), f"{where}: bbox",
                                           "[x, y, width, height]")
        attributes = one.get("attributes") or {}
        check_kind(attributes, dict, f"{where}: attributes")
        track = next((f"track {source[key]}" for source in (one, attributes)
                      for key in ("track_id", "instance_id") if source.get(key) is not None),
                     f"alone {i}")
        values = {}
        for name, value in attributes.items():
            if name in NO_ACTIONS:
                continue
            fault = f"attribute {name} is a {type(value).__name__}, no word; left out"
            if isinstance(value, list) and all(isinstance(word, str) for word in value):
                values |= {name: ""} | {f"{name} {word}": word.strip() for word in value}
            elif isinstance(value, (bool, str)):
                values[name] = str(value).strip()
            elif fault not in video.faults:
                video.faults.append(fault)
        number, own = tracks.setdefault((id(video), track), (len(tracks) + 1, {}))
        if frame in own:
            raise ValueError(f"{where}: {track} has two boxes on one image; give one box, its "
                             "actions as attributes")
        actions = actions_of(known(one, "category_id", names, where), values, {})
        own[frame] = frame, (x, y, x + width, y + height), actions
        video.tracks[number] = own
    for video in videos.values():
        video.frames = sorted(set(video.frames))
        after = dict(zip(video.frames, video.frames[1:]))
        for number, own in video.tracks.items():        # on a frame without its box a track is out
            ends = {after[frame] for frame in own if frame in after} - set(own)
            outside = [(frame, (0, 0, 0, 0), None) for frame in ends]
            video.tracks[number] = sorted([*own.values(), *outside])
    return list(videos.values())


def size_in(record: dict, where: str) -> tuple[int, int] | None:
    sides = tuple(field(record, key, (int, float), where) for key in ("width", "height")
                  if record.get(key))
    return sides if len(sides) == 2 else None


# ---------------------------------------------------------------- to the annotations CSV

def boxes_on(frames: range | list[int], entries: list[Entry]) -> Iterator[Entry]:
    """A track's entries on ascending frames, interpolated, where it is in the picture."""
    for (first, box, actions), after in zip_longest(entries, entries[1:]):
        end = bisect_left(frames, after[0]) if after else len(frames)
        for frame in frames[bisect_left(frames, first):end] if actions is not None else ():
            share = (frame - first) / (after[0] - first) if after else 0
            towards = after[1] if after else box        # also a box at which it leaves the picture
            yield frame, tuple(a + (b - a) * share for a, b in zip(box, towards)), actions


def frame_seconds(path: str, fps: float = 30) -> np.ndarray:
    """When each frame of a video, or of a folder at `fps`, appears: (frames,) seconds."""
    times = open_video(path).times
    return np.arange(len(times)) / fps if os.path.isdir(path) else times


def picture_size(path: str) -> tuple[int, int]:
    """Width and height of a video's or folder's upright picture."""
    reader = open_video(path)
    height, width = reader.clip(0, 1).shape[1:3]
    reader.close()
    return width, height


def rows_of(labelled: Labelled, seconds: np.ndarray, size: tuple[int, int], every: float,
            video: str, first: int = 0) -> list[tuple]:
    """Rows of the annotations CSV: on keyframes `every` seconds apart all people that do something.

    seconds: of each frame of the video; size: width, height of the boxes' picture; video: its path
    in the CSV; first: what the tracks' numbers are counted up from. A keyframe on which nobody does
    anything is a row of two cells. What is left out is added to the faults.
    """
    rows, idle, last, people, faults = [], 0, -math.inf, {}, labelled.faults
    frames = labelled.frames[:bisect_left(labelled.frames, len(seconds))]
    if len(frames) < len(labelled.frames):
        faults.append(f"labelled up to frame {labelled.frames[-1]}, but {video} has {len(seconds)} "
                      "frames")
    elif isinstance(frames, range) and len(seconds) > 1.05 * frames[-1] + 2 + frames.step:   # CVAT
        faults.append(f"labelled up to frame {frames[-1]}, but {video} has {len(seconds)} frames; "
                      "boxes lie on other frames if it was converted to another rate")
    for frame in frames:
        if seconds[frame] >= last + every - 1e-3:
            last, people[frame] = seconds[frame], []
    keyframes, used = list(people), set()
    for track, entries in labelled.tracks.items():
        for frame, box, actions in boxes_on(keyframes, entries):
            people[frame].append((track, box, actions))
            used.add(track)
    for frame, seen in people.items():
        before = len(rows)
        # inside the frame's time on screen, so that no rounding finds the frame before it
        keyframe = f"{math.ceil(1000 * seconds[frame] + 0.5) / 1000:.3f}"
        for track, box, actions in seen:
            box = [f"{min(max(side / length, 0), 1):.6f}" for side, length in zip(box, 2 * size)]
            if float(box[0]) >= float(box[2]) or float(box[1]) >= float(box[3]):
                faults.append(f"track {track}, frame {frame}: the box is outside the picture")
                continue
            idle += not actions
            rows += [(video, keyframe, *box, text, first + track)
                     for text in dict.fromkeys(actions)]
        if len(rows) == before:
            rows.append((video, keyframe))
    if idle:
        faults.append(f"{idle} boxes of people without an action are left out")
    low, high = (labelled.frames[0], labelled.frames[-1]) if len(labelled.frames) else (0, -1)
    for track, entries in labelled.tracks.items():
        outside = [frame for frame, _, said in entries if said is not None
                   and not low <= frame <= high]
        if outside:
            faults.append(f"track {track}: its boxes on frames {outside[0]} to {outside[-1]} are "
                          f"outside the labelled ones, {low} to {high}")
        elif entries and track not in used:
            faults.append(f"track {track} lies between keyframes, {every:g} seconds apart")
    return rows


def import_labels(paths: list, out, root=None, every: float = 0.5) -> list[str]:
    """Write CVAT's or COCO's files as one annotations CSV; returns what was left out.

    root: the folder of the videos, by default each file's own. every: seconds between keyframes at
    least (our choice: an action lasts longer). FileNotFoundError if a video is not there,
    ValueError if `out` is there with other content.
    """
    out, faults, taken = Path(out), [], {}
    rows = [("video", "keyframe", "x1", "y1", "x2", "y2", "text", "person")]
    for path in paths:
        folder = Path(root or Path(path).parent)
        read = read_coco if str(path).lower().endswith(".json") else read_cvat
        for labelled in read(path):
            file = folder / labelled.video
            if not labelled.video or not file.exists():
                raise FileNotFoundError(f"{path}: its video {labelled.video!r} is not in {folder}; "
                                        "put it there, or name the folder that it is in")
            real = picture_size(str(file))
            size = labelled.size or real
            if not same_shape(size, real):
                raise ValueError(f"{path}: was labelled on a picture of {size[0]}x{size[1]}, but "
                                 f"{file} has {real[0]}x{real[1]}; give the video as it was then")
            boxes = [box for track in labelled.tracks.values() for _, box, said in track
                     if said is not None]
            check_pixels(path, [np.array(boxes).reshape(-1, 4)], [size])
            # other people in each job of a video
            first, before = taken.get(file, (0, set()))
            if not before.isdisjoint(labelled.frames):
                raise ValueError(f"{path}: labels frame {min(before & set(labelled.frames))} of "
                                 f"{file}, as another before it; export the whole task instead of "
                                 "jobs that overlap, and each once")
            before.update(labelled.frames)
            taken[file] = first + max(labelled.tracks, default=0) + 1, before
            name = os.path.relpath(file, out.parent)
            rows += rows_of(labelled, frame_seconds(str(file)), size, every, name, first)
            faults += [f"{path}: {fault}" for fault in labelled.faults]
    if not any(len(row) > 2 for row in rows[1:]):
        more = f" ({faults[0]})" if faults else ""
        raise ValueError(f"{', '.join(map(str, paths))}: nothing is labelled: no box has an action"
                         f"; tick what people do in the attributes of their boxes{more}")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    if out.exists() and out.read_bytes() != text.getvalue().encode():
        raise ValueError(f"{out}: is there and says something else; remove it, or give another "
                         "--out")
    with replacing(out) as file:
        file.write(text.getvalue())
        file.flush()
        try:
            read_csv(file.name)
        except ValueError as error:
            raise ValueError(f"{', '.join(map(str, paths))}: not imported; as a CSV it would be "
                             f"refused: {str(error).partition(': ')[2]}") from None
    return faults


# ---------------------------------------------------------------- CVAT out

def write_cvat(path, video: str, size: tuple[int, int], frames: int, tracks: dict[int, list[Entry]],
               actions: list[str]) -> None:
    """Tracks as "CVAT for video 1.1" of the label "person", which has a checkbox an action.

    video: name of its file; size: width, height in pixels; frames: their number. CVAT interpolates
    between the frames of a track's entries; behind the last one the track ends. Beside the file,
    <stem>.labels.json is what CVAT's label editor takes under "Raw" before tracks are uploaded.
    """
    def add(parent, tag: str, text=None, **attributes) -> ET.Element:
        element = ET.SubElement(parent, tag, {key: str(value) for key, value in attributes.items()})
        element.text = None if text is None else str(text)
        return element

    root = ET.Element("annotations")
    add(root, "version", "1.1")
    task = add(add(root, "meta"), "task")
    for tag, text in [("name", video), ("size", frames), ("mode", "interpolation"),
                      ("start_frame", 0), ("stop_frame", frames - 1), ("source", video)]:
        add(task, tag, text)
    original = add(task, "original_size")
    add(original, "width", size[0])
    add(original, "height", size[1])
    label = add(add(task, "labels"), "label")
    add(label, "name", "person")
    attributes = add(label, "attributes")
    checkbox = {"mutable": True, "input_type": "checkbox", "default_value": "false"}
    for action in actions:
        attribute = add(attributes, "attribute")
        for tag, text in {"name": action, **checkbox, "values": "false"}.items():
            add(attribute, tag, text)
    for number, entries in sorted(tracks.items()):
        track = add(root, "track", id=number, label="person", source="auto")
        last, box, said = entries[-1]
        if said is not None and last + 1 < frames:
            entries = [*entries, (last + 1, box, None)]
        for frame, box, said in entries:
            sides = {side: f"{pixel:.3f}" for side, pixel in zip(SIDES, box)}
            element = add(track, "box", frame=frame, keyframe=1, outside=int(said is None),
                          occluded=0, **sides, z_order=0)
            for action in actions:
                add(element, "attribute", str(action in (said or ())).lower(), name=action)
    ET.indent(root)
    with replacing(path, binary=True) as file:
        ET.ElementTree(root).write(file, "utf-8", xml_declaration=True)
    labels = [{"name": action, **checkbox, "values": ["false"]} for action in actions]
    with replacing(Path(path).with_suffix(".labels.json")) as file:
        json.dump([{"name": "person", "attributes": labels}], file, indent=1)


def export_tracks(path, video: str, detections: list, actions: list[str], threshold: float,
                  fps: float = 30) -> None:
    """What detect_actions.py found in a file, or a folder of frames at `fps`, for CVAT.

    detections: (time, track, box xyxy in [0, 1], {action: score}), in order of time; a word is
    ticked from the threshold on, and until the track's next keyframe.
    """
    seconds, size, tracks = frame_seconds(video, fps), picture_size(video), {}
    for time, track, box, scores in detections:
        # the frame that was on screen then
        frame = int(np.searchsorted(seconds - seconds[0], time + 5e-4, "right")) - 1
        pixels = tuple(side * length for side, length in zip(box, 2 * size))
        said = tuple(action for action, score in scores.items() if score >= threshold)
        tracks.setdefault(track, {})[frame] = frame, pixels, said
    tracks = {track: list(entries.values()) for track, entries in tracks.items()}
    name = os.path.basename(os.path.normpath(video))
    write_cvat(path, name, size, len(seconds), tracks, actions)
