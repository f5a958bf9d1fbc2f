"""Rendered worlds of stick people, on disk in the library's formats: the toy's datasets.

    write_set(path, world, actions, scenes, seed)      # films of a world, and a CSV of what is told

A world is a row of WORLDS; an action is a row of ACTIONS: its key poses, other words for it, the
scene it is at home in. compose() draws a scene as plain values; render() draws it at any size, so
that it can be shown larger than the model saw it. toy.py says what each world stands for.
"""

import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

SIZE, FPS = 48, 4                            # pixels a side; frames a second, a scene is a second
TELLING = 0.4                                # share of the web's captions that tell an action


# ---------------------------------------------------------------- the worlds, as data

# A pose: arms and legs, the far one and the near one, as (angle of the upper half from straight
# down, forwards positive; bend of the lower half); lean of the trunk and roll of the whole body, in
# degrees; lift above the ground in body heights, and move in body heights a second; turn from 1
# (seen from the side) to -1.
STAND = dict(arms=((-12, 0), (12, 0)), legs=((-8, 0), (8, 0)), lean=0, roll=0, lift=0, move=0,
             turn=1)
# name: (home scene, what is held or sat on, other words, the key poses that the body moves through)
ACTIONS = {
    "swimming": ("pool", "", ("doing the crawl", "moving through the water"), [
        dict(roll=90, lift=0.2, arms=((0, 0), (180, 0)), legs=((-15, 0), (15, 0))),
        dict(roll=90, lift=0.2, arms=((90, 0), (-90, 0)), legs=((15, 0), (-15, 0))),
        dict(roll=90, lift=0.2, arms=((180, 0), (0, 0)), legs=((-15, 0), (15, 0))),
        dict(roll=90, lift=0.2, arms=((-90, 0), (90, 0)), legs=((15, 0), (-15, 0)))]),
    "jumping": ("pool", "", ("hopping up and down", "leaping into the air"), [
        dict(arms=((-20, 20), (20, 20)), legs=((25, -50), (25, -50))),
        dict(arms=((-50, 0), (50, 0)), legs=((-5, 0), (5, 0)), lift=0.25)]),
    "lying down": ("pool", "", ("resting on the back", "stretched out on the ground"), [
        dict(roll=-90, arms=((10, 0), (25, 0)), legs=((-4, 0), (6, 0)))]),
    "doing push-ups": ("gym", "", ("lifting the body with both arms", "exercising the chest"), [
        dict(roll=68, arms=((85, 0), (95, 0)), legs=((-4, 0), (4, 0))),
        dict(roll=84, arms=((10, 110), (20, 110)), legs=((-4, 0), (4, 0)))]),
    "lifting weights": ("gym", "barbell", ("pushing a heavy bar up", "training with iron"), [
        dict(arms=((-60, 200), (60, -200)), legs=((-22, 0), (22, 0))),
        dict(arms=((-155, 0), (155, 0)), legs=((-22, 0), (22, 0)))]),
    "climbing a rope": ("gym", "rope", ("pulling upwards hand over hand", "going up"), [
        dict(arms=((170, 0), (110, 60)), legs=((60, -90), (20, -40)), lift=0.12),
        dict(arms=((110, 60), (170, 0)), legs=((20, -40), (60, -90)), lift=0.2)]),
    "skating": ("court", "", ("gliding along", "moving on skates"), [
        dict(lean=35, arms=((-60, 0), (60, 0)), legs=((-55, 0), (20, -30)), move=0.4),
        dict(lean=35, arms=((60, 0), (-60, 0)), legs=((20, -30), (-55, 0)), move=0.4)]),
    "punching": ("court", "", ("hitting out with a fist", "boxing"), [
        dict(arms=((40, 110), (45, 100)), legs=((-20, 0), (20, 0))),
        dict(arms=((40, 110), (90, 0)), legs=((-20, 0), (20, 0)), lean=12)]),
    "doing jumping jacks": ("court", "", ("opening and closing arms and legs", "warming up"), [
        dict(arms=((-15, 0), (15, 0)), legs=((-4, 0), (4, 0))),
        dict(arms=((-160, 0), (160, 0)), legs=((-35, 0), (35, 0)))]),
    "running": ("field", "", ("sprinting", "racing along"), [
        dict(lean=18, arms=((-60, 80), (60, 80)), legs=((55, -50), (-45, -60)), move=0.4),
        dict(lean=18, arms=((60, 80), (-60, 80)), legs=((-45, -60), (55, -50)), move=0.4)]),
    "kicking": ("field", "", ("swinging a leg high", "striking with a foot"), [
        dict(legs=((-4, 0), (-25, -20)), lean=5),
        dict(legs=((-4, 0), (95, 0)), lean=-15, arms=((-40, 0), (40, 0)))]),
    "swinging a bat": ("field", "bat", ("hitting hard with a stick", "batting"), [
        dict(arms=((-70, 0), (-50, 0)), legs=((-20, 0), (20, 0)), lean=-5),
        dict(arms=((95, 0), (115, 0)), legs=((-20, 0), (20, 0)), lean=10)]),
    "sweeping": ("kitchen", "broom", ("cleaning the floor", "brushing away dust"), [
        dict(arms=((20, 20), (40, 20)), lean=20), dict(arms=((50, 20), (70, 20)), lean=28)]),
    "sitting": ("kitchen", "stool", ("having a seat", "taking a rest"), [
        dict(arms=((40, 30), (50, 30)), legs=((85, -85), (95, -95)), lift=0.03)]),
    "squatting": ("kitchen", "", ("bending the knees", "going down low"), [
        dict(), dict(legs=((-80, 135), (80, -135)), arms=((-30, 0), (30, 0)))]),
    "walking": ("street", "", ("strolling by", "taking a few steps"), [
        dict(legs=((28, -5), (-28, -10)), arms=((-25, 0), (25, 0)), move=0.18),
        dict(legs=((-28, -10), (28, -5)), arms=((25, 0), (-25, 0)), move=0.18)]),
    "riding a bike": ("street", "bike", ("pedalling", "cycling"), [
        dict(lean=40, arms=((40, 0), (45, 0)), legs=((75, -80), (20, -30)), lift=0.06, move=0.4),
        dict(lean=40, arms=((40, 0), (45, 0)), legs=((20, -30), (75, -80)), lift=0.06, move=0.4)]),
    "waving": ("street", "", ("greeting somebody", "moving a hand from side to side"), [
        dict(arms=((-12, 0), (150, 50))), dict(arms=((-12, 0), (150, -50)))]),
    "crawling": ("beach", "", ("going on hands and knees", "creeping"), [
        dict(roll=75, arms=((115, 0), (70, 0)), legs=((70, -90), (110, -90)), move=0.1),
        dict(roll=75, arms=((70, 0), (115, 0)), legs=((110, -90), (70, -90)), move=0.1)]),
    "doing a handstand": ("beach", "", ("standing upside down", "balancing on both hands"), [
        dict(roll=180, arms=((-170, 0), (170, 0)), legs=((-6, 0), (6, 0))),
        dict(roll=180, arms=((-170, 0), (170, 0)), legs=((-30, 0), (30, 0)))]),
    "shooting a bow": ("beach", "bow", ("aiming an arrow", "practising archery"), [
        dict(arms=((90, 0), (80, 20)), legs=((-15, 0), (15, 0))),
        dict(arms=((90, 0), (-60, 170)), legs=((-15, 0), (15, 0)))]),
    "spinning": ("stage", "", ("whirling", "turning round and round"), [
        dict(arms=((-90, 0), (90, 0))), dict(arms=((-90, 0), (90, 0)), turn=-1)]),
    "clapping": ("stage", "", ("applauding", "bringing both hands together"), [
        dict(arms=((-75, 0), (75, 0))), dict(arms=((-50, 115), (50, -115)))]),
    "bowing": ("stage", "", ("bending forward", "thanking the audience"), [
        dict(), dict(lean=85, arms=((0, 0), (20, 0)))])}
