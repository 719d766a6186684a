/** The camera path: a motion with sliders, keyframes, or a path of one's own. */

import { useRef } from 'preact/hooks';
import { Choice, Field, Slider, Switch } from '../parts';
import { camera, type CameraMode, choosePreset, setCamera } from '../state/draft';
import { path, pathError } from '../state/preview';
import { presets } from '../state/worlds';
import type { Vector } from '../service/types';
import { number, t, tOr } from '../words';
import { KeyframeList } from './KeyframeList';

const ANGLES: Record<string, [number, number]> = {
  orbit: [-120, 120],
  pan: [-90, 90],
  tilt: [-60, 60],
  roll: [-180, 180],
  spiral: [-1080, 1080],
};
const DISTANCES: Record<string, [number, number]> = { dolly: [-1, 0.9], spiral: [0, 0.5] };
const KEYS_OF_A_PATH = 4;

export function CameraPanel() {
  const draft = camera.value;
  const modes: CameraMode[] = ['preset', 'keyframes', 'file'];
  return (
    <section class="panel" aria-labelledby="camera-title">
      <div class="panel-head">
        <h2 id="camera-title">{t('camera')}</h2>
        <Choice label={t('camera')} value={draft.mode} onChange={(mode) => setCamera({ mode })}
          options={modes.map((value) => ({ value, label: t(`mode_${value}`) }))} />
      </div>
      {draft.mode === 'preset' && <Motion />}
      {draft.mode === 'keyframes' && <KeyframeList />}
      {draft.mode === 'file' ? <PathFile /> : <Shared />}
      {pathError.value && draft.mode !== 'file' && <p class="note bad" role="alert">{pathError.value}</p>}
    </section>
  );
}

function Motion() {
  const draft = camera.value;
  const preset = presets.value.find((one) => one.preset === draft.preset);
  const angles = ANGLES[draft.preset] ?? [-180, 180];
  const distances = DISTANCES[draft.preset] ?? [-1, 1];
  return (
    <>
      <Choice wide label={t('motion')} value={draft.preset}
        options={presets.value.map(({ preset: value, description }) => ({
          value,
          label: tOr(`preset_${value}`, value),
          title: tOr(`about_${value}`, description),
        }))}
        onChange={(value) => {
          const next = presets.value.find((one) => one.preset === value);
          if (next) choosePreset(next);
        }} />
      <p class="note">{tOr(`about_${draft.preset}`, preset?.description ?? '')}</p>
      {draft.angle !== null && (
        <Slider label={t('angle')} min={angles[0]} max={angles[1]} step={1} value={draft.angle}
          text={`${number(draft.angle)}°`} onInput={(angle) => setCamera({ angle })} />
      )}
      {draft.distance !== null && (
        <Slider label={t('distance')} min={distances[0]} max={distances[1]} step={0.01} value={draft.distance}
          text={`${number(draft.distance, 2)} ${t('distanceUnit')}`} onInput={(distance) => setCamera({ distance })} />
      )}
    </>
  );
}

function Shared() {
  const draft = camera.value;
  return (
    <>
      <Slider label={t('fov')} min={20} max={100} step={1} value={draft.fov} text={`${number(draft.fov)}°`}
        onInput={(fov) => setCamera({ fov })} />
      <div class="row">
        <Switch label={t('easing')} on={draft.easing === 'smooth'}
          onChange={(on) => setCamera({ easing: on ? 'smooth' : 'linear' })} />
        {draft.mode === 'preset' && draft.preset !== 'roll' && draft.preset !== 'still' && path.value && (
          <button type="button" class="text-button" onClick={toKeyframes}>{t('toKeyframes')}</button>
        )}
      </div>
    </>
  );
}

/** A few cameras of the present path, as keyframes. */
function toKeyframes(): void {
  const poses = path.value?.pose_c2w ?? [];
  const count = Math.min(KEYS_OF_A_PATH, poses.length);
  const keys = Array.from({ length: count }, (_, n) => {
    const pose = poses[Math.round((n * (poses.length - 1)) / Math.max(1, count - 1))] ?? [];
    const column = (index: number) => [0, 1, 2].map((row) => pose[row]?.[index] ?? 0) as Vector;
    const [place, ahead] = [column(3), column(2)];
    const round = (value: number) => Math.round(value * 1000) / 1000;
    return {
      position: place.map(round) as Vector,
      look_at: place.map((value, axis) => round(value + (ahead[axis] ?? 0))) as Vector,
    };
  });
  if (keys.length) setCamera({ mode: 'keyframes', keys, selected: keys.length - 1 });
}

function PathFile() {
  const draft = camera.value;
  const input = useRef<HTMLInputElement>(null);
  const empty = !draft.text.trim();
  return (
    <div onDragOver={(event) => event.preventDefault()}
      onDrop={(event) => {
        event.preventDefault();
        void event.dataTransfer?.files[0]?.text().then((text) => setCamera({ text }));
      }}>
      <Field label={t('fileText')} hint={empty ? t('fileEmpty') : t('fileHint')} error={pathError.value}>
        {(ids) => (
          <textarea {...ids} class="code" rows={7} spellcheck={false} value={draft.text}
            placeholder='{"poses_c2w": [...]}'
            onInput={(event) => setCamera({ text: event.currentTarget.value })} />
        )}
      </Field>
      <input ref={input} class="hidden" type="file" tabIndex={-1} aria-hidden="true" accept=".json,.txt"
        onChange={(event) => void event.currentTarget.files?.[0]?.text().then((text) => setCamera({ text }))} />
      <button type="button" class="button" onClick={() => input.current?.click()}>{t('fileChoose')}</button>
    </div>
  );
}
