/** A place for a 3D view. three.js is loaded when the first one is shown, not with the page. */

import { useEffect, useRef, useState } from 'preact/hooks';
import { dark } from '../state/appearance';
import { t } from '../words';

interface View {
  recolor(): void;
  dispose(): void;
}

interface Props<V extends View> {
  /** Makes the view; given the canvas. */
  open: (canvas: HTMLCanvasElement) => Promise<V>;
  /** The view is there, or (null) gone. */
  ready: (view: V | null) => void;
  label: string;
  /** Another value makes another view. */
  identity: string;
}

export function Canvas<V extends View>({ open, ready, label, identity }: Props<V>) {
  const host = useRef<HTMLDivElement>(null);
  const view = useRef<V | null>(null);
  const [broken, setBroken] = useState(false);
  useEffect(() => {
    let left = false;
    // a canvas of its own for every view: a lost context cannot be had again
    const canvas = document.createElement('canvas');
    canvas.tabIndex = 0;
    canvas.setAttribute('role', 'application');
    host.current?.prepend(canvas);
    painted()
      .then(() => open(canvas))
      .then((made) => {
        if (left) return made.dispose();
        view.current = made;
        ready(made);
      })
      .catch((error: unknown) => {
        console.error(error);
        if (!left) setBroken(true);
      });
    return () => {
      left = true;
      view.current?.dispose();
      view.current = null;
      ready(null);
      canvas.remove();
      setBroken(false);
    };
  }, [identity]);
  useEffect(() => host.current?.querySelector('canvas')?.setAttribute('aria-label', label));
  useEffect(() => view.current?.recolor(), [dark.value]);
  return (
    <div class="canvas" ref={host}>
      {broken && <p class="canvas-note">{t('noWebgl')}</p>}
    </div>
  );
}

/** After the page around the canvas is on the screen: three.js and its first drawing take a while. */
function painted(): Promise<void> {
  return new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
}
