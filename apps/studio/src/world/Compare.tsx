/** Two finished worlds side by side, each with its own controls. */

import { useEffect, useState } from 'preact/hooks';
import { Spinner } from '../parts';
import { api } from '../service/api';
import type { Video } from '../service/types';
import { titleOf } from '../state/library';
import { worldAddress } from '../state/route';
import { number, t, tOr } from '../words';
import { Preview } from './Preview';

export function Compare({ ids }: { ids: [string, string] }) {
  return (
    <div class="world compare">
      <h1>{t('compareTitle')}</h1>
      <div class="compare-pair">
        {ids.map((id) => <One key={id} id={id} />)}
      </div>
    </div>
  );
}

function One({ id }: { id: string }) {
  const [video, setVideo] = useState<Video | null>(null);
  const [missing, setMissing] = useState(false);
  useEffect(() => {
    api.get(id).then(setVideo, () => setMissing(true));
  }, [id]);
  if (missing) return <p class="note">{t('missingText')}</p>;
  if (!video) return <Spinner label={t('worldLoading')} />;
  return (
    <section aria-label={titleOf(video)}>
      <h2><a href={worldAddress(id)}>{titleOf(video)}</a></h2>
      {video.status === 'completed' ? <Preview video={video} /> : <p class="note">{t(`status_${video.status}`)}</p>}
      <dl class="figures-list">
        <dt>{t('modelName')}</dt><dd>{video.model}</dd>
        <dt>{t('num_frames')}</dt><dd>{number(video.num_frames)}</dd>
        <dt>{t('size')}</dt><dd>{video.size.replace('x', ' × ')}</dd>
        <dt>{t('seed')}</dt><dd>{video.seed}</dd>
        <dt>{t('camera')}</dt><dd>{tOr(`preset_${video.camera}`, tOr(`mode_${video.camera}`, video.camera))}</dd>
      </dl>
    </section>
  );
}
