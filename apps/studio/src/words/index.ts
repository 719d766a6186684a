/** Sentences in the chosen language; numbers, dates and durations as it writes them. */

import { language } from '../state/appearance';
import { en, type Word } from './en';
import { zh } from './zh';

export type { Word } from './en';

export function t(word: Word, values: Record<string, string | number> = {}): string {
  const sentence = (language.value === 'zh' ? zh : en)[word];
  return sentence.replace(/\{(\w+)\}/g, (_, name: string) => String(values[name] ?? ''));
}

/** A word whose name is put together, or the fallback if there is none. */
export function tOr(word: string, fallback: string): string {
  return word in en ? t(word as Word) : fallback;
}

function locale(): string {
  return language.value === 'zh' ? 'zh-CN' : 'en-GB';
}

export function number(value: number, digits = 0): string {
  return value.toLocaleString(locale(), { maximumFractionDigits: digits });
}

/** Seconds since 1970 as a day and time. */
export function moment(seconds: number): string {
  const date = new Date(seconds * 1000);
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString(locale(), today ? { timeStyle: 'short' } : { dateStyle: 'medium', timeStyle: 'short' });
}

/** A duration: seconds below two minutes, minutes above. */
export function duration(seconds: number): string {
  const minutes = seconds >= 120;
  return new Intl.NumberFormat(locale(), {
    style: 'unit',
    unit: minutes ? 'minute' : 'second',
    unitDisplay: 'long',
    maximumFractionDigits: 0,
  }).format(Math.max(1, minutes ? seconds / 60 : seconds));
}
