"""AVA v2.1 and v2.2: its classes, its annotation, and the reconstructed OV-AVA split.

    ava_train_v2.2.csv                          movie, second of the whole movie, box in [0, 1],
        -5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1                           action, person
    ava_val_excluded_timestamps_v2.2.csv        seconds that do not count
        _7oWZq_s_Sk,1636
    ava_included_timestamps_v2.2.txt            the annotated seconds, one a line; else 902 to 1798
"""

import numpy as np

from formats.files import check_split, find_file, read_label_map, read_list, videos_on_disk, walk
from formats.rows import find, read_rows
from table import Annotations, cached, clip_boxes, distinct, keyframe_key, make_annotations


# ---------------------------------------------------------------- class names, in official order

# AVA's id of a name is its position, from 1: 1-14 pose, 15-63 person-object, 64-80 person-person
AVA_80 = [
    "bend/bow (at the waist)", "crawl", "crouch/kneel", "dance", "fall down", "get up",
    "jump/leap", "lie/sleep", "martial art", "run/jog", "sit", "stand", "swim", "walk",
    "answer phone", "brush teeth", "carry/hold (an object)", "catch (an object)", "chop",
    "climb (e.g., a mountain)", "clink glass", "close (e.g., a door, a box)", "cook", "cut", "dig",
    "dress/put on clothing", "drink", "drive (e.g., a car, a truck)", "eat", "enter", "exit",
    "extract", "fishing", "hit (an object)", "kick (an object)", "lift/pick up",
    "listen (e.g., to music)", "open (e.g., a window, a car door)", "paint", "play board game",
    "play musical instrument", "play with pets", "point to (an object)", "press",
    "pull (an object)", "push (an object)", "put down", "read",
    "ride (e.g., a bike, a car, a horse)", "row boat", "sail boat", "shoot", "shovel", "smoke",
    "stir", "take a photo", "text on/look at a cellphone", "throw", "touch (an object)",
    "turn (e.g., a screwdriver)", "watch (e.g., TV)", "work on a computer", "write",
    "fight/hit (a person)", "give/serve (an object) to (a person)", "grab (a person)", "hand clap",
    "hand shake", "hand wave", "hug (a person)", "kick (a person)", "kiss (a person)",
    "lift (a person)", "listen to (a person)", "play with kids", "push (another person)",
    "sing to (e.g., self, a person, a group)", "take (an object) from (a person)",
    "talk to (e.g., self, a person, a group)", "watch (a person)"]
AVA_TOO_RARE = {2, 16, 18, 19, 21, 23, 25, 31, 32, 33, 35, 39, 40, 42, 44, 50, 53, 55, 71, 75}
AVA_IDS = [i for i in range(1, 81) if i not in AVA_TOO_RARE]       # of the 60 evaluated classes
AVA_60 = [AVA_80[i - 1] for i in AVA_IDS]
AVA_TYPES = {"pose": range(1, 15), "object": range(15, 64), "person": range(64, 81)}
AVA_TRAIN_COUNTS = [   # (box, action) pairs of each class in v2.2's training set, 862,663 in all
    8349, 157, 2321, 3267, 291, 1124, 245, 5356, 2117, 3337, 100323, 166357, 111, 40771, 3279, 20,
    80451, 80, 36, 268, 53, 786, 65, 184, 41, 342, 2335, 1188, 3025, 225, 53, 7, 79, 177, 35, 519,
    668, 1251, 67, 118, 1297, 138, 97, 94, 344, 387, 533, 2146, 4808, 62, 719, 222, 67, 2991, 60,
    181, 415, 249, 17133, 137, 1993, 176, 777, 2695, 1073, 2003, 1187, 619, 351, 1103, 50, 714,
    400, 106816, 127, 355, 1643, 608, 110267, 168148]


