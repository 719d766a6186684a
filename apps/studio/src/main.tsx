/** The page: its frame and its current view. */

import { render } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { Compose } from './compose/Compose';
import { History } from './History';
import { KeyDialog } from './KeyDialog';
import { Icon, IconButton } from './parts';
import { apiKey, keyRefused, keyWanted, reachable, setApiKey } from './service/api';
import { announcement, language, narrow, notice, theme, type Theme } from './state/appearance';
import { library, titleOf } from './state/library';
import { route } from './state/route';
import { health, watch, worlds } from './state/worlds';
import './styles/tokens.css';
import './styles/base.css';
import './styles/parts.css';
import './styles/compose.css';
import './styles/world.css';
import { t } from './words';
import { Compare } from './world/Compare';
import { WorldPage } from './world/WorldPage';

const THEMES: Theme[] = ['auto', 'light', 'dark'];
const THEME_ICONS = { auto: 'auto', light: 'sun', dark: 'moon' } as const;

function Page() {
  const [drawer, setDrawer] = useState(false);
  const [folded, setFolded] = useState(false);
  const main = useRef<HTMLElement>(null);
  const shown = useRef(route.value);
  useEffect(() => {
    setDrawer(false);
    if (shown.current !== route.value) main.current?.focus({ preventScroll: true });
    shown.current = route.value;
    window.scrollTo(0, 0);
  }, [route.value]);
  useEffect(() => {
    const here = route.value;
    const video = here.page === 'world' ? worlds.value?.find((one) => one.id === here.id) : undefined;
    const title = here.page === 'compose' ? t('newWorld') : here.page === 'compare' ? t('compareTitle') : null;
    document.title = `${title ?? (video ? titleOf(video) : t('untitled'))} · fantasy-world`;
  }, [route.value, language.value, worlds.value, library.value]);
  const hidden = narrow.value && !drawer;
  return (
    <div class={`page${drawer ? ' drawer' : ''}${folded ? ' folded' : ''}`} onKeyDown={(event) => event.key === 'Escape' && setDrawer(false)}>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); main.current?.focus(); }}>{t('skip')}</a>
      <TopBar drawer={drawer} onDrawer={setDrawer} folded={folded} onFold={setFolded} />
      <div class="sidebar" inert={hidden || (folded && !narrow.value) || undefined}>
        <History />
      </div>
      {drawer && <div class="veil" onClick={() => setDrawer(false)} />}
      <main id="main" tabIndex={-1} ref={main} inert={(narrow.value && drawer) || undefined}>
        <Banner />
        {route.value.page === 'compose' ? <Compose /> : route.value.page === 'compare' ? (
          <Compare ids={route.value.ids} />
        ) : <WorldPage id={route.value.id} />}
      </main>
      <div class="toasts" role="status">{notice.value && <p>{notice.value}</p>}</div>
      <p class="hidden" role="status">{announcement.value}</p>
      {keyWanted.value && !keyRefused.value && <KeyDialog />}
    </div>
  );
}

interface TopBarProps {
  drawer: boolean;
  onDrawer: (open: boolean) => void;
  folded: boolean;
  onFold: (folded: boolean) => void;
}

function TopBar({ drawer, onDrawer, folded, onFold }: TopBarProps) {
  const state = reachable.value ? health.value : 'gone';
  const next = THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length] ?? 'auto';
  return (
    <header class="top">
      <span class="only-narrow">
        <IconButton icon={drawer ? 'close' : 'list'} label={t(drawer ? 'close' : 'showWorlds')} pressed={drawer}
          onClick={() => onDrawer(!drawer)} />
      </span>
      <span class="only-wide">
        <IconButton icon={folded ? 'list' : 'collapse'} label={t(folded ? 'showWorlds' : 'hideWorlds')} onClick={() => onFold(!folded)} />
      </span>
      <a class="brand" href="#/">
        <svg viewBox="0 0 32 32" aria-hidden="true"><path d="M4 23 12.5 10l5.5 8.5L21 14l7 9z" /></svg>
        <span>fantasy-world <em>{t('studio')}</em></span>
      </a>
      <p class={`health ${state}`}><span aria-hidden="true" />{t(`health_${state}`)}</p>
      <div class="top-tools">
        {apiKey.value && <IconButton icon="key" label={t('keyForget')} onClick={() => { setApiKey(''); location.reload(); }} />}
        <button type="button" class="text-button" lang={language.value === 'zh' ? 'en' : 'zh-CN'} aria-label={t('languageLabel')}
          onClick={() => (language.value = language.value === 'zh' ? 'en' : 'zh')}>
          {t('language')}
        </button>
        <IconButton icon={THEME_ICONS[theme.value]} label={t('themeLabel', { theme: t(`theme_${theme.value}`) })}
          onClick={() => (theme.value = next)} />
      </div>
    </header>
  );
}

/** Problems of the service, above the view. */
function Banner() {
  const text = !reachable.value ? t('gone') : health.value === 'loading' ? t('loadingModel') : '';
  return (
    <div role="status">
      {text && (
        <p class={`banner${reachable.value ? '' : ' bad'}`}>
          <Icon name="warn" />
          {text}
        </p>
      )}
      {keyWanted.value && keyRefused.value && (
        <p class="banner">
          <Icon name="key" />
          {t('keyMissing')}
          <button type="button" class="text-button" onClick={() => (keyRefused.value = false)}>{t('keyGive')}</button>
        </p>
      )}
    </div>
  );
}

const place = document.getElementById('app');
if (place) render(<Page />, place);
void watch();
