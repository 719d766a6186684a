/** What the service has: its readiness, its models and motions, and the caller's worlds. */

import { signal } from '@preact/signals';
import { api, isOwn, keyWanted, readiness, ServiceError } from '../service/api';
import type { Examples, Model, Preset, Video } from '../service/types';
import { onChange, tell } from './library';

const LOOK_MS = 5000;

export const health = signal<'unknown' | 'ready' | 'loading' | 'gone'>('unknown');
export const models = signal<Model[]>([]);
export const presets = signal<Preset[]>([]);
/** Those that are known, newest first. */
export const worlds = signal<Video[] | null>(null);
/** Whether the list was read. */
export const listed = signal(false);
export const moreWorlds = signal(false);
export const worldsError = signal('');

/** Packaged images and worlds; null until they are read. */
export const examples = signal<Examples | null>(null);

onChange(({ kind, id }) => {
  if (kind === 'forget') drop(id);
  else void api.get(id).then(put, () => undefined);
});
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && listed.value) void loadWorlds();
});

/** The model whose defaults the page shows. */
export function model(): Model | null {
  return models.value[0] ?? null;
}

/** Put a newer state of a world into the list, here and in other tabs. */
export function update(video: Video): void {
  const before = worlds.value?.find((one) => one.id === video.id);
  put(video);
  if (isOwn(video.id) && before?.status !== video.status) tell({ kind: 'update', id: video.id });
}

function put(video: Video): void {
  const known = worlds.value ?? [];
  const place = known.findIndex((one) => one.id === video.id);
  if (place < 0) worlds.value = [video, ...known].sort((one, other) => other.created_at - one.created_at);
  else worlds.value = known.map((one, index) => (index === place ? video : one));
}

export function forget(id: string): void {
  drop(id);
  tell({ kind: 'forget', id });
}

function drop(id: string): void {
  worlds.value = (worlds.value ?? []).filter((video) => video.id !== id);
}

export async function loadWorlds(): Promise<void> {
  try {
    const { data, has_more } = await api.list(null);
    const known = (worlds.value ?? []).filter((video) => isOwn(video.id));
    const last = data.at(-1);
    // lists know no places in the queue, and older parts stay
    const newest = data.map((video) => ({
      ...video,
      queue_position: known.find((one) => one.id === video.id)?.queue_position ?? null,
    }));
    const ids = new Set(data.map((video) => video.id));
    const older = known.filter((video) => last && !ids.has(video.id) && video.created_at < last.created_at);
    const others = (worlds.value ?? []).filter((video) => !isOwn(video.id)); // an open example or shared world stays
    worlds.value = [...newest, ...older, ...others];
    if (!older.length) moreWorlds.value = has_more;
    listed.value = true;
    worldsError.value = '';
  } catch (error) {
    worldsError.value = error instanceof Error ? error.message : String(error);
  }
}

export async function loadMoreWorlds(): Promise<void> {
  const last = worlds.value?.filter((video) => isOwn(video.id)).at(-1);
  if (!last) return;
  const part = await api.list(last.id);
  worlds.value = [...(worlds.value ?? []), ...part.data];
  moreWorlds.value = part.has_more;
}

/** Read what is missing; called at the start, with a new key, and while something is not there yet. */
async function load(): Promise<void> {
  if (keyWanted.value) return;
  try {
    if (!presets.value.length) presets.value = await api.presets();
    if (!models.value.length) models.value = await api.models();
    if (!examples.value) examples.value = await api.examples();
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error; // the banner and the key dialog say what is wrong
  }
  const busy = worlds.value?.some((video) => video.status === 'queued' || video.status === 'in_progress');
  if (!listed.value || worldsError.value || busy) await loadWorlds();
}

/** Look at the service now, and every few seconds while the page is seen. */
export async function watch(): Promise<void> {
  if (!document.hidden) {
    health.value = await readiness();
    if (health.value !== 'gone') await load();
  }
  setTimeout(() => void watch(), LOOK_MS);
}

/** After a new key. */
export async function reload(): Promise<void> {
  worlds.value = null;
  listed.value = false;
  await load();
}
