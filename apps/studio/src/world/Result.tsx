/** A finished world: its video and its 3D view as equals, depth and confidence below, and its actions. */

import { useEffect, useMemo, useState } from 'preact/hooks';
import { Choice, IconButton } from '../parts';
import { api } from '../service/api';
import type { Video, WorldSummary } from '../service/types';
import { model } from '../state/worlds';
import { moment, number, t } from '../words';
import { Actions } from './Actions';
import { ModelLine } from './ModelLine';
import { Playback } from './playback';
import { Player, Players, Transport } from './Players';
import { WorldStage } from './WorldStage';

type Layout = 'both' | 'video' | 'points';

const CLOSE = { rotation: 3, direction: 20 };
const FAR = { rotation: 10, direction: 45 };

export function Result({ video }: { video: Video }) {
  const [summary, setSummary] = useState<(WorldSummary & { fps?: number }) | null>(null);
  const [rgb, setRgb] = useState<HTMLVideoElement | null>(null);
  const [layout, setLayout] = useState<Layout>('both');
  const [swapped, setSwapped] = useState(false);
  useEffect(() => {
    const stop = new AbortController();
    api
      .content(video.id, 'world', undefined, stop.signal)
      .then((answer) => answer.json())
      .then((found: WorldSummary) => setSummary(found))
      .catch(() => !stop.signal.aborted && setSummary({}));
    return () => stop.abort();
  }, [video.id]);
  const fps = summary?.fps ?? model()?.fps ?? 16;
  const playback = useMemo(() => new Playback(video.num_frames, fps), [video.id, fps]);
  useEffect(() => () => playback.dispose(), [playback]);

  return (
    <>
      <Actions video={video} rgb={rgb} playback={playback} />
      <div class="layout-tools">
        <Choice label={t('layout')} value={layout} onChange={setLayout}
          options={(['both', 'video', 'points'] as const).map((value) => ({ value, label: t(`layout_${value}`) }))} />
        <IconButton icon="loop" label={t('swap')} disabled={layout !== 'both'} onClick={() => setSwapped(!swapped)} />
      </div>
      <div class={`world-body show-${layout}${swapped ? ' swapped' : ''}`} onKeyDown={(event) => keys(event, playback)}>
        <div class="hero">
          <Player id={video.id} track="video" title={t('rgb')} hint="" playback={playback} onVideo={setRgb} />
        </div>
        <WorldStage id={video.id} playback={playback} video={rgb} />
      </div>
      <Transport playback={playback} />
      <details class="more" open>
        <summary>{t('moreTitle')}</summary>
        <div class="side">
          <Players id={video.id} playback={playback} onVideo={setRgb} />
          <div class="facts">
            <ModelLine id={video.model} />
            <Closeness summary={summary} />
            {video.expires_at && <p class="note">{t('expires', { date: moment(video.expires_at) })}</p>}
          </div>
        </div>
      </details>
    </>
  );
}

/** How closely the recovered camera path follows the requested one, in a sentence and in figures. */
function Closeness({ summary }: { summary: WorldSummary | null }) {
  const error = summary?.camera_error;
  if (!error) return null;
  const direction = error.translation_deg;
  const within = (limit: typeof CLOSE) =>
    error.rotation_deg <= limit.rotation && (direction === null || direction <= limit.direction);
  const sentence = within(CLOSE) ? 'pathClose' : within(FAR) ? 'pathRoughly' : 'pathFar';
  return (
    <p class="note">
      <strong>{t(sentence)}</strong>{' '}
      {direction === null
        ? t('cameraError', { rotation: number(error.rotation_deg, 1) })
        : t('cameraErrorBoth', { rotation: number(error.rotation_deg, 1), translation: number(direction, 1) })}
      {summary.path_length && ` · ${t('pathLengths', {
        recovered: number(summary.path_length.recovered, 2), requested: number(summary.path_length.requested, 2),
      })}`}
    </p>
  );
}

/** Space plays and pauses where it has no other meaning. */
function keys(event: KeyboardEvent, playback: Playback): void {
  const target = event.target as HTMLElement;
  if (event.key !== ' ' || target.tagName !== 'CANVAS') return;
  event.preventDefault();
  playback.toggle();
}
