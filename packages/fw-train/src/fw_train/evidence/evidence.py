"""`fw-train evidence`: measure trained weights and ablations against exact truth.

Each clip is measured once per pass (model, training, noise seed, steps), with the noise schedule of the first
checkpoint. The result is a line of clips.jsonl, and the generated world a file of generated/; later runs reuse both.
Tables and images are made from them at the end.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fw_core.devices import choose_device
from fw_model.checkpoints.opening import safetensors_files
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.result import World
from fw_train.config.schema import ConfigError
from fw_train.evaluate.checkpoint import Say
from fw_train.evaluate.evaluation import Plain
from fw_train.evaluate.generation import noise_seed
from fw_train.evaluate.options import EvidenceOptions
from fw_train.evidence.clips import Clips, choose
from fw_train.evidence.depth_maps import coarse_log_depth, load_maps, save_maps
from fw_train.evidence.levels import passes, true_world
from fw_train.evidence.lines import LINES, Key, Line, check_settings, read_lines
from fw_train.evidence.passes import (
    BASE,
    MODEL,
    REFERENCE,
    SPLATS,
    Pass,
    Subject,
    arm_names,
    common_shape,
    find_subjects,
    passes_of,
)
from fw_train.evidence.scores import Scores, level_scores, reference_scores, video_scores, world_scores
from fw_train.evidence.strip import write_steps, write_strip
from fw_train.evidence.summaries import Maps, Result
from fw_train.evidence.tables import write_tables
from fw_train.evidence.worlds import stored_world
from fw_train.metrics.splats.fit import fit_splats, held_out_frames
from fw_train.metrics.splats.gaussians import write_splat_ply
from fw_train.metrics.truth import TruthClip

GENERATED, MAPS, PLY = "generated", "maps", "splats"
STEP_ROWS = 4
"""Number of clips in steps.png."""


def evidence(options: EvidenceOptions, say: Say = print) -> Path:
    """Measure all clips without a line and write tables and images; returns the path of evidence.md.

    Raises:
        ConfigError: invalid options, checkpoints or data, or existing lines with other settings.
    """
    _check(options)
    subjects = find_subjects(options)
    shape = common_shape(subjects)
    if options.splats:
        try:
            held_out_frames(shape[0])
        except ValueError as error:
            raise ConfigError(f"--splats {options.splats}: {error}") from None
    clips = choose(options.data, shape, count=options.clips, takes=options.takes, min_confidence=options.min_confidence)
    clips = replace(clips, first_frame_only=subjects[0].checkpoint.first_frame_only)
    say(f"clips: {len(clips.records)} of {len(set(clips.groups.values()))} worlds")
    options.out.mkdir(parents=True, exist_ok=True)
    run = _Run(options, subjects, clips, say)
    run.measure_missing()
    about: dict[str, Plain] = {
        "data": str(options.data),
        "clips": len(clips.records),
        "worlds": len(set(clips.groups.values())),
        "noise_seeds": len(options.seeds),
        "steps": options.steps,
        "guidance": options.guidance,
        "shift": run.shift,
        "frames": shape[0],
        "height": shape[1],
        "width": shape[2],
    }
    for subject in subjects:
        about[f"weights of {subject.name} {subject.run}"] = subject.checkpoint.fingerprint
    few = sorted({*options.few_steps, options.steps}) if any(not one.main for one in run.passes) else []
    page = write_tables(
        options.out, run.results(), about, arms=arm_names(options), frames=shape[0], maps=run.maps(), few_steps=few
    )
    if options.checkpoint is not None:
        run.write_images(few)
    say(f"result: {page}")
    return page


def _check(options: EvidenceOptions) -> None:
    for name, value, least in (("clips", options.clips, 1), ("takes", options.takes, 1), ("steps", options.steps, 1)):
        if value < least:
            raise ConfigError(f"--{name} is {value}; it must be {least} or more")
    if options.checkpoint is None and not options.arm:
        raise ConfigError("--checkpoint EXPORT or --arm NAME=EXPORT is missing; give at least one of them")
    if not options.seeds or len(set(options.seeds)) < len(options.seeds):
        raise ConfigError("--seeds must be one or more different numbers")
    if min(options.few_steps, default=1) < 1:
        raise ConfigError(f"--few-steps has {min(options.few_steps)}; each number must be 1 or more")
    for name in ("strip", "few_steps_clips", "splats", "splat_steps"):
        if getattr(options, name) < 0:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be 0 or more")


class _Run:
    """The state of one command: lines so far, and the pipeline that is loaded."""

    def __init__(self, options: EvidenceOptions, subjects: Sequence[Subject], clips: Clips, say: Say) -> None:
        self.options, self.clips, self.say = options, clips, say
        self.subjects = {(subject.name, subject.run): subject for subject in subjects}
        self.first = subjects[0]
        self.shift = self.first.checkpoint.sampling.shift
        self.passes = list(passes_of(options, subjects, len(clips.records)))
        self.lines: dict[Key, Line] = {line.key: line for line in read_lines(options.out / LINES)}
        self._loaded: tuple[Subject, WorldPipeline] | None = None
        self._components: dict[Path, str] = {}

    def measure_missing(self) -> None:
        """Measure every clip of every pass that has no line."""
        with (self.options.out / LINES).open("a", encoding="utf-8") as file:
            for one in self.passes:
                settings = self._settings(one)
                for number, record in enumerate(self.clips.records[: one.count], start=1):
                    before = self.lines.get((one.name, one.run, one.seed, one.steps, record.id))
                    if before is not None:
                        check_settings(before, settings, self.options.out)
                        continue
                    line = Line(
                        model=one.name,
                        run=one.run,
                        seed=one.seed,
                        steps=one.steps,
                        clip=record.id,
                        group=self.clips.groups[record.id],
                        settings=settings,
                        scores=self._scores(one, self.clips.truth(record.id)),
                    )
                    file.write(line.model_dump_json() + "\n")
                    file.flush()
                    self.lines[line.key] = line
                    self.say(f"{one.folder} [{number}/{one.count}] {record.id}: measured")

    def results(self) -> list[Result]:
        """The lines of all passes; those of the table of steps are named model@STEPS."""
        found = []
        for one in self.passes:
            for record in self.clips.records[: one.count]:
                line = self.lines[one.name, one.run, one.seed, one.steps, record.id]
                name = one.name if one.main else f"{one.name}@{one.steps}"
                found.append(Result(model=name, run=one.run, clip=line.clip, group=line.group, scores=line.scores))
        return found

    def maps(self) -> Maps:
        """Coarse log depths of the references and of the model, by kind and clip."""
        found: Maps = {}
        for one in self.passes:
            if one.name not in (REFERENCE, MODEL) or not one.main or one.seed not in (0, self.options.seeds[0]):
                continue
            for record in self.clips.records:
                stored = load_maps(self._maps_file(one, record.id))
                for kind, values in stored.items():
                    found.setdefault(kind, {})[record.id] = values
        return found

    def write_images(self, few_steps: Sequence[int]) -> None:
        """Write strip.png and, if `few_steps` has numbers, steps.png."""
        main = next(one for one in self.passes if one.name == MODEL and one.main)
        shown = [self.clips.truth(record.id) for record in self.clips.records[: self.options.strip]]
        if shown:
            rows = [(self._world(main, truth), truth) for truth in shown]
            self.say(f"strip: {write_strip(self.options.out, rows)}")
        if few_steps:
            by_steps = {one.steps: one for one in self.passes if one.name == MODEL and one.seed == main.seed}
            chosen = self.clips.records[: min(STEP_ROWS, self.options.few_steps_clips)]
            truths = [self.clips.truth(record.id) for record in chosen]
            images = [({steps: self._world(by_steps[steps], truth) for steps in few_steps}, truth) for truth in truths]
            self.say(f"steps: {write_steps(self.options.out, images)}")

    def _scores(self, one: Pass, truth: TruthClip) -> Scores:
        clip = truth.record.id
        if one.name == REFERENCE:
            maps = {"truth": coarse_log_depth(true_world(truth).depth, truth.depth)}
            save_maps(self._maps_file(one, clip), maps)
            return reference_scores(truth, self._pipeline(self.first).autoencoder)
        if one.name == SPLATS:
            return self._splat_scores(replace(one, name=MODEL), truth)
        world = self._world(one, truth)
        scores = video_scores(world.video, truth)
        has_geometry = self._has_geometry(one)
        maps = {}
        if has_geometry:
            scores |= world_scores(world, truth)
            maps["generated"] = coarse_log_depth(world.depth, truth.depth)
        if one.levels:
            pipeline = self._pipeline(self._subject(one))
            for level in passes(pipeline, truth, geometry=has_geometry, cross_branch=has_geometry):
                scores |= level_scores(level, truth)
                if level.world is not None:
                    maps[f"level@{level.sigma:g}"] = coarse_log_depth(level.world.depth, truth.depth)
        if one.name == MODEL and one.main:
            save_maps(self._maps_file(one, clip), maps)
        return scores

    def _splat_scores(self, one: Pass, truth: TruthClip) -> Scores:
        """Fit Gaussians to the generated world, with and without its geometry, and to the truth."""
        world = self._world(one, truth)
        scores: Scores = {}
        for kind, fitted, geometry in (
            ("own", world, True),
            ("random", world, False),
            ("truth", true_world(truth), True),
        ):
            fit = fit_splats(
                fitted, geometry=geometry, steps=self.options.splat_steps, device=choose_device(self.options.device)
            )
            scores |= {f"{kind}/psnr": fit.psnr, f"{kind}/ssim": fit.ssim, f"{kind}/fitted_psnr": fit.fitted_psnr}
            if kind == "own":
                write_splat_ply(self.options.out / PLY / f"{truth.record.id}.ply", fit.gaussians)
        return scores

    def _world(self, one: Pass, truth: TruthClip) -> World:
        """The generated world of a clip, from its file or generated now."""
        settings = {**self._settings(one), "seed": one.seed, "clip": truth.record.id}
        path = self.options.out / GENERATED / one.folder / f"{truth.record.id}.npz"

        def generate() -> World:
            *_, last = self._pipeline(self._subject(one)).generate(
                truth.video[0],
                truth.record.caption,
                truth.trajectory,
                num_inference_steps=one.steps,
                guidance_scale=self.options.guidance,
                seed=noise_seed(one.seed, truth.record.id),
                shift=self.shift,
                cross_branch=self._has_geometry(one),
            )
            assert last.world is not None, "generation ends with a world"
            return last.world

        return stored_world(path, settings, truth.trajectory, generate)

    def _has_geometry(self, one: Pass) -> bool:
        """Whether the geometry branch was trained and may be used."""
        return one.name != BASE and self._subject(one).checkpoint.stage != "base"

    def _maps_file(self, one: Pass, clip: str) -> Path:
        return self.options.out / MAPS / one.folder / f"{clip}.npz"

    def _subject(self, one: Pass) -> Subject:
        return self.subjects[one.name, one.run]

    def _pipeline(self, subject: Subject) -> WorldPipeline:
        if self._loaded is None or self._loaded[0] is not subject:
            self._loaded = subject, subject.checkpoint.pipeline(self.options.device, None)
            if subject.name == BASE:
                _remove_camera_adapters(self._loaded[1])
        return self._loaded[1]

    def _settings(self, one: Pass) -> dict[str, Plain]:
        subject = self.subjects.get((one.name, one.run), self.first)
        folder = subject.checkpoint.folder
        if folder not in self._components:
            digest = hashlib.sha256()
            parts = sorted(part for part in folder.iterdir() if part.is_dir())
            for path in [folder / "pipeline.json", *(file for part in parts for file in safetensors_files(part))]:
                digest.update(path.read_bytes())
            self._components[folder] = digest.hexdigest()[:16]
        frames, height, width = self.clips.shape
        settings: dict[str, Plain] = {
            "frames": frames,
            "height": height,
            "width": width,
            "min_confidence": self.options.min_confidence,
            "components": self._components[folder],
        }
        if one.name == SPLATS:
            settings["splat_steps"] = self.options.splat_steps
        if one.name != REFERENCE:
            settings |= {
                "weights": subject.checkpoint.fingerprint,
                "steps": one.steps,
                "guidance": self.options.guidance,
                "shift": self.shift,
            }
        return settings


def _remove_camera_adapters(pipeline: WorldPipeline) -> None:
    """Remove the camera adapters: frozen video blocks without adapters and cross-branch attention are the prior."""
    for world in [pipeline.world] if pipeline.high_noise is None else [pipeline.world, pipeline.high_noise]:
        for block in world.video_blocks():
            block.camera_adapter = None
