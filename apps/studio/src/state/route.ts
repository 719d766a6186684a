/** Where the page is: `#/` makes a world, `#/world/ID` shows one. A link to a world is shared by its address. */

import { signal } from '@preact/signals';

export type Route = { page: 'compose' } | { page: 'world'; id: string };

export const route = signal<Route>(parse(location.hash));

function parse(hash: string): Route {
  const id = /^#\/world\/(video_[0-9a-f]{24})$/.exec(hash)?.[1];
  return id ? { page: 'world', id } : { page: 'compose' };
}

export function worldAddress(id: string): string {
  return `#/world/${id}`;
}

export function go(hash: string): void {
  location.hash = hash;
}

window.addEventListener('hashchange', () => {
  route.value = parse(location.hash);
});
