/** A finished world: points as soft splats by frame and confidence, camera paths, and a flight along the path. */

import {
  BufferAttribute,
  BufferGeometry,
  CustomBlending,
  DoubleSide,
  Float32BufferAttribute,
  Group,
  LineBasicMaterial,
  LineSegments,
  Matrix4,
  Mesh,
  MeshBasicMaterial,
  OneFactor,
  Points,
  ShaderMaterial,
  SRGBColorSpace,
  Vector3,
  VideoTexture,
  ZeroFactor,
} from 'three';
import { corners, type Lens, lensOf, placeOf, poseOf, pyramids, reach, spread, tube } from './cameras';
import { empty } from './pathView';
import { footprints, medianDepth, type PointsFile } from './pointsFile';
import { between, palette, Stage } from './stage';

export type FrameFilter = 'all' | 'until' | 'only';

export interface Look {
  /** Share of the points that is shown, the surest first; 0 to 1. */
  surest: number;
  filter: FrameFilter;
  pointSize: number;
  path: boolean;
  requested: boolean;
}

const VERTEX = `
uniform float scale; uniform float size; uniform float threshold;
attribute float confidence; attribute float footprint;
varying vec3 tint;
void main() {
  vec4 seen = modelViewMatrix * vec4(position, 1.0);
  gl_Position = projectionMatrix * seen;
  gl_PointSize = clamp(2.0 * size * footprint * scale / max(-seen.z, 1e-6), 1.5, 96.0);
  if (confidence < threshold) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  tint = color;
}`;

const FRAGMENT = `
varying vec3 tint;
void main() {
  float far = length(gl_PointCoord - 0.5) * 2.0;
  float cover = exp(-4.5 * far * far);
  if (cover < 0.06) discard;
  gl_FragColor = vec4(tint, cover);
}`;

export class WorldView {
  readonly stage: Stage;
  private readonly cloud: Points<BufferGeometry, ShaderMaterial>;
  private readonly paths = new Group();
  private readonly marker = new Group();
  private readonly poses: Matrix4[];
  private readonly requested: Matrix4[];
  private readonly lenses: Lens[];
  private readonly depth: number;
  private readonly size: number;
  private look: Look | null = null;
  private time = 0;
  private flying = false;
  private texture: VideoTexture | null = null;
  private video: HTMLVideoElement | null = null;
  /** A paused video shows another frame. */
  private readonly redraw = (): void => {
    if (this.texture) this.texture.needsUpdate = true;
    this.stage.draw();
  };

  constructor(
    canvas: HTMLCanvasElement,
    private readonly file: PointsFile,
  ) {
    this.stage = new Stage(canvas);
    this.poses = file.cameras.pose_c2w.map(poseOf);
    this.requested = file.requested.pose_c2w.map(poseOf);
    this.lenses = file.cameras.K.map(([fx, fy, cx, cy]) =>
      lensOf(fx ?? 1, fy ?? 1, cx ?? 0, cy ?? 0, file.width, file.height),
    );
    this.depth = medianDepth(file);
    this.size = Math.max(this.depth, reach(this.poses) * 0.5);
    this.cloud = new Points(this.geometry(), this.material());
    this.cloud.frustumCulled = false;
    this.stage.world.add(this.cloud, this.paths, this.marker);
    this.marker.matrixAutoUpdate = false;
    this.stage.beforeDraw = () => {
      const { uniforms } = this.cloud.material;
      if (uniforms.scale) uniforms.scale.value = this.stage.pixelsPerUnit();
    };
    const d = this.depth;
    const start = this.poses[0] ? placeOf(this.poses[0]) : new Vector3();
    const target = start.clone().add(new Vector3(0, 0, d));
    this.stage.setHome(start.clone().add(new Vector3(-0.5 * d, -0.4 * d, -0.85 * d)), target, this.size);
    this.stage.reset();
    this.recolor();
  }

  /** Change what is shown; returns the number of points. */
  setLook(look: Look): number {
    this.look = look;
    const { uniforms } = this.cloud.material;
    if (uniforms.threshold) uniforms.threshold.value = 1 - look.surest - 0.5 / 255;
    if (uniforms.size) uniforms.size.value = 1.5 * look.pointSize;
    this.drawPaths();
    return this.setTime(this.time);
  }

  /** The moment, in frames with fractions; returns the number of points. */
  setTime(time: number): number {
    this.time = time;
    const frame = Math.min(this.file.frames - 1, Math.floor(time + 1e-3));
    const filter = this.look?.filter ?? 'all';
    const begin = filter === 'only' ? (this.file.begin[frame] ?? 0) : 0;
    const end = filter === 'all' ? this.file.points : (this.file.begin[frame + 1] ?? this.file.points);
    this.cloud.geometry.setDrawRange(begin, end - begin);
    const next = Math.min(this.file.frames - 1, frame + 1);
    const [one, other, lens] = [this.poses[frame], this.poses[next], this.lenses[frame]];
    if (one && other && lens) {
      const pose = between(one, other, Math.min(1, Math.max(0, time - frame)));
      if (this.flying) this.stage.lookThrough(pose, lens);
      this.marker.visible = !this.flying && (this.look?.path ?? false);
      this.marker.matrix.copy(pose);
    }
    this.stage.draw();
    return this.count(begin, end);
  }

