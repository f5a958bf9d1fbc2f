"""All pictures: people on frames, contact sheets, bars of AP, curves of a run, a video's page."""

import colorsys
import functools
import html
import json
import math
import os
import re
import textwrap
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms import v2
from torchvision.utils import draw_bounding_boxes, make_grid


def colour_of(number: int, saturation: float = 0.7) -> tuple[int, int, int]:
    """RGB; successive numbers lie far apart on the colour circle."""
    return tuple(round(255 * x) for x in colorsys.hsv_to_rgb(number * 0.618 % 1, saturation, 1.0))


# ---------------------------------------------------------------- boxes with words on frames

# tried in this order after Pillow's own font, which knows Latin letters only
FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf",
         "DroidSansFallbackFull.ttf", "Arial Unicode.ttf", "msyh.ttc")


@functools.cache
def load_font(name: str | None, size: int):
    """A font by its file or file name, Pillow's own for None; OSError where it is not there."""
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)


def missing_letters(text: str, name: str | None) -> str:
    """The letters of a text for which a font has no picture of its own."""
    def picture(letter: str) -> tuple:
        mask = load_font(name, 20).getmask(letter)
        return mask.size, bytes(mask)

    unknown = picture("\U0010ffff")
    return "".join(letter for letter in dict.fromkeys(text)
                   if not letter.isspace() and picture(letter) == unknown)


def choose_font(text: str, wanted: str | None = None) -> tuple[str | None, str]:
    """The font, for `load_font`, that draws most of a text, or `wanted`; the letters it lacks."""
    found = {}
    for name in [wanted] if wanted else [None, *FONTS]:
        try:
            found[name] = missing_letters(text, name)
        except OSError as error:
            if wanted:
                raise ValueError(f"--font {wanted}: not a font ({error})") from None
    best = min(found, key=lambda name: len(found[name]))
    return best, found[best]


def draw_people(rgb: np.ndarray, people: list[tuple[int, np.ndarray, list[str]]], legend: str,
                font_name: str | None = None) -> np.ndarray:
    """The picture (H, W, 3) uint8 with people's boxes, track numbers and words; a legend below.

    people: track, box (4,) xyxy in [0, 1], lines of words. font_name: as `choose_font` gives it.
    """
    image = Image.fromarray(rgb)
    canvas, (W, H) = ImageDraw.Draw(image), image.size
    size, thick = max(11, round(min(W, H) / 30)), max(2, round(min(W, H) / 240))
    font, line = load_font(font_name, size), round(size * 1.25)

    fitting = max(int(len(legend) * W / font.getlength(legend)) - 2, 8)
    legend = textwrap.shorten(legend, fitting, placeholder=" ...")
    for track, box, _ in people:
        corners = (box * [W, H, W, H]).round().tolist()
        canvas.rectangle(corners, outline=colour_of(track), width=thick)
    canvas.rectangle((0, H - line, font.getlength(legend) + size / 2, H), fill="black")
    canvas.text((size / 4, H - line), legend, "white", font)
    taken = []
    for track, box, said in people:
        text = f"#{track}  " + "\n".join(said)
        w, h = max(map(font.getlength, text.split("\n"))) + size / 2, line * max(len(said), 1)
        x, y = max(min(box[0] * W, W - w), 0), max(box[1] * H - h, 0)        # above the box
        for left, top, right, bottom in sorted(taken, key=lambda label: label[1]):
            if x < right and left < x + w and y < bottom and top < y + h:
                y = bottom                                                   # below other labels
        taken.append((x, y, x + w, y + h))
        canvas.rectangle(taken[-1], fill=colour_of(track))
        canvas.multiline_text((x + size / 4, y), text, "black", font, spacing=line - size)
    return np.asarray(image)


# ---------------------------------------------------------------- contact sheets, bars of AP

def contact_sheet(pictures: list[Tensor], boxes: list[Tensor],
                  texts: list[list[str]]) -> Image.Image:
    """Keyframes (3, H, W) uint8, four in a row, with N_b boxes, xyxy in [0, 1], and N_b texts."""
    tiles = []
    for picture, own, said in zip(pictures, boxes, texts):
        scale = min(240 / picture.shape[1], 320 / picture.shape[2])
        h, w = (round(side * scale) for side in picture.shape[1:])
        drawn = draw_bounding_boxes(
            v2.functional.resize(picture, [h, w]), own * torch.tensor([w, h, w, h]),
            [text[:52] for text in said], colors="yellow", width=2)
        tiles.append(v2.functional.pad(drawn, [0, 0, 320 - w, 240 - h]))
    sheet = make_grid(torch.stack(tiles), nrow=4, padding=4, pad_value=128).permute(1, 2, 0)
    return Image.fromarray(sheet.numpy())


COLOURS = {"base": (55, 110, 180), "novel": (225, 120, 40), None: (55, 110, 180)}


