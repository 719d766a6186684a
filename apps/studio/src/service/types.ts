/** Types of the API, as in docs/reference/api.md and /openapi.json. */

export type Status = 'queued' | 'in_progress' | 'completed' | 'failed';

export interface Video {
  id: string;
  model: string;
  status: Status;
  progress: number;
  created_at: number;
  completed_at: number | null;
  expires_at: number | null;
  prompt: string;
  seconds: string;
  size: string;
  remixed_from_video_id: string | null;
  error: { code: string; message: string } | null;
  num_frames: number;
  seed: number;
  camera: string;
  stage: string | null;
  step: number;
  steps: number;
  eta_seconds: number | null;
  queue_position: number | null;
  attempts: number;
  shared?: boolean;
  /** File name of the input image of an example world. */
  image?: string;
}

export interface Estimate {
  seconds: number | null;
  queue_position: number;
  queue_seconds: number | null;
  memory_bytes: number | null;
  memory_available_bytes: number | null;
}

export interface Examples {
  images: { name: string; prompt: string; file: string }[];
  worlds: Video[];
}

export interface Model {
  id: string;
  num_frames: number;
  size: string;
  fps: number;
  num_inference_steps: number;
  guidance_scale: number;
  about: string;
  loras: string[];
}

export interface Preset {
  preset: string;
  description: string;
  angle_deg: number | null;
  distance: number | null;
}

/** Row-major matrices; OpenCV axes, camera-to-world, relative to the first camera. */
export interface PathPreview {
  kind: string;
  num_frames: number;
  path_length: number;
  turn_deg: number;
  units: 'scene' | 'metric';
  width: number;
  height: number;
  K: number[][][];
  pose_c2w: number[][][];
}

export interface WorldSummary {
  median_depth?: number;
  camera_error?: { rotation_deg: number; translation_deg: number | null };
  path_length?: { recovered: number; requested: number };
}

export type Vector = [number, number, number];

export type CameraJson = Record<string, unknown>;
