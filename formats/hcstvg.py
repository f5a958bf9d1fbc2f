"""HC-STVG: descriptions of film clips, split into sentences of one action each."""

import re

import numpy as np

from formats.files import check_split, find_file, find_videos, load_json, walk
from table import Annotations, cached, clip_boxes, make_annotations, merge


# ---------------------------------------------------------------- sentences

# what people do in the descriptions of film scenes, in base form
ACTIONS = set(
    "answer appear approach ask attack begin bend bite blow bow breathe bring brush call carry catch "
    "chase check chew clap clean climb close come continue cook crawl crouch cross cry cut dance dial "
    "disappear drag draw drink drive drop eat embrace enter escape examine exit fall fasten feed fight "
    "fill find finish fold follow get give glance go grab greet hang has hide hit hold hug hurry "
    "inspect jump keep kick kiss kneel knock laugh lean leave lick lie lift listen lock look lower make "
    "meet move nod open pace pass pat pay pick play point pour press pull punch push put raise reach "
    "read receive release remove rest return ride rise roll rub run rush salute say scratch scream "
    "search shake shoot shout show shut sigh sing sit slap sleep slide smell smile smoke snap spin "
    "spread squat stagger stand stare start step stop stretch stroke stroll stumble swallow swing take "
    "talk tell think throw tie toss touch try turn type undress unlock use wait wake walk wash watch "
    "wave whisper wipe write yell".split())
BE = {"is", "are"}
PLACED = set("a an the his her its their of in on at with to by from for into onto and or "
             "this that these those two three some many both no".split())
OBJECTS = set("a an the his her him it its them their himself herself something someone another".split())
NOUNS = {"clothes", "glasses", "gloves", "jeans", "pants", "shoes", "shorts", "sunglasses", "this",
         "trousers", "us"}
THEN = {"then", "finally", "next", "afterwards", "later"}
MALE = {"man", "boy", "guy", "gentleman", "father", "husband", "son", "grandfather", "he"}
FEMALE = {"woman", "girl", "lady", "mother", "wife", "daughter", "grandmother", "she"}
PEOPLE = MALE | FEMALE | {"person", "child", "kid", "baby", "adult", "soldier", "policeman", "doctor", "nurse"}
JOINT = re.compile(r"\s*[,;]\s*(?:(?:and|but)\s+)?|\s+(?:and|but|then)\s+", re.IGNORECASE)


def split_sentences(description: str) -> list[str]:
    """Short sentences of one action each, in order, each with its subject.

    "The man in black walks to the door, opens it and then leaves." gives "The man in black walks to
    the door", "The man in black opens it" and "The man in black leaves". A comma, "and" or "then"
    ends a sentence only if what follows is another action of the same person: a verb, the pronoun, or
    the person named again. What somebody else does stays with the action beside it. Not in the paper,
    which does not say how it splits; a list of verbs decides, so that the result is the same everywhere.
    """
    sentences, subject = [], ""
    for part in re.split(r"(?<!\bMr)(?<!\bMrs)(?<!\bDr)[.!?]+(?:\s+|$)", " ".join(description.split())):
        words = drop_then(part.strip(" ,;.").split())
        if not words:
            continue
        if subject and words[0].lower() in ("he", "she") and agrees(words[0], subject):
            words[:1] = subject.split()
        verb = main_verb(words)
        if verb is None:                                       # no action that we know: as it is
            sentences.append(" ".join(words))
            continue
        subject = " ".join(words[:verb])
        sentences += actions(" ".join(words), subject, words[verb].lower())
    return sentences


def actions(sentence: str, subject: str, verb: str) -> list[str]:
    """One sentence, whose subject and main verb are known, cut where the subject does something else."""
    pieces, start, head = [], 0, ""
    for joint in JOINT.finditer(sentence, len(subject)):
        rest = drop_then(sentence[joint.end():].split())
        opening = next_action(rest, subject, verb, comma="," in joint[0] or ";" in joint[0])
        if opening is None or main_verb((head + sentence[start:joint.start()]).split()) is None:
            continue
        pieces.append(head + sentence[start:joint.start()])
        head, skipped = opening
        start = len(sentence) - len(" ".join(rest[skipped:]))
    return [piece.strip(" ,;") for piece in [*pieces, head + sentence[start:]]]


def next_action(words: list[str], subject: str, verb: str, comma: bool) -> tuple[str, int] | None:
    """If words begin another action of the subject: what to write before them, and how many to leave out."""
    first = next((i for i, word in enumerate(words) if not word.endswith("ly")), None)      # "slowly walks"
    if first is None:
        return None
    word = words[first].lower().strip(",;")
    if word in ("he", "she"):
        return (f"{subject} ", first + 1) if agrees(word, subject) and len(words) > first + 1 else None
    if is_verb(words, first, third=verb.endswith("s") or verb in BE) and not (verb == "are" and word in ACTIONS):
        return f"{subject} ", 0
    # "is sitting and talking"
    if verb in BE and not comma and base_of_ing(word) in ACTIONS:
        return f"{subject} {verb} ", 0
    own = main_verb(words[:12])
    named = [w.lower() for w in words[:own]] if own else []
    noun = next((w for w in re.findall(r"\w+", subject.lower()) if w in PEOPLE), None)
    return ("", 0) if named and (named == subject.lower().split() or named == ["the", noun]) else None


