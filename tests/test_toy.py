"""The toy's worlds: poses, scenes drawn again, what each world tells; pretraining that resumes."""

import csv

import numpy as np
import pytest
import torch

import toy
import worlds


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_movement_passes_its_key_poses_and_arms_take_the_shorter_way_round():
    poses = [dict(arms=((0, 0), (170, 40)), lean=10), dict(arms=((0, 0), (-170, 0)), lean=30)]
    first, half, second = (worlds.pose(poses, phase) for phase in (0, 0.25, 0.5))
    assert first["arms"].tolist() == [[0, 0], [170, 40]] and second["lean"] == 30
    assert half["arms"][1].tolist() == pytest.approx([180, 20])
    assert half["lean"] == pytest.approx(20)
    assert half["legs"].tolist() == [[-8, 0], [8, 0]]        # what no key pose says is as in STAND


def test_the_lowest_joint_stands_on_the_ground():
    for action, (*_, poses) in worlds.ACTIONS.items():
        for phase in (0, 0.2, 0.5, 0.9):
            p = worlds.pose(poses, phase)
            body = worlds.joints(p, 50, 90, 60, 1)
            lowest = max(*(point[1] for point in body.values()), body["head"][1] + 0.105 * 60)
            assert lowest == pytest.approx(90 - 60 * p["lift"]), action


def test_the_seed_draws_which_half_of_the_actions_is_novel():
    base, novel = toy.split(0)
    assert len(base) == len(novel) == 12 and sorted(base + novel) == sorted(worlds.ACTIONS)
    assert toy.split(0) == (base, novel) != toy.split(1)


def test_each_action_has_words_of_its_own():
    said = [word for name, (_, _, others, _) in worlds.ACTIONS.items() for word in (name, *others)]
    assert len(set(said)) == len(said)
    # a sentence's end tells which action it is
    assert not any(a != b and a.endswith(b) for a in said for b in said)


def test_a_scene_drawn_again_has_the_boxes_of_the_file_and_only_who_acts_is_labelled(tmp_path):
    actions = ["waving", "running"]
    worlds.write_set(tmp_path / "test.csv", "sports", actions, 4, [7, 1])
    written, everybody = rows(tmp_path / "test.csv"), rows(tmp_path / "test-people.csv")
    for number, row in enumerate(written):
        scene = worlds.compose(np.random.default_rng([7, 1, number]), "sports", actions)
        box = worlds.render(scene)[1][0, worlds.FPS // 2]
        corners = [float(row[name]) for name in ("x1", "y1", "x2", "y2")]
        assert corners == pytest.approx(box.tolist(), abs=1e-4)
        assert row["text"] == scene["people"][0]["action"]
    assert len(written) == 4 and len(everybody) >= 8
    assert {row["text"] for row in everybody} == {"person"}


def test_scenes_of_photos_tell_nothing_about_the_action():
    scenes = [worlds.compose(np.random.default_rng([0, number]), "photos", ["running"])["scene"]
              for number in range(400)]
    assert all(25 < scenes.count(name) < 75 for name in worlds.SCENES)


def test_strict_films_tell_of_no_novel_action_and_free_ones_mostly_in_other_words(tmp_path):
    base, novel = toy.split(3)
    worlds.write_set(tmp_path / "strict.csv", "films", base, 30, [0])
    worlds.write_set(tmp_path / "free.csv", "films", base + novel, 120, [1])
    said = {name: [row["text"] for row in rows(tmp_path / f"{name}.csv")]
            for name in ("strict", "free")}
    words = [word for name in novel for word in (name, *worlds.ACTIONS[name][2])]
    assert not any(text.endswith(word) for text in said["strict"] for word in words)
    own = sum(text.endswith(name) for text in said["free"] for name in novel)
    assert 0 < own < sum(text.endswith(word) for text in said["free"] for word in words) / 2


def test_pretraining_that_was_cut_short_ends_as_the_uninterrupted_one(tmp_path, monkeypatch):
    worlds.write_set(tmp_path / "captions.csv", "photos", sorted(worlds.ACTIONS), 8, [0])
    recipe = dict(steps=4, lr=1e-3, seed=0, batch_size=4, save_every=2)
    toy.pretrain(tmp_path / "captions.csv", tmp_path / "whole.pt", None, **recipe)
    plain, calls = toy.ovstad.info_nce, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(toy.ovstad, "info_nce", interrupted)
    with pytest.raises(KeyboardInterrupt):
        toy.pretrain(tmp_path / "captions.csv", tmp_path / "parts.pt", None, **recipe)
    toy.pretrain(tmp_path / "captions.csv", tmp_path / "parts.pt", None, **recipe)
    one, two = (torch.load(tmp_path / f"{name}.pt", weights_only=True)["model"]
                for name in ("whole", "parts"))
    assert len(calls) == 6                                   # 2 steps were done again
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_directions_are_paired_differences_of_the_seeds(capsys):
    toy.print_directions([
        {"zero global": {"base": 10, "novel": 20}, "fused": {"base": 15, "novel": 18}},
        {"zero global": {"base": 12, "novel": 20}, "fused": {"base": 13, "novel": 21}}])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("2")]
    assert lines[0][-7:] == ["+3.0", "(+1.0", "to", "+5.0)", "2", "of", "2"]
    assert lines[1][-7:] == ["-0.5", "(-2.0", "to", "+1.0)", "1", "of", "2"]
