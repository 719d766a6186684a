/** The camera path of the draft in 3D, with a way to play it. */

import { useEffect, useState } from 'preact/hooks';
import { Choice, filled, Icon, IconButton } from '../parts';
import { Canvas } from '../scene/Canvas';
import type { Handle, PathView } from '../scene/pathView';
import { addKey, camera, fields, inputImage, setCamera, setKey } from '../state/draft';
import { path } from '../state/preview';
import { model } from '../state/worlds';
import { number, t } from '../words';

async function open(canvas: HTMLCanvasElement): Promise<PathView> {
  const { PathView } = await import('../scene/pathView');
  return new PathView(canvas);
}

export function PathStage() {
  const [view, setView] = useState<PathView | null>(null);
  const [frame, setFrame] = useState(0);
  const [playing, setPlaying] = useState(false);
  const [through, setThrough] = useState(false);
  const [handle, setHandle] = useState<Handle>('position');
  const draft = camera.value;
  const preview = path.value;
  const frames = preview?.num_frames ?? 1;
  const editing = draft.mode === 'keyframes';

  useEffect(() => {
    if (!view) return;
    view.moved = (index, which, place) => setKey(index, { [which]: place });
    view.chosen = (index) => index > 0 && setCamera({ selected: index });
  }, [view]);
  const scale = draft.mode === 'file' ? Number(fields.value.scene_scale) || 1 : 1;
  useEffect(() => {
    if (preview) view?.setPath(preview, scale);
  }, [view, preview, scale]);
  useEffect(() => void view?.setImage(inputImage.value), [view, inputImage.value]);
  useEffect(() => view?.setKeys(editing ? draft.keys : [], draft.selected, handle), [view, draft.keys, draft.selected, editing, handle]);
  useEffect(() => view?.setFrame(Math.min(frame, frames - 1)), [view, frame, frames]);
  useEffect(() => view?.setThrough(through), [view, through]);
  useEffect(() => {
    if (!playing) return;
    const pause = setInterval(() => setFrame((now) => (now + 1) % frames), 1000 / (model()?.fps ?? 16));
    return () => clearInterval(pause);
  }, [playing, frames]);

  const shown = Math.min(frame, frames - 1);
  return (
    <section class="stage" aria-label={t('pathView')}>
      <Canvas identity="path" open={open} ready={setView} label={t('pathViewLabel')} />
      <div class="stage-top">
        <p class="stage-facts">
          {preview
            ? t('pathFacts', { frames, length: number(preview.path_length, 2), turn: number(preview.turn_deg) })
            : t('pathReading')}
        </p>
        <div class="stage-tools">
          {editing && !through && (
            <>
              <Choice label={t('handleCamera')} value={handle} onChange={setHandle}
                options={[{ value: 'position', label: t('handleCamera') }, { value: 'look_at', label: t('handleTarget') }]} />
              <button type="button" class="button" onClick={() => view && addKey(view.viewAsKey())}>
                <Icon name="plus" />
                {t('addView')}
              </button>
            </>
          )}
          <IconButton icon="eye" label={t('through')} pressed={through} onClick={() => setThrough(!through)} />
          <IconButton icon="reset" label={t('resetView')} onClick={() => view?.stage.reset()} disabled={through} />
        </div>
      </div>
      <div class="stage-bottom">
        <IconButton icon={playing ? 'pause' : 'play'} label={t(playing ? 'pathPause' : 'pathPlay')}
          onClick={() => setPlaying(!playing)} disabled={frames < 2} />
        <input type="range" min={0} max={frames - 1} value={shown} style={filled(shown, 0, frames - 1)} aria-label={t('pathFrame')}
          aria-valuetext={t('frameOf', { n: shown + 1, count: frames })}
          onInput={(event) => setFrame(event.currentTarget.valueAsNumber)} />
        <output class="figures">{shown + 1} / {frames}</output>
      </div>
    </section>
  );
}
