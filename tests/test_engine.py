"""What stands around the loops: resumable chunks, checkpoints, processes, the command line."""

import argparse
import math
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import in_processes, start_processes
from formats.files import replacing

import engine
import training
from table import make_annotations


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


def squares(folder, clips=Numbers(50), key={"beta": 0.3}, stop_after=None, workers=0, resume=True):
    """(the square of each clip, the clips computed now) in chunks of 16 and batches of 5."""
    seen = []

    def compute(batch):
        if stop_after is not None and len(seen) >= stop_after:
            raise KeyboardInterrupt
        numbers = [int(i) for i in batch[0]["bad"]]
        seen.extend(numbers)
        return {"square": torch.tensor(numbers) ** 2}

    values = engine.run_chunks(Path(folder), key, clips, compute, engine.start_process("cpu"),
                               batch_size=5, workers=workers, resume=resume)
    return [int(s) for value in values for s in value["square"]], seen


ALL = [i * i for i in range(50)]


def test_values_come_in_order_whatever_the_number_of_workers(tmp_path):
    assert squares(tmp_path / "a") == (ALL, list(range(50)))
    assert squares(tmp_path / "b", workers=3)[0] == ALL
    assert squares(tmp_path / "none", Numbers(0)) == ([], [])


def test_finished_chunks_are_kept_and_a_damaged_one_is_computed_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        squares(tmp_path, stop_after=36)                     # within the third chunk, 32..47
    assert squares(tmp_path) == (ALL, list(range(32, 50)))
    first, last = sorted(tmp_path.glob("*.pt"))[::3]
    first.write_bytes(first.read_bytes()[:200])
    last.write_bytes(b"")
    assert squares(tmp_path) == (ALL, [*range(16), 48, 49])
    assert squares(tmp_path) == (ALL, [])
    assert squares(tmp_path, resume=False) == (ALL, list(range(50)))


def test_a_run_goes_on_with_the_same_key_table_and_video_files_which_may_move(tmp_path):
    clips, film = Numbers(50), tmp_path / "v.mp4"
    film.write_bytes(b"one film")
    clips.table.files = [str(film)]
    squares(tmp_path / "run", clips)
    clips.table.files = [str(film.rename(tmp_path / "moved.mp4"))]
    assert squares(tmp_path / "run", clips) == (ALL, [])
    with pytest.raises(ValueError, match="was started with --beta 0.3, not 1; give the same flags"):
        squares(tmp_path / "run", clips, key={"beta": 1})
    (tmp_path / "moved.mp4").write_bytes(b"another film")
    with pytest.raises(ValueError, match="was started on other data .*video files have changed"):
        squares(tmp_path / "run", clips)
    assert squares(tmp_path / "run", Numbers(50), resume=False)[0] == ALL
    for content in ("[]", "{}"):
        (tmp_path / "run" / "key.json").write_text(content)
        with pytest.raises(ValueError, match="key.json: not as a run of ours writes it"):
            squares(tmp_path / "run")


def check_squares(folder):
    values, seen = squares(folder)
    assert values == (ALL if engine.is_main() else []) and 0 < len(seen) < 50


def die_after_a_chunk(folder):
    squares(folder, stop_after=16)


