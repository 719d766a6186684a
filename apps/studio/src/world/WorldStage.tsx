/** A finished world in 3D: its points and camera paths, and the options of the view. */

import { useSignalEffect } from '@preact/signals';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { Choice, IconButton, Slider, Spinner, Switch } from '../parts';
import { Canvas } from '../scene/Canvas';
import type { PointsFile } from '../scene/pointsFile';
import type { FrameFilter, Look, WorldView } from '../scene/worldView';
import { api, apiKey, ServiceError } from '../service/api';
import { number, t } from '../words';
import type { Playback } from './playback';

type State = 'loading' | 'ready' | 'older' | 'failed';

const FILTERS: FrameFilter[] = ['all', 'until', 'only'];

interface Props {
  id: string;
  playback: Playback;
  video: HTMLVideoElement | null;
  /** Without options. */
  plain?: boolean;
}

export function WorldStage({ id, playback, video, plain }: Props) {
  const stage = useRef<HTMLElement>(null);
  const [view, setView] = useState<WorldView | null>(null);
  const [state, setState] = useState<State>('loading');
  const [look, setLook] = useState<Look>({ surest: 0.75, filter: 'all', pointSize: 1, path: true, requested: true });
  const [flying, setFlying] = useState(false);
  const [count, setCount] = useState(0);
  const [attempt, setAttempt] = useState(0);
  const change = (part: Partial<Look>) => setLook((old) => ({ ...old, ...part }));

  const open = useMemo(
    () => async (canvas: HTMLCanvasElement) => {
      setState('loading');
      const file = await load(id);
      if (typeof file === 'string') {
        setState(file);
        return { recolor() {}, dispose() {} } as WorldView;
      }
      const { WorldView } = await import('../scene/worldView');
      setState('ready');
      return new WorldView(canvas, file);
    },
    [id],
  );

  const live = state === 'ready' ? view : null;
  useEffect(() => {
    if (live) setCount(live.setLook(look));
  }, [live, look]);
  useEffect(() => live?.setVideo(video), [live, video]);
  useEffect(() => live?.setFlying(flying), [live, flying]);
  useSignalEffect(() => {
    const time = playback.time.value;
    if (live) setCount(live.setTime(time));
  });

  return (
    <section class={`stage${flying ? ' flying' : ''}`} aria-label={t('pointView')} ref={stage}>
      <Canvas identity={`${id} ${apiKey.value} ${attempt}`} open={open} ready={setView} label={t('pointViewLabel')} />
      {state !== 'ready' && (
        <div class="stage-note">
          {state === 'loading' ? <Spinner label={t('pointsLoading')} /> : (
            <>
              <p role="alert">{t(state === 'older' ? 'pointsOlder' : 'pointsFailed')}</p>
              {state === 'failed' && (
                <button type="button" class="button" onClick={() => setAttempt(attempt + 1)}>{t('retry')}</button>
              )}
            </>
          )}
        </div>
      )}
      <div class="stage-top">
        <p class="stage-facts" data-count={count}>{live && t('pointsShown', { count: number(count) })}</p>
        <div class="stage-tools">
          <Choice label={t('viewMode')} value={flying ? 'fly' : 'orbit'} onChange={(value) => setFlying(value === 'fly')}
            options={[{ value: 'orbit', label: t('orbit') }, { value: 'fly', label: t('fly') }]} />
          <IconButton icon="reset" label={t('resetView')} disabled={flying} onClick={() => live?.stage.reset()} />
          {!plain && (
            <IconButton icon="expand" label={t('enlarge', { name: t('pointView') })}
              onClick={() => void stage.current?.requestFullscreen?.().catch(() => undefined)} />
          )}
        </div>
      </div>
      {!plain && <details class="look">
        <summary>{t('viewOptions')}</summary>
        <Slider label={t('surest')} min={5} max={100} step={5} value={Math.round(look.surest * 100)}
          text={`${number(look.surest * 100)} %`} onInput={(value) => change({ surest: value / 100 })} />
        <Slider label={t('pointSize')} min={0.3} max={3} step={0.1} value={look.pointSize}
          text={`${number(look.pointSize, 1)}×`} onInput={(pointSize) => change({ pointSize })} />
        <Choice label={t('framesShown')} value={look.filter} onChange={(filter) => change({ filter })}
          options={FILTERS.map((value) => ({ value, label: t(`filter_${value}`) }))} />
        <div class="row">
          <Switch label={t('showPath')} on={look.path} onChange={(path) => change({ path })} />
          <Switch label={t('showRequested')} on={look.requested} onChange={(requested) => change({ requested })} />
        </div>
      </details>}
    </section>
  );
}

/** The points, or the reason why there are none. */
async function load(id: string): Promise<PointsFile | 'older' | 'failed'> {
  try {
    const [{ readPoints }, answer] = await Promise.all([
      import('../scene/pointsFile'),
      api.content(id, 'pointcloud', 'bin'),
    ]);
    return readPoints(await answer.arrayBuffer());
  } catch (error) {
    return error instanceof ServiceError && error.status === 404 ? 'older' : 'failed';
  }
}
