"""Tracks worked out by hand; then the tracker measured on rendered films and real clips.

    python -m pytest tests/test_tracker.py -s

prints the table of the README: identity switches and IDF1, before and now. A film is pictures of
people in shirts every half second, who cross, turn, stop, leave and return, with the boxes that a
detector would find: noisy, missing where somebody is hidden.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from tracker import Tracker
from video import open_video

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples" / "video"
ASPECT, STEP, SECONDS = 16 / 9, 0.5, 15          # of the picture; between keyframes; of a film
SHIRTS = np.array([(230, 230, 230), (30, 60, 200), (200, 40, 40), (40, 150, 60), (30, 30, 30),
                   (220, 190, 40)])
GREY, SCORE, GAP = np.full((90, 160, 3), 99, np.uint8), 0.6, 1.5


# ---------------------------------------------------------------- by hand

def box_at(left: float) -> tuple:
    return left, 0.1, left + 0.3, 0.9


def link_all(keyframes, scores=None, cuts=(), picture=GREY) -> list[dict[int, float]]:
    """{track: left side} on keyframes {second: left sides}, of boxes of scores {second: scores}."""
    tracker, found = Tracker(SCORE, GAP), []
    for time, lefts in keyframes.items():
        boxes = np.array([box_at(left) for left in lefts], np.float32).reshape(-1, 4)
        sure = np.array((scores or {}).get(time, [0.9] * len(lefts)))
        linked = tracker.link(time, picture, boxes, sure, is_cut=time in cuts)
        found.append({track: lefts[n] for track, n in linked.items()})
    assert len(tracker.tracks) <= 3                          # those that are over are forgotten
    return found


@pytest.mark.parametrize("keyframes, more, found", [
    # the nearest pair is linked first
    ({0: [0.1], 0.5: [0.12, 0.1]}, {}, [{1: 0.1}, {1: 0.1, 2: 0.12}]),
    # from half of the score on a box goes on with a track, but begins none
    ({0: [0.1], 0.5: [0.1, 0.6], 1: [0.65], 1.5: [0.1]},
     {"scores": {0.5: [0.35, 0.9], 1: [0.35], 1.5: [0.25]}},
     [{1: 0.1}, {1: 0.1, 2: 0.6}, {2: 0.65}, {}]),
    # unseen for longer than the gap
    ({0: [0.1], 0.5: [], 1.5: [0.1], 2: [], 3.1: [0.1]}, {},
     [{1: 0.1}, {}, {1: 0.1}, {}, {2: 0.1}]),
    # but who was on the keyframe before may always go on
    ({0: [0.1], 4: [0.1], 8: [0.1]}, {}, [{1: 0.1}, {1: 0.1}, {1: 0.1}]),
    # behind a cut, also one with nobody after it
    ({0: [0.1], 0.5: [0.1]}, {"cuts": [0.5]}, [{1: 0.1}, {2: 0.1}]),
    ({0: [0.1], 0.5: [], 1: [0.1]}, {"cuts": [0.5]}, [{1: 0.1}, {}, {2: 0.1}])])
def test_links_by_hand(keyframes, more, found):
    assert link_all(keyframes, **more) == found


def test_people_keep_their_tracks_while_they_pass_and_one_hides_the_other():
    passing = {i / 2: [0.1 * i, 0.6 - 0.1 * i] for i in range(7)}
    passing[1.5] = [0.3]
    found = link_all(passing)
    assert found[6] == {1: pytest.approx(0.6), 2: pytest.approx(0)}
    assert [len(people) for people in found] == [2, 2, 2, 1, 2, 2, 2]


def test_of_two_in_one_place_colours_tell_who_comes_back():
    tracker, red, blue = Tracker(SCORE, GAP), (200, 30, 30), (30, 30, 200)

    def link(time, *people) -> list[int]:
        picture = GREY.copy()
        for left, colour in people:
            picture[:, round(left * 160):round((left + 0.3) * 160)] = colour
        boxes = np.array([box_at(left) for left, _ in people], np.float32)
        return list(tracker.link(time, picture, boxes, np.ones(len(people))))

    assert link(0, (0.1, red), (0.5, blue)) == [1, 2]
    assert link(0.5, (0.3, blue)) == [2]


# ---------------------------------------------------------------- rendered films

class GreedyTracker:
    """What was before: boxes of IoU 0.2 or more with a track's last one, best pairs first."""

    def __init__(self, person_score: float, gap: float):
        self.gap, self.count, self.last = gap, 0, {}

    def link(self, time, picture, boxes: np.ndarray, scores: np.ndarray) -> dict[int, int]:
        boxes = np.where(scores[:, None] >= SCORE, boxes, 9.0)      # it knew sure boxes only
        self.last = {track: seen for track, seen in self.last.items() if time - seen[0] <= self.gap}
        tracks, linked = list(self.last), {}
        old = np.array([self.last[track][1] for track in tracks], np.float32).reshape(-1, 4)
        overlap = box_iou(torch.from_numpy(old), torch.from_numpy(boxes.astype(np.float32))).numpy()
        while overlap.size and overlap.max() >= 0.2:
            t, n = np.unravel_index(overlap.argmax(), overlap.shape)
            linked[tracks[t]] = int(n)
            overlap[t, :] = overlap[:, n] = -1
        for n in set(np.flatnonzero(scores >= SCORE).tolist()) - set(linked.values()):
            self.count += 1
            linked[self.count] = n
        self.last |= {track: (time, boxes[n]) for track, n in linked.items()}
        return linked


