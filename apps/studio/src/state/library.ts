/** Names, favorites and other tabs: kept in this browser, not on the service. */

import { effect, signal } from '@preact/signals';

interface Library {
  names: Record<string, string>;
  favorites: string[];
}

const KEY = 'fw-library';

export const library = signal<Library>(read());

function read(): Library {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? '{}') as Partial<Library>;
    return { names: found.names ?? {}, favorites: found.favorites ?? [] };
  } catch {
    return { names: {}, favorites: [] };
  }
}

effect(() => {
  try {
    localStorage.setItem(KEY, JSON.stringify(library.value));
  } catch {
    // storage is forbidden or full: names last as long as the page
  }
});
window.addEventListener('storage', (event) => {
  if (event.key === KEY) library.value = read();
});

export function rename(id: string, name: string): void {
  const names = { ...library.value.names };
  if (name.trim()) names[id] = name.trim().slice(0, 120);
  else delete names[id];
  library.value = { ...library.value, names };
}

export function isFavorite(id: string): boolean {
  return library.value.favorites.includes(id);
}

export function toggleFavorite(id: string): void {
  const { favorites } = library.value;
  const others = favorites.filter((one) => one !== id);
  library.value = { ...library.value, favorites: others.length < favorites.length ? others : [id, ...favorites] };
}

/** The given name of a world, or its prompt. */
export function titleOf(video: { id: string; prompt: string }): string {
  return library.value.names[video.id] ?? video.prompt;
}

export type Change = { kind: 'update' | 'forget'; id: string };

const channel = 'BroadcastChannel' in window ? new BroadcastChannel('fw-worlds') : null;

/** Tell other tabs that a world has changed. */
export function tell(change: Change): void {
  channel?.postMessage(change);
}

/** Call with every change of another tab. */
export function onChange(act: (change: Change) => void): void {
  channel?.addEventListener('message', (event: MessageEvent<Change>) => act(event.data));
}
