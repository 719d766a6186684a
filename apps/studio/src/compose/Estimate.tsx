/** Expected time of the draft, asked of the service before the world is created. */

import { useEffect, useState } from 'preact/hooks';
import { api, ServiceError } from '../service/api';
import type { Estimate as Expected } from '../service/types';
import { fields, sizeOf } from '../state/draft';
import { model } from '../state/worlds';
import { duration, t } from '../words';

const PAUSE_MS = 400;

export function Estimate() {
  const [found, setFound] = useState<Expected | null>(null);
  const [problem, setProblem] = useState('');
  const values = fields.value;
  const size = sizeOf(values);
  const asked = [values.num_frames, values.num_inference_steps, size, model()?.id].join();
  useEffect(() => {
    if (!model()) return;
    const stop = new AbortController();
    const timer = setTimeout(() => {
      const wanted = {
        ...(size && { size }),
        ...(values.num_frames && { num_frames: Number(values.num_frames) }),
        ...(values.num_inference_steps && { num_inference_steps: Number(values.num_inference_steps) }),
      };
      api.estimate(wanted, stop.signal).then(
        (estimate) => {
          setFound(estimate);
          setProblem('');
        },
        (error: unknown) => {
          if (stop.signal.aborted) return;
          setFound(null);
          setProblem(error instanceof ServiceError && error.status === 400 ? error.message : '');
        },
      );
    }, PAUSE_MS);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [asked]);
  if (problem) return <p class="note bad" role="status">{problem}</p>;
  if (!found) return null;
  return (
    <p class="note estimate">
      {found.seconds === null ? t('estimateUnknown') : t('estimate', { time: duration(found.seconds) })}
      {found.queue_position > 1 && found.queue_seconds !== null &&
        ` · ${t('estimateQueue', { n: found.queue_position - 1, time: duration(found.queue_seconds) })}`}
    </p>
  );
}
