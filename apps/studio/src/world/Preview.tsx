/** A finished world in little: its video and its 3D view side by side, playing together. */

import { useEffect, useMemo, useState } from 'preact/hooks';
import type { Video } from '../service/types';
import { Playback } from './playback';
import { Player, Transport } from './Players';
import { WorldStage } from './WorldStage';
import { t } from '../words';

export function Preview({ video }: { video: Video }) {
  const [rgb, setRgb] = useState<HTMLVideoElement | null>(null);
  const playback = useMemo(() => new Playback(video.num_frames, video.num_frames / Number(video.seconds)), [video.id]);
  useEffect(() => () => playback.dispose(), [playback]);
  useEffect(() => {
    if (rgb && !matchMedia('(prefers-reduced-motion: reduce)').matches) playback.play();
  }, [rgb, playback]);
  return (
    <div class="preview">
      <div class="pair">
        <Player id={video.id} track="video" title={t('rgb')} hint="" playback={playback} onVideo={setRgb} />
        <WorldStage id={video.id} playback={playback} video={rgb} plain />
      </div>
      <Transport playback={playback} />
    </div>
  );
}