def test_a_run_of_two_processes_that_is_killed_ends_with_one_process(tmp_path):
    in_processes(2, check_squares, tmp_path / "whole")
    for process in start_processes(2, die_after_a_chunk, tmp_path / "killed"):
        process.join(60)
        assert process.exitcode != 0
    kept = {int(path.stem) for path in (tmp_path / "killed").glob("*.pt")}
    values, seen = squares(tmp_path / "killed")
    assert kept and values == ALL and seen == [i for i in range(50) if i // 16 not in kept]


def test_a_table_is_known_by_its_rows_words_and_frames(tmp_path):
    table = Numbers(9).table
    others = [replace(table, box=table.box * 0.5), Numbers(8).table, Numbers(9, "walk").table,
              replace(table, videos=["w"]),
              replace(table, files=[str(tmp_path)])]         # a folder of no frames
    assert len({engine.fingerprint(one) for one in [table, *others]}) == 6


# ---------------------------------------------------------------- one run in a folder

def be_refused(lock):
    engine.time.sleep = lambda seconds: None
    with pytest.raises(ValueError, match="v.lock: another run is writing there; wait for it, or c"):
        with engine.alone(lock):
            pass


def be_killed(lock):
    with engine.alone(lock):
        os._exit(0)


def test_a_second_run_where_one_writes_is_refused_and_after_a_killed_one_is_not(tmp_path):
    lock = tmp_path / "out" / "v.lock"
    for _ in range(2):                                       # and again in the same process
        with engine.alone(lock):
            in_processes(1, be_refused, lock)
    in_processes(1, be_killed, lock)
    with engine.alone(lock):
        in_processes(1, be_refused, lock)
    assert os.listdir(tmp_path / "out") == []


def test_an_output_that_is_no_folder_is_told_with_its_flag(tmp_path):
    (tmp_path / "p.csv").touch()
    for out in (tmp_path / "p.csv", tmp_path / "p.csv" / "deep"):
        with pytest.raises(ValueError, match=f"--out {out}: .*p.csv is no folder to which"):
            with engine.alone(out / "run.lock"):
                pass


# ---------------------------------------------------------------- checkpoints

def flags(out, *more):
    parser = argparse.ArgumentParser()
    training.add_optimisation_flags(parser, 2, 4, 0.1, 0.0, warmup=0)
    engine.add_run_flags(parser)
    parser.set_defaults(out=str(out), accumulate=1, table="0123")
    return parser.parse_args([*more])


def linear(args):
    """A model after one step, and its optimiser."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = training.make_optimizer(model, args)
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    return model, optimizer


def write_run(args, **changes):
    model, optimizer = linear(args)
    engine.save_checkpoint(Path(args.out) / "last.pt", {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 1, "arch": "toy",
        "stage": "align", "args": engine.plain(args)} | changes)
    return optimizer.state_dict()


def test_a_run_goes_on_from_its_checkpoint_with_the_same_flags_and_data(tmp_path):
    args = flags(tmp_path)
    assert training.resume(args, *linear(args)) == 0
    write_run(args)
    args.resume, args.workers = True, 7
    assert training.resume(args, *linear(args)) == 1
    for name, value, message in (("resume", False, "a run is already there; go on with --resume"),
                                 ("lr", 0.2, "was started with --lr 0.1, not 0.2"),
                                 ("table", "4567", "was started on other data")):
        changed = argparse.Namespace(**vars(args) | {name: value})
        with pytest.raises(ValueError, match=f"last.pt: {message}"):
            training.resume(changed, *linear(args))
    torch.save({"model": linear(args)[0].state_dict()}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="holds weights, but no run to go on with"):
        training.resume(args, *linear(args))


def test_a_checkpoint_whose_optimiser_is_damaged_is_not_gone_on_with(tmp_path):
    args = flags(tmp_path, "--resume")
    sound = write_run(args)

    def with_momentum(value):
        return sound | {"state": {i: {"momentum_buffer": value} for i in sound["state"]}}

    for state, reason in (({}, ""), (sound | {"state": {}}, "the optimiser's memory is empty"),
                          (sound | {"param_groups": []}, "different number of parameter groups"),
                          (with_momentum(torch.zeros(5)), "does not fit"),
                          (with_momentum(torch.tensor(math.nan)), "not finite")):
        write_run(args, optimizer=state)
        message = f"last.pt: cannot be resumed .*{reason}.*another --out"
        with pytest.raises(ValueError, match=message):
            training.resume(args, *linear(args))


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path):
    def save(step, weights):
        engine.save_checkpoint(tmp_path / "last.pt", {"model": {"w": weights}, "step": step})

    save(1, torch.ones(2))
    with pytest.raises(ValueError, match="not finite after step 2"):
        save(2, torch.tensor([1.0, math.inf]))
    for size in (1, 1 << 20):
        os.symlink("/dev/full", tmp_path / "last.pt.part")
        with pytest.raises(OSError, match="No space left"):
            save(2, torch.zeros(size))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)       # a disk that is full midway
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large: '.*last.pt'"):
            save(2, torch.zeros(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 1
    assert os.listdir(tmp_path) == ["last.pt"]


def test_ctrl_c_while_a_file_is_written_stays_ctrl_c_and_leaves_the_old_file(tmp_path):
    class Stopped:
        def write(self, content):                            # torch's writer hides what this raises
            raise KeyboardInterrupt

        def flush(self):
            pass

    (tmp_path / "a.pt").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.pt", binary=True):
        torch.save({"w": torch.ones(2)}, Stopped())
    assert os.listdir(tmp_path) == ["a.pt"] and (tmp_path / "a.pt").read_bytes() == b"old"


# ---------------------------------------------------------------- the loop's surroundings

def test_without_a_terminal_progress_is_lines(monkeypatch, capsys):
    monkeypatch.setattr(engine.Progress, "PERIOD", 0)
    progress = engine.Progress(40, 10, "step", engine.start_process("cpu"))
    progress.set_note({"loss": "0.5", "clips/s": "3.2"})
    progress.update(20)
    progress.close()
    line = capsys.readouterr().err.strip()
    assert line == "step 30 of 40  loss 0.5  clips/s 3.2  0.0 hours to go"


def test_a_run_too_short_to_judge_is_judged_at_its_end_and_a_bad_clip_is_named_once(
        tmp_path, capsys):
    args = flags(tmp_path, "--batch-size", "4", "--iterations", "100")
    # of the last two runs 12 clips are left
    long, short, enough = (engine.BadClips(args, start) for start in (0, 97, 97))
    long.count(8, ["a.mp4 0 s: broken"] * 3)                 # over a quarter; it may get better
    long.count(4, ["a.mp4 0 s: broken", "b.mp4 0 s: broken"])
    assert capsys.readouterr().err == "skipped a.mp4 0 s: broken\nskipped b.mp4 0 s: broken\n"
    short.count(8, ["a.mp4 0 s: broken"] * 3)
    with pytest.raises(ValueError, match="4 of 12 clips could not be read, the last one being a.m"):
        short.count(4, ["a.mp4 0 s: broken"])
    enough.count(12, ["a.mp4 0 s: broken"] * 3)


# ---------------------------------------------------------------- the command line

def ends(main, capsys):
    with pytest.raises(SystemExit) as stop:
        engine.cli(main)
    return stop.value.code, capsys.readouterr().err


def raises(error):
    def main():
        raise error
    return main


def test_what_a_person_can_mend_is_one_line_and_what_not_is_a_traceback(capsys):
    for error, line in (
            (ValueError("a.csv:3: two\n  words"), "error: a.csv:3: two words"),
            (FileNotFoundError(2, "No such file", "b.csv"),
             "error: [Errno 2] No such file: 'b.csv'"),
            (ValueError("Caught ValueError in worker 0.\nOriginal Traceback:\n  ...\n"
                        "ValueError: c.mp4: bad\n"), "error: ValueError: c.mp4: bad"),
            (MemoryError("Unable to allocate 7 GiB"),
             "error: out of memory, it seems: Unable to allocate 7 GiB; "
             "give a smaller --batch-size or fewer --workers")):
        assert ends(raises(error), capsys) == (2, line + "\n")
    status, line = ends(lambda: torch.zeros(1 << 50), capsys)
    assert status == 2 and line.startswith("error: out of memory") and line.count("\n") == 1
    with pytest.raises(RuntimeError, match="a fault of ours"):
        engine.cli(raises(RuntimeError("a fault of ours")))


def print_to_a_closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), open(os.devnull, "w")
    sys.stderr.close()                                       # so that a line there is an error
    with pytest.raises(SystemExit) as stop:
        engine.cli(lambda: print("a row", flush=True))
    assert stop.value.code == 141
    sys.stdout.flush()


def test_a_closed_pipe_ends_a_script_without_a_word():
    in_processes(1, print_to_a_closed_pipe)


def test_ctrl_c_says_what_was_kept_and_how_to_go_on(tmp_path, capsys):
    def interrupted():
        engine.save_checkpoint(tmp_path / "last.pt", {"step": 7})
        raise KeyboardInterrupt

    line = f"{tmp_path / 'last.pt'} holds step 7; the same command with --resume goes on\n"
    assert ends(interrupted, capsys) == (130, f"interrupted: {line}")
