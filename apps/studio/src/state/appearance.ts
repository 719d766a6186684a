/** Language, light or dark, and messages that pass. Choices are kept in this browser. */

import { effect, signal } from '@preact/signals';

export type Language = 'en' | 'zh';
export type Theme = 'auto' | 'light' | 'dark';

function kept(name: string): string | null {
  try {
    return localStorage.getItem(name);
  } catch {
    return null; // storage is forbidden: choices last as long as the page
  }
}

function keep(name: string, value: string): void {
  try {
    localStorage.setItem(name, value);
  } catch {
    // as above
  }
}

const language0 = kept('fw-language') ?? (navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en');
const theme0 = kept('fw-theme');
const darkSystem = matchMedia('(prefers-color-scheme: dark)');

export const language = signal<Language>(language0 === 'zh' ? 'zh' : 'en');
export const theme = signal<Theme>(theme0 === 'light' || theme0 === 'dark' ? theme0 : 'auto');
/** Whether dark colors are shown now, whoever decided it. */
export const dark = signal(false);
/** Whether the page has the width of a phone. */
export const narrow = signal(false);
/** A short message that goes by itself. */
export const notice = signal('');
/** What screen readers are told. */
export const announcement = signal('');

effect(() => {
  document.documentElement.lang = language.value === 'zh' ? 'zh-CN' : 'en';
  keep('fw-language', language.value);
});

function colors(): void {
  dark.value = theme.value === 'dark' || (theme.value === 'auto' && darkSystem.matches);
  document.documentElement.dataset.theme = dark.value ? 'dark' : 'light';
}

effect(() => {
  keep('fw-theme', theme.value);
  colors();
});
darkSystem.addEventListener('change', colors);

const phone = matchMedia('(max-width: 860px)');
narrow.value = phone.matches;
phone.addEventListener('change', () => (narrow.value = phone.matches));

let timer = 0;

/** Show a message for a few seconds. */
export function notify(message: string): void {
  notice.value = message;
  clearTimeout(timer);
  timer = setTimeout(() => (notice.value = ''), 6000);
}
