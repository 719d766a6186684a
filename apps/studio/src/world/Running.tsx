/** A world that is queued, running or failed. */

import { useEffect, useState } from 'preact/hooks';
import { Icon } from '../parts';
import { api } from '../service/api';
import type { Video } from '../service/types';
import { sentImages } from '../compose/send';
import { notify } from '../state/appearance';
import { go, worldAddress } from '../state/route';
import { update } from '../state/worlds';
import { duration, t, tOr, type Word } from '../words';
import { RemoveDialog, WorldTitle } from './Actions';
import { ModelLine } from './ModelLine';

const STAGES = ['queue', 'encode', 'denoise', 'decode', 'export'] as const;

export function Running({ video }: { video: Video }) {
  const [cancelling, setCancelling] = useState(false);
  const now = video.status === 'queued' ? 'queue' : (video.stage ?? 'encode');
  const place = STAGES.findIndex((stage) => stage === now);
  const sent = sentImages.get(video.id);

  async function cancel() {
    setCancelling(true);
    try {
      update(await api.cancel(video.id));
    } catch (error) {
      notify(error instanceof Error ? error.message : String(error));
      setCancelling(false);
    }
  }

  return (
    <>
      <header class="world-head">
        <WorldTitle video={video} />
        <ModelLine id={video.model} />
      </header>
      <div class="running">
        <Frames video={video} sent={sent} />
        <div class="running-card">
          <p class="running-now">
            <strong>{t(`stage_${STAGES[place] ?? 'encode'}` as Word)}</strong>
            <span class="figures">{video.progress} %</span>
          </p>
          <progress max={100} value={video.progress} aria-label={t('progress')} />
          <p class="note">
            {[
              video.queue_position !== null && t('queuePlace', { n: video.queue_position }),
              now === 'denoise' && video.steps > 0 && t('stepOf', { step: video.step, steps: video.steps }),
              video.eta_seconds !== null && video.eta_seconds > 0 && t('eta', { time: duration(video.eta_seconds) }),
            ].filter(Boolean).join(' · ') || '\u00a0'}
          </p>
          <ol class="stages">
            {STAGES.map((stage, index) => (
              <li key={stage} class={index < place ? 'past' : index === place ? 'present' : ''}
                aria-current={index === place ? 'step' : undefined}>
                <span aria-hidden="true">{index < place && <Icon name="check" />}</span>
                {t(`stage_${stage}`)}
              </li>
            ))}
          </ol>
          {video.attempts > 1 && <p class="note">{t('attempt', { n: video.attempts })}</p>}
          <button type="button" class="button" disabled={cancelling} onClick={() => void cancel()}>
            {t(cancelling ? 'cancelling' : 'cancel')}
          </button>
        </div>
      </div>
    </>
  );
}

/** The frames as denoised so far, or the input image before the first preview. */
function Frames({ video, sent }: { video: Video; sent: string | undefined }) {
  const [url, setUrl] = useState<string | null>(null);
  useEffect(() => {
    if (video.status !== 'in_progress' || video.stage === 'encode') return;
    const stop = new AbortController();
    api.preview_frames(video.id, stop.signal).then((answer) => answer.blob()).then(
      (blob) => !stop.signal.aborted && setUrl((old) => {
        if (old) URL.revokeObjectURL(old);
        return URL.createObjectURL(blob);
      }),
      () => undefined, // none yet
    );
    return () => stop.abort();
  }, [video.id, video.status, video.stage, video.step]);
  if (url) return <figure class="running-preview"><img src={url} alt={t('previewAlt')} /><figcaption class="note">{t('previewNote')}</figcaption></figure>;
  return sent ? <img class="running-image" src={sent} alt={t('imageAlt')} /> : null;
}

export function Failed({ video }: { video: Video }) {
  const [asking, setAsking] = useState(false);
  const code = video.error?.code ?? '';
  const said = tOr(`fail_${code}`, video.error?.message ?? '');
  const sent = sentImages.get(video.id);

  async function again() {
    try {
      const made = await api.remix(video.id, video.prompt);
      if (sent) sentImages.set(made.id, sent);
      update(made);
      go(worldAddress(made.id));
    } catch (error) {
      notify(error instanceof Error ? error.message : String(error));
    }
  }

  return (
    <>
      <header class="world-head">
        <WorldTitle video={video} />
      </header>
      <div class="running">
        {sent && <img class="running-image" src={sent} alt={t('imageAlt')} />}
        <div class="running-card">
          <h2 class={code === 'cancelled' ? 'failed calm' : 'failed'}><Icon name="warn" />{t('failedTitle')}</h2>
          <p>{said}</p>
          <div class="dialog-actions start">
            <button type="button" class="button primary" onClick={() => void again()}>{t('again')}</button>
            <button type="button" class="button" onClick={() => setAsking(true)}>{t('remove')}</button>
          </div>
        </div>
      </div>
      {asking && <RemoveDialog video={video} onClose={() => setAsking(false)} />}
    </>
  );
}
