"""Gives each person a number that holds from keyframe to keyframe, from boxes and colours alone.

Somebody is expected where their speed takes them. A box costs its distance from there, relative to
the size and to the time since; how unlike the colours are; how much the size has changed; and a
little if the detector is not sure. The cheapest pairs are linked first. A sure box that is left
begins a track; a track ends after `gap` seconds without a box, or at a cut.
"""

from dataclasses import dataclass

import numpy as np

SOON = 1e-6                      # seconds; float noise of time stamps


@dataclass
class Track:
    """Where somebody was last; lengths in heights of the picture, so that directions are alike."""

    time: float                              # seconds
    centre: np.ndarray                       # (2,)
    size: float                              # root of the box's area
    speed: np.ndarray                        # (2,) a second
    colours: np.ndarray                      # (24,), see `colours_in`


def colours_in(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A person's looks: shares (24,) of 8 levels of red, green and blue in the box's upper middle.

    picture: (h, w, 3) uint8. A pixel counts for the two levels it lies between, so that light
    matters little.
    """
    h, w = picture.shape[:2]
    x1, y1, x2, y2 = box
    left, right = int(w * (0.75 * x1 + 0.25 * x2)), int(w * (0.25 * x1 + 0.75 * x2))
    top, bottom = int(h * (0.8 * y1 + 0.2 * y2)), int(h * (0.4 * y1 + 0.6 * y2))
    pixels = picture[top:max(bottom, top + 1), left:max(right, left + 1)].reshape(-1, 3)
    levels = pixels / 255 * 7
    return np.maximum(1 - np.abs(levels[..., None] - np.arange(8)), 0).mean(axis=0).ravel() / 3


def cost(track: Track, new: Track) -> float:
    """0 for the same person as expected, from 1 on for somebody else."""
    since = new.time - track.time
    distance = np.hypot(*(track.centre + since * track.speed - new.centre))
    relative = distance / ((track.size + new.size) / 2)
    unlike = 1 - np.sqrt(track.colours * new.colours).sum()              # Bhattacharyya
    return relative / (1.5 + 3 * since) + 0.8 * unlike + abs(np.log(new.size / track.size)) / 2


class Tracker:
    """The tracks that go on. person_score: from which a box begins one; gap: seconds."""

    def __init__(self, person_score: float, gap: float):
        self.person_score, self.gap, self.count, self.before = person_score, gap, 0, 0.0
        self.tracks: dict[int, Track] = {}

    def link(self, time: float, picture: np.ndarray, boxes: np.ndarray, scores: np.ndarray,
             is_cut: bool = False) -> dict[int, int]:
        """{track, from 1: index of its box} on the next keyframe; it may have no boxes.

        picture: (h, w, 3) uint8; boxes: (n, 4) xyxy in [0, 1]; scores: (n,), the detector's; from
        half of person_score on a box continues a track. is_cut: a scene began since the one before.
        """
        # who was on the keyframe before may always go on, however far that is
        oldest = min(time - self.gap, self.before) - SOON
        self.tracks = {number: track for number, track in self.tracks.items()
                       if track.time >= oldest and not is_cut}
        self.before, aspect = time, picture.shape[1] / picture.shape[0]
        found = []
        for box in boxes:
            x1, y1, x2, y2 = box.astype(float)
            centre = np.array([aspect * (x1 + x2) / 2, (y1 + y2) / 2])
            size = (aspect * (x2 - x1) * (y2 - y1)) ** 0.5
            found.append(Track(time, centre, size, np.zeros(2), colours_in(picture, box)))

        linked, is_sure = {}, scores >= self.person_score
        pairs = [(cost(track, found[n]) + 0.1 * (not is_sure[n]), number, n)
                 for number, track in self.tracks.items()
                 for n in np.flatnonzero(scores >= self.person_score / 2).tolist()]
        for price, number, n in sorted(pairs):
            if price < 1 and number not in linked and n not in linked.values():
                old, new = self.tracks[number], found[n]
                new.speed = (old.speed + (new.centre - old.centre) / (time - old.time)) / 2
                new.colours = 0.7 * old.colours + 0.3 * new.colours
                linked[number] = n
        for n in np.flatnonzero(is_sure).tolist():
            if n not in linked.values():
                self.count += 1
                linked[self.count] = n
        self.tracks |= {number: found[n] for number, n in linked.items()}
        return linked
