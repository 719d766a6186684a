/** The first frame: dropped, chosen or pasted. */

import { useEffect, useRef, useState } from 'preact/hooks';
import { Icon, IconButton } from '../parts';
import { dropImage, fields, inputImage, sizeOf, takeImage } from '../state/draft';
import { model } from '../state/worlds';
import { t } from '../words';

export function ImageField({ error, onError }: { error: string; onError: (message: string) => void }) {
  const [over, setOver] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  const chosen = inputImage.value;

  async function take(file: File | null | undefined) {
    if (!file) return;
    try {
      await takeImage(file, file.name);
      onError('');
    } catch {
      onError(t('imageBad', { name: file.name }));
    }
  }

  useEffect(() => {
    const paste = (event: ClipboardEvent) => {
      const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith('image/'));
      if (file) void take(file);
    };
    window.addEventListener('paste', paste);
    return () => window.removeEventListener('paste', paste);
  }, []);

  const size = sizeOf(fields.value) ?? model()?.size;
  return (
    <div class={error ? 'field wrong' : 'field'}>
      <label for="image">{t('image')}</label>
      <div
        class={`drop${over ? ' over' : ''}${chosen ? ' filled' : ''}`}
        onDragOver={(event) => { event.preventDefault(); setOver(true); }}
        onDragLeave={() => setOver(false)}
        onDrop={(event) => {
          event.preventDefault();
          setOver(false);
          void take(event.dataTransfer?.files[0]);
        }}
      >
        <input ref={input} id="image" type="file" accept="image/png,image/jpeg,image/webp" aria-invalid={Boolean(error)}
          aria-describedby="image-note" onChange={(event) => {
            void take(event.currentTarget.files?.[0]);
            event.currentTarget.value = ''; // the same file may be chosen again
          }} />
        {chosen ? (
          <img src={chosen.url} alt={t('imageAlt')} />
        ) : (
          <div class="drop-text">
            <Icon name="image" />
            <strong>{t('imageDrop')}</strong>
            <span>{t('imageChoose')}</span>
          </div>
        )}
        {chosen && (
          <div class="drop-actions">
            <button type="button" class="chip" onClick={() => input.current?.click()}>{t('imageChange')}</button>
            <IconButton icon="close" label={t('imageRemove')} onClick={dropImage} />
          </div>
        )}
      </div>
      <p class="note" id="image-note">
        {error || (chosen && size
          ? t('imageCrop', { width: chosen.width, height: chosen.height, size: size.replace('x', ' × ') })
          : t('imageHint'))}
      </p>
    </div>
  );
}