COLOURS = {"red": (255, 80, 70), "blue": (80, 140, 255), "green": (80, 225, 100),
           "yellow": (250, 225, 70), "purple": (205, 110, 250), "orange": (255, 160, 50),
           "white": (245, 245, 245), "pink": (255, 150, 200)}
# name: (in words, colour of the wall, of the floor, pattern of the wall, of the floor)
SCENES = {"pool": ("at the pool", (95, 130, 140), (25, 85, 130), "grid", "lines"),
          "gym": ("in a gym", (105, 95, 80), (70, 55, 45), "bars", ""),
          "court": ("on a court", (50, 60, 75), (135, 80, 45), "", "bars"),
          "field": ("on a field", (95, 125, 150), (45, 95, 45), "", "lines"),
          "kitchen": ("in a kitchen", (130, 120, 100), (90, 90, 90), "grid", "grid"),
          "street": ("in the street", (80, 75, 85), (50, 50, 55), "grid", "lines"),
          "beach": ("on the beach", (60, 110, 150), (150, 130, 90), "lines", ""),
          "stage": ("on a stage", (110, 30, 40), (60, 40, 30), "bars", "")}
# things that lie about, and what actions hold or sit on, as shapes: (kind, colour, point, ...). A
# point is (a joint, or "ground", which is below the hip, or "at", where a thing lies; forwards;
# down), in heights of the person or the thing
WOOD, GREY, DARK = (190, 140, 80), (200, 200, 205), (25, 25, 30)
RED, BROWN = (130, 40, 50), (110, 80, 60)
OBJECTS = {
    "ball": [("disc", (200, 120, 60), ("at", -0.5, -1), ("at", 0.5, 0))],
    "box": [("box", (120, 90, 60), ("at", -0.5, -1), ("at", 0.5, 0))],
    "tree": [("box", (80, 60, 40), ("at", -0.13, -1.5), ("at", 0.13, 0)),
             ("disc", (40, 110, 50), ("at", -0.7, -2.5), ("at", 0.7, -1))],
    "lamp": [("line", (60, 60, 60), ("at", 0, -2), ("at", 0, 0)),
             ("disc", (220, 210, 140), ("at", -0.4, -2.4), ("at", 0.4, -1.6))],
    "car": [("box", RED, ("at", -1, -0.8), ("at", 1, -0.2)),
            ("box", RED, ("at", -0.5, -1.2), ("at", 0.5, -0.8)),
            ("disc", DARK, ("at", -0.85, -0.5), ("at", -0.35, 0)),
            ("disc", DARK, ("at", 0.35, -0.5), ("at", 0.85, 0))],
    "dog": [("box", BROWN, ("at", -0.5, -0.7), ("at", 0.5, -0.35)),
            ("box", BROWN, ("at", 0.35, -0.95), ("at", 0.7, -0.6)),
            ("line", BROWN, ("at", -0.4, -0.4), ("at", -0.4, 0)),
            ("line", BROWN, ("at", 0.4, -0.4), ("at", 0.4, 0))],
    "barbell": [("line", GREY, ("hands", -0.4, 0), ("hands", 0.4, 0)),
                ("box", GREY, ("hands", -0.4, -0.1), ("hands", -0.33, 0.1)),
                ("box", GREY, ("hands", 0.33, -0.1), ("hands", 0.4, 0.1))],
    "bat": [("thick", WOOD, ("hand1", 0, 0), ("beyond", 0, 0))],
    "broom": [("line", WOOD, ("hand0", 0, 0), ("ground", 0.6, 0)),
              ("box", WOOD, ("ground", 0.53, -0.06), ("ground", 0.67, 0))],
    "bow": [("line", WOOD, ("hand0", 0, -0.25), ("hand0", 0.11, -0.13), ("hand0", 0.13, 0),
             ("hand0", 0.11, 0.13), ("hand0", 0, 0.25)),
            ("thin", GREY, ("hand0", 0, -0.25), ("hand1", 0, 0), ("hand0", 0, 0.25))],
    "rope": [("line", WOOD, ("hands", 0, -2), ("hands", 0, 2))],
    "stool": [("box", WOOD, ("hip", -0.13, 0.05), ("hip", 0.1, 0.45))],
    "bike": [("ring", GREY, ("ground", -0.31, -0.28), ("ground", -0.03, 0)),
             ("ring", GREY, ("ground", 0.19, -0.28), ("ground", 0.47, 0)),
             ("line", GREY, ("ground", -0.17, -0.14), ("hip", 0, 0.05), ("ground", 0.3, -0.31),
              ("ground", 0.33, -0.14))]}
