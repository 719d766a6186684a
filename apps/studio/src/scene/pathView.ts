/** The camera path of a draft: pyramids along the way, the image where the scene is, and keyframes to drag. */

import {
  BufferGeometry,
  DoubleSide,
  Float32BufferAttribute,
  GridHelper,
  Group,
  LineBasicMaterial,
  LineSegments,
  type Material,
  Matrix4,
  Mesh,
  MeshBasicMaterial,
  Raycaster,
  SphereGeometry,
  SRGBColorSpace,
  Texture,
  Vector2,
  Vector3,
} from 'three';
import { TransformControls } from 'three/addons/controls/TransformControls.js';
import type { PathPreview, Vector } from '../service/types';
import type { InputImage, Keyframe } from '../state/draft';
import { corners, type Lens, lensOf, poseOf, pyramids, reach, spread, tube } from './cameras';
import { type Palette, palette, Stage } from './stage';

const PYRAMIDS = 9;

export type Handle = 'position' | 'look_at';

export class PathView {
  readonly stage: Stage;
  /** A keyframe was dragged. */
  moved: (index: number, handle: Handle, place: Vector) => void = () => undefined;
  /** A keyframe was clicked. */
  chosen: (index: number) => void = () => undefined;
  private readonly drag: TransformControls;
  private readonly parts = new Group();
  private readonly handles = new Group();
  private readonly marker = new Group();
  private poses: Matrix4[] = [];
  private lens: Lens = { x: 1, y: 1, cx: 0, cy: 0 };
  private size = 1;
  private texture: Texture | null = null;
  private preview: PathPreview | null = null;
  private scale = 1;
  private frame = 0;
  private through = false;
  private seen = false;
  private keys: [Keyframe[], number, Handle] | null = null;

  constructor(canvas: HTMLCanvasElement) {
    this.stage = new Stage(canvas);
    this.stage.world.add(this.parts, this.handles, this.marker);
    this.drag = new TransformControls(this.stage.camera, canvas);
    this.marker.matrixAutoUpdate = false;
    this.drag.setSize(0.7);
    this.drag.setColors('#c8594c', '#4d9a57', '#4a7fc4', '#e0a83a');
    this.drag.getHelper().visible = false;
    this.stage.scene.add(this.drag.getHelper());
    this.drag.addEventListener('change', () => this.stage.draw());
    this.drag.addEventListener('dragging-changed', (event) => {
      this.stage.controls.enabled = !event.value && !this.through;
      if (!event.value && this.keys) this.setKeys(...this.keys);
    });
    this.drag.addEventListener('objectChange', () => {
      const { object } = this.drag;
      if (!object) return;
      const { index, handle } = object.userData as { index: number; handle: Handle };
      this.moved(index, handle, round(object.position));
    });
    canvas.addEventListener('pointerdown', this.press);
  }

  setPath(preview: PathPreview, scale: number): void {
    this.preview = preview;
    this.scale = scale;
    this.poses = preview.pose_c2w.map((pose) => poseOf(pose.flat()));
    const [K0, K1] = preview.K[0] ?? [];
    this.lens = lensOf(K0?.[0] ?? 1, K1?.[1] ?? 1, K0?.[2] ?? 0, K1?.[2] ?? 0, preview.width, preview.height);
    const size = Math.max(scale, reach(this.poses) * 0.6);
    const resized = Math.abs(size / this.size - 1) > 0.3;
    if (!this.seen || resized) {
      this.size = size;
      const s = size;
      this.stage.setHome(new Vector3(0.95 * s, -0.75 * s, -1.25 * s), new Vector3(0.05 * s, -0.02 * s, 0.5 * s), s);
      if (!this.through) this.stage.reset();
      this.seen = true;
    }
    this.rebuild();
  }

  async setImage(input: InputImage | null): Promise<void> {
    this.texture?.dispose();
    this.texture = null;
    if (input) {
      const image = new Image();
      image.src = input.url;
      await image.decode().catch(() => undefined);
      this.texture = new Texture(image);
      this.texture.colorSpace = SRGBColorSpace;
      this.texture.needsUpdate = true;
    }
    this.rebuild();
  }

  setFrame(frame: number): void {
    this.frame = frame;
    this.placeMarker();
  }

  setThrough(through: boolean): void {
    this.through = through;
    this.drag.enabled = !through;
    if (this.keys) this.setKeys(...this.keys);
    if (!through) {
      this.stage.release(this.scale);
      this.stage.reset();
    }
    this.placeMarker();
  }

  /** Show keyframes with handles; none for a path that has no keyframes. */
  setKeys(keys: Keyframe[], selected: number, handle: Handle): void {
    this.keys = [keys, selected, handle];
    if (this.drag.dragging) return this.stage.draw(); // what is held must not be made again
    this.drag.detach();
    this.drag.getHelper().visible = false; // until something is attached
    empty(this.handles);
    this.handles.visible = !this.through;
    const colors = palette();
    keys.forEach((key, index) => {
      const own = index === selected;
      const ball = this.ball(key.position, own ? colors.accent : colors.line, own ? 0.022 : 0.017);
      ball.userData = { index, handle: 'position' };
      if (index === 0 || !own) return;
      const target = this.ball(key.look_at, colors.accent, 0.013);
      target.userData = { index, handle: 'look_at' };
      const sight = new BufferGeometry();
      sight.setAttribute('position', new Float32BufferAttribute([...key.position, ...key.look_at], 3));
      const line = new LineBasicMaterial({ color: colors.accent, transparent: true, opacity: 0.45 });
      this.handles.add(new LineSegments(sight, line));
      if (this.through) return;
      this.drag.attach(handle === 'position' ? ball : target);
      this.drag.getHelper().visible = true;
    });
    this.stage.draw();
  }