def ov_ava_novel() -> list[str]:
    """AVA's 15 novel classes by the paper's principles: 3:1 in each type, both equally long-tailed.

    Not in the paper: its list is a picture (Figure 4), so this one is rebuilt. The k novel classes
    of a type's n, sorted from the most frequent, stand at ranks floor((i + 0.5) * n / k).
    """
    novel = []
    for name, k in (("pose", 3), ("object", 8), ("person", 4)):
        ids = sorted(set(AVA_TYPES[name]) & set(AVA_IDS), key=lambda i: -AVA_TRAIN_COUNTS[i - 1])
        novel += [ids[(2 * i + 1) * len(ids) // (2 * k)] for i in range(k)]
    return [AVA_80[i - 1] for i in sorted(novel)]


OV_AVA_NOVEL = ov_ava_novel()        # dance, fall down, walk, climb, cut, drink, open, ride, ...


# ---------------------------------------------------------------- files

AVA_SOURCE = "https://research.google.com/ava/download.html"
AVA_RATE = 30                        # pictures a second of AVA's frame folders, which strides count


def read_ava(data, split: str = "train", version: str | None = None, all_classes: bool = False,
             label_map=None) -> Annotations:
    """AVA v2.1 or v2.2 (by default the newest there) from `ava_{split}_v{version}.csv`.

    texts: the 60 evaluated classes, or all 80; `label_map` names those of a set in this format.
    The val split has every annotated second that is not excluded, with or without people: its lists
    say where to evaluate, not where boxes happen to be. Keyframes are seconds of the whole movie
    (see `second_in_file`), and a stride counts frames at AVA_RATE, whatever the movie's own rate:
    `ava_clock` says so to those who read clips.
    """
    check_split(split, ("train", "val"))                       # test labels were never published
    files, frames = walk(data)
    patterns = [f"ava_{split}_v{v}.csv" for v in ([version] if version else ["2.2", "2.1"])]
    path = find_file(files, patterns, data, AVA_SOURCE)
    version = path.stem.rsplit("_v", 1)[1]
    excluded = f"ava_{split}_excluded_timestamps_v{version}.csv"
    sources = [path, find_file(files, [excluded], data, AVA_SOURCE)]
    included = f"ava_included_timestamps_v{version}.txt"
    sources += [file for file in files if file.name == included][:1]
    names = {i: AVA_80[i - 1] for i in (range(1, 81) if all_classes else AVA_IDS)}
    names = read_label_map(label_map) if label_map else names
    table = cached(data, "ava", sources, [split, sorted(names.items())], lambda: ava_table(
        *sources, names=names, others=not label_map, every=split == "val"))
    table.files = videos_on_disk(table.videos, files, frames)
    table.ava_clock = True
    return table


def second_in_file(keyframe: float, duration: float) -> float:
    """Where second `keyframe` of a movie lies in its file or frame folder of `duration` seconds.

    Movies last longer than half an hour; a file of a quarter of an hour has their minutes 15 to 30.
    """
    return keyframe - 900 if abs(duration - 900) < 60 else keyframe


def ava_table(path, excluded, included=None, *, names: dict[int, str], others: bool,
              every: bool) -> Annotations:
    """others: AVA's actions that names lacks are left out silently; every: keep empty seconds."""
    rows = read_rows(path, "video,second,x1,y1,x2,y2,action_id[,person_id] or video,second")
    out = read_rows(excluded, "video,second", may_be_empty=True)
    seconds, first, last = np.arange(902, 1799), 902, 1798
    if included:
        try:
            seconds = np.array(sorted(map(int, read_list(included)))[:2 ** 16], np.int32)
            first, last = seconds[0], seconds[-1]
        except (ValueError, OverflowError, IndexError) as error:
            raise ValueError(f"{included}: expected the annotated seconds, one a line "
                             f"({error})") from None

    rows.check_unit()
    video, second, person = rows.video, rows.keyframe.astype(int), rows.person
    action = np.array(rows.action_ids())[rows.text]
    key = keyframe_key(video, second)
    out_video = find(out.videos, rows.videos)[out.video]
    strange = (out_video < 0) | ~np.isin(out.keyframe, seconds)
    out = keyframe_key(out_video, out.keyframe.astype(int))
    box, good = clip_boxes(rows.box)
    known, kept, faults = np.array(sorted(names)), ~rows.nobody, []
    if len(out) and strange.all():
        faults.append(f"{excluded.name}: names no annotated second of {path.name}")
    official = np.isin(action, np.arange(1, 81) if others else known)
    columns = [key, box, action] + [person] * (person is not None)
    for bad, reason in ((~good, "the box is outside the picture or empty, dropped"),
                        (~official, "the action id is not in the label map, dropped"),
                        (~np.isin(rows.keyframe, seconds),
                         f"not an annotated second ({first}-{last}), dropped"),
                        (~distinct(*columns), "the row is there twice, dropped")):
        wrong = rows.lines[kept & bad]
        faults += [f"{path.name}:{line}: {reason}" for line in wrong[:100]]
        faults += [f"{path.name}: {len(wrong) - 100} rows more: {reason}"] * (len(wrong) > 100)
        kept &= ~bad
    kept = np.flatnonzero(kept & np.isin(action, known) & ~np.isin(key, out))
    columns = [video[kept], second[kept], box[kept], np.searchsorted(known, action[kept])]
    person = None if person is None else person[kept]
    if every:
        of_video, all_seconds = np.divmod(np.arange(len(rows.videos) * len(seconds)), len(seconds))
        all_seconds = seconds[all_seconds]
        empty = ~np.isin(keyframe_key(of_video, all_seconds), np.concatenate([out, key[kept]]))
        nobody = np.full(empty.sum(), -1)
        more = of_video[empty], all_seconds[empty], np.zeros((len(nobody), 4)), nobody
        columns = [np.concatenate(pair) for pair in zip(columns, more)]
        person = None if person is None else np.append(person, nobody)
    return make_annotations(rows.videos, [names[i] for i in known], *columns, person,
                            unit="second", ids=known.tolist(), faults=faults)
