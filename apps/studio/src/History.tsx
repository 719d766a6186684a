/** The caller's worlds, newest first: search, favorites, and a comparison of two. */

import { useState } from 'preact/hooks';
import { Choice, Icon, Spinner } from './parts';
import { useFile } from './service/files';
import { isOwn } from './service/api';
import type { Video } from './service/types';
import { sentImages } from './compose/send';
import { isFavorite, titleOf } from './state/library';
import { go, route, worldAddress } from './state/route';
import { listed, loadMoreWorlds, loadWorlds, moreWorlds, worlds, worldsError } from './state/worlds';
import { moment, t } from './words';

const SEARCHED_FROM = 4;

export function History() {
  const known = (worlds.value ?? []).filter((video) => isOwn(video.id));
  const [search, setSearch] = useState('');
  const [filter, setFilter] = useState<'all' | 'favorites'>('all');
  const [comparing, setComparing] = useState<string[] | null>(null);
  const wanted = search.trim().toLowerCase();
  const shown = known.filter((video) =>
    (filter === 'all' || isFavorite(video.id)) && `${titleOf(video)} ${video.prompt}`.toLowerCase().includes(wanted));
  const done = known.filter((video) => video.status === 'completed').length;

  function choose(id: string) {
    const ids = comparing?.includes(id) ? comparing.filter((one) => one !== id) : [...(comparing ?? []), id];
    if (ids.length < 2) return setComparing(ids);
    setComparing(null);
    go(`#/compare/${ids[0]}/${ids[1]}`);
  }

  return (
    <nav class="history" aria-label={t('worlds')}>
      <a class="button new" href="#/" aria-current={route.value.page === 'compose' ? 'page' : undefined}>
        <Icon name="plus" />
        {t('newWorld')}
      </a>
      <h2>{t('worlds')}</h2>
      {known.length >= SEARCHED_FROM && (
        <div class="history-tools">
          <input type="search" value={search} aria-label={t('search')} placeholder={t('search')}
            onInput={(event) => setSearch(event.currentTarget.value)} />
          <Choice label={t('filter')} value={filter} onChange={setFilter}
            options={[{ value: 'all', label: t('filterAll') }, { value: 'favorites', label: t('favorites') }]} />
        </div>
      )}
      {done >= 2 && (
        <button type="button" class="text-button" aria-pressed={comparing !== null}
          onClick={() => setComparing(comparing ? null : [])}>
          {comparing ? t('compareStop') : t('compare')}
        </button>
      )}
      {comparing && <p class="note" role="status">{t('compareHint')}</p>}
      {worldsError.value && !listed.value ? (
        <div class="note">
          <p>{t('historyError')}</p>
          <button type="button" class="text-button" onClick={() => void loadWorlds()}>{t('retry')}</button>
        </div>
      ) : !listed.value && !known.length ? (
        <Spinner label={t('historyLoading')} />
      ) : !known.length ? (
        <p class="note">{t('historyEmpty')}</p>
      ) : !shown.length ? (
        <p class="note">{t('searchEmpty')}</p>
      ) : (
        <ul>{shown.map((video) => (
          <Item key={video.id} video={video} comparing={comparing} onChoose={choose} />
        ))}</ul>
      )}
      {moreWorlds.value && (
        <button type="button" class="text-button" onClick={() => void loadMoreWorlds()}>{t('more')}</button>
      )}
    </nav>
  );
}

function Item({ video, comparing, onChoose }: { video: Video; comparing: string[] | null; onChoose: (id: string) => void }) {
  const here = route.value.page === 'world' && route.value.id === video.id;
  const busy = video.status === 'queued' || video.status === 'in_progress';
  const content = (
    <>
      <span class={`thumb ${video.status}`}>
        {video.status === 'completed' ? <Thumbnail id={video.id} /> : sentImages.has(video.id) ? (
          <img src={sentImages.get(video.id)} alt="" />
        ) : null}
        {video.status === 'failed' && <Icon name="warn" />}
      </span>
      <span class="item-text">
        <span class="item-prompt">{titleOf(video)}</span>
        <span class="item-state">
          {isFavorite(video.id) && <span aria-label={t('favorites')} role="img">★ </span>}
          {video.status === 'completed' ? moment(video.created_at)
            : t(video.error?.code === 'cancelled' ? 'status_cancelled' : `status_${video.status}`)}
          {video.status === 'in_progress' && ` · ${video.progress} %`}
        </span>
        {busy && <span class="bar" aria-hidden="true"><span style={{ width: `${video.progress}%` }} /></span>}
      </span>
    </>
  );
  if (comparing)
    return (
      <li>
        <button type="button" class="item" disabled={video.status !== 'completed'} aria-pressed={comparing.includes(video.id)}
          onClick={() => onChoose(video.id)}>
          {content}
        </button>
      </li>
    );
  return (
    <li>
      <a class="item" href={worldAddress(video.id)} aria-current={here ? 'page' : undefined}>{content}</a>
    </li>
  );
}

function Thumbnail({ id }: { id: string }) {
  const file = useFile(id, 'thumbnail');
  return file.url ? <img src={file.url} alt="" /> : null;
}
