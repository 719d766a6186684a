/** Reads the point cloud for viewers (`pointcloud` as `bin`; docs/reference/api.md has the layout). */

interface Cameras {
  /** fx, fy, cx, cy of every frame. */
  K: number[][];
  /** Rows of 3 x 4 of every frame. */
  pose_c2w: number[][];
}

interface Header {
  frames: number;
  height: number;
  width: number;
  fps: number;
  units: 'scene' | 'metric';
  stride: number;
  points: number;
  points_of_frame: number[];
  cameras: Cameras;
  requested: Cameras;
}

export interface PointsFile extends Header {
  position: Float32Array;
  color: Uint8Array;
  /** Share of points that are less sure, 0 to 255. */
  confidence: Uint8Array;
  /** Index of every frame's first point, and the number of all points at the end. */
  begin: number[];
}

const MAGIC = 'FWPOINTS';

/** Throws where the bytes are something else. */
export function readPoints(bytes: ArrayBuffer): PointsFile {
  const head = new DataView(bytes);
  const magic = new TextDecoder().decode(new Uint8Array(bytes, 0, Math.min(8, bytes.byteLength)));
  if (magic !== MAGIC || bytes.byteLength < 16 || head.getUint32(8, true) !== 1) throw new Error('not a point cloud');
  const size = head.getUint32(12, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 16, size))) as Header;
  const n = header.points;
  const at = 16 + size;
  if (bytes.byteLength < at + 16 * n) throw new Error('the point cloud is cut short');
  const begin = [0];
  for (const count of header.points_of_frame) begin.push((begin.at(-1) ?? 0) + count);
  return {
    ...header,
    position: new Float32Array(bytes, at, 3 * n),
    color: new Uint8Array(bytes, at + 12 * n, 3 * n),
    confidence: new Uint8Array(bytes, at + 15 * n, n),
    begin,
  };
}

/** Size of every point: the part of the scene that its pixel covers. */
export function footprints(file: PointsFile): Float32Array {
  const sizes = new Float32Array(file.points);
  for (let frame = 0; frame < file.frames; frame++) {
    const pose = file.cameras.pose_c2w[frame] ?? [];
    const [zx, zy, zz] = [pose[2] ?? 0, pose[6] ?? 0, pose[10] ?? 1];
    const [tx, ty, tz] = [pose[3] ?? 0, pose[7] ?? 0, pose[11] ?? 0];
    const perDepth = file.stride / (file.cameras.K[frame]?.[0] ?? 1);
    for (let i = file.begin[frame] ?? 0; i < (file.begin[frame + 1] ?? 0); i++) {
      const [x, y, z] = [file.position[3 * i] ?? 0, file.position[3 * i + 1] ?? 0, file.position[3 * i + 2] ?? 0];
      sizes[i] = perDepth * ((x - tx) * zx + (y - ty) * zy + (z - tz) * zz);
    }
  }
  return sizes;
}

/** Middle depth of the first frame's points. */
export function medianDepth(file: PointsFile): number {
  const depths: number[] = [];
  for (let i = 0; i < (file.begin[1] ?? 0); i += 7) depths.push(file.position[3 * i + 2] ?? 0);
  depths.sort((one, other) => one - other);
  return depths[depths.length >> 1] || 1;
}
