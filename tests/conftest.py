"""What several test files share: a tiny rendered world on disk, and processes like torchrun's."""

import copyreg
import importlib
import multiprocessing
import os
import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import ovstad  # noqa: E402
import worlds  # noqa: E402

BASE = ["waving", "clapping", "kicking", "squatting", "bowing", "walking", "running", "spinning",
        "punching"]
NOVEL = ["jumping", "lying down", "sitting"]


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A rendered world of a few scenes, and a toy model that was pretrained for no time at all."""
    folder = tmp_path_factory.mktemp("world")
    for number, (name, actions) in enumerate([("align", BASE), ("train", BASE),
                                              ("test", BASE + NOVEL)]):
        worlds.write_set(folder / f"{name}.csv", "crowd", actions, 24, [number])
    (folder / "novel.txt").write_text("\n".join(NOVEL))
    torch.manual_seed(0)
    model = ovstad.build_model("toy")
    torch.save({"model": model.state_dict()}, folder / "start.pth")
    return folder


@pytest.fixture
def one_thread():
    """Sums come in the same order in all processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# a process that is spawned imports the modules among its arguments
copyreg.pickle(ModuleType, lambda module: (importlib.import_module, (module.__name__,)))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_processes(count: int, function, *args) -> list:
    """function(*args) in processes like torchrun's, by a fork, which needs no second import."""
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    port = free_port()
    processes = [context.Process(target=as_rank, args=(rank, count, port, function, args))
                 for rank in range(count)]
    for process in processes:
        process.start()
    return processes


def as_rank(rank: int, count: int, port: int, function, args: tuple) -> None:
    torch.set_num_threads(1)
    if count > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                       "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    function(*args)


def in_processes(count: int, function, *args) -> None:
    """Wait for them; what they print goes where the test's own output goes (fixture capfd)."""
    processes = start_processes(count, function, *args)
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * count


def main_of(script, *argv) -> None:
    """script.main() as its command line runs it, here or in_processes."""
    sys.argv = [script.__name__, *map(str, argv)]
    script.main()
