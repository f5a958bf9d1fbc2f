"""AVA v2.1 and v2.2: its classes, its annotation, and the reconstructed OV-AVA split.

    ava_train_v2.2.csv                          movie, second of the whole movie, box in [0, 1], action, person
        -5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1
    ava_val_excluded_timestamps_v2.2.csv        seconds that do not count
        _7oWZq_s_Sk,1636
    ava_included_timestamps_v2.2.txt            seconds that are annotated, one a line; else 902 to 1798
"""

import numpy as np

from formats.files import (check_split, check_times, check_unit, find, find_file, listed, read_columns,
                           read_label_map, videos_on_disk, walk, whole_numbers)
from table import Annotations, cached, clip_boxes, distinct, keyframe_key, make_annotations


# ---------------------------------------------------------------- class names, in words and in official order

# AVA's id of a name is its position, from 1: 1-14 pose, 15-63 person-object, 64-80 person-person
AVA_80 = [
    "bend/bow (at the waist)", "crawl", "crouch/kneel", "dance", "fall down", "get up", "jump/leap", "lie/sleep",
    "martial art", "run/jog", "sit", "stand", "swim", "walk", "answer phone", "brush teeth",
    "carry/hold (an object)", "catch (an object)", "chop", "climb (e.g., a mountain)", "clink glass",
    "close (e.g., a door, a box)", "cook", "cut", "dig", "dress/put on clothing", "drink",
    "drive (e.g., a car, a truck)", "eat", "enter", "exit", "extract", "fishing", "hit (an object)",
    "kick (an object)", "lift/pick up", "listen (e.g., to music)", "open (e.g., a window, a car door)", "paint",
    "play board game", "play musical instrument", "play with pets", "point to (an object)", "press",
    "pull (an object)", "push (an object)", "put down", "read", "ride (e.g., a bike, a car, a horse)", "row boat",
    "sail boat", "shoot", "shovel", "smoke", "stir", "take a photo", "text on/look at a cellphone", "throw",
    "touch (an object)", "turn (e.g., a screwdriver)", "watch (e.g., TV)", "work on a computer", "write",
    "fight/hit (a person)", "give/serve (an object) to (a person)", "grab (a person)", "hand clap", "hand shake",
    "hand wave", "hug (a person)", "kick (a person)", "kiss (a person)", "lift (a person)",
    "listen to (a person)", "play with kids", "push (another person)",
    "sing to (e.g., self, a person, a group)", "take (an object) from (a person)",
    "talk to (e.g., self, a person, a group)", "watch (a person)"]
AVA_NOT_EVALUATED = {2, 16, 18, 19, 21, 23, 25, 31, 32, 33, 35, 39, 40, 42, 44, 50, 53, 55, 71, 75}   # too rare
AVA_IDS = [i for i in range(1, 81) if i not in AVA_NOT_EVALUATED]      # official ids of the 60 evaluated classes
AVA_60 = [AVA_80[i - 1] for i in AVA_IDS]
AVA_TYPES = {"pose": range(1, 15), "object": range(15, 64), "person": range(64, 81)}
AVA_TRAIN_COUNTS = [   # (box, action) pairs of each of the 80 in AVA v2.2's training set, 862,663 in all
    8349, 157, 2321, 3267, 291, 1124, 245, 5356, 2117, 3337, 100323, 166357, 111, 40771, 3279, 20, 80451, 80, 36,
    268, 53, 786, 65, 184, 41, 342, 2335, 1188, 3025, 225, 53, 7, 79, 177, 35, 519, 668, 1251, 67, 118, 1297, 138,
    97, 94, 344, 387, 533, 2146, 4808, 62, 719, 222, 67, 2991, 60, 181, 415, 249, 17133, 137, 1993, 176, 777, 2695,
    1073, 2003, 1187, 619, 351, 1103, 50, 714, 400, 106816, 127, 355, 1643, 608, 110267, 168148]
# not in the paper: its list of novel classes is a picture (Figure 4), so this one is rebuilt by `ov_ava_novel`
OV_AVA_NOVEL = [
    "dance", "fall down", "walk", "climb (e.g., a mountain)", "cut", "drink", "open (e.g., a window, a car door)",
    "ride (e.g., a bike, a car, a horse)", "sail boat", "text on/look at a cellphone",
    "turn (e.g., a screwdriver)", "kiss (a person)", "push (another person)",
    "sing to (e.g., self, a person, a group)", "talk to (e.g., self, a person, a group)"]