BEHIND = {"rope", "stool", "bike"}                           # drawn before the person
LYING = ["ball", "box", "tree", "lamp", "car", "dog"]


@dataclass(frozen=True)
class World:
    """What a world's scenes are drawn from; pairs are the least and the most."""

    people: tuple[int, int]                  # who do something, each something else
    told: int                                # of how many of them box and words are told
    bystanders: tuple[int, int]              # who only stand about
    home: float                              # the chance that a scene is the first action's home
    height: tuple[float, float]              # of people, in pictures
    objects: tuple[int, int]
    light: float                             # of the background
    noise: float                             # standard deviation, in grey levels


WORLDS = {"photos": World((1, 1), 1, (0, 0), 0.0, (0.55, 0.8), (0, 1), 0.65, 0),
          "web": World((1, 2), 1, (0, 1), 0.3, (0.45, 0.85), (1, 2), 0.75, 14),
          "films": World((2, 3), 1, (0, 0), 0.3, (0.58, 0.72), (0, 2), 0.45, 4),
          "sports": World((1, 1), 1, (1, 2), 0.3, (0.6, 0.75), (0, 0), 0.65, 4),
          "daily": World((1, 1), 1, (1, 2), 0.3, (0.6, 0.75), (1, 3), 0.55, 4),
          "crowd": World((2, 3), 3, (0, 1), 0.3, (0.58, 0.72), (0, 2), 0.55, 4)}
