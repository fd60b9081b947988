import { createHook, type AsyncHook } from "node:async_hooks";
import { performance } from "node:perf_hooks";

import { clock, current, tags, type Binding } from "./context.js";
import type { Logger } from "./log.js";

/** Shortest block of the event loop that is told, in milliseconds. */
export const SLOW_THRESHOLD_MS = 50;

/** Called with how long the loop was blocked, and by which session (empty: not known). */
export type BlockReport = (ms: number, sessionId: string) => void;

/**
 * Finds the session that blocks this thread's event loop. A timer says that the loop
 * turns; hooks add up how long each session's callbacks ran. With no session live
 * nothing runs.
 */
export class LoopMonitor {
  readonly #threshold: number;
  readonly #every: number;
  readonly #report: BlockReport;
  readonly #log: Logger;
  readonly #busy = new Map<Binding, number>();
  /** Starts and sessions of the callbacks that run now: a pair each. */
  readonly #running: (number | Binding | undefined)[] = [];
  #users = 0;
  #last = 0;
  #timer: NodeJS.Timeout | undefined;
  #hook: AsyncHook | undefined;

  constructor(thresholdMs: number, report: BlockReport, log: Logger) {
    if (!(thresholdMs > 0)) throw new RangeError("slowThresholdMs must be above 0; null switches it off");
    this.#threshold = thresholdMs;
    this.#every = Math.max(thresholdMs / 2, 5);
    this.#report = report;
    this.#log = log;
  }

  /** A session started. */
  enter(): void {
    if (this.#users++ > 0) return;
    this.#last = performance.now();
    this.#hook ??= createHook({
      before: () => void this.#running.push(performance.now(), current()),
      after: () => {
        const binding = this.#running.pop() as Binding | undefined;
        const start = this.#running.pop() as number | undefined;
        if (binding && start !== undefined) this.#spent(binding, performance.now() - start);
      },
    });
    this.#running.length = 0;
    this.#hook.enable();
    clock.spent = (binding, ms) => this.#spent(binding, ms);
    this.#timer = setInterval(() => this.#tick(), this.#every).unref();
  }

  /** A session ended. */
  leave(): void {
    if (--this.#users > 0) return;
    this.#tick();
    clearInterval(this.#timer);
    this.#hook?.disable();
    clock.spent = undefined;
    this.#busy.clear();
  }

  #spent(binding: Binding, ms: number): void {
    this.#busy.set(binding, (this.#busy.get(binding) ?? 0) + ms);
  }

  #tick(): void {
    const now = performance.now();
    const lag = now - this.#last - this.#every;
    this.#last = now;
    if (lag >= this.#threshold) {
      let [who, most]: [Binding | undefined, number] = [undefined, 0];
      for (const [binding, ms] of this.#busy) if (ms > most) [who, most] = [binding, ms];
      // A machine that gave this process no CPU is nobody's fault.
      if (most < lag / 2) who = undefined;
      const by = who ? `session ${who.sessionId} of tenant ${who.tenant}` : "code outside every session";
      this.#log.warn(tags(who), `the event loop was blocked for ${Math.round(lag)} ms by ${by}`);
      this.#report(lag, who?.sessionId ?? "");
    }
    this.#busy.clear();
  }
}
