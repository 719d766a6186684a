/** Keyframes as numbers: the same that the handles of the 3D view move. */

import { Icon, IconButton } from '../parts';
import type { Vector } from '../service/types';
import { addKey, camera, removeKey, setCamera, setKey } from '../state/draft';
import { t } from '../words';

const AXES = ['x', 'y', 'z'];

export function KeyframeList() {
  const { keys, selected } = camera.value;
  return (
    <>
      <p class="note">{t('keyframesHint')}</p>
      <ol class="keyframes">
        {keys.map((key, index) => (
          <li key={index} class={index === selected ? 'on' : ''}>
            <div class="keyframe-head">
              <button type="button" class="keyframe-name" aria-expanded={index === selected && index > 0}
                disabled={index === 0} onClick={() => setCamera({ selected: index })}>
                {index === 0 ? t('keyframeStart') : t('keyframe', { n: index + 1 })}
              </button>
              {index > 0 && keys.length > 2 && (
                <IconButton icon="trash" label={t('removeKeyframe', { n: index + 1 })} onClick={() => removeKey(index)} />
              )}
            </div>
            {index === selected && index > 0 && (
              <>
                <Numbers label={t('position')} value={key.position} onChange={(position) => setKey(index, { position })} />
                <Numbers label={t('lookAt')} value={key.look_at} onChange={(look_at) => setKey(index, { look_at })} />
              </>
            )}
          </li>
        ))}
      </ol>
      <button type="button" class="button" onClick={() => addKey(further(keys))}>
        <Icon name="plus" />
        {t('addKeyframe')}
      </button>
    </>
  );
}

/** A keyframe as far beyond the last as that is from the one before. */
function further(keys: { position: Vector; look_at: Vector }[]) {
  const [before, last] = keys.slice(-2);
  const end = last ?? before ?? { position: [0, 0, 0] as Vector, look_at: [0, 0, 1] as Vector };
  const step = (axis: number) => (before && last ? (last.position[axis] ?? 0) - (before.position[axis] ?? 0) : 0.1);
  const position = end.position.map((value, axis) => Math.round((value + step(axis) * 0.6) * 1000) / 1000);
  return { position: position as Vector, look_at: end.look_at };
}

function Numbers({ label, value, onChange }: { label: string; value: Vector; onChange: (value: Vector) => void }) {
  return (
    <fieldset class="numbers">
      <legend>{label}</legend>
      {AXES.map((axis, index) => (
        <label key={axis}>
          <span>{axis}</span>
          <input type="number" step={0.05} value={value[index]} aria-label={`${label} ${axis}`}
            onInput={(event) => {
              const next = event.currentTarget.valueAsNumber;
              if (Number.isFinite(next)) onChange(value.map((old, place) => (place === index ? next : old)) as Vector);
            }} />
        </label>
      ))}
    </fieldset>
  );
}
