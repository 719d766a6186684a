"""How good and how fast the global alignment is, beside the published schedule of 300 Adam steps.

    python -m benchmarks.alignment             # the recorded set, the ladder of noise and wrong pairs, 81 frames
    python -m benchmarks.alignment --adam      # and other stretches, wide pairs, both methods (half an hour)

Needs the RedKitchen recording in ../shared/data; times are processor seconds. The kinds of noise are described in
benchmarks/alignment_data.py. ATE is after a similarity alignment of the camera centers.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.adam_reference import align_with_adam
from benchmarks.alignment_data import DATA, Noise, PairMaps, SceneTruth, make_pairs, redkitchen
from fw_data.annotators.dust3r.alignment import PairClouds, align
from fw_data.annotators.dust3r.pairs import Graph, pair_graph
from fw_geometry.metrics import ate, rpe

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "reference" / "golden_dust3r" / "align_a"
UPSTREAM = "published code   ATE  0.502 mm               20.5 s (as recorded, on an idle machine of this kind)"
NOISE, OUTLIERS = (0.0, 0.01, 0.02, 0.05), (0.0, 0.1, 0.3)
GRAPH_12 = sorted({*pair_graph(12, "swin", 3), *pair_graph(12, "logwin", 4)})
WIDE_12 = [(i, j) for i in range(12) for j in range(12) if abs(i - j) >= 3]


class Case(NamedTuple):
    """What is compared with the published schedule, with every kind of noise."""

    name: str
    graph: list[tuple[int, int]]
    step: int
    """Recorded frames from one of the 12 frames to the next."""
    starts: tuple[int, ...]
    noise: float
    outliers: float


CASES = (
    Case("12 frames, 2 % noise", GRAPH_12, 4, (0, 9, 18, 27, 36), 0.02, 0.0),
    Case("12 frames, 5 % noise, 10 % wrong pairs", GRAPH_12, 4, (0, 18, 36), 0.05, 0.1),
    Case("12 frames, pairs 21 to 77 frames apart, 2 % noise", WIDE_12, 7, (0, 1, 2, 3), 0.02, 0.0),
    Case("12 frames, pairs 21 to 77 frames apart, 5 % noise, 10 % wrong pairs", WIDE_12, 7, (0, 1, 2, 3), 0.05, 0.1),
)


class AlignmentOutcome(NamedTuple):
    """One alignment, measured."""

    ate_mm: float
    rot_deg: float
    focal_percent: float
    cpu_s: float

    def __str__(self) -> str:
        return f"ATE {self.ate_mm:6.3f} mm  turn {self.rot_deg:.4f} deg  {self.cpu_s:5.2f} s"


def clouds_of(maps: PairMaps, truth: SceneTruth, step: int) -> PairClouds:
    """Every `step`-th pixel of the maps, each way."""

    def thin(values: np.ndarray) -> np.ndarray:
        return values[:, ::step, ::step].reshape(len(values), -1, *values.shape[3:]).astype(np.float64)

    def weight(confidence: np.ndarray) -> np.ndarray:
        kept = thin(confidence)
        return np.where(kept > 1.001, np.log(kept), 0.0)

    return PairClouds(
        pairs=maps.pairs.astype(np.int64),
        frames=len(truth.depth_m),
        first=thin(maps.first),
        second=thin(maps.second),
        first_weight=weight(maps.first_confidence),
        second_weight=weight(maps.second_confidence),
        offsets_px=thin(truth.offsets_px()[None])[0],
    )


def ours(maps: PairMaps, truth: SceneTruth) -> AlignmentOutcome:
    """The alignment of the dust3r backend, on a quarter of the pixels."""
    clouds = clouds_of(maps, truth, 2)
    begun = time.process_time()
    found = align(clouds)
    seconds = time.process_time() - begun
    focal = 100 * abs(float(np.median(found.focal_px)) / truth.focal_px - 1)
    return _outcome(found.pose_c2w, truth, seconds, focal)


def adam(maps: PairMaps, truth: SceneTruth) -> AlignmentOutcome:
    """The published schedule, on all pixels."""
    clouds = clouds_of(maps, truth, 1)
    begun = time.process_time()
    pose = align_with_adam(clouds)
    return _outcome(pose, truth, time.process_time() - begun, float("nan"))


def recorded() -> tuple[PairMaps, SceneTruth]:
    """The recorded set align_a."""
    stored, true = (np.load(RECORDED / f"{name}.npz", allow_pickle=False) for name in ("pairs", "gt"))
    pairs = stored["edges"].astype(np.int64)
    levels, valid = stored["conf_level"][:, :, None, None], stored["valid"]
    confidence = [np.where(valid[pairs[:, side]], levels[:, side], 1.0001) for side in (0, 1)]
    maps = PairMaps(
        pairs=pairs,
        first=stored["pts_view1"],
        second=stored["pts_view2_in_1"],
        first_confidence=confidence[0],
        second_confidence=confidence[1],
        outlier=true["outlier_kind"],
    )
    depth = true["depth_mm"] / 1000.0
    return maps, SceneTruth(depth_m=depth, pose_c2w=true["cam_to_world"], focal_px=float(true["focal_px"]))


def ladder(
    kind: Noise, run: Callable[[PairMaps, SceneTruth], AlignmentOutcome] = ours
) -> dict[tuple[float, float], AlignmentOutcome]:
    """ATE for every noise and share of wrong pairs; 12 frames, 84 pairs."""
    truth = redkitchen(0, 12, 4)
    return {
        (noise, outliers): run(make_pairs(truth, GRAPH_12, noise=noise, outliers=outliers, seed=3, kind=kind), truth)
        for noise in NOISE
        for outliers in OUTLIERS
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; 2 without the recording."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adam", action="store_true", help="also other stretches and wide pairs with both methods")
    options = parser.parse_args(arguments)
    if not DATA.is_dir():
        print(f"{DATA} is absent: the recording is not part of this repository")
        return 2
    torch.set_num_threads(1)
    if RECORDED.is_dir():
        maps, truth = recorded()
        print(f"align_a: 12 frames, 84 pairs, 84x48, 2 % noise\n  ours             {ours(maps, truth)}")
        print(f"  300 Adam steps   {adam(maps, truth)}\n  {UPSTREAM}", flush=True)
    for kind in ("along", "points", "motion"):
        print(f"\nnoise '{kind}': ATE in mm by noise (down) and wrong pairs (across); path 757 mm")
        table = ladder(kind)
        print("        " + "".join(f"{100 * share:8.0f} %" for share in OUTLIERS))
        for noise in NOISE:
            print(f"  {100 * noise:3.0f} % " + "".join(f"{table[noise, share].ate_mm:10.3f}" for share in OUTLIERS))
        print(f"  {max(o.cpu_s for o in table.values()):.2f} s at most", flush=True)
    truth = redkitchen(0, 81, 1)
    print(f"\n81 frames, 2 % noise, path {1000 * truth.path_m:.0f} mm")
    graphs: tuple[tuple[Graph, int], ...] = (("logwin", 5), ("swin", 3))
    for graph, reach in graphs:
        for kind in ("along", "points", "motion"):
            maps = make_pairs(truth, pair_graph(81, graph, reach), noise=0.02, outliers=0.0, seed=1, kind=kind)
            print(f"  {graph} {reach} {kind:7} {ours(maps, truth)}", flush=True)
    if options.adam:
        _compare()
    return 0


def _compare() -> None:
    for case in CASES:
        for kind in ("along", "points", "motion"):
            print(f"\n{case.name}, noise '{kind}': ours | 300 Adam steps")
            better = 0
            for seed, begin in enumerate(case.starts, start=11):
                truth = redkitchen(begin, 12, case.step)
                maps = make_pairs(truth, case.graph, noise=case.noise, outliers=case.outliers, seed=seed, kind=kind)
                results = (ours(maps, truth), adam(maps, truth))
                better += results[0].ate_mm <= results[1].ate_mm
                print(f"  from frame {begin:2}, seed {seed}: {results[0]} | {results[1]}", flush=True)
            print(f"  ours is not worse on {better} of {len(case.starts)}", flush=True)


def _outcome(pose_c2w: np.ndarray, truth: SceneTruth, seconds: float, focal_percent: float) -> AlignmentOutcome:
    return AlignmentOutcome(
        ate_mm=1000 * ate(pose_c2w, truth.pose_c2w).rmse,
        rot_deg=rpe(pose_c2w, truth.pose_c2w).rot_deg,
        focal_percent=focal_percent,
        cpu_s=seconds,
    )


if __name__ == "__main__":
    sys.exit(main())
