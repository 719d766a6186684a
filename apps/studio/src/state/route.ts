/** Route of the page: `#/` creates, `#/world/ID`, `#/example/NAME` and `#/shared/TOKEN` show, `#/compare/ID/ID` compares. */

import { signal } from '@preact/signals';
import { EXAMPLE, SHARED } from '../service/api';

export type Route = { page: 'compose' } | { page: 'world'; id: string } | { page: 'compare'; ids: [string, string] };

export const route = signal<Route>(parse(location.hash));

function parse(hash: string): Route {
  const id = /^#\/world\/(video_[0-9a-f]{24})$/.exec(hash)?.[1];
  if (id) return { page: 'world', id };
  const example = /^#\/example\/([a-z0-9-]{1,40})$/.exec(hash)?.[1];
  if (example) return { page: 'world', id: EXAMPLE + example };
  const token = /^#\/shared\/([A-Za-z0-9_-]{32})$/.exec(hash)?.[1];
  if (token) return { page: 'world', id: SHARED + token };
  const [, one, other] = /^#\/compare\/(video_[0-9a-f]{24})\/(video_[0-9a-f]{24})$/.exec(hash) ?? [];
  if (one && other) return { page: 'compare', ids: [one, other] };
  return { page: 'compose' };
}

export function worldAddress(id: string): string {
  if (id.startsWith(EXAMPLE)) return `#/example/${id.slice(EXAMPLE.length)}`;
  if (id.startsWith(SHARED)) return `#/shared/${id.slice(SHARED.length)}`;
  return `#/world/${id}`;
}

export function go(hash: string): void {
  location.hash = hash;
}

window.addEventListener('hashchange', () => {
  route.value = parse(location.hash);
});
