"""What stands around the loops: resumable chunks, checkpoints, processes, the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import engine  # noqa: E402
from table import make_annotations  # noqa: E402


# ---------------------------------------------------------------- one resumable run over chunks

class Numbers(torch.utils.data.Dataset):
    """Clips of a table that need no video: clip i says its number."""

    def __init__(self, count: int, text: str = "wave"):
        self.table = make_annotations(["v"], [text], [0] * count, list(range(count)),
                                      [[0, 0, 1, 1]] * count, [0] * count)

    def __len__(self):
        return len(self.table)

    def __getitem__(self, i):
        return {"bad": str(i), "keyframe": i}


def squares(folder, clips=Numbers(50), key={"beta": 0.3}, stop_after=None, workers=0, **run):
    """(the square of each clip, the clips that were computed now) in chunks of 16 and batches of 5."""
    seen = []

    def compute(batch):
        if stop_after is not None and len(seen) >= stop_after:
            raise KeyboardInterrupt
        numbers = [int(i) for i in batch[0]["bad"]]
        seen.extend(numbers)
        return {"square": torch.tensor(numbers) ** 2}

    values = engine.run_chunks(Path(folder), key, clips, compute, engine.start_process("cpu"),
                               batch_size=5, workers=workers, **{"resume": True} | run)
    return [int(s) for value in values for s in value["square"]], seen


ALL = [i * i for i in range(50)]


def test_values_come_in_order_whatever_the_number_of_workers(tmp_path):
    assert squares(tmp_path / "a") == (ALL, list(range(50)))
    assert squares(tmp_path / "b", workers=3)[0] == ALL
    assert squares(tmp_path / "none", Numbers(0)) == ([], [])


def test_finished_chunks_are_kept_and_a_damaged_one_is_computed_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        squares(tmp_path, stop_after=36)                     # of the third chunk, 32..47, only a part
    assert squares(tmp_path) == (ALL, list(range(32, 50)))
    first, last = sorted(tmp_path.glob("*.pt"))[::3]
    first.write_bytes(first.read_bytes()[:200])
    last.write_bytes(b"")
    assert squares(tmp_path) == (ALL, [*range(16), 48, 49])
    assert squares(tmp_path) == (ALL, [])
    assert squares(tmp_path, resume=False) == (ALL, list(range(50)))


def test_a_run_goes_on_with_the_same_key_and_table_only(tmp_path):
    squares(tmp_path)
    with pytest.raises(ValueError, match="was started with --beta 0.3, not 1; give the same flags"):
        squares(tmp_path, key={"beta": 1})
    with pytest.raises(ValueError, match="was started on other data"):
        squares(tmp_path, Numbers(50, "walk"))
    assert squares(tmp_path, Numbers(50, "walk"), resume=False)[0] == ALL


def test_a_run_of_two_processes_that_is_killed_ends_with_one_process(tmp_path):
    def launch(folder, stop_after):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        return subprocess.run([*launcher, __file__, str(folder), str(stop_after)], text=True,
                              capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    whole = launch(tmp_path / "whole", stop_after=99)
    assert str(ALL) in whole.stdout, whole.stderr
    launch(tmp_path / "killed", stop_after=16)
    kept = {int(path.stem) for path in (tmp_path / "killed").glob("*.pt")}
    values, seen = squares(tmp_path / "killed")
    assert kept and values == ALL and seen == [i for i in range(50) if i // 16 not in kept]


# ---------------------------------------------------------------- as one of two processes

if __name__ == "__main__":
    print(squares(sys.argv[1], stop_after=int(sys.argv[2]))[0])
