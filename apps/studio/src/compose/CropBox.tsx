/** The part of the image that becomes the first frame: drag or use the arrow keys; plus, minus or the slider resize it. */

import { useRef } from 'preact/hooks';
import { Slider } from '../parts';
import { crop, cropBox, type InputImage } from '../state/draft';
import { t } from '../words';

const STEP = 0.02;
const SMALLEST = 0.2;

export function CropBox({ image, aspect }: { image: InputImage; aspect: number }) {
  const area = useRef<HTMLDivElement>(null);
  const from = useRef<{ x: number; y: number; at: { x: number; y: number } } | null>(null);
  const box = cropBox(image, aspect, crop.value);
  const share = (value: number, whole: number) => `${(100 * value) / whole}%`;

  function move(x: number, y: number, size = crop.value.size) {
    const next = { x, y, size: Math.min(1, Math.max(SMALLEST, size)) };
    const inside = cropBox(image, aspect, next);
    crop.value = {
      x: (inside.x + inside.width / 2) / image.width,
      y: (inside.y + inside.height / 2) / image.height,
      size: next.size,
    };
  }

  function key(event: KeyboardEvent) {
    const { x, y, size } = crop.value;
    const steps: Record<string, [number, number, number]> = {
      ArrowLeft: [-STEP, 0, 0], ArrowRight: [STEP, 0, 0], ArrowUp: [0, -STEP, 0], ArrowDown: [0, STEP, 0],
      '+': [0, 0, STEP], '=': [0, 0, STEP], '-': [0, 0, -STEP],
    };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    move(x + step[0], y + step[1], size + step[2]);
  }

  return (
    <div>
      <div class="crop" ref={area}>
        <img src={image.url} alt={t('imageAlt')} draggable={false} />
        <div class="crop-box" role="application" tabIndex={0} aria-label={t('cropLabel')} onKeyDown={key}
          ref={(element) => {
            if (!element) return; // the policy of the page allows no style attribute in its markup
            element.style.left = share(box.x, image.width);
            element.style.top = share(box.y, image.height);
            element.style.width = share(box.width, image.width);
            element.style.height = share(box.height, image.height);
          }}
          onPointerDown={(event) => {
            event.currentTarget.setPointerCapture(event.pointerId);
            from.current = { x: event.clientX, y: event.clientY, at: { x: crop.value.x, y: crop.value.y } };
          }}
          onPointerMove={(event) => {
            const start = from.current;
            const size = area.current?.getBoundingClientRect();
            if (start && size)
              move(start.at.x + (event.clientX - start.x) / size.width, start.at.y + (event.clientY - start.y) / size.height);
          }}
          onPointerUp={() => (from.current = null)} onPointerCancel={() => (from.current = null)} />
      </div>
      <div class="crop-size"><Slider label={t('cropSize')} min={Math.round(SMALLEST * 100)} max={100} step={1} value={Math.round(crop.value.size * 100)}
        text={`${Math.round(crop.value.size * 100)} %`} onInput={(value) => move(crop.value.x, crop.value.y, value / 100)} /></div>
    </div>
  );
}