def make_film(seed: int) -> list[tuple[float, np.ndarray, np.ndarray, np.ndarray, list[int]]]:
    """(seconds, picture, boxes (n, 4), scores (n,), who each box is or -1) of the keyframes."""
    rng = np.random.default_rng(seed)
    people = 2 + seed % 3
    shirts = (SHIRTS[rng.permutation(6)[:people]] if seed % 4
              else np.repeat(SHIRTS[rng.integers(6)][None], people, 0))
    height = rng.uniform(0.25, 0.5, people)
    floor = rng.uniform(0.6, 0.95, people)                   # who stands lower hides the others
    x = rng.uniform(0.1, 0.9, people) * ASPECT
    speed = rng.choice([-1, 1], people) * rng.uniform(0.3, 0.9, people)
    background = rng.integers(60, 200, (9, 16, 3)).repeat(20, 0).repeat(20, 1)       # 180 x 320
    keyframes = []
    for time in np.arange(0, SECONDS, STEP):
        for k in range(people):                              # in heights of the person a second
            change = rng.random()
            if change < 0.12:
                speed[k] = -speed[k]
            elif change < 0.22:
                speed[k] = 0
            elif change < 0.34 or abs(x[k] / ASPECT - 0.5) > 0.65:
                speed[k] = rng.uniform(0.3, 0.9) * (1 if x[k] < ASPECT / 2 else -1)
            x[k] += speed[k] * height[k] * STEP * rng.uniform(0.8, 1.2)
        picture = np.clip(background + rng.normal(0, 12, background.shape), 0, 255)
        wide = height * rng.uniform(0.3, 0.45, people)
        left, right = (x - wide / 2) / ASPECT, (x + wide / 2) / ASPECT
        whole = np.stack([left, floor - height, right, floor], 1)
        order = np.argsort(floor)                            # from the back to the front
        light = rng.uniform(0.8, 1.2)
        for k in order:
            draw_person(picture, whole[k], shirts[k] * light)
        boxes, scores, who = [], [], []
        for rank, k in enumerate(order):
            seen = np.clip(whole[k], 0, 1)
            hidden = hidden_share(whole[k], [whole[j] for j in order[rank + 1:]])
            is_outside = seen[2] - seen[0] < 0.3 * (whole[k, 2] - whole[k, 0])
            if is_outside or hidden > 0.7 or rng.random() < 0.04:
                continue
            noise = rng.normal(0, 0.03, 4) * np.tile(whole[k, 2:] - whole[k, :2], 2)
            boxes.append(np.clip(seen + noise, 0, 1))
            scores.append(rng.uniform(0.3, 0.7) if hidden > 0.3 else rng.uniform(0.65, 1))
            who.append(int(k))
        if rng.random() < 0.1:                               # something that is nobody
            left, top = rng.uniform(0, 0.8), rng.uniform(0.1, 0.6)
            boxes.append(np.array([left, top, left + 0.1, top + 0.3]))
            scores.append(rng.uniform(0.3, 0.6))
            who.append(-1)
        keyframes.append((float(time), picture.astype(np.uint8),
                          np.array(boxes, np.float32).reshape(-1, 4), np.array(scores), who))
    return keyframes


def draw_person(picture: np.ndarray, box: np.ndarray, shirt: np.ndarray) -> None:
    H, W = picture.shape[:2]
    left, top, right, bottom = box * [W, H, W, H]
    for share_x, y0, y1, colour in ((0.25, 0, 0.15, (210, 170, 140)), (0.5, 0.15, 0.55, shirt),
                                    (0.3, 0.55, 1, (50, 50, 70))):
        middle, half = (left + right) / 2, share_x * (right - left)
        ys = (max(round(top + y * (bottom - top)), 0) for y in (y0, y1))
        xs = (max(round(middle + side), 0) for side in (-half, half))
        picture[slice(*ys), slice(*xs)] = np.clip(colour, 0, 255)


