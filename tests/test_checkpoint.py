"""Checkpoint files: whole or not there, no more of them than asked for, and only for the model they are of."""

import os

import pytest
import torch
from torch import nn

from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.engine import checkpoint as module
from lib.engine.checkpoint import CheckpointFiles, random_state, restore_random_state
from lib.weights.loading import load_checkpoint, load_model


def state(value):
    return {"model": {"weight": torch.full((4,), float(value))}}


def value_of(path):
    return load_checkpoint(path)["model"]["weight"][0].item()


def names(folder):
    return sorted(os.listdir(folder))


class TestWriting:
    @pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
    def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(self, tmp_path, failure):
        path = tmp_path / "file"
        path.write_bytes(b"old")

        def write(file):
            file.write(b"half of the ne")
            file.flush()
            raise failure

        with pytest.raises(type(failure)):
            write_atomically(path, write)
        assert path.read_bytes() == b"old"
        assert names(tmp_path) == ["file"]

    def test_the_file_appears_only_when_its_content_is_on_the_disk(self, tmp_path, monkeypatch):
        order = []
        monkeypatch.setattr(os, "fsync", lambda handle: order.append(("fsync", os.fstat(handle).st_size)))
        replace = os.replace
        monkeypatch.setattr(os, "replace", lambda *paths: (order.append("rename"), replace(*paths)))
        write_atomically(tmp_path / "file", lambda file: file.write(b"content"))
        assert order == [("fsync", 7), "rename"]

    def test_a_save_that_fails_keeps_every_name_as_it_was(self, tmp_path, monkeypatch):
        files = CheckpointFiles(tmp_path, keep=1)
        files.save(state(1), 1, is_best=True)
        before = names(tmp_path)

        def torch_save(content, file):
            try:
                raise OSError(28, "No space left on device")
            except OSError:
                raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904 (this is how PyTorch does it)

        monkeypatch.setattr(module.torch, "save", torch_save)
        with pytest.raises(UserError, match=r"iter_2\.pth: No space left on device; the previous one is intact"):
            files.save(state(2), 2, is_best=True)
        assert names(tmp_path) == before
        assert value_of(tmp_path / "latest.pth") == value_of(tmp_path / "best.pth") == 1


class TestNames:
    def test_latest_and_best_point_to_the_right_iterations(self, tmp_path):
        files = CheckpointFiles(tmp_path, keep=1)
        for iteration, is_best in ((1, False), (2, True), (3, False)):
            files.save(state(iteration), iteration, is_best)
        assert names(tmp_path) == ["best.pth", "iter_3.pth", "latest.pth"]
        assert value_of(tmp_path / "latest.pth") == 3
        assert value_of(tmp_path / "best.pth") == 2

    def test_one_write_serves_all_names(self, tmp_path):
        CheckpointFiles(tmp_path, keep=1).save(state(1), 1, is_best=True)
        assert {os.stat(tmp_path / name).st_ino for name in names(tmp_path)} == {os.stat(tmp_path / "best.pth").st_ino}

    def test_a_file_system_without_links_gets_copies(self, tmp_path, monkeypatch):
        def link(*paths):
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)
        CheckpointFiles(tmp_path, keep=1).save(state(1), 1, is_best=True)
        assert [value_of(tmp_path / name) for name in ("best.pth", "iter_1.pth", "latest.pth")] == [1, 1, 1]

    def test_the_last_ones_are_kept_by_number_and_not_by_spelling(self, tmp_path):
        files = CheckpointFiles(tmp_path, keep=2)
        for iteration in (8, 9, 10):
            files.save(state(iteration), iteration, is_best=False)
        assert names(tmp_path) == ["iter_10.pth", "iter_9.pth", "latest.pth"]

    def test_a_run_resumed_from_an_earlier_one_drops_the_course_it_left(self, tmp_path):
        files = CheckpointFiles(tmp_path, keep=2)
        for iteration in (4, 6, 5):
            files.save(state(iteration), iteration, is_best=False)
        assert names(tmp_path) == ["iter_4.pth", "iter_5.pth", "latest.pth"]

    def test_what_a_kill_left_behind_goes_with_the_next_save(self, tmp_path):
        (tmp_path / ".iter_7.pth.abc.part").write_bytes(b"half")
        CheckpointFiles(tmp_path, keep=1).save(state(8), 8, is_best=False)
        assert names(tmp_path) == ["iter_8.pth", "latest.pth"]

    def test_files_of_the_users_own_stay_and_stop_nothing(self, tmp_path):
        own = ("iter_10_backup.pth", "iter_.pth", "iter_1.pth.old", "iter_-1.pth", "iter_007.pth", "iter_\u0663.pth")
        for name in own:
            (tmp_path / name).write_bytes(b"mine")
        for name in ("iter_3.pth", ".note.part"):
            (tmp_path / name).mkdir()
        files = CheckpointFiles(tmp_path, keep=1)
        for iteration in (8, 9):
            files.save(state(iteration), iteration, is_best=False)
        assert names(tmp_path) == sorted([*own, "iter_3.pth", ".note.part", "iter_9.pth", "latest.pth"])


class TestReading:
    def test_another_format_is_named(self, tmp_path):
        torch.save({"format": 99, **state(1)}, tmp_path / "future.pth")
        with pytest.raises(UserError, match=r"future\.pth has checkpoint format 99"):
            load_checkpoint(tmp_path / "future.pth")

    @pytest.mark.parametrize(
        "other, count",
        [
            (nn.Linear(3, 2, bias=False), "0 parameters missing, 0 unknown, 1 of another shape"),
            (nn.Linear(2, 2, bias=True), "1 parameters missing, 0 unknown, 0 of another shape"),
            (nn.Linear(2, 2, bias=False).requires_grad_(False), None),
        ],
    )
    def test_weights_of_another_model_are_refused_and_counted(self, tmp_path, other, count):
        weights = nn.Linear(2, 2, bias=False).state_dict()
        if count is None:
            load_model(other, weights, tmp_path)
            assert torch.equal(other.weight, weights["weight"])
            return
        with pytest.raises(UserError, match=f"holds another model: {count}"):
            load_model(other, weights, tmp_path)


def test_restored_random_states_repeat_the_numbers():
    cpu = torch.device("cpu")
    before = random_state(cpu)
    numbers = torch.rand(5)
    restore_random_state(before, cpu)
    assert torch.equal(torch.rand(5), numbers)
