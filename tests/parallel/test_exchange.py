"""The exchange: every row comes to its rank, once, in rounds that hold no more than asked."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from mpipipe.data.errors import BadDataError, MpipipeError, OutputError
from mpipipe.parallel.exchange import exchange
from mpipipe.parallel.world import World

ROW = np.dtype([("id", "<i8"), ("value", "<f4")])


def batches(rank: int, size: int, seed: int, *, all_to: int | None = None) -> Iterator:
    """Some batches of one rank, empty ones too; ids tell rank and number."""
    rng = np.random.default_rng(seed + rank)
    number = 0
    for _ in range(rng.integers(0, 12)):
        rows = np.zeros(rng.integers(0, 400), dtype=ROW)
        rows["id"] = rank * 1_000_000 + number + np.arange(len(rows))
        rows["value"] = rows["id"] % 1000
        number += len(rows)
        yield (
            rows,
            rng.integers(0, size, len(rows)) if all_to is None else np.full(len(rows), all_to),
        )


def run(world: World, seed: int, round_bytes: int, **keys) -> tuple[np.ndarray, int, int]:
    found: list[np.ndarray] = []

    def deliver(rows: np.ndarray) -> None:
        found.append(rows.copy())

    n_rounds = exchange(
        world, batches(world.rank, world.size, seed, **keys), deliver, ROW, round_bytes
    )
    rows = np.concatenate([np.zeros(0, dtype=ROW), *found])
    return rows, n_rounds, max((len(part) for part in found), default=0)


def expected(world: World, seed: int, **keys) -> list[int]:
    """Ids that must come to this rank."""
    ids: list[int] = []
    for rank in range(world.size):
        for rows, ranks in batches(rank, world.size, seed, **keys):
            ids += rows["id"][ranks == world.rank].tolist()
    return sorted(ids)


@pytest.mark.parametrize("round_bytes", [1, 1000, 1 << 20])
def test_alone_everything_comes_back(round_bytes):
    world = World()
    rows, n_rounds, most = run(world, 3, round_bytes)
    assert sorted(rows["id"].tolist()) == expected(world, 3)
    assert np.array_equal(rows["value"], (rows["id"] % 1000).astype("f4"))
    assert most * ROW.itemsize <= max(round_bytes, ROW.itemsize)
    assert n_rounds >= len(rows) * ROW.itemsize / max(round_bytes, ROW.itemsize)


@pytest.mark.mpi
@pytest.mark.parametrize("round_bytes", [500, 1 << 20])
@pytest.mark.parametrize("all_to", [None, 0])
def test_every_row_comes_to_its_rank_once(comm, round_bytes, all_to):
    with World.start() as world:
        for seed in (1, 2, 3):
            rows, _, most = run(world, seed, round_bytes, all_to=all_to)
            assert sorted(rows["id"].tolist()) == expected(world, seed, all_to=all_to)
            share = max(round_bytes // world.size, ROW.itemsize)
            assert most * ROW.itemsize <= share


@pytest.mark.mpi
def test_an_error_of_one_rank_ends_it_on_all(comm):
    def broken(world: World) -> Iterator:
        yield from batches(world.rank, world.size, 7)
        if world.rank == world.size - 1:
            raise BadDataError("a record is damaged")

    with World.start() as world:
        with pytest.raises(MpipipeError, match="damaged|another rank"):
            exchange(world, broken(world), lambda rows: None, ROW, 4000)

        def full(rows: np.ndarray) -> None:
            if world.rank == 0:
                raise OutputError("disk full")

        with pytest.raises(MpipipeError, match="disk full|another rank"):
            exchange(world, batches(world.rank, world.size, 1, all_to=0), full, ROW, 4000)
        assert world.agree(True)
