/** One clock for three videos and the 3D view. The first video that plays leads; the others follow it. */

import { signal } from '@preact/signals';

const SEEK_S = 0.2;
const NUDGE = 0.12;

export class Playback {
  /** The moment in frames, with fractions while it plays. */
  readonly time = signal(0);
  readonly playing = signal(false);
  readonly loop = signal(true);
  readonly speed = signal(1);
  private readonly videos = new Map<string, HTMLVideoElement>();
  private request = 0;
  private before = 0;

  constructor(
    readonly frames: number,
    readonly fps: number,
  ) {}

  /** The frame that is shown, from 0. */
  frame(): number {
    return Math.min(this.frames - 1, Math.max(0, Math.floor(this.time.value + 1e-3)));
  }

  /** Take part; call again with null to leave. */
  attach(name: string, video: HTMLVideoElement | null): void {
    if (!video) {
      this.videos.delete(name);
      return;
    }
    this.videos.set(name, video);
    this.align(video);
    if (this.playing.value) void video.play().catch(() => undefined);
  }

  video(name: string): HTMLVideoElement | null {
    return this.videos.get(name) ?? null;
  }

  play(): void {
    if (this.frames < 2) return;
    if (this.time.value >= this.frames - 1) this.time.value = 0;
    this.playing.value = true;
    this.start();
    this.before = performance.now();
    cancelAnimationFrame(this.request);
    this.request = requestAnimationFrame(this.tick);
  }

  pause(): void {
    this.playing.value = false;
    cancelAnimationFrame(this.request);
    for (const video of this.videos.values()) video.pause();
    this.seek(this.frame());
  }

  toggle(): void {
    if (this.playing.value) this.pause();
    else this.play();
  }

  seek(frame: number): void {
    this.time.value = Math.min(this.frames - 1, Math.max(0, frame));
    for (const video of this.videos.values()) this.align(video);
  }

  step(frames: number): void {
    if (this.playing.value) this.pause();
    this.seek(this.frame() + frames);
  }

  setSpeed(speed: number): void {
    this.speed.value = speed;
    for (const video of this.videos.values()) video.playbackRate = speed;
  }

  dispose(): void {
    cancelAnimationFrame(this.request);
    this.playing.value = false;
    this.videos.clear();
  }

  private align(video: HTMLVideoElement): void {
    // the middle of a frame, so that rounding never shows its neighbor
    video.currentTime = (Math.floor(this.time.value + 1e-3) + 0.5) / this.fps;
  }

  private start(): void {
    for (const video of this.videos.values()) {
      this.align(video);
      video.playbackRate = this.speed.value;
      void video.play().catch(() => undefined);
    }
  }

  private readonly tick = (now: number): void => {
    const passed = ((now - this.before) / 1000) * this.speed.value;
    this.before = now;
    const [lead, ...others] = [...this.videos.values()].filter((video) => video.readyState >= 2);
    const leads = lead && !lead.paused && !lead.seeking && !lead.ended;
    const seconds = leads ? lead.currentTime : this.time.value / this.fps + passed;
    const end = lead?.ended || seconds * this.fps >= this.frames;
    if (end && !this.loop.value) {
      this.time.value = this.frames - 1;
      return this.pause();
    }
    if (end) {
      this.time.value = 0;
      this.start();
    } else {
      this.time.value = Math.min(this.frames - 1, seconds * this.fps);
      for (const video of others) this.follow(video, seconds);
    }
    this.request = requestAnimationFrame(this.tick);
  };

  private follow(video: HTMLVideoElement, seconds: number): void {
    if (video.seeking) return;
    const late = seconds - video.currentTime;
    if (Math.abs(late) > SEEK_S) video.currentTime = seconds;
    const nudge = Math.abs(late) > 0.5 / this.fps ? Math.sign(late) * NUDGE : 0;
    video.playbackRate = this.speed.value * (1 + nudge);
  }
}
