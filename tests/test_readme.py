"""The README's links lead to files that hold what they name."""

import re
from pathlib import Path

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


def test_every_file_of_the_readme_is_there():
    names = set(re.findall(r"\b([\w/]+\.py)\b", README)) | set(re.findall(r"\(((?:assets|docs)/[^)]+)\)", README))
    for name in names:
        assert (ROOT / name).exists(), name
