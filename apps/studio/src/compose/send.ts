/** Sends the draft to the queue. */

import { api } from '../service/api';
import { go, worldAddress } from '../state/route';
import { camera, cameraJson, croppedImage, fields, inputImage, prompt, sizeOf } from '../state/draft';
import { model, update } from '../state/worlds';

/** Input images of worlds created in this tab, shown while the worlds are generated. */
export const sentImages = new Map<string, string>();

let attempt = { content: '', name: '' };

/** Queue the draft and show it. Sending the same draft again after a lost response creates no second world. */
export async function send(): Promise<void> {
  const chosen = inputImage.value;
  if (!chosen) throw new Error('no image');
  const [width, height] = (sizeOf(fields.value) ?? model()?.size ?? '3x2').split('x').map(Number);
  const image = (await croppedImage((width ?? 3) / (height ?? 2))) ?? chosen.blob;
  const form = new FormData();
  form.set('prompt', prompt.value.trim());
  form.set('input_reference', image, 'image');
  const path = cameraJson(camera.value);
  if (typeof path === 'string') form.set('camera_file', new Blob([path]), 'camera');
  else if (path) form.set('camera_trajectory', JSON.stringify(path));
  const values = fields.value;
  const size = sizeOf(values);
  if (size) form.set('size', size);
  for (const name of ['seed', 'num_inference_steps', 'guidance_scale', 'scene_scale', 'negative_prompt'] as const)
    if (values[name].trim()) form.set(name, values[name].trim());
  // a file with one camera per frame sets the number of frames
  if (values.num_frames && camera.value.mode !== 'file') form.set('num_frames', values.num_frames);
  const content = [...form].map(([name, value]) => `${name}=${typeof value === 'string' ? value : value.size}`).join('&');
  if (attempt.content !== content + chosen.url) attempt = { content: content + chosen.url, name: token() };
  const video = await api.create(form, attempt.name);
  attempt = { content: '', name: '' };
  sentImages.set(video.id, URL.createObjectURL(image));
  update(video);
  go(worldAddress(video.id));
}

function token(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}
