/** Title of a finished world and its actions: download, share, continue, vary, delete. */

import { useEffect, useRef, useState } from 'preact/hooks';
import { Dialog, Field, Icon, IconButton } from '../parts';
import { api, EXAMPLE, isOwn, ServiceError, SHARED } from '../service/api';
import { save } from '../service/files';
import type { Video } from '../service/types';
import { notify } from '../state/appearance';
import { prompt, setField, takeImage } from '../state/draft';
import { isFavorite, rename, titleOf, toggleFavorite } from '../state/library';
import { go, worldAddress } from '../state/route';
import { forget, update } from '../state/worlds';
import { t, tOr, type Word } from '../words';
import type { Playback } from './playback';

const FILES: [variant: string, format: string, ending: string, word: Word][] = [
  ['all', 'zip', 'world.zip', 'file_all'],
  ['video', 'mp4', 'video.mp4', 'file_video'],
  ['pointcloud', 'glb', 'points.glb', 'file_glb'],
  ['pointcloud', 'ply', 'points.ply', 'file_ply'],
  ['depth', 'mp4', 'depth.mp4', 'file_depth'],
  ['depth', 'zip', 'depth.zip', 'file_depth_zip'],
  ['confidence', 'mp4', 'confidence.mp4', 'file_confidence'],
  ['geometry', 'npz', 'geometry.npz', 'file_geometry'],
  ['cameras', 'json', 'cameras.json', 'file_cameras'],
  ['cameras', 'transforms', 'transforms.json', 'file_transforms'],
  ['cameras', 'requested', 'requested_cameras.json', 'file_requested'],
  ['colmap', 'zip', 'colmap.zip', 'file_colmap'],
  ['world', 'json', 'world.json', 'file_world'],
];

export function WorldTitle({ video }: { video: Video }) {
  return (
    <div class="world-title">
      <h1>{titleOf(video)}</h1>
      <p class="note">
        {t('meta', {
          size: video.size.replace('x', ' × '),
          frames: video.num_frames,
          seed: video.seed,
          camera: tOr(`preset_${video.camera}`, tOr(`mode_${video.camera}`, video.camera)),
        })}
      </p>
    </div>
  );
}

export function Actions({ video, rgb, playback }: { video: Video; rgb: HTMLVideoElement | null; playback: Playback }) {
  const [asking, setAsking] = useState<'' | 'remove' | 'remix' | 'share' | 'rename'>('');
  const own = isOwn(video.id);
  const favorite = isFavorite(video.id);
  return (
    <header class="world-head">
      <WorldTitle video={video} />
      <div class="actions">
        <button type="button" class="button primary" disabled={!rgb} onClick={() => rgb && void continueFromLast(video, rgb, playback)}>
          <Icon name="forward" />
          {t('continueFromLast')}
        </button>
        {!video.id.startsWith(EXAMPLE) && <Downloads video={video} />}
        {own && (
          <>
            <button type="button" class="button" onClick={() => setAsking('remix')}>
              <Icon name="edit" />
              {t('remix')}
            </button>
            <IconButton icon="star" label={t(favorite ? 'favoriteRemove' : 'favoriteAdd')} pressed={favorite}
              onClick={() => toggleFavorite(video.id)} />
            <IconButton icon="edit" label={t('rename')} onClick={() => setAsking('rename')} />
            <IconButton icon="link" label={t('share')} onClick={() => setAsking('share')} />
            <IconButton icon="trash" label={t('remove')} onClick={() => setAsking('remove')} />
          </>
        )}
      </div>
      {asking === 'share' && <ShareDialog video={video} onClose={() => setAsking('')} />}
      {asking === 'rename' && <RenameDialog video={video} onClose={() => setAsking('')} />}
      {asking === 'remove' && <RemoveDialog video={video} onClose={() => setAsking('')} />}
      {asking === 'remix' && <RemixDialog video={video} onClose={() => setAsking('')} />}
    </header>
  );
}

