/** The world that is being made: image, prompt, camera path, settings. It outlasts a look at another page. */

import { signal } from '@preact/signals';
import type { CameraJson, Preset, Vector } from '../service/types';

export interface InputImage {
  blob: Blob;
  name: string;
  url: string;
  width: number;
  height: number;
}

export interface Keyframe {
  position: Vector;
  look_at: Vector;
}

export type CameraMode = 'preset' | 'keyframes' | 'file';

export interface CameraDraft {
  mode: CameraMode;
  preset: string;
  /** Null where the motion has none. */
  angle: number | null;
  distance: number | null;
  easing: 'linear' | 'smooth';
  fov: number;
  keys: Keyframe[];
  selected: number;
  text: string;
}

/** Numbers as they were typed; empty means that the model decides. */
export interface Fields {
  num_frames: string;
  width: string;
  height: string;
  seed: string;
  num_inference_steps: string;
  guidance_scale: string;
  scene_scale: string;
  negative_prompt: string;
}

export const inputImage = signal<InputImage | null>(null);
export const prompt = signal('');
export const fields = signal<Fields>({
  num_frames: '',
  width: '',
  height: '',
  seed: '0',
  num_inference_steps: '',
  guidance_scale: '',
  scene_scale: '',
  negative_prompt: '',
});
export const camera = signal<CameraDraft>({
  mode: 'preset',
  preset: 'orbit',
  angle: 30,
  distance: null,
  easing: 'linear',
  fov: 50,
  keys: [
    { position: [0, 0, 0], look_at: [0, 0, 1] },
    { position: [0.35, -0.1, 0.2], look_at: [0, 0, 1] },
  ],
  selected: 1,
  text: '',
});

export function setCamera(change: Partial<CameraDraft>): void {
  camera.value = { ...camera.value, ...change };
}

export function setField(name: keyof Fields, value: string): void {
  fields.value = { ...fields.value, [name]: value };
}

export function choosePreset(preset: Preset): void {
  setCamera({ preset: preset.preset, angle: preset.angle_deg, distance: preset.distance });
}

export function setKey(index: number, change: Partial<Keyframe>): void {
  setCamera({ keys: camera.value.keys.map((key, place) => (place === index ? { ...key, ...change } : key)) });
}

export function addKey(key: Keyframe): void {
  const keys = [...camera.value.keys, key];
  setCamera({ keys, selected: keys.length - 1 });
}

export function removeKey(index: number): void {
  const keys = camera.value.keys.filter((_, place) => place !== index);
  setCamera({ keys, selected: Math.min(camera.value.selected, keys.length - 1) });
}

/** What `camera_trajectory` takes; null while there is nothing to send. */
export function cameraJson(draft: CameraDraft): CameraJson | string | null {
  if (draft.mode === 'file') return draft.text.trim() ? draft.text : null;
  const shared = { easing: draft.easing, fov_deg: draft.fov };
  if (draft.mode === 'keyframes') return { keyframes: draft.keys, ...shared };
  const { angle, distance } = draft;
  return {
    preset: draft.preset,
    ...(angle !== null && { angle_deg: angle }),
    ...(distance !== null && { distance }),
    ...shared,
  };
}

/** WIDTHxHEIGHT, or null where the model decides. */
export function sizeOf(values: Fields): string | null {
  return values.width && values.height ? `${values.width}x${values.height}` : null;
}

/** Take an image for the next world. Rejects what the browser cannot show as an image. */
export async function takeImage(blob: Blob, name: string): Promise<void> {
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    throw new Error('not an image');
  }
  dropImage();
  inputImage.value = { blob, name, url, width: image.naturalWidth, height: image.naturalHeight };
}

export function dropImage(): void {
  if (inputImage.value) URL.revokeObjectURL(inputImage.value.url);
  inputImage.value = null;
}
