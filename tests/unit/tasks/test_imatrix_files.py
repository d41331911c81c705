"""Importance matrices as files: written as llama-imatrix writes them, added up, described."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from llamacli.engine.imatrix import Sums
from llamacli.errors import StorageError, UsageError
from llamacli.tasks import imatrix_write
from llamacli.tasks.imatrix_file import ImatrixFile, read_imatrix
from llamacli.tasks.imatrix_statistics import by_layer, by_tensor
from llamacli.tasks.imatrix_totals import Totals
from llamacli.tasks.imatrix_write import write_imatrix, write_legacy


def matrix(**changes: object) -> ImatrixFile:
    """One plain tensor and one of three experts, of which the last saw nothing."""
    values: dict[str, object] = {
        "sums": {
            "blk.0.ffn_up_exps.weight": np.array([[1, 2], [3, 4], [0, 0]], np.float32),
            "blk.0.attn_q.weight": np.array([[4, 8, 12]], np.float32),
        },
        "counts": {
            "blk.0.ffn_up_exps.weight": np.array([2, 4, 0], np.float32),
            "blk.0.attn_q.weight": np.array([6], np.float32),
        },
        "datasets": ["a.txt", "b.txt"],
        "chunk_count": 3,
        "chunk_size": 2,
    }
    return ImatrixFile(**{**values, **changes})  # type: ignore[arg-type]


def same(a: ImatrixFile, b: ImatrixFile) -> bool:
    arrays = (a.sums.items(), b.sums), (a.counts.items(), b.counts)
    alike = all(np.array_equal(array, other[name]) for items, other in arrays for name, array in items)
    return alike and (a.datasets, a.chunk_count, a.chunk_size) == (b.datasets, b.chunk_count, b.chunk_size)


def test_the_file_of_llama_imatrix_byte_for_byte(shared: Path, tmp_path: Path) -> None:
    reference = shared / "data/reference/stories260K-oz.imatrix.gguf"
    write_imatrix(tmp_path / "again", read_imatrix(reference))
    assert (tmp_path / "again").read_bytes() == reference.read_bytes()


def test_gguf_s_own_reader_reads_it(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "a.gguf", matrix())
    tensors = {t.name: (t.shape.tolist(), t.data.tolist()) for t in GGUFReader(tmp_path / "a.gguf").tensors}
    assert tensors == {
        "blk.0.attn_q.weight.in_sum2": ([3], [4, 8, 12]),
        "blk.0.attn_q.weight.counts": ([1], [6]),
        "blk.0.ffn_up_exps.weight.in_sum2": ([2, 3], [[1, 2], [3, 4], [0, 0]]),
        "blk.0.ffn_up_exps.weight.counts": ([1, 3], [[2], [4], [0]]),
    }
    assert same(read_imatrix(tmp_path / "a.gguf"), matrix())


def test_the_form_before_gguf(tmp_path: Path) -> None:
    """Means times calls, 1 where an expert saw nothing; entries by name; then chunks and the last data set."""
    write_legacy(tmp_path / "a.dat", matrix())
    plain, experts = b"blk.0.attn_q.weight", b"blk.0.ffn_up_exps.weight"
    means = [0.5 * 2, 1 * 2, 0.75 * 2, 1 * 2, 2, 2]
    assert (tmp_path / "a.dat").read_bytes() == (
        struct.pack("<i", 2)
        + struct.pack(f"<i{len(plain)}sii3f", len(plain), plain, 3, 3, *(3 * x / 6 for x in (4, 8, 12)))
        + struct.pack(f"<i{len(experts)}sii6f", len(experts), experts, 2, 6, *means)
        + struct.pack("<ii5s", 3, 5, b"b.txt")
    )
    again = read_imatrix(tmp_path / "a.dat")
    assert (again.chunk_size, again.counts["blk.0.attn_q.weight"].tolist()) == (0, [3])


@pytest.mark.parametrize("write", [write_imatrix, write_legacy])
def test_a_full_disk_leaves_the_old_file(write: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    real = imatrix_write.new_file

    class Full:
        def __init__(self, file: object) -> None:
            pass

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    class Replaced:
        def __init__(self, *arguments: object, **options: object) -> None:
            self._real = real(*arguments, **options)  # type: ignore[arg-type]

        def __enter__(self) -> Full:
            return Full(self._real.__enter__())

        def __exit__(self, *exception: object) -> object:
            return self._real.__exit__(*exception)  # type: ignore[arg-type]

    monkeypatch.setattr(imatrix_write, "new_file", Replaced)
    with pytest.raises(StorageError, match="No space left"):
        write(target, matrix())  # type: ignore[operator]
    assert (target.read_bytes(), list(tmp_path.iterdir())) == (b"old", [target])


# --- added up -------------------------------------------------------------------------------------------------------


def test_files_are_added_up(tmp_path: Path) -> None:
    totals = Totals(2)
    totals.add_file(tmp_path / "a", matrix())
    totals.add_file(tmp_path / "b", matrix(datasets=["c"]))
    found = totals.file(totals.datasets, totals.chunk_count)
    assert found.sums["blk.0.attn_q.weight"].tolist() == [[8, 16, 24]]
    assert found.counts["blk.0.ffn_up_exps.weight"].tolist() == [4, 8, 0]
    assert (found.datasets, found.chunk_count) == (["a.txt", "b.txt", "c"], 6)
    assert totals.partial() == {"blk.0.ffn_up_exps.weight": (1, 3)}


def test_the_older_form_is_as_long_as_the_chunks_here(tmp_path: Path) -> None:
    write_legacy(tmp_path / "a.dat", matrix())
    totals = Totals(10)
    totals.add_file(tmp_path / "a.dat", read_imatrix(tmp_path / "a.dat"))
    assert (totals.chunk_count, totals.names) == (3, {"blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"})
    collected = Sums(np.array([10, 10, 0, 0, 0, 0], np.float32), np.array([5, 0, 0]))
    totals.add({"blk.0.ffn_up_exps.weight": collected})
    found = totals.file([], 0)
    assert found.counts["blk.0.ffn_up_exps.weight"].tolist() == [25, 20, 20]  # its one count is every expert's
    assert found.sums["blk.0.ffn_up_exps.weight"].tolist() == [[20, 30], [15, 20], [20, 20]]


def test_older_files_repeat_the_count_of_a_tensor_without_experts(tmp_path: Path) -> None:
    totals = Totals(2)
    name = "blk.0.attn_k_b.weight"
    old = matrix(sums={name: np.ones((2, 3), np.float32)}, counts={name: np.array([4, 4], np.float32)})
    totals.add_file(tmp_path / "old", old)
    totals.add({name: Sums(np.ones(6, np.float32), np.array([2]))})
    found = totals.file([], 0)
    assert (found.counts[name].tolist(), found.sums[name].tolist()) == ([6], [[2] * 6])


def test_other_shapes_are_refused(tmp_path: Path) -> None:
    totals = Totals(2)
    totals.add_file(tmp_path / "a", matrix())
    other = matrix(sums={"blk.0.attn_q.weight": np.ones((1, 4), np.float32)})
    with pytest.raises(UsageError, match=r"b: blk\.0\.attn_q\.weight has 4 sums and 1 counts here, 3 and 1 elsewhere"):
        totals.add_file(
            tmp_path / "b", ImatrixFile(other.sums, {"blk.0.attn_q.weight": np.ones(1, np.float32)}, [], 1, 2)
        )


# --- described ------------------------------------------------------------------------------------------------------


def test_statistics() -> None:
    """By hand: means 1, 1, 4 of one tensor, and of the one before it 2, 2, 2."""
    ones = np.ones(1, np.float32)
    sums = {"blk.0.attn_q.weight": np.array([[2, 2, 2]], np.float32), "blk.1.attn_q.weight": np.array([[1, 1, 4]], "f")}
    first, second = by_tensor(matrix(sums=sums, counts=dict.fromkeys(sums, ones)))
    assert (first.layer, second.layer, second.tensor) == (0, 1, "attn_q")  # both sum up to 6
    assert (second.sum, second.min, second.max, second.mean, second.n) == (6, 1, 4, 2, 3)
    assert second.deviation == pytest.approx(2**0.5)
    assert second.entropy == pytest.approx(2 / 6 * np.log2(6) + 4 / 6 * np.log2(1.5))
    assert first.entropy_norm == pytest.approx(1)
    assert second.zd == pytest.approx(1 / 3)
    assert (first.cossim, second.cossim) == (0, pytest.approx(12 / (12**0.5 * 18**0.5)))
    assert by_layer([first, second])[1].cossim == second.cossim


def test_statistics_leave_out_experts_that_saw_nothing() -> None:
    (experts,) = [s for s in by_tensor(matrix()) if s.tensor == "ffn_up_exps"]
    assert (experts.n, experts.min, experts.max) == (4, 0.5, 1)
