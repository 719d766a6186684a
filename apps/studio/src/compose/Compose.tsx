/** The page that makes a world: what it is made of on one side, the camera path in 3D on the other. */

import { useRef, useState } from 'preact/hooks';
import { Field, Icon } from '../parts';
import { ServiceError } from '../service/api';
import { notify } from '../state/appearance';
import { camera, inputImage, prompt } from '../state/draft';
import { ModelLine } from '../world/ModelLine';
import { model } from '../state/worlds';
import { pathError } from '../state/preview';
import { t } from '../words';
import { CameraPanel } from './CameraPanel';
import { ImageField } from './ImageField';
import { Estimate } from './Estimate';
import { Stages } from './Stages';
import { send } from './send';
import { Settings } from './Settings';

interface Refusal {
  param: string;
  message: string;
}

const SHOWN_AT_FIELD = [
  'input_reference', 'prompt', 'num_frames', 'size', 'seed', 'num_inference_steps', 'guidance_scale', 'scene_scale',
  'negative_prompt',
];

export function Compose() {
  const [refusal, setRefusal] = useState<Refusal | null>(null);
  const [sending, setSending] = useState(false);
  const form = useRef<HTMLFormElement>(null);
  const wrong = (name: string) => (refusal?.param === name ? refusal.message : '');

  function refuse(param: string, message: string) {
    setRefusal({ param, message });
    setTimeout(() => form.current?.querySelector<HTMLElement>('[aria-invalid="true"]')?.focus());
  }

  async function submit(event: Event) {
    event.preventDefault();
    if (sending) return;
    if (!inputImage.value) return refuse('input_reference', t('imageMissing'));
    if (!prompt.value.trim()) return refuse('prompt', t('promptMissing'));
    if (camera.value.mode === 'file' && !camera.value.text.trim()) return refuse('camera', t('fileEmpty'));
    if (pathError.value) return refuse('camera', pathError.value);
    setSending(true);
    setRefusal(null);
    try {
      await send();
      notify(t('created'));
    } catch (error) {
      if (!(error instanceof ServiceError)) throw error;
      const wait = error.retryAfter ? ` ${t('waitAndTry', { seconds: error.retryAfter })}` : '';
      const said = error.status === 0 ? t('gone') : error.message;
      refuse(error.param ?? '', said.replace(`${error.param}: `, '') + wait);
    } finally {
      setSending(false);
    }
  }

  const elsewhere = refusal && refusal.message && !SHOWN_AT_FIELD.includes(refusal.param);
  return (
    <div class="compose">
      <form class="composer" ref={form} onSubmit={(event) => void submit(event)} noValidate>
        <h1>{t('composeTitle')}</h1>
        <ModelLine id={model()?.id ?? ''} />
        <ImageField error={wrong('input_reference')}
          onError={(message) => setRefusal(message ? { param: 'input_reference', message } : null)} />
        <Field label={t('prompt')} hint={t('promptHint')} error={wrong('prompt')}>
          {(ids) => (
            <textarea {...ids} rows={3} value={prompt.value} placeholder={t('promptExample')} required
              onInput={(event) => {
                prompt.value = event.currentTarget.value;
                if (wrong('prompt')) setRefusal(null);
              }} />
          )}
        </Field>
        <CameraPanel />
        <Settings wrong={wrong} />
        <div class="submit">
          {elsewhere && (
            <p class="callout bad" role="alert">
              <Icon name="warn" />
              <span><strong>{t('refused')}.</strong> {refusal.message}</span>
            </p>
          )}
          {refusal && !elsewhere && <p class="hidden" role="alert">{refusal.message}</p>}
          <Estimate />
          <button type="submit" class="button primary" aria-disabled={sending}>
            {sending ? t('creating') : t('create')}
          </button>
        </div>
      </form>
      <Stages />
    </div>
  );
}
