/** The draft of a world: image, prompt, camera path, settings. It survives other pages and reloads. */

import { effect, signal } from '@preact/signals';
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

const KEY = 'fw-draft';
const IMAGE_KEY = 'fw-draft-image';
const MAX_SIDE = 2048;
/** Types that the service accepts; other images are converted. */
const ACCEPTED = ['image/png', 'image/jpeg', 'image/webp'];
/** Images of more base64 than this are not kept; the browser's storage is small. */
const KEPT_LENGTH = 3_500_000;

/** Part of the image to send: the center and the size of the crop box, as shares of the image. */
export interface Crop {
  x: number;
  y: number;
  size: number;
}

interface Kept {
  prompt?: string;
  fields?: Partial<Fields>;
  camera?: Partial<CameraDraft>;
  crop?: Crop;
}

const kept = readDraft();

function readDraft(): Kept {
  try {
    return JSON.parse(sessionStorage.getItem(KEY) ?? '{}') as Kept;
  } catch {
    return {};
  }
}

function store(key: string, value: string | null): void {
  try {
    if (value === null) sessionStorage.removeItem(key);
    else sessionStorage.setItem(key, value);
  } catch {
    // storage is forbidden or full: the draft lasts as long as the page
  }
}

export const inputImage = signal<InputImage | null>(null);
export const crop = signal<Crop>(kept.crop ?? { x: 0.5, y: 0.5, size: 1 });
export const prompt = signal(kept.prompt ?? '');
export const fields = signal<Fields>({
  num_frames: '',
  width: '',
  height: '',
  seed: '0',
  num_inference_steps: '',
  guidance_scale: '',
  scene_scale: '',
  negative_prompt: '',
  ...kept.fields,
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
  ...kept.camera,
});

effect(() => {
  const draft: Kept = { prompt: prompt.value, fields: fields.value, camera: camera.value, crop: crop.value };
  store(KEY, JSON.stringify(draft));
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

/** Take an image for the next world; large photos are downscaled, other formats converted. Rejects files that the browser cannot decode. */
export async function takeImage(blob: Blob, name: string, box: Crop = { x: 0.5, y: 0.5, size: 1 }): Promise<void> {
  const { image, url } = await decoded(blob);
  let taken = { blob, url, width: image.naturalWidth, height: image.naturalHeight };
  const scale = MAX_SIDE / Math.max(taken.width, taken.height);
  if (scale < 1 || !ACCEPTED.includes(blob.type)) {
    const factor = Math.min(1, scale);
    const smaller = await drawn(image, 0, 0, taken.width, taken.height, taken.width * factor, taken.height * factor);
    URL.revokeObjectURL(url);
    const again = await decoded(smaller);
    taken = { blob: smaller, url: again.url, width: again.image.naturalWidth, height: again.image.naturalHeight };
  }
  dropImage();
  crop.value = box;
  inputImage.value = { ...taken, name };
  void keepImage(taken.blob, name);
}

export function dropImage(): void {
  if (inputImage.value) URL.revokeObjectURL(inputImage.value.url);
  inputImage.value = null;
  store(IMAGE_KEY, null);
}

/** The crop box in pixels of an image, for frames of this aspect ratio (width / height). */
export function cropBox(image: InputImage, aspect: number, box: Crop): { x: number; y: number; width: number; height: number } {
  const width = Math.min(image.width, image.height * aspect) * box.size;
  const height = width / aspect;
  const place = (center: number, side: number, whole: number) => Math.min(whole - side, Math.max(0, center * whole - side / 2));
  return { x: place(box.x, width, image.width), y: place(box.y, height, image.height), width, height };
}

/** The image to send: cropped where the box is smaller than the image, else as it was taken. */
export async function croppedImage(aspect: number): Promise<Blob | null> {
  const taken = inputImage.value;
  if (!taken) return null;
  const { x, y, width, height } = cropBox(taken, aspect, crop.value);
  if (width > taken.width - 1 && height > taken.height - 1) return taken.blob;
  const { image, url } = await decoded(taken.blob);
  URL.revokeObjectURL(url);
  return drawn(image, x, y, width, height, width, height);
}

async function decoded(blob: Blob): Promise<{ image: HTMLImageElement; url: string }> {
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    throw new Error('not an image');
  }
  return { image, url };
}

async function drawn(
  image: HTMLImageElement, x: number, y: number, width: number, height: number, toWidth: number, toHeight: number,
): Promise<Blob> {
  const canvas = document.createElement('canvas');
  canvas.width = Math.max(1, Math.round(toWidth));
  canvas.height = Math.max(1, Math.round(toHeight));
  const context = canvas.getContext('2d');
  if (!context) throw new Error('no canvas');
  context.imageSmoothingQuality = 'high';
  context.fillStyle = '#fff';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, x, y, width, height, 0, 0, canvas.width, canvas.height);
  const small = canvas.width * canvas.height < 500_000;
  const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, small ? 'image/png' : 'image/jpeg', 0.93));
  if (!blob) throw new Error('no image');
  return blob;
}

async function keepImage(blob: Blob, name: string): Promise<void> {
  const url = await new Promise<string>((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.readAsDataURL(blob);
  });
  store(IMAGE_KEY, url.length < KEPT_LENGTH ? JSON.stringify({ name, url }) : null);
}

/** Restore the image of the draft after a reload. */
async function restoreImage(): Promise<void> {
  try {
    const found = sessionStorage.getItem(IMAGE_KEY);
    if (!found || inputImage.value) return;
    const { name, url } = JSON.parse(found) as { name: string; url: string };
    await takeImage(await (await fetch(url)).blob(), name, crop.value);
  } catch {
    // no storage, or an image that this browser no longer reads
  }
}

void restoreImage();
