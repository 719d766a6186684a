/** Asks for the API key when the service wants one. */

import { useState } from 'preact/hooks';
import { Dialog, Field } from './parts';
import { api, keyRefused, keyWanted, ServiceError, setApiKey } from './service/api';
import { reload } from './state/worlds';
import { t } from './words';

export function KeyDialog() {
  const [key, setKey] = useState('');
  const [error, setError] = useState('');

  async function use(event: Event) {
    event.preventDefault();
    setApiKey(key.trim());
    try {
      await api.models();
    } catch (problem) {
      const refused = problem instanceof ServiceError && problem.status === 401;
      setError(t(refused ? 'keyWrong' : 'gone'));
      setApiKey('');
      return;
    }
    keyWanted.value = false;
    await reload();
  }

  return (
    <Dialog title={t('keyTitle')} onClose={() => (keyRefused.value = true)}>
      <form onSubmit={(event) => void use(event)}>
        <p>{t('keyText')}</p>
        <Field label={t('keyField')} error={error}>
          {(ids) => (
            <input {...ids} type="password" autocomplete="off" spellcheck={false} placeholder="fw-…" value={key}
              onInput={(event) => setKey(event.currentTarget.value)} />
          )}
        </Field>
        <div class="dialog-actions">
          <button type="submit" class="button primary" disabled={!key.trim()}>{t('keyUse')}</button>
        </div>
      </form>
    </Dialog>
  );
}
