/** The caller's worlds, newest first. */

import { Icon, Spinner } from './parts';
import { useFile } from './service/files';
import type { Video } from './service/types';
import { sentImages } from './compose/send';
import { route, worldAddress } from './state/route';
import { listed, loadMoreWorlds, loadWorlds, moreWorlds, worlds, worldsError } from './state/worlds';
import { moment, t } from './words';

export function History() {
  const known = worlds.value ?? [];
  return (
    <nav class="history" aria-label={t('worlds')}>
      <a class="button new" href="#/" aria-current={route.value.page === 'compose' ? 'page' : undefined}>
        <Icon name="plus" />
        {t('newWorld')}
      </a>
      <h2>{t('worlds')}</h2>
      {worldsError.value && !listed.value ? (
        <div class="note">
          <p>{t('historyError')}</p>
          <button type="button" class="text-button" onClick={() => void loadWorlds()}>{t('retry')}</button>
        </div>
      ) : !listed.value && !known.length ? (
        <Spinner label={t('historyLoading')} />
      ) : !known.length ? (
        <p class="note">{t('historyEmpty')}</p>
      ) : (
        <ul>{known.map((video) => <Item key={video.id} video={video} />)}</ul>
      )}
      {moreWorlds.value && (
        <button type="button" class="text-button" onClick={() => void loadMoreWorlds()}>{t('more')}</button>
      )}
    </nav>
  );
}

function Item({ video }: { video: Video }) {
  const here = route.value.page === 'world' && route.value.id === video.id;
  const busy = video.status === 'queued' || video.status === 'in_progress';
  return (
    <li>
      <a class="item" href={worldAddress(video.id)} aria-current={here ? 'page' : undefined}>
        <span class={`thumb ${video.status}`}>
          {video.status === 'completed' ? <Thumbnail id={video.id} /> : sentImages.has(video.id) ? (
            <img src={sentImages.get(video.id)} alt="" />
          ) : null}
          {video.status === 'failed' && <Icon name="warn" />}
        </span>
        <span class="item-text">
          <span class="item-prompt">{video.prompt}</span>
          <span class="item-state">
            {video.status === 'completed' ? moment(video.created_at) : t(`status_${video.status}`)}
            {video.status === 'in_progress' && ` · ${video.progress} %`}
          </span>
          {busy && <span class="bar" aria-hidden="true"><span style={{ width: `${video.progress}%` }} /></span>}
        </span>
      </a>
    </li>
  );
}

function Thumbnail({ id }: { id: string }) {
  const file = useFile(id, 'thumbnail');
  return file.url ? <img src={file.url} alt="" /> : null;
}