  setFlying(flying: boolean): void {
    this.flying = flying;
    if (!flying) this.stage.release(this.depth);
    this.drawPaths();
    this.setTime(this.time);
  }

  /** The video whose frame is shown in the moving camera. */
  setVideo(video: HTMLVideoElement | null): void {
    this.texture?.dispose();
    this.texture = video ? new VideoTexture(video) : null;
    if (this.texture) this.texture.colorSpace = SRGBColorSpace;
    this.video?.removeEventListener('seeked', this.redraw);
    this.video = video;
    video?.addEventListener('seeked', this.redraw);
    this.drawMarker();
    this.redraw();
    this.setTime(this.time);
  }

  recolor(): void {
    this.stage.scene.background = palette().background;
    this.drawPaths();
    this.drawMarker();
    this.setTime(this.time);
  }

  dispose(): void {
    this.video?.removeEventListener('seeked', this.redraw);
    empty(this.paths);
    empty(this.marker);
    this.cloud.geometry.dispose();
    this.cloud.material.dispose();
    this.texture?.dispose();
    this.stage.dispose();
  }

  private geometry(): BufferGeometry {
    const geometry = new BufferGeometry();
    geometry.setAttribute('position', new BufferAttribute(this.file.position, 3));
    geometry.setAttribute('color', new BufferAttribute(this.file.color, 3, true));
    geometry.setAttribute('confidence', new BufferAttribute(this.file.confidence, 1, true));
    geometry.setAttribute('footprint', new BufferAttribute(footprints(this.file), 1));
    return geometry;
  }

  private material(): ShaderMaterial {
    return new ShaderMaterial({
      vertexShader: VERTEX,
      fragmentShader: FRAGMENT,
      vertexColors: true,
      alphaToCoverage: true, // soft edges that need no sorting
      blending: CustomBlending, // the alpha is for the coverage alone; the canvas stays opaque
      blendSrc: OneFactor,
      blendDst: ZeroFactor,
      blendSrcAlpha: ZeroFactor,
      blendDstAlpha: OneFactor,
      uniforms: { scale: { value: 500 }, size: { value: 1.5 }, threshold: { value: 0 } },
    });
  }

  private count(begin: number, end: number): number {
    const least = 255 * (1 - (this.look?.surest ?? 1) - 0.5 / 255);
    let count = 0;
    for (let i = begin; i < end; i++) if ((this.file.confidence[i] ?? 0) >= least) count++;
    return count;
  }

  private drawPaths(): void {
    empty(this.paths);
    const { accent, line } = palette();
    const radius = 0.005 * this.size;
    if (this.look?.path && !this.flying) {
      const way = tube(this.poses, radius);
      if (way) this.paths.add(new Mesh(way, new MeshBasicMaterial({ color: accent })));
      const some = spread(this.poses.length, 5).map((index) => this.poses[index] as Matrix4);
      const lens = this.lenses[0];
      const faint = new LineBasicMaterial({ color: accent, transparent: true, opacity: 0.45 });
      if (lens) this.paths.add(new LineSegments(pyramids(some, lens, 0.09 * this.size), faint));
    }
    if (this.look?.requested && !this.flying) {
      const way = tube(this.requested, radius * 0.8);
      if (way) this.paths.add(new Mesh(way, new MeshBasicMaterial({ color: line })));
    }
  }

  /** The camera of the moment, with its image in it; moved by `setTime`. */
  private drawMarker(): void {
    empty(this.marker);
    const lens = this.lenses[0];
    if (!lens) return;
    const size = 0.16 * this.size;
    const line = new LineBasicMaterial({ color: palette().accent });
    this.marker.add(new LineSegments(pyramids([new Matrix4()], lens, size), line));
    if (!this.texture) return;
    const plane = new BufferGeometry();
    const places = corners(lens, size).flatMap((corner) => corner.toArray());
    plane.setAttribute('position', new Float32BufferAttribute(places, 3));
    plane.setAttribute('uv', new Float32BufferAttribute([0, 1, 1, 1, 1, 0, 0, 0], 2));
    plane.setIndex([0, 2, 1, 0, 3, 2]);
    const look = new MeshBasicMaterial({ map: this.texture, side: DoubleSide, toneMapped: false });
    this.marker.add(new Mesh(plane, look));
  }
}