# the control: scenes that tell nothing about actions
WORLDS |= {f"{name}-mixed": replace(WORLDS[name], home=0) for name in ("sports", "daily")}


# ---------------------------------------------------------------- the renderer

def direction(angle: float) -> np.ndarray:
    """A step of length 1, from an angle in degrees from straight down, forwards positive."""
    return np.array([math.sin(math.radians(angle)), math.cos(math.radians(angle))])


def pose(poses: list[dict], phase: float) -> dict:
    """The pose at a phase in [0, 1) of the movement through key poses, slow at each of them."""
    first = int(phase * len(poses))
    before, after = STAND | poses[first], STAND | poses[(first + 1) % len(poses)]
    share = (1 - math.cos(math.pi * (phase * len(poses) - first))) / 2
    result = {}
    for name, value in before.items():
        difference = np.subtract(after[name], value).astype(float)
        if name == "arms":
            difference[:, 0] = (difference[:, 0] + 180) % 360 - 180          # the shorter way round
        result[name] = value + share * difference
    return result


def joints(p: dict, x: float, ground: float, height: float, face: int) -> dict:
    """Pixels (2,) of the joints of a person in pose p at (x, ground); face 1: right, -1: left."""
    leg, trunk, arm, head = 0.46 * height, 0.32 * height, 0.36 * height, 0.105 * height
    up = direction(180 - p["lean"])
    body = {"hip": np.zeros(2), "neck": trunk * up, "head": (trunk + 1.2 * head) * up}
    for side in (0, 1):
        for start, middle, end, length, (angle, bend) in (
                ("neck", "elbow", "hand", arm, p["arms"][side] + [0.6 * p["lean"], 0]),
                ("hip", "knee", "foot", leg, p["legs"][side])):
            body[f"{middle}{side}"] = body[start] + length / 2 * direction(angle)
            body[f"{end}{side}"] = body[f"{middle}{side}"] + length / 2 * direction(angle + bend)
    s, c = math.sin(math.radians(p["roll"])), math.cos(math.radians(p["roll"]))
    points = np.array(list(body.values())) @ np.array([[c, s], [-s, c]])
    # a body that is rolled over lies with its middle at x; the lowest joint stands on the ground
    middle = (points[:, 0].max() + points[:, 0].min()) / 2 * abs(s)
    points[:, 0] = (points[:, 0] - middle) * face * p["turn"] + x
    lowest = max(points[:, 1].max(), points[list(body).index("head"), 1] + head)
    points[:, 1] += ground - p["lift"] * height - lowest
    return dict(zip(body, points))


