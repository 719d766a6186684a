"""Near-duplicates: what is found, what is not, and that the order of work does not matter."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from fw_data.annotate.duplicates import clip_hashes, difference_hash, find_duplicates


@dataclass(frozen=True, kw_only=True)
class Film:
    id: str
    source: str = ""
    shot: int = 0
    hashes: list[int] = field(default_factory=list)


def _image(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (7, 12, 3), dtype=np.uint8), (320, 180), interpolation=cv2.INTER_CUBIC)


def _film(name: str, frames: list[np.ndarray], source: str | None = None, shot: int = 0) -> Film:
    return Film(id=name, source=source or name, shot=shot, hashes=clip_hashes([difference_hash(f) for f in frames]))


def _encoded(image: np.ndarray, scale: float, quality: int) -> np.ndarray:
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    again = cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
    assert again is not None
    return again


def test_another_size_and_quality_is_the_same_clip_and_other_clips_are_not():
    films = [[_image(10 * n + i) for i in range(9)] for n in range(12)]
    clips = [_film(f"f{n}", film) for n, film in enumerate(films)]
    copies = [
        _film(f"c{n}", [_encoded(f, scale, quality) for f in films[n]])
        for n, (scale, quality) in enumerate([(1, 30), (0.5, 60), (0.31, 40), (1.7, 25)])
    ]
    found = find_duplicates([*clips, *copies], 6)
    assert [(d.index, d.original) for d in found] == [(12, 0), (13, 1), (14, 2), (15, 3)]


def test_all_frames_must_agree_and_one_shot_is_never_its_own_copy():
    film = [_image(i) for i in range(5)]
    half_new = [*film[:3], _image(77), _image(78)]
    assert find_duplicates([_film("a", film), _film("b", half_new)], 6) == []
    same_shot = [_film("a", film, "x", 0), _film("b", film, "x", 0), _film("c", film, "x", 1)]
    assert [(d.index, d.original) for d in find_duplicates(same_shot, 6)] == [(2, 0)]


def test_plain_images_are_not_compared():
    plain = [np.full((90, 160, 3), level, np.uint8) for level in (10, 80, 120, 200, 255)]
    assert clip_hashes([difference_hash(f) for f in plain]) == []
    assert find_duplicates([_film("a", plain), _film("b", plain)], 6) == []


def test_what_is_in_the_dataset_stays_and_the_rest_gives_way():
    film = [_image(i) for i in range(5)]
    clips = [_film("a", film), _film("b", film), _film("c", film)]
    assert [(d.index, d.original) for d in find_duplicates(clips, 0)] == [(1, 0), (2, 0)]
    assert [(d.index, d.original) for d in find_duplicates(clips, 0, kept={"b"})] == [(0, 1), (2, 1)]
    assert [(d.index, d.original) for d in find_duplicates(clips, 0, kept={"b", "c"})] == [(0, 1)]


def test_buckets_miss_nothing_within_the_limit():
    rng = np.random.default_rng(0)
    base = [int(value) for value in rng.integers(0, 2**63, 40, dtype=np.int64)]
    flipped = []
    for value in base:
        mask = sum(1 << int(bit) for bit in rng.choice(64, 5, replace=False))
        flipped.append(value ^ mask)
    clips = [Film(id=f"{i}", source=f"{i}", hashes=[value] * 5) for i, value in enumerate([*base, *flipped])]
    assert [(d.index, d.original, d.bits) for d in find_duplicates(clips, 5)] == [(40 + i, i, 5) for i in range(40)]
    assert find_duplicates(clips, 4) == []
