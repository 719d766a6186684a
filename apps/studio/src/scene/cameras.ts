/** Cameras as three.js draws them. Poses are camera-to-world in OpenCV axes (y down, z forward); three has y up. */

import { BufferGeometry, CatmullRomCurve3, Float32BufferAttribute, Matrix4, TubeGeometry, Vector3 } from 'three';

/** Half width and height of the image at distance 1, and where its middle lies. */
export interface Lens {
  x: number;
  y: number;
  /** Of the image's middle at distance 1. */
  cx: number;
  cy: number;
}

export function lensOf(fx: number, fy: number, cx: number, cy: number, width: number, height: number): Lens {
  return { x: width / 2 / fx, y: height / 2 / fy, cx: (width / 2 - cx) / fx, cy: (height / 2 - cy) / fy };
}

/** From rows of 3 x 4 (12 numbers) or 4 x 4. */
export function poseOf(rows: readonly number[]): Matrix4 {
  const n = (index: number) => rows[index] ?? 0;
  return new Matrix4().set(
    n(0), n(1), n(2), n(3),
    n(4), n(5), n(6), n(7),
    n(8), n(9), n(10), n(11),
    0, 0, 0, 1,
  ); // prettier-ignore
}

export function placeOf(pose: Matrix4): Vector3 {
  return new Vector3().setFromMatrixPosition(pose);
}

const FLIP = new Matrix4().makeScale(1, -1, -1);

/** The pose of a three.js camera that sees what an OpenCV camera sees. */
export function threePose(pose: Matrix4): Matrix4 {
  return new Matrix4().multiplyMatrices(FLIP, pose).multiply(FLIP);
}

/** Four corners of the image at a distance. */
export function corners(lens: Lens, distance: number): Vector3[] {
  const at = (x: number, y: number) =>
    new Vector3((lens.cx + x * lens.x) * distance, (lens.cy + y * lens.y) * distance, distance);
  return [at(-1, -1), at(1, -1), at(1, 1), at(-1, 1)];
}

/** Lines of camera pyramids, all in one geometry. */
export function pyramids(poses: Matrix4[], lens: Lens, size: number): BufferGeometry {
  const places: number[] = [];
  for (const pose of poses) {
    const center = placeOf(pose);
    const edge = corners(lens, size).map((corner) => corner.applyMatrix4(pose));
    edge.forEach((corner, index) => {
      const next = edge[(index + 1) % 4] ?? corner;
      places.push(...center.toArray(), ...corner.toArray(), ...corner.toArray(), ...next.toArray());
    });
    const [left, right] = edge;
    if (left && right) {
      // a small roof shows which side is up
      const up = new Vector3(0, -1, 0).transformDirection(pose).multiplyScalar(size * lens.y * 0.45);
      const top = left.clone().add(right).multiplyScalar(0.5).add(up);
      places.push(...left.toArray(), ...top.toArray(), ...top.toArray(), ...right.toArray());
    }
  }
  return new BufferGeometry().setAttribute('position', new Float32BufferAttribute(places, 3));
}

/** The way of the camera as a thin tube; null where it does not move. */
export function tube(poses: Matrix4[], radius: number): TubeGeometry | null {
  const places: Vector3[] = [];
  for (const pose of poses) {
    const place = placeOf(pose);
    if (!places.at(-1) || place.distanceTo(places.at(-1) as Vector3) > radius * 0.2) places.push(place);
  }
  if (places.length < 2) return null;
  return new TubeGeometry(new CatmullRomCurve3(places), Math.min(400, places.length * 6), radius, 6);
}

/** Evenly spread indices, first and last among them. */
export function spread(count: number, most: number): number[] {
  const wanted = Math.min(count, most);
  const indices = Array.from({ length: wanted }, (_, n) => Math.round((n * (count - 1)) / Math.max(1, wanted - 1)));
  return [...new Set(indices)];
}

/** How far the cameras reach from the first. */
export function reach(poses: Matrix4[]): number {
  return poses.reduce((most, pose) => Math.max(most, placeOf(pose).length()), 0);
}
