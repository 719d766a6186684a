/** A canvas with a camera that people move by mouse, touch or keys. It draws only when something changed. */

import { Color, Group, type Matrix4, PerspectiveCamera, Quaternion, Scene, Spherical, Vector3, WebGLRenderer } from 'three';
import { OrbitControls } from 'three/addons/controls/OrbitControls.js';
import { type Lens, threePose } from './cameras';

const VIEW_FOV_DEG = 42;
const KEY_TURN_RAD = 0.12;
const LATE_MS = 90;
const LATE_DRAWINGS = 4;
const LEAST_RATIO = 0.5;

export interface Palette {
  background: Color;
  accent: Color;
  line: Color;
  faint: Color;
}

/** The colors of the page, as its style sheet has them now. */
export function palette(): Palette {
  const style = getComputedStyle(document.documentElement);
  const read = (name: string) => new Color(style.getPropertyValue(name).trim());
  return {
    background: read('--stage'),
    accent: read('--stage-accent'),
    line: read('--stage-line'),
    faint: read('--stage-faint'),
  };
}

export class Stage {
  readonly scene = new Scene();
  /** What is added here has OpenCV axes. */
  readonly world = new Group();
  readonly camera = new PerspectiveCamera(VIEW_FOV_DEG, 1, 0.01, 1000);
  readonly controls: OrbitControls;
  readonly renderer: WebGLRenderer;
  /** Called before every drawing. */
  beforeDraw: () => void = () => undefined;
  private pending = 0;
  private late = 0;
  private home: [Vector3, Vector3] = [new Vector3(1, 1, 1), new Vector3()];
  private lens: Lens | null = null;
  private readonly sizes: ResizeObserver;

  constructor(readonly canvas: HTMLCanvasElement) {
    this.renderer = new WebGLRenderer({ canvas, antialias: true });
    this.renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
    this.world.rotation.x = Math.PI;
    this.scene.add(this.world);
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.enableDamping = false;
    this.controls.addEventListener('change', () => this.draw());
    this.sizes = new ResizeObserver(() => this.resize());
    this.sizes.observe(canvas.parentElement ?? canvas);
    canvas.addEventListener('keydown', this.key);
    this.resize();
  }

  /** Draw soon. */
  draw(): void {
    if (this.pending) return;
    const asked = performance.now();
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.keepUp(performance.now() - asked);
      this.beforeDraw();
      this.renderer.render(this.scene, this.camera);
    });
  }

  /** Where a view begins: place and target in OpenCV axes; near and far follow its size. */
  setHome(place: Vector3, target: Vector3, size: number): void {
    this.home = [this.flipped(place), this.flipped(target)];
    this.camera.near = size / 200;
    this.camera.far = size * 200;
    this.camera.updateProjectionMatrix();
  }

  reset(): void {
    if (this.lens) return;
    this.camera.position.copy(this.home[0]);
    this.controls.target.copy(this.home[1]);
    this.controls.update();
    this.draw();
  }

  /** See through a camera of the path; people's own movements rest meanwhile. */
  lookThrough(pose: Matrix4, lens: Lens): void {
    this.lens = lens;
    this.controls.enabled = false;
    threePose(pose).decompose(this.camera.position, this.camera.quaternion, new Vector3());
    this.fit();
    this.draw();
  }

  /** Give the view back to people, from where it is, turning about what is `distance` ahead. */
  release(distance: number): void {
    if (!this.lens) return;
    this.lens = null;
    this.controls.enabled = true;
    const ahead = new Vector3(0, 0, -distance).applyQuaternion(this.camera.quaternion);
    this.controls.target.copy(this.camera.position).add(ahead);
    this.fit();
    this.controls.update();
    this.draw();
  }

  /** Place and target of the view, in OpenCV axes. */
  view(): { place: Vector3; target: Vector3 } {
    return { place: this.flipped(this.camera.position), target: this.flipped(this.controls.target) };
  }

  /** Height of the canvas in device pixels over that of the image at distance 1. */
  pixelsPerUnit(): number {
    const height = this.renderer.domElement.height;
    return height / (2 * Math.tan((this.camera.fov * Math.PI) / 360));
  }

  dispose(): void {
    cancelAnimationFrame(this.pending);
    this.pending = -1;
    this.sizes.disconnect();
    this.canvas.removeEventListener('keydown', this.key);
    this.controls.dispose();
    this.renderer.dispose();
    this.renderer.forceContextLoss();
  }

  /** Where drawings come late one after another (no graphics processor), fewer pixels are drawn. */
  private keepUp(waited: number): void {
    this.late = waited > LATE_MS ? this.late + 1 : 0;
    const ratio = this.renderer.getPixelRatio();
    if (this.late < LATE_DRAWINGS || ratio <= LEAST_RATIO) return;
    this.late = 0;
    this.renderer.setPixelRatio(Math.max(LEAST_RATIO, ratio / 2));
  }

  private flipped(vector: Vector3): Vector3 {
    return new Vector3(vector.x, -vector.y, -vector.z);
  }

  private resize(): void {
    const { clientWidth, clientHeight } = this.canvas.parentElement ?? this.canvas;
    this.renderer.setSize(Math.max(1, clientWidth), Math.max(1, clientHeight), false);
    this.fit();
    this.draw();
  }

  /** The whole image of a path's camera is seen, whatever the shape of the canvas. */
  private fit(): void {
    const canvas = this.renderer.domElement;
    const aspect = canvas.width / canvas.height;
    this.camera.aspect = aspect;
    const half = this.lens ? Math.max(this.lens.y, this.lens.x / aspect) : 0;
    // a tall canvas must not lose what a wide one shows
    const free = (VIEW_FOV_DEG * (aspect < 1 ? 1.25 : 1) * Math.PI) / 180;
    this.camera.fov = this.lens ? (2 * Math.atan(half) * 180) / Math.PI : (free * 180) / Math.PI;
    this.camera.updateProjectionMatrix();
  }

  private readonly key = (event: KeyboardEvent): void => {
    if (event.ctrlKey || event.metaKey || event.altKey || this.lens) return;
    const turns: Record<string, [number, number, number]> = {
      ArrowLeft: [-KEY_TURN_RAD, 0, 1],
      ArrowRight: [KEY_TURN_RAD, 0, 1],
      ArrowUp: [0, -KEY_TURN_RAD, 1],
      ArrowDown: [0, KEY_TURN_RAD, 1],
      '+': [0, 0, 1 / 1.15],
      '=': [0, 0, 1 / 1.15],
      '-': [0, 0, 1.15],
    };
    const turn = turns[event.key];
    if (event.key === '0') this.reset();
    else if (turn) this.turn(...turn);
    else return;
    event.preventDefault();
  };

  private turn(around: number, over: number, farther: number): void {
    const offset = this.camera.position.clone().sub(this.controls.target);
    const ball = new Spherical().setFromVector3(offset);
    ball.theta += around;
    ball.phi += over;
    ball.radius *= farther;
    ball.makeSafe();
    this.camera.position.copy(this.controls.target).add(offset.setFromSpherical(ball));
    this.controls.update();
    this.draw();
  }
}

/** A pose between two. */
export function between(one: Matrix4, other: Matrix4, share: number): Matrix4 {
  const [place, turn, size] = [new Vector3(), new Quaternion(), new Vector3()];
  const [place2, turn2] = [new Vector3(), new Quaternion()];
  one.decompose(place, turn, size);
  other.decompose(place2, turn2, size);
  return one.clone().compose(place.lerp(place2, share), turn.slerp(turn2, share), size.set(1, 1, 1));
}
