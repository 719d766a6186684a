"""Which geometry backend a run uses, and the sentences that say so: backend, weights, their licence.

`auto` takes the best backend that has weights on this machine and never downloads any. MODULE:CLASS is a backend from
elsewhere, for instance on top of Depth Anything 3 or MapAnything (docs/my-own-geometry-network.md shows one).
"""

from pathlib import Path
from typing import NamedTuple

from fw_data.annotate.backend_specs import Dust3rSpec, OracleSpec, PluginSpec, SfmSpec
from fw_data.annotate.config import BackendSpec
from fw_data.options import AnnotateOptions


class Choice(NamedTuple):
    """A backend and what there is to say about it."""

    spec: BackendSpec
    """The backend."""
    said: tuple[str, ...]
    """Sentences for the person who runs it."""


def choose(options: AnnotateOptions) -> Choice:
    """The backend that the options ask for.

    Raises:
        ValueError: options that do not go together, or weights that are missing; the message says what to do.
    """
    if options.geometry == "oracle":
        _check_none(options, "dust3r_weights", "depth_weights", belong_to="dust3r or auto")
        if options.truth is None:
            raise ValueError("--geometry oracle needs --truth, the folder of the .npz files")
        if not options.truth.is_dir():
            raise ValueError(f"--truth {options.truth} is not a folder")
        return Choice(OracleSpec(truth=options.truth.resolve(), depth_noise=options.oracle_noise), ())
    if options.truth is not None or options.oracle_noise:
        raise ValueError("--truth and --oracle-noise belong to --geometry oracle")
    if options.geometry == "dust3r":
        return _dust3r(options, "as asked")
    if options.geometry == "auto":
        return _best(options)
    _check_none(options, "dust3r_weights", "depth_weights", belong_to="dust3r or auto")
    if options.geometry == "sfm":
        return Choice(SfmSpec(), ())
    if ":" not in options.geometry:
        raise ValueError(f"--geometry {options.geometry}: give sfm, dust3r, oracle, auto or MODULE:CLASS")
    spec = PluginSpec(path=options.geometry)
    return Choice(spec, (f"geometry: {spec.name} {spec.version} from {spec.path}, not part of fw-data",))


def _best(options: AnnotateOptions) -> Choice:
    from fw_data.annotators.checkpoints import cached
    from fw_data.annotators.dust3r.weights import DEFAULT_RELEASE, RELEASES

    if options.dust3r_weights is not None:
        return _dust3r(options, "--dust3r-weights are given")
    found = cached(RELEASES[DEFAULT_RELEASE])
    if found is not None:
        return _dust3r(options, "its weights were downloaded to this machine before", found)
    _check_none(options, "depth_weights", belong_to="dust3r, for which there are no weights here")
    return Choice(
        SfmSpec(),
        ("geometry: sfm, because there are no DUSt3R weights on this machine; --dust3r-weights names some",),
    )


def _dust3r(options: AnnotateOptions, why: str, found: Path | None = None) -> Choice:
    from fw_data.annotators.checkpoints import advice, locate
    from fw_data.annotators.depth.depth_anything import RELEASES as DEPTH_RELEASES
    from fw_data.annotators.dust3r.weights import DEFAULT_RELEASE, RELEASES

    release = RELEASES[DEFAULT_RELEASE]
    if found is None and options.dust3r_weights is None:
        raise ValueError(f"--geometry dust3r needs --dust3r-weights. {advice(release)}")
    weights = found or locate(options.dust3r_weights or release.hub_id, release)
    said = [f"geometry: dust3r ({why}) with {weights.name}; released DUSt3R weights are under {release.licence}"]
    depth, name = None, "small"
    if options.depth_weights is not None:
        known = options.depth_weights in DEPTH_RELEASES
        name = options.depth_weights if known else name
        chosen = DEPTH_RELEASES[name]
        depth = locate(chosen.hub_id if known else options.depth_weights, chosen)
        licence = (
            f"{chosen.licence}"
            if known
            else f"as their authors say; of the released ones only small is {chosen.licence}"
        )
        said.append(f"depth: Depth Anything V2 from {depth.name}; licence {licence}")
    spec = Dust3rSpec(
        weights=weights.resolve(), depth_weights=depth and depth.resolve(), depth_release=name, device=options.device
    )
    return Choice(spec, tuple(said))


def _check_none(options: AnnotateOptions, *names: str, belong_to: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} belongs to --geometry {belong_to}")
