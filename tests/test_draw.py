"""Pictures of people and curves; the page beside a video, in a real browser."""

import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import draw
from test_stream import at_25, render

HOSTILE = """</script><img src=x onerror="document.title='owned'"><!-- <script> ' & {{data}}"""
SPANS = [(1, "wave", 1.0, 2.5, 0.9), (1, HOSTILE, 3.0, 4.0, 0.6), (2, "wave", 0.5, 1.5, 0.75)]
TRACKS = [(1, 0.5, 4.5), (2, 0.0, 2.0), (3, 2.0, 3.0)]


# ---------------------------------------------------------------- people and curves

def test_legend_and_labels_stay_inside_small_and_large_pictures():
    said = [f"a rather long name of an action {i}" for i in range(3)]
    people = [(7, np.array([0.9, 0.0, 1.0, 1.0]), said), (8, np.array([0.8, 0.0, 1.0, 1.0]), [])]
    for size in ((240, 320), (1080, 1920)):
        picture = draw.draw_people(np.zeros((*size, 3), np.uint8), people, "words " * 100)
        assert picture.shape == (*size, 3)
        for track, x in ((7, -1), (8, 0.9)):                 # outlined, and the label to the left
            assert (picture == draw.colour_of(track)).all(axis=2)[:, int(x * size[1]) - 9:].any()


def test_a_box_that_reaches_the_legend_leaves_it_legible():
    grey, box = np.full((240, 320, 3), 99, np.uint8), np.array([0, 0.2, 0.02, 1])
    alone, beside = (draw.draw_people(grey, people, "from 0.5 on: wave")
                     for people in ([], [(1, box, ["wave 0.90"])]))
    assert (alone[-12:, :60] == beside[-12:, :60]).all() and (alone != beside).any()


def test_a_font_is_taken_that_has_the_letters_and_missing_ones_are_told():
    assert draw.choose_font("wave") == (None, "")
    cyrillic, nowhere = "\u0434", "\U0010fffe"
    assert draw.missing_letters(f"w{cyrillic}{nowhere}", None) == cyrillic + nowhere   # Pillow's
    name, missing = draw.choose_font(f"{cyrillic} {nowhere}")
    assert missing == (nowhere if name else cyrillic + nowhere)


def test_ticks_are_round_numbers():
    for low, high, is_log, ticks in ((0, 40, False, [0, 10, 20, 30, 40]), (0, 0.9, False, [0, 0.5]),
                                     (120, 990, False, [500]), (0.5, 20, True, [0.5, 2, 10])):
        assert draw.ticks_between(low, high, is_log) == ticks


def test_curves_rise_with_the_values_and_a_line_cut_short_is_left_out(tmp_path):
    lines = [{"step": 10 * i, "loss": float(i), "lr": 0.1, "clips_per_s": 3.0, "data_wait": 0.5}
             for i in range(1, 11)]
    log = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "log.jsonl").write_text(log + '{"step": 110, "lo')
    draw.draw_curves(tmp_path / "log.jsonl", tmp_path / "curve.png")
    picture = np.asarray(Image.open(tmp_path / "curve.png")).astype(int)
    assert picture.shape == (500, 1040, 3)                   # panels of loss, lr; clips a second
    blue = (picture == (55, 110, 180)).all(axis=2)
    left, middle, right = [np.flatnonzero(blue[:250, x]).mean() for x in (80, 285, 490)]
    assert left > middle > right and abs(left + right - 2 * middle) < 3
    assert not blue[250:, 520:].any()                        # no fourth panel
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.png", "log.jsonl"]


@pytest.mark.parametrize("log", ["", '{"step": 1, "loss": 0.0, "lr": 0.1}\n',
                                 '{"step": 1, "loss": 5.0}\n{"step": 2, "loss": 0.1}\n'])
def test_curves_of_logs_that_have_just_begun(tmp_path, log):
    (tmp_path / "log.jsonl").write_text(log)
    draw.draw_curves(tmp_path / "log.jsonl", tmp_path / "curve.png")


# ---------------------------------------------------------------- the page