  recolor(): void {
    this.rebuild();
  }

  /** The view as a keyframe. */
  viewAsKey(): Keyframe {
    const { place, target } = this.stage.view();
    return { position: round(place), look_at: round(target) };
  }

  dispose(): void {
    this.stage.canvas.removeEventListener('pointerdown', this.press);
    this.drag.dispose();
    empty(this.parts);
    empty(this.handles);
    empty(this.marker);
    this.texture?.dispose();
    this.stage.dispose();
  }

  private ball(place: Vector, color: Palette['accent'], radius: number): Mesh {
    const ball = new Mesh(new SphereGeometry(radius * this.size, 16, 12), new MeshBasicMaterial({ color }));
    ball.position.set(...place);
    this.handles.add(ball);
    return ball;
  }

  private rebuild(): void {
    empty(this.parts);
    const colors = palette();
    this.stage.scene.background = colors.background;
    const grid = new GridHelper(6 * this.size, 24, colors.faint, colors.faint);
    grid.position.set(0, 0.5 * this.size, 0.5 * this.size);
    this.parts.add(grid);
    if (!this.preview) return this.stage.draw();
    this.parts.add(this.imagePlane());
    const some = spread(this.poses.length, PYRAMIDS).map((index) => this.poses[index] as Matrix4);
    const line = new LineBasicMaterial({ color: colors.line, transparent: true, opacity: 0.5 });
    this.parts.add(new LineSegments(pyramids(some, this.lens, 0.13 * this.size), line));
    const way = tube(this.poses, 0.0045 * this.size);
    if (way) this.parts.add(new Mesh(way, new MeshBasicMaterial({ color: colors.accent })));
    empty(this.marker);
    const own = new LineBasicMaterial({ color: colors.accent });
    this.marker.add(new LineSegments(pyramids([new Matrix4()], this.lens, 0.19 * this.size), own));
    this.placeMarker();
  }

  /** The image at the mean distance of the scene, cut as the service cuts it. */
  private imagePlane(): Group {
    const group = new Group();
    const edge = corners(this.lens, this.scale);
    const outline = new BufferGeometry();
    const [a, b, c, d] = edge.map((corner) => corner.toArray()) as [Vector, Vector, Vector, Vector];
    outline.setAttribute('position', new Float32BufferAttribute([...a, ...b, ...b, ...c, ...c, ...d, ...d, ...a], 3));
    const { line, faint } = palette();
    group.add(new LineSegments(outline, new LineBasicMaterial({ color: line, transparent: true, opacity: 0.6 })));
    const plane = new BufferGeometry();
    plane.setAttribute('position', new Float32BufferAttribute([...a, ...b, ...c, ...d], 3));
    plane.setAttribute('uv', new Float32BufferAttribute(this.crop(), 2));
    plane.setIndex([0, 2, 1, 0, 3, 2]);
    const look = this.texture
      ? new MeshBasicMaterial({ map: this.texture, side: DoubleSide, toneMapped: false })
      : new MeshBasicMaterial({ color: faint, transparent: true, opacity: 0.35, side: DoubleSide, depthWrite: false });
    group.add(new Mesh(plane, look));
    return group;
  }

  private crop(): number[] {
    const image = this.texture?.image as HTMLImageElement | undefined;
    const ratio = image ? image.naturalWidth / image.naturalHeight / (this.lens.x / this.lens.y) : 1;
    const [u, v] = [Math.max(0, (1 - 1 / ratio) / 2), Math.max(0, (1 - ratio) / 2)];
    return [u, 1 - v, 1 - u, 1 - v, 1 - u, v, u, v];
  }

  private placeMarker(): void {
    const pose = this.poses[Math.min(this.frame, this.poses.length - 1)];
    if (!pose) return this.stage.draw();
    if (this.through) this.stage.lookThrough(pose, this.lens);
    this.marker.visible = !this.through;
    this.marker.matrix.copy(pose);
    this.parts.children.forEach((part) => {
      if (part instanceof LineSegments && !(part instanceof GridHelper)) part.visible = !this.through;
      if (part instanceof Mesh) part.visible = !this.through;
    });
    this.stage.draw();
  }

  private readonly press = (event: PointerEvent): void => {
    if (this.through || this.drag.dragging || this.drag.axis) return;
    const box = this.stage.canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * 2 - 1;
    const y = 1 - ((event.clientY - box.top) / box.height) * 2;
    const ray = new Raycaster();
    ray.setFromCamera(new Vector2(x, y), this.stage.camera);
    const hit = ray.intersectObjects(this.handles.children).find((one) => one.object instanceof Mesh);
    if (hit) this.chosen((hit.object.userData as { index: number }).index);
  };
}

function round(place: Vector3): Vector {
  return place.toArray().map((value) => Math.round(value * 1000) / 1000) as Vector;
}

/** Remove and free everything in a group. */
export function empty(group: Group): void {
  group.traverse((part) => {
    if (part instanceof Mesh || part instanceof LineSegments) {
      (part.geometry as BufferGeometry).dispose();
      (part.material as Material).dispose();
    }
  });
  group.clear();
}