def draw_shapes(draw: ImageDraw.ImageDraw, shapes: list[tuple], points: dict, height: float,
                face: int, light: float = 1) -> None:
    """Draw shapes of OBJECTS around the named points; height in pixels."""
    for kind, colour, *corners in shapes:
        at = [points[name] + [face * x * height, y * height] for name, x, y in corners]
        fill = tuple(int(v * light) for v in colour)
        if kind in ("line", "thin", "thick"):
            width = {"thin": 0.018, "line": 0.035, "thick": 0.07}[kind]
            draw.line([tuple(point) for point in at], fill, max(int(width * height), 1), "curve")
            continue
        box = (*np.minimum(*at), *np.maximum(*at))
        if kind == "box":
            draw.rectangle(box, fill)
        elif kind == "disc":
            draw.ellipse(box, fill)
        else:
            draw.ellipse(box, outline=fill, width=max(int(0.035 * height), 1))


def draw_background(scene: dict, side: int) -> Image.Image:
    _, wall, floor, *patterns = SCENES[scene["scene"]]
    image = Image.new("RGB", (side, side))
    draw, horizon, step = ImageDraw.Draw(image), scene["horizon"] * side, side / 6
    parts = (0, horizon, wall, patterns[0]), (horizon, side, floor, patterns[1])
    for top, bottom, colour, pattern in parts:
        colour = np.clip((np.array(colour) + scene["tint"]) * scene["light"], 0, 255)
        draw.rectangle((0, top, side, bottom), tuple(colour.astype(int)))
        across = np.arange(7) * step + scene["offset"][0] * step
        down = top + scene["offset"][1] * step + np.arange(4) * step
        lines = [(x, top, x, bottom) for x in across if pattern in ("bars", "grid")]
        lines += [(0, y, side, y) for y in down if pattern in ("lines", "grid") and y < bottom]
        for line in lines:
            draw.line(line, tuple((0.75 * colour).astype(int)), max(side // 40, 1))
    for thing in scene["objects"]:
        at, height = np.array([thing["x"] * side, horizon + 0.06 * side]), thing["size"] * side
        draw_shapes(draw, OBJECTS[thing["name"]], {"at": at}, height, 1, scene["light"])
    return image


def draw_person(draw: ImageDraw.ImageDraw, who: dict, seconds: float, side: int) -> np.ndarray:
    """Draw a person of a scene at a time, 0 in its middle; -> the box, xyxy in pixels."""
    _, thing, _, poses = ACTIONS.get(who["action"], ("", "", (), [{}]))      # of who stands: none
    p, height = pose(poses, (who["phase"] + seconds / who["period"]) % 1), side * who["height"]
    ground, face = side * who["ground"], who["face"]
    body = joints(p, side * who["x"] + p["move"] * height * face * seconds, ground, height, face)
    xs = [point[0] for point in body.values()]               # nobody leaves the picture
    inside = max(0.04 * side - min(xs), 0) + min(0.96 * side - max(xs), 0)
    body = {name: point + [inside, 0] for name, point in body.items()}
    points = body | {"ground": np.array([body["hip"][0], ground]),
                     "hands": (body["hand0"] + body["hand1"]) / 2,
                     "beyond": 2.6 * body["hand1"] - 1.6 * body["elbow1"]}
    width, head = max(round(who["thick"] * height), 2), 0.105 * height
    shirt = np.array(COLOURS[who["colour"]])
    trousers = who["trousers"] * shirt + 20

    def limb(colour, *names, width=width):
        colour, ends = tuple(np.asarray(colour).astype(int)), [tuple(body[name]) for name in names]
        draw.line(ends, colour, round(width), "curve")
        for x, y in (ends[0], ends[-1]):
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), colour)

    if thing in BEHIND:
        draw_shapes(draw, OBJECTS[thing], points, height, face)
    limb(0.7 * shirt, "neck", "elbow0", "hand0")
    limb(0.75 * trousers, "hip", "knee0", "foot0")
    limb(shirt, "hip", "neck", width=1.8 * width)
    limb(trousers, "hip", "knee1", "foot1")
    limb(shirt, "neck", "elbow1", "hand1")
    draw.ellipse((*(body["head"] - head), *(body["head"] + head)), tuple(who["skin"]))
    if thing and thing not in BEHIND:
        draw_shapes(draw, OBJECTS[thing], points, height, face)
    outline = np.array([*body.values(), body["head"] - head, body["head"] + head])
    return np.array([*(outline.min(0) - width / 2), *(outline.max(0) + width / 2)])