function Downloads({ video }: { video: Video }) {
  const [open, setOpen] = useState(false);
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (!open) return;
    const away = (event: Event) => {
      if (!box.current?.contains(event.target as Node)) setOpen(false);
    };
    document.addEventListener('pointerdown', away);
    return () => document.removeEventListener('pointerdown', away);
  }, [open]);
  async function load(variant: string, format: string, ending: string) {
    try {
      await save(video.id, variant, format, `${video.id}-${ending}`);
    } catch (error) {
      notify(t('downloadFailed', { message: error instanceof Error ? error.message : String(error) }));
    }
  }
  return (
    <div class="menu" ref={box} onKeyDown={(event) => {
      if (event.key !== 'Escape' || !open) return;
      setOpen(false);
      box.current?.querySelector('button')?.focus();
    }}>
      <button type="button" class="button" aria-expanded={open} onClick={() => setOpen(!open)}>
        <Icon name="download" />
        {t('download')}
      </button>
      {open && (
        <ul class="menu-list">
          {FILES.map(([variant, format, ending, word]) => (
            <li key={ending}>
              <button type="button" onClick={() => void load(variant, format, ending)}>
                <span>{t(word)}</span>
                <small>{ending}</small>
              </button>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

export function RemoveDialog({ video, onClose }: { video: Video; onClose: () => void }) {
  const [error, setError] = useState('');
  async function remove() {
    try {
      await api.remove(video.id);
    } catch (problem) {
      if (!(problem instanceof ServiceError) || problem.status !== 404) {
        setError(problem instanceof ServiceError && problem.status ? problem.message : t('gone'));
        return;
      }
    }
    onClose();
    forget(video.id);
    notify(t('removed'));
    go('#/');
  }
  return (
    <Dialog title={t('removeTitle')} onClose={onClose}>
      <p>{t('removeText')}</p>
      {error && <p class="note bad" role="alert">{error}</p>}
      <div class="dialog-actions">
        <button type="button" class="button" onClick={onClose}>{t('keep')}</button>
        <button type="button" class="button danger" onClick={() => void remove()}>{t('remove')}</button>
      </div>
    </Dialog>
  );
}

function RemixDialog({ video, onClose }: { video: Video; onClose: () => void }) {
  const [text, setText] = useState(video.prompt);
  const [error, setError] = useState('');
  async function remix(event: Event) {
    event.preventDefault();
    if (!text.trim()) return setError(t('promptMissing'));
    try {
      const made = await api.remix(video.id, text.trim());
      onClose();
      update(made);
      go(worldAddress(made.id));
    } catch (problem) {
      setError(problem instanceof ServiceError && problem.status ? problem.message : t('gone'));
    }
  }
  return (
    <Dialog title={t('remixTitle')} onClose={onClose}>
      <form onSubmit={(event) => void remix(event)}>
        <Field label={t('prompt')} error={error}>
          {(ids) => <textarea {...ids} rows={4} value={text} onInput={(event) => setText(event.currentTarget.value)} />}
        </Field>
        <div class="dialog-actions">
          <button type="submit" class="button primary">{t('remixCreate')}</button>
        </div>
      </form>
    </Dialog>
  );
}

/** The last frame becomes the image of the next world. */
async function continueFromLast(video: Video, rgb: HTMLVideoElement, playback: Playback): Promise<void> {
  playback.pause();
  const last = (video.num_frames - 0.5) / playback.fps;
  if (Math.abs(rgb.currentTime - last) > 0.4 / playback.fps) {
    const there = new Promise((resolve) => rgb.addEventListener('seeked', resolve, { once: true }));
    playback.seek(video.num_frames - 1);
    await there;
  }
  const canvas = document.createElement('canvas');
  canvas.width = rgb.videoWidth;
  canvas.height = rgb.videoHeight;
  canvas.getContext('2d')?.drawImage(rgb, 0, 0);
  const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, 'image/png'));
  if (!blob) return;
  await takeImage(blob, 'last-frame.png');
  prompt.value = video.prompt;
  const [width, height] = video.size.split('x');
  setField('width', width ?? '');
  setField('height', height ?? '');
  notify(t('continued'));
  go('#/');
}

/** A read-only link: created here, because its token is shown only once. */
function ShareDialog({ video, onClose }: { video: Video; onClose: () => void }) {
  const [link, setLink] = useState('');
  const [error, setError] = useState('');
  async function attempt(work: () => Promise<void>) {
    try {
      await work();
      setError('');
    } catch (problem) {
      setError(problem instanceof ServiceError && problem.status ? problem.message : t('gone'));
    }
  }
  const create = () => attempt(async () => {
    const { token } = await api.share(video.id);
    const made = new URL(worldAddress(SHARED + token), location.href.split('#')[0]).href;
    setLink(made);
    update({ ...video, shared: true });
    await navigator.clipboard?.writeText(made).then(() => notify(t('shared')), () => undefined);
  });
  const revoke = () => attempt(async () => {
    await api.unshare(video.id);
    update({ ...video, shared: false });
    setLink('');
    notify(t('shareRevoked'));
  });
  return (
    <Dialog title={t('share')} onClose={onClose}>
      <p>{t('shareText')}</p>
      {link && (
        <Field label={t('shareLink')}>
          {(ids) => <input {...ids} readOnly value={link} onFocus={(event) => event.currentTarget.select()} />}
        </Field>
      )}
      {error && <p class="note bad" role="alert">{error}</p>}
      <div class="dialog-actions">
        {video.shared && <button type="button" class="button" onClick={() => void revoke()}>{t('shareRevoke')}</button>}
        <button type="button" class="button primary" onClick={() => void create()}>{t(video.shared ? 'shareRenew' : 'shareCreate')}</button>
      </div>
    </Dialog>
  );
}

function RenameDialog({ video, onClose }: { video: Video; onClose: () => void }) {
  const [text, setText] = useState(titleOf(video));
  return (
    <Dialog title={t('rename')} onClose={onClose}>
      <form onSubmit={(event) => {
        event.preventDefault();
        rename(video.id, text === video.prompt ? '' : text);
        onClose();
      }}>
        <Field label={t('renameLabel')} hint={t('renameHint')}>
          {(ids) => <input {...ids} maxLength={120} value={text} onInput={(event) => setText(event.currentTarget.value)} />}
        </Field>
        <div class="dialog-actions">
          <button type="submit" class="button primary">{t('renameSave')}</button>
        </div>
      </form>
    </Dialog>
  );
}
