"""What several test files share: a tiny rendered world on disk."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ovstad  # noqa: E402
import worlds  # noqa: E402


BASE = ["waving", "clapping", "kicking", "squatting", "bowing", "walking", "running", "spinning", "punching"]
NOVEL = ["jumping", "lying down", "sitting"]


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A rendered world of a few scenes, and a toy model that was pretrained for no time at all."""
    folder = tmp_path_factory.mktemp("world")
    for number, (name, actions) in enumerate([("align", BASE), ("train", BASE), ("test", BASE + NOVEL)]):
        worlds.write_set(folder / f"{name}.csv", "crowd", actions, 24, [number])
    (folder / "novel.txt").write_text("\n".join(NOVEL))
    torch.manual_seed(0)
    model = ovstad.build_model("toy")
    torch.save({"model": model.state_dict()}, folder / "start.pth")
    return folder
