/** One world, in whatever state it is; it follows the service's events until the world is finished. */

import { useEffect, useState } from 'preact/hooks';
import { Spinner } from '../parts';
import { api, apiKey, ServiceError } from '../service/api';
import { follow } from '../service/events';
import type { Video } from '../service/types';
import { announcement } from '../state/appearance';
import { update, worlds } from '../state/worlds';
import { t } from '../words';
import { Result } from './Result';
import { Failed, Running } from './Running';

export function WorldPage({ id }: { id: string }) {
  const [problem, setProblem] = useState<'' | 'missing' | 'error'>('');
  const [attempt, setAttempt] = useState(0);
  const video = worlds.value?.find((one) => one.id === id) ?? null;

  useEffect(() => {
    const stop = new AbortController();
    setProblem('');
    void open(id, stop.signal, setProblem);
    return () => stop.abort();
  }, [id, apiKey.value, attempt]);

  if (problem === 'missing') return <Sorry title={t('missingTitle')} text={t('missingText')} />;
  if (problem && !video)
    return <Sorry title={t('worldError')} text={t('gone')} again={() => setAttempt(attempt + 1)} />;
  if (!video) return <div class="world centered"><Spinner label={t('worldLoading')} /></div>;
  return (
    <div class="world">
      {video.status === 'completed' && <Result key={id} video={video} />}
      {video.status === 'failed' && <Failed key={id} video={video} />}
      {(video.status === 'queued' || video.status === 'in_progress') && <Running key={id} video={video} />}
    </div>
  );
}

async function open(id: string, signal: AbortSignal, setProblem: (problem: '' | 'missing' | 'error') => void) {
  try {
    const video = await api.get(id);
    if (signal.aborted) return;
    update(video);
    if (finished(video)) return;
  } catch (error) {
    if (!signal.aborted) setProblem(error instanceof ServiceError && error.status === 404 ? 'missing' : 'error');
    if (error instanceof ServiceError && error.status !== 0) return;
  }
  await follow(
    id,
    (now) => {
      if (!now) return setProblem('missing');
      setProblem('');
      update(now);
      if (now.status === 'completed') announcement.value = t('announceDone');
      if (now.status === 'failed') announcement.value = t('announceFailed', { message: now.error?.message ?? '' });
    },
    signal,
  );
}

function finished(video: Video): boolean {
  return video.status === 'completed' || video.status === 'failed';
}

function Sorry({ title, text, again }: { title: string; text: string; again?: () => void }) {
  return (
    <div class="world centered">
      <div class="sorry">
        <h1>{title}</h1>
        <p>{text}</p>
        {again ? (
          <button type="button" class="button primary" onClick={again}>{t('retry')}</button>
        ) : (
          <a class="button primary" href="#/">{t('newWorld')}</a>
        )}
      </div>
    </div>
  );
}