def main_verb(words: list[str]) -> int | None:
    """Place of the first verb that is not in a relative clause: in the third person, else in its base form."""
    for third in (True, False):
        relative = False
        for i, word in enumerate(words):
            relative |= word.lower() in ("who", "which", "that")
            if i and is_verb(words, i, third) and words[i - 1].lower() not in PLACED:
                if not relative:
                    return i
                relative = False                               # "the man who sits" has its own verb still to come
    return None


def is_verb(words: list[str], i: int, third: bool) -> bool:
    word = words[i].lower().strip(",;")
    if not third:
        return word in ACTIONS
    if word in BE or word in ("has", "does", "goes"):
        return True
    if not word.endswith("s") or word.endswith(("ss", "'s")) or word in NOUNS:
        return False
    stems = {word[:-1], word[:-2] if word.endswith("es") else "", word[:-3] + "y" if word.endswith("ies") else ""}
    return bool(stems & ACTIONS) or (i + 1 < len(words) and words[i + 1].lower().strip(",;") in OBJECTS)


def base_of_ing(word: str) -> str:
    """talking -> talk, sitting -> sit, moving -> move, lying -> lie; "" if it is no such form."""
    if not word.endswith("ing"):
        return ""
    stem = word[:-3]
    once = stem[:-1] if stem[-1:] == stem[-2:-1] else ""
    lie = stem[:-1] + "ie" if stem.endswith("y") else ""
    return next((form for form in (stem, once, stem + "e", lie) if form in ACTIONS), "")


def agrees(pronoun: str, subject: str) -> bool:
    """Whether he or she can be the subject, by the first word for a person in it."""
    other = FEMALE if pronoun.lower() == "he" else MALE
    return next((word for word in re.findall(r"\w+", subject.lower()) if word in PEOPLE), "") not in other


def drop_then(words: list[str]) -> list[str]:
    while words and words[0].lower().strip(",") in THEN:
        words = words[1:]
    return words


# ---------------------------------------------------------------- files

HCSTVG_SOURCE = "https://github.com/tzhhhh123/HC-STVG"


def read_hcstvg(data, split: str = "train", version: int | None = None) -> Annotations:
    """HC-STVG v1 or v2 (by default v2 if it is there), original or cleaned: each sentence on its part of the tube.

    A description of k sentences cuts its tube into k parts of equal length, in order; the paper says no
    more than that they are matched in order. Frame indices count from 0, the official `st_frame` from 1.
    split "all" is train and val of v2, whose 10,131 + 3,482 descriptions are the 13,613 of the paper's Table 1.
    """
    check_split(split, ("train", "val", "test", "all"))
    if split == "all":
        return merge([read_hcstvg(data, part, version) for part in ("train", "val")])
    files, _ = walk(data)
    files = [file for file in files if not file.name.endswith(("_proc.json", "_annotations.json"))]
    patterns = {2: [f"*v2*/{split}*.json", f"{split}*v2*.json"], 1: [f"*v1*/{split}*.json", f"{split}.json"]}
    path = find_file(files, patterns[version] if version else patterns[2] + patterns[1], data,
                     HCSTVG_SOURCE)
    table = cached(data, "hcstvg", [path], [split], lambda: hcstvg_table(path))
    table.files = find_videos(table.videos, files, [])
    return table


def hcstvg_table(path) -> Annotations:
    entries, sentences, faults = load_json(path), {}, []
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: a {type(entries).__name__}; HC-STVG's file is one object, clip name -> entry")
    parts = [(np.zeros((0, 4)), *[np.zeros(0, np.int64)] * 3)]
    for v, (clip, entry) in enumerate(entries.items()):
        try:
            size = (entry["width"], entry["height"]) if "width" in entry else entry["img_size"][::-1]
            text = entry["caption"] if "caption" in entry else entry["English"]
            xywh, first = np.array(entry["bbox"], np.float64).reshape(-1, 4), int(entry["st_frame"]) - 1
            scale = np.tile(np.array(size, np.float64), 2)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{path}: clip {clip}: expected bbox, st_frame, width and height "
                             "(or img_size), caption (or English); "
                             f"{type(error).__name__}: {error}") from None
        box, good = clip_boxes(np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]) / scale)
        good &= first + np.arange(len(box)) >= 0
        short = split_sentences(text)[:len(box)]               # never more sentences than frames
        if not good.all() or not short:
            faults.append(f"{path.name}: {clip}: {(~good).sum()} of {len(box)} boxes "
                          f"outside the picture or empty, dropped; {len(short)} sentences")
        if not short:
            continue
        ids = np.array([sentences.setdefault(sentence, len(sentences)) for sentence in short])
        text = ids[np.arange(len(box)) * len(short) // len(box)]              # equal shares
        rows = np.flatnonzero(good)
        parts.append((box[rows], first + rows, np.full(len(rows), v), text[rows]))
    box, frame, video, text = (np.concatenate(column) for column in zip(*parts))
    return make_annotations(entries, sentences, video, frame, box, text, faults=faults)
