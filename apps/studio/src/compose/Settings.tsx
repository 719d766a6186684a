/** Length, size, seed and the rest; empty fields are the model's defaults. */

import { Field, IconButton } from '../parts';
import { fields, setField } from '../state/draft';
import { model } from '../state/worlds';
import { number, t } from '../words';

const SEEDS = 1_000_000;

export function Settings({ wrong }: { wrong: (name: string) => string }) {
  const values = fields.value;
  const card = model();
  const [width, height] = card?.size.split('x') ?? ['', ''];
  const frames = Number(values.num_frames) || card?.num_frames || 0;
  const seconds = card ? number(frames / card.fps, 1) : '';
  const numeric = (
    name: 'num_frames' | 'width' | 'height' | 'seed' | 'num_inference_steps' | 'guidance_scale' | 'scene_scale',
    standard: string,
    limits: { min: number; step: number | 'any' },
    hint?: string,
  ) => (
    <Field label={t(name)} hint={hint} error={wrong(name === 'width' || name === 'height' ? 'size' : name)}>
      {(ids) => (
        <input {...ids} type="number" inputMode="decimal" value={values[name]} placeholder={standard} {...limits}
          onInput={(event) => setField(name, event.currentTarget.value)} />
      )}
    </Field>
  );
  const open = ['num_frames', 'size', 'seed', 'num_inference_steps', 'guidance_scale', 'scene_scale', 'negative_prompt'].some(wrong);
  return (
    <details class="panel" open={open || undefined}>
      <summary>{t('settings')}</summary>
      <div class="grid2">
        {numeric('num_frames', String(card?.num_frames ?? ''), { min: 1, step: 4 }, t('num_framesHint', { seconds, fps: card?.fps ?? '' }))}
        <div class="with-button">
          {numeric('seed', '0', { min: 0, step: 1 })}
          <IconButton icon="dice" label={t('seedNew')}
            onClick={() => setField('seed', String(Math.floor(Math.random() * SEEDS)))} />
        </div>
        {numeric('width', width ?? '', { min: 16, step: 16 })}
        {numeric('height', height ?? '', { min: 16, step: 16 })}
        {numeric('num_inference_steps', String(card?.num_inference_steps ?? ''), { min: 1, step: 1 })}
        {numeric('guidance_scale', String(card?.guidance_scale ?? ''), { min: 0, step: 'any' })}
      </div>
      {numeric('scene_scale', '1', { min: 0, step: 'any' }, t('scene_scaleHint'))}
      <Field label={t('negative_prompt')} error={wrong('negative_prompt')}>
        {(ids) => (
          <textarea {...ids} rows={2} value={values.negative_prompt}
            onInput={(event) => setField('negative_prompt', event.currentTarget.value)} />
        )}
      </Field>
    </details>
  );
}
