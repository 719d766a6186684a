/** The model of a world, and the results to expect of it. */

import { models } from '../state/worlds';
import { t } from '../words';

export function ModelLine({ id }: { id: string }) {
  const card = models.value.find((one) => one.id === id);
  if (!id) return null;
  return (
    <p class="note model-line">
      <strong>{t('modelLine', { model: id })}</strong>{card?.about ? ` · ${card.about}` : ''}
    </p>
  );
}
