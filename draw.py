"""All pictures: a contact sheet, bars of AP, and the page beside an annotated video."""

import colorsys
import html
import json
import os
import re
from pathlib import Path
from urllib.parse import quote

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms import v2
from torchvision.utils import draw_bounding_boxes, make_grid


def colour_of(number: int, saturation: float = 0.7) -> tuple[int, int, int]:
    """RGB; successive numbers lie far apart on the colour circle."""
    return tuple(round(255 * x) for x in colorsys.hsv_to_rgb(number * 0.618 % 1, saturation, 1.0))


def contact_sheet(pictures: list[Tensor], boxes: list[Tensor], texts: list[list[str]]) -> Image.Image:
    """Keyframes (3, H, W) uint8 with their boxes (N_b, 4), xyxy in [0, 1], and N_b texts, four in a row."""
    tiles = []
    for picture, own, said in zip(pictures, boxes, texts):
        scale = min(240 / picture.shape[1], 320 / picture.shape[2])
        h, w = (round(side * scale) for side in picture.shape[1:])
        drawn = draw_bounding_boxes(v2.functional.resize(picture, [h, w]), own * torch.tensor([w, h, w, h]),
                                    [text[:52] for text in said], colors="yellow", width=2)
        tiles.append(v2.functional.pad(drawn, [0, 0, 320 - w, 240 - h]))
    sheet = make_grid(torch.stack(tiles), nrow=4, padding=4, pad_value=128).permute(1, 2, 0)
    return Image.fromarray(sheet.numpy())


COLOURS = {"base": (55, 110, 180), "novel": (225, 120, 40), None: (55, 110, 180)}


def ap_bars(title: str, classes: list[dict]) -> Image.Image:
    """Each class's AP (classes of a results JSON) as a bar, the best on top, base and novel in two colours."""
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


# ---------------------------------------------------------------- a page beside a video

PAGE = Path(__file__).with_name("assets") / "page.html"


def write_page(path, title: str, video_file: str | None, spans: list[tuple[int, str, float, float, float]],
               tracks: list[tuple[int, float, float]], actions: list[str], seconds: float, novel=()) -> None:
    """One HTML file that opens from disk: the annotated video, and below it who does what when, to be clicked.

    video_file: name of the annotated video in the page's folder, or None. spans: (track, action, start, end,
    score), seconds; tracks: (track, first and last second); actions: all words, novel: those of them to star.
    """
    def hexadecimal(colour) -> str:
        return "#" + bytes(colour).hex()

    columns = {action: c for c, action in enumerate(actions)}
    people = [[track, start, end, hexadecimal(colour_of(track))] for track, start, end in sorted(tracks)]
    # people have bright colours, as in the video; words are dark, so that white figures can be read on them
    words = [[action, hexadecimal(side * 5 // 8 for side in colour_of(c, 0.5)), action in novel]
             for action, c in columns.items()]
    data = {"seconds": seconds, "people": people, "words": words,
            "spans": [[track, columns[action], *rest] for track, action, *rest in spans]}
    source = quote(os.fsencode(video_file or ""))
    video = f'<video id="video" controls preload="metadata" src="{source}"></video>'
    parts = {"title": html.escape(title), "video": video if video_file else "",
             "data": json.dumps(data).replace("<", "\\u003c")}             # no </script> and no <!-- inside
    page = re.sub(r"\{\{(\w+)\}\}", lambda part: parts[part[1]], PAGE.read_text(encoding="utf-8"))
    temporary = Path(f"{path}.part")
    temporary.write_bytes(page.encode("utf-8", "replace"))
    os.replace(temporary, path)
