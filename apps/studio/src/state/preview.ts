/** The camera path of the draft, camera by camera, as the service reads it. */

import { effect, signal } from '@preact/signals';
import { api, apiKey, ServiceError } from '../service/api';
import type { PathPreview } from '../service/types';
import { camera, cameraJson, fields, sizeOf } from './draft';
import { models } from './worlds';

const PAUSE_MS = 60;

/** The newest path that could be read. */
export const path = signal<PathPreview | null>(null);
/** Why the present one cannot; empty if it can. */
export const pathError = signal('');

let running: AbortController | null = null;
let timer = 0;

effect(() => {
  const draft = camera.value;
  const values = fields.value;
  void apiKey.value;
  if (!models.value.length) return;
  const json = cameraJson(draft);
  clearTimeout(timer);
  running?.abort();
  if (json === null) {
    pathError.value = '';
    return;
  }
  const frames = draft.mode === 'file' ? null : Number(values.num_frames) || models.value[0]?.num_frames || null;
  timer = setTimeout(() => void ask(json, frames, sizeOf(values)), PAUSE_MS);
});

async function ask(json: Record<string, unknown> | string, frames: number | null, size: string | null) {
  const stop = (running = new AbortController());
  try {
    const answer = await api.preview(json, frames, size, stop.signal);
    if (stop.signal.aborted) return;
    path.value = answer;
    pathError.value = '';
  } catch (error) {
    if (stop.signal.aborted) return;
    // a service that does not answer is not the path's fault, and the banner says it
    if (error instanceof ServiceError && (error.status === 0 || error.status === 401)) return;
    pathError.value = error instanceof Error ? error.message.replace(/^camera_trajectory: /, '') : String(error);
  }
}