class Browser:
    """A headless Chromium that is driven over chromedriver's HTTP protocol."""

    def __init__(self, driver: str, chromium: str):
        self.process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
        port = next(line.split()[-1].rstrip(".") for line in self.process.stdout
                    if "successfully on port" in line)
        self.address = f"http://127.0.0.1:{port}/session"
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,900",
                 "--autoplay-policy=no-user-gesture-required"]
        options = {"goog:chromeOptions": {"binary": chromium, "args": flags},
                   "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.call("", {"capabilities": {"alwaysMatch": options}})
        self.address += "/" + session["sessionId"]

    def call(self, command: str, body: dict, method: str = "POST"):
        request = urllib.request.Request(self.address + command, json.dumps(body).encode(),
                                         {"Content-Type": "application/json"}, method=method)
        return json.load(urllib.request.urlopen(request, timeout=60))["value"]

    def open(self, path: Path) -> None:
        self.call("/url", {"url": path.as_uri()})
        assert self.wait_for("return video === null || video.readyState > 0")

    def run(self, script: str):
        return self.call("/execute/sync", {"script": script, "args": []})

    def texts(self, css: str) -> list[str]:
        nodes = f"[...document.querySelectorAll({css!r})]"
        return self.run(f"return {nodes}.map(node => node.textContent)")

    def wait_for(self, script: str) -> bool:
        for _ in range(100):
            if self.run(script):
                return True
            time.sleep(0.1)
        return False

    def click(self, css: str) -> None:
        element = self.call("/element", {"using": "css selector", "value": css})
        self.call(f"/element/{next(iter(element.values()))}/click", {})

    def errors(self) -> list[str]:
        log = self.call("/se/log", {"type": "browser"})
        return [entry["message"] for entry in log if entry["level"] == "SEVERE"]

    def close(self) -> None:
        self.call("", {}, "DELETE")                          # ends Chromium
        self.process.terminate()
        self.process.wait()


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not (shutil.which("chromedriver") and chromium):
        pytest.skip("the page is tested in a browser: chromium or chromedriver is missing")
    browser = Browser(shutil.which("chromedriver"), chromium)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    render(folder / "a: 100% & b's.mp4", at_25(5))
    draw.write_page(folder / "film.html", "a <b> & c", "a: 100% & b's.mp4", SPANS, TRACKS,
                    ["wave", HOSTILE, "run"], 5.0, novel=["wave"])
    return folder / "film.html"


def test_page_is_one_file_in_which_names_stay_data(page):
    text = page.read_text()
    assert sorted(path.name for path in page.parent.iterdir()) == ["a: 100% & b's.mp4", "film.html"]
    assert text.count("</script>") == 2 and "<img" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")     # nothing from a network
    assert "<title>a &lt;b&gt; &amp; c</title>" in text
    assert 'src="a%3A%20100%25%20%26%20b%27s.mp4"' in text


def test_page_loads_in_a_browser_without_errors_and_hostile_names_are_text(browser, page):
    browser.open(page)
    assert browser.errors() == []
    assert browser.run("return document.title") == "a <b> & c"
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert browser.texts("#words label") == ["wave ★", HOSTILE, "run"]
    assert browser.texts("tbody td") == ["#2", "wave ★", "0.5 s", "1.5 s", "0.75",
                                         "#1", "wave ★", "1.0 s", "2.5 s", "0.90",
                                         "#1", HOSTILE, "3.0 s", "4.0 s", "0.60"]
    assert "none of these" in browser.texts("#rows text")                    # the third person


def test_click_on_a_span_plays_it_and_stops_at_its_end_and_hover_tells_the_score(browser, page):
    browser.open(page)
    # clicked and asked in one call: a busy machine may play a span before the next one
    click = "document.querySelector({!r}).dispatchEvent(new Event('click', {{bubbles: true}}));"
    ask = "return [until, video.currentTime]"
    until, now = browser.run(click.format(".span[aria-label*='0.60']") + ask)
    assert until == 4.0 and 3.0 <= now < 4.2
    browser.run("video.currentTime = 3.9")
    assert browser.wait_for("return video.paused && until === null")
    until, now = browser.run(click.format("tbody tr:first-child") + ask)
    assert until == 1.5 and now < 1.7
    browser.run("document.querySelector('.span').dispatchEvent(new MouseEvent('mousemove'))")
    assert browser.texts("#tip:not([hidden])") == ["#1 wave ★ 0.90, 1.0 s to 2.5 s"]


def test_people_and_words_are_switched_off_and_the_table_is_sorted(browser, page):
    browser.open(page)
    for css, scores in (("th:last-child button", ["0.60", "0.75", "0.90"]),
                        ("th:last-child button", ["0.90", "0.75", "0.60"]),
                        ("#people label:nth-of-type(1)", ["0.75"]),
                        ("#people button", ["0.90", "0.75", "0.60"]),
                        ("#words label:nth-of-type(1)", ["0.60"])):
        browser.click(css)
        assert browser.texts("td:last-child") == scores
        assert len(browser.texts(".span")) == len(scores)


@pytest.mark.parametrize("seconds, said", [
    (75.0, ["0:00", "0:10"]), (7200.0, ["0:00", "10:00"]), (40.0, ["0 s", "5 s"])])
def test_the_axis_is_a_clock_and_a_page_without_people_says_so(browser, tmp_path, seconds, said):
    draw.write_page(tmp_path / "empty.html", "empty", None, [], [], ["wave"], seconds)
    browser.open(tmp_path / "empty.html")
    assert browser.texts("#axis text")[:2] == said
    assert browser.texts("#note") == ["Nobody was found."]
    assert browser.run("return video") is None and browser.errors() == []