def ov_ava_novel(counts: list[int] = AVA_TRAIN_COUNTS) -> list[str]:
    """AVA's 15 novel classes by the paper's principles: 3:1 overall and in each type, both equally long-tailed.

    counts: training pairs of the 80 classes. The k novel classes of a type's n, sorted from the most
    frequent, stand at ranks floor((i + 0.5) * n / k); names come back in official order.
    """
    novel = []
    for name, k in (("pose", 3), ("object", 8), ("person", 4)):
        ranked = sorted((i for i in AVA_TYPES[name] if i in AVA_IDS), key=lambda i: -counts[i - 1])
        novel += [ranked[(2 * i + 1) * len(ranked) // (2 * k)] for i in range(k)]
    return [AVA_80[i - 1] for i in sorted(novel)]


# ---------------------------------------------------------------- files

AVA_SOURCE = "https://research.google.com/ava/download.html"
AVA_RATE = 30              # the frames a second at which AVA is cut into pictures, and which its strides count


def read_ava(data, split: str = "train", version: str | None = None, all_classes: bool = False,
             label_map=None) -> Annotations:
    """AVA v2.1 or v2.2 (by default the newest there) from `ava_{split}_v{version}.csv`.

    texts: the 60 evaluated classes, or all 80; `label_map` names those of another set in AVA's format.
    The val split has every annotated second that is not excluded, with or without people: these lists
    say where to evaluate, not where boxes happen to be. Keyframes are seconds of the whole movie
    (see `second_in_file`), and a stride counts frames at AVA_RATE, whatever the movie's own rate:
    `ava_clock` says so to those who read clips.
    """
    check_split(split, ("train", "val"))                       # the test labels were never published
    files, frames = walk(data)
    versions = [version] if version else ["2.2", "2.1"]
    path = find_file(files, [f"ava_{split}_v{v}.csv" for v in versions], data, AVA_SOURCE)
    version = path.stem.rsplit("_v", 1)[1]
    excluded = find_file(files, [f"ava_{split}_excluded_timestamps_v{version}.csv"], data, AVA_SOURCE)
    included = next((file for file in files if file.name == f"ava_included_timestamps_v{version}.txt"), None)
    names = {i: AVA_80[i - 1] for i in (range(1, 81) if all_classes else AVA_IDS)}
    names = read_label_map(label_map) if label_map else names
    table = cached(data, "ava", [p for p in (path, excluded, included) if p], [split, sorted(names.items())],
                   lambda: ava_table(path, excluded, included, names, not label_map, split == "val"))
    table.files = videos_on_disk(table.videos, files, frames)
    table.ava_clock = True
    return table


def second_in_file(keyframe: float, duration: float) -> float:
    """Where second `keyframe` of a movie lies in its file or frame folder, which lasts `duration` seconds.

    Movies last longer than half an hour; a file of a quarter of an hour holds their minutes 15 to 30.
    """
    return keyframe - 900 if abs(duration - 900) < 60 else keyframe


def ava_table(path, excluded, included, names: dict[int, str], is_ava: bool, every_keyframe: bool) -> Annotations:
    layout = "video,second,x1,y1,x2,y2,action_id[,person_id] or video,second"
    lines, texts, numbers = read_columns(path, layout)
    out_lines, out_texts, out_numbers = read_columns(excluded, "video,second")
    seconds = np.arange(902, 1799)
    if included:
        seconds = np.unique(read_columns(included, "second", texts=())[2]["second"].astype(int))
        if not len(seconds):
            raise ValueError(f"{included}: is empty; expected the annotated seconds, one a line")

    (videos, video), (out_videos, out_video) = texts["video"], out_texts["video"]
    check_times(path, lines, numbers["second"])
    check_times(excluded, out_lines, out_numbers["second"])
    second, action = numbers["second"].astype(int), numbers["action_id"]
    people = ~np.isnan(numbers["box"][:, 0])                   # else a row of two columns: nobody in this keyframe
    person = whole_numbers(path, lines, numbers["person_id"], "person")
    check_unit(path, lines, numbers["box"])
    keys = keyframe_key(video, second)
    out = keyframe_key(find(out_videos, videos)[out_video], out_numbers["second"].astype(int))
    box, good = clip_boxes(numbers["box"])
    known = np.array(sorted(names))
    # a class that AVA has but does not evaluate is no fault
    official = np.isin(action, np.arange(1, 81) if is_ava else known)
    faults = []
    for bad, reason in ((~good, "the box is outside the picture or empty, dropped"),
                        (~official, "the action id is not in the label map, dropped"),
                        (~np.isin(second, seconds),
                         f"not an annotated second ({seconds[0]}-{seconds[-1]}), dropped"),
                        (~distinct(keys, box, action, person), "the row is there twice, dropped")):
        faults += listed(path, lines, people & bad, reason)
        people &= ~bad
    rows = np.flatnonzero(people & np.isin(action, known) & ~np.isin(keys, out))
    video, second, box, person = video[rows], second[rows], box[rows], person[rows]
    text = np.searchsorted(known, action[rows])
    if every_keyframe:
        all_video, all_second = np.repeat(np.arange(len(videos)), len(seconds)), np.tile(seconds, len(videos))
        all_keys = keyframe_key(all_video, all_second)
        empty = ~np.isin(all_keys, np.concatenate([out, keys[rows]]))
        n = int(empty.sum())
        video, second = np.append(video, all_video[empty]), np.append(second, all_second[empty])
        box, nobody = np.append(box, np.zeros((n, 4)), axis=0), np.full(n, -1)
        text, person = np.append(text, nobody), np.append(person, nobody)
    return make_annotations(videos, [names[i] for i in known], video, second, box, text,
                            person if (person >= 0).any() else None,
                            unit="second", ids=known.tolist(), faults=faults)
