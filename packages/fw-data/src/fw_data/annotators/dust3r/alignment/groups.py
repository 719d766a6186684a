"""Pairs that agree with each other but not with the rest: two scenes explain the frames.

Three pairs around a cycle of frames agree if their rotations cancel. Pairs that share such cycles are one group. Wrong
pairs with independent errors close no cycle; a second group that contradicts the largest one is another scene.
Axis legend: e pairs.
"""

from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from fw_data.annotators.dust3r.alignment.start import CYCLE_RAD, turn_angles


def conspiring_pairs(pairs: Int64[np.ndarray, "e 2"], rotation: Float64[np.ndarray, "e 3 3"]) -> Bool[np.ndarray, " e"]:
    """Pairs of the groups that contradict the largest one; `rotation` is that of the first camera to the second."""
    edges = sorted({(int(min(pair)), int(max(pair))) for pair in pairs})
    number = {edge: index for index, edge in enumerate(edges)}
    turn = np.zeros((len(edges), 3, 3))
    for (first, second), matrix in zip(pairs.tolist(), rotation, strict=True):
        turn[number[min(first, second), max(first, second)]] = matrix if first < second else matrix.T
    neighbors: dict[int, list[int]] = {}
    for first, second in edges:
        neighbors.setdefault(first, []).append(second)
    cycles = np.array(
        [
            (number[i, j], number[j, k], number[i, k])
            for i, later in neighbors.items()
            for j, k in combinations(later, 2)
            if (j, k) in number
        ],
        np.int64,
    ).reshape(-1, 3)
    agree = turn_angles(turn[cycles[:, 1]] @ turn[cycles[:, 0]] @ turn[cycles[:, 2]].swapaxes(1, 2)) < CYCLE_RAD
    closed = cycles[agree]
    links = coo_matrix(
        (np.ones(2 * len(closed)), (np.tile(closed[:, 0], 2), closed[:, 1:].T.reshape(-1))), (len(edges), len(edges))
    )
    _, group = connected_components(links, directed=False)
    group[~np.isin(np.arange(len(edges)), closed)] = -1
    found = np.zeros(len(edges), bool)
    if len(closed):
        largest = int(np.bincount(group[group >= 0]).argmax())
        scene = _frame_rotations(edges, turn, np.flatnonzero(group == largest))
        for other in set(group.tolist()) - {-1, largest}:
            members = np.flatnonzero(group == other)
            found[members] = _contradict(scene, _frame_rotations(edges, turn, members))
    return np.array([found[number[min(pair), max(pair)]] for pair in pairs.tolist()], bool)


def _frame_rotations(
    edges: list[tuple[int, int]], turn: Float64[np.ndarray, "n 3 3"], members: Int64[np.ndarray, " m"]
) -> dict[int, np.ndarray]:
    """World-to-camera rotation of every frame of a connected group, that of its first frame the identity."""
    around: dict[int, list[tuple[int, np.ndarray]]] = {}
    for index in members:
        first, second = edges[index]
        around.setdefault(first, []).append((second, turn[index]))
        around.setdefault(second, []).append((first, turn[index].T))
    start = edges[members[0]][0]
    found, todo = {start: np.eye(3)}, [start]
    while todo:
        frame = todo.pop()
        for other, matrix in around[frame]:
            if other not in found:
                found[other] = matrix @ found[frame]
                todo.append(other)
    return found


def _contradict(scene: dict[int, np.ndarray], other: dict[int, np.ndarray]) -> bool:
    """Whether the frames that two groups share turn differently in them; False for fewer than two frames."""
    shared = sorted(set(scene) & set(other))
    if len(shared) < 2:
        return False
    worlds = np.stack([scene[frame].T @ other[frame] for frame in shared])
    return bool(np.median(turn_angles(worlds[1:] @ worlds[0].T)) > 2 * CYCLE_RAD)
