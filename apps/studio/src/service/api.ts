/** Requests to the service, with the API key where there is one. Addresses are relative to the page. */

import { signal } from '@preact/signals';
import type { CameraJson, Estimate, Examples, Model, PathPreview, Preset, Video } from './types';

const KEY = 'fw-api-key';

/** The API key of this tab; empty where none was given. It leaves with the tab. */
export const apiKey = signal(stored());
/** Whether the service said that it wants a key, or another one. */
export const keyWanted = signal(false);
/** Whether the question for the key was closed without one. */
export const keyRefused = signal(false);
/** Whether the last request reached the service. */
export const reachable = signal(true);

function stored(): string {
  try {
    return sessionStorage.getItem(KEY) ?? '';
  } catch {
    return ''; // storage is forbidden: the key lasts as long as the page
  }
}

export function setApiKey(key: string): void {
  apiKey.value = key;
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch {
    // as above
  }
}

/** An answer that is an error, or no answer (status 0). */
export class ServiceError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly param: string | null = null,
    readonly code: string | null = null,
    readonly retryAfter: number | null = null,
  ) {
    super(message);
  }
}

export function address(path: string): string {
  return new URL(path, document.baseURI.split('#')[0]).href;
}

export async function request(path: string, options: RequestInit = {}): Promise<Response> {
  const headers = new Headers(options.headers);
  const sent = apiKey.value;
  if (sent) headers.set('Authorization', `Bearer ${sent}`);
  let answer: Response;
  try {
    answer = await fetch(address(path), { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    reachable.value = false;
    throw new ServiceError(0, 'unreachable');
  }
  reachable.value = true;
  if (answer.ok) return answer;
  if (answer.status === 401 && sent === apiKey.value) keyWanted.value = true;
  const said: unknown = await answer.json().catch(() => null);
  const error = (said as { error?: { message?: string; param?: string; code?: string } } | null)?.error;
  const wait = Number(answer.headers.get('Retry-After')) || null;
  const message = error?.message ?? `${answer.status} ${answer.statusText}`;
  throw new ServiceError(answer.status, message, error?.param ?? null, error?.code ?? null, wait);
}

async function json<T>(path: string, options?: RequestInit): Promise<T> {
  return (await request(path, options)).json() as Promise<T>;
}

function post(path: string, body?: unknown, signal?: AbortSignal): [string, RequestInit] {
  const options: RequestInit = { method: 'POST' };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { 'Content-Type': 'application/json' };
  }
  if (signal) options.signal = signal;
  return [path, options];
}

export const api = {
  models: async () => (await json<{ data: Model[] }>('v1/models')).data,
  presets: async () => (await json<{ data: Preset[] }>('v1/trajectories')).data,
  preview: (camera: CameraJson | string, num_frames: number | null, size: string | null, signal: AbortSignal) => {
    const body = { camera_trajectory: camera, ...(num_frames && { num_frames }), ...(size && { size }) };
    return json<PathPreview>(...post('v1/trajectories/preview', body, signal));
  },
  list: (after: string | null) =>
    json<{ data: Video[]; has_more: boolean }>(`v1/videos?limit=30${after ? `&after=${after}` : ''}`),
  get: async (id: string): Promise<Video> => {
    if (id.startsWith(EXAMPLE)) return json<Video>(`studio/examples/${id.slice(EXAMPLE.length)}/video.json`);
    if (!id.startsWith(SHARED)) return json<Video>(`v1/videos/${encodeURIComponent(id)}`);
    const video = await json<Video>(`v1/shared/${encodeURIComponent(id.slice(SHARED.length))}`);
    return { ...video, id };
  },
  examples: () => json<Examples>('studio/examples'),
  estimate: (fields: Record<string, unknown>, signal: AbortSignal) =>
    json<Estimate>(...post('v1/videos/estimate', { prompt: '-', ...fields }, signal)),
  preview_frames: (id: string, signal: AbortSignal) => request(`v1/videos/${id}/preview`, { signal, cache: 'no-store' }),
  share: (id: string) => json<{ token: string }>(...post(`v1/videos/${id}/share`)),
  unshare: (id: string) => request(`v1/videos/${id}/share`, { method: 'DELETE' }),
  create: (form: FormData, name: string) =>
    json<Video>('v1/videos', { method: 'POST', body: form, headers: { 'Idempotency-Key': name } }),
  cancel: (id: string) => json<Video>(...post(`v1/videos/${id}/cancel`)),
  remix: (id: string, prompt: string) => json<Video>(...post(`v1/videos/${id}/remix`, { prompt })),
  remove: (id: string) => request(`v1/videos/${id}`, { method: 'DELETE' }),
  content: (id: string, variant: string, format?: string, signal?: AbortSignal) =>
    request(contentPath(id, variant, format), signal ? { signal } : {}),
};

/** Prefixes of worlds that are not the caller's own: packaged examples, and read-only links. */
export const EXAMPLE = 'example:';
export const SHARED = 'shared:';

/** Whether a world can be changed: deleted, remixed, shared. */
export function isOwn(id: string): boolean {
  return !id.startsWith(EXAMPLE) && !id.startsWith(SHARED);
}

const EXAMPLE_FILES: Record<string, string> = {
  video: 'video.mp4', depth: 'depth.mp4', confidence: 'confidence.mp4', thumbnail: 'thumbnail.webp',
  pointcloud: 'points.bin', world: 'world.json',
};

export function contentPath(id: string, variant: string, format?: string): string {
  if (id.startsWith(EXAMPLE)) return `studio/examples/${id.slice(EXAMPLE.length)}/${EXAMPLE_FILES[variant] ?? variant}`;
  if (id.startsWith(SHARED))
    return `v1/shared/${encodeURIComponent(id.slice(SHARED.length))}/content?variant=${variant}${format ? `&format=${format}` : ''}`;
  return `v1/videos/${encodeURIComponent(id)}/content?variant=${variant}${format ? `&format=${format}` : ''}`;
}

/** Whether a worker holds a model: ready, loading, or no answer at all. */
export async function readiness(): Promise<'ready' | 'loading' | 'gone'> {
  try {
    const answer = await fetch(address('readyz'), { cache: 'no-store' });
    reachable.value = true;
    return answer.ok ? 'ready' : 'loading';
  } catch {
    reachable.value = false;
    return 'gone';
  }
}
