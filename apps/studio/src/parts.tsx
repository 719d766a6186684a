/** Shared components: icons, fields, sliders, choices, dialogs. */

import type { ComponentChildren } from 'preact';
import { useEffect, useId, useRef } from 'preact/hooks';
import { t } from './words';

const ICONS = {
  plus: 'M12 5v14M5 12h14',
  list: 'M4 6h16M4 12h16M4 18h10',
  close: 'M6 6l12 12M18 6L6 18',
  image: 'M4 5h16v14H4zM4 16l4.5-4.5 4 4 3-3L20 17M15.5 9.500h.01',
  play: 'M8 5.500v13l10.5-6.500z',
  pause: 'M8 5.500v13M16 5.500v13',
  previous: 'M17 6l-8 6 8 6zM6.5 6v12',
  next: 'M7 6l8 6-8 6zM17.5 6v12',
  loop: 'M17 3.500l3 3-3 3M20 6.500H8a4 4 0 0 0-4 4v1M7 20.500l-3-3 3-3M4 17.500h12a4 4 0 0 0 4-4v-1',
  download: 'M12 4v11M7.5 11l4.5 4.5 4.5-4.500M5 20h14',
  link: 'M10 14a4 4 0 0 0 5.7 0l3-3a4 4 0 0 0-5.7-5.700l-1 1M14 10a4 4 0 0 0-5.7 0l-3 3a4 4 0 0 0 5.7 5.700l1-1',
  trash: 'M5 7h14M10 7V4.500h4V7M7 7l1 12.500h8L17 7',
  expand: 'M14 4.500h5.500V10M10 19.500H4.500V14M19.5 4.500l-6 6M4.5 19.500l6-6',
  reset: 'M4.5 12a7.5 7.5 0 1 0 2.3-5.400M4.5 4v4h4',
  dice: 'M5 5h14v14H5zM9 9h.01M15 15h.01M12 12h.01M15 9h.01M9 15h.01',
  forward: 'M4 12h15M13.5 6.500L19 12l-5.5 5.5',
  eye: 'M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12zM12 9.500a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5z',
  sun: 'M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2.500v2M12 19.500v2M2.5 12h2M19.5 12h2M5.3 5.300l1.4 1.400M17.3 17.300l1.4 1.400M18.7 5.300l-1.4 1.400M6.7 17.300l-1.4 1.4',
  moon: 'M19.5 14A8 8 0 0 1 10 4.500a8 8 0 1 0 9.5 9.500z',
  auto: 'M12 3.500a8.5 8.5 0 1 0 0 17zM12 3.500a8.5 8.5 0 0 1 0 17',
  warn: 'M12 4l9 16H3zM12 10v4.500M12 17.200h.01',
  check: 'M5 12.500l4.5 4.500L19 7.5',
  edit: 'M4.5 19.500l1-4L16 5l3 3L8.5 18.500zM14 7l3 3',
  star: 'M12 4l2.4 5.200 5.6.7-4.200 3.900 1.100 5.700L12 16.700 7.100 19.500l1.100-5.700L4 9.900l5.600-.7z',
  collapse: 'M14 6l-6 6 6 6M19 6v12',
  key: 'M8 11.500a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7zM10.5 12.500L19 4M16 7l2.5 2.5',
};

export type IconName = keyof typeof ICONS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={ICONS[name]} />
    </svg>
  );
}

interface IconButtonProps {
  icon: IconName;
  label: string;
  onClick: () => void;
  pressed?: boolean;
  disabled?: boolean;
}

export function IconButton({ icon, label, onClick, pressed, disabled }: IconButtonProps) {
  return (
    <button type="button" class="icon-button" aria-label={label} title={label} aria-pressed={pressed}
      disabled={disabled} onClick={onClick}>
      <Icon name={icon} />
    </button>
  );
}

interface SliderProps {
  label: string;
  value: number;
  min: number;
  max: number;
  step: number;
  /** The value as people read it. */
  text: string;
  onInput: (value: number) => void;
}

/** How far a slider is, for its filled part. */
export function filled(value: number, min: number, max: number): Record<string, string> {
  return { '--at': `${((value - min) / Math.max(1e-9, max - min)) * 100}%` };
}

export function Slider({ label, value, min, max, step, text, onInput }: SliderProps) {
  const id = useId();
  return (
    <div class="slider">
      <label for={id}>{label}</label>
      <output for={id}>{text}</output>
      <input id={id} type="range" min={min} max={max} step={step} value={value} aria-valuetext={text}
        style={filled(value, min, max)} onInput={(event) => onInput(event.currentTarget.valueAsNumber)} />
    </div>
  );
}

interface ChoiceProps<T extends string> {
  label: string;
  value: T;
  options: { value: T; label: string; title?: string }[];
  onChange: (value: T) => void;
  wide?: boolean;
}

/** One of a few: radio buttons that look like a row of buttons. */
export function Choice<T extends string>({ label, value, options, onChange, wide }: ChoiceProps<T>) {
  const name = useId();
  return (
    <fieldset class={wide ? 'choice wide' : 'choice'}>
      <legend class="hidden">{label}</legend>
      {options.map((option) => (
        <label key={option.value} title={option.title} class={option.value === value ? 'on' : ''}>
          <input type="radio" name={name} checked={option.value === value} onChange={() => onChange(option.value)} />
          <span>{option.label}</span>
        </label>
      ))}
    </fieldset>
  );
}

export function Switch({ label, on, onChange }: { label: string; on: boolean; onChange: (on: boolean) => void }) {
  return (
    <label class="switch">
      <input type="checkbox" role="switch" checked={on} onChange={(event) => onChange(event.currentTarget.checked)} />
      <span>{label}</span>
    </label>
  );
}

interface FieldProps {
  label: string;
  hint?: string | undefined;
  error?: string | undefined;
  children: (ids: { id: string; 'aria-describedby': string | undefined; 'aria-invalid': boolean }) => ComponentChildren;
}

/** A labeled field with its hint, or what is wrong with it. */
export function Field({ label, hint, error, children }: FieldProps) {
  const id = useId();
  const note = error || hint;
  return (
    <div class={error ? 'field wrong' : 'field'}>
      <label for={id}>{label}</label>
      {children({ id, 'aria-describedby': note ? `${id}-note` : undefined, 'aria-invalid': Boolean(error) })}
      {note && <p id={`${id}-note`} class="note">{note}</p>}
    </div>
  );
}

interface DialogProps {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
}

export function Dialog({ title, onClose, children }: DialogProps) {
  const box = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const opener = document.activeElement;
    box.current?.showModal();
    return () => {
      // where it goes without having been closed: when it is gone, so that it does not hold the focus back
      queueMicrotask(() => opener instanceof HTMLElement && opener.isConnected && opener.focus());
    };
  }, []);
  const leave = () => {
    box.current?.close(); // gives the focus back
    onClose();
  };
  return (
    <dialog ref={box} aria-labelledby={id} onCancel={(event) => { event.preventDefault(); leave(); }}>
      <header>
        <h2 id={id}>{title}</h2>
        <IconButton icon="close" label={t('close')} onClick={leave} />
      </header>
      {children}
    </dialog>
  );
}

export function Spinner({ label }: { label: string }) {
  return (
    <p class="spinner" role="status">
      <span aria-hidden="true" />
      {label}
    </p>
  );
}