def ap_bars(title: str, classes: list[dict]) -> Image.Image:
    """Each class's AP (classes of a results JSON) as a bar in its split's colour, best on top."""
    font, row, top = ImageFont.load_default(13), 20, 54
    entries = [entry for entry in classes if entry["ap"] is not None]
    entries.sort(key=lambda entry: -entry["ap"])
    left = 20 + max([int(font.getlength(entry["name"])) for entry in entries] + [60])
    image = Image.new("RGB", (left + 560, top + row * len(entries) + 30), "white")
    draw = ImageDraw.Draw(image)
    draw.text((10, 8), title, "black", font)
    for i, split in enumerate(sorted({entry["split"] for entry in entries} - {None})):
        draw.rectangle((left + 80 * i, 32, left + 80 * i + 12, 44), COLOURS[split])
        draw.text((left + 80 * i + 18, 30), split, "black", font)
    bottom = top + row * len(entries)
    for tick in range(0, 101, 20):
        draw.line((left + 5 * tick, top - 4, left + 5 * tick, bottom), (215, 215, 215))
        draw.text((left + 5 * tick, bottom + 4), str(tick), "black", font, anchor="ma")
    for i, entry in enumerate(entries):
        y = top + row * i
        draw.text((left - 8, y + row // 2), entry["name"], "black", font, anchor="rm")
        right = left + 500 * entry["ap"]
        draw.rectangle((left, y + 2, right, y + row - 3), COLOURS[entry["split"]])
        draw.text((right + 6, y + row // 2), f"{100 * entry['ap']:.2f}", "black", font, anchor="lm")
    return image


# ---------------------------------------------------------------- the curves of a training run

def ticks_between(low: float, high: float, is_log: bool, count: int = 4) -> list[float]:
    """About `count` round numbers in [low, high]: 1, 2 or 5 times powers of ten, or multiples."""
    least = low if is_log else (high - low) / count
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(high)) + 1)
    rounds = [factor * 10.0 ** power for power in powers for factor in (1, 2, 5)]
    if is_log:
        inside = [tick for tick in rounds if low <= tick <= high]
        return inside[::-(-len(inside) // count)]
    step = next(step for step in rounds if step * count >= high - low)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def draw_curves(log_path, png_path) -> None:
    """A PNG of what a log.jsonl tells of each step (loss, lr, tau, clips a second), a panel each.

    Axes begin at 0; that of a loss that fell to a twentieth is logarithmic.
    """
    lines = Path(log_path).read_text().splitlines()
    lines = [json.loads(line) for line in lines if line.endswith("}")]
    names = [name for name in (lines[-1] if lines else {}) if name not in ("step", "data_wait")]
    width, height, left, top, right, bottom = 520, 250, 70, 34, 500, 215
    image = Image.new("RGB", (2 * width, max(-(-len(names) // 2), 1) * height), "white")
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for panel, name in enumerate(names):
        x0, y0 = panel % 2 * width, panel // 2 * height
        points = [(line["step"], line[name]) for line in lines if name in line]
        steps, values = zip(*points)
        is_log = name == "loss" and max(values) > 20 * min(values) > 0
        low, high = min(values) if is_log else min(*values, 0), max(*values, 1e-12)
        scale = math.log10 if is_log else float

        def at(step: float, value: float) -> tuple[float, float]:
            across = (step - steps[0]) / max(steps[-1] - steps[0], 1)
            up = (scale(value) - scale(low)) / (scale(high) - scale(low))
            return x0 + left + (right - left) * across, y0 + bottom - (bottom - top) * up

        title = f"{name}  {values[-1]:.4g} at step {steps[-1]:,}"
        canvas.text((x0 + left, y0 + 8), title, "black", font)
        for tick in ticks_between(low, high, is_log):
            y = at(steps[0], tick)[1]
            canvas.line((x0 + left, y, x0 + right, y), (225, 225, 225))
            canvas.text((x0 + left - 6, y), f"{tick:.4g}", "black", font, anchor="rm")
        for tick in ticks_between(steps[0], max(steps[-1], steps[0] + 1), False):
            x = at(tick, low)[0]
            canvas.line((x, y0 + top, x, y0 + bottom), (225, 225, 225))
            canvas.text((x, y0 + bottom + 5), f"{tick:,.0f}", "black", font, anchor="ma")
        curve = [at(*point) for point in points]
        canvas.line(curve if len(curve) > 1 else 2 * curve, (55, 110, 180), 2)
    temporary = Path(f"{png_path}.part")
    image.save(temporary, "PNG")
    os.replace(temporary, png_path)


# ---------------------------------------------------------------- a page beside a video

PAGE = Path(__file__).with_name("assets") / "page.html"


def write_page(path, title: str, video_file: str | None, spans: list[tuple], tracks: list[tuple],
               actions: list[str], seconds: float, novel=()) -> None:
    """One HTML file that opens from disk: the video, and who does what when, to be clicked.

    video_file: name of the video in the page's folder, or None. spans: (track, action, start, end,
    score), seconds; tracks: (track, first and last second); actions: all words; novel: starred.
    """
    def hexadecimal(colour) -> str:
        return "#" + bytes(colour).hex()

    columns = {action: c for c, action in enumerate(actions)}
    # people have bright colours, as in the video; words are dark: white figures stand on them
    people = [[track, start, end, hexadecimal(colour_of(track))]
              for track, start, end in sorted(tracks)]
    words = [[action, hexadecimal(side * 5 // 8 for side in colour_of(c, 0.5)), action in novel]
             for action, c in columns.items()]
    data = {"seconds": seconds, "people": people, "words": words,
            "spans": [[track, columns[action], *rest] for track, action, *rest in spans]}
    source = quote(os.fsencode(video_file or ""))
    video = f'<video id="video" controls preload="metadata" src="{source}"></video>'
    parts = {"title": html.escape(title), "video": video if video_file else "",
             "data": json.dumps(data).replace("<", "\\u003c")}    # no </script>, no <!-- inside
    page = re.sub(r"\{\{(\w+)\}\}", lambda part: parts[part[1]], PAGE.read_text(encoding="utf-8"))
    temporary = Path(f"{path}.part")
    temporary.write_bytes(page.encode("utf-8", "replace"))
    os.replace(temporary, path)
