"""The README's links lead to files that hold what they name."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_link_to_code_leads_to_a_file_that_holds_the_name_or_equation_it_shows():
    links = re.findall(r"\[([^\]]+)\]\(([\w/]+\.py)\)", README)
    assert len(links) >= 10
    for shown, file in links:
        text = (ROOT / file).read_text(encoding="utf-8")
        if shown.startswith("Eq."):
            for number in re.findall(r"\d+", shown):
                assert re.search(rf"# .*Eq\. .*\({number}\)", text), (shown, file)
        elif not shown.endswith(".py`"):
            assert re.search(rf"\b(def|class) {shown.strip('`')}\b", text), (shown, file)


def test_every_file_that_the_readme_and_the_docs_name_is_there():
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        text = page.read_text(encoding="utf-8")
        links = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", text)
        assert all((page.parent / link).exists() for link in links), page
        assert all((ROOT / name).exists() for name in re.findall(r"`([\w/]+\.py)\b", text)), page


def test_the_snippet_of_the_model_alone_runs_as_it_is_printed(tmp_path, monkeypatch, capsys):
    """But for the weights, which are the toy's, and the video, which is a folder of frames."""
    for number in range(60):
        Image.fromarray(np.full((60, 80, 3), number, np.uint8)).save(tmp_path / f"{number:05d}.png")
    snippet = README.split("```python\nimport torch\n")[1].split("```")[0]
    snippet = snippet.replace('"ViT-B/16", weights="ViT-B/16"', '"toy"').replace("street.mp4", str(tmp_path))
    exec("import torch\n" + snippet, {})
    scores = re.match(r"tensor\(\[\[(.*), (.*)\]\]", capsys.readouterr().out).groups()
    assert all(0 <= float(score) <= 1 for score in scores)
