/** Files of a world on this machine: as an address for <img> and <video>, or saved. */

import { useEffect, useState } from 'preact/hooks';
import { address, api, apiKey, contentPath } from './api';

/** Save a file. With a key it is fetched first, because a link cannot carry the key. */
export async function save(id: string, variant: string, format: string, name: string): Promise<void> {
  const link = document.createElement('a');
  link.download = name;
  if (!apiKey.value) {
    link.href = address(contentPath(id, variant, format));
    link.click();
    return;
  }
  const blob = await (await api.content(id, variant, format)).blob();
  link.href = URL.createObjectURL(blob);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export interface FileState {
  /** Address of the whole file in memory; null until it is there. */
  url: string | null;
  failed: boolean;
}

/** The whole file as a blob address, so that seeking never waits and a key can be sent. */
export function useFile(id: string, variant: string): FileState {
  const [state, set] = useState<FileState>({ url: null, failed: false });
  useEffect(() => {
    const stop = new AbortController();
    let url: string | null = null;
    set({ url: null, failed: false });
    api
      .content(id, variant, undefined, stop.signal)
      .then((answer) => answer.blob())
      .then((blob) => {
        if (stop.signal.aborted) return;
        url = URL.createObjectURL(blob);
        set({ url, failed: false });
      })
      .catch(() => !stop.signal.aborted && set({ url: null, failed: true }));
    return () => {
      stop.abort();
      if (url) URL.revokeObjectURL(url);
    };
  }, [id, variant, apiKey.value]);
  return state;
}