def render(scene: dict, size: int = SIZE, fps: int = FPS,
           seconds: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A scene as a video (F, size, size, 3) uint8 and boxes (people, F, 4), xyxy in [0, 1]."""
    frames, people = fps * seconds, scene["people"]
    side = 2 * size                                          # drawn twice as large, then averaged
    background = draw_background(scene, side)
    video = np.empty((frames, size, size, 3), np.uint8)
    boxes = np.zeros((len(people), frames, 4), np.float32)
    nearest_last = sorted(range(len(people)), key=lambda k: people[k]["ground"])
    for f in range(frames):
        image = background.copy()
        for k in nearest_last:
            box = draw_person(ImageDraw.Draw(image), people[k], f / fps - seconds / 2, side)
            boxes[k, f] = np.clip(box / side, 0, 1)
        video[f] = np.asarray(image.resize((size, size), Image.Resampling.BOX))
    if scene["noise"]:
        grain = np.random.default_rng(scene["grain"]).normal(0, 1, video.shape) * scene["noise"]
        video = np.clip(video + grain, 0, 255).astype(np.uint8)
    return video, boxes


def compose(rng: np.random.Generator, world: str, actions: list[str]) -> dict:
    """A scene as plain values: who does what, where, before what. Lengths are in pictures."""
    w = WORLDS[world]
    acting = rng.choice(actions, rng.integers(w.people[0], w.people[1] + 1), replace=False)
    bystanders = int(rng.integers(w.bystanders[0], w.bystanders[1] + 1))
    doing = [str(name) for name in acting] + ["standing"] * bystanders
    at_home = rng.random() < w.home
    n, scene = len(doing), ACTIONS[doing[0]][0] if at_home else str(rng.choice(list(SCENES)))
    x = rng.permutation((np.arange(n) + rng.uniform(0.3, 0.7, n)) / n)
    colours, people = rng.permutation(list(COLOURS)), []
    for k, action in enumerate(doing):
        acts = action != "standing"
        people.append({
            "action": action, "x": x[k], "colour": str(colours[k]),
            "face": int(rng.choice([-1, 1])),
            "height": rng.uniform(*w.height) * (1 if acts else 0.8) * (0.92 if n > 2 else 1),
            "ground": rng.uniform(0.86, 0.98) if acts else rng.uniform(0.72, 0.82),
            "phase": rng.random(), "period": rng.uniform(0.9, 1.25),
            "thick": rng.uniform(0.075, 0.1), "trousers": rng.uniform(0.35, 0.6),
            "skin": rng.integers([170, 120, 90], [250, 200, 160]).tolist()})
    return {"scene": scene, "people": people, "horizon": rng.uniform(0.55, 0.7),
            "tint": rng.integers(-15, 16, 3), "offset": rng.random(2),
            "light": w.light, "noise": w.noise, "grain": int(rng.integers(1 << 30)),
            "objects": [{"name": str(rng.choice(LYING)), "x": rng.random(),
                         "size": rng.uniform(0.12, 0.22)}
                        for _ in range(rng.integers(w.objects[0], w.objects[1] + 1))]}


# ---------------------------------------------------------------- words

def words(rng: np.random.Generator, action: str, own: float = 1 / 3) -> str:
    """An action in its class's words, with the chance `own`, or in others."""
    return action if rng.random() < own else str(rng.choice(ACTIONS[action][2]))


def caption(rng: np.random.Generator, world: str, scene: dict) -> str:
    """The text of a clip: of photos what the person does, of the web mostly other things."""
    who, thing = scene["people"][0], ACTIONS[scene["people"][0]["action"]][1]
    if world == "photos":
        return f"a person {words(rng, who['action'], 2 / 3)}"
    said = [str(rng.choice(["a person", "someone", "a person in {}", "someone in {}"]))]
    said[0] = said[0].replace("{}", who["colour"])
    tells_action = rng.random() < TELLING
    if tells_action:
        said.append(words(rng, who["action"]))
    elif thing and rng.random() < 0.5:
        said.append(f"with a {thing}")
    if not tells_action or rng.random() < 0.5:
        said.append(SCENES[scene["scene"]][0])
    if scene["objects"] and rng.random() < 0.5:
        said.append(f"near a {scene['objects'][0]['name']}")
    return " ".join(said)


def sentence(rng: np.random.Generator, who: dict) -> str:
    """What a film's description says of one of its people."""
    said = rng.choice(["a person", "someone", "someone is", "the person in {} is"])
    return f"{said} {words(rng, who['action'])}".replace("{}", who["colour"])


# ---------------------------------------------------------------- films on disk

def write_film(path: Path, scenes: list[np.ndarray], fps: int = FPS) -> None:
    """One film of many scenes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        # JPEG frames: a clip is read in less than half the time that H.264 takes
        stream = container.add_stream("mjpeg", rate=fps)
        stream.height, stream.width = scenes[0].shape[1:3]
        stream.pix_fmt, stream.codec_context.qmin, stream.codec_context.qmax = "yuvj444p", 2, 2
        for frame in (frame for scene in scenes for frame in scene):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_set(path: Path, world: str, actions: list[str], scenes: int, seed: list[int]) -> None:
    """A CSV and, in a folder of its name, films of 30 scenes of a second each; a CSV there is kept.

    photos, web: rows video,start,end,caption. Else the annotations CSV, at the middle of a scene:
    boxes with sentences (films) or classes, and NAME-people.csv with everybody's. A scene's seed is
    [*seed, its number].
    """
    if path.exists():
        return
    rows, everybody, film, captions = [], [], [], world in ("photos", "web")
    for number in tqdm(range(scenes), f"render {world}", leave=False, disable=None):
        rng = np.random.default_rng([*seed, number])
        scene = compose(rng, world, actions)
        frames, boxes = render(scene)
        film.append(frames)
        second, video = number % 30, f"{path.stem}/{number // 30:04d}.mp4"
        if second == 29 or number == scenes - 1:
            write_film(path.parent / video, film)
            film = []
        if captions:
            rows.append([video, second, second + 1, caption(rng, world, scene)])
            continue
        for k, (who, box) in enumerate(zip(scene["people"], boxes[:, FPS // 2])):
            keyframe = [video, second + 0.5, *(f"{v:.4f}" for v in box)]
            everybody.append([*keyframe, "person", k])
            if k < WORLDS[world].told and who["action"] != "standing":
                text = sentence(rng, who) if world == "films" else who["action"]
                rows.append([*keyframe, text, k])
    header = "video,start,end,caption" if captions else "video,keyframe,x1,y1,x2,y2,text,person"
    people = path.with_name(f"{path.stem}-people.csv")
    for file, table in ((people, everybody), (path, rows)):  # the CSV that tells of all: last
        if table:
            with open(file.with_suffix(".tmp"), "w", newline="") as out:
                csv.writer(out).writerows([header.split(","), *table])
            file.with_suffix(".tmp").rename(file)            # whole or not at all
