/** Progress of one world, until it is finished: server-sent events, read with fetch because a key goes in a header. */

import { api, request, ServiceError } from './api';
import type { Video } from './types';

const PAUSE_MS = 2000;

/**
 * Calls `changed` with every state of a world; with null when it is gone. A lost connection is taken up again.
 * Ends with the world or with the signal.
 */
export async function follow(id: string, changed: (video: Video | null) => void, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    try {
      const answer = await request(`v1/videos/${id}/events`, { signal });
      if (await read(answer, changed)) return;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ServiceError && error.status === 404) {
        changed(null);
        return;
      }
      if (error instanceof ServiceError && error.status === 401) return;
      if (error instanceof ServiceError && error.status === 429 && (await poll(id, changed))) return;
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

async function poll(id: string, changed: (video: Video | null) => void): Promise<boolean> {
  try {
    const video = await api.get(id);
    changed(video);
    return video.status === 'completed' || video.status === 'failed';
  } catch {
    return false; // the loop above asks again
  }
}

/** Whether the last event came. */
async function read(answer: Response, changed: (video: Video | null) => void): Promise<boolean> {
  const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const part = await reader?.read();
    if (!part || part.done) return false;
    text += part.value;
    const events = text.split('\n\n');
    text = events.pop() ?? '';
    for (const event of events) {
      const name = /^event: (.*)$/m.exec(event)?.[1];
      const data = /^data: (.*)$/m.exec(event)?.[1];
      if (data === undefined) continue;
      changed(JSON.parse(data) as Video | null);
      if (name === 'done') return true;
    }
  }
}
