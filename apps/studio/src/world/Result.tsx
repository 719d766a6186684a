/** A finished world: 3D view, players, and what can be done with it. */

import { useEffect, useMemo, useState } from 'preact/hooks';
import { api } from '../service/api';
import type { Video, WorldSummary } from '../service/types';
import { model } from '../state/worlds';
import { moment, number, t } from '../words';
import { Actions } from './Actions';
import { Playback } from './playback';
import { Players, Transport } from './Players';
import { WorldStage } from './WorldStage';

export function Result({ video }: { video: Video }) {
  const [summary, setSummary] = useState<(WorldSummary & { fps?: number }) | null>(null);
  const [rgb, setRgb] = useState<HTMLVideoElement | null>(null);
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
  const error = summary?.camera_error;

  return (
    <>
      <Actions video={video} rgb={rgb} playback={playback} />
      <div class="world-body" onKeyDown={(event) => keys(event, playback)}>
        <WorldStage id={video.id} playback={playback} video={rgb} />
        <aside class="side" aria-label={t('rgb')}>
          <Players id={video.id} playback={playback} onVideo={setRgb} />
          <p class="note">
            {error && (error.translation_deg === null
              ? t('cameraError', { rotation: number(error.rotation_deg, 1) })
              : t('cameraErrorBoth', {
                  rotation: number(error.rotation_deg, 1),
                  translation: number(error.translation_deg, 1),
                }))}
            {error && video.expires_at && <br />}
            {video.expires_at && t('expires', { date: moment(video.expires_at) })}
          </p>
        </aside>
      </div>
      <Transport playback={playback} />
    </>
  );
}

/** Space plays and pauses where it has no other meaning. */
function keys(event: KeyboardEvent, playback: Playback): void {
  const target = event.target as HTMLElement;
  if (event.key !== ' ' || target.tagName !== 'CANVAS') return;
  event.preventDefault();
  playback.toggle();
}
