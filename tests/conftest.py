"""What several test files share: a tiny rendered world on disk."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ovstad  # noqa: E402
import toy  # noqa: E402


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A rendered world of a few scenes, and a toy model that was pretrained for no time at all."""
    folder = tmp_path_factory.mktemp("world")
    for number, (name, actions) in enumerate([("align", toy.BASE), ("train", toy.BASE), ("test", toy.BASE + toy.NOVEL)]):
        toy.write_set(folder, name, 24, [0.3, 0.4, 0.3], actions, number, together=0)
    (folder / "novel.txt").write_text("\n".join(toy.NOVEL))
    torch.manual_seed(0)
    model = ovstad.build_model("toy")
    torch.save({"model": model.state_dict()}, folder / "start.pth")
    return folder
