"""The README's links into the code lead to the lines they name."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_link_leads_to_the_line_of_the_name_or_equation_it_shows():
    links = re.findall(r"\[([^\]]+)\]\((\w+\.py)#L(\d+)\)", (ROOT / "README.md").read_text())
    assert len(links) >= 10
    for shown, file, line in links:
        text = (ROOT / file).read_text().splitlines()[int(line) - 1]
        if shown.startswith("Eq."):
            numbers = re.findall(r"\d+", shown)
            assert re.search(r"# Eq\. \(", text) and all(f"({number})" in text for number in numbers), (shown, text)
        elif shown.endswith(".py`"):
            assert "# the loop" in text, (shown, text)
        else:
            assert re.search(rf"\b(def|class) {shown.strip('`')}\b", text), (shown, text)


def test_every_file_of_the_readme_is_there():
    text = (ROOT / "README.md").read_text()
    for name in set(re.findall(r"\b(\w+\.py)\b", text)) | set(re.findall(r"\((assets/[^)]+)\)", text)):
        assert (ROOT / name).exists(), name
