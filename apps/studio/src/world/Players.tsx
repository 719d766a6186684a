/** Video, depth and confidence players in sync, and their transport controls. */

import { useEffect, useRef, useState } from 'preact/hooks';
import { Choice, filled, IconButton, Spinner } from '../parts';
import { useFile } from '../service/files';
import { t } from '../words';
import type { Playback } from './playback';

export type Track = 'video' | 'depth' | 'confidence';

const TRACKS: { track: Track; title: 'rgb' | 'depth' | 'confidence'; hint: 'depthHint' | 'confidenceHint' | null }[] = [
  { track: 'video', title: 'rgb', hint: null },
  { track: 'depth', title: 'depth', hint: 'depthHint' },
  { track: 'confidence', title: 'confidence', hint: 'confidenceHint' },
];

interface Props {
  id: string;
  playback: Playback;
  /** The RGB video can be shown. */
  onVideo: (video: HTMLVideoElement | null) => void;
}

/** The players of depth and confidence; the video has a place of its own. */
export function Players({ id, playback, onVideo }: Props) {
  return (
    <div class="players">
      {TRACKS.filter(({ track }) => track !== 'video').map(({ track, title, hint }) => (
        <Player key={track} id={id} track={track} title={t(title)} hint={hint ? t(hint) : ''} playback={playback}
          onVideo={track === 'video' ? onVideo : null} />
      ))}
    </div>
  );
}

interface PlayerProps {
  id: string;
  track: Track;
  title: string;
  hint: string;
  playback: Playback;
  onVideo: Props['onVideo'] | null;
}

export function Player({ id, track, title, hint, playback, onVideo }: PlayerProps) {
  const file = useFile(id, track);
  const video = useRef<HTMLVideoElement>(null);
  const [broken, setBroken] = useState(false);
  useEffect(() => {
    const shown = video.current;
    if (!shown || broken || !file.url) return;
    playback.attach(track, shown);
    // a playback that replaces another finds the video loaded: its event has fired already
    if (shown.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) onVideo?.(shown);
    return () => {
      playback.attach(track, null);
      onVideo?.(null);
    };
  }, [playback, broken, file.url]);
  const failed = broken || file.failed;
  return (
    <figure class={`player ${track}`}>
      <div class="screen">
        {failed ? <p class="note">{t('videoFailed')}</p> : !file.url && <Spinner label={t('videoLoading')} />}
        {file.url && !broken && (
          <video ref={video} src={file.url} muted playsInline preload="auto" tabIndex={-1} aria-label={title}
            onCanPlay={() => video.current && onVideo?.(video.current)}
            onClick={() => playback.toggle()} onError={() => setBroken(true)} />
        )}
      </div>
      <figcaption>
        <span>{title}</span>
        {hint && <small>{hint}</small>}
        <IconButton icon="expand" label={t('enlarge', { name: title })} disabled={failed}
          onClick={() => void video.current?.requestFullscreen?.().catch(() => undefined)} />
      </figcaption>
    </figure>
  );
}

const SPEEDS = ['0.25', '0.5', '1'];

export function Transport({ playback }: { playback: Playback }) {
  const frame = playback.frame();
  const text = t('frameOf', { n: frame + 1, count: playback.frames });
  const playing = playback.playing.value;
  return (
    <div class="transport" role="group" aria-label={t('timeline')}>
      <IconButton icon="previous" label={t('previousFrame')} onClick={() => playback.step(-1)} />
      <button type="button" class="play" aria-label={t(playing ? 'pause' : 'play')} onClick={() => playback.toggle()}>
        <svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
          {playing ? <path d="M8.5 6v12M15.5 6v12" /> : <path class="solid" d="M9 6v12l9-6z" />}
        </svg>
      </button>
      <IconButton icon="next" label={t('nextFrame')} onClick={() => playback.step(1)} />
      <input type="range" min={0} max={playback.frames - 1} step={1} value={frame} aria-label={t('timeline')}
        style={filled(frame, 0, playback.frames - 1)}
        aria-valuetext={text} onInput={(event) => playback.seek(event.currentTarget.valueAsNumber)} />
      <output class="figures" aria-live="off">{frame + 1} / {playback.frames}</output>
      <Choice label={t('speed')} value={String(playback.speed.value)} onChange={(value) => playback.setSpeed(Number(value))}
        options={SPEEDS.map((value) => ({ value, label: `${value}×` }))} />
      <IconButton icon="loop" label={t('loop')} pressed={playback.loop.value}
        onClick={() => (playback.loop.value = !playback.loop.value)} />
    </div>
  );
}
