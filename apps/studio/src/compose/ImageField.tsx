/** The first frame: dropped, chosen or pasted. */

import { useEffect, useRef, useState } from 'preact/hooks';
import { Icon, IconButton } from '../parts';
import { crop, cropBox, dropImage, fields, inputImage, prompt, sizeOf, takeImage } from '../state/draft';
import { examples, model } from '../state/worlds';
import { address } from '../service/api';
import { number, t } from '../words';
import { CropBox } from './CropBox';

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
  const [frameWidth, frameHeight] = (size ?? '3x2').split('x').map(Number);
  const aspect = (frameWidth ?? 3) / (frameHeight ?? 2);
  const box = chosen && cropBox(chosen, aspect, crop.value);
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
          <CropBox image={chosen} aspect={aspect} />
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
        {error || (chosen && box && size
          ? t('imageCrop', {
              width: chosen.width, height: chosen.height, size: size.replace('x', ' × '),
              crop: `${number(box.width)} × ${number(box.height)}`,
            })
          : t('imageHint'))}
      </p>
      {!chosen && examples.value && examples.value.images.length > 0 && (
        <ul class="example-images" aria-label={t('exampleImages')}>
          {examples.value.images.map((one) => (
            <li key={one.name}>
              <button type="button" title={one.prompt} onClick={() => void useExample(one.file, one.prompt, onError)}>
                <img src={address(`studio/examples/${one.file}`)} alt={one.prompt} loading="lazy" />
              </button>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

async function useExample(file: string, text: string, onError: (message: string) => void): Promise<void> {
  try {
    const answer = await fetch(address(`studio/examples/${file}`));
    await takeImage(await answer.blob(), file);
    prompt.value = text;
    onError('');
  } catch {
    onError(t('gone'));
  }
}