def hidden_share(box: np.ndarray, nearer: list[np.ndarray], n: int = 12) -> float:
    ys, xs = np.meshgrid(np.linspace(box[1], box[3], n), np.linspace(box[0], box[2], n))
    hidden = np.zeros(ys.shape, bool)
    for x1, y1, x2, y2 in nearer:
        hidden |= (xs > x1) & (xs < x2) & (ys > y1) & (ys < y2)
    return hidden.mean()


# ---------------------------------------------------------------- the measures

def measure(tracker, keyframes) -> tuple[int, int, float, int, int]:
    """Identity switches; twice the boxes of people's best tracks; all boxes, true and tracked;
    people, tracks."""
    pairs = []               # (person, track or 0) of each box, and (-1, track) of tracks on nobody
    for time, picture, boxes, scores, who in keyframes:
        track_of = {n: track for track, n in tracker.link(time, picture, boxes, scores).items()}
        pairs += [(person, track_of.get(n, 0)) for n, person in enumerate(who)
                  if person >= 0 or n in track_of]
    last, switches, shared = {}, 0, {}
    for person, track in pairs:
        if person >= 0 and track:
            switches += last.get(person, track) != track
            last[person] = track
            shared[person, track] = shared.get((person, track), 0) + 1
    people = sorted({person for person, _ in pairs if person >= 0})
    tracks = {track for _, track in pairs if track}

    @cache
    def best(i: int, free: frozenset) -> int:                # the assignment that shares most boxes
        if i == len(people):
            return 0
        own = [track for track in free if (people[i], track) in shared]
        return max([best(i + 1, free)] + [shared[people[i], track] + best(i + 1, free - {track})
                                          for track in own])

    both = sum(person >= 0 for person, _ in pairs) + sum(track > 0 for _, track in pairs)
    return switches, 2 * best(0, frozenset(tracks)), both, len(people), len(tracks)


def table(name: str, films: list) -> list[tuple]:
    """Switches, IDF1, people and tracks over films, before and now; prints them."""
    rows = []
    for label, kind in (("greedy IoU", GreedyTracker), ("now", Tracker)):
        switches, right, both, people, tracks = np.sum(
            [measure(kind(SCORE, GAP), film) for film in films], axis=0)
        rows.append((switches, right / both, people, tracks))
        print(f"{name:24} {label:11} switches {switches:4.0f}  IDF1 {100 * right / both:5.1f}  "
              f"people {people:3.0f}  tracks {tracks:4.0f}")
    return rows


def test_people_who_cross_turn_stop_and_return_keep_their_numbers():
    before, now = table("20 rendered films", [make_film(seed) for seed in range(20)])
    assert now[0] < before[0] / 2 and now[1] > before[1] + 0.1


# boxes by hand, in percent of the picture, of each person every half second (None: not seen)
PLAYERS = [
    [(19, 50, 31, 100), (19, 41, 28, 100), (20, 44, 31, 100), (22, 54, 34, 100), (26, 54, 37,
     97), (35, 53, 51, 87), (46, 51, 53, 83), (42, 51, 51, 80), (33, 46, 41, 76), (34, 45, 43,
     77), (39, 43, 47, 80), (40, 41, 49, 83), (42, 45, 50, 84), (44, 44, 52, 82), (42, 36, 50,
     81), (41, 36, 49, 80), (41, 47, 50, 83), (42, 45, 51, 73), (28, 47, 40, 79), None],
    [(52, 47, 63, 96), (59, 51, 70, 100), (70, 54, 80, 100), (75, 54, 85, 100), (74, 54, 84,
     100), (71, 39, 83, 100), (71, 47, 85, 100), (66, 48, 79, 97), (57, 44, 69, 87), (55, 42,
     63, 80), (47, 39, 56, 77), None, (50, 44, 55, 73), (54, 41, 60, 73), (58, 44, 65, 78), (63,
     41, 70, 77), (69, 45, 78, 82), (68, 41, 78, 78), (67, 45, 74, 80), (30, 46, 37, 71)]]


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real samples are not distributed")
def test_two_players_of_a_real_clip_are_two_people():
    reader = open_video(str(SAMPLES / "test_video_structuralize.mp4"), 224)
    film = []
    for i, boxes in enumerate(zip(*PLAYERS)):
        who = [k for k, box in enumerate(boxes) if box]
        film.append((i * STEP, reader.clip_at(i * STEP, 1)[0],
                     np.array([boxes[k] for k in who], np.float32) / 100, np.ones(len(who)), who))
    _, (switches, idf1, people, tracks) = table("two basketball players", [film])
    assert people == tracks == 2 and switches <= 1 and idf1 > 0.95       # swept away at the end
