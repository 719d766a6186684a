/** From the draft to a world in the queue. */

import { api } from '../service/api';
import { go, worldAddress } from '../state/route';
import { camera, cameraJson, fields, picture, prompt, sizeOf } from '../state/draft';
import { update } from '../state/worlds';

/** Pictures of worlds made in this tab, to look at while they are made. */
export const sentPictures = new Map<string, string>();

let attempt = { content: '', name: '' };

/** Queue the draft and show it. Sending the same again after a lost answer does not make a second world. */
export async function send(): Promise<void> {
  const chosen = picture.value;
  if (!chosen) throw new Error('no picture');
  const form = new FormData();
  form.set('prompt', prompt.value.trim());
  form.set('input_reference', chosen.blob, 'picture');
  const path = cameraJson(camera.value);
  if (typeof path === 'string') form.set('camera_file', new Blob([path]), 'camera');
  else if (path) form.set('camera_trajectory', JSON.stringify(path));
  const values = fields.value;
  const size = sizeOf(values);
  if (size) form.set('size', size);
  for (const name of ['seed', 'steps', 'guidance', 'scene_scale', 'negative_prompt'] as const)
    if (values[name].trim()) form.set(name, values[name].trim());
  // a path of one camera per frame says its own length
  if (values.frames && camera.value.mode !== 'file') form.set('frames', values.frames);
  const content = [...form].map(([name, value]) => `${name}=${typeof value === 'string' ? value : value.size}`).join('&');
  if (attempt.content !== content + chosen.url) attempt = { content: content + chosen.url, name: token() };
  const video = await api.create(form, attempt.name);
  attempt = { content: '', name: '' };
  sentPictures.set(video.id, URL.createObjectURL(chosen.blob));
  update(video);
  go(worldAddress(video.id));
}

function token(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}
